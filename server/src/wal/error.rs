//! What can go wrong in the log, one variant for each thing an operator or the node can do about it.

use std::io;
use std::path::PathBuf;

use super::Identity;

/// Why the log could not be opened, written or read.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// Another process has the directory: stop it, or use another data directory.
    #[error("the log in {} is in use by another process", dir.display())]
    Locked { dir: PathBuf },
    /// `create` found a log: open it instead.
    #[error("there is a log in {} already", dir.display())]
    Exists { dir: PathBuf },
    /// `open` found no log.
    #[error("there is no log in {}", dir.display())]
    Missing { dir: PathBuf },
    /// Bytes that were once durable are wrong or gone. Nothing on disk was changed.
    #[error(
        "log file {} is corrupt at offset {offset}: {reason}; to rebuild this member, remove it from the cluster, empty its \
         data directory and add it again under a new member id",
        file.display()
    )]
    Corrupt { file: PathBuf, offset: u64, reason: String },
    /// The log belongs to another cluster or member: the data directory is the wrong one.
    #[error("log file {} belongs to {found}, this is {wanted}", file.display())]
    Foreign { file: PathBuf, found: Identity, wanted: Identity },
    /// The log was written in a format this build cannot read.
    #[error("log file {} has format version {found}, this build reads version {supported}", file.display())]
    Version { file: PathBuf, found: u32, supported: u32 },
    /// The disk is full. Nothing of the failed call took place; it may be made again once there is space.
    #[error("no space left to write {}: {source}", file.display())]
    NoSpace { file: PathBuf, source: io::Error },
    /// One append is larger than a segment can be; split it.
    #[error("an append of {bytes} bytes is above the limit of {limit} bytes")]
    TooLarge { bytes: u64, limit: u64 },
    /// The groups do not continue the log; nothing was written.
    #[error("the group does not continue the log: {reason}")]
    Misuse { reason: String },
    /// Reading failed before anything was changed.
    #[error("cannot {action} {}: {source}", file.display())]
    Read { action: &'static str, file: PathBuf, source: io::Error },
    /// A write or a sync failed. What is durable is unknown: the process must abort and replay.
    #[error("cannot {action} {}: {source}; what is durable is unknown until the log is replayed", file.display())]
    Failed { action: &'static str, file: PathBuf, source: io::Error },
    /// An earlier `Failed`: the log takes nothing more.
    #[error("the log stopped after an earlier write error")]
    Poisoned,
}

impl WalError {
    /// Whether the process must abort: the durable state is unknown.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        matches!(self, WalError::Failed { .. } | WalError::Poisoned)
    }

    /// Whether the disk was full and the same call may succeed later.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(self, WalError::NoSpace { .. })
    }

    /// Sorts an error of a changing call: a full disk can be waited for, anything else cannot be undone.
    pub(super) fn changing(action: &'static str, file: PathBuf, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => WalError::NoSpace { file, source },
            _ => WalError::Failed { action, file, source },
        }
    }
}
