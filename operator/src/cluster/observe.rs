//! One look at Kubernetes and at the members, turned into a [`World`]. Everything is read afresh from the API server: decisions that
//! destroy must not rest on what a cache remembers.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use super::apply;
use super::asked::Asked;
use super::build::{self, STAMP_LABEL, TEMPLATE_ANNOTATION, Ticket, UID_LABEL};
use super::errand::{Errand, Old, Outside, Purpose, Stage};
use super::upkeep::{self, Sizes, Upkeep};
use super::validate::{Valid, version_of};
use super::world::{self, Kind, Member, Operation, Place, Seconds, Slot, Volume, Wish, World, Written};
use crate::backup::cron::Cron;
use crate::crd::cluster::{RepairMode, UpdateStrategy, VolumePolicy};
use crate::crd::maintenance::FullStoreAction;
use crate::crd::status::{ClusterStatus, VolumeStatus};
use crate::member::{Survey, Target};

/// How far a member may be behind the furthest and still count as up to date, log entries.
const LAG: u64 = 5000;

/// What Kubernetes holds of a cluster.
pub struct Objects {
    /// The StatefulSet.
    pub set: Option<StatefulSet>,
    /// Pods by slot.
    pub pods: BTreeMap<Slot, Pod>,
    /// Volume claims by slot.
    pub claims: BTreeMap<Slot, PersistentVolumeClaim>,
    /// The boot ticket as it stands.
    pub ticket: Option<Ticket>,
    /// Slots whose pod cannot be placed since the node of its volume is gone.
    pub nodes_lost: Vec<Slot>,
    /// Slots whose pod is not ready, or being deleted, on a node that does not answer; and since when that is so, and the pod should be
    /// gone.
    pub nodes_off: BTreeMap<Slot, Seconds>,
}

impl Objects {
    /// Reads them. `known` says which volumes hold members' data.
    pub async fn read(client: &Client, cluster: &Valid, known: &[VolumeStatus]) -> kube::Result<Self> {
        let namespace = cluster.namespace.as_str();
        let sets: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let claims_api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        let all = ListParams::default().labels(&build::selector_text(cluster));
        let boot = cluster.named("boot");
        let (set, pods, claims, boot) =
            futures::try_join!(sets.get_opt(&cluster.name), pods.list(&all), claims_api.list(&all), maps.get_opt(&boot))?;
        // A namesake that was deleted a moment ago leaves pods that still serve its store, and a StatefulSet that is about to go. They
        // tell nothing of this cluster.
        let ours = |labels: &BTreeMap<String, String>| labels.get(UID_LABEL) == Some(&cluster.uid);
        let set = set.filter(|set| ours(set.labels()));
        let pods = pods.items.into_iter().filter(|pod| ours(pod.labels()));
        let pods: BTreeMap<Slot, Pod> = pods.filter_map(|pod| Some((cluster.slot_of_pod(&pod.name_any())?, pod))).collect();
        let mut claims: BTreeMap<Slot, PersistentVolumeClaim> = claims
            .items
            .into_iter()
            .filter_map(|claim| Some((cluster.slot_of_pod(claim.name_any().strip_prefix("data-")?)?, claim)))
            .collect();
        // That a volume is gone costs its member the place in the store, so its labels, which anybody may have edited, do not decide.
        for missing in known {
            let Some(slot) = u32::try_from(missing.slot).ok().filter(|slot| !claims.contains_key(slot)) else { continue };
            let found = claims_api.get_opt(&cluster.claim(slot)).await?;
            if let Some(claim) = found.filter(|claim| claim.uid().as_deref() == Some(&missing.uid)) {
                claims.insert(slot, claim);
            }
        }
        let ticket = boot
            .filter(|map| map.labels().get(UID_LABEL) == Some(&cluster.uid))
            .and_then(|map| serde_json::from_str(map.data?.get("ticket.json")?).ok())
            // One without members was made for a cluster that began asleep, and binds nobody.
            .filter(|ticket: &Ticket| !ticket.members.is_empty());
        let mut nodes_lost = Vec::new();
        for (slot, pod) in pods.iter().filter(|(_, pod)| unschedulable(pod)) {
            if let Some(claim) = claims.get(slot)
                && node_of_volume_is_gone(client, claim).await
            {
                nodes_lost.push(*slot);
            }
            tracing::debug!(slot, pod = pod.name_any(), "pod cannot be placed");
        }
        let mut nodes_off = BTreeMap::new();
        for (slot, pod) in pods.iter().filter(|(_, pod)| pod.metadata.deletion_timestamp.is_some() || !is_ready(pod)) {
            if let Some(since) = node_off_since(client, pod).await {
                nodes_off.insert(*slot, since);
            }
        }
        Ok(Self { set, pods, claims, ticket, nodes_lost, nodes_off })
    }

    /// What the disks of these volume claims are stamped with, for a cluster that is to go on with those of a deleted namesake.
    ///
    /// # Errors
    /// Why there are none, or none that go together.
    pub fn origin(&self, cluster: &Valid) -> Result<String, String> {
        let told = |why: String| Err(format!("spec.bootstrap.fromVolumes: {why}"));
        if let Some(ticket) = self.ticket.as_ref().filter(|ticket| ticket.cluster != cluster.uid) {
            return Ok(ticket.cluster.clone());
        }
        let owner = |owner: &OwnerReference| owner.kind == "QuorateCluster" && owner.uid != cluster.uid;
        let going = |claim: &&PersistentVolumeClaim| {
            claim.metadata.deletion_timestamp.is_some() || claim.owner_references().iter().any(owner)
        };
        if let Some(claim) = self.claims.values().find(going) {
            return told(format!("volume claim {} is to be deleted with the cluster that it was made for", claim.name_any()));
        }
        let mut found: Vec<&str> = self.claims.values().map(stamp_of).collect();
        found.sort_unstable();
        found.dedup();
        let origin = match found.as_slice() {
            [one] if *one != cluster.uid && !one.is_empty() => (*one).to_string(),
            [] | [_] => {
                let name = &cluster.name;
                return told(format!(
                    "no volume claims of a deleted cluster {name} are here (data-{name}-0 and so on, with the labels that it gave them)"
                ));
            }
            several => {
                return told(format!(
                    "the volume claims are those of different clusters, by labels {STAMP_LABEL} and {UID_LABEL}: {}. Keep one cluster's \
                     and delete the others",
                    several.join(", ")
                ));
            }
        };
        // One that comes later would find an empty one in its place.
        let size = self.claims.keys().max().map_or(0, |slot| slot + 1).max(cluster.replicas());
        let missing: Vec<String> =
            (0..size).filter(|slot| !self.claims.contains_key(slot)).map(|slot| cluster.claim(slot)).collect();
        if !missing.is_empty() {
            return told(format!(
                "volume claims {} are missing: bring them back, or set spec.replicas to the number that is there; in place of one that is \
                 lost put an empty one with the labels of the others",
                missing.join(", ")
            ));
        }
        Ok(origin)
    }

    /// The claims are labelled as another cluster's.
    pub fn claims_are_anothers(&self, cluster: &Valid) -> bool {
        self.claims.values().any(|claim| claim.labels().get(UID_LABEL) != Some(&cluster.uid))
    }

    /// The image that new pods get.
    pub fn image(&self) -> Option<String> {
        let template = self.set.as_ref()?.spec.as_ref()?.template.spec.as_ref()?;
        template.containers.iter().find(|container| container.name == "quorate")?.image.clone()
    }

    /// The images of the pods that are there.
    pub fn images(&self) -> impl Iterator<Item = &str> {
        self.pods.values().filter_map(image_of)
    }

    /// The images that a change of version is judged by: those of pods, or what the last of them had when they were stopped.
    pub fn versions(&self, status: &ClusterStatus) -> Vec<String> {
        match &status.version {
            Some(last) if self.pods.is_empty() && status.cluster_id.is_some() => vec![format!(":{last}")],
            _ => self.images().map(str::to_string).collect(),
        }
    }

    /// Others have another image than this pod, and none that is ready has the same.
    fn is_strange(&self, slot: Slot) -> bool {
        let Some(image) = self.pods.get(&slot).and_then(image_of) else { return false };
        let proven = self.pods.values().any(|pod| is_ready(pod) && image_of(pod) == Some(image));
        !proven && self.images().any(|other| other != image)
    }

    /// Where members can be asked.
    pub fn targets(&self, cluster: &Valid) -> Vec<Target> {
        let target = |(slot, pod): (&Slot, &Pod)| {
            let ip = pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
            running(pod).then(|| Target { slot: *slot, ip, host: cluster.host(&pod.name_any()) })
        };
        self.pods.iter().filter_map(target).collect()
    }
}

/// What a look is put together from.
pub struct Look<'a> {
    /// The wish.
    pub cluster: &'a Valid,
    /// What Kubernetes holds.
    pub objects: &'a Objects,
    /// What members said.
    pub survey: &'a Survey,
    /// What is on record.
    pub status: &'a ClusterStatus,
    /// What is asked for.
    pub asked: &'a Asked,
    /// How far the errand's outside part is.
    pub outside: Option<Outside>,
    /// Hash of the wanted template.
    pub template: &'a str,
    /// When.
    pub now: Seconds,
}

/// Puts one look together.
pub fn world(look: &Look<'_>) -> World {
    let Look { cluster, objects, survey, status, asked, outside, template, now } = look;
    let now = *now;
    let mut slots: BTreeMap<Slot, Place> = BTreeMap::new();
    for (slot, pod) in &objects.pods {
        let mut pod = pod_view(pod, template);
        pod.at_gate = survey.at_gate.contains(slot);
        pod.node_lost = objects.nodes_lost.contains(slot);
        pod.node_off = objects.nodes_off.get(slot).copied();
        pod.strange_image = objects.is_strange(*slot);
        slots.entry(*slot).or_default().pod = Some(pod);
    }
    for (slot, claim) in &objects.claims {
        let mut volume = volume_view(claim, cluster);
        volume.ours |= status.volumes.iter().any(|known| known.uid == volume.uid);
        slots.entry(*slot).or_default().volume = Some(volume);
    }
    let members = survey.members.as_ref().map(|members| members_view(cluster, members, survey));
    let formed = status.cluster_id.is_some();
    let claimed = objects.claims.keys().max().map_or(0, |slot| slot + 1);
    let founders = match formed {
        // All that were there come back.
        _ if cluster.stamp != cluster.uid && status.members.is_empty() => claimed,
        true => status
            .members
            .iter()
            .filter_map(|member| u32::try_from(member.slot?).ok())
            .max()
            .map_or(cluster.replicas(), |slot| slot + 1),
        // A backup's first member founds alone; the others join it.
        false if cluster.spec.bootstrap.is_some() => 1,
        false => {
            let ticket = objects.ticket.as_ref().filter(|ticket| ticket.form);
            ticket.map_or(cluster.replicas(), |ticket| u32::try_from(ticket.members.len()).unwrap_or(0))
        }
    };
    let written = |volume: &crate::crd::status::VolumeStatus| {
        let member = u64::from_str_radix(&volume.member, 16).ok()?;
        Some(Written { slot: u32::try_from(volume.slot).ok()?, volume: volume.uid.clone(), member })
    };
    let spec = &cluster.spec;
    World {
        now,
        wish: Wish {
            replicas: cluster.replicas(),
            paused: spec.paused,
            automatic_update: spec.update.strategy == UpdateStrategy::Automatic,
            update_deadline: spec.update.deadline_seconds,
            automatic_repair: spec.repair.mode == RepairMode::Auto,
            repair_after: spec.repair.after_seconds,
            delete_scaled_volumes: spec.storage.when_scaled == VolumePolicy::Delete,
        },
        formed,
        founders,
        set: objects.set.as_ref().map(set_view),
        slots,
        members,
        volumes: status.volumes.iter().filter_map(written).collect(),
        operation: status.operation.as_ref().and_then(|known| {
            Some(Operation {
                kind: Kind::parse(&known.kind)?,
                slot: known.slot.and_then(|slot| u32::try_from(slot).ok()),
                started: seconds(&known.started_at),
                step: known.step.clone(),
                step_started: seconds(&known.step_at),
                attempt: u32::try_from(known.attempt).unwrap_or(0),
                revision: known.revision,
            })
        }),
        cluster_id: status.cluster_id.clone(),
        revision: revision(survey, status),
        positions: survey.positions.clone(),
        applied: status
            .members
            .iter()
            .filter_map(|member| Some((u32::try_from(member.slot?).ok()?, u64::try_from(member.applied_index?).ok()?)))
            .collect(),
        errand: status.errand.as_ref().and_then(errand),
        withdrawn: asked.withdrawn,
        outside: outside.clone(),
        request: asked.request.clone(),
        upkeep: upkeep(cluster, survey, status, now),
        stores: survey.stores,
    }
}

/// The newest revision that is known of.
pub fn revision(survey: &Survey, status: &ClusterStatus) -> i64 {
    let told = survey.answers.values().filter_map(|answer| Some(answer.header.as_ref()?.revision)).max();
    told.unwrap_or(0).max(status.revision.unwrap_or(0))
}

/// The errand on record.
pub fn errand(known: &crate::crd::status::ErrandStatus) -> Option<Errand> {
    let slot = |slot: i32| u32::try_from(slot).ok();
    Some(Errand {
        purpose: Purpose::parse(&known.kind)?,
        name: known.name.clone(),
        uid: known.uid.clone(),
        slot: slot(known.slot)?,
        stage: Stage::parse(&known.stage)?,
        keep: known.keep,
        old: known
            .old
            .iter()
            .filter_map(|old| Some(Old { slot: slot(old.slot)?, claim: old.claim.clone(), volume: old.volume.clone() }))
            .collect(),
        revision: known.revision,
        note: known.note.clone(),
        started: seconds(&known.started_at),
    })
}

fn upkeep(cluster: &Valid, survey: &Survey, status: &ClusterStatus, now: Seconds) -> Upkeep {
    let spec = &cluster.spec.maintenance;
    let done = status.maintenance.clone().unwrap_or_default();
    let at = |time: &Option<Time>| time.as_ref().map(seconds);
    let revision = revision(survey, status);
    // A schedule that was just written is first due at its next minute; the mark is made when it is first seen.
    let compaction = spec.compaction.as_ref().and_then(|window| {
        let schedule = Cron::parse(&window.schedule).ok()?;
        let (due, _) = upkeep::due(&schedule, at(&done.last_compaction_at)?, now);
        let marks: Vec<_> = done.marks.iter().map(|mark| (seconds(&mark.at), mark.revision)).collect();
        let to = match &window.keep_for {
            Some(age) => upkeep::older_than(&marks, now, upkeep::duration(age)?),
            None => Some(revision - window.keep_revisions.unwrap_or(0)),
        };
        Some(upkeep::Compaction { due: due?, to })
    });
    let reclaim = spec.reclaim.as_ref().and_then(|window| {
        let schedule = Cron::parse(&window.schedule).ok()?;
        let (due, _) = upkeep::due(&schedule, at(&done.last_reclaim_at)?, now);
        let (min_free_percent, min_free_bytes) = (i64::from(window.min_free_percent), window.min_free_bytes);
        Some(upkeep::Reclaim { due: due?, min_free_percent, min_free_bytes })
    });
    let sizes = |slot: &Slot, answer: &quorate_client::proto::etcdserverpb::StatusResponse| Sizes {
        on_disk: answer.db_size,
        in_use: answer.db_size_in_use,
        counted: survey.counted.get(slot).copied(),
        quota: answer.db_size_quota,
    };
    Upkeep {
        full: survey.alarms.iter().any(|alarm| alarm == "NOSPACE"),
        heal_keeping: (spec.full_store.action == FullStoreAction::Heal).then_some(spec.full_store.keep_revisions),
        healed: at(&done.healed_at),
        compacted: survey.compacted,
        sizes: survey.answers.iter().map(|(slot, answer)| (*slot, sizes(slot, answer))).collect(),
        compaction,
        reclaim,
    }
}

fn set_view(set: &StatefulSet) -> world::Set {
    let replicas = set.spec.as_ref().and_then(|spec| spec.replicas).and_then(|count| u32::try_from(count).ok()).unwrap_or(0);
    let seen = set.status.as_ref().and_then(|status| status.observed_generation);
    world::Set { replicas, observed: seen.is_some() && seen >= set.metadata.generation }
}

fn pod_view(pod: &Pod, template: &str) -> world::Pod {
    let status = pod.status.clone().unwrap_or_default();
    let ready = ready_condition(pod);
    let container = status.container_statuses.iter().flatten().find(|container| container.name == "quorate");
    let ended = container.and_then(|container| {
        let last =
            |state: &Option<k8s_openapi::api::core::v1::ContainerState>| Some(state.as_ref()?.terminated.as_ref()?.exit_code);
        last(&container.state).or_else(|| last(&container.last_state))
    });
    let made = pod.metadata.creation_timestamp.as_ref();
    let since = ready.and_then(|condition| condition.last_transition_time.as_ref()).or(made);
    world::Pod {
        uid: pod.uid().unwrap_or_default(),
        ready: ready.is_some_and(|condition| condition.status == "True"),
        since: since.map_or(0, seconds),
        terminating: pod.metadata.deletion_timestamp.is_some(),
        current: pod.annotations().get(TEMPLATE_ANNOTATION).map(String::as_str) == Some(template),
        running: running(pod),
        at_gate: false,
        up_since: container
            .and_then(|container| container.state.as_ref()?.running.as_ref()?.started_at.as_ref())
            .map_or(0, seconds),
        exit_code: ended,
        restarts: container.map_or(0, |container| u32::try_from(container.restart_count).unwrap_or(0)),
        node_lost: false,
        node_off: None,
        version: image_of(pod).map(version_of).unwrap_or_default(),
        strange_image: false,
    }
}

fn ready_condition(pod: &Pod) -> Option<&k8s_openapi::api::core::v1::PodCondition> {
    pod.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == "Ready")
}

fn is_ready(pod: &Pod) -> bool {
    ready_condition(pod).is_some_and(|condition| condition.status == "True")
}

fn image_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.containers.iter().find(|container| container.name == "quorate")?.image.as_deref()
}

/// What the disk of a claim is stamped with, if anything.
fn stamp_of(claim: &PersistentVolumeClaim) -> &str {
    let label = |name: &str| claim.labels().get(name).map(String::as_str);
    label(STAMP_LABEL).or(label(UID_LABEL)).unwrap_or_default()
}

fn volume_view(claim: &PersistentVolumeClaim, cluster: &Valid) -> Volume {
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    Volume {
        uid: claim.uid().unwrap_or_default(),
        terminating: claim.metadata.deletion_timestamp.is_some(),
        lost: phase == Some("Lost"),
        ours: claim.labels().get(UID_LABEL) == Some(&cluster.uid) || stamp_of(claim) == cluster.stamp,
        name: claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).unwrap_or_default(),
        size: apply::requested(claim).map_or_else(String::new, |size| size.0.clone()),
    }
}

fn members_view(cluster: &Valid, members: &[quorate_client::proto::etcdserverpb::Member], survey: &Survey) -> Vec<Member> {
    let by_id: BTreeMap<u64, _> =
        survey.answers.values().filter_map(|answer| Some((answer.header.as_ref()?.member_id, answer))).collect();
    let furthest = by_id.values().map(|answer| answer.raft_index).max().unwrap_or(0);
    let leader = by_id.values().max_by_key(|answer| answer.raft_term).map_or(0, |answer| answer.leader);
    let view = |member: &quorate_client::proto::etcdserverpb::Member| {
        let answer = by_id.get(&member.id);
        Member {
            id: member.id,
            slot: member.peer_urls.iter().find_map(|url| cluster.slot_of_url(url)),
            started: !member.name.is_empty(),
            learner: member.is_learner,
            leader: member.id == leader,
            silent: answer.is_none(),
            healthy: answer.is_some_and(|answer| answer.leader != 0 && answer.raft_applied_index + LAG >= furthest),
        }
    };
    members.iter().map(view).collect()
}

/// The container runs.
fn running(pod: &Pod) -> bool {
    let containers = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let states = containers.into_iter().flatten().filter(|container| container.name == "quorate");
    states.into_iter().any(|container| container.state.as_ref().is_some_and(|state| state.running.is_some()))
}

fn unschedulable(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let mut placed = conditions.into_iter().flatten().filter(|condition| condition.type_ == "PodScheduled");
    placed.any(|condition| condition.status == "False" && condition.reason.as_deref() == Some("Unschedulable"))
}

/// True only when it is certain: the volume names nodes and none of them exists. Without the right to read volumes and nodes it
/// never is.
async fn node_of_volume_is_gone(client: &Client, claim: &PersistentVolumeClaim) -> bool {
    let Some(name) = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_ref()) else { return false };
    let Ok(volume) = Api::<PersistentVolume>::all(client.clone()).get(name).await else { return false };
    let terms = volume.spec.and_then(|spec| spec.node_affinity).and_then(|affinity| affinity.required);
    let expressions =
        terms.into_iter().flat_map(|terms| terms.node_selector_terms).flat_map(|term| term.match_expressions.unwrap_or_default());
    let hosts: Vec<String> = expressions
        .filter(|expression| expression.key == "kubernetes.io/hostname" && expression.operator == "In")
        .flat_map(|expression| expression.values.unwrap_or_default())
        .collect();
    if hosts.is_empty() {
        return false;
    }
    // Only those are asked for: all nodes of a large cluster are more than the operator may have memory for.
    let named = ListParams::default().labels(&format!("kubernetes.io/hostname in ({})", hosts.join(","))).limit(1);
    let nodes: Api<Node> = Api::all(client.clone());
    nodes.list_metadata(&named).await.is_ok_and(|nodes| nodes.items.is_empty())
}

/// Since when the node of a pod has not been heard of (its condition Ready is Unknown). None while it answers, and without the right to
/// list nodes.
async fn node_off_since(client: &Client, pod: &Pod) -> Option<Seconds> {
    let name = pod.spec.as_ref()?.node_name.as_ref()?;
    let named = ListParams::default().fields(&format!("metadata.name={name}")).limit(1);
    let node = Api::<Node>::all(client.clone()).list(&named).await.ok()?.items.pop()?;
    let ready = node.status?.conditions?.into_iter().find(|condition| condition.type_ == "Ready")?;
    let since = ready.last_transition_time.as_ref().filter(|_| ready.status == "Unknown").map(seconds)?;
    // Whoever has been waiting for the node does not give it up in the moment in which somebody deletes the pod.
    Some(pod.metadata.deletion_timestamp.as_ref().map_or(since, |at| since.max(seconds(at))))
}

/// Kubernetes' time in seconds.
pub fn seconds(time: &Time) -> Seconds {
    time.0.as_second()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::fake::Fake;
    use super::super::validate::{tests::sample, validate};
    use super::*;

    fn pod(slot: Slot, uid: &str, image: &str, ready: bool) -> Value {
        json!({
            "metadata": {"name": format!("kv-{slot}"), "namespace": "ns", "labels": {UID_LABEL: uid}},
            "spec": {"containers": [{"name": "quorate", "image": image}]},
            "status": {"podIP": format!("10.0.0.{slot}"), "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
                "containerStatuses": [{"name": "quorate", "image": image, "imageID": "", "ready": ready, "restartCount": 0,
                    "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}]},
        })
    }

    async fn read(pods: Vec<Value>, set: Option<Value>) -> Objects {
        read_beside(pods, set, Vec::new()).await
    }

    async fn read_beside(pods: Vec<Value>, set: Option<Value>, nodes: Vec<Value>) -> Objects {
        let (fake, cluster) = (Fake::default(), validate(&sample(), Some("q:1")).unwrap());
        let client = fake.client().await;
        let list = |kind: &str, items: Vec<Value>| json!({"apiVersion": "v1", "kind": kind, "metadata": {}, "items": items});
        fake.put("/api/v1/nodes", list("NodeList", nodes));
        fake.put("/api/v1/namespaces/ns/pods", list("PodList", pods));
        fake.put("/api/v1/namespaces/ns/persistentvolumeclaims", list("PersistentVolumeClaimList", Vec::new()));
        if let Some(set) = set {
            fake.put("/apis/apps/v1/namespaces/ns/statefulsets/kv", set);
        }
        Objects::read(&client, &cluster, &[]).await.unwrap()
    }

    /// Pods and the StatefulSet of a cluster of the same name, deleted a moment ago, are not this one's: their store's id would be taken
    /// for its own, and it could never form.
    #[tokio::test]
    async fn a_former_cluster_is_not_seen() {
        let set = |uid: &str| json!({"metadata": {"name": "kv", "namespace": "ns", "labels": {UID_LABEL: uid}}});
        let cluster = validate(&sample(), Some("q:1")).unwrap();
        let seen = read(vec![pod(0, "before", "q:1", true), pod(1, &cluster.uid, "q:1", true)], Some(set("before"))).await;
        assert_eq!(seen.targets(&cluster).iter().map(|target| target.slot).collect::<Vec<_>>(), [1]);
        assert!(seen.set.is_none());
        assert!(read(Vec::new(), Some(set(&cluster.uid))).await.set.is_some());
    }

    /// A node is off when nothing is heard of it, which is not the same as one that says it is not ready. A pod that somebody deletes
    /// there gets its time from then on.
    #[tokio::test]
    async fn a_node_that_is_not_heard_of() {
        let cluster = validate(&sample(), Some("q:1")).unwrap();
        let off_since = async |ends: Option<&str>, ready: &str| {
            let mut pod = pod(0, &cluster.uid, "q:1", false);
            pod["spec"]["nodeName"] = json!("a");
            if let Some(at) = ends {
                pod["metadata"]["deletionTimestamp"] = json!(at);
            }
            let condition = json!({"type": "Ready", "status": ready, "lastTransitionTime": "1970-01-01T00:01:40Z"});
            let node = json!({"metadata": {"name": "a"}, "status": {"conditions": [{"type": "DiskPressure", "status": "Unknown"}, condition]}});
            read_beside(vec![pod], None, vec![node]).await.nodes_off.get(&0).copied()
        };
        assert_eq!((off_since(None, "Unknown").await, off_since(None, "False").await), (Some(100), None));
        assert_eq!(off_since(Some("1970-01-01T00:00:30Z"), "Unknown").await, Some(100));
        assert_eq!(off_since(Some("1970-01-01T01:00:00Z"), "Unknown").await, Some(3600));
    }

    /// A volume that a member wrote on is there whatever became of its labels; another one in its place is another one.
    #[tokio::test]
    async fn a_volume_without_its_labels_is_not_lost() {
        let (fake, cluster) = (Fake::default(), validate(&sample(), Some("q:1")).unwrap());
        let client = fake.client().await;
        let list = |kind: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {}, "items": []});
        fake.put("/api/v1/namespaces/ns/pods", list("PodList"));
        fake.put("/api/v1/namespaces/ns/persistentvolumeclaims", list("PersistentVolumeClaimList"));
        for slot in [1, 2] {
            let claim = json!({"metadata": {"name": format!("data-kv-{slot}"), "namespace": "ns", "uid": format!("c{slot}")}});
            fake.put(&format!("/api/v1/namespaces/ns/persistentvolumeclaims/data-kv-{slot}"), claim);
        }
        let known = |slot: i32, uid: &str| VolumeStatus { slot, uid: uid.into(), member: "1".into() };
        let seen = Objects::read(&client, &cluster, &[known(0, "c0"), known(1, "c1"), known(2, "before")]).await.unwrap();
        assert_eq!(seen.claims.keys().copied().collect::<Vec<_>>(), [1]);
    }

    /// The volumes of a deleted namesake are another's until it is on record that this cluster goes on with them; then all its members
    /// are wanted back.
    #[test]
    fn volumes_of_a_deleted_namesake() {
        let claim = |slot: Slot, uid: &str| {
            let text =
                json!({"metadata": {"name": format!("data-kv-{slot}"), "uid": format!("c{slot}"), "labels": {UID_LABEL: uid}}});
            (slot, serde_json::from_value::<PersistentVolumeClaim>(text).unwrap())
        };
        let objects = |claims: &[(Slot, &str)]| Objects {
            set: None,
            pods: BTreeMap::new(),
            claims: claims.iter().map(|(slot, uid)| claim(*slot, uid)).collect(),
            ticket: None,
            nodes_lost: Vec::new(),
            nodes_off: BTreeMap::new(),
        };
        let mut wished = sample();
        wished.spec.bootstrap = Some(serde_json::from_value(json!({"fromVolumes": true})).unwrap());
        let cluster = validate(&wished, Some("q:1")).unwrap();
        let kept = objects(&[(0, "before"), (1, "before"), (2, "before"), (3, "before"), (4, "before")]);
        assert_eq!(kept.origin(&cluster).as_deref(), Ok("before"));
        assert!(objects(&[]).origin(&cluster).unwrap_err().contains("data-kv-0"));
        assert!(objects(&[(0, &cluster.uid)]).origin(&cluster).is_err(), "its own");
        assert!(objects(&[(0, "before"), (1, "long before")]).origin(&cluster).unwrap_err().contains("different"));
        let missing = objects(&[(0, "before"), (3, "before")]).origin(&cluster).unwrap_err();
        assert!(missing.contains("data-kv-1, data-kv-2 are missing"), "{missing}");
        // Taken up before: the labels are the next cluster's, the disks are as they were.
        let mut again = objects(&[(0, "middle"), (1, "middle"), (2, "middle")]);
        for claim in again.claims.values_mut() {
            claim.labels_mut().insert(STAMP_LABEL.into(), "before".into());
        }
        assert_eq!(again.origin(&cluster).as_deref(), Ok("before"));
        let owner = json!({"apiVersion": "quorate.io/v1alpha1", "kind": "QuorateCluster", "name": "kv", "uid": "middle"});
        again.claims.get_mut(&1).unwrap().owner_references_mut().push(serde_json::from_value(owner).unwrap());
        assert!(again.origin(&cluster).unwrap_err().contains("data-kv-1 is to be deleted"));
        // Its own ticket says it when the status is lost.
        let mut wiped = objects(&[(0, &cluster.uid)]);
        wiped.ticket = Some(build::Ticket { cluster: "before".into(), ..build::ticket(&cluster, false, 0..1) });
        assert_eq!(wiped.origin(&cluster).as_deref(), Ok("before"));

        let look = |cluster: &Valid, status: &ClusterStatus| {
            let (survey, asked) = (Survey::default(), Asked::default());
            world(&Look { cluster, objects: &kept, survey: &survey, status, asked: &asked, outside: None, template: "", now: 0 })
        };
        assert!(look(&cluster, &ClusterStatus::default()).slots.values().all(|place| !place.volume.as_ref().unwrap().ours));
        let status = ClusterStatus { origin: Some("before".into()), ..ClusterStatus::default() };
        wished.status = Some(status.clone());
        let cluster = validate(&wished, Some("q:1")).unwrap();
        let seen = look(&cluster, &status);
        assert!(seen.slots.values().all(|place| place.volume.as_ref().unwrap().ours));
        assert_eq!((seen.founders, build::ticket(&cluster, false, 0..5).cluster.as_str()), (5, "before"));
    }

    /// A cluster that sleeps has no pods to tell its version; the status remembers it.
    #[test]
    fn sleep_hides_no_version() {
        let nothing = Objects {
            set: None,
            pods: BTreeMap::new(),
            claims: BTreeMap::new(),
            ticket: None,
            nodes_lost: Vec::new(),
            nodes_off: BTreeMap::new(),
        };
        let mut status = ClusterStatus { version: Some("0.1.0".into()), ..ClusterStatus::default() };
        assert!(nothing.versions(&status).is_empty(), "what was never formed has none");
        status.cluster_id = Some("1".into());
        let step = |to: &str| super::super::validate::step(nothing.versions(&status).iter().map(String::as_str), to);
        assert!(step("q:0.2.0").is_ok() && step("q:0.3.0").is_err());
    }

    /// An image is strange while others have another one and none that works has it.
    #[tokio::test]
    async fn strange_images() {
        let strange = async |images: [(&str, bool); 3]| {
            let pods =
                images.iter().zip(0..).map(|((image, ready), slot)| pod(slot, &sample().metadata.uid.unwrap(), image, *ready));
            let seen = read(pods.collect(), None).await;
            (0..3).filter(|slot| seen.is_strange(*slot)).collect::<Vec<_>>()
        };
        assert_eq!(strange([("a", true), ("a", true), ("a", false)]).await, [0; 0]);
        assert_eq!(strange([("a", true), ("a", true), ("b", false)]).await, [2]);
        assert_eq!(strange([("a", true), ("b", true), ("b", false)]).await, [0; 0]);
        assert_eq!(strange([("a", true), ("b", false), ("b", false)]).await, [1, 2]);
        assert_eq!(strange([("a", false), ("a", false), ("a", false)]).await, [0; 0]);
    }
}
