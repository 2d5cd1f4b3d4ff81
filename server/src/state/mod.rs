//! The replicated machine: a committed entry in, outcomes and events out; the same on every member.
//!
//! Deterministic: no clock (time is the entry's), no randomness, no order of hash maps. A refusal is an outcome like any other; a
//! failing disk is not, it stops the member. Events leave as values: this room does not know who watches.
//!
//! [`level`] knows what entries and rows may hold, [`machine`] walks an entry's proposals, [`txn`] evaluates transactions, [`members`]
//! keeps the member list, [`fences`] the members set aside, [`digest`] is the running checksum, [`shared`] is what other threads may
//! read at any time.

mod digest;
pub mod fences;
mod level;
mod machine;
mod members;
mod outcome;
mod shared;
mod txn;

pub use fences::{Fence, Fences};
pub use level::{FEATURE_LEVEL, FENCE_LEVEL};
pub use machine::{Applied, EntryResult, HashWanted, LeaseChange, Machine, Position};
pub use members::MemberRefusal;
pub use outcome::{AlarmEntry, Answer, ApplyError, Outcome, TxnOpOutcome, TxnOutcome, op_name};
pub use shared::Shared;
pub use txn::read_txn;
