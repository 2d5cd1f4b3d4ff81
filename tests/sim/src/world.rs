//! The world: virtual time, the queue of what happens next, and who it happens to.
//!
//! Events come by time, then by the order in which they were made. Everything that could differ between two runs is drawn from one
//! generator, in the order of events; every event goes into the trace's hash.

use crate::agreed::History;
use crate::clients::Client;
use crate::leases::Leases;
use crate::ledger::Ledger;
use crate::member::{Member, Part};
use crate::net::{Kind, Net};
use crate::operator::Operator;
use crate::ops::Operation;
use crate::probes::Probe;
use crate::rng::Rng;
use crate::sharers::Sharer;
use crate::transfer::Transfer;
use crate::walks::Walk;
use crate::watchers::Watcher;
use crate::{Settings, Time};
use bytes::Bytes;
use quorate_proto::state::MemberChange;
use raft::eraftpb::Message;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use xxhash_rust::xxh3::Xxh3;

pub const MS: Time = 1000;
pub const SECOND: Time = 1000 * MS;
pub const HEARTBEAT: Time = 100 * MS;
pub const ELECTION: Time = SECOND;
/// Machines that may be added to a world, one after the other.
pub const SPARE: usize = 8;

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
    /// A keep-alive that the leader has taken in looks at the lease's clock, once everything up to an entry is applied.
    Renew {
        client: usize,
        lease: i64,
        at: usize,
        life: u32,
        hops: u32,
        upto: u64,
        /// Some member had applied its end when it came.
        over: bool,
    },
    Watch {
        watcher: usize,
    },
    /// A client with many watches on one stream reads on.
    Share {
        sharer: usize,
    },
    /// A walk reads on.
    Page {
        operation: usize,
    },
    Fault,
    /// A machine with an empty disk asks the others who belongs to the cluster.
    Gate {
        at: usize,
    },
    /// A member that was removed ends.
    Depart {
        at: usize,
        life: u32,
    },
    /// The operator's next step.
    Operate {
        turn: u64,
    },
    /// A change of members reaches a member.
    Change {
        at: usize,
        number: u64,
        change: MemberChange,
        hops: u32,
    },
    /// Its answer reaches the operator.
    Changed {
        number: u64,
        ok: bool,
    },
    /// The leader goes while a change is under way.
    Unseat,
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
    /// Ranges that are read page by page, by operation.
    pub walks: BTreeMap<usize, Walk>,
    pub watchers: Vec<Watcher>,
    /// Clients with many watches on one stream.
    pub sharers: Vec<Sharer>,
    /// The newest revision that any watcher was told.
    pub watched: i64,
    pub leases: Leases,
    pub transfers: Vec<Transfer>,
    pub operator: Operator,
    pub ledger: Ledger,
    /// Who led in each term.
    pub leaders: BTreeMap<u64, usize>,
    /// What members at rest were asked in the end.
    pub probes: Vec<Probe>,
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
    pub rebuilt: u32,
    /// Machines that joined.
    pub joined: u32,
    /// When a bit of a row, or of what was applied, flipped last.
    pub damaged_at: Option<Time>,
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
            net: Net::new(members.len() + SPARE),
            members,
            history: History::default(),
            operations: Vec::new(),
            answers: BTreeMap::new(),
            clients: Vec::new(),
            walks: BTreeMap::new(),
            watchers: Vec::new(),
            sharers: Vec::new(),
            watched: 0,
            leases: Leases::default(),
            transfers: Vec::new(),
            operator: Operator::default(),
            ledger: Ledger::default(),
            leaders: BTreeMap::new(),
            probes: Vec::new(),
            faults: Vec::new(),
            violations: Vec::new(),
            compact_asked: 0,
            events: 0,
            hash: Xxh3::with_seed(settings.seed),
            calm: false,
            heals: 0,
            snapshots: 0,
            rebuilt: 0,
            joined: 0,
            damaged_at: None,
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
            Event::Depart { at, .. } | Event::Change { at, .. } => Some(*at),
            Event::GiveBack { at, .. } | Event::KeepAlive { at, .. } | Event::Report { at, .. } => Some(*at),
            Event::Renew { at, .. } => Some(*at),
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
                if let Some(to) = self.index_of(about) {
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
            Event::Page { operation } => self.page(operation),
            Event::Renew { client, lease, at, life, hops, upto, over } => {
                self.renew(client, lease, (at, life), hops, (upto, over));
            }
            Event::Watch { watcher } => self.watch(watcher),
            Event::Share { sharer } => self.share(sharer),
            Event::Fault => self.fault(),
            Event::Gate { at } => self.gate(at),
            Event::Depart { at, life } => self.depart(at, life),
            Event::Operate { turn } => self.operate(turn),
            Event::Change { at, number, change, hops } => self.change(at, number, change, hops),
            Event::Changed { number, ok } => self.changed(number, ok),
            Event::Unseat => self.unseat(),
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
}
