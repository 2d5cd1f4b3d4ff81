//! A cluster of real members for tests: each with its own folder, node, peer room and listener on loopback.

use ports::Port;
use quorate::api::{MemberError, Membership};
use quorate::base::RocksOptions;
use quorate::env::files::RealFiles;
use quorate::membership::{Desk, DeskSettings};
use quorate::mvcc::{DeltaPolicy, RevisionEvents};
use quorate::node::{Checks, EventSink, Founding, Node, NodeHandle, NodeSettings, Opened, SweepPace};
use quorate::peer::{PeerSettings, Peers, PlainDial};
use quorate::state::ApplyError;
use quorate_proto::entry::{self, Command, command::Op};
use quorate_proto::state::Member;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

pub const CLUSTER: u64 = 0xc1;
/// What a test waits for at most; far above what anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a test's members differ from the usual.
#[derive(Clone, Copy)]
pub struct Tuning {
    pub catch_up_entries: u64,
    pub freeze_bytes: usize,
    pub checks: Checks,
}

impl Default for Tuning {
    fn default() -> Self {
        Self { catch_up_entries: 100_000, freeze_bytes: 4 << 20, checks: Checks::default() }
    }
}

/// What a member told its watchers.
#[derive(Default)]
pub struct Told {
    pub published: i64,
    pub resets: Vec<i64>,
}

struct Recorder(Arc<Mutex<Told>>);

impl EventSink for Recorder {
    fn publish(&self, events: Vec<RevisionEvents>) {
        let mut told = self.0.lock().unwrap();
        for e in &events {
            assert_eq!(e.revision, told.published.max(1) + 1, "revisions are told without a gap");
            told.published = e.revision;
        }
    }

    fn compacted(&self, _: i64) {}

    fn reset(&self, revision: i64) {
        let mut told = self.0.lock().unwrap();
        told.resets.push(revision);
        told.published = revision;
    }
}

/// One running member.
pub struct Running {
    pub node: Node,
    pub peers: Peers,
    pub desk: Desk,
    pub told: Arc<Mutex<Told>>,
    stop: CancellationToken,
    server: Option<std::thread::JoinHandle<()>>,
}

impl Running {
    pub fn handle(&self) -> &NodeHandle {
        self.node.handle()
    }

    fn stop(mut self) {
        self.stop.cancel();
        if let Some(server) = self.server.take() {
            server.join().expect("the listener's thread");
        }
        self.peers.stop();
        self.node.stop();
    }
}

pub struct Slot {
    pub id: u64,
    pub dir: TempDir,
    port: Arc<Port>,
    /// How it becomes a member when its folder is empty.
    founding: Founding,
    /// Held while the member is down, so that nobody else takes its port.
    reserved: Option<TcpListener>,
    pub running: Option<Running>,
}

impl Slot {
    fn member(&self) -> Member {
        Member { id: self.id, peer_urls: vec![self.port.url()], ..Default::default() }
    }
}

/// The members; all stop when it is dropped.
pub struct Cluster {
    pub slots: Vec<Slot>,
    tuning: Tuning,
}

impl Cluster {
    /// Founds and starts `size` members.
    pub fn start(size: u64, tuning: Tuning) -> Self {
        let slot = |id| {
            let port = Arc::new(Port::free());
            let reserved = bind(&port);
            let founding = Founding { cluster_id: CLUSTER, member_id: id, ..Default::default() };
            Slot { id, dir: TempDir::new().expect("a folder"), port, founding, reserved: Some(reserved), running: None }
        };
        let mut cluster = Self { slots: (1..=size).map(slot).collect(), tuning };
        let members: Vec<Member> = cluster.slots.iter().map(Slot::member).collect();
        for slot in &mut cluster.slots {
            slot.founding.members = members.clone();
        }
        for at in 0..size as usize {
            cluster.run(at);
        }
        cluster
    }

    /// Adds a member through the member at `through` and starts it with an empty folder; its place. A place of the past may be given
    /// again, as a machine that comes back with a new disk.
    pub async fn add(&mut self, through: usize, learner: bool, place: Option<usize>) -> usize {
        let (port, reserved) = match place {
            Some(at) => (self.slots[at].port.clone(), self.slots[at].reserved.take()),
            None => {
                let port = Arc::new(Port::free());
                let reserved = bind(&port);
                (port, Some(reserved))
            }
        };
        let (member, members) = self.running(through).desk.add(vec![port.url()], learner).await.expect("the member is added");
        let founding = Founding { cluster_id: CLUSTER, member_id: member.id, members, joins: true, ..Default::default() };
        let dir = TempDir::new().expect("a folder");
        let slot = Slot { id: member.id, dir, port, founding, reserved, running: None };
        let at = match place {
            Some(at) => {
                self.slots[at] = slot;
                at
            }
            None => {
                self.slots.push(slot);
                self.slots.len() - 1
            }
        };
        self.run(at);
        at
    }

    /// Makes a learner a voter as soon as the leader finds it ready.
    pub async fn promote(&self, through: usize, at: usize) {
        let begun = Instant::now();
        while let Err(e) = self.running(through).desk.promote(self.slots[at].id).await {
            assert!(matches!(e, MemberError::Refused(ApplyError::LearnerNotReady)), "{e:?}");
            assert!(begun.elapsed() < PATIENCE, "the learner never gets ready");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn settings(&self, at: usize) -> NodeSettings {
        NodeSettings {
            data_dir: self.slots[at].dir.path().to_path_buf(),
            wal_dir: None,
            heartbeat: Duration::from_millis(50),
            election: Duration::from_millis(500),
            pre_vote: true,
            request_timeout: Duration::from_secs(10),
            catch_up_entries: self.tuning.catch_up_entries,
            no_sync: false,
            rocks: RocksOptions { block_cache: 8 << 20, write_buffer: 8 << 20, background_jobs: 1 },
            delta: DeltaPolicy { freeze_bytes: self.tuning.freeze_bytes, inline: false },
            entry_cache: 1 << 20,
            sweep: SweepPace { rows: 1000, pause: Duration::from_millis(1) },
            meter: Arc::new(()),
            checks: self.tuning.checks,
        }
    }

    /// Starts a member that is down.
    pub fn run(&mut self, at: usize) {
        let founding = self.slots[at].founding.clone();
        let settings = self.settings(at);
        let opened = Opened::open(settings, Some(&founding), RealFiles::shared()).expect("the member opens");
        let told = Arc::new(Mutex::new(Told { published: opened.store().revision(), ..Default::default() }));
        let peers = Peers::start(PeerSettings {
            cluster_id: CLUSTER,
            member_id: self.slots[at].id,
            election: Duration::from_millis(500),
            snapshot_rate: None,
            dial: Arc::new(PlainDial),
            speaks: Default::default(),
        })
        .expect("the peer room starts");
        let node = opened.run(Arc::new(peers.clone()), Box::new(Recorder(told.clone()))).expect("the node starts");
        peers.attach(node.handle().clone());
        node.handle().raise_level(quorate::state::FEATURE_LEVEL);
        let desk_settings = DeskSettings { strict: false, max_learners: 1, token: "t".into(), timeout: Duration::from_secs(10) };
        let desk = Desk::new(node.handle().clone(), peers.clone(), desk_settings);
        peers.attach_desk(Arc::new(desk.clone()));
        let listener = self.slots[at].reserved.take().expect("it is down");
        let stop = CancellationToken::new();
        let (service, stopped) = (peers.service(), stop.clone());
        let server = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                listener.set_nonblocking(true).expect("a socket");
                let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
                let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
                let serve = tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming);
                tokio::select! {
                    served = serve => served.expect("the listener serves"),
                    () = stopped.cancelled() => {}
                }
            });
        });
        self.slots[at].running = Some(Running { node, peers, desk, told, stop, server: Some(server) });
    }

    /// Stops a member; its port stays ours and refuses nobody, it only never answers.
    pub fn stop(&mut self, at: usize) {
        let slot = &mut self.slots[at];
        slot.running.take().expect("it runs").stop();
        slot.reserved = Some(bind(&slot.port));
    }

    pub fn handle(&self, at: usize) -> &NodeHandle {
        self.running(at).handle()
    }

    pub fn running(&self, at: usize) -> &Running {
        self.slots[at].running.as_ref().expect("it runs")
    }

    pub fn up(&self) -> Vec<usize> {
        (0..self.slots.len()).filter(|at| self.slots[*at].running.is_some()).collect()
    }

    /// The place of the member that leads, once all running members agree on it.
    pub fn leader(&self) -> usize {
        let mut found = 0;
        eventually("a leader all agree on", || {
            let leaders: Vec<u64> = self.up().iter().map(|at| self.handle(*at).status().leader).collect();
            let at = self.slots.iter().position(|s| s.id == leaders[0] && s.running.is_some());
            found = at.unwrap_or(usize::MAX);
            leaders.windows(2).all(|w| w[0] == w[1]) && at.is_some_and(|at| self.handle(at).status().is_leader)
        });
        found
    }

    /// A running member that does not lead.
    pub fn follower(&self) -> usize {
        let leader = self.leader();
        self.up().into_iter().find(|at| *at != leader).expect("another member runs")
    }

    /// Waits until all running members have applied the same, then compares their history's checksums.
    pub fn agree(&self) {
        eventually("every member applied the same", || {
            let applied: Vec<_> =
                self.up().iter().map(|at| (self.handle(*at).status().applied_index, self.handle(*at).store().revision())).collect();
            applied.windows(2).all(|w| w[0] == w[1])
        });
        let hashes: Vec<_> = self.up().iter().map(|at| self.handle(*at).store().hash_kv(0).expect("a hash").hash).collect();
        assert!(hashes.windows(2).all(|w| w[0] == w[1]), "hashes differ: {hashes:x?}");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for at in self.up() {
            self.slots[at].running.take().expect("it runs").stop();
        }
    }
}

/// Listens; the threads of a stopped member may still hold the port for a moment.
fn bind(port: &Port) -> TcpListener {
    let begun = Instant::now();
    loop {
        match TcpListener::bind(("127.0.0.1", port.number())) {
            Ok(listener) => return listener,
            Err(e) => assert!(begun.elapsed() < PATIENCE, "the port does not come free: {e}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Looks at a condition until it holds; ends the test when it never does.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "never came: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn put(key: &str, value: &[u8]) -> Command {
    let put = entry::Put { key: key.as_bytes().to_vec().into(), value: value.to_vec().into(), ..Default::default() };
    Command { op: Some(Op::Put(put)) }
}

/// The value of a key as the member at hand sees it.
pub fn value(handle: &NodeHandle, key: &str) -> Option<Vec<u8>> {
    let query = entry::Range { key: key.as_bytes().to_vec().into(), ..Default::default() };
    let found = handle.store().range(&query).expect("a read");
    found.kvs.first().map(|kv| kv.decode().expect("a pair").value.to_vec())
}

/// Proposes until it is applied: elections in between may cost attempts.
pub async fn must(handle: &NodeHandle, command: Command) {
    let begun = Instant::now();
    loop {
        match handle.propose(command.clone()).await {
            Ok(answer) => {
                answer.result.expect("the machine takes it");
                return;
            }
            Err(e) => assert!(begun.elapsed() < PATIENCE, "never applied: {e}"),
        }
    }
}
