//! The in-memory twin of the durable rows, for tests and simulation: same order, same atomicity, and a `crash` that forgets what
//! was not flushed.

use super::{Base, BaseError, BaseSizes, Batch, Cursor, Family, Pinned};
use bytes::Bytes;
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

type Rows = BTreeMap<Bytes, Bytes>;

#[derive(Default)]
struct Inner {
    families: [Rows; 4],
    /// Batches since the last flush, replayed backwards never: a crash rebuilds from `durable`.
    durable: [Rows; 4],
    unflushed: Vec<Batch>,
}

/// Rows in memory.
#[derive(Default)]
pub struct MemBase {
    inner: RwLock<Inner>,
}

fn apply(families: &mut [Rows; 4], batch: &Batch) {
    for (family, key, value) in &batch.rows {
        let rows = &mut families[*family as usize];
        match value {
            Some(value) => rows.insert(key.clone(), value.clone()),
            None => rows.remove(key),
        };
    }
}

impl MemBase {
    pub fn new() -> Self {
        Self::default()
    }

    /// Power loss: of the batches written since the last flush only the first `kept` survive (a background flush may have saved
    /// some of them).
    pub fn crash(&self, kept: usize) {
        let mut inner = self.inner.write();
        let unflushed = std::mem::take(&mut inner.unflushed);
        for batch in unflushed.iter().take(kept) {
            apply(&mut inner.durable, batch);
        }
        inner.families = inner.durable.clone();
    }

    /// The rows of a family that are flushed, in order.
    pub fn durable_rows(&self, family: Family) -> Vec<(Bytes, Bytes)> {
        self.inner.read().durable[family as usize].iter().map(|(k, v)| (k.clone(), v.clone())).collect()
    }

    /// A row as it is read.
    pub fn row(&self, family: Family, key: &[u8]) -> Option<Bytes> {
        self.inner.read().families[family as usize].get(key).cloned()
    }

    /// Replaces the value of a row where it lies, as damage does that no checksum sees.
    pub fn damage(&self, family: Family, key: Bytes, value: Bytes) {
        let mut inner = self.inner.write();
        inner.families[family as usize].insert(key.clone(), value.clone());
        inner.durable[family as usize].insert(key, value);
    }

    /// Batches that a crash could still lose.
    pub fn unflushed(&self) -> usize {
        self.inner.read().unflushed.len()
    }
}

struct MemCursor {
    rows: Vec<(Bytes, Bytes)>,
    at: usize,
}

impl Cursor for MemCursor {
    fn row(&self) -> Option<(&[u8], &[u8])> {
        self.rows.get(self.at).map(|(k, v)| (k.as_ref(), v.as_ref()))
    }

    fn advance(&mut self) -> Result<(), BaseError> {
        self.at += 1;
        Ok(())
    }

    fn seek(&mut self, key: &[u8]) -> Result<(), BaseError> {
        self.at = self.rows.partition_point(|(k, _)| k.as_ref() < key);
        Ok(())
    }
}

struct PinnedMem([Rows; 4]);

impl Pinned for PinnedMem {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, BaseError> {
        Ok(self.0[family as usize].get(key).cloned())
    }

    fn cursor<'a>(&'a self, family: Family, lower: &[u8]) -> Result<Box<dyn Cursor + 'a>, BaseError> {
        let range = self.0[family as usize].range::<[u8], _>((Bound::Included(lower), Bound::Unbounded));
        Ok(Box::new(MemCursor { rows: range.map(|(k, v)| (k.clone(), v.clone())).collect(), at: 0 }))
    }
}

/// A handle on rows that outlive it, as a folder on disk outlives the process that opened it.
impl Base for Arc<MemBase> {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, BaseError> {
        self.as_ref().get(family, key)
    }

    fn get_many(&self, family: Family, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, BaseError> {
        self.as_ref().get_many(family, keys)
    }

    fn cursor<'a>(&'a self, family: Family, lower: &[u8], upper: Option<&[u8]>) -> Result<Box<dyn Cursor + 'a>, BaseError> {
        self.as_ref().cursor(family, lower, upper)
    }

    fn write(&self, batch: Batch) -> Result<(), BaseError> {
        self.as_ref().write(batch)
    }

    fn flush(&self) -> Result<(), BaseError> {
        self.as_ref().flush()
    }

    fn sizes(&self) -> BaseSizes {
        self.as_ref().sizes()
    }

    fn pinned(&self, work: &mut dyn FnMut(&dyn Pinned)) {
        self.as_ref().pinned(work);
    }

    fn pin(&self) -> Option<Box<dyn Pinned + Send + Sync>> {
        self.as_ref().pin()
    }
}

impl Base for MemBase {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, BaseError> {
        Ok(self.inner.read().families[family as usize].get(key).cloned())
    }

    fn get_many(&self, family: Family, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, BaseError> {
        let inner = self.inner.read();
        Ok(keys.iter().map(|k| inner.families[family as usize].get(k).cloned()).collect())
    }

    fn cursor<'a>(&'a self, family: Family, lower: &[u8], upper: Option<&[u8]>) -> Result<Box<dyn Cursor + 'a>, BaseError> {
        let end = upper.map_or(Bound::Unbounded, Bound::Excluded);
        let rows = if upper.is_some_and(|u| u <= lower) {
            Vec::new()
        } else {
            let inner = self.inner.read();
            let range = inner.families[family as usize].range::<[u8], _>((Bound::Included(lower), end));
            range.map(|(k, v)| (k.clone(), v.clone())).collect()
        };
        Ok(Box::new(MemCursor { rows, at: 0 }))
    }

    fn write(&self, batch: Batch) -> Result<(), BaseError> {
        let mut inner = self.inner.write();
        apply(&mut inner.families, &batch);
        inner.unflushed.push(batch);
        Ok(())
    }

    fn flush(&self) -> Result<(), BaseError> {
        let mut inner = self.inner.write();
        let unflushed = std::mem::take(&mut inner.unflushed);
        for batch in &unflushed {
            apply(&mut inner.durable, batch);
        }
        Ok(())
    }

    fn pinned(&self, work: &mut dyn FnMut(&dyn Pinned)) {
        let families = self.inner.read().families.clone();
        work(&PinnedMem(families));
    }

    fn pin(&self) -> Option<Box<dyn Pinned + Send + Sync>> {
        Some(Box::new(PinnedMem(self.inner.read().families.clone())))
    }

    fn sizes(&self) -> BaseSizes {
        let inner = self.inner.read();
        let bytes = inner.families.iter().flat_map(|f| f.iter()).map(|(k, v)| (k.len() + v.len()) as u64).sum();
        BaseSizes { on_disk: bytes, live: bytes }
    }
}
