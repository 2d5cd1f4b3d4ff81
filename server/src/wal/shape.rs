//! Shape: what the log holds, without its payloads. Pure.
//!
//! The same rules serve the writer, which checks groups before it writes them, and the replay, which follows what was
//! written. Invariant: `runs` lists, by rising first index, the terms of the entries in `..next`; the last run ends at
//! `next - 1`.

use super::record::Body;
use super::{Group, HardState, LogEntry, SnapshotMark};

/// Hard state, newest snapshot mark, and the terms of the entries.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    /// The newest hard state.
    pub hard_state: HardState,
    /// The newest snapshot mark.
    pub snapshot: Option<SnapshotMark>,
    /// Index the next entry gets unless it replaces some; `None` while nothing tells.
    pub next: Option<u64>,
    runs: Vec<(u64, u64)>,
}

/// What became of a group's snapshot mark.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MarkEffect {
    /// There was none, or an equal or newer one stands.
    None,
    /// It stands, and the entries after it stay.
    Keep,
    /// It stands, and the log before it is void.
    Reset,
}

impl Shape {
    /// Takes one group, in the order snapshot, entries, hard state.
    ///
    /// # Errors
    /// Says why the group does not continue the log; the shape must then be thrown away.
    pub fn admit(&mut self, group: &Group) -> Result<MarkEffect, String> {
        let effect = group.snapshot.as_ref().map_or(MarkEffect::None, |mark| self.judge(mark));
        if let (Some(mark), MarkEffect::Keep | MarkEffect::Reset) = (&group.snapshot, effect) {
            self.take_mark(mark, effect == MarkEffect::Reset);
        }
        if let Some(first) = group.entries.first() {
            let compacted = self.snapshot.as_ref().map_or(0, |mark| mark.index);
            if first.index <= compacted {
                return Err(format!("entry {} is not after the snapshot at {compacted}", first.index));
            }
            if let Some(next) = self.next.filter(|next| first.index > *next) {
                return Err(format!("entry {} leaves a gap after {}", first.index, next - 1));
            }
        }
        self.take_entries(&group.entries)?;
        if let Some(state) = group.hard_state {
            self.hard_state = state;
        }
        Ok(effect)
    }

    /// Follows one record of the log. Returns true when its entries leave a gap, which is sound only if a later
    /// snapshot mark covers it (the segments between were purged).
    ///
    /// # Errors
    /// Says what no writer would have written.
    pub fn follow(&mut self, body: &Body) -> Result<bool, String> {
        if let Some((mark, reset)) = &body.snapshot {
            self.take_mark(mark, *reset);
        }
        let gap = match (body.entries.first(), self.next) {
            (Some(first), Some(next)) => first.index > next,
            _ => false,
        };
        if gap {
            self.runs.clear();
        }
        self.take_entries(&body.entries)?;
        if let Some(state) = body.hard_state {
            self.hard_state = state;
        }
        Ok(gap)
    }

    /// Forgets terms of entries up to `index`.
    pub fn forget(&mut self, index: u64) {
        let keep_from = self.runs.partition_point(|(first, _)| *first <= index).saturating_sub(1);
        self.runs.drain(..keep_from);
    }

    /// Whether the log holds, or its snapshot ends with, this index at this term decides what a mark does.
    fn judge(&self, mark: &SnapshotMark) -> MarkEffect {
        match &self.snapshot {
            Some(standing) if standing.index > mark.index => MarkEffect::None,
            _ if self.term_at(mark.index) == Some(mark.term) => MarkEffect::Keep,
            _ => MarkEffect::Reset,
        }
    }

    fn term_at(&self, index: u64) -> Option<u64> {
        if let Some(mark) = self.snapshot.as_ref().filter(|mark| mark.index == index) {
            return Some(mark.term);
        }
        if self.next.is_none_or(|next| index >= next) {
            return None;
        }
        let position = self.runs.partition_point(|(first, _)| *first <= index);
        position.checked_sub(1).map(|position| self.runs[position].1)
    }

    fn take_mark(&mut self, mark: &SnapshotMark, reset: bool) {
        if reset {
            self.runs.clear();
            self.next = Some(mark.index.saturating_add(1));
        }
        self.snapshot = Some(mark.clone());
    }

    fn take_entries(&mut self, entries: &[LogEntry]) -> Result<(), String> {
        let Some(first) = entries.first() else {
            return Ok(());
        };
        if first.index == 0 {
            return Err("entry indexes start at 1".to_owned());
        }
        self.runs.retain(|(run, _)| *run < first.index);
        for (expected, entry) in (first.index..).zip(entries) {
            if entry.index != expected {
                return Err(format!("entry {} stands where {expected} belongs", entry.index));
            }
            if self.runs.last().is_none_or(|(_, term)| *term != entry.term) {
                self.runs.push((entry.index, entry.term));
            }
        }
        self.next = Some(first.index.saturating_add(entries.len() as u64));
        Ok(())
    }
}
