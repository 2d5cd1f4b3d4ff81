//! What somebody asked for that goes against the rules of the others: one member becomes the whole cluster, or a backup takes the place
//! of all data. Both stop every member first, so that no two stores can ever serve side by side.
//!
//! In: the request, then the journal of the errand. Out: a step, the journal's next form, or the end. Old data is deleted only when
//! the new store serves; until then its volumes are where they were, or kept aside.

use super::super::errand::{Ask, Ended, Errand, Old, Outside, Purpose, Request, Stage};
use super::super::world::{Kind, Seconds, Set, Slot, World, exit};
use super::{Plan, Step, Verdict, journal, repair, rollout};

/// How long a quorum must be missing before it counts as lost for good, seconds. Members that start at the same time find each other
/// well within that.
const LOST_FOR: Seconds = 30;
/// How often the member that the cluster goes on with may fail to start before a person should look.
const FAILED_STARTS: u32 = 3;

/// The first step of what is asked for, if it is of this kind and can be begun now.
pub(super) fn begin(world: &World, request: &Request) -> Option<Plan> {
    let (purpose, keep) = match request.ask {
        Ask::Recover { keep, .. } => (Purpose::RecoverQuorum, keep),
        Ask::Restore { keep } => (Purpose::Restore, keep),
        _ => return None,
    };
    if let Some(why) = unfit(world, request) {
        return Some(refuse(world, request, why));
    }
    // Asleep, nobody can tell who knows what; the task waits until the cluster is woken.
    let set = world.set.as_ref().filter(|set| set.replicas > 0 && world.wish.replicas > 0)?;
    let (slot, note) = match request.ask {
        // One that was scaled away by hand may know more than those that are here.
        Ask::Recover { .. } if set.replicas < world.founders => return None,
        Ask::Recover { slot, .. } => match survivor(world, slot) {
            Ok(found) => found,
            Err(Choice::Never(why)) => return Some(refuse(world, request, why)),
            // Whatever keeps members from answering is tried first.
            Err(Choice::NotYet(_)) => return None,
        },
        _ => (0, String::new()),
    };
    let kind = kind(purpose);
    let text = match purpose {
        Purpose::RecoverQuorum => format!("the quorum is lost: member {slot} becomes the whole cluster"),
        Purpose::Restore => "stop all members, to put a backup in place of their data".to_string(),
    };
    // Two looks that agree, and for a lost quorum some time between them.
    let known = world.operation.as_ref().filter(|known| known.kind == kind && known.step == text);
    let patience = if purpose == Purpose::RecoverQuorum { LOST_FOR } else { 0 };
    if known.is_none_or(|known| world.now - known.step_started < patience) {
        return Some(journal(world, Verdict::wait(kind, Some(slot), text)));
    }
    let old = world.slots.iter().filter_map(|(slot, place)| {
        let volume = place.volume.as_ref().filter(|volume| volume.ours)?;
        Some(Old { slot: *slot, claim: volume.uid.clone(), volume: volume.name.clone() })
    });
    let errand = Errand {
        purpose,
        name: request.name.clone(),
        uid: request.uid.clone(),
        slot,
        stage: Stage::Stopping,
        keep,
        old: old.collect(),
        revision: world.revision,
        note,
        started: world.now,
    };
    Some(stop(world, set, &errand).unwrap_or_else(|| at(world, &errand, "all members have stopped")))
}

/// A recovery is asked for, and there is nobody to go on with.
pub(super) fn nobody(world: &World) -> Option<Verdict> {
    let request = world.request.as_ref()?;
    let Ask::Recover { slot, .. } = request.ask else { return None };
    match survivor(world, slot) {
        Err(Choice::NotYet(why)) => Some(Verdict::blocked(Kind::RecoverQuorum, None, "NoSurvivor", why)),
        _ => None,
    }
}

/// Why a request can never be fulfilled.
fn unfit(world: &World, request: &Request) -> Option<String> {
    if !world.formed {
        return Some("the cluster has no data yet: use spec.bootstrap.restore for a new one".into());
    }
    if request.confirm.is_some() && request.confirm != world.cluster_id {
        let id = world.cluster_id.as_deref().unwrap_or("unknown");
        return Some(format!("spec.confirm is not this cluster's id, which is {id}: nothing was done"));
    }
    let serves = world.members.is_some() && matches!(request.ask, Ask::Recover { .. });
    serves.then(|| "the cluster has a quorum: there is nothing to recover, and nothing was done".into())
}

fn refuse(world: &World, request: &Request, message: String) -> Plan {
    let ended = Ended { uid: request.uid.clone(), done: false, message, kept: Vec::new() };
    Plan { step: Step::Nothing, operation: world.operation.clone(), blocked: None, errand: None, ended: Some(ended), window: None }
}

/// Why there is no member to go on with.
enum Choice {
    Never(String),
    NotYet(String),
}

/// Whom the cluster goes on with, and what may be lost by that: the one that is named, or of those that answer the one whose log
/// reaches furthest, as in an election.
fn survivor(world: &World, named: Option<Slot>) -> Result<(Slot, String), Choice> {
    let usable = |slot: Slot| {
        let volume = world.volume(slot).is_some_and(|volume| volume.ours && !volume.terminating && !volume.lost);
        let refuses = world.pod(slot).is_some_and(|pod| matches!(pod.exit_code, Some(exit::DATA | exit::REMOVED)) && !pod.running);
        volume && !refuses && !world.pod(slot).is_some_and(|pod| pod.at_gate)
    };
    let slot = match named {
        Some(slot) if usable(slot) => slot,
        Some(slot) => {
            return Err(Choice::Never(format!("member {slot} cannot be gone on with: its volume is gone, or its data is refused")));
        }
        None => {
            let best = world
                .positions
                .iter()
                .filter(|(slot, _)| usable(**slot))
                .max_by_key(|(slot, position)| (**position, u32::MAX - **slot));
            let Some((slot, _)) = best else {
                let why = "no member with data answers: bring one back, or name a pod in spec.recoverQuorum.slot of another task";
                return Err(Choice::NotYet(why.into()));
            };
            *slot
        }
    };
    let reach = match world.positions.get(&slot) {
        Some((term, index)) => format!("the log of member {slot} ends at entry {index} of term {term}"),
        None => format!("member {slot} does not answer, so where its log ends is not known"),
    };
    let others = world.applied.iter().filter(|(other, _)| **other != slot).max_by_key(|(_, index)| **index);
    let seen =
        others.map_or(String::new(), |(other, index)| format!("; of the others member {other} was last seen at entry {index}"));
    Ok((slot, format!("{reach}{seen}. Writes that were acknowledged by members without it are lost")))
}

/// The next step of one under way.
pub(super) fn proceed(world: &World, errand: &Errand) -> Plan {
    let Some(set) = &world.set else { return at(world, errand, "wait for the StatefulSet") };
    match errand.stage {
        Stage::Stopping if world.withdrawn => end(errand, false, "withdrawn before anything was changed", Vec::new()),
        Stage::Stopping => stop(world, set, errand).unwrap_or_else(|| {
            let stage = if errand.purpose == Purpose::Restore { Stage::Filling } else { Stage::Starting };
            at(world, &Errand { stage, ..errand.clone() }, "all members have stopped")
        }),
        Stage::Filling => fill(world, set, errand),
        Stage::Starting => start(world, set, errand),
        Stage::Retiring => retire(world, set, errand),
        Stage::GoingBack => stop(world, set, errand).unwrap_or_else(|| match &world.outside {
            Some(Outside::Done) => end(errand, false, "withdrawn: the old data is back in its place", Vec::new()),
            Some(Outside::Failed(why)) => blocked(world, errand, "RestoreFailed", why.clone()),
            Some(Outside::Busy(what)) => at(world, errand, what.clone()),
            None => at(world, errand, "put the old data back in its place"),
        }),
    }
}

/// Every process ends. A pod that cannot be seen to have ended keeps everything waiting: its member may still serve somebody.
fn stop(world: &World, set: &Set, errand: &Errand) -> Option<Plan> {
    if set.replicas > 0 {
        return Some(with(
            world,
            errand,
            Verdict::act(kind(errand.purpose), Some(errand.slot), Step::SetReplicas(0), "stop all members"),
        ));
    }
    let (slot, _) = world.slots.iter().find(|(_, place)| place.pod.is_some())?;
    let text = format!("wait for pod {slot} to end; if its node is off for good, delete the pod by force");
    Some(at(world, errand, text))
}

fn fill(world: &World, set: &Set, errand: &Errand) -> Plan {
    if world.withdrawn {
        return at(world, &Errand { stage: Stage::GoingBack, ..errand.clone() }, "withdrawn: go back to the old data");
    }
    if let Some(plan) = stop(world, set, errand) {
        return plan;
    }
    let slot = errand.slot;
    if let Some(volume) = world.volume(slot).filter(|volume| errand.is_old(&volume.uid)) {
        if volume.terminating {
            return at(world, errand, format!("wait for the claim of the old volume {slot} to go"));
        }
        // Kept whatever was asked for: it goes, if it goes, when the restored data serves.
        let step = Step::RetireVolume { slot, uid: volume.uid.clone(), keep: true };
        return with(world, errand, Verdict::act(Kind::Restore, Some(slot), step, format!("put the old volume {slot} aside")));
    }
    match &world.outside {
        Some(Outside::Done) => at(world, &Errand { stage: Stage::Starting, ..errand.clone() }, "the backup is on the first volume"),
        Some(Outside::Failed(why)) => blocked(world, errand, "RestoreFailed", why.clone()),
        Some(Outside::Busy(what)) => at(world, errand, what.clone()),
        None => at(world, errand, "fill the first volume from the backup"),
    }
}

fn start(world: &World, set: &Set, errand: &Errand) -> Plan {
    let slot = errand.slot;
    if let Some(members) = &world.members {
        let alone = |slot| members.iter().all(|member| member.slot == Some(slot)) && !members.is_empty();
        if alone(slot) {
            return at(world, &Errand { stage: Stage::Retiring, ..errand.clone() }, format!("member {slot} serves alone"));
        }
        // Nobody took the recovery up; those of before are back, with all they had.
        return end(errand, false, "the members of before serve again: nothing was recovered, and nothing was lost", Vec::new());
    }
    if world.withdrawn && errand.purpose == Purpose::Restore {
        return at(world, &Errand { stage: Stage::GoingBack, ..errand.clone() }, "withdrawn: go back to the old data");
    }
    if set.replicas != slot + 1 {
        let step = Step::SetReplicas(slot + 1);
        return with(world, errand, Verdict::act(kind(errand.purpose), Some(slot), step, format!("start member {slot}")));
    }
    if let Some(verdict) = rollout::restart_hopeless(world, set, &[]) {
        return with(world, errand, Verdict { kind: kind(errand.purpose), slot: Some(slot), ..verdict });
    }
    let fails = world.pod(slot).is_some_and(|pod| !pod.running && pod.exit_code.is_some() && pod.restarts >= FAILED_STARTS);
    if fails {
        let back = match errand.purpose {
            Purpose::Restore => format!(", or delete QuorateRestore {} to go back to the old data", errand.name),
            Purpose::RecoverQuorum => String::new(),
        };
        let reason = if errand.purpose == Purpose::Restore { "RestoreFailed" } else { "RecoveryFailed" };
        return blocked(world, errand, reason, format!("member {slot} does not start: look at its pod's log{back}"));
    }
    at(world, errand, format!("wait for member {slot} to serve alone"))
}

/// The others' old volumes make room. Their pods, where there are any, refuse to start on them.
fn retire(world: &World, set: &Set, errand: &Errand) -> Plan {
    let kind = kind(errand.purpose);
    if world.members.is_none() {
        if set.replicas <= errand.slot {
            let step = Step::SetReplicas(errand.slot + 1);
            return with(world, errand, Verdict::act(kind, Some(errand.slot), step, format!("start member {}", errand.slot)));
        }
        return match rollout::restart_hopeless(world, set, &[]) {
            Some(verdict) => with(world, errand, Verdict { kind, slot: Some(errand.slot), ..verdict }),
            None => at(world, errand, format!("wait for member {} to serve", errand.slot)),
        };
    }
    let still = |old: &Old| world.volume(old.slot).filter(|volume| old.slot != errand.slot && volume.uid == old.claim);
    if let Some((slot, volume)) = errand.old.iter().find_map(|old| Some((old.slot, still(old)?))) {
        if !volume.terminating {
            let step = Step::RetireVolume { slot, uid: volume.uid.clone(), keep: errand.keep };
            let text = match errand.keep {
                true => format!("put the old volume {slot} aside"),
                false => format!("delete the old volume {slot}"),
            };
            return with(world, errand, Verdict::act(kind, Some(errand.slot), step, text));
        }
        let listed = world.members.iter().flatten().any(|member| member.slot == Some(slot));
        if let Some(pod) = world.stranded(slot).filter(|_| world.members.is_some() && !listed) {
            let verdict = repair::forget(kind, slot, pod);
            return with(world, errand, Verdict { slot: Some(errand.slot), ..verdict });
        }
        return match world.pod(slot).filter(|pod| !pod.terminating) {
            Some(pod) => {
                let step = Step::DeletePod { slot, uid: pod.uid.clone() };
                let text = format!("delete pod {slot}, so that its old volume can go");
                with(world, errand, Verdict::act(kind, Some(errand.slot), step, text))
            }
            None => at(world, errand, format!("wait for the old volume {slot} to go")),
        };
    }
    let mine =
        errand.old.iter().find(|old| old.slot == errand.slot && errand.purpose == Purpose::Restore && !old.volume.is_empty());
    if let Some(old) = mine.filter(|_| !errand.keep) {
        // By what is seen of it: that it was once decided does not say that it was done.
        if world.outside != Some(Outside::Done) {
            let text = format!("delete the old volume {}", old.volume);
            let step = Step::ReleaseVolume { volume: old.volume.clone() };
            return with(world, errand, Verdict::act(kind, Some(errand.slot), step, text));
        }
    }
    let kept =
        |old: &&Old| errand.keep && !old.volume.is_empty() && (old.slot != errand.slot || errand.purpose == Purpose::Restore);
    let kept: Vec<Old> = errand.old.iter().filter(kept).cloned().collect();
    let message = match errand.purpose {
        Purpose::RecoverQuorum => format!("member {} is the cluster; the others join anew", errand.slot),
        Purpose::Restore => "the restored data serves; the other members join anew".to_string(),
    };
    end(errand, true, message, kept)
}

fn kind(purpose: Purpose) -> Kind {
    match purpose {
        Purpose::RecoverQuorum => Kind::RecoverQuorum,
        Purpose::Restore => Kind::Restore,
    }
}

/// A verdict, with the errand's journal in this form.
fn with(world: &World, errand: &Errand, verdict: Verdict) -> Plan {
    Plan { errand: Some(errand.clone()), ..journal(world, verdict) }
}

fn at(world: &World, errand: &Errand, text: impl Into<String>) -> Plan {
    with(world, errand, Verdict::wait(kind(errand.purpose), Some(errand.slot), text))
}

fn blocked(world: &World, errand: &Errand, reason: &'static str, message: impl Into<String>) -> Plan {
    with(world, errand, Verdict::blocked(kind(errand.purpose), Some(errand.slot), reason, message))
}

fn end(errand: &Errand, done: bool, message: impl Into<String>, kept: Vec<Old>) -> Plan {
    let ended = Ended { uid: errand.uid.clone(), done, message: message.into(), kept };
    Plan { step: Step::Nothing, operation: None, blocked: None, errand: None, ended: Some(ended), window: None }
}
