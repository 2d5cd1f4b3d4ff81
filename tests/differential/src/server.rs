//! One server process: its flags, its ports, its life.
//!
//! In: a program that takes etcd's flags, an empty folder, and its place in its cluster. Out: an address that answers, and a process
//! that can be ended and started again on the same data. The members of both clusters get the same names, advertised URLs and token,
//! so that member and cluster ids must be the same; only the ports they listen on for clients differ. Members of one cluster find
//! each other by sockets in the cluster's folder, whose names are the same in both.
//! Invariant: the process ends when this value is dropped, however that comes about.

use crate::generate::MAX_TXN_OPS;
use ports::Port;
use quorate_proto::etcdserverpb::{self as pb, kv_client::KvClient};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};
use tonic::transport::{Channel, Endpoint};

/// Longest wait for a server to answer its first read, and for one to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(30);

/// How servers are run.
#[derive(Clone, Debug)]
pub struct Program {
    pub label: &'static str,
    pub binary: PathBuf,
    /// Whether writes wait for the disk.
    pub fsync: bool,
}

pub struct Server {
    program: Program,
    /// The cluster's folder.
    dir: PathBuf,
    /// Its number among the members, from 0.
    index: usize,
    members: usize,
    port: Port,
    child: Option<Child>,
}

impl Server {
    /// Starts the member with this number of a cluster whose folder is empty at first.
    pub async fn start(program: &Program, dir: PathBuf, index: usize, members: usize) -> Result<Self, String> {
        std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        let mut server = Self { program: program.clone(), dir, index, members, port: Port::free(), child: None };
        server.spawn()?;
        Ok(server)
    }

    fn spawn(&mut self) -> Result<(), String> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_path()).map_err(|e| e.to_string())?;
        let mut command = Command::new(&self.program.binary);
        let peer = |n: usize| format!("unix://m{n}.peer:1");
        let cluster: Vec<String> = (0..self.members).map(|n| format!("m{n}={}", peer(n))).collect();
        let flags = [
            ("name", format!("m{}", self.index)),
            ("data-dir", self.dir.join(format!("data-{}", self.index)).display().to_string()),
            ("listen-client-urls", self.port.url()),
            ("listen-peer-urls", peer(self.index)),
            ("advertise-client-urls", format!("http://127.0.0.1:{}", 2379 + 10 * self.index)),
            ("initial-advertise-peer-urls", peer(self.index)),
            ("initial-cluster", cluster.join(",")),
            ("initial-cluster-token", "differential".into()),
            ("heartbeat-interval", "50".into()),
            ("election-timeout", "500".into()),
            ("quota-backend-bytes", (8_u64 << 30).to_string()),
            ("max-txn-ops", MAX_TXN_OPS.to_string()),
        ];
        for (name, value) in flags {
            command.arg(format!("--{name}={value}"));
        }
        if !self.program.fsync {
            command.arg("--unsafe-no-fsync");
        }
        command.env_clear().current_dir(&self.dir).stdin(Stdio::null()).kill_on_drop(true);
        command.stdout(log.try_clone().map_err(|e| e.to_string())?).stderr(log);
        let child = command.spawn().map_err(|e| format!("{}: {e}", self.program.binary.display()))?;
        self.child = Some(child);
        Ok(())
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join(format!("log-{}", self.index))
    }

    /// The last lines the server wrote, or those from its last panic on, for a report.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read(self.log_path()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let panic = lines.iter().rposition(|l| l.contains("panic"));
        let from = panic.unwrap_or(lines.len().saturating_sub(15));
        lines[from..lines.len().min(from + 15)].join("\n")
    }

    /// Waits for the first linearizable answer; the channel that gave it.
    pub async fn ready(&mut self) -> Result<Channel, String> {
        let endpoint = Endpoint::from_shared(self.port.url()).map_err(|e| e.to_string())?;
        let endpoint = endpoint.initial_stream_window_size(8 << 20).initial_connection_window_size(16 << 20).tcp_nodelay(true);
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.exited() {
                return Err(format!("{} ended at its start: {status}\n{}", self.program.label, self.log_tail()));
            }
            if let Ok(channel) = endpoint.connect().await {
                let probe = pb::RangeRequest { key: "probe".into(), ..Default::default() };
                if KvClient::new(channel.clone()).range(probe).await.is_ok() {
                    return Ok(channel);
                }
            }
            if Instant::now() > deadline {
                return Err(format!("{} did not answer within {PATIENCE:?}\n{}", self.program.label, self.log_tail()));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// How the process ended, if it has.
    pub fn exited(&mut self) -> Option<String> {
        self.child.as_mut()?.try_wait().ok().flatten().map(|s| s.to_string())
    }

    /// Ends the process, by SIGKILL or SIGTERM, and waits for it.
    pub async fn stop(&mut self, kill: bool) -> Result<(), String> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        if kill {
            return child.kill().await.map_err(|e| e.to_string());
        }
        if let Some(pid) = child.id() {
            let sent = Command::new("kill").arg("-TERM").arg(pid.to_string()).status().await;
            sent.map_err(|e| format!("kill: {e}"))?;
        }
        match tokio::time::timeout(PATIENCE, child.wait()).await {
            Ok(ended) => ended.map(|_| ()).map_err(|e| e.to_string()),
            Err(_) => Err(format!("{} did not end within {PATIENCE:?} of SIGTERM\n{}", self.program.label, self.log_tail())),
        }
    }

    /// Starts the stopped process again on its data.
    pub fn restart(&mut self) -> Result<(), String> {
        self.spawn()
    }
}
