//! `Maintenance.Snapshot`: a pinned view of the store, as the API's stream.

use crate::api::{OpenSnapshot, SnapshotError, SnapshotSource};
use crate::config;
use crate::node::NodeHandle;
use crate::snapshot::export;
use tokio::sync::mpsc;

/// Saves everything applied when it is asked.
pub(super) struct Snapshots(pub NodeHandle);

/// Pieces that may wait between the export and the stream.
const WAITING: usize = 4;

#[tonic::async_trait]
impl SnapshotSource for Snapshots {
    async fn open(&self) -> Result<OpenSnapshot, SnapshotError> {
        let failed = |e: crate::snapshot::SnapshotError| SnapshotError(e.to_string());
        let view = self.0.pin().await.map_err(failed)?;
        let mut export = export(view, self.0.status().cluster_id).await.map_err(failed)?;
        let (sender, blobs) = mpsc::channel(WAITING);
        let total_bytes = export.total_bytes;
        tokio::spawn(async move {
            while let Some(blob) = export.blobs.recv().await {
                if sender.send(blob.map_err(failed)).await.is_err() {
                    return;
                }
            }
        });
        Ok(OpenSnapshot { total_bytes, version: config::ETCD_VERSION.to_string(), blobs })
    }
}
