//! `sys`: the small rows. The first key byte is the kind's tag; tags are never given a second meaning.

use crate::types::{LeaseId, MemberId};
use bytes::Bytes;

pub const APPLIED: u8 = 0x01;
pub const COMPACT: u8 = 0x02;
pub const USAGE: u8 = 0x03;
pub const SWEPT: u8 = 0x04;
/// How many keys are alive, for a gauge.
pub const LIVE: u8 = 0x05;
pub const LEASE: u8 = 0x10;
pub const LEASE_KEY: u8 = 0x11;
pub const MEMBER: u8 = 0x20;
pub const REMOVED_MEMBER: u8 = 0x21;
pub const CONFIGURATION: u8 = 0x22;
pub const CLUSTER_VERSION: u8 = 0x23;
/// That the cluster went on from one member's data, by the cluster id it had before.
pub const RECOVERY: u8 = 0x24;
/// The cluster's feature level, four bytes; absent: 1.
pub const FEATURE_LEVEL: u8 = 0x25;
/// The version that a downgrade is under way to; absent: none is.
pub const DOWNGRADE: u8 = 0x26;
pub const ALARM: u8 = 0x30;
pub const FENCE: u8 = 0x31;
pub const AUTH: u8 = 0x40;

/// Tags of the rows that a copy of the key space needs beside it.
pub const SIDE: [u8; 3] = [LEASE, ALARM, AUTH];

fn tagged(tag: u8, parts: &[&[u8]]) -> Bytes {
    let mut out = Vec::with_capacity(1 + parts.iter().map(|p| p.len()).sum::<usize>());
    out.push(tag);
    for part in parts {
        out.extend_from_slice(part);
    }
    out.into()
}

/// The only row of its tag.
pub fn single(tag: u8) -> Bytes {
    Bytes::copy_from_slice(&[tag])
}

/// The key interval of a tag: `[tag, tag + 1)`.
pub fn tag_range(tag: u8) -> (Bytes, Bytes) {
    (single(tag), single(tag + 1))
}

pub fn lease(id: LeaseId) -> Bytes {
    tagged(LEASE, &[&id.to_be_bytes()])
}

/// A key attached to a lease; its value is empty.
pub fn lease_key(id: LeaseId, key: &[u8]) -> Bytes {
    tagged(LEASE_KEY, &[&id.to_be_bytes(), key])
}

/// The key interval of one lease's attachments.
pub fn lease_key_range(id: LeaseId) -> (Bytes, Bytes) {
    let lower = lease_key(id, &[]);
    let upper = match id as u64 {
        u64::MAX => single(LEASE_KEY + 1),
        next => tagged(LEASE_KEY, &[&(next + 1).to_be_bytes()]),
    };
    (lower, upper)
}

/// The user key of an attachment row.
pub fn lease_key_of(row: &Bytes) -> Bytes {
    row.slice(9..)
}

pub fn member(id: MemberId) -> Bytes {
    tagged(MEMBER, &[&id.to_be_bytes()])
}

pub fn removed_member(id: MemberId) -> Bytes {
    tagged(REMOVED_MEMBER, &[&id.to_be_bytes()])
}

/// The recovery that ended the cluster of an id.
pub fn recovery(former: u64) -> Bytes {
    tagged(RECOVERY, &[&former.to_be_bytes()])
}

pub fn alarm(kind: i32, member: MemberId) -> Bytes {
    tagged(ALARM, &[&kind.to_be_bytes(), &member.to_be_bytes()])
}

pub fn fence(member: MemberId) -> Bytes {
    tagged(FENCE, &[&member.to_be_bytes()])
}

/// A row of the auth rooms: `kind` then its name.
pub fn auth(kind: u8, name: &[u8]) -> Bytes {
    tagged(AUTH, &[&[kind], name])
}

/// The 8-byte id behind the tag.
pub fn id_of(row: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(row.get(1..9)?.try_into().ok()?))
}

/// The kind and member of an alarm row.
pub fn alarm_of(row: &[u8]) -> Option<(i32, MemberId)> {
    let kind = i32::from_be_bytes(row.get(1..5)?.try_into().ok()?);
    Some((kind, u64::from_be_bytes(row.get(5..13)?.try_into().ok()?)))
}
