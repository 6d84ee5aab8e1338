//! Lanes: what all threads count, each worker counts on a lane of its own.
//!
//! A cache line that several processors write travels between them with every write, and each of them waits for
//! it. So what is written with every chunk, datagram or stream is there once per lane, and whoever wants to
//! know it adds the lanes up.
//!
//! Every worker has a lane, as far as there are processors; all other threads share the first. Two threads
//! on one lane are slower and never wrong: whatever is kept per lane is atomic as well.

use std::{
    cell::Cell,
    sync::LazyLock,
    thread::{self, available_parallelism},
};

/// So many lanes at most: as many as there can be workers, and the one of all others.
const MOST: usize = 64 + 1;

/// What is of one lane alone is aligned to this, in bytes: two cache lines, since many processors fetch them in
/// pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Apart<T>(pub(crate) T);

thread_local! {
    static LANE: Cell<usize> = const { Cell::new(0) };
}

static COUNT: LazyLock<usize> = LazyLock::new(|| {
    let processors = available_parallelism().map_or(1, usize::from);
    (1 + processors).min(MOST)
});

/// How many lanes there are. It never changes.
pub fn count() -> usize {
    *COUNT
}

/// The lane of this thread, less than [`count`].
pub fn current() -> usize {
    LANE.get()
}

/// Gives this thread the lane of a worker, for as long as it lives.
pub fn join(worker: u8) {
    let workers = count() - 1;
    LANE.set(1 + usize::from(worker) % workers);
}

/// Runs this on a thread that has the lane of a worker, and waits for its end. For tests and benches.
///
/// # Panics
/// If `run` does.
#[doc(hidden)]
pub fn on<T: Send>(worker: u8, run: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            join(worker);
            run()
        });
        thread.join().expect("it runs to its end")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_have_lanes_of_their_own_and_everybody_else_shares_one() {
        assert_eq!(current(), 0);
        assert!((2..=MOST).contains(&count()));
        let lanes: Vec<_> = (0..64).map(|worker| on(worker, current)).collect();
        assert!(lanes.iter().all(|lane| (1..count()).contains(lane)), "{lanes:?}");
        let (first, second) = lanes.split_at(count() - 1);
        assert_eq!(first, Vec::from_iter(1..count()));
        // More workers than processors: they share.
        assert_eq!(second.first().copied(), (count() < MOST).then_some(1));
    }
}
