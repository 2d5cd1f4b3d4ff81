//! Hasher: hashes of the history that the leader asked for, beside the thread that applies.
//!
//! In: what a hash is to cover. Out: the hash, into what this member says of its state. One at a time: a request that meets another
//! one under way is passed over, and so is a hash whose rows were compacted or replaced while it was made; the leader asks again.

use super::handle::{Inner, NodeHandle};
use crate::env::busy::Busy;
use crate::mvcc::ReadError;
use crate::state::HashWanted;
use quorate_proto::peer::{HashRefusal, HashResponse};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Who makes the hashes.
#[derive(Clone)]
pub(super) enum Hasher {
    /// A thread for each; true while one runs.
    Threads(Arc<AtomicBool>),
    /// Whoever asks: a simulation has one thread.
    Here,
}

impl Hasher {
    /// Makes a hash for the entry at `index`.
    pub fn hash(&self, inner: &Arc<Inner>, index: u64, wanted: HashWanted) {
        match self {
            Hasher::Here => make(inner, index, wanted),
            Hasher::Threads(busy) => {
                let Some(busy) = Busy::begin(busy) else {
                    tracing::debug!(index, "a hash of the history is under way already; this one is passed over");
                    return;
                };
                let inner = inner.clone();
                let body = move || {
                    let _busy = busy;
                    make(&inner, index, wanted);
                };
                if let Err(e) = std::thread::Builder::new().name("hash".into()).spawn(body) {
                    tracing::warn!(error = %e, "the system gives no thread to hash the history with");
                }
            }
        }
    }
}

impl NodeHandle {
    /// Hashes the history up to a revision, 0 for the newest, as HashKV does, for another member. Blocks on the disk.
    ///
    /// # Errors
    /// When the rows cannot be read.
    pub(crate) fn hash_history(&self, revision: i64) -> Result<HashResponse, String> {
        let refused = |refusal: HashRefusal| HashResponse { refusal: refusal.into(), ..Default::default() };
        match self.0.store.hash_kv(revision) {
            Ok(h) => Ok(HashResponse {
                refusal: HashRefusal::None.into(),
                hash: h.hash,
                hash_revision: h.hash_revision,
                compact_revision: h.compact_revision,
                revision: h.current_revision,
            }),
            Err(ReadError::Compacted) => Ok(refused(HashRefusal::Compacted)),
            Err(ReadError::FutureRevision) => Ok(refused(HashRefusal::FutureRevision)),
            Err(e) => Err(e.to_string()),
        }
    }
}

fn make(inner: &Inner, index: u64, wanted: HashWanted) {
    let rebuilt = inner.standing.rebuilt_at();
    match inner.store.hash_at(wanted.revision, wanted.compacted) {
        Ok(Some(hash)) if inner.standing.rebuilt_at() == rebuilt => inner.standing.hashed(index, wanted, hash),
        Ok(_) => tracing::debug!(index, "the history was compacted or replaced while it was hashed"),
        Err(_) if inner.store.is_closing() => {}
        Err(e) => tracing::error!(error = %e, "the history cannot be hashed: its rows cannot be read"),
    }
}
