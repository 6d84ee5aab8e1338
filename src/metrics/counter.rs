//! Counters that no two workers write in one place.

use std::{
    array,
    cell::RefCell,
    iter,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use prometheus::core::{Atomic, GenericCounter, GenericCounterVec};

use crate::lane::{self, Apart};

/// A counter. Counting costs one atomic addition on memory that only this worker writes.
pub type Counter = GenericCounter<Laned>;

/// A family of them.
pub(super) type CounterVec = GenericCounterVec<Laned>;

/// A number that is there once for each lane ([`lane`]), and is their sum.
///
/// Numbers that are made one after the other lie side by side on each lane, so that they take no more memory
/// than lanes times eight bytes, and what is counted together is mostly found together. A sum that is read
/// while others count is somewhat old, as any number is by the time it is told; it never goes back.
#[derive(Debug)]
pub struct Laned {
    lanes: Lanes,
    slot: usize,
}

/// Room for [`SLOTS`] numbers on each lane.
type Lanes = Arc<[Apart<[AtomicU64; SLOTS]>]>;

/// As many numbers as have room apart from other lanes.
const SLOTS: usize = size_of::<Apart<u64>>() / size_of::<AtomicU64>();

thread_local! {
    /// Where this thread makes its next number.
    static NEXT: RefCell<Option<(Lanes, usize)>> = const { RefCell::new(None) };
}

impl Laned {
    /// Nothing.
    pub(super) fn zero() -> Self {
        NEXT.with_borrow_mut(|next| {
            let (lanes, slot) = next.take().unwrap_or_else(|| {
                let lane = || Apart(array::from_fn(|_| AtomicU64::new(0)));
                (iter::repeat_with(lane).take(lane::count()).collect(), 0)
            });
            if slot + 1 < SLOTS {
                *next = Some((Arc::clone(&lanes), slot + 1));
            }
            Self { lanes, slot }
        })
    }

    /// So much more.
    pub(super) fn add(&self, more: u64) {
        self.own().fetch_add(more, Relaxed);
    }

    /// All lanes together.
    pub(super) fn sum(&self) -> u64 {
        self.all().fold(0, |sum, lane| sum.wrapping_add(lane.load(Relaxed)))
    }

    fn own(&self) -> &AtomicU64 {
        &self.lanes[lane::current()].0[self.slot]
    }

    fn all(&self) -> impl Iterator<Item = &AtomicU64> {
        self.lanes.iter().map(|lane| &lane.0[self.slot])
    }
}

impl Atomic for Laned {
    type T = u64;

    fn new(value: u64) -> Self {
        let number = Self::zero();
        number.add(value);
        number
    }

    /// What is counted meanwhile may be lost. Counters are never set.
    fn set(&self, value: u64) {
        self.all().for_each(|lane| lane.store(0, Relaxed));
        self.add(value);
    }

    fn get(&self) -> u64 {
        self.sum()
    }

    fn inc_by(&self, delta: u64) {
        self.add(delta);
    }

    /// The lane may go below zero; the sum does not.
    fn dec_by(&self, delta: u64) {
        self.own().fetch_sub(delta, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, thread};

    use super::*;

    #[test]
    fn a_counter_is_the_sum_of_what_every_thread_has_counted() {
        let counter = Counter::new("c", "Counts.").unwrap();
        thread::scope(|scope| {
            for worker in 0..4 {
                let counter = &counter;
                scope.spawn(move || {
                    lane::join(worker);
                    (0..10_000).for_each(|_| counter.inc());
                });
            }
            // Threads that are no workers share a lane.
            for _ in 0..2 {
                scope.spawn(|| (0..10_000).for_each(|_| counter.inc_by(2)));
            }
        });
        assert_eq!(counter.get(), 4 * 10_000 + 2 * 2 * 10_000);
        counter.reset();
        assert_eq!(counter.get(), 0);
    }

    #[test]
    fn a_number_may_be_taken_away_elsewhere_than_it_was_added() {
        let number = Laned::new(5);
        lane::on(0, || number.dec_by(4));
        assert_eq!(number.get(), 1);
        lane::on(0, || number.set(7));
        assert_eq!(number.get(), 7);
    }

    /// The property that makes them fast: what a worker writes is on no cache line that another one writes.
    #[test]
    fn no_two_lanes_share_a_cache_line() {
        let numbers: Vec<_> = (0..3 * SLOTS).map(|_| Laned::zero()).collect();
        let line = |cell: &AtomicU64| std::ptr::from_ref(cell).addr() / 64;
        let of_lane = |lane| -> HashSet<_> {
            numbers.iter().map(|n: &Laned| line(n.all().nth(lane).unwrap())).collect()
        };
        let lines: Vec<_> = (0..lane::count()).map(of_lane).collect();
        for (at, some) in lines.iter().enumerate() {
            assert!(lines[..at].iter().all(|others| others.is_disjoint(some)));
            // And side by side: 8 bytes each.
            assert!(some.len() <= 3 * SLOTS / 8 + 2, "{}", some.len());
        }
        let here = line(numbers[0].own());
        assert_ne!(lane::on(0, || line(numbers[0].own())), here);
    }

    #[test]
    fn no_two_numbers_are_one() {
        let numbers: Vec<_> = (0..2 * SLOTS as u64).map(Laned::new).collect();
        assert!(numbers.iter().map(Laned::sum).eq(0..2 * SLOTS as u64));
    }
}
