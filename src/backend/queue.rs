//! How many connections to one endpoint may be in the making, and who waits.
//!
//! An endpoint that has stopped answering would otherwise gather a half-made connection, with its
//! descriptor, for each stream of each client.

use std::time::Duration;

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use super::DialError;
use crate::{
    config::Dial,
    metrics::{DialMetrics, GaugeGuard},
};

/// Lets a number of dials through, the others in the order in which they came.
#[derive(Debug)]
pub(super) struct DialQueue {
    turns: Semaphore,
    places: Semaphore,
    patience: Duration,
    metrics: DialMetrics,
}

/// Held while a connection is being made.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    _permit: SemaphorePermit<'a>,
    _gauge: GaugeGuard,
}

impl DialQueue {
    pub(super) fn new(settings: &Dial, metrics: DialMetrics) -> Self {
        Self {
            turns: Semaphore::new(settings.concurrent as usize),
            places: Semaphore::new(settings.queue as usize),
            patience: settings.queue_timeout,
            metrics,
        }
    }

    /// Waits for a turn. Cancelled, the place in the queue is free again.
    pub(super) async fn turn(&self) -> Result<Turn<'_>, DialError> {
        let permit = match self.turns.try_acquire() {
            Ok(permit) => permit,
            // Turns that are given back go to those who wait, so nobody gets one past them.
            Err(_taken) => self.wait().await?,
        };
        Ok(Turn { _permit: permit, _gauge: self.metrics.dial_begun() })
    }

    async fn wait(&self) -> Result<SemaphorePermit<'_>, DialError> {
        let _place = self.places.try_acquire().map_err(|_full| DialError::QueueFull)?;
        let _queued = self.metrics.dial_queued();
        match timeout(self.patience, self.turns.acquire()).await {
            Ok(turn) => Ok(turn.expect("the semaphore is never closed")),
            Err(_elapsed) => Err(DialError::QueueTimeout),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, future::join_all};
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::metrics::Metrics;

    fn queue(concurrent: u32, queue: u32) -> (DialQueue, Metrics) {
        let metrics = Metrics::new();
        let settings = Dial { concurrent, queue, queue_timeout: Duration::from_secs(3) };
        (DialQueue::new(&settings, metrics.endpoint("b", "e").dial), metrics)
    }

    fn gauges(metrics: &Metrics) -> (bool, bool) {
        let text = metrics.render();
        let is = |series: &str| text.lines().any(|line| line == series);
        (
            is(r#"tidegate_backend_dials{backend="b",endpoint="e"} 0"#),
            is(r#"tidegate_backend_dials_queued{backend="b",endpoint="e"} 0"#),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn turns_are_taken_in_order_and_never_by_too_many() {
        let (queue, metrics) = queue(2, 10);
        let running = std::sync::Mutex::new((0, Vec::new()));
        let dial = async |number: u32| {
            let turn = queue.turn().await.unwrap();
            {
                let mut running = running.lock().unwrap();
                running.0 += 1;
                running.1.push(number);
                assert!(running.0 <= 2);
            }
            sleep(Duration::from_millis(100)).await;
            running.lock().unwrap().0 -= 1;
            drop(turn);
        };
        join_all((0..8).map(dial)).await;
        assert_eq!(running.lock().unwrap().1, (0..8).collect::<Vec<_>>());
        assert_eq!(gauges(&metrics), (true, true));
    }

    #[tokio::test]
    async fn a_full_queue_refuses_at_once_and_a_place_that_is_left_is_free() {
        let (queue, metrics) = queue(1, 1);
        let turn = queue.turn().await.unwrap();
        let mut waiting = Box::pin(queue.turn());
        assert!(waiting.as_mut().now_or_never().is_none());
        assert_eq!(gauges(&metrics), (false, false));

        let refused = queue.turn().now_or_never().unwrap();
        assert!(matches!(refused, Err(DialError::QueueFull)), "{refused:?}");

        drop(waiting);
        let mut waiting = Box::pin(queue.turn());
        assert!(waiting.as_mut().now_or_never().is_none(), "the place is not free again");
        drop(turn);
        waiting.await.unwrap();
        assert_eq!(gauges(&metrics), (true, true));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_has_an_end() {
        let (queue, metrics) = queue(1, 1);
        let turn = queue.turn().await.unwrap();
        let began = Instant::now();
        let refused = queue.turn().await;
        assert!(matches!(refused, Err(DialError::QueueTimeout)), "{refused:?}");
        assert_eq!(began.elapsed(), Duration::from_secs(3));
        drop(turn);
        assert_eq!(gauges(&metrics), (true, true));
    }
}
