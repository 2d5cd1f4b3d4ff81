//! The custom resources: what users write, and what the operator tells them. A file per kind.
//!
//! Out: the definitions as YAML, for `quorate-operator crd` and the files in `crds/`. Doc comments become the descriptions that
//! `kubectl explain` shows, so they speak to users.
//!
//! Invariant: only fields that do something are defined here.

pub mod backup;
pub mod cluster;
pub mod maintenance;
pub mod restore;
mod rules;
pub mod status;
pub mod task;

use kube::CustomResourceExt;

pub use backup::{QuorateBackup, QuorateBackupSchedule, QuorateBackupStore};
pub use cluster::{QuorateCluster, QuorateClusterSpec};
pub use restore::QuorateRestore;
pub use status::{ClusterStatus, MemberStatus, OperationStatus};
pub use task::QuorateTask;

/// The API group of all kinds.
pub const GROUP: &str = "quorate.io";

/// File name and YAML of every definition, in the order in which they should be applied.
pub fn definitions() -> Vec<(&'static str, String)> {
    vec![
        ("quorateclusters.yaml", yaml(&QuorateCluster::crd())),
        ("quoratebackupstores.yaml", yaml(&QuorateBackupStore::crd())),
        ("quoratebackups.yaml", yaml(&QuorateBackup::crd())),
        ("quoratebackupschedules.yaml", yaml(&QuorateBackupSchedule::crd())),
        ("quoratetasks.yaml", yaml(&QuorateTask::crd())),
        ("quoraterestores.yaml", yaml(&QuorateRestore::crd())),
    ]
}

/// All definitions as one YAML stream.
pub fn stream() -> String {
    definitions().into_iter().map(|(_, text)| format!("---\n{text}")).collect()
}

fn yaml(definition: &impl serde::Serialize) -> String {
    let text = serde_yaml_ng::to_string(definition).expect("a definition is plain data");
    format!("# Printed by `quorate-operator crd`; do not edit.\n{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The files that charts and users take are what the program prints. `QUORATE_WRITE=1` writes them anew.
    #[test]
    fn files_are_fresh() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds");
        for (name, text) in definitions() {
            let path = folder.join(name);
            if std::env::var_os("QUORATE_WRITE").is_some() {
                std::fs::write(&path, &text).unwrap();
            }
            let kept = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(kept == text, "crds/{name} is not what the program prints: run this test with QUORATE_WRITE=1");
        }
    }
}
