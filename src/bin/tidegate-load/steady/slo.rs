//! What a run is held to: `p99<20ms,loss<0.1%`.

use std::{fmt, str::FromStr, time::Duration};

use super::report::Report;

/// One condition.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Slo {
    text: String,
    figure: Figure,
    below: bool,
    bound: f64,
}

/// What is looked at; times in microseconds, shares from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Figure {
    Quantile(f64),
    Mean,
    Max,
    /// Operations that did not complete, of those that were due.
    Loss,
    /// Operations completed in a second.
    Rate,
    /// Failures of all kinds.
    Errors,
}

impl Figure {
    fn of(self, report: &Report) -> f64 {
        let times = &report.times;
        match self {
            Self::Quantile(quantile) => times.value_at_quantile(quantile) as f64,
            Self::Mean => times.mean(),
            Self::Max => times.max() as f64,
            Self::Loss => report.operations.loss(),
            Self::Rate => report.operations.per_second,
            Self::Errors => report.errors.iter().map(|group| group.count as f64).sum(),
        }
    }

    const fn is_time(self) -> bool {
        matches!(self, Self::Quantile(_) | Self::Mean | Self::Max)
    }
}

/// Whether a condition was met.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub(crate) struct Verdict {
    pub(crate) slo: String,
    /// Times in microseconds, shares from 0 to 1.
    pub(crate) found: f64,
    pub(crate) met: bool,
}

impl Slo {
    pub(crate) fn judge(&self, report: &Report) -> Verdict {
        let found = self.figure.of(report);
        let holds = if self.below { found < self.bound } else { found > self.bound };
        // Without an operation there is no time that could have been kept.
        let met = holds && !(self.figure.is_time() && report.times.is_empty());
        Verdict { slo: self.text.clone(), found, met }
    }
}

impl FromStr for Slo {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (at, below) = match (text.find('<'), text.find('>')) {
            (Some(at), None) => (at, true),
            (None, Some(at)) => (at, false),
            _ => return Err(format!("{text:?} compares nothing; write such as \"p99<20ms\"")),
        };
        let (name, bound) = text.split_at(at);
        let (name, bound) = (name.trim(), bound.trim_start_matches(['<', '>']).trim());
        let figure = figure(name).ok_or_else(|| {
            format!(
                "{name:?} is no figure; there are p50, p99, p99.9 and any other percentile, mean, max, loss, \
                 rate, errors"
            )
        })?;
        let number = match figure {
            _ if figure.is_time() => micros(bound)?,
            Figure::Loss => {
                let share = bound.strip_suffix('%').ok_or("a loss is a share, such as 0.1%")?;
                number(share)? / 100.0
            }
            _ => number(bound)?,
        };
        Ok(Self { text: text.to_owned(), figure, below, bound: number })
    }
}

fn figure(name: &str) -> Option<Figure> {
    Some(match name {
        "mean" => Figure::Mean,
        "max" => Figure::Max,
        "loss" => Figure::Loss,
        "rate" => Figure::Rate,
        "errors" => Figure::Errors,
        _ => {
            let percent = number(name.strip_prefix('p')?).ok()?;
            Figure::Quantile((percent <= 100.0).then_some(percent / 100.0)?)
        }
    })
}

/// A number that is not negative, without an exponent.
fn number(text: &str) -> Result<f64, String> {
    let is_plain = text.chars().all(|c| c.is_ascii_digit() || c == '.');
    let number = text.parse::<f64>().ok().filter(|_| is_plain);
    number.ok_or_else(|| format!("{text:?} is no number"))
}

/// `20ms`, and below a millisecond `500us`.
fn micros(text: &str) -> Result<f64, String> {
    match text.strip_suffix("us") {
        Some(micros) => number(micros),
        None => {
            let time: Duration = tidegate::config::parse_duration(text)?;
            Ok(time.as_micros() as f64)
        }
    }
}

/// Several, with commas.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Slos(pub(crate) Vec<Slo>);

impl FromStr for Slos {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',').map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let met = if self.met { "met" } else { "MISSED" };
        write!(f, "{:<16} {met}", self.slo)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::report::tests::report, *};

    #[test]
    fn conditions_are_read_or_refused_with_what_is_wrong() {
        for (text, good) in [
            ("p99<20ms", true),
            ("p99.999 < 500us , loss<0.1%", true),
            ("mean<1s,max<2s,rate>1000,errors<1", true),
            ("p101<1s", false),
            ("p99=20ms", false),
            ("p99<20", false),
            ("loss<0.1", false),
            ("rate>-1", false),
            ("rate>inf", false),
            ("p99<20ms,", false),
            ("", false),
        ] {
            assert_eq!(text.parse::<Slos>().is_ok(), good, "{text:?}");
        }
    }

    /// The report is of 100 operations, one a millisecond longer than the other, and two that failed.
    #[test]
    fn a_condition_is_met_or_missed_by_the_figures() {
        let report = report(|_| {});
        for (slo, met) in [
            ("p50<60ms", true),
            ("p50<40ms", false),
            ("p99<100ms", true),
            ("max<100ms", false),
            ("max<101ms", true),
            ("mean>50ms", true),
            ("loss<2%", true),
            ("loss<1.9%", false),
            ("rate>49", true),
            ("rate<50", false),
            ("errors<1", true),
        ] {
            let verdict = slo.parse::<Slo>().unwrap().judge(&report);
            assert_eq!(verdict.met, met, "{verdict:?}");
        }
    }
}
