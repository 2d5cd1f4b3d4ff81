//! Index: where each group's entries are on disk, 24 bytes a group, shared by the writer and any number of readers.
//!
//! Invariant: groups are in rising order of `first`; the entries of a group that still count end where the next group
//! starts, the last one's at `next`.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use crate::env::files::DataFile;

/// One record with entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupPlace {
    /// Index of its first entry.
    pub first: u64,
    /// Segment sequence.
    pub sequence: u64,
    /// Bytes from the start of the segment; segments stay below 4 GiB.
    pub offset: u32,
    /// Bytes of the record.
    pub size: u32,
}

/// A segment that may be read.
#[derive(Clone)]
pub struct SegmentHandle {
    pub path: PathBuf,
    pub file: Arc<dyn DataFile>,
    pub salt: u64,
}

/// The map from entry index to disk.
#[derive(Default)]
pub struct Index {
    groups: VecDeque<GroupPlace>,
    next: u64,
    segments: BTreeMap<u64, SegmentHandle>,
}

impl Index {
    /// Lets a segment be read.
    pub fn add_segment(&mut self, sequence: u64, handle: SegmentHandle) {
        self.segments.insert(sequence, handle);
    }

    /// Adds a group of `count` entries, which replaces what was there from its first index on.
    pub fn add_group(&mut self, place: GroupPlace, count: u64) {
        while self.groups.back().is_some_and(|group| group.first >= place.first) {
            self.groups.pop_back();
        }
        if self.next < place.first {
            // A hole: what is before it was purged and is not reachable any more.
            self.groups.clear();
        }
        self.groups.push_back(place);
        self.next = place.first + count;
    }

    /// Forgets all entries: the log starts over after `index`.
    pub fn reset(&mut self, index: u64) {
        self.groups.clear();
        self.next = index.saturating_add(1);
    }

    /// Forgets the segments before `sequence` and what is in them.
    pub fn drop_segments_before(&mut self, sequence: u64) {
        while self.groups.front().is_some_and(|group| group.sequence < sequence) {
            self.groups.pop_front();
        }
        self.segments = self.segments.split_off(&sequence);
    }

    /// First readable entry and the one after the last; equal when there is none.
    pub fn bounds(&self) -> (u64, u64) {
        (self.groups.front().map_or(self.next, |group| group.first), self.next)
    }

    /// The group that holds `index`, its segment, and the index after its last entry that counts.
    pub fn find(&self, index: u64) -> Option<(GroupPlace, SegmentHandle, u64)> {
        if index >= self.next {
            return None;
        }
        let position = self.groups.partition_point(|group| group.first <= index).checked_sub(1)?;
        let group = self.groups[position];
        let end = self.groups.get(position + 1).map_or(self.next, |later| later.first);
        Some((group, self.segments.get(&group.sequence)?.clone(), end))
    }
}
