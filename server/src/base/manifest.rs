//! Manifest: the end of RocksDB's list of files that a power cut tore.
//!
//! RocksDB appends what it did to `MANIFEST-<n>`, in records with checksums, and relies on a record only once the file is synced. Of
//! records that were not, a power cut may leave some sectors and lose others. RocksDB takes a list that ends early for whole, but one
//! whose last sectors outlived those before them for damaged, and refuses it. Here such an end is found, the rows are shown as they
//! were before it, and it is cut off.
//!
//! In: a folder of rows. Out: where the whole records end. Invariants: looking changes nothing in the folder; a folder that is open is
//! not cut; nothing before the first record that is not whole is ever cut. Whether what follows was relied on cannot be seen here: that
//! the files of the shorter list are all there, and that the log has every entry since, is for the caller to look at, in the view,
//! before the cut.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Bytes of a block; no record's head crosses its end (RocksDB's `db/log_format.h`).
const BLOCK: usize = 32 << 10;
/// Bytes of a head: a masked crc32c of type and payload, the payload's length, the type.
const HEAD: usize = 7;
/// Types of a piece that ends its record: one that is whole, and the last of several.
const ENDS: [u8; 2] = [1, 4];

/// Bytes of the whole records at the beginning of a list.
fn whole(list: &[u8]) -> usize {
    let (mut at, mut end) = (0, 0);
    loop {
        let left = BLOCK - at % BLOCK;
        if left < HEAD {
            at += left;
        }
        let Some(head) = list.get(at..at + HEAD) else { return end };
        let size = usize::from(u16::from_le_bytes([head[4], head[5]]));
        let crc = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        let Some(body) = list.get(at + HEAD - 1..at + HEAD + size) else { return end };
        if crc32c::crc32c(body).rotate_right(15).wrapping_add(0xa282_ead8) != crc {
            return end;
        }
        at += HEAD + size;
        if ENDS.contains(&head[6]) {
            end = at;
        }
    }
}

/// A list of files whose end is not whole.
#[derive(Debug)]
pub(super) struct Torn {
    dir: PathBuf,
    name: String,
    list: Vec<u8>,
    whole: usize,
}

/// The list in use, when its end is not whole; `None` also when not even its first record is, or when there is none.
///
/// # Errors
/// When the folder cannot be read.
pub(super) fn torn(dir: &Path) -> io::Result<Option<Torn>> {
    let read = |path: &Path| match fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        bytes => bytes.map(Some),
    };
    let Some(current) = read(&dir.join("CURRENT"))? else { return Ok(None) };
    let Ok(name) = String::from_utf8(current) else { return Ok(None) };
    let name = name.trim_end().to_owned();
    // A name with a slash could lead anywhere.
    if !name.starts_with("MANIFEST-") || name.contains('/') {
        return Ok(None);
    }
    let Some(list) = read(&dir.join(&name))? else { return Ok(None) };
    let whole = whole(&list);
    Ok((whole > 0 && whole < list.len()).then(|| Torn { dir: dir.to_path_buf(), name, list, whole }))
}

/// Keeps other processes from opening the folder's rows, as RocksDB itself does; `None` when some process, this one included, has them
/// open. What looks torn then may be a record that it is writing.
///
/// # Errors
/// When the folder's lock cannot be opened.
pub(super) fn alone(dir: &Path) -> io::Result<Option<Alone>> {
    let file = match File::options().read(true).write(true).open(dir.join("LOCK")) {
        // RocksDB makes it before it opens anything.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Some(Alone(None))),
        file => file?,
    };
    match lock(&file) {
        Ok(()) => Ok(Some(Alone(Some(file)))),
        Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
            // To close any descriptor of a file ends all locks that RocksDB has on it in this process.
            std::mem::forget(file);
            Ok(None)
        }
        // A kernel that knows no such locks.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(Some(Alone(Some(file)))),
        Err(e) => Err(e),
    }
}

/// The folder's lock, until it is dropped.
pub(super) struct Alone(#[expect(dead_code, reason = "held for its lock")] Option<File>);

/// Takes the lock that RocksDB takes, for this descriptor alone; never waits.
#[expect(unsafe_code, reason = "one system call on a descriptor that the borrow keeps open; it reads one value of ours")]
fn lock(file: &File) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let whole = libc::flock { l_type: libc::F_WRLCK as _, l_whence: libc::SEEK_SET as _, l_start: 0, l_len: 0, l_pid: 0 };
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and the call only reads `whole`.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const whole) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Torn {
    /// The rows as the whole records have them, in a folder of links beside theirs, gone with the view.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn view(&self) -> io::Result<View> {
        // Named as a folder of rows that is not in use: should this process die, the next start clears it away.
        let view = View { path: self.dir.with_file_name(format!("db.view.{:016x}", rand::random::<u64>())) };
        fs::create_dir(&view.path)?;
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if entry.path().extension().is_some_and(|kind| kind == "sst") {
                // A process that writes here may have dropped it meanwhile.
                match fs::hard_link(entry.path(), view.path.join(entry.file_name())) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                    _ => {}
                }
            }
        }
        fs::copy(self.dir.join("CURRENT"), view.path.join("CURRENT"))?;
        fs::write(view.path.join(&self.name), &self.list[..self.whole])?;
        Ok(view)
    }

    /// Cuts the end off; durable on return.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn cut(&self) -> io::Result<()> {
        let path = self.dir.join(&self.name);
        let file = File::options().write(true).open(&path)?;
        file.set_len(self.whole as u64)?;
        file.sync_all()?;
        tracing::warn!(
            file = %path.display(),
            offset = self.whole,
            bytes = self.list.len() - self.whole,
            "cut an unfinished write off the list of files"
        );
        Ok(())
    }
}

/// A folder of links, removed with its owner.
pub(super) struct View {
    pub path: PathBuf,
}

impl Drop for View {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir_all(&self.path) {
            tracing::warn!(folder = %self.path.display(), error = %e, "a view of the rows could not be removed; the next start tries again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Base, BaseError, Batch, Family, RocksBase, RocksOptions};
    use super::*;

    const OPTIONS: RocksOptions = RocksOptions { block_cache: 1 << 20, write_buffer: 1 << 20, background_jobs: 2 };

    fn write(base: &RocksBase, n: u32) {
        let mut batch = Batch::default();
        Family::ALL.iter().for_each(|family| batch.put(*family, n.to_be_bytes().to_vec(), vec![n as u8; 100]));
        base.write(batch).unwrap();
        base.flush().unwrap();
    }

    fn list(dir: &Path) -> PathBuf {
        dir.join(fs::read_to_string(dir.join("CURRENT")).unwrap().trim_end())
    }

    /// The newest row, which must be in all families or in none.
    fn newest(base: &RocksBase) -> u32 {
        let has = |n: u32| Family::ALL.map(|family| base.get(family, &n.to_be_bytes()).unwrap().is_some());
        (0..10).take_while(|n| has(*n) == [true; 4]).inspect(|n| assert!(*n < 9)).last().map_or(0, |n| {
            assert_eq!(has(n + 1), [false; 4]);
            n
        })
    }

    /// A folder of rows 0 to 4, its list's length after row 3, and its list.
    fn rows(dir: &Path) -> (u64, Vec<u8>) {
        let base = RocksBase::open(dir, OPTIONS).unwrap();
        (0..4).for_each(|n| write(&base, n));
        let synced = fs::metadata(list(dir)).unwrap().len();
        write(&base, 4);
        let bytes = fs::read(list(dir)).unwrap();
        drop(base);
        (synced, bytes)
    }

    fn twin(dir: &Path, of: &Path, bytes: &[u8]) {
        fs::create_dir(dir).unwrap();
        for entry in fs::read_dir(of).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), dir.join(entry.file_name())).unwrap();
        }
        fs::write(list(dir), bytes).unwrap();
    }

    /// Whatever a power cut leaves of the records of one flush, the rows open as they were before or after it: to be looked at, with
    /// nothing changed, and to be used.
    #[test]
    fn a_torn_end_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let first = dir.path().join("db");
        let (synced, bytes) = rows(&first);
        let (synced, end) = (synced as usize, bytes.len());
        let mut cases: Vec<Vec<u8>> = Vec::new();
        for at in (synced..end).step_by(29) {
            // Ends here, was never written up to here, or lacks some bytes in the middle.
            cases.push(bytes[..at].to_vec());
            cases.push([&bytes[..synced], &vec![0; at - synced], &bytes[at..]].concat());
            let until = (at + 40).min(end);
            cases.push([&bytes[..at], &vec![0; until - at], &bytes[until..]].concat());
        }
        let mut cut = 0;
        for (n, case) in cases.iter().enumerate() {
            let dir = dir.path().join(format!("{n}")).join("db");
            fs::create_dir(dir.parent().unwrap()).unwrap();
            twin(&dir, &first, case);
            RocksBase::verify(&dir, OPTIONS).unwrap_or_else(|e| panic!("case {n}: {e}"));
            let seen = newest(&RocksBase::open_read_only(&dir, OPTIONS).unwrap());
            assert_eq!(fs::read(list(&dir)).unwrap(), *case, "looking changed the list");
            assert_eq!(fs::read_dir(dir.parent().unwrap()).unwrap().count(), 1, "a view was left");
            let base = RocksBase::open(&dir, OPTIONS).unwrap();
            assert_eq!(newest(&base), seen);
            assert!(seen >= 3, "case {n} lost row 3");
            cut += u32::from(seen == 3);
            write(&base, seen + 1);
            drop(base);
            assert_eq!(newest(&RocksBase::open(&dir, OPTIONS).unwrap()), seen + 1);
        }
        assert!(cut > 20, "{cut}");
    }

    /// A folder that is open is left as it is, whatever its list looks like: its owner may be writing just then.
    #[test]
    fn a_list_in_use_is_not_cut() {
        let dir = tempfile::tempdir().unwrap();
        let rows = dir.path().join("db");
        let base = RocksBase::open(&rows, OPTIONS).unwrap();
        write(&base, 0);
        let mut bytes = fs::read(list(&rows)).unwrap();
        bytes.extend([7; 5]);
        fs::write(list(&rows), &bytes).unwrap();
        for _ in 0..2 {
            // The second time shows that the first has not ended the owner's lock.
            let refused = RocksBase::open(&rows, OPTIONS).err();
            assert!(matches!(refused, Some(BaseError::Locked(_))), "{refused:?}");
            assert_eq!(fs::read(list(&rows)).unwrap(), bytes);
        }
        assert!(alone(&rows).unwrap().is_none());
        drop(base);
        assert_eq!(newest(&RocksBase::open(&rows, OPTIONS).unwrap()), 0);
    }

    /// A list that is damaged where files were already dropped on its word is refused, and the files stay.
    #[test]
    fn damage_is_still_refused() {
        let dir = tempfile::tempdir().unwrap();
        let rows_dir = dir.path().join("db");
        let base = RocksBase::open(&rows_dir, OPTIONS).unwrap();
        write(&base, 0);
        let files = fs::read_dir(&rows_dir).unwrap().map(|entry| entry.unwrap().path());
        let dropped: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|kind| kind == "sst")).collect();
        // Joined with their deletions the rows are gone, and RocksDB removes their files when it comes to it.
        let mut batch = Batch::default();
        Family::ALL.iter().for_each(|family| batch.delete(*family, 0u32.to_be_bytes().to_vec()));
        base.write(batch).unwrap();
        base.flush().unwrap();
        let at = fs::metadata(list(&rows_dir)).unwrap().len() as usize;
        base.reclaim().unwrap();
        drop(base);
        assert!(dropped.iter().map(fs::remove_file).all(|gone| gone.is_ok()));
        let mut bytes = fs::read(list(&rows_dir)).unwrap();
        bytes[at + 20] ^= 1;
        fs::write(list(&rows_dir), &bytes).unwrap();
        let before = fs::read_dir(&rows_dir).unwrap().count();
        let refused = RocksBase::verify(&rows_dir, OPTIONS);
        assert!(matches!(&refused, Err(BaseError::Corrupt(why)) if !why.contains("view")), "{refused:?}");
        assert_eq!(fs::read(list(&rows_dir)).unwrap(), bytes);
        assert_eq!(fs::read_dir(&rows_dir).unwrap().count(), before);
    }

    /// Records that cross blocks are followed to their end.
    #[test]
    fn long_records_are_whole() {
        let mut list = Vec::new();
        let piece = |list: &mut Vec<u8>, kind: u8, size: usize| {
            let body = [vec![kind], vec![7; size]].concat();
            let crc = crc32c::crc32c(&body).rotate_right(15).wrapping_add(0xa282_ead8);
            list.extend([&crc.to_le_bytes()[..], &(size as u16).to_le_bytes(), &body].concat());
        };
        piece(&mut list, 1, 100);
        let short = list.len();
        piece(&mut list, 2, BLOCK - short - HEAD);
        piece(&mut list, 3, BLOCK - HEAD);
        assert_eq!(whole(&list), short);
        piece(&mut list, 4, BLOCK - HEAD - 3);
        assert_eq!(whole(&list), list.len());
        // Three bytes are left of the block: too few for a head.
        let long = list.len();
        list.extend([0; 3]);
        assert_eq!(whole(&list), long);
        piece(&mut list, 1, 0);
        assert_eq!(whole(&list), list.len());
    }
}
