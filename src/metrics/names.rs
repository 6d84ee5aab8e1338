//! How long the series of a name are kept.
//!
//! Routes and endpoints come and go with the configuration, and their series with them. While anything of
//! the name is left (the configuration, a session, a connection) its series stay, and some time after it, so
//! that the last numbers are read. A name that comes back meanwhile goes on where it was.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// After this time Prometheus itself forgets a series that is gone; scrapes come more often.
const KEPT_FOR: Duration = Duration::from_secs(5 * 60);

/// The labels that make a name: one for a route, two for an endpoint.
pub(super) type Labels = Vec<String>;

/// Who uses which name.
#[derive(Debug, Default)]
pub(super) struct Names(Mutex<HashMap<Labels, Use>>);

#[derive(Debug, Default)]
struct Use {
    users: usize,
    unused_since: Option<Instant>,
}

impl Names {
    /// Uses a name for as long as the result and its clones live.
    pub(super) fn hold(self: &Arc<Self>, labels: &[&str]) -> Held {
        let labels: Labels = labels.iter().map(ToString::to_string).collect();
        let mut names = self.lock();
        let name = names.entry(labels.clone()).or_default();
        name.users += 1;
        name.unused_since = None;
        drop(names);
        Held(Arc::new(Holder { names: Arc::clone(self), labels }))
    }

    /// Calls `forget` with each name that nobody has used for so long.
    pub(super) fn sweep(&self, now: Instant, mut forget: impl FnMut(&[String])) {
        let mut names = self.lock();
        names.retain(|labels, name| {
            let is_over = name.unused_since.is_some_and(|since| now >= since + KEPT_FOR);
            if is_over {
                // Under the lock, so that nobody begins to use it in between.
                forget(labels);
            }
            !is_over
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Labels, Use>> {
        // Nothing that could panic half-way happens under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the series of a name.
#[derive(Clone, Debug)]
pub(super) struct Held(#[expect(dead_code, reason = "its end is what counts")] Arc<Holder>);

#[derive(Debug)]
struct Holder {
    names: Arc<Names>,
    labels: Labels,
}

impl Drop for Holder {
    fn drop(&mut self) {
        if let Some(name) = self.names.lock().get_mut(&self.labels) {
            name.users -= 1;
            if name.users == 0 {
                name.unused_since = Some(Instant::now());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn swept(names: &Names) -> usize {
        let mut count = 0;
        names.sweep(Instant::now(), |_| count += 1);
        count
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_forgotten_some_time_after_its_last_use() {
        let names = Arc::new(Names::default());
        let (first, second) = (names.hold(&["a"]), names.hold(&["a"]));
        let clone = first.clone();
        drop(first);
        drop(second);
        tokio::time::sleep(2 * KEPT_FOR).await;
        assert_eq!(swept(&names), 0, "it is used");

        drop(clone);
        tokio::time::sleep(KEPT_FOR / 2).await;
        assert_eq!(swept(&names), 0, "too early");
        drop(names.hold(&["a"]));
        tokio::time::sleep(KEPT_FOR / 2).await;
        assert_eq!(swept(&names), 0, "it was used again meanwhile");
        tokio::time::sleep(KEPT_FOR / 2).await;
        assert_eq!(swept(&names), 1);
        assert_eq!(swept(&names), 0, "once is enough");
    }
}
