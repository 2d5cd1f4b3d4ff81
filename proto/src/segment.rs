//! The form of a file of deltas: written by backup agents, read by restores.
//!
//! ```text
//! "QUORDELT"  version u32  length u64           little endian
//! Segment     protobuf, `length` bytes
//! sha256      of everything before it, 32 bytes
//! ```
//!
//! In: a [`Segment`]; out: its bytes, and the other way round. Invariant: what [`decode`] gives was written by [`encode`] and is whole:
//! its deltas follow one another, its rows ascend and lie between `after` and `revision`.

use prost::Message;
use sha2::{Digest, Sha256};

use crate::backup::Segment;

const MAGIC: &[u8; 8] = b"QUORDELT";
const VERSION: u32 = 1;
const HEAD: usize = 20;
const HASH: usize = 32;

/// Why bytes are no segment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The file begins with something else.
    #[error("is not a file of deltas")]
    Foreign,
    /// Written by a newer build.
    #[error("has version {0}, this build reads {VERSION}")]
    Newer(u32),
    /// It was cut, or bytes were changed.
    #[error("is damaged: {0}")]
    Damaged(String),
}

/// The file's bytes, and their SHA-256, which the next segment of the chain names.
pub fn encode(segment: &Segment) -> (Vec<u8>, [u8; HASH]) {
    let body = segment.encode_to_vec();
    let mut out = Vec::with_capacity(HEAD + body.len() + HASH);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&(body.len() as u64).to_le_bytes());
    out.extend_from_slice(&body);
    let hash: [u8; HASH] = Sha256::digest(&out).into();
    out.extend_from_slice(&hash);
    (out, hash)
}

/// The segment, and the SHA-256 that the next one names.
///
/// # Errors
/// When the bytes are not exactly what [`encode`] wrote, or what is in them contradicts itself.
pub fn decode(file: &[u8]) -> Result<(Segment, [u8; HASH]), Error> {
    let damaged = |why: &str| Error::Damaged(why.to_string());
    if file.len() < MAGIC.len() || &file[..MAGIC.len()] != MAGIC {
        return Err(Error::Foreign);
    }
    if file.len() < HEAD + HASH {
        return Err(damaged("it ends early"));
    }
    let version = u32::from_le_bytes(file[8..12].try_into().expect("four bytes"));
    if version != VERSION {
        return Err(Error::Newer(version));
    }
    let length = u64::from_le_bytes(file[12..HEAD].try_into().expect("eight bytes"));
    if length != (file.len() - HEAD - HASH) as u64 {
        return Err(damaged("it ends early or has something after its end"));
    }
    let (content, told) = file.split_at(file.len() - HASH);
    let hash: [u8; HASH] = Sha256::digest(content).into();
    if told != hash {
        return Err(damaged("its sha256 is not that of its content"));
    }
    let segment = Segment::decode(&content[HEAD..]).map_err(|e| damaged(&e.to_string()))?;
    check(&segment).map_err(|why| damaged(&why))?;
    Ok((segment, hash))
}

/// Whether what a segment says of itself holds.
fn check(segment: &Segment) -> Result<(), String> {
    let mut revision = segment.after;
    let mut last = (segment.after, i64::MAX);
    for delta in &segment.deltas {
        if delta.cluster != segment.cluster {
            return Err(format!("a delta of cluster {:016x} among those of {:016x}", delta.cluster, segment.cluster));
        }
        if delta.revision < revision {
            return Err(format!("revision {} after {revision}", delta.revision));
        }
        revision = delta.revision;
        for row in &delta.rows {
            if (row.main, row.sub) <= last || row.main > segment.revision {
                return Err(format!("revision {} is out of place", row.main));
            }
            last = (row.main, row.sub);
        }
    }
    if revision == segment.revision {
        Ok(())
    } else {
        Err(format!("it ends at revision {revision} instead of {}", segment.revision))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::{Delta, Row};

    fn segment() -> Segment {
        let row = |main, sub| Row { main, sub, deletion: false, kv: vec![7; 20].into() };
        let delta =
            |revision, rows| Delta { revision, time_ms: 1000 + revision, compacted: 1, rows, cluster: 5, ..Delta::default() };
        Segment {
            cluster: 5,
            after: 10,
            revision: 13,
            time_ms: 1013,
            previous: vec![1; 32].into(),
            deltas: vec![delta(11, vec![row(11, 0), row(12, 0)]), delta(13, vec![row(12, 1), row(13, 0)])],
        }
    }

    /// What was written is read back, with the hash that the next one names; any changed or missing byte is noticed.
    #[test]
    fn round_trip_and_damage() {
        let (file, hash) = encode(&segment());
        assert_eq!(decode(&file), Ok((segment(), hash)));
        for at in 0..file.len() {
            let mut bad = file.clone();
            bad[at] ^= 0x20;
            assert!(decode(&bad).is_err(), "byte {at}");
            assert!(decode(&file[..at]).is_err(), "cut at {at}");
        }
        assert_eq!(decode(b"something else entirely, and long enough for a head and a hash"), Err(Error::Foreign));
    }

    /// A segment whose rows do not ascend, or which ends elsewhere than it says, is refused though its checksum is right.
    #[test]
    fn contradictions() {
        let refused = |change: &dyn Fn(&mut Segment)| {
            let mut bad = segment();
            change(&mut bad);
            matches!(decode(&encode(&bad).0), Err(Error::Damaged(_)))
        };
        assert!(refused(&|s| s.revision = 14));
        assert!(refused(&|s| s.after = 11));
        assert!(refused(&|s| s.deltas.swap(0, 1)));
        assert!(refused(&|s| s.deltas[1].rows.swap(0, 1)));
        assert!(refused(&|s| s.deltas[1].cluster = 6));
    }
}
