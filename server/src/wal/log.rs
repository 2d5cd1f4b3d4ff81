//! Log: the open write-ahead log of one member; one owner appends, purges and closes it.
//!
//! A batch of groups is laid out in memory, written with one call, and synced with one call if any group asks for it.
//! The order of effects when a segment is full, each for the crash that may follow it:
//! 1. sync the old segment: only the last segment may have a torn tail;
//! 2. write header and carried state into a spare file and sync it: a segment's name always means a sound header;
//! 3. rename it and sync the directory: nothing is acknowledged in a file whose name may vanish.
//!
//! Invariants: `durable <= end <= size` of the active segment; the active segment alone tells hard state and snapshot.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;

use super::index::{GroupPlace, Index, SegmentHandle};
use super::pool::Pool;
use super::reader::WalReader;
use super::record::{self, BODY_LIMIT, HEAD_SIZE, Kind, Place};
use super::recover::{self, Live, Recovered, Replay};
use super::segment::{FileName, HEADER_SIZE, Header};
use super::shape::{MarkEffect, Shape};
use super::{Group, Identity, WalError};
use crate::env::failpoint::{self, Place as FailPlace};
use crate::env::files::{FileLock, Files};

/// Largest append, in bytes on disk: offsets in the index are 32 bits wide.
const APPEND_LIMIT: u64 = 3 << 30;
/// A write buffer larger than this is given back after use.
const BUFFER_KEPT: usize = 16 << 20;
/// A segment filled faster than this asks for a larger one.
const FILLED_FAST: Duration = Duration::from_secs(10);
/// A segment that lasts this long asks for a smaller one.
const FILLED_SLOWLY: Duration = Duration::from_secs(60);
/// Zeros are written at most this many bytes at a time when a torn tail is cleared.
const ZERO_STEP: u64 = 1 << 20;
const LOCK_NAME: &str = "lock";

// A record must fit behind a header and a carried state in one append.
const _: () = assert!((BODY_LIMIT as u64) < APPEND_LIMIT);

/// Sizes and the source of salts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Bytes of the first segments, and of all while the member is idle.
    pub segment_first: u64,
    /// Bytes that segments grow to under load.
    pub segment_most: u64,
    /// Seed of the segments' salts; must differ between two lives of the same directory.
    pub salt: u64,
}

impl Default for Options {
    /// 4 MiB growing to 64 MiB; a random salt.
    fn default() -> Self {
        Options { segment_first: failpoint::segment_bytes().unwrap_or(4 << 20), segment_most: 64 << 20, salt: rand::random() }
    }
}

/// What an append did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Appended {
    /// The highest number among the groups: it and all before it are written.
    pub number: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Whether a sync was asked for and done.
    pub synced: bool,
}

/// The open log.
pub struct Wal {
    files: Arc<dyn Files>,
    dir: PathBuf,
    identity: Identity,
    options: Options,
    shape: Shape,
    /// Older segments, oldest first.
    sealed: VecDeque<Live>,
    active: Live,
    end: u64,
    durable: u64,
    checksum: u32,
    pool: Pool,
    index: Arc<RwLock<Index>>,
    buffer: Vec<u8>,
    target: u64,
    now: Duration,
    active_since: Duration,
    poisoned: bool,
    _lock: Box<dyn FileLock>,
}

impl Wal {
    /// Whether `dir` holds a log, sound or not.
    ///
    /// # Errors
    /// When the directory exists but cannot be read.
    pub fn exists(dir: &Path, files: &Arc<dyn Files>) -> io::Result<bool> {
        match files.list(dir) {
            Ok(names) => Ok(names.iter().any(|name| matches!(FileName::parse(name), Some(FileName::Segment(_))))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes a new log with default `Options`.
    ///
    /// # Errors
    /// `Locked`, `Exists`, `NoSpace`, or `Failed`.
    pub fn create(dir: &Path, identity: Identity, files: Arc<dyn Files>) -> Result<Self, WalError> {
        Self::create_with(dir, identity, files, Options::default())
    }

    /// Makes a new log.
    ///
    /// # Errors
    /// `Locked`, `Exists`, `NoSpace`, or `Failed`.
    pub fn create_with(dir: &Path, identity: Identity, files: Arc<dyn Files>, options: Options) -> Result<Self, WalError> {
        let changing = |action, source| WalError::changing(action, dir.to_path_buf(), source);
        files.create_dir(dir).map_err(|source| changing("create", source))?;
        let lock = take_lock(dir, files.as_ref())?;
        let names = files.list(dir).map_err(|source| changing("list", source))?;
        if names.iter().any(|name| matches!(FileName::parse(name), Some(FileName::Segment(_)))) {
            return Err(WalError::Exists { dir: dir.to_path_buf() });
        }
        let mut pool = Pool::new(Arc::clone(&files), dir);
        pool.adopt(&names, options.segment_first).map_err(|source| changing("clean", source))?;
        let shape = Shape::default();
        let seed = Header {
            identity,
            sequence: 1,
            first_index: 0,
            salt: salt(options.salt, 1),
            size: options.segment_first,
            previous_end: 0,
            previous_checksum: 0,
        };
        let mut buffer = Vec::new();
        let (active, end, checksum) = start_segment(&files, dir, &mut pool, seed, &shape, &mut buffer)?;
        let mut index = Index::default();
        index.add_segment(1, handle(&active));
        Ok(Wal {
            files,
            dir: dir.to_path_buf(),
            identity,
            options,
            shape,
            sealed: VecDeque::new(),
            active,
            end,
            durable: end,
            checksum,
            pool,
            index: Arc::new(RwLock::new(index)),
            buffer,
            target: options.segment_first,
            now: Duration::ZERO,
            active_since: Duration::ZERO,
            poisoned: false,
            _lock: lock,
        })
    }

    /// Opens a log with default `Options` and replays it.
    ///
    /// # Errors
    /// `Locked`, `Missing`, `Foreign`, `Version`, `Corrupt`, or `Read`, none of which changed a byte of the log;
    /// `NoSpace` or `Failed` when the sound log could not be made ready for writing.
    pub fn open(dir: &Path, identity: Identity, files: Arc<dyn Files>) -> Result<(Self, Replay), WalError> {
        Self::open_with(dir, identity, files, Options::default())
    }

    /// Opens a log and replays it.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_with(dir: &Path, identity: Identity, files: Arc<dyn Files>, options: Options) -> Result<(Self, Replay), WalError> {
        match Self::exists(dir, &files) {
            Ok(true) => {}
            Ok(false) => {
                return Err(WalError::Missing { dir: dir.to_path_buf() });
            }
            Err(source) => {
                return Err(WalError::Read { action: "list", file: dir.to_path_buf(), source });
            }
        }
        let lock = take_lock(dir, files.as_ref())?;
        let names = files.list(dir).map_err(|source| WalError::Read { action: "list", file: dir.to_path_buf(), source })?;
        let Recovered { segments, ending, shape, index, replay } = recover::recover(dir, &names, identity, files.as_ref())?;

        // The log is sound: from here on files may change.
        let mut sealed = VecDeque::from(segments);
        let Some(active) = sealed.pop_back() else {
            return Err(WalError::Missing { dir: dir.to_path_buf() });
        };
        let target = active.header.size.clamp(options.segment_first, options.segment_most);
        let mut pool = Pool::new(Arc::clone(&files), dir);
        let settle = |pool: &mut Pool| {
            if replay.torn.is_some() {
                clear_tail(&active, ending.end)?;
            }
            // What was replayed may sit in the page cache of a process that died; it must be durable before it counts.
            active.file.sync()?;
            pool.adopt(&names, target)?;
            files.sync_dir(dir)
        };
        settle(&mut pool).map_err(|source| WalError::changing("settle", active.path.clone(), source))?;
        let wal = Wal {
            files,
            dir: dir.to_path_buf(),
            identity,
            options,
            shape,
            sealed,
            active,
            end: ending.end,
            durable: ending.end,
            checksum: ending.checksum,
            pool,
            index: Arc::new(RwLock::new(index)),
            buffer: Vec::new(),
            target,
            now: Duration::ZERO,
            active_since: Duration::ZERO,
            poisoned: false,
            _lock: lock,
        };
        Ok((wal, replay))
    }

    /// A reader of this log for other threads.
    #[must_use]
    pub fn reader(&self) -> WalReader {
        WalReader::new(Arc::clone(&self.index))
    }

    /// Bytes of all segments and spares that hold or will hold log.
    #[must_use]
    pub fn disk_size(&self) -> u64 {
        let sealed: u64 = self.sealed.iter().map(|segment| segment.header.size).sum();
        sealed + self.active.header.size + self.pool.size()
    }

    /// Tells the time since the log was opened; segment sizes follow the write rate by it.
    pub fn clock(&mut self, now: Duration) {
        self.now = now;
        while self.target > self.options.segment_first && now.saturating_sub(self.active_since) >= FILLED_SLOWLY {
            self.target = (self.target / 2).max(self.options.segment_first);
            self.active_since += FILLED_SLOWLY;
        }
    }

    /// Writes `groups`, in order, and syncs if any of them must be; all of them are taken or none.
    ///
    /// # Errors
    /// `Misuse` and `TooLarge` before anything is written; `NoSpace` with nothing taken; `Failed` when the process must
    /// abort.
    pub fn append(&mut self, groups: &[Group]) -> Result<Appended, WalError> {
        let mut appended = self.write(groups)?;
        if groups.iter().any(|group| group.must_sync) {
            self.sync()?;
            appended.synced = true;
        }
        Ok(appended)
    }

    /// Writes `groups` without a sync, in one call to the file.
    ///
    /// # Errors
    /// As `append`.
    pub fn write(&mut self, groups: &[Group]) -> Result<Appended, WalError> {
        self.check_health()?;
        let Some(number) = groups.iter().map(|group| group.number).max() else {
            return Ok(Appended::default());
        };
        let mut shape = self.shape.clone();
        let mut effects = Vec::with_capacity(groups.len());
        let mut total = 0;
        for group in groups {
            effects.push(shape.admit(group).map_err(|reason| WalError::Misuse { reason })?);
            let size = record::body_size(group);
            if size > BODY_LIMIT {
                return Err(WalError::TooLarge { bytes: size as u64, limit: BODY_LIMIT as u64 });
            }
            total += record::record_size(size) as u64;
        }
        if total > APPEND_LIMIT {
            return Err(WalError::TooLarge { bytes: total, limit: APPEND_LIMIT });
        }
        if self.end + total > self.active.header.size {
            self.rotate(total)?;
        }
        let (places, checksum) = self.lay_out(groups, &effects);
        let bytes = places.last().map_or(0, |(_, end)| end - self.end);
        failpoint::visit(FailPlace::WalBeforeWrite);
        let written = self.active.file.write_at(&self.buffer, self.end);
        if self.buffer.capacity() > BUFFER_KEPT {
            self.buffer = Vec::new();
        }
        // A full disk leaves the end where it was: the next append overwrites what did get through.
        written.map_err(|source| self.failed("write", source))?;
        failpoint::visit(FailPlace::WalAfterWrite);
        self.shape = shape;
        self.checksum = checksum;
        self.publish(groups, &effects, &places);
        Ok(Appended { number, bytes, synced: false })
    }

    /// Makes all that was written durable.
    ///
    /// # Errors
    /// `Failed`: the process must abort, for the kernel may have dropped the unsynced pages.
    pub fn sync(&mut self) -> Result<(), WalError> {
        self.check_health()?;
        if self.durable < self.end {
            if let Err(source) = self.active.file.sync() {
                self.poisoned = true;
                return Err(WalError::Failed { action: "sync", file: self.active.path.clone(), source });
            }
            self.durable = self.end;
            failpoint::visit(FailPlace::WalAfterSync);
        }
        Ok(())
    }

    /// Gives up segments that hold only entries up to `index`, which is capped at the newest snapshot mark.
    ///
    /// Returns how many segments went. Hard state and snapshot mark stay, whatever goes.
    ///
    /// # Errors
    /// `NoSpace` or `Failed`, as `append`.
    pub fn purge(&mut self, index: u64) -> Result<usize, WalError> {
        self.check_health()?;
        let limit = index.min(self.shape.snapshot.as_ref().map_or(0, |mark| mark.index));
        // An oversized segment left from busier times goes once nothing in it is needed.
        if self.active.header.size >= self.target * 4 && self.active.highest_index <= limit {
            match self.rotate(0) {
                // It stays until a later purge finds room for its successor; entries go into it meanwhile.
                Err(e) if e.is_no_space() => {}
                rotated => drop(rotated?),
            }
        }
        let count = self.sealed.iter().take_while(|segment| segment.highest_index <= limit).count();
        if count > 0 {
            // The mark that makes the old entries superfluous must not vanish after them.
            self.sync()?;
            let first_kept = self.sealed.get(count).unwrap_or(&self.active).header.sequence;
            self.index.write().drop_segments_before(first_kept);
            self.shape.forget(limit);
            failpoint::visit(FailPlace::WalBeforePurge);
        }
        for segment in self.sealed.drain(..count) {
            let given = self.pool.give_back(&segment.path, segment.file, segment.header.size, self.target);
            if let Err(source) = given {
                self.poisoned = true;
                return Err(WalError::Failed { action: "recycle", file: segment.path, source });
            }
            failpoint::visit(FailPlace::WalDuringPurge);
        }
        if count > 0 {
            failpoint::visit(FailPlace::WalAfterPurge);
        }
        // A spare must not be written while a crash could still give it its old name back.
        let settled = self
            .pool
            .trim(self.target)
            .and_then(|trimmed| if count > 0 || trimmed { self.files.sync_dir(&self.dir) } else { Ok(()) });
        settled.map_err(|source| self.failed("recycle in", source))?;
        Ok(count)
    }

    /// Whether `prepare` has work: the active segment fills up and no spare waits.
    #[must_use]
    pub fn wants_spare(&self) -> bool {
        !self.poisoned && self.end > self.active.header.size / 4 && self.pool.needs_spare(self.target)
    }

    /// One bounded step (at most 1 MiB written and synced) towards a spare segment.
    ///
    /// # Errors
    /// The log itself is unharmed: `NoSpace` is the early warning of a full disk.
    pub fn prepare(&mut self) -> Result<(), WalError> {
        let dir = self.dir.clone();
        self.pool.prepare(self.target).map_err(|source| match WalError::changing("prepare a spare in", dir, source) {
            WalError::Failed { action, file, source } => WalError::Read { action, file, source },
            other => other,
        })
    }

    /// Ends the log's use: syncs, and leaves a witness that everything before it was durable.
    ///
    /// # Errors
    /// As `append`; the log is closed all the same.
    pub fn close(mut self) -> Result<(), WalError> {
        self.finish()
    }

    /// As [`Wal::close`], for an owner that cannot give the log away; nothing is written after it.
    pub(super) fn finish(&mut self) -> Result<(), WalError> {
        self.sync()?;
        if self.end + HEAD_SIZE as u64 > self.active.header.size {
            return Ok(());
        }
        self.buffer.clear();
        let place = self.place(self.end);
        record::encode(&mut self.buffer, Kind::Mark, place, self.durable, None, None, &[]);
        self.end_with_silence(self.end);
        let written = self.active.file.write_at(&self.buffer, self.end);
        written.map_err(|source| self.failed("write", source))?;
        self.end += HEAD_SIZE as u64;
        self.sync()
    }

    fn check_health(&self) -> Result<(), WalError> {
        if self.poisoned { Err(WalError::Poisoned) } else { Ok(()) }
    }

    /// Sorts a write error and poisons the log unless the disk was merely full.
    fn failed(&mut self, action: &'static str, source: io::Error) -> WalError {
        let error = WalError::changing(action, self.active.path.clone(), source);
        self.poisoned |= error.is_fatal();
        error
    }

    fn place(&self, offset: u64) -> Place {
        Place { salt: self.active.header.salt, sequence: self.active.header.sequence, offset }
    }

    /// Encodes the batch into the buffer. Gives start and end of each record, and the last one's checksum.
    fn lay_out(&mut self, groups: &[Group], effects: &[MarkEffect]) -> (Vec<(u64, u64)>, u32) {
        self.buffer.clear();
        let mut places = Vec::with_capacity(groups.len());
        let mut checksum = self.checksum;
        for (group, effect) in groups.iter().zip(effects) {
            let start = self.end + self.buffer.len() as u64;
            let snapshot = match effect {
                MarkEffect::None => None,
                MarkEffect::Keep => group.snapshot.as_ref().map(|mark| (mark, false)),
                MarkEffect::Reset => group.snapshot.as_ref().map(|mark| (mark, true)),
            };
            let place = self.place(start);
            checksum =
                record::encode(&mut self.buffer, Kind::Group, place, self.durable, group.hard_state, snapshot, &group.entries);
            places.push((start, self.end + self.buffer.len() as u64));
        }
        self.end_with_silence(self.end);
        (places, checksum)
    }

    /// Ends the buffer with an empty head, if the segment has room: what an earlier life of the file left there must
    /// not look like a torn tail.
    fn end_with_silence(&mut self, start: u64) {
        let room = self.active.header.size - start - self.buffer.len() as u64;
        let silence = HEAD_SIZE.min(room as usize);
        self.buffer.resize(self.buffer.len() + silence, 0);
    }

    /// Lets readers see a written batch and remembers where it ends.
    fn publish(&mut self, groups: &[Group], effects: &[MarkEffect], places: &[(u64, u64)]) {
        let mut index = self.index.write();
        for ((group, effect), (start, end)) in groups.iter().zip(effects).zip(places) {
            if let (Some(mark), MarkEffect::Reset) = (&group.snapshot, effect) {
                index.reset(mark.index);
            }
            if let (Some(first), Some(last)) = (group.entries.first(), group.entries.last()) {
                let sequence = self.active.header.sequence;
                let place = GroupPlace { first: first.index, sequence, offset: *start as u32, size: (end - start) as u32 };
                index.add_group(place, group.entries.len() as u64);
                self.active.highest_index = self.active.highest_index.max(last.index);
            }
            self.end = *end;
        }
    }

    /// Seals the active segment and starts one with room for `bytes` more.
    fn rotate(&mut self, bytes: u64) -> Result<(), WalError> {
        self.sync()?;
        let sequence = self.active.header.sequence + 1;
        let mut target = self.target;
        if bytes > 0 && self.now.saturating_sub(self.active_since) < FILLED_FAST {
            target = (target * 2).min(self.options.segment_most);
        }
        let header = Header {
            identity: self.identity,
            sequence,
            first_index: self.shape.next.unwrap_or(0),
            salt: salt(self.options.salt, sequence),
            size: target.max(start_size(&self.shape) + bytes),
            previous_end: self.end,
            previous_checksum: self.checksum,
        };
        failpoint::visit(FailPlace::WalBeforeRotate);
        let started = start_segment(&self.files, &self.dir, &mut self.pool, header, &self.shape, &mut self.buffer);
        let (active, end, checksum) = started.inspect_err(|error| self.poisoned |= error.is_fatal())?;
        failpoint::visit(FailPlace::WalAfterRotate);
        self.index.write().add_segment(sequence, handle(&active));
        self.sealed.push_back(std::mem::replace(&mut self.active, active));
        (self.end, self.durable, self.checksum) = (end, end, checksum);
        (self.target, self.active_since) = (target, self.now);
        Ok(())
    }
}

/// Bytes of a new segment before its first group, and room for silence after it.
fn start_size(shape: &Shape) -> u64 {
    (HEADER_SIZE + record::record_size(record::body_size(&carried(shape))) + HEAD_SIZE) as u64
}

/// The state each segment starts with.
fn carried(shape: &Shape) -> Group {
    Group { hard_state: Some(shape.hard_state), snapshot: shape.snapshot.clone(), ..Group::default() }
}

/// Turns a spare into the segment that `header` describes; its size grows to that of the spare.
fn start_segment(
    files: &Arc<dyn Files>,
    dir: &Path,
    pool: &mut Pool,
    mut header: Header,
    shape: &Shape,
    buffer: &mut Vec<u8>,
) -> Result<(Live, u64, u32), WalError> {
    let path = dir.join(FileName::Segment(header.sequence).to_string());
    let changing = |action| {
        let path = path.clone();
        move |source| WalError::changing(action, path, source)
    };
    let spare = pool.take(header.size).map_err(changing("reserve"))?;
    header.size = spare.size;
    buffer.clear();
    buffer.extend_from_slice(&header.encode());
    let place = Place { salt: header.salt, sequence: header.sequence, offset: HEADER_SIZE as u64 };
    let carry = carried(shape);
    let snapshot = carry.snapshot.as_ref().map(|mark| (mark, true));
    let checksum = record::encode(buffer, Kind::Carry, place, HEADER_SIZE as u64, carry.hard_state, snapshot, &[]);
    let end = buffer.len() as u64;
    buffer.resize(buffer.len() + HEAD_SIZE, 0);
    let filled = spare.file.write_at(buffer, 0).and_then(|()| spare.file.sync());
    if let Err(source) = filled {
        // The first error is the one to tell; a leftover is removed or reused at the next start.
        let _ = files.remove(&spare.path);
        return Err(changing("write")(source));
    }
    let named = files.rename(&spare.path, &path).and_then(|()| files.sync_dir(dir));
    named.map_err(|source| WalError::Failed { action: "name", file: path.clone(), source })?;
    Ok((Live { path, file: spare.file, header, highest_index: 0 }, end, checksum))
}

/// Takes the lock of the log in `dir`.
///
/// # Errors
/// `Locked` when another process has it, `Read` when the system says something else.
pub fn take_lock(dir: &Path, files: &dyn Files) -> Result<Box<dyn FileLock>, WalError> {
    let path = dir.join(LOCK_NAME);
    files.lock(&path).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => WalError::Locked { dir: dir.to_path_buf() },
        _ => WalError::Read { action: "lock", file: path, source },
    })
}

/// Overwrites torn remains, so that no record in them can ever follow a new one.
fn clear_tail(active: &Live, from: u64) -> io::Result<()> {
    let zeros = vec![0; ZERO_STEP as usize];
    let mut offset = from;
    while offset < active.header.size {
        let step = ZERO_STEP.min(active.header.size - offset);
        active.file.write_at(&zeros[..step as usize], offset)?;
        offset += step;
    }
    Ok(())
}

fn handle(segment: &Live) -> SegmentHandle {
    SegmentHandle { path: segment.path.clone(), file: Arc::clone(&segment.file), salt: segment.header.salt }
}

/// A salt for each segment from one seed (splitmix64's finisher).
fn salt(seed: u64, sequence: u64) -> u64 {
    let mut mixed = seed ^ sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
