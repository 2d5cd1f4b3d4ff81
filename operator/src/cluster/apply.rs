//! The only place that changes Kubernetes: objects by server-side apply, and the steps of a plan.
//!
//! Invariants: whatever cannot be taken back names the UID of what it was decided for, so that a namesake which came in between is
//! safe; the number of pods changes only from the StatefulSet that was looked at; what carries another cluster's mark, or none, is
//! never written over, since applying would make it ours and delete it with the cluster.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::{DeleteParams, DynamicObject, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::validate::Valid;

/// Who writes, as Kubernetes keeps account of fields.
pub const MANAGER: &str = "quorate-operator";
/// How long an object that was applied is trusted to stay as it is. Someone's edit of it lasts at most that long.
const TRUST: Duration = Duration::from_secs(60);

/// Why something was not written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or was not there.
    #[error(transparent)]
    Kube(#[from] kube::Error),
    /// Somebody else's object has the name.
    #[error("{kind} {name} belongs to something else: delete it, or use another cluster name")]
    Foreign {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
    },
    /// What a deleted cluster of the same name has left goes by itself.
    #[error("wait for {kind} {name} of the former cluster of this name to go")]
    Former {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
    },
    /// It is no longer as it was when it was looked at.
    #[error("{kind} {name} was changed meanwhile")]
    Moved {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
    },
}

impl Error {
    /// Somebody else wrote first; looking again is all that is needed.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Moved { .. }) || matches!(self, Self::Kube(kube::Error::Api(status)) if status.is_conflict())
    }
}

/// Fails when an object that is there is not this cluster's.
pub fn is_ours(cluster: &Valid, kind: &str, meta: &ObjectMeta) -> Result<(), Error> {
    let label = meta.labels.as_ref().and_then(|labels| labels.get(super::build::UID_LABEL));
    if label == Some(&cluster.uid) {
        return Ok(());
    }
    let (kind, name) = (kind.to_string(), meta.name.clone().unwrap_or_default());
    let mut owners = meta.owner_references.iter().flatten();
    let former = owners.any(|owner| owner.kind == "QuorateCluster" && owner.name == cluster.name && owner.uid != cluster.uid);
    Err(if former { Error::Former { kind, name } } else { Error::Foreign { kind, name } })
}

/// What was applied last, so that quiet clusters cost nothing.
#[derive(Default)]
pub struct Applied(Mutex<HashMap<String, (String, Instant)>>);

impl Applied {
    /// Nothing was done under this key lately; it counts as done from now on.
    pub fn is_stale(&self, key: &str) -> bool {
        let mut applied = self.0.lock().expect("no one panics in there");
        let fresh = applied.get(key).is_some_and(|(_, at)| at.elapsed() < TRUST);
        if !fresh {
            applied.insert(key.to_string(), (String::new(), Instant::now()));
        }
        !fresh
    }
}

/// Applies an object unless the same was applied a moment ago. Returns true when something was sent.
///
/// # Errors
/// When the name is somebody else's, when the number of pods is no longer the one that the object names, or when the API server fails.
pub async fn apply(client: &Client, cluster: &Valid, applied: &Applied, object: &Value) -> Result<bool, Error> {
    let text = |field: &str| object[field].as_str().unwrap_or_default().to_string();
    let (version, kind) = (text("apiVersion"), text("kind"));
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let key = format!("{}/{kind}/{}/{name}", cluster.uid, cluster.namespace);
    let hash = crate::short_hash(object.to_string().as_bytes());
    let known = applied.0.lock().expect("no one panics in there").get(&key).cloned();
    if known.is_some_and(|(known, at)| known == hash && at.elapsed() < TRUST) {
        return Ok(false);
    }
    let api = dynamic(client, cluster, &version, &kind);
    let mut object = object.clone();
    if let Some(there) = api.get_opt(name).await? {
        is_ours(cluster, &kind, &there.metadata)?;
        // Applying sets the number of pods as well. One that another operator has changed since must not be taken back.
        let replicas = &object["spec"]["replicas"];
        if !replicas.is_null() {
            if *replicas != there.data["spec"]["replicas"] {
                return Err(Error::Moved { kind, name: name.to_string() });
            }
            object["metadata"]["resourceVersion"] = json!(there.metadata.resource_version);
        }
    }
    api.patch(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&object)).await?;
    let mut applied = applied.0.lock().expect("no one panics in there");
    applied.retain(|_, (_, at)| at.elapsed() < TRUST * 10);
    applied.insert(key, (hash, Instant::now()));
    Ok(true)
}

/// Deletes an object of ours, if it is there.
pub async fn remove(
    client: &Client,
    cluster: &Valid,
    applied: &Applied,
    version: &str,
    kind: &str,
    name: &str,
) -> kube::Result<()> {
    let key = format!("absent/{}/{kind}/{}/{name}", cluster.uid, cluster.namespace);
    let known = applied.0.lock().expect("no one panics in there").get(&key).cloned();
    if known.is_some_and(|(_, at)| at.elapsed() < TRUST) {
        return Ok(());
    }
    let api = dynamic(client, cluster, version, kind);
    if let Some(object) = api.get_opt(name).await?
        && object.labels().get(super::build::UID_LABEL) == Some(&cluster.uid)
    {
        gone(api.delete(name, &only(&object)).await)?;
    }
    applied.0.lock().expect("no one panics in there").insert(key, (String::new(), Instant::now()));
    Ok(())
}

fn dynamic(client: &Client, cluster: &Valid, version: &str, kind: &str) -> Api<DynamicObject> {
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    Api::namespaced_with(client.clone(), &cluster.namespace, &resource)
}

/// Deletion of exactly this object.
fn only<K: Resource>(object: &K) -> DeleteParams {
    let preconditions = Preconditions { uid: object.meta().uid.clone(), resource_version: object.meta().resource_version.clone() };
    DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }
}

fn gone<T>(result: kube::Result<T>) -> kube::Result<()> {
    match result {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        other => other.map(drop),
    }
}

/// Sets the number of pods, if the StatefulSet is still the one that was looked at.
pub async fn set_replicas(client: &Client, set: &StatefulSet, replicas: u32) -> kube::Result<()> {
    let api: Api<StatefulSet> = Api::namespaced(client.clone(), &set.namespace().unwrap_or_default());
    let patch = json!({
        "metadata": {"resourceVersion": set.resource_version(), "uid": set.uid()},
        "spec": {"replicas": replicas},
    });
    let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
    api.patch(&set.name_any(), &params, &Patch::Merge(patch)).await.map(drop)
}

/// Deletes a pod or a volume claim, after one more look: only if it is still the one that was decided about.
pub async fn delete<K>(client: &Client, namespace: &str, name: &str, uid: &str) -> kube::Result<()>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope> + DeserializeOwned + Clone + std::fmt::Debug,
    K::DynamicType: Default,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    match api.get_opt(name).await? {
        Some(object) if object.meta().uid.as_deref() == Some(uid) => {
            let preconditions = Preconditions { uid: Some(uid.to_string()), resource_version: None };
            gone(api.delete(name, &DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }).await)
        }
        _ => Ok(()),
    }
}

/// Takes a pod out of the API server without its node's word that it has ended, if it still is the one with this UID.
pub async fn forget_pod(client: &Client, namespace: &str, name: &str, uid: &str) -> kube::Result<()> {
    let preconditions = Some(Preconditions { uid: Some(uid.to_string()), resource_version: None });
    let at_once = DeleteParams { grace_period_seconds: Some(0), preconditions, ..DeleteParams::default() };
    gone(Api::<Pod>::namespaced(client.clone(), namespace).delete(name, &at_once).await)
}

/// Labels a pod with its member's role, if it is labelled otherwise.
pub async fn label_role(client: &Client, pod: &Pod, role: &str) -> kube::Result<()> {
    if pod.labels().get(super::build::ROLE_LABEL).map(String::as_str) == Some(role) || pod.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let patch = json!({"metadata": {"uid": pod.uid(), "labels": {super::build::ROLE_LABEL: role}}});
    gone(api.patch(&pod.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await)
}

/// How much a volume claim asks for.
pub fn requested(claim: &PersistentVolumeClaim) -> Option<&Quantity> {
    claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage")
}

/// Brings a volume claim to the wished size and policy. The policy is an owner: with `whenDeleted: Delete` the claim belongs to the
/// cluster and goes with it, without anybody's help.
pub async fn tend_claim(
    client: &Client,
    cluster: &Valid,
    claim: &PersistentVolumeClaim,
    delete_with_cluster: bool,
) -> kube::Result<()> {
    if claim.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &cluster.namespace);
    let write = async |patch: Value| gone(api.patch(&claim.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await);
    let head = json!({"uid": claim.uid(), "resourceVersion": claim.resource_version()});
    let mut metadata = head.clone();
    if cluster.stamp != cluster.uid {
        for (label, wanted) in [(super::build::UID_LABEL, &cluster.uid), (super::build::STAMP_LABEL, &cluster.stamp)] {
            if claim.labels().get(label) != Some(wanted) {
                metadata["labels"][label] = json!(wanted);
            }
        }
    }
    let mut owners: Vec<_> =
        claim.owner_references().iter().filter(|owner| owner.uid != cluster.uid).map(|owner| json!(owner)).collect();
    let owned = owners.len() != claim.owner_references().len();
    if owned != delete_with_cluster {
        if delete_with_cluster {
            owners.push(super::build::owner(cluster, false));
        }
        metadata["ownerReferences"] = json!(owners);
    }
    if metadata != head {
        // The size waits for the next look: its refusal must not keep the rest from being written.
        return write(json!({"metadata": metadata})).await;
    }
    let wished = crate::quantity(&cluster.spec.storage.size);
    match (requested(claim).and_then(|size| crate::quantity(&size.0)), wished) {
        (Some(size), Some(wished)) if size < wished => {
            let amount = json!({"resources": {"requests": {"storage": cluster.spec.storage.size}}});
            write(json!({"metadata": head, "spec": amount})).await
        }
        _ => Ok(()),
    }
}

/// Writes a Secret with the content of which it was decided: a new one, or in place of the one that was read.
pub async fn put_secret(client: &Client, namespace: &str, known: Option<&Secret>, mut secret: Secret) -> kube::Result<()> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    match known {
        None => api.create(&PostParams::default(), &secret).await.map(drop),
        Some(known) => {
            secret.metadata.resource_version = known.resource_version();
            secret.metadata.uid = known.uid();
            api.replace(&known.name_any(), &PostParams::default(), &secret).await.map(drop)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::build;
    use super::super::fake::Fake;
    use super::super::validate::{tests::sample, validate};
    use super::*;

    const ACCOUNT: &str = "/api/v1/namespaces/ns/serviceaccounts/kv";
    const SET: &str = "/apis/apps/v1/namespaces/ns/statefulsets/kv";

    fn cluster() -> Valid {
        validate(&sample(), Some("q:1")).unwrap()
    }

    fn account(cluster: &Valid) -> Value {
        let ticket = build::ticket(cluster, true, 0..3);
        build::surroundings(cluster, &ticket, 3).into_iter().find(|object| object["kind"] == "ServiceAccount").unwrap()
    }

    /// What somebody else has under a name is left as it is, and named; what a deleted namesake has left is waited for; our own is
    /// applied anew.
    #[tokio::test]
    async fn nothing_foreign_is_taken_over() {
        let (fake, cluster, applied) = (Fake::default(), cluster(), Applied::default());
        let client = fake.client().await;
        let theirs = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "kv", "namespace": "ns"}});
        fake.put(ACCOUNT, theirs);
        let error = apply(&client, &cluster, &applied, &account(&cluster)).await.unwrap_err();
        assert_eq!(error.to_string(), "ServiceAccount kv belongs to something else: delete it, or use another cluster name");
        let other = Valid { uid: "before".into(), ..cluster.clone() };
        fake.put(ACCOUNT, account(&other));
        let error = apply(&client, &cluster, &applied, &account(&cluster)).await.unwrap_err();
        assert!(matches!(error, Error::Former { .. }), "{error}");
        assert_eq!(fake.writes(), Vec::<String>::new());
        fake.put(ACCOUNT, account(&cluster));
        assert!(apply(&client, &cluster, &applied, &account(&cluster)).await.unwrap());
        assert!(!apply(&client, &cluster, &applied, &account(&cluster)).await.unwrap(), "once is enough for a while");
    }

    /// An operator that was slow does not take the number of pods back to what it once was.
    #[tokio::test]
    async fn the_number_of_pods_is_not_taken_back() {
        let (fake, cluster, applied) = (Fake::default(), cluster(), Applied::default());
        let client = fake.client().await;
        let set = |replicas| build::stateful_set(&cluster, replicas, "1Gi").0;
        assert!(apply(&client, &cluster, &applied, &set(3)).await.unwrap());
        fake.put(SET, set(0));
        let mut late = set(3);
        late["spec"]["template"]["metadata"]["annotations"]["x"] = json!("y");
        let error = apply(&client, &cluster, &applied, &late).await.unwrap_err();
        assert!(error.is_conflict(), "{error}");
        assert_eq!(fake.get(SET).unwrap()["spec"]["replicas"], 0);
        late["spec"]["replicas"] = json!(0);
        assert!(apply(&client, &cluster, &applied, &late).await.unwrap());
    }
}
