//! Pairs read lately: the encoded KeyValues of newest durable versions, so that what is read again and again costs no walk through
//! the durable rows.
//!
//! In come pairs that a read has just loaded; out they go for later reads of the same key. A pair is right as long as the durable
//! rows hold no newer version of its key, and those change only when a checkpoint writes a delta. Invariants:
//! - A checkpoint renews what is kept after its rows are readable and before its delta is dropped: until then readers find the newer
//!   version in the delta and never come here.
//! - A reader may be slow. It says which checkpoint it began under, and a pair that was loaded under an earlier one is not taken.
//! - A newest version that is alive is never swept, so a compaction changes nothing here.
//! - Memory is bounded: each shard has a young and an old half; when the young one is full it becomes the old one, and what the old
//!   one still held is forgotten. A pair of the old half that is read moves to the young one.

use super::Found;
use super::delta::Row;
use crate::env::plant::{self, Plant};
use crate::types::{LeaseId, Revision};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use xxhash_rust::xxh3::xxh3_64;

/// Locks; a power of two.
const SHARDS: usize = 8;
/// Bytes of both halves of all shards, the cost of the maps included.
const BYTES: usize = 16 << 20;
const HALF: usize = BYTES / SHARDS / 2;
/// The largest pair taken, in bytes.
const LARGEST: usize = HALF / 8;
/// Rough bytes of memory a pair costs beside its key and KeyValue.
const PAIR_COST: usize = 160;

#[derive(Clone)]
struct Pair {
    rev: Revision,
    numbers: (i64, i64, LeaseId),
    kv: Bytes,
}

impl Pair {
    fn cost(&self, key: &[u8]) -> usize {
        key.len() + self.kv.len() + PAIR_COST
    }
}

#[derive(Default)]
struct Shard {
    young: HashMap<Bytes, Pair>,
    old: HashMap<Bytes, Pair>,
    /// Bytes of the young half; what was replaced or removed counts until the half grows old.
    bytes: usize,
}

impl Shard {
    fn put(&mut self, key: Bytes, pair: Pair) {
        self.bytes += pair.cost(&key);
        self.young.insert(key, pair);
        if self.bytes > HALF {
            self.old = std::mem::take(&mut self.young);
            self.bytes = 0;
        }
    }

    fn get(&mut self, key: &[u8]) -> Option<&Pair> {
        if let Some((key, pair)) = self.old.remove_entry(key) {
            self.put(key, pair);
        }
        self.young.get(key).or_else(|| self.old.get(key))
    }

    fn remove(&mut self, key: &[u8]) -> Option<Bytes> {
        let young = self.young.remove_entry(key);
        young.or(self.old.remove_entry(key)).map(|(key, _)| key)
    }
}

/// See the head of the file.
#[derive(Default)]
pub(super) struct Pairs {
    shards: [Mutex<Shard>; SHARDS],
    /// Checkpoints that have written their rows.
    checkpoints: AtomicU64,
}

impl Pairs {
    fn shard(&self, key: &[u8]) -> &Mutex<Shard> {
        &self.shards[xxh3_64(key) as usize % SHARDS]
    }

    /// The checkpoint a reader begins under; asked before it looks at the deltas.
    pub fn checkpoint(&self) -> u64 {
        self.checkpoints.load(Ordering::Acquire)
    }

    /// The newest durable version of `key`, if it is kept and not newer than main revision `at`.
    pub fn get(&self, key: &[u8], at: i64) -> Option<Found> {
        let mut shard = self.shard(key).lock();
        let pair = shard.get(key).filter(|pair| pair.rev.main <= at)?;
        Some(Found { rev: pair.rev, tombstone: false, numbers: Some(pair.numbers), kv: Some(pair.kv.clone()) })
    }

    /// Keeps what a reader found, who began under a checkpoint: the newest durable version of `key`, alive, with its KeyValue.
    pub fn keep(&self, key: &[u8], found: &Found, began: u64) {
        let (Some(numbers), Some(kv), false) = (found.numbers, &found.kv, found.tombstone) else { return };
        let pair = Pair { rev: found.rev, numbers, kv: kv.clone() };
        if pair.cost(key) > LARGEST {
            return;
        }
        let mut shard = self.shard(key).lock();
        // Under the lock: a checkpoint that counts itself from here on comes to this shard later.
        if self.checkpoint() == began {
            shard.put(Bytes::copy_from_slice(key), pair);
        }
    }

    /// The newest rows of a delta are durable now: what is kept of their keys follows.
    pub fn renew<'a>(&self, rows: impl Iterator<Item = &'a Row>) {
        self.checkpoints.fetch_add(1, Ordering::AcqRel);
        if plant::is(Plant::StalePair) {
            return;
        }
        for row in rows {
            let mut shard = self.shard(&row.key).lock();
            let Some(key) = shard.remove(&row.key) else { continue };
            let pair = Pair { rev: row.rev, numbers: (row.create, row.version, row.lease), kv: row.kv.clone() };
            if !row.tombstone && pair.cost(&key) <= LARGEST {
                shard.put(key, pair);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Base, MemBase};
    use crate::mvcc::{DeltaPolicy, Store};
    use quorate_proto::entry::Range;
    use quorate_proto::mvccpb::KeyValue;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    fn store() -> Store {
        Store::open(Arc::new(MemBase::new()) as Arc<dyn Base>, DeltaPolicy { freeze_bytes: 1 << 20, inline: false }).unwrap()
    }

    fn put(store: &Store, key: &[u8], value: &[u8]) {
        let mut write = store.write();
        write.put(key, value, 0).unwrap();
        write.finish();
    }

    fn checkpoint(store: &Store) {
        store.freeze();
        while store.checkpoint(true).unwrap().is_some() {}
    }

    fn read(store: &Store, key: &[u8], revision: i64) -> Option<KeyValue> {
        let found = store.range(&Range { key: key.to_vec().into(), revision, ..Default::default() }).unwrap();
        found.kvs.first().map(|kv| kv.decode().unwrap())
    }

    /// A key that is read before and after each change of it, through checkpoints, is what was written last, at every revision.
    #[test]
    fn pairs_follow_their_keys() {
        let store = store();
        for round in 0..6u8 {
            put(&store, b"k", &[round]);
            for _ in 0..2 {
                assert_eq!(read(&store, b"k", 0).unwrap().value.as_ref(), [round]);
                checkpoint(&store);
                let found = read(&store, b"k", 0).unwrap();
                assert_eq!((found.value.as_ref(), found.version), ([round].as_slice(), i64::from(round) + 1));
            }
            let older: Vec<_> = (2..=store.revision()).map(|at| read(&store, b"k", at).unwrap().value[0]).collect();
            assert_eq!(older, (0..=round).collect::<Vec<_>>());
        }
        let mut write = store.write();
        write.delete_range(&crate::types::KeyRange::all()).unwrap();
        write.finish();
        assert_eq!(read(&store, b"k", 0), None);
        checkpoint(&store);
        assert_eq!(read(&store, b"k", 0), None);
    }

    /// Readers who are slow while checkpoints come never leave an old version behind.
    #[test]
    fn slow_readers_leave_nothing_old() {
        let store = Arc::new(store());
        let done = Arc::new(AtomicBool::new(false));
        put(&store, b"k", &0u32.to_be_bytes());
        let readers: Vec<_> = (0..3)
            .map(|_| {
                let (store, done) = (store.clone(), done.clone());
                std::thread::spawn(move || {
                    let mut last = 0;
                    while !done.load(Ordering::Acquire) {
                        let value = u32::from_be_bytes(read(&store, b"k", 0).unwrap().value.as_ref().try_into().unwrap());
                        assert!(value >= last, "{value} after {last}");
                        last = value;
                    }
                })
            })
            .collect();
        for n in 1..2_000u32 {
            put(&store, b"k", &n.to_be_bytes());
            checkpoint(&store);
            assert_eq!(read(&store, b"k", 0).unwrap().value.as_ref(), n.to_be_bytes());
        }
        done.store(true, Ordering::Release);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    }

    /// What a reader loaded before a checkpoint wrote its rows is not taken after it: it may be the version before.
    #[test]
    fn what_was_loaded_before_a_checkpoint_is_not_kept() {
        let pairs = Pairs::default();
        let found = Found { rev: Revision::new(2, 0), tombstone: false, numbers: Some((2, 1, 0)), kv: Some("old".into()) };
        let began = pairs.checkpoint();
        pairs.renew(std::iter::empty());
        pairs.keep(b"k", &found, began);
        assert!(pairs.get(b"k", i64::MAX).is_none());
        pairs.keep(b"k", &found, pairs.checkpoint());
        assert!(pairs.get(b"k", i64::MAX).is_some());
    }

    /// However much is read, what is kept stays below its bound; what is read all the time stays kept.
    #[test]
    fn memory_is_bounded() {
        let pairs = Pairs::default();
        let found = |n: u64| Found {
            rev: Revision::new(n as i64 + 2, 0),
            tombstone: false,
            numbers: Some((1, 1, 0)),
            kv: Some(Bytes::from(vec![0; 1000])),
        };
        pairs.keep(b"often", &found(0), 0);
        for n in 0..100_000u64 {
            pairs.keep(&n.to_be_bytes(), &found(n), 0);
            assert!(pairs.get(b"often", i64::MAX).is_some(), "forgotten after {n}");
        }
        let bytes = |half: &HashMap<Bytes, Pair>| half.iter().map(|(key, pair)| pair.cost(key)).sum::<usize>();
        let held = |shard: &Shard| bytes(&shard.young) + bytes(&shard.old);
        let kept: usize = pairs.shards.iter().map(|shard| held(&shard.lock())).sum();
        assert!((BYTES / 4..=BYTES + SHARDS * LARGEST).contains(&kept), "{kept} bytes are kept");
        pairs.keep(b"large", &Found { kv: Some(Bytes::from(vec![0; LARGEST])), ..found(0) }, 0);
        assert!(pairs.get(b"large", i64::MAX).is_none());
    }
}
