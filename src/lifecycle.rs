//! Readiness, drain, kill, and waiting for tasks.
//!
//! One [`Lifecycle`] belongs to the whole process; every part gets a clone. Tasks are begun by
//! [`Lifecycle::spawn`], so that shutdown can wait for what it knows.
//!
//! The stages only ever go forward: serving, not ready (still accepting, so that balancers can look
//! away), draining (nothing new), killing (what is left is ended).

use std::{
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFuture},
    task::TaskTracker,
};

use crate::lane;

/// The stages of the process and its tasks. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Lifecycle {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    tasks: Tasks,
    latches: AtomicUsize,
    unlatched: Notify,
    not_ready: CancellationToken,
    drain: CancellationToken,
    kill: CancellationToken,
    hurried: AtomicBool,
}

impl Lifecycle {
    /// A process that has not begun to stop, with no latch closed.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `task` on this thread's runtime and lets shutdown wait for it.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        #[expect(
            clippy::disallowed_methods,
            reason = "the one place that may: it tracks the task"
        )]
        tokio::spawn(self.shared.tasks.here().track_future(task));
    }

    /// Holds readiness back until the latch is dropped: one for each part that must start first.
    pub fn latch(&self) -> Latch {
        self.shared.latches.fetch_add(1, Ordering::AcqRel);
        Latch(Arc::clone(&self.shared))
    }

    /// Whether new clients are welcome: every part has started and nothing is stopping.
    pub fn is_ready(&self) -> bool {
        self.shared.latches.load(Ordering::Acquire) == 0 && !self.shared.not_ready.is_cancelled()
    }

    /// Resolves when every part has started: no latch is left. Cancel-safe.
    pub async fn started(&self) {
        loop {
            let mut unlatched = pin!(self.shared.unlatched.notified());
            // Listening before looking: a latch that goes in between is not missed.
            unlatched.as_mut().enable();
            if self.shared.latches.load(Ordering::Acquire) == 0 {
                return;
            }
            unlatched.await;
        }
    }

    /// Whether the process has begun to stop.
    pub fn is_stopping(&self) -> bool {
        self.shared.not_ready.is_cancelled()
    }

    /// Whether nothing new may begin.
    pub fn is_draining(&self) -> bool {
        self.shared.drain.is_cancelled()
    }

    /// Begins to stop: not ready any more, still accepting.
    pub fn begin_stop(&self) {
        self.shared.not_ready.cancel();
    }

    /// Begins to drain: nothing new, clients are told.
    pub fn begin_drain(&self) {
        self.shared.not_ready.cancel();
        self.shared.drain.cancel();
    }

    /// Ends what is left.
    pub fn begin_kill(&self) {
        self.begin_drain();
        self.shared.kill.cancel();
    }

    /// Ends what is left because the operator does not want to wait for it.
    pub fn hurry(&self) {
        // Before the kill, so that whoever sees the kill also sees why.
        self.shared.hurried.store(true, Ordering::Release);
        self.begin_kill();
    }

    /// Whether the operator hurried, rather than the grace being over.
    pub fn is_hurried(&self) -> bool {
        self.shared.hurried.load(Ordering::Acquire)
    }

    /// Resolves when the drain begins.
    pub fn draining(&self) -> WaitForCancellationFuture<'_> {
        self.shared.drain.cancelled()
    }

    /// Resolves when what is left is being ended.
    pub fn killed(&self) -> WaitForCancellationFuture<'_> {
        self.shared.kill.cancelled()
    }

    /// Resolves when every task has ended. New tasks may still be begun meanwhile and are waited for.
    pub async fn all_tasks_ended(&self) {
        let tasks = &self.shared.tasks;
        // A task may have begun another on a thread whose tasks were waited for already.
        while tasks.len() > 0 {
            for tasks in tasks.made() {
                tasks.close();
                tasks.wait().await;
            }
        }
    }

    /// Tasks that run now.
    pub fn running_tasks(&self) -> usize {
        self.shared.tasks.len()
    }
}

/// The tasks that run, by the thread that has begun them: each stream begins one, and workers are not to meet for
/// that.
#[derive(Debug)]
struct Tasks {
    /// Made by the thread that needs it, and so in memory of that thread's.
    lanes: Box<[OnceLock<TaskTracker>]>,
}

impl Default for Tasks {
    fn default() -> Self {
        Self { lanes: (0..lane::count()).map(|_| OnceLock::new()).collect() }
    }
}

impl Tasks {
    /// Those of this thread.
    fn here(&self) -> &TaskTracker {
        self.lanes[lane::current()].get_or_init(TaskTracker::new)
    }

    fn made(&self) -> impl Iterator<Item = &TaskTracker> {
        self.lanes.iter().filter_map(OnceLock::get)
    }

    fn len(&self) -> usize {
        self.made().map(TaskTracker::len).sum()
    }
}

/// Keeps the process from being ready for as long as it lives.
#[derive(Debug)]
#[must_use = "readiness waits only as long as the latch lives"]
pub struct Latch(Arc<Shared>);

impl Drop for Latch {
    fn drop(&mut self) {
        if self.0.latches.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.unlatched.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ready_when_every_latch_is_dropped_and_never_again_after_stop() {
        let lifecycle = Lifecycle::new();
        let (a, b) = (lifecycle.latch(), lifecycle.latch());
        assert!(!lifecycle.is_ready());
        drop(a);
        assert!(!lifecycle.is_ready());
        drop(b);
        assert!(lifecycle.is_ready());

        lifecycle.begin_stop();
        assert!(!lifecycle.is_ready() && !lifecycle.is_draining());
    }

    #[tokio::test]
    async fn started_when_the_last_latch_goes() {
        let lifecycle = Lifecycle::new();
        let (a, b) = (lifecycle.latch(), lifecycle.latch());
        let mut started = pin!(lifecycle.started());
        drop(a);
        tokio::select! {
            biased;
            () = &mut started => panic!("a latch is left"),
            () = std::future::ready(()) => {}
        }
        drop(b);
        started.await;
    }

    #[tokio::test]
    async fn waits_for_tasks_that_a_kill_ends() {
        let lifecycle = Lifecycle::new();
        let seen = lifecycle.clone();
        lifecycle.spawn(async move { seen.killed().await });
        assert_eq!(lifecycle.running_tasks(), 1);

        lifecycle.begin_kill();
        lifecycle.all_tasks_ended().await;
        assert!(lifecycle.is_draining());
        assert_eq!(lifecycle.running_tasks(), 0);
    }

    /// A chain of tasks, each begun by the one before on another thread than that one's.
    #[tokio::test]
    async fn waits_for_tasks_of_every_thread_and_for_those_that_they_begin() {
        let lifecycle = Lifecycle::new();
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let runtime = tokio::runtime::Handle::current();
        let on = |worker, lifecycle: &Lifecycle, task| {
            lane::on(worker, || {
                let _entered = runtime.enter();
                lifecycle.spawn(task);
            });
        };
        let (then, seen) = (lifecycle.clone(), Arc::new(AtomicBool::new(false)));
        let last = {
            let seen = Arc::clone(&seen);
            async move {
                tokio::task::yield_now().await;
                seen.store(true, Ordering::Relaxed);
            }
        };
        let first = async move {
            _ = ended.await;
            // This thread is no worker.
            then.spawn(last);
        };
        on(1, &lifecycle, first);
        assert_eq!(lifecycle.running_tasks(), 1);

        lifecycle.spawn(async move { drop(end) });
        lifecycle.all_tasks_ended().await;
        assert!(seen.load(Ordering::Relaxed));
        assert_eq!(lifecycle.running_tasks(), 0);
    }
}
