//! Where the workers of a run wait for each other, so that all begin at the same time or none does.

use tokio::sync::Semaphore;

/// The workers that are to begin together.
#[derive(Debug)]
pub(crate) struct Gathering {
    workers: u32,
    /// A permit for each worker that is there. Closed when one cannot come.
    there: Semaphore,
}

/// A worker on its way. If it is dropped before it is there, nobody begins.
#[derive(Debug)]
#[must_use = "nobody begins without it"]
pub(crate) struct Coming<'a>(Option<&'a Gathering>);

impl Gathering {
    pub(crate) const fn new(workers: u32) -> Self {
        Self { workers, there: Semaphore::const_new(0) }
    }

    /// A worker that is to come; to be called once for each.
    pub(crate) const fn coming(&self) -> Coming<'_> {
        Coming(Some(self))
    }
}

impl Coming<'_> {
    /// Is there, and waits for all others. False: one of them cannot come.
    pub(crate) async fn all(mut self) -> bool {
        let Some(Gathering { workers, there }) = self.0.take() else { return false };
        there.add_permits(1);
        // What was acquired goes back at once, for the others.
        there.acquire_many(*workers).await.is_ok()
    }
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        if let Some(gathering) = self.0 {
            gathering.there.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, future::join3};

    use super::*;

    #[tokio::test]
    async fn all_begin_when_the_last_is_there() {
        let gathering = Gathering::new(3);
        let [first, second, third] = [(); 3].map(|()| gathering.coming());
        let mut two = Box::pin(async { tokio::join!(first.all(), second.all()) });
        assert_eq!((&mut two).now_or_never(), None);
        assert_eq!(tokio::join!(two, third.all()), ((true, true), true));
    }

    #[tokio::test]
    async fn nobody_begins_if_one_cannot_come() {
        let gathering = Gathering::new(3);
        let [first, second, third] = [(); 3].map(|()| gathering.coming());
        // It is noticed by who waits already and by who comes later.
        let gone = async { drop(second) };
        assert_eq!(join3(first.all(), gone, third.all()).await, (false, (), false));
    }
}
