//! Clusters of real processes on the loopback: members with folders and addresses of their own, a client that writes through whoever
//! takes it, and what that client was told.
//!
//! In: how many members, how each is told of the others, which program runs. Out: endpoints, exits, logs, the record of the writer.
//! Invariant: a process started here is gone when its group is, whatever the test does.

use crate::server::{PATIENCE, program};
use ports::Port;
use quorate_proto::etcdserverpb as pb;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tonic::transport::{Channel, Endpoint};

/// One member's place: it keeps its addresses, whatever happens to its folder.
pub struct Place {
    pub name: String,
    pub dir: PathBuf,
    pub client: String,
    pub peer: String,
    /// Peer URLs to tell, where they are not those it listens on.
    pub peer_advertised: Option<String>,
    /// The program it runs as; the one under test unless said otherwise.
    pub program: PathBuf,
    child: Option<Child>,
    log: PathBuf,
    _ports: [Port; 2],
}

/// Members.
pub struct Group {
    pub places: Vec<Place>,
    pub scratch: tempfile::TempDir,
}

/// Looks until something is there; ends the test when it never comes.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "never came: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Group {
    /// Places for `count` members, named m0 and so on; nothing runs.
    #[must_use]
    pub fn new(count: usize) -> Self {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let place = |n: usize| {
            let ports = [Port::free(), Port::free()];
            let [client, peer] = ports.each_ref().map(Port::url);
            Place {
                name: format!("m{n}"),
                dir: scratch.path().join(format!("m{n}")),
                client,
                peer,
                peer_advertised: None,
                program: program(),
                child: None,
                log: scratch.path().join(format!("m{n}.log")),
                _ports: ports,
            }
        };
        let places = (0..count).map(place).collect();
        Self { places, scratch }
    }

    /// `--initial-cluster` of these members.
    #[must_use]
    pub fn list(&self, of: &[usize]) -> String {
        of.iter().map(|at| format!("{}={}", self.places[*at].name, self.places[*at].peer)).collect::<Vec<_>>().join(",")
    }

    /// Starts a member with flags of its own beside its name, folder and addresses.
    pub fn spawn(&mut self, at: usize, flags: &[&str], failpoint: Option<&str>) {
        let place = &mut self.places[at];
        let mut command = Command::new(&place.program);
        let advertised = place.peer_advertised.as_ref().unwrap_or(&place.peer);
        command
            .args(["--name", &place.name, "--data-dir", place.dir.to_str().expect("a readable path")])
            .args(["--listen-client-urls", &place.client, "--advertise-client-urls", &place.client])
            .args(["--listen-peer-urls", &place.peer, "--initial-advertise-peer-urls", advertised])
            .args(["--log-format", "console", "--heartbeat-interval", "50", "--election-timeout", "500"])
            .args(flags)
            .env_remove("QUORATE_FAILPOINT")
            .env("QUORATE_TEST_SIZES", "delta=65536,segment=65536")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&place.log).expect("a log file"));
        if let Some(failpoint) = failpoint {
            command.env("QUORATE_FAILPOINT", failpoint);
        }
        place.child = Some(command.spawn().expect("the server program runs"));
    }

    /// Starts all as the founders of a cluster and waits until they serve.
    pub fn found(&mut self) {
        let all: Vec<usize> = (0..self.places.len()).collect();
        let list = self.list(&all);
        all.iter().for_each(|at| self.spawn(*at, &["--initial-cluster", &list], None));
        all.iter().for_each(|at| self.ready(*at));
    }

    /// Waits until a member serves clients.
    pub fn ready(&mut self, at: usize) {
        until(&format!("m{at} serves"), || {
            if let Some(status) = self.ended(at) {
                panic!("m{at} ended with {status} instead of serving; its log:\n{}", self.log(at));
            }
            self.log(at).contains("ready to serve client requests").then_some(())
        });
    }

    fn ended(&mut self, at: usize) -> Option<ExitStatus> {
        self.places[at].child.as_mut().expect("it was started").try_wait().expect("a child can be waited for")
    }

    /// Waits until a member ends by itself.
    pub fn exit(&mut self, at: usize) -> ExitStatus {
        let status = until(&format!("m{at} ends"), || self.ended(at));
        self.places[at].child = None;
        status
    }

    /// Ends a member as a crash would.
    pub fn kill(&mut self, at: usize) {
        if let Some(mut child) = self.places[at].child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks a member to end and waits.
    #[expect(unsafe_code, reason = "one system call on our own child")]
    pub fn stop(&mut self, at: usize) -> ExitStatus {
        let child = self.places[at].child.as_ref().expect("it runs");
        // SAFETY: the child was not waited for, so its id is still its own.
        unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
        self.exit(at)
    }

    /// What a member said since it was started last.
    #[must_use]
    pub fn log(&self, at: usize) -> String {
        std::fs::read(&self.places[at].log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    #[must_use]
    pub fn dir(&self, at: usize) -> &Path {
        &self.places[at].dir
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        (0..self.places.len()).for_each(|at| self.kill(at));
    }
}

/// Must be called on a runtime, which carries the connection.
fn channel(url: &str) -> Channel {
    Endpoint::from_shared(url.to_string()).expect("an address").connect_lazy()
}

/// Runs the program with a command line of its own, to its end.
#[must_use]
pub fn offline(arguments: &[&str]) -> Output {
    Command::new(program()).args(arguments).env_remove("QUORATE_FAILPOINT").output().expect("the program runs")
}

/// An acknowledged write: its value's number and its revision.
pub type Acknowledged = BTreeMap<u64, i64>;

/// A client that writes one key after the other through whoever takes it.
pub struct Writer {
    stop: Arc<AtomicBool>,
    told: Arc<Mutex<Acknowledged>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// The key of a number.
#[must_use]
pub fn key(number: u64) -> Vec<u8> {
    format!("w-{number:06}").into_bytes()
}

/// The value that goes with it.
#[must_use]
pub fn value(number: u64) -> Vec<u8> {
    let mut out = format!("{number}:").into_bytes();
    out.resize(400, b'v');
    out
}

impl Writer {
    /// Starts to write numbers from `first` through these addresses.
    #[must_use]
    pub fn start(endpoints: Vec<String>, first: u64) -> Self {
        let (stop, told) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Acknowledged>>::default());
        let (stopped, tell) = (stop.clone(), told.clone());
        let write = async move {
            let mut doors: Vec<_> = endpoints.iter().map(|url| pb::kv_client::KvClient::new(channel(url))).collect();
            let (mut number, mut turn) = (first, 0);
            while !stopped.load(Ordering::Acquire) {
                let many = doors.len();
                let request = pb::PutRequest { key: key(number).into(), value: value(number).into(), ..Default::default() };
                match tokio::time::timeout(Duration::from_secs(2), doors[turn % many].put(request)).await {
                    Ok(Ok(answer)) => {
                        let revision = answer.into_inner().header.map_or(0, |h| h.revision);
                        tell.lock().expect("the record").insert(number, revision);
                    }
                    // It may have happened; the next number is another key, so the record stays simple.
                    _ => turn += 1,
                }
                number += 1;
            }
        };
        let thread = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(write);
        });
        Self { stop, told, thread: Some(thread) }
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.told.lock().expect("the record").len()
    }

    /// Waits until it has been told of so many more.
    pub fn more(&self, count: usize) {
        let before = self.count();
        until("writes go on", || (self.count() >= before + count).then_some(()));
    }

    /// Ends it: what it was told.
    #[must_use]
    pub fn finish(mut self) -> Acknowledged {
        self.stop.store(true, Ordering::Release);
        self.thread.take().expect("it runs").join().expect("the writer");
        std::mem::take(&mut self.told.lock().expect("the record"))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

/// Asks a member for everything that writers wrote, from its own data: numbers and their revisions. Values are compared on the way.
pub async fn written(endpoint: &str, linearizable: bool) -> Acknowledged {
    let mut client = pb::kv_client::KvClient::new(channel(endpoint)).max_decoding_message_size(256 << 20);
    let request = pb::RangeRequest {
        key: b"w-".to_vec().into(),
        range_end: b"w.".to_vec().into(),
        serializable: !linearizable,
        ..Default::default()
    };
    let found = client.range(request).await.expect("a range").into_inner();
    let pair = |kv: &quorate_proto::RawKv| {
        let kv = kv.decode().expect("a pair");
        let number: u64 = String::from_utf8_lossy(&kv.key)[2..].parse().expect("one of our keys");
        assert_eq!(kv.value, value(number), "the value of {number}");
        (number, kv.mod_revision)
    };
    found.kvs.iter().map(pair).collect()
}

/// The members a member knows.
pub async fn members(endpoint: &str) -> Vec<pb::Member> {
    let mut client = pb::cluster_client::ClusterClient::new(channel(endpoint));
    client.member_list(pb::MemberListRequest { linearizable: false }).await.expect("a list").into_inner().members
}

/// Adds a member, again while the cluster is not ready for it.
pub async fn add(endpoint: &str, peer: &str) -> pb::Member {
    let mut client = pb::cluster_client::ClusterClient::new(channel(endpoint));
    let begun = Instant::now();
    loop {
        let request = pb::MemberAddRequest { peer_urls: vec![peer.to_string()], is_learner: false };
        match client.member_add(request).await {
            Ok(answer) => return answer.into_inner().member.expect("the added member"),
            Err(status) => assert!(begun.elapsed() < PATIENCE, "never added: {status}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Removes the member that others reach at an address, again while the cluster is not ready for it.
pub async fn remove(endpoint: &str, peer: &str) {
    let mut client = pb::cluster_client::ClusterClient::new(channel(endpoint));
    let found = members(endpoint).await.into_iter().find(|m| m.peer_urls.iter().any(|url| url == peer));
    let id = found.expect("it is a member").id;
    let begun = Instant::now();
    while let Err(status) = client.member_remove(pb::MemberRemoveRequest { id }).await {
        assert!(begun.elapsed() < PATIENCE, "never removed: {status}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The cluster id that a member's answers carry.
pub async fn cluster_id(endpoint: &str) -> u64 {
    let mut client = pb::maintenance_client::MaintenanceClient::new(channel(endpoint));
    let status = client.status(pb::StatusRequest::default()).await.expect("a status").into_inner();
    status.header.expect("a header").cluster_id
}
