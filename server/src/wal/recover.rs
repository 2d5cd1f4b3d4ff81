//! Recover: reads a log directory and says what it holds, without changing a byte of it.
//!
//! In: the names and files of a directory. Out: the replayed state and where to write on. All checks come first; the
//! caller changes files only after the whole log was found sound.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::index::{GroupPlace, Index, SegmentHandle};
use super::record::{Body, Head, Kind};
use super::scan::{self, Ending};
use super::segment::{BadHeader, FORMAT_VERSION, FileName, HEADER_SIZE, Header};
use super::shape::Shape;
use super::{HardState, Identity, LogEntry, SnapshotMark, WalError};
use crate::env::files::{DataFile, Files, OpenMode};

/// What the log held when it was opened.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Replay {
    /// The newest hard state; all zero when none was ever written.
    pub hard_state: HardState,
    /// The newest snapshot mark.
    pub snapshot: Option<SnapshotMark>,
    /// Entries after the snapshot, consecutive.
    pub entries: Vec<LogEntry>,
    /// The unsynced remains that were cut away, if any.
    pub torn: Option<TornTail>,
}

/// Remains of writes that no sync covered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TornTail {
    /// The last segment.
    pub file: PathBuf,
    /// Where the log now ends, in bytes.
    pub offset: u64,
    /// What was found there.
    pub reason: &'static str,
}

/// One segment file of a sound log.
pub struct Live {
    pub path: PathBuf,
    pub file: Arc<dyn DataFile>,
    pub header: Header,
    /// Highest index of any entry in it; 0 for none.
    pub highest_index: u64,
}

/// A sound log, and where to write on.
pub struct Recovered {
    pub segments: Vec<Live>,
    pub ending: Ending,
    pub shape: Shape,
    pub index: Index,
    pub replay: Replay,
}

/// Checks and replays the segments among `names`.
pub fn recover(dir: &Path, names: &[String], identity: Identity, files: &dyn Files) -> Result<Recovered, WalError> {
    let mut segments = open_segments(dir, names, identity, files)?;
    let mut state = State::default();
    let mut ending = Ending { end: 0, checksum: 0, torn: None };
    let pins: Vec<_> = segments.iter().skip(1).map(|next| next.header).collect();
    for (position, segment) in segments.iter_mut().enumerate() {
        let image = read_all(&segment.path, segment.file.as_ref())?;
        let pinned = pins.get(position).map(|next| (next.previous_end, next.previous_checksum));
        let handle = SegmentHandle { path: segment.path.clone(), file: Arc::clone(&segment.file), salt: segment.header.salt };
        state.index.add_segment(segment.header.sequence, handle);
        let sequence = segment.header.sequence;
        let highest = &mut segment.highest_index;
        let visit = |offset, head, body| {
            state.take(&segment.path, sequence, position == 0, offset, head, body).map(|last| {
                *highest = (*highest).max(last);
            })
        };
        ending = scan::scan(&image, &segment.header, pinned, visit).map_err(|damage| WalError::Corrupt {
            file: segment.path.clone(),
            offset: damage.offset,
            reason: damage.reason,
        })?;
    }
    let last = &segments[segments.len() - 1];
    let torn = ending.torn.map(|reason| TornTail { file: last.path.clone(), offset: ending.end, reason });
    let replay = state.finish(torn)?;
    Ok(Recovered { segments, ending, shape: state.shape, index: state.index, replay })
}

/// Opens all segments and checks that their headers form one chain of this member.
fn open_segments(dir: &Path, names: &[String], identity: Identity, files: &dyn Files) -> Result<Vec<Live>, WalError> {
    let mut segments: Vec<Live> = Vec::new();
    for name in names {
        let Some(FileName::Segment(sequence)) = FileName::parse(name) else {
            continue;
        };
        let path = dir.join(name);
        let file = files.open(&path, OpenMode::ReadWrite).map_err(|source| WalError::Read {
            action: "open",
            file: path.clone(),
            source,
        })?;
        let header = read_header(&path, file.as_ref())?;
        let corrupt = |reason: String| WalError::Corrupt { file: path.clone(), offset: 0, reason };
        if header.identity != identity {
            return Err(WalError::Foreign { file: path, found: header.identity, wanted: identity });
        }
        if header.sequence != sequence {
            return Err(corrupt(format!("the header says that this is segment {:016x}", header.sequence)));
        }
        if let Some(before) = segments.last().map(|before| before.header.sequence)
            && before + 1 != sequence
        {
            return Err(corrupt(format!("segment {:016x} before it is missing", sequence - 1)));
        }
        segments.push(Live { path, file, header, highest_index: 0 });
    }
    if segments.is_empty() {
        return Err(WalError::Missing { dir: dir.to_path_buf() });
    }
    Ok(segments)
}

/// Whose log a segment belongs to.
pub fn identity_of(path: &Path, files: &dyn Files) -> Result<Identity, WalError> {
    let file =
        files.open(path, OpenMode::Read).map_err(|source| WalError::Read { action: "open", file: path.to_path_buf(), source })?;
    read_header(path, file.as_ref()).map(|header| header.identity)
}

fn read_header(path: &Path, file: &dyn DataFile) -> Result<Header, WalError> {
    let mut block = vec![0; HEADER_SIZE];
    match file.read_exact_at(&mut block, 0) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => block.clear(),
        Err(source) => {
            return Err(WalError::Read { action: "read", file: path.to_path_buf(), source });
        }
    }
    Header::decode(&block).map_err(|bad| match bad {
        BadHeader::Version(found) => WalError::Version { file: path.to_path_buf(), found, supported: FORMAT_VERSION },
        BadHeader::Corrupt(reason) => WalError::Corrupt { file: path.to_path_buf(), offset: 0, reason: reason.to_owned() },
    })
}

fn read_all(path: &Path, file: &dyn DataFile) -> Result<Vec<u8>, WalError> {
    let read = || {
        let mut image = vec![0; usize::try_from(file.size()?).map_err(io::Error::other)?];
        file.read_exact_at(&mut image, 0)?;
        Ok(image)
    };
    read().map_err(|source| WalError::Read { action: "read", file: path.to_path_buf(), source })
}

/// The log as replayed so far.
#[derive(Default)]
struct State {
    shape: Shape,
    index: Index,
    entries: Vec<LogEntry>,
    /// Where entries were missing, until a snapshot mark covers it.
    gap: Option<(PathBuf, u64)>,
}

impl State {
    /// Follows one record; gives the highest entry index in it.
    fn take(&mut self, path: &Path, sequence: u64, is_oldest: bool, offset: u64, head: Head, body: Body) -> Result<u64, String> {
        if head.kind == Kind::Carry && !is_oldest {
            let carried = (body.hard_state.unwrap_or_default(), body.snapshot.map(|(mark, _)| mark));
            let same = carried == (self.shape.hard_state, self.shape.snapshot.clone());
            return if same { Ok(0) } else { Err("the carried state is not the one before it".to_owned()) };
        }
        if self.shape.follow(&body)? {
            self.gap = Some((path.to_path_buf(), offset));
            self.entries.clear();
        }
        if let Some((mark, true)) = &body.snapshot {
            self.entries.clear();
            self.index.reset(mark.index);
        }
        let (Some(first), Some(last)) = (body.entries.first(), body.entries.last()) else {
            return Ok(0);
        };
        let offset = u32::try_from(offset).map_err(|_| "the record lies beyond 4 GiB".to_owned())?;
        let place = GroupPlace { first: first.index, sequence, offset, size: head.record_size() as u32 };
        self.index.add_group(place, body.entries.len() as u64);
        let kept = self.entries.partition_point(|entry| entry.index < first.index);
        self.entries.truncate(kept);
        let last = last.index;
        self.entries.extend(body.entries);
        Ok(last)
    }

    fn finish(&mut self, torn: Option<TornTail>) -> Result<Replay, WalError> {
        let compacted = self.shape.snapshot.as_ref().map_or(0, |mark| mark.index);
        let mut entries = std::mem::take(&mut self.entries);
        entries.drain(..entries.partition_point(|entry| entry.index <= compacted));
        if let (Some((file, offset)), Some(first)) = (self.gap.take(), entries.first())
            && first.index != compacted + 1
        {
            let reason = format!("entries {} to {} are missing", compacted + 1, first.index - 1);
            return Err(WalError::Corrupt { file, offset, reason });
        }
        Ok(Replay { hard_state: self.shape.hard_state, snapshot: self.shape.snapshot.clone(), entries, torn })
    }
}
