//! Volumes put aside and put back: a claim goes, its PersistentVolume stays with the data, and can be claimed again.
//!
//! Invariants: a claim of old data is deleted only after its PersistentVolume was told to stay (reclaim policy Retain), unless deleting
//! is what was asked for. What the policy was before is noted on the volume. Only a volume that belongs to the claim in question is
//! touched: PersistentVolumes are everybody's, and whoever may write the status of a cluster must not come by another's data.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use super::apply::Error;
use super::build;
use super::errand::{Errand, Old, Outside};
use super::validate::Valid;

/// What a volume's reclaim policy was before.
const POLICY: &str = "quorate.io/reclaim-policy";
/// Whose data is on a volume that was put aside: NAMESPACE/CLAIM.
const KEPT_OF: &str = "quorate.io/kept-of";

/// Tells a PersistentVolume to stay when its claim goes.
///
/// # Errors
/// When it is another claim's, or when the API server fails.
pub async fn keep(client: &Client, cluster: &Valid, volume: &str, claim: &str) -> Result<(), Error> {
    let api: Api<PersistentVolume> = Api::all(client.clone());
    let Some(known) = api.get_opt(volume).await? else { return Ok(()) };
    if !is_of(&known, &cluster.namespace, claim) {
        return Err(Error::Foreign { kind: "PersistentVolume".into(), name: volume.into() });
    }
    let policy = known.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.clone()).unwrap_or_default();
    let before = known.annotations().get(POLICY).cloned().unwrap_or_else(|| policy.clone());
    let patch = json!({
        "metadata": {
            "annotations": {POLICY: before, KEPT_OF: format!("{}/{claim}", cluster.namespace)},
            "labels": {build::UID_LABEL: cluster.uid},
        },
        "spec": {"persistentVolumeReclaimPolicy": "Retain"},
    });
    api.patch(volume, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

/// Lets a volume that was kept go with its data, as its class would have.
pub async fn release(client: &Client, cluster: &Valid, volume: &str) -> kube::Result<()> {
    let api: Api<PersistentVolume> = Api::all(client.clone());
    let Some(known) = api.get_opt(volume).await? else { return Ok(()) };
    // One that somebody has taken for something else meanwhile is theirs.
    if known.labels().get(build::UID_LABEL) != Some(&cluster.uid) || !is_free(&known) {
        return Ok(());
    }
    let before = known.annotations().get(POLICY).cloned().unwrap_or_else(|| "Retain".into());
    let patch = json!({"spec": {"persistentVolumeReclaimPolicy": before}});
    api.patch(volume, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
}

/// An old volume that was put aside goes its way, or is not ours to let go.
pub async fn is_released(client: &Client, cluster: &Valid, old: &Old) -> kube::Result<bool> {
    let api: Api<PersistentVolume> = Api::all(client.clone());
    let Some(known) = api.get_opt(&old.volume).await? else { return Ok(true) };
    let spec = known.spec.as_ref();
    let policy = spec.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()).unwrap_or("Retain");
    let claimed_by = spec.and_then(|spec| spec.claim_ref.as_ref()?.uid.as_deref());
    let theirs = known.labels().get(build::UID_LABEL) != Some(&cluster.uid) || claimed_by.is_some_and(|uid| uid != old.claim);
    Ok(theirs || known.annotations().get(POLICY).is_none_or(|before| before == policy))
}

/// It is bound, or was, to the claim of this name.
fn is_of(volume: &PersistentVolume, namespace: &str, claim: &str) -> bool {
    let bound = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    bound.is_some_and(|bound| bound.namespace.as_deref() == Some(namespace) && bound.name.as_deref() == Some(claim))
}

fn is_free(volume: &PersistentVolume) -> bool {
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Released" | "Available"))
}

/// Puts the errand's old volume back in its place: what was filled meanwhile goes, and the claim is made anew for the old volume.
/// To be called while no pod runs.
pub async fn go_back(client: &Client, cluster: &Valid, errand: &Errand, job: &str) -> kube::Result<Outside> {
    let namespace = cluster.namespace.as_str();
    let jobs: Api<Job> = Api::namespaced(client.clone(), namespace);
    // A namesake's Job of the same name fills nothing of ours.
    if let Some(found) = jobs.get_opt(job).await?.filter(|found| found.labels().get(build::UID_LABEL) == Some(&cluster.uid)) {
        if found.metadata.deletion_timestamp.is_none() {
            let preconditions = Some(Preconditions { uid: found.uid(), resource_version: None });
            gone(jobs.delete(job, &DeleteParams { preconditions, ..DeleteParams::foreground() }).await)?;
        }
        return Ok(Outside::Busy("wait for the restore's job to end".into()));
    }
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let name = cluster.claim(errand.slot);
    let Some(old) = errand.old.iter().find(|old| old.slot == errand.slot) else {
        // There was no claim to put aside; what is there now is the copy, on which a store of its own would begin.
        let copy = claims.get_opt(&name).await?.filter(|claim| {
            let ours = claim.labels().get(build::UID_LABEL) == Some(&cluster.uid);
            ours && !errand.is_old(claim.metadata.uid.as_deref().unwrap_or_default())
        });
        let Some(copy) = copy else { return Ok(Outside::Done) };
        if copy.metadata.deletion_timestamp.is_none() {
            let preconditions = Some(Preconditions { uid: copy.uid(), resource_version: None });
            gone(claims.delete(&name, &DeleteParams { preconditions, ..DeleteParams::default() }).await)?;
        }
        return Ok(Outside::Busy(format!("wait for claim {name} of the restored copy to go")));
    };
    if let Some(claim) = claims.get_opt(&name).await? {
        let uid = claim.uid().unwrap_or_default();
        let bound = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).unwrap_or_default();
        if uid == old.claim && claim.metadata.deletion_timestamp.is_none() {
            return Ok(Outside::Done);
        }
        if bound == old.volume && uid != old.claim && !old.volume.is_empty() {
            let is_bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
            if !is_bound {
                return Ok(Outside::Busy(format!("wait for claim {name} to be bound to its old volume")));
            }
            // The volume is in use again, as its class meant it to be.
            let known = volumes.get_opt(&old.volume).await?;
            if let Some(before) = known.and_then(|known| known.annotations().get(POLICY).cloned()) {
                let patch = json!({
                    "metadata": {"annotations": {POLICY: null, KEPT_OF: null}},
                    "spec": {"persistentVolumeReclaimPolicy": before},
                });
                volumes.patch(&old.volume, &PatchParams::default(), &Patch::Merge(patch)).await?;
            }
            return Ok(Outside::Done);
        }
        if claim.labels().get(build::UID_LABEL) != Some(&cluster.uid) {
            return Ok(Outside::Failed(format!(
                "volume claim {name} is not this cluster's: keep its data elsewhere and delete it"
            )));
        }
        if claim.metadata.deletion_timestamp.is_none() && uid != old.claim {
            let preconditions = Preconditions { uid: Some(uid), resource_version: None };
            gone(claims.delete(&name, &DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }).await)?;
        }
        return Ok(Outside::Busy(format!("wait for claim {name} of the restored copy to go")));
    }
    if old.volume.is_empty() {
        return Ok(Outside::Done);
    }
    // It went before it could be put aside, by somebody's hand: the slot is empty, and the others may still be a quorum.
    let Some(volume) = volumes.get_opt(&old.volume).await? else { return Ok(Outside::Done) };
    let kept = volume.labels().get(build::UID_LABEL) == Some(&cluster.uid);
    let unclaimed = volume.spec.as_ref().is_none_or(|spec| spec.claim_ref.is_none());
    if !kept || !(unclaimed || is_of(&volume, namespace, &name)) {
        return Ok(Outside::Failed(format!(
            "volume {} with the old data is no longer kept for this cluster, somebody has taken it for something else: if the data is \
             still there, take spec.claimRef out of it and give it the label {}={}",
            old.volume,
            build::UID_LABEL,
            cluster.uid
        )));
    }
    // Reserved for the claim by name; the claim's UID is filled in when the two are bound.
    let reserved = json!({"spec": {"claimRef": {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace, "name": name, "uid": null, "resourceVersion": null,
    }}});
    volumes.patch(&old.volume, &PatchParams::default(), &Patch::Merge(reserved)).await?;
    let size = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()?.get("storage").cloned());
    let mut claim = build::claim(cluster, &name, &size.map_or_else(|| cluster.spec.storage.size.clone(), |size| size.0));
    claim["spec"]["volumeName"] = json!(old.volume);
    if let Some(class) = volume.spec.as_ref().and_then(|spec| spec.storage_class_name.clone()) {
        claim["spec"]["storageClassName"] = json!(class);
    }
    let claim = serde_json::from_value(claim).expect("the claim is well formed");
    match claims.create(&PostParams::default(), &claim).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => (),
        other => drop(other?),
    }
    Ok(Outside::Busy(format!("claim the old volume of slot {} again", errand.slot)))
}

/// Deletes the Jobs that have filled a volume of this cluster, except the one that may be at it: the pods they leave behind would keep
/// their claim from ever going.
pub async fn sweep_jobs(client: &Client, cluster: &Valid, current: Option<&str>) -> kube::Result<()> {
    let jobs: Api<Job> = Api::namespaced(client.clone(), &cluster.namespace);
    let labels = format!("{}={},app.kubernetes.io/name=quorate-agent", build::UID_LABEL, cluster.uid);
    let start = cluster.named("restore");
    for job in jobs.list(&ListParams::default().labels(&labels)).await?.items {
        let name = job.name_any();
        let going = job.metadata.deletion_timestamp.is_some();
        if !name.starts_with(&start) || Some(name.as_str()) == current || going {
            continue;
        }
        let preconditions = Preconditions { uid: job.uid(), resource_version: None };
        gone(jobs.delete(&name, &DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() }).await)?;
    }
    Ok(())
}

fn gone<T>(result: kube::Result<T>) -> kube::Result<()> {
    match result {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        other => other.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::super::errand::{Purpose, Stage};
    use super::super::fake::Fake;
    use super::super::validate::{tests::sample, validate};
    use super::*;

    const VOLUME: &str = "/api/v1/persistentvolumes/pv-1";

    fn errand() -> Errand {
        let old = Old { slot: 0, claim: "c1".into(), volume: "pv-1".into() };
        Errand {
            purpose: Purpose::Restore,
            name: "back".into(),
            uid: "e1".into(),
            slot: 0,
            stage: Stage::GoingBack,
            keep: true,
            old: vec![old],
            revision: 0,
            note: String::new(),
            started: 0,
        }
    }

    fn volume(namespace: &str, claim: &str, phase: &str) -> serde_json::Value {
        json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv-1"},
            "spec": {
                "persistentVolumeReclaimPolicy": "Delete", "capacity": {"storage": "1Gi"},
                "claimRef": {"namespace": namespace, "name": claim, "uid": "c1"},
            },
            "status": {"phase": phase},
        })
    }

    /// A volume of this cluster's is kept, and claimed again on the way back. One that is another's, or that somebody has taken for
    /// something else meanwhile, is neither marked nor claimed.
    #[tokio::test]
    async fn only_own_volumes_are_touched() {
        let (fake, cluster) = (Fake::default(), validate(&sample(), Some("q:1")).unwrap());
        let client = fake.client().await;
        fake.put(VOLUME, volume("other", "data-kv-0", "Bound"));
        let theirs = fake.get(VOLUME);
        let error = keep(&client, &cluster, "pv-1", "data-kv-0").await.unwrap_err();
        assert!(matches!(error, Error::Foreign { .. }), "{error}");
        assert!(matches!(go_back(&client, &cluster, &errand(), "job").await.unwrap(), Outside::Failed(_)));
        assert_eq!(fake.get(VOLUME), theirs);

        fake.put(VOLUME, volume("ns", "data-kv-0", "Bound"));
        keep(&client, &cluster, "pv-1", "data-kv-0").await.unwrap();
        let kept = fake.get(VOLUME).unwrap();
        assert_eq!(kept["spec"]["persistentVolumeReclaimPolicy"], "Retain");
        let mut taken = kept.clone();
        taken["spec"]["claimRef"] = json!({"namespace": "ns", "name": "somebody", "uid": "c2"});
        fake.put(VOLUME, taken.clone());
        assert!(matches!(go_back(&client, &cluster, &errand(), "job").await.unwrap(), Outside::Failed(_)));
        assert_eq!(fake.get(VOLUME).unwrap()["spec"], taken["spec"]);

        fake.put(VOLUME, kept);
        assert!(matches!(go_back(&client, &cluster, &errand(), "job").await.unwrap(), Outside::Busy(_)));
        assert_eq!(fake.get(VOLUME).unwrap()["spec"]["claimRef"]["uid"], serde_json::Value::Null);
        assert!(fake.get("/api/v1/namespaces/ns/persistentvolumeclaims/data-kv-0").is_some());
    }
}
