//! Words every room shares: revisions, key intervals, ids.

use bytes::Bytes;

/// Identifies a lease; 0 means "no lease". Negative ids are legal, as in etcd.
pub type LeaseId = i64;
/// Identifies a member; 0 means "none".
pub type MemberId = u64;

/// One change in the store's history: `main` counts write requests (the first write of a fresh store is 2), `sub` the changes
/// inside one of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Revision {
    pub main: i64,
    pub sub: i64,
}

impl Revision {
    pub const fn new(main: i64, sub: i64) -> Self {
        Self { main, sub }
    }
}

/// A half-open key interval, as requests name it by `key` and `range_end`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct KeyRange {
    pub start: Bytes,
    pub end: RangeEnd,
}

/// Where a [`KeyRange`] stops.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum RangeEnd {
    /// The range is its start key alone.
    Single,
    /// Every key from the start on.
    Unbounded,
    /// Every key from the start on that sorts before this one.
    Before(Bytes),
}

impl KeyRange {
    /// Reads etcd's convention: no end means one key, an end of one zero byte means "to the last key".
    pub fn from_request(key: &Bytes, range_end: &Bytes) -> Self {
        let end = match range_end.as_ref() {
            [] => RangeEnd::Single,
            [0] => RangeEnd::Unbounded,
            _ => RangeEnd::Before(range_end.clone()),
        };
        Self { start: key.clone(), end }
    }

    /// The whole key space.
    pub fn all() -> Self {
        Self { start: Bytes::new(), end: RangeEnd::Unbounded }
    }

    pub fn is_single(&self) -> bool {
        self.end == RangeEnd::Single
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            RangeEnd::Single => key == self.start.as_ref(),
            RangeEnd::Unbounded => key >= self.start.as_ref(),
            RangeEnd::Before(end) => key >= self.start.as_ref() && key < end.as_ref(),
        }
    }

    /// True when no key can lie in the interval.
    pub fn is_empty(&self) -> bool {
        matches!(&self.end, RangeEnd::Before(end) if end <= &self.start)
    }

    /// The first key past the interval; `None` when it has no upper bound.
    pub fn upper(&self) -> Option<Bytes> {
        match &self.end {
            RangeEnd::Single => {
                let mut next = Vec::with_capacity(self.start.len() + 1);
                next.extend_from_slice(&self.start);
                next.push(0);
                Some(next.into())
            }
            RangeEnd::Unbounded => None,
            RangeEnd::Before(end) => Some(end.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// etcd's three spellings of a range, and the empty one that is not an error.
    #[test]
    fn range_conventions() {
        let b = Bytes::from_static;
        let single = KeyRange::from_request(&b(b"a"), &b(b""));
        assert!(single.contains(b"a") && !single.contains(b"a\0") && !single.is_empty());
        let rest = KeyRange::from_request(&b(b"b"), &b(b"\0"));
        assert!(rest.contains(b"b") && rest.contains(b"\xff\xff") && !rest.contains(b"a"));
        let half = KeyRange::from_request(&b(b"a"), &b(b"c"));
        assert!(half.contains(b"b") && !half.contains(b"c"));
        assert!(KeyRange::from_request(&b(b"c"), &b(b"a")).is_empty());
    }
}
