//! The planner against a small model of Kubernetes and of the store, over random histories.
//!
//! The model keeps the truth that the planner cannot see: whose data is on which volume. Faults never take a majority's data, so every
//! history must end as wished once the faults stop; and whatever the planner does on the way is judged against the truth.

mod errands;
mod replays;
mod upkeep;

use std::collections::BTreeMap;

use super::super::errand::{Ask, Errand, Outside, Purpose, Request, Stage};
use super::super::upkeep::Upkeep;
use super::super::world::{Kind, Pod, Set, Slot, Volume, Wish, World, Written, exit};
use super::super::world::{Member, Place};
use super::*;

/// Numbers that follow from a seed.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What is on a volume.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Disk {
    Empty,
    Of(u64),
    Damaged(u64),
    /// A backup's data, for a member of this id, not started yet.
    Restored(u64),
}

#[derive(Clone, Debug)]
struct ModelVolume {
    uid: u64,
    /// The PersistentVolume.
    name: u64,
    terminating: bool,
    disk: Disk,
}

#[derive(Clone, Debug)]
struct ModelPod {
    uid: u64,
    template: u64,
    /// Rounds until the container runs; then until it is up to date.
    starting: u64,
    terminating: bool,
    exit_code: Option<i32>,
    restarts: u32,
    /// Rounds for which nobody reaches it.
    cut: u64,
    /// Since when its node is off, for good.
    off: Option<i64>,
    since: i64,
    ready: bool,
    at_gate: bool,
    /// What the boot ticket said when the pod was made: who recovers, and the recovery's id.
    ticket: Option<(Slot, String)>,
}

#[derive(Clone, Debug)]
struct ModelMember {
    id: u64,
    slot: Slot,
    started: bool,
    learner: bool,
    /// Rounds until it has caught up.
    behind: u64,
}

struct Model {
    seed: u64,
    dice: Dice,
    now: i64,
    wish: Wish,
    template: u64,
    /// Templates of this number do not start.
    broken: Option<u64>,
    replicas: u32,
    founders: u32,
    formed: bool,
    pods: BTreeMap<Slot, ModelPod>,
    volumes: BTreeMap<Slot, ModelVolume>,
    members: Vec<ModelMember>,
    leader: u64,
    written: Vec<Written>,
    operation: Option<super::super::world::Operation>,
    last_size: u32,
    ids: u64,
    history: Vec<String>,
    /// The store's id: another one after each recovery and restore.
    store: u64,
    request: Option<Request>,
    errand: Option<Errand>,
    withdrawn: bool,
    ended: Vec<super::super::errand::Ended>,
    ticket: Option<(Slot, String)>,
    recovered: Vec<String>,
    /// Members of stores that were replaced.
    past: Vec<u64>,
    /// The members and the id of the store before the present one.
    former: Option<(Vec<ModelMember>, u64)>,
    /// PersistentVolumes that were put aside.
    aside: BTreeMap<u64, Disk>,
    /// Rounds until the first volume is filled; None: the job fails.
    fills_in: Option<u64>,
    upkeep: Upkeep,
    revision: i64,
}

impl Model {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let replicas = [1, 3, 5, 7][usize::try_from(dice.below(4)).unwrap()];
        Self {
            seed,
            dice,
            now: 1000,
            wish: Wish { replicas, ..Wish::default() },
            template: 1,
            broken: None,
            replicas,
            founders: replicas,
            formed: false,
            pods: BTreeMap::new(),
            volumes: BTreeMap::new(),
            members: Vec::new(),
            leader: 0,
            written: Vec::new(),
            operation: None,
            last_size: replicas,
            ids: 100,
            history: Vec::new(),
            store: 1,
            request: None,
            errand: None,
            withdrawn: false,
            ended: Vec::new(),
            ticket: None,
            recovered: Vec::new(),
            past: Vec::new(),
            former: None,
            aside: BTreeMap::new(),
            fills_in: Some(0),
            upkeep: Upkeep::default(),
            revision: 5000,
        }
    }

    fn id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    fn note(&mut self, text: String) {
        self.history.push(format!("{}: {text}", self.now));
    }

    #[track_caller]
    fn require(&self, holds: bool, what: &str) {
        let tail: Vec<_> = self.history.iter().rev().take(40).rev().cloned().collect();
        assert!(
            holds,
            "seed {}: {what}\n{}\nmembers {:?}\npods {:?}\nvolumes {:?}\noperation {:?}",
            self.seed,
            tail.join("\n"),
            self.members,
            self.pods,
            self.volumes,
            self.operation
        );
    }

    /// The member has its data and runs.
    fn alive(&self, member: &ModelMember) -> bool {
        let pod = self.pods.get(&member.slot).is_some_and(|pod| {
            pod.starting == 0 && pod.cut == 0 && pod.off.is_none() && !pod.terminating && pod.exit_code.is_none()
        });
        pod && self.holds_data(member)
    }

    fn holds_data(&self, member: &ModelMember) -> bool {
        let off = self.pods.get(&member.slot).is_some_and(|pod| pod.off.is_some());
        member.started && !off && self.volumes.get(&member.slot).is_some_and(|volume| volume.disk == Disk::Of(member.id))
    }

    fn voters(&self) -> impl Iterator<Item = &ModelMember> {
        self.members.iter().filter(|member| !member.learner)
    }

    fn has_quorum(&self) -> bool {
        self.formed && self.voters().filter(|member| self.alive(member)).count() > self.voters().count() / 2
    }

    fn healthy(&self, member: &ModelMember) -> bool {
        self.has_quorum() && self.alive(member) && member.behind == 0
    }

    /// Time passes: the controllers of Kubernetes and the members do their part.
    fn pass(&mut self) {
        self.now += 2;
        let slots: Vec<Slot> = (0..self.replicas).collect();
        for slot in slots {
            if self.pods.contains_key(&slot) || self.volumes.get(&slot).is_some_and(|volume| volume.terminating) {
                continue;
            }
            if self.dice.one_in(3) {
                let (uid, volume, name) = (self.id(), self.id(), self.id());
                self.volumes.entry(slot).or_insert(ModelVolume { uid: volume, name, terminating: false, disk: Disk::Empty });
                let starting = 1 + self.dice.below(4);
                let pod = ModelPod {
                    uid,
                    template: self.template,
                    starting,
                    terminating: false,
                    exit_code: None,
                    restarts: 0,
                    cut: 0,
                    off: None,
                    since: self.now,
                    ready: false,
                    at_gate: false,
                    ticket: self.ticket.clone(),
                };
                self.pods.insert(slot, pod);
            }
        }
        let beyond: Vec<Slot> = self.pods.keys().copied().filter(|slot| *slot >= self.replicas).collect();
        for slot in beyond {
            self.pods.get_mut(&slot).unwrap().terminating = true;
        }
        let ends = |pod: &ModelPod| pod.terminating && pod.cut == 0 && pod.off.is_none();
        let ended: Vec<Slot> = self.pods.iter().filter(|(_, pod)| ends(pod)).map(|(slot, _)| *slot).collect();
        for slot in ended {
            if self.dice.one_in(2) {
                self.pods.remove(&slot);
            }
        }
        let (pods, volumes) = (&self.pods, &mut self.volumes);
        volumes.retain(|slot, volume| !volume.terminating || pods.contains_key(slot));
        self.run_pods();
        if !self.formed {
            let all = (0..self.founders).all(|slot| self.pods.get(&slot).is_some_and(|pod| pod.at_gate));
            if all && self.founders > 0 {
                for slot in 0..self.founders {
                    let id = self.id();
                    self.volumes.get_mut(&slot).unwrap().disk = Disk::Of(id);
                    self.members.push(ModelMember { id, slot, started: true, learner: false, behind: 0 });
                }
                self.formed = true;
                self.note("formed".into());
                self.run_pods();
            }
        }
        for at in 0..self.members.len() {
            if self.members[at].behind > 0 && self.alive(&self.members[at].clone()) {
                self.members[at].behind -= 1;
            }
        }
        let leads = self.members.iter().any(|member| member.id == self.leader && !member.learner && self.alive(member));
        if !leads {
            let able: Vec<u64> = self.voters().filter(|member| self.alive(member)).map(|member| member.id).collect();
            self.leader = match able.len() {
                0 => 0,
                count => able[usize::try_from(self.dice.below(count as u64)).unwrap()],
            };
        }
        self.probe();
    }

    fn run_pods(&mut self) {
        let slots: Vec<Slot> = self.pods.keys().copied().collect();
        for slot in slots {
            let broken = self.broken;
            self.recover(slot);
            let quorum = self.has_quorum();
            let (pods, volumes) = (&mut self.pods, &mut self.volumes);
            let Some(volume) = volumes.get_mut(&slot) else { continue };
            let pod = pods.get_mut(&slot).unwrap();
            pod.cut = pod.cut.saturating_sub(1);
            pod.at_gate = false;
            if pod.starting > 1 {
                pod.starting -= 1;
                continue;
            }
            pod.starting = 0;
            if Some(pod.template) == broken {
                pod.exit_code = Some(1);
                pod.restarts += 1;
                continue;
            }
            match volume.disk {
                Disk::Empty => {
                    let listed = self.members.iter_mut().find(|member| member.slot == slot && !member.started);
                    match listed.filter(|_| quorum && pod.cut == 0 && !pod.terminating) {
                        Some(member) => {
                            volume.disk = Disk::Of(member.id);
                            member.started = true;
                        }
                        None => pod.at_gate = pod.cut == 0 && pod.off.is_none(),
                    }
                }
                Disk::Of(id) if !self.formed || self.members.iter().any(|member| member.id == id) => (),
                Disk::Of(_) => {
                    let told = pod.ticket.as_ref().is_some_and(|(_, id)| self.recovered.contains(id));
                    pod.exit_code = Some(if told { exit::DATA } else { exit::REMOVED });
                    pod.restarts += 1;
                }
                Disk::Restored(_) => (),
                Disk::Damaged(_) => {
                    pod.exit_code = Some(exit::DATA);
                    pod.restarts += 1;
                }
            }
        }
    }

    fn probe(&mut self) {
        let states: Vec<(Slot, bool)> = self
            .pods
            .keys()
            .map(|slot| {
                let member = self.members.iter().find(|member| member.slot == *slot && !member.learner);
                (*slot, member.is_some_and(|member| self.healthy(member)))
            })
            .collect();
        for (slot, ready) in states {
            let now = self.now;
            let pod = self.pods.get_mut(&slot).unwrap();
            if pod.ready != ready {
                (pod.ready, pod.since) = (ready, now);
            }
        }
    }

    fn look(&self) -> World {
        let mut slots: BTreeMap<Slot, Place> = BTreeMap::new();
        for (slot, pod) in &self.pods {
            let running = pod.starting == 0 && pod.exit_code.is_none();
            slots.entry(*slot).or_default().pod = Some(Pod {
                uid: pod.uid.to_string(),
                ready: pod.ready,
                since: pod.since,
                terminating: pod.terminating,
                current: pod.template == self.template,
                running,
                at_gate: pod.at_gate,
                up_since: pod.since,
                exit_code: pod.exit_code,
                restarts: pod.restarts,
                node_lost: false,
                node_off: pod.off,
                version: String::new(),
                strange_image: false,
            });
        }
        for (slot, volume) in &self.volumes {
            slots.entry(*slot).or_default().volume = Some(Volume {
                uid: volume.uid.to_string(),
                terminating: volume.terminating,
                lost: false,
                ours: true,
                name: volume.name.to_string(),
                size: "8Gi".into(),
            });
        }
        let member = |member: &ModelMember| Member {
            id: member.id,
            slot: Some(member.slot),
            started: member.started,
            learner: member.learner,
            leader: member.id == self.leader,
            silent: !self.alive(member),
            healthy: self.healthy(member),
        };
        World {
            now: self.now,
            wish: self.wish.clone(),
            formed: self.formed,
            founders: if self.formed { self.last_size } else { self.founders },
            set: Some(Set { replicas: self.replicas, observed: true }),
            slots,
            members: self.has_quorum().then(|| self.members.iter().map(member).collect()),
            volumes: self.written.clone(),
            operation: self.operation.clone(),
            cluster_id: self.formed.then(|| self.store.to_string()),
            revision: self.revision,
            positions: self.positions(),
            applied: BTreeMap::new(),
            errand: self.errand.clone(),
            withdrawn: self.withdrawn,
            outside: None,
            request: self.request.clone().filter(|_| self.errand.is_none()),
            upkeep: self.upkeep.clone(),
            stores: 1,
        }
    }

    /// What the status remembers of a look.
    fn remember(&mut self, world: &World) {
        let going_back = world.errand.as_ref().is_some_and(|errand| errand.stage == Stage::GoingBack);
        let Some(members) = world.members.as_ref().filter(|_| !going_back) else { return };
        self.last_size = members.iter().filter_map(|member| member.slot).max().map_or(self.last_size, |slot| slot + 1);
        let there = |written: &Written| world.volume(written.slot).is_some_and(|volume| volume.uid == written.volume);
        self.written.retain(|written| members.iter().any(|member| member.id == written.member) || there(written));
        for member in members.iter().filter(|member| member.started && member.healthy) {
            let slot = member.slot.unwrap();
            let Some(volume) = world.volume(slot).filter(|volume| !volume.terminating) else { continue };
            if self.written.iter().all(|written| written.member != member.id) {
                self.written.retain(|written| written.volume != volume.uid);
                self.written.push(Written { slot, volume: volume.uid.clone(), member: member.id });
            }
        }
    }

    /// One round of the operator; it may die after the journal was written.
    fn operate(&mut self, dies: bool) -> Plan {
        self.write_ticket();
        let outside = if self.wish.paused { None } else { self.outside() };
        let world = World { outside, ..self.look() };
        let plan = plan(&world);
        self.record(&world, &plan);
        if plan.step != Step::Nothing && !dies {
            self.note(format!(
                "{:?} for {:?}",
                plan.step,
                plan.operation.as_ref().map(|operation| (operation.kind, operation.step.clone()))
            ));
            self.take(&plan);
        }
        plan
    }

    /// What the status keeps of a round.
    fn record(&mut self, world: &World, plan: &Plan) {
        self.remember(world);
        self.keep_errand(world, plan);
        self.operation.clone_from(&plan.operation);
        match &plan.window {
            Some(Window::Compacted(..)) => self.upkeep.compaction = None,
            Some(Window::Reclaimed(_)) => self.upkeep.reclaim = None,
            Some(Window::Healed | Window::Hopeless) => self.upkeep.healed = Some(self.now),
            Some(Window::Waits(_)) | None => (),
        }
    }

    /// Takes a step after judging it by the truth.
    fn take(&mut self, plan: &Plan) {
        let kind = plan.operation.as_ref().map(|operation| operation.kind);
        self.require(!self.wish.paused, "a paused cluster is left alone");
        match &plan.step {
            Step::Nothing => (),
            Step::SetReplicas(count) => {
                let dropped = self.members.iter().filter(|member| (*count..self.replicas).contains(&member.slot)).count();
                let rests = *count == 0 && (self.wish.replicas == 0 || self.errand.is_some());
                self.require(dropped == 0 || rests, "pods of members stay, unless all sleep");
                self.replicas = *count;
            }
            Step::AddLearner { slot } => {
                self.require(self.members.iter().all(|member| !member.learner), "at most one learner");
                self.require(self.members.iter().all(|member| member.slot != *slot), "one member a slot");
                let id = self.id();
                let behind = 1 + self.dice.below(5);
                self.members.push(ModelMember { id, slot: *slot, started: false, learner: true, behind });
            }
            Step::Promote { member } => {
                let at = self.members.iter().position(|known| known.id == *member);
                if let Some(at) = at.filter(|at| self.members[*at].behind == 0 && self.has_quorum()) {
                    self.members[at].learner = false;
                }
            }
            Step::Remove { member } => self.judge_removal(*member, kind),
            Step::MoveLeader { to, .. } => {
                if self.dice.one_in(2) && self.voters().any(|member| member.id == *to && self.alive(member)) {
                    self.leader = *to;
                }
            }
            Step::DeletePod { slot, uid } => {
                if self.pods.get(slot).is_some_and(|pod| pod.uid.to_string() == *uid) {
                    let voter = self.voters().find(|member| member.slot == *slot).cloned();
                    if let Some(member) = voter.filter(|member| self.healthy(member)) {
                        let others = self.voters().filter(|other| other.id != member.id && self.healthy(other)).count();
                        let voters = self.voters().count();
                        self.require(
                            voters == 1 || others > voters / 2,
                            "a working member is restarted only when the others are a quorum",
                        );
                    }
                    self.pods.get_mut(slot).unwrap().terminating = true;
                }
            }
            Step::ForcePod { slot, uid } => {
                self.require(self.members.iter().all(|member| member.slot != *slot), "no pod of a member is forgotten");
                if self.pods.get(slot).is_some_and(|pod| pod.uid.to_string() == *uid) {
                    self.pods.remove(slot);
                }
            }
            Step::DeleteVolume { slot, uid } => {
                if let Some(volume) = self.volumes.get(slot).filter(|volume| volume.uid.to_string() == *uid).cloned() {
                    let owner = match volume.disk {
                        Disk::Empty => None,
                        Disk::Of(id) | Disk::Damaged(id) | Disk::Restored(id) => Some(id),
                    };
                    let owned = owner.is_some_and(|id| self.members.iter().any(|member| member.id == id));
                    self.require(!owned, "no volume of a member is deleted");
                    self.volumes.get_mut(slot).unwrap().terminating = true;
                }
            }
            Step::RetireVolume { slot, uid, keep } => self.judge_retirement(*slot, uid, *keep),
            Step::ReleaseVolume { volume } => {
                self.require(self.has_quorum(), "old data goes only when the new store serves");
                self.aside.remove(&volume.parse::<u64>().unwrap());
            }
            Step::Compact { revision } => self.upkeep.compacted = Some(*revision),
            Step::Defragment { .. } => (),
            Step::Disarm => self.upkeep.full = false,
        }
    }

    fn judge_removal(&mut self, id: u64, kind: Option<Kind>) {
        let Some(at) = self.members.iter().position(|member| member.id == id) else { return };
        let member = self.members[at].clone();
        let lost = !self.holds_data(&member);
        let makes_way = member.learner && !self.healthy(&member) && self.voters().any(|voter| !self.holds_data(voter));
        self.require(
            lost || makes_way || member.slot >= self.wish.replicas,
            "members leave only when fewer are wished for, when their data is lost, or for one whose data is",
        );
        if !member.learner {
            let (all, left) = (self.voters().count(), self.voters().filter(|other| other.id != id && self.healthy(other)).count());
            self.require(left > (all - 1) / 2, "the members that stay are a quorum");
            self.require(left > all / 2 || kind == Some(Kind::ScaleIn), "a quorum commits the removal without the one that leaves");
        }
        self.members.remove(at);
    }

    /// Something happens. Nothing here takes a majority's data away, or what is needed to copy it.
    fn trouble(&mut self) {
        let slot = u32::try_from(self.dice.below(7)).unwrap();
        let spare = {
            let voters = self.voters().count();
            let kept =
                |member: &&ModelMember| self.holds_data(member) && !self.volumes[&member.slot].terminating && member.behind == 0;
            let whole = self.voters().filter(kept).count();
            voters >= 3 && whole > voters / 2 + 1
        };
        let calm = self.errand.is_none();
        match self.dice.below(16) {
            0 | 1 => {
                if let Some(pod) = self.pods.get_mut(&slot) {
                    pod.terminating = true;
                    self.note(format!("pod {slot} is killed"));
                }
            }
            2 if spare && calm => {
                if let Some(volume) = self.volumes.get_mut(&slot) {
                    volume.terminating = true;
                    if let Some(pod) = self.pods.get_mut(&slot) {
                        pod.terminating = true;
                    }
                    self.note(format!("volume {slot} is deleted with its pod"));
                }
            }
            3 if spare && calm => {
                if let Some(volume) = self.volumes.get_mut(&slot)
                    && let Disk::Of(id) = volume.disk
                {
                    volume.disk = Disk::Damaged(id);
                    if let Some(pod) = self.pods.get_mut(&slot) {
                        pod.starting = 1;
                    }
                    self.note(format!("volume {slot} is damaged"));
                }
            }
            4 | 5 => {
                let rounds = 1 + self.dice.below(20);
                if let Some(pod) = self.pods.get_mut(&slot) {
                    pod.cut = rounds;
                    self.note(format!("pod {slot} is cut off"));
                }
            }
            6 => {
                self.template += 1;
                self.broken = self.dice.one_in(3).then_some(self.template);
                self.note(format!("template {} (broken: {:?})", self.template, self.broken));
            }
            7 | 8 => {
                self.wish.replicas = [0, 1, 3, 3, 5, 5, 7][usize::try_from(self.dice.below(7)).unwrap()];
                self.note(format!("wish {}", self.wish.replicas));
            }
            9 => self.wish.paused = self.dice.one_in(3),
            10 => self.wish.delete_scaled_volumes = !self.dice.one_in(4),
            // With an errand under way that would start two stores by hand.
            11 if self.formed && calm => {
                // Somebody scales the StatefulSet by hand.
                self.replicas = u32::try_from(self.dice.below(8)).unwrap();
                self.note(format!("hand: {} pods", self.replicas));
            }
            12 => self.disaster(),
            13 if self.request.is_none() && calm && self.formed => {
                self.fills_in = if self.dice.one_in(4) { None } else { Some(self.dice.below(6)) };
                let keep = self.dice.one_in(2);
                self.ask(Ask::Restore { keep });
            }
            15 if spare && calm => {
                let now = self.now;
                if let Some(pod) = self.pods.get_mut(&slot) {
                    (pod.off, pod.terminating) = (Some(now), true);
                    self.note(format!("the node of pod {slot} is off for good"));
                }
            }
            14 if !calm => {
                self.withdrawn = true;
                self.note("withdrawn".into());
            }
            _ => (),
        }
    }

    fn settled(&self) -> bool {
        let wished = self.wish.replicas;
        let slots = || 0..wished;
        let pods = slots().all(|slot| self.pods.get(&slot).is_some_and(|pod| pod.ready && pod.template == self.template));
        let members = self.members.len() == slots().len()
            && self.members.iter().all(|member| !member.learner && member.slot < wished && self.healthy(member));
        let volumes = self.volumes.keys().copied().eq(slots());
        let asked = self.errand.is_some() || self.request.is_some();
        !asked && self.replicas == wished && pods && members && volumes && self.pods.len() == slots().len()
    }
}

/// Random histories: every step is right by the truth, and when the trouble is over all is as wished.
#[test]
fn random_histories() {
    let seeds: u64 = std::env::var("QUORATE_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(400);
    for seed in 0..seeds {
        let mut model = Model::new(seed);
        for _ in 0..250 {
            model.pass();
            model.ask_for_help();
            let dies = model.dice.one_in(8);
            if !model.dice.one_in(10) {
                model.operate(dies);
            }
            if model.dice.one_in(12) {
                model.trouble();
            }
        }
        model.note("the trouble is over".into());
        model.wish.paused = false;
        model.wish.delete_scaled_volumes = true;
        model.wish.replicas = [1, 3, 5, 7][usize::try_from(model.dice.below(4)).unwrap()];
        if model.broken == Some(model.template) {
            model.template += 1;
        }
        let mut rounds = 0;
        loop {
            model.pass();
            model.ask_for_help();
            // A restore whose job fails stays as it is until somebody gives it up.
            let restores = model.errand.as_ref().is_some_and(|errand| errand.purpose == Purpose::Restore);
            model.withdrawn |= restores && model.fills_in.is_none();
            let plan = model.operate(false);
            if model.settled() && plan.operation.is_none() {
                break;
            }
            rounds += 1;
            model.require(rounds < 1500, "all is as wished in the end");
        }
        // A settled cluster is left alone.
        for _ in 0..5 {
            model.pass();
            let plan = model.operate(false);
            model.require(plan.step == Step::Nothing && plan.operation.is_none(), "nothing is done without need");
        }
    }
}

/// A settled cluster of this size.
fn settled(replicas: u32) -> Model {
    let mut model = Model::new(7);
    (model.wish.replicas, model.replicas, model.founders, model.last_size) = (replicas, replicas, replicas, replicas);
    while !model.settled() {
        model.pass();
        model.operate(false);
    }
    model
}

/// Runs until settled and gives the steps.
fn steps(model: &mut Model) -> Vec<Step> {
    let mut steps = Vec::new();
    for _ in 0..500 {
        model.pass();
        let plan = model.operate(false);
        if plan.step != Step::Nothing {
            steps.push(plan.step);
        }
        if model.settled() && model.operation.is_none() {
            return steps;
        }
    }
    panic!("does not settle: {steps:?}")
}

/// A change restarts every member once, and the leader last, after it handed over.
#[test]
fn the_leader_is_last() {
    let mut model = settled(5);
    let leader = model.members.iter().find(|member| member.id == model.leader).unwrap().slot;
    model.template += 1;
    let steps = steps(&mut model);
    let restarted: Vec<Slot> =
        steps.iter().filter_map(|step| if let Step::DeletePod { slot, .. } = step { Some(*slot) } else { None }).collect();
    assert_eq!(restarted.len(), 5);
    assert_eq!(restarted.last(), Some(&leader));
    assert!(steps.iter().any(|step| matches!(step, Step::MoveLeader { .. })));
}

/// A change that does not start stops at the first member; its revert mends that member and restarts no other.
#[test]
fn a_broken_change_halts() {
    let mut model = settled(3);
    let good: Vec<u64> = model.pods.values().map(|pod| pod.uid).collect();
    model.template = 2;
    model.broken = Some(2);
    let mut blocked = None;
    for _ in 0..400 {
        model.pass();
        blocked = model.operate(false).blocked;
    }
    assert_eq!(blocked.map(|blocked| blocked.reason), Some("RolloutHalted"));
    assert_eq!(model.pods.values().filter(|pod| good.contains(&pod.uid)).count(), 2);
    (model.template, model.broken) = (1, Some(2));
    steps(&mut model);
    assert_eq!(model.pods.values().filter(|pod| good.contains(&pod.uid)).count(), 2, "only the broken one was restarted");
}

/// With two of three members' data gone nothing is removed or deleted: that is a person's decision.
#[test]
fn lost_quorum_is_left_alone() {
    let mut model = settled(3);
    for slot in [0, 1] {
        let uid = model.id();
        model.volumes.insert(slot, ModelVolume { uid, name: uid, terminating: false, disk: Disk::Empty });
    }
    for _ in 0..300 {
        model.pass();
        assert_eq!(model.operate(false).step, Step::Nothing);
    }
}

/// Asleep, nothing of the members is touched; they wake as they were, and another size is reached from there.
#[test]
fn sleep_and_wake() {
    let mut model = settled(3);
    let ids: Vec<u64> = model.members.iter().map(|member| member.id).collect();
    model.wish.replicas = 0;
    for _ in 0..60 {
        model.pass();
        let step = model.operate(false).step;
        assert!(matches!(step, Step::Nothing | Step::SetReplicas(0)), "{step:?}");
    }
    assert!(model.pods.is_empty() && model.volumes.len() == 3);
    model.wish.replicas = 5;
    steps(&mut model);
    assert!(ids.iter().all(|id| model.members.iter().any(|member| member.id == *id)));
}

/// A member without its volume is replaced with a volume of its own, once the others are a quorum.
#[test]
fn a_lost_volume_is_replaced() {
    let mut model = settled(3);
    model.volumes.get_mut(&1).unwrap().terminating = true;
    model.pods.get_mut(&1).unwrap().terminating = true;
    let steps = steps(&mut model);
    let kinds: Vec<_> = steps.iter().map(std::mem::discriminant).collect();
    let wanted = [Step::Remove { member: 0 }, Step::AddLearner { slot: 0 }, Step::Promote { member: 0 }]
        .map(|step| std::mem::discriminant(&step));
    assert!(kinds.starts_with(&wanted), "{steps:?}");
}

/// A member whose node is off for good: it is waited for, then it leaves the store, and only then its volume and its pod go. Two of
/// three are a person's decision.
#[test]
fn a_node_that_stays_off() {
    let off = |model: &mut Model, slot: Slot| {
        let now = model.now;
        let pod = model.pods.get_mut(&slot).unwrap();
        (pod.off, pod.terminating) = (Some(now), true);
    };
    let mut model = settled(3);
    off(&mut model, 1);
    while model.now < model.pods[&1].off.unwrap() + model.wish.repair_after - 2 {
        model.pass();
        assert_eq!(model.operate(false).step, Step::Nothing);
    }
    let steps = steps(&mut model);
    let kinds: Vec<_> = steps.iter().map(std::mem::discriminant).collect();
    let of = |slot| (slot, String::new());
    let ((slot, uid), member) = (of(1), 0);
    let wanted = [
        Step::Remove { member },
        Step::DeleteVolume { slot, uid: uid.clone() },
        Step::ForcePod { slot, uid },
        Step::AddLearner { slot },
        Step::Promote { member },
    ];
    assert_eq!(kinds, wanted.map(|step| std::mem::discriminant(&step)), "{steps:?}");
    let mut model = settled(3);
    off(&mut model, 0);
    off(&mut model, 1);
    for _ in 0..300 {
        model.pass();
        assert_eq!(model.operate(false).step, Step::Nothing);
    }
}

/// A member whose node is off and that still answers stays, however long that lasts and though it misses a question now and then; nor
/// is its pod restarted for a change while nobody could end it.
#[test]
fn a_member_that_answers_is_not_lost() {
    let model = settled(3);
    let mut world = model.look();
    world.now += 10_000;
    let pod = world.slots.get_mut(&1).unwrap().pod.as_mut().unwrap();
    (pod.node_off, pod.terminating, pod.ready) = (Some(0), true, false);
    let member = |world: &mut World, healthy, silent| {
        let member = world.members.as_mut().unwrap().iter_mut().find(|member| member.slot == Some(1)).unwrap();
        (member.healthy, member.silent) = (healthy, silent);
    };
    for (healthy, silent) in [(true, false), (false, false), (false, true), (true, false), (false, true), (false, false)] {
        member(&mut world, healthy, silent);
        world.now += 2;
        let plan = plan(&world);
        assert_eq!(plan.step, Step::Nothing);
        world.operation = plan.operation;
    }
    member(&mut world, false, true);
    assert_eq!(twice(&mut world).step, Step::Nothing);
    world.now += 40;
    assert!(matches!(plan(&world).step, Step::Remove { .. }));

    let mut world = model.look();
    let pod = world.slots.get_mut(&1).unwrap().pod.as_mut().unwrap();
    (pod.node_off, pod.ready, pod.current, pod.since) = (Some(0), false, false, 0);
    member(&mut world, false, true);
    world.now += 10_000;
    assert_eq!(twice(&mut world).step, Step::Nothing);
}

/// Volumes that were taken up and hold two stores stop for a person, and so do those that are gone or refused.
#[test]
fn volumes_that_do_not_form() {
    let model = settled(3);
    let unformed = World { formed: false, members: None, founders: 3, ..model.look() };
    let mut two = World { stores: 2, ..unformed.clone() };
    let first = plan(&two);
    assert_eq!((first.step, first.blocked.unwrap().reason), (Step::SetReplicas(0), "DifferentStores"));
    (two.stores, two.set, two.operation) = (0, Some(Set { replicas: 0, observed: true }), first.operation);
    let then = plan(&two);
    assert_eq!((then.step, then.blocked.unwrap().reason), (Step::Nothing, "DifferentStores"), "nor when nobody answers any more");
    let gone = plan(&World { founders: 0, ..unformed.clone() });
    assert_eq!(gone.blocked.unwrap().reason, "NothingToTakeUp");
    let mut refused = unformed;
    let pod = refused.slots.get_mut(&1).unwrap().pod.as_mut().unwrap();
    (pod.running, pod.exit_code, pod.restarts, pod.current) = (false, Some(exit::DATA), 2, true);
    assert_eq!(plan(&refused).blocked.unwrap().reason, "DataRefused");
}

/// Who is wished away while the node is off leaves nothing behind.
#[test]
fn a_pod_that_is_not_wanted_on_a_node_that_is_off() {
    let mut model = settled(3);
    let now = model.now;
    let pod = model.pods.get_mut(&2).unwrap();
    (pod.off, pod.terminating) = (Some(now), true);
    model.wish.replicas = 1;
    assert!(steps(&mut model).iter().any(|step| matches!(step, Step::ForcePod { slot: 2, .. })));
}

/// Between one member and three the time with two voters is short: the third pod is there before the second votes.
#[test]
fn two_voters_are_soon_three() {
    let mut model = settled(1);
    model.wish.replicas = 3;
    for _ in 0..100 {
        model.pass();
        let plan = model.operate(false);
        if matches!(plan.step, Step::Promote { .. }) && model.voters().count() == 2 {
            assert!(model.pods.contains_key(&2));
            return;
        }
    }
    panic!("no second voter");
}

/// An unwanted learner, from a wish that was taken back, leaves again.
#[test]
fn growth_can_be_taken_back() {
    let mut model = settled(3);
    model.wish.replicas = 5;
    while !model.members.iter().any(|member| member.learner) {
        model.pass();
        model.operate(false);
    }
    model.wish.replicas = 3;
    steps(&mut model);
    assert_eq!((model.members.len(), model.volumes.len()), (3, 3));
}

/// A change that does not start broke one member and stopped there. While another one is away, and the quorum with it, nobody else gets
/// the broken form: whether that one is cut off or starts again, the quorum is back as soon as it is.
#[test]
fn a_broken_change_reaches_nobody_without_a_quorum() {
    for starts_again in [false, true] {
        let mut model = settled(3);
        let good: Vec<u64> = model.pods.values().map(|pod| pod.uid).collect();
        (model.template, model.broken) = (2, Some(2));
        for _ in 0..100 {
            model.pass();
            model.operate(false);
        }
        let away = model.pods.values_mut().find(|pod| good.contains(&pod.uid)).unwrap();
        if starts_again {
            away.starting = 60;
        } else {
            away.cut = 60;
        }
        for _ in 0..100 {
            model.pass();
            model.operate(false);
        }
        assert_eq!(model.pods.values().filter(|pod| good.contains(&pod.uid)).count(), 2, "starts again: {starts_again}");
        assert!(model.has_quorum());
    }
}

/// What mends members that all fail reaches all of them, one after the other, quorum or not.
#[test]
fn a_mend_reaches_all_without_a_quorum() {
    let mut model = settled(3);
    model.broken = Some(1);
    for pod in model.pods.values_mut() {
        pod.starting = 1;
    }
    for _ in 0..20 {
        model.pass();
        assert_eq!(model.operate(false).step, Step::Nothing);
    }
    model.template = 2;
    steps(&mut model);
}

/// A quorum that is missing, by members that run and wait: a change reaches them one by one, and only after a while; those that somebody
/// supervises are left alone.
#[test]
fn running_members_are_not_restarted_in_haste() {
    let model = settled(3);
    let mut world = model.look();
    world.members = None;
    world.set = Some(Set { replicas: 3, observed: true });
    for place in world.slots.values_mut() {
        let pod = place.pod.as_mut().unwrap();
        (pod.ready, pod.current, pod.since) = (false, false, world.now - 30);
    }
    assert_eq!(plan(&world).step, Step::Nothing, "an election may take as long");
    world.now += 100;
    let begun = plan(&world);
    assert!(matches!(begun.step, Step::DeletePod { slot: 0, .. }));
    let mut after = World { operation: begun.operation, ..world.clone() };
    after.slots.get_mut(&0).unwrap().pod.as_mut().unwrap().terminating = true;
    assert_eq!(plan(&after).step, Step::Nothing, "one at a time");
    after.slots.get_mut(&0).unwrap().pod = None;
    assert_eq!(plan(&after).step, Step::Nothing);
    after.now += 1000;
    assert!(matches!(plan(&after).step, Step::DeletePod { slot: 1, .. }), "its node may be gone");
    let first = world.slots.get_mut(&0).unwrap().pod.as_mut().unwrap();
    (first.current, first.since, first.running) = (true, world.now, false);
    assert_eq!(plan(&world).step, Step::Nothing, "the first one shows whether the change is any good");
    world.slots.get_mut(&0).unwrap().pod.as_mut().unwrap().current = false;
    world.wish.automatic_update = false;
    assert!(matches!(plan(&world).step, Step::DeletePod { slot: 0, .. }), "what does not run anyway");
    world.slots.get_mut(&0).unwrap().pod.as_mut().unwrap().running = true;
    assert_eq!(plan(&world).step, Step::Nothing);
}

/// A pod that cannot be placed does not keep a mend from those that fail, whether it has the new form already or not.
#[test]
fn a_pod_without_a_place_is_mended_last() {
    let model = settled(3);
    let mut world = model.look();
    world.members = None;
    for (slot, place) in &mut world.slots {
        let pod = place.pod.as_mut().unwrap();
        (pod.ready, pod.current, pod.running, pod.since) = (false, false, false, world.now - 300);
        pod.exit_code = (*slot > 0).then_some(1);
    }
    assert!(matches!(plan(&world).step, Step::DeletePod { slot: 1, .. }), "{:?}", plan(&world).step);
    let first = world.slots.get_mut(&0).unwrap().pod.as_mut().unwrap();
    (first.current, first.node_lost) = (true, true);
    assert!(matches!(plan(&world).step, Step::DeletePod { slot: 1, .. }));
    world.slots.get_mut(&0).unwrap().pod.as_mut().unwrap().node_lost = false;
    assert_eq!(twice(&mut world).step, Step::Nothing, "it may be the new form that has no place");
    world.now += 600;
    assert!(twice(&mut world).blocked.is_some_and(|blocked| blocked.message.contains("delete the pods")));
}

/// Two looks at this world.
fn twice(world: &mut World) -> Plan {
    world.operation = plan(world).operation;
    plan(world)
}

/// A member that refused its data once and has run since is not replaced when it is cut off: only one that does not run is.
#[test]
fn an_old_refusal_is_no_damage() {
    let model = settled(3);
    let mut world = model.look();
    let member = world.members.as_mut().unwrap().iter_mut().find(|member| !member.leader).unwrap();
    member.healthy = false;
    let (id, slot) = (member.id, member.slot.unwrap());
    let pod = world.slots.get_mut(&slot).unwrap().pod.as_mut().unwrap();
    (pod.ready, pod.exit_code, pod.restarts) = (false, Some(exit::DATA), 1);
    assert_eq!(twice(&mut world).step, Step::Nothing);
    world.slots.get_mut(&slot).unwrap().pod.as_mut().unwrap().running = false;
    assert_eq!(twice(&mut world).step, Step::Remove { member: id });
}

/// An image that refuses what a newer one wrote halts; the member keeps its volume, and taking the change back mends it. Where another
/// works with the same image, the volume is damaged.
#[test]
fn an_image_that_refuses_sound_data_halts() {
    let model = settled(3);
    let mut world = model.look();
    let member = world.members.as_mut().unwrap().iter_mut().find(|member| !member.leader).unwrap();
    member.healthy = false;
    let (id, slot) = (member.id, member.slot.unwrap());
    for (at, place) in &mut world.slots {
        place.pod.as_mut().unwrap().current = *at == slot;
    }
    let pod = world.slots.get_mut(&slot).unwrap().pod.as_mut().unwrap();
    (pod.ready, pod.running, pod.exit_code, pod.restarts) = (false, false, Some(exit::DATA), 3);
    (pod.strange_image, pod.since) = (true, world.now - 1000);
    assert_eq!(twice(&mut world).blocked.map(|blocked| blocked.reason), Some("RolloutHalted"));
    world.slots.get_mut(&slot).unwrap().pod.as_mut().unwrap().strange_image = false;
    assert_eq!(twice(&mut world).step, Step::Remove { member: id });
}

/// A learner that does not come up does not keep a voter that lost its data from being replaced.
#[test]
fn a_stuck_learner_makes_way_for_a_repair() {
    let mut model = settled(3);
    model.wish.replicas = 5;
    while !model.members.iter().any(|member| member.learner) {
        model.pass();
        model.operate(false);
    }
    let learner = model.members.iter().find(|member| member.learner).unwrap().slot;
    model.pods.get_mut(&learner).unwrap().cut = 100_000;
    let before = model.members.iter().find(|member| member.slot == 1).unwrap().id;
    errands::lose(&mut model, &[1]);
    for _ in 0..300 {
        model.pass();
        model.operate(false);
    }
    let now = model.members.iter().find(|member| member.slot == 1).unwrap().clone();
    assert!(now.id != before && !now.learner && model.healthy(&now), "{now:?}");
}

/// A pod that waits at the gate joins, though a slot below it stays without a pod that runs.
#[test]
fn who_waits_at_the_gate_joins_first() {
    let mut model = settled(5);
    errands::lose(&mut model, &[1, 3]);
    for _ in 0..300 {
        model.pass();
        if let Some(pod) = model.pods.get_mut(&1).filter(|pod| !pod.terminating) {
            pod.starting = 60;
        }
        model.operate(false);
    }
    let at = |slot| model.members.iter().find(|member| member.slot == slot);
    assert!(at(1).is_none() && at(3).is_some_and(|member| !member.learner && model.healthy(member)), "{:?}", model.members);
}
