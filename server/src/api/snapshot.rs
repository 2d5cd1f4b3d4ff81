//! What `Maintenance.Snapshot` needs of the snapshot room: a stream of bytes whose length is known before it starts.

use bytes::Bytes;
use tokio::sync::mpsc;

/// Largest blob the door sends at once, in bytes; sources cut theirs no larger. The same as etcd's.
pub const BLOB_BYTES: usize = 32 * 1024;

/// Opens snapshots of this member's applied state.
#[tonic::async_trait]
pub trait SnapshotSource: Send + Sync {
    /// Cuts a snapshot now and starts to produce its bytes.
    async fn open(&self) -> Result<OpenSnapshot, SnapshotError>;
}

/// A snapshot being read. Dropping it releases what the source holds.
pub struct OpenSnapshot {
    /// The exact number of bytes that `blobs` will bring, the closing checksum not counted.
    pub total_bytes: u64,
    /// The storage version clients are told, `major.minor.patch`.
    pub version: String,
    /// The bytes in order, in pieces of at most [`BLOB_BYTES`]; a bounded channel, so that a slow client slows the source.
    pub blobs: mpsc::Receiver<Result<Bytes, SnapshotError>>,
}

/// Why a snapshot could not be taken or read to its end.
#[derive(Clone, Debug, thiserror::Error)]
#[error("snapshot: {0}")]
pub struct SnapshotError(pub String);
