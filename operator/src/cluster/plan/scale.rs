//! The number of members: founding, sleeping and waking, and one more or one less at a time.

use super::super::world::{Kind, Pod, Set, World};
use super::{HAND_OVER_TRIES, Step, Verdict, View, repair, rollout};

/// Volumes that were taken up hold what is not one cluster.
const TWO_STORES: &str = "the volumes hold different stores, as members of one that was lost and recovered do: delete this QuorateCluster and the \
    claims of the store that is not wanted, and make it anew";

/// The founders start and find each other. Their number is fixed by the first ticket: two tickets could found two stores.
pub(super) fn form(world: &World, set: &Set) -> Verdict {
    let wanted = if world.wish.replicas == 0 { 0 } else { world.founders };
    if let Some(slot) = (0..wanted).find(|slot| world.volume(*slot).is_some_and(|volume| !volume.ours)) {
        return repair::foreign(Kind::Form, slot);
    }
    if world.stores > 1 || world.operation.as_ref().is_some_and(|known| known.step == TWO_STORES) {
        let step = if set.replicas > 0 { Step::SetReplicas(0) } else { Step::Nothing };
        return Verdict { step, ..Verdict::blocked(Kind::Form, None, "DifferentStores", TWO_STORES) };
    }
    if wanted == 0 && world.wish.replicas > 0 {
        let message = "spec.bootstrap.fromVolumes: the volume claims are gone";
        return Verdict::blocked(Kind::Form, None, "NothingToTakeUp", message);
    }
    let refuses = |pod: &Pod| pod.current && pod.refuses() && pod.restarts >= 1 && !pod.running && !pod.terminating;
    if let Some(slot) = (0..wanted).find(|slot| world.pod(*slot).is_some_and(refuses)) {
        let message = format!("pod {slot} refuses what is on its volume; its log says why");
        return Verdict::blocked(Kind::Form, Some(slot), "DataRefused", message);
    }
    if set.replicas != wanted {
        return Verdict::act(Kind::Form, None, Step::SetReplicas(wanted), format!("start {wanted} members"));
    }
    rollout::restart_hopeless(world, set, &[])
        .unwrap_or_else(|| Verdict::wait(Kind::Form, None, "wait for the first members to find each other"))
}

/// Nobody is removed: the same members come back with their volumes.
pub(super) fn hibernate(world: &World, set: &Set) -> Option<Verdict> {
    if set.replicas > 0 {
        return Some(Verdict::act(Kind::Hibernate, None, Step::SetReplicas(0), "stop all members"));
    }
    let left = world.slots.values().any(|place| place.pod.is_some());
    left.then(|| Verdict::wait(Kind::Hibernate, None, "wait for all members to stop"))
}

/// As many pods as there were members; another size is reached from there.
pub(super) fn wake(world: &World) -> Verdict {
    Verdict::act(Kind::Wake, None, Step::SetReplicas(world.founders), "start the members again")
}

/// Without a quorum: members that somebody scaled away behind our back are needed.
pub(super) fn refill(world: &World, set: &Set) -> Option<Verdict> {
    (set.replicas < world.founders).then(|| wake(world))
}

/// How long members that were started again may take to find each other before that counts as a lost quorum, seconds.
const WAKE_WITHIN: i64 = 120;

/// They have been started a moment ago.
pub(super) fn waking(world: &World) -> Option<Verdict> {
    let operation = world.operation.as_ref().filter(|operation| operation.kind == Kind::Wake)?;
    (world.now - operation.started < WAKE_WITHIN)
        .then(|| Verdict::wait(Kind::Wake, operation.slot, "wait for the members to find each other again"))
}

/// Every member has a pod, whatever was done to the StatefulSet.
pub(super) fn cover(view: &View<'_>) -> Option<Verdict> {
    let needed = view.members.iter().filter_map(|member| member.slot).max().map_or(0, |slot| slot + 1);
    (needed > view.set.replicas)
        .then(|| Verdict::act(Kind::Wake, None, Step::SetReplicas(needed), "start the pods that the store's members need"))
}

/// A pod beyond the wished number that has no member.
pub(super) fn drop_unused(view: &View<'_>) -> Option<Verdict> {
    let slot = view.set.replicas.checked_sub(1)?;
    (slot >= view.world.wish.replicas && view.at(slot).is_none())
        .then(|| Verdict::act(Kind::ScaleIn, Some(slot), Step::SetReplicas(slot), format!("stop pod {slot}")))
}

/// A pod beyond the wished number is still on its way out; its volume goes after it.
pub(super) fn leaving(view: &View<'_>) -> Option<Verdict> {
    let (slot, _) = view.world.slots.iter().find(|(slot, place)| **slot >= view.set.replicas && place.pod.is_some())?;
    Some(Verdict::wait(Kind::ScaleIn, Some(*slot), format!("wait for pod {slot} to stop")))
}

/// One step towards the wished number.
pub(super) fn towards(view: &View<'_>) -> Option<Verdict> {
    let (have, wished) = (view.set.replicas, view.world.wish.replicas);
    match have.cmp(&wished) {
        std::cmp::Ordering::Less => Some(grow(view)),
        std::cmp::Ordering::Equal => None,
        std::cmp::Ordering::Greater => shrink(view),
    }
}

/// The pod comes first and waits at the gate; a pod that cannot be placed costs nothing then.
fn grow(view: &View<'_>) -> Verdict {
    let (world, slot) = (view.world, view.set.replicas);
    let kind = Kind::ScaleOut;
    if let Some(volume) = world.volume(slot) {
        if !volume.ours {
            return repair::foreign(kind, slot);
        }
        if volume.terminating {
            return Verdict::wait(kind, Some(slot), format!("wait for the volume of slot {slot} to go"));
        }
        if world.volumes.iter().any(|written| written.slot == slot && written.volume == volume.uid) {
            if !world.wish.delete_scaled_volumes {
                let message = format!(
                    "the volume claim of slot {slot} holds a removed member's data, kept by spec.storage.whenScaled: delete it to let the cluster grow"
                );
                return Verdict::blocked(kind, Some(slot), "LeftoverVolume", message);
            }
            if !repair::owned(view, &volume.uid) {
                let step = Step::DeleteVolume { slot, uid: volume.uid.clone() };
                return Verdict::act(kind, Some(slot), step, format!("delete the volume of slot {slot}, whose member was removed"));
            }
        }
    }
    if !view.calm() {
        return Verdict::wait(kind, Some(slot), "wait for all members to be healthy before another is added");
    }
    // Two voters bear no failure at all, so from one on the next two pods are started together: when the second votes, the third already
    // waits at the gate.
    let alone = view.voters().count() == 1 && world.volume(slot + 1).is_none();
    match alone && slot + 2 <= world.wish.replicas {
        true => {
            let text = format!("start pods {slot} and {}", slot + 1);
            Verdict::act(kind, Some(slot), Step::SetReplicas(slot + 2), text)
        }
        false => Verdict::act(kind, Some(slot), Step::SetReplicas(slot + 1), format!("start pod {slot}")),
    }
}

/// The member leaves first, its pod next, its volume last.
fn shrink(view: &View<'_>) -> Option<Verdict> {
    let slot = view.set.replicas.checked_sub(1)?;
    let kind = Kind::ScaleIn;
    let member = view.at(slot)?;
    let mut others = view.voters().filter(|other| other.id != member.id).peekable();
    if others.peek().is_none() || others.any(|other| !other.healthy) {
        return Some(Verdict::wait(kind, Some(slot), "wait for the members that stay to be healthy before one is removed"));
    }
    let text = format!("member {slot} hands leadership over before it leaves");
    if member.leader && view.tries(&text) < HAND_OVER_TRIES {
        let to = view.successor(member)?;
        return Some(Verdict::act(kind, Some(slot), Step::MoveLeader { from: member.id, to: to.id }, text));
    }
    Some(Verdict::act(kind, Some(slot), Step::Remove { member: member.id }, format!("remove member {slot}")))
}
