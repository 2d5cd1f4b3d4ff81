//! The replicated machine: a committed entry in, outcomes and events out; the same on every member.
//!
//! Deterministic: no clock (time is the entry's), no randomness, no order of hash maps. A refusal is an outcome like any other; a
//! failing disk is not, it stops the member. Events leave as values: this room does not know who watches.
//!
//! [`machine`] walks an entry's proposals, [`txn`] evaluates transactions, [`members`] keeps the member list, [`fences`] the
//! members set aside, [`digest`] is the running checksum, [`shared`] is what other threads may read at any time.

mod digest;
mod fences;
mod machine;
mod members;
mod outcome;
mod shared;
mod txn;

pub use fences::{Fence, Fences};
pub use machine::{Applied, EntryResult, HashWanted, LeaseChange, Machine, Position};
pub use members::MemberRefusal;
pub use outcome::{AlarmEntry, Answer, ApplyError, Outcome, TxnOpOutcome, TxnOutcome, op_name};
pub use shared::Shared;
pub use txn::read_txn;

/// The highest feature level this build knows: what entries may hold, and rows. An entry or rows of a higher one stop the member.
///
/// 1: the first. 2: downgrades of the API's version, fences and comparisons of hashes.
/// A cluster's level is that of its newest entries; the leader raises it once every member knows a higher one. Nothing of a level is
/// written before the cluster has it, so that an older program never skips what it does not know.
pub const FEATURE_LEVEL: u32 = 2;
/// The level from which members may be fenced, and asked for a hash of their history, by an entry.
pub const FENCE_LEVEL: u32 = 2;
/// Version of the durable rows' format that this build writes; it reads no other.
pub(crate) const ROWS_FORMAT: u32 = 1;
