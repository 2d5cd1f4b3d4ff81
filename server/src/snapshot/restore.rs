//! Restore: durable rows of a new cluster from a snapshot file, and what a file holds.

use super::file::{self, Contents};
use super::replay::{self, Deltas, Reached};
use super::{SnapshotError, rows};
use crate::base::kind::sys;
use crate::base::{Base, Batch, Family, RocksBase, RocksOptions};
use bytes::Bytes;
use prost::Message;
use quorate_proto::entry::AlarmKind;
use quorate_proto::state::Applied;
use std::path::Path;
use std::sync::Arc;

/// How a restored store differs from the saved one.
#[derive(Clone, Debug, Default)]
pub struct RestoreOptions {
    /// Added to the revision, so that clients who saw revisions after the snapshot never meet them again with other contents.
    pub bump_revision: u64,
    /// Marks everything up to the new revision as compacted: watchers must list anew.
    pub mark_compacted: bool,
    /// Take a file without, or with another, sha256.
    pub skip_hash: bool,
    /// What follows the file, and how far to go.
    pub deltas: Deltas,
}

/// What a snapshot file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileStatus {
    /// CRC-32C over all rows.
    pub hash: u32,
    pub revision: i64,
    /// Rows of the history: versions, not keys.
    pub total_keys: u64,
    /// Bytes.
    pub total_size: u64,
    /// Version of Quorate that wrote it.
    pub made_by: String,
    pub cluster_id: u64,
}

/// Reads a file through and says what it holds.
///
/// # Errors
/// As [`file::read`]; a missing sha256 is accepted, a wrong one is not.
pub fn status(path: &Path) -> Result<FileStatus, SnapshotError> {
    let plain = std::fs::metadata(path).is_ok_and(|m| m.len() % 512 == 0);
    let mut total_keys = 0;
    let Contents { header, checksum, size, .. } = file::read(path, plain, |_, number, chunk| {
        if number == Family::Log as u32 {
            rows::each(chunk, |_, _| {
                total_keys += 1;
                Ok(())
            })?;
        }
        Ok(())
    })?;
    let revision = header.applied.as_ref().map_or(0, |a| a.revision);
    Ok(FileStatus { hash: checksum, revision, total_keys, total_size: size, made_by: header.made_by, cluster_id: header.cluster })
}

/// Writes a file's rows into a new folder of rows, without what belonged to the old cluster: members, configuration, agreed version.
/// Durable on return, which says how far the state is that clients will see, before it was bumped.
///
/// # Errors
/// As [`file::read`] and [`replay::replay`], or when the folder cannot be written.
pub(crate) fn write_rows(
    path: &Path,
    folder: &Path,
    rocks: RocksOptions,
    options: &RestoreOptions,
) -> Result<Reached, SnapshotError> {
    let base: Arc<dyn Base> = Arc::new(RocksBase::open(folder, rocks)?);
    let mut applied = Applied::default();
    let contents = file::read(path, options.skip_hash, |_, number, chunk| {
        let family = rows::family(number).expect("checked by read");
        let mut batch = Batch::default();
        rows::each(chunk, |key, value| {
            if family != Family::Sys || is_kept(&key) {
                batch.put(family, key, value);
            } else if key == sys::single(sys::APPLIED) {
                applied = Applied::decode(value).map_err(|e| SnapshotError::Damaged(format!("applied position: {e}")))?;
            }
            Ok(())
        })?;
        Ok(base.write(batch)?)
    })?;
    let reached = replay::replay(&base, contents.header.cluster, &mut applied, &options.deltas)?;
    let bump = i64::try_from(options.bump_revision).ok();
    applied.revision = bump
        .and_then(|b| applied.revision.checked_add(b))
        .ok_or_else(|| SnapshotError::Refused(format!("revision {} cannot grow by {}", applied.revision, options.bump_revision)))?;
    let mut batch = Batch::default();
    if options.mark_compacted {
        batch.put(Family::Sys, sys::single(sys::COMPACT), Bytes::copy_from_slice(&applied.revision.to_be_bytes()));
    }
    batch.put(Family::Sys, sys::single(sys::APPLIED), applied.encode_to_vec());
    refuse_nothing(base.as_ref(), &mut batch)?;
    base.write(batch)?;
    base.flush()?;
    Ok(reached)
}

/// Lets go of the alarms of differing members: all members of the new cluster begin with these rows, and with such an alarm they would
/// serve nobody. One for want of space stays true.
fn refuse_nothing(base: &dyn Base, batch: &mut Batch) -> Result<(), SnapshotError> {
    let (lower, upper) = sys::tag_range(sys::ALARM);
    let mut cursor = base.cursor(Family::Sys, &lower, Some(&upper))?;
    while let Some((key, _)) = cursor.row() {
        if sys::alarm_of(key).is_some_and(|(kind, _)| kind == AlarmKind::Corrupt as i32) {
            batch.delete(Family::Sys, Bytes::copy_from_slice(key));
        }
        cursor.advance()?;
    }
    Ok(())
}

fn is_kept(key: &[u8]) -> bool {
    let gone = [
        sys::APPLIED,
        sys::MEMBER,
        sys::REMOVED_MEMBER,
        sys::CONFIGURATION,
        sys::CLUSTER_VERSION,
        sys::RECOVERY,
        sys::DOWNGRADE,
        // Its entries are of another log.
        sys::FENCE,
    ];
    key.first().is_some_and(|tag| !gone.contains(tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What belongs to the cluster that was backed up, and to its log, stays behind; what belongs to the data comes along.
    #[test]
    fn rows_of_the_former_cluster_stay_behind() {
        for tag in [sys::APPLIED, sys::MEMBER, sys::CONFIGURATION, sys::RECOVERY, sys::FENCE] {
            assert!(!is_kept(&[tag, 1]), "{tag:#x}");
        }
        for tag in [sys::LEASE, sys::COMPACT] {
            assert!(is_kept(&[tag, 1]), "{tag:#x}");
        }
    }
}
