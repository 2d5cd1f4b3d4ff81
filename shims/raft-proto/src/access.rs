//! Accessors of the messages, in the style raft calls: `get_x`, `set_x`, `mut_x`, `take_x`, `has_x`, `clear_x`.
//!
//! In: a field of `eraftpb`. Out: methods and nothing else; fields stay public. Which methods a field gets depends on
//! its kind: numbers and enums are copied, bytes and lists are borrowed or taken, messages have a shared default that
//! stands in where the field is absent. Invariant: `take_x` and `clear_x` leave the field's default behind.
//! prost's derive already writes `set_x` for enum fields (and `x`, the typed value), so only the others are here.

use std::mem;

use bytes::Bytes;

use crate::eraftpb::{
    ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType, HardState,
    Message, MessageType, Snapshot, SnapshotMetadata,
};

// Defaults that `get_x` lends out for an absent message.
static NO_CONF_STATE: ConfState = ConfState {
    voters: Vec::new(),
    learners: Vec::new(),
    voters_outgoing: Vec::new(),
    learners_next: Vec::new(),
    auto_leave: false,
};
static NO_METADATA: SnapshotMetadata = SnapshotMetadata { conf_state: None, index: 0, term: 0 };
static NO_SNAPSHOT: Snapshot = Snapshot { data: Bytes::new(), metadata: None };

// Method names are spelled out at each use because a macro cannot glue two names together.
macro_rules! number {
    ($field:ident: $ty:ty, $get:ident, $set:ident, $clear:ident) => {
        #[doc = concat!("The value of `", stringify!($field), "`.")]
        #[inline]
        pub fn $get(&self) -> $ty {
            self.$field
        }
        #[doc = concat!("Replaces `", stringify!($field), "`.")]
        #[inline]
        pub fn $set(&mut self, value: $ty) {
            self.$field = value;
        }
        #[doc = concat!("Puts `", stringify!($field), "` back to its default.")]
        #[inline]
        pub fn $clear(&mut self) {
            self.$field = Default::default();
        }
    };
}

macro_rules! choice {
    ($field:ident: $ty:ty, $get:ident, $clear:ident) => {
        #[doc = concat!("`", stringify!($field), "` as an enum; a number it does not know reads as the zero value.")]
        #[inline]
        pub fn $get(&self) -> $ty {
            self.$field()
        }
        #[doc = concat!("Puts `", stringify!($field), "` back to its zero value.")]
        #[inline]
        pub fn $clear(&mut self) {
            self.$field = 0;
        }
    };
}

// Bytes and lists: lent as a slice, owned as the type of the field.
macro_rules! content {
    ($field:ident: $ty:ty => $slice:ty, $get:ident, $set:ident, $mut:ident, $take:ident, $clear:ident) => {
        #[doc = concat!("`", stringify!($field), "` as a slice.")]
        #[inline]
        pub fn $get(&self) -> &$slice {
            &self.$field
        }
        #[doc = concat!("Replaces `", stringify!($field), "`.")]
        #[inline]
        pub fn $set(&mut self, value: $ty) {
            self.$field = value;
        }
        #[doc = concat!("`", stringify!($field), "` in place.")]
        #[inline]
        pub fn $mut(&mut self) -> &mut $ty {
            &mut self.$field
        }
        #[doc = concat!("Moves `", stringify!($field), "` out without a copy and leaves it empty.")]
        #[inline]
        pub fn $take(&mut self) -> $ty {
            mem::take(&mut self.$field)
        }
        #[doc = concat!("Empties `", stringify!($field), "`.")]
        #[inline]
        pub fn $clear(&mut self) {
            self.$field.clear();
        }
    };
}

macro_rules! message {
    ($field:ident: $ty:ty = $absent:ident,
     $get:ident, $set:ident, $mut:ident, $take:ident, $has:ident, $clear:ident) => {
        #[doc = concat!("`", stringify!($field), "`, or the default message if it is absent.")]
        #[inline]
        pub fn $get(&self) -> &$ty {
            self.$field.as_ref().unwrap_or(&$absent)
        }
        #[doc = concat!("Replaces `", stringify!($field), "`.")]
        #[inline]
        pub fn $set(&mut self, value: $ty) {
            self.$field = Some(value);
        }
        #[doc = concat!("`", stringify!($field), "` in place; an absent one is created first.")]
        #[inline]
        pub fn $mut(&mut self) -> &mut $ty {
            self.$field.get_or_insert_default()
        }
        #[doc = concat!("Moves `", stringify!($field), "` out and leaves it absent; an absent one yields the default.")]
        #[inline]
        pub fn $take(&mut self) -> $ty {
            self.$field.take().unwrap_or_default()
        }
        #[doc = concat!("True if `", stringify!($field), "` is present.")]
        #[inline]
        pub fn $has(&self) -> bool {
            self.$field.is_some()
        }
        #[doc = concat!("Makes `", stringify!($field), "` absent.")]
        #[inline]
        pub fn $clear(&mut self) {
            self.$field = None;
        }
    };
}

impl Entry {
    choice!(entry_type: EntryType, get_entry_type, clear_entry_type);
    number!(term: u64, get_term, set_term, clear_term);
    number!(index: u64, get_index, set_index, clear_index);
    content!(data: Bytes => [u8], get_data, set_data, mut_data, take_data, clear_data);
    number!(sync_log: bool, get_sync_log, set_sync_log, clear_sync_log);
    content!(context: Bytes => [u8], get_context, set_context, mut_context, take_context, clear_context);
}

impl SnapshotMetadata {
    message!(conf_state: ConfState = NO_CONF_STATE,
        get_conf_state, set_conf_state, mut_conf_state, take_conf_state, has_conf_state, clear_conf_state);
    number!(index: u64, get_index, set_index, clear_index);
    number!(term: u64, get_term, set_term, clear_term);
}

impl Snapshot {
    content!(data: Bytes => [u8], get_data, set_data, mut_data, take_data, clear_data);
    message!(metadata: SnapshotMetadata = NO_METADATA,
        get_metadata, set_metadata, mut_metadata, take_metadata, has_metadata, clear_metadata);
}

impl Message {
    choice!(msg_type: MessageType, get_msg_type, clear_msg_type);
    number!(to: u64, get_to, set_to, clear_to);
    number!(from: u64, get_from, set_from, clear_from);
    number!(term: u64, get_term, set_term, clear_term);
    number!(log_term: u64, get_log_term, set_log_term, clear_log_term);
    number!(index: u64, get_index, set_index, clear_index);
    content!(entries: Vec<Entry> => [Entry], get_entries, set_entries, mut_entries, take_entries, clear_entries);
    number!(commit: u64, get_commit, set_commit, clear_commit);
    message!(snapshot: Snapshot = NO_SNAPSHOT,
        get_snapshot, set_snapshot, mut_snapshot, take_snapshot, has_snapshot, clear_snapshot);
    number!(reject: bool, get_reject, set_reject, clear_reject);
    number!(reject_hint: u64, get_reject_hint, set_reject_hint, clear_reject_hint);
    content!(context: Bytes => [u8], get_context, set_context, mut_context, take_context, clear_context);
    number!(request_snapshot: u64, get_request_snapshot, set_request_snapshot, clear_request_snapshot);
    number!(deprecated_priority: u64, get_deprecated_priority, set_deprecated_priority, clear_deprecated_priority);
    number!(commit_term: u64, get_commit_term, set_commit_term, clear_commit_term);
    number!(priority: i64, get_priority, set_priority, clear_priority);
}

impl HardState {
    number!(term: u64, get_term, set_term, clear_term);
    number!(vote: u64, get_vote, set_vote, clear_vote);
    number!(commit: u64, get_commit, set_commit, clear_commit);
}

impl ConfState {
    content!(voters: Vec<u64> => [u64], get_voters, set_voters, mut_voters, take_voters, clear_voters);
    content!(learners: Vec<u64> => [u64], get_learners, set_learners, mut_learners, take_learners, clear_learners);
    content!(voters_outgoing: Vec<u64> => [u64],
        get_voters_outgoing, set_voters_outgoing, mut_voters_outgoing, take_voters_outgoing, clear_voters_outgoing);
    content!(learners_next: Vec<u64> => [u64],
        get_learners_next, set_learners_next, mut_learners_next, take_learners_next, clear_learners_next);
    number!(auto_leave: bool, get_auto_leave, set_auto_leave, clear_auto_leave);
}

impl ConfChange {
    number!(id: u64, get_id, set_id, clear_id);
    choice!(change_type: ConfChangeType, get_change_type, clear_change_type);
    number!(node_id: u64, get_node_id, set_node_id, clear_node_id);
    content!(context: Bytes => [u8], get_context, set_context, mut_context, take_context, clear_context);
}

impl ConfChangeSingle {
    choice!(change_type: ConfChangeType, get_change_type, clear_change_type);
    number!(node_id: u64, get_node_id, set_node_id, clear_node_id);
}

impl ConfChangeV2 {
    choice!(transition: ConfChangeTransition, get_transition, clear_transition);
    content!(changes: Vec<ConfChangeSingle> => [ConfChangeSingle],
        get_changes, set_changes, mut_changes, take_changes, clear_changes);
    content!(context: Bytes => [u8], get_context, set_context, mut_context, take_context, clear_context);
}
