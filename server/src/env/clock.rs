//! Time as a value: the system's, or one that stands still until it is told to move.
//!
//! Out: [`Clock::now`], monotone since the clock was made, for durations and deadlines; [`Clock::wall`], the time of day, which
//! only the entry clock reads. Invariant: the clock of a simulation moves by [`ManualClock::set`] alone, so that nothing a member
//! does depends on how long the machine took for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Where a member reads the time. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System(Instant),
    Manual(Arc<ManualClock>),
}

/// A clock that is moved by hand, for simulation.
#[derive(Debug, Default)]
pub struct ManualClock {
    now_nanos: AtomicU64,
    wall_nanos: AtomicU64,
}

impl Clock {
    /// The system's clocks; the monotone one counts from now.
    pub fn system() -> Self {
        Self(Source::System(Instant::now()))
    }

    /// A clock that shows what `clock` was last set to.
    pub fn manual(clock: Arc<ManualClock>) -> Self {
        Self(Source::Manual(clock))
    }

    /// Time since the clock was made; never goes back.
    pub fn now(&self) -> Duration {
        match &self.0 {
            Source::System(start) => start.elapsed(),
            Source::Manual(clock) => Duration::from_nanos(clock.now_nanos.load(Ordering::Relaxed)),
        }
    }

    /// Time since the Unix epoch; may go back when the machine's clock is set.
    pub fn wall(&self) -> Duration {
        match &self.0 {
            Source::System(_) => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            Source::Manual(clock) => Duration::from_nanos(clock.wall_nanos.load(Ordering::Relaxed)),
        }
    }
}

impl ManualClock {
    /// Moves both clocks; the monotone one keeps its place when it is told to go back.
    pub fn set(&self, now: Duration, wall: Duration) {
        let nanos = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        self.now_nanos.fetch_max(nanos(now), Ordering::Relaxed);
        self.wall_nanos.store(nanos(wall), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A manual clock shows what it was set to; its monotone half does not go back, its wall half does.
    #[test]
    fn a_manual_clock_moves_by_hand() {
        let hand = Arc::new(ManualClock::default());
        let clock = Clock::manual(hand.clone());
        assert_eq!(clock.now(), Duration::ZERO);
        hand.set(Duration::from_secs(5), Duration::from_secs(100));
        hand.set(Duration::from_secs(4), Duration::from_secs(90));
        assert_eq!((clock.now(), clock.wall()), (Duration::from_secs(5), Duration::from_secs(90)));
    }
}
