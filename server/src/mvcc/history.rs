//! The rows of the log as they are kept, for whoever copies them.
//!
//! In: a position and a limit. Out: rows in order of revision, deletions with their key alone, cut at any row. They are whole only
//! where no sweep has been: [`super::Store::history`] looks after that.

use super::{ReadError, Rows};
use crate::base::Family;
use crate::base::kind::log;
use crate::types::Revision;
use bytes::Bytes;

/// One change as the log keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryRow {
    pub revision: Revision,
    pub tombstone: bool,
    /// Encoded KeyValue; of a deletion, one that has only the key.
    pub kv: Bytes,
}

/// Rows that follow one another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    pub rows: Vec<HistoryRow>,
    /// True when the limit cut it: more rows may follow, of the last one's revision too.
    pub more: bool,
}

impl Rows {
    /// Rows from `from` on, up to main revision `to`, until their KeyValues make `max_bytes`; at least one, if there is one.
    pub(super) fn history(&self, from: Revision, to: i64, max_bytes: usize) -> Result<History, ReadError> {
        let to = to.min(self.revision());
        // Memory is looked at before the durable rows: what is dropped in between is durable by then. A row may be met in both.
        let mut memory = Vec::new();
        let (mut first, mut bytes, mut more) = (None, 0, false);
        {
            let layers = self.layers.read();
            'layers: for delta in layers.frozen.iter().map(|d| d.as_ref()).chain([&layers.active]) {
                first = first.or(delta.first_main());
                for row in delta.log_from(from.main).iter().filter(|row| row.rev >= from) {
                    if row.rev.main > to {
                        break 'layers;
                    }
                    if bytes >= max_bytes {
                        more = true;
                        break 'layers;
                    }
                    bytes += row.kv.len();
                    memory.push(HistoryRow { revision: row.rev, tombstone: row.tombstone, kv: row.kv.clone() });
                }
            }
        }
        let durable_to = first.map_or(to, |first| first - 1).min(to);
        let mut rows = Vec::new();
        if from.main <= durable_to {
            bytes = 0;
            let mut cursor = self.base.cursor(Family::Log, &log::key(from, false), Some(&log::lower(durable_to + 1)))?;
            while let Some((k, v)) = cursor.row() {
                let (revision, tombstone) = log::parse_key(k).ok_or_else(|| ReadError::Corrupt("a key of the history".into()))?;
                if bytes >= max_bytes {
                    return Ok(History { rows, more: true });
                }
                bytes += v.len();
                rows.push(HistoryRow { revision, tombstone, kv: Bytes::copy_from_slice(v) });
                cursor.advance()?;
            }
        }
        rows.extend(memory);
        Ok(History { rows, more })
    }
}

#[cfg(test)]
mod tests {
    use crate::base::MemBase;
    use crate::mvcc::{DeltaPolicy, Store};
    use crate::types::{KeyRange, Revision};
    use std::sync::Arc;
    use std::time::Instant;

    /// However it is cut and wherever the rows live, the pages together are the history; what a sweep may have reached is not given.
    #[test]
    fn pages_are_the_history() {
        let store = Store::open(Arc::new(MemBase::new()), DeltaPolicy { freeze_bytes: 1 << 20, inline: false }).unwrap();
        for round in 0..30u8 {
            let mut write = store.write();
            write.put(&[b'k', round % 4], &vec![round; usize::from(round)], 0).unwrap();
            if round % 5 == 4 {
                write.delete_range(&KeyRange::all()).unwrap();
            }
            write.finish();
            if round == 10 || round == 20 {
                store.freeze();
            }
            if round == 15 {
                store.checkpoint(true).unwrap();
            }
        }
        let all = store.history(Revision::new(2, 0), i64::MAX, usize::MAX).unwrap().unwrap();
        assert!(!all.more && all.rows.windows(2).all(|w| w[0].revision < w[1].revision));
        assert_eq!(all.rows.last().unwrap().revision.main, 31);
        for max in [1, 7, 60, 300] {
            let (mut pages, mut from) = (Vec::new(), Revision::new(2, 0));
            loop {
                let page = store.history(from, i64::MAX, max).unwrap().unwrap();
                let last = page.rows.last().unwrap().revision;
                from = Revision::new(last.main, last.sub + 1);
                pages.extend(page.rows);
                if !page.more {
                    break;
                }
            }
            assert_eq!(pages, all.rows, "pages of {max} bytes");
        }
        store.compact(12).unwrap();
        assert!(store.history(Revision::new(12, 0), i64::MAX, 1).unwrap().is_some());
        assert!(store.may_sweep_to(12, Instant::now()));
        assert!(store.history(Revision::new(12, 0), i64::MAX, 1).unwrap().is_none());
        assert!(store.history(Revision::new(13, 0), i64::MAX, 1).unwrap().is_some());
    }
}
