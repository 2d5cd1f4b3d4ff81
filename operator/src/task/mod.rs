//! One QuorateTask: checks what it names, hands it to its cluster's rounds by admitting it, and tells how far they are.
//!
//! Nothing is done to a cluster here: only its own rounds do that, one thing at a time, with the journal in the cluster's status.

use std::time::Duration;

use kube::{Api, ResourceExt};

use crate::cluster::{Context, Error};
use crate::crd::status::{ClusterStatus, OldVolume};
use crate::crd::task::{KeptVolume, QuorateTaskSpec, TaskStatus, TaskType};
use crate::crd::{QuorateCluster, QuorateTask};
use crate::phase::{self, ADMITTED, Found, Stamp, is_final};

/// Until the next look at one that waits or runs.
const PACE: Duration = Duration::from_secs(3);
/// A finished one needs no more looks.
const DONE: Duration = Duration::from_secs(3600);

/// One round.
pub async fn reconcile(context: &Context, name: &str, namespace: &str) -> Result<Duration, Error> {
    let api: Api<QuorateTask> = Api::namespaced(context.client.clone(), namespace);
    let Some(task) = api.get_opt(name).await? else { return Ok(DONE) };
    let old = task.status.clone().unwrap_or_default();
    if task.metadata.deletion_timestamp.is_some() || is_final(old.phase.as_deref()) {
        return Ok(DONE);
    }
    let clusters: Api<QuorateCluster> = Api::namespaced(context.client.clone(), namespace);
    let cluster = clusters.get_opt(&task.spec.cluster_ref.name).await?;
    let seen = cluster.as_ref().map(|cluster| cluster.status.clone().unwrap_or_default());
    let next = next(&task.spec, &task.uid().unwrap_or_default(), &old, seen.as_ref());
    let mut status =
        TaskStatus { started_at: old.started_at.clone(), finished_at: None, conditions: old.conditions.clone(), ..next };
    let (phase, message) = (status.phase.clone().unwrap_or_default(), status.step.clone().unwrap_or_default());
    let stamp = Stamp {
        phase: &mut status.phase,
        started_at: &mut status.started_at,
        finished_at: &mut status.finished_at,
        conditions: &mut status.conditions,
    };
    let generation = task.metadata.generation;
    stamp.set(&Found { phase: &phase, reason: &phase, message: &message, generation }, crate::now());
    phase::write(&api, &task, status).await?;
    Ok(if is_final(Some(&phase)) { DONE } else { PACE })
}

/// Phase, step and findings, from what the cluster's status says. Pure; times and conditions are not its business.
fn next(spec: &QuorateTaskSpec, uid: &str, old: &TaskStatus, cluster: Option<&ClusterStatus>) -> TaskStatus {
    let mut status = TaskStatus { started_at: None, finished_at: None, conditions: Vec::new(), ..old.clone() };
    let mut say = |phase: &str, step: String| {
        status.phase = Some(phase.into());
        status.step = Some(step);
    };
    let name = &spec.cluster_ref.name;
    let Some(cluster) = cluster else {
        say("Pending", format!("there is no QuorateCluster {name}"));
        return status;
    };
    if let Some(ended) = cluster.last_errand.as_ref().filter(|ended| ended.uid == uid) {
        say(if ended.done { "Succeeded" } else { "Failed" }, ended.message.clone());
        status.kept_volumes = kept(&ended.kept);
        return status;
    }
    let step = || cluster.operation.as_ref().map(|operation| operation.step.clone()).unwrap_or_default();
    if let Some(errand) = cluster.errand.as_ref().filter(|errand| errand.uid == uid) {
        say("Running", step());
        status.survivor = Some(format!("{name}-{}", errand.slot));
        status.may_be_lost = Some(errand.note.clone());
        return status;
    }
    match (&spec.confirm, &cluster.cluster_id) {
        (Some(confirm), Some(id)) if confirm != id => {
            say("Failed", format!("spec.confirm is not the id of cluster {name}, which is {id}: nothing was done"));
        }
        (_, None) => say("Pending", format!("cluster {name} has no data yet")),
        _ => {
            let waits = match spec.kind {
                TaskType::RecoverQuorum => "waits for its turn: a quorum must have been missing for half a minute",
                _ => "waits until all members are healthy and nothing else is under way",
            };
            say(ADMITTED, waits.into());
        }
    }
    status
}

/// Volumes as users read them.
pub fn kept(old: &[OldVolume]) -> Vec<KeptVolume> {
    old.iter().map(|old| KeptVolume { slot: old.slot, volume: old.volume.clone() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::cluster::NameReference;
    use crate::crd::status::{EndedErrand, ErrandStatus};

    fn spec(confirm: &str) -> QuorateTaskSpec {
        QuorateTaskSpec {
            cluster_ref: NameReference { name: "kv".into() },
            kind: TaskType::RecoverQuorum,
            confirm: Some(confirm.into()),
            recover_quorum: None,
            compact: None,
            move_leader: None,
        }
    }

    fn phase(spec: &QuorateTaskSpec, cluster: Option<&ClusterStatus>) -> String {
        next(spec, "u1", &TaskStatus::default(), cluster).phase.unwrap()
    }

    /// A task that names another cluster's id fails; one that fits is admitted, runs with the errand, and ends as that ended.
    #[test]
    fn phases() {
        let mut cluster = ClusterStatus { cluster_id: Some("c1".into()), ..ClusterStatus::default() };
        assert_eq!(phase(&spec("c1"), None), "Pending");
        assert_eq!(phase(&spec("c1"), Some(&ClusterStatus::default())), "Pending");
        assert_eq!(phase(&spec("c2"), Some(&cluster)), "Failed");
        assert_eq!(phase(&spec("c1"), Some(&cluster)), ADMITTED);
        cluster.errand = Some(ErrandStatus {
            kind: "RecoverQuorum".into(),
            name: "t".into(),
            uid: "u1".into(),
            slot: 2,
            stage: "Stopping".into(),
            keep: true,
            old: Vec::new(),
            revision: 0,
            note: "little".into(),
            started_at: crate::now(),
        });
        let running = next(&spec("c1"), "u1", &TaskStatus::default(), Some(&cluster));
        assert_eq!((running.phase.as_deref(), running.survivor.as_deref()), (Some("Running"), Some("kv-2")));
        assert_eq!(next(&spec("c1"), "u2", &TaskStatus::default(), Some(&cluster)).phase.as_deref(), Some(ADMITTED));
        // The recovered store has another id; the task that made it so is no stranger to it.
        cluster.cluster_id = Some("c3".into());
        cluster.errand = None;
        cluster.last_errand = Some(EndedErrand { uid: "u1".into(), done: true, ..EndedErrand::default() });
        assert_eq!(phase(&spec("c1"), Some(&cluster)), "Succeeded");
    }
}
