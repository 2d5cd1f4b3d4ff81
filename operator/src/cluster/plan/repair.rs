//! Members that are incomplete: learners under way, members without their data, pods without a member, volumes without use.

use super::super::world::{Kind, Member, Pod, Seconds, Slot, World};
use super::{Step, Verdict, View};

/// How long a member whose node is off must have been silent before it is taken out, seconds.
const SILENT_FOR: Seconds = 30;

/// A learner comes first: nothing else is begun until it votes or is gone.
pub(super) fn learner(view: &View<'_>) -> Option<Verdict> {
    let member = view.members.iter().filter(|member| member.learner && member.slot.is_some()).min_by_key(|member| member.slot)?;
    let slot = member.slot?;
    let world = view.world;
    let kind = kind_of_join(world, slot);
    let remove = Step::Remove { member: member.id };
    if slot >= world.wish.replicas {
        return Some(Verdict::act(
            Kind::ScaleIn,
            Some(slot),
            remove,
            format!("remove learner {slot}, which is not wanted any more"),
        ));
    }
    if is_lost(world, member) {
        return Some(Verdict::act(kind, Some(slot), remove, format!("remove learner {slot}, which lost its data, to add it anew")));
    }
    if member.started && member.healthy {
        let promote = Step::Promote { member: member.id };
        return Some(Verdict::act(kind, Some(slot), promote, format!("member {slot} catches up; promote it as soon as it has")));
    }
    // There is one learner at a time, and a voter that must be replaced needs that place more.
    let needed = view.voters().any(|voter| is_lost(world, voter) && view.healthy_without(voter.id) >= view.quorum());
    if needed && !member.healthy && world.wish.automatic_repair {
        let text = format!("remove learner {slot}, which does not come up, so that a lost member can be replaced");
        return Some(Verdict::act(kind, Some(slot), remove, text));
    }
    Some(Verdict::wait(kind, Some(slot), format!("wait for member {slot} to join: {}", state_of(world, slot))))
}

/// What the member knew is gone, of no use, or where nobody reaches it.
fn is_lost(world: &World, member: &Member) -> bool {
    world.lost_data(member) || world.damaged(member) || is_off(world, member)
}

fn is_off(world: &World, member: &Member) -> bool {
    member.silent && !member.healthy && member.slot.is_some_and(|slot| world.stranded(slot).is_some())
}

/// A voter that lost what it knew is taken out when the others are a quorum without it; its slot is filled anew afterwards.
pub(super) fn lost_member(view: &View<'_>) -> Option<Verdict> {
    let world = view.world;
    let member = view.voters().find(|member| is_lost(world, member))?;
    let slot = member.slot?;
    let what = match world.lost_data(member) {
        _ if is_off(world, member) => "its node is off and does not come back",
        true => "its volume is gone",
        false if world.pod(slot).is_some_and(|pod| pod.node_lost) => "the node that its volume is bound to is gone",
        false => "it refuses its data as damaged",
    };
    if !world.wish.automatic_repair {
        let message = format!(
            "member {slot} must come back or be replaced ({what}): remove it from the store, or set spec.repair.mode to Auto"
        );
        return Some(Verdict::blocked(Kind::Replace, Some(slot), "RepairIsManual", message));
    }
    if view.healthy_without(member.id) < view.quorum() {
        let message =
            format!("member {slot} must be replaced ({what}), but the others are no quorum: bring another member back first");
        return Some(Verdict::blocked(Kind::Replace, Some(slot), "RepairNeedsQuorum", message));
    }
    let text = format!("remove member {slot}: {what}");
    // It may run and only have missed a question or two.
    let known = world.operation.as_ref().filter(|known| known.step == text);
    if is_off(world, member) && known.is_none_or(|known| world.now - known.step_started < SILENT_FOR) {
        return Some(Verdict::wait(Kind::Replace, Some(slot), text));
    }
    Some(Verdict::act(Kind::Replace, Some(slot), Step::Remove { member: member.id }, text))
}

/// A pod whose slot has no member: give it an empty volume if it has a used one, then add it.
pub(super) fn empty_slot(view: &View<'_>) -> Option<Verdict> {
    let world = view.world;
    let empty = || (0..view.set.replicas.min(world.wish.replicas)).filter(|slot| view.at(*slot).is_none());
    // One that is there goes before one that may never be.
    let at_gate = |slot: &Slot| world.pod(*slot).is_some_and(|pod| pod.at_gate && pod.running && !pod.terminating);
    let usable = |slot: &Slot| {
        let volume = world.volume(*slot).is_some_and(|volume| volume.ours && !volume.terminating && !volume.lost);
        volume && world.leftover(*slot, view.members).is_none()
    };
    let slot = empty().find(|slot| at_gate(slot) && usable(slot)).or_else(|| empty().next())?;
    let kind = kind_of_join(world, slot);
    let stranded = world.stranded(slot);
    // Where its member is out, a volume on a node that is off serves nobody.
    let out_of_reach = || world.volume(slot).filter(|volume| stranded.is_some() && volume.ours && !owned(view, &volume.uid));
    if let Some(volume) = world.leftover(slot, view.members).or_else(out_of_reach) {
        if !world.wish.automatic_repair && kind == Kind::Replace {
            let message = format!(
                "the volume of slot {slot} holds a removed member's data: delete it and the pod, or set spec.repair.mode to Auto"
            );
            return Some(Verdict::blocked(kind, Some(slot), "RepairIsManual", message));
        }
        if !volume.terminating {
            let step = Step::DeleteVolume { slot, uid: volume.uid.clone() };
            return Some(Verdict::act(kind, Some(slot), step, format!("delete the volume of slot {slot}: its member was removed")));
        }
    }
    if let Some(pod) = stranded {
        return Some(forget(kind, slot, pod));
    }
    if let Some(volume) = world.volume(slot) {
        if !volume.ours {
            return Some(foreign(kind, slot));
        }
        if volume.terminating || volume.lost {
            return Some(match world.pod(slot).filter(|pod| !pod.terminating) {
                // A volume goes when nobody uses it.
                Some(pod) => {
                    let step = Step::DeletePod { slot, uid: pod.uid.clone() };
                    Verdict::act(kind, Some(slot), step, format!("delete pod {slot}, so that its volume can go"))
                }
                None => Verdict::wait(kind, Some(slot), format!("wait for the volume of slot {slot} to go")),
            });
        }
    }
    let ready_to_join =
        world.pod(slot).is_some_and(|pod| pod.running && !pod.ready && !pod.terminating) && world.volume(slot).is_some();
    // Another learner, of somebody else's making, comes first.
    if ready_to_join && !view.members.iter().any(|member| member.learner) {
        return Some(Verdict::act(kind, Some(slot), Step::AddLearner { slot }, format!("add member {slot} as a learner")));
    }
    Some(Verdict::wait(kind, Some(slot), format!("wait for pod {slot}: {}", state_of(world, slot))))
}

/// A pod beyond the set's size that its node does not end.
pub(super) fn stray_pod(view: &View<'_>) -> Option<Verdict> {
    if !view.world.wish.automatic_repair {
        return None;
    }
    let beyond = view.world.slots.keys().copied().filter(|slot| *slot >= view.set.replicas && view.at(*slot).is_none());
    let (slot, pod) = beyond.filter_map(|slot| Some((slot, view.world.stranded(slot)?))).next()?;
    Some(forget(Kind::ScaleIn, slot, pod))
}

pub(super) fn forget(kind: Kind, slot: Slot, pod: &Pod) -> Verdict {
    let step = Step::ForcePod { slot, uid: pod.uid.clone() };
    Verdict::act(kind, Some(slot), step, format!("forget pod {slot}, which its node, being off, does not end"))
}

/// A volume beyond the wished size that no member owns any more.
pub(super) fn unused_volume(view: &View<'_>) -> Option<Verdict> {
    let world = view.world;
    if !world.wish.delete_scaled_volumes {
        return None;
    }
    let beyond = view.set.replicas.max(world.wish.replicas);
    let unused = world.slots.iter().find_map(|(slot, place)| {
        let volume = place.volume.as_ref()?;
        let free = *slot >= beyond && place.pod.is_none() && view.at(*slot).is_none();
        (free && volume.ours && !volume.terminating && !owned(view, &volume.uid)).then_some((*slot, volume))
    });
    let (slot, volume) = unused?;
    let step = Step::DeleteVolume { slot, uid: volume.uid.clone() };
    Some(Verdict::act(Kind::ScaleIn, Some(slot), step, format!("delete the volume of slot {slot}, whose member was removed")))
}

/// A member of the list wrote on this volume.
pub(super) fn owned(view: &View<'_>, volume: &str) -> bool {
    let world = view.world;
    let mut written = world.volumes.iter().filter(|written| written.volume == volume);
    written.any(|written| view.members.iter().any(|member| member.id == written.member))
}

/// The slot holds a volume that was made for somebody else.
pub(super) fn foreign(kind: Kind, slot: Slot) -> Verdict {
    let message = format!(
        "the volume claim of slot {slot} was made for another cluster of this name: go on with its data by spec.bootstrap.fromVolumes, or keep it elsewhere and delete the claim, or use another name"
    );
    Verdict::blocked(kind, Some(slot), "ForeignVolume", message)
}

/// Joining goes on under the name of the operation that made the slot empty.
fn kind_of_join(world: &World, slot: Slot) -> Kind {
    match &world.operation {
        Some(known) if known.slot == Some(slot) && matches!(known.kind, Kind::Replace | Kind::ScaleOut) => known.kind,
        _ if world.volumes.iter().any(|written| written.slot == slot) => Kind::Replace,
        _ => Kind::ScaleOut,
    }
}

/// A slot's pod, in words.
fn state_of(world: &World, slot: Slot) -> &'static str {
    match world.pod(slot) {
        None => "there is no pod yet",
        Some(pod) if pod.terminating && pod.node_off.is_some() => "its pod is being deleted, and its node is off",
        Some(pod) if pod.terminating => "its pod is being deleted",
        Some(pod) if pod.node_lost => "its pod cannot be placed: the node of its volume is gone",
        Some(pod) if !pod.running && pod.exit_code.is_some() => "its container does not stay up",
        Some(pod) if !pod.running => "its pod does not run yet",
        Some(pod) if pod.at_gate => "it waits at the gate",
        Some(_) => "it is not ready yet",
    }
}
