//! The form of a chunk: rows of one family, one after the other, each as the key's length and bytes and the value's length and
//! bytes, lengths as varints. Rows come by family, then key, both ascending.

use super::SnapshotError;
use crate::base::Family;
use crate::base::kind::{put_varint, take_varint};
use bytes::Bytes;

/// A place between two rows: everything up to and with `after` in `family`, and all families before it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Place {
    /// Index into [`Family::ALL`].
    pub family: u32,
    /// Empty: before the family's first row. No row has an empty key.
    pub after: Bytes,
}

/// The family of a number that came from outside.
pub fn family(number: u32) -> Option<Family> {
    Family::ALL.get(number as usize).copied()
}

/// Appends a row.
pub fn put(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    put_varint(out, key.len() as u64);
    out.extend_from_slice(key);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// Bytes a row takes in a chunk.
pub fn size(key: &[u8], value: &[u8]) -> usize {
    let varint = |n: usize| (usize::BITS - (n | 1).leading_zeros()).div_ceil(7) as usize;
    varint(key.len()) + key.len() + varint(value.len()) + value.len()
}

/// Gives each row of a chunk to `visit`, key and value; they share the chunk's memory.
///
/// # Errors
/// `Damaged` when the bytes are not rows, or what `visit` returns.
pub fn each(chunk: &Bytes, mut visit: impl FnMut(Bytes, Bytes) -> Result<(), SnapshotError>) -> Result<(), SnapshotError> {
    let mut rest = chunk.as_ref();
    let mut field = || -> Option<Bytes> {
        let length = usize::try_from(take_varint(&mut rest)?).ok()?;
        let (found, after) = rest.split_at_checked(length)?;
        rest = after;
        Some(chunk.slice_ref(found))
    };
    loop {
        let Some(key) = field() else { break };
        let value = field().ok_or_else(|| SnapshotError::Damaged("a row without a value".into()))?;
        visit(key, value)?;
    }
    if rest.is_empty() { Ok(()) } else { Err(SnapshotError::Damaged("a chunk ends in the middle of a row".into())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows come back as they were put, their size is what was said, and a cut chunk is noticed.
    #[test]
    fn rows_round_trip() {
        let rows = [(&b"a"[..], &b""[..]), (b"key", &[7; 300]), (&[0xff; 200], b"v")];
        let mut chunk = Vec::new();
        for (k, v) in rows {
            let before = chunk.len();
            put(&mut chunk, k, v);
            assert_eq!(chunk.len() - before, size(k, v));
        }
        let chunk = Bytes::from(chunk);
        let mut seen = Vec::new();
        each(&chunk, |k, v| {
            seen.push((k.to_vec(), v.to_vec()));
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, rows.map(|(k, v)| (k.to_vec(), v.to_vec())));
        assert!(each(&chunk.slice(..chunk.len() - 1), |_, _| Ok(())).is_err());
    }
}
