//! The messages and enums of package `eraftpb`, one prost struct each.
//!
//! In and out: fields, public and plain. Enum fields hold the number from the wire; their accessors translate it, and a
//! number this version does not know reads as the enum's zero value. Invariant: a tag here is part of the wire and of
//! every log ever written; it never changes and is never used again for something else.

use bytes::Bytes;

/// What an entry's data means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum EntryType {
    /// Data of the application; empty in the entry a new leader appends.
    EntryNormal = 0,
    /// An encoded [`ConfChange`].
    EntryConfChange = 1,
    /// An encoded [`ConfChangeV2`]; empty data means "leave the joint configuration".
    EntryConfChangeV2 = 2,
}

/// One position of the log.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Entry {
    /// An [`EntryType`] by number.
    #[prost(enumeration = "EntryType", tag = "1")]
    pub entry_type: i32,
    /// Term of the leader that appended the entry.
    #[prost(uint64, tag = "2")]
    pub term: u64,
    /// Position in the log; the first is 1.
    #[prost(uint64, tag = "3")]
    pub index: u64,
    /// The payload.
    #[prost(bytes = "bytes", tag = "4")]
    pub data: Bytes,
    /// Unused by raft; kept because the number is taken.
    #[prost(bool, tag = "5")]
    pub sync_log: bool,
    /// A second payload that raft carries along and never reads.
    #[prost(bytes = "bytes", tag = "6")]
    pub context: Bytes,
}

/// Where a snapshot stands in the log.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct SnapshotMetadata {
    /// The configuration in force at `index`.
    #[prost(message, optional, tag = "1")]
    pub conf_state: Option<ConfState>,
    /// Index of the last entry that the snapshot covers.
    #[prost(uint64, tag = "2")]
    pub index: u64,
    /// Term of that entry.
    #[prost(uint64, tag = "3")]
    pub term: u64,
}

/// A state of the application and its place in the log.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Snapshot {
    /// Whatever the application needs to find or rebuild the state.
    #[prost(bytes = "bytes", tag = "1")]
    pub data: Bytes,
    /// Its place; absent means an empty snapshot.
    #[prost(message, optional, tag = "2")]
    pub metadata: Option<SnapshotMetadata>,
}

impl Snapshot {
    /// True if the snapshot covers no entry, which is raft's way to say "no snapshot".
    pub fn is_empty(&self) -> bool {
        self.get_metadata().index == 0
    }
}

/// What a message asks or answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum MessageType {
    /// Local: campaign.
    MsgHup = 0,
    /// Local: the leader sends heartbeats.
    MsgBeat = 1,
    /// Append these entries if you lead, pass them to the leader if not.
    MsgPropose = 2,
    /// Leader to follower: entries after `index`.
    MsgAppend = 3,
    /// Answer to an append.
    MsgAppendResponse = 4,
    /// Candidate asks for a vote.
    MsgRequestVote = 5,
    /// Answer to it.
    MsgRequestVoteResponse = 6,
    /// Leader to follower: a snapshot in place of entries that are gone.
    MsgSnapshot = 7,
    /// Leader to follower: still here, this is committed.
    MsgHeartbeat = 8,
    /// Answer to a heartbeat.
    MsgHeartbeatResponse = 9,
    /// Local: a send to `from` failed.
    MsgUnreachable = 10,
    /// Local: the snapshot to `from` arrived, or failed if `reject`.
    MsgSnapStatus = 11,
    /// Local: the leader looks whether a quorum still answers.
    MsgCheckQuorum = 12,
    /// Hand leadership to `from`.
    MsgTransferLeader = 13,
    /// Leader to its chosen successor: campaign at once.
    MsgTimeoutNow = 14,
    /// Ask for an index at which a read is linearizable.
    MsgReadIndex = 15,
    /// Answer to it, sent to a follower that passed the question on.
    MsgReadIndexResp = 16,
    /// Would you vote for me? Terms stay as they are.
    MsgRequestPreVote = 17,
    /// Answer to it.
    MsgRequestPreVoteResponse = 18,
}

/// What members say to one another. Which fields count depends on `msg_type`.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Message {
    /// A [`MessageType`] by number.
    #[prost(enumeration = "MessageType", tag = "1")]
    pub msg_type: i32,
    /// Member id of the receiver.
    #[prost(uint64, tag = "2")]
    pub to: u64,
    /// Member id of the sender.
    #[prost(uint64, tag = "3")]
    pub from: u64,
    /// Term of the sender; zero for messages outside any term (propose, read index).
    #[prost(uint64, tag = "4")]
    pub term: u64,
    /// Term of the entry at `index`.
    #[prost(uint64, tag = "5")]
    pub log_term: u64,
    /// In an append, the entry just before `entries`; in a rejection, the `index` that was refused.
    #[prost(uint64, tag = "6")]
    pub index: u64,
    /// Entries to append or to propose.
    #[prost(message, repeated, tag = "7")]
    pub entries: Vec<Entry>,
    /// Commit index of the sender.
    #[prost(uint64, tag = "8")]
    pub commit: u64,
    /// The snapshot of a `MsgSnapshot`.
    #[prost(message, optional, tag = "9")]
    pub snapshot: Option<Snapshot>,
    /// The answer is no.
    #[prost(bool, tag = "10")]
    pub reject: bool,
    /// In a rejection, where the sender of the append should try next.
    #[prost(uint64, tag = "11")]
    pub reject_hint: u64,
    /// Travels with heartbeats (read index) and votes (forced by a transfer).
    #[prost(bytes = "bytes", tag = "12")]
    pub context: Bytes,
    /// Nonzero: the follower asks for a snapshot at this index or later.
    #[prost(uint64, tag = "13")]
    pub request_snapshot: u64,
    /// The election priority as older versions send it.
    #[prost(uint64, tag = "14")]
    pub deprecated_priority: u64,
    /// Term of the entry at `commit`, in votes.
    #[prost(uint64, tag = "15")]
    pub commit_term: u64,
    /// The election priority.
    #[prost(int64, tag = "16")]
    pub priority: i64,
}

/// What a member must find again after a restart, beside its log.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct HardState {
    /// The highest term seen.
    #[prost(uint64, tag = "1")]
    pub term: u64,
    /// Who got this member's vote in `term`; zero is nobody.
    #[prost(uint64, tag = "2")]
    pub vote: u64,
    /// The highest index known to be committed.
    #[prost(uint64, tag = "3")]
    pub commit: u64,
}

/// How a [`ConfChangeV2`] gets from the old configuration to the new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum ConfChangeTransition {
    /// In one step where one change allows it, else as `Implicit`.
    Auto = 0,
    /// Through a joint configuration that raft leaves by itself.
    Implicit = 1,
    /// Through a joint configuration that the application leaves with an empty change.
    Explicit = 2,
}

/// Who votes and who listens.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct ConfState {
    /// Voters; in a joint configuration, those of the incoming half.
    #[prost(uint64, repeated, tag = "1")]
    pub voters: Vec<u64>,
    /// Members that receive the log and do not vote.
    #[prost(uint64, repeated, tag = "2")]
    pub learners: Vec<u64>,
    /// Voters of the outgoing half; not empty exactly while the configuration is joint.
    #[prost(uint64, repeated, tag = "3")]
    pub voters_outgoing: Vec<u64>,
    /// Voters of the outgoing half that become learners when it is left.
    #[prost(uint64, repeated, tag = "4")]
    pub learners_next: Vec<u64>,
    /// Raft leaves the joint configuration by itself.
    #[prost(bool, tag = "5")]
    pub auto_leave: bool,
}

/// What happens to one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum ConfChangeType {
    /// It becomes a voter.
    AddNode = 0,
    /// It leaves.
    RemoveNode = 1,
    /// It becomes a learner.
    AddLearnerNode = 2,
}

/// A change of one member, in the older form.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct ConfChange {
    /// Free for the application.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// A [`ConfChangeType`] by number.
    #[prost(enumeration = "ConfChangeType", tag = "2")]
    pub change_type: i32,
    /// The member.
    #[prost(uint64, tag = "3")]
    pub node_id: u64,
    /// Free for the application.
    #[prost(bytes = "bytes", tag = "4")]
    pub context: Bytes,
}

/// One of the changes of a [`ConfChangeV2`].
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct ConfChangeSingle {
    /// A [`ConfChangeType`] by number.
    #[prost(enumeration = "ConfChangeType", tag = "1")]
    pub change_type: i32,
    /// The member.
    #[prost(uint64, tag = "2")]
    pub node_id: u64,
}

/// Changes of any number of members that take effect together.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct ConfChangeV2 {
    /// A [`ConfChangeTransition`] by number.
    #[prost(enumeration = "ConfChangeTransition", tag = "1")]
    pub transition: i32,
    /// The changes, applied in order.
    #[prost(message, repeated, tag = "2")]
    pub changes: Vec<ConfChangeSingle>,
    /// Free for the application.
    #[prost(bytes = "bytes", tag = "3")]
    pub context: Bytes,
}
