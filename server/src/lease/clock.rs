//! The leader's half of leases: who has how long, renewals, and who has run out. Plain state over a time that is handed in.

use super::Lease;
use crate::env::plant::{self, Plant};
use crate::types::LeaseId;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// Deadlines of all leases, kept by the leader. Times are since an arbitrary start, monotone.
#[derive(Default)]
pub struct LeaseClock {
    leading: bool,
    deadlines: HashMap<LeaseId, (Duration, i64)>,
    order: BTreeSet<(Duration, LeaseId)>,
    /// Asked to be revoked and not yet gone: neither renewed nor asked again before the retry time.
    expiring: HashMap<LeaseId, Duration>,
}

/// A revoke that was proposed and did not come back is proposed again after this long.
const RETRY: Duration = Duration::from_secs(3);

fn seconds(s: i64) -> Duration {
    Duration::from_secs(s.max(0) as u64)
}

impl LeaseClock {
    /// Becomes the leader's clock: every lease lives on for its remaining time, counted from now, plus `grace` (clients could not
    /// renew while there was no leader).
    pub fn lead(&mut self, leases: impl Iterator<Item = Lease>, now: Duration, grace: Duration) {
        self.follow();
        self.leading = true;
        for lease in leases {
            let left = if lease.remaining > 0 { lease.remaining } else { lease.ttl };
            let left = if plant::is(Plant::LeaseExpiresEarly) { 0 } else { left };
            self.set(lease.id, lease.ttl, now + seconds(left) + grace);
        }
    }

    /// Stops being the leader's clock.
    pub fn follow(&mut self) {
        *self = Self::default();
    }

    pub fn leading(&self) -> bool {
        self.leading
    }

    fn set(&mut self, id: LeaseId, ttl: i64, deadline: Duration) {
        if let Some((old, _)) = self.deadlines.insert(id, (deadline, ttl)) {
            self.order.remove(&(old, id));
        }
        self.order.insert((deadline, id));
    }

    pub fn granted(&mut self, id: LeaseId, ttl: i64, now: Duration) {
        if self.leading {
            self.set(id, ttl, now + seconds(ttl));
        }
    }

    pub fn revoked(&mut self, id: LeaseId) {
        self.expiring.remove(&id);
        if let Some((deadline, _)) = self.deadlines.remove(&id) {
            self.order.remove(&(deadline, id));
        }
    }

    /// Gives a lease its full time again; its seconds to live, or `None` when there is no such lease or it has run out.
    pub fn renew(&mut self, id: LeaseId, now: Duration) -> Option<i64> {
        let (deadline, ttl) = *self.deadlines.get(&id)?;
        if deadline <= now || self.expiring.contains_key(&id) {
            return None;
        }
        self.set(id, ttl, now + seconds(ttl));
        Some(ttl)
    }

    /// True for a lease that is not revoked, whether or not it has run out.
    pub fn knows(&self, id: LeaseId) -> bool {
        self.deadlines.contains_key(&id)
    }

    /// Seconds left, rounded down; `None` when there is no such lease.
    pub fn remaining(&self, id: LeaseId, now: Duration) -> Option<i64> {
        let (deadline, _) = self.deadlines.get(&id)?;
        Some(deadline.saturating_sub(now).as_secs() as i64)
    }

    /// Up to `max` leases that have run out and should be revoked now.
    pub fn expired(&mut self, now: Duration, max: usize) -> Vec<LeaseId> {
        self.expiring.retain(|_, retry| *retry > now);
        let due = self.order.range(..=(now, LeaseId::MAX)).map(|(_, id)| *id);
        let ids: Vec<_> = due.filter(|id| !self.expiring.contains_key(id)).take(max).collect();
        for id in &ids {
            self.expiring.insert(*id, now + RETRY);
        }
        ids
    }

    /// When [`LeaseClock::expired`] next has something to say.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.order.iter().find(|(_, id)| !self.expiring.contains_key(id)).map(|(deadline, _)| *deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(id: i64, ttl: i64) -> Lease {
        Lease { id, ttl, remaining: 0, granted_at_ms: 0 }
    }

    /// A lease runs out at its deadline, a renewal moves it, and one asked to be revoked is neither renewed nor asked for twice.
    #[test]
    fn deadlines() {
        let at = Duration::from_secs;
        let mut clock = LeaseClock::default();
        assert_eq!(clock.renew(1, at(0)), None, "a follower's clock knows nothing");
        clock.lead([lease(1, 10), lease(2, 20)].into_iter(), at(100), at(1));
        assert_eq!(clock.expired(at(110), 10), Vec::<i64>::new());
        assert_eq!(clock.renew(1, at(110)), Some(10));
        assert_eq!(clock.expired(at(119), 10), Vec::<i64>::new());
        assert_eq!(clock.remaining(1, at(115)), Some(5));
        assert_eq!(clock.expired(at(121), 10), vec![1, 2]);
        assert_eq!((clock.renew(1, at(121)), clock.knows(1)), (None, true));
        assert_eq!(clock.expired(at(122), 10), Vec::<i64>::new());
        clock.revoked(1);
        assert!(!clock.knows(1));
        assert_eq!(clock.expired(at(125), 10), vec![2], "an unanswered revoke is asked again");
    }
}
