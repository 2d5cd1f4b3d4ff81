//! One QuorateRestore: checks what it names, takes the safety backup, hands it to its cluster's rounds by admitting it, and tells how
//! far they are.
//!
//! Until it is admitted nothing has been done to the cluster; a safety backup that fails ends it there.

use std::time::Duration;

use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Resource, ResourceExt};

use crate::backup::set_condition;
use crate::cluster::asked::{ADMITTED, FINAL};
use crate::cluster::{Context, Error};
use crate::crd::backup::QuorateBackupSpec;
use crate::crd::cluster::NameReference;
use crate::crd::restore::RestoreStatus;
use crate::crd::status::ClusterStatus;
use crate::crd::{QuorateBackup, QuorateBackupStore, QuorateCluster, QuorateRestore};
use crate::task::kept;

/// Until the next look at one that waits or runs.
const PACE: Duration = Duration::from_secs(3);
/// A finished one needs no more looks.
const DONE: Duration = Duration::from_secs(3600);

/// One round.
pub async fn reconcile(context: &Context, name: &str, namespace: &str) -> Result<Duration, Error> {
    let api: Api<QuorateRestore> = Api::namespaced(context.client.clone(), namespace);
    let Some(restore) = api.get_opt(name).await? else { return Ok(DONE) };
    let old = restore.status.clone().unwrap_or_default();
    if restore.metadata.deletion_timestamp.is_some() || old.phase.as_deref().is_some_and(|phase| FINAL.contains(&phase)) {
        return Ok(DONE);
    }
    let clusters: Api<QuorateCluster> = Api::namespaced(context.client.clone(), namespace);
    let cluster = clusters.get_opt(&restore.spec.cluster_ref.name).await?;
    let mut status = old.clone();
    let (phase, step) = match &cluster {
        None => ("Pending", format!("there is no QuorateCluster {}", restore.spec.cluster_ref.name)),
        Some(cluster) => match told(&restore, cluster, &mut status) {
            Some(told) => told,
            None => prepare(context, &restore, cluster, &mut status).await?,
        },
    };
    let now = crate::now();
    if phase != "Pending" && status.started_at.is_none() {
        status.started_at = Some(now.clone());
    }
    if FINAL.contains(&phase) {
        status.finished_at = Some(now.clone());
    }
    set_condition(&mut status.conditions, "Complete", phase == "Succeeded", phase, &step, restore.metadata.generation, now);
    status.phase = Some(phase.into());
    status.step = Some(step);
    if status != old {
        let mut object = restore.clone();
        object.metadata.managed_fields = None;
        object.status = Some(status);
        api.replace_status(name, &PostParams::default(), &object).await?;
    }
    Ok(if FINAL.contains(&phase) { DONE } else { PACE })
}

/// What the cluster's status says of it, once its rounds have taken it up.
fn told(restore: &QuorateRestore, cluster: &QuorateCluster, status: &mut RestoreStatus) -> Option<(&'static str, String)> {
    let uid = restore.uid().unwrap_or_default();
    let seen = cluster.status.clone().unwrap_or_default();
    if let Some(ended) = seen.last_errand.as_ref().filter(|ended| ended.uid == uid) {
        status.kept_volumes = kept(&ended.kept);
        return Some(match ended.done {
            false => ("Failed", ended.message.clone()),
            true => match whole(&seen, cluster.spec.replicas) {
                true => ("Succeeded", "the restored data serves, and all members have it".into()),
                false => ("Rejoining", ended.message.clone()),
            },
        });
    }
    let running = seen.errand.as_ref().is_some_and(|errand| errand.uid == uid);
    let step = || seen.operation.as_ref().map(|operation| operation.step.clone()).unwrap_or_default();
    match running {
        true => Some(("Running", step())),
        // It was taken up, and something else ended since: this one ended before, and was not told in time.
        false if status.phase.as_deref() == Some("Rejoining") => {
            Some(("Succeeded", "the restored data serves; other work on the cluster has begun since".into()))
        }
        false => None,
    }
}

/// All members that are wished for are there and healthy.
fn whole(seen: &ClusterStatus, wished: i32) -> bool {
    let healthy = seen.quorum.as_ref().map_or(0, |quorum| quorum.healthy);
    wished == 0 || (healthy == wished && i32::try_from(seen.members.len()) == Ok(wished))
}

/// What comes before: the source is there, the cluster is the one that was meant, and what it holds is safe.
async fn prepare(
    context: &Context,
    restore: &QuorateRestore,
    cluster: &QuorateCluster,
    status: &mut RestoreStatus,
) -> Result<(&'static str, String), Error> {
    let client = &context.client;
    let namespace = restore.namespace().unwrap_or_default();
    let seen = cluster.status.clone().unwrap_or_default();
    match &seen.cluster_id {
        None => return Ok(("Pending", format!("cluster {} has no data yet", cluster.name_any()))),
        Some(id) if *id != restore.spec.confirm => {
            let step = format!("spec.confirm is not the id of cluster {}, which is {id}: nothing was done", cluster.name_any());
            return Ok(("Failed", step));
        }
        Some(_) => (),
    }
    let backups: Api<QuorateBackup> = Api::namespaced(client.clone(), &namespace);
    let source = &restore.spec.source;
    let mut store = source.store_ref.as_ref().map(|store| store.name.clone());
    if let Some(name) = &source.backup_ref {
        let Some(backup) = backups.get_opt(&name.name).await? else {
            return Ok(("Pending", format!("there is no QuorateBackup {}", name.name)));
        };
        match backup.status.as_ref().and_then(|status| status.phase.as_deref()) {
            Some("Succeeded") => store = Some(backup.spec.store_ref.name.clone()),
            Some("Failed") => return Ok(("Failed", format!("QuorateBackup {} failed: nothing was done", name.name))),
            _ => return Ok(("Pending", format!("wait for QuorateBackup {} to be done", name.name))),
        }
    }
    let Some(store) = store else { return Ok(("Failed", "the source names no backup: nothing was done".into())) };
    let stores: Api<QuorateBackupStore> = Api::namespaced(client.clone(), &namespace);
    if stores.get_opt(&store).await?.is_none() {
        return Ok(("Pending", format!("there is no QuorateBackupStore {store}")));
    }
    if !restore.spec.safety_backup.enabled {
        return Ok((ADMITTED, "waits for its turn; no safety backup is wanted".into()));
    }
    let name = format!("{}-safety", restore.name_any());
    let known = backups.get_opt(&name).await?;
    let available = seen.conditions.iter().any(|condition| condition.type_ == "Available" && condition.status == "True");
    let Some(known) = known else {
        if !available {
            return Ok((ADMITTED, "waits for its turn; there is no quorum to take a safety backup from".into()));
        }
        let store_ref = restore.spec.safety_backup.store_ref.clone().unwrap_or(NameReference { name: store });
        // It is not proved: a proof takes as long as a restore, and the restore that waits for it may be urgent.
        let spec = QuorateBackupSpec { cluster_ref: restore.spec.cluster_ref.clone(), store_ref, verify: false };
        let mut backup = QuorateBackup::new(&name, spec);
        backup.metadata = ObjectMeta {
            namespace: Some(namespace.clone()),
            // It outlives the restore: who deletes that may want it most.
            annotations: Some([(RESTORE.to_string(), restore.uid().unwrap_or_default())].into()),
            ..backup.metadata
        };
        match backups.create(&PostParams::default(), &backup).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => (),
            other => drop(other?),
        }
        status.safety_backup = Some(name.clone());
        return Ok(("BackingUp", format!("QuorateBackup {name} is taken first")));
    };
    if known.annotations().get(RESTORE) != restore.meta().uid.as_ref() {
        let step = format!("QuorateBackup {name} belongs to something else: delete it, or use another name for this restore");
        return Ok(("Pending", step));
    }
    status.safety_backup = Some(name.clone());
    Ok(match known.status.as_ref().and_then(|status| status.phase.as_deref()) {
        Some("Succeeded") => (ADMITTED, format!("waits for its turn; QuorateBackup {name} is taken")),
        Some("Failed") => {
            ("Failed", format!("the safety backup {name} failed, so nothing was done: mend that, or switch spec.safetyBackup off"))
        }
        _ => ("BackingUp", format!("QuorateBackup {name} is taken first")),
    })
}

/// The annotation of a safety backup that names the UID of its restore.
const RESTORE: &str = "quorate.io/safety-of";
