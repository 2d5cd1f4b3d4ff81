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
    /// When it had its full time before that, the oldest first.
    pub earlier: Vec<Time>,
    /// Whoever has applied so many entries has applied its grant.
    pub granted_by: u64,
    /// Some member said that there is no such lease.
    pub gone: bool,
    pub revoke_asked: bool,
    pub renewals: u32,
}

impl Lease {
    /// When it last had its full time at a moment.
    pub fn full_before(&self, at: Time) -> Time {
        let earlier = self.earlier.iter().rev().find(|full| **full <= at).copied();
        if self.full_at <= at { self.full_at } else { earlier.unwrap_or(self.full_at) }
    }
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

    pub fn granted(&mut self, id: i64, ttl: i64, applied: u64) {
        if let Some(lease) = self.all.get_mut(&id) {
            // Members lay a floor of two seconds under what is asked.
            lease.ttl = ttl.max(2);
            lease.granted_by = applied;
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
            // The next one, whatever becomes of this. Now and then its client is away for about as long as the lease lasts.
            let ttl = lease.ttl as u64 * SECOND;
            let away = self.chance.chance(10);
            let next = if away { ttl + self.chance.below(1500 * MS) } else { self.chance.between(400 * MS, 900 * MS) };
            let member = self.endpoint();
            self.after(next, Event::KeepAlive { client, lease: id, at: member, hops: 0 });
        }
        let now = self.now;
        self.members[at].set_clock(now);
        let Some(running) = &self.members[at].running else { return };
        let (life, status) = (self.members[at].life, running.node.handle().status());
        if status.is_learner {
            return;
        }
        if status.is_leader {
            let delay = self.moment();
            let over = self.has_ended(id);
            self.after(delay, Event::Renew { client, lease: id, at, life, hops, upto: status.raft_index, over });
        } else if hops < HOPS
            && let Some(leader) = self.index_of(status.leader)
            && !self.net.is_cut(at, leader)
        {
            let delay = self.delay(at, leader);
            self.after(delay, Event::KeepAlive { client, lease: id, at: leader, hops: hops + 1 });
        }
    }

    /// What passes on a thread of the door between two looks at what other threads wrote; now and then it does not run for a while.
    fn moment(&mut self) -> Time {
        if self.chance.chance(5) { self.chance.between(MS, 20 * MS) } else { self.chance.between(5, 100) }
    }

    /// Whether some member has applied the end of a lease. One that is set aside, or damaged, does not count.
    fn has_ended(&self, id: i64) -> bool {
        let Some(lease) = self.leases.all.get(&id) else { return false };
        let applied_end = |at: usize| {
            let Some(running) = self.members[at].running.as_ref().filter(|_| !self.is_damaged(at)) else { return false };
            let shared = running.node.handle().shared();
            !running.node.handle().is_fenced() && shared.applied_index() >= lease.granted_by && shared.lease(id).is_none()
        };
        lease.granted_by > 0 && self.current().into_iter().any(applied_end)
    }

    /// A keep-alive at the leader, as the door does it: everything that was committed when it looked is applied, then the clock is asked,
    /// and where it is not certain who leads a round asks.
    pub fn renew(&mut self, client: usize, id: i64, (at, life): (usize, u32), hops: u32, (upto, over): (u64, bool)) {
        let now = self.now;
        self.members[at].set_clock(now);
        let Some(running) = self.members[at].running.as_ref().filter(|_| self.members[at].life == life) else { return };
        if running.node.handle().status().applied_index < upto {
            let delay = MS + self.moment();
            return self.after(delay, Event::Renew { client, lease: id, at, life, hops, upto, over });
        }
        let renewed = running.node.handle().renew_here(id);
        if renewed == Ok(Renewal::Unsure) {
            let _ = running.node.read();
        }
        let Some(lease) = self.leases.all.get_mut(&id) else { return };
        match renewed {
            Ok(Renewal::Full(ttl)) => {
                let before = std::mem::replace(&mut lease.full_at, now);
                lease.earlier.push(before);
                self.leases.renewed += 1;
                if over {
                    self.violation(format!(
                        "lease {id} was renewed by member {at}, its end had been applied before that was asked"
                    ));
                }
                let Some(lease) = self.leases.all.get(&id) else { return };
                let (gone, granted) = (lease.gone, lease.ttl);
                if gone {
                    self.violation(format!("lease {id} was said to be gone, and then renewed by member {at}"));
                }
                if ttl != granted {
                    self.violation(format!("lease {id} was granted for {granted} s and renewed for {ttl} s by member {at}"));
                }
            }
            Ok(Renewal::Gone) => {
                lease.gone = true;
                if !lease.revoke_asked {
                    self.check_gone(id, &format!("who keeps it alive at member {at}"));
                }
            }
            Ok(Renewal::Ending | Renewal::Unsure) | Err(_) if hops < HOPS => {
                let delay = self.chance.between(5 * MS, 20 * MS);
                self.after(delay, Event::KeepAlive { client, lease: id, at, hops: hops + 1 });
            }
            _ => {}
        }
        self.settle(at);
    }
}
