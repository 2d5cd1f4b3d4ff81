//! Rows in memory for tests that look at how they are read, and have something happen in the middle of that.

use crate::base::{Base, BaseError, BaseSizes, Batch, Cursor, Family, MemBase, Pinned};
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

type Work = Box<dyn FnOnce() + Send>;

/// What is read before something happens.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    /// A cursor over the log is made.
    LogCursor,
    /// Several values are asked for.
    Values,
}

#[derive(Default)]
pub(super) struct Hooked {
    rows: Arc<MemBase>,
    /// Values asked for several at a time.
    pub asked: AtomicUsize,
    work: Mutex<Option<(At, usize, Work)>>,
}

impl Hooked {
    /// Before the `nth` such reading from now, counted from 1, `work` is done, once.
    pub fn before(&self, at: At, nth: usize, work: impl FnOnce() + Send + 'static) {
        *self.work.lock() = Some((at, nth, Box::new(work)));
    }

    /// True when it has been done.
    pub fn is_done(&self) -> bool {
        self.work.lock().is_none()
    }

    fn meet(&self, met: At) {
        let due = {
            let mut waiting = self.work.lock();
            match waiting.as_mut().filter(|(at, ..)| *at == met) {
                Some((_, left, _)) if *left > 1 => {
                    *left -= 1;
                    None
                }
                Some(_) => waiting.take(),
                None => None,
            }
        };
        // Outside of the lock: it reads here itself.
        if let Some((.., work)) = due {
            work();
        }
    }
}

impl Base for Arc<Hooked> {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, BaseError> {
        self.rows.get(family, key)
    }

    fn get_many(&self, family: Family, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, BaseError> {
        self.asked.fetch_add(keys.len(), Ordering::SeqCst);
        self.meet(At::Values);
        self.rows.get_many(family, keys)
    }

    fn cursor<'a>(&'a self, family: Family, lower: &[u8], upper: Option<&[u8]>) -> Result<Box<dyn Cursor + 'a>, BaseError> {
        if family == Family::Log {
            self.meet(At::LogCursor);
        }
        self.rows.cursor(family, lower, upper)
    }

    fn write(&self, batch: Batch) -> Result<(), BaseError> {
        self.rows.write(batch)
    }

    fn flush(&self) -> Result<(), BaseError> {
        self.rows.flush()
    }

    fn sizes(&self) -> BaseSizes {
        self.rows.sizes()
    }

    fn pinned(&self, work: &mut dyn FnMut(&dyn Pinned)) {
        self.rows.pinned(work);
    }
}
