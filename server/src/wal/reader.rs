//! Reader: entries by index from disk, for followers that fell behind the cache.
//!
//! Works beside the writer: the index is locked only to find a record, the disk is read without a lock. A record whose
//! segment was purged meanwhile fails its checksum and is then reported as purged, not as damage.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;

use super::LogEntry;
use super::index::{GroupPlace, Index, SegmentHandle};
use super::record::{self, Place, Slot};

/// Why entries could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Entries before `first` are gone: send a snapshot instead.
    #[error("log entries before {first} were purged")]
    Purged { first: u64 },
    /// The log ends before `index`.
    #[error("the log has no entry {index} yet")]
    Unavailable { index: u64 },
    /// The record fails its checks.
    #[error("log file {} is corrupt at offset {offset}: {reason}", file.display())]
    Corrupt { file: PathBuf, offset: u64, reason: String },
    /// The disk failed.
    #[error("cannot read {}", file.display())]
    Io { file: PathBuf, source: io::Error },
}

/// Reads a log that another thread appends to; clones are cheap.
#[derive(Clone)]
pub struct WalReader {
    index: Arc<RwLock<Index>>,
}

impl WalReader {
    pub(super) fn new(index: Arc<RwLock<Index>>) -> Self {
        WalReader { index }
    }

    /// First entry on disk and the index after the last one; equal when there is none.
    #[must_use]
    pub fn bounds(&self) -> (u64, u64) {
        self.index.read().bounds()
    }

    /// Entries `lo..hi`, cut short once their payloads exceed `max_bytes` (but never below one entry).
    ///
    /// Blocks on the disk. What was appended but not synced is readable too.
    ///
    /// # Errors
    /// `Purged` and `Unavailable` when the range is not on disk in full, `Corrupt` and `Io` when the disk is to blame.
    pub fn read(&self, lo: u64, hi: u64, max_bytes: u64) -> Result<Vec<LogEntry>, ReadError> {
        let mut entries: Vec<LogEntry> = Vec::new();
        let mut bytes = 0;
        let mut wanted = lo;
        while wanted < hi {
            let (group, segment, end) = self.find(wanted)?;
            let read = match read_group(group, &segment) {
                Ok(read) => read,
                // The writer may have purged or replaced the group since it was found.
                Err(error) => {
                    let (again, ..) = self.find(wanted)?;
                    if again == group {
                        return Err(error);
                    }
                    continue;
                }
            };
            let upto = end.min(hi);
            for entry in read.into_iter().filter(|entry| (wanted..upto).contains(&entry.index)) {
                bytes += (entry.data.len() + entry.context.len()) as u64;
                if bytes > max_bytes && !entries.is_empty() {
                    return Ok(entries);
                }
                entries.push(entry);
            }
            wanted = upto;
        }
        Ok(entries)
    }

    fn find(&self, wanted: u64) -> Result<(GroupPlace, SegmentHandle, u64), ReadError> {
        let index = self.index.read();
        let (first, next) = index.bounds();
        if wanted >= next {
            return Err(ReadError::Unavailable { index: wanted });
        }
        index.find(wanted).ok_or(ReadError::Purged { first })
    }
}

fn read_group(group: GroupPlace, segment: &SegmentHandle) -> Result<Vec<LogEntry>, ReadError> {
    let offset = u64::from(group.offset);
    let corrupt = |reason: &str| ReadError::Corrupt { file: segment.path.clone(), offset, reason: reason.to_owned() };
    let mut image = vec![0; group.size as usize];
    segment.file.read_exact_at(&mut image, offset).map_err(|source| ReadError::Io { file: segment.path.clone(), source })?;
    let place = Place { salt: segment.salt, sequence: group.sequence, offset };
    let (kind, start, size) = match record::read_slot(&image, place) {
        Slot::Record(head, _) => (head.kind, record::HEAD_SIZE, head.body_size),
        Slot::Empty => return Err(corrupt("the record is missing")),
        Slot::Bad(reason) => return Err(corrupt(reason)),
    };
    let body = Bytes::from(image).slice(start..start + size);
    let decoded = record::decode_body(kind, body).map_err(corrupt)?;
    Ok(decoded.entries)
}
