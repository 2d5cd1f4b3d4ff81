//! Revisions: every key's history, read as of any kept revision.
//!
//! The newest changes live in memory ([`delta`]), older ones in the durable rows (`base`). One writer, the apply thread, adds rows in
//! revision order ([`write`]); any thread reads ([`read`], [`range`]). A reader at revision R sees, for each key, its newest row at or
//! before R, wherever it lives: deltas are always newer than the durable rows, and a durable row may be newer than R (a checkpoint
//! that was cut short leaves such rows), so the durable rows too are read as of R, through `hist`.
//!
//! [`store`] is the front that stays when a snapshot puts other durable rows in place. [`history`] gives the rows of the log as they are, [`hold`] keeps
//! them from being swept while somebody copies them, [`side`] tells what changed beside them, [`replay`] puts copied rows back. [`pairs`] keeps durable pairs that are read often in memory. [`checkpoint`] moves frozen deltas to the durable rows; [`compact`] forgets superseded versions; [`hash`] is etcd's HashKV.

mod checkpoint;
mod compact;
mod counts;
mod delta;
pub mod encode;
mod events;
mod hash;
mod history;
mod hold;
#[cfg(test)]
mod hooked;
mod pairs;
mod range;
mod read;
mod replay;
mod scan;
mod side;
mod store;
mod write;

pub(crate) use compact::Sweep;
pub use events::{Event, RevisionEvents};
pub use hash::HashKv;
pub use history::{History, HistoryRow};
pub use range::{Page, RangeResult};
pub use side::SideCopier;
pub use store::Store;
pub use write::{Attachment, WriteTxn};

use crate::base::kind::sys;
use crate::base::{Base, BaseError, Family};
use crate::types::{LeaseId, Revision};
use bytes::Bytes;
use delta::Delta;
use parking_lot::{Condvar, Mutex, RwLock};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

/// Why a read gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The revision is older than the kept history.
    #[error("required revision has been compacted")]
    Compacted,
    /// The revision is newer than the store.
    #[error("required revision is a future revision")]
    FutureRevision,
    /// A row is missing or malformed: this member's data cannot be trusted.
    #[error("corrupt data: {0}")]
    Corrupt(String),
    #[error("storage failed: {0}")]
    Io(String),
}

impl From<BaseError> for ReadError {
    fn from(e: BaseError) -> Self {
        match e {
            BaseError::Corrupt(text) => ReadError::Corrupt(text),
            BaseError::Io(text) | BaseError::NoSpace(text) | BaseError::Locked(text) | BaseError::Newer(text) => {
                ReadError::Io(text)
            }
        }
    }
}

/// One version of a key, as a lookup finds it.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub rev: Revision,
    pub tombstone: bool,
    /// (create, version, lease); unknown for a superseded version until its row is read.
    pub numbers: Option<(i64, i64, LeaseId)>,
    /// The encoded KeyValue when it is in memory.
    pub kv: Option<Bytes>,
}

/// What a row of the history counts for in the quota, in bytes.
pub(crate) fn row_usage(tombstone: bool, kv: usize) -> i64 {
    (17 + tombstone as usize + kv) as i64
}

struct Layers {
    active: Delta,
    /// Oldest first; at most [`MAX_FROZEN`].
    frozen: Vec<Arc<Delta>>,
    /// Frozen deltas dropped so far: a durable cursor older than the last drop misses rows.
    dropped: u64,
}

/// What a freeze that waits must know.
#[derive(Default)]
struct Gate {
    /// Checkpoints wait for space on the disk.
    full: bool,
    /// The member stops.
    closing: bool,
}

/// Deltas waiting for their checkpoint; the writer waits when there are this many.
const MAX_FROZEN: usize = 2;

/// When the active delta is frozen.
#[derive(Clone, Copy, Debug)]
pub struct DeltaPolicy {
    /// Bytes at which it is frozen; 0 freezes after every write.
    pub freeze_bytes: usize,
    /// True: a frozen delta is written to the durable rows at once by the thread that froze it.
    pub inline: bool,
}

/// Sizes in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sizes {
    pub on_disk: u64,
    pub in_use: u64,
    /// Logical bytes of the kept history: what the quota is checked against, the same on every member with the same history.
    pub quota_usage: u64,
}

/// The revisions over one set of durable rows.
pub(crate) struct Rows {
    base: Arc<dyn Base>,
    layers: RwLock<Layers>,
    policy: DeltaPolicy,
    published: AtomicI64,
    opened_at: i64,
    compacted: AtomicI64,
    /// Physical compaction has reached this revision.
    swept: Mutex<i64>,
    swept_notify: tokio::sync::Notify,
    /// A sweep has begun and not ended, in this life or in an earlier one: rows beyond `swept` may be gone.
    part_swept: AtomicBool,
    /// Where the newest sweep goes, this life's or an earlier one's: from its first row on, what was superseded up to there may be gone.
    sweeping: AtomicI64,
    /// Quota usage of the durable rows, kept beside them.
    base_usage: AtomicI64,
    /// Live keys of the durable rows, kept beside them.
    base_live: AtomicI64,
    frozen_changed: Condvar,
    frozen_gate: Mutex<Gate>,
    counts: Mutex<counts::CountCache>,
    pairs: pairs::Pairs,
    /// Newest last.
    hashes: Mutex<std::collections::VecDeque<HashKv>>,
    stats: Arc<Stats>,
    /// Other rows took the place of these.
    retired: AtomicBool,
}

/// Counters for the metrics page.
#[derive(Default)]
pub struct Stats {
    pub puts: AtomicU64,
    /// Bytes of keys and values put.
    pub put_bytes: AtomicU64,
    /// Deletions asked for, whatever they found.
    pub deletes: AtomicU64,
    /// Accesses of more than one step.
    pub txns: AtomicU64,
    pub ranges: AtomicU64,
    pub checkpoints: AtomicU64,
    pub compacted_rows: AtomicU64,
}

impl Rows {
    /// Opens the store over its durable rows; the history goes on from where they end.
    pub fn open(base: Arc<dyn Base>, policy: DeltaPolicy, stats: Arc<Stats>) -> Result<Self, BaseError> {
        let applied = base.get(Family::Sys, &sys::single(sys::APPLIED))?;
        let revision = match applied {
            Some(row) => {
                let row: quorate_proto::state::Applied =
                    prost::Message::decode(row).map_err(|e| BaseError::Corrupt(format!("applied position: {e}")))?;
                row.revision
            }
            None => 1,
        };
        let number = |tag: u8, none: i64| -> Result<i64, BaseError> {
            let Some(row) = base.get(Family::Sys, &sys::single(tag))? else { return Ok(none) };
            let bytes = row.as_ref().try_into().map_err(|_| BaseError::Corrupt(format!("sys row {tag:#04x}")))?;
            Ok(i64::from_be_bytes(bytes))
        };
        let (compacted, swept) = (number(sys::COMPACT, -1)?, number(sys::SWEPT, -1)?);
        let (usage, live) = (number(sys::USAGE, 0)?, number(sys::LIVE, 0)?);
        Ok(Self {
            base,
            layers: RwLock::new(Layers { active: Delta::default(), frozen: Vec::new(), dropped: 0 }),
            policy,
            published: AtomicI64::new(revision),
            opened_at: revision,
            compacted: AtomicI64::new(compacted),
            swept: Mutex::new(swept),
            swept_notify: tokio::sync::Notify::new(),
            part_swept: AtomicBool::new(compacted > swept),
            // Whoever opened these rows in place of others may have walked the others at an earlier revision.
            sweeping: AtomicI64::new(compacted),
            base_usage: AtomicI64::new(usage),
            base_live: AtomicI64::new(live),
            frozen_changed: Condvar::new(),
            frozen_gate: Mutex::default(),
            counts: Mutex::default(),
            pairs: pairs::Pairs::default(),
            hashes: Mutex::default(),
            stats,
            retired: AtomicBool::new(false),
        })
    }

    /// The newest published revision; 1 in a fresh store.
    pub fn revision(&self) -> i64 {
        self.published.load(Ordering::Acquire)
    }

    /// The revision the durable rows held when the store was opened.
    pub(crate) fn revision_at_open(&self) -> i64 {
        self.opened_at
    }

    /// The revision below which history is gone; below 1 when nothing was ever compacted.
    pub fn compact_revision(&self) -> i64 {
        self.compacted.load(Ordering::Acquire)
    }

    /// Logical bytes of the kept history, for the quota.
    pub fn quota_usage(&self) -> u64 {
        let layers = self.layers.read();
        let deltas: i64 = layers.frozen.iter().map(|d| d.usage()).sum();
        (self.base_usage.load(Ordering::Relaxed) + deltas + layers.active.usage()).max(0) as u64
    }

    /// Keys that are alive at the newest revision.
    pub fn live_keys(&self) -> u64 {
        let layers = self.layers.read();
        let deltas: i64 = layers.frozen.iter().map(|d| d.live()).sum();
        (self.base_live.load(Ordering::Relaxed) + deltas + layers.active.live()).max(0) as u64
    }

    pub fn sizes(&self) -> Sizes {
        let base = self.base.sizes();
        let layers = self.layers.read();
        let deltas = layers.frozen.iter().map(|d| (d.bytes(), d.usage())).chain([(layers.active.bytes(), layers.active.usage())]);
        let (bytes, usage) = deltas.fold((0, 0), |(b, u), (db, du)| (b + db as u64, u + du));
        let usage = (self.base_usage.load(Ordering::Relaxed) + usage).max(0) as u64;
        // A store is never reported as empty: clients divide by the size.
        let on_disk = (base.on_disk + bytes).max(usage).max(16 << 10);
        Sizes { on_disk, in_use: (base.live + bytes).clamp(1, on_disk), quota_usage: usage }
    }
}
