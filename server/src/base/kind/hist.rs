//! `hist`: one row for each superseded version. Key: the user key escaped (0x00 becomes 0x00 0xff), 0x00 0x00, then the inverted
//! revision, so that a seek at revision R finds the newest superseded version at or before R. Value: flags (bit 0: the superseded
//! version is a deletion), then the superseding revision as varints.

use super::{put_varint, take_varint};
use crate::types::Revision;
use bytes::Bytes;

/// A superseded version and what came after it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Superseded {
    pub rev: Revision,
    pub tombstone: bool,
    pub next: Revision,
}

fn prefix(user_key: &[u8], extra: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(user_key.len() + 2 + extra);
    for &b in user_key {
        out.push(b);
        if b == 0 {
            out.push(0xff);
        }
    }
    out.extend_from_slice(&[0, 0]);
    out
}

/// Where to seek for the newest superseded version of `user_key` with main revision at or below `at`.
pub fn seek_key(user_key: &[u8], at: i64) -> Vec<u8> {
    key_of(user_key, Revision { main: at, sub: i64::MAX })
}

/// Past the last row of `user_key`.
pub fn upper(user_key: &[u8]) -> Vec<u8> {
    let mut out = prefix(user_key, 0);
    *out.last_mut().expect("prefix ends in two zero bytes") = 1;
    out
}

fn key_of(user_key: &[u8], rev: Revision) -> Vec<u8> {
    let mut out = prefix(user_key, 16);
    out.extend_from_slice(&(!(rev.main as u64)).to_be_bytes());
    out.extend_from_slice(&(!(rev.sub as u64)).to_be_bytes());
    out
}

pub fn key(user_key: &[u8], rev: Revision) -> Bytes {
    key_of(user_key, rev).into()
}

pub fn value(tombstone: bool, next: Revision) -> Bytes {
    let mut out = vec![tombstone as u8];
    put_varint(&mut out, next.main as u64);
    put_varint(&mut out, next.sub as u64);
    out.into()
}

/// Reads a whole row: the user key and the version it tells of.
pub fn parse(key: &[u8], mut value: &[u8]) -> Option<(Vec<u8>, Superseded)> {
    let split = key.len().checked_sub(18)?;
    let (escaped, tail) = key.split_at(split);
    if tail[..2] != [0, 0] {
        return None;
    }
    let mut user_key = Vec::with_capacity(escaped.len());
    let mut bytes = escaped.iter();
    while let Some(&b) = bytes.next() {
        user_key.push(b);
        if b == 0 && bytes.next() != Some(&0xff) {
            return None;
        }
    }
    let rev = Revision {
        main: !u64::from_be_bytes(tail[2..10].try_into().ok()?) as i64,
        sub: !u64::from_be_bytes(tail[10..18].try_into().ok()?) as i64,
    };
    let (&flags, rest) = value.split_first()?;
    value = rest;
    let next = Revision { main: take_varint(&mut value)? as i64, sub: take_varint(&mut value)? as i64 };
    Some((user_key, Superseded { rev, tombstone: flags & 1 != 0, next }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of keys that hold zero bytes neither mix nor change on the way back; newer revisions come first.
    #[test]
    fn round_trip_and_order() {
        let keys: [&[u8]; 5] = [b"a", b"a\0", b"a\0b", b"a\0\xff", b"b"];
        let mut rows = Vec::new();
        for k in keys {
            for main in [9, 5, 2] {
                rows.push((key(k, Revision::new(main, 1)), k, main));
            }
        }
        assert!(rows.windows(2).all(|w| w[0].0 < w[1].0), "rows must sort by user key, then newest first");
        for (row, k, main) in &rows {
            let (user_key, s) = parse(row, &value(true, Revision::new(*main + 1, 0))).unwrap();
            assert_eq!((user_key.as_slice(), s.rev, s.tombstone), (*k, Revision::new(*main, 1), true));
            assert!(row.as_ref() < upper(k).as_slice() && seek_key(k, *main).as_slice() <= row.as_ref());
            assert!(seek_key(k, *main - 1).as_slice() > row.as_ref());
        }
    }
}
