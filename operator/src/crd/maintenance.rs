//! Scheduled maintenance of a cluster, as users write it.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is done by schedule, and what about a full store. Times are UTC. What is due waits while a member is unhealthy or something
/// else is being changed; condition `Maintained` says why.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MaintenanceSpec {
    /// Superseded revisions are forgotten. Not needed under a kube-apiserver, which does that by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compaction: Option<CompactionWindow>,
    /// Members give free space back, one after the other, the leader last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reclaim: Option<ReclaimWindow>,
    /// A store that is full (alarm NOSPACE).
    #[serde(default)]
    pub full_store: FullStore,
}

/// When superseded revisions are forgotten, and which stay.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.keepRevisions) != has(self.keepFor)")
    .message("say what stays by one of keepRevisions and keepFor"))]
pub struct CompactionWindow {
    /// Five fields as in crontab: minute, hour, day of month, month, day of week; in UTC.
    #[schemars(length(min = 9, max = 128))]
    pub schedule: String,
    /// How many of the newest revisions stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub keep_revisions: Option<i64>,
    /// How long a revision stays, such as 30m, 12h or 7d. It is as exact as the schedule is dense.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = Rule::new("self.matches('^[1-9][0-9]{0,5}[mhd]$')").message("keepFor is a number and m, h or d, such as 12h"))]
    pub keep_for: Option<String>,
}

/// When members give free space back, and which.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ReclaimWindow {
    /// Five fields as in crontab: minute, hour, day of month, month, day of week; in UTC.
    #[schemars(length(min = 9, max = 128))]
    pub schedule: String,
    /// Members with less free space than this share of their size on disk are left alone, percent.
    #[serde(default = "forty_five")]
    #[schemars(range(min = 0, max = 100))]
    pub min_free_percent: i32,
    /// Members with less free space than this are left alone, bytes.
    #[serde(default = "hundred_mebibytes")]
    #[schemars(range(min = 0))]
    pub min_free_bytes: i64,
}

fn forty_five() -> i32 {
    45
}

fn hundred_mebibytes() -> i64 {
    100 << 20
}

/// What is done about a store that is full.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct FullStore {
    /// `Heal`: history is forgotten, space given back and the alarm cleared, if that leaves room. `Report`: the status says so.
    #[serde(default)]
    pub action: FullStoreAction,
    /// How many of the newest revisions stay.
    #[serde(default = "thousand")]
    #[schemars(range(min = 0))]
    pub keep_revisions: i64,
}

impl Default for FullStore {
    fn default() -> Self {
        Self { action: FullStoreAction::Heal, keep_revisions: thousand() }
    }
}

fn thousand() -> i64 {
    1000
}

/// What is done about a store that is full.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum FullStoreAction {
    #[default]
    Heal,
    Report,
}
