//! Pool: files that wait to become segments.
//!
//! A file whose blocks were written before takes a synced write without a journal commit, so purged segments are kept
//! here, and when there are none, one spare is filled with zeros little by little. Names: `making-*` while it is filled,
//! `spare-*` once it may be used. Invariant: no file here has a segment's durable name.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::segment::FileName;
use crate::env::files::{DataFile, Files, OpenMode};

/// Most spares kept; one to rotate into and one in reserve.
const SPARES_MOST: usize = 2;
/// Zeros are written and synced in steps of this many bytes, so that no sync of the log waits behind a large one.
const STEP_SIZE: u64 = 1 << 20;
/// Within a step, zeros go out in writes of this many bytes. The page cache keeps one large folio for a large write, and from then on
/// each small log write dirties, and is billed as, the whole of it: a megabyte for a few hundred bytes.
const ZEROS: &[u8] = &[0; 4096];

/// A file that may become a segment.
pub struct Spare {
    pub path: PathBuf,
    pub file: Arc<dyn DataFile>,
    pub size: u64,
}

struct Making {
    spare: Spare,
    number: u64,
    filled: u64,
}

/// The spares of one log.
pub struct Pool {
    files: Arc<dyn Files>,
    dir: PathBuf,
    spares: VecDeque<Spare>,
    making: Option<Making>,
    next_number: u64,
}

impl Pool {
    /// An empty pool.
    pub fn new(files: Arc<dyn Files>, dir: &Path) -> Self {
        Pool { files, dir: dir.to_path_buf(), spares: VecDeque::new(), making: None, next_number: 1 }
    }

    /// Takes over what an earlier run left: finished spares that fit, the rest is removed.
    pub fn adopt(&mut self, names: &[String], size: u64) -> io::Result<()> {
        for name in names {
            let path = self.dir.join(name);
            match FileName::parse(name) {
                Some(FileName::Spare(number)) => {
                    self.next_number = self.next_number.max(number.saturating_add(1));
                    let file = self.files.open(&path, OpenMode::ReadWrite)?;
                    let spare = Spare { size: file.size()?, path, file };
                    if self.wants(spare.size, size) {
                        self.spares.push_back(spare);
                    } else {
                        self.files.remove(&spare.path)?;
                    }
                }
                Some(FileName::Making(number)) => {
                    self.next_number = self.next_number.max(number.saturating_add(1));
                    self.files.remove(&path)?;
                }
                Some(FileName::Segment(_)) | None => {}
            }
        }
        Ok(())
    }

    /// Whether a file of `size` bytes is worth keeping while segments are `target` bytes.
    fn wants(&self, size: u64, target: u64) -> bool {
        self.spares.len() < SPARES_MOST && (target..=target * 2).contains(&size)
    }

    /// Takes a spare of at least `size` bytes, or makes a file of that size now, without filling it.
    pub fn take(&mut self, size: u64) -> io::Result<Spare> {
        if let Some(position) = self.spares.iter().position(|spare| spare.size >= size)
            && let Some(spare) = self.spares.remove(position)
        {
            return Ok(spare);
        }
        let making = self.begin(size)?;
        Ok(making.spare)
    }

    /// Keeps a purged segment as a spare or removes it. The caller syncs the directory before the next `take`.
    pub fn give_back(&mut self, path: &Path, file: Arc<dyn DataFile>, size: u64, target: u64) -> io::Result<()> {
        if !self.wants(size, target) {
            return self.files.remove(path);
        }
        let number = self.number();
        let spare_path = self.dir.join(FileName::Spare(number).to_string());
        self.files.rename(path, &spare_path)?;
        self.spares.push_back(Spare { path: spare_path, file, size });
        Ok(())
    }

    /// Removes spares that no longer suit segments of `target` bytes; tells whether there were any.
    pub fn trim(&mut self, target: u64) -> io::Result<bool> {
        let before = std::mem::take(&mut self.spares);
        let count = before.len();
        for spare in before {
            if self.wants(spare.size, target) {
                self.spares.push_back(spare);
            } else {
                self.files.remove(&spare.path)?;
            }
        }
        if self.making.as_ref().is_some_and(|making| making.spare.size > target * 2)
            && let Some(making) = self.making.take()
        {
            self.files.remove(&making.spare.path)?;
            return Ok(true);
        }
        Ok(self.spares.len() < count)
    }

    /// Bytes of all files in the pool.
    pub fn size(&self) -> u64 {
        let making = self.making.as_ref().map_or(0, |making| making.spare.size);
        making + self.spares.iter().map(|spare| spare.size).sum::<u64>()
    }

    /// Whether `prepare` has something to do.
    pub fn needs_spare(&self, target: u64) -> bool {
        !self.spares.iter().any(|spare| spare.size >= target)
    }

    /// One bounded step towards a spare of `target` bytes: at most `STEP_SIZE` bytes are written and synced.
    ///
    /// # Errors
    /// The half-made file is removed; the log itself is not touched.
    pub fn prepare(&mut self, target: u64) -> io::Result<()> {
        let mut making = match self.making.take() {
            Some(making) if making.spare.size >= target => making,
            Some(stale) => {
                self.files.remove(&stale.spare.path)?;
                self.begin(target)?
            }
            None => self.begin(target)?,
        };
        match self.fill(&mut making) {
            Ok(true) => {
                let path = self.dir.join(FileName::Spare(making.number).to_string());
                self.files.rename(&making.spare.path, &path)?;
                self.spares.push_back(Spare { path, ..making.spare });
                Ok(())
            }
            Ok(false) => {
                self.making = Some(making);
                Ok(())
            }
            Err(error) => {
                // The first error is the one to tell; a leftover is removed at the next start.
                let _ = self.files.remove(&making.spare.path);
                Err(error)
            }
        }
    }

    fn fill(&self, making: &mut Making) -> io::Result<bool> {
        let step = STEP_SIZE.min(making.spare.size - making.filled);
        for at in (0..step).step_by(ZEROS.len()) {
            let zeros = &ZEROS[..ZEROS.len().min((step - at) as usize)];
            making.spare.file.write_at(zeros, making.filled + at)?;
        }
        making.spare.file.sync()?;
        making.filled += step;
        Ok(making.filled == making.spare.size)
    }

    /// Creates a file with reserved space.
    fn begin(&mut self, size: u64) -> io::Result<Making> {
        let number = self.number();
        let path = self.dir.join(FileName::Making(number).to_string());
        let file = self.files.open(&path, OpenMode::CreateNew)?;
        if let Err(error) = file.preallocate(size) {
            let _ = self.files.remove(&path);
            return Err(error);
        }
        Ok(Making { spare: Spare { path, file, size }, number, filled: 0 })
    }

    fn number(&mut self) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        number
    }
}
