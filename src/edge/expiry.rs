//! What to say of a certificate's end, and when. Pure: the clock is the caller's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY: i64 = 24 * 60 * 60;

/// So long before its end a certificate is spoken of, once a day: time for a person to act who looks at
/// the log once a week.
const WARNED_BEFORE: i64 = 7 * DAY;

/// What is to be said.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Notice {
    /// It has ended.
    Ended,
    /// It ends within these days, a day begun counted as one.
    Ends {
        /// At least 1.
        days: i64,
    },
    /// Clients whose clock is right do not accept it yet.
    NotYet,
}

/// What there is to say of a certificate that is valid from and until these times.
pub(super) fn notice(not_before: i64, not_after: i64, now: i64) -> Option<Notice> {
    if now > not_after {
        Some(Notice::Ended)
    } else if now < not_before {
        Some(Notice::NotYet)
    } else if not_after - now <= WARNED_BEFORE {
        Some(Notice::Ends { days: (not_after - now).div_euclid(DAY) + 1 })
    } else {
        None
    }
}

/// Seconds since 1970.
pub(super) fn unix(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_from_seven_days_before_it() {
        let (begin, end) = (100 * DAY, 190 * DAY);
        for (now, said) in [
            (begin - 1, Some(Notice::NotYet)),
            (begin, None),
            (end - 7 * DAY - 1, None),
            (end - 7 * DAY, Some(Notice::Ends { days: 8 })),
            (end - 7 * DAY + 1, Some(Notice::Ends { days: 7 })),
            (end - DAY - 1, Some(Notice::Ends { days: 2 })),
            (end - 1, Some(Notice::Ends { days: 1 })),
            (end, Some(Notice::Ends { days: 1 })),
            (end + 1, Some(Notice::Ended)),
        ] {
            assert_eq!(notice(begin, end, now), said, "{now}");
        }
    }
}
