//! When a member that fails in use is left out, and for how long. Pure: no clock, no counter.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::{self, Limit};

/// Whether one member more may be ejected, when so many of `total` are out for whatever reason: never
/// so that more than the configured share is out, so a backend of one endpoint never loses it with a
/// share below 100 percent.
pub(super) fn is_allowed(rules: &config::Ejection, out: usize, total: usize) -> bool {
    (out + 1) * 100 <= total * rules.max_ejected_percent as usize
}

/// Whether so many failures in a row are enough.
pub(super) fn is_due(rules: &config::Ejection, failures: u32) -> bool {
    match rules.consecutive_failures {
        Limit::AtMost(most) => u64::from(failures) >= most,
        Limit::Unlimited => false,
    }
}

/// The ejections of one member.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Ejections {
    /// The last one: how long it was meant to last, and when it ends or ended.
    last: Option<(Duration, Instant)>,
}

impl Ejections {
    /// Begins an ejection. When it ends.
    ///
    /// Each lasts twice as long as the one before, up to `max_time`; after a time without ejection as
    /// long as the last one was, it begins again with `base_time`.
    pub(super) fn begin(&mut self, rules: &config::Ejection, now: Instant) -> Instant {
        let time = match self.last {
            Some((time, end)) if now < end + time => (time * 2).min(rules.max_time),
            _ => rules.base_time,
        };
        let end = now + time;
        self.last = Some((time, end));
        end
    }

    /// When the last ejection ends or ended.
    pub(super) fn end(&self) -> Option<Instant> {
        self.last.map(|(_, end)| end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(percent: u32) -> config::Ejection {
        config::Ejection { max_ejected_percent: percent, ..config::Ejection::default() }
    }

    #[test]
    fn never_more_than_the_share_is_out() {
        for (percent, out, total, allowed) in [
            (50, 0, 1, false),
            (50, 0, 2, true),
            (50, 1, 2, false),
            (50, 1, 3, false),
            (50, 1, 4, true),
            (33, 0, 3, false),
            (34, 0, 3, true),
            (100, 0, 1, true),
            (100, 2, 3, true),
            (1, 0, 99, false),
            (1, 0, 100, true),
        ] {
            let rules = rules(percent);
            assert_eq!(is_allowed(&rules, out, total), allowed, "{percent} % {out} of {total}");
        }
    }

    #[test]
    fn failures_are_enough_at_the_limit() {
        for (limit, failures, due) in [
            (Limit::AtMost(5), 4, false),
            (Limit::AtMost(5), 5, true),
            (Limit::AtMost(5), 6, true),
            (Limit::Unlimited, u32::MAX, false),
        ] {
            let rules =
                config::Ejection { consecutive_failures: limit, ..config::Ejection::default() };
            assert_eq!(is_due(&rules, failures), due, "{limit} {failures}");
        }
    }

    /// With 10 s at first and 60 s at most: when each ejection begins, and how long it lasts.
    #[tokio::test(start_paused = true)]
    async fn ejections_in_a_row_double_and_good_time_forgets_them() {
        let rules = config::Ejection { max_time: Duration::from_secs(60), ..rules(50) };
        let (mut ejections, start) = (Ejections::default(), Instant::now());
        for (begin, lasts) in [
            (0, 10),
            // At once after its end, and later but within the time that it lasted.
            (10, 20),
            (49, 40),
            (89, 60),
            (149, 60),
            // Good for as long as it was out last: from the beginning.
            (269, 10),
            (289, 10),
        ] {
            let begin = start + Duration::from_secs(begin);
            let end = ejections.begin(&rules, begin);
            assert_eq!(end - begin, Duration::from_secs(lasts), "{:?}", begin - start);
        }
    }
}
