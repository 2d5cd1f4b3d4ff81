//! The store as everyone holds it: a front that stays while a snapshot may put other rows behind it.
//!
//! Each call works on the rows that were there when it began, to its end: a reader never sees half of one state and half of another.
//! Both are states of the same history, the newer one further along.

use super::compact::Sweep;
use super::hold::Holds;
use super::side::{Journal, SideCopier};
use super::{
    DeltaPolicy, Found, HashKv, History, HistoryRow, Page, RangeResult, ReadError, RevisionEvents, Rows, Sizes, Stats, WriteTxn,
};
use crate::base::kind::sys;
use crate::base::{Base, BaseError};
use crate::env::busy::Busy;
use crate::types::{KeyRange, Revision};
use arc_swap::ArcSwap;
use bytes::Bytes;
use quorate_proto::RawKv;
use quorate_proto::entry;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// The store of revisions.
pub struct Store {
    rows: ArcSwap<Rows>,
    policy: DeltaPolicy,
    holds: Holds,
    journal: Arc<Journal>,
    pub stats: Arc<Stats>,
    reclaiming: Arc<AtomicBool>,
    closing: AtomicBool,
}

impl Store {
    /// Opens the store over its durable rows; the history goes on from where they end.
    pub fn open(base: Arc<dyn Base>, policy: DeltaPolicy) -> Result<Self, BaseError> {
        let stats = Arc::<Stats>::default();
        let rows = Rows::open(base, policy, stats.clone())?;
        // A sweep of an earlier life may have ended half way.
        let holds = Holds::new(rows.compact_revision());
        Ok(Self {
            rows: ArcSwap::from_pointee(rows),
            policy,
            holds,
            journal: Arc::default(),
            stats,
            reclaiming: Arc::default(),
            closing: AtomicBool::new(false),
        })
    }

    /// Puts other durable rows in place of all there is, memory included. Only the thread that writes the durable rows may call
    /// this, while the machine stands still. The old rows' files go when their last reader is done.
    pub(crate) fn replace(&self, base: Arc<dyn Base>) -> Result<(), BaseError> {
        let new = Rows::open(base, self.policy, self.stats.clone())?;
        self.holds.swept(new.compact_revision());
        self.rows.swap(Arc::new(new)).retire();
        if self.is_closing() {
            self.rows.load().close();
        }
        self.journal.replaced();
        Ok(())
    }

    /// The durable rows.
    pub(crate) fn base(&self) -> Arc<dyn Base> {
        self.rows.load().base.clone()
    }

    /// Begins to give the space of deleted rows back to the disk, on a thread of its own; does nothing while that is under way. Reads
    /// and writes go on.
    pub fn begin_reclaim(&self) {
        let Some(busy) = Busy::begin(&self.reclaiming) else { return };
        let base = self.base();
        let work = move || {
            let _busy = busy;
            if let Err(error) = base.reclaim() {
                tracing::warn!(%error, "free space could not be given back");
            }
        };
        if let Err(error) = std::thread::Builder::new().name("reclaim".into()).spawn(work) {
            tracing::warn!(%error, "free space is not given back: there is no thread for it");
        }
    }

    /// Free space is being given back.
    pub fn is_reclaiming(&self) -> bool {
        self.reclaiming.load(Ordering::Acquire)
    }

    // === reads ===

    /// The newest published revision; 1 in a fresh store.
    pub fn revision(&self) -> i64 {
        self.rows.load().revision()
    }

    /// The revision below which history is gone; below 1 when nothing was ever compacted.
    pub fn compact_revision(&self) -> i64 {
        self.rows.load().compact_revision()
    }

    /// The revision up to which superseded rows have been removed.
    pub fn swept_revision(&self) -> i64 {
        self.rows.load().swept_revision()
    }

    /// Waits until rows superseded at or before `rev` have been removed.
    pub async fn compaction_done(&self, rev: i64) {
        loop {
            let rows = self.rows.load_full();
            if rows.compaction_done(rev).await {
                return;
            }
        }
    }

    /// Logical bytes of the kept history, for the quota.
    pub fn quota_usage(&self) -> u64 {
        self.rows.load().quota_usage()
    }

    #[cfg(test)]
    pub(super) fn with_rows<T>(&self, work: impl FnOnce(&Rows) -> T) -> T {
        work(&self.rows.load())
    }

    /// What HashKV says at a revision of a store that was compacted at another, if this one has the whole history.
    #[cfg(test)]
    pub(crate) fn hash_as_if(&self, rev: i64, compacted: i64) -> Result<u32, ReadError> {
        self.rows.load().hash_rows(rev, compacted)
    }

    /// Keys that are alive at the newest revision.
    pub fn live_keys(&self) -> u64 {
        self.rows.load().live_keys()
    }

    pub fn sizes(&self) -> Sizes {
        self.rows.load().sizes()
    }

    /// Executes a range against the published revisions.
    pub fn range(&self, q: &entry::Range) -> Result<RangeResult, ReadError> {
        self.rows.load_full().range(q)
    }

    /// Executes a range as seen by a transaction whose newest revision is `current`.
    pub(crate) fn range_at(&self, q: &entry::Range, current: i64) -> Result<RangeResult, ReadError> {
        self.rows.load_full().range_at(q, current)
    }

    /// Refuses what was read at `at`, which was the newest revision then, if rows may have gone from under it, or others took the place
    /// of those that were read.
    pub(crate) fn check_whole(&self, at: i64) -> Result<(), ReadError> {
        self.rows.load().check_overtaken(0, at)
    }

    /// One page of the interval at a revision, from its start: at most `max_keys` keys and about `max_bytes`.
    pub fn page(&self, range: &KeyRange, at: i64, max_keys: usize, max_bytes: usize, keys_only: bool) -> Result<Page, ReadError> {
        self.rows.load_full().page(range, at, max_keys, max_bytes, keys_only)
    }

    /// Live keys of the interval at a revision.
    pub fn count(&self, range: &KeyRange, at: i64) -> Result<i64, ReadError> {
        self.rows.load_full().count(range, at)
    }

    /// The version of `key` just before main revision `before`; `None` when there was none, it was a deletion, or it is compacted.
    pub fn previous(&self, key: &[u8], before: i64) -> Result<Option<RawKv>, ReadError> {
        self.rows.load_full().previous(key, before)
    }

    /// The events of revisions `from..=to`, whole revisions in order, stopping after about `max_bytes` of KeyValues. A watch may
    /// start at the compacted revision itself: the newest versions at it are kept.
    pub fn events(&self, from: i64, to: i64, max_bytes: usize) -> Result<Vec<RevisionEvents>, ReadError> {
        self.rows.load_full().events(from, to, max_bytes)
    }

    /// Hashes the history up to `rev`; 0 means the newest revision.
    pub fn hash_kv(&self, rev: i64) -> Result<HashKv, ReadError> {
        self.rows.load_full().hash_kv(rev)
    }

    /// Hashes the history up to `revision` as it was when `compacted` was the compaction mark; `None` when the mark has moved on.
    pub(crate) fn hash_at(&self, revision: i64, compacted: i64) -> Result<Option<u32>, ReadError> {
        self.rows.load_full().hash_at(revision, compacted)
    }

    /// The newest hash that a compaction left behind.
    pub fn newest_kept_hash(&self) -> Option<HashKv> {
        self.rows.load().newest_kept_hash()
    }

    pub(crate) fn get_at(&self, key: &[u8], at: i64) -> Result<Option<Found>, BaseError> {
        self.rows.load().get_at(key, at)
    }

    pub(crate) fn sys_get(&self, key: &[u8]) -> Result<Option<Bytes>, BaseError> {
        self.rows.load().sys_get(key)
    }

    /// Rows of `[lower, upper)` in order, at most `max`.
    pub(crate) fn sys_scan(&self, lower: &Bytes, upper: &Bytes, max: usize) -> Result<Vec<(Bytes, Bytes)>, BaseError> {
        self.rows.load_full().sys_scan(lower, upper, max)
    }

    // === who copies the history ===

    /// Rows of the history from `from` on, up to main revision `to`, as they are kept. `None` when a sweep may have removed some.
    pub fn history(&self, from: Revision, to: i64, max_bytes: usize) -> Result<Option<History>, ReadError> {
        let history = self.rows.load_full().history(from, to, max_bytes)?;
        // Looked at after the rows were read: a sweep says where it goes before it begins.
        Ok(Some(history).filter(|_| self.holds.begun() < from.main))
    }

    /// The rows beside the key space that a copy of it needs: leases, alarms, auth. Which keys a lease has follows from the keys.
    pub fn side_rows(&self) -> Result<BTreeMap<Bytes, Bytes>, ReadError> {
        let rows = self.rows.load_full();
        let mut out = BTreeMap::new();
        for tag in sys::SIDE {
            let (lower, upper) = sys::tag_range(tag);
            out.extend(rows.sys_scan(&lower, &upper, usize::MAX)?);
        }
        Ok(out)
    }

    /// Begins to copy the rows beside the key space.
    pub fn side_copier(&self) -> SideCopier {
        SideCopier::new(&self.journal)
    }

    /// What of those rows this copier has not seen, as it is now, and whether that is all there is.
    pub fn side_news(&self, copier: &SideCopier) -> Result<(bool, BTreeMap<Bytes, Option<Bytes>>), ReadError> {
        match copier.fetch() {
            None => Ok((true, self.side_rows()?.into_iter().map(|(key, value)| (key, Some(value))).collect())),
            Some(keys) => {
                let read = |key: Bytes| Ok((key.clone(), self.sys_get(&key)?));
                Ok((false, keys.into_iter().map(read).collect::<Result<_, BaseError>>()?))
            }
        }
    }

    /// Keeps the rows after `revision` from being swept, for a while; called again with the same name it moves on. False when a sweep
    /// may have removed some already, or when too many names are held for.
    pub fn hold(&self, name: &str, revision: i64, now: Instant) -> bool {
        self.holds.hold(name, revision, self.quota_usage(), now)
    }

    /// True when a sweep up to `target` may go on; from then on it counts as begun.
    pub(crate) fn may_sweep_to(&self, target: i64, now: Instant) -> bool {
        self.holds.may_sweep_to(target, self.quota_usage(), now)
    }

    /// Takes up a copied row behind what there is; see [`super::replay`].
    pub(crate) fn replay(&self, row: &HistoryRow) -> Result<(), ReadError> {
        self.rows.load().replay(row)
    }

    /// Makes replayed rows up to a revision visible.
    pub(crate) fn replayed(&self, revision: i64) {
        self.rows.load().replayed(revision);
    }

    // === the apply thread ===

    /// Starts the changes that follow the newest published revision. The caller is the only writer.
    pub(crate) fn write(&self) -> WriteTxn {
        self.rows.load_full().write()
    }

    /// Writes or deletes a row of the `sys` family; durable with the next checkpoint, together with the applied position.
    pub(crate) fn put_sys(&self, key: Bytes, value: Option<Bytes>) {
        self.rows.load().put_sys(key.clone(), value);
        self.journal.note(&key);
    }

    /// Marks history below `rev` as gone. The deterministic half: readers refuse from here on.
    pub(crate) fn compact(&self, rev: i64) -> Result<(), ReadError> {
        self.rows.load().compact(rev)
    }

    /// True when the active delta has reached its size.
    pub(crate) fn wants_freeze(&self) -> bool {
        self.rows.load().wants_freeze()
    }

    /// True when [`Store::freeze`] would wait for a checkpoint.
    pub(crate) fn freeze_waits(&self) -> bool {
        self.rows.load().freeze_waits()
    }

    /// Freezes the active delta, which must already hold the applied position. Waits while too many await their checkpoint; false when
    /// none will come, since the member stops on a full disk.
    pub(crate) fn freeze(&self) -> bool {
        self.rows.load_full().freeze()
    }

    /// The member stops: nobody waits for a disk that is full any more, and long walks over the history end.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        self.rows.load().close();
    }

    /// True from the moment the member begins to stop.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    // === the keeper ===

    pub(crate) fn policy(&self) -> DeltaPolicy {
        self.policy
    }

    /// The revision the durable rows held when they were opened.
    pub(crate) fn revision_at_open(&self) -> i64 {
        self.rows.load().revision_at_open()
    }

    /// Writes the oldest frozen delta to the durable rows and returns the revision they now reach; `None` when there is no delta.
    /// With `flush` it is durable on return.
    pub(crate) fn checkpoint(&self, flush: bool) -> Result<Option<i64>, BaseError> {
        self.rows.load_full().checkpoint(flush)
    }

    /// True while checkpoints wait for space on the disk.
    pub(crate) fn is_disk_full(&self) -> bool {
        self.rows.load().is_disk_full()
    }

    /// Checkpoints wait for space on the disk, or go on.
    pub(crate) fn disk_is_full(&self, full: bool) {
        self.rows.load().disk_is_full(full);
    }

    /// The compaction mark among the durable rows; below 1 when there is none.
    pub(crate) fn durable_mark(&self) -> Result<i64, BaseError> {
        self.rows.load().durable_mark()
    }

    /// A sweep to run, when the compaction mark is ahead of the rows.
    pub(crate) fn next_sweep(&self) -> Option<Sweep> {
        self.rows.load().next_sweep()
    }

    /// Removes dead rows among the next `max` rows of `hist`; true when the sweep has ended.
    pub(crate) fn sweep(&self, sweep: &mut Sweep, max: usize) -> Result<bool, BaseError> {
        self.rows.load_full().sweep(sweep, max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::MemBase;
    use crate::types::{KeyRange, RangeEnd};

    /// The count of live keys follows puts, overwrites and deletions, two changes of a key in one transaction among them, through
    /// a checkpoint and a reopening.
    #[test]
    fn live_keys_are_counted() {
        let base: Arc<dyn Base> = Arc::new(MemBase::new());
        let policy = DeltaPolicy { freeze_bytes: 1 << 20, inline: false };
        let store = Store::open(base.clone(), policy).unwrap();
        let single = |key: &'static str| KeyRange { start: key.into(), end: RangeEnd::Single };
        let run = |work: &dyn Fn(&mut WriteTxn)| {
            let mut write = store.write();
            work(&mut write);
            write.finish();
        };
        for key in ["a", "b", "a"] {
            run(&|write| drop(write.put(key.as_bytes(), b"value", 0).unwrap()));
        }
        assert_eq!(store.live_keys(), 2);
        run(&|write| {
            write.delete_range(&single("a")).unwrap();
            write.put(b"a", b"again", 0).unwrap();
        });
        assert_eq!(store.live_keys(), 2);
        store.freeze();
        run(&|write| drop(write.delete_range(&single("b")).unwrap()));
        assert_eq!(store.live_keys(), 1);
        store.checkpoint(true).unwrap();
        assert_eq!(store.live_keys(), 1);
        store.freeze();
        store.checkpoint(true).unwrap();
        drop(store);
        assert_eq!(Store::open(base, policy).unwrap().live_keys(), 1);
    }

    /// A range that asks for no revision is never told that its revision is compacted, however often the newest one is.
    #[test]
    fn the_newest_revision_is_never_compacted_away() {
        let policy = DeltaPolicy { freeze_bytes: 1 << 20, inline: false };
        let store = Arc::new(Store::open(Arc::new(MemBase::new()) as Arc<dyn Base>, policy).unwrap());
        let put = |store: &Store| {
            let mut write = store.write();
            write.put(b"a", b"value", 0).unwrap();
            write.finish();
        };
        put(&store);
        let done = Arc::new(AtomicBool::new(false));
        let compacts = std::thread::spawn({
            let (store, done) = (store.clone(), done.clone());
            move || {
                while !done.load(Ordering::Acquire) {
                    put(&store);
                    store.compact(store.revision()).unwrap();
                }
            }
        });
        let all = entry::Range { key: "a".into(), range_end: "b".into(), ..Default::default() };
        let failed: Vec<_> = (0..20_000).filter_map(|_| store.range(&all).err()).collect();
        done.store(true, Ordering::Release);
        compacts.join().unwrap();
        assert!(failed.is_empty(), "{failed:?}");
    }

    /// Whoever freezes waits for the checkpoints before it, but not when the member stops on a full disk: none will come then. The
    /// one that waits already is told, too.
    #[test]
    fn a_freeze_on_the_way_out_does_not_wait_for_a_full_disk() {
        let policy = DeltaPolicy { freeze_bytes: 1, inline: false };
        let store = Arc::new(Store::open(Arc::new(MemBase::new()), policy).unwrap());
        let write = || {
            let mut write = store.write();
            write.put(b"k", b"v", 0).unwrap();
            write.finish();
        };
        for _ in 0..2 {
            write();
            assert!(store.freeze());
        }
        write();
        assert!(store.freeze_waits());
        let waiting = store.clone();
        let freezes = std::thread::spawn(move || waiting.freeze());
        store.disk_is_full(true);
        store.close();
        assert!(!freezes.join().unwrap());
        assert!(!store.freeze(), "and so is the last one");
        // With space again the way out leaves everything behind in good order.
        store.checkpoint(true).unwrap();
        store.disk_is_full(false);
        assert!(store.freeze());
    }
}
