//! Backups: where they are kept, one of them, and when they are made.

// Each printer column has a type, which the lint takes for one attribute given twice.
#![allow(clippy::duplicated_attributes)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cluster::NameReference;

/// A place for backups, described once.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "quorate.io",
    version = "v1alpha1",
    kind = "QuorateBackupStore",
    plural = "quoratebackupstores",
    shortname = "qbstore",
    category = "quorate",
    namespaced,
    derive = "PartialEq",
    doc = "A place for backups of Quorate clusters.",
    printcolumn(name = "Bucket", type_ = "string", json_path = ".spec.s3.bucket"),
    printcolumn(name = "Volume", type_ = "string", json_path = ".spec.volume.claimName"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.s3) != has(self.volume)").message("a store is either s3 or volume"))]
pub struct QuorateBackupStoreSpec {
    /// A bucket that is reached by the S3 protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Store>,
    /// A volume of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeStore>,
}

/// A bucket that is reached by the S3 protocol.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct S3Store {
    /// Its name.
    pub bucket: String,
    /// What all objects' names begin with, without slashes at either end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Region. Default: us-east-1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// URL of a service other than Amazon's. An http URL is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// A Secret with the keys AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. Default: what the pod's environment offers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<NameReference>,
}

/// A volume of this namespace.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct VolumeStore {
    /// The PersistentVolumeClaim. Backups and restores mount it from several nodes if it allows that.
    pub claim_name: String,
    /// What all objects' names begin with, without slashes at either end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
}

/// One full backup.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "quorate.io",
    version = "v1alpha1",
    kind = "QuorateBackup",
    plural = "quoratebackups",
    shortname = "qb",
    category = "quorate",
    namespaced,
    status = "BackupStatus",
    derive = "PartialEq",
    doc = "One full backup of a Quorate cluster. Deleting it does not delete the object in the store.",
    printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.clusterRef.name"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Revision", type_ = "integer", json_path = ".status.revision"),
    printcolumn(name = "Bytes", type_ = "integer", json_path = ".status.size"),
    printcolumn(name = "Finished", type_ = "date", json_path = ".status.finishedAt"),
    printcolumn(name = "Location", type_ = "string", json_path = ".status.location", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 52").message("the name becomes part of a Job's name: use at most 52 characters")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self == oldSelf").message("a backup cannot change: make another one"))]
pub struct QuorateBackupSpec {
    /// The QuorateCluster, of this namespace.
    pub cluster_ref: NameReference,
    /// The QuorateBackupStore, of this namespace.
    pub store_ref: NameReference,
}

/// What became of a backup.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BackupStatus {
    /// Pending, Running, Succeeded or Failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// The newest revision that is certainly in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
    /// The store's cluster id, hexadecimal.
    #[serde(default, rename = "clusterID", skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// The version of the member that it was taken from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_version: Option<String>,
    /// Bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<i64>,
    /// SHA-256 of the content, hexadecimal, as the member gave it and the writer checked it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The object's name in the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// When work on it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it was done, or given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
    /// Complete: True once the backup is in the store, False while it is not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// When backups are made, and how many are kept.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "quorate.io",
    version = "v1alpha1",
    kind = "QuorateBackupSchedule",
    plural = "quoratebackupschedules",
    shortname = "qbs",
    category = "quorate",
    namespaced,
    status = "ScheduleStatus",
    derive = "PartialEq",
    doc = "When backups of a Quorate cluster are made, and how many are kept.",
    printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.clusterRef.name"),
    printcolumn(name = "Schedule", type_ = "string", json_path = ".spec.schedule"),
    printcolumn(name = "Suspend", type_ = "boolean", json_path = ".spec.suspend"),
    printcolumn(name = "Last", type_ = "date", json_path = ".status.lastScheduledAt"),
    printcolumn(name = "Next", type_ = "string", json_path = ".status.nextAt"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 40").message("the name becomes part of backups' names: use at most 40 characters")
)]
#[serde(rename_all = "camelCase")]
pub struct QuorateBackupScheduleSpec {
    /// The QuorateCluster, of this namespace.
    pub cluster_ref: NameReference,
    /// The QuorateBackupStore, of this namespace.
    pub store_ref: NameReference,
    /// Five fields as in crontab: minute, hour, day of month, month, day of week; in UTC.
    #[schemars(length(min = 9, max = 128))]
    pub schedule: String,
    /// True: no further backups are begun.
    #[serde(default)]
    pub suspend: bool,
    /// How many successful backups of this schedule are kept, in the store and as resources. Older ones are deleted after a newer
    /// one succeeded. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub keep_last: Option<i32>,
}

/// What became of a schedule.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleStatus {
    /// The last time at which a backup was due and begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_scheduled_at: Option<Time>,
    /// The next time at which one is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<Time>,
    /// The newest backup that succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success: Option<String>,
    /// When that one was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success_at: Option<Time>,
    /// Valid: False when the schedule cannot be read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
