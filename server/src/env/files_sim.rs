//! Files in memory that can crash, fill up, fail and rot on demand: the twin of `files::RealFiles`.
//!
//! Each file keeps two contents: what the running system sees, and what the platter holds. A write touches the first
//! and marks its 512-byte sectors dirty; `sync` carries dirty sectors over; before that, a sector may reach the platter
//! at any moment by the seed's choice. `crash` keeps, drops or tears every dirty sector on its own, takes back a suffix
//! of the unsynced name changes (a journalling file system keeps their order), kills all open handles and frees locks.
//! Same seed and same calls give the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::files::{DataFile, FileLock, Files, OpenMode};

/// Bytes that reach the platter together, in the absence of a tear.
pub const SECTOR_SIZE: usize = 512;

/// Which error an injected fault returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The device is full: writes and reservations fail with `StorageFull`; syncs and names still work.
    NoSpace,
    /// The device is broken: every change fails with `EIO`.
    Broken,
}

/// An in-memory disk; clones share it.
#[derive(Clone)]
pub struct SimFiles {
    disk: Arc<Mutex<Disk>>,
}

struct Disk {
    random: u64,
    generation: u64,
    next_node: u64,
    nodes: BTreeMap<u64, Node>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    /// Name tables after each unsynced change, oldest first.
    pending_names: Vec<BTreeMap<PathBuf, u64>>,
    dirs: BTreeSet<PathBuf>,
    locks: BTreeSet<PathBuf>,
    fault: Option<(u64, Fault)>,
    changes: u64,
    syncs: u64,
}

#[derive(Default)]
struct Node {
    seen: Vec<u8>,
    platter: Vec<u8>,
    dirty: BTreeSet<usize>,
}

impl SimFiles {
    /// An empty disk whose chances all come from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let disk = Disk {
            random: seed,
            generation: 0,
            next_node: 0,
            nodes: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending_names: Vec::new(),
            dirs: BTreeSet::new(),
            locks: BTreeSet::new(),
            fault: None,
            changes: 0,
            syncs: 0,
        };
        SimFiles { disk: Arc::new(Mutex::new(disk)) }
    }

    /// The same disk behind the pointer type that rooms take.
    #[must_use]
    pub fn shared(&self) -> Arc<dyn Files> {
        Arc::new(self.clone())
    }

    /// Power loss: unsynced sectors and names survive, vanish or tear as `seed` says.
    pub fn crash(&self, seed: u64) {
        let mut disk = self.disk.lock();
        disk.random ^= seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        disk.generation += 1;
        disk.fault = None;
        disk.locks.clear();
        let changes = disk.pending_names.len() as u64;
        let kept = disk.below(changes + 1) as usize;
        if kept > 0 {
            disk.durable_names = disk.pending_names[kept - 1].clone();
        }
        disk.pending_names.clear();
        disk.names = disk.durable_names.clone();
        let ids: Vec<u64> = disk.nodes.keys().copied().collect();
        let named: BTreeSet<u64> = disk.names.values().copied().collect();
        for id in ids {
            if !named.contains(&id) {
                disk.nodes.remove(&id);
                continue;
            }
            let mut node = disk.nodes.remove(&id).unwrap_or_default();
            let dirty = std::mem::take(&mut node.dirty);
            let grown = node.seen.len() != node.platter.len() && disk.below(2) == 0;
            if grown {
                node.platter.resize(node.seen.len(), 0);
            }
            for sector in dirty {
                match disk.below(3) {
                    0 => {}
                    1 => node.write_back(sector, SECTOR_SIZE),
                    _ => {
                        let bytes = disk.below(SECTOR_SIZE as u64) as usize;
                        node.write_back(sector, bytes);
                    }
                }
            }
            node.seen = node.platter.clone();
            disk.nodes.insert(id, node);
        }
    }

    /// Lets `after` more changing calls through (write, reserve, sync, rename, remove), then fails as `fault` says
    /// until `heal` or `crash`.
    pub fn fail_after(&self, after: u64, fault: Fault) {
        self.disk.lock().fault = Some((after, fault));
    }

    /// Takes an injected fault away.
    pub fn heal(&self) {
        self.disk.lock().fault = None;
    }

    /// Rot: inverts one bit of a file, in what is seen and on the platter alike. Offsets past the end do nothing.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) {
        let mut disk = self.disk.lock();
        let Some(id) = disk.names.get(path).copied() else {
            return;
        };
        let Some(node) = disk.nodes.get_mut(&id) else {
            return;
        };
        for content in [&mut node.seen, &mut node.platter] {
            if let Some(byte) = content.get_mut(offset as usize) {
                *byte ^= 1 << (bit & 7);
            }
        }
    }

    /// Cuts a file to `size` bytes on the platter too, as a careless hand would.
    pub fn truncate(&self, path: &Path, size: u64) {
        let mut disk = self.disk.lock();
        let Some(id) = disk.names.get(path).copied() else {
            return;
        };
        let Some(node) = disk.nodes.get_mut(&id) else {
            return;
        };
        node.seen.truncate(size as usize);
        node.platter.truncate(size as usize);
        node.dirty.retain(|sector| sector * SECTOR_SIZE < size as usize);
    }

    /// Every file and what is seen in it: for "nothing was changed" comparisons.
    #[must_use]
    pub fn contents(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let disk = self.disk.lock();
        disk.names.iter().map(|(path, id)| (path.clone(), disk.nodes[id].seen.clone())).collect()
    }

    /// Changing calls made so far, the failed ones included.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.disk.lock().changes
    }

    /// File syncs that succeeded so far.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.disk.lock().syncs
    }
}

impl Node {
    /// Carries the first `bytes` bytes of a sector to the platter; the file's own end may come first.
    fn write_back(&mut self, sector: usize, bytes: usize) {
        let start = sector * SECTOR_SIZE;
        let end = (start + bytes).min(self.seen.len()).min(self.platter.len());
        if start < end {
            self.platter[start..end].copy_from_slice(&self.seen[start..end]);
        }
    }
}

impl Disk {
    /// The next chance in `0..bound` (splitmix64).
    fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    /// Counts one changing call and fails it when its time has come.
    fn change(&mut self, needs_space: bool) -> io::Result<()> {
        self.changes += 1;
        match &mut self.fault {
            Some((0, Fault::Broken)) => Err(io::Error::from_raw_os_error(libc::EIO)),
            Some((0, Fault::NoSpace)) if needs_space => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
            Some((0, Fault::NoSpace)) | None => Ok(()),
            Some((left, _)) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    fn names_changed(&mut self) {
        self.pending_names.push(self.names.clone());
    }
}

impl Files for SimFiles {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DataFile>> {
        let mut disk = self.disk.lock();
        let id = match (disk.names.get(path).copied(), mode) {
            (Some(_), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(id), _) => id,
            (None, OpenMode::CreateNew) => {
                disk.change(true)?;
                let id = disk.next_node;
                disk.next_node += 1;
                disk.nodes.insert(id, Node::default());
                disk.names.insert(path.to_path_buf(), id);
                disk.names_changed();
                id
            }
            (None, _) => return Err(io::ErrorKind::NotFound.into()),
        };
        let generation = disk.generation;
        drop(disk);
        Ok(Arc::new(SimFile { disk: Arc::clone(&self.disk), id, generation, writable: mode != OpenMode::Read }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.lock().dirs.insert(path.to_path_buf());
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let disk = self.disk.lock();
        if !disk.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = disk.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.change(false)?;
        let id = disk.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        disk.names.insert(to.to_path_buf(), id);
        disk.names_changed();
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.change(false)?;
        disk.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
        disk.names_changed();
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.change(false)?;
        disk.durable_names = disk.names.clone();
        disk.pending_names.clear();
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn FileLock>> {
        let mut disk = self.disk.lock();
        if !disk.locks.insert(path.to_path_buf()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let generation = disk.generation;
        drop(disk);
        Ok(Box::new(SimLock { disk: Arc::clone(&self.disk), path: path.to_path_buf(), generation }))
    }
}

struct SimFile {
    disk: Arc<Mutex<Disk>>,
    id: u64,
    generation: u64,
    writable: bool,
}

impl SimFile {
    /// Runs `body` on the file, unless a crash has ended the process that opened it.
    fn with<R>(&self, body: impl FnOnce(&mut Disk, &mut Node) -> io::Result<R>) -> io::Result<R> {
        let mut disk = self.disk.lock();
        if disk.generation != self.generation {
            return Err(io::Error::other("the handle did not survive the crash"));
        }
        // The node leaves the table for the call so that disk and node can be borrowed together.
        let mut node = disk.nodes.remove(&self.id).ok_or(io::ErrorKind::NotFound)?;
        let result = body(&mut disk, &mut node);
        disk.nodes.insert(self.id, node);
        result
    }
}

impl DataFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.with(|_, node| {
            let start = (offset as usize).min(node.seen.len());
            let count = buffer.len().min(node.seen.len() - start);
            buffer[..count].copy_from_slice(&node.seen[start..start + count]);
            Ok(count)
        })
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        if !self.writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.with(|disk, node| {
            let start = offset as usize;
            let failed = disk.change(true);
            // A failing write may still have moved some of its bytes.
            let data = if failed.is_ok() { data } else { &data[..disk.below(data.len() as u64 + 1) as usize] };
            let end = start + data.len();
            if node.seen.len() < end {
                node.seen.resize(end, 0);
            }
            for sector in start / SECTOR_SIZE..end.div_ceil(SECTOR_SIZE) {
                if !node.dirty.insert(sector) && disk.below(4) == 0 {
                    node.write_back(sector, SECTOR_SIZE);
                }
            }
            node.seen[start..end].copy_from_slice(data);
            failed
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.with(|disk, node| {
            disk.change(false)?;
            disk.syncs += 1;
            node.platter.resize(node.seen.len(), 0);
            for sector in std::mem::take(&mut node.dirty) {
                node.write_back(sector, SECTOR_SIZE);
            }
            Ok(())
        })
    }

    fn size(&self) -> io::Result<u64> {
        self.with(|_, node| Ok(node.seen.len() as u64))
    }

    fn preallocate(&self, size: u64) -> io::Result<()> {
        self.with(|disk, node| {
            disk.change(true)?;
            if node.seen.len() < size as usize {
                node.seen.resize(size as usize, 0);
            }
            Ok(())
        })
    }
}

struct SimLock {
    disk: Arc<Mutex<Disk>>,
    path: PathBuf,
    generation: u64,
}

impl FileLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut disk = self.disk.lock();
        if disk.generation == self.generation {
            disk.locks.remove(&self.path);
        }
    }
}
