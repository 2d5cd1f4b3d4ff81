//! `log`: the history. Key: main (8 bytes, big endian), `_`, sub (8 bytes, big endian), and `t` when the change is a deletion: the
//! same bytes as etcd's bucket key, so that hashes over history agree. Value: the encoded KeyValue; of a deletion, only its key.

use crate::types::Revision;
use bytes::Bytes;

pub fn key(rev: Revision, tombstone: bool) -> Bytes {
    let mut out = Vec::with_capacity(18);
    out.extend_from_slice(&rev.main.to_be_bytes());
    out.push(b'_');
    out.extend_from_slice(&rev.sub.to_be_bytes());
    if tombstone {
        out.push(b't');
    }
    out.into()
}

/// The revision and whether it is a deletion; `None` when these are not such bytes.
pub fn parse_key(key: &[u8]) -> Option<(Revision, bool)> {
    let tombstone = match key.len() {
        17 => false,
        18 if key[17] == b't' => true,
        _ => return None,
    };
    if key[8] != b'_' {
        return None;
    }
    let main = i64::from_be_bytes(key[..8].try_into().ok()?);
    let sub = i64::from_be_bytes(key[9..17].try_into().ok()?);
    Some((Revision { main, sub }, tombstone))
}

/// The first key of a revision, for cursors.
pub fn lower(main: i64) -> Bytes {
    Bytes::copy_from_slice(&main.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys round-trip and sort as revisions do.
    #[test]
    fn round_trip_and_order() {
        let revs = [(1, 0, false), (1, 1, true), (2, 0, false), (1 << 40, 3, true)];
        let keys: Vec<_> = revs.iter().map(|&(m, s, t)| key(Revision::new(m, s), t)).collect();
        assert!(keys.windows(2).all(|w| w[0] < w[1]));
        for (k, &(m, s, t)) in keys.iter().zip(&revs) {
            assert_eq!(parse_key(k), Some((Revision::new(m, s), t)));
        }
        assert_eq!(parse_key(b"short"), None);
    }
}
