//! Whether a member is up, by what its active checks find. Pure: no socket, no clock.

use crate::config;

/// Up or down, and how near to a change. Everyone begins up, so that a gateway serves as soon as it has
/// started; who is not there is found out by the first checks, or by the first dials.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Health {
    is_down: bool,
    /// Checks in a row that spoke for a change.
    streak: u32,
}

impl Health {
    /// Notes a check. Whether the member is another thing now.
    pub(super) fn note(&mut self, rules: &config::Health, passed: bool) -> bool {
        if passed != self.is_down {
            self.streak = 0;
            return false;
        }
        self.streak += 1;
        let needed = if self.is_down { rules.rise } else { rules.fall };
        let changes = self.streak >= needed;
        if changes {
            *self = Self { is_down: !self.is_down, streak: 0 };
        }
        changes
    }

    /// Whether it is down.
    pub(super) fn is_down(&self) -> bool {
        self.is_down
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_checks_in_a_row_change_anything() {
        // Each letter is a check, `+` passed; below it the state after it, `u` or `d`.
        for (rise, fall, checks, states) in [
            (2, 3, "++---", "uuuud"),
            (2, 3, "--+---", "uuuuud"),
            (2, 3, "---+-++", "uuddddu"),
            (1, 1, "-+-", "dud"),
            (3, 1, "-++-+++", "ddddddu"),
        ] {
            let rules = config::Health { rise, fall, ..config::Health::default() };
            let mut health = Health::default();
            for (check, state) in checks.chars().zip(states.chars()) {
                let before = health.is_down();
                let changed = health.note(&rules, check == '+');
                assert_eq!(changed, before != health.is_down());
                assert_eq!(health.is_down(), state == 'd', "{checks} {states}");
            }
        }
    }
}
