//! Segment: names and headers of the log's files. Pure: bytes in, values out.
//!
//! A header is written and synced before its file gets a segment's name, so under that name a bad header is never a torn
//! write but always corruption. It also pins the end of the segment before it, the last moment that segment can be
//! checked against something outside itself.

use super::Identity;
use super::record::{u32_at, u64_at};

/// Bytes before the first record.
pub const HEADER_SIZE: usize = 4096;
/// The format this build writes and reads.
pub const FORMAT_VERSION: u32 = 1;

const MAGIC: &[u8; 8] = b"QRTMWAL\0";
const SUFFIX: &str = ".wal";
const SEGMENT_PREFIX: &str = "seg-";
const SPARE_PREFIX: &str = "spare-";
const MAKING_PREFIX: &str = "making-";

/// The first block of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Whose log this is.
    pub identity: Identity,
    /// Position among the segments, from 1.
    pub sequence: u64,
    /// Index that followed the last entry when the segment was started; 0 when there was none.
    pub first_index: u64,
    /// Random for each life of the file.
    pub salt: u64,
    /// Bytes of the file.
    pub size: u64,
    /// Where the segment before it ends, in bytes; 0 for sequence 1.
    pub previous_end: u64,
    /// Checksum of the last record of the segment before it.
    pub previous_checksum: u32,
}

/// Why a header was not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadHeader {
    /// A sound header of another format version.
    Version(u32),
    /// Anything else, with the reason.
    Corrupt(&'static str),
}

impl Header {
    /// The block as it goes to disk.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut block = vec![0; HEADER_SIZE];
        block[..8].copy_from_slice(MAGIC);
        block[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        let fields = [
            (16, self.identity.cluster),
            (24, self.identity.member),
            (32, self.sequence),
            (40, self.first_index),
            (48, self.salt),
            (56, self.size),
            (64, self.previous_end),
        ];
        for (offset, field) in fields {
            block[offset..offset + 8].copy_from_slice(&field.to_le_bytes());
        }
        block[72..76].copy_from_slice(&self.previous_checksum.to_le_bytes());
        let checksum = header_checksum(&block);
        block[12..16].copy_from_slice(&checksum.to_le_bytes());
        block
    }

    /// Reads a block of `HEADER_SIZE` bytes.
    ///
    /// # Errors
    /// The checksum is judged before the version, so a version is believed only when the block is sound.
    pub fn decode(block: &[u8]) -> Result<Self, BadHeader> {
        if block.len() < HEADER_SIZE {
            return Err(BadHeader::Corrupt("the file is shorter than a segment header"));
        }
        let block = &block[..HEADER_SIZE];
        if &block[..8] != MAGIC {
            return Err(BadHeader::Corrupt("the segment header does not start with the log's magic"));
        }
        if u32_at(block, 12) != header_checksum(block) {
            return Err(BadHeader::Corrupt("the segment header fails its checksum"));
        }
        let version = u32_at(block, 8);
        if version != FORMAT_VERSION {
            return Err(BadHeader::Version(version));
        }
        Ok(Header {
            identity: Identity { cluster: u64_at(block, 16), member: u64_at(block, 24) },
            sequence: u64_at(block, 32),
            first_index: u64_at(block, 40),
            salt: u64_at(block, 48),
            size: u64_at(block, 56),
            previous_end: u64_at(block, 64),
            previous_checksum: u32_at(block, 72),
        })
    }
}

fn header_checksum(block: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&block[..12]), &block[16..])
}

/// What a name in the log's directory stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileName {
    /// A segment, by sequence.
    Segment(u64),
    /// A file kept to become a segment, by number.
    Spare(u64),
    /// A spare that was not finished, by number; worthless after a restart.
    Making(u64),
}

impl FileName {
    /// Parses a name; `None` for files that are not the log's.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let stem = name.strip_suffix(SUFFIX)?;
        let number = |prefix: &str| {
            let digits = stem.strip_prefix(prefix)?;
            let number = u64::from_str_radix(digits, 16).ok()?;
            (format!("{number:016x}") == digits).then_some(number)
        };
        number(SEGMENT_PREFIX)
            .map(FileName::Segment)
            .or_else(|| number(SPARE_PREFIX).map(FileName::Spare))
            .or_else(|| number(MAKING_PREFIX).map(FileName::Making))
    }
}

impl std::fmt::Display for FileName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FileName::Segment(number) => write!(f, "{SEGMENT_PREFIX}{number:016x}{SUFFIX}"),
            FileName::Spare(number) => write!(f, "{SPARE_PREFIX}{number:016x}{SUFFIX}"),
            FileName::Making(number) => write!(f, "{MAKING_PREFIX}{number:016x}{SUFFIX}"),
        }
    }
}
