//! Limit: how many connections of a kind may be open at a time.
//!
//! In: acceptors that want to take one more. Out: a place for it, held as long as the connection. Whoever finds none left waits, its clients in the
//! kernel's queue, and the log says so now and then.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// That the limit is reached is said at most this often.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// The places of one kind of connections.
#[derive(Debug)]
pub struct Limit {
    places: Arc<Semaphore>,
    most: usize,
    warned: Mutex<Option<Instant>>,
}

impl Limit {
    /// At most `most` connections at a time, at least one.
    pub fn new(most: usize) -> Arc<Self> {
        let most = most.clamp(1, Semaphore::MAX_PERMITS);
        Arc::new(Self { places: Arc::new(Semaphore::new(most)), most, warned: Mutex::default() })
    }

    /// How many connections may be open at a time.
    pub fn most(&self) -> usize {
        self.most
    }

    /// The next free place, for the listener `name`.
    pub(super) async fn place(&self, name: &str) -> OwnedSemaphorePermit {
        if let Ok(place) = self.places.clone().try_acquire_owned() {
            return place;
        }
        if self.may_warn() {
            tracing::warn!(
                listener = name,
                limit = self.most,
                "the limit of open connections is reached: further ones wait; it follows the number of files that this process may open"
            );
        }
        match self.places.clone().acquire_owned().await {
            Ok(place) => place,
            // Nobody closes the semaphore.
            Err(_) => std::future::pending().await,
        }
    }

    fn may_warn(&self) -> bool {
        let mut warned = self.warned.lock();
        let may = warned.is_none_or(|at| at.elapsed() >= WARN_EVERY);
        if may {
            *warned = Some(Instant::now());
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A place is free again when its connection has gone; that none is left is said once for a while.
    #[tokio::test]
    async fn places_come_back() {
        let limit = Limit::new(1);
        let first = limit.place("client").await;
        let mut second = Box::pin(limit.place("client"));
        assert!(std::future::poll_fn(|cx| std::task::Poll::Ready(second.as_mut().poll(cx).is_pending())).await);
        assert!(!limit.may_warn(), "said already");
        drop(first);
        drop(second.await);
        assert_eq!(Limit::new(0).most(), 1);
    }
}
