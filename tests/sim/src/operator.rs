//! The operator: takes members in and out while everything else goes on, one plan after the other.
//!
//! A plan is a few steps: a machine is switched on, added as a learner or a voter, promoted; a member is removed, be it the leader, one
//! that is down, or one whose disk is lost; a removed one comes back with its old disk. Each change goes to any member, which asks the
//! leader, and there through the server's own rules, desk and log. What is not answered is asked again once the list of members shows
//! that it did not happen.
//!
//! In: turns, answers. Out: requests, and machines that come and go. Disks are lost only where the others hold everything that was
//! acknowledged, and no plan begins while a member's data differ.

use crate::member::{Changing, Member, Stage, url_of};
use crate::world::{Event, MS, SECOND, SPARE, World};
use quorate::membership::fresh_id;
use quorate::membership::rules::{HEALTH_INTERVAL, Scene};
use quorate_proto::state::{Member as MemberRow, MemberChange, MemberChangeKind};
use std::collections::{BTreeSet, VecDeque};

/// What is to be done next.
#[derive(Clone, Debug)]
enum Step {
    Rest(u64),
    /// Switches a machine with an empty disk on.
    Boot(usize),
    Add {
        at: usize,
        learner: bool,
    },
    Promote(usize),
    Remove(usize),
    /// Takes a member down, for good as far as it can tell.
    Hold(usize),
    /// Starts a member that was held, with its old disk.
    Return(usize),
    LoseDisk(usize),
}

/// The operator's state.
#[derive(Default)]
pub struct Operator {
    steps: VecDeque<Step>,
    /// Counts turns: what was meant for an older one is passed over.
    turn: u64,
    tries: u32,
    /// Changes are judged by the rules of `--strict-reconfig-check`.
    strict: bool,
}

/// Learners that may be there at once.
const MAX_LEARNERS: u32 = 2;
/// How long the operator waits for an answer.
const PATIENCE: u64 = 4 * SECOND;
/// Attempts before a plan is given up.
const TRIES: u32 = 12;

impl Operator {
    /// True when no plan is under way.
    pub fn rests(&self) -> bool {
        self.steps.is_empty()
    }
}

fn change(kind: MemberChangeKind, member: MemberRow) -> MemberChange {
    MemberChange { kind: kind.into(), member: Some(member), max_learners: Some(MAX_LEARNERS), ..Default::default() }
}

impl World {
    /// Two seeds of three have an operator.
    pub fn begin_operator(&mut self) {
        self.operator.strict = self.chance.chance(75);
        if self.chance.below(3) < 2 {
            let first = self.chance.between(5 * SECOND, 12 * SECOND);
            self.operate_in(first);
        }
    }

    fn operate_in(&mut self, delay: u64) {
        self.operator.turn += 1;
        let turn = self.operator.turn;
        self.after(delay, Event::Operate { turn });
    }

    /// When the world becomes calm: only what nobody could live without is still done.
    pub fn end_operator(&mut self) {
        let lost: Vec<usize> = (0..self.members.len()).filter(|at| self.members[*at].stage == Stage::Gone).collect();
        self.operator.steps.retain(|step| match step {
            Step::Remove(at) => lost.contains(at),
            // It may be listed already.
            Step::Boot(_) => true,
            _ => false,
        });
        self.members.iter_mut().for_each(|m| m.held = false);
        if !self.operator.steps.is_empty() {
            self.operate_in(SECOND);
        }
    }

    /// The next step.
    pub fn operate(&mut self, turn: u64) {
        if turn != self.operator.turn {
            return;
        }
        let Some(step) = self.operator.steps.front().cloned() else {
            if !self.calm {
                self.plan();
                let delay = self.chance.between(200 * MS, 800 * MS);
                self.operate_in(delay);
            }
            return;
        };
        let mut pause = MS;
        match step {
            Step::Add { .. } | Step::Promote(_) | Step::Remove(_) => return self.ask_for(&step),
            Step::Rest(time) => pause = time,
            Step::Boot(at) => {
                self.note(&format!("operator: machine {at} is switched on"));
                self.after(MS, Event::Gate { at });
            }
            Step::Hold(at) => {
                self.note(&format!("operator: member {at} is taken down"));
                self.members[at].held = true;
                self.take_down(at);
            }
            Step::Return(at) => {
                self.note(&format!("operator: member {at} comes back with its old disk"));
                self.members[at].held = false;
                self.after(MS, Event::Mend { at });
            }
            Step::LoseDisk(at) => {
                self.note(&format!("operator: the disk of member {at} is lost"));
                self.take_down(at);
                self.members[at].stage = Stage::Gone;
            }
        }
        self.operator.steps.pop_front();
        self.operate_in(pause);
    }

    fn take_down(&mut self, at: usize) {
        if self.members[at].running.is_some() {
            let power = self.chance.chance(50);
            self.kill(at, power);
        }
    }

    // === plans ===

    /// Makes the next plan, if the cluster stands well.
    fn plan(&mut self) {
        if self.chance.chance(60) || !self.all_sound() {
            return;
        }
        let list = self.listed();
        // Nobody that it asks may have applied the last removal yet: it would count on who is gone.
        if list.iter().any(|m| self.ledger.is_removed(m.id)) {
            return;
        }
        let machines = |world: &Self, learner: bool| -> Vec<usize> {
            let ids = list.iter().filter(|m| m.learner == learner).filter_map(|m| world.index_of(m.id));
            ids.collect()
        };
        let (voters, learners) = (machines(self, false), machines(self, true));
        let home = self.settings.members;
        let has_room = self.members.len() < home + SPARE;
        if let Some(learner) = learners.first().copied() {
            let step = if self.chance.chance(70) { Step::Promote(learner) } else { Step::Remove(learner) };
            self.operator.steps.push_back(step);
        } else if voters.len() > home {
            self.plan_removal(&voters);
        } else if has_room && voters.len() < home {
            self.plan_addition(None);
        } else if has_room {
            match self.chance.below(4) {
                0 => self.plan_addition(None),
                1 => self.plan_removal(&voters),
                2 if voters.len() >= 3 => {
                    let lost = self.chance.pick(&voters);
                    let rest = self.chance.between(MS, 4 * SECOND);
                    self.operator.steps.extend([Step::LoseDisk(lost), Step::Rest(rest), Step::Remove(lost)]);
                    let url = self.members[lost].url.clone();
                    let url = self.chance.chance(50).then_some(url);
                    self.plan_addition(url);
                }
                _ => {
                    // As a careful operator does: the new one first.
                    self.plan_addition(None);
                    let rest = self.chance.between(MS, 2 * SECOND);
                    self.operator.steps.push_back(Step::Rest(rest));
                    self.plan_removal(&voters);
                }
            }
        }
        self.operator.tries = 0;
        if !self.operator.steps.is_empty() {
            let text = format!("operator: {:?}", self.operator.steps);
            self.note(&text);
        }
    }

    /// Somebody goes: a member that works, or one that is down and comes back when it has no more to say.
    fn plan_removal(&mut self, voters: &[usize]) {
        if voters.len() < 2 {
            return;
        }
        let mut going = vec![self.chance.pick(voters)];
        if self.chance.chance(35)
            && let Some(leader) = self.leader().filter(|at| voters.contains(at))
        {
            going[0] = leader;
        }
        if voters.len() >= 5 && self.chance.chance(30) {
            going.extend(voters.iter().copied().find(|at| *at != going[0]));
        }
        let held = voters.len() >= 3 && self.chance.chance(45);
        let rest = Step::Rest(self.chance.between(MS, 3 * SECOND));
        if held {
            self.operator.steps.extend(going.iter().map(|at| Step::Hold(*at)));
            self.operator.steps.push_back(rest);
        }
        self.operator.steps.extend(going.iter().map(|at| Step::Remove(*at)));
        if held {
            self.operator.steps.push_back(Step::Rest(self.chance.between(MS, 5 * SECOND)));
            self.operator.steps.extend(going.iter().map(|at| Step::Return(*at)));
        }
    }

    /// A machine is taken in, at a new address or at one that a removed member had.
    fn plan_addition(&mut self, url: Option<String>) {
        let at = self.members.len();
        let seed = self.chance.draw();
        let mut machine = Member::empty(url.unwrap_or_else(|| url_of(at)), seed);
        machine.drift = self.chance.below(1001) as i64 - 500;
        machine.wall_offset = self.chance.below(4 * SECOND) as i64;
        self.members.push(machine);
        let learner = self.chance.chance(75);
        let steps = &mut self.operator.steps;
        let (boot, add) = (Step::Boot(at), Step::Add { at, learner });
        steps.extend(if self.chance.chance(50) { [boot, add] } else { [add, boot] });
        if learner && self.chance.chance(85) {
            steps.push_back(Step::Rest(self.chance.between(MS, 3 * SECOND)));
            steps.push_back(Step::Promote(at));
        }
    }

    // === requests ===

    /// Asks any member for the change of a step, unless the list shows that it is done.
    fn ask_for(&mut self, step: &Step) {
        let list = self.listed();
        let row = |at: usize| list.iter().find(|m| m.id == self.members[at].id && m.id != 0);
        let done = match step {
            Step::Add { at, .. } => list.iter().any(|m| m.peer_urls.contains(&self.members[*at].url)),
            Step::Promote(at) => row(*at).is_some_and(|m| !m.learner),
            Step::Remove(at) => !list.is_empty() && row(*at).is_none(),
            _ => true,
        };
        if done {
            return self.next_step(MS);
        }
        self.operator.tries += 1;
        let needed = matches!(step, Step::Remove(at) if self.members[*at].stage == Stage::Gone);
        if self.operator.tries > TRIES && !needed {
            self.note("operator: the plan is given up");
            let held: Vec<usize> = (0..self.members.len()).filter(|at| self.members[*at].held).collect();
            // What was asked for may happen yet: its machine must be there then.
            self.operator.steps.retain(|step| matches!(step, Step::Boot(_)));
            self.operator.steps.extend(held.into_iter().map(Step::Return));
            return self.operate_in(SECOND);
        }
        let asked = match step {
            Step::Add { at, learner } => {
                let kind = if *learner { MemberChangeKind::AddLearner } else { MemberChangeKind::Add };
                change(kind, MemberRow { peer_urls: vec![self.members[*at].url.clone()], learner: *learner, ..Default::default() })
            }
            Step::Promote(at) => change(MemberChangeKind::Promote, MemberRow { id: self.members[*at].id, ..Default::default() }),
            Step::Remove(at) => change(MemberChangeKind::Remove, MemberRow { id: self.members[*at].id, ..Default::default() }),
            _ => return,
        };
        self.operate_in(PATIENCE);
        let number = self.operator.turn;
        self.send_change(number, asked.clone());
        if self.calm {
            return;
        }
        if self.chance.chance(10) {
            // The same once more, through another member: only one of the two may happen.
            self.send_change(0, asked);
        } else if self.chance.chance(15)
            && let Some(known) = list.iter().find(|m| !m.name.is_empty())
        {
            let urls = known.peer_urls.clone();
            self.send_change(
                0,
                change(MemberChangeKind::Update, MemberRow { id: known.id, peer_urls: urls, ..Default::default() }),
            );
        }
        if self.chance.chance(20) {
            let delay = self.chance.between(MS, 20 * MS);
            self.after(delay, Event::Unseat);
        }
    }

    fn send_change(&mut self, number: u64, change: MemberChange) {
        let at = self.endpoint();
        let delay = self.chance.between(50, 600);
        self.after(delay, Event::Change { at, number, change, hops: 0 });
    }

    fn next_step(&mut self, pause: u64) {
        self.operator.steps.pop_front();
        self.operator.tries = 0;
        self.operate_in(pause);
    }

    pub fn tell_operator(&mut self, number: u64, ok: bool) {
        let delay = self.chance.between(50, 600);
        self.after(delay, Event::Changed { number, ok });
    }

    /// An answer: the next step, or the same again after a while.
    pub fn changed(&mut self, number: u64, ok: bool) {
        if number != self.operator.turn {
            return;
        }
        self.note(&format!("operator: {}", if ok { "done" } else { "refused" }));
        let pause = self.chance.between(100 * MS, 900 * MS);
        if ok { self.next_step(pause) } else { self.operate_in(pause) }
    }

    /// The leader goes, one way or another.
    pub fn unseat(&mut self) {
        let Some(leader) = self.leader() else { return };
        let others: Vec<usize> = self.current().into_iter().filter(|at| *at != leader && !self.is_learner(*at)).collect();
        if self.calm || others.is_empty() {
            return;
        }
        if self.chance.chance(50) || !self.may_lose() {
            let to = self.chance.pick(&others);
            let id = self.members[to].id;
            if let Some(running) = &self.members[leader].running {
                let _ = running.node.transfer(id);
            }
            return self.settle(leader);
        }
        let power = self.chance.chance(50);
        self.crash(leader, power, 3 * SECOND);
    }

    // === at the members ===

    /// A change reaches a member: the leader judges and proposes it, any other asks the leader it knows.
    pub fn change(&mut self, at: usize, number: u64, mut change: MemberChange, hops: u32) {
        let now = self.now;
        self.members[at].set_clock(now);
        let time = (now + 1) as u128 * 1000 + u128::from(self.chance.below(1000));
        let Some(running) = &self.members[at].running else { return self.tell_operator(number, false) };
        let handle = running.node.handle();
        let status = handle.status();
        if status.is_learner || handle.is_fenced() {
            return self.tell_operator(number, false);
        }
        if let Some(member) = change.member.as_mut().filter(|m| m.id == 0) {
            member.id = fresh_id(handle.shared(), &member.peer_urls, "sim", time);
        }
        if status.is_leader {
            return self.change_here(at, number, change);
        }
        let leader = self.index_of(status.leader).filter(|_| status.leader != 0 && hops == 0);
        match leader {
            Some(leader) if self.net.connected_for(at, leader, now).is_some() && !self.refuses(leader, at) => {
                let delay = self.delay(at, leader);
                self.after(delay, Event::Change { at: leader, number, change, hops: 1 });
            }
            _ => self.tell_operator(number, false),
        }
    }

    fn change_here(&mut self, at: usize, number: u64, change: MemberChange) {
        let (now, own) = (self.now, self.members[at].id);
        let mut connected = BTreeSet::new();
        let mut steady = BTreeSet::new();
        for other in 0..self.members.len() {
            if let Some(time) = self.net.connected_for(at, other, now) {
                connected.insert(self.members[other].id);
                if time >= HEALTH_INTERVAL.as_micros() as u64 {
                    steady.insert(self.members[other].id);
                }
            }
        }
        let Some(running) = &self.members[at].running else { return };
        let members = running.node.handle().shared().members();
        let scene = Scene { own, members: &members, connected: &connected, steady: &steady };
        if self.operator.strict && scene.judge(&change).is_err() {
            return self.tell_operator(number, false);
        }
        let removes_us = change.kind() == MemberChangeKind::Remove && change.member.as_ref().is_some_and(|m| m.id == own);
        let heir = members.iter().find(|m| !m.learner && m.id != own && connected.contains(&m.id)).map(|m| m.id);
        let life = self.members[at].life;
        // A leader that is to go hands leadership over first; now and then nobody takes it.
        if let Some(heir) = heir.filter(|_| removes_us)
            && self.chance.chance(70)
        {
            self.inside(at, life, |node| drop(node.transfer(heir)));
            return self.tell_operator(number, false);
        }
        let mut refused = false;
        if let Some(running) = &mut self.members[at].running {
            match running.node.change_members(change) {
                Ok(waiting) => running.changes.push(Changing { number, waiting }),
                Err(_) => refused = true,
            }
        }
        if refused {
            self.tell_operator(number, false);
        }
        self.settle(at);
    }
}
