//! The journal of what was asked for, and its end, in the status.

use super::time;
use crate::cluster::errand::{Errand, Old, Purpose, Stage};
use crate::cluster::plan::Plan;
use crate::cluster::validate::Valid;
use crate::cluster::world::World;
use crate::crd::status::{ClusterStatus, EndedErrand, ErrandStatus, OldVolume, RecoveryStatus};

/// Writes both down.
pub(super) fn record(status: &mut ClusterStatus, cluster: &Valid, world: &World, plan: &Plan) {
    status.errand = plan.errand.as_ref().map(journal);
    // A restored store has no recovery behind it.
    if plan.errand.as_ref().is_some_and(|errand| errand.purpose == Purpose::Restore && errand.stage == Stage::Starting) {
        status.recovery = None;
    }
    let Some(ended) = &plan.ended else { return };
    if let Some(errand) = world.errand.as_ref().filter(|errand| errand.purpose == Purpose::RecoverQuorum && ended.done) {
        status.recovery = Some(RecoveryStatus { member: cluster.pod(errand.slot), id: errand.uid.clone() });
    }
    status.last_errand = Some(EndedErrand {
        uid: ended.uid.clone(),
        done: ended.done,
        message: ended.message.clone(),
        kept: ended.kept.iter().map(old).collect(),
    });
    // A volume that was put back is the member's as before, under another claim.
    if let Some(errand) = world.errand.as_ref().filter(|errand| errand.stage == Stage::GoingBack)
        && let Some(before) = errand.old.iter().find(|old| old.slot == errand.slot)
        && let Some(now) = world.volume(errand.slot)
    {
        for known in status.volumes.iter_mut().filter(|known| known.uid == before.claim) {
            known.uid.clone_from(&now.uid);
        }
    }
}

fn journal(errand: &Errand) -> ErrandStatus {
    ErrandStatus {
        kind: errand.purpose.as_str().into(),
        name: errand.name.clone(),
        uid: errand.uid.clone(),
        slot: i32::try_from(errand.slot).unwrap_or(i32::MAX),
        stage: errand.stage.as_str().into(),
        keep: errand.keep,
        old: errand.old.iter().map(old).collect(),
        revision: errand.revision,
        note: errand.note.clone(),
        started_at: time(errand.started),
    }
}

fn old(old: &Old) -> OldVolume {
    OldVolume { slot: i32::try_from(old.slot).unwrap_or(i32::MAX), claim: old.claim.clone(), volume: old.volume.clone() }
}
