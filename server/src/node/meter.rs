//! What the desk tells of its own work, for metrics and the log: a call for each thing that happened, with how long it took.
//!
//! Calls come from the threads that do the work and must cost next to nothing. Each has an empty body here, so that whoever listens
//! takes what it wants; `()` listens to nothing.

use std::time::Duration;

use crate::types::LeaseId;

/// A listener.
pub trait Meter: Send + Sync {
    /// A batch of `bytes` was written to the log; `synced` is the time of its sync, if it needed one.
    fn log_written(&self, _bytes: u64, _wrote: Duration, _synced: Option<Duration>) {}
    /// A frozen delta became durable rows.
    fn checkpoint(&self, _took: Duration) {}
    /// The machine ran a command.
    fn applied(&self, _op: &'static str, _well: bool, _took: Duration) {}
    /// A command of one of our clients was answered, or given up.
    fn requested(&self, _op: &'static str, _well: bool, _took: Duration) {}
    /// A lease was granted for so many seconds.
    fn lease_granted(&self, _id: LeaseId, _ttl: i64) {}
    /// A lease was revoked, by a client or because it ran out.
    fn lease_revoked(&self, _id: LeaseId) {}
    /// This member, leading, gave a lease its full time again.
    fn lease_renewed(&self) {}
    /// This member, leading, found so many leases that ran out.
    fn leases_expired(&self, _count: usize) {}
    /// A step of a compaction's sweep.
    fn sweep_step(&self, _took: Duration) {}
    /// A sweep came to its end.
    fn swept(&self, _took: Duration) {}
    /// A snapshot from the leader begins, or ends, to take the place of the rows.
    fn installing(&self, _now: bool) {}
    /// The leader's clock ticked so late that followers may have missed heartbeats.
    fn late_heartbeat(&self) {}
    /// A read round was not answered in time and is asked again.
    fn slow_read_round(&self) {}
    /// A reader was given up.
    fn read_failed(&self) {}
}

impl Meter for () {}
