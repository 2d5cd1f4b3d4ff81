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
    printcolumn(name = "GCS", type_ = "string", json_path = ".spec.gcs.bucket"),
    printcolumn(name = "Azure", type_ = "string", json_path = ".spec.azure.container"),
    printcolumn(name = "Volume", type_ = "string", json_path = ".spec.volume.claimName"),
    printcolumn(name = "Key", type_ = "string", json_path = ".spec.encryption.secretRef.name", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.s3), has(self.gcs), has(self.azure), has(self.volume)].filter(x, x).size() == 1")
    .message("a store is one of s3, gcs, azure and volume"))]
pub struct QuorateBackupStoreSpec {
    /// A bucket that is reached by the S3 protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Store>,
    /// A bucket of Google Cloud Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gcs: Option<GcsStore>,
    /// A container of Azure Blob Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure: Option<AzureStore>,
    /// A volume of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeStore>,
    /// Encrypt what is written from now on. Backups hold everything the cluster does, Kubernetes' Secrets too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
}

/// How objects are encrypted: AES-256-GCM, each under a key of its own that is drawn from this one.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Encryption {
    /// A Secret whose entry `key` is 32 random bytes, or 64 hexadecimal digits. To change the key, keep the old one under another name
    /// in the same Secret: all its entries decrypt. Without the key there is no way to the data.
    pub secret_ref: NameReference,
}

/// A bucket of Google Cloud Storage.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GcsStore {
    /// Its name.
    pub bucket: String,
    /// What all objects' names begin with, without slashes at either end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// URL of a service other than Google's. An http URL is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// A Secret with the key GOOGLE_SERVICE_ACCOUNT_KEY, a service account's JSON; and, if wished, ca.crt, authorities as PEM that vouch
    /// for the endpoint. Default: the identity of the pod's workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<NameReference>,
}

/// A container of Azure Blob Storage.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AzureStore {
    /// The storage account.
    pub account: String,
    /// The container.
    pub container: String,
    /// What all objects' names begin with, without slashes at either end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// URL of a service other than Azure's. An http URL is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// A Secret with the key AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN; and, if wished, ca.crt, authorities as PEM that vouch
    /// for the endpoint. Default: the identity of the pod's workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<NameReference>,
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
    /// A Secret with the keys AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; and, if wished, AWS_SESSION_TOKEN, and ca.crt, authorities as
    /// PEM that vouch for the endpoint. Default: what the pod's environment offers.
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
    printcolumn(name = "Verified", type_ = "date", json_path = ".status.verifiedAt"),
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
    /// Prove it: restore it into a server that is thrown away, and compare revision, number of keys and HashKV with what was recorded
    /// when it was taken. With a schedule that keeps deltas, also restore the newest state that they lead to, and compare what they lead
    /// to from the full backup before. Another value of the annotation quorate.io/prove asks for another proof.
    #[serde(default)]
    pub verify: bool,
}

/// What became of a backup.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BackupStatus {
    /// Pending, Running, Succeeded or Failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// The revision whose state it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
    /// The cluster's clock at that revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_at: Option<Time>,
    /// HashKV at that revision.
    #[serde(default, rename = "hashKV", skip_serializing_if = "Option::is_none")]
    pub hash_kv: Option<i64>,
    /// The compaction revision that the hash was taken at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compact_revision: Option<i64>,
    /// Keys alive at that revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<i64>,
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
    /// The id of the key that it is encrypted with.
    #[serde(default, rename = "keyID", skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// Objects of older backups that were deleted after this one was in the store.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deleted: Vec<String>,
    /// The value of the annotation quorate.io/prove that the last proof was asked for by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
    /// When a restore of it showed what was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_at: Option<Time>,
    /// When work on it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it was done, or given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
    /// Complete: True once the backup is in the store, False while it is not. Verified, when that was asked for: True once a restore
    /// showed what was recorded, False when what is in the store does not, Unknown while a proof could not be made; that is tried again.
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
    printcolumn(name = "Covered", type_ = "date", json_path = ".status.deltas.coveredUntil"),
    printcolumn(name = "Verified", type_ = "date", json_path = ".status.lastVerifiedAt"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 40").message("the name becomes part of backups' names: use at most 40 characters")
)]
#[serde(rename_all = "camelCase")]
pub struct QuorateBackupScheduleSpec {
    /// The QuorateCluster, of this namespace.
    pub cluster_ref: NameReference,
    /// The QuorateBackupStore, of this namespace.
    pub store_ref: NameReference,
    /// Five fields as in crontab: minute, hour, day of month, month, day of week; in UTC. While a backup of this schedule waits or is
    /// taken, no other is made.
    #[schemars(length(min = 9, max = 128))]
    pub schedule: String,
    /// True: no further backups are begun.
    #[serde(default)]
    pub suspend: bool,
    /// How many successful backups of this schedule are kept, in the store and as resources. Older ones are deleted after a newer
    /// one succeeded, and the deltas before the oldest with them. The newest that was verified is always kept, and one whose
    /// verification failed does not count. Of those that failed five are kept as resources. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub keep_last: Option<i32>,
    /// Prove backups by restoring them. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,
    /// Keep what changes between backups, so that any revision and time can be restored. Default: not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deltas: Option<Deltas>,
}

/// Which backups are proved, and when.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Verify {
    /// Every so many-th, as soon as it is taken. Default: each, unless there is a schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub every: Option<i32>,
    /// At these times the newest backup is proved, whether it was proved before or not: five fields as in crontab, in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 9, max = 128))]
    pub schedule: Option<String>,
}

impl Verify {
    /// Every so many-th backup is proved when it is taken. None: none is.
    pub fn every(&self) -> Option<i32> {
        self.every.or_else(|| self.schedule.is_none().then_some(1))
    }
}

/// How changes between backups are kept: by a Deployment of one pod, which follows the cluster.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Deltas {
    /// How often they are written while something changes; what is lost at most. Seconds or minutes.
    #[serde(default = "five_seconds")]
    #[x_kube(validation = Rule::new("self.matches('^[1-9][0-9]{0,2}(s|m)$')").message("an interval is a number and s or m, such as 5s"))]
    #[schemars(length(max = 5))]
    pub interval: String,
}

fn five_seconds() -> String {
    "5s".into()
}

impl Default for Deltas {
    fn default() -> Self {
        Self { interval: five_seconds() }
    }
}

impl Deltas {
    /// The interval in seconds.
    pub fn seconds(&self) -> u64 {
        let (number, unit) = self.interval.split_at(self.interval.len().saturating_sub(1));
        number.parse::<u64>().unwrap_or(5).max(1) * if unit == "m" { 60 } else { 1 }
    }
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
    /// The last time at which a proof was due by its own schedule and begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_proof_due_at: Option<Time>,
    /// When a backup of this schedule was proved last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_verified_at: Option<Time>,
    /// How far changes between backups are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deltas: Option<DeltasStatus>,
    /// Valid: False when the schedule cannot be read. Flowing, with deltas: False when changes are not kept as they should be. Verified,
    /// with verification: of the newest backup that was to be proved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// How far changes between backups are kept.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DeltasStatus {
    /// Without a gap from this revision on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_revision: Option<i64>,
    /// Up to this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
    /// Whatever was acknowledged before this moment is in the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covered_until: Option<Time>,
}
