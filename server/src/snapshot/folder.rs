//! Folder: which folder of durable rows a member uses.
//!
//! `member/db` is the first; after a snapshot it is `member/db.<index>.<id>`, named by the file `member/CURRENT`, which is replaced
//! in one step. A received folder counts only once `<folder>.ready` stands beside it: that file is written last and names the index.

use super::SnapshotError;
use crate::base::{Base, BaseError, RocksBase, RocksOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The folders of rows as the rooms that build and switch them need them: on disk, or in a simulation's memory.
pub trait Folders: Send + Sync {
    /// A new folder for the rows of a snapshot at an index: its name, and its rows, still none.
    ///
    /// # Errors
    /// When it cannot be made.
    fn make(&self, index: u64) -> Result<(String, Box<dyn Base>), BaseError>;
    /// As [`mark_ready`].
    ///
    /// # Errors
    /// When the mark cannot be written; the folder then does not count.
    fn mark_ready(&self, name: &str, index: u64) -> Result<(), SnapshotError>;
    /// As [`discard`].
    fn discard(&self, name: &str);
    /// Makes the complete folder with the rows of exactly this index the one in use, and opens it.
    ///
    /// # Errors
    /// When there is none, or the disk fails.
    fn take_up(&self, index: u64) -> Result<Arc<dyn Base>, SnapshotError>;
}

/// The folders in a member's folder.
pub struct RocksFolders {
    pub member: PathBuf,
    pub rocks: RocksOptions,
}

impl Folders for RocksFolders {
    fn make(&self, index: u64) -> Result<(String, Box<dyn Base>), BaseError> {
        let name = fresh(index);
        let base = RocksBase::open(&self.member.join(&name), self.rocks)?;
        Ok((name, Box::new(base)))
    }

    fn mark_ready(&self, name: &str, index: u64) -> Result<(), SnapshotError> {
        mark_ready(&self.member, name, index)
    }

    fn discard(&self, name: &str) {
        discard(&self.member, name);
    }

    fn take_up(&self, index: u64) -> Result<Arc<dyn Base>, SnapshotError> {
        let none = || SnapshotError::Damaged(format!("no complete snapshot at entry {index} is there"));
        let name = staged(&self.member, index)?.ok_or_else(none)?;
        switch(&self.member, &name)?;
        Ok(Arc::new(RocksBase::open(&self.member.join(name), self.rocks)?))
    }
}

const FIRST: &str = "db";
const POINTER: &str = "CURRENT";
const READY: &str = "ready";

fn fail(path: &Path) -> impl FnOnce(io::Error) -> SnapshotError {
    let path = path.to_path_buf();
    move |error| SnapshotError::Io { path, error }
}

fn is_rows(name: &str) -> bool {
    name == FIRST || name.starts_with("db.")
}

/// The folder in use.
pub fn current(member: &Path) -> Result<PathBuf, SnapshotError> {
    let pointer = member.join(POINTER);
    let name = match std::fs::read_to_string(&pointer) {
        Ok(text) => text.trim_end().to_string(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => FIRST.to_string(),
        Err(e) => return Err(fail(&pointer)(e)),
    };
    // A name with a slash could lead anywhere.
    if !is_rows(&name) || name.contains('/') {
        return Err(SnapshotError::Damaged(format!("{} names {name:?}, which is no folder of rows", pointer.display())));
    }
    Ok(member.join(name))
}

/// A name no folder has yet, for the rows of a snapshot.
pub fn fresh(index: u64) -> String {
    format!("db.{index}.{:016x}", rand::random::<u64>())
}

/// Says that a received folder is complete; durable on return.
pub fn mark_ready(member: &Path, name: &str, index: u64) -> Result<(), SnapshotError> {
    replace(member, &format!("{name}.{READY}"), &format!("{index}\n"))
}

/// A complete folder with the rows of exactly this index.
pub fn staged(member: &Path, index: u64) -> Result<Option<String>, SnapshotError> {
    let in_use = current(member)?;
    for name in names(member)? {
        let Some(folder) = name.strip_suffix(&format!(".{READY}")).filter(|f| is_rows(f)) else { continue };
        // Damaged rows may be replaced by those of a snapshot at the very same entry.
        if member.join(folder) == in_use {
            continue;
        }
        let path = member.join(&name);
        let text = std::fs::read_to_string(&path).map_err(fail(&path))?;
        if text == format!("{index}\n") && member.join(folder).is_dir() {
            return Ok(Some(folder.to_string()));
        }
    }
    Ok(None)
}

/// Makes a folder the one in use; durable on return.
pub fn switch(member: &Path, name: &str) -> Result<(), SnapshotError> {
    replace(member, POINTER, &format!("{name}\n"))
}

/// Removes folders of rows that are not in use, and their marks. Nothing may be open in them.
pub fn clean(member: &Path) -> Result<(), SnapshotError> {
    let current = current(member)?;
    for name in names(member)?.into_iter().filter(|n| is_rows(n)) {
        let path = member.join(&name);
        if path == current {
            continue;
        }
        let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.map_err(fail(&path))?;
    }
    Ok(())
}

/// Removes one received folder and its mark, the mark first.
pub fn discard(member: &Path, name: &str) {
    let mark = member.join(format!("{name}.{READY}"));
    let removed = match std::fs::remove_file(&mark) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => std::fs::remove_dir_all(member.join(name)),
    };
    if let Err(e) = removed
        && e.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(folder = name, error = %e, "a received snapshot could not be removed; the next start tries again");
    }
}

fn names(member: &Path) -> Result<Vec<String>, SnapshotError> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(member).map_err(fail(member))? {
        names.extend(entry.map_err(fail(member))?.file_name().into_string().ok());
    }
    names.sort_unstable();
    Ok(names)
}

/// Writes a small file in one step: it holds the old text or the new one, whatever happens.
fn replace(member: &Path, name: &str, text: &str) -> Result<(), SnapshotError> {
    let (path, new) = (member.join(name), member.join(format!("{name}.new")));
    let write = || -> io::Result<()> {
        let mut file = std::fs::File::create(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, &path)?;
        std::fs::File::open(member)?.sync_all()
    };
    write().map_err(fail(&path))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder without its mark is never taken up; a switched one stays and all others go.
    #[test]
    fn only_complete_folders_count() {
        let dir = tempfile::tempdir().unwrap();
        let member = dir.path();
        for name in ["db", "db.7.a", "db.9.b"] {
            std::fs::create_dir(member.join(name)).unwrap();
        }
        assert_eq!(current(member).unwrap(), member.join("db"));
        assert_eq!(staged(member, 7).unwrap(), None);
        mark_ready(member, "db.7.a", 7).unwrap();
        assert_eq!(staged(member, 7).unwrap().as_deref(), Some("db.7.a"));
        assert_eq!(staged(member, 9).unwrap(), None);
        switch(member, "db.7.a").unwrap();
        clean(member).unwrap();
        assert_eq!(current(member).unwrap(), member.join("db.7.a"));
        let mut left = names(member).unwrap();
        left.retain(|n| n != "CURRENT");
        assert_eq!(left, ["db.7.a"]);
    }
}
