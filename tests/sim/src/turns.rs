//! The members' turns: starting and ending a process, its ticks, the steps of its parts, and what follows from each.
//!
//! The parts of a process (loop, apply, keeper, log, watch room) take their steps apart from each other, each after a delay of its
//! own, as their threads would. A step that ends the process, by a failed disk say, ends only that member; a panic is a violation.

use crate::Time;
use crate::member::{PARTS, Part};
use crate::net::KINDS;
use crate::ops::Told;
use crate::world::{Event, HEARTBEAT, MS, SECOND, World};
use quorate::env::end;
use quorate::node::stepped::{Answered, LogStep, SteppedNode};
use std::panic::{AssertUnwindSafe, catch_unwind};

impl World {
    /// Starts a member that is down.
    pub fn start(&mut self, at: usize) {
        if self.members[at].running.is_some() || !self.may_start(at) {
            return;
        }
        let now = self.now;
        let started = self.guarded(at, |world| world.members[at].start(now));
        match started {
            Some(Ok(())) => {
                let life = self.members[at].life;
                self.note(&format!("member {at} starts its life {life}"));
                if self.was_removed(at) {
                    return self.bury(at);
                }
                let first = self.chance.below(HEARTBEAT);
                self.after(first, Event::Tick { at, life });
                self.follow_members(at);
                self.settle(at);
            }
            Some(Err(e)) => self.refused_to_start(at, &e),
            None => {}
        }
    }

    /// Runs something of a member; `None` when its process ended in it.
    pub fn guarded<T>(&mut self, at: usize, work: impl FnOnce(&mut Self) -> T) -> Option<T> {
        match catch_unwind(AssertUnwindSafe(|| work(self))) {
            Ok(done) => Some(done),
            Err(payload) if payload.is::<end::Ended>() => {
                self.note(&format!("member {at} ends itself"));
                self.kill(at, false);
                let delay = self.chance.between(200 * MS, 2 * SECOND);
                self.after(delay, Event::Mend { at });
                None
            }
            Err(payload) => {
                let text = payload.downcast_ref::<String>().cloned();
                let text = text.or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default();
                self.violation(format!("member {at} panicked: {text}"));
                None
            }
        }
    }

    /// Ends a member's process.
    pub fn kill(&mut self, at: usize, power: bool) {
        self.members[at].stop(power, &mut self.chance, &mut self.net, at);
        self.members[at].down = true;
        // Whoever was connected notices.
        let waiting: Vec<usize> = (0..self.operations.len()).rev().take(200).collect();
        for operation in waiting {
            if self.clients[self.operations[operation].client].waits_at(operation, at) {
                let delay = self.chance.between(MS, 20 * MS);
                self.after(delay, Event::Timeout { operation });
            }
        }
        for from in 0..self.members.len() {
            for kind in KINDS {
                if from != at {
                    self.break_session(from, at, kind);
                }
            }
        }
    }

    /// Does something with a member's node if that life of it still runs, then what follows from it.
    pub fn inside(&mut self, at: usize, life: u32, work: impl FnOnce(&mut SteppedNode)) {
        if self.members[at].life != life || self.members[at].running.is_none() {
            return;
        }
        let now = self.now;
        let done = self.guarded(at, |world| {
            let member = &mut world.members[at];
            member.set_clock(now);
            if let Some(running) = &mut member.running {
                work(&mut running.node);
            }
        });
        if done.is_some() {
            self.settle(at);
        }
    }

    pub fn tick(&mut self, at: usize, life: u32) {
        let now = self.now;
        if self.members[at].life == life && self.members[at].running.is_some() {
            self.inside(at, life, |node| {
                node.tick();
                node.step_loop(64);
            });
            if let Some(running) = &self.members[at].running {
                running.hub.tick(now / MS);
                running.published.lock().stirred = true;
            }
            self.follow_members(at);
            self.announce(at);
            self.look_for_removal(at);
            // Its clock says when a heartbeat is over.
            let drift = self.members[at].drift;
            let period = (HEARTBEAT as i64 - HEARTBEAT as i64 * drift / 1_000_000) as Time;
            self.after(period, Event::Tick { at, life });
        }
    }

    pub fn step(&mut self, at: usize, life: u32, part: Part) {
        if self.members[at].life != life {
            return;
        }
        let Some(running) = &mut self.members[at].running else { return };
        // The log is told apart below: its next step may be a sync, which takes longer.
        running.busy[part as usize] = part == Part::Log;
        let slow = self.members[at].slow_disk;
        let mut logged = LogStep::Done;
        self.inside(at, life, |node| match part {
            Part::Loop => node.step_loop(64),
            Part::Apply => node.step_apply(),
            Part::Keeper => node.step_keeper(),
            Part::Log => logged = node.step_log(),
            Part::Watch => {}
        });
        if self.members[at].life != life {
            return;
        }
        let Some(running) = &mut self.members[at].running else { return };
        match part {
            Part::Watch => running.hub.drive(),
            Part::Log => {
                let wait = match logged {
                    LogStep::Written => self.chance.between(100, 1500) * slow,
                    LogStep::Full => 200 * MS,
                    LogStep::Done => {
                        running.busy[Part::Log as usize] = false;
                        return self.poke(at);
                    }
                };
                self.after(wait, Event::Step { at, life, part: Part::Log });
            }
            _ => {}
        }
    }

    /// What follows from something that happened in a member: messages leave, events are compared, answers go to their clients, and
    /// its parts get their next turns.
    pub fn settle(&mut self, at: usize) {
        let Some(running) = &self.members[at].running else { return };
        let messages = std::mem::take(&mut *running.outgoing.messages.lock());
        let forwards = std::mem::take(&mut *running.outgoing.forwards.lock());
        let revisions = std::mem::take(&mut running.published.lock().revisions);
        let status = running.node.handle().status();
        for revision in &revisions {
            if let Err(e) = self.history.observe(self.now, revision) {
                self.violation(format!("member {at}: {e}"));
            }
        }
        for message in &messages {
            for told in [self.ledger.sent(message, &status), self.ledger.appended(message, &status)] {
                if let Err(e) = told {
                    self.violation(format!("member {at}: {e}"));
                }
            }
        }
        self.look_at_members(at);
        if status.is_leader {
            let first = !self.leaders.contains_key(&status.term);
            let known = *self.leaders.entry(status.term).or_insert(at);
            if known != at {
                self.violation(format!("members {known} and {at} both lead in term {}", status.term));
            }
            self.look_at_leader(at, first, &status);
        }
        self.members[at].voters = self.voters_of(at);
        let life = self.members[at].life;
        for message in messages {
            self.send(at, life, message);
        }
        for (leader, proposals) in forwards {
            if let Some(to) = self.index_of(leader) {
                let delay = self.delay(at, to);
                self.after(delay, Event::Forward { from: at, to, life, proposals });
            }
        }
        self.collect(at);
        self.poke(at);
    }

    /// Gives every part that has work its next turn.
    pub fn poke(&mut self, at: usize) {
        let life = self.members[at].life;
        let slow = self.members[at].slow_disk;
        for part in PARTS {
            let Some(running) = &mut self.members[at].running else { return };
            if running.busy[part as usize] {
                continue;
            }
            let node = &running.node;
            let has_work = match part {
                Part::Loop => node.loop_has_work(),
                Part::Apply => node.apply_has_work(),
                Part::Keeper => node.keeper_has_work(),
                Part::Log => node.log_has_work(),
                Part::Watch => std::mem::take(&mut running.published.lock().stirred),
            };
            if !has_work {
                continue;
            }
            running.busy[part as usize] = true;
            let delay = match part {
                Part::Loop => self.chance.between(5, 60),
                Part::Apply if self.chance.rarely(3) => self.chance.between(5 * MS, 400 * MS),
                Part::Apply => self.chance.between(10, 200),
                Part::Keeper => self.chance.between(MS, 30 * MS) * slow.min(5),
                Part::Log => self.chance.between(10, 100) * slow,
                Part::Watch if self.chance.rarely(10) => self.chance.between(20 * MS, 300 * MS),
                Part::Watch => self.chance.between(20, 500),
            };
            self.after(delay, Event::Step { at, life, part });
        }
    }

    pub fn resume(&mut self, at: usize, life: u32) {
        if self.members[at].life != life || self.members[at].paused_until.is_none() {
            return;
        }
        self.note(&format!("member {at} goes on"));
        self.members[at].paused_until = None;
        for event in std::mem::take(&mut self.members[at].deferred) {
            self.after(0, event);
        }
    }

    /// Takes the answers that have come and sends them to their clients.
    fn collect(&mut self, at: usize) {
        let Some(running) = &mut self.members[at].running else { return };
        let mut done = Vec::new();
        running.asked.retain_mut(|asked| match asked.waiting.poll() {
            Some(answer) => {
                done.push((asked.operation, answer));
                false
            }
            None => true,
        });
        let mut changed = Vec::new();
        running.changes.retain_mut(|changing| match changing.waiting.poll() {
            Some(answer) => {
                changed.push((changing.number, matches!(&answer, Answered::Applied(a) if a.result.is_ok())));
                false
            }
            None => true,
        });
        for (number, ok) in changed {
            self.tell_operator(number, ok);
        }
        for (operation, answer) in done {
            match answer {
                Answered::Applied(answer) => {
                    self.showed(at, answer.revision);
                    self.answer(operation, Told::Answer(answer));
                }
                Answered::Fresh => self.read_now(at, operation),
                Answered::Refused(e) => self.answer(operation, Told::Refused(e.to_string())),
                Answered::Transferred => {}
            }
        }
    }

    /// Sends an answer on its way.
    pub fn answer(&mut self, operation: usize, told: Told) {
        self.answers.insert(operation, told);
        let delay = self.chance.between(50, 600);
        self.after(delay, Event::Response { operation });
    }
}
