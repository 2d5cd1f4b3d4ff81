//! Leases as their clients and the checks see them: when each was last given its full time, and by whom.

use crate::Time;
use crate::world::{Event, MS, SECOND, World};
use std::collections::BTreeMap;

/// One lease.
#[derive(Clone, Debug, Default)]
pub struct Lease {
    /// Seconds; 0 until the grant was answered.
    pub ttl: i64,
    /// When it surely had its full time: the newest renewal that a rightful leader made, or before the first the asking for it.
    pub full_at: Time,
    pub revoke_asked: bool,
    pub renewals: u32,
}

/// Every lease that a client asked for.
#[derive(Default)]
pub struct Leases {
    pub all: BTreeMap<i64, Lease>,
    pub renewed: u64,
}

impl Leases {
    pub fn asked(&mut self, id: i64, now: Time) {
        self.all.insert(id, Lease { full_at: now, ..Lease::default() });
    }

    pub fn granted(&mut self, id: i64, ttl: i64) {
        if let Some(lease) = self.all.get_mut(&id) {
            // Members lay a floor of two seconds under what is asked.
            lease.ttl = ttl.max(2);
        }
    }

    pub fn revoke_asked(&mut self, id: i64) {
        if let Some(lease) = self.all.get_mut(&id) {
            lease.revoke_asked = true;
        }
    }
}

/// Renewals a client makes before it lets a lease run out.
const RENEWALS: u32 = 25;

impl World {
    /// A keep-alive reaches a member, which asks the leader it knows.
    pub fn keep_alive(&mut self, client: usize, id: i64, at: usize, hops: u32) {
        if self.now >= self.settings.seconds * SECOND {
            return;
        }
        if hops == 0 {
            let Some(lease) = self.leases.all.get_mut(&id) else { return };
            lease.renewals += 1;
            if lease.revoke_asked || lease.renewals > RENEWALS {
                return;
            }
            // The next one, whatever becomes of this.
            let next = self.chance.between(400 * MS, 900 * MS);
            let member = self.endpoint();
            self.after(next, Event::KeepAlive { client, lease: id, at: member, hops: 0 });
        }
        let now = self.now;
        self.members[at].set_clock(now);
        let Some(running) = &self.members[at].running else { return };
        let status = running.node.handle().status();
        if status.is_learner {
            return;
        }
        if status.is_leader {
            let renewed = running.node.handle().renew_here(id);
            let rightful = self.leaders.keys().next_back().is_none_or(|newest| *newest <= status.term);
            // A leader that does not know yet that it was replaced promises what it cannot keep, as etcd's does.
            if matches!(renewed, Ok(Some(_)))
                && rightful
                && let Some(lease) = self.leases.all.get_mut(&id)
            {
                lease.full_at = now;
                self.leases.renewed += 1;
            }
        } else if hops < 2
            && let Some(leader) = self.index_of(status.leader)
            && !self.net.is_cut(at, leader)
        {
            let delay = self.delay(at, leader);
            self.after(delay, Event::KeepAlive { client, lease: id, at: leader, hops: hops + 1 });
        }
    }
}
