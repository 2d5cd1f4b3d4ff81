//! The members' processes: started, stopped, killed and paused by number, and what each says of itself.

use crate::ground::{Ground, MEMBERS, address, inside};
use quorate_client::{Client, Config};
use quorate_proto::etcdserverpb as pb;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Entries kept for followers. Few, so that a member that was away for a while needs a snapshot.
const KEPT: &str = "100";
/// A member's memory. Little, so that rows reach the disk, and the log is trimmed, every few megabytes.
const MEMORY: &str = "268435456";
/// Longest that a member may take to stop.
const STOPS: Duration = Duration::from_secs(30);

pub struct Members {
    /// Each member's program.
    programs: Vec<PathBuf>,
    logs: PathBuf,
    children: Vec<Option<Child>>,
}

/// Where clients reach a member.
pub fn endpoint(at: usize) -> String {
    format!("http://{}:2379", address(at))
}

/// Where members reach a member.
pub fn peer(at: usize) -> String {
    format!("http://{}:2380", address(at))
}

/// Signals by name.
#[derive(Clone, Copy)]
pub enum Signal {
    Kill,
    Term,
    Stop,
    Cont,
}

/// A client of every member, with this time limit for its calls.
pub fn client(limit: Duration) -> Result<Client, String> {
    let mut config = Config::new((0..MEMBERS).map(endpoint));
    config.timeout = Some(limit);
    config.dial_timeout = Duration::from_secs(1);
    Client::new(config).map_err(|e| e.to_string())
}

impl Members {
    pub fn new(program: &Path, logs: &Path) -> Self {
        let programs = vec![program.to_path_buf(); MEMBERS];
        Self { programs, logs: logs.to_path_buf(), children: (0..MEMBERS).map(|_| None).collect() }
    }

    /// What a member runs from its next start on.
    pub fn set_program(&mut self, at: usize, program: &Path) {
        self.programs[at] = program.to_path_buf();
    }

    pub fn runs(&self, at: usize, program: &Path) -> bool {
        self.programs[at] == program
    }

    /// What a member said after the first `from` bytes of its log.
    pub fn said(&self, at: usize, from: usize) -> String {
        let text = std::fs::read(self.log(at)).unwrap_or_default();
        String::from_utf8_lossy(text.get(from..).unwrap_or_default()).into_owned()
    }

    pub fn log(&self, at: usize) -> PathBuf {
        self.logs.join(format!("m{}.log", at + 1))
    }

    /// Starts a member: of a cluster that is to be formed, or of one that exists and lists `members`.
    pub fn start(&mut self, ground: &Ground, at: usize, existing: bool) -> Result<(), String> {
        let log = OpenOptions::new().create(true).append(true).open(self.log(at)).map_err(|e| format!("log: {e}"))?;
        let all: Vec<_> = (0..MEMBERS).map(|m| format!("m{}={}", m + 1, peer(m))).collect();
        let errors = log.try_clone().map_err(|e| format!("log: {e}"))?;
        let program = self.programs[at].display().to_string();
        let child = inside(at, &program)
            .args(["--name", &format!("m{}", at + 1), "--data-dir", &ground.disk(at).join("data").display().to_string()])
            .args(["--listen-client-urls", &endpoint(at), "--advertise-client-urls", &endpoint(at)])
            .args(["--listen-peer-urls", &peer(at), "--initial-advertise-peer-urls", &peer(at)])
            .args(["--initial-cluster", &all.join(","), "--initial-cluster-token", "robustness"])
            .args(["--initial-cluster-state", if existing { "existing" } else { "new" }])
            .args(["--memory-limit", MEMORY, "--snapshot-catchup-entries", KEPT])
            .args(["--watch-progress-notify-interval", "1s", "--max-request-bytes", "1572864"])
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(|e| format!("{program}: {e}"))?;
        self.children[at] = Some(child);
        Ok(())
    }

    pub fn signal(&self, at: usize, signal: Signal) -> Result<(), String> {
        let Some(child) = &self.children[at] else { return Err(format!("member {} does not run", at + 1)) };
        let name = match signal {
            Signal::Kill => "-KILL",
            Signal::Term => "-TERM",
            Signal::Stop => "-STOP",
            Signal::Cont => "-CONT",
        };
        let status = Command::new("kill").args([name, &child.id().to_string()]).status().map_err(|e| format!("kill: {e}"))?;
        status.success().then_some(()).ok_or_else(|| format!("member {} is gone", at + 1))
    }

    /// Kills a member at once and waits until it is gone.
    pub fn kill(&mut self, at: usize) -> Result<(), String> {
        self.signal(at, Signal::Kill)?;
        self.wait(at).map(|_| ())
    }

    /// Waits until a member has ended by itself, or by a signal it was sent.
    pub fn wait(&mut self, at: usize) -> Result<ExitStatus, String> {
        let Some(mut child) = self.children[at].take() else { return Err(format!("member {} does not run", at + 1)) };
        let began = Instant::now();
        loop {
            if let Some(status) = child.try_wait().map_err(|e| e.to_string())? {
                return Ok(status);
            }
            if began.elapsed() > STOPS {
                let _ = child.kill();
                return Err(format!("member {} did not stop within {} s", at + 1, STOPS.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// How a member ended that nobody stopped; `None` while it runs.
    pub fn ended(&mut self, at: usize) -> Option<ExitStatus> {
        let status = self.children[at].as_mut()?.try_wait().ok()??;
        self.children[at] = None;
        Some(status)
    }

    /// How many snapshots a member has installed, by its log.
    pub fn installs(&self, at: usize) -> usize {
        let text = std::fs::read(self.log(at)).unwrap_or_default();
        String::from_utf8_lossy(&text).lines().filter(|l| l.contains("\"msg\":\"installed a snapshot\"")).count()
    }

    /// Lines of the members' logs that tell of a panic.
    pub fn panics(&self) -> Vec<String> {
        let mut found = Vec::new();
        for at in 0..MEMBERS {
            let text = std::fs::read(self.log(at)).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            found.extend(text.lines().filter(|l| l.contains("panicked at")).map(|l| format!("member {}: {l}", at + 1)));
        }
        found
    }

    /// Stops everyone, the last thing in a run.
    pub fn end(&mut self) {
        for child in self.children.iter_mut().filter_map(Option::take) {
            let mut child = child;
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What a member says of itself, `None` when it does not answer.
pub async fn status(all: &Client, at: usize) -> Option<pb::StatusResponse> {
    all.only(&endpoint(at))?.timeout(Some(Duration::from_secs(1))).status(pb::StatusRequest {}).await.ok()
}

/// The member that the others take for their leader, in the newest term.
pub async fn leader(all: &Client) -> Option<usize> {
    let mut newest = None;
    for at in 0..MEMBERS {
        let Some(s) = status(all, at).await else { continue };
        let me = s.header.as_ref().map_or(0, |h| h.member_id);
        if s.leader != 0 && s.leader == me && newest.is_none_or(|(term, _)| term < s.raft_term) {
            newest = Some((s.raft_term, at));
        }
    }
    newest.map(|(_, at)| at)
}
