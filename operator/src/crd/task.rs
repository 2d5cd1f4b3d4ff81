//! QuorateTask: one thing that is done to a cluster once, because somebody asked for it.

// Each printer column has a type, which the lint takes for one attribute given twice.
#![allow(clippy::duplicated_attributes)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cluster::NameReference;

/// One thing that is done to a cluster once.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "quorate.io",
    version = "v1alpha1",
    kind = "QuorateTask",
    plural = "quoratetasks",
    shortname = "qtask",
    category = "quorate",
    namespaced,
    status = "TaskStatus",
    derive = "PartialEq",
    doc = "One thing that is done to a Quorate cluster once, because somebody asked for it.",
    printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.clusterRef.name"),
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.type"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Step", type_ = "string", json_path = ".status.step"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self == oldSelf").message("a task cannot change: make another one"),
    validation = Rule::new("self.type != 'RecoverQuorum' || has(self.confirm)")
        .message("RecoverQuorum may lose data: put the cluster's status.clusterID into spec.confirm"),
    validation = Rule::new("self.type == 'RecoverQuorum' || !has(self.recoverQuorum)")
        .message("recoverQuorum is for type RecoverQuorum only"),
    validation = Rule::new("self.type == 'Compact' || !has(self.compact)").message("compact is for type Compact only"),
    validation = Rule::new("(self.type == 'MoveLeader') == has(self.moveLeader)")
        .message("type MoveLeader needs moveLeader, and no other type has it")
)]
pub struct QuorateTaskSpec {
    /// The QuorateCluster, of this namespace.
    pub cluster_ref: NameReference,
    /// What is done.
    #[serde(rename = "type")]
    pub kind: TaskType,
    /// The cluster's `status.clusterID`. A task that names another id does nothing, so a copied manifest cannot hit another cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    pub confirm: Option<String>,
    /// For type RecoverQuorum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recover_quorum: Option<RecoverQuorum>,
    /// For type Compact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compact: Option<CompactTask>,
    /// For type MoveLeader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub move_leader: Option<MoveLeaderTask>,
}

/// What is done.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskType {
    /// When the majority's data is gone: one member becomes the whole cluster, the others join it anew with empty volumes. What only
    /// the others had is lost.
    RecoverQuorum,
    /// Forget superseded revisions.
    Compact,
    /// Ask every member to give free space back, one after the other, the leader last.
    Defragment,
    /// Let another member lead.
    MoveLeader,
}

/// How a lost quorum is recovered.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RecoverQuorum {
    /// The number of the pod whose data the cluster goes on with. Default: of those that answer the one whose log reaches furthest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 6))]
    pub slot: Option<i32>,
    /// What becomes of the other members' old volumes, once the new cluster serves.
    #[serde(default)]
    pub old_volumes: OldVolumes,
}

/// What becomes of volumes that are replaced.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OldVolumes {
    /// Their claims go, the PersistentVolumes stay with their data (reclaim policy Retain), and the status lists them.
    #[default]
    Keep,
    /// They are deleted with their data.
    Delete,
}

/// What is forgotten.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CompactTask {
    /// How many of the newest revisions stay readable. Default: 0, only the present state.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub keep_revisions: i64,
}

/// Who leads.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MoveLeaderTask {
    /// The number of the pod that shall lead.
    #[schemars(range(min = 0, max = 6))]
    pub slot: i32,
}

/// What became of a task.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TaskStatus {
    /// Pending, Admitted, Running, Succeeded or Failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// What is done or waited for, or why it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Type RecoverQuorum: the pod whose data the cluster goes on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub survivor: Option<String>,
    /// Type RecoverQuorum: what may be lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub may_be_lost: Option<String>,
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

/// A volume that was replaced and kept.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct KeptVolume {
    /// The number of the pod that it belonged to.
    pub slot: i32,
    /// The PersistentVolume. Delete it once its data is not needed.
    pub volume: String,
}
