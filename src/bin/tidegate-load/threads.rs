//! The threads of a run, each a worker with a tally of its own, and the live line meanwhile.

use std::{
    io,
    sync::{Arc, mpsc},
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

/// Runs a worker for each of the counters, until all have ended.
///
/// # Errors
/// If there is no thread for one, or what one of them says.
pub(crate) fn run<T: Send>(
    counters: &[Arc<Counters>],
    mut live: Option<Live>,
    worker: impl Fn(u32, Tally) -> io::Result<T> + Sync,
) -> io::Result<Vec<T>> {
    let (ended, workers_ended) = mpsc::channel();
    let worker = &worker;
    let results = thread::scope(|scope| {
        for (index, counters) in (0..).zip(counters) {
            let (ended, tally) = (ended.clone(), Tally::new(Arc::clone(counters)));
            // The receiver waits for all senders.
            let work = move || _ = ended.send(worker(index, tally));
            thread::Builder::new().name(format!("load-{index}")).spawn_scoped(scope, work)?;
        }
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
