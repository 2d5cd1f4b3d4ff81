//! KeyValue bytes, made once at apply and spliced unchanged into every answer, event and the history.

use crate::types::LeaseId;
use bytes::{BufMut, Bytes, BytesMut};

fn varint_len(v: u64) -> usize {
    (64 - (v | 1).leading_zeros() as usize).div_ceil(7)
}

fn put_varint(out: &mut BytesMut, mut v: u64) {
    while v >= 0x80 {
        out.put_u8((v as u8) | 0x80);
        v >>= 7;
    }
    out.put_u8(v as u8);
}

fn put_bytes(out: &mut BytesMut, tag: u8, v: &[u8]) {
    if !v.is_empty() {
        out.put_u8(tag);
        put_varint(out, v.len() as u64);
        out.put_slice(v);
    }
}

fn put_int(out: &mut BytesMut, tag: u8, v: i64) {
    if v != 0 {
        out.put_u8(tag);
        put_varint(out, v as u64);
    }
}

const KEY: u8 = 1 << 3 | 2;
const CREATE: u8 = 2 << 3;
const MOD: u8 = 3 << 3;
const VERSION: u8 = 4 << 3;
const VALUE: u8 = 5 << 3 | 2;
const LEASE: u8 = 6 << 3;

/// The encoded KeyValue, and its key as a slice of the same allocation.
pub fn key_value(key: &[u8], create: i64, modified: i64, version: i64, value: &[u8], lease: LeaseId) -> (Bytes, Bytes) {
    let mut out = BytesMut::with_capacity(key.len() + value.len() + 2 * varint_len(value.len() as u64) + 48);
    put_bytes(&mut out, KEY, key);
    put_int(&mut out, CREATE, create);
    put_int(&mut out, MOD, modified);
    put_int(&mut out, VERSION, version);
    put_bytes(&mut out, VALUE, value);
    put_int(&mut out, LEASE, lease);
    let kv = out.freeze();
    let at = 1 + varint_len(key.len() as u64);
    let key = if key.is_empty() { Bytes::new() } else { kv.slice(at..at + key.len()) };
    (kv, key)
}

/// A deletion as the history keeps it: the key alone.
pub fn tombstone(key: &[u8]) -> (Bytes, Bytes) {
    key_value(key, 0, 0, 0, &[], 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use quorate_proto::mvccpb::KeyValue;

    /// Our bytes are those a protobuf library makes of the same fields, and the key slice is the key.
    #[test]
    fn same_bytes_as_protobuf() {
        for (key, create, modified, version, value, lease) in [
            (&b"k"[..], 2, 3, 1, &b"v"[..], 0),
            (&[7u8; 300][..], 1 << 40, i64::MAX, 999, &[1u8; 5000][..], -3),
            (&b"x"[..], 0, 0, 0, &b""[..], 0),
        ] {
            let (kv, k) = key_value(key, create, modified, version, value, lease);
            let want = KeyValue {
                key: Bytes::copy_from_slice(key),
                create_revision: create,
                mod_revision: modified,
                version,
                value: Bytes::copy_from_slice(value),
                lease,
            };
            assert_eq!(kv, want.encode_to_vec());
            assert_eq!(k, key);
        }
    }
}
