//! The pod that runs the agent, and the Job around it: pure, a store and flags in, an object out; and the Job's last words, read back.
//!
//! Invariants: credentials and keys come from Secrets, never as arguments; of a Job's pods one at a time works, since two would write one
//! object or fill one volume.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use serde_json::{Map, Value, json};

use crate::agent::REFUTED;
use crate::crd::backup::QuorateBackupStoreSpec;
use crate::crd::cluster::NameReference;

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
    /// The object's name, where the work is on one.
    pub object: Option<&'a str>,
    /// What the agent does, and its flags besides those of the store.
    pub arguments: Vec<String>,
    /// The Secret that is shown to members, if there is one.
    pub tls: Option<&'a str>,
    /// The volume claim of the member whose data is restored, mounted where members have it.
    pub data: Option<&'a str>,
    /// Whether it needs room of its own, which goes with the pod.
    pub scratch: bool,
}

/// Entries of Secrets that become the environment by which the library for object stores finds credentials: all of these for S3.
pub const S3_KEYS: [&str; 2] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
/// For Google Cloud Storage.
pub const GCS_KEYS: [&str; 1] = ["GOOGLE_SERVICE_ACCOUNT_KEY"];
/// For Azure Blob Storage, of which one is enough.
pub const AZURE_KEYS: [&str; 2] = ["AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN"];

/// A session's token, which goes with the keys where there is one.
const S3_SESSION: &str = "AWS_SESSION_TOKEN";
/// The entry with authorities that vouch for the service, and the variable that the agent looks for them in.
const AUTHORITIES: (&str, &str) = ("ca.crt", "QUORATE_STORE_CA");

/// Entries of a Secret as environment: those that must be there, and those that may.
fn environment(secret: Option<&NameReference>, keys: &[&str], optional: &[&str]) -> Vec<Value> {
    let Some(secret) = secret else { return Vec::new() };
    let must = keys.iter().map(|key| json!({"name": key, "valueFrom": {"secretKeyRef": {"name": secret.name, "key": key}}}));
    let may = optional.iter().map(|key| (*key, *key)).chain([AUTHORITIES]);
    let may = may.map(|(key, variable)| {
        json!({"name": variable, "valueFrom": {"secretKeyRef": {"name": secret.name, "key": key, "optional": true}}})
    });
    must.chain(may).collect()
}

/// The pod's spec; a Job's pod is not started again.
pub fn pod(worker: &Worker<'_>, restart: &str) -> Value {
    let mut arguments = vec!["agent".to_string()];
    arguments.extend(worker.arguments.iter().cloned());
    let mut volumes = vec![json!({"name": "tmp", "emptyDir": {}})];
    let mut mounts = vec![json!({"name": "tmp", "mountPath": "/tmp"})];
    let mut credentials = Vec::new();
    if let Some(volume) = &worker.store.volume {
        volumes.push(json!({"name": "store", "persistentVolumeClaim": {"claimName": volume.claim_name}}));
        mounts.push(json!({"name": "store", "mountPath": "/store"}));
        arguments.push("--folder=/store".into());
    }
    if let Some(s3) = &worker.store.s3 {
        arguments.push(format!("--bucket={}", s3.bucket));
        arguments.extend(s3.region.iter().map(|region| format!("--region={region}")));
        arguments.extend(s3.endpoint.iter().map(|endpoint| format!("--s3-endpoint={endpoint}")));
        credentials = environment(s3.credentials_secret_ref.as_ref(), &S3_KEYS, &[S3_SESSION]);
    }
    if let Some(gcs) = &worker.store.gcs {
        arguments.push(format!("--gcs-bucket={}", gcs.bucket));
        arguments.extend(gcs.endpoint.iter().map(|endpoint| format!("--gcs-endpoint={endpoint}")));
        credentials = environment(gcs.credentials_secret_ref.as_ref(), &GCS_KEYS, &[]);
    }
    if let Some(azure) = &worker.store.azure {
        arguments.push(format!("--azure-container={}", azure.container));
        arguments.push(format!("--azure-account={}", azure.account));
        arguments.extend(azure.endpoint.iter().map(|endpoint| format!("--azure-endpoint={endpoint}")));
        credentials = environment(azure.credentials_secret_ref.as_ref(), &[], &AZURE_KEYS);
    }
    if let Some(encryption) = &worker.store.encryption {
        volumes.push(json!({"name": "keys", "secret": {"secretName": encryption.secret_ref.name, "defaultMode": 0o440}}));
        mounts.push(json!({"name": "keys", "mountPath": "/etc/quorate/keys", "readOnly": true}));
        arguments.push("--keys=/etc/quorate/keys".into());
    }
    arguments.extend(worker.object.iter().map(|object| format!("--object={object}")));
    if let Some(secret) = worker.tls {
        volumes.push(json!({"name": "tls", "secret": {"secretName": secret, "defaultMode": 0o440}}));
        mounts.push(json!({"name": "tls", "mountPath": "/etc/quorate/tls", "readOnly": true}));
    }
    if let Some(claim) = worker.data {
        volumes.push(json!({"name": "data", "persistentVolumeClaim": {"claimName": claim}}));
        mounts.push(json!({"name": "data", "mountPath": "/var/lib/quorate"}));
    }
    if worker.scratch {
        volumes.push(json!({"name": "scratch", "emptyDir": {}}));
        mounts.push(json!({"name": "scratch", "mountPath": "/scratch"}));
    }
    let container = json!({
        "name": "agent", "image": worker.image, "command": ["/usr/bin/quorate-operator"], "args": arguments, "env": credentials,
        "volumeMounts": mounts,
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}},
        "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}},
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "FallbackToLogsOnError",
    });
    json!({
        "restartPolicy": restart, "serviceAccountName": worker.account, "automountServiceAccountToken": false,
        "enableServiceLinks": false, "imagePullSecrets": worker.pull_secrets,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
            "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container], "volumes": volumes,
    })
}

/// Azure's webhook gives an identity to pods with this label alone; where it is not installed, or the account names none, it says nothing.
const AZURE_IDENTITY: &str = "azure.workload.identity/use";

/// The pod's labels.
pub fn pod_labels(worker: &Worker<'_>) -> Map<String, Value> {
    let mut labels = worker.labels.clone();
    if worker.store.azure.as_ref().is_some_and(|azure| azure.credentials_secret_ref.is_none()) {
        labels.insert(AZURE_IDENTITY.into(), "true".into());
    }
    labels
}

/// The Job.
pub fn job(worker: &Worker<'_>) -> Value {
    job_of(worker, TRIES)
}

/// The Job, tried again so many times.
pub fn job_of(worker: &Worker<'_>, tries: u32) -> Value {
    json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": worker.name, "namespace": worker.namespace, "labels": worker.labels, "ownerReferences": [worker.owner]},
        "spec": {
            "backoffLimit": tries, "activeDeadlineSeconds": DEADLINE,
            // A pod that is told to end, or whose node is out of reach, may still be at it.
            "podReplacementPolicy": "Failed",
            // What is wrong with the backup itself is so at every try.
            "podFailurePolicy": {"rules": [
                {"action": "FailJob", "onExitCodes": {"containerName": "agent", "operator": "In", "values": [REFUTED]}},
            ]},
            "template": {"metadata": {"labels": pod_labels(worker)}, "spec": pod(worker, "Never")},
        },
    })
}

/// The object's name in a store: what the store says all names begin with, then this.
pub fn object_name(store: &QuorateBackupStoreSpec, name: &str) -> String {
    let s3 = store.s3.as_ref().and_then(|s3| s3.prefix.as_deref());
    let gcs = store.gcs.as_ref().and_then(|gcs| gcs.prefix.as_deref());
    let azure = store.azure.as_ref().and_then(|azure| azure.prefix.as_deref());
    let volume = store.volume.as_ref().and_then(|volume| volume.prefix.as_deref());
    match s3.or(gcs).or(azure).or(volume).map(|prefix| prefix.trim_matches('/')).filter(|prefix| !prefix.is_empty()) {
        Some(prefix) => format!("{prefix}/{name}"),
        None => name.to_string(),
    }
}

/// How far a Job is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It works, or waits for its pod; why the try before failed, if one did.
    Running(Option<String>),
    /// It is done; its last words.
    Done(String),
    /// It is done, and its pod went before anybody heard its last words.
    Unheard,
    /// It gave up; why.
    Failed(String),
    /// It gave up, since the backup does not hold what it should; why.
    Refuted(String),
}

/// How far a Job is, with its pods' last words.
pub async fn progress(client: &Client, job: &Job) -> kube::Result<Progress> {
    let status = job.status.clone().unwrap_or_default();
    let is =
        |kind: &str| status.conditions.iter().flatten().find(|condition| condition.type_ == kind && condition.status == "True");
    let (done, failed) = (is("Complete").is_some(), is("Failed"));
    let again = !done && failed.is_none();
    if again && status.failed.unwrap_or(0) == 0 {
        return Ok(Progress::Running(None));
    }
    let namespace = job.metadata.namespace.clone().unwrap_or_default();
    let name = job.metadata.name.clone().unwrap_or_default();
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let pods = pods.list(&ListParams::default().labels(&format!("batch.kubernetes.io/job-name={name}"))).await?;
    let ends = pods.items.iter().filter_map(|pod| {
        let container = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
        container.state.as_ref()?.terminated.as_ref()
    });
    let last = |success: bool| {
        let mut ends: Vec<_> = ends.clone().filter(|end| (end.exit_code == 0) == success).collect();
        ends.sort_by_key(|end| end.finished_at.clone());
        ends.pop()
    };
    let words = |success: bool| last(success).and_then(|end| end.message.clone()).filter(|words| !words.trim().is_empty());
    if again {
        return Ok(Progress::Running(words(false).map(|words| words.trim().to_string())));
    }
    if done {
        return Ok(words(true).map_or(Progress::Unheard, Progress::Done));
    }
    let reason = failed.and_then(|failed| failed.message.clone()).unwrap_or_default();
    let why = words(false).map_or(reason, |words| words.trim().to_string());
    let refuted = last(false).is_some_and(|end| end.exit_code == i32::from(REFUTED));
    Ok(if refuted { Progress::Refuted(why) } else { Progress::Failed(why) })
}

/// When it gave up.
pub fn failed_at(job: &Job) -> Option<Timestamp> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let failed = conditions.iter().find(|condition| condition.type_ == "Failed" && condition.status == "True")?;
    failed.last_transition_time.as_ref().map(|time| time.0)
}

/// Deletes a Job that has come to its end, so that it can be made anew. What the agent did is found done by the next.
pub async fn forget(client: &Client, job: &Job) -> kube::Result<()> {
    let jobs: Api<Job> = Api::namespaced(client.clone(), &job.namespace().unwrap_or_default());
    let preconditions = Some(Preconditions { uid: job.uid(), resource_version: None });
    match jobs.delete(&job.name_any(), &DeleteParams { preconditions, ..DeleteParams::background() }).await {
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
        other => other.map(drop),
    }
}

/// What is done, and why it is done once more.
pub fn trying(what: &str, failed: Option<&str>) -> String {
    match failed {
        Some(why) => format!("{what}; once more, because: {why}"),
        None => what.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::build::tests::is_known;
    use crate::crd::backup::{AzureStore, Encryption, GcsStore, S3Store, VolumeStore};

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
            object: Some("lab/ns/kv/u/x.snapshot"),
            arguments: vec!["backup".into()],
            tls: Some("kv-operator-tls"),
            data: None,
            scratch: true,
        })
    }

    /// Who goes by the identity of its workload has the label that Azure asks for; who brings credentials has not.
    #[test]
    fn identities_of_azure() {
        let of = |credentials: Option<NameReference>| {
            let azure = AzureStore { credentials_secret_ref: credentials, ..AzureStore::default() };
            let store = QuorateBackupStoreSpec { azure: Some(azure), ..Default::default() };
            worker(&store)["spec"]["template"]["metadata"]["labels"].clone()
        };
        assert_eq!(of(None), json!({"a": "b", "azure.workload.identity/use": "true"}));
        assert_eq!(of(Some(NameReference { name: "keys".into() })), json!({"a": "b"}));
    }

    /// A Job for each kind of store is known to Kubernetes; keys come from the Secret and never as arguments.
    #[test]
    fn jobs_are_known_to_kubernetes() {
        let keys = || Some(NameReference { name: "keys".into() });
        let stores: [(QuorateBackupStoreSpec, &[&str]); 4] = [
            (
                QuorateBackupStoreSpec {
                    volume: Some(VolumeStore { claim_name: "backups".into(), prefix: None }),
                    ..Default::default()
                },
                &["--folder=/store", "backups"],
            ),
            (
                QuorateBackupStoreSpec {
                    s3: Some(S3Store {
                        bucket: "b".into(),
                        endpoint: Some("http://s3:9000".into()),
                        credentials_secret_ref: keys(),
                        ..S3Store::default()
                    }),
                    ..Default::default()
                },
                &[
                    "--bucket=b",
                    "--s3-endpoint=http://s3:9000",
                    "secretKeyRef",
                    "AWS_SECRET_ACCESS_KEY",
                    "AWS_SESSION_TOKEN",
                    "ca.crt",
                ],
            ),
            (
                QuorateBackupStoreSpec {
                    gcs: Some(GcsStore { bucket: "b".into(), credentials_secret_ref: keys(), ..GcsStore::default() }),
                    ..Default::default()
                },
                &["--gcs-bucket=b", "GOOGLE_SERVICE_ACCOUNT_KEY"],
            ),
            (
                QuorateBackupStoreSpec {
                    azure: Some(AzureStore {
                        account: "a".into(),
                        container: "c".into(),
                        credentials_secret_ref: keys(),
                        ..AzureStore::default()
                    }),
                    encryption: Some(Encryption { secret_ref: NameReference { name: "sealing".into() } }),
                    ..Default::default()
                },
                &["--azure-container=c", "--azure-account=a", "AZURE_STORAGE_SAS_TOKEN", "--keys=/etc/quorate/keys", "sealing"],
            ),
        ];
        for (store, expected) in &stores {
            let job = worker(store);
            is_known::<Job>(&job);
            let text = job.to_string();
            // Without this a pod that is told to end and the one in its place work at the same time.
            assert_eq!(job["spec"]["podReplacementPolicy"], "Failed");
            for word in *expected {
                assert!(text.contains(word), "{word}: {text}");
            }
            assert_eq!(text.contains("/store"), store.volume.is_some(), "{text}");
        }
    }

    /// Prefixes are joined with one slash, whatever was written.
    #[test]
    fn names() {
        let store = |prefix: Option<&str>| QuorateBackupStoreSpec {
            volume: Some(VolumeStore { claim_name: "c".into(), prefix: prefix.map(str::to_string) }),
            ..Default::default()
        };
        assert_eq!(object_name(&store(None), "x"), "x");
        assert_eq!(object_name(&store(Some("/")), "x"), "x");
        assert_eq!(object_name(&store(Some("/a/b/")), "x"), "a/b/x");
    }
}
