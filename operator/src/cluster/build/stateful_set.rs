//! The StatefulSet: one for all members. It keeps at most one pod per slot alive, also when nodes are lost.
//!
//! Pods start all at once, since founders need each other, and are replaced only when the operator deletes them. Volumes are never
//! deleted by its controller: the operator does that, after it made sure that nobody needs them.

use serde_json::{Value, json};

use super::super::validate::Valid;
use super::{TEMPLATE_ANNOTATION, labels, metadata, pod, selector};

/// The StatefulSet with this many pods. `size` is the volume size that it was first made with: Kubernetes does not let it change,
/// so that later growth happens on the claims themselves.
pub fn stateful_set(cluster: &Valid, replicas: u32, size: &str) -> (Value, String) {
    let mut template = pod::template(cluster);
    let hash = hash(&template);
    template["metadata"]["annotations"][TEMPLATE_ANNOTATION] = json!(hash);
    let claim = claim(cluster, "data", size);
    let set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata(cluster, &cluster.name),
        "spec": {
            "replicas": replicas,
            "serviceName": cluster.named("peer"),
            "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "OnDelete"},
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
            "selector": {"matchLabels": selector(cluster)},
            "template": template,
            "volumeClaimTemplates": [claim],
        },
    });
    (set, hash)
}

/// A member's volume claim.
pub fn claim(cluster: &Valid, name: &str, size: &str) -> Value {
    let mut claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "labels": labels(cluster)},
        "spec": {"accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem", "resources": {"requests": {"storage": size}}},
    });
    if let Some(class) = &cluster.spec.storage.storage_class_name {
        claim["spec"]["storageClassName"] = json!(class);
    }
    claim
}

/// A short name of a template: pods that carry another were made from another.
fn hash(template: &Value) -> String {
    crate::short_hash(template.to_string().as_bytes())
}
