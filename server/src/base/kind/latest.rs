//! `latest`: user key -> the numbers of its newest version, as varints: flags (bit 0: deleted), main, sub, create, version, lease.

use super::{put_varint, take_varint};
use crate::types::{LeaseId, Revision};

/// The newest version of a key, without its value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Latest {
    pub rev: Revision,
    pub tombstone: bool,
    /// Main revision of the key's creation; 0 for a tombstone.
    pub create: i64,
    /// Changes since creation, from 1; 0 for a tombstone.
    pub version: i64,
    pub lease: LeaseId,
}

impl Latest {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(24);
        out.push(self.tombstone as u8);
        for v in [self.rev.main, self.rev.sub, self.create, self.version, self.lease] {
            put_varint(&mut out, v as u64);
        }
        out
    }

    pub fn decode(mut row: &[u8]) -> Option<Self> {
        let (&flags, rest) = row.split_first()?;
        row = rest;
        let mut next = || take_varint(&mut row).map(|v| v as i64);
        let (main, sub, create, version, lease) = (next()?, next()?, next()?, next()?, next()?);
        Some(Self { rev: Revision { main, sub }, tombstone: flags & 1 != 0, create, version, lease })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let row = Latest { rev: Revision::new(900, 3), tombstone: false, create: 7, version: 42, lease: -5 };
        assert_eq!(Latest::decode(&row.encode()), Some(row));
        assert_eq!(Latest::decode(&[]), None);
    }
}
