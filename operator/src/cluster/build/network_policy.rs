//! The NetworkPolicy, when it is asked for: members' port for members only.

use serde_json::{Value, json};

use super::super::validate::Valid;
use super::{metadata, selector};

/// None when it is off.
pub(super) fn network_policy(cluster: &Valid) -> Option<Value> {
    let selector = selector(cluster);
    cluster.spec.network_policy.enabled.then(|| {
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata(cluster, &cluster.name),
            "spec": {
                "podSelector": {"matchLabels": selector},
                "policyTypes": ["Ingress"],
                "ingress": [
                    {"ports": [{"port": 2379, "protocol": "TCP"}, {"port": 2381, "protocol": "TCP"}]},
                    {"from": [{"podSelector": {"matchLabels": selector}}], "ports": [{"port": 2380, "protocol": "TCP"}]},
                ],
            },
        })
    })
}
