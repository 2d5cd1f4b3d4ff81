//! One QuorateBackup: waits for its cluster and its store, lets a Job take it, has it proved if that is wanted, and tells what came of
//! that.

use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::job::{Progress, Worker, forget, job, progress, trying};
use super::schedule::SCHEDULE_LABEL;
use super::{folder, inputs, labels, retain, verify};
use crate::agent::Taken;
use crate::cluster::validate::validate;
use crate::cluster::{Context, Error};
use crate::crd::backup::BackupStatus;
use crate::crd::{QuorateBackup, QuorateBackupSchedule, QuorateBackupStore, QuorateCluster, QuorateRestore};
use crate::now;
use crate::phase::{self, Found, Stamp, is_final};

/// Until the next look at a backup that waits or runs.
const PACE: Duration = Duration::from_secs(3);
/// The same, while a proof waits to be made again.
const SLOW: Duration = Duration::from_secs(30);
/// A restore that waits for something keeps old backups from being deleted for so long, seconds.
const NEEDED: i64 = 3600;
/// A finished backup needs no more looks.
const DONE: Duration = Duration::from_secs(3600);

/// One round.
pub async fn reconcile(context: &Context, name: &str, namespace: &str) -> Result<Duration, Error> {
    let api: Api<QuorateBackup> = Api::namespaced(context.client.clone(), namespace);
    let Some(backup) = api.get_opt(name).await? else { return Ok(DONE) };
    let old = backup.status.clone().unwrap_or_default();
    let ended = is_final(old.phase.as_deref());
    if backup.metadata.deletion_timestamp.is_some() || (ended && verify::is_settled(&backup, &old)) {
        return Ok(DONE);
    }
    let mut status = old;
    if ended {
        verify::advance(context, &backup, &mut status).await?;
        let settled = verify::is_settled(&backup, &status);
        let pace = if verify::is_open(&status) { SLOW } else { PACE };
        phase::write(&api, &backup, status).await?;
        return Ok(if settled { DONE } else { pace });
    }
    let outcome = step(context, &backup, &mut status).await?;
    let (phase, reason, message) = match outcome {
        Outcome::Waits(message) => ("Pending", "Waiting", message),
        Outcome::Runs(failed) => ("Running", "Running", trying("the agent copies the data", failed.as_deref())),
        Outcome::Done => ("Succeeded", "Succeeded", "the backup is in the store".to_string()),
        Outcome::Failed(message) => ("Failed", "Failed", message),
    };
    let stamp = Stamp {
        phase: &mut status.phase,
        started_at: &mut status.started_at,
        finished_at: &mut status.finished_at,
        conditions: &mut status.conditions,
    };
    stamp.set(&Found { phase, reason, message: &message, generation: backup.metadata.generation }, now());
    let done = phase == "Failed" || (phase == "Succeeded" && verify::is_settled(&backup, &status));
    phase::write(&api, &backup, status).await?;
    Ok(if done { DONE } else { PACE })
}

enum Outcome {
    Waits(String),
    Runs(Option<String>),
    Done,
    Failed(String),
}

async fn step(context: &Context, backup: &QuorateBackup, status: &mut BackupStatus) -> Result<Outcome, Error> {
    let client = &context.client;
    let (name, namespace) = (backup.name_any(), backup.namespace().unwrap_or_default());
    let jobs: Api<Job> = Api::namespaced(client.clone(), &namespace);
    let job_name = format!("{name}-backup");
    if let Some(found) = jobs.get_opt(&job_name).await? {
        if !found.owner_references().iter().any(|owner| Some(&owner.uid) == backup.metadata.uid.as_ref()) {
            return Ok(Outcome::Waits(format!("job {job_name} belongs to something else: delete it, or use another name")));
        }
        return Ok(match progress(client, &found).await? {
            Progress::Running(failed) => Outcome::Runs(failed),
            // The agent finds the backup in the store, and says once more what it is.
            Progress::Unheard => {
                forget(client, &found).await?;
                Outcome::Runs(Some("its pod went before it was heard".into()))
            }
            Progress::Failed(why) | Progress::Refuted(why) => Outcome::Failed(why),
            Progress::Done(words) => match serde_json::from_str::<Taken>(&words) {
                Ok(Taken { manifest, deleted }) => {
                    status.revision = Some(manifest.revision);
                    status.taken_at = Timestamp::from_second(manifest.time_ms / 1000).ok().map(Time);
                    status.hash_kv = Some(i64::from(manifest.hash));
                    status.compact_revision = Some(manifest.compacted);
                    status.keys = Some(manifest.keys);
                    status.cluster_id = Some(manifest.cluster_id);
                    status.server_version = Some(manifest.version);
                    status.size = Some(manifest.size);
                    status.sha256 = Some(manifest.sha256);
                    status.key_id = manifest.key;
                    status.deleted = deleted;
                    Outcome::Done
                }
                Err(_) => Outcome::Failed(format!("the agent's last words were not understood: {words:?}")),
            },
        });
    }
    let clusters: Api<QuorateCluster> = Api::namespaced(client.clone(), &namespace);
    let stores: Api<QuorateBackupStore> = Api::namespaced(client.clone(), &namespace);
    let Some(object) = clusters.get_opt(&backup.spec.cluster_ref.name).await? else {
        return Ok(Outcome::Waits(format!("there is no QuorateCluster {}", backup.spec.cluster_ref.name)));
    };
    let Some(store) = stores.get_opt(&backup.spec.store_ref.name).await? else {
        return Ok(Outcome::Waits(format!("there is no QuorateBackupStore {}", backup.spec.store_ref.name)));
    };
    let cluster = match validate(&object, context.default_image.as_deref()) {
        Ok(cluster) => cluster,
        Err(why) => return Ok(Outcome::Waits(format!("QuorateCluster {}: {why}", object.name_any()))),
    };
    let seen = object.status.clone().unwrap_or_default();
    let available = seen.conditions.iter().any(|condition| condition.type_ == "Available" && condition.status == "True");
    // A follower, so that the leader's disk is left to writes; a learner knows less.
    let able = |role: &'static str| {
        seen.members.iter().find(move |member| member.role == role && member.phase == "Ready" && member.slot.is_some())
    };
    let Some(member) = able("Voter").or_else(|| able("Leader")).filter(|_| available) else {
        return Ok(Outcome::Waits(format!("QuorateCluster {} has no healthy member to copy from", cluster.name)));
    };
    let (_, _, operator_secret) = cluster.secrets();
    let tls = cluster.tls().then_some(operator_secret.as_str());
    if let Some(missing) = inputs::read(client, &namespace, &store.spec, tls).await?.missing {
        return Ok(Outcome::Waits(missing));
    }
    let made =
        backup.metadata.creation_timestamp.as_ref().map(|time| time.0.strftime("%Y%m%dT%H%M%SZ").to_string()).unwrap_or_default();
    let uid = backup.uid().unwrap_or_default();
    let location = format!("{}{made}-{name}-{}.snapshot", folder(&store.spec, &cluster), &uid[..uid.len().min(8)]);
    let mut arguments =
        vec!["backup".to_string(), format!("--endpoint={}://{}:2379", cluster.scheme(), cluster.host(&member.name))];
    if cluster.tls() {
        arguments.push("--tls=/etc/quorate/tls".into());
    }
    arguments.extend(backup.labels().get(SCHEDULE_LABEL).map(|schedule| format!("--schedule={schedule}")));
    let schedule = schedule(context, backup, &namespace).await?;
    // What a restore is about to read stays; the next backup deletes it.
    if !is_restored_from(context, &namespace).await? {
        // Deltas belong to the schedule that keeps them: another one of the same cluster must not judge them.
        if schedule.as_ref().is_some_and(|schedule| schedule.spec.deltas.is_some()) {
            arguments.push("--prune-deltas".into());
        }
        let outdated = outdated(context, backup, schedule.as_ref(), &namespace).await?;
        arguments.extend(outdated.iter().map(|location| format!("--delete={location}")));
    }
    let worker = Worker {
        name: &job_name,
        namespace: &namespace,
        labels: labels(),
        owner: json!({
            "apiVersion": "quorate.io/v1alpha1", "kind": "QuorateBackup", "name": name, "uid": uid,
            "controller": true, "blockOwnerDeletion": true,
        }),
        image: context.default_image.as_deref().unwrap_or(&cluster.image),
        pull_secrets: json!(cluster.spec.image.pull_secrets),
        account: cluster.spec.pod.service_account_name.as_deref().unwrap_or(&cluster.name),
        store: &store.spec,
        object: Some(&location),
        arguments,
        tls,
        data: None,
        scratch: false,
    };
    status.location = Some(location.clone());
    // The name of the object is on record before anything is written under it.
    let api: Api<QuorateBackup> = Api::namespaced(client.clone(), &namespace);
    let early = json!({"status": {"location": location}});
    api.patch_status(&name, &PatchParams::default(), &Patch::Merge(early)).await?;
    let job: Job = serde_json::from_value(job(&worker)).expect("the job is well formed");
    match jobs.create(&PostParams::default(), &job).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => (),
        other => drop(other?),
    }
    Ok(Outcome::Runs(None))
}

/// The schedule that wants it, if there is one.
async fn schedule(context: &Context, backup: &QuorateBackup, namespace: &str) -> Result<Option<QuorateBackupSchedule>, Error> {
    let Some(schedule) = backup.labels().get(SCHEDULE_LABEL) else { return Ok(None) };
    let schedules: Api<QuorateBackupSchedule> = Api::namespaced(context.client.clone(), namespace);
    Ok(schedules.get_opt(schedule).await?)
}

/// Whether a restore, or a cluster that begins with a backup, of this namespace may still read from a store. Which objects it will read
/// is known only to the agent that does, since a revision or time leads to others than the one that is named.
async fn is_restored_from(context: &Context, namespace: &str) -> Result<bool, Error> {
    let clusters: Api<QuorateCluster> = Api::namespaced(context.client.clone(), namespace);
    let restores: Api<QuorateRestore> = Api::namespaced(context.client.clone(), namespace);
    if clusters.list(&ListParams::default()).await?.items.iter().any(begins) {
        return Ok(true);
    }
    let now = now().0;
    match restores.list(&ListParams::default()).await {
        // Definitions older than this operator.
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(false),
        restores => Ok(restores?.items.iter().any(|restore| reads(restore, now))),
    }
}

/// The cluster begins with a backup, and has not begun.
fn begins(cluster: &QuorateCluster) -> bool {
    let formed = cluster.status.as_ref().is_some_and(|status| status.cluster_id.is_some());
    cluster.spec.bootstrap.is_some() && !formed && cluster.metadata.deletion_timestamp.is_none()
}

/// The restore is under way, or may soon be.
fn reads(restore: &QuorateRestore, now: Timestamp) -> bool {
    match restore.status.as_ref().and_then(|status| status.phase.as_deref()) {
        None | Some("Pending") => restore.creation_timestamp().is_some_and(|made| now.as_second() - made.0.as_second() < NEEDED),
        Some("Rejoining") => false,
        phase => !is_final(phase),
    }
}

/// Objects of the same schedule that this backup makes superfluous, once it succeeds.
async fn outdated(
    context: &Context,
    backup: &QuorateBackup,
    schedule: Option<&QuorateBackupSchedule>,
    namespace: &str,
) -> Result<Vec<String>, Error> {
    let Some((schedule, keep)) = schedule.and_then(|known| Some((known.name_any(), known.spec.keep_last?))) else {
        return Ok(Vec::new());
    };
    let keep = usize::try_from(keep).unwrap_or(usize::MAX);
    let api: Api<QuorateBackup> = Api::namespaced(context.client.clone(), namespace);
    let all = api.list(&ListParams::default().labels(&format!("{SCHEDULE_LABEL}={schedule}"))).await?;
    // This one will be among those that are kept.
    let old = retain::superseded(&all.items, keep.saturating_sub(1), &backup.spec.store_ref.name);
    Ok(old.into_iter().filter_map(|old| old.status.as_ref()?.location.clone()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::restore::RestoreStatus;

    /// Nothing is deleted under a restore that is under way, or under a cluster that is about to begin with a backup; one that waits for
    /// ever keeps nothing for ever.
    #[test]
    fn what_is_still_read() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let restore = |phase: Option<&str>, made: i64| {
            let spec = json!({"clusterRef": {"name": "kv"}, "confirm": "1", "source": {"backupRef": {"name": "b"}}});
            let mut restore = QuorateRestore::new("r", serde_json::from_value(spec).unwrap());
            restore.metadata.creation_timestamp = Some(Time(at(made)));
            restore.status = phase.map(|phase| RestoreStatus { phase: Some(phase.into()), ..RestoreStatus::default() });
            reads(&restore, at(10_000))
        };
        assert!(restore(None, 9_999) && restore(Some("Pending"), 6_401) && !restore(Some("Pending"), 6_400));
        assert!(["BackingUp", "Admitted", "Running"].into_iter().all(|phase| restore(Some(phase), 0)));
        assert!(["Rejoining", "Succeeded", "Failed"].into_iter().all(|phase| !restore(Some(phase), 9_999)));
        let mut cluster = crate::cluster::validate::tests::sample();
        assert!(!begins(&cluster));
        cluster.spec.bootstrap = Some(serde_json::from_value(json!({"restore": {"backupRef": {"name": "b"}}})).unwrap());
        assert!(begins(&cluster));
        cluster.status.get_or_insert_default().cluster_id = Some("1".into());
        assert!(!begins(&cluster));
    }
}
