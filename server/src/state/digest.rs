//! The rolling digest: one number over every change since the beginning, equal on members that applied the same entries.
//!
//! It takes in the events of each revision, the grants and ends of leases and the marks of compactions, in the order of the log. It
//! lies beside the applied position, so a checkpoint, a restart and a snapshot carry it along. What it takes in is agreed for good:
//! members that took in different things would accuse each other. So rows
//! name the digest's format, and a digest of another one, as an older build leaves behind, is none: 0, until an entry of the log begins
//! a new one everywhere.

use crate::mvcc::RevisionEvents;
use xxhash_rust::xxh3::Xxh3;

/// What the digest takes in, as rows name it.
pub(super) const FORMAT: u32 = 1;

const EVENTS: u8 = 1;
const LEASE_GRANTED: u8 = 2;
const LEASE_REVOKED: u8 = 3;
const COMPACTED: u8 = 4;
const BEGUN: u8 = 5;

fn begin(digest: u128, tag: u8) -> Xxh3 {
    let mut hash = Xxh3::with_seed(digest as u64);
    hash.update(&digest.to_be_bytes());
    hash.update(&[tag]);
    hash
}

/// The digest that begins after the entry at `index`.
pub(super) fn begun(index: u64) -> u128 {
    let mut hash = begin(0, BEGUN);
    hash.update(&index.to_be_bytes());
    hash.digest128().max(1)
}

/// Takes in a revision's events.
pub(super) fn events(digest: u128, events: &RevisionEvents) -> u128 {
    if digest == 0 {
        return 0;
    }
    let mut hash = begin(digest, EVENTS);
    for event in &events.events {
        hash.update(&event.revision.main.to_be_bytes());
        hash.update(&event.revision.sub.to_be_bytes());
        hash.update(&[u8::from(event.delete)]);
        hash.update(&event.kv.0);
    }
    hash.digest128().max(1)
}

fn numbers(digest: u128, tag: u8, numbers: &[i64]) -> u128 {
    if digest == 0 {
        return 0;
    }
    let mut hash = begin(digest, tag);
    for n in numbers {
        hash.update(&n.to_be_bytes());
    }
    hash.digest128().max(1)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What never began stays nothing, whatever is taken in; what began depends on all of it, and on where.
    #[test]
    fn a_digest_begins_at_an_entry() {
        assert_eq!(revoked(compacted(granted(0, 7, 5), 9), 7), 0);
        let (first, second) = (begun(10), begun(11));
        assert!(first != 0 && second != 0 && first != second);
        assert_ne!(granted(first, 7, 5), granted(first, 7, 6));
        assert_ne!(granted(first, 7, 5), granted(second, 7, 5));
        assert_ne!(revoked(first, 9), compacted(first, 9));
    }
}
