//! The planner: from one look at a cluster to the one step to take. Pure: no client, no clock, no randomness.
//!
//! In: a [`World`]. Out: a [`Plan`]: at most one step, the journal's next entry, and what stands in the way, if anything does.
//!
//! The store's list of members is the truth and the number of pods follows it. Each call works everything out anew; the journal
//! only tells how long something has been going on, and makes steps that destroy something wait for a second look.
//!
//! Order: what is paused rests; what somebody asked for that stops everything (errands); forming; sleeping and waking; without a
//! quorum nothing but restarts of what does not work anyway; then a full store, where there is anything to try, a learner under way, lost members, empty slots, volumes
//! of no use, changes of pods, size, and maintenance last.
//!
//! Invariants, which the tests check over random worlds:
//! - no step takes a working member away when the others are no quorum, except for the only member of a cluster of one;
//! - a form of the pods in which a member does not come up is given to no other member, with or without a quorum;
//! - at most one learner and one operation;
//! - a pod is forgotten only when its slot has no member;
//! - a volume is deleted only when no member of the list wrote on it; old volumes of an errand go only when the new store serves, or
//!   are kept;
//! - members leave for good only when fewer are wished for, or when they have lost their data.

mod errand;
mod repair;
mod rollout;
mod scale;
#[cfg(test)]
mod tests;
mod upkeep;

use super::errand::{Ended, Errand};
use super::world::{Kind, Member, Operation, Set, Slot, World};

/// How often the leader is asked to hand over before the operator goes on without that.
const HAND_OVER_TRIES: u32 = 10;
/// How long a restarted member must be ready before the next is restarted, seconds: some fail only once they work.
const SETTLED_AFTER: i64 = 5;
/// How long a pod of the old form may be unready before it counts as broken, seconds.
const HOPELESS_AFTER: i64 = 20;
/// The same without a quorum, where one that runs may only be waiting for the others, seconds.
const DEAD_AFTER: i64 = 60;
/// How long a restarted pod is waited for until it is there again, seconds.
const GONE_WITHIN: i64 = 120;

/// What to do about a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The one step.
    pub step: Step,
    /// The journal's entry; to be written before the step is taken.
    pub operation: Option<Operation>,
    /// What only a person can mend.
    pub blocked: Option<Blocked>,
    /// The errand's journal; to be written before the step is taken.
    pub errand: Option<Errand>,
    /// How what was asked for ended.
    pub ended: Option<Ended>,
    /// Maintenance that is over, or waits.
    pub window: Option<Window>,
}

/// What became of maintenance that was due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Window {
    /// The compaction due at this time is done, up to this revision; None when nothing was old enough.
    Compacted(i64, Option<i64>),
    /// The reclaim due at this time is done.
    Reclaimed(i64),
    /// Room was made in a full store.
    Healed,
    /// Everything was tried, and the store is as full as before.
    Hopeless,
    /// It waits; why.
    Waits(String),
}

/// One change of the world outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Look again later.
    Nothing,
    /// Let the StatefulSet keep this many pods.
    SetReplicas(u32),
    /// Tell the store about the slot's pod, which waits at the gate.
    AddLearner {
        /// Its slot.
        slot: Slot,
    },
    /// Let a learner vote; the store refuses while it is behind.
    Promote {
        /// Its id.
        member: u64,
    },
    /// Take a member out for good.
    Remove {
        /// Its id.
        member: u64,
    },
    /// Let another member lead.
    MoveLeader {
        /// Who leads.
        from: u64,
        /// Who shall.
        to: u64,
    },
    /// Delete a pod; its StatefulSet makes it anew.
    DeletePod {
        /// Its slot.
        slot: Slot,
        /// Only if it is still this one.
        uid: String,
    },
    /// Forget a pod that its node does not end. It may still run there; its member is out of the store.
    ForcePod {
        /// Its slot.
        slot: Slot,
        /// Only if it is still this one.
        uid: String,
    },
    /// Delete a volume's claim.
    DeleteVolume {
        /// Its slot.
        slot: Slot,
        /// Only if it is still this one.
        uid: String,
    },
    /// Delete the claim of a volume with the data of before, after its PersistentVolume was told to stay if it is kept.
    RetireVolume {
        /// Its slot.
        slot: Slot,
        /// Only if it is still this one.
        uid: String,
        /// The data stays.
        keep: bool,
    },
    /// Let a volume that was kept go after all, with its data.
    ReleaseVolume {
        /// The PersistentVolume.
        volume: String,
    },
    /// Forget what was superseded before a revision.
    Compact {
        /// The revision.
        revision: i64,
    },
    /// Ask a member to give free space back.
    Defragment {
        /// Its slot.
        slot: Slot,
    },
    /// Let writes in again.
    Disarm,
}

impl Step {
    /// What cannot be taken back waits for a second look.
    fn destroys(&self) -> bool {
        matches!(
            self,
            Self::Remove { .. }
                | Self::ForcePod { .. }
                | Self::DeleteVolume { .. }
                | Self::RetireVolume { .. }
                | Self::ReleaseVolume { .. }
        )
    }
}

/// What only a person can mend, or only time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// For the condition's reason.
    pub reason: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

/// What a rule found.
struct Verdict {
    kind: Kind,
    slot: Option<Slot>,
    step: Step,
    text: String,
    blocked: Option<Blocked>,
    /// For compactions.
    revision: Option<i64>,
    ended: Option<Ended>,
    window: Option<Window>,
}

impl Verdict {
    fn act(kind: Kind, slot: Option<Slot>, step: Step, text: impl Into<String>) -> Self {
        Self { kind, slot, step, text: text.into(), blocked: None, revision: None, ended: None, window: None }
    }

    fn wait(kind: Kind, slot: Option<Slot>, text: impl Into<String>) -> Self {
        Self::act(kind, slot, Step::Nothing, text)
    }

    fn blocked(kind: Kind, slot: Option<Slot>, reason: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        let blocked = Some(Blocked { reason, message: message.clone() });
        Self { blocked, ..Self::wait(kind, slot, message) }
    }
}

/// What to do next.
pub fn plan(world: &World) -> Plan {
    let idle = Plan {
        step: Step::Nothing,
        operation: world.operation.clone(),
        blocked: None,
        errand: world.errand.clone(),
        ended: None,
        window: None,
    };
    if world.wish.paused {
        return idle;
    }
    if let Some(errand) = &world.errand {
        return errand::proceed(world, errand);
    }
    if let Some(plan) = world.request.as_ref().and_then(|request| errand::begin(world, request)) {
        return plan;
    }
    let Some(verdict) = decide(world) else {
        // Without a quorum nobody can tell whether the operation is done.
        let unknown = world.formed && world.members.is_none() && world.replicas() > 0;
        let operation = world.operation.clone().filter(|_| unknown);
        return Plan { operation, ..idle };
    };
    journal(world, verdict)
}

/// The plan of a cluster whose first volumes are not there yet, with the reason if that failed: nothing is done here but keeping the
/// journal.
pub fn restoring(world: &World, text: String, failed: Option<&'static str>) -> Plan {
    journal(
        world,
        match failed {
            Some(reason) => Verdict::blocked(Kind::Restore, Some(0), reason, text),
            None => Verdict::wait(Kind::Restore, Some(0), text),
        },
    )
}

/// Writes a verdict into the journal. A step that destroys something is taken only if the journal holds it already, which means
/// that an earlier look came to the same end.
fn journal(world: &World, verdict: Verdict) -> Plan {
    let now = world.now;
    let same_operation = world.operation.as_ref().filter(|known| known.kind == verdict.kind && known.slot == verdict.slot);
    let same_step = same_operation.filter(|known| known.step == verdict.text);
    let attempt = same_step.map_or(0, |known| known.attempt);
    let step = match verdict.step.destroys() && same_step.is_none() {
        true => Step::Nothing,
        false => verdict.step,
    };
    let operation = Operation {
        kind: verdict.kind,
        slot: verdict.slot,
        started: same_operation.map_or(now, |known| known.started),
        step: verdict.text,
        step_started: same_step.map_or(now, |known| known.step_started),
        attempt: attempt + u32::from(step != Step::Nothing),
        revision: verdict.revision,
    };
    // What is over needs no entry in the journal.
    let over = verdict.ended.is_some() || verdict.window.as_ref().is_some_and(|window| *window != Window::Healed);
    let operation = Some(operation).filter(|_| !over);
    let Verdict { blocked, ended, window, .. } = verdict;
    Plan { step, operation, blocked, errand: world.errand.clone(), ended, window }
}

fn decide(world: &World) -> Option<Verdict> {
    let set = world.set.as_ref()?;
    let wished = world.wish.replicas;
    if !world.formed {
        return Some(scale::form(world, set));
    }
    if wished == 0 {
        return scale::hibernate(world, set);
    }
    if set.replicas == 0 {
        return Some(scale::wake(world));
    }
    let Some(members) = &world.members else {
        return scale::refill(world, set)
            .or_else(|| rollout::mend_dead(world, set))
            .or_else(|| scale::waking(world))
            .or_else(|| errand::nobody(world))
            .or_else(|| rollout::wait_for_proof(world, set));
    };
    let view = View { world, set, members };
    scale::cover(&view)
        .or_else(|| rollout::mend(world, set, members))
        .or_else(|| upkeep::heal(&view))
        .or_else(|| repair::learner(&view))
        .or_else(|| repair::lost_member(&view))
        .or_else(|| repair::empty_slot(&view))
        .or_else(|| scale::drop_unused(&view))
        .or_else(|| repair::stray_pod(&view))
        .or_else(|| repair::unused_volume(&view))
        .or_else(|| rollout::next(&view))
        .or_else(|| scale::towards(&view))
        .or_else(|| scale::leaving(&view))
        .or_else(|| upkeep::asked(&view))
        .or_else(|| upkeep::scheduled(&view))
        .or_else(|| upkeep::hopeless(&view))
}

/// A world whose members are known.
struct View<'a> {
    world: &'a World,
    set: &'a Set,
    members: &'a [Member],
}

impl View<'_> {
    fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| !member.learner)
    }

    /// How many voters must agree.
    fn quorum(&self) -> usize {
        self.voters().count() / 2 + 1
    }

    /// Voters that work, without this one.
    fn healthy_without(&self, id: u64) -> usize {
        self.voters().filter(|member| member.healthy && member.id != id).count()
    }

    fn at(&self, slot: Slot) -> Option<&Member> {
        self.members.iter().find(|member| member.slot == Some(slot))
    }

    /// Every pod that is wished for, or has a member, is there and ready, and all members are healthy.
    fn calm(&self) -> bool {
        let needed = |slot: &Slot| *slot < self.world.wish.replicas || self.at(*slot).is_some();
        let ready = |slot: Slot| self.world.pod(slot).is_some_and(|pod| pod.ready && !pod.terminating) && self.at(slot).is_some();
        (0..self.set.replicas).filter(needed).all(ready) && self.members.iter().all(|member| member.healthy)
    }

    /// Who should lead instead of the one that leads: a healthy voter in the lowest slot whose pod stays as it is.
    fn successor(&self, leader: &Member) -> Option<&Member> {
        let able = |member: &&Member| member.healthy && member.id != leader.id && member.slot.is_some();
        let stays = |member: &Member| member.slot.and_then(|slot| self.world.pod(slot)).is_some_and(|pod| pod.current && pod.ready);
        self.voters().filter(able).min_by_key(|member| (!stays(member), member.slot))
    }

    /// How often the step of this name was tried.
    fn tries(&self, text: &str) -> u32 {
        self.world.operation.as_ref().filter(|known| known.step == text).map_or(0, |known| known.attempt)
    }
}
