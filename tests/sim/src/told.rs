//! What was told once is not untold: promises that reach across clients, watchers and leases, checked as each answer comes.
//!
//! In: every answer and every message of a watch, with the member that gave it. Out: violations.
//! 1. A linearizable operation asked after any watcher, at any member, was told a revision is answered at that revision or later.
//! 2. A process never shows less than it has shown: a serializable read may lag behind other members, not behind what the same
//!    process has answered or told a watcher.
//! 3. A lease is said to be gone, to who keeps it alive and to who revokes it, only when its time is over or its end was asked for;
//!    and who keeps it alive is told the time it was granted.
//! 4. A compaction is refused as done only when one that far was asked for.

use crate::ops::Told;
use crate::world::{MS, SECOND, World};
use quorate::state::ApplyError;
use quorate_proto::entry::command::Op;

impl World {
    /// A member told a watcher of a revision.
    pub fn watch_told(&mut self, at: usize, revision: i64) {
        self.watched = self.watched.max(revision);
        self.showed(at, revision);
    }

    /// A process showed a revision.
    pub fn showed(&mut self, at: usize, revision: i64) {
        if let Some(running) = &mut self.members[at].running {
            running.shown = running.shown.max(revision);
        }
    }

    /// A process reads its store for a client: never less than it has shown.
    pub fn shows_again(&mut self, at: usize, operation: usize, revision: i64) {
        let shown = self.members[at].running.as_ref().map_or(0, |r| r.shown);
        if revision < shown {
            self.violation(format!("operation {operation} was shown revision {revision} by member {at}, which had shown {shown}"));
        }
        self.showed(at, revision);
    }

    /// An answer reaches its client.
    pub fn check_told(&mut self, client: usize, operation: usize, told: &Told) {
        let op = &self.operations[operation].op;
        let revision = match told {
            Told::Answer(answer) => answer.revision,
            Told::Read(Ok(result)) if !matches!(op, Op::Range(range) if range.serializable) => result.revision,
            _ => i64::MAX,
        };
        let floor = self.clients[client].floor();
        if revision < floor {
            self.violation(format!(
                "operation {operation} has revision {revision}, but a watcher was told {floor} before it was asked"
            ));
        }
        let Told::Answer(answer) = told else { return };
        match (&self.operations[operation].op, &answer.result) {
            (Op::LeaseRevoke(revoke), Err(ApplyError::LeaseNotFound)) => {
                // Its client asks once, so that its own asking is no reason.
                let id = revoke.ids[0];
                self.check_gone(id, &format!("operation {operation}"));
            }
            (Op::Compact(compact), Err(ApplyError::Compacted)) => {
                let wanted = compact.revision;
                let others = self.operations.iter().enumerate().filter(|(at, _)| *at != operation);
                let asked = others.filter_map(|(_, o)| if let Op::Compact(c) = &o.op { Some(c.revision) } else { None });
                // A compaction at 0 is always done.
                if wanted > 0 && asked.max().unwrap_or(0) < wanted {
                    self.violation(format!("operation {operation} was told that {wanted} is compacted, which nobody asked for"));
                }
            }
            _ => {}
        }
    }

    /// Somebody is told that a lease is gone: its time is over.
    pub fn check_gone(&mut self, id: i64, who: &str) {
        let now = self.now;
        let Some(lease) = self.leases.all.get(&id) else { return };
        let ttl = lease.ttl.max(1) as u64 * SECOND;
        let due = lease.full_at + ttl - ttl / 1000 - MS;
        if now < due {
            self.violation(format!(
                "{who} was told at {} ms that lease {id} is gone, its time was not over before {} ms",
                now / MS,
                due / MS
            ));
        }
    }
}
