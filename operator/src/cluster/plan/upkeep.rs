//! Space: a full store gets room, windows of maintenance are used, and what was asked for of this kind is done. Nothing here takes a
//! member away; all of it waits while something else is wrong.

use super::super::errand::{Ask, Ended};
use super::super::world::{Kind, Member, Seconds, Slot};
use super::{Step, Verdict, View, Window};

/// Between two times at which room is made in a full store, seconds: writes fill what little was won at once.
const HEAL_AGAIN: Seconds = 60;
/// The same while nothing but deleting keys or a larger quota can help.
const HOPE_AGAIN: Seconds = 600;
/// How long members may take to let go of what was forgotten, seconds; a healing that goes by what is left waits for that.
const SWEPT_WITHIN: Seconds = 30;
/// How often one thing is tried before the next is done.
const TRIES: u32 = 3;
/// How often leadership is handed over before that counts as failed.
const MOVE_TRIES: u32 = 10;

/// A full store: forget history, give space back, let writes in.
pub(super) fn heal(view: &View<'_>) -> Option<Verdict> {
    let upkeep = &view.world.upkeep;
    let keep = upkeep.heal_keeping.filter(|_| upkeep.full)?;
    let pause = if upkeep.hopelessly_full().is_some() { HOPE_AGAIN } else { HEAL_AGAIN };
    if upkeep.healed.is_some_and(|at| view.world.now - at < pause) {
        return None;
    }
    let kind = Kind::HealSpace;
    let known = view.world.operation.as_ref().filter(|known| known.kind == kind);
    // The revision stays that of the first look.
    let to = known.and_then(|known| known.revision).unwrap_or(view.world.revision - keep);
    let revision = Some(to);
    if to > 1 && upkeep.compacted.unwrap_or(0) < to && tries(view, kind, None) < TRIES {
        let text = format!("the store is full: forget what was superseded before revision {to}");
        return Some(Verdict { revision, ..Verdict::act(kind, None, Step::Compact { revision: to }, text) });
    }
    if let Some(slot) = next_member(view, kind, |_| true) {
        let text = format!("the store is full: member {slot} gives free space back");
        return Some(Verdict { revision, ..Verdict::act(kind, Some(slot), Step::Defragment { slot }, text) });
    }
    // Everything else has its turn before this is begun anew.
    if upkeep.hopelessly_full().is_some() {
        let text = "the store is full: wait for what was forgotten to go";
        let waiting = known.filter(|known| known.step == text);
        if waiting.is_none_or(|known| view.world.now - known.step_started < SWEPT_WITHIN) {
            return Some(Verdict { revision, ..Verdict::wait(kind, known.and_then(|known| known.slot), text) });
        }
        let text = "the store is full, and no history or free space is left to give up";
        return Some(Verdict { revision, window: Some(Window::Hopeless), ..Verdict::wait(kind, None, text) });
    }
    let slot = known.and_then(|known| known.slot);
    let disarm = Verdict::act(kind, slot, Step::Disarm, "the store has room again: let writes in");
    Some(Verdict { revision, window: Some(Window::Healed), ..disarm })
}

/// A full store that nothing here gives room: only a person can help. It hinders nothing else.
pub(super) fn hopeless(view: &View<'_>) -> Option<Verdict> {
    let upkeep = &view.world.upkeep;
    let (taken, quota) = upkeep.hopelessly_full().filter(|_| upkeep.full && upkeep.heal_keeping.is_some())?;
    let message = format!(
        "the store is full and what it keeps ({} MiB) leaves no room below the quota ({} MiB): delete keys, or raise spec.config.quotaBackendBytes",
        taken >> 20,
        quota >> 20
    );
    Some(Verdict::blocked(Kind::HealSpace, None, "StoreFull", message))
}

/// What was asked for and stops nobody.
pub(super) fn asked(view: &View<'_>) -> Option<Verdict> {
    let world = view.world;
    let request = world.request.as_ref()?;
    let ended = |kind: Kind, done: bool, message: String| {
        let ended = Ended { uid: request.uid.clone(), done, message: message.clone(), kept: Vec::new() };
        Some(Verdict { ended: Some(ended), ..Verdict::wait(kind, None, message) })
    };
    let kind = match request.ask {
        Ask::Compact { .. } => Kind::Compact,
        Ask::Defragment => Kind::Defragment,
        Ask::MoveLeader { .. } => Kind::MoveLeader,
        Ask::Recover { .. } | Ask::Restore { .. } => return None,
    };
    if request.confirm.is_some() && request.confirm != world.cluster_id {
        return ended(kind, false, "spec.confirm is not this cluster's id: nothing was done".into());
    }
    if !view.calm() {
        return None;
    }
    match request.ask {
        Ask::Compact { keep } => {
            let known = world.operation.as_ref().filter(|known| known.kind == kind);
            let to = known.and_then(|known| known.revision).unwrap_or(world.revision - keep);
            if to <= 1 || world.upkeep.compacted.is_some_and(|compacted| compacted >= to) {
                return ended(kind, true, format!("what was superseded before revision {to} is forgotten"));
            }
            if tries(view, kind, None) >= TRIES {
                return ended(kind, false, format!("the store did not compact to revision {to}"));
            }
            let text = format!("forget what was superseded before revision {to}");
            Some(Verdict { revision: Some(to), ..Verdict::act(kind, None, Step::Compact { revision: to }, text) })
        }
        Ask::Defragment => match next_member(view, kind, |_| true) {
            Some(slot) => {
                Some(Verdict::act(kind, Some(slot), Step::Defragment { slot }, format!("member {slot} gives free space back")))
            }
            None => ended(kind, true, "every member was asked to give free space back".into()),
        },
        Ask::MoveLeader { slot } => {
            let text = format!("member {slot} takes over the lead");
            match (view.at(slot), view.members.iter().find(|member| member.leader)) {
                (Some(to), _) if to.leader => ended(kind, true, format!("member {slot} leads")),
                (Some(to), Some(from)) if !to.learner && view.tries(&text) < MOVE_TRIES => {
                    Some(Verdict::act(kind, Some(slot), Step::MoveLeader { from: from.id, to: to.id }, text))
                }
                (Some(_), _) => ended(kind, false, format!("member {slot} did not take over the lead")),
                (None, _) => ended(kind, false, format!("there is no member {slot}")),
            }
        }
        Ask::Recover { .. } | Ask::Restore { .. } => None,
    }
}

/// Windows: compaction, then reclaim.
pub(super) fn scheduled(view: &View<'_>) -> Option<Verdict> {
    let world = view.world;
    let upkeep = &world.upkeep;
    let kind = if upkeep.compaction.is_some() { Kind::Compact } else { Kind::Defragment };
    if upkeep.compaction.is_none() && upkeep.reclaim.is_none() {
        return None;
    }
    if !view.calm() {
        let ill: Vec<String> =
            view.members.iter().filter(|member| !member.healthy).filter_map(|member| Some(member.slot?.to_string())).collect();
        let why = match ill.is_empty() {
            true => "not every member is ready".to_string(),
            false => format!("unhealthy: member {}", ill.join(", ")),
        };
        let waits = Some(Window::Waits(format!("maintenance is due and waits: {why}")));
        return Some(Verdict { window: waits, ..Verdict::wait(kind, None, "maintenance waits for all members to be healthy") });
    }
    if let Some(compaction) = &upkeep.compaction {
        let known = world.operation.as_ref().filter(|known| known.kind == kind);
        let done =
            |to| Some(Verdict { window: Some(Window::Compacted(compaction.due, to)), ..Verdict::wait(kind, None, "compacted") });
        let Some(to) = known.and_then(|known| known.revision).or(compaction.to).filter(|to| *to > 1) else { return done(None) };
        if upkeep.compacted.is_some_and(|compacted| compacted >= to) {
            return done(Some(to));
        }
        let text = format!("forget what was superseded before revision {to}");
        return Some(Verdict { revision: Some(to), ..Verdict::act(kind, None, Step::Compact { revision: to }, text) });
    }
    let reclaim = upkeep.reclaim.as_ref()?;
    let worth = |slot: Slot| upkeep.sizes.get(&slot).is_some_and(|sizes| reclaim.worth(sizes));
    match next_member(view, kind, worth) {
        Some(slot) => {
            Some(Verdict::act(kind, Some(slot), Step::Defragment { slot }, format!("member {slot} gives free space back")))
        }
        None => Some(Verdict { window: Some(Window::Reclaimed(reclaim.due)), ..Verdict::wait(kind, None, "reclaimed") }),
    }
}

/// How often the running step of this kind was tried for this slot.
fn tries(view: &View<'_>, kind: Kind, slot: Option<Slot>) -> u32 {
    view.world.operation.as_ref().filter(|known| known.kind == kind && known.slot == slot).map_or(0, |known| known.attempt)
}

/// The member whose turn it is: followers by number, then the leader. The journal's slot is the one that was last asked.
fn next_member(view: &View<'_>, kind: Kind, wanted: impl Fn(Slot) -> bool) -> Option<Slot> {
    let rank = |member: &Member| (member.leader, member.slot);
    let last = view.world.operation.as_ref().filter(|known| known.kind == kind && known.slot.is_some());
    let after = last.and_then(|known| view.at(known.slot?)).map(rank);
    let mut rest: Vec<_> =
        view.members.iter().filter(|member| member.slot.is_some() && after.is_none_or(|after| rank(member) > after)).collect();
    rest.sort_by_key(|member| rank(member));
    rest.into_iter().filter_map(|member| member.slot).find(|slot| wanted(*slot))
}
