//! Checkpoints: a frozen delta becomes durable rows.
//!
//! Order of the rows: `log`, `hist`, then `latest`, and `sys` with the applied position last. A `latest` row must not become durable
//! before the `hist` row that remembers what it replaced, and a flush may cut in between any two batches. Whatever prefix survives
//! a crash, replaying from the durable applied position reads around the newer rows and writes the same bytes again.

use super::delta::Delta;
use super::{Rows, row_usage};
use crate::base::kind::latest::Latest;
use crate::base::kind::{hist, log, sys};
use crate::base::{Base, BaseError, Batch, Family};
use crate::env::failpoint::{self, Place};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Row bytes written at once.
const BATCH: usize = 1 << 20;

struct Pen<'a> {
    base: &'a dyn Base,
    batch: Batch,
}

impl Pen<'_> {
    fn put(&mut self, family: Family, key: Bytes, value: Bytes) -> Result<(), BaseError> {
        self.batch.put(family, key, value);
        if self.batch.size() >= BATCH { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), BaseError> {
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() { Ok(()) } else { self.base.write(batch) }
    }

    /// Passes a fail point. Only where one is armed are the rows so far made durable, as a flush of RocksDB's own might do.
    fn reach(&mut self, place: Place) -> Result<(), BaseError> {
        if failpoint::is_armed(place) {
            self.write()?;
            self.base.flush()?;
            failpoint::visit(place);
        }
        Ok(())
    }
}

impl Rows {
    /// Writes the oldest frozen delta to the durable rows and returns the revision they now reach; `None` when there is no delta.
    /// With `flush` it is durable on return.
    /// Only one thread may call this and the compaction's steps.
    pub(crate) fn checkpoint(&self, flush: bool) -> Result<Option<i64>, BaseError> {
        let Some(delta) = self.layers.read().frozen.first().cloned() else {
            return Ok(None);
        };
        failpoint::visit(Place::CheckpointBegin);
        self.write_rows(&delta)?;
        failpoint::visit(Place::CheckpointWritten);
        if flush {
            self.base.flush()?;
            failpoint::visit(Place::CheckpointFlushed);
        }
        self.pairs.renew(delta.newest_rows());
        {
            let mut layers = self.layers.write();
            layers.frozen.remove(0);
            layers.dropped += 1;
            self.base_usage.fetch_add(delta.usage(), Ordering::Relaxed);
            self.base_live.fetch_add(delta.live(), Ordering::Relaxed);
        }
        let _gate = self.frozen_gate.lock();
        self.frozen_changed.notify_all();
        self.stats.checkpoints.fetch_add(1, Ordering::Relaxed);
        Ok(Some(delta.revision()))
    }

    fn write_rows(&self, delta: &Arc<Delta>) -> Result<(), BaseError> {
        let mut pen = Pen { base: self.base.as_ref(), batch: Batch::default() };
        let rows = delta.log_from(i64::MIN);
        for row in rows {
            pen.put(Family::Log, log::key(row.rev, row.tombstone), row.kv.clone())?;
        }
        pen.reach(Place::CheckpointLog)?;
        // In key order, as the families sort.
        let mut superseded: Vec<_> = rows.iter().filter_map(|r| r.prev.map(|p| (&r.key, p, r.rev))).collect();
        superseded.sort_unstable_by(|a, b| a.0.cmp(b.0).then(b.1.0.cmp(&a.1.0)));
        for (key, (rev, tombstone), next) in superseded {
            pen.put(Family::Hist, hist::key(key, rev), hist::value(tombstone, next))?;
        }
        pen.reach(Place::CheckpointHist)?;
        for row in delta.newest_rows() {
            let latest =
                Latest { rev: row.rev, tombstone: row.tombstone, create: row.create, version: row.version, lease: row.lease };
            pen.put(Family::Latest, row.key.clone(), latest.encode().into())?;
        }
        pen.write()?;
        pen.reach(Place::CheckpointLatest)?;
        let mut last = Batch::default();
        for (key, value) in delta.sys() {
            match value {
                Some(value) => last.put(Family::Sys, key.clone(), value.clone()),
                None => last.delete(Family::Sys, key.clone()),
            }
        }
        let usage = self.base_usage.load(Ordering::Relaxed) + delta.usage();
        last.put(Family::Sys, sys::single(sys::USAGE), Bytes::copy_from_slice(&usage.to_be_bytes()));
        let live = self.base_live.load(Ordering::Relaxed) + delta.live();
        last.put(Family::Sys, sys::single(sys::LIVE), Bytes::copy_from_slice(&live.to_be_bytes()));
        self.base.write(last)
    }

    /// Deletes durable rows of the history and keeps the usage in step, in one batch.
    pub(super) fn forget(&self, mut batch: Batch, freed: &[(bool, usize)]) -> Result<(), BaseError> {
        let bytes: i64 = freed.iter().map(|(tombstone, kv)| row_usage(*tombstone, *kv)).sum();
        let usage = self.base_usage.load(Ordering::Relaxed) - bytes;
        batch.put(Family::Sys, sys::single(sys::USAGE), Bytes::copy_from_slice(&usage.to_be_bytes()));
        self.base.write(batch)?;
        self.base_usage.store(usage, Ordering::Relaxed);
        failpoint::visit(Place::Sweep);
        self.stats.compacted_rows.fetch_add(freed.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}
