//! The pods' service account. It has no rights and its token is not mounted: members need nothing of Kubernetes.

use serde_json::{Value, json};

use super::super::validate::Valid;
use super::metadata;

/// None when the spec names another.
pub(super) fn service_account(cluster: &Valid) -> Option<Value> {
    cluster.spec.pod.service_account_name.is_none().then(|| {
        json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata(cluster, &cluster.name),
            "automountServiceAccountToken": false,
        })
    })
}
