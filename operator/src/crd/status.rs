//! The status of a QuorateCluster: what the operator sees and does. It also holds the journal of the one running operation, and
//! which volume each member wrote on; both survive a restart of the operator.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the operator sees and does.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// One word for people. Programs read the conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// The store's cluster id, hexadecimal. Once set, no empty volume can found a cluster under this resource again.
    #[serde(default, rename = "clusterID", skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// The version that all members run, as their image's tag or the beginning of its digest says; the lowest while they differ, the
    /// last one while none runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Selects the members' pods, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Pods that are wanted at this moment.
    #[serde(default)]
    pub replicas: i32,
    /// Pods that are ready.
    #[serde(default)]
    pub ready_replicas: i32,
    /// Healthy voters of all voters, such as 3/3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// The leader's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// The largest size of a member's data on disk, such as 24 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub db_size: Option<String>,
    /// The members, as the store itself lists them, and what is known of each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<MemberStatus>,
    /// Who wrote on which volume.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeStatus>,
    /// How many voters answer, and how many must.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum: Option<QuorumStatus>,
    /// The largest size that a volume claim asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub volume_size: Option<String>,
    /// The operation that runs. There is never more than one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationStatus>,
    /// What a QuorateTask or a QuorateRestore asked for, while it is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errand: Option<ErrandStatus>,
    /// How the last such thing ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_errand: Option<EndedErrand>,
    /// The UID of the deleted cluster whose volumes this one went on with (`bootstrap.fromVolumes`). The boot ticket names it for ever:
    /// it is what the members' disks are stamped with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// The last recovery of a lost quorum. The boot ticket names it for ever: data from before it is refused by the members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<RecoveryStatus>,
    /// Scheduled maintenance: when it was done last and is due next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<MaintenanceStatus>,
    /// A revision that the store has reached; it may be a million further.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
    /// Alarms of the store: NOSPACE, CORRUPT.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alarms: Vec<String>,
    /// Where clients find the cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<String>,
    /// Secrets for clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets: Option<SecretsStatus>,
    /// Validity of certificates, for mode SelfSigned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsStatus>,
    /// Ready, Available, Progressing, Degraded, QuorumHealthy, CertificatesReady, Paused, Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// A member.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// The pod's name; the peer URL for a member that is none of ours.
    pub name: String,
    /// The member's id, hexadecimal.
    pub id: String,
    /// The pod's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<i32>,
    /// Leader, Voter or Learner.
    pub role: String,
    /// Joining, Ready, Unhealthy, Restarting, Replacing or Leaving.
    pub phase: String,
    /// The version it runs, as its image says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The last log entry that it applied, when it was last seen. After a loss of quorum the highest is the freshest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_index: Option<i64>,
}

/// A volume that a member wrote on.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct VolumeStatus {
    /// The pod's number.
    pub slot: i32,
    /// UID of the PersistentVolumeClaim.
    pub uid: String,
    /// Id of the member, hexadecimal.
    pub member: String,
}

/// How many voters answer, and how many must.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct QuorumStatus {
    /// Voters that answer and know a leader.
    pub healthy: i32,
    /// The majority of all voters.
    pub needed: i32,
}

/// The journal of an operation: which decision was taken. What is to be done next is worked out anew each time.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct OperationStatus {
    /// Form, ScaleOut, ScaleIn, Replace, Rollout, Hibernate, Wake, Restore, RecoverQuorum, HealSpace, Compact, Defragment or MoveLeader.
    #[serde(rename = "type")]
    pub kind: String,
    /// The pod's number that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<i32>,
    /// What is done or waited for, for people.
    pub step: String,
    /// When it began.
    pub started_at: Time,
    /// When this step began.
    pub step_at: Time,
    /// How often this step was tried.
    pub attempt: i32,
    /// For compactions: up to which revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
}

/// The journal of what a QuorateTask or a QuorateRestore asked for: which decisions were taken.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ErrandStatus {
    /// RecoverQuorum or Restore.
    #[serde(rename = "type")]
    pub kind: String,
    /// The resource that asks for it.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The pod's number whose data the cluster goes on with.
    pub slot: i32,
    /// Stopping, Filling, Starting, Retiring or GoingBack.
    pub stage: String,
    /// Old volumes are kept.
    pub keep: bool,
    /// The volumes that hold the old data.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub old: Vec<OldVolume>,
    /// A revision that the store had reached.
    #[serde(default)]
    pub revision: i64,
    /// What may be lost by it, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// When it was begun.
    pub started_at: Time,
}

/// A volume that holds what was there before.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct OldVolume {
    /// The pod's number.
    pub slot: i32,
    /// UID of the PersistentVolumeClaim.
    pub claim: String,
    /// The PersistentVolume; empty for a claim that never got one.
    #[serde(default)]
    pub volume: String,
}

/// A recovery of a lost quorum.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryStatus {
    /// The pod whose data the cluster went on with.
    pub member: String,
    /// UID of the QuorateTask.
    pub id: String,
}

/// How something that was asked for ended.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct EndedErrand {
    /// UID of the resource that asked for it.
    pub uid: String,
    /// True: it was done.
    pub done: bool,
    /// What came of it.
    pub message: String,
    /// Volumes that were replaced and kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<OldVolume>,
}

/// Scheduled maintenance.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MaintenanceStatus {
    /// The last compaction that was due and done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_compaction_at: Option<Time>,
    /// The revision that it went to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compacted_revision: Option<i64>,
    /// When the next one is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_compaction_at: Option<Time>,
    /// Revisions and when the store had reached them, for compaction by age. Oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub marks: Vec<RevisionMark>,
    /// The last reclaim that was due and done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_reclaim_at: Option<Time>,
    /// When the next one is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_reclaim_at: Option<Time>,
    /// Why what is due is not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// When a full store was last given room, or nothing was found that could give it any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healed_at: Option<Time>,
}

/// A revision and when the store had reached it.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct RevisionMark {
    /// When.
    pub at: Time,
    /// The revision.
    pub revision: i64,
}

/// Secrets for clients.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SecretsStatus {
    /// A client certificate, its key and the authority: tls.crt, tls.key, ca.crt.
    pub client: String,
}

/// Validity of certificates.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TlsStatus {
    /// When the first of the certificates ends, unless it is renewed.
    pub not_after: Time,
    /// When the authority ends, unless another takes over.
    pub authority_not_after: Time,
    /// Steady, Announcing (everyone learns to trust the next authority: restart clients that read it only at their start, such as
    /// kube-apiserver) or Retiring (the next one signs; the former is still trusted).
    pub rotation: String,
    /// When that step began.
    pub rotation_since: Time,
}
