//! Durable rows: four families of sorted rows behind one trait, with RocksDB and an in-memory twin.
//!
//! In come batches of rows from the one thread that writes (checkpoints and physical compaction); out go point reads and ordered
//! cursors for any thread. A batch is atomic; nothing is durable before [`Base::flush`] returns, and what is durable is always a
//! prefix of the batches written, all families together. Row bytes are made in `kind`, nowhere else; `FORMAT.md` draws them.

pub mod kind;
mod manifest;
mod mem;
mod rocks;

pub use mem::MemBase;
pub use rocks::{RocksBase, RocksOptions};

use bytes::Bytes;

/// A family of rows with its own order and tuning.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum Family {
    /// revision -> encoded KeyValue: the history, append-only.
    Log = 0,
    /// user key -> small record of its newest version.
    Latest = 1,
    /// (user key, superseded revision) -> the revision that superseded it.
    Hist = 2,
    /// everything else: applied position, leases, members, alarms, marks.
    Sys = 3,
}

impl Family {
    pub const ALL: [Family; 4] = [Family::Log, Family::Latest, Family::Hist, Family::Sys];

    pub const fn name(self) -> &'static str {
        match self {
            Family::Log => "log",
            Family::Latest => "latest",
            Family::Hist => "hist",
            Family::Sys => "sys",
        }
    }
}

/// Why the rows could not be read or written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BaseError {
    /// A checksum or a row's shape is wrong; the member's data cannot be trusted.
    #[error("corrupt data: {0}")]
    Corrupt(String),
    /// The disk refused; the process must not go on writing.
    #[error("storage failed: {0}")]
    Io(String),
    /// The disk is full; what was asked may be asked again once there is space.
    #[error("the disk is full: {0}")]
    NoSpace(String),
    /// Another process holds the folder.
    #[error("{0}")]
    Locked(String),
    /// The data are of a newer program than this one. They are sound: that program must go on with them.
    #[error("{0}")]
    Newer(String),
}

/// Rows to write at once.
#[derive(Default, Debug)]
pub struct Batch {
    pub(crate) rows: Vec<(Family, Bytes, Option<Bytes>)>,
    bytes: usize,
}

impl Batch {
    pub fn put(&mut self, family: Family, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        let (key, value) = (key.into(), value.into());
        self.bytes += key.len() + value.len();
        self.rows.push((family, key, Some(value)));
    }

    pub fn delete(&mut self, family: Family, key: impl Into<Bytes>) {
        let key = key.into();
        self.bytes += key.len();
        self.rows.push((family, key, None));
    }

    /// Key and value bytes held.
    pub fn size(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

/// A forward cursor over one family; it sees the rows as they were when it was made.
pub trait Cursor {
    /// The row under the cursor, `None` past the last one.
    fn row(&self) -> Option<(&[u8], &[u8])>;
    fn advance(&mut self) -> Result<(), BaseError>;
    /// Moves to the first row at or after `key`.
    fn seek(&mut self, key: &[u8]) -> Result<(), BaseError>;
}

/// The rows as they were at one moment.
pub trait Pinned {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, BaseError>;
    /// A cursor at the first row at or after `lower`.
    fn cursor<'a>(&'a self, family: Family, lower: &[u8]) -> Result<Box<dyn Cursor + 'a>, BaseError>;
}

/// Bytes on disk and an estimate of those that still matter.
#[derive(Clone, Copy, Debug, Default)]
pub struct BaseSizes {
    pub on_disk: u64,
    pub live: u64,
}

/// Sorted durable rows. One writer, many readers.
pub trait Base: Send + Sync + 'static {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, BaseError>;
    /// Several point reads, answered in order.
    fn get_many(&self, family: Family, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, BaseError>;
    /// A cursor at the first row in `lower..upper` (no upper bound when `None`).
    fn cursor<'a>(&'a self, family: Family, lower: &[u8], upper: Option<&[u8]>) -> Result<Box<dyn Cursor + 'a>, BaseError>;
    fn write(&self, batch: Batch) -> Result<(), BaseError>;
    /// Makes every batch written so far durable.
    fn flush(&self) -> Result<(), BaseError>;
    fn sizes(&self) -> BaseSizes;
    /// Calls `work` with the rows as they are now; nothing that is written meanwhile shows there.
    fn pinned(&self, work: &mut dyn FnMut(&dyn Pinned));
    /// The rows as they are now, for as long as the value lives, where holding them needs no thread.
    fn pin(&self) -> Option<Box<dyn Pinned + Send + Sync>> {
        None
    }
    /// Gives the space of deleted rows back, which may take long and hinders nobody. Nothing to do where they take none.
    fn reclaim(&self) -> Result<(), BaseError> {
        Ok(())
    }
    /// Other rows took the place of these: their files go when the last owner lets go.
    fn retire(&self) {}
}
