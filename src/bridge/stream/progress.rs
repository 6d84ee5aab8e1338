//! What the two pumps of a stream know of each other.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use crate::reason::StreamEnd;

/// How far both pumps of a stream are.
///
/// They run on one task, so nothing here is contended; it is atomic because a worker's tasks have to be
/// `Send`, and for those who look on.
#[derive(Debug)]
pub(super) struct Progress {
    up_over: AtomicBool,
    down_over: AtomicBool,
    holding: AtomicBool,
    doubt: OnceLock<StreamEnd>,
    /// How long a half-closed stream may stand still.
    patience: Option<Duration>,
    began: Instant,
    /// Milliseconds after `began`; kept only from when one direction is over, so that the clock is
    /// not read for nothing.
    moved: AtomicU64,
}

impl Progress {
    pub(super) fn new(patience: Option<Duration>) -> Self {
        Self {
            up_over: AtomicBool::new(false),
            down_over: AtomicBool::new(false),
            holding: AtomicBool::new(false),
            doubt: OnceLock::new(),
            patience,
            began: Instant::now(),
            moved: AtomicU64::new(0),
        }
    }

    /// How long ago the stream was opened.
    pub(super) fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// The client's FIN was passed on, or it was asked to stop.
    pub(super) fn up_is_over(&self) -> bool {
        self.up_over.load(Relaxed)
    }

    /// The backend's FIN was passed on, or the client does not listen.
    pub(super) fn down_is_over(&self) -> bool {
        self.down_over.load(Relaxed)
    }

    pub(super) fn end_up(&self) {
        self.up_over.store(true, Relaxed);
        self.note_move();
    }

    pub(super) fn end_down(&self) {
        self.down_over.store(true, Relaxed);
        self.note_move();
    }

    /// Some bytes went on.
    pub(super) fn move_bytes(&self) {
        if self.half_closed() {
            self.note_move();
        }
    }

    /// Nothing is expected to move for so long.
    pub(super) fn excuse(&self, wait: Duration) {
        if self.patience.is_some() {
            self.raise_moved(self.began.elapsed().saturating_add(wait));
        }
    }

    /// Whether something of the backend's was read and is not with the client's transport yet.
    pub(super) fn hold(&self, holding: bool) {
        self.holding.store(holding, Relaxed);
    }

    /// Whether the connection may be closed plainly when the session ends: all that the client said was
    /// passed on, and nothing that the backend said is held. What is still unread in the kernel makes
    /// it a reset anyway.
    pub(super) fn owes_nothing(&self) -> bool {
        self.up_is_over() && !self.holding.load(Relaxed)
    }

    /// From now on an end of file from the backend proves nothing, see [`super::up`].
    pub(super) fn doubt_the_end(&self, why: StreamEnd) {
        // The first reason stays.
        _ = self.doubt.set(why);
    }

    /// Why an end of file from the backend is not to be believed.
    pub(super) fn doubt(&self) -> Option<StreamEnd> {
        self.doubt.get().copied()
    }

    /// Resolves when one direction is over and nothing has moved for as long as is allowed.
    ///
    /// To be polled by the pumps' own task and after them: it is not woken by their progress, it looks.
    pub(super) async fn stands_still(&self) {
        let Some(patience) = self.patience else { return std::future::pending().await };
        std::future::poll_fn(|_| if self.half_closed() { Poll::Ready(()) } else { Poll::Pending })
            .await;
        loop {
            let due = self.began + Duration::from_millis(self.moved.load(Relaxed)) + patience;
            if Instant::now() >= due {
                return;
            }
            sleep_until(due).await;
        }
    }

    fn half_closed(&self) -> bool {
        self.up_is_over() || self.down_is_over()
    }

    fn note_move(&self) {
        if self.patience.is_some() {
            self.raise_moved(self.began.elapsed());
        }
    }

    fn raise_moved(&self, after: Duration) {
        // Not back from what was excused.
        self.moved.fetch_max(u64::try_from(after.as_millis()).unwrap_or(u64::MAX), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn patience_begins_with_the_first_end_and_anew_with_each_byte() {
        let progress = Progress::new(Some(Duration::from_secs(10)));
        let began = Instant::now();
        let movement = async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            progress.end_up();
            tokio::time::sleep(Duration::from_secs(7)).await;
            progress.move_bytes();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            () = movement => {}
            () = progress.stands_still() => {}
        }
        assert_eq!(began.elapsed(), Duration::from_secs(77));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_nobody_is_to_blame_for_does_not_count() {
        let progress = Progress::new(Some(Duration::from_secs(10)));
        let began = Instant::now();
        progress.excuse(Duration::from_secs(60));
        progress.end_up();
        progress.stands_still().await;
        assert_eq!(began.elapsed(), Duration::from_secs(70));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_patience_has_no_end() {
        let progress = Progress::new(None);
        progress.end_down();
        let day = Duration::from_secs(86_400);
        assert!(tokio::time::timeout(day, progress.stands_still()).await.is_err());
    }
}
