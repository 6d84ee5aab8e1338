//! Gauges that are moved by guards alone.

use std::sync::Arc;

use prometheus::{
    Opts,
    core::{Describer, Metric, MetricVec, MetricVecBuilder},
    proto::{self, LabelPair, MetricType},
};

use super::labels;
use crate::lane::{self, Apart};

/// Says how many of its guards there are. Beginning and ending a guard writes only memory of the worker that
/// has begun it.
#[derive(Clone, Debug)]
pub(super) struct Census {
    labels: Arc<[LabelPair]>,
    /// For each lane what its guards share. How often it is shared is what counts.
    lanes: Arc<[Arc<Apart<()>>]>,
}

/// A family of them.
pub(super) type CensusVec = MetricVec<CensusBuilder>;

/// Keeps a gauge right on every path out, panics included.
#[derive(Debug)]
#[must_use = "it stops being counted when this is dropped"]
pub struct GaugeGuard(#[expect(dead_code, reason = "its end is what counts")] Arc<Apart<()>>);

impl Census {
    /// Counts one more for as long as the guard lives.
    pub(super) fn guard(&self) -> GaugeGuard {
        GaugeGuard(Arc::clone(&self.lanes[lane::current()]))
    }

    /// How many there are.
    pub(super) fn get(&self) -> usize {
        // One is this gauge's own.
        self.lanes.iter().map(|lane| Arc::strong_count(lane) - 1).sum()
    }
}

impl Metric for Census {
    fn metric(&self) -> proto::Metric {
        let mut gauge = proto::Gauge::default();
        #[expect(clippy::cast_precision_loss, reason = "no machine holds 2^53 of anything")]
        gauge.set_value(self.get() as f64);
        let mut metric = proto::Metric::from_label(self.labels.to_vec());
        metric.set_gauge(gauge);
        metric
    }
}

/// Makes the gauges of a family.
#[derive(Clone, Copy, Debug)]
pub(super) struct CensusBuilder;

impl MetricVecBuilder for CensusBuilder {
    type M = Census;
    type P = Opts;

    fn build<V: AsRef<str>>(&self, opts: &Opts, values: &[V]) -> prometheus::Result<Census> {
        let labels = labels(&opts.describe()?, values).into();
        Ok(Census { labels, lanes: (0..lane::count()).map(|_| Arc::default()).collect() })
    }
}

/// A family without series.
pub(super) fn family(opts: Opts, labels: &[&str]) -> prometheus::Result<CensusVec> {
    let labels = labels.iter().map(ToString::to_string).collect();
    MetricVec::create(MetricType::GAUGE, CensusBuilder, opts.variable_labels(labels))
}

#[cfg(test)]
mod tests {
    use prometheus::core::Collector;

    use super::*;

    #[test]
    fn guards_of_every_thread_count_wherever_they_end() {
        let family = family(Opts::new("g", "Counts."), &["b", "a"]).unwrap();
        let census = family.with_label_values(&["1", "2"]);
        let elsewhere = lane::on(0, || [census.guard(), census.guard()]);
        let here = census.guard();
        assert_eq!(census.get(), 3);

        let [first, second] = elsewhere;
        drop(first);
        lane::on(1, || drop(here));
        assert_eq!(family.with_label_values(&["1", "2"]).get(), 1);
        let collected = family.collect();
        let metric = &collected[0].get_metric()[0];
        assert_eq!(metric.get_gauge().get_value(), 1.0);
        let labels: Vec<_> = metric.get_label().iter().map(|l| (l.name(), l.value())).collect();
        assert_eq!(labels, [("a", "2"), ("b", "1")]);
        drop(second);
        assert_eq!(census.get(), 0);
    }
}
