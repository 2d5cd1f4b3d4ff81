//! Raft's messages on prost: the crate that raft 0.7.0 finds when it asks for `raft-proto`.
//!
//! In: nothing but field values. Out: the message types (`eraftpb`), their accessors in the style that raft calls
//! (`get_`, `set_`, `mut_`, `take_`, `has_`, `clear_`), and the helpers that raft and its users import from here.
//! Invariants:
//! - field numbers and types are those of the published `eraftpb` package, so the wire format is the same protobuf;
//! - payloads (`data`, `context`) are [`bytes::Bytes`]: cloning an entry counts a reference and copies no payload;
//! - fields are encoded in order of their numbers, and numbers in `ConfState` are packed, as proto3 writes them.
//!
//! Left to others: when a message is sent, stored or limited. Why it exists: docs/adr/2026-11-21-raft-messages-on-prost.md.

pub mod eraftpb;

mod access;
mod confchange;
mod confstate;

pub use crate::confchange::{ConfChangeI, new_conf_change_single, parse_conf_change, stringify_conf_change};
pub use crate::confstate::conf_state_eq;

/// Every message and enum, for `use raft_proto::prelude::*` (raft's own prelude exports it onward).
pub mod prelude {
    pub use crate::eraftpb::{
        ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType, HardState,
        Message, MessageType, Snapshot, SnapshotMetadata,
    };
}

/// Conversions into a [`ConfState`](eraftpb::ConfState).
///
/// `(voters, learners)`, a pair of anything that yields member ids, converts with `into()`; the module has no items
/// of its own and is there because the published crate has it.
pub mod util {}
