//! Requests on their way from the connection's task to h3.
//!
//! A channel would have room for 32 of them from the start, 8 KiB on each connection; here there is room
//! only while one waits, which is mostly for no time at all.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

/// A queue of bounded length. Clones are the same queue; one task takes from it.
#[derive(Debug)]
pub(crate) struct Queue<T>(Arc<Mutex<Waiting<T>>>);

#[derive(Debug)]
struct Waiting<T> {
    most: usize,
    items: VecDeque<T>,
    taker: Option<Waker>,
}

impl<T> Queue<T> {
    /// An empty queue for at most so many.
    pub(crate) fn new(most: usize) -> Self {
        let (items, taker) = (VecDeque::new(), None);
        Self(Arc::new(Mutex::new(Waiting { most, items, taker })))
    }

    /// Lets one wait. If too many do, it comes back.
    pub(crate) fn push(&self, item: T) -> Result<(), T> {
        let taker = {
            let mut waiting = self.lock();
            if waiting.items.len() >= waiting.most {
                return Err(item);
            }
            waiting.items.push_back(item);
            waiting.taker.take()
        };
        if let Some(taker) = taker {
            taker.wake();
        }
        Ok(())
    }

    /// Takes the oldest, or waits for one.
    pub(crate) fn poll_take(&self, cx: &Context<'_>) -> Poll<T> {
        let mut waiting = self.lock();
        let Some(item) = waiting.items.pop_front() else {
            match &mut waiting.taker {
                Some(taker) => taker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        };
        if waiting.items.is_empty() {
            // Gives its room back.
            waiting.items = VecDeque::new();
        }
        Poll::Ready(item)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<T>> {
        // Nothing that could panic half-way happens under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn who_waits_gets_them_in_order_and_no_more_wait_than_may() {
        let queue = Queue::new(2);
        let (taken, pushed) = tokio::join!(poll_fn(|cx| queue.poll_take(cx)), async {
            [1, 2, 3].map(|number| queue.push(number))
        });
        // The first was not taken before the third came.
        assert_eq!((taken, pushed), (1, [Ok(()), Ok(()), Err(3)]));
        assert_eq!(queue.push(4), Ok(()));
        for expected in [Some(2), Some(4), None] {
            assert_eq!(poll_fn(|cx| queue.poll_take(cx)).now_or_never(), expected);
        }
        assert_eq!(queue.lock().items.capacity(), 0, "an empty one takes no memory");
    }
}
