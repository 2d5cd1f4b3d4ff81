//! Point reads: one key as of a revision, and rows of the `sys` family.

use super::{Found, ReadError, Rows};
use crate::base::kind::{hist, latest::Latest, log};
use crate::base::{BaseError, Family};
use crate::env::plant::{self, Plant};
use crate::types::Revision;
use bytes::Bytes;
use quorate_proto::RawKv;
use std::collections::BTreeMap;

pub(super) fn corrupt(what: &str, key: &[u8]) -> BaseError {
    BaseError::Corrupt(format!("{what} row of key {:?}", String::from_utf8_lossy(key)))
}

impl Rows {
    /// The newest version of `key` at or before `at`, a deletion included.
    pub(crate) fn get_at(&self, key: &[u8], at: i64) -> Result<Option<Found>, BaseError> {
        {
            let layers = self.layers.read();
            if let Some(found) = layers.active.get(key, at) {
                return Ok(Some(found));
            }
            for delta in layers.frozen.iter().rev() {
                if let Some(found) = delta.get(key, at) {
                    return Ok(Some(found));
                }
            }
        }
        self.base_at(key, at)
    }

    /// As [`Rows::get_at`], with the KeyValue of a version that is alive; what had to be read from the durable rows is kept for the next
    /// reader.
    pub(super) fn get_whole(&self, key: &[u8], at: i64) -> Result<Option<Found>, BaseError> {
        let began = self.pairs.checkpoint();
        let Some(mut found) = self.get_at(key, at)? else { return Ok(None) };
        if found.kv.is_none() && !found.tombstone {
            found.kv = Some(self.load(&found)?.0);
            self.pairs.keep(key, &found, began);
        }
        Ok(Some(found))
    }

    fn base_at(&self, key: &[u8], at: i64) -> Result<Option<Found>, BaseError> {
        if let Some(found) = self.pairs.get(key, at.min(self.revision())) {
            return Ok(Some(found));
        }
        let Some(row) = self.base.get(Family::Latest, key)? else {
            return Ok(None);
        };
        let row = Latest::decode(&row).ok_or_else(|| corrupt("latest", key))?;
        self.resolve(key, row, at)
    }

    /// The version at or before `at`, given the newest durable one.
    pub(super) fn resolve(&self, key: &[u8], row: Latest, at: i64) -> Result<Option<Found>, BaseError> {
        // After a crash the durable rows may be ahead of the revision that the replayed log has reached. A request must not see what
        // it is about to write as what was there before it.
        let at = at.min(self.revision());
        if row.rev.main <= at {
            let numbers = Some((row.create, row.version, row.lease));
            return Ok(Some(Found { rev: row.rev, tombstone: row.tombstone, numbers, kv: None }));
        }
        let cursor = self.base.cursor(Family::Hist, &hist::seek_key(key, at), Some(&hist::upper(key)))?;
        let Some((k, v)) = cursor.row() else {
            return Ok(None);
        };
        let (_, old) = hist::parse(k, v).ok_or_else(|| corrupt("hist", key))?;
        // What superseded it has no row any more: it was a deletion, and a sweep that has not come as far as this row removed it.
        if old.next.main <= at && !plant::is(Plant::HalfSweptRead) {
            return Ok(None);
        }
        Ok(Some(Found { rev: old.rev, tombstone: old.tombstone, numbers: None, kv: None }))
    }

    /// The encoded KeyValue of a version.
    pub(crate) fn load(&self, found: &Found) -> Result<RawKv, BaseError> {
        if let Some(kv) = &found.kv {
            return Ok(RawKv(kv.clone()));
        }
        self.base.get(Family::Log, &log::key(found.rev, found.tombstone))?.map(RawKv).ok_or_else(|| missing(found.rev))
    }

    /// The KeyValues of several versions, in order.
    pub(super) fn load_all(&self, found: &[Found]) -> Result<Vec<RawKv>, BaseError> {
        let wanted: Vec<Bytes> = found.iter().filter(|f| f.kv.is_none()).map(|f| log::key(f.rev, f.tombstone)).collect();
        let mut rows = self.base.get_many(Family::Log, &wanted)?.into_iter();
        let mut next = |f: &Found| match &f.kv {
            Some(kv) => Ok(RawKv(kv.clone())),
            None => rows.next().flatten().map(RawKv).ok_or_else(|| missing(f.rev)),
        };
        found.iter().map(&mut next).collect()
    }

    /// The version of `key` just before main revision `before`; `None` when there was none, it was a deletion, or it is compacted.
    pub fn previous(&self, key: &[u8], before: i64) -> Result<Option<RawKv>, ReadError> {
        if before - 1 < self.compact_revision() {
            return Ok(None);
        }
        match self.get_at(key, before - 1)? {
            Some(found) if !found.tombstone => match self.load(&found) {
                Ok(kv) => Ok(Some(kv)),
                Err(_) if before - 1 < self.compact_revision() => Ok(None),
                Err(e) => Err(e.into()),
            },
            _ => Ok(None),
        }
    }

    pub(crate) fn sys_get(&self, key: &[u8]) -> Result<Option<Bytes>, BaseError> {
        {
            let layers = self.layers.read();
            for delta in std::iter::once(&layers.active).chain(layers.frozen.iter().rev().map(|d| d.as_ref())) {
                if let Some(value) = delta.sys().get(key) {
                    return Ok(value.clone());
                }
            }
        }
        self.base.get(Family::Sys, key)
    }

    /// Rows of `[lower, upper)` in order, at most `max`.
    pub(crate) fn sys_scan(&self, lower: &Bytes, upper: &Bytes, max: usize) -> Result<Vec<(Bytes, Bytes)>, BaseError> {
        let mut changed: BTreeMap<Bytes, Option<Bytes>> = BTreeMap::new();
        // Deltas are read before the durable rows: one that is dropped in between has its rows there already.
        {
            let layers = self.layers.read();
            for delta in layers.frozen.iter().map(|d| d.as_ref()).chain([&layers.active]) {
                changed.extend(delta.sys().range(lower.clone()..upper.clone()).map(|(k, v)| (k.clone(), v.clone())));
            }
        }
        let mut out: BTreeMap<Bytes, Bytes> = BTreeMap::new();
        let mut cursor = self.base.cursor(Family::Sys, lower, Some(upper))?;
        let deleted = changed.values().filter(|v| v.is_none()).count();
        while let Some((k, v)) = cursor.row() {
            if out.len() >= max.saturating_add(deleted) {
                break;
            }
            out.insert(Bytes::copy_from_slice(k), Bytes::copy_from_slice(v));
            cursor.advance()?;
        }
        for (k, v) in changed {
            match v {
                Some(v) => out.insert(k, v),
                None => out.remove(&k),
            };
        }
        Ok(out.into_iter().take(max).collect())
    }
}

pub(super) fn missing(rev: Revision) -> BaseError {
    BaseError::Corrupt(format!("revision {}_{} is missing from the history", rev.main, rev.sub))
}

#[cfg(test)]
mod tests {
    use crate::base::MemBase;
    use crate::mvcc::{DeltaPolicy, Store};
    use quorate_proto::entry::Range;
    use std::sync::Arc;

    /// While a sweep is under way a deletion may be gone and what it deleted not yet: that must not show.
    #[test]
    fn a_half_swept_key_shows_nothing_from_before_its_deletion() {
        let store = Store::open(Arc::new(MemBase::new()), DeltaPolicy { freeze_bytes: 1 << 20, inline: false }).unwrap();
        let put = |key: &[u8]| {
            let mut write = store.write();
            write.put(key, b"v", 0).unwrap();
            write.finish();
        };
        put(b"k");
        let mut write = store.write();
        write.delete_range(&crate::types::KeyRange::all()).unwrap();
        write.finish();
        put(b"other");
        put(b"k");
        store.compact(4).unwrap();
        store.freeze();
        store.checkpoint(true).unwrap();
        let mut sweep = store.next_sweep().unwrap();
        let read = || store.range(&Range { key: "k".into(), revision: 4, ..Default::default() }).unwrap().count;
        loop {
            assert_eq!(read(), 0);
            if store.sweep(&mut sweep, 1).unwrap() {
                break;
            }
        }
        assert_eq!(read(), 0);
    }
}
