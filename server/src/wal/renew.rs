//! Renew: a log of another identity in the place of the one that is there, for a member that goes on as another cluster's.
//!
//! In: the log's directory and what the new log begins with. Out: the new log, whole and durable beside the old one ([`prepare`]), and
//! its taking the old one's place ([`settle`]). What decides between the two is the identity that the caller writes down in between:
//! a new log of that identity replaces the old one, at whatever later start; one of another identity was never decided on and goes.
//! Everything happens inside the log's directory, which may be a volume of its own.
//! Invariant: at every moment the directory holds a whole log of the identity that is written down, under one of the two places.

use super::log::{Options, take_lock};
use super::recover::{self, Recovered};
use super::segment::FileName;
use super::{Group, Identity, Replay, Wal, WalError};
use crate::env::failpoint::{self, Place};
use crate::env::files::{FileLock, Files};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a new log waits, inside the directory of the old one.
const WAITING: &str = "renewed";
/// Its only segment.
const FIRST: FileName = FileName::Segment(1);

fn changing(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> WalError {
    let path = path.to_path_buf();
    move |source| WalError::changing(action, path, source)
}

fn names(dir: &Path, files: &dyn Files) -> Result<Vec<String>, WalError> {
    match files.list(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed.map_err(|source| WalError::Read { action: "list", file: dir.to_path_buf(), source }),
    }
}

/// Removes what waits: whoever made it was cut short before its identity was written down, or it is in place already.
fn forget(waiting: &Path) -> Result<(), WalError> {
    match std::fs::remove_dir_all(waiting) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(changing("remove", waiting)(e)),
        _ => Ok(()),
    }
}

/// Makes the new log beside the old one, durably. It does not count yet.
///
/// # Errors
/// When the disk fails.
pub fn prepare(dir: &Path, identity: Identity, first: Group, files: &Arc<dyn Files>) -> Result<(), WalError> {
    let waiting = dir.join(WAITING);
    forget(&waiting)?;
    let mut wal = Wal::create_with(&waiting, identity, files.clone(), Options::default())?;
    wal.append(&[first])?;
    wal.close()?;
    files.sync_dir(dir).map_err(changing("sync", dir))
}

/// The identity of the log that waits; `None` when none does, or it was cut short in the making.
fn waiting_for(waiting: &Path, files: &dyn Files) -> Result<Option<Identity>, WalError> {
    if !names(waiting, files)?.contains(&FIRST.to_string()) {
        return Ok(None);
    }
    recover::identity_of(&waiting.join(FIRST.to_string()), files).map(Some)
}

/// Puts a waiting log of `identity` in place of the old one, and removes one that was not decided on. Nothing is done where none
/// waits. The log must not be open.
///
/// # Errors
/// When it is in use, or the disk fails; it goes on with the next call.
pub fn settle(dir: &Path, identity: Identity, files: &Arc<dyn Files>) -> Result<(), WalError> {
    let waiting = dir.join(WAITING);
    if !waiting.exists() {
        return Ok(());
    }
    let _lock = take_lock(dir, files.as_ref())?;
    if waiting_for(&waiting, files.as_ref())? != Some(identity) {
        return forget(&waiting);
    }
    // Oldest last: what is left of a log that begins in the middle is never taken for a whole one.
    for name in names(dir, files.as_ref())?.iter().rev() {
        if let Some(FileName::Segment(_)) = FileName::parse(name) {
            let path = dir.join(name);
            files.remove(&path).map_err(changing("remove", &path))?;
        }
    }
    files.sync_dir(dir).map_err(changing("sync", dir))?;
    failpoint::visit(Place::RecoverSwap);
    let place = dir.join(FIRST.to_string());
    files.rename(&waiting.join(FIRST.to_string()), &place).map_err(changing("rename", &place))?;
    files.sync_dir(dir).map_err(changing("sync", dir))?;
    forget(&waiting)
}

/// Reads a log without changing it, the one that waits when it is the one that counts; nobody else can open it while the lock is held.
///
/// # Errors
/// As [`Wal::open`], except those of writing.
pub fn inspect(dir: &Path, identity: Identity, files: &Arc<dyn Files>) -> Result<(Replay, Box<dyn FileLock>), WalError> {
    let waiting = dir.join(WAITING);
    let place: PathBuf = match waiting_for(&waiting, files.as_ref())? {
        Some(waits) if waits == identity => waiting,
        _ => dir.to_path_buf(),
    };
    if names(&place, files.as_ref())?.is_empty() {
        return Err(WalError::Missing { dir: place });
    }
    let lock = take_lock(dir, files.as_ref())?;
    let names = names(&place, files.as_ref())?;
    let Recovered { replay, .. } = recover::recover(&place, &names, identity, files.as_ref())?;
    Ok((replay, lock))
}

#[cfg(test)]
mod tests {
    use super::super::{HardState, LogEntry, SnapshotMark};
    use super::*;
    use crate::env::files::RealFiles;

    const OLD: Identity = Identity { cluster: 1, member: 7 };
    const NEW: Identity = Identity { cluster: 2, member: 7 };

    fn entries() -> Group {
        let entries = (1..=3).map(|index| LogEntry { index, term: 1, ..Default::default() }).collect();
        Group { hard_state: Some(HardState { term: 1, vote: 7, commit: 3 }), entries, must_sync: true, ..Default::default() }
    }

    fn mark() -> Group {
        let snapshot = Some(SnapshotMark { index: 3, term: 1, conf: Default::default() });
        Group { hard_state: Some(HardState { term: 1, vote: 0, commit: 3 }), snapshot, must_sync: true, ..Default::default() }
    }

    /// A new log counts from the moment its identity does: before, the old one is read and the new one goes; after, it takes the old
    /// one's place, also when that was begun and cut short.
    #[test]
    fn the_identity_decides() {
        let dir = tempfile::tempdir().unwrap();
        let (dir, files) = (dir.path(), RealFiles::shared());
        let mut wal = Wal::create(dir, OLD, files.clone()).unwrap();
        wal.append(&[entries()]).unwrap();
        wal.close().unwrap();
        prepare(dir, NEW, mark(), &files).unwrap();
        assert_eq!(inspect(dir, OLD, &files).unwrap().0.entries.len(), 3);
        assert_eq!(inspect(dir, NEW, &files).unwrap().0.snapshot.unwrap().index, 3);
        settle(dir, OLD, &files).unwrap();
        assert!(inspect(dir, NEW, &files).is_err(), "what was not decided on is gone");
        assert_eq!(Wal::open(dir, OLD, files.clone()).unwrap().1.entries.len(), 3);

        prepare(dir, NEW, mark(), &files).unwrap();
        std::fs::remove_file(dir.join(FIRST.to_string())).unwrap();
        settle(dir, NEW, &files).unwrap();
        settle(dir, NEW, &files).unwrap();
        let (wal, replay) = Wal::open(dir, NEW, files.clone()).unwrap();
        assert_eq!((replay.entries.len(), replay.snapshot.unwrap().index), (0, 3));
        assert!(matches!(inspect(dir, NEW, &files), Err(WalError::Locked { .. })));
        wal.close().unwrap();
        assert!(!dir.join(WAITING).exists());
    }
}
