//! The StatefulSet: one for all members. It keeps at most one pod per slot alive, also when nodes are lost.
//!
//! Pods start all at once, since founders need each other, and are replaced only when the operator deletes them. Volumes are never
//! deleted by its controller: the operator does that, after it made sure that nobody needs them.

use serde_json::{Value, json};

use super::super::validate::Valid;
use super::{TEMPLATE_ANNOTATION, labels, metadata, pod, selector};
use crate::crd::cluster::QuorateClusterSpec;

/// The StatefulSet with this many pods. `size` is the volume size that it was first made with: Kubernetes does not let it change,
/// so that later growth happens on the claims themselves.
pub fn stateful_set(cluster: &Valid, replicas: u32, size: &str) -> (Value, String) {
    let mut template = pod::template(cluster);
    let hash = wish(cluster);
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

/// Raised when every pod of every cluster has to be made anew for a newer operator to work with them. Templates may change without it:
/// then pods get the new one when they are made anew for another reason.
const GENERATION: u32 = 1;

/// A short name of what is wished of pods: those that carry another were made for another wish. It goes by the spec, not by the
/// template, so that another build of the operator takes clusters over without restarting a pod; and what a spec leaves at its default
/// is left out, so that a field which comes to be changes nothing.
fn wish(cluster: &Valid) -> String {
    let spec = &cluster.spec;
    let (server, peer, _) = cluster.secrets();
    let secrets = if cluster.tls() { json!([server, peer]) } else { Value::Null };
    let defaults = QuorateClusterSpec::default();
    let own = |spec: &QuorateClusterSpec| {
        json!({
            "resources": spec.resources, "scheduling": spec.scheduling, "pod": spec.pod, "config": spec.config,
            "pullPolicy": spec.image.pull_policy, "pullSecrets": spec.image.pull_secrets,
        })
    };
    let mut wishes = own(spec);
    leave_out(&mut wishes, &own(&defaults));
    let wish = json!({"generation": GENERATION, "image": cluster.image, "secrets": secrets, "spec": wishes});
    crate::short_hash(wish.to_string().as_bytes())
}

/// Takes out what is as in the other, and objects of which nothing is left. What the other does not have is somebody's wish.
fn leave_out(value: &mut Value, other: &Value) {
    let Some(object) = value.as_object_mut() else { return };
    object.retain(|key, value| {
        let Some(other) = other.get(key) else { return true };
        leave_out(value, other);
        *value != *other && value.as_object().is_none_or(|left| !left.is_empty())
    });
}
