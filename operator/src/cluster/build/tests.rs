//! What is built, looked at as Kubernetes would.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::*;
use crate::cluster::validate::{tests::sample, validate};
use crate::crd::QuorateCluster;

/// A spec that uses every field of a pod.
fn full() -> QuorateCluster {
    let mut cluster = sample();
    cluster.spec = serde_json::from_value(json!({
        "replicas": 5,
        "image": {"pullPolicy": "Always", "pullSecrets": [{"name": "registry"}]},
        "storage": {"size": "1Gi", "storageClassName": "fast"},
        "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}},
        "scheduling": {
            "antiAffinity": "Required", "topologyKey": "rack", "nodeSelector": {"a": "b"},
            "tolerations": [{"key": "t", "operator": "Exists"}], "priorityClassName": "high",
        },
        "pod": {"labels": {"team": "x"}, "annotations": {"note": "y"}, "overrides": {"hostname": null, "dnsPolicy": "Default"}},
        "config": {"quotaBackendBytes": 1, "autoCompaction": {"mode": "periodic", "retention": "1h"}, "extraArgs": ["--pre-vote=true"]},
        "service": {"type": "LoadBalancer", "annotations": {"z": "w"}},
        "networkPolicy": {"enabled": true},
    }))
    .unwrap();
    cluster
}

/// Every field has the name and the type that Kubernetes knows: reading it as the typed object loses nothing.
pub(crate) fn is_known<T: Serialize + DeserializeOwned>(object: &Value) {
    let typed: T = serde_json::from_value(object.clone()).unwrap();
    let mut again = serde_json::to_value(typed).unwrap();
    let status = again.as_object_mut().unwrap().remove("status");
    assert!(status.is_none_or(|status| status.as_object().is_some_and(Map::is_empty)));
    assert_eq!(&again, object);
}

#[test]
fn objects_are_known_to_kubernetes() {
    for cluster in [sample(), full()] {
        let cluster = validate(&cluster, Some("q:1")).unwrap();
        let first = ticket(&cluster, true, 0..3);
        is_known::<StatefulSet>(&stateful_set(&cluster, 3, "1Gi").0);
        for object in surroundings(&cluster, &first, 3) {
            match object["kind"].as_str().unwrap() {
                "Service" => is_known::<Service>(&object),
                "ConfigMap" => is_known::<ConfigMap>(&object),
                "ServiceAccount" => is_known::<ServiceAccount>(&object),
                "PodDisruptionBudget" => is_known::<PodDisruptionBudget>(&object),
                "NetworkPolicy" => is_known::<NetworkPolicy>(&object),
                other => panic!("{other}"),
            }
        }
    }
}

/// The hash follows the pod and nothing else: size and policies of the cluster restart nobody.
#[test]
fn only_changes_of_the_pod_restart_it() {
    let hash = |cluster: &QuorateCluster| stateful_set(&validate(cluster, Some("q:1")).unwrap(), 3, "1Gi").1;
    let plain = hash(&sample());
    let mut other = sample();
    other.spec.replicas = 5;
    other.spec.storage.size = "20Gi".into();
    other.spec.update.deadline_seconds = 11;
    assert_eq!(hash(&other), plain);
    other.spec.config.log_level = Some(crate::crd::cluster::LogLevel::Debug);
    assert_ne!(hash(&other), plain);
}

/// What pods are compared by is pinned: were it another for the same spec, a new operator would restart every member of every cluster.
/// A change of these names needs a reason as good as that.
#[test]
fn the_wish_is_pinned() {
    let hash = |cluster: &QuorateCluster| stateful_set(&validate(cluster, Some("q:1")).unwrap(), 3, "1Gi").1;
    assert_eq!((hash(&sample()).as_str(), hash(&full()).as_str()), ("8af117aedd0d", "a47446d5e41e"));
    let mut said = sample();
    said.spec =
        serde_json::from_value(json!({"scheduling": {"antiAffinity": "Preferred"}, "config": {}, "pod": {"labels": {}}})).unwrap();
    assert_eq!(hash(&said), hash(&sample()), "what is said and is the default anyway is no other wish");
}

/// Without TLS no certificate is mounted and no URL is https.
#[test]
fn plain_text() {
    let mut cluster = sample();
    cluster.spec.tls.mode = crate::crd::cluster::TlsMode::Disabled;
    let text = stateful_set(&validate(&cluster, Some("q:1")).unwrap(), 3, "1Gi").0.to_string();
    assert!(!text.contains("https") && !text.contains("tls"), "{text}");
}

/// Where pods have addresses of IPv6 only, members listen at those.
#[test]
fn ipv6() {
    use crate::cluster::validate::every_address;
    let mut cluster = validate(&sample(), Some("q:1")).unwrap();
    assert!(stateful_set(&cluster, 3, "1Gi").0.to_string().contains("https://0.0.0.0:2379"));
    cluster.listen = every_address("fd00::1");
    let text = stateful_set(&cluster, 3, "1Gi").0.to_string();
    assert!(text.contains("https://[::]:2380") && text.contains("http://[::]:2381") && !text.contains("0.0.0.0"), "{text}");
}

/// A quorum of the larger of what is and what is wished stays through drains; a lone member may be moved.
#[test]
fn budgets() {
    let budget = |replicas: i32, voters: usize| {
        let mut cluster = sample();
        cluster.spec.replicas = replicas;
        let cluster = validate(&cluster, Some("q:1")).unwrap();
        budget::disruption_budget(&cluster, voters).map(|budget| budget["spec"]["minAvailable"].clone())
    };
    assert_eq!(budget(3, 3), Some(json!(2)));
    assert_eq!(budget(3, 5), Some(json!(3)));
    assert_eq!(budget(5, 3), Some(json!(3)));
    assert_eq!(budget(1, 2), Some(json!(2)), "of two, on the way to one, each is needed");
    assert_eq!(budget(1, 1), None);
    assert_eq!(budget(0, 3), None);
}

/// cert-manager is asked for the same names as the operator signs by itself, hosts and addresses apart; other modes ask it for nothing.
#[test]
fn certificates_of_cert_manager() {
    let mut cluster = sample();
    assert!(certificates(&validate(&cluster, Some("q:1")).unwrap()).is_empty());
    cluster.spec.tls = serde_json::from_value(
        json!({"mode": "CertManager", "issuerRef": {"name": "ca"}, "extraSANs": ["kv.example.com", "10.0.0.1"]}),
    )
    .unwrap();
    let built = certificates(&validate(&cluster, Some("q:1")).unwrap());
    let names: Vec<_> = built.iter().map(|object| object["spec"]["secretName"].as_str().unwrap()).collect();
    assert_eq!(names, ["kv-server-tls", "kv-peer-tls", "kv-client-tls", "kv-operator-tls"]);
    let server = &built[0]["spec"];
    assert!(server["dnsNames"].as_array().unwrap().contains(&json!("kv.example.com")));
    assert!(server["dnsNames"].as_array().unwrap().contains(&json!("*.kv-peer.ns.svc")));
    assert!(server["ipAddresses"].as_array().unwrap().contains(&json!("10.0.0.1")));
    assert_eq!((&server["issuerRef"]["kind"], &server["duration"]), (&json!("Issuer"), &json!("2160h0m0s")));
    assert_eq!(built[2]["spec"]["usages"], json!(["client auth"]));
}
