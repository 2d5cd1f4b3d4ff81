//! Raft's view of the log: recent entries in memory, older ones on disk.

use crate::wal::{LogEntry, WalReader};
#[cfg(test)]
use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Result, Storage, StorageError};
use std::cell::RefCell;
use std::collections::VecDeque;

/// The log as raft reads it. Invariants: `entries` is contiguous and ends at the last index; everything before it, from `first` on,
/// is on disk.
pub(super) struct LogStore {
    hard_state: HardState,
    conf_state: ConfState,
    /// Index and term just before the first readable entry.
    before: (u64, u64),
    entries: VecDeque<Entry>,
    cached_bytes: usize,
    /// Bytes of entries kept in memory for followers.
    cache_limit: usize,
    reader: Option<WalReader>,
    /// What a lagging follower is told a snapshot would hold; made by the keeper when raft asks.
    snapshot: RefCell<SnapshotState>,
}

#[derive(Default)]
pub(super) struct SnapshotState {
    pub wanted: bool,
    pub ready: Option<Snapshot>,
}

/// Bytes that an entry takes in memory.
pub(super) fn weight(e: &Entry) -> usize {
    e.data.len() + e.context.len() + 64
}

pub(super) fn to_log(e: &Entry) -> LogEntry {
    LogEntry { index: e.index, term: e.term, kind: e.entry_type as u8, context: e.context.clone(), data: e.data.clone() }
}

pub(super) fn from_log(e: LogEntry) -> Entry {
    Entry { entry_type: i32::from(e.kind), term: e.term, index: e.index, data: e.data, context: e.context, ..Default::default() }
}

impl LogStore {
    pub fn new(hard_state: HardState, conf_state: ConfState, before: (u64, u64), entries: Vec<Entry>, cache_limit: usize) -> Self {
        let cached_bytes = entries.iter().map(weight).sum();
        Self {
            hard_state,
            conf_state,
            before,
            entries: entries.into(),
            cached_bytes,
            cache_limit,
            reader: None,
            snapshot: RefCell::default(),
        }
    }

    pub fn set_reader(&mut self, reader: WalReader) {
        self.reader = Some(reader);
    }

    /// Takes entries that the log is about to write; they replace what they overlap.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first().map(|e| e.index) else { return };
        while self.entries.back().is_some_and(|e| e.index >= first) {
            let gone = self.entries.pop_back().expect("back was there");
            self.cached_bytes -= weight(&gone);
        }
        for e in entries {
            self.cached_bytes += weight(e);
            self.entries.push_back(e.clone());
        }
    }

    pub fn set_hard_state(&mut self, hs: HardState) {
        self.hard_state = hs;
    }

    pub fn set_conf_state(&mut self, cs: ConfState) {
        self.conf_state = cs;
    }

    /// Gives memory back: entries at or before `done` (applied and on disk) beyond the cache's limit.
    pub fn trim(&mut self, done: u64) {
        while self.cached_bytes > self.cache_limit && self.entries.len() > 1 && self.entries[0].index <= done {
            let gone = self.entries.pop_front().expect("not empty");
            self.cached_bytes -= weight(&gone);
        }
    }

    /// Forgets everything at or before `index`: it lives in a snapshot.
    pub fn compact(&mut self, index: u64, term: u64) {
        if index <= self.before.0 {
            return;
        }
        while self.entries.front().is_some_and(|e| e.index <= index) {
            let gone = self.entries.pop_front().expect("front was there");
            self.cached_bytes -= weight(&gone);
        }
        self.before = (index, term);
    }

    /// Replaces everything by a snapshot.
    pub fn install(&mut self, index: u64, term: u64, conf: ConfState) {
        self.entries.clear();
        self.cached_bytes = 0;
        self.before = (index, term);
        self.conf_state = conf;
        self.hard_state.commit = self.hard_state.commit.max(index);
        self.hard_state.term = self.hard_state.term.max(term);
    }

    pub fn snapshot_state(&self) -> std::cell::RefMut<'_, SnapshotState> {
        self.snapshot.borrow_mut()
    }

    fn last(&self) -> u64 {
        self.entries.back().map_or(self.before.0, |e| e.index)
    }

    fn cached_first(&self) -> u64 {
        self.entries.front().map_or(self.last() + 1, |e| e.index)
    }

    fn read_disk(&self, low: u64, high: u64, max: u64) -> Result<Vec<Entry>> {
        let Some(reader) = &self.reader else {
            return Err(Error::Store(StorageError::Compacted));
        };
        match reader.read(low, high, max) {
            Ok(found) => Ok(found.into_iter().map(from_log).collect()),
            Err(crate::wal::ReadError::Purged { .. }) => Err(Error::Store(StorageError::Compacted)),
            Err(e) => Err(Error::Store(StorageError::Other(e.to_string().into()))),
        }
    }
}

impl Storage for LogStore {
    fn initial_state(&self) -> Result<RaftState> {
        Ok(RaftState { hard_state: self.hard_state.clone(), conf_state: self.conf_state.clone() })
    }

    fn entries(&self, low: u64, high: u64, max: impl Into<Option<u64>>, _: GetEntriesContext) -> Result<Vec<Entry>> {
        let max = max.into().unwrap_or(u64::MAX);
        if low <= self.before.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        if high > self.last() + 1 {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let cached = self.cached_first();
        if low < cached {
            return self.read_disk(low, high.min(cached), max);
        }
        let mut out = Vec::new();
        let mut bytes = 0u64;
        for e in self.entries.range((low - cached) as usize..(high - cached) as usize) {
            bytes += weight(e) as u64;
            if !out.is_empty() && bytes > max {
                break;
            }
            out.push(e.clone());
        }
        Ok(out)
    }

    fn term(&self, index: u64) -> Result<u64> {
        if index == self.before.0 {
            return Ok(self.before.1);
        }
        if index < self.before.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        if index > self.last() {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let cached = self.cached_first();
        if index >= cached {
            return Ok(self.entries[(index - cached) as usize].term);
        }
        let found = self.read_disk(index, index + 1, u64::MAX)?;
        found.first().map(|e| e.term).ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.before.0 + 1)
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> Result<Snapshot> {
        let mut state = self.snapshot.borrow_mut();
        match &state.ready {
            Some(s) if s.get_metadata().index >= request_index.max(self.before.0) => Ok(s.clone()),
            _ => {
                state.wanted = true;
                Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
            }
        }
    }
}

/// An entry of bytes for tests and bootstrap.
#[cfg(test)]
pub(super) fn entry(index: u64, term: u64, data: &[u8]) -> Entry {
    Entry { index, term, data: Bytes::copy_from_slice(data), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A conflicting suffix replaces what it overlaps; compaction moves the first index; terms answer at the boundary.
    #[test]
    fn append_overlap_and_compact() {
        let mut log = LogStore::new(HardState::default(), ConfState::default(), (1, 1), vec![], 1 << 20);
        log.append(&[entry(2, 1, b"a"), entry(3, 1, b"b"), entry(4, 1, b"c")]);
        log.append(&[entry(3, 2, b"x")]);
        assert_eq!((log.last_index().unwrap(), log.term(3).unwrap()), (3, 2));
        log.compact(2, 1);
        assert_eq!((log.first_index().unwrap(), log.term(2).unwrap()), (3, 1));
        assert!(matches!(log.term(1), Err(Error::Store(StorageError::Compacted))));
        let got = log.entries(3, 4, None, GetEntriesContext::empty(false)).unwrap();
        assert_eq!(got[0].data.as_ref(), b"x");
    }
}
