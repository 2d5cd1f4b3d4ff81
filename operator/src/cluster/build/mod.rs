//! From a valid cluster to the objects that make it up, as plain JSON. Pure: the same input gives the same objects.
//!
//! A file per kind of object. Every object carries the cluster's labels and is owned by the QuorateCluster, so that deleting that
//! deletes them without the operator's help.

mod account;
mod boot;
mod budget;
mod certificates;
mod network_policy;
mod pod;
mod services;
mod stateful_set;

use serde_json::{Map, Value, json};

use super::validate::Valid;

pub use boot::{Recovery, Ticket, ticket};
pub use certificates::certificates;
#[cfg(test)]
pub use pod::merge;
pub use pod::whereabouts;
pub use stateful_set::{claim, stateful_set};

/// Label of volume claims of a cluster that went on with another's volumes: what their disks are stamped with.
pub const STAMP_LABEL: &str = "quorate.io/disk-stamp";
/// The label that holds the cluster's UID, on all objects and on volumes.
pub const UID_LABEL: &str = "quorate.io/cluster-uid";
/// The label of pods that says whether the member votes.
pub const ROLE_LABEL: &str = "quorate.io/role";
/// The annotation of pods that names the template they were made from.
pub const TEMPLATE_ANNOTATION: &str = "quorate.io/template";

/// Labels that select everything of a cluster, in this namespace.
pub fn selector(cluster: &Valid) -> Map<String, Value> {
    let pairs = json!({"app.kubernetes.io/name": "quorate", "app.kubernetes.io/instance": cluster.name});
    pairs.as_object().cloned().unwrap_or_default()
}

/// The selector as text.
pub fn selector_text(cluster: &Valid) -> String {
    format!("app.kubernetes.io/name=quorate,app.kubernetes.io/instance={}", cluster.name)
}

/// Labels of all objects.
pub fn labels(cluster: &Valid) -> Map<String, Value> {
    let mut labels = selector(cluster);
    labels.insert("app.kubernetes.io/managed-by".into(), "quorate-operator".into());
    labels.insert(UID_LABEL.into(), cluster.uid.clone().into());
    labels
}

/// The reference that makes an object the cluster's.
pub fn owner(cluster: &Valid, controller: bool) -> Value {
    json!({
        "apiVersion": "quorate.io/v1alpha1", "kind": "QuorateCluster", "name": cluster.name, "uid": cluster.uid,
        "controller": controller, "blockOwnerDeletion": controller,
    })
}

/// The head of an object.
fn metadata(cluster: &Valid, name: &str) -> Value {
    json!({"name": name, "namespace": cluster.namespace, "labels": labels(cluster), "ownerReferences": [owner(cluster, true)]})
}

/// Everything that has no life of its own, in the order in which it should be there; pods come last, with the StatefulSet.
pub fn surroundings(cluster: &Valid, ticket: &Ticket, voters: usize) -> Vec<Value> {
    let mut objects = vec![services::peer(cluster), services::client(cluster), boot::config_map(cluster, ticket)];
    objects.extend(account::service_account(cluster));
    objects.extend(budget::disruption_budget(cluster, voters));
    objects.extend(network_policy::network_policy(cluster));
    objects
}

/// Objects that may be there from an earlier form of the spec and are not wanted: API version, kind, name.
pub fn unwanted(cluster: &Valid, voters: usize) -> Vec<(&'static str, &'static str, String)> {
    let mut gone = Vec::new();
    if network_policy::network_policy(cluster).is_none() {
        gone.push(("networking.k8s.io/v1", "NetworkPolicy", cluster.name.clone()));
    }
    if budget::disruption_budget(cluster, voters).is_none() {
        gone.push(("policy/v1", "PodDisruptionBudget", cluster.name.clone()));
    }
    gone
}

#[cfg(test)]
pub(crate) mod tests;
