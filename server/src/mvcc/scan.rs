//! An ordered walk over the live keys of an interval as of a revision: deltas merged over the durable rows.
//!
//! The deltas are read in chunks of keys, each under a short lock, so that a long walk never holds up the writer. A durable cursor
//! sees the rows as they were when it was made; when a delta was dropped since (its rows are durable now), the cursor is made anew.

use super::read::corrupt;
use super::{Found, Rows};
use crate::base::kind::latest::Latest;
use crate::base::{BaseError, Cursor, Family};
use crate::types::KeyRange;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

const FIRST_CHUNK: usize = 64;
const LARGEST_CHUNK: usize = 4096;

pub(super) struct Scan<'a> {
    store: &'a Rows,
    at: i64,
    /// Every key before this one has been given out.
    from: Vec<u8>,
    upper: Option<Bytes>,
    cursor: Option<Box<dyn Cursor + 'a>>,
    dropped: u64,
    chunk: VecDeque<(Bytes, Found)>,
    chunk_size: usize,
    done: bool,
}

impl<'a> Scan<'a> {
    pub fn new(store: &'a Rows, range: &KeyRange, at: i64) -> Self {
        Self::from(store, range, at, &range.start)
    }

    /// A walk over the part of `range` that starts at `from`.
    pub fn from(store: &'a Rows, range: &KeyRange, at: i64, from: &[u8]) -> Self {
        Self {
            store,
            at,
            from: from.max(range.start.as_ref()).to_vec(),
            upper: range.upper(),
            cursor: None,
            dropped: 0,
            chunk: VecDeque::new(),
            chunk_size: FIRST_CHUNK,
            done: range.is_empty(),
        }
    }

    /// Gives each live key with its version to `visit`, in key order, until that returns false or the interval ends.
    pub fn each(&mut self, mut visit: impl FnMut(&[u8], Found) -> bool) -> Result<(), BaseError> {
        while !self.done {
            let bound = self.fill()?;
            if !self.merge(bound.as_deref(), &mut visit)? {
                self.done = true;
                return Ok(());
            }
            match bound {
                Some(bound) => self.from = bound.to_vec(),
                None => self.done = true,
            }
        }
        Ok(())
    }

    /// Reads the next chunk of the deltas and returns the key before which it is complete; `None`: to the end of the interval.
    fn fill(&mut self) -> Result<Option<Bytes>, BaseError> {
        let upper = self.upper.as_deref();
        let mut bound: Option<Bytes> = None;
        let mut merged: BTreeMap<Bytes, Found> = BTreeMap::new();
        let dropped;
        {
            let layers = self.store.layers.read();
            dropped = layers.dropped;
            let mut rows = Vec::new();
            for delta in layers.frozen.iter().map(|d| d.as_ref()).chain([&layers.active]) {
                rows.clear();
                if delta.scan(&self.from, upper, self.at, self.chunk_size, &mut rows) {
                    let mut next = rows.last().expect("a full chunk has a last key").0.to_vec();
                    next.push(0);
                    if bound.as_ref().is_none_or(|b| next.as_slice() < b.as_ref()) {
                        bound = Some(next.into());
                    }
                }
                merged.extend(rows.drain(..));
            }
        }
        self.chunk_size = (self.chunk_size * 4).min(LARGEST_CHUNK);
        self.chunk = merged.into_iter().take_while(|(k, _)| bound.as_ref().is_none_or(|b| k < b)).collect();
        if self.cursor.is_none() || self.dropped != dropped {
            self.cursor = Some(self.store.base.cursor(Family::Latest, &self.from, upper)?);
            self.dropped = dropped;
        }
        Ok(bound)
    }

    /// Walks both sources up to `bound`; false when `visit` wants no more.
    fn merge(&mut self, bound: Option<&[u8]>, visit: &mut impl FnMut(&[u8], Found) -> bool) -> Result<bool, BaseError> {
        let cursor = self.cursor.as_mut().expect("fill made a cursor");
        loop {
            let row = cursor.row().filter(|(k, _)| bound.is_none_or(|b| *k < b));
            let newer = self.chunk.front();
            let take_newer = match (&row, newer) {
                (None, None) => return Ok(true),
                (None, Some(_)) => true,
                (Some(_), None) => false,
                (Some((k, _)), Some((n, _))) => n.as_ref() <= *k,
            };
            if take_newer {
                let (key, found) = self.chunk.pop_front().expect("front was there");
                if row.is_some_and(|(k, _)| k == key.as_ref()) {
                    cursor.advance()?;
                }
                if !found.tombstone && !visit(&key, found) {
                    return Ok(false);
                }
                continue;
            }
            let (key, value) = row.expect("one of the two is there");
            let latest = Latest::decode(value).ok_or_else(|| corrupt("latest", key))?;
            if let Some(found) = self.store.resolve(key, latest, self.at)?
                && !found.tombstone
                && !visit(key, found)
            {
                return Ok(false);
            }
            cursor.advance()?;
        }
    }
}
