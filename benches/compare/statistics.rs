//! Medians, quartiles, and an order that is shuffled the same way for the same seed.

/// The middle of some figures, and what half of them lie between.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    /// A quarter is below.
    pub(crate) low: f64,
    pub(crate) median: f64,
    /// A quarter is above.
    pub(crate) high: f64,
}

impl Spread {
    /// `None` of nothing. Figures that are no numbers do not count.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> =
            figures.into_iter().filter(|figure| figure.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            low: quantile(&sorted, 0.25)?,
            median: quantile(&sorted, 0.5)?,
            high: quantile(&sorted, 0.75)?,
        })
    }
}

/// Between two figures, as far from each as the quantile is.
fn quantile(sorted: &[f64], quantile: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = quantile * last as f64;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a place in the list: from 0 to its length"
    )]
    let below = place.floor() as usize;
    let (low, high) = (sorted[below], sorted[(below + 1).min(last)]);
    Some(low + (high - low) * (place - below as f64))
}

/// An order that looks random: SplitMix64, of Steele, Lea and Flood (2014).
#[derive(Clone, Debug)]
pub(crate) struct Shuffle(pub(crate) u64);

impl Shuffle {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Puts them in another order (Fisher and Yates). That some orders are a little likelier does not matter.
    pub(crate) fn shuffle<T>(&mut self, things: &mut [T]) {
        for left in (2..=things.len()).rev() {
            let pick = usize::try_from(self.next() % left as u64).expect("below a length");
            things.swap(left - 1, pick);
        }
    }
}

#[cfg(test)]
#[allow(
    dead_code,
    unused_imports,
    reason = "tests/benches.rs runs them; this program is built without"
)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_are_between_the_figures_that_they_lie_between() {
        for (figures, expected) in [
            (&[][..], None),
            (&[3.0], Some((3.0, 3.0, 3.0))),
            (&[2.0, 1.0], Some((1.25, 1.5, 1.75))),
            (&[5.0, 1.0, 4.0, 2.0, 3.0], Some((2.0, 3.0, 4.0))),
            (&[1.0, f64::NAN, 3.0], Some((1.5, 2.0, 2.5))),
        ] {
            let spread = Spread::of(figures.iter().copied());
            assert_eq!(spread.map(|s| (s.low, s.median, s.high)), expected, "{figures:?}");
        }
    }

    #[test]
    fn an_order_has_everything_once_and_depends_on_the_seed_alone() {
        let shuffled = |seed| {
            let mut things: Vec<u32> = (0..20).collect();
            Shuffle(seed).shuffle(&mut things);
            things
        };
        let mut sorted = shuffled(1);
        assert_ne!(sorted, shuffled(2));
        assert_eq!(sorted, shuffled(1));
        sorted.sort_unstable();
        assert_eq!(sorted, (0..20).collect::<Vec<_>>());
    }
}
