//! Range: etcd's one read, with its options, and pages for streams.

use super::scan::Scan;
use super::{Found, ReadError, Rows, counts};
use crate::env::plant::{self, Plant};
use crate::types::KeyRange;
use bytes::Bytes;
use prost::Message;
use quorate_proto::RawKv;
use quorate_proto::entry;
use quorate_proto::mvccpb::KeyValue;
use std::cmp::Ordering as Order;
use std::sync::atomic::Ordering;

/// The answer to a range.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RangeResult {
    pub kvs: Vec<RawKv>,
    /// The limit cut something off.
    pub more: bool,
    /// Keys in the whole interval, whatever the limit and filters.
    pub count: i64,
    /// The store's revision, for the header.
    pub revision: i64,
}

/// One page of a walk.
#[derive(Clone, Debug, Default)]
pub struct Page {
    pub kvs: Vec<RawKv>,
    /// Where the next page starts; `None` at the end.
    pub next: Option<Bytes>,
}

/// Keeps etcd's order of steps: with a sort or a filter the limit applies after them.
struct Plan {
    sorted: bool,
    filtered: bool,
    /// Versions to collect; `usize::MAX` for all.
    collect: usize,
}

impl Plan {
    fn of(q: &entry::Range) -> Self {
        let filtered =
            [q.min_mod_revision, q.max_mod_revision, q.min_create_revision, q.max_create_revision].iter().any(|v| *v != 0);
        let sorted = q.sort_order() != entry::SortOrder::None;
        let collect = if q.limit > 0 && !filtered && !sorted { (q.limit as usize).saturating_add(1) } else { usize::MAX };
        Self { sorted, filtered, collect: if q.count_only { 0 } else { collect } }
    }
}

/// How often a walk at the newest revision begins anew when a sweep overtakes it; each time the sweep is a newer one.
const MAX_WALKS: u32 = 100;

impl Rows {
    /// Executes a range against the published revisions.
    pub fn range(&self, q: &entry::Range) -> Result<RangeResult, ReadError> {
        self.stats.ranges.fetch_add(1, Ordering::Relaxed);
        let mut left = MAX_WALKS;
        loop {
            left -= 1;
            let behind = plant::is(Plant::OldRead) && q.serializable && q.revision <= 0 && self.revision() > 1;
            match self.range_at(q, self.revision() - i64::from(behind)) {
                // Who asks for the newest revision is not told that it is gone: it is another by now.
                Err(ReadError::Compacted) if q.revision <= 0 && left > 0 => {}
                result => return result,
            }
        }
    }

    /// Executes a range as seen by a transaction whose newest revision is `current`.
    pub(crate) fn range_at(&self, q: &entry::Range, current: i64) -> Result<RangeResult, ReadError> {
        let at = self.check_revision(q.revision, current)?;
        let range = KeyRange::from_request(&q.key, &q.range_end);
        let result = self.collect(q, &range, at, current);
        self.check_overtaken(q.revision, at)?;
        result
    }

    /// Refuses what was read at revision `at` if a compaction overtook the walk and may have taken rows from under it. Who asked for
    /// the newest revision (`wanted` 0 or below) is not kept to the mark: what it read is whole until a sweep begins.
    pub(crate) fn check_overtaken(&self, wanted: i64, at: i64) -> Result<(), ReadError> {
        let gone = if wanted <= 0 { self.sweeping.load(Ordering::SeqCst) } else { self.compact_revision() };
        if at < gone && !plant::is(Plant::CompactedRead) { Err(ReadError::Compacted) } else { Ok(()) }
    }

    fn check_revision(&self, wanted: i64, current: i64) -> Result<i64, ReadError> {
        if wanted > current {
            return Err(ReadError::FutureRevision);
        }
        let at = if wanted <= 0 { current } else { wanted };
        self.check_overtaken(wanted, at)?;
        Ok(at)
    }

    fn collect(&self, q: &entry::Range, range: &KeyRange, at: i64, current: i64) -> Result<RangeResult, ReadError> {
        if range.is_single() {
            let numbers_only = q.count_only || q.keys_only;
            let found = if numbers_only { self.get_at(&range.start, at)? } else { self.get_whole(&range.start, at)? };
            let found = found.filter(|f| !f.tombstone);
            let count = found.is_some() as i64;
            let found: Vec<_> = if q.count_only { Vec::new() } else { found.into_iter().collect() };
            return self.finish(q, &Plan::of(q), vec![range.start.clone()], found, count, current);
        }
        let plan = Plan::of(q);
        let (mut keys, mut found) = (Vec::new(), Vec::new());
        let (mut first, mut past) = (None, None);
        if plan.collect > 0 {
            Scan::new(self, range, at).each(|key, f| {
                if found.len() == plan.collect {
                    past = Some(Bytes::copy_from_slice(key));
                    return false;
                }
                if found.is_empty() {
                    first = Some(Bytes::copy_from_slice(key));
                }
                if q.keys_only || plan.sorted {
                    keys.push(Bytes::copy_from_slice(key));
                }
                found.push(f);
                true
            })?;
        }
        let count = match past {
            None if plan.collect > 0 => found.len() as i64,
            None => self.count_at(range, at, None)?,
            Some(past) => {
                let first = first.as_ref().expect("a page that is full has a first key");
                self.count_at(range, at, Some(counts::Page { first, keys: found.len() as i64, past }))?
            }
        };
        self.finish(q, &plan, keys, found, count, current)
    }

    fn finish(
        &self,
        q: &entry::Range,
        plan: &Plan,
        keys: Vec<Bytes>,
        found: Vec<Found>,
        count: i64,
        current: i64,
    ) -> Result<RangeResult, ReadError> {
        if q.count_only {
            return Ok(RangeResult { kvs: Vec::new(), more: false, count, revision: current });
        }
        let limit = if q.limit > 0 { q.limit as usize } else { usize::MAX };
        // etcd sorts by a target other than the key even when no order is asked for, ascending and after the limit's cut.
        let sorted = plan.sorted || q.sort_target() != entry::SortTarget::Key;
        let by_value = q.sort_target() == entry::SortTarget::Value;
        if q.keys_only && !by_value && found.iter().all(|f| f.numbers.is_some()) && !keys.is_empty() {
            let rows = keys.iter().zip(&found).map(|(key, f)| {
                let (create, version, _) = f.numbers.expect("checked above");
                KeyValue { key: key.clone(), create_revision: create, mod_revision: f.rev.main, version, ..Default::default() }
            });
            return Ok(cut(q, sorted, plan.filtered, rows.collect(), limit, count, current));
        }
        let kvs = self.load_all(&found)?;
        if !sorted && !plan.filtered && !q.keys_only {
            let more = kvs.len() > limit;
            let mut kvs = kvs;
            kvs.truncate(limit);
            return Ok(RangeResult { kvs, more, count, revision: current });
        }
        let rows: Result<Vec<KeyValue>, _> = kvs.iter().map(|kv| KeyValue::decode(kv.0.clone())).collect();
        let rows = rows.map_err(|e| ReadError::Corrupt(format!("a KeyValue of the history: {e}")))?;
        Ok(cut(q, sorted, plan.filtered, rows, limit, count, current))
    }

    /// Live keys of `range` as of `at`.
    pub fn count(&self, range: &KeyRange, at: i64) -> Result<i64, ReadError> {
        let at = self.check_revision(at, self.revision())?;
        let count = self.count_at(range, at, None)?;
        self.check_revision(at, self.revision())?;
        Ok(count)
    }

    /// One page of a walk pinned at revision `at`: keys from `range.start` on, at most `max_keys` of them and, but for one that is
    /// larger by itself, at most about `max_bytes`.
    pub fn page(&self, range: &KeyRange, at: i64, max_keys: usize, max_bytes: usize, keys_only: bool) -> Result<Page, ReadError> {
        let at = if plant::is(Plant::PageAtHead) { self.revision() } else { at };
        let at = self.check_revision(at, self.revision())?;
        let page = self.page_at(range, at, max_keys, max_bytes, keys_only);
        // Whatever came of it: a row that a sweep took is no damage.
        self.check_revision(at, self.revision())?;
        page
    }

    fn page_at(&self, range: &KeyRange, at: i64, max_keys: usize, max_bytes: usize, keys_only: bool) -> Result<Page, ReadError> {
        let (mut found, mut next) = (Vec::new(), None);
        Scan::new(self, range, at).each(|key, f| {
            if found.len() == max_keys {
                next = Some(Bytes::copy_from_slice(key));
                return false;
            }
            found.push((Bytes::copy_from_slice(key), f));
            true
        })?;
        let (keys, found): (Vec<_>, Vec<_>) = found.into_iter().unzip();
        let mut page = Page { kvs: Vec::with_capacity(found.len()), next };
        let (mut bytes, mut loaded) = (0, 0);
        // Sizes are known only once values are in memory, so they are loaded in groups that grow while values are small.
        let mut group = LOAD_FIRST;
        while loaded < found.len() {
            let upto = (loaded + group).min(found.len());
            for (key, kv) in keys[loaded..upto].iter().zip(self.load_all(&found[loaded..upto])?) {
                let kv = if keys_only { bare(&kv)? } else { kv };
                bytes += kv.0.len();
                if !page.kvs.is_empty() && bytes > max_bytes {
                    page.next = Some(key.clone());
                    return Ok(page);
                }
                page.kvs.push(kv);
            }
            loaded = upto;
            let average = (bytes / loaded).max(1);
            group = ((max_bytes.saturating_sub(bytes) / average) + 1).clamp(1, 8 * group);
        }
        Ok(page)
    }
}

/// Values that a page loads first, before it knows how large they are.
const LOAD_FIRST: usize = 16;

fn bare(kv: &RawKv) -> Result<RawKv, ReadError> {
    let mut kv = KeyValue::decode(kv.0.clone()).map_err(|e| ReadError::Corrupt(format!("a KeyValue of the history: {e}")))?;
    (kv.value, kv.lease) = (Bytes::new(), 0);
    Ok(RawKv(kv.encode_to_vec().into()))
}

/// Filters, sorts, limits and, for keys only, strips the rows, in etcd's order.
fn cut(
    q: &entry::Range,
    sorted: bool,
    filtered: bool,
    mut rows: Vec<KeyValue>,
    limit: usize,
    count: i64,
    current: i64,
) -> RangeResult {
    if filtered {
        let within = |v: i64, min: i64, max: i64| (min == 0 || v >= min) && (max == 0 || v <= max);
        rows.retain(|kv| {
            within(kv.mod_revision, q.min_mod_revision, q.max_mod_revision)
                && within(kv.create_revision, q.min_create_revision, q.max_create_revision)
        });
    }
    if sorted {
        let compare = |a: &KeyValue, b: &KeyValue| -> Order {
            match q.sort_target() {
                entry::SortTarget::Key => a.key.cmp(&b.key),
                entry::SortTarget::Version => a.version.cmp(&b.version),
                entry::SortTarget::Create => a.create_revision.cmp(&b.create_revision),
                entry::SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
                entry::SortTarget::Value => a.value.cmp(&b.value),
            }
        };
        match q.sort_order() {
            entry::SortOrder::Descend => rows.sort_by(|a, b| compare(b, a)),
            _ => rows.sort_by(compare),
        }
    }
    let more = rows.len() > limit;
    rows.truncate(limit);
    let kvs = rows.into_iter().map(|mut kv| {
        if q.keys_only {
            kv.value = Bytes::new();
            // etcd answers keys only out of its index, which has no lease; to sort by value it must read the rows, lease and all.
            if q.sort_target() != entry::SortTarget::Value {
                kv.lease = 0;
            }
        }
        RawKv(kv.encode_to_vec().into())
    });
    RangeResult { kvs: kvs.collect(), more, count, revision: current }
}

#[cfg(test)]
mod tests {
    use crate::mvcc::hooked::{At, Hooked};
    use crate::mvcc::{DeltaPolicy, ReadError, Store};
    use crate::types::{KeyRange, RangeEnd};
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    fn filled(keys: usize, value: usize) -> (Arc<Hooked>, Arc<Store>) {
        let base = Arc::<Hooked>::default();
        let policy = DeltaPolicy { freeze_bytes: 64 << 20, inline: false };
        let store = Arc::new(Store::open(Arc::new(base.clone()), policy).unwrap());
        for n in 0..keys {
            let mut write = store.write();
            write.put(format!("{n:06}").as_bytes(), &vec![7; value], 0).unwrap();
            write.finish();
        }
        save(&store);
        (base, store)
    }

    fn save(store: &Store) {
        store.freeze();
        store.checkpoint(true).unwrap();
    }

    fn all() -> KeyRange {
        KeyRange { start: "0".into(), end: RangeEnd::Unbounded }
    }

    /// A page reads about what it may hold from the disk, however many keys it may have; pages together are all keys in order.
    #[test]
    fn a_page_reads_what_it_holds() {
        let (base, store) = filled(1000, 10_000);
        let (at, mut range, mut keys) = (store.revision(), all(), 0);
        loop {
            base.asked.store(0, Ordering::SeqCst);
            let page = store.page(&range, at, 1000, 50_000, false).unwrap();
            assert!(
                base.asked.load(Ordering::SeqCst) <= 32,
                "{} values for a page of {}",
                base.asked.load(Ordering::SeqCst),
                page.kvs.len()
            );
            assert!((4..=6).contains(&page.kvs.len()) || page.next.is_none());
            keys += page.kvs.len();
            match page.next {
                Some(next) => range.start = next,
                None => break,
            }
        }
        assert_eq!(keys, 1000);
        let (base, store) = filled(1000, 10);
        assert_eq!(store.page(&all(), store.revision(), 1000, 1 << 20, false).unwrap().kvs.len(), 1000);
        assert_eq!(base.asked.load(Ordering::SeqCst), 1000);
    }

    /// A page whose rows a sweep takes from under it is told that its revision is compacted, not that the data are damaged.
    #[test]
    fn a_page_overtaken_by_a_sweep() {
        let (base, store) = filled(20, 100);
        let at = store.revision();
        let sweeping = store.clone();
        base.before(At::Values, 1, move || {
            for n in 0..20 {
                let mut write = sweeping.write();
                write.put(format!("{n:06}").as_bytes(), b"new", 0).unwrap();
                write.finish();
            }
            sweeping.compact(sweeping.revision()).unwrap();
            save(&sweeping);
            let mut sweep = sweeping.next_sweep().unwrap();
            while !sweeping.sweep(&mut sweep, 100).unwrap() {}
        });
        assert_eq!(store.page(&all(), at, 20, 1 << 20, false).unwrap_err(), ReadError::Compacted);
    }
}
