//! Rows beside the key space that a copy of it needs: leases, alarms, auth; and which of them changed since a copier looked last.
//!
//! In: keys of such rows as they are written. Out, to each copier: everything at first, then the rows that were touched, with their
//! values now. A row that changed and changed back is told as well: a snapshot may have caught it in between.
//!
//! Invariants: a key is noted after its row can be read, so a value that is told is never older than the note; what a copier has not
//! fetched is bounded by [`KEYS`], beyond that it is told everything again.

use crate::base::kind::sys;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Keys that wait for a copier.
const KEYS: usize = 100_000;

#[derive(Default)]
struct Inner {
    next: u64,
    /// `None`: everything may have changed.
    by_copier: BTreeMap<u64, Option<BTreeSet<Bytes>>>,
}

/// Who copies, and what each has not seen.
#[derive(Default)]
pub(super) struct Journal {
    copiers: AtomicUsize,
    inner: Mutex<Inner>,
}

impl Journal {
    /// A row was written or deleted.
    pub fn note(&self, key: &Bytes) {
        if self.copiers.load(Ordering::Acquire) == 0 || !key.first().is_some_and(|tag| sys::SIDE.contains(tag)) {
            return;
        }
        for waiting in self.inner.lock().by_copier.values_mut() {
            if let Some(keys) = waiting {
                keys.insert(key.clone());
                if keys.len() > KEYS {
                    *waiting = None;
                }
            }
        }
    }

    /// Other rows took the place of all there were.
    pub fn replaced(&self) {
        self.inner.lock().by_copier.values_mut().for_each(|waiting| *waiting = None);
    }
}

/// One who copies; what it has not seen is kept while it lives.
pub struct SideCopier {
    journal: Arc<Journal>,
    id: u64,
}

impl SideCopier {
    pub(super) fn new(journal: &Arc<Journal>) -> Self {
        let mut inner = journal.inner.lock();
        inner.next += 1;
        let id = inner.next;
        inner.by_copier.insert(id, None);
        journal.copiers.store(inner.by_copier.len(), Ordering::Release);
        Self { journal: journal.clone(), id }
    }

    /// The keys touched since it was asked last; `None`: everything.
    pub(super) fn fetch(&self) -> Option<BTreeSet<Bytes>> {
        let mut inner = self.journal.inner.lock();
        inner.by_copier.get_mut(&self.id).and_then(|waiting| waiting.replace(BTreeSet::new()))
    }
}

impl Drop for SideCopier {
    fn drop(&mut self) {
        let mut inner = self.journal.inner.lock();
        inner.by_copier.remove(&self.id);
        self.journal.copiers.store(inner.by_copier.len(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each copier is told everything once, then what was touched, then nothing; rows of other kinds are nobody's business.
    #[test]
    fn what_was_touched() {
        let journal = Arc::<Journal>::default();
        journal.note(&sys::lease(1));
        let copier = SideCopier::new(&journal);
        assert_eq!(copier.fetch(), None);
        journal.note(&sys::lease(2));
        journal.note(&sys::lease(2));
        journal.note(&sys::lease_key(2, b"k"));
        let late = SideCopier::new(&journal);
        journal.note(&sys::alarm(1, 7));
        assert_eq!(copier.fetch().unwrap(), BTreeSet::from([sys::lease(2), sys::alarm(1, 7)]));
        assert_eq!((copier.fetch().unwrap().len(), late.fetch()), (0, None));
        drop(late);
        for n in 0..=KEYS {
            journal.note(&sys::lease(n as i64));
        }
        assert_eq!((copier.fetch(), copier.fetch().unwrap().len()), (None, 0));
        journal.replaced();
        assert_eq!(copier.fetch(), None);
    }
}
