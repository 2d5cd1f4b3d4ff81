//! Scan: walks the records of one segment image and judges how it ends. Pure.
//!
//! The last segment may end in a torn tail, which is the remains of writes that no sync covered. A bad record there is
//! excused only while no later head of this segment says that the bad place was durable before. Every other segment has
//! its end pinned by the header of the next, and nothing in it is excused.

use super::record::{self, Body, HEAD_SIZE, Head, Kind, Place, RECORD_ALIGN, Slot};
use super::segment::{HEADER_SIZE, Header};

/// The end of a segment's records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ending {
    /// Bytes up to the end of the last good record.
    pub end: u64,
    /// Checksum of the last good record.
    pub checksum: u32,
    /// Why the bytes after it are cut away, when there is more than silence.
    pub torn: Option<&'static str>,
}

/// Damage at an offset.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// Bytes from the start of the file.
    pub offset: u64,
    /// What is wrong there.
    pub reason: String,
}

/// Walks `image`, the whole file, giving each record to `visit` with its offset.
///
/// `pinned` is the end and last checksum that the next segment's header tells, `None` for the last segment.
///
/// # Errors
/// The first damage, be it found here or by `visit`.
pub fn scan(
    image: &[u8],
    header: &Header,
    pinned: Option<(u64, u32)>,
    mut visit: impl FnMut(u64, Head, Body) -> Result<(), String>,
) -> Result<Ending, Damage> {
    let damage = |offset: usize, reason: &str| Damage { offset: offset as u64, reason: reason.to_owned() };
    if (image.len() as u64) < header.size {
        return Err(damage(image.len(), &format!("the file ends here, its header promises {} bytes", header.size)));
    }
    let limit = match pinned {
        Some((end, _)) => usize::try_from(end)
            .ok()
            .filter(|end| (HEADER_SIZE..=image.len()).contains(end))
            .ok_or_else(|| damage(image.len(), "the next segment says that this one ends beyond its size"))?,
        None => image.len(),
    };
    let mut offset = HEADER_SIZE;
    let mut checksum = 0;
    while offset < limit {
        let place = Place { salt: header.salt, sequence: header.sequence, offset: offset as u64 };
        let (head, body) = match record::read_slot(&image[offset..limit], place) {
            Slot::Record(head, body) => (head, body),
            Slot::Empty if pinned.is_some() => {
                return Err(damage(offset, "records are missing from here on"));
            }
            Slot::Bad(reason) if pinned.is_some() => return Err(damage(offset, reason)),
            other => {
                let reason = if let Slot::Bad(reason) = other { Some(reason) } else { None };
                return judge_tail(image, header, offset, reason).map(|torn| Ending { end: offset as u64, checksum, torn });
            }
        };
        if (head.kind == Kind::Carry) != (offset == HEADER_SIZE) {
            return Err(damage(offset, "the carried state is not the first record, or missing"));
        }
        let decoded = record::decode_body(head.kind, record::own(body)).map_err(|reason| damage(offset, reason))?;
        visit(offset as u64, head, decoded).map_err(|reason| damage(offset, &reason))?;
        offset += head.record_size();
        checksum = head.checksum;
    }
    match pinned {
        Some((end, pinned_checksum)) if (end, pinned_checksum) != (offset as u64, checksum) => {
            Err(damage(offset, "the last record is not the one that the next segment names"))
        }
        _ => Ok(Ending { end: offset as u64, checksum, torn: None }),
    }
}

/// Decides whether the log may end at `offset`, where no good record starts. Gives the reason when a tail was torn.
fn judge_tail(image: &[u8], header: &Header, offset: usize, reason: Option<&'static str>) -> Result<Option<&'static str>, Damage> {
    let reason_or = |fallback| reason.unwrap_or(fallback);
    if offset == HEADER_SIZE {
        // This record was synced before the file got its name.
        let reason = reason_or("the carried state is missing").to_owned();
        return Err(Damage { offset: offset as u64, reason });
    }
    let mut torn = reason;
    let mut later = offset + RECORD_ALIGN;
    while later + HEAD_SIZE <= image.len() {
        let place = Place { salt: header.salt, sequence: header.sequence, offset: later as u64 };
        if let Some(head) = record::read_head(&image[later..], place) {
            if head.durable > offset as u64 {
                let reason = reason_or("a record is missing");
                let reason = format!("{reason}, though the record at {later} was written when this one was durable");
                return Err(Damage { offset: offset as u64, reason });
            }
            torn = torn.or(Some("a record is missing before later ones"));
        }
        later += RECORD_ALIGN;
    }
    Ok(torn)
}
