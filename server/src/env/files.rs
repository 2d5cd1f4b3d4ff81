//! Files: the few operations a durable room needs, and their implementation over the operating system.
//!
//! In: paths, offsets and bytes. Out: `io::Result`. The errors keep their `io::ErrorKind`, so a full disk is always
//! `StorageFull`. Invariants a caller may lean on:
//! - `write_at` writes everything or fails; what a failed write left behind is unknown;
//! - bytes are durable only after `DataFile::sync`, names only after `Files::sync_dir`;
//! - a failed `sync` says nothing about earlier writes: the caller must stop trusting the file.
//!
//! The simulated twin is `files_sim`. Two implementations exist and are chosen at run time, hence `Arc<dyn Files>`: a
//! virtual call costs nothing beside a system call.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

/// How `Files::open` treats a file that exists or does not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenMode {
    /// The file must exist; it is never changed through this handle.
    Read,
    /// The file must exist.
    ReadWrite,
    /// The file must not exist yet (`AlreadyExists` otherwise).
    CreateNew,
}

/// A held exclusive lock; dropping it lets the next opener in.
pub trait FileLock: Send + Sync {}

/// A directory tree of files.
pub trait Files: Send + Sync {
    /// Opens one file.
    ///
    /// # Errors
    /// `NotFound` or `AlreadyExists` by `mode`, or what the system says.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DataFile>>;

    /// Creates a directory and its missing parents, durably; a directory that exists is fine.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Names (not paths) in a directory, sorted. `NotFound` when there is no such directory.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Renames within one file system, replacing the target.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Takes an exclusive lock on a file, creating it when missing.
    ///
    /// # Errors
    /// `WouldBlock` when another holder, in this process or another, has it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn FileLock>>;
}

/// One open file, addressed by offset; shared freely between threads.
pub trait DataFile: Send + Sync {
    /// Reads up to `buffer.len()` bytes at `offset`; 0 at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `data` at `offset`, growing the file when needed.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;

    /// Makes every completed write durable (`fdatasync`: data and length, not time stamps).
    fn sync(&self) -> io::Result<()>;

    /// Bytes in the file.
    fn size(&self) -> io::Result<u64>;

    /// Reserves `size` bytes of space and makes the file that long; new bytes read as zero.
    ///
    /// # Errors
    /// `StorageFull` when the space is not there.
    fn preallocate(&self, size: u64) -> io::Result<()>;

    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file ends first.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            match self.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The operating system's files.
#[derive(Clone, Copy, Default, Debug)]
pub struct RealFiles;

impl RealFiles {
    /// The implementation behind the pointer type that rooms take.
    #[must_use]
    pub fn shared() -> Arc<dyn Files> {
        Arc::new(RealFiles)
    }
}

/// What is kept holds what clients keep from each other: nobody but the server's own user may read it, whatever the umask.
const PRIVATE_DIR: u32 = 0o700;
const PRIVATE_FILE: u32 = 0o600;

/// Takes others' permissions off a folder that is there; true when there were any.
///
/// # Errors
/// When the folder is another user's, or cannot be asked.
pub fn close_to_others(dir: &Path) -> io::Result<bool> {
    let mode = fs::metadata(dir)?.permissions().mode() & 0o777;
    if mode & !PRIVATE_DIR == 0 {
        return Ok(false);
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(mode & PRIVATE_DIR)).map(|()| true)
}

impl Files for RealFiles {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DataFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(mode != OpenMode::Read).create_new(mode == OpenMode::CreateNew).mode(PRIVATE_FILE);
        Ok(Arc::new(RealFile(options.open(path)?)))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let missing: Vec<&Path> =
            path.ancestors().filter(|dir| !dir.as_os_str().is_empty()).take_while(|dir| !dir.exists()).collect();
        fs::DirBuilder::new().recursive(true).mode(PRIVATE_DIR).create(path)?;
        for parent in missing.iter().filter_map(|dir| dir.parent()) {
            // The parent of a bare relative name is the current directory.
            self.sync_dir(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })?;
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn FileLock>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(PRIVATE_FILE).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(RealLock { _file: file })),
            Err(fs::TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }
}

struct RealFile(File);

impl DataFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn preallocate(&self, size: u64) -> io::Result<()> {
        match reserve(&self.0, size) {
            // Some file systems cannot reserve; the length alone keeps the layout, space is then found write by write.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => self.0.set_len(size),
            other => other,
        }
    }
}

/// Reserves blocks through `fallocate(2)`, which the standard library does not offer.
#[expect(unsafe_code, reason = "one system call on a descriptor that the borrow keeps open; no memory is shared")]
fn reserve(file: &File, size: u64) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let size = libc::off_t::try_from(size).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    loop {
        // SAFETY: the descriptor is open for as long as `file` is borrowed and the call touches no memory of ours.
        if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, size) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// The lock lives as long as the open description does.
struct RealLock {
    _file: File,
}

impl FileLock for RealLock {}
