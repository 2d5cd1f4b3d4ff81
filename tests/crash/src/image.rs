//! The disk a power cut may leave: what was synced, and of the rest what chance lets through.
//!
//! In: the tree as it was when the process started, and the journal that `shim/shim.c` wrote of everything it did after. Out: a tree
//! that a real disk could hold after the power went. The rules, none kinder than a real file system:
//! - bytes, lengths and reservations of a file are certain once a sync of the file that began after them has ended;
//! - names (creations, renames, removals, folders) are certain once a sync of their folder has; a file's sync does not keep its name;
//! - of writes that are not certain, any set of 512-byte sectors may be there, in any order, a longer file with zeros between;
//! - of the changes of one folder's names that are not certain, those up to some point are there, as a journaling file system
//!   leaves them; two folders are independent.
//!
//! Same journal and same chances, same tree.

use crate::Chance;
use crate::tree::{Node as Leaf, Tree};
use rand::Rng;
use std::collections::{BTreeMap, HashMap};
use std::path::{Component, Path, PathBuf};

const SECTOR: u64 = 512;
const HEAD: usize = 40;

/// How much of the uncertain is let through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mercy {
    /// Nothing: the disk holds what was synced and no more.
    None,
    /// Each sector by a coin, each folder up to a chance point.
    Some,
    /// Everything, as after a mere crash of the process.
    All,
}

/// What became of the uncertain, for reports and for tests of the test.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Losses {
    /// Sectors written and not synced: let through, and dropped.
    pub sectors_kept: u64,
    pub sectors_dropped: u64,
    /// Changes of names: likewise.
    pub names_kept: u64,
    pub names_dropped: u64,
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, Vec<u8>),
    Length(u64),
    Reserve(u64),
}

type Id = usize;

#[derive(Clone, Debug)]
enum Named {
    Set(String, Id),
    Gone(String),
    Moved(String, String),
}

#[derive(Debug)]
enum Body {
    File { durable: Vec<u8>, pending: Vec<(u64, Step)> },
    Dir { durable: BTreeMap<String, Id>, live: BTreeMap<String, Id>, pending: Vec<(u64, Named)> },
}

/// The tree with its certain and uncertain parts.
pub struct Disk {
    bodies: Vec<Body>,
    root: PathBuf,
    inodes: HashMap<u64, Id>,
    /// Syncs that began: what they cover, and up to which record.
    syncs: HashMap<u64, (Id, u64)>,
    /// Counts records.
    now: u64,
}

struct Record<'a> {
    kind: u16,
    flags: u16,
    inode: u64,
    x: u64,
    y: u64,
    a: &'a [u8],
    b: &'a [u8],
}

fn empty_dir() -> Body {
    Body::Dir { durable: BTreeMap::new(), live: BTreeMap::new(), pending: Vec::new() }
}

fn apply_name(names: &mut BTreeMap<String, Id>, change: &Named) {
    match change {
        Named::Set(name, id) => drop(names.insert(name.clone(), *id)),
        Named::Gone(name) => drop(names.remove(name)),
        Named::Moved(from, to) => {
            if let Some(id) = names.remove(from) {
                names.insert(to.clone(), id);
            }
        }
    }
}

fn apply_step(bytes: &mut Vec<u8>, step: &Step) {
    match step {
        Step::Write(at, data) => {
            let (start, end) = (*at as usize, *at as usize + data.len());
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[start..end].copy_from_slice(data);
        }
        Step::Length(length) => bytes.resize(*length as usize, 0),
        Step::Reserve(length) => bytes.resize(bytes.len().max(*length as usize), 0),
    }
}

impl Disk {
    /// A disk that holds `tree` for certain; `root` is its path in the journal.
    #[must_use]
    pub fn of(root: &Path, tree: &Tree) -> Self {
        let mut disk =
            Self { bodies: vec![empty_dir()], root: root.to_path_buf(), inodes: HashMap::new(), syncs: HashMap::new(), now: 0 };
        for (path, leaf) in tree {
            let body = match leaf {
                Leaf::Dir => empty_dir(),
                Leaf::File(bytes) => Body::File { durable: bytes.clone(), pending: Vec::new() },
                Leaf::Link(_) => continue,
            };
            let id = disk.add(body);
            let (parent, name) = disk.place(path).expect("a tree holds the folders of its paths");
            if let Body::Dir { durable, live, .. } = &mut disk.bodies[parent] {
                durable.insert(name.clone(), id);
                live.insert(name, id);
            }
        }
        disk
    }

    fn add(&mut self, body: Body) -> Id {
        self.bodies.push(body);
        self.bodies.len() - 1
    }

    /// The folder and the name of a path below the root.
    fn place(&self, path: &Path) -> Option<(Id, String)> {
        let name = path.file_name()?.to_str()?.to_owned();
        Some((self.find(path.parent()?)?, name))
    }

    /// What is at a path below the root, as the process sees it.
    fn find(&self, path: &Path) -> Option<Id> {
        let mut at = 0;
        for part in path.components() {
            let Component::Normal(name) = part else { continue };
            let Body::Dir { live, .. } = &self.bodies[at] else { return None };
            at = *live.get(name.to_str()?)?;
        }
        Some(at)
    }

    fn below(&self, path: &[u8]) -> Option<PathBuf> {
        let path = PathBuf::from(std::str::from_utf8(path).ok()?);
        path.strip_prefix(&self.root).ok().map(Path::to_path_buf)
    }

    fn name(&mut self, dir: Id, change: Named) {
        let now = self.now;
        if let Body::Dir { live, pending, .. } = &mut self.bodies[dir] {
            apply_name(live, &change);
            pending.push((now, change));
        }
    }

    fn step(&mut self, inode: u64, step: Step) {
        let now = self.now;
        if let Some(Body::File { pending, .. }) = self.inodes.get(&inode).map(|id| &mut self.bodies[*id]) {
            pending.push((now, step));
        }
    }

    /// Follows a journal; one that ends inside a record ends before it.
    ///
    /// # Errors
    /// Says what of it cannot be followed; the test is then worth nothing.
    pub fn follow(&mut self, journal: &[u8]) -> Result<(), String> {
        let mut rest = journal;
        while let Some((record, after)) = cut(rest) {
            self.now += 1;
            self.take(&record).map_err(|why| format!("record {} of kind {}: {why}", self.now, record.kind))?;
            rest = after;
        }
        Ok(())
    }

    fn take(&mut self, record: &Record) -> Result<(), String> {
        let path = |bytes: &[u8]| self.below(bytes).ok_or_else(|| "a path outside the root".to_owned());
        let unknown = |path: &Path| format!("{} is not known", path.display());
        match record.kind {
            1 => {
                let path = path(record.a)?;
                let (dir, name) = self.place(&path).ok_or_else(|| unknown(&path))?;
                let id = self.add(Body::File { durable: Vec::new(), pending: Vec::new() });
                self.inodes.insert(record.inode, id);
                self.name(dir, Named::Set(name, id));
            }
            2 => {
                let path = path(record.a)?;
                // A file that stdio made is not in the journal, and nothing depends on it.
                match self.find(&path) {
                    Some(id) => drop(self.inodes.insert(record.inode, id)),
                    None => drop(self.inodes.remove(&record.inode)),
                }
            }
            3 => self.step(record.inode, Step::Write(record.x, record.b.to_vec())),
            4 => self.step(record.inode, Step::Length(record.x)),
            5 if record.flags == 0 => self.step(record.inode, Step::Reserve(record.x + record.y)),
            5 => {}
            6 => {
                if let Some(id) = self.inodes.get(&record.inode) {
                    self.syncs.insert(record.x, (*id, self.now));
                }
            }
            7 => {
                if let Some((id, upto)) = self.syncs.remove(&record.x) {
                    self.settle(id, upto);
                }
            }
            8 => {
                let (from, to) = (path(record.a)?, path(record.b)?);
                let Some((dir, name)) = self.place(&from) else { return Err(unknown(&from)) };
                let Some((to_dir, to_name)) = self.place(&to) else { return Err(unknown(&to)) };
                if dir != to_dir {
                    return Err(format!("a rename from folder to folder: {} to {}", from.display(), to.display()));
                }
                self.name(dir, Named::Moved(name, to_name));
            }
            9 | 11 => {
                let path = path(record.a)?;
                let (dir, name) = self.place(&path).ok_or_else(|| unknown(&path))?;
                self.name(dir, Named::Gone(name));
            }
            10 => {
                let path = path(record.a)?;
                let (dir, name) = self.place(&path).ok_or_else(|| unknown(&path))?;
                let id = self.add(empty_dir());
                self.name(dir, Named::Set(name, id));
            }
            12 => {
                let path = path(record.a)?;
                let id = self.find(&path).ok_or_else(|| unknown(&path))?;
                self.syncs.insert(record.x, (id, self.now));
            }
            13 => {
                let (from, to) = (path(record.a)?, path(record.b)?);
                let id = self.find(&from).ok_or_else(|| unknown(&from))?;
                let (dir, name) = self.place(&to).ok_or_else(|| unknown(&to))?;
                self.name(dir, Named::Set(name, id));
            }
            other => return Err(format!("kind {other} is not known")),
        }
        Ok(())
    }

    /// What a finished sync covers becomes certain.
    fn settle(&mut self, id: Id, upto: u64) {
        match &mut self.bodies[id] {
            Body::File { durable, pending } => {
                let count = pending.partition_point(|(when, _)| *when < upto);
                pending.drain(..count).for_each(|(_, step)| apply_step(durable, &step));
            }
            Body::Dir { durable, pending, .. } => {
                let count = pending.partition_point(|(when, _)| *when < upto);
                pending.drain(..count).for_each(|(_, change)| apply_name(durable, &change));
            }
        }
    }

    /// One disk that the cut may leave.
    #[must_use]
    pub fn cut(&self, mercy: Mercy, chance: &mut Chance) -> (Tree, Losses) {
        let mut losses = Losses::default();
        let mut tree = Tree::new();
        self.leave(0, &PathBuf::new(), mercy, chance, &mut tree, &mut losses);
        (tree, losses)
    }

    fn leave(&self, id: Id, at: &Path, mercy: Mercy, chance: &mut Chance, tree: &mut Tree, losses: &mut Losses) {
        match &self.bodies[id] {
            Body::File { durable, pending } => {
                let bytes = leave_bytes(durable, pending, mercy, chance, losses);
                tree.insert(at.to_path_buf(), Leaf::File(bytes));
            }
            Body::Dir { durable, pending, .. } => {
                if !at.as_os_str().is_empty() {
                    tree.insert(at.to_path_buf(), Leaf::Dir);
                }
                let kept = match mercy {
                    Mercy::None => 0,
                    Mercy::Some => chance.random_range(0..=pending.len()),
                    Mercy::All => pending.len(),
                };
                losses.names_kept += kept as u64;
                losses.names_dropped += (pending.len() - kept) as u64;
                let mut names = durable.clone();
                pending[..kept].iter().for_each(|(_, change)| apply_name(&mut names, change));
                for (name, id) in names {
                    self.leave(id, &at.join(name), mercy, chance, tree, losses);
                }
            }
        }
    }
}

fn leave_bytes(durable: &[u8], pending: &[(u64, Step)], mercy: Mercy, chance: &mut Chance, losses: &mut Losses) -> Vec<u8> {
    let mut bytes = durable.to_vec();
    // Each file has its own odds, so that some lose everything and some a sector.
    let odds = match mercy {
        Mercy::None => 0.0,
        Mercy::Some => [0.0, 0.1, 0.5, 0.9, 1.0][chance.random_range(0..5)],
        Mercy::All => 1.0,
    };
    for (_, step) in pending {
        match step {
            Step::Write(at, data) => {
                let mut start = 0;
                while start < data.len() {
                    let offset = at + start as u64;
                    let size = ((SECTOR - offset % SECTOR) as usize).min(data.len() - start);
                    if chance.random_bool(odds) {
                        apply_step(&mut bytes, &Step::Write(offset, data[start..start + size].to_vec()));
                        losses.sectors_kept += 1;
                    } else {
                        losses.sectors_dropped += 1;
                    }
                    start += size;
                }
            }
            other if chance.random_bool(odds) => apply_step(&mut bytes, other),
            _ => {}
        }
    }
    bytes
}

fn cut(journal: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let head = journal.get(..HEAD)?;
    let u16_at = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
    let u32_at = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
    let u64_at = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
    let (a, b) = (u32_at(4), u32_at(8));
    let body = journal.get(HEAD..HEAD + a + b)?;
    let record =
        Record { kind: u16_at(0), flags: u16_at(2), inode: u64_at(16), x: u64_at(24), y: u64_at(32), a: &body[..a], b: &body[a..] };
    Some((record, &journal[HEAD + a + b..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "/disk";

    fn record(kind: u16, inode: u64, x: u64, a: &str, b: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(&0u16.to_le_bytes());
        out.extend_from_slice(&(a.len() as u32).to_le_bytes());
        out.extend_from_slice(&(b.len() as u32).to_le_bytes());
        out.extend_from_slice(&0u32.to_le_bytes());
        for number in [inode, x, 0] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(a.as_bytes());
        out.extend_from_slice(b);
        out
    }

    fn disk(records: &[Vec<u8>]) -> Disk {
        let mut disk = Disk::of(Path::new(ROOT), &Tree::new());
        disk.follow(&records.concat()).expect("a journal that can be followed");
        disk
    }

    fn left(disk: &Disk, mercy: Mercy) -> Tree {
        disk.cut(mercy, &mut crate::chance(7, "cut")).0
    }

    fn bytes<'a>(tree: &'a Tree, path: &str) -> Option<&'a [u8]> {
        match tree.get(Path::new(path)) {
            Some(Leaf::File(bytes)) => Some(bytes),
            _ => None,
        }
    }

    /// A file's sync keeps its bytes and not its name; a folder's sync keeps names and no bytes.
    #[test]
    fn bytes_and_names_are_synced_apart() {
        let write = [record(1, 1, 0, "/disk/a", b""), record(3, 1, 0, "", b"one")];
        let sync_file = [record(6, 1, 1, "", b""), record(7, 1, 1, "", b"")];
        let sync_dir = [record(12, 9, 2, "/disk", b""), record(7, 9, 2, "", b"")];
        assert_eq!(bytes(&left(&disk(&[&write[..], &sync_file].concat()), Mercy::None), "a"), None);
        assert_eq!(bytes(&left(&disk(&[&write[..], &sync_dir].concat()), Mercy::None), "a"), Some(&b""[..]));
        assert_eq!(bytes(&left(&disk(&[&write[..], &sync_file, &sync_dir].concat()), Mercy::None), "a"), Some(&b"one"[..]));
        assert_eq!(bytes(&left(&disk(&write), Mercy::All), "a"), Some(&b"one"[..]));
    }

    /// What is written while a sync runs is not covered by it, and a sync that did not end covers nothing.
    #[test]
    fn a_sync_covers_what_came_before_its_beginning() {
        let named = [record(1, 1, 0, "/disk/a", b""), record(12, 9, 1, "/disk", b""), record(7, 9, 1, "", b"")];
        let first = [record(3, 1, 0, "", b"one"), record(6, 1, 2, "", b""), record(3, 1, 3, "", b"two")];
        let ended = [record(7, 1, 2, "", b"")];
        assert_eq!(bytes(&left(&disk(&[&named[..], &first].concat()), Mercy::None), "a"), Some(&b""[..]));
        assert_eq!(bytes(&left(&disk(&[&named[..], &first, &ended].concat()), Mercy::None), "a"), Some(&b"one"[..]));
    }

    /// A rename that is not durable leaves the old name, and a folder's loss takes what is in it along.
    #[test]
    fn names_come_back() {
        let made = [record(10, 0, 0, "/disk/d", b""), record(1, 1, 0, "/disk/d/old", b"")];
        let dir = [record(12, 9, 1, "/disk/d", b""), record(7, 9, 1, "", b"")];
        let root = [record(12, 8, 2, "/disk", b""), record(7, 8, 2, "", b"")];
        let moved = [record(8, 0, 0, "/disk/d/old", b"/disk/d/new")];
        assert!(left(&disk(&[&made[..], &dir, &moved].concat()), Mercy::None).is_empty());
        let tree = left(&disk(&[&made[..], &dir, &root, &moved].concat()), Mercy::None);
        assert!(bytes(&tree, "d/old").is_some() && bytes(&tree, "d/new").is_none());
    }

    /// Writes tear at sectors, and the same chances tear them the same way.
    #[test]
    fn same_seed_same_bytes() {
        let named = [record(1, 1, 0, "/disk/a", b""), record(12, 9, 1, "/disk", b""), record(7, 9, 1, "", b"")];
        let disk = disk(&[&named[..], &[record(3, 1, 100, "", &[5; 8000])]].concat());
        let mut torn = false;
        for seed in 0..20 {
            let cut = || disk.cut(Mercy::Some, &mut crate::chance(seed, "cut")).0;
            let (one, two) = (cut(), cut());
            assert!(one == two, "seed {seed} gave two trees");
            let kept = bytes(&one, "a").expect("the name is durable");
            let sectors: Vec<bool> = kept.chunks(512).skip(1).map(|sector| sector.contains(&5)).collect();
            assert!(kept.chunks(512).skip(1).all(|sector| sector.iter().all(|b| *b == sector[0])), "a sector is torn inside");
            torn |= sectors.contains(&true) && sectors.contains(&false);
        }
        assert!(torn, "no seed tore the write");
    }

    /// A journal cut off by the death of its writer ends before its last whole record.
    #[test]
    fn an_unfinished_record_is_left_out() {
        let whole = [record(1, 1, 0, "/disk/a", b""), record(3, 1, 0, "", b"one")].concat();
        for size in 0..whole.len() {
            let mut disk = Disk::of(Path::new(ROOT), &Tree::new());
            disk.follow(&whole[..size]).expect("a prefix can be followed");
        }
    }
}
