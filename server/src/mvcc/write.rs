//! Writing: the changes of one request, all under one main revision.

use super::delta::Row;
use super::scan::Scan;
use super::{Event, Found, MAX_FROZEN, RevisionEvents, Rows, encode};
use crate::base::BaseError;
use crate::types::{KeyRange, LeaseId, Revision};
use bytes::Bytes;
use quorate_proto::RawKv;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A key that moved from one lease to another (0: none).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attachment {
    pub key: Bytes,
    pub from: LeaseId,
    pub to: LeaseId,
}

/// The changes of one request. Only the apply thread makes one; nothing of it is visible to readers before [`WriteTxn::finish`].
pub struct WriteTxn {
    store: Arc<Rows>,
    main: i64,
    events: Vec<Event>,
    attachments: Vec<Attachment>,
}

impl Rows {
    /// Starts the changes that follow the newest published revision. The caller is the only writer.
    pub(crate) fn write(self: &Arc<Self>) -> WriteTxn {
        WriteTxn { store: self.clone(), main: self.revision() + 1, events: Vec::new(), attachments: Vec::new() }
    }

    /// Writes or deletes a row of the `sys` family; durable with the next checkpoint, together with the applied position.
    pub(crate) fn put_sys(&self, key: Bytes, value: Option<Bytes>) {
        self.layers.write().active.put_sys(key, value);
    }

    /// True when the active delta has reached its size.
    pub(crate) fn wants_freeze(&self) -> bool {
        let layers = self.layers.read();
        !layers.active.is_empty() && layers.active.bytes() >= self.policy.freeze_bytes
    }

    /// True when [`Rows::freeze`] would wait for a checkpoint.
    pub(crate) fn freeze_waits(&self) -> bool {
        self.layers.read().frozen.len() >= MAX_FROZEN
    }

    /// Freezes the active delta, which must already hold the applied position. Waits while too many await their checkpoint; but when
    /// the member stops on a full disk no checkpoint will come: it then freezes nothing and says so.
    pub(crate) fn freeze(&self) -> bool {
        let mut gate = self.frozen_gate.lock();
        while self.layers.read().frozen.len() >= MAX_FROZEN {
            if gate.full && gate.closing {
                return false;
            }
            self.frozen_changed.wait(&mut gate);
        }
        let mut layers = self.layers.write();
        if !layers.active.is_empty() {
            let mut full = std::mem::take(&mut layers.active);
            full.set_revision(self.revision());
            layers.frozen.push(Arc::new(full));
        }
        true
    }

    /// Checkpoints wait for space on the disk, or go on.
    pub(crate) fn disk_is_full(&self, full: bool) {
        self.frozen_gate.lock().full = full;
        self.frozen_changed.notify_all();
    }

    /// True while checkpoints wait for space on the disk.
    pub(crate) fn is_disk_full(&self) -> bool {
        self.frozen_gate.lock().full
    }

    /// True when the member stops.
    pub(crate) fn is_closing(&self) -> bool {
        self.frozen_gate.lock().closing
    }

    /// The member stops.
    pub(crate) fn close(&self) {
        self.frozen_gate.lock().closing = true;
        self.frozen_changed.notify_all();
    }
}

impl WriteTxn {
    /// The newest revision this transaction's reads see.
    pub fn revision(&self) -> i64 {
        if self.events.is_empty() { self.main - 1 } else { self.main }
    }

    /// The live version of `key` as this transaction sees it.
    pub(crate) fn current(&self, key: &[u8]) -> Result<Option<Found>, BaseError> {
        Ok(self.store.get_at(key, self.main)?.filter(|f| !f.tombstone))
    }

    pub(crate) fn load(&self, found: &Found) -> Result<RawKv, BaseError> {
        self.store.load(found)
    }

    /// Writes `key`; returns the version it replaced, if one was alive.
    pub(crate) fn put(&mut self, key: &[u8], value: &[u8], lease: LeaseId) -> Result<Option<Found>, BaseError> {
        let newest = self.store.get_at(key, self.main)?;
        let prev = newest.as_ref().map(|f| (f.rev, f.tombstone));
        let live = newest.filter(|f| !f.tombstone);
        let (create, version, old_lease) = match &live {
            Some(found) => self.numbers(found)?,
            None => (self.main, 0, 0),
        };
        let rev = Revision { main: self.main, sub: self.events.len() as i64 };
        let version = version + 1;
        let (kv, key) = encode::key_value(key, create, rev.main, version, value, lease);
        if old_lease != lease {
            self.attachments.push(Attachment { key: key.clone(), from: old_lease, to: lease });
        }
        self.events.push(Event {
            key: key.clone(),
            kv: RawKv(kv.clone()),
            delete: false,
            create: version == 1,
            revision: rev,
            prev: live.as_ref().and_then(|f| f.kv.clone()).map(RawKv),
            has_prev: live.is_some(),
            lease,
        });
        let bytes = (key.len() + value.len()) as u64;
        let row = Row { key, rev, tombstone: false, create, version, lease, kv, prev };
        self.store.layers.write().active.push(row);
        self.store.stats.puts.fetch_add(1, Ordering::Relaxed);
        self.store.stats.put_bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(live)
    }

    fn numbers(&self, found: &Found) -> Result<(i64, i64, LeaseId), BaseError> {
        if let Some(numbers) = found.numbers {
            return Ok(numbers);
        }
        let kv = self.store.load(found)?;
        let kv = kv.decode().map_err(|e| BaseError::Corrupt(format!("a KeyValue of the history: {e}")))?;
        Ok((kv.create_revision, kv.version, kv.lease))
    }

    /// Deletes every live key of `range`, in key order; returns the versions deleted.
    pub(crate) fn delete_range(&mut self, range: &KeyRange) -> Result<Vec<Found>, BaseError> {
        // One for each deletion asked for, whatever it finds, as in etcd.
        self.store.stats.deletes.fetch_add(1, Ordering::Relaxed);
        let mut doomed = Vec::new();
        if range.is_single() {
            doomed.extend(self.current(&range.start)?.map(|f| (range.start.clone(), f)));
        } else {
            Scan::new(&self.store, range, self.main).each(|key, found| {
                doomed.push((Bytes::copy_from_slice(key), found));
                true
            })?;
        }
        let mut deleted = Vec::with_capacity(doomed.len());
        for (key, found) in doomed {
            let (_, _, lease) = self.numbers(&found)?;
            let rev = Revision { main: self.main, sub: self.events.len() as i64 };
            let (kv, key) = encode::tombstone(&key);
            if lease != 0 {
                self.attachments.push(Attachment { key: key.clone(), from: lease, to: 0 });
            }
            self.events.push(Event {
                key: key.clone(),
                kv: RawKv(encode::key_value(&key, 0, rev.main, 0, &[], 0).0),
                delete: true,
                create: false,
                revision: rev,
                prev: found.kv.clone().map(RawKv),
                has_prev: true,
                lease: 0,
            });
            let prev = Some((found.rev, false));
            let row = Row { key, rev, tombstone: true, create: 0, version: 0, lease: 0, kv, prev };
            self.store.layers.write().active.push(row);
            deleted.push(found);
        }
        Ok(deleted)
    }

    /// Publishes the changes; `None` when there are none, and then the revision stays.
    pub(crate) fn finish(self) -> (Option<RevisionEvents>, Vec<Attachment>) {
        if self.events.is_empty() {
            return (None, self.attachments);
        }
        self.store.published.store(self.main, Ordering::Release);
        (Some(RevisionEvents { revision: self.main, events: self.events }), self.attachments)
    }
}
