//! The proof of one QuorateBackup: a Job that restores it into a server of its own, and what came of that.
//!
//! Invariant: only what was found in the store refutes a backup. A proof that could not be made, since the store was out of reach or the
//! pod had no room, is made again after a while, and leaves standing what was known before.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::job::{Progress, Worker, failed_at, forget, job, progress};
use super::schedule::SCHEDULE_LABEL;
use super::{inputs, labels, record};
use crate::agent::Verified;
use crate::cluster::validate::validate;
use crate::cluster::{Context, Error};
use crate::crd::backup::BackupStatus;
use crate::crd::{QuorateBackup, QuorateBackupSchedule, QuorateBackupStore, QuorateCluster};
use crate::now;
use crate::phase::set_condition_to;

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

/// Before a proof that could not be made is made again, seconds.
const AGAIN: i64 = 600;

/// What came of a proof.
enum Proof {
    /// It shows what was recorded.
    Shown(Verified),
    /// It does not, or cannot; why.
    Refuted(String),
    /// Nobody knows; why.
    Open(String),
}

/// True once nothing is left to be done.
pub fn is_settled(backup: &QuorateBackup, status: &BackupStatus) -> bool {
    let Some(asked) = asked(backup).filter(|_| status.phase.as_deref() == Some("Succeeded")) else { return true };
    status.proof.clone().unwrap_or_default() == asked
        && status.conditions.iter().any(|c| c.type_ == "Verified" && c.status != "Unknown")
}

/// True while a proof waits to be made again.
pub fn is_open(status: &BackupStatus) -> bool {
    status.conditions.iter().any(|c| c.type_ == "Verified" && c.status == "Unknown")
}

/// Does what is next; the status says what was found.
pub async fn advance(context: &Context, backup: &QuorateBackup, status: &mut BackupStatus) -> Result<(), Error> {
    let (name, namespace) = (backup.name_any(), backup.namespace().unwrap_or_default());
    let jobs: Api<Job> = Api::namespaced(context.client.clone(), &namespace);
    let asked = asked(backup).unwrap_or_default();
    let job_name = job_name(&name, &asked);
    let proof = match jobs.get_opt(&job_name).await? {
        Some(found) if found.owner_references().iter().any(|owner| Some(&owner.uid) == backup.metadata.uid.as_ref()) => {
            match progress(&context.client, &found).await? {
                Progress::Running(_) => return Ok(()),
                Progress::Unheard => return Ok(forget(&context.client, &found).await?),
                Progress::Refuted(why) => Proof::Refuted(why),
                Progress::Failed(_) if is_due_again(&found, now().0) => return Ok(forget(&context.client, &found).await?),
                Progress::Failed(why) => Proof::Open(why),
                Progress::Done(words) => match serde_json::from_str::<Verified>(&words) {
                    Ok(verified) => Proof::Shown(verified),
                    Err(_) => Proof::Open(format!("the agent's last words were not understood: {words:?}")),
                },
            }
        }
        Some(_) => Proof::Open(format!("job {job_name} belongs to something else: delete it")),
        None => match begin(context, backup, status, &job_name, &namespace).await? {
            None => return Ok(()),
            Some(proof) => proof,
        },
    };
    // The pods of the proof before have nothing more to tell.
    let former = self::job_name(&name, status.proof.as_deref().unwrap_or_default());
    if former != job_name {
        match jobs.delete(&former, &DeleteParams::background()).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => (),
            other => drop(other?),
        }
    }
    status.proof = Some(asked).filter(|asked| !asked.is_empty());
    let (value, reason, message) = tell(&proof, status);
    let said = |status: &mut BackupStatus| {
        set_condition_to(&mut status.conditions, "Verified", value, reason, &message, backup.metadata.generation, now())
    };
    match &proof {
        Proof::Shown(_) => {
            status.verified_at = Some(now());
            said(status);
            context.metrics.verified(Some(true));
        }
        Proof::Refuted(_) => {
            // What an earlier one showed is so no more.
            status.verified_at = None;
            said(status);
            context.metrics.verified(Some(false));
        }
        // It may stay so for long, and is told once.
        Proof::Open(_) => match said(status) {
            true => context.metrics.verified(None),
            false => return Ok(()),
        },
    }
    record(context, backup, value != "True", reason, &message).await;
    Ok(())
}

/// The condition's status, reason and message.
fn tell(proof: &Proof, status: &BackupStatus) -> (&'static str, &'static str, String) {
    match proof {
        Proof::Shown(verified) => {
            let chain = verified.chain_revision.map(|revision| format!("; deltas lead to revision {revision}"));
            let before = verified.led_from.as_ref().map(|_| "; deltas from the full backup before it show the same".to_string());
            let (revision, keys) = (status.revision.unwrap_or_default(), verified.keys);
            let further = chain.into_iter().chain(before).collect::<String>();
            ("True", "Verified", format!("a restore shows revision {revision} with {keys} keys and the same HashKV{further}"))
        }
        Proof::Refuted(why) => ("False", "VerificationFailed", why.clone()),
        Proof::Open(why) => {
            let known = match &status.verified_at {
                Some(at) => format!("; it was proved at {}", at.0),
                None => String::new(),
            };
            ("Unknown", "NotProved", format!("the proof could not be made and is tried again: {why}{known}"))
        }
    }
}

/// A proof that could not be made is worth another try.
fn is_due_again(job: &Job, now: Timestamp) -> bool {
    failed_at(job).is_none_or(|failed| now.as_second() - failed.as_second() >= AGAIN)
}

/// Makes the Job; returns what is known without it, if it cannot be made.
async fn begin(
    context: &Context,
    backup: &QuorateBackup,
    status: &BackupStatus,
    job_name: &str,
    namespace: &str,
) -> Result<Option<Proof>, Error> {
    let client = &context.client;
    let stores: Api<QuorateBackupStore> = Api::namespaced(client.clone(), namespace);
    let clusters: Api<QuorateCluster> = Api::namespaced(client.clone(), namespace);
    let Some(store) = stores.get_opt(&backup.spec.store_ref.name).await? else {
        return Ok(Some(Proof::Open(format!("there is no QuorateBackupStore {}", backup.spec.store_ref.name))));
    };
    let Some(object) = clusters.get_opt(&backup.spec.cluster_ref.name).await? else {
        return Ok(Some(Proof::Open(format!("there is no QuorateCluster {}", backup.spec.cluster_ref.name))));
    };
    let cluster = match validate(&object, context.default_image.as_deref()) {
        Ok(cluster) => cluster,
        Err(why) => return Ok(Some(Proof::Open(format!("QuorateCluster {}: {why}", object.name_any())))),
    };
    if let Some(missing) = inputs::read(client, namespace, &store.spec, None).await?.missing {
        return Ok(Some(Proof::Open(missing)));
    }
    let (Some(location), Some(revision), Some(hash)) = (&status.location, status.revision, status.hash_kv) else {
        return Ok(Some(Proof::Refuted("nothing was recorded when it was taken".into())));
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
        let set = |status: &mut BackupStatus, value| {
            set_condition_to(&mut status.conditions, "Verified", value, "x", "", None, now());
        };
        // One that could not be made is wanted as before.
        set(&mut status, "Unknown");
        assert!(!is_settled(&backup, &status) && is_open(&status));
        set(&mut status, "False");
        assert!(is_settled(&backup, &status) && !is_open(&status));
        set(&mut status, "True");
        assert!(is_settled(&backup, &status));
        backup.annotations_mut().insert(PROVE.into(), "1200".into());
        assert!(!is_settled(&backup, &status));
        status.proof = Some("1200".into());
        assert!(is_settled(&backup, &status));
        let longest = "b".repeat(52);
        assert!(job_name(&longest, "1200").len() <= 63 && job_name(&longest, "").len() <= 63);
        assert_ne!(job_name("b", "1200"), job_name("b", "1800"));
    }

    /// A proof that could not be made says so, and what was known before; it is made again after a while.
    #[test]
    fn open_proofs() {
        let mut status = BackupStatus::default();
        let said = |proof: Proof, status: &BackupStatus| {
            let (value, _, message) = tell(&proof, status);
            (value, message)
        };
        assert_eq!(said(Proof::Refuted("x".into()), &status), ("False", "x".into()));
        assert_eq!(said(Proof::Open("no way".into()), &status).0, "Unknown");
        status.verified_at = Some(now());
        assert!(said(Proof::Open("no way".into()), &status).1.contains("it was proved at"));
        let job = |failed: i64| -> Job {
            let at = Timestamp::from_second(failed).unwrap().to_string();
            let condition = json!({"type": "Failed", "status": "True", "lastTransitionTime": at});
            serde_json::from_value(json!({"metadata": {"name": "j"}, "status": {"conditions": [condition]}})).unwrap()
        };
        let now = Timestamp::from_second(10_000).unwrap();
        assert!(is_due_again(&job(9_400), now) && !is_due_again(&job(9_401), now));
    }
}
