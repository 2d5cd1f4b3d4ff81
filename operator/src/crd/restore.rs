//! QuorateRestore: a backup in place of what a cluster holds.

// Each printer column has a type, which the lint takes for one attribute given twice.
#![allow(clippy::duplicated_attributes)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cluster::{NameReference, RestoreSource};
use super::task::{KeptVolume, OldVolumes};

/// A backup in place of what a cluster holds.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "quorate.io",
    version = "v1alpha1",
    kind = "QuorateRestore",
    plural = "quoraterestores",
    shortname = "qrestore",
    category = "quorate",
    namespaced,
    status = "RestoreStatus",
    derive = "PartialEq",
    doc = "Puts a backup in place of what a Quorate cluster holds. Its name, Services, certificates and spec stay. Deleting this before the restored data serves goes back to the old data.",
    printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.clusterRef.name"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Step", type_ = "string", json_path = ".status.step"),
    printcolumn(name = "Safety", type_ = "string", json_path = ".status.safetyBackup", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 45").message("the name becomes part of a backup's name: use at most 45 characters")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self == oldSelf").message("a restore cannot change: make another one"))]
pub struct QuorateRestoreSpec {
    /// The QuorateCluster, of this namespace; living or dead.
    pub cluster_ref: NameReference,
    /// The cluster's `status.clusterID`. A restore that names another id does nothing, so a copied manifest cannot hit another
    /// cluster.
    #[schemars(length(min = 1, max = 16))]
    pub confirm: String,
    /// The backup. Revisions go on far above those of the backup and of the present, so that clients notice.
    pub source: RestoreSource,
    /// A backup of what the cluster holds, taken first.
    #[serde(default)]
    pub safety_backup: SafetyBackup,
    /// What becomes of the members' old volumes, once the restored data serves.
    #[serde(default)]
    pub old_volumes: OldVolumes,
}

/// A backup of what the cluster holds, taken first.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SafetyBackup {
    /// Whether it is taken. One that has been without a quorum for a minute cannot be backed up, and is
    /// restored without; its old volumes are kept then.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// The QuorateBackupStore that it goes to. Default: the one that the restored backup is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_ref: Option<NameReference>,
}

impl Default for SafetyBackup {
    fn default() -> Self {
        Self { enabled: true, store_ref: None }
    }
}

fn yes() -> bool {
    true
}

/// What became of a restore.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RestoreStatus {
    /// Pending, BackingUp, Admitted, Running, Rejoining, Succeeded or Failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// What is done or waited for, or why it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// The QuorateBackup that was taken first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub safety_backup: Option<String>,
    /// When that was done. After ten minutes without a beginning another is taken; where none can be taken, old volumes
    /// are kept, whatever spec.oldVolumes says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub safety_backup_at: Option<Time>,
    /// Volumes that were replaced and kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept_volumes: Vec<KeptVolume>,
    /// When work on it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it was done, or given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
    /// Complete: True once it is done, False while it is not, or failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
