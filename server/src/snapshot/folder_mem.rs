//! Folders of rows in memory, which outlive the process of a simulated member: the twin of `folder::RocksFolders`.
//!
//! Names, marks and the choice of the folder in use are durable when the call returns, as on disk; rows are only once flushed. A
//! crash keeps, of each folder, some prefix of the batches that were not flushed.

use super::SnapshotError;
use super::folder::Folders;
use crate::base::{Base, BaseError, MemBase};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The folders of one member.
pub struct MemFolders {
    state: Mutex<State>,
}

struct State {
    folders: BTreeMap<String, Folder>,
    current: String,
    made: u64,
}

#[derive(Default)]
struct Folder {
    rows: Arc<MemBase>,
    /// The index of the snapshot whose rows are complete.
    ready: Option<u64>,
}

impl Default for MemFolders {
    /// One empty folder, in use.
    fn default() -> Self {
        let current = "db".to_string();
        let folders = BTreeMap::from([(current.clone(), Folder::default())]);
        Self { state: Mutex::new(State { folders, current, made: 0 }) }
    }
}

impl MemFolders {
    /// The rows in use.
    pub fn current(&self) -> Arc<MemBase> {
        let state = self.state.lock();
        state.folders[&state.current].rows.clone()
    }

    /// Power loss. `keep` draws how many of so many unflushed batches survive.
    pub fn crash(&self, mut keep: impl FnMut(usize) -> usize) {
        for folder in self.state.lock().folders.values() {
            folder.rows.crash(keep(folder.rows.unflushed()));
        }
    }

    /// Takes up the complete folder of a snapshot at this index, as a start does after a crash; false when there is none.
    pub fn switch_to(&self, index: u64) -> bool {
        let mut state = self.state.lock();
        let name =
            state.folders.iter().find(|(name, f)| f.ready == Some(index) && **name != state.current).map(|(name, _)| name.clone());
        if let Some(name) = name {
            state.current = name;
            return true;
        }
        false
    }

    /// Removes the folders that are not in use, as a start does.
    pub fn clean(&self) {
        let mut state = self.state.lock();
        let current = state.current.clone();
        state.folders.retain(|name, _| *name == current);
        state.folders.values_mut().for_each(|f| f.ready = None);
    }
}

impl Folders for MemFolders {
    fn make(&self, index: u64) -> Result<(String, Box<dyn Base>), BaseError> {
        let mut state = self.state.lock();
        state.made += 1;
        let name = format!("db.{index}.{}", state.made);
        let rows = Arc::<MemBase>::default();
        state.folders.insert(name.clone(), Folder { rows: rows.clone(), ready: None });
        Ok((name, Box::new(rows)))
    }

    fn mark_ready(&self, name: &str, index: u64) -> Result<(), SnapshotError> {
        let none = || SnapshotError::Damaged(format!("there is no folder {name}"));
        self.state.lock().folders.get_mut(name).ok_or_else(none)?.ready = Some(index);
        Ok(())
    }

    fn discard(&self, name: &str) {
        self.state.lock().folders.remove(name);
    }

    fn take_up(&self, index: u64) -> Result<Arc<dyn Base>, SnapshotError> {
        if !self.switch_to(index) {
            return Err(SnapshotError::Damaged(format!("no complete snapshot at entry {index} is there")));
        }
        Ok(Arc::new(self.current()))
    }
}
