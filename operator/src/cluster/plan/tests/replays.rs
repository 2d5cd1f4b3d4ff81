//! Every scenario again and again: once with the operator killed after each of its external writes, once with it slow in each of its
//! rounds, so that it acts on a look that is old, alone or while a second operator works.
//!
//! An external write is the boot ticket, what fills or hands back a volume, the status, or the step. Whoever is slow writes the status
//! by compare-and-swap on the object that was read before the look, as every round does.

use super::super::super::upkeep::{Compaction, Reclaim, Sizes};
use super::errands::{lose, request};
use super::*;

/// Rounds for which nobody works after a kill: the hold on the lease has to run out.
const AWAY: u32 = 8;
/// Rounds for which a slow operator is late.
const LATE: u32 = 3;
/// More rounds than any scenario needs.
const ROUNDS: u32 = 800;

struct Scenario {
    name: &'static str,
    /// Members before it; 0: nothing is there yet.
    from: u32,
    begin: fn(&mut Model),
    /// What people and time do besides, each round.
    each: fn(&mut Model),
    /// What must be so in the end, besides all being as wished.
    end: fn(&Model) -> bool,
}

fn nothing(_: &mut Model) {}

fn sizes(model: &mut Model) {
    let size = Sizes { on_disk: 1000, in_use: 100, counted: None, quota: 1000 };
    model.upkeep.sizes = (0..3).map(|slot| (slot, size)).collect();
}

fn is_done(model: &Model) -> bool {
    model.ended.last().is_some_and(|ended| ended.done)
}

fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "create one",
            from: 0,
            begin: |model| model.founders = 1,
            each: nothing,
            end: |model| model.members.len() == 1,
        },
        Scenario {
            name: "create three",
            from: 0,
            begin: |model| model.founders = 3,
            each: nothing,
            end: |model| model.members.len() == 3,
        },
        Scenario {
            name: "one to three",
            from: 1,
            begin: |model| model.wish.replicas = 3,
            each: nothing,
            end: |model| model.members.len() == 3,
        },
        Scenario {
            name: "five to three",
            from: 5,
            begin: |model| {
                model.wish.delete_scaled_volumes = true;
                model.wish.replicas = 3;
            },
            each: nothing,
            end: |model| model.volumes.len() == 3,
        },
        Scenario {
            name: "three to one",
            from: 3,
            begin: |model| {
                model.wish.delete_scaled_volumes = true;
                model.wish.replicas = 1;
            },
            each: nothing,
            end: |model| model.volumes.len() == 1,
        },
        Scenario { name: "a rollout", from: 3, begin: |model| model.template += 1, each: nothing, end: |_| true },
        Scenario {
            name: "a broken rollout, taken back",
            from: 3,
            begin: |model| {
                model.template += 1;
                model.broken = Some(model.template);
            },
            each: |model| {
                if model.now > 1600 && model.broken == Some(model.template) {
                    model.template -= 1;
                }
            },
            end: |model| model.template == 1,
        },
        Scenario {
            name: "a broken rollout while another member is away, taken back",
            from: 3,
            begin: |model| {
                model.template += 1;
                model.broken = Some(model.template);
            },
            each: |model| {
                if (1400..1402).contains(&model.now)
                    && let Some(pod) = model.pods.values_mut().find(|pod| pod.template == 1)
                {
                    pod.cut = 60;
                }
                if model.now > 1700 && model.broken == Some(model.template) {
                    model.template -= 1;
                }
            },
            end: |model| model.template == 1,
        },
        Scenario { name: "a lost volume", from: 3, begin: |model| lose(model, &[1]), each: nothing, end: |_| true },
        Scenario {
            name: "a damaged volume",
            from: 3,
            begin: |model| {
                let volume = model.volumes.get_mut(&2).unwrap();
                let Disk::Of(id) = volume.disk else { panic!("a settled member has its data") };
                volume.disk = Disk::Damaged(id);
                model.pods.get_mut(&2).unwrap().starting = 1;
            },
            each: nothing,
            end: |_| true,
        },
        Scenario {
            name: "sleep and wake",
            from: 3,
            begin: |model| model.wish.replicas = 0,
            each: |model| {
                if model.pods.is_empty() {
                    model.wish.replicas = 3;
                }
            },
            end: |model| model.members.len() == 3,
        },
        Scenario {
            name: "a lost quorum is recovered, old volumes kept",
            from: 3,
            begin: |model| {
                lose(model, &[0, 1]);
                request(model, Ask::Recover { slot: None, keep: true });
            },
            each: nothing,
            end: is_done,
        },
        Scenario {
            name: "a lost quorum is recovered, old volumes deleted",
            from: 5,
            begin: |model| {
                lose(model, &[0, 2, 4]);
                request(model, Ask::Recover { slot: Some(1), keep: false });
            },
            each: nothing,
            end: is_done,
        },
        Scenario {
            name: "a restore in place, old volumes kept",
            from: 3,
            begin: |model| {
                model.fills_in = Some(2);
                request(model, Ask::Restore { keep: true });
            },
            each: nothing,
            end: |model| is_done(model) && model.aside.len() == 3,
        },
        Scenario {
            name: "a restore in place, old volumes deleted",
            from: 3,
            begin: |model| {
                model.fills_in = Some(2);
                request(model, Ask::Restore { keep: false });
            },
            each: nothing,
            end: |model| is_done(model) && model.aside.is_empty(),
        },
        Scenario {
            name: "a restore that fails and is given up",
            from: 3,
            begin: |model| {
                model.fills_in = None;
                request(model, Ask::Restore { keep: false });
            },
            each: |model| model.withdrawn |= model.now > 1600 && model.errand.is_some(),
            end: |model| !is_done(model) && model.aside.is_empty() && model.store == 1,
        },
        Scenario {
            name: "a full store",
            from: 3,
            begin: |model| {
                sizes(model);
                (model.upkeep.full, model.upkeep.heal_keeping) = (true, Some(1000));
            },
            each: nothing,
            end: |model| !model.upkeep.full && model.upkeep.compacted == Some(4000),
        },
        Scenario {
            name: "windows of maintenance",
            from: 3,
            begin: |model| {
                sizes(model);
                model.upkeep.compaction = Some(Compaction { due: 1, to: Some(4321) });
                model.upkeep.reclaim = Some(Reclaim { due: 1, min_free_percent: 45, min_free_bytes: 1 });
            },
            each: nothing,
            end: |model| {
                model.upkeep.compaction.is_none() && model.upkeep.reclaim.is_none() && model.upkeep.compacted == Some(4321)
            },
        },
        Scenario {
            name: "a task",
            from: 3,
            begin: |model| request(model, Ask::Compact { keep: 10 }),
            each: nothing,
            end: |model| is_done(model) && model.upkeep.compacted == Some(4990),
        },
    ]
}

/// Why a round ended before its time.
struct Killed;

/// Counts external writes, and kills after one of them.
struct Writes {
    done: u64,
    last: u64,
}

impl Writes {
    fn spend(&mut self) -> Result<(), Killed> {
        self.done += 1;
        if self.done == self.last { Err(Killed) } else { Ok(()) }
    }
}

impl Model {
    fn begun(scenario: &Scenario) -> Self {
        let mut model = match scenario.from {
            0 => Self::new(7),
            size => settled(size),
        };
        (scenario.begin)(&mut model);
        if scenario.from == 0 {
            (model.replicas, model.last_size, model.wish.replicas) = (model.founders, model.founders, model.founders);
        }
        model
    }

    /// What the status holds. A write of it that changes nothing is none.
    fn status(&self) -> String {
        format!("{:?}", (&self.operation, &self.errand, &self.written, self.ended.len(), &self.upkeep, self.last_size))
    }

    /// A round that is counted.
    fn counted_round(&mut self, writes: &mut Writes) -> Result<(), Killed> {
        let ticket = self.ticket.clone();
        self.write_ticket();
        if self.ticket != ticket {
            writes.spend()?;
        }
        let outside = self.outside();
        if matches!(outside, Some(Outside::Busy(_))) {
            writes.spend()?;
        }
        let world = World { outside, ..self.look() };
        let plan = plan(&world);
        let status = self.status();
        self.record(&world, &plan);
        if self.status() != status {
            writes.spend()?;
        }
        if plan.step != Step::Nothing {
            self.note(format!("{:?}", plan.step));
            self.take(&plan);
            writes.spend()?;
        }
        Ok(())
    }

    /// A round whose look is old when its status is written. Others may have worked meanwhile; then it ends with a conflict.
    fn slow_round(&mut self, scenario: &Scenario, second: bool) {
        let world = self.look();
        let status = self.status();
        for _ in 0..LATE {
            self.pass();
            (scenario.each)(self);
            if second {
                self.operate(false);
            }
        }
        // What fills a volume is done in one's own round, before the status is written.
        if self.status() != status || self.errand.is_some() {
            return;
        }
        let plan = plan(&world);
        self.record(&world, &plan);
        self.note(format!("late: {:?}", plan.step));
        // A StatefulSet is changed only if it is still the one that was looked at.
        let moved = matches!(plan.step, Step::SetReplicas(_)) && world.replicas() != self.replicas;
        if plan.step != Step::Nothing && !moved {
            self.take(&plan);
        }
    }

    #[track_caller]
    fn finish(&mut self, scenario: &Scenario, what: &str) {
        for _ in 0..ROUNDS {
            self.pass();
            (scenario.each)(self);
            let plan = self.operate(false);
            if self.is_over(scenario) && plan.operation.is_none() {
                return;
            }
        }
        self.require(false, &format!("{} ends well, {what}", scenario.name));
    }

    fn is_over(&self, scenario: &Scenario) -> bool {
        self.settled() && self.operation.is_none() && (scenario.end)(self)
    }
}

/// Runs it undisturbed. Returns how many writes that took, and how many rounds.
fn undisturbed(scenario: &Scenario) -> (u64, u32) {
    let (mut model, mut writes) = (Model::begun(scenario), Writes { done: 0, last: 0 });
    for round in 1..ROUNDS {
        model.pass();
        (scenario.each)(&mut model);
        assert!(model.counted_round(&mut writes).is_ok());
        if model.is_over(scenario) {
            return (writes.done, round);
        }
    }
    model.require(false, &format!("{} ends well", scenario.name));
    unreachable!()
}

/// Killed after any of its writes, the operator's successor ends each scenario as if nothing had been, and every step on the way is
/// right by the truth.
#[test]
fn killed_after_each_write() {
    for scenario in scenarios() {
        let (all, _) = undisturbed(&scenario);
        for last in 1..=all {
            let (mut model, mut writes) = (Model::begun(&scenario), Writes { done: 0, last });
            for _ in 0..ROUNDS {
                model.pass();
                (scenario.each)(&mut model);
                if model.counted_round(&mut writes).is_err() {
                    break;
                }
            }
            model.note(format!("killed after write {last} of {all}"));
            for _ in 0..AWAY {
                model.pass();
                (scenario.each)(&mut model);
            }
            model.finish(&scenario, &format!("killed after write {last} of {all}"));
        }
    }
}

/// Slow in any of its rounds, alone or beside a second operator that works meanwhile, an operator does nothing wrong by the truth of
/// the moment at which it acts, and each scenario ends as wished.
#[test]
fn old_looks() {
    for scenario in scenarios() {
        let (_, rounds) = undisturbed(&scenario);
        for (late, second) in (0..rounds).flat_map(|round| [(round, false), (round, true)]) {
            let mut model = Model::begun(&scenario);
            for _ in 0..late {
                model.pass();
                (scenario.each)(&mut model);
                model.operate(false);
            }
            model.slow_round(&scenario, second);
            model.finish(&scenario, &format!("slow in round {late}, second: {second}"));
        }
    }
}
