//! The pods' template: the server's flags, probes, volumes, and where pods may run.
//!
//! What changes here reaches pods when they are made anew; a new operator restarts nobody for it. What cannot wait for that raises
//! the generation in the room of the StatefulSet.

use serde_json::{Map, Value, json};

use super::super::validate::Valid;
use super::{labels, selector};
use crate::crd::cluster::{AntiAffinity, AutoCompaction, CompactionMode, LogLevel};

const DATA: &str = "/var/lib/quorate";
const TLS: &str = "/etc/quorate/tls";
/// Long enough to hand leadership over and to finish what clients wait for, seconds.
const GRACE: i64 = 30;

/// The template, without the hash of itself.
pub fn template(cluster: &Valid) -> Value {
    let spec = &cluster.spec;
    let mut pod = json!({
        "serviceAccountName": spec.pod.service_account_name.as_deref().unwrap_or(&cluster.name),
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": spec.pod.termination_grace_period_seconds.unwrap_or(GRACE),
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
            "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container(cluster)],
        "volumes": volumes(cluster),
    });
    placement(cluster, &mut pod);
    if !spec.image.pull_secrets.is_empty() {
        pod["imagePullSecrets"] = json!(spec.image.pull_secrets);
    }
    if let Some(overrides) = &spec.pod.overrides {
        merge(&mut pod, &Value::Object(overrides.clone()));
    }
    let mut own: Map<String, Value> = spec.pod.labels.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    own.extend(labels(cluster));
    let annotations: Map<String, Value> = spec.pod.annotations.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    json!({"metadata": {"labels": own, "annotations": annotations}, "spec": pod})
}

fn container(cluster: &Valid) -> Value {
    let spec = &cluster.spec;
    let mut requests = Map::from_iter([("cpu".to_string(), json!("100m")), ("memory".to_string(), json!("256Mi"))]);
    if !spec.resources.requests.is_empty() || !spec.resources.limits.is_empty() {
        requests = spec.resources.requests.iter().map(|(name, amount)| (name.clone(), json!(amount))).collect();
    }
    let mut resources = json!({"requests": requests});
    if !spec.resources.limits.is_empty() {
        resources["limits"] = json!(spec.resources.limits);
    }
    let mut mounts = vec![
        json!({"name": "data", "mountPath": DATA}),
        json!({"name": "boot", "mountPath": "/etc/quorate/boot", "readOnly": true}),
        json!({"name": "tmp", "mountPath": "/tmp"}),
    ];
    if cluster.tls() {
        mounts.push(json!({"name": "server-tls", "mountPath": format!("{TLS}/server"), "readOnly": true}));
        mounts.push(json!({"name": "peer-tls", "mountPath": format!("{TLS}/peer"), "readOnly": true}));
    }
    let mut container = json!({
        "name": "quorate",
        "image": cluster.image,
        "command": ["/usr/bin/quorate"],
        "args": arguments(cluster),
        "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}],
        "ports": [
            {"name": "client", "containerPort": 2379, "protocol": "TCP"},
            {"name": "peer", "containerPort": 2380, "protocol": "TCP"},
            {"name": "metrics", "containerPort": 2381, "protocol": "TCP"},
        ],
        "resources": resources,
        "volumeMounts": mounts,
        "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
    });
    // Reading a long log takes its time: an hour until a start counts as failed. /livez knows nothing of the other members, so a cut
    // network restarts nobody; a process must be stuck for two minutes.
    container["startupProbe"] = probe("/livez", 2, 1800);
    container["livenessProbe"] = probe("/livez", 15, 8);
    container["readinessProbe"] = probe("/readyz", 5, 2);
    if let Some(policy) = spec.image.pull_policy {
        container["imagePullPolicy"] = json!(policy);
    }
    container
}

fn probe(path: &str, period: u32, failures: u32) -> Value {
    json!({
        "httpGet": {"path": path, "port": "metrics", "scheme": "HTTP"},
        "periodSeconds": period, "timeoutSeconds": 5, "failureThreshold": failures, "successThreshold": 1,
    })
}

/// The server's command line.
fn arguments(cluster: &Valid) -> Vec<String> {
    let scheme = cluster.scheme();
    let (host, listen) = (cluster.host("$(POD_NAME)"), cluster.listen);
    let mut args = vec![
        "--name=$(POD_NAME)".to_string(),
        format!("--data-dir={DATA}/data"),
        "--boot-ticket=/etc/quorate/boot/ticket.json".to_string(),
        format!("--listen-client-urls={scheme}://{listen}:2379"),
        format!("--advertise-client-urls={scheme}://{host}:2379"),
        format!("--listen-peer-urls={scheme}://{listen}:2380"),
        format!("--initial-advertise-peer-urls={scheme}://{host}:2380"),
        format!("--listen-metrics-urls=http://{listen}:2381"),
    ];
    if cluster.tls() {
        for (prefix, folder) in [("", "server"), ("peer-", "peer")] {
            args.push(format!("--{prefix}cert-file={TLS}/{folder}/tls.crt"));
            args.push(format!("--{prefix}key-file={TLS}/{folder}/tls.key"));
            args.push(format!("--{prefix}trusted-ca-file={TLS}/{folder}/ca.crt"));
            args.push(format!("--{prefix}client-cert-auth=true"));
        }
    }
    let config = &cluster.spec.config;
    let numbers = [
        ("quota-backend-bytes", config.quota_backend_bytes),
        ("max-request-bytes", config.max_request_bytes),
        ("heartbeat-interval", config.heartbeat_interval.map(i64::from)),
        ("election-timeout", config.election_timeout.map(i64::from)),
    ];
    args.extend(numbers.iter().filter_map(|(flag, value)| Some(format!("--{flag}={}", (*value)?))));
    if let Some(AutoCompaction { mode, retention }) = &config.auto_compaction {
        let mode = match mode {
            CompactionMode::Periodic => "periodic",
            CompactionMode::Revision => "revision",
        };
        args.push(format!("--auto-compaction-mode={mode}"));
        args.push(format!("--auto-compaction-retention={retention}"));
    }
    if let Some(level) = config.log_level {
        let level = match level {
            LogLevel::Debug => "debug",
            LogLevel::Info => "info",
            LogLevel::Warn => "warn",
            LogLevel::Error => "error",
        };
        args.push(format!("--log-level={level}"));
    }
    args.extend(config.extra_args.iter().cloned());
    args
}

fn volumes(cluster: &Valid) -> Vec<Value> {
    let mut volumes = vec![
        json!({"name": "boot", "configMap": {"name": cluster.named("boot"), "defaultMode": 0o444}}),
        json!({"name": "tmp", "emptyDir": {}}),
    ];
    if cluster.tls() {
        let (server, peer, _) = cluster.secrets();
        volumes.push(json!({"name": "server-tls", "secret": {"secretName": server, "defaultMode": 0o440}}));
        volumes.push(json!({"name": "peer-tls", "secret": {"secretName": peer, "defaultMode": 0o440}}));
    }
    volumes
}

/// Members avoid each other's nodes and spread over zones, unless told otherwise.
fn placement(cluster: &Valid, pod: &mut Value) {
    let scheduling = &cluster.spec.scheduling;
    let own = json!({"matchLabels": selector(cluster)});
    let key = scheduling.topology_key.as_deref().unwrap_or("kubernetes.io/hostname");
    let term = json!({"topologyKey": key, "labelSelector": own});
    let affinity = match (&scheduling.affinity, scheduling.anti_affinity) {
        (Some(affinity), _) => Some(Value::Object(affinity.clone())),
        (None, AntiAffinity::None) => None,
        (None, AntiAffinity::Required) => {
            Some(json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}))
        }
        (None, AntiAffinity::Preferred) => {
            let weighed = json!({"weight": 100, "podAffinityTerm": term});
            Some(json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [weighed]}}))
        }
    };
    let zones = || {
        json!([{
            "maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": own,
        }])
    };
    let spread = scheduling.spread.as_ref().map_or_else(zones, |spread| json!(spread));
    let fields = [
        ("affinity", affinity),
        ("topologySpreadConstraints", spread.as_array().is_some_and(|list| !list.is_empty()).then_some(spread)),
        ("nodeSelector", (!scheduling.node_selector.is_empty()).then(|| json!(scheduling.node_selector))),
        ("tolerations", (!scheduling.tolerations.is_empty()).then(|| json!(scheduling.tolerations))),
        ("priorityClassName", scheduling.priority_class_name.as_ref().map(|name| json!(name))),
    ];
    for (name, value) in fields {
        if let Some(value) = value {
            pod[name] = value;
        }
    }
}

/// What says on which nodes a member may run: for a pod that fills its volume, which is made where that pod is.
pub fn whereabouts(cluster: &Valid) -> Map<String, Value> {
    let whole = template(cluster);
    let kept = ["nodeSelector", "tolerations", "affinity", "priorityClassName", "nodeName", "runtimeClassName", "schedulerName"];
    kept.iter().filter_map(|field| Some(((*field).to_string(), whole["spec"].get(field)?.clone()))).collect()
}

/// JSON merge patch: objects merge, null removes, all else replaces.
pub fn merge(target: &mut Value, patch: &Value) {
    let (Some(object), Some(changes)) = (target.as_object_mut(), patch.as_object()) else {
        *target = patch.clone();
        return;
    };
    for (key, change) in changes {
        match change {
            Value::Null => drop(object.remove(key)),
            _ => merge(object.entry(key.clone()).or_insert(Value::Null), change),
        }
    }
}
