//! The two Services: one without an address, for members to find each other before they are ready, and one for clients.

use serde_json::{Value, json};

use super::super::validate::Valid;
use super::{metadata, selector};
use crate::crd::cluster::ServiceKind;

pub(super) fn peer(cluster: &Valid) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata(cluster, &cluster.named("peer")),
        "spec": {
            "type": "ClusterIP",
            "clusterIP": "None",
            "publishNotReadyAddresses": true,
            "selector": selector(cluster),
            "ports": [
                {"name": "peer", "port": 2380, "targetPort": "peer", "protocol": "TCP"},
                {"name": "client", "port": 2379, "targetPort": "client", "protocol": "TCP"},
            ],
        },
    })
}

/// Only ready members are behind it, and learners never are ready. It does not select by role: that label is the operator's, and
/// clients must not depend on the operator.
pub(super) fn client(cluster: &Valid) -> Value {
    let kind = match cluster.spec.service.kind {
        ServiceKind::ClusterIp => "ClusterIP",
        ServiceKind::NodePort => "NodePort",
        ServiceKind::LoadBalancer => "LoadBalancer",
    };
    let mut metadata = metadata(cluster, &cluster.named("client"));
    if !cluster.spec.service.annotations.is_empty() {
        metadata["annotations"] = json!(cluster.spec.service.annotations);
    }
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata,
        "spec": {
            "type": kind,
            "selector": selector(cluster),
            "ports": [{"name": "client", "port": 2379, "targetPort": "client", "protocol": "TCP"}],
        },
    })
}
