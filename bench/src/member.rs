//! Servers under test: one or three members of one program, started fresh on loopback, stopped by process id.
//!
//! Both programs get the same flags. Ready means: a linearizable read through the client port was answered.

use crate::certificates::Certificates;
use crate::link::Link;
use crate::process::{self, Memory, Usage};
use crate::{Failure, load};
use quorate_proto::etcdserverpb::{RangeRequest, kv_client::KvClient};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a member may take until it is ready.
const START: Duration = Duration::from_secs(120);
/// How often readiness is asked for.
const POLL: Duration = Duration::from_millis(5);

/// A program and how to start it.
#[derive(Clone, Debug)]
pub struct Program {
    /// `etcd` or `quorate`; results are kept under it.
    pub name: String,
    pub path: PathBuf,
    /// Flags beyond those both get.
    pub extra: Vec<String>,
}

/// A running cluster. Dropping it kills the processes; the data stays until [`Cluster::remove`].
pub struct Cluster {
    program: Program,
    dir: PathBuf,
    first_port: u16,
    tls: Option<Certificates>,
    members: Vec<Option<Child>>,
}

impl Cluster {
    /// Starts `size` members with data below `dir`, on ports from `first_port` on, and waits until they serve.
    pub fn start(program: &Program, dir: &Path, size: usize, first_port: u16, tls: Option<&Certificates>) -> Result<Self, Failure> {
        fs::create_dir_all(dir)?;
        let mut cluster = Self {
            program: program.clone(),
            dir: dir.to_owned(),
            first_port,
            tls: tls.cloned(),
            members: (0..size).map(|_| None).collect(),
        };
        cluster.spawn_all()?;
        cluster.wait_ready()?;
        Ok(cluster)
    }

    fn client_url(&self, i: usize) -> String {
        format!("{}://127.0.0.1:{}", self.scheme(), self.first_port + 2 * i as u16)
    }

    fn peer_url(&self, i: usize) -> String {
        format!("{}://127.0.0.1:{}", self.scheme(), self.first_port + 2 * i as u16 + 1)
    }

    fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    fn spawn_all(&mut self) -> Result<(), Failure> {
        for i in 0..self.members.len() {
            self.members[i] =
                Some(self.command(i)?.spawn().map_err(|e| format!("{} does not start: {e}", self.program.path.display()))?);
        }
        Ok(())
    }

    fn command(&self, i: usize) -> Result<Command, Failure> {
        let list: Vec<String> = (0..self.members.len()).map(|m| format!("m{m}={}", self.peer_url(m))).collect();
        let mut command = Command::new(&self.program.path);
        let data = self.dir.join(format!("m{i}"));
        let flags = [
            ("--name", format!("m{i}")),
            ("--data-dir", data.display().to_string()),
            ("--listen-client-urls", self.client_url(i)),
            ("--advertise-client-urls", self.client_url(i)),
            ("--listen-peer-urls", self.peer_url(i)),
            ("--initial-advertise-peer-urls", self.peer_url(i)),
            ("--initial-cluster", list.join(",")),
            ("--log-level", "error".to_owned()),
        ];
        for (flag, value) in flags {
            command.arg(flag).arg(value);
        }
        if let Some(tls) = &self.tls {
            for (flag, file) in [
                ("--cert-file", &tls.server.0),
                ("--key-file", &tls.server.1),
                ("--trusted-ca-file", &tls.ca),
                ("--peer-cert-file", &tls.server.0),
                ("--peer-key-file", &tls.server.1),
                ("--peer-trusted-ca-file", &tls.ca),
            ] {
                command.arg(flag).arg(file);
            }
            command.args(["--client-cert-auth", "--peer-client-cert-auth"]);
        }
        command.args(&self.program.extra);
        let log = File::options().create(true).append(true).open(self.dir.join(format!("m{i}.log")))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(command)
    }

    /// How to reach the members.
    pub fn link(&self) -> Link {
        let tls = self.tls.as_ref();
        Link {
            endpoints: (0..self.members.len()).map(|i| self.client_url(i)).collect(),
            cacert: tls.map(|t| t.ca.clone()),
            cert: tls.map(|t| t.client.0.clone()),
            key: tls.map(|t| t.client.1.clone()),
        }
    }

    fn wait_ready(&mut self) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let until = Instant::now() + START;
        for i in 0..self.members.len() {
            let link = Link { endpoints: vec![self.client_url(i)], ..self.link() };
            loop {
                if let Some(status) = self.members[i].as_mut().and_then(|c| c.try_wait().ok().flatten()) {
                    let log = fs::read_to_string(self.dir.join(format!("m{i}.log"))).unwrap_or_default();
                    return Err(
                        format!("{} ended with {status}: {}", self.program.name, log.lines().last().unwrap_or("no log")).into()
                    );
                }
                let served = runtime.block_on(async {
                    let mut kv = KvClient::new(link.connect(0).await?);
                    let ask = kv.range(RangeRequest { key: "ready".into(), ..Default::default() });
                    tokio::time::timeout(Duration::from_secs(7), ask).await??;
                    Ok::<_, Failure>(())
                });
                match served {
                    Ok(()) => break,
                    Err(e) if Instant::now() > until => return Err(format!("{} is not ready: {e}", self.program.name).into()),
                    Err(_) => std::thread::sleep(POLL),
                }
            }
        }
        Ok(())
    }

    /// Ends all members in good order, starts them again on their data, and tells how long the start took.
    pub fn restart(&mut self) -> Result<Duration, Failure> {
        self.stop()?;
        let began = Instant::now();
        self.spawn_all()?;
        self.wait_ready()?;
        Ok(began.elapsed())
    }

    /// Asks the members to end and waits for them.
    pub fn stop(&mut self) -> Result<(), Failure> {
        for child in self.members.iter().flatten() {
            signal("TERM", child.id())?;
        }
        for child in self.members.iter_mut().filter_map(Option::take) {
            let mut child = child;
            child.wait()?;
        }
        Ok(())
    }

    /// Stops the members and deletes their data.
    pub fn remove(mut self) -> Result<(), Failure> {
        self.stop()?;
        Ok(fs::remove_dir_all(&self.dir)?)
    }

    pub fn pids(&self) -> Vec<u32> {
        self.members.iter().flatten().map(Child::id).collect()
    }

    /// Counters of all members together.
    pub fn usage(&self) -> Result<Usage, Failure> {
        let mut sum = Usage::default();
        for pid in self.pids() {
            sum += process::usage(pid)?;
        }
        Ok(sum)
    }

    /// Memory of the member that takes most.
    pub fn memory(&self) -> Result<Memory, Failure> {
        let mut most = Memory::default();
        for pid in self.pids() {
            let m = process::memory(pid)?;
            most = Memory { rss: most.rss.max(m.rss), peak: most.peak.max(m.peak) };
        }
        Ok(most)
    }

    /// Bytes of all data on disk.
    pub fn disk_bytes(&self) -> u64 {
        (0..self.members.len()).map(|i| process::disk_bytes(&self.dir.join(format!("m{i}")))).sum()
    }

    /// A sample of the first member's metrics page; `None` over TLS or when there is no such line.
    pub fn metric(&self, name: &str) -> Option<f64> {
        if self.tls.is_some() {
            return None;
        }
        let mut stream = TcpStream::connect(("127.0.0.1", self.first_port)).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: bench\r\n\r\n").ok()?;
        let mut page = String::new();
        stream.read_to_string(&mut page).ok()?;
        page.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.members.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Sends a signal by its name without `SIG`.
pub fn signal(name: &str, pid: u32) -> Result<(), Failure> {
    let status = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status()?;
    if status.success() { Ok(()) } else { Err(format!("cannot send SIG{name} to {pid}").into()) }
}

/// A plan with defaults for what is not said, against this cluster.
pub fn plan(workload: load::Workload, link: Link) -> load::Plan {
    load::Plan {
        workload,
        link,
        clients: 100,
        connections: 10,
        threads: 1,
        ops: 20_000,
        seconds: 60.0,
        rate: 0.0,
        key_size: 64,
        value_size: 256,
        key_space: 10_000,
        fresh: false,
        prefix: "/registry/bench/".to_owned(),
        serializable: false,
        limit: 500,
        watchers: 100,
        seed: 1,
    }
}
