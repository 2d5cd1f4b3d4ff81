//! The delta: the newest changes in memory, over the durable rows.
//!
//! In come rows from the apply thread, in revision order; out go lookups as of a revision, and, once frozen, the rows a checkpoint
//! writes. Invariants: `log` ascends by revision; `keys` maps each key to the indexes of its rows in `log`, ascending; a key has at
//! most one row in each main revision.

use super::Found;
use crate::types::{LeaseId, Revision};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;

/// One change of one key.
#[derive(Clone, Debug)]
pub struct Row {
    pub key: Bytes,
    pub rev: Revision,
    pub tombstone: bool,
    pub create: i64,
    pub version: i64,
    pub lease: LeaseId,
    /// Encoded KeyValue; of a deletion, the key alone.
    pub kv: Bytes,
    /// The version this one superseded.
    pub prev: Option<(Revision, bool)>,
}

impl Row {
    fn found(&self) -> Found {
        Found {
            rev: self.rev,
            tombstone: self.tombstone,
            numbers: Some((self.create, self.version, self.lease)),
            kv: Some(self.kv.clone()),
        }
    }

    /// Bytes this row counts for in the quota: what the history keeps of it.
    pub fn usage(&self) -> i64 {
        super::row_usage(self.tombstone, self.kv.len())
    }
}

impl Row {
    /// What it changes in the number of live keys.
    fn live(&self) -> i64 {
        if self.tombstone { -1 } else { i64::from(self.version == 1) }
    }
}

/// Rough bytes of memory a row costs beside its KeyValue.
const ROW_COST: usize = 200;

#[derive(Default)]
pub struct Delta {
    keys: BTreeMap<Bytes, Vec<u32>>,
    log: Vec<Row>,
    /// Rows of the `sys` family; `None` is a deletion.
    sys: BTreeMap<Bytes, Option<Bytes>>,
    bytes: usize,
    usage: i64,
    live: i64,
    /// The published revision when it was frozen.
    revision: i64,
}

impl Delta {
    pub fn push(&mut self, row: Row) {
        debug_assert!(self.log.last().is_none_or(|l| l.rev < row.rev));
        self.bytes += row.kv.len() + ROW_COST;
        self.usage += row.usage();
        self.live += row.live();
        let at = self.log.len() as u32;
        if let Some(rows) = self.keys.get_mut(&row.key) {
            rows.push(at);
        } else {
            self.keys.insert(row.key.clone(), vec![at]);
        }
        self.log.push(row);
    }

    pub fn put_sys(&mut self, key: Bytes, value: Option<Bytes>) {
        self.bytes += key.len() + value.as_ref().map_or(0, |v| v.len()) + 64;
        self.sys.insert(key, value);
    }

    /// The newest row of `key` at or before main revision `at`.
    pub fn get(&self, key: &[u8], at: i64) -> Option<Found> {
        self.newest(self.keys.get(key)?, at)
    }

    fn newest(&self, rows: &[u32], at: i64) -> Option<Found> {
        rows.iter().rev().map(|&i| &self.log[i as usize]).find(|r| r.rev.main <= at).map(Row::found)
    }

    /// The first `max` keys of `[from, upper)` that have a row at or before `at`; true when there may be more of them.
    pub fn scan(&self, from: &[u8], upper: Option<&[u8]>, at: i64, max: usize, out: &mut Vec<(Bytes, Found)>) -> bool {
        if upper.is_some_and(|u| u <= from) {
            return false;
        }
        let end = upper.map_or(Bound::Unbounded, Bound::Excluded);
        let before = out.len();
        for (key, rows) in self.keys.range::<[u8], _>((Bound::Included(from), end)) {
            if let Some(found) = self.newest(rows, at) {
                out.push((key.clone(), found));
                if out.len() - before == max {
                    return true;
                }
            }
        }
        false
    }

    /// Rows from main revision `from` on, ascending.
    pub fn log_from(&self, from: i64) -> &[Row] {
        &self.log[self.log.partition_point(|r| r.rev.main < from)..]
    }

    /// The row in which `rev` was superseded, if that happened here.
    pub fn newest_rows(&self) -> impl Iterator<Item = &Row> {
        self.keys.values().map(|rows| &self.log[*rows.last().expect("a key has at least one row") as usize])
    }

    pub fn sys(&self) -> &BTreeMap<Bytes, Option<Bytes>> {
        &self.sys
    }

    pub fn first_main(&self) -> Option<i64> {
        self.log.first().map(|r| r.rev.main)
    }

    pub fn set_revision(&mut self, revision: i64) {
        self.revision = revision;
    }

    /// The published revision when it was frozen.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    pub fn is_empty(&self) -> bool {
        self.log.is_empty() && self.sys.is_empty()
    }

    /// Rough bytes of memory held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Change of the number of live keys by these rows.
    pub fn live(&self) -> i64 {
        self.live
    }

    /// Change of the quota's usage by these rows, in bytes.
    pub fn usage(&self) -> i64 {
        self.usage
    }
}
