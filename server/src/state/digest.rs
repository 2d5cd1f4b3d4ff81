//! The rolling digest: one number over every change since the beginning, equal on members that applied the same entries.
//!
//! It takes in the events of each revision, the grants and ends of leases and the marks of compactions, in the order of the log. It
//! lies beside the applied position, so a checkpoint, a restart and a snapshot carry it along. What it takes in is agreed for good:
//! members that took in different things would accuse each other.

use crate::mvcc::RevisionEvents;
use xxhash_rust::xxh3::Xxh3;

const EVENTS: u8 = 1;
const LEASE_GRANTED: u8 = 2;
const LEASE_REVOKED: u8 = 3;
const COMPACTED: u8 = 4;

fn begin(digest: u128, tag: u8) -> Xxh3 {
    let mut hash = Xxh3::with_seed(digest as u64);
    hash.update(&digest.to_be_bytes());
    hash.update(&[tag]);
    hash
}

/// Takes in a revision's events.
pub(super) fn events(digest: u128, events: &RevisionEvents) -> u128 {
    let mut hash = begin(digest, EVENTS);
    for event in &events.events {
        hash.update(&event.revision.main.to_be_bytes());
        hash.update(&event.revision.sub.to_be_bytes());
        hash.update(&[u8::from(event.delete)]);
        hash.update(&event.kv.0);
    }
    hash.digest128()
}

fn numbers(digest: u128, tag: u8, numbers: &[i64]) -> u128 {
    let mut hash = begin(digest, tag);
    for n in numbers {
        hash.update(&n.to_be_bytes());
    }
    hash.digest128()
}

/// Takes in a lease that was granted, with its seconds to live.
pub(super) fn granted(digest: u128, id: i64, ttl: i64) -> u128 {
    numbers(digest, LEASE_GRANTED, &[id, ttl])
}

/// Takes in a lease that ended.
pub(super) fn revoked(digest: u128, id: i64) -> u128 {
    numbers(digest, LEASE_REVOKED, &[id])
}

/// Takes in a compaction's mark.
pub(super) fn compacted(digest: u128, revision: i64) -> u128 {
    numbers(digest, COMPACTED, &[revision])
}
