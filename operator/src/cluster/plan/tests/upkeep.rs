//! A full store, windows of maintenance, and tasks that stop nobody.

use super::super::super::upkeep::{Compaction, Reclaim, Sizes};
use super::*;

/// Members of 1000 bytes each, of which so many are live.
fn sizes(model: &mut Model, in_use: [i64; 3]) {
    let size = |in_use| Sizes { on_disk: 1000, in_use, counted: None, quota: 1000 };
    model.upkeep.sizes =
        in_use.into_iter().enumerate().map(|(slot, in_use)| (u32::try_from(slot).unwrap(), size(in_use))).collect();
}

fn take_steps(model: &mut Model, rounds: u32) -> Vec<Step> {
    let mut steps = Vec::new();
    for _ in 0..rounds {
        model.pass();
        let plan = model.operate(false);
        if plan.step != Step::Nothing {
            steps.push(plan.step);
        }
    }
    steps
}

fn slots(steps: &[Step]) -> Vec<Slot> {
    steps.iter().filter_map(|step| if let Step::Defragment { slot } = step { Some(*slot) } else { None }).collect()
}

/// A full store: history goes, every member gives space back with the leader last, then writes are let in.
#[test]
fn a_full_store_gets_room() {
    let mut model = settled(3);
    sizes(&mut model, [100; 3]);
    (model.upkeep.full, model.upkeep.heal_keeping) = (true, Some(1000));
    let leader = model.members.iter().find(|member| member.id == model.leader).unwrap().slot;
    let steps = take_steps(&mut model, 20);
    assert_eq!(steps.first(), Some(&Step::Compact { revision: 4000 }));
    assert_eq!(steps.last(), Some(&Step::Disarm));
    assert_eq!((slots(&steps).len(), slots(&steps).last()), (3, Some(&leader)), "{steps:?}");
    assert_eq!(steps.len(), 5);
    assert!(model.settled() && model.operation.is_none());
}

/// Live data that fills the quota: the alarm stays, and the status says what to do. Without leave nothing is done.
#[test]
fn live_data_leaves_no_room() {
    let mut model = settled(3);
    sizes(&mut model, [100, 980, 100]);
    (model.upkeep.full, model.upkeep.heal_keeping) = (true, Some(0));
    assert!(!take_steps(&mut model, 30).contains(&Step::Disarm));
    assert_eq!(model.operate(false).blocked.map(|blocked| blocked.reason), Some("StoreFull"));
    sizes(&mut model, [100; 3]);
    assert_eq!(take_steps(&mut model, 40).last(), Some(&Step::Disarm), "keys were deleted");
    (model.upkeep.full, model.upkeep.heal_keeping) = (true, None);
    assert_eq!(take_steps(&mut model, 5), []);
}

/// A store that compresses well is full by what counts, however little is in use: it is not opened to be filled again at once. What was
/// forgotten takes a while to go, which is waited for.
#[test]
fn fullness_goes_by_what_counts() {
    let counted = |model: &mut Model, counted: i64| {
        sizes(model, [10; 3]);
        model.upkeep.sizes.values_mut().for_each(|sizes| sizes.counted = Some(counted));
    };
    let mut model = settled(3);
    counted(&mut model, 990);
    (model.upkeep.full, model.upkeep.heal_keeping) = (true, Some(0));
    let steps = take_steps(&mut model, 40);
    assert!(slots(&steps).len() == 3 && !steps.contains(&Step::Disarm), "{steps:?}");
    assert_eq!(model.operate(false).blocked.map(|blocked| blocked.reason), Some("StoreFull"));
    let mut model = settled(3);
    counted(&mut model, 990);
    (model.upkeep.full, model.upkeep.heal_keeping) = (true, Some(0));
    assert_eq!(take_steps(&mut model, 10).len(), 4);
    counted(&mut model, 100);
    assert_eq!(take_steps(&mut model, 2), [Step::Disarm]);
}

/// A store that stays full keeps nobody from what else is to be done; after a pause everything is tried anew.
#[test]
fn a_full_store_blocks_nothing_else() {
    let mut model = settled(3);
    sizes(&mut model, [980; 3]);
    (model.upkeep.full, model.upkeep.heal_keeping) = (true, Some(0));
    assert_eq!(slots(&take_steps(&mut model, 20)).len(), 3);
    model.revision = 6000;
    model.wish.replicas = 5;
    model.template += 1;
    model.volumes.get_mut(&1).unwrap().terminating = true;
    model.pods.get_mut(&1).unwrap().terminating = true;
    take_steps(&mut model, 250);
    assert!(model.members.len() == 5 && model.pods.values().all(|pod| pod.template == model.template), "{:?}", model.members);
    let later = take_steps(&mut model, 100);
    assert_eq!((later.first(), slots(&later).len()), (Some(&Step::Compact { revision: 6000 }), 5), "{later:?}");
    assert_eq!(model.operate(false).blocked.map(|blocked| blocked.reason), Some("StoreFull"));
}

/// A window: compaction first, then those that are worth it, one after the other, the leader last.
#[test]
fn windows_are_used() {
    let mut model = settled(3);
    model.leader = model.members.iter().find(|member| member.slot == 0).unwrap().id;
    sizes(&mut model, [100, 900, 100]);
    model.upkeep.compaction = Some(Compaction { due: 1, to: Some(4321) });
    model.upkeep.reclaim = Some(Reclaim { due: 1, min_free_percent: 45, min_free_bytes: 1 });
    let steps = take_steps(&mut model, 20);
    let wanted = [Step::Compact { revision: 4321 }, Step::Defragment { slot: 2 }, Step::Defragment { slot: 0 }];
    assert_eq!(steps, wanted);
    assert!(model.upkeep.compaction.is_none() && model.upkeep.reclaim.is_none());
}

/// While a member is unhealthy, what is due waits and says why.
#[test]
fn windows_wait_for_health() {
    let mut model = settled(3);
    model.upkeep.compaction = Some(Compaction { due: 1, to: Some(4321) });
    model.pods.get_mut(&1).unwrap().cut = 50;
    model.pass();
    let plan = model.operate(false);
    assert!(matches!(plan.window, Some(Window::Waits(why)) if why.contains("member 1")));
    assert_eq!((plan.step, plan.operation), (Step::Nothing, None));
    assert_eq!(take_steps(&mut model, 80), [Step::Compact { revision: 4321 }]);
}

/// Tasks: each is done once and told.
#[test]
fn tasks() {
    let mut model = settled(3);
    let follower = model.members.iter().find(|member| member.id != model.leader).unwrap().slot;
    let cases = [
        (Ask::Compact { keep: 10 }, vec![Step::Compact { revision: 4990 }]),
        (Ask::Defragment, Vec::new()),
        (Ask::MoveLeader { slot: follower }, Vec::new()),
    ];
    for (at, (ask, wanted)) in cases.into_iter().enumerate() {
        let uid = format!("t{at}");
        model.request = Some(Request { name: uid.clone(), uid, confirm: None, ask });
        let steps = take_steps(&mut model, 40);
        assert!(model.request.is_none() && model.ended.len() == at + 1, "{steps:?}");
        assert!(wanted.is_empty() || steps == wanted, "{steps:?}");
    }
    assert_eq!(model.members.iter().find(|member| member.id == model.leader).unwrap().slot, follower);
    model.request = Some(Request { name: "x".into(), uid: "x".into(), confirm: None, ask: Ask::MoveLeader { slot: 9 } });
    take_steps(&mut model, 3);
    assert!(model.ended.last().is_some_and(|ended| !ended.done));
}
