//! Receive: new durable rows from the chunks of a snapshot that arrives.
//!
//! One transfer at a time. One that was cut short keeps its rows and goes on from its last chunk when the same view is offered again;
//! a different view begins anew, and what nobody goes on with for a while is abandoned. Invariants: every chunk is checked against its
//! checksum and the order of rows before it is written; the folder is marked complete only after everything is on disk; a transfer that
//! can neither be gone on with nor be handed over gives its place free by itself.

use super::SnapshotError;
use super::folder::Folders;
use super::rows::{self, Place};
use crate::base::kind::sys;
use crate::base::{Base, Batch, Family};
use crate::env::plant::{self, Plant};
use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use quorate_proto::state::Applied;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Takes snapshots in, one at a time. A complete one keeps the place until it is [`Receiver::settled`].
pub struct Receiver {
    folders: Arc<dyn Folders>,
    staging: Mutex<Option<Arc<Staging>>>,
}

/// The rows of one transfer.
pub struct Staging {
    folders: Arc<dyn Folders>,
    /// The folder's name in the member's folder.
    pub name: String,
    view: u64,
    index: u64,
    /// Chunks written, by all attempts.
    chunks: AtomicU64,
    state: Mutex<State>,
    /// Given up, its folder removed: the place is free.
    over: AtomicBool,
}

struct State {
    /// Gone when the folder is complete or given up.
    base: Option<Box<dyn Base>>,
    place: Place,
    /// The attempt that may write; an older one is refused.
    attempt: u64,
    rows: u64,
    checksum: u32,
}

impl Receiver {
    /// Rows are built beside those in use, in folders of their own.
    pub fn new(folders: Arc<dyn Folders>) -> Self {
        Self { folders, staging: Mutex::default() }
    }

    /// A count that rises with every chunk while the rows of a snapshot arrive or are handed over; `None` when none do. Never waits: a
    /// transfer that begins, which may have to remove the rows of another one first, is progress by itself.
    pub fn progress(&self) -> Option<u64> {
        let Some(slot) = self.staging.try_lock() else { return Some(u64::MAX) };
        slot.as_ref().filter(|s| !s.is_over()).map(|s| s.chunks.load(Ordering::Relaxed))
    }

    /// Begins a transfer of a view at an index, or goes on with it: the rows, the attempt's number and where to go on. Blocks on the
    /// disk.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn begin(&self, view: u64, index: u64) -> Result<(Arc<Staging>, u64, Place), SnapshotError> {
        let mut slot = self.staging.lock();
        if let Some(staging) = slot.as_ref().filter(|s| s.view == view && s.index == index) {
            let mut state = staging.state.lock();
            if state.base.is_some() {
                state.attempt += 1;
                (state.rows, state.checksum) = (0, 0);
                let (attempt, place) = (state.attempt, state.place.clone());
                drop(state);
                return Ok((staging.clone(), attempt, place));
            }
        }
        if let Some(old) = slot.as_ref() {
            if old.state.lock().base.is_none() && !old.is_over() {
                return Err(SnapshotError::Refused("a snapshot is being handed over".into()));
            }
            old.give_up();
            *slot = None;
        }
        let (name, base) = self.folders.make(index)?;
        let state = State { base: Some(base), place: Place::default(), attempt: 1, rows: 0, checksum: 0 };
        let staging = Arc::new(Staging {
            folders: self.folders.clone(),
            name,
            view,
            index,
            chunks: AtomicU64::new(0),
            state: Mutex::new(state),
            over: AtomicBool::new(false),
        });
        *slot = Some(staging.clone());
        Ok((staging, 1, Place::default()))
    }

    /// Forgets a complete transfer: the node has taken its folder, or it was given up.
    pub fn settled(&self, staging: &Arc<Staging>) {
        let mut slot = self.staging.lock();
        if slot.as_ref().is_some_and(|s| Arc::ptr_eq(s, staging)) {
            *slot = None;
        }
    }
}

impl Staging {
    fn writable(&self, attempt: u64) -> Result<parking_lot::MutexGuard<'_, State>, SnapshotError> {
        let state = self.state.lock();
        if state.attempt != attempt || state.base.is_none() {
            return Err(SnapshotError::Refused("another transfer took over".into()));
        }
        Ok(state)
    }

    /// Writes a chunk and says where the rows now end. Blocks on the disk.
    ///
    /// # Errors
    /// `Damaged` when the chunk is not what was sent or not what follows; the rows before it stay.
    pub fn write(&self, attempt: u64, number: u32, chunk: &Bytes, checksum: u32) -> Result<Place, SnapshotError> {
        let mut state = self.writable(attempt)?;
        if crc32c::crc32c(chunk) != checksum {
            return Err(SnapshotError::Damaged("a chunk's checksum is wrong".into()));
        }
        let family = rows::family(number)
            .ok_or_else(|| SnapshotError::Damaged(format!("family {number} is unknown: upgrade this member")))?;
        if number < state.place.family {
            return Err(SnapshotError::Damaged("families out of order".into()));
        }
        let mut last = if number == state.place.family { state.place.after.clone() } else { Bytes::new() };
        let mut batch = Batch::default();
        let mut count = 0;
        rows::each(chunk, |key, value| {
            if key <= last {
                return Err(SnapshotError::Damaged("rows out of order".into()));
            }
            last = key.clone();
            count += 1;
            batch.put(family, key, value);
            Ok(())
        })?;
        if plant::is(Plant::SnapshotShort) && family == Family::Latest {
            batch.rows.pop();
        }
        state.base.as_ref().expect("checked by writable").write(batch)?;
        self.chunks.fetch_add(1, Ordering::Relaxed);
        state.rows += count;
        state.checksum = crc32c::crc32c_append(state.checksum, chunk);
        // A copy, so that one key does not hold a whole chunk in memory.
        state.place = Place { family: number, after: Bytes::copy_from_slice(&last) };
        Ok(state.place.clone())
    }

    /// Checks that everything this attempt was sent has arrived, puts it on disk and marks the folder as complete. Blocks on the
    /// disk. After a failure that leaves nothing to go on with, the transfer is given up.
    ///
    /// # Errors
    /// `Damaged` when rows are missing or belong to another position.
    pub fn finish(&self, attempt: u64, rows: u64, checksum: u32) -> Result<(), SnapshotError> {
        let mut state = self.writable(attempt)?;
        let finished = self.complete(&mut state, rows, checksum);
        // What is damaged as a whole cannot be gone on with, nor can rows that were closed and not marked.
        if matches!(finished, Err(SnapshotError::Damaged(_))) || (finished.is_err() && state.base.is_none()) {
            self.end(&mut state);
        }
        finished
    }

    fn complete(&self, state: &mut State, rows: u64, checksum: u32) -> Result<(), SnapshotError> {
        if (state.rows, state.checksum) != (rows, checksum) {
            return Err(SnapshotError::Damaged(format!("{} rows arrived of {rows}, or not the same ones", state.rows)));
        }
        let base = state.base.as_ref().expect("checked by writable");
        let applied = base.get(Family::Sys, &sys::single(sys::APPLIED))?.unwrap_or_default();
        let index = Applied::decode(applied).map_err(|e| SnapshotError::Damaged(format!("applied position: {e}")))?.index;
        if index != self.index {
            return Err(SnapshotError::Damaged(format!(
                "the rows stand at entry {index}, the snapshot was announced at {}",
                self.index
            )));
        }
        base.flush()?;
        // Closed before it is marked: whoever takes it up opens it anew.
        state.base = None;
        self.folders.mark_ready(&self.name, self.index)
    }

    /// Removes the rows of a transfer that broke off in this attempt, unless another attempt has gone on with them or they are whole;
    /// true when they were removed.
    pub fn abandon(&self, attempt: u64) -> bool {
        let Ok(mut state) = self.writable(attempt) else { return false };
        self.end(&mut state);
        true
    }

    /// Removes the folder; the member does not take it.
    pub fn give_up(&self) {
        self.end(&mut self.state.lock());
    }

    fn end(&self, state: &mut State) {
        state.base = None;
        if !self.is_over() {
            self.folders.discard(&self.name);
            self.over.store(true, Ordering::Release);
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::BaseError;
    use crate::snapshot::folder_mem::MemFolders;

    /// Folders on a disk that may refuse to write a mark.
    #[derive(Default)]
    struct Marks {
        inner: MemFolders,
        refuse: AtomicBool,
        discarded: Mutex<Vec<String>>,
    }

    impl Folders for Marks {
        fn make(&self, index: u64) -> Result<(String, Box<dyn Base>), BaseError> {
            self.inner.make(index)
        }

        fn mark_ready(&self, name: &str, index: u64) -> Result<(), SnapshotError> {
            if self.refuse.load(Ordering::Relaxed) {
                return Err(SnapshotError::Io { path: name.into(), error: std::io::Error::other("a bad disk") });
            }
            self.inner.mark_ready(name, index)
        }

        fn discard(&self, name: &str) {
            self.discarded.lock().push(name.to_string());
            self.inner.discard(name);
        }

        fn take_up(&self, index: u64) -> Result<Arc<dyn Base>, SnapshotError> {
            self.inner.take_up(index)
        }
    }

    /// Sends the one row that every snapshot has, and ends.
    fn send(staging: &Staging, attempt: u64, index: u64) -> Result<(), SnapshotError> {
        let applied = Applied { index, ..Default::default() }.encode_to_vec();
        let mut chunk = Vec::new();
        rows::put(&mut chunk, &sys::single(sys::APPLIED), &applied);
        let (chunk, family) = (Bytes::from(chunk), Family::ALL.iter().position(|f| *f == Family::Sys).unwrap() as u32);
        staging.write(attempt, family, &chunk, crc32c::crc32c(&chunk))?;
        staging.finish(attempt, 1, crc32c::crc32c(&chunk))
    }

    /// A disk that cannot mark a complete folder fails that transfer and not those after it.
    #[test]
    fn a_folder_that_cannot_be_marked_gives_its_place_free() {
        let folders = Arc::new(Marks::default());
        let receiver = Receiver::new(folders.clone());
        let (staging, attempt, _) = receiver.begin(1, 5).unwrap();
        folders.refuse.store(true, Ordering::Relaxed);
        assert!(matches!(send(&staging, attempt, 5), Err(SnapshotError::Io { .. })));
        assert_eq!(receiver.progress(), None);
        assert_eq!(*folders.discarded.lock(), std::slice::from_ref(&staging.name));
        folders.refuse.store(false, Ordering::Relaxed);
        // The same view is offered again, and taken from its first row.
        let (again, attempt, place) = receiver.begin(1, 5).unwrap();
        assert_eq!((attempt, place), (1, Place::default()));
        send(&again, attempt, 5).unwrap();
        // Until raft has answered the place is taken; word of the older transfer frees nothing.
        staging.give_up();
        receiver.settled(&staging);
        assert!(matches!(receiver.begin(2, 6), Err(SnapshotError::Refused(_))));
        assert_eq!(folders.discarded.lock().len(), 1);
        receiver.settled(&again);
        assert!(receiver.begin(2, 6).is_ok());
    }

    /// Whoever asks how a transfer is getting on is answered at once, also while the disk makes room for it: it is the thread that
    /// everything else of the member waits for.
    #[test]
    fn progress_never_waits_for_the_disk() {
        let folders = Arc::new(Marks::default());
        let receiver = Arc::new(Receiver::new(folders.clone()));
        let (old, _, _) = receiver.begin(1, 5).unwrap();
        // The disk: as long as this is held, the former rows are not gone.
        let disk = folders.discarded.lock();
        let beginning = std::thread::spawn({
            let receiver = receiver.clone();
            move || receiver.begin(2, 6).map(|_| ())
        });
        while old.state.try_lock().is_some() {
            std::thread::yield_now();
        }
        let (tell, told) = crossbeam_channel::bounded(1);
        let asking = std::thread::spawn({
            let receiver = receiver.clone();
            move || tell.send(receiver.progress())
        });
        assert!(told.recv_timeout(std::time::Duration::from_secs(10)).is_ok());
        drop(disk);
        beginning.join().unwrap().unwrap();
        asking.join().unwrap().unwrap();
        assert_eq!(receiver.progress(), Some(0));
    }

    /// What a transfer left that nobody goes on with is removed; one that somebody went on with stays, and so does a whole one.
    #[test]
    fn what_nobody_goes_on_with_is_removed() {
        let folders = Arc::new(Marks::default());
        let receiver = Receiver::new(folders.clone());
        let (staging, first, _) = receiver.begin(1, 5).unwrap();
        let (_, second, _) = receiver.begin(1, 5).unwrap();
        assert!(!staging.abandon(first), "the second attempt goes on with it");
        assert!(staging.abandon(second));
        assert_eq!((receiver.progress(), folders.discarded.lock().len()), (None, 1));
        assert!(!staging.abandon(second), "once is enough");
        let (staging, attempt, place) = receiver.begin(1, 5).unwrap();
        assert_eq!((attempt, place), (1, Place::default()));
        send(&staging, attempt, 5).unwrap();
        assert!(!staging.abandon(attempt), "it is being handed over");
        assert_eq!(folders.discarded.lock().len(), 1);
    }

    /// Rows that are not those which were announced give their place free as well.
    #[test]
    fn damage_ends_a_transfer() {
        let receiver = Receiver::new(Arc::<MemFolders>::default());
        let (staging, attempt, _) = receiver.begin(1, 5).unwrap();
        assert!(matches!(send(&staging, attempt, 4), Err(SnapshotError::Damaged(_))));
        assert_eq!(receiver.progress(), None);
        assert_eq!(receiver.begin(1, 5).map(|(_, attempt, _)| attempt).ok(), Some(1));
    }
}
