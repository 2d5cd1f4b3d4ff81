//! Holds: who copies the history says how far the copy is, and sweeps wait for it, within bounds.
//!
//! In: a name and the revision up to which it has everything; a sweep's target; the time. Out: whether a sweep may begin. A hold that
//! did not move for [`PATIENCE`], or for whose sake more than [`BYTES`] have been written, keeps nobody waiting: its owner finds a gap.
//!
//! Invariant: rows after `begun` have not been swept, and `begun` rises before a sweep removes its first row, under the lock that
//! also admits holds. So a hold that was admitted has all rows after its revision.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a hold that does not move is respected.
pub const PATIENCE: Duration = Duration::from_secs(600);
/// Logical bytes written since it moved last, up to which a hold is respected.
pub const BYTES: u64 = 512 << 20;
/// Names held for at once.
const NAMES: usize = 16;

struct Hold {
    /// Its owner has everything up to here.
    revision: i64,
    moved_at: Instant,
    /// The quota's usage when it moved last.
    usage: u64,
}

impl Hold {
    fn counts(&self, usage: u64, now: Instant) -> bool {
        now.saturating_duration_since(self.moved_at) < PATIENCE && usage.saturating_sub(self.usage) < BYTES
    }
}

struct Inner {
    /// Sweeps have begun up to this revision.
    begun: i64,
    by_name: BTreeMap<String, Hold>,
}

/// All holds of a store.
pub(super) struct Holds(Mutex<Inner>);

impl Holds {
    /// No holds yet; rows up to `begun` may have been swept.
    pub fn new(begun: i64) -> Self {
        Self(Mutex::new(Inner { begun, by_name: BTreeMap::new() }))
    }

    /// Sets or moves a hold; false when rows after `revision` may be gone, or when there are too many holds.
    pub fn hold(&self, name: &str, revision: i64, usage: u64, now: Instant) -> bool {
        let mut inner = self.0.lock();
        inner.by_name.retain(|_, hold| hold.counts(usage, now));
        let room = inner.by_name.len() < NAMES || inner.by_name.contains_key(name);
        let whole = revision >= inner.begun;
        if whole && room {
            inner.by_name.insert(name.to_string(), Hold { revision, moved_at: now, usage });
        }
        whole && room
    }

    /// Rows up to this revision may have been swept by others.
    pub fn swept(&self, revision: i64) {
        let mut inner = self.0.lock();
        inner.begun = inner.begun.max(revision);
    }

    /// Sweeps have begun up to this revision.
    pub fn begun(&self) -> i64 {
        self.0.lock().begun
    }

    /// Whether a sweep to `target` may go on. True also says that it has begun.
    pub fn may_sweep_to(&self, target: i64, usage: u64, now: Instant) -> bool {
        let mut inner = self.0.lock();
        if inner.begun >= target {
            return true;
        }
        let waits = inner.by_name.values().any(|hold| hold.revision < target && hold.counts(usage, now));
        if !waits {
            inner.begun = target;
        }
        !waits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sweep waits for whoever is behind its target, until that one moves on, falls asleep, or too much was written meanwhile.
    #[test]
    fn a_sweep_waits_within_bounds() {
        let start = Instant::now();
        let holds = Holds::new(-1);
        assert!(holds.hold("agent", 10, 0, start));
        assert!(holds.may_sweep_to(10, 0, start) && !holds.may_sweep_to(11, 0, start));
        assert!(holds.hold("agent", 12, 0, start) && holds.may_sweep_to(11, 0, start));
        assert!(!holds.may_sweep_to(13, BYTES - 1, start) && holds.may_sweep_to(13, BYTES, start));
        assert!(holds.hold("agent", 13, 0, start) && !holds.may_sweep_to(20, 0, start + PATIENCE / 2));
        assert!(holds.may_sweep_to(20, 0, start + PATIENCE));
    }

    /// Nobody is told to have what a sweep may have removed, and names are bounded; names that fell asleep make room.
    #[test]
    fn refusals() {
        let start = Instant::now();
        let holds = Holds::new(5);
        assert!(!holds.hold("late", 4, 0, start) && holds.hold("late", 5, 0, start));
        for n in 1..NAMES {
            assert!(holds.hold(&n.to_string(), 9, 0, start));
        }
        assert!(!holds.hold("one more", 9, 0, start) && holds.hold("late", 9, 0, start));
        assert!(holds.hold("one more", 9, 0, start + PATIENCE));
        holds.swept(30);
        assert!(!holds.hold("late", 29, 0, start));
    }
}
