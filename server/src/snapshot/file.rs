//! The form of a snapshot file, as `etcdctl snapshot save` stores it.
//!
//! ```text
//! "QUORSNAP"  version u32                       little endian throughout
//! frame*      kind u8 | length u32 | crc32c u32 of kind and body | body
//!   kind 1    header (protobuf SnapshotHeader), once, first
//!   kind 2    family u8, rows as in a chunk; by family, then key, both ascending
//!   kind 3    trailer: rows u64, crc32c u32 over all rows; once, last
//! zeros       to a multiple of 512 bytes
//! sha256      of everything before it: 32 bytes, added by whoever stores the stream
//! ```

use super::SnapshotError;
use super::rows::{self, Place};
use bytes::Bytes;
use prost::Message;
use quorate_proto::state::SnapshotHeader;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

pub(super) const MAGIC: &[u8; 8] = b"QUORSNAP";
const VERSION: u32 = 1;
/// The stream's length is a multiple of this, so that a file with a checksum is told from one without.
pub(super) const ALIGN: u64 = 512;
const HASH: u64 = 32;
/// Kind, length and checksum of a frame.
pub(super) const FRAME_HEAD: u64 = 9;
pub(super) const TRAILER: u64 = 12;
/// A frame is never larger: one row may be, but rows are bounded by what a request may hold.
const MAX_FRAME: u32 = 1 << 30;

pub(super) const HEADER_KIND: u8 = 1;
pub(super) const ROWS_KIND: u8 = 2;
pub(super) const TRAILER_KIND: u8 = 3;

/// The first bytes of a file.
pub(super) fn preamble() -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&VERSION.to_le_bytes());
    out
}

pub(super) fn frame(kind: u8, body: &[&[u8]]) -> Vec<u8> {
    let length: usize = body.iter().map(|b| b.len()).sum();
    let crc = body.iter().fold(crc32c::crc32c(&[kind]), |crc, part| crc32c::crc32c_append(crc, part));
    let mut out = Vec::with_capacity(length + FRAME_HEAD as usize);
    out.push(kind);
    out.extend_from_slice(&(length as u32).to_le_bytes());
    out.extend_from_slice(&crc.to_le_bytes());
    body.iter().for_each(|part| out.extend_from_slice(part));
    out
}

/// What a file holds beside its rows.
#[derive(Clone, Debug)]
pub struct Contents {
    pub header: SnapshotHeader,
    pub rows: u64,
    /// CRC-32C over all rows.
    pub checksum: u32,
    /// Bytes of the stream, the closing sha256 not counted.
    pub size: u64,
}

fn damaged(text: impl Into<String>) -> SnapshotError {
    SnapshotError::Damaged(text.into())
}

/// Hashes what is read through it, up to a limit.
struct Hashing<R> {
    from: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.from.read(buffer)?;
        self.hash.update(&buffer[..n]);
        Ok(n)
    }
}

/// Reads a file from end to end: gives the header, then each chunk of rows to `visit`. Everything is checked; what `visit` was given
/// counts only when this returns without an error.
///
/// # Errors
/// `Damaged` when anything is not as it was written; `Io` when the file cannot be read; what `visit` returns.
pub fn read(
    path: &Path,
    skip_hash: bool,
    mut visit: impl FnMut(&SnapshotHeader, u32, &Bytes) -> Result<(), SnapshotError>,
) -> Result<Contents, SnapshotError> {
    let fail = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => damaged(format!("{} ends early", path.display())),
        _ => SnapshotError::Io { path: path.to_path_buf(), error },
    };
    let mut file = File::open(path).map_err(fail)?;
    let length = file.metadata().map_err(fail)?.len();
    let size = match length % ALIGN {
        0 if skip_hash => length,
        HASH => length - HASH,
        0 => {
            return Err(damaged(format!(
                "{} has no sha256 at its end; skip the check if it was copied from elsewhere",
                path.display()
            )));
        }
        _ => return Err(damaged(format!("{} is no snapshot or was cut: {length} bytes", path.display()))),
    };
    let mut input = Hashing { from: BufReader::with_capacity(1 << 20, (&mut file).take(size)), hash: Sha256::new() };
    let mut start = [0; 12];
    input.read_exact(&mut start).map_err(fail)?;
    if &start[..8] != MAGIC {
        return Err(damaged(format!("{} is not a snapshot of quorate", path.display())));
    }
    let version = u32::from_le_bytes(start[8..].try_into().expect("four bytes"));
    if version != VERSION {
        return Err(damaged(format!("the file has version {version}, this build reads {VERSION}")));
    }
    let mut header: Option<SnapshotHeader> = None;
    let (mut count, mut checksum) = (0u64, 0u32);
    let mut place = Place::default();
    loop {
        let mut head = [0; FRAME_HEAD as usize];
        input.read_exact(&mut head).map_err(fail)?;
        let kind = head[0];
        let length = u32::from_le_bytes(head[1..5].try_into().expect("four bytes"));
        let crc = u32::from_le_bytes(head[5..].try_into().expect("four bytes"));
        if length > MAX_FRAME || u64::from(length) > size {
            return Err(damaged("a frame is longer than the file"));
        }
        let mut body = vec![0; length as usize];
        input.read_exact(&mut body).map_err(fail)?;
        if crc32c::crc32c_append(crc32c::crc32c(&[kind]), &body) != crc {
            return Err(damaged("a frame's checksum is wrong"));
        }
        let body = Bytes::from(body);
        match (kind, &header) {
            (HEADER_KIND, None) => header = Some(SnapshotHeader::decode(body).map_err(|e| damaged(format!("header: {e}")))?),
            (ROWS_KIND, Some(header)) => {
                let number = u32::from(*body.first().ok_or_else(|| damaged("an empty frame of rows"))?);
                let chunk = body.slice(1..);
                if rows::family(number).is_none() || number < place.family {
                    return Err(damaged(format!("rows of family {number} are out of order")));
                }
                if number > place.family {
                    place = Place { family: number, after: Bytes::new() };
                }
                rows::each(&chunk, |key, _| {
                    if key <= place.after {
                        return Err(damaged("rows out of order"));
                    }
                    place.after = key;
                    count += 1;
                    Ok(())
                })?;
                checksum = crc32c::crc32c_append(checksum, &chunk);
                visit(header, number, &chunk)?;
            }
            (TRAILER_KIND, Some(_)) => {
                let told = [&count.to_le_bytes()[..], &checksum.to_le_bytes()[..]].concat();
                if body != told {
                    return Err(damaged("rows are missing"));
                }
                break;
            }
            _ => return Err(damaged(format!("a frame of kind {kind} is out of place"))),
        }
    }
    let mut rest = Vec::new();
    input.read_to_end(&mut rest).map_err(fail)?;
    if rest.len() as u64 >= ALIGN || rest.iter().any(|b| *b != 0) {
        return Err(damaged("there is something after the end"));
    }
    let hash = input.hash.finalize();
    if length > size && !skip_hash {
        let mut told = [0; HASH as usize];
        file.read_exact(&mut told).map_err(fail)?;
        if told != hash.as_slice() {
            return Err(damaged("expected sha256 differs from the file's"));
        }
    }
    Ok(Contents { header: header.expect("a trailer comes after a header"), rows: count, checksum, size })
}
