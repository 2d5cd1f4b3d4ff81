//! The proof of one QuorateBackup: a Job that restores it into a server of its own, and what came of that.

use k8s_openapi::api::batch::v1::Job;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::job::{Progress, Worker, job, progress};
use super::schedule::SCHEDULE_LABEL;
use super::{inputs, labels, record};
use crate::agent::Verified;
use crate::cluster::validate::validate;
use crate::cluster::{Context, Error};
use crate::crd::backup::BackupStatus;
use crate::crd::{QuorateBackup, QuorateBackupSchedule, QuorateBackupStore, QuorateCluster};
use crate::now;
use crate::phase::set_condition;

/// The annotation of a QuorateBackup of which each other value asks for another proof.
pub const PROVE: &str = "quorate.io/prove";

/// What asks for a proof: the annotation's value, or nothing but the spec. None: nobody does.
fn asked(backup: &QuorateBackup) -> Option<String> {
    backup.annotations().get(PROVE).cloned().or_else(|| backup.spec.verify.then(String::new))
}

/// The name of the Job of a proof. A backup's name leaves room for ten letters.
fn job_name(backup: &str, asked: &str) -> String {
    match asked {
        "" => format!("{backup}-verify"),
        _ => format!("{backup}-v{}", &crate::short_hash(asked.as_bytes())[..8]),
    }
}

/// True once nothing is left to be done.
pub fn is_settled(backup: &QuorateBackup, status: &BackupStatus) -> bool {
    let Some(asked) = asked(backup).filter(|_| status.phase.as_deref() == Some("Succeeded")) else { return true };
    status.proof.clone().unwrap_or_default() == asked && status.conditions.iter().any(|c| c.type_ == "Verified")
}

/// Does what is next; the status says what was found.
pub async fn advance(context: &Context, backup: &QuorateBackup, status: &mut BackupStatus) -> Result<(), Error> {
    let (name, namespace) = (backup.name_any(), backup.namespace().unwrap_or_default());
    let jobs: Api<Job> = Api::namespaced(context.client.clone(), &namespace);
    let asked = asked(backup).unwrap_or_default();
    let job_name = job_name(&name, &asked);
    let verdict = match jobs.get_opt(&job_name).await? {
        Some(found) if found.owner_references().iter().any(|owner| Some(&owner.uid) == backup.metadata.uid.as_ref()) => {
            match progress(&context.client, &found).await? {
                Progress::Running(_) => return Ok(()),
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
    // The pods of the proof before have nothing more to tell.
    let former = self::job_name(&name, status.proof.as_deref().unwrap_or_default());
    if former != job_name {
        match jobs.delete(&former, &DeleteParams::background()).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => (),
            other => drop(other?),
        }
    }
    status.proof = Some(asked).filter(|asked| !asked.is_empty());
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
    // A proof that cannot be begun says nothing about the backup.
    if let Some(missing) = inputs::read(client, namespace, &store.spec, None).await?.missing {
        tracing::warn!(backup = %backup.name_any(), namespace, missing, "the proof waits");
        return Ok(None);
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::backup::QuorateBackupSpec;

    /// A proof is wanted by the spec once, and by each other value of the annotation once more; names of Jobs are never too long.
    #[test]
    fn what_asks_for_a_proof() {
        let mut backup = QuorateBackup::new("b", QuorateBackupSpec::default());
        let mut status = BackupStatus { phase: Some("Succeeded".into()), ..BackupStatus::default() };
        assert!(is_settled(&backup, &status));
        backup.spec.verify = true;
        assert!(!is_settled(&backup, &status));
        set_condition(&mut status.conditions, "Verified", true, "Verified", "", None, now());
        assert!(is_settled(&backup, &status));
        backup.annotations_mut().insert(PROVE.into(), "1200".into());
        assert!(!is_settled(&backup, &status));
        status.proof = Some("1200".into());
        assert!(is_settled(&backup, &status));
        let longest = "b".repeat(52);
        assert!(job_name(&longest, "1200").len() <= 63 && job_name(&longest, "").len() <= 63);
        assert_ne!(job_name("b", "1200"), job_name("b", "1800"));
    }
}
