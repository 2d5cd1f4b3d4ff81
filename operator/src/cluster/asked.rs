//! What QuorateTasks and QuorateRestores ask of a cluster, read afresh in each round: one at a time, the oldest first.
//!
//! Only what its own controller has admitted counts: that one has checked what it names, and taken the safety backup. Nothing new is
//! taken up before the end of the last one has been told, so that none is done twice.

use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::{Api, Client, Resource, ResourceExt};

use super::errand::{Ask, Request};
use super::validate::Valid;
use crate::crd::status::ClusterStatus;
use crate::crd::task::{OldVolumes, TaskType};
use crate::crd::{QuorateRestore, QuorateTask};
use crate::phase::{ADMITTED, FINAL};

/// What is asked.
#[derive(Default)]
pub struct Asked {
    /// What is next.
    pub request: Option<Request>,
    /// What the running errand was made for is gone or going.
    pub withdrawn: bool,
    /// The restore that runs.
    pub restore: Option<QuorateRestore>,
}

/// Reads it.
pub async fn read(client: &Client, cluster: &Valid, status: &ClusterStatus) -> kube::Result<Asked> {
    let namespace = cluster.namespace.as_str();
    // One that cannot be read asks for nothing, and hinders nobody.
    let tasks: Api<DeserializeGuard<QuorateTask>> = Api::namespaced(client.clone(), namespace);
    let restores: Api<DeserializeGuard<QuorateRestore>> = Api::namespaced(client.clone(), namespace);
    let all = ListParams::default();
    let (tasks, restores) = match futures::try_join!(tasks.list(&all), restores.list(&all)) {
        // Definitions older than this operator: nobody can have asked for anything, nor taken it back.
        Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(Asked::default()),
        lists => lists?,
    };
    let running = status.errand.as_ref().map(|errand| errand.uid.as_str());
    let unreadable =
        restores.items.iter().any(|restore| running.is_some() && restore.0.is_err() && restore.meta().uid.as_deref() == running)
            || tasks.items.iter().any(|task| running.is_some() && task.0.is_err() && task.meta().uid.as_deref() == running);
    let tasks = tasks.items.into_iter().filter_map(|task| task.0.ok());
    let tasks: Vec<_> = tasks.filter(|task| task.spec.cluster_ref.name == cluster.name).collect();
    let restores = restores.items.into_iter().filter_map(|restore| restore.0.ok());
    let restores: Vec<_> = restores.filter(|restore| restore.spec.cluster_ref.name == cluster.name).collect();
    if let Some(errand) = &status.errand {
        let there = |uid: Option<String>, going: bool| uid.as_ref() == Some(&errand.uid) && !going;
        let going = |meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta| meta.deletion_timestamp.is_some();
        let restore = restores.into_iter().find(|restore| there(restore.uid(), going(restore.meta())));
        let task = tasks.iter().any(|task| there(task.uid(), going(task.meta())));
        // What cannot be read has not been taken back.
        return Ok(Asked { request: None, withdrawn: !task && restore.is_none() && !unreadable, restore });
    }
    let mut open: Vec<(Option<_>, Request)> = Vec::new();
    let last = status.last_errand.as_ref().map(|ended| ended.uid.as_str());
    for task in tasks.iter().filter(|task| task.metadata.deletion_timestamp.is_none()) {
        let phase = task.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
        let uid = task.uid().unwrap_or_default();
        if Some(uid.as_str()) == last && !FINAL.contains(&phase) {
            return Ok(Asked::default());
        }
        if matches!(phase, ADMITTED | "Running") {
            let request = Request { name: task.name_any(), uid, confirm: task.spec.confirm.clone(), ask: ask(task) };
            open.push((task.metadata.creation_timestamp.clone(), request));
        }
    }
    for restore in restores.iter().filter(|restore| restore.metadata.deletion_timestamp.is_none()) {
        let phase = restore.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
        let uid = restore.uid().unwrap_or_default();
        // One whose data serves is done here; its own controller waits for the others.
        if Some(uid.as_str()) == last && !FINAL.contains(&phase) && phase != "Rejoining" {
            return Ok(Asked::default());
        }
        if matches!(phase, ADMITTED | "Running") {
            let ask = Ask::Restore { keep: crate::restore::keeps(restore, crate::now().0) };
            let request = Request { name: restore.name_any(), uid, confirm: Some(restore.spec.confirm.clone()), ask };
            open.push((restore.metadata.creation_timestamp.clone(), request));
        }
    }
    open.sort_by(|(a, x), (b, y)| (a, &x.uid).cmp(&(b, &y.uid)));
    Ok(Asked { request: open.into_iter().next().map(|(_, request)| request), withdrawn: false, restore: None })
}

fn ask(task: &QuorateTask) -> Ask {
    let slot = |slot: i32| u32::try_from(slot).unwrap_or(u32::MAX);
    let spec = &task.spec;
    match spec.kind {
        TaskType::RecoverQuorum => {
            let wish = spec.recover_quorum.clone().unwrap_or_default();
            Ask::Recover { slot: wish.slot.map(slot), keep: wish.old_volumes == OldVolumes::Keep }
        }
        TaskType::Compact => Ask::Compact { keep: spec.compact.as_ref().map_or(0, |compact| compact.keep_revisions) },
        TaskType::Defragment => Ask::Defragment,
        TaskType::MoveLeader => Ask::MoveLeader { slot: spec.move_leader.as_ref().map_or(u32::MAX, |wish| slot(wish.slot)) },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::fake::Fake;
    use super::super::validate::{tests::sample, validate};
    use super::*;
    use crate::crd::status::ErrandStatus;

    fn restore(name: &str, time: &str) -> Value {
        json!({
            "apiVersion": "quorate.io/v1alpha1", "kind": "QuorateRestore",
            "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}")},
            "spec": {"clusterRef": {"name": "kv"}, "confirm": "1", "source": {"backupRef": {"name": "b"}, "time": time}},
            "status": {"phase": "Admitted"},
        })
    }

    /// A restore that cannot be read, such as one to a day that no calendar has, is left out, and one that runs is not taken for
    /// withdrawn by that; the others of its namespace are done.
    #[tokio::test]
    async fn unreadable_ones_hinder_nobody() {
        let (fake, cluster) = (Fake::default(), validate(&sample(), Some("q:1")).unwrap());
        let client = fake.client().await;
        let list =
            |kind: &str, items: Value| json!({"apiVersion": "quorate.io/v1alpha1", "kind": kind, "metadata": {}, "items": items});
        let items = json!([restore("bad", "2026-02-30T10:00:00Z"), restore("good", "2026-02-28T10:00:00Z")]);
        fake.put("/apis/quorate.io/v1alpha1/namespaces/ns/quoraterestores", list("QuorateRestoreList", items));
        fake.put("/apis/quorate.io/v1alpha1/namespaces/ns/quoratetasks", list("QuorateTaskList", json!([])));
        let asked = read(&client, &cluster, &ClusterStatus::default()).await.unwrap();
        assert_eq!(asked.request.map(|request| request.name).as_deref(), Some("good"));
        let errand = |name: &str| ErrandStatus {
            kind: "Restore".into(),
            name: name.into(),
            uid: format!("uid-{name}"),
            slot: 0,
            stage: "Filling".into(),
            keep: true,
            old: Vec::new(),
            revision: 0,
            note: String::new(),
            started_at: crate::now(),
        };
        for (name, withdrawn) in [("bad", false), ("good", false), ("gone", true)] {
            let status = ClusterStatus { errand: Some(errand(name)), ..ClusterStatus::default() };
            assert_eq!(read(&client, &cluster, &status).await.unwrap().withdrawn, withdrawn, "{name}");
        }
    }
}
