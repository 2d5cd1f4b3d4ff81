//! The world: virtual time, the queue of what happens next, and who it happens to.
//!
//! Events come by time, then by the order in which they were made. Everything that could differ between two runs is drawn from one
//! generator, in the order of events; every event goes into the trace's hash.

use crate::agreed::History;
use crate::clients::Client;
use crate::leases::Leases;
use crate::member::{Member, PARTS, Part, id_of};
use crate::net::{Flight, KINDS, Kind, Net, kind_of};
use crate::ops::Operation;
use crate::rng::Rng;
use crate::transfer::Transfer;
use crate::watchers::Watcher;
use crate::{Settings, Time};
use bytes::Bytes;
use quorate::env::end;
use quorate::node::stepped::{Answered, LogStep};
use raft::eraftpb::{Message, MessageType};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Context, Poll, Waker};
use xxhash_rust::xxh3::Xxh3;

pub const MS: Time = 1000;
pub const SECOND: Time = 1000 * MS;
pub const HEARTBEAT: Time = 100 * MS;
pub const ELECTION: Time = SECOND;
/// Messages put into one flight, in bytes.
const ENVELOPE: usize = 1 << 20;

/// What happens next.
#[derive(Clone, Debug)]
pub enum Event {
    Tick {
        at: usize,
        life: u32,
    },
    Step {
        at: usize,
        life: u32,
        part: Part,
    },
    /// A channel's sender takes from its outbox.
    Pump {
        from: usize,
        to: usize,
        kind: Kind,
    },
    /// The front of a channel's flights is due.
    Arrive {
        from: usize,
        to: usize,
        kind: Kind,
    },
    /// A flight of a broken session arrives after all.
    Late {
        from: usize,
        to: usize,
        kind: Kind,
        boot: u32,
        generation: u64,
        messages: Vec<Message>,
    },
    Connect {
        from: usize,
        to: usize,
        kind: Kind,
        life: u32,
    },
    Forward {
        from: usize,
        to: usize,
        life: u32,
        proposals: Vec<Bytes>,
    },
    GiveBack {
        at: usize,
        life: u32,
        proposals: Vec<Bytes>,
    },
    Transfer {
        id: usize,
    },
    Report {
        at: usize,
        life: u32,
        about: u64,
        ok: bool,
    },
    Client {
        client: usize,
    },
    Request {
        at: usize,
        operation: usize,
    },
    Response {
        operation: usize,
    },
    Timeout {
        operation: usize,
    },
    KeepAlive {
        client: usize,
        lease: i64,
        at: usize,
        hops: u32,
    },
    Watch {
        watcher: usize,
    },
    Fault,
    Resume {
        at: usize,
        life: u32,
    },
    Start {
        at: usize,
    },
    Mend {
        at: usize,
    },
    Heal {
        number: u32,
    },
}

#[derive(Debug)]
struct Due {
    time: Time,
    order: u64,
    event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.time, self.order) == (other.time, other.order)
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.time, self.order).cmp(&(other.time, other.order))
    }
}

/// Everything there is.
pub struct World {
    pub settings: Settings,
    pub now: Time,
    pub chance: Rng,
    queue: BinaryHeap<Reverse<Due>>,
    made: u64,
    pub members: Vec<Member>,
    pub net: Net,
    pub history: History,
    pub operations: Vec<Operation>,
    /// Answers on their way to their clients.
    pub answers: BTreeMap<usize, crate::ops::Told>,
    pub clients: Vec<Client>,
    pub watchers: Vec<Watcher>,
    pub leases: Leases,
    pub transfers: Vec<Transfer>,
    /// Who led in each term.
    pub leaders: BTreeMap<u64, usize>,
    pub faults: Vec<(Time, String)>,
    pub violations: Vec<String>,
    /// The newest revision that any client asked to compact at.
    pub compact_asked: i64,
    pub events: u64,
    hash: Xxh3,
    /// The last faults are over; nothing more breaks.
    pub calm: bool,
    pub heals: u32,
    pub snapshots: u32,
}

impl World {
    pub fn new(settings: Settings) -> Self {
        let mut chance = Rng::new(settings.seed);
        let members: Vec<_> = (0..settings.members)
            .map(|at| {
                let mut member = Member::new(at, settings.members, chance.draw());
                member.drift = chance.below(1001) as i64 - 500;
                member.wall_offset = chance.below(4 * SECOND) as i64;
                member
            })
            .collect();
        Self {
            now: 0,
            chance,
            queue: BinaryHeap::new(),
            made: 0,
            net: Net::new(members.len()),
            members,
            history: History::default(),
            operations: Vec::new(),
            answers: BTreeMap::new(),
            clients: Vec::new(),
            watchers: Vec::new(),
            leases: Leases::default(),
            transfers: Vec::new(),
            leaders: BTreeMap::new(),
            faults: Vec::new(),
            violations: Vec::new(),
            compact_asked: 0,
            events: 0,
            hash: Xxh3::with_seed(settings.seed),
            calm: false,
            heals: 0,
            snapshots: 0,
            settings,
        }
    }

    pub fn after(&mut self, delay: Time, event: Event) {
        self.made += 1;
        self.queue.push(Reverse(Due { time: self.now + delay, order: self.made, event }));
    }

    pub fn violation(&mut self, text: impl Into<String>) {
        let text = format!("at {}.{:06} s: {}", self.now / SECOND, self.now % SECOND, text.into());
        self.note(&format!("VIOLATION {text}"));
        if self.violations.len() < 20 {
            self.violations.push(text);
        }
    }

    /// Puts a line into the trace.
    pub fn note(&mut self, text: &str) {
        self.hash.update(&self.now.to_le_bytes());
        self.hash.update(text.as_bytes());
        if self.settings.trace {
            println!("{:>4}.{:06} {text}", self.now / SECOND, self.now % SECOND);
        }
    }

    pub fn hash(&self) -> u64 {
        self.hash.digest()
    }

    /// Runs what is due until `until`, or until something is wrong.
    pub fn run_until(&mut self, until: Time) {
        while self.violations.is_empty() {
            let Some(Reverse(due)) = self.queue.peek() else { break };
            if due.time > until {
                break;
            }
            let Some(Reverse(due)) = self.queue.pop() else { break };
            self.now = due.time;
            self.happen(due.event);
        }
        self.now = self.now.max(until);
    }

    /// The member an event happens to, where a pause holds it back.
    fn whose(event: &Event) -> Option<usize> {
        match event {
            Event::Tick { at, .. } | Event::Step { at, .. } | Event::Request { at, .. } => Some(*at),
            Event::GiveBack { at, .. } | Event::KeepAlive { at, .. } | Event::Report { at, .. } => Some(*at),
            Event::Pump { from, .. } | Event::Connect { from, .. } => Some(*from),
            Event::Forward { to, .. } | Event::Late { to, .. } | Event::Arrive { to, .. } => Some(*to),
            _ => None,
        }
    }

    fn happen(&mut self, event: Event) {
        self.events += 1;
        if let Some(at) = Self::whose(&event)
            && self.members[at].paused_until.is_some()
        {
            self.members[at].deferred.push(event);
            return;
        }
        self.hash_event(&event);
        match event {
            Event::Tick { at, life } => self.tick(at, life),
            Event::Step { at, life, part } => self.step(at, life, part),
            Event::Pump { from, to, kind } => self.pump(from, to, kind),
            Event::Arrive { from, to, kind } => self.arrive(from, to, kind),
            Event::Late { from, to, kind, boot, generation, messages } => {
                self.deliver(from, to, kind, u64::from(boot), generation, messages);
            }
            Event::Connect { from, to, kind, life } => self.connect(from, to, kind, life),
            Event::Forward { from, to, life, proposals } => self.forward(from, to, life, proposals),
            Event::GiveBack { at, life, proposals } => {
                self.inside(at, life, |node| {
                    let _ = node.handle().proposals_again(proposals);
                });
            }
            Event::Transfer { id } => self.transfer(id),
            Event::Report { at, life, about, ok } => {
                if let Some(to) = self.members.iter().position(|m| m.id == about) {
                    let pair = self.net.pair(at, to);
                    self.net.sending[pair] = false;
                }
                self.inside(at, life, |node| node.handle().report_snapshot(about, ok));
            }
            Event::Client { client } => self.client(client),
            Event::Request { at, operation } => self.request(at, operation),
            Event::Response { operation } => self.response(operation),
            Event::Timeout { operation } => self.timeout(operation),
            Event::KeepAlive { client, lease, at, hops } => self.keep_alive(client, lease, at, hops),
            Event::Watch { watcher } => self.watch(watcher),
            Event::Fault => self.fault(),
            Event::Resume { at, life } => self.resume(at, life),
            Event::Start { at } => self.start(at),
            Event::Mend { at } => self.mend(at),
            Event::Heal { number } => self.heal(number),
        }
    }

    fn hash_event(&mut self, event: &Event) {
        self.hash.update(&self.now.to_le_bytes());
        match event {
            Event::Step { at, part, .. } => self.hash.update(&[1, *at as u8, *part as u8]),
            Event::Tick { at, .. } => self.hash.update(&[2, *at as u8]),
            Event::Pump { from, to, kind } => self.hash.update(&[3, *from as u8, *to as u8, *kind as u8]),
            Event::Arrive { from, to, kind } => self.hash.update(&[4, *from as u8, *to as u8, *kind as u8]),
            Event::Response { operation } | Event::Timeout { operation } | Event::Request { operation, .. } => {
                self.hash.update(&(*operation as u64).to_le_bytes());
            }
            _ => self.hash.update(&[5]),
        }
    }

    // === members ===

    /// Starts a member that is down.
    pub fn start(&mut self, at: usize) {
        if self.members[at].running.is_some() {
            return;
        }
        let now = self.now;
        let started = self.guarded(at, |world| world.members[at].start(now));
        match started {
            Some(Ok(())) => {
                let life = self.members[at].life;
                self.note(&format!("member {at} starts its life {life}"));
                let first = self.chance.below(HEARTBEAT);
                self.after(first, Event::Tick { at, life });
                for other in 0..self.members.len() {
                    for kind in KINDS {
                        if other != at {
                            let delay = self.chance.between(MS, 30 * MS);
                            self.after(delay, Event::Connect { from: at, to: other, kind, life });
                        }
                    }
                }
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
    pub fn inside(&mut self, at: usize, life: u32, work: impl FnOnce(&mut quorate::node::stepped::SteppedNode)) {
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

    fn tick(&mut self, at: usize, life: u32) {
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
            // Its clock says when a heartbeat is over.
            let drift = self.members[at].drift;
            let period = (HEARTBEAT as i64 - HEARTBEAT as i64 * drift / 1_000_000) as Time;
            self.after(period, Event::Tick { at, life });
        }
    }

    fn step(&mut self, at: usize, life: u32, part: Part) {
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
        if status.is_leader {
            let known = *self.leaders.entry(status.term).or_insert(at);
            if known != at {
                self.violation(format!("members {known} and {at} both lead in term {}", status.term));
            }
        }
        let life = self.members[at].life;
        for message in messages {
            self.send(at, life, message);
        }
        for (leader, proposals) in forwards {
            if let Some(to) = self.members.iter().position(|m| m.id == leader) {
                let delay = self.delay(at, to);
                self.after(delay, Event::Forward { from: at, to, life, proposals });
            }
        }
        self.collect(at);
        self.poke(at);
    }

    /// Gives every part that has work its next turn.
    fn poke(&mut self, at: usize) {
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

    fn resume(&mut self, at: usize, life: u32) {
        if self.members[at].life != life || self.members[at].paused_until.is_none() {
            return;
        }
        self.note(&format!("member {at} goes on"));
        self.members[at].paused_until = None;
        for event in std::mem::take(&mut self.members[at].deferred) {
            self.after(0, event);
        }
    }

    // === messages ===

    pub fn delay(&mut self, from: usize, to: usize) -> Time {
        let extra = self.net.slow(from, to);
        let extra = if extra > 0 { self.chance.between(extra / 2, extra) } else { 0 };
        let base = if self.chance.rarely(10) { self.chance.between(2 * MS, 30 * MS) } else { self.chance.between(150, 900) };
        base + extra
    }

    fn send(&mut self, from: usize, life: u32, message: Message) {
        let Some(to) = self.members.iter().position(|m| m.id == message.to) else { return };
        if message.get_msg_type() == MessageType::MsgSnapshot {
            return self.begin_transfer(from, to, message);
        }
        let kind = kind_of(&message);
        let lane = self.net.lane(from, to, kind);
        let kept = lane.outbox.push(message);
        let pump = !lane.pumping && lane.outbox.is_open();
        lane.pumping |= pump;
        if pump {
            let delay = self.chance.between(5, 50);
            self.after(delay, Event::Pump { from, to, kind });
        }
        if !kept && kind == Kind::Append {
            self.report_unreachable(from, life, to);
        }
    }

    fn report_unreachable(&mut self, from: usize, life: u32, to: usize) {
        let pair = self.net.pair(from, to);
        if self.net.reported[pair] + 50 * MS > self.now && self.net.reported[pair] > 0 {
            return;
        }
        self.net.reported[pair] = self.now;
        let about = id_of(to);
        if self.members[from].life == life
            && let Some(running) = &self.members[from].running
        {
            running.node.handle().report_unreachable(about);
        }
    }

    fn pump(&mut self, from: usize, to: usize, kind: Kind) {
        let rough = self.net.rough;
        let delay = self.delay(from, to);
        let now = self.now;
        let lane = self.net.lane(from, to, kind);
        lane.pumping = false;
        let taken = lane.outbox.poll(lane.session, ENVELOPE, &mut Context::from_waker(Waker::noop()));
        let Poll::Ready(Some(mut messages)) = taken else { return };
        let due = (now + delay).max(lane.flights.back().map_or(0, |f| f.due));
        if rough != (0, 0, 0) {
            let mut out = Vec::with_capacity(messages.len());
            for message in messages {
                if self.chance.rarely(rough.0) {
                    continue;
                }
                if self.chance.rarely(rough.1) {
                    out.push(message.clone());
                }
                out.push(message);
            }
            if out.len() > 1 && self.chance.rarely(rough.2) {
                out.reverse();
            }
            messages = out;
        }
        let lane = self.net.lane(from, to, kind);
        lane.flights.push_back(Flight { due, messages });
        if !lane.arriving {
            lane.arriving = true;
            let due = lane.flights[0].due;
            self.after(due.saturating_sub(now), Event::Arrive { from, to, kind });
        }
    }

    fn arrive(&mut self, from: usize, to: usize, kind: Kind) {
        let (now, cut) = (self.now, self.net.is_cut(from, to));
        let boot = u64::from(self.members[from].life);
        let limit = 800 * MS + self.chance.below(2 * SECOND);
        let lane = self.net.lane(from, to, kind);
        lane.arriving = false;
        let Some(front) = lane.flights.front() else { return };
        if front.due > now {
            let wait = front.due - now;
            lane.arriving = true;
            return self.after(wait, Event::Arrive { from, to, kind });
        }
        if cut {
            let since = *lane.stalled.get_or_insert(now);
            if now - since > limit {
                return self.break_session(from, to, kind);
            }
            lane.arriving = true;
            return self.after(50 * MS, Event::Arrive { from, to, kind });
        }
        lane.stalled = None;
        let Some(flight) = lane.flights.pop_front() else { return };
        let generation = lane.generation;
        if let Some(next) = lane.flights.front() {
            let wait = next.due.saturating_sub(now);
            lane.arriving = true;
            self.after(wait, Event::Arrive { from, to, kind });
        }
        self.deliver(from, to, kind, boot, generation, flight.messages);
    }

    /// Hands a batch to its receiver, as the reader of a stream does: nothing of an older stream passes.
    fn deliver(&mut self, from: usize, to: usize, kind: Kind, boot: u64, generation: u64, messages: Vec<Message>) {
        if self.members[to].running.is_none() {
            return self.break_session(from, to, kind);
        }
        if !self.net.lane(from, to, kind).gate.passes(boot, generation) {
            return;
        }
        let life = self.members[to].life;
        self.inside(to, life, |node| {
            let _ = node.handle().peer_messages(messages);
        });
    }

    /// Ends a channel's session; its sender tries again. What was under way is lost, or comes late.
    pub fn break_session(&mut self, from: usize, to: usize, kind: Kind) {
        let boot = self.members[from].life;
        let lane = self.net.lane(from, to, kind);
        lane.stalled = None;
        if !lane.outbox.is_open() {
            lane.flights.clear();
            return;
        }
        lane.outbox.close();
        let generation = lane.generation;
        let flights = std::mem::take(&mut lane.flights);
        for flight in flights {
            if self.chance.chance(25) {
                let delay = self.chance.between(MS, 3 * SECOND);
                self.after(delay, Event::Late { from, to, kind, boot, generation, messages: flight.messages });
            }
        }
        self.report_unreachable(from, boot, to);
        let delay = self.chance.between(20 * MS, 400 * MS);
        self.after(delay, Event::Connect { from, to, kind, life: boot });
        if self.members[from].running.is_some() {
            self.poke(from);
        }
    }

    fn connect(&mut self, from: usize, to: usize, kind: Kind, life: u32) {
        if self.members[from].life != life || self.members[from].running.is_none() {
            return;
        }
        let reachable = self.members[to].running.is_some() && !self.net.is_cut(from, to) && !self.net.is_cut(to, from);
        if !reachable {
            let delay = self.chance.between(50 * MS, SECOND);
            return self.after(delay, Event::Connect { from, to, kind, life });
        }
        let lane = self.net.lane(from, to, kind);
        if lane.outbox.is_open() {
            return;
        }
        lane.session = lane.outbox.open();
        lane.generation += 1;
        lane.flights.clear();
        lane.stalled = None;
        let generation = lane.generation;
        if !lane.gate.admit(u64::from(life), generation) {
            self.violation(format!("a stream from {from} to {to} was refused as older than the last one"));
        }
    }

    fn forward(&mut self, from: usize, to: usize, life: u32, proposals: Vec<Bytes>) {
        if self.net.is_cut(from, to) || self.members[to].running.is_none() {
            return;
        }
        let mut refused = false;
        let mut again = proposals.clone();
        let to_life = self.members[to].life;
        self.inside(to, to_life, |node| refused = node.handle().forwarded(proposals).is_err());
        // An answer that is lost leaves the sender with nothing to do.
        if refused && !self.net.is_cut(to, from) {
            let delay = self.delay(to, from) + 20 * MS;
            self.after(delay, Event::GiveBack { at: from, life, proposals: std::mem::take(&mut again) });
        }
    }

    // === answers ===

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
        for (operation, answer) in done {
            match answer {
                Answered::Applied(answer) => self.answer(operation, crate::ops::Told::Answer(answer)),
                Answered::Fresh => self.read_now(at, operation),
                Answered::Refused(e) => self.answer(operation, crate::ops::Told::Refused(e.to_string())),
                Answered::Transferred => {}
            }
        }
    }

    /// Sends an answer on its way.
    pub fn answer(&mut self, operation: usize, told: crate::ops::Told) {
        self.answers.insert(operation, told);
        let delay = self.chance.between(50, 600);
        self.after(delay, Event::Response { operation });
    }
}
