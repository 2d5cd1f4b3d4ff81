//! The log: consensus groups on disk, in order, synced before anything is acknowledged.
//!
//! In: `Group`s (what one raft ready wants durable), snapshot marks, purge points. Out: durable numbers, the replayed
//! state at start, entries for slow followers. Invariants:
//! - a group is on disk as a whole or not at all, and groups survive a crash as a prefix of what was written;
//! - what was synced is never lost in silence: damage is told from a torn tail, and refused before a byte is changed;
//! - purging never loses the newest hard state or snapshot mark.
//!
//! Parts: `record` and `segment` are the byte codecs (see `FORMAT.md`), `scan` reads a segment image, `shape` knows the
//! rules of the log without payloads, `recover` opens a directory, `pool` keeps spare files, `log` writes, `index` and
//! `reader` find entries again, `writer` is the thread that batches. Left to others: what the bytes in an entry mean,
//! and when to purge.

pub mod error;
mod index;
mod log;
mod pool;
pub mod reader;
pub mod record;
mod recover;
pub mod renew;
mod scan;
pub mod segment;
mod shape;
pub mod writer;

#[cfg(test)]
mod tests;

use bytes::Bytes;

pub use error::WalError;
pub use log::{Appended, Options, Wal, take_lock};
pub use reader::{ReadError, WalReader};
pub use recover::{Replay, TornTail};
pub use writer::{Durable, Hooks, SteppedQueue, SteppedWriter, Verdict, WalTask, WalWriter};

/// One raft entry as the log keeps it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LogEntry {
    /// Position in the raft log, from 1.
    pub index: u64,
    /// Term of the leader that made it.
    pub term: u64,
    /// Raft's entry type, opaque here.
    pub kind: u8,
    /// Raft's context bytes.
    pub context: Bytes,
    /// The payload.
    pub data: Bytes,
}

/// Raft's hard state.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct HardState {
    /// Current term.
    pub term: u64,
    /// Member voted for in it, 0 for none.
    pub vote: u64,
    /// Highest index known committed.
    pub commit: u64,
}

/// States that everything up to an index lives in a durable snapshot elsewhere.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SnapshotMark {
    /// Last index in the snapshot.
    pub index: u64,
    /// Term of that index.
    pub term: u64,
    /// The encoded membership as of that index.
    pub conf: Bytes,
}

/// Whose log this is; in the header of each segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Cluster id.
    pub cluster: u64,
    /// Member id.
    pub member: u64,
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cluster {:x} member {:x}", self.cluster, self.member)
    }
}

/// What one raft ready wants durable; all of it or nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Group {
    /// The ready's number, rising; it is answered, not stored.
    pub number: u64,
    /// The hard state, when it changed.
    pub hard_state: Option<HardState>,
    /// Entries with consecutive indexes; those from the first index on replace what the log held there.
    pub entries: Vec<LogEntry>,
    /// A snapshot mark: of a snapshot that was installed (the log holds no entry with that index and term: it starts
    /// over after the mark) or of one taken here (entries after it stay).
    pub snapshot: Option<SnapshotMark>,
    /// Whether the group must be on the platter before it is answered.
    pub must_sync: bool,
}
