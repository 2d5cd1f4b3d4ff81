//! Leases as their clients and the checks see them: when each was last given its full time, and by whom.

use crate::Time;
use crate::world::{Event, MS, SECOND, World};
use quorate::node::Renewal;
use std::collections::BTreeMap;

/// One lease.
#[derive(Clone, Debug, Default)]
pub struct Lease {
    /// Seconds; 0 until the grant was answered.
    pub ttl: i64,
    /// When it surely had its full time: the newest renewal, or before the first the asking for it.
    pub full_at: Time,
    /// Some member said that there is no such lease.
    pub gone: bool,
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
/// Attempts at one renewal, at the leaders that members believe in.
const HOPS: u32 = 8;

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
            // As the door does it: first everything committed is applied, and where it is not certain who leads a round asks.
            let renewed = match status.applied_index < status.raft_index {
                true => Ok(Renewal::Unsure),
                false => running.node.handle().renew_here(id),
            };
            if renewed == Ok(Renewal::Unsure) {
                let _ = running.node.read();
            }
            let Some(lease) = self.leases.all.get_mut(&id) else { return };
            match renewed {
                Ok(Renewal::Full(_)) => {
                    lease.full_at = now;
                    self.leases.renewed += 1;
                    if lease.gone {
                        self.violation(format!("lease {id} was said to be gone, and then renewed by member {at}"));
                    }
                }
                Ok(Renewal::Gone) => lease.gone = true,
                Ok(Renewal::Ending | Renewal::Unsure) | Err(_) if hops < HOPS => {
                    let delay = self.chance.between(5 * MS, 20 * MS);
                    self.after(delay, Event::KeepAlive { client, lease: id, at, hops: hops + 1 });
                }
                _ => {}
            }
            self.settle(at);
        } else if hops < HOPS
            && let Some(leader) = self.index_of(status.leader)
            && !self.net.is_cut(at, leader)
        {
            let delay = self.delay(at, leader);
            self.after(delay, Event::KeepAlive { client, lease: id, at: leader, hops: hops + 1 });
        }
    }
}
