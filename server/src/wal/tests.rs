//! The log over a disk that crashes, fills up and rots: what the rooms below share.

mod appending;
mod damage;
mod histories;
mod writer;

use super::log::Options;
use super::segment::FileName;
use super::*;
use crate::env::files_sim::SimFiles;
use bytes::Bytes;
use std::path::{Path, PathBuf};

const IDENTITY: Identity = Identity { cluster: 0xc1, member: 0xa1 };

const DIR: &str = "/data/wal";

fn dir() -> &'static Path {
    Path::new(DIR)
}

fn options(size: u64, salt: u64) -> Options {
    Options { segment_first: size, segment_most: size * 4, salt }
}

fn create(files: &SimFiles, size: u64) -> Wal {
    Wal::create_with(dir(), IDENTITY, files.shared(), options(size, 7)).expect("a new log")
}

fn reopen(files: &SimFiles, size: u64) -> Result<(Wal, Replay), WalError> {
    Wal::open_with(dir(), IDENTITY, files.shared(), options(size, 8))
}

/// Opens a log that must be refused, and checks that the refusal changed nothing.
fn refused(files: &SimFiles) -> WalError {
    let before = files.contents();
    let Err(error) = reopen(files, 16384) else { panic!("the log was accepted") };
    assert_eq!(before, files.contents(), "a refused log was changed");
    error
}

fn entry(index: u64, term: u64, size: usize) -> LogEntry {
    let data = Bytes::from(vec![(index % 251) as u8; size]);
    LogEntry { index, term, kind: (index % 3) as u8, context: Bytes::from_static(b"c"), data }
}

fn group(number: u64, first: u64, count: u64, term: u64, size: usize) -> Group {
    Group {
        number,
        hard_state: Some(HardState { term, vote: 3, commit: first.saturating_sub(1) }),
        entries: (first..first + count).map(|index| entry(index, term, size)).collect(),
        snapshot: None,
        must_sync: true,
    }
}

fn mark(index: u64, term: u64) -> SnapshotMark {
    SnapshotMark { index, term, conf: Bytes::from(format!("conf {index}")) }
}

fn marking(index: u64, term: u64) -> Group {
    Group { number: 0, snapshot: Some(mark(index, term)), must_sync: true, ..Group::default() }
}

fn segment_path(sequence: u64) -> PathBuf {
    dir().join(FileName::Segment(sequence).to_string())
}

fn segment_count(files: &SimFiles) -> usize {
    let names = files.shared().list(dir()).expect("the directory");
    names.iter().filter(|name| matches!(FileName::parse(name), Some(FileName::Segment(_)))).count()
}

/// The log as a plain vector.
#[derive(Clone, Default, Debug, PartialEq)]
struct Model {
    hard_state: HardState,
    snapshot: Option<SnapshotMark>,
    entries: Vec<LogEntry>,
}

impl Model {
    fn apply(&mut self, group: &Group) {
        if let Some(mark) = &group.snapshot
            && self.snapshot.as_ref().is_none_or(|standing| standing.index <= mark.index)
        {
            let here = self.entries.iter().any(|entry| entry.index == mark.index && entry.term == mark.term)
                || self.snapshot.as_ref().is_some_and(|at| (at.index, at.term) == (mark.index, mark.term));
            self.entries.retain(|entry| here && entry.index > mark.index);
            self.snapshot = Some(mark.clone());
        }
        if let Some(first) = group.entries.first() {
            self.entries.retain(|entry| entry.index < first.index);
            self.entries.extend(group.entries.iter().cloned());
        }
        self.hard_state = group.hard_state.unwrap_or(self.hard_state);
    }

    fn compacted(&self) -> u64 {
        self.snapshot.as_ref().map_or(0, |mark| mark.index)
    }

    fn last(&self) -> u64 {
        self.entries.last().map_or(self.compacted(), |entry| entry.index)
    }

    fn of(replay: &Replay) -> Self {
        Model { hard_state: replay.hard_state, snapshot: replay.snapshot.clone(), entries: replay.entries.clone() }
    }
}
