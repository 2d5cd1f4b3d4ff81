//! One member: the disk that outlives its processes, its clock, and the process that runs now, if one does.

use crate::Time;
use crate::net::Net;
use crate::world::{ELECTION, Event, HEARTBEAT};
use bytes::Bytes;
use parking_lot::Mutex;
use quorate::env::clock::{Clock, ManualClock};
use quorate::mvcc::{RevisionEvents, Store};
use quorate::node::stepped::{Life, MemDisk, SteppedNode, SteppedSettings, Waiting};
use quorate::node::{EventSink, Founding, PeerSink, StartError};
use quorate::peer::strangers::Strangers;
use quorate::types::MemberId;
use quorate::wal::Identity;
use quorate::watch::{Hub, HubOptions};
use quorate_proto::state::Member as MemberRow;
use raft::eraftpb::Message;
use std::sync::Arc;
use std::time::Duration;

/// The parts of a process that take their steps apart from each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    Loop,
    Apply,
    Keeper,
    Log,
    Watch,
}

pub const PARTS: [Part; 5] = [Part::Loop, Part::Apply, Part::Keeper, Part::Log, Part::Watch];

/// What a process wants sent.
#[derive(Default)]
pub struct Outgoing {
    pub messages: Mutex<Vec<Message>>,
    pub forwards: Mutex<Vec<(MemberId, Vec<Bytes>)>>,
}

impl PeerSink for Outgoing {
    fn send(&self, messages: Vec<Message>) {
        self.messages.lock().extend(messages);
    }

    fn forward(&self, leader: MemberId, proposals: Vec<Bytes>) {
        self.forwards.lock().push((leader, proposals));
    }
}

/// What a process published since it was last asked, beside the watchers who get it too.
#[derive(Default)]
pub struct Published {
    pub revisions: Vec<RevisionEvents>,
    /// The watch room has work.
    pub stirred: bool,
}

struct Sink {
    hub: Arc<Hub>,
    published: Arc<Mutex<Published>>,
}

impl EventSink for Sink {
    fn publish(&self, events: Vec<RevisionEvents>) {
        let mut published = self.published.lock();
        published.revisions.extend(events.iter().cloned());
        published.stirred = true;
        self.hub.publish(events);
    }

    fn compacted(&self, revision: i64) {
        self.published.lock().stirred = true;
        self.hub.compacted(revision);
    }

    fn reset(&self, revision: i64) {
        self.published.lock().stirred = true;
        self.hub.reset(revision);
    }
}

/// A request at a member.
pub struct Asked {
    pub operation: usize,
    pub waiting: Waiting,
}

/// A change of members that this process, as the leader, has proposed for the operator.
pub struct Changing {
    pub number: u64,
    pub waiting: Waiting,
}

/// A process of a member.
pub struct Running {
    pub node: SteppedNode,
    pub hub: Arc<Hub>,
    pub outgoing: Arc<Outgoing>,
    pub published: Arc<Mutex<Published>>,
    pub busy: [bool; 5],
    pub asked: Vec<Asked>,
    pub changes: Vec<Changing>,
    /// The list by which it keeps its channels.
    pub follows: Option<Arc<Vec<MemberRow>>>,
    /// Members that called and are not on that list.
    pub strangers: Strangers,
    /// The newest revision that it has shown to anybody.
    pub shown: i64,
    /// It was removed, knows it, and ends.
    pub leaves: bool,
}

/// What a machine is to the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// It has an empty disk and waits at the gate, or is not even switched on.
    Empty,
    /// It has a member's disk.
    Member,
    /// Its disk is lost, or it was removed and knows it: it never starts again.
    Gone,
}

/// A member of the simulated cluster: one machine with one disk, and at most one id in all its time.
pub struct Member {
    /// 0 before it has passed the gate.
    pub id: MemberId,
    /// Its address, by which the cluster lists it.
    pub url: String,
    pub stage: Stage,
    /// The operator keeps it down.
    pub held: bool,
    /// Another member told it that it was removed.
    pub told: bool,
    /// It wrote down that it was removed.
    pub buried: bool,
    /// When it last told its name.
    pub announced: Time,
    /// The last list of members that was looked at, and its voters.
    pub list: Arc<Vec<MemberRow>>,
    pub voters: Vec<MemberId>,
    /// The newest commit that was looked at while it led, and in which term.
    pub committed: (u64, u64),
    pub disk: MemDisk,
    pub clock: Arc<ManualClock>,
    /// How much faster its clock goes than the world's, in parts per million.
    pub drift: i64,
    /// How far its time of day is off.
    pub wall_offset: i64,
    pub life: u32,
    pub running: Option<Running>,
    pub paused_until: Option<Time>,
    /// What came while it was paused.
    pub deferred: Vec<Event>,
    /// Its disk takes this many times as long.
    pub slow_disk: u64,
    /// A bit that was flipped and must be flipped back before the member can start.
    pub flipped: Option<(std::path::PathBuf, u64, u8)>,
    /// A row that was damaged: its key, and its value since.
    pub damaged: Option<(Bytes, Bytes)>,
    /// A bit of its digest flipped, and no comparison has found it sound since.
    pub digest_flipped: bool,
    /// It stays down until someone starts it.
    pub down: bool,
    seed: u64,
}

pub const CLUSTER: u64 = 0x5157;
/// The world's time of day at its beginning, in seconds.
const EPOCH: u64 = 1_800_000_000;

pub fn settings() -> SteppedSettings {
    SteppedSettings {
        heartbeat: Duration::from_micros(HEARTBEAT),
        election: Duration::from_micros(ELECTION),
        pre_vote: true,
        catch_up_entries: 40,
        freeze_bytes: 6 << 10,
        entry_cache: 4 << 10,
        segments: (8 << 10, 32 << 10),
        sweep_rows: 8,
        check_history: Some(Duration::from_millis(2500)),
    }
}

pub fn id_of(at: usize) -> MemberId {
    0x1001 + 0x111 * at as u64
}

pub fn name_of(at: usize) -> String {
    format!("m{at}")
}

pub fn url_of(at: usize) -> String {
    format!("http://m{at}:2380")
}

fn founding(at: usize, members: usize) -> Founding {
    let row = |i| MemberRow { id: id_of(i), name: name_of(i), peer_urls: vec![url_of(i)], ..Default::default() };
    Founding {
        cluster_id: CLUSTER,
        member_id: id_of(at),
        members: (0..members).map(row).collect(),
        joins: false,
        stamp: Default::default(),
    }
}

impl Member {
    /// A founding member with its disk made and nothing running.
    pub fn new(at: usize, members: usize, seed: u64) -> Self {
        let mut member = Self::empty(url_of(at), seed);
        member.join(&founding(at, members));
        member
    }

    /// A machine with an empty disk, which may become a member at this address.
    pub fn empty(url: String, seed: u64) -> Self {
        Self {
            id: 0,
            url,
            stage: Stage::Empty,
            held: false,
            told: false,
            buried: false,
            announced: 0,
            list: Arc::default(),
            voters: Vec::new(),
            committed: (0, 0),
            disk: MemDisk::new(seed),
            clock: Arc::default(),
            drift: 0,
            wall_offset: 0,
            life: 0,
            running: None,
            paused_until: None,
            deferred: Vec::new(),
            slow_disk: 1,
            flipped: None,
            damaged: None,
            digest_flipped: false,
            down: false,
            seed,
        }
    }

    /// Makes a member on the empty disk.
    pub fn join(&mut self, founding: &Founding) {
        self.disk.found(&settings(), founding).expect("an empty disk in memory takes a member");
        self.id = founding.member_id;
        self.stage = Stage::Member;
    }

    /// Gives the member an empty disk under its old id, as a careless operator would.
    pub fn lose_disk(&mut self, at: usize, members: usize) {
        self.disk = MemDisk::new(self.seed ^ 0xff);
        self.disk.found(&settings(), &founding(at, members)).expect("an empty disk in memory takes a member");
    }

    /// Moves the member's clock to the world's time.
    pub fn set_clock(&self, now: Time) {
        let drifted = now as i64 + (now as i64 / 1000) * self.drift / 1000;
        let wall = (EPOCH * 1_000_000) as i64 + now as i64 + self.wall_offset;
        self.clock.set(Duration::from_micros(drifted.max(0) as u64), Duration::from_micros(wall.max(0) as u64));
    }

    /// Starts a process on the disk.
    pub fn start(&mut self, now: Time) -> Result<(), StartError> {
        self.life += 1;
        self.set_clock(now);
        let outgoing = Arc::<Outgoing>::default();
        let published = Arc::<Mutex<Published>>::default();
        let mut hub = None;
        let options =
            HubOptions { shards: 2, progress_interval: Duration::from_millis(900), seed: self.seed ^ u64::from(self.life) };
        let sink = |store: &Arc<Store>| {
            let made = Arc::new(Hub::without_threads(store.clone(), options));
            hub = Some(made.clone());
            Box::new(Sink { hub: made, published: published.clone() }) as Box<dyn EventSink>
        };
        let node = SteppedNode::start(
            &self.disk,
            &settings(),
            Identity { cluster: CLUSTER, member: self.id },
            Life { number: self.life, seed: self.seed.wrapping_add(u64::from(self.life) << 20) | 1 },
            Clock::manual(self.clock.clone()),
            outgoing.clone(),
            sink,
        )?;
        // All members run this very build.
        node.handle().raise_level(quorate::state::FEATURE_LEVEL);
        let hub = hub.expect("the sink is made with the node");
        self.running = Some(Running {
            node,
            hub,
            outgoing,
            published,
            busy: [false; 5],
            asked: Vec::new(),
            changes: Vec::new(),
            follows: None,
            strangers: Strangers::default(),
            shown: 0,
            leaves: false,
        });
        self.down = false;
        Ok(())
    }

    /// Ends the process. With `power` the disk forgets what was not synced, or keeps some of it, as its seed says.
    pub fn stop(&mut self, power: bool, chance: &mut crate::rng::Rng, net: &mut Net, at: usize) {
        self.running = None;
        self.paused_until = None;
        self.deferred.clear();
        let seed = chance.draw();
        if power {
            self.disk.files.crash(seed);
        } else {
            self.disk.files.heal();
        }
        // Rows that were not flushed are in the process's memory alone, unless a flush of the store's own saved some.
        self.disk.folders.crash(|unflushed| if power { chance.below(unflushed as u64 + 1) as usize } else { 0 });
        net.forget_sender(at);
        net.forget_receiver(at);
    }
}
