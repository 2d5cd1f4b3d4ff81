//! The replicated table of leases. Deterministic: it changes only by commands, and its time is the entries' time.
//!
//! A lease is a small record in memory and a `sys` row; the keys attached to it are `sys` rows alone, so memory does not grow with
//! them.

use crate::base::BaseError;
use crate::base::kind::sys;
use crate::mvcc::{Attachment, Store};
use crate::types::LeaseId;
use bytes::Bytes;
use prost::Message;
use quorate_proto::state::LeaseRow;
use std::collections::BTreeMap;

/// One lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lease {
    pub id: LeaseId,
    /// Granted time to live, in seconds.
    pub ttl: i64,
    /// Remaining seconds at the last checkpoint; 0: never checkpointed, the full time counts.
    pub remaining: i64,
    /// The entry clock's milliseconds at grant.
    pub granted_at_ms: i64,
}

/// Every lease there is.
#[derive(Default)]
pub struct LeaseTable {
    leases: BTreeMap<LeaseId, Lease>,
}

impl LeaseTable {
    /// Reads the table from its rows.
    pub(crate) fn load(store: &Store) -> Result<Self, BaseError> {
        let (lower, upper) = sys::tag_range(sys::LEASE);
        let mut table = Self::default();
        for (_, row) in store.sys_scan(&lower, &upper, usize::MAX)? {
            let row = LeaseRow::decode(row).map_err(|e| BaseError::Corrupt(format!("a lease row: {e}")))?;
            let lease = Lease { id: row.id, ttl: row.ttl, remaining: row.remaining_ttl, granted_at_ms: row.granted_at_ms };
            table.leases.insert(lease.id, lease);
        }
        Ok(table)
    }

    pub fn get(&self, id: LeaseId) -> Option<Lease> {
        self.leases.get(&id).copied()
    }

    pub fn all(&self) -> impl Iterator<Item = Lease> + '_ {
        self.leases.values().copied()
    }

    pub fn len(&self) -> usize {
        self.leases.len()
    }

    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// Keeps a lease in memory and in its row.
    pub(crate) fn put(&mut self, store: &Store, lease: Lease) {
        let row = LeaseRow { id: lease.id, ttl: lease.ttl, remaining_ttl: lease.remaining, granted_at_ms: lease.granted_at_ms };
        store.put_sys(sys::lease(lease.id), Some(row.encode_to_vec().into()));
        self.leases.insert(lease.id, lease);
    }

    pub(crate) fn remove(&mut self, store: &Store, id: LeaseId) -> bool {
        store.put_sys(sys::lease(id), None);
        self.leases.remove(&id).is_some()
    }

    /// Writes down which keys changed their lease.
    pub(crate) fn attach(store: &Store, changes: &[Attachment]) {
        for change in changes {
            if change.from != 0 {
                store.put_sys(sys::lease_key(change.from, &change.key), None);
            }
            if change.to != 0 {
                store.put_sys(sys::lease_key(change.to, &change.key), Some(Bytes::new()));
            }
        }
    }

    /// The keys attached to a lease, in order.
    pub fn keys(store: &Store, id: LeaseId) -> Result<Vec<Bytes>, BaseError> {
        let (lower, upper) = sys::lease_key_range(id);
        let rows = store.sys_scan(&lower, &upper, usize::MAX)?;
        Ok(rows.into_iter().map(|(row, _)| sys::lease_key_of(&row)).collect())
    }
}
