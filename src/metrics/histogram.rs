//! Histograms of times, counted as [`mod@super::counter`] counts.

use std::{sync::Arc, time::Duration};

use prometheus::{
    HistogramOpts,
    core::{Describer, Metric, MetricVec, MetricVecBuilder},
    proto::{self, LabelPair, MetricType},
};

use super::{counter::Laned, labels};

/// How often times were how long. Their sum is of whole microseconds.
#[derive(Clone, Debug)]
pub(super) struct Histogram(Arc<Buckets>);

#[derive(Debug)]
struct Buckets {
    labels: Vec<LabelPair>,
    /// Each with its upper bound in seconds, which belongs to it.
    bounded: Vec<(f64, Laned)>,
    above: Laned,
    microseconds: Laned,
}

/// A family of them.
pub(super) type HistogramVec = MetricVec<HistogramBuilder>;

impl Histogram {
    /// Notes one time.
    pub(super) fn observe(&self, time: Duration) {
        let Buckets { bounded, above, microseconds, .. } = &*self.0;
        let seconds = time.as_secs_f64();
        let bucket = bounded.iter().find(|(bound, _)| seconds <= *bound);
        bucket.map_or(above, |(_, count)| count).add(1);
        let rounded = time.saturating_add(Duration::from_nanos(500)).as_micros();
        microseconds.add(u64::try_from(rounded).unwrap_or(u64::MAX));
    }
}

impl Metric for Histogram {
    #[expect(clippy::cast_precision_loss, reason = "exact up to 285 years, and near enough above")]
    fn metric(&self) -> proto::Metric {
        let Buckets { labels, bounded, above, microseconds } = &*self.0;
        let (mut count, mut buckets) = (0, Vec::with_capacity(bounded.len()));
        for (bound, own) in bounded {
            count += own.sum();
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(count);
            buckets.push(bucket);
        }
        let mut histogram = proto::Histogram::default();
        histogram.set_sample_count(count + above.sum());
        histogram.set_sample_sum(microseconds.sum() as f64 / 1e6);
        histogram.set_bucket(buckets);
        let mut metric = proto::Metric::from_label(labels.clone());
        metric.set_histogram(histogram);
        metric
    }
}

/// Makes the histograms of a family.
#[derive(Clone, Copy, Debug)]
pub(super) struct HistogramBuilder;

impl MetricVecBuilder for HistogramBuilder {
    type M = Histogram;
    type P = HistogramOpts;

    fn build<V: AsRef<str>>(
        &self,
        opts: &HistogramOpts,
        values: &[V],
    ) -> prometheus::Result<Histogram> {
        Ok(Histogram(Arc::new(Buckets {
            labels: labels(&opts.describe()?, values),
            bounded: opts.buckets.iter().map(|bound| (*bound, Laned::zero())).collect(),
            above: Laned::zero(),
            microseconds: Laned::zero(),
        })))
    }
}

/// A family without series.
pub(super) fn family(opts: HistogramOpts, labels: &[&str]) -> prometheus::Result<HistogramVec> {
    let labels = labels.iter().map(ToString::to_string).collect();
    MetricVec::create(MetricType::HISTOGRAM, HistogramBuilder, opts.variable_labels(labels))
}

#[cfg(test)]
mod tests {
    use prometheus::{Registry, TextEncoder};

    use super::*;
    use crate::lane;

    /// The text is held against that of the library's own histogram.
    #[test]
    fn it_tells_what_the_librarys_histogram_would() {
        let opts = || HistogramOpts::new("h", "Times.").buckets(vec![0.001, 0.002, 1.0]);
        let ours = family(opts(), &["route", "kind"]).unwrap();
        let theirs = prometheus::HistogramVec::new(opts(), &["route", "kind"]).unwrap();
        let (our, their) =
            (ours.with_label_values(&["r", "k"]), theirs.with_label_values(&["r", "k"]));
        // Each bound belongs to its bucket. Halves of microseconds would be rounded.
        for micros in [0, 1_000, 1_001, 2_000, 500_000, 1_000_000, 1_000_001, 7_000_000] {
            let time = Duration::from_micros(micros);
            lane::on(u8::try_from(micros % 3).unwrap(), || our.observe(time));
            their.observe(time.as_secs_f64());
        }
        let text = |collector| {
            let registry = Registry::new();
            registry.register(collector).unwrap();
            TextEncoder::new().encode_to_string(&registry.gather()).unwrap()
        };
        assert_eq!(text(Box::new(ours)), text(Box::new(theirs)));
    }

    #[test]
    fn what_takes_for_ever_is_above_all_bounds() {
        let opts = HistogramOpts::new("h", "Times.").buckets(vec![1.0]);
        let histogram = family(opts, &["a"]).unwrap().with_label_values(&["b"]);
        histogram.observe(Duration::MAX);
        let metric = histogram.metric();
        assert_eq!(metric.get_histogram().get_sample_count(), 1);
        assert_eq!(metric.get_histogram().get_bucket()[0].cumulative_count(), 0);
    }
}
