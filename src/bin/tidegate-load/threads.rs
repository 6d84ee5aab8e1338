//! The threads of a run, each a worker with a tally of its own, and the live line meanwhile.

use std::{
    io,
    sync::{Arc, OnceLock, mpsc},
    thread,
};

use crate::{
    progress::{self, Live},
    tally::{Counters, Tally},
};

/// The counters of so many workers, for who wants to look on.
pub(crate) fn counters(workers: u32) -> Vec<Arc<Counters>> {
    (0..workers).map(|_| Arc::default()).collect()
}

/// Runs a worker for each of the counters, until all have ended. None runs unless there is a thread for each.
///
/// # Errors
/// If there is no thread for one, or what one of them says.
pub(crate) fn run<T: Send>(
    counters: &[Arc<Counters>],
    mut live: Option<Live>,
    worker: impl Fn(u32, Tally) -> io::Result<T> + Sync,
) -> io::Result<Vec<T>> {
    let (ended, workers_ended) = mpsc::channel();
    let (worker, all_there) = (&worker, &OnceLock::new());
    let results = thread::scope(|scope| {
        let spawned = (0..).zip(counters).try_for_each(|(index, counters)| {
            let (ended, tally) = (ended.clone(), Tally::new(Arc::clone(counters)));
            let work = move || {
                if *all_there.wait() {
                    // The receiver waits for all senders.
                    _ = ended.send(worker(index, tally));
                }
            };
            thread::Builder::new().name(format!("load-{index}")).spawn_scoped(scope, work).map(drop)
        });
        all_there.get_or_init(|| spawned.is_ok());
        spawned?;
        drop(ended);
        let mut results = Vec::new();
        loop {
            match workers_ended.recv_timeout(progress::INTERVAL) {
                Ok(result) => results.push(result),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Ok::<_, io::Error>(results),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
            if let Some(live) = &mut live {
                live.draw(counters);
            }
        }
    })?;
    if let Some(live) = live {
        live.clear();
    }
    results.into_iter().collect()
}
