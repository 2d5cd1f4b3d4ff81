//! The catalogue of row kinds: one file per kind, the only code that makes or reads row bytes.
//!
//! | family | kind | key | value |
//! |---|---|---|---|
//! | log | [`log`] | revision, tombstone mark | encoded KeyValue |
//! | latest | [`latest`] | user key | newest version's numbers |
//! | hist | [`hist`] | user key, superseded revision (newest first) | superseding revision |
//! | sys | [`sys`] | tag, then the kind's own key | per tag |

pub mod hist;
pub mod latest;
pub mod log;
pub mod sys;

pub(crate) fn put_varint(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push((v as u8) | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

pub(crate) fn take_varint(input: &mut &[u8]) -> Option<u64> {
    let mut v = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = input.split_first()?;
        *input = rest;
        v |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(v);
        }
    }
    None
}
