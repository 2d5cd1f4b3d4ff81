//! What cert-manager is asked for in mode CertManager: a Certificate for each leaf, into the Secret that mode SelfSigned would fill.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::super::validate::Valid;
use super::{labels, metadata};
use crate::certificates::leaves;

/// The Certificates. Empty in other modes.
pub fn certificates(cluster: &Valid) -> Vec<Value> {
    let tls = &cluster.spec.tls;
    let Some(issuer) = &tls.issuer_ref else { return Vec::new() };
    let hours = i64::from(tls.certificate_days) * 24;
    let leaf = |leaf: crate::certificates::Leaf| {
        let name = cluster.named(leaf.ending);
        let (addresses, hosts): (Vec<_>, Vec<_>) = leaf.names.iter().partition(|name| name.parse::<IpAddr>().is_ok());
        let usages: &[&str] = if leaf.server { &["server auth", "client auth"] } else { &["client auth"] };
        let mut spec = json!({
            "secretName": name,
            "secretTemplate": {"labels": labels(cluster)},
            "commonName": leaf.common_name,
            "duration": format!("{hours}h0m0s"),
            "renewBefore": format!("{}h0m0s", (hours / 3).max(1)),
            "usages": usages,
            "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"},
            "issuerRef": {"name": issuer.name, "kind": issuer.kind, "group": issuer.group},
        });
        if !hosts.is_empty() {
            spec["dnsNames"] = json!(hosts);
        }
        if !addresses.is_empty() {
            spec["ipAddresses"] = json!(addresses);
        }
        json!({"apiVersion": "cert-manager.io/v1", "kind": "Certificate", "metadata": metadata(cluster, &name), "spec": spec})
    };
    leaves(cluster).into_iter().map(leaf).collect()
}
