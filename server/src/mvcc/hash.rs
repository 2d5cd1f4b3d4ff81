//! HashKV: a checksum of the kept history up to a revision, equal to etcd's for equal content.
//!
//! It is CRC-32C over the word "key", then each row's revision bytes and value in revision order. Of the rows at or before the
//! compaction revision only those count that are still the newest of their key at the hashed revision and are not deletions; if no
//! key is alive at the hashed revision, those that were the newest at the compaction revision.

use super::scan::Scan;
use super::{ReadError, Rows};
use crate::base::kind::log;
use crate::base::{BaseError, Family};
use crate::types::{KeyRange, RangeEnd, Revision};
use bytes::Bytes;
use prost::Message;
use quorate_proto::mvccpb::KeyValue;

/// A hash and the bounds it was taken at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HashKv {
    pub hash: u32,
    pub hash_revision: i64,
    pub compact_revision: i64,
    pub current_revision: i64,
}

/// KeyValue bytes of the history handled at once.
const SLICE: usize = 1 << 20;
/// Hashes of compactions that are remembered; etcd's number.
const KEPT_HASHES: usize = 10;
/// Logical bytes of history up to which a compaction takes the time to hash it.
const KEPT_HASH_BYTES: u64 = 256 << 20;

impl Rows {
    /// Hashes the history up to `rev`; 0 means the newest revision.
    pub fn hash_kv(&self, rev: i64) -> Result<HashKv, ReadError> {
        loop {
            let compacted = self.compact_revision();
            let answer = self.hash_kv_at(rev, compacted);
            // A compaction's sweep may have taken rows from under the walk: what that came to is neither a hash nor an error.
            if self.compact_revision() == compacted {
                return answer;
            }
        }
    }

    fn hash_kv_at(&self, rev: i64, compacted: i64) -> Result<HashKv, ReadError> {
        let current = self.revision();
        if rev > current {
            return Err(ReadError::FutureRevision);
        }
        // What a compaction left behind is told of as long as it is kept, also when a later one has been by, as in etcd.
        if let Some(kept) = self.hashes.lock().iter().find(|h| h.hash_revision == rev) {
            return Ok(HashKv { current_revision: current, ..*kept });
        }
        if rev > 0 && rev < compacted {
            return Err(ReadError::Compacted);
        }
        if rev < 0 {
            // No row is that old. etcd hashes the nothing that there is and names the revision asked for.
            let hash = crc32c::crc32c(b"key");
            return Ok(HashKv { hash, hash_revision: rev, compact_revision: compacted, current_revision: current });
        }
        let upto = if rev == 0 { current } else { rev };
        let hash = self.hash_rows(upto, compacted)?;
        Ok(HashKv { hash, hash_revision: upto, compact_revision: compacted, current_revision: current })
    }

    /// Hashes the history up to `revision` as it was when `compacted` was the compaction mark, from the rows and not from memory of an
    /// earlier hash; `None` when the mark has moved on.
    pub(super) fn hash_at(&self, revision: i64, compacted: i64) -> Result<Option<u32>, ReadError> {
        let moved = || self.compact_revision() != compacted;
        if moved() {
            return Ok(None);
        }
        let hash = self.hash_rows(revision, compacted);
        // What a sweep took from under the walk is no error.
        if moved() { Ok(None) } else { hash.map(Some) }
    }

    /// The newest hash that a compaction left behind.
    pub(super) fn newest_kept_hash(&self) -> Option<HashKv> {
        self.hashes.lock().back().copied()
    }

    /// Keeps the hash at a compaction's revision as it is before the compaction removes anything, so that members that have and have
    /// not compacted can be compared; as etcd does. A history larger than [`KEPT_HASH_BYTES`] is not walked for it.
    pub(super) fn keep_hash(&self, target: i64, swept: i64) -> Result<(), BaseError> {
        if self.quota_usage() > KEPT_HASH_BYTES {
            return Ok(());
        }
        let hash = match self.hash_rows(target, swept) {
            Ok(hash) => hash,
            // The next life sweeps again, and hashes again what is there.
            Err(_) if self.is_closing() => return Ok(()),
            Err(ReadError::Corrupt(text)) => return Err(BaseError::Corrupt(text)),
            Err(e) => return Err(BaseError::Io(e.to_string())),
        };
        let mut hashes = self.hashes.lock();
        hashes.push_back(HashKv { hash, hash_revision: target, compact_revision: swept, current_revision: 0 });
        if hashes.len() > KEPT_HASHES {
            hashes.pop_front();
        }
        Ok(())
    }

    pub(super) fn hash_rows(&self, upto: i64, compacted: i64) -> Result<u32, ReadError> {
        let mut crc = crc32c::crc32c(b"key");
        // With no key alive at the hashed revision etcd leaves nothing out, so what counts is what the compaction kept.
        let kept_at = if self.any_live(upto)? { upto } else { compacted };
        self.each_row(i64::MIN, upto, |rev, tombstone, kv| {
            if rev.main <= compacted && !self.counts_below(rev, tombstone, kv, kept_at)? {
                return Ok(());
            }
            crc = crc32c::crc32c_append(crc, &log::key(rev, tombstone));
            crc = crc32c::crc32c_append(crc, kv);
            Ok(())
        })?;
        Ok(crc)
    }

    /// Whether a row at or before the compaction revision is part of the hash.
    fn counts_below(&self, rev: Revision, tombstone: bool, kv: &Bytes, at: i64) -> Result<bool, ReadError> {
        if tombstone {
            return Ok(false);
        }
        let key = KeyValue::decode(kv.clone()).map_err(|e| ReadError::Corrupt(format!("revision {}: {e}", rev.main)))?.key;
        Ok(self.get_at(&key, at)?.is_some_and(|f| f.rev == rev))
    }

    /// Whether any key is alive at a revision.
    fn any_live(&self, at: i64) -> Result<bool, ReadError> {
        let mut live = false;
        let all = KeyRange { start: Bytes::new(), end: RangeEnd::Unbounded };
        Scan::new(self, &all, at).each(|_, _| {
            live = true;
            false
        })?;
        Ok(live)
    }

    /// Gives every kept row of revisions `from..=to` to `visit`, in order.
    fn each_row(
        &self,
        from: i64,
        to: i64,
        mut visit: impl FnMut(Revision, bool, &Bytes) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        let mut next = log::key(Revision { main: from.max(0), sub: 0 }, false);
        loop {
            if self.is_closing() {
                // A long walk must not hold the rows' files when the member has stopped.
                return Err(ReadError::Io("the member stops".into()));
            }
            // Memory is looked at before the durable rows: what is dropped in between is durable by then. A row may be met in
            // both; the position `next` takes each once.
            let mut memory: Vec<(Revision, bool, Bytes)> = Vec::new();
            {
                let layers = self.layers.read();
                let start = i64::from_be_bytes(next[..8].try_into().expect("a log key starts with 8 bytes"));
                let mut bytes = 0;
                'layers: for delta in layers.frozen.iter().map(|d| d.as_ref()).chain([&layers.active]) {
                    for row in delta.log_from(start) {
                        if log::parse_key(&next).is_some_and(|(rev, _)| row.rev < rev) {
                            continue;
                        }
                        if row.rev.main > to || bytes > SLICE {
                            break 'layers;
                        }
                        bytes += row.kv.len();
                        memory.push((row.rev, row.tombstone, row.kv.clone()));
                    }
                }
            }
            let first = memory.first().map_or(to + 1, |m| m.0.main).min(to + 1);
            let mut cursor = self.base.cursor(Family::Log, &next, Some(&log::lower(first)))?;
            let mut bytes = 0;
            let mut cut = false;
            while let Some((k, v)) = cursor.row() {
                if bytes > SLICE {
                    next = Bytes::copy_from_slice(k);
                    cut = true;
                    break;
                }
                let (rev, tombstone) = log::parse_key(k).ok_or_else(|| ReadError::Corrupt("a key of the history".into()))?;
                bytes += v.len();
                visit(rev, tombstone, &Bytes::copy_from_slice(v))?;
                cursor.advance()?;
            }
            if cut {
                continue;
            }
            let Some(last) = memory.last().map(|m| m.0) else {
                return Ok(());
            };
            let start = log::parse_key(&next).map(|(rev, _)| rev).unwrap_or_default();
            for (rev, tombstone, kv) in memory.iter().filter(|m| m.0 >= start) {
                visit(*rev, *tombstone, kv)?;
            }
            next = log::key(Revision { main: last.main, sub: last.sub + 1 }, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::base::{Base, MemBase};
    use crate::mvcc::hooked::{At, Hooked};
    use crate::mvcc::{DeltaPolicy, ReadError, Store};
    use std::sync::Arc;

    const POLICY: DeltaPolicy = DeltaPolicy { freeze_bytes: 1 << 20, inline: false };

    fn store(base: &Arc<MemBase>) -> Store {
        Store::open(Arc::new(base.clone()) as Arc<dyn Base>, POLICY).unwrap()
    }

    fn put(store: &Store, keys: &[&str]) {
        for key in keys {
            let mut write = store.write();
            write.put(key.as_bytes(), b"v", 0).unwrap();
            write.finish();
        }
    }

    fn save(store: &Store) {
        store.freeze();
        store.checkpoint(true).unwrap();
    }

    /// A hash whose walk a whole compaction overtakes is begun again: it never tells of a history that there was at no time.
    #[test]
    fn a_sweep_under_a_hash() {
        for rev in [0, 7, 4] {
            let base = Arc::<Hooked>::default();
            let store = Arc::new(Store::open(Arc::new(base.clone()), POLICY).unwrap());
            // Larger than the slices the walk goes by.
            for key in ["a", "b", "a", "b", "a", "b"] {
                let mut write = store.write();
                write.put(key.as_bytes(), &vec![7; 700 << 10], 0).unwrap();
                write.finish();
            }
            save(&store);
            let sweeping = store.clone();
            base.before(At::LogCursor, 2, move || {
                sweeping.compact(6).unwrap();
                save(&sweeping);
                let mut sweep = sweeping.next_sweep().unwrap();
                while !sweeping.sweep(&mut sweep, 100).unwrap() {}
            });
            let overtaken = store.hash_kv(rev);
            assert!(base.is_done(), "the walk takes several cursors");
            assert_eq!(overtaken, store.hash_kv(rev));
            match rev {
                4 => assert_eq!(overtaken, Err(ReadError::Compacted)),
                _ => assert_eq!(overtaken.unwrap().compact_revision, 6),
            }
        }
    }

    /// What compactions left behind is told of when later ones have been by; other compacted revisions are refused.
    #[test]
    fn hashes_of_earlier_compactions() {
        let store = store(&Arc::default());
        let compact = |rev| {
            put(&store, &["a", "b", "a"]);
            store.compact(rev).unwrap();
            save(&store);
            let mut sweep = store.next_sweep().unwrap();
            while !store.sweep(&mut sweep, 100).unwrap() {}
            store.newest_kept_hash().unwrap()
        };
        let (first, second) = (compact(3), compact(6));
        assert_ne!(first.hash, second.hash);
        let told = |rev| store.hash_kv(rev).map(|told| (told.hash, told.compact_revision, told.hash_revision));
        assert_eq!(told(3), Ok((first.hash, -1, 3)));
        assert_eq!(told(6), Ok((second.hash, 3, 6)));
        assert_eq!(told(4), Err(ReadError::Compacted));
    }

    /// A member that stops ends the walks over its history, and a sweep does not take that for a failed disk.
    #[test]
    fn a_walk_ends_with_the_member() {
        let store = store(&Arc::default());
        put(&store, &["a", "a", "b"]);
        store.compact(3).unwrap();
        save(&store);
        store.close();
        assert!(matches!(store.hash_kv(0), Err(ReadError::Io(_))));
        let mut sweep = store.next_sweep().unwrap();
        while !store.sweep(&mut sweep, 100).unwrap() {}
        assert_eq!(store.newest_kept_hash(), None);
    }

    /// A sweep that was cut short leaves less to hash than there was: the member that sweeps again keeps no hash of that compaction.
    #[test]
    fn a_sweep_cut_short_leaves_no_hash_behind() {
        let base = Arc::<MemBase>::default();
        let first = store(&base);
        put(&first, &["a", "a", "b", "b", "c", "c"]);
        first.compact(6).unwrap();
        save(&first);
        let mut sweep = first.next_sweep().unwrap();
        assert!(!first.sweep(&mut sweep, 1).unwrap());
        assert_eq!(first.newest_kept_hash().map(|h| h.hash_revision), Some(6), "taken before anything was removed");
        drop(first);

        let again = store(&base);
        let mut sweep = again.next_sweep().unwrap();
        while !again.sweep(&mut sweep, 1).unwrap() {}
        assert_eq!(again.newest_kept_hash(), None);
    }
}
