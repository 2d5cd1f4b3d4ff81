//! Counts: how many keys live in an interval, without walking it for every page and every revision.
//!
//! A limited range tells the count of its whole interval. The first answer walks; later ones start from what is remembered:
//! the same interval at another revision differs by the keys made and deleted between the two, which the history tells; the page
//! after this one begins where this one stopped, so its interval holds what is left over.
//!
//! Invariant: only counts of published revisions are remembered, and only those that no compaction overtook: a transaction still
//! adds to its own revision, and rows may go from under a walk.

use super::scan::Scan;
use super::{ReadError, Rows};
use crate::types::{KeyRange, RangeEnd};
use bytes::Bytes;
use std::collections::HashMap;

/// What is remembered.
#[derive(Default)]
pub(super) struct CountCache {
    /// By interval as it was asked for: the newest revision it was counted at, and the count.
    asked: HashMap<KeyRange, (i64, i64)>,
    /// By interval from a live key on, and revision.
    tails: HashMap<(KeyRange, i64), i64>,
}

/// Intervals remembered of either kind; beyond it that kind starts anew.
const MOST: usize = 256;
/// A shorter walk is not worth remembering, in keys.
const WORTH: i64 = 1000;
/// Longest bounds remembered, in bytes: they come from clients.
const LONGEST: usize = 4096;
/// A revision of the history costs about as much as so many keys of a walk.
const REVISION_COST: i64 = 4;
/// History read at once, in bytes of KeyValues.
const CHUNK: usize = 1 << 20;

fn is_short(range: &KeyRange) -> bool {
    let end = if let RangeEnd::Before(end) = &range.end { end.len() } else { 0 };
    range.start.len() + end <= LONGEST
}

impl CountCache {
    fn keep_tail(&mut self, tail: KeyRange, at: i64, count: i64) {
        if count >= WORTH && is_short(&tail) {
            if self.tails.len() >= MOST {
                self.tails.clear();
            }
            self.tails.insert((tail, at), count);
        }
    }

    fn keep(&mut self, range: &KeyRange, at: i64, count: i64) {
        if count >= WORTH && is_short(range) {
            if self.asked.len() >= MOST {
                self.asked.clear();
            }
            self.asked.insert(range.clone(), (at, count));
        }
    }
}

/// The part of an interval that was read: its first live key, how many keys, and the first live key after them.
pub(super) struct Page<'a> {
    pub first: &'a Bytes,
    pub keys: i64,
    pub past: Bytes,
}

impl Rows {
    /// Live keys of `range` as of `at`; `page` is what was read of it from its start.
    pub(super) fn count_at(&self, range: &KeyRange, at: i64, page: Option<Page>) -> Result<i64, ReadError> {
        let from = |start: &Bytes| KeyRange { start: start.clone(), end: range.end.clone() };
        let walk = || match &page {
            Some(page) => Ok(page.keys + self.walk(&from(&page.past), at)?),
            None => self.walk(range, at),
        };
        if at > self.revision() {
            return walk();
        }
        let (asked, tail) = {
            let cache = self.counts.lock();
            let tail = page.as_ref().and_then(|page| cache.tails.get(&(from(page.first), at)).copied());
            (cache.asked.get(range).copied(), tail)
        };
        let count = match (asked, tail) {
            (Some((known_at, count)), _) if known_at == at => count,
            (_, Some(count)) => count,
            (Some((known_at, count)), None) if (at - known_at).abs().saturating_mul(REVISION_COST) < count => {
                match self.change(range, known_at, at) {
                    Ok(change) => count + change,
                    Err(ReadError::Compacted) => walk()?,
                    Err(e) => return Err(e),
                }
            }
            _ => walk()?,
        };
        if at >= self.compact_revision() {
            let mut cache = self.counts.lock();
            if cache.asked.get(range).is_none_or(|(known_at, _)| *known_at <= at) {
                cache.keep(range, at, count);
            }
            if let Some(page) = &page {
                cache.keep_tail(from(&page.past), at, count - page.keys);
            }
        }
        Ok(count)
    }

    fn walk(&self, range: &KeyRange, at: i64) -> Result<i64, ReadError> {
        let mut count = 0;
        Scan::new(self, range, at).each(|_, _| {
            count += 1;
            true
        })?;
        Ok(count)
    }

    /// Live keys of `range` at `to`, less those at `from`, which may be the later one.
    fn change(&self, range: &KeyRange, from: i64, to: i64) -> Result<i64, ReadError> {
        if to < from {
            return Ok(-self.change(range, to, from)?);
        }
        let (mut next, mut sum) = (from + 1, 0);
        while next <= to {
            let found = self.events(next, to, CHUNK)?;
            let Some(last) = found.last() else { break };
            next = last.revision + 1;
            for event in found.iter().flat_map(|r| &r.events).filter(|e| range.contains(&e.key)) {
                sum += i64::from(event.create) - i64::from(event.delete);
            }
        }
        // A compaction takes deletions at its own revision along, so even that one must not be among what was read.
        if from < self.compact_revision() { Err(ReadError::Compacted) } else { Ok(sum) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{DeltaPolicy, Store};
    use super::*;
    use crate::base::MemBase;
    use quorate_proto::entry;
    use std::sync::Arc;

    fn store(keys: usize) -> Store {
        let policy = DeltaPolicy { freeze_bytes: 1 << 20, inline: false };
        let store = Store::open(Arc::new(MemBase::new()), policy).unwrap();
        for n in 0..keys {
            put(&store, &format!("key-{n:05}"));
        }
        store
    }

    fn put(store: &Store, key: &str) {
        let mut write = store.write();
        write.put(key.as_bytes(), b"value", 0).unwrap();
        write.finish();
    }

    fn delete(store: &Store, range: &KeyRange) {
        let mut write = store.write();
        write.delete_range(range).unwrap();
        write.finish();
    }

    fn page(start: &[u8], limit: i64, revision: i64) -> entry::Range {
        let (key, range_end) = (Bytes::copy_from_slice(start), Bytes::from_static(b"\0"));
        entry::Range { key, range_end, limit, revision, ..Default::default() }
    }

    /// A transaction that reads between two of its writes leaves no count behind that lacks the second.
    #[test]
    fn a_transaction_leaves_no_count_behind() {
        let store = store(1100);
        let mut write = store.write();
        write.put(b"y", b"", 0).unwrap();
        let during = store.range_at(&page(b"\0", 1, 0), write.revision()).unwrap();
        assert_eq!(during.count, 1101);
        write.put(b"z", b"", 0).unwrap();
        write.finish();
        assert_eq!(store.range(&page(b"\0", 1, 0)).unwrap().count, 1102);
    }

    /// Whatever is remembered, each page at each revision tells the count that a walk would: over puts, overwrites, deletions and
    /// keys made anew, forwards and backwards, from memory and from durable rows.
    #[test]
    fn counts_are_those_of_a_walk() {
        let store = store(1500);
        let range = |start: &[u8]| KeyRange { start: Bytes::copy_from_slice(start), end: RangeEnd::Unbounded };
        let check = |start: &[u8], limit: i64, revision: i64| {
            let at = if revision == 0 { store.revision() } else { revision };
            let walked = store.with_rows(|rows| rows.walk(&range(start), at)).unwrap();
            let answer = store.range(&page(start, limit, revision)).unwrap();
            assert_eq!(answer.count, walked, "{start:?} at {revision}");
            answer
        };
        check(b"\0", 10, 0);
        for n in 0..60 {
            match n % 4 {
                0 => put(&store, &format!("key-{:05}x", n * 7)),
                1 => put(&store, &format!("key-{:05}", n)),
                2 => delete(&store, &KeyRange { start: format!("key-{:05}", n * 3).into(), end: RangeEnd::Single }),
                _ => {
                    let (start, end) = (format!("key-{:05}", n * 11), format!("key-{:05}", n * 11 + 3));
                    delete(&store, &KeyRange { start: start.into(), end: RangeEnd::Before(end.into()) });
                }
            }
            if n == 30 {
                store.freeze();
                store.checkpoint(true).unwrap();
            }
            check(b"\0", 5, 0);
            check(b"key-", 5, store.revision() - n / 2);
        }
        // A list in pages: each begins behind the last key of the one before.
        let (mut start, at, mut total) = (Bytes::from_static(b"\0"), store.revision(), 0);
        loop {
            let answer = check(&start, 100, at);
            total += answer.kvs.len();
            let Some(last) = answer.kvs.last() else { break };
            let mut next = last.decode().unwrap().key.to_vec();
            next.push(0);
            start = next.into();
            put(&store, "key-written-meanwhile");
        }
        assert_eq!(total as i64, store.with_rows(|rows| rows.walk(&range(b"\0"), at)).unwrap());
    }
}
