//! Changes of pods: what is broken first, since it cannot hurt; then one follower after the other; the leader last.

use super::super::world::{Kind, Member, Set, Slot, World};
use super::{HAND_OVER_TRIES, HOPELESS_AFTER, SETTLED_AFTER, Step, Verdict, View};

/// A pod of the old form that does not work anyway gets the new form at once: nothing is lost by that, and a change that was made
/// to mend it must reach it even when the rest is in trouble.
pub(super) fn restart_hopeless(world: &World, set: &Set, members: &[Member]) -> Option<Verdict> {
    if !set.observed {
        return None;
    }
    let healthy = |slot: Slot| members.iter().any(|member| member.slot == Some(slot) && member.healthy);
    let (slot, pod) = (0..set.replicas).filter_map(|slot| Some((slot, world.pod(slot)?))).find(|(slot, pod)| {
        let broken = !pod.running || pod.exit_code.is_some() || world.now - pod.since >= HOPELESS_AFTER;
        !pod.current && !pod.ready && !pod.terminating && broken && !healthy(*slot)
    })?;
    let step = Step::DeletePod { slot, uid: pod.uid.clone() };
    Some(Verdict::act(Kind::Rollout, Some(slot), step, format!("restart member {slot}, which does not work, in its new form")))
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
    let late = |slot: &Slot| {
        let needed = *slot < world.wish.replicas || view.at(*slot).is_some();
        let pod = world.pod(*slot).filter(|_| needed);
        pod.is_some_and(|pod| pod.current && !pod.ready && world.now - pod.since >= world.wish.update_deadline)
    };
    let slot = (0..view.set.replicas).find(late)?;
    let message = format!(
        "member {slot} did not get ready after its change, so no other is restarted: look at its log, and change or revert the spec"
    );
    Some(Verdict::blocked(Kind::Rollout, Some(slot), "RolloutHalted", message))
}

fn wait_text(slot: Option<Slot>) -> String {
    match slot {
        Some(slot) => format!("wait for member {slot} to be ready again"),
        None => "wait for all members to be ready".to_string(),
    }
}
