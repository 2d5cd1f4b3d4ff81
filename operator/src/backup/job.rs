//! The Job that runs the agent: pure, a store and flags in, an object out; and its last words, read back.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};
use serde_json::{Map, Value, json};

use crate::crd::backup::QuorateBackupStoreSpec;

/// Tries of a Job before it counts as failed.
const TRIES: u32 = 3;
/// A Job that takes longer than this is given up, seconds.
const DEADLINE: u32 = 6 * 3600;

/// What a Job is made from.
pub struct Worker<'a> {
    /// The Job's name.
    pub name: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its labels.
    pub labels: Map<String, Value>,
    /// Who owns it.
    pub owner: Value,
    /// The image that holds the operator and the server.
    pub image: &'a str,
    /// Secrets with registry credentials, as a pod names them.
    pub pull_secrets: Value,
    /// The service account.
    pub account: &'a str,
    /// The store.
    pub store: &'a QuorateBackupStoreSpec,
    /// The object's name.
    pub object: &'a str,
    /// `backup` or `restore`, and their flags besides those of the store.
    pub arguments: Vec<String>,
    /// The Secret that is shown to members, if there is one.
    pub tls: Option<&'a str>,
    /// The volume claim of the member whose data is restored, mounted where members have it.
    pub data: Option<&'a str>,
}

/// The Job.
pub fn job(worker: &Worker<'_>) -> Value {
    let mut arguments = vec!["agent".to_string()];
    arguments.extend(worker.arguments.iter().cloned());
    let mut volumes = vec![json!({"name": "tmp", "emptyDir": {}})];
    let mut mounts = vec![json!({"name": "tmp", "mountPath": "/tmp"})];
    let mut environment = Vec::new();
    if let Some(volume) = &worker.store.volume {
        volumes.push(json!({"name": "store", "persistentVolumeClaim": {"claimName": volume.claim_name}}));
        mounts.push(json!({"name": "store", "mountPath": "/store"}));
        arguments.push("--folder=/store".into());
    }
    if let Some(s3) = &worker.store.s3 {
        arguments.push(format!("--bucket={}", s3.bucket));
        arguments.extend(s3.region.iter().map(|region| format!("--region={region}")));
        arguments.extend(s3.endpoint.iter().map(|endpoint| format!("--s3-endpoint={endpoint}")));
        if let Some(secret) = &s3.credentials_secret_ref {
            environment = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
                .map(|key| json!({"name": key, "valueFrom": {"secretKeyRef": {"name": secret.name, "key": key}}}))
                .to_vec();
        }
    }
    arguments.push(format!("--object={}", worker.object));
    if let Some(secret) = worker.tls {
        volumes.push(json!({"name": "tls", "secret": {"secretName": secret, "defaultMode": 0o440}}));
        mounts.push(json!({"name": "tls", "mountPath": "/etc/quorate/tls", "readOnly": true}));
    }
    if let Some(claim) = worker.data {
        volumes.push(json!({"name": "data", "persistentVolumeClaim": {"claimName": claim}}));
        mounts.push(json!({"name": "data", "mountPath": "/var/lib/quorate"}));
    }
    let container = json!({
        "name": "agent", "image": worker.image, "command": ["/usr/bin/quorate-operator"], "args": arguments, "env": environment,
        "volumeMounts": mounts,
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}},
        "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}},
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "FallbackToLogsOnError",
    });
    json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": worker.name, "namespace": worker.namespace, "labels": worker.labels, "ownerReferences": [worker.owner]},
        "spec": {
            "backoffLimit": TRIES, "activeDeadlineSeconds": DEADLINE,
            "template": {
                "metadata": {"labels": worker.labels},
                "spec": {
                    "restartPolicy": "Never", "serviceAccountName": worker.account, "automountServiceAccountToken": false,
                    "enableServiceLinks": false, "imagePullSecrets": worker.pull_secrets,
                    "securityContext": {
                        "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
                        "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [container], "volumes": volumes,
                },
            },
        },
    })
}

/// The object's name in a store: what the store says all names begin with, then this.
pub fn object_name(store: &QuorateBackupStoreSpec, name: &str) -> String {
    let s3 = store.s3.as_ref().and_then(|s3| s3.prefix.as_deref());
    let volume = store.volume.as_ref().and_then(|volume| volume.prefix.as_deref());
    match s3.or(volume).map(|prefix| prefix.trim_matches('/')).filter(|prefix| !prefix.is_empty()) {
        Some(prefix) => format!("{prefix}/{name}"),
        None => name.to_string(),
    }
}

/// How far a Job is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It works, or waits for its pod.
    Running,
    /// It is done; its last words.
    Done(String),
    /// It gave up; why.
    Failed(String),
}

/// How far a Job is, with its pods' last words.
pub async fn progress(client: &Client, job: &Job) -> kube::Result<Progress> {
    let status = job.status.clone().unwrap_or_default();
    let is =
        |kind: &str| status.conditions.iter().flatten().find(|condition| condition.type_ == kind && condition.status == "True");
    let (done, failed) = (is("Complete").is_some(), is("Failed"));
    if !done && failed.is_none() {
        return Ok(Progress::Running);
    }
    let namespace = job.metadata.namespace.clone().unwrap_or_default();
    let name = job.metadata.name.clone().unwrap_or_default();
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let pods = pods.list(&ListParams::default().labels(&format!("batch.kubernetes.io/job-name={name}"))).await?;
    let ends = pods.items.iter().filter_map(|pod| {
        let container = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
        container.state.as_ref()?.terminated.as_ref()
    });
    let words = |success: bool| {
        let mut ends: Vec<_> = ends.clone().filter(|end| (end.exit_code == 0) == success).collect();
        ends.sort_by_key(|end| end.finished_at.clone());
        ends.last().and_then(|end| end.message.clone())
    };
    if done {
        return Ok(Progress::Done(words(true).unwrap_or_default()));
    }
    let reason = failed.and_then(|failed| failed.message.clone()).unwrap_or_default();
    Ok(Progress::Failed(words(false).map_or(reason, |words| words.trim().to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::build::tests::is_known;
    use crate::crd::backup::{S3Store, VolumeStore};
    use crate::crd::cluster::NameReference;

    fn worker(store: &QuorateBackupStoreSpec) -> Value {
        job(&Worker {
            name: "first-backup",
            namespace: "ns",
            labels: Map::from_iter([("a".to_string(), json!("b"))]),
            owner: json!({"apiVersion": "quorate.io/v1alpha1", "kind": "QuorateBackup", "name": "first", "uid": "u", "controller": true}),
            image: "q:1",
            pull_secrets: json!([{"name": "registry"}]),
            account: "kv",
            store,
            object: "lab/ns/kv/u/x.snapshot",
            arguments: vec!["backup".into()],
            tls: Some("kv-operator-tls"),
            data: None,
        })
    }

    /// A Job for either kind of store is known to Kubernetes; keys come from the Secret and never as arguments.
    #[test]
    fn jobs_are_known_to_kubernetes() {
        let volume = QuorateBackupStoreSpec { volume: Some(VolumeStore { claim_name: "backups".into(), prefix: None }), s3: None };
        let s3 = S3Store {
            bucket: "b".into(),
            endpoint: Some("http://s3:9000".into()),
            credentials_secret_ref: Some(NameReference { name: "keys".into() }),
            ..S3Store::default()
        };
        let s3 = QuorateBackupStoreSpec { volume: None, s3: Some(s3) };
        for store in [&volume, &s3] {
            is_known::<Job>(&worker(store));
        }
        let text = worker(&s3).to_string();
        assert!(text.contains("--bucket=b") && text.contains("secretKeyRef") && !text.contains("/store"), "{text}");
    }

    /// Prefixes are joined with one slash, whatever was written.
    #[test]
    fn names() {
        let store = |prefix: Option<&str>| QuorateBackupStoreSpec {
            volume: Some(VolumeStore { claim_name: "c".into(), prefix: prefix.map(str::to_string) }),
            s3: None,
        };
        assert_eq!(object_name(&store(None), "x"), "x");
        assert_eq!(object_name(&store(Some("/")), "x"), "x");
        assert_eq!(object_name(&store(Some("/a/b/")), "x"), "a/b/x");
    }
}
