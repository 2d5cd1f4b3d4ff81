//! Compaction: a mark that hides old history at once, and a paced sweep that removes its rows.
//!
//! Kept at compaction revision C: for each key its newest version at or before C, unless that is a deletion older than C. The sweep
//! walks `hist`, which has a row for each superseded version, and so costs what was superseded, not what is alive. It runs on the
//! checkpoint thread, the only writer of the durable rows, over rows a checkpoint has made durable; it is safe to cut short and
//! start again.

use super::{ReadError, Rows};
use crate::base::kind::latest::Latest;
use crate::base::kind::{hist, log, sys};
use crate::base::{BaseError, Batch, Family};
use crate::env::plant::{self, Plant};
use bytes::Bytes;
use std::collections::HashSet;
use std::sync::atomic::Ordering;

/// How far one sweep has come.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    target: i64,
    from: Bytes,
}

impl Sweep {
    /// The compaction revision this sweep works towards.
    pub fn target(&self) -> i64 {
        self.target
    }
}

impl Rows {
    /// Marks history below `rev` as gone. The deterministic half: readers refuse from here on.
    pub(crate) fn compact(&self, rev: i64) -> Result<(), ReadError> {
        if rev <= self.compact_revision() {
            return Err(ReadError::Compacted);
        }
        if rev > self.revision() {
            return Err(ReadError::FutureRevision);
        }
        self.compacted.store(rev, Ordering::Release);
        self.mark(sys::COMPACT, rev);
        Ok(())
    }

    fn mark(&self, tag: u8, rev: i64) {
        self.put_sys(sys::single(tag), Some(Bytes::copy_from_slice(&rev.to_be_bytes())));
    }

    /// The revision up to which superseded rows have been removed.
    pub fn swept_revision(&self) -> i64 {
        *self.swept.lock()
    }

    /// Waits until rows superseded at or before `rev` have been removed; false when other rows took the place of these first.
    pub async fn compaction_done(&self, rev: i64) -> bool {
        loop {
            let notified = self.swept_notify.notified();
            if self.swept_revision() >= rev {
                return true;
            }
            if self.retired.load(Ordering::Acquire) {
                return false;
            }
            notified.await;
        }
    }

    /// Other rows took the place of these: whoever waits here looks again, and the files go once nobody reads them.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        self.swept_notify.notify_waiters();
        self.base.retire();
    }

    /// The compaction mark among the durable rows; below 1 when there is none.
    pub(crate) fn durable_mark(&self) -> Result<i64, BaseError> {
        let row = self.base.get(Family::Sys, &sys::single(sys::COMPACT))?;
        let row = row.map(|r| r.as_ref().try_into().map_err(|_| BaseError::Corrupt("the compaction mark".into())));
        Ok(row.transpose()?.map_or(-1, i64::from_be_bytes))
    }

    /// A sweep to run, when the mark is ahead of the rows.
    pub(crate) fn next_sweep(&self) -> Option<Sweep> {
        let target = self.compact_revision();
        (target > self.swept_revision()).then(|| Sweep { target, from: Bytes::new() })
    }

    /// Removes dead rows among the next `max` rows of `hist`; true when the sweep has ended. Every revision at or before the
    /// sweep's target must have been checkpointed, and the mark too: a member that starts again replays what came before the
    /// compaction, and must find what was there then.
    pub(crate) fn sweep(&self, sweep: &mut Sweep, max: usize) -> Result<bool, BaseError> {
        let target = sweep.target;
        // Before the first row goes: whoever walks looks here afterwards.
        self.sweeping.fetch_max(target, Ordering::SeqCst);
        // A sweep that goes on where an earlier one was cut short would hash what that one left.
        if sweep.from.is_empty() && !self.part_swept.swap(true, Ordering::AcqRel) {
            self.keep_hash(target, self.swept_revision())?;
        }
        let mut batch = Batch::default();
        let mut freed = Vec::new();
        // A deletion may be met twice: as a superseded version, and, after a checkpoint that was cut short, as what `latest` still says.
        let mut deletions = HashSet::new();
        let mut seen = 0;
        let mut cursor = self.base.cursor(Family::Hist, &sweep.from, None)?;
        let mut ended = true;
        while let Some((k, v)) = cursor.row() {
            if seen == max {
                sweep.from = Bytes::copy_from_slice(k);
                ended = false;
                break;
            }
            seen += 1;
            let (user_key, old) = hist::parse(k, v).ok_or_else(|| BaseError::Corrupt("a hist row".into()))?;
            if old.next.main <= target || (old.tombstone && old.rev.main < target) {
                let row = log::key(old.rev, old.tombstone);
                if let Some(kv) = self.base.get(Family::Log, &row)? {
                    freed.push((old.tombstone, kv.len()));
                    if old.tombstone {
                        deletions.insert(row.clone());
                    }
                    batch.delete(Family::Log, row);
                }
                // The deletion that ends a key's life is remembered by its predecessor's row alone: a row whose deletion lies at
                // the target itself, which must be kept, waits for the next sweep.
                if self.end_of_life(&user_key, old.next.main, target, &deletions, &mut batch, &mut freed)? {
                    batch.delete(Family::Hist, Bytes::copy_from_slice(k));
                }
            }
            cursor.advance()?;
        }
        drop(cursor);
        if !batch.is_empty() {
            self.forget(batch, &freed)?;
        }
        if ended {
            self.part_swept.store(false, Ordering::Release);
            *self.swept.lock() = target;
            self.mark(sys::SWEPT, target);
            self.swept_notify.notify_waiters();
        }
        Ok(ended)
    }

    /// Handles the version that followed a dead one when it is a deletion and the key's newest: removes it if it is older than
    /// the target. False when the dead version's `hist` row is still needed to find it.
    fn end_of_life(
        &self,
        user_key: &[u8],
        next: i64,
        target: i64,
        deletions: &HashSet<Bytes>,
        batch: &mut Batch,
        freed: &mut Vec<(bool, usize)>,
    ) -> Result<bool, BaseError> {
        let Some(row) = self.base.get(Family::Latest, user_key)? else {
            return Ok(true);
        };
        let latest = Latest::decode(&row).ok_or_else(|| super::read::corrupt("latest", user_key))?;
        if latest.rev.main != next || !latest.tombstone || next > target {
            return Ok(true);
        }
        if next == target && !plant::is(Plant::LostTombstone) {
            return Ok(false);
        }
        // A newer version of the key may wait in a delta; its checkpoint then writes `latest` again, with a `hist` row for this
        // deletion whose log row is gone: harmless, it is below the compaction mark.
        let row = log::key(latest.rev, true);
        if !deletions.contains(&row)
            && let Some(kv) = self.base.get(Family::Log, &row)?
        {
            freed.push((true, kv.len()));
            batch.delete(Family::Log, row);
        }
        batch.delete(Family::Latest, Bytes::copy_from_slice(user_key));
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use crate::base::kind::{hist, log, sys};
    use crate::base::{Base, Batch, Family, MemBase};
    use crate::mvcc::{DeltaPolicy, Store};
    use crate::types::{KeyRange, RangeEnd, Revision};
    use std::sync::Arc;

    /// A deletion that a sweep meets twice, since a checkpoint was cut short after the rows of `hist`, frees its bytes once: what counts
    /// against the quota stays the sum over the rows.
    #[test]
    fn a_deletion_is_freed_once() {
        let base = Arc::<MemBase>::default();
        let policy = DeltaPolicy { freeze_bytes: 1 << 20, inline: false };
        let open = || Store::open(Arc::new(base.clone()) as Arc<dyn Base>, policy).unwrap();
        let save = |store: &Store| {
            store.freeze();
            store.checkpoint(true).unwrap();
        };
        let store = open();
        for key in ["k", "other", "other"] {
            let mut write = store.write();
            write.put(key.as_bytes(), b"value", 0).unwrap();
            write.finish();
        }
        let mut write = store.write();
        write.delete_range(&KeyRange { start: "k".into(), end: RangeEnd::Single }).unwrap();
        write.finish();
        let deleted = store.revision();
        let mut write = store.write();
        write.put(b"other", b"value", 0).unwrap();
        write.finish();
        store.compact(store.revision()).unwrap();
        save(&store);
        // What a checkpoint of the key's next life had written when the process ended.
        let (rev, next) = (Revision { main: deleted, sub: 0 }, Revision { main: deleted + 2, sub: 0 });
        let mut batch = Batch::default();
        batch.put(Family::Hist, hist::key(b"k", rev), hist::value(true, next));
        base.write(batch).unwrap();
        drop(store);
        let store = open();
        let mut sweep = store.next_sweep().unwrap();
        while !store.sweep(&mut sweep, 100).unwrap() {}
        let mut sum = 0;
        let mut cursor = base.cursor(Family::Log, &[], None).unwrap();
        while let Some((key, kv)) = cursor.row() {
            sum += crate::mvcc::row_usage(log::parse_key(key).unwrap().1, kv.len());
            cursor.advance().unwrap();
        }
        let usage = base.get(Family::Sys, &sys::single(sys::USAGE)).unwrap().unwrap();
        assert_eq!(i64::from_be_bytes(usage.as_ref().try_into().unwrap()), sum);
    }
}
