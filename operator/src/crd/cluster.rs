//! QuorateCluster: what a user wants of a cluster. Intent only; what was done about it is in [`super::status`].

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::maintenance::MaintenanceSpec;
use super::rules::{OWN_FLAGS, amounts, any_object, any_objects};
use super::status::ClusterStatus;

/// A Quorate cluster: a replicated store that speaks etcd's v3 API.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "quorate.io",
    version = "v1alpha1",
    kind = "QuorateCluster",
    plural = "quorateclusters",
    shortname = "qc",
    category = "quorate",
    namespaced,
    status = "ClusterStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A Quorate cluster: a replicated store that speaks etcd's v3 API.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Members", type_ = "string", json_path = ".status.summary"),
    printcolumn(name = "Leader", type_ = "string", json_path = ".status.leader"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(name = "DB", type_ = "string", json_path = ".status.dbSize", priority = 1),
    printcolumn(name = "Operation", type_ = "string", json_path = ".status.operation.step", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("the name becomes part of host names: use at most 40 lower-case letters, digits and dashes, a letter first"),
    validation = Rule::new("quantity(self.spec.storage.size).compareTo(quantity(oldSelf.spec.storage.size)) >= 0 || (has(self.status) && has(self.status.volumeSize) && quantity(self.spec.storage.size).compareTo(quantity(self.status.volumeSize)) >= 0)")
        .message("size cannot shrink: volumes only grow. A growth that was refused can be taken back to status.volumeSize")
)]
#[serde(rename_all = "camelCase")]
pub struct QuorateClusterSpec {
    /// How many members vote: 1, 3, 5 or 7. 0 puts the cluster to sleep: no pods run, volumes stay, and any other number wakes it.
    #[serde(default = "three")]
    #[x_kube(validation = Rule::new("self in [0, 1, 3, 5, 7]")
        .message("use 1, 3, 5 or 7 members (an even number survives no more failures than one member less), or 0 to hibernate"))]
    pub replicas: i32,
    /// The server's version, which is the image's tag unless `image` says otherwise; changes go by one minor version at a time. Default:
    /// the version that the operator came with when the cluster was made. A newer operator leaves it as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Where the server's image comes from.
    #[serde(default)]
    pub image: ImageSpec,
    /// The members' volumes.
    #[serde(default)]
    pub storage: StorageSpec,
    /// Processor and memory of each member.
    #[serde(default)]
    pub resources: Resources,
    /// Where members may run.
    #[serde(default)]
    pub scheduling: SchedulingSpec,
    /// What pods carry besides.
    #[serde(default)]
    pub pod: PodSpec,
    /// Settings of the server. A change restarts one member after the other, the leader last.
    #[serde(default)]
    pub config: ConfigSpec,
    /// Certificates.
    #[serde(default)]
    pub tls: TlsSpec,
    /// The Service that clients use, NAME-client, port 2379.
    #[serde(default)]
    pub service: ServiceSpec,
    /// A NetworkPolicy for the members.
    #[serde(default)]
    pub network_policy: NetworkPolicySpec,
    /// How changes of pods are rolled out.
    #[serde(default)]
    pub update: UpdateSpec,
    /// What happens when a member has lost its data.
    #[serde(default)]
    pub repair: RepairSpec,
    /// Compaction and reclaim by schedule, and what about a full store.
    #[serde(default)]
    pub maintenance: MaintenanceSpec,
    /// How the first data comes about. Only looked at before the cluster is formed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<BootstrapSpec>,
    /// True: the operator changes nothing about this cluster and only reports. Certificates are not renewed either; condition
    /// CertificatesReady tells when they should have been.
    #[serde(default)]
    pub paused: bool,
}

fn three() -> i32 {
    3
}

/// How the first data comes about.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self == oldSelf").message("bootstrap cannot change: it says how this cluster came about; make a new cluster"))]
#[x_kube(validation = Rule::new("has(self.restore) != (has(self.fromVolumes) && self.fromVolumes)")
    .message("name a backup to restore, or set fromVolumes to true, one of both"))]
pub struct BootstrapSpec {
    /// Begin with the data of a backup. The revision is raised far above the backup's, so that clients which remember later
    /// revisions notice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<RestoreSource>,
    /// Go on with the data of a deleted cluster of this name, whose volume claims were kept (`storage.whenDeleted: Retain`): the same
    /// store, with its members and revisions. `tls.mode` must be what it was.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_volumes: bool,
}

/// A backup.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.backupRef) != (has(self.storeRef) && has(self.location)) && has(self.storeRef) == has(self.location)")
    .message("name a backup by backupRef, or its object by storeRef and location"))]
#[x_kube(validation = Rule::new("!has(self.revision) || !has(self.time)").message("name a revision or a time, not both"))]
pub struct RestoreSource {
    /// A QuorateBackup of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_ref: Option<NameReference>,
    /// A QuorateBackupStore of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_ref: Option<NameReference>,
    /// The object's name in the store, as a QuorateBackup's status shows it; or its folder, with a slash at the end, for the newest
    /// full backup in there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub location: Option<String>,
    /// Restore the state at this revision instead of the backup's own: from the newest full backup at or below it in the same folder
    /// of the store, and the deltas after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub revision: Option<i64>,
    /// Restore the newest recorded state at or before this time, by the cluster's clock, in the same way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
}

impl RestoreSource {
    /// The flags by which the agent that restores is told how far to go.
    pub fn arguments(&self) -> Vec<String> {
        let revision = self.revision.map(|revision| format!("--revision={revision}"));
        revision.into_iter().chain(self.time.as_ref().map(|time| format!("--time={}", time.0))).collect()
    }
}

/// Where the server's image comes from. What is not set is taken from the operator's default image when the cluster is made; where no
/// version, tag or digest is set, the cluster keeps those that it was made with.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ImageSpec {
    /// Registry and path, without a tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// Tag. Default: `spec.version`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Digest, such as `sha256:...`; wins over the tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^sha256:[0-9a-f]{64}$')").message("a digest is sha256: and 64 hexadecimal digits"))]
    pub digest: Option<String>,
    /// When the image is pulled. Default: as Kubernetes decides by the tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_policy: Option<PullPolicy>,
    /// Secrets with registry credentials.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pull_secrets: Vec<NameReference>,
}

/// When an image is pulled.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// Another object of the same namespace.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct NameReference {
    /// Its name.
    pub name: String,
}

/// The members' volumes, one each.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)")
        .message("storageClassName cannot change: volumes cannot move between classes; make a new cluster and mirror the data over")
)]
pub struct StorageSpec {
    /// Size of each volume. It can grow later where the storage class allows that; where it does not, the wish can be taken back.
    #[serde(default = "default_size")]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))")
        .message("size is a quantity above zero, such as 8Gi"))]
    #[schemars(length(max = 32))]
    pub size: String,
    /// Storage class. Default: the cluster's default class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class_name: Option<String>,
    /// What becomes of the volumes when the QuorateCluster is deleted.
    #[serde(default)]
    pub when_deleted: VolumePolicy,
    /// What becomes of a member's volume when the cluster gets smaller. A kept volume must be deleted by hand before the cluster
    /// can grow over its place again: a removed member's data cannot join.
    #[serde(default = "delete_volumes")]
    pub when_scaled: VolumePolicy,
}

impl Default for StorageSpec {
    fn default() -> Self {
        let (when_deleted, when_scaled) = (VolumePolicy::Retain, VolumePolicy::Delete);
        Self { size: default_size(), storage_class_name: None, when_deleted, when_scaled }
    }
}

fn default_size() -> String {
    "8Gi".to_string()
}

fn delete_volumes() -> VolumePolicy {
    VolumePolicy::Delete
}

/// Whether volumes outlive their use.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum VolumePolicy {
    #[default]
    Retain,
    Delete,
}

/// Processor and memory, as in any container.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// What is set aside. Default: 100m of cpu and 256Mi of memory.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "amounts")]
    pub requests: BTreeMap<String, IntOrString>,
    /// What may be used at most. Default: no limit.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "amounts")]
    pub limits: BTreeMap<String, IntOrString>,
}

/// Where members may run. By default they avoid each other's nodes and spread over zones, as far as that is possible.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SchedulingSpec {
    /// Whether two members may share a node.
    #[serde(default)]
    pub anti_affinity: AntiAffinity,
    /// Node label that `antiAffinity` goes by. Default: kubernetes.io/hostname.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology_key: Option<String>,
    /// Labels that nodes must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that members bear.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "any_objects")]
    pub tolerations: Vec<Map<String, Value>>,
    /// A pod's affinity; replaces what `antiAffinity` makes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub affinity: Option<Map<String, Value>>,
    /// Spread constraints; replace the default one over zones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_objects")]
    pub spread: Option<Vec<Map<String, Value>>>,
    /// Priority class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
}

/// Whether two members may share a node.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum AntiAffinity {
    #[default]
    Preferred,
    Required,
    None,
}

/// What pods carry besides.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    /// Labels; the operator's own win.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations; the operator's own win.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Service account. Default: one of the cluster's own, without any rights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
    /// How long a member may take to hand over leadership and stop, seconds. Default: 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3600))]
    pub termination_grace_period_seconds: Option<i64>,
    /// Merged over the pod's spec as a JSON merge patch, for what has no field of its own. With care: nothing checks it but the API
    /// server. A null takes a field away; `kubectl apply` sends no null, so it takes `kubectl apply --server-side`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub overrides: Option<Map<String, Value>>,
}

/// Settings of the server.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ConfigSpec {
    /// How much data the store takes before it refuses writes, bytes. Default: the server's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub quota_backend_bytes: Option<i64>,
    /// Compaction by the server itself. Not needed under a kube-apiserver, which compacts by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_compaction: Option<AutoCompaction>,
    /// Largest request, bytes. Default: the server's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_request_bytes: Option<i64>,
    /// Time between heartbeats, milliseconds. Default: the server's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 60000))]
    pub heartbeat_interval: Option<i32>,
    /// How long members wait for a leader before they elect one, milliseconds; at least five heartbeats. Default: the server's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 50, max = 60000))]
    pub election_timeout: Option<i32>,
    /// How much the server logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_level: Option<LogLevel>,
    /// Further flags of the server, each as one argument (`--flag=value`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 512)))]
    #[x_kube(validation = Rule::new(OWN_FLAGS)
        .message("this flag is set by the operator: use the field of spec for it, or leave it out"))]
    pub extra_args: Vec<String>,
}

/// Compaction by the server itself.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AutoCompaction {
    /// By time or by number of revisions.
    pub mode: CompactionMode,
    /// How much history stays: a duration such as `1h`, or a number of revisions.
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]+(h|m|s)?$')").message("retention is a duration such as 1h, or a number"))]
    pub retention: String,
}

/// By time or by number of revisions.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum CompactionMode {
    Periodic,
    Revision,
}

/// How much the server logs.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

/// Certificates of members, clients and the operator.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.mode == oldSelf.mode || (self.mode != 'Disabled' && oldSelf.mode != 'Disabled')")
        .message("a cluster with TLS cannot be switched to one without, nor back: members would no longer understand each other; make a new cluster of the other mode, from a backup of this one (spec.bootstrap.restore)"),
    validation = Rule::new("(self.mode == 'Secret') == has(self.secretRefs)")
        .message("mode Secret needs secretRefs, and no other mode has them"),
    validation = Rule::new("(self.mode == 'CertManager') == has(self.issuerRef)")
        .message("mode CertManager needs issuerRef, and no other mode has it"),
    validation = Rule::new("(self.mode == 'CertManager') == (oldSelf.mode == 'CertManager')")
        .message("a cluster cannot be switched to or from mode CertManager: members would not trust each other meanwhile; make a new cluster of the other mode, from a backup of this one (spec.bootstrap.restore)")
)]
pub struct TlsSpec {
    /// `SelfSigned`: the operator keeps an authority for this cluster and renews all certificates. `Secret`: yours are used.
    /// `CertManager`: cert-manager issues and renews them. `Disabled`: everything is plain text.
    #[serde(default)]
    pub mode: TlsMode,
    /// For mode Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_refs: Option<TlsSecrets>,
    /// For mode CertManager: who issues. It must be one that tells its authority (ca.crt), such as a CA issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer_ref: Option<IssuerReference>,
    /// Further names and addresses of the server's certificate, for clients that reach it otherwise. For modes SelfSigned and
    /// CertManager.
    #[serde(default, rename = "extraSANs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 253)))]
    pub extra_sans: Vec<String>,
    /// How long certificates are valid, days, and in mode SelfSigned a third of the authority's time at most; they are renewed after
    /// two thirds of it. For modes SelfSigned and CertManager.
    #[serde(default = "leaf_days")]
    #[schemars(range(min = 1, max = 3650))]
    pub certificate_days: i32,
    /// How long the authority is valid, days; a new one takes over, with overlap, after two thirds of it. For mode SelfSigned.
    #[serde(default = "authority_days")]
    #[schemars(range(min = 2, max = 36500))]
    pub authority_days: i32,
}

impl Default for TlsSpec {
    fn default() -> Self {
        let (certificate_days, authority_days) = (leaf_days(), authority_days());
        Self {
            mode: TlsMode::SelfSigned,
            secret_refs: None,
            issuer_ref: None,
            extra_sans: Vec::new(),
            certificate_days,
            authority_days,
        }
    }
}

fn leaf_days() -> i32 {
    90
}

fn authority_days() -> i32 {
    3650
}

/// Where certificates come from.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum TlsMode {
    #[default]
    SelfSigned,
    Secret,
    CertManager,
    Disabled,
}

/// An issuer of cert-manager's.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct IssuerReference {
    /// Its name.
    pub name: String,
    /// Issuer, of this namespace, or ClusterIssuer, or what another group calls it.
    #[serde(default = "issuer")]
    pub kind: String,
    /// Its API group.
    #[serde(default = "cert_manager")]
    pub group: String,
}

fn issuer() -> String {
    "Issuer".to_string()
}

fn cert_manager() -> String {
    "cert-manager.io".to_string()
}

/// Secrets of type kubernetes.io/tls with the keys tls.crt, tls.key and ca.crt.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TlsSecrets {
    /// Shown to clients: valid for `*.NAME-peer.NAMESPACE.svc` and NAME-client.NAMESPACE.svc, for server and client use.
    pub server: NameReference,
    /// Shown among members: valid for `*.NAME-peer.NAMESPACE.svc`, for server and client use.
    pub peer: NameReference,
    /// Shown by the operator when it talks to members.
    pub client: NameReference,
}

/// The Service that clients use.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSpec {
    /// How it is reached.
    #[serde(default, rename = "type")]
    pub kind: ServiceKind,
    /// Annotations, for example of a load balancer.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// How a Service is reached.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::enum_variant_names, missing_docs)]
pub enum ServiceKind {
    #[default]
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    NodePort,
    LoadBalancer,
}

/// A NetworkPolicy for the members.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicySpec {
    /// True: the peer port is open to members only; the client and metrics ports to everyone. Off by default: the operator and
    /// probes must be able to pass whatever enforces it.
    #[serde(default)]
    pub enabled: bool,
}

/// How changes of pods are rolled out.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct UpdateSpec {
    /// `Automatic`: one member after the other is restarted, the leader last. `Supervised`: nothing healthy is restarted; whoever
    /// supervises deletes the pods.
    #[serde(default)]
    pub strategy: UpdateStrategy,
    /// A restarted member that is not ready after this many seconds halts the rollout.
    #[serde(default = "ten_minutes")]
    #[schemars(range(min = 10))]
    pub deadline_seconds: i64,
}

impl Default for UpdateSpec {
    fn default() -> Self {
        Self { strategy: UpdateStrategy::Automatic, deadline_seconds: ten_minutes() }
    }
}

fn ten_minutes() -> i64 {
    600
}

/// Who restarts members.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum UpdateStrategy {
    #[default]
    Automatic,
    Supervised,
}

/// What happens when a member has lost its data.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RepairSpec {
    /// `Auto`: a member whose volume is lost or damaged is removed and joins again with an empty one, as long as the others have a
    /// quorum. `Manual`: the status says so and nothing is done.
    #[serde(default)]
    pub mode: RepairMode,
    /// How long a member is waited for whose pod cannot be placed because its volume's node is gone, or cannot end because its node
    /// does not answer, seconds. Then it is replaced, on another node and with a new volume.
    #[serde(default = "five_minutes")]
    #[schemars(range(min = 0))]
    pub after_seconds: i64,
}

impl Default for RepairSpec {
    fn default() -> Self {
        Self { mode: RepairMode::Auto, after_seconds: five_minutes() }
    }
}

fn five_minutes() -> i64 {
    300
}

/// Who replaces members.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum RepairMode {
    #[default]
    Auto,
    Manual,
}
