//! Maintenance in the status: when it was done, when it is due, why it waits.

use super::{Finding, Seen, finding, time};
use crate::backup::cron::Cron;
use crate::cluster::observe;
use crate::cluster::plan::Window;
use crate::cluster::upkeep;
use crate::cluster::world::Seconds;
use crate::crd::status::{ClusterStatus, MaintenanceStatus, RevisionMark};

/// The status tells a revision anew only when the store is this much further, or lower; otherwise it would never rest.
const ROUGHLY: i64 = 1_000_000;

/// Writes it down.
pub(super) fn record(status: &mut ClusterStatus, seen: &Seen<'_>) {
    let (world, spec) = (seen.world, &seen.cluster.spec.maintenance);
    let told = seen.survey.answers.values().filter_map(|answer| Some(answer.header.as_ref()?.revision)).max();
    if let Some(told) = told.filter(|told| status.revision.is_none_or(|known| !(known..known + ROUGHLY).contains(told))) {
        status.revision = Some(told);
    }
    let mut state = status.maintenance.clone().unwrap_or_default();
    let now = world.now;
    let window = seen.plan.window.as_ref();
    let schedule = |text: &str| Cron::parse(text).ok();
    let next = |schedule: &Cron| upkeep::due(schedule, now, now).1.map(time);
    match spec.compaction.as_ref().map(|window| (window, schedule(&window.schedule))) {
        Some((wish, Some(cron))) => {
            // A schedule that was just written begins now: what it named before is not made up for.
            state.last_compaction_at.get_or_insert_with(|| time(now));
            state.next_compaction_at = next(&cron);
            if let Some(Window::Compacted(due, to)) = window {
                state.last_compaction_at = Some(time(*due));
                state.compacted_revision = to.or(state.compacted_revision);
                let age = wish.keep_for.as_deref().and_then(upkeep::duration);
                marks(&mut state, now, world.revision, age);
            }
        }
        _ => {
            (state.last_compaction_at, state.next_compaction_at, state.compacted_revision, state.marks) =
                (None, None, None, Vec::new())
        }
    }
    match spec.reclaim.as_ref().and_then(|window| schedule(&window.schedule)) {
        Some(cron) => {
            state.last_reclaim_at.get_or_insert_with(|| time(now));
            state.next_reclaim_at = next(&cron);
            if let Some(Window::Reclaimed(due)) = window {
                state.last_reclaim_at = Some(time(*due));
            }
        }
        None => (state.last_reclaim_at, state.next_reclaim_at) = (None, None),
    }
    let due = world.upkeep.compaction.is_some() || world.upkeep.reclaim.is_some();
    state.note = match (window, due) {
        (Some(Window::Waits(why)), _) => Some(why.clone()),
        (Some(_), _) | (None, false) => None,
        (None, true) => match &seen.plan.operation {
            _ if world.wish.paused => Some("maintenance is due and waits: the cluster is paused".into()),
            _ if world.members.is_none() => Some("maintenance is due and waits: no quorum answers".into()),
            Some(operation) if !matches!(operation.kind.as_str(), "Compact" | "Defragment") => {
                Some(format!("maintenance is due and waits for an operation: {}", operation.kind.as_str()))
            }
            _ => None,
        },
    };
    if matches!(window, Some(Window::Healed | Window::Hopeless)) {
        state.healed_at = Some(time(now));
    }
    status.maintenance = (state != MaintenanceStatus::default()).then_some(state);
}

/// A mark for compaction by age.
fn marks(state: &mut MaintenanceStatus, now: Seconds, revision: i64, age: Option<Seconds>) {
    let Some(age) = age else { return state.marks.clear() };
    let mut known: Vec<_> = state.marks.iter().map(|mark| (observe::seconds(&mark.at), mark.revision)).collect();
    upkeep::mark(&mut known, now, revision, age);
    state.marks = known.into_iter().map(|(at, revision)| RevisionMark { at: time(at), revision }).collect();
}

/// The condition, where there is anything to maintain.
pub(super) fn maintained(status: &ClusterStatus, seen: &Seen<'_>) -> Option<Finding> {
    let spec = &seen.cluster.spec.maintenance;
    let schedules = [spec.compaction.as_ref().map(|window| &window.schedule), spec.reclaim.as_ref().map(|window| &window.schedule)];
    let scheduled = schedules.iter().any(Option::is_some);
    let bad = schedules.into_iter().flatten().find_map(|text| Cron::parse(text).err());
    if let Some(why) = bad {
        return Some(finding("Maintained", false, "ScheduleUnreadable", why));
    }
    if seen.world.upkeep.full {
        let healing = seen.world.upkeep.heal_keeping.is_some();
        let message = match healing {
            true => "the store is full and is given room; until then it refuses writes",
            false => "the store is full and refuses writes: spec.maintenance.fullStore.action is Report",
        };
        return Some(finding("Maintained", false, "StoreFull", message));
    }
    let note = status.maintenance.as_ref().and_then(|state| state.note.clone());
    match (note, scheduled) {
        (Some(note), _) => Some(finding("Maintained", false, "Waiting", note)),
        (None, true) => Some(finding("Maintained", true, "AsScheduled", "what was due is done")),
        // Told only where it was once false, so that it can become true again.
        (None, false) => {
            let known = status.conditions.iter().any(|condition| condition.type_ == "Maintained");
            known.then(|| finding("Maintained", true, "NothingDue", "nothing is due"))
        }
    }
}
