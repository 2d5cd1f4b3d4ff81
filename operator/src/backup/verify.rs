//! The proof of one QuorateBackup: a Job that restores it into a server of its own, and what came of that.

use k8s_openapi::api::batch::v1::Job;
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use serde_json::json;

use super::job::{Progress, Worker, job, progress};
use super::schedule::SCHEDULE_LABEL;
use super::{labels, now, record, set_condition};
use crate::agent::Verified;
use crate::cluster::validate::validate;
use crate::cluster::{Context, Error};
use crate::crd::backup::BackupStatus;
use crate::crd::{QuorateBackup, QuorateBackupSchedule, QuorateBackupStore, QuorateCluster};

/// True once nothing is left to be done.
pub fn is_settled(backup: &QuorateBackup, status: &BackupStatus) -> bool {
    !backup.spec.verify || status.phase.as_deref() != Some("Succeeded") || status.conditions.iter().any(|c| c.type_ == "Verified")
}

/// Does what is next; the status says what was found.
pub async fn advance(context: &Context, backup: &QuorateBackup, status: &mut BackupStatus) -> Result<(), Error> {
    let (name, namespace) = (backup.name_any(), backup.namespace().unwrap_or_default());
    let jobs: Api<Job> = Api::namespaced(context.client.clone(), &namespace);
    let job_name = format!("{name}-verify");
    let verdict = match jobs.get_opt(&job_name).await? {
        Some(found) if found.owner_references().iter().any(|owner| Some(&owner.uid) == backup.metadata.uid.as_ref()) => {
            match progress(&context.client, &found).await? {
                Progress::Running => return Ok(()),
                Progress::Failed(why) => Err(why),
                Progress::Done(words) => match serde_json::from_str::<Verified>(&words) {
                    Ok(verified) => Ok(verified),
                    Err(_) => Err(format!("the agent's last words were not understood: {words:?}")),
                },
            }
        }
        Some(_) => Err(format!("job {job_name} belongs to something else")),
        None => match begin(context, backup, status, &job_name, &namespace).await? {
            None => return Ok(()),
            Some(why) => Err(why),
        },
    };
    context.metrics.verified(verdict.is_ok());
    let (reason, message) = match &verdict {
        Ok(verified) => {
            status.verified_at = Some(now());
            let chain = verified.chain_revision.map(|revision| format!("; deltas lead to revision {revision}"));
            let revision = status.revision.unwrap_or_default();
            (
                "Verified",
                format!(
                    "a restore shows revision {revision} with {} keys and the same HashKV{}",
                    verified.keys,
                    chain.unwrap_or_default()
                ),
            )
        }
        Err(why) => ("VerificationFailed", why.clone()),
    };
    set_condition(&mut status.conditions, "Verified", verdict.is_ok(), reason, &message, backup.metadata.generation, now());
    record(context, backup, verdict.is_err(), reason, &message).await;
    Ok(())
}

/// Makes the Job; returns why it cannot be made.
async fn begin(
    context: &Context,
    backup: &QuorateBackup,
    status: &BackupStatus,
    job_name: &str,
    namespace: &str,
) -> Result<Option<String>, Error> {
    let client = &context.client;
    let stores: Api<QuorateBackupStore> = Api::namespaced(client.clone(), namespace);
    let clusters: Api<QuorateCluster> = Api::namespaced(client.clone(), namespace);
    let Some(store) = stores.get_opt(&backup.spec.store_ref.name).await? else {
        return Ok(Some(format!("there is no QuorateBackupStore {}", backup.spec.store_ref.name)));
    };
    let Some(object) = clusters.get_opt(&backup.spec.cluster_ref.name).await? else {
        return Ok(Some(format!("there is no QuorateCluster {}", backup.spec.cluster_ref.name)));
    };
    let cluster = validate(&object, context.default_image.as_deref())?;
    let (Some(location), Some(revision), Some(hash)) = (&status.location, status.revision, status.hash_kv) else {
        return Ok(Some("nothing was recorded when it was taken".into()));
    };
    let mut arguments = vec![
        "verify".to_string(),
        format!("--expect-revision={revision}"),
        format!("--expect-hash={hash}"),
        format!("--expect-compacted={}", status.compact_revision.unwrap_or_default()),
        format!("--expect-keys={}", status.keys.unwrap_or_default()),
    ];
    if let Some(schedule) = backup.labels().get(SCHEDULE_LABEL) {
        let schedules: Api<QuorateBackupSchedule> = Api::namespaced(client.clone(), namespace);
        if schedules.get_opt(schedule).await?.is_some_and(|schedule| schedule.spec.deltas.is_some()) {
            arguments.push("--chain".into());
        }
    }
    let worker = Worker {
        name: job_name,
        namespace,
        labels: labels(),
        owner: json!({
            "apiVersion": "quorate.io/v1alpha1", "kind": "QuorateBackup", "name": backup.name_any(),
            "uid": backup.uid().unwrap_or_default(), "controller": true, "blockOwnerDeletion": true,
        }),
        image: context.default_image.as_deref().unwrap_or(&cluster.image),
        pull_secrets: json!(cluster.spec.image.pull_secrets),
        account: cluster.spec.pod.service_account_name.as_deref().unwrap_or(&cluster.name),
        store: &store.spec,
        object: Some(location),
        arguments,
        tls: None,
        data: None,
        scratch: true,
    };
    let made: Job = serde_json::from_value(job(&worker)).expect("the job is well formed");
    let jobs: Api<Job> = Api::namespaced(client.clone(), namespace);
    match jobs.create(&PostParams::default(), &made).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => (),
        other => drop(other?),
    }
    Ok(None)
}
