//! Replay: rows of a copied history are put behind the history there is, as they were, bytes and all.
//!
//! In: rows in order. Out: the same rows in the delta, with the version each supersedes, the attachments of keys to leases brought up
//! to date. What a row says of its key's past must agree with what is there: a gap is an error and never a wrong answer later.
//! Nobody else may use the store meanwhile. Deltas are frozen between two main revisions only.

use super::delta::Row;
use super::history::HistoryRow;
use super::{ReadError, Rows};
use crate::base::kind::sys;
use bytes::Bytes;
use prost::Message;
use quorate_proto::mvccpb::KeyValue;
use std::sync::atomic::Ordering;

impl Rows {
    /// Takes up one row.
    ///
    /// # Errors
    /// `Corrupt` when the row does not follow from those before it.
    pub(super) fn replay(&self, row: &HistoryRow) -> Result<(), ReadError> {
        let HistoryRow { revision: rev, tombstone, kv } = row;
        let wrong = |why: &str| ReadError::Corrupt(format!("revision {}: {why}", rev.main));
        let decode = |kv: &Bytes| KeyValue::decode(kv.clone()).map_err(|e| wrong(&e.to_string()));
        let found = decode(kv)?;
        let newest = self.get_at(&found.key, rev.main)?;
        let prev = newest.as_ref().map(|f| (f.rev, f.tombstone));
        if prev.is_some_and(|(before, _)| before >= *rev) {
            return Err(wrong("its key has changed since"));
        }
        // (create, version, lease) of what it replaces.
        let live = match newest.filter(|f| !f.tombstone) {
            None => None,
            Some(f) => Some(match f.numbers {
                Some(numbers) => numbers,
                None => {
                    let kv = decode(&self.load(&f)?.0)?;
                    (kv.create_revision, kv.version, kv.lease)
                }
            }),
        };
        let old_lease = live.map_or(0, |l| l.2);
        if *tombstone {
            live.ok_or_else(|| wrong("a key is deleted that is not there"))?;
        } else {
            let (create, version, _) = live.unwrap_or((rev.main, 0, 0));
            if (found.create_revision, found.version, found.mod_revision) != (create, version + 1, rev.main) {
                return Err(wrong("it does not follow what is there: something between is missing"));
            }
        }
        let lease = if *tombstone { 0 } else { found.lease };
        if lease != old_lease {
            if old_lease != 0 {
                self.put_sys(sys::lease_key(old_lease, &found.key), None);
            }
            if lease != 0 {
                self.put_sys(sys::lease_key(lease, &found.key), Some(Bytes::new()));
            }
        }
        let (create, version) = if *tombstone { (0, 0) } else { (found.create_revision, found.version) };
        let row = Row { key: found.key, rev: *rev, tombstone: *tombstone, create, version, lease, kv: kv.clone(), prev };
        self.layers.write().active.push(row);
        Ok(())
    }

    /// Makes what was replayed visible, up to a revision.
    pub(super) fn replayed(&self, revision: i64) {
        self.published.fetch_max(revision, Ordering::AcqRel);
    }
}
