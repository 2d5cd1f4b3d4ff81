//! Departure: a removed member learns of it, keeps its data, and never works again.
//!
//! A member that was left behind by a recovery of its lost cluster is told in the same way, and ends in the same way.
//!
//! In: the member's own applied state, and what its peers tell it. Out: the moment to stop, and a tombstone in the data directory that
//! later starts find. The tombstone is a hint for starts before anything is opened; the removed id in the replicated rows counts as
//! well.

use crate::node::NodeHandle;
use crate::peer::{Peers, REMOVED};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The process's exit code when the member was removed.
pub const EXIT_CODE: i32 = 6;
/// How often the applied member list is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// Time for the answer to whoever removed us through this member, and for the others to hear the last entries.
const LINGER: Duration = Duration::from_secs(1);

fn tombstone(data_dir: &Path) -> PathBuf {
    data_dir.join("member").join("removed")
}

/// True when the member that lives in a data directory was removed from its cluster.
pub fn is_buried(data_dir: &Path) -> bool {
    tombstone(data_dir).exists()
}

/// Writes the tombstone, durably, with the reason on it.
///
/// # Errors
/// When the disk fails; the member is then told again at its next start.
pub fn bury(data_dir: &Path, reason: &str) -> io::Result<()> {
    let path = tombstone(data_dir);
    std::fs::write(&path, format!("{reason}\n"))?;
    std::fs::File::open(&path)?.sync_all()?;
    std::fs::File::open(data_dir.join("member"))?.sync_all()
}

/// What the operator is told.
pub fn farewell(data_dir: &Path) -> String {
    let written = std::fs::read_to_string(tombstone(data_dir)).unwrap_or_default();
    let reason = Some(written.trim_end()).filter(|r| !r.is_empty()).unwrap_or(REMOVED);
    format!(
        "{reason}; its data stays in {}. To use this machine again, add a member and start it with an empty data directory",
        data_dir.display()
    )
}

/// Returns when this member has been removed from its cluster and the tombstone stands.
pub async fn removed(node: NodeHandle, peers: Peers, data_dir: PathBuf) {
    let own = node.status().member_id;
    let told = peers.removed();
    while !node.shared().is_removed(own) && !told.is_cancelled() {
        tokio::select! {
            () = told.cancelled() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    let reason = peers.farewell().unwrap_or_else(|| REMOVED.to_string());
    tracing::error!(member_id = format!("{own:016x}"), "{reason}; stopping");
    if let Err(e) = bury(&data_dir, &reason) {
        tracing::error!(error = %e, "that this member was removed cannot be written down");
    }
    tokio::time::sleep(LINGER).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tombstone_stands() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("member")).unwrap();
        assert!(!is_buried(dir.path()));
        bury(dir.path(), "for a reason").unwrap();
        assert!(is_buried(dir.path()));
        assert!(farewell(dir.path()).starts_with("for a reason; its data stays"));
    }
}
