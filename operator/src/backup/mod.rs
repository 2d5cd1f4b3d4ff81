//! Backups: a Job for each and one that proves it, schedules that make them, the long-lived agent that keeps what changes in between,
//! and what they share with restores.

pub mod cron;
pub mod flow;
pub mod inputs;
pub mod job;
pub mod retain;
pub mod schedule;
pub mod take;
pub mod verify;

use kube::Resource;
use kube::runtime::events::{Event, EventType};

use crate::cluster::{Context, validate::Valid};

/// Labels of the agent's pods.
pub fn labels() -> serde_json::Map<String, serde_json::Value> {
    let labels = [("app.kubernetes.io/name", "quorate-agent"), ("app.kubernetes.io/managed-by", "quorate-operator")];
    labels.into_iter().map(|(key, value)| (key.to_string(), value.into())).collect()
}

/// The cluster's folder in a store, with a slash at the end. It holds the cluster's UID, so that namesakes never meet.
fn folder(store: &crate::crd::backup::QuorateBackupStoreSpec, cluster: &Valid) -> String {
    job::object_name(store, &format!("{}/{}/{}/", cluster.namespace, cluster.name, cluster.uid))
}

/// Tells of something in an event.
async fn record(context: &Context, about: &impl Resource<DynamicType = ()>, warning: bool, reason: &str, note: &str) {
    let type_ = if warning { EventType::Warning } else { EventType::Normal };
    let note: String = note.chars().take(1000).collect();
    let event = Event { type_, reason: reason.into(), note: Some(note), action: reason.into(), secondary: None };
    if let Err(error) = context.recorder.publish(&event, &about.object_ref(&())).await {
        tracing::debug!(%error, "cannot record an event");
    }
}
