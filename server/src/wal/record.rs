//! Record: the framing and the body of what the log writes. Pure: bytes in, values out.
//!
//! A record is one group, so a group is durable as a whole or not at all. The checksums cover the place a record was
//! written for (salt and sequence of its segment, offset in it), hence a record that a recycled file still holds from an
//! earlier life, or that landed elsewhere, never passes. `FORMAT.md` draws the bytes.
//!
//! The head has a checksum of its own and tells how much of the segment was durable when the record was written. That
//! is what separates a torn tail from rot: a bad record at offset X can be torn only if nothing written later was
//! written knowing X to be durable.

use bytes::{Bytes, BytesMut};

use super::{Group, HardState, LogEntry, SnapshotMark};

/// Bytes before a record's body.
pub const HEAD_SIZE: usize = 24;
/// Records start at multiples of this.
pub const RECORD_ALIGN: usize = 8;
/// Largest body, in bytes; far above what the node batches into one group.
pub const BODY_LIMIT: usize = 1 << 30;

const BODY_FIXED: usize = 8;
const HARD_STATE_SIZE: usize = 24;
const SNAPSHOT_FIXED: usize = 20;
const ENTRY_FIXED: usize = 17;
const FLAG_HARD_STATE: u32 = 1;
const FLAG_SNAPSHOT: u32 = 2;
const FLAG_RESET: u32 = 4;

/// What a record is for. The numbers are on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A group as the node handed it over.
    Group = 1,
    /// The first record of each segment: hard state and snapshot mark as they stood, so older segments can go.
    Carry = 2,
    /// Written by a clean close, with an empty body: it witnesses that all before it is durable.
    Mark = 3,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Kind::Group, Kind::Carry, Kind::Mark].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// Where a record lives; part of its checksums.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The segment's random salt.
    pub salt: u64,
    /// The segment's sequence.
    pub sequence: u64,
    /// Bytes from the start of the file.
    pub offset: u64,
}

impl Place {
    fn checksum(&self) -> u32 {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.salt.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16..].copy_from_slice(&self.offset.to_le_bytes());
        crc32c::crc32c(&bytes)
    }
}

/// A head whose own checksum is right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// What the record is for.
    pub kind: Kind,
    /// Body bytes, padding not counted.
    pub body_size: usize,
    /// Checksum of place, head and body.
    pub checksum: u32,
    /// Bytes of the segment known durable when this record was written.
    pub durable: u64,
}

impl Head {
    /// Bytes of the whole record, padding included.
    #[must_use]
    pub fn record_size(&self) -> usize {
        record_size(self.body_size)
    }
}

/// What is found where a record may start.
#[derive(PartialEq, Eq, Debug)]
pub enum Slot<'a> {
    /// A whole record.
    Record(Head, &'a [u8]),
    /// Zeros or too few bytes: the writer's way to say that nothing follows.
    Empty,
    /// Neither.
    Bad(&'static str),
}

/// The contents of a record.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Body {
    /// Term, vote and commit, when they changed.
    pub hard_state: Option<HardState>,
    /// A snapshot mark and whether it empties the log before it.
    pub snapshot: Option<(SnapshotMark, bool)>,
    /// Entries with consecutive indexes.
    pub entries: Vec<LogEntry>,
}

/// Bytes of a record around a body of `body_size` bytes.
#[must_use]
pub fn record_size(body_size: usize) -> usize {
    (HEAD_SIZE + body_size).next_multiple_of(RECORD_ALIGN)
}

/// Bytes of the body that `group` becomes.
#[must_use]
pub fn body_size(group: &Group) -> usize {
    let state = group.hard_state.map_or(0, |_| HARD_STATE_SIZE);
    let snapshot = group.snapshot.as_ref().map_or(0, |mark| SNAPSHOT_FIXED + mark.conf.len());
    let entries = if group.entries.is_empty() { 0 } else { 8 };
    let each = |entry: &LogEntry| ENTRY_FIXED + entry.context.len() + entry.data.len();
    BODY_FIXED + state + snapshot + entries + group.entries.iter().map(each).sum::<usize>()
}

/// Appends one record to `out`, which is the image of the segment from some multiple of eight on.
///
/// `snapshot` is what of the group's mark is to be kept, and whether it empties the log. Sizes were checked before.
pub fn encode(
    out: &mut Vec<u8>,
    kind: Kind,
    place: Place,
    durable: u64,
    hard_state: Option<HardState>,
    snapshot: Option<(&SnapshotMark, bool)>,
    entries: &[LogEntry],
) -> u32 {
    let start = out.len();
    out.resize(start + HEAD_SIZE, 0);
    if kind != Kind::Mark {
        encode_body(out, hard_state, snapshot, entries);
    }
    let body_size = out.len() - start - HEAD_SIZE;
    assert!(body_size <= BODY_LIMIT, "a record body of {body_size} bytes passed the size check");
    out.resize(start + record_size(body_size), 0);
    let record = &mut out[start..];
    record[..4].copy_from_slice(&(body_size as u32).to_le_bytes());
    record[8] = kind as u8;
    record[16..24].copy_from_slice(&durable.to_le_bytes());
    let head_check = head_checksum(place, record);
    record[12..16].copy_from_slice(&head_check.to_le_bytes());
    let checksum = body_checksum(place, record);
    record[4..8].copy_from_slice(&checksum.to_le_bytes());
    checksum
}

fn encode_body(out: &mut Vec<u8>, hard_state: Option<HardState>, snapshot: Option<(&SnapshotMark, bool)>, entries: &[LogEntry]) {
    let mut flags = 0;
    flags |= if hard_state.is_some() { FLAG_HARD_STATE } else { 0 };
    flags |= match snapshot {
        Some((_, true)) => FLAG_SNAPSHOT | FLAG_RESET,
        Some((_, false)) => FLAG_SNAPSHOT,
        None => 0,
    };
    out.extend_from_slice(&flags.to_le_bytes());
    out.extend_from_slice(&(entries.len() as u32).to_le_bytes());
    if let Some(state) = hard_state {
        for field in [state.term, state.vote, state.commit] {
            out.extend_from_slice(&field.to_le_bytes());
        }
    }
    if let Some((mark, _)) = snapshot {
        out.extend_from_slice(&mark.index.to_le_bytes());
        out.extend_from_slice(&mark.term.to_le_bytes());
        out.extend_from_slice(&(mark.conf.len() as u32).to_le_bytes());
        out.extend_from_slice(&mark.conf);
    }
    if let Some(first) = entries.first() {
        out.extend_from_slice(&first.index.to_le_bytes());
    }
    for entry in entries {
        out.extend_from_slice(&entry.term.to_le_bytes());
        out.push(entry.kind);
        out.extend_from_slice(&(entry.context.len() as u32).to_le_bytes());
        out.extend_from_slice(&(entry.data.len() as u32).to_le_bytes());
        out.extend_from_slice(&entry.context);
        out.extend_from_slice(&entry.data);
    }
}

/// Reads only the head at the start of `bytes`; `None` unless its own checksum is right.
#[must_use]
pub fn read_head(bytes: &[u8], place: Place) -> Option<Head> {
    let head: &[u8; HEAD_SIZE] = bytes.get(..HEAD_SIZE)?.try_into().ok()?;
    let kind = Kind::from_byte(head[8])?;
    let body_size = u32_at(head, 0) as usize;
    let durable = u64_at(head, 16);
    // The cheap tests come first: a search for later records tries every multiple of eight.
    if head[9..12] != [0; 3] || body_size > BODY_LIMIT || durable > place.offset {
        return None;
    }
    if u32_at(head, 12) != head_checksum(place, head) {
        return None;
    }
    Some(Head { kind, body_size, checksum: u32_at(head, 4), durable })
}

/// Looks at what starts at `bytes[0]`, which is at `place` in its segment.
#[must_use]
pub fn read_slot(bytes: &[u8], place: Place) -> Slot<'_> {
    if bytes.iter().take(HEAD_SIZE).all(|byte| *byte == 0) {
        return Slot::Empty;
    }
    let Some(head) = read_head(bytes, place) else {
        return Slot::Bad("the record head fails its checksum");
    };
    let Some(record) = bytes.get(..head.record_size()) else {
        return Slot::Bad("the record is longer than its file");
    };
    if head.checksum != body_checksum(place, record) {
        return Slot::Bad("the record body fails its checksum");
    }
    Slot::Record(head, &record[HEAD_SIZE..HEAD_SIZE + head.body_size])
}

/// Parses a body whose checksum was right. Entry payloads are cut out of `body` without a copy.
///
/// # Errors
/// Says what does not fit; such a record was written by another program or a later version.
pub fn decode_body(kind: Kind, mut body: Bytes) -> Result<Body, &'static str> {
    if kind == Kind::Mark {
        return if body.is_empty() { Ok(Body::default()) } else { Err("a closing mark has a body") };
    }
    let flags = take_u32(&mut body)?;
    let count = take_u32(&mut body)? as usize;
    if flags & !(FLAG_HARD_STATE | FLAG_SNAPSHOT | FLAG_RESET) != 0 || flags & (FLAG_SNAPSHOT | FLAG_RESET) == FLAG_RESET {
        return Err("the record has flags this build does not know");
    }
    let mut decoded = Body::default();
    if flags & FLAG_HARD_STATE != 0 {
        let (term, vote, commit) = (take_u64(&mut body)?, take_u64(&mut body)?, take_u64(&mut body)?);
        decoded.hard_state = Some(HardState { term, vote, commit });
    }
    if flags & FLAG_SNAPSHOT != 0 {
        let (index, term) = (take_u64(&mut body)?, take_u64(&mut body)?);
        let size = take_u32(&mut body)? as usize;
        let mark = SnapshotMark { index, term, conf: take(&mut body, size)? };
        decoded.snapshot = Some((mark, flags & FLAG_RESET != 0));
    }
    if count > body.len() / ENTRY_FIXED {
        return Err("the record promises more entries than it has bytes");
    }
    if count > 0 {
        let first = take_u64(&mut body)?;
        decoded.entries.reserve_exact(count);
        for position in 0..count as u64 {
            let index = first.checked_add(position).ok_or("an entry index overflows")?;
            decoded.entries.push(decode_entry(index, &mut body)?);
        }
    }
    if body.is_empty() { Ok(decoded) } else { Err("the record has bytes after its last entry") }
}

fn decode_entry(index: u64, body: &mut Bytes) -> Result<LogEntry, &'static str> {
    let term = take_u64(body)?;
    let kind = take(body, 1)?[0];
    let context_size = take_u32(body)? as usize;
    let data_size = take_u32(body)? as usize;
    Ok(LogEntry { index, term, kind, context: take(body, context_size)?, data: take(body, data_size)? })
}

fn take(body: &mut Bytes, size: usize) -> Result<Bytes, &'static str> {
    if body.len() < size { Err("the record ends inside a field") } else { Ok(body.split_to(size)) }
}

fn take_u32(body: &mut Bytes) -> Result<u32, &'static str> {
    take(body, 4).map(|bytes| u32_at(&bytes, 0))
}

fn take_u64(body: &mut Bytes) -> Result<u64, &'static str> {
    take(body, 8).map(|bytes| u64_at(&bytes, 0))
}

/// A little-endian number at a fixed offset that the caller knows to be inside.
pub(super) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(field)
}

/// A little-endian number at a fixed offset that the caller knows to be inside.
pub(super) fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(field)
}

/// Covers the head but for the two checksums.
fn head_checksum(place: Place, record: &[u8]) -> u32 {
    let checksum = crc32c::crc32c_append(place.checksum(), &record[..4]);
    let checksum = crc32c::crc32c_append(checksum, &record[8..12]);
    crc32c::crc32c_append(checksum, &record[16..HEAD_SIZE])
}

/// Covers everything but itself, the padding included, so that no bit of a record is unwatched.
fn body_checksum(place: Place, record: &[u8]) -> u32 {
    let checksum = crc32c::crc32c_append(place.checksum(), &record[..4]);
    crc32c::crc32c_append(checksum, &record[8..])
}

/// Copies a body out of a larger image, so that entries kept for long do not pin a whole segment.
#[must_use]
pub fn own(body: &[u8]) -> Bytes {
    BytesMut::from(body).freeze()
}
