//! Changes of pods: what is broken first, since it cannot hurt; then one follower after the other; the leader last.

use super::super::world::{Kind, Member, Pod, Seconds, Set, Slot, World};
use super::{DEAD_AFTER, GONE_WITHIN, HAND_OVER_TRIES, HOPELESS_AFTER, SETTLED_AFTER, Step, Verdict, View};

/// A pod of the old form that does not work anyway gets the new form at once: nothing is lost by that, and a change that was made
/// to mend it must reach it even when the rest is in trouble.
pub(super) fn restart_hopeless(world: &World, set: &Set, members: &[Member]) -> Option<Verdict> {
    restart_broken(world, set, members, HOPELESS_AFTER)
}

/// The same while members have data: only once those that got the new form have come up in it. A form in which nobody works would
/// otherwise reach whoever is away for a moment, and take the quorum with it.
pub(super) fn mend(world: &World, set: &Set, members: &[Member]) -> Option<Verdict> {
    let open = unproven(world, set, members).is_none() && !is_under_way(world);
    open.then(|| restart_hopeless(world, set, members))?
}

/// The same without a quorum, where each that runs may be the one that brings it back: those are given more time, and are left alone
/// where somebody supervises changes.
pub(super) fn mend_dead(world: &World, set: &Set) -> Option<Verdict> {
    if unproven(world, set, &[]).is_some() || is_under_way(world) {
        return None;
    }
    let patience = if world.wish.automatic_update { DEAD_AFTER } else { Seconds::MAX };
    restart_broken(world, set, &[], patience)
}

/// Why nobody else gets the new form, where somebody could do with it.
pub(super) fn wait_for_proof(world: &World, set: &Set) -> Option<Verdict> {
    let slot = unproven(world, set, &[])?;
    let old = |slot: Slot| world.pod(slot).is_some_and(|pod| !pod.current && !pod.ready);
    (0..set.replicas).any(old).then(|| match late(world, slot) {
        true => {
            let message = format!("{}, or delete the pods that shall have it all the same", halted_text(slot));
            Verdict::blocked(Kind::Rollout, Some(slot), "RolloutHalted", message)
        }
        false => Verdict::wait(Kind::Rollout, Some(slot), format!("wait for member {slot} to come up in its new form")),
    })
}

/// `patience` is how long one that runs may be unready, seconds.
fn restart_broken(world: &World, set: &Set, members: &[Member], patience: Seconds) -> Option<Verdict> {
    if !set.observed {
        return None;
    }
    let healthy = |slot: Slot| members.iter().any(|member| member.slot == Some(slot) && member.healthy);
    let pods = (0..set.replicas).filter_map(|slot| Some((slot, world.pod(slot)?)));
    let hopeless = pods.filter(|(slot, pod)| {
        let broken = !pod.running || world.now - pod.since >= patience;
        !pod.current && !pod.ready && !pod.terminating && pod.node_off.is_none() && broken && !healthy(*slot)
    });
    // One that never ran, such as one that cannot be placed, shows least of whether the new form is any good.
    let (slot, pod) = hopeless.min_by_key(|(slot, pod)| (!pod.running && pod.exit_code.is_none(), *slot))?;
    let step = Step::DeletePod { slot, uid: pod.uid.clone() };
    Some(Verdict::act(Kind::Rollout, Some(slot), step, format!("restart member {slot}, which does not work, in its new form")))
}

/// A member that got the new form and has not come up in it, or not for long enough to tell. One that refuses what is on its volume
/// says nothing of the form, unless nobody works with this image; nor does one whose volume's node is gone.
fn unproven(world: &World, set: &Set, members: &[Member]) -> Option<Slot> {
    let owned = |slot: Slot| match members {
        [] => world.volumes.iter().any(|written| written.slot == slot),
        members => members.iter().any(|member| member.slot == Some(slot)),
    };
    let up = |pod: &Pod| pod.running && world.now - pod.up_since >= HOPELESS_AFTER;
    let new = |pod: &Pod| {
        pod.current
            && !pod.ready
            && !pod.terminating
            && !pod.node_lost
            && pod.node_off.is_none()
            && (!pod.refuses() || pod.strange_image)
    };
    (0..set.replicas).find(|slot| owned(*slot) && world.pod(*slot).is_some_and(|pod| new(pod) && !up(pod)))
}

/// The one that was restarted last is still on its way out, or not made anew yet. On a node that is gone it may be so for ever.
fn is_under_way(world: &World) -> bool {
    let Some(known) = world.operation.as_ref().filter(|known| known.kind == Kind::Rollout) else { return false };
    let gone = known.slot.is_some_and(|slot| world.pod(slot).is_none_or(|pod| pod.terminating));
    gone && world.now - known.step_started < GONE_WITHIN
}

/// The next pod to get its new form.
pub(super) fn next(view: &View<'_>) -> Option<Verdict> {
    let (world, set) = (view.world, view.set);
    let old = |slot: &Slot| view.at(*slot).is_some() && world.pod(*slot).is_some_and(|pod| !pod.current);
    let outdated: Vec<Slot> = (0..set.replicas).filter(old).collect();
    let halted = halted(view);
    let restarting = world.operation.as_ref().is_some_and(|known| known.kind == Kind::Rollout);
    if outdated.is_empty() {
        // The last one is on its way up.
        let slot = world.operation.as_ref().and_then(|known| known.slot);
        return (restarting && !view.calm()).then(|| halted.unwrap_or_else(|| Verdict::wait(Kind::Rollout, slot, wait_text(slot))));
    }
    let voters = view.voters().count();
    // Of two, each is needed; they are two only on the way to another size, which goes on.
    if !world.wish.automatic_update || voters == 2 {
        return None;
    }
    let slot = world.operation.as_ref().filter(|_| restarting).and_then(|known| known.slot);
    if !set.observed {
        return Some(Verdict::wait(Kind::Rollout, slot, "wait for the StatefulSet's controller to see the change"));
    }
    if !view.calm() {
        return Some(halted.unwrap_or_else(|| Verdict::wait(Kind::Rollout, slot, wait_text(slot))));
    }
    let fresh = |slot: &Slot| world.pod(*slot).is_some_and(|pod| pod.current && world.now - pod.since < SETTLED_AFTER);
    if let Some(slot) = (0..set.replicas).find(fresh) {
        return Some(Verdict::wait(Kind::Rollout, Some(slot), format!("wait for member {slot} to stay ready")));
    }
    let leads = |slot: Slot| view.at(slot).is_some_and(|member| member.leader);
    let chosen = outdated.iter().rev().find(|slot| !leads(**slot)).copied();
    if let Some(slot) = chosen {
        return restart(view, slot, format!("restart member {slot} in its new form"));
    }
    let slot = *outdated.first()?;
    let leader = view.at(slot)?;
    let text = format!("member {slot} hands leadership over before it is restarted");
    match view.successor(leader) {
        Some(to) if view.tries(&text) < HAND_OVER_TRIES => {
            Some(Verdict::act(Kind::Rollout, Some(slot), Step::MoveLeader { from: leader.id, to: to.id }, text))
        }
        _ => restart(view, slot, format!("restart member {slot}, the leader, in its new form")),
    }
}

fn restart(view: &View<'_>, slot: Slot, text: String) -> Option<Verdict> {
    let member = view.at(slot)?;
    let alone = view.voters().count() == 1;
    if !alone && !member.learner && view.healthy_without(member.id) < view.quorum() {
        return Some(Verdict::wait(Kind::Rollout, Some(slot), "wait for enough healthy members"));
    }
    let uid = view.world.pod(slot)?.uid.clone();
    Some(Verdict::act(Kind::Rollout, Some(slot), Step::DeletePod { slot, uid }, text))
}

/// A pod of the new form that does not get ready stops the rollout, until another change replaces it.
fn halted(view: &View<'_>) -> Option<Verdict> {
    let world = view.world;
    let waits = |slot: &Slot| (*slot < world.wish.replicas || view.at(*slot).is_some()) && late(world, *slot);
    let slot = (0..view.set.replicas).find(waits)?;
    Some(Verdict::blocked(Kind::Rollout, Some(slot), "RolloutHalted", halted_text(slot)))
}

/// It got the new form and has had its time.
fn late(world: &World, slot: Slot) -> bool {
    let late = |pod: &Pod| pod.current && !pod.ready && world.now - pod.since >= world.wish.update_deadline;
    world.pod(slot).is_some_and(late)
}

fn halted_text(slot: Slot) -> String {
    format!(
        "member {slot} did not get ready after its change, so no other is restarted: look at its log, and change or revert the spec"
    )
}

fn wait_text(slot: Option<Slot>) -> String {
    match slot {
        Some(slot) => format!("wait for member {slot} to be ready again"),
        None => "wait for all members to be ready".to_string(),
    }
}
