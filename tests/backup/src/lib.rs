//! What the tests of backups share: real servers on the loopback, gone when their handle is, and the places backups go to.
//!
//! In: nothing but programs. Out: endpoints, stores, and what a server holds. Invariant: a process started here ends with its handle.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ports::Port;
use quorate_client::proto::etcdserverpb as pb;
use quorate_client::{Client, Config};
use serde_json::Value;

/// Longest wait for a start; a loaded machine takes seconds, a hang takes for ever.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program: the one that the variable names, or the one built beside the test.
fn program(name: &str, variable: &str) -> PathBuf {
    let beside = || Some(std::env::current_exe().ok()?.parent()?.parent()?.join(name));
    let path = std::env::var_os(variable).map(PathBuf::from).or_else(beside).expect("a test program has a place");
    assert!(path.is_file(), "{} is not there: build it, or name it in {variable}", path.display());
    path
}

/// The server.
#[must_use]
pub fn server() -> PathBuf {
    program("quorate", "QUORATE_BIN")
}

/// The operator, whose other face is the agent.
#[must_use]
pub fn operator() -> PathBuf {
    program("quorate-operator", "OPERATOR_BIN")
}

/// A URL on the loopback that is this process's until it ends.
#[must_use]
pub fn loopback() -> String {
    let port = Port::free();
    let url = port.url();
    std::mem::forget(port);
    url
}

/// A process that ends with its handle.
pub struct Process(Child);

impl Process {
    /// Starts a program; what it says is kept in a file.
    #[must_use]
    pub fn start(mut command: Command, log: &Path) -> Self {
        let log = std::fs::File::create(log).expect("a log");
        let errors = log.try_clone().expect("a log");
        Self(command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn().expect("the program starts"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A cluster of one.
pub struct Server {
    _process: Process,
    /// Its client URL.
    pub endpoint: String,
    /// A client of it.
    pub client: Client,
}

impl Server {
    /// Starts the server on a data directory, which may hold a member already, and waits until it serves.
    pub async fn start(data_dir: &Path) -> Self {
        let (endpoint, peer) = (loopback(), loopback());
        let mut command = Command::new(server());
        command
            .arg(format!("--data-dir={}", data_dir.display()))
            .args([
                "--name=one".to_string(),
                format!("--listen-client-urls={endpoint}"),
                format!("--advertise-client-urls={endpoint}"),
            ])
            .args([format!("--listen-peer-urls={peer}"), format!("--initial-advertise-peer-urls={peer}")])
            .arg(format!("--initial-cluster=one={peer}"));
        let process = Process::start(command, &data_dir.with_extension("log"));
        let client = Client::new(Config::new([endpoint.clone()])).expect("the endpoint can be used");
        let began = Instant::now();
        while client.range(pb::RangeRequest { key: "a".into(), ..Default::default() }).await.is_err() {
            assert!(began.elapsed() < PATIENCE, "the server does not serve");
        }
        Self { _process: process, endpoint, client }
    }

    /// Writes one key; returns the revision.
    pub async fn put(&self, key: &str, value: &str) -> i64 {
        let request = pb::PutRequest { key: key.to_string().into(), value: value.to_string().into(), ..Default::default() };
        self.client.put(request).await.expect("a write").header.expect("a header").revision
    }

    /// Messages that this server has sent on streams of deltas.
    pub async fn deltas_sent(&self) -> u64 {
        let page = http(self.endpoint.trim_start_matches("http://"), "/metrics").await.unwrap_or_default();
        let line = page.lines().find(|line| line.starts_with("grpc_server_msg_sent_total") && line.contains("\"Deltas\""));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
    }

    /// All keys and values at a revision; 0: the newest.
    pub async fn all(&self, revision: i64) -> Vec<(Vec<u8>, Vec<u8>)> {
        let request = pb::RangeRequest { key: vec![0].into(), range_end: vec![0].into(), revision, ..Default::default() };
        let found = self.client.range(request).await.expect("a read");
        let pair = |kv: &quorate_client::proto::RawKv| {
            let kv = kv.decode().expect("a pair");
            (kv.key.to_vec(), kv.value.to_vec())
        };
        found.kvs.iter().map(pair).collect()
    }
}

/// Where backups go, as the agent is told.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// Flags that name it.
    pub flags: Vec<String>,
    /// Environment with its credentials.
    pub environment: Vec<(&'static str, String)>,
    /// The folder in which its objects are files.
    pub files: PathBuf,
}

impl Place {
    /// A folder.
    #[must_use]
    pub fn folder(folder: &Path) -> Self {
        std::fs::create_dir_all(folder).expect("a folder");
        Self { flags: vec![format!("--folder={}", folder.display())], files: folder.to_path_buf(), ..Self::default() }
    }

    /// The same with encryption keys from a folder.
    #[must_use]
    pub fn sealed(&self, keys: &Path) -> Self {
        let mut place = self.clone();
        place.flags.push(format!("--keys={}", keys.display()));
        place
    }

    /// A command of the agent.
    #[must_use]
    pub fn agent(&self, work: &str) -> Command {
        let mut command = Command::new(operator());
        command.args(["agent", work]).args(&self.flags).envs(self.environment.iter().cloned());
        command
    }

    /// Lets the agent work to its end: its last words, or why it failed.
    ///
    /// # Errors
    /// The agent's own.
    pub fn run(&self, work: &str, arguments: &[String]) -> Result<Value, String> {
        self.try_run(work, arguments).map_err(|(_, words)| words)
    }

    /// The same; with why it failed comes the exit code.
    ///
    /// # Errors
    /// The agent's own.
    pub fn try_run(&self, work: &str, arguments: &[String]) -> Result<Value, (Option<i32>, String)> {
        let output = self.agent(work).args(arguments).output().expect("the agent runs");
        let said = String::from_utf8_lossy(&output.stdout);
        let last = said.lines().next_back().unwrap_or_default();
        match output.status.success() {
            true => Ok(serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {said}"))),
            false => Err((output.status.code(), last.to_string())),
        }
    }

    /// Names of all objects, in order.
    #[must_use]
    pub fn objects(&self) -> Vec<String> {
        fn walk(folder: &Path, root: &Path, out: &mut Vec<String>) {
            for entry in std::fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                match path.is_dir() {
                    true => walk(&path, root, out),
                    false => out.push(path.strip_prefix(root).expect("below it").display().to_string()),
                }
            }
        }
        let mut out = Vec::new();
        walk(&self.files, &self.files, &mut out);
        out.sort();
        out
    }
}

/// A bucket on a real server of the S3 protocol, over a folder.
pub struct S3 {
    _process: Process,
    /// The bucket.
    pub place: Place,
}

/// Credentials of the S3 server.
const CREDENTIALS: (&str, &str) = ("testing", "testing-secret");

impl S3 {
    /// Starts the server that the variable S3_SERVER names, with an empty bucket; none when there is no such variable.
    #[must_use]
    pub fn start(folder: &Path) -> Option<Self> {
        let program = std::env::var_os("S3_SERVER")?;
        let (objects, meta, endpoint) = (folder.join("objects"), folder.join("meta"), loopback());
        let bucket = objects.join("backups");
        std::fs::create_dir_all(&bucket).expect("a bucket");
        std::fs::create_dir_all(&meta).expect("a folder");
        let mut command = Command::new(program);
        command
            .env("ROOT_ACCESS_KEY", CREDENTIALS.0)
            .env("ROOT_SECRET_KEY", CREDENTIALS.1)
            .args(["--port", endpoint.trim_start_matches("http://"), "posix", "--sidecar"])
            .arg(&meta)
            .arg(&objects);
        let process = Process::start(command, &folder.join("s3.log"));
        let address = endpoint.trim_start_matches("http://").to_string();
        let began = Instant::now();
        while std::net::TcpStream::connect(&address).is_err() {
            assert!(began.elapsed() < PATIENCE, "the S3 server does not serve");
            std::thread::yield_now();
        }
        let place = Place {
            flags: vec!["--bucket=backups".into(), format!("--s3-endpoint={endpoint}")],
            environment: vec![("AWS_ACCESS_KEY_ID", CREDENTIALS.0.into()), ("AWS_SECRET_ACCESS_KEY", CREDENTIALS.1.into())],
            files: bucket,
        };
        Some(Self { _process: process, place })
    }
}

/// The body that a page of this address has.
async fn http(address: &str, path: &str) -> Option<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    Some(answer.split_once("\r\n\r\n")?.1.to_string())
}

/// The long-lived agent.
pub struct Follower {
    process: Process,
    address: String,
}

impl Follower {
    /// Starts it.
    #[must_use]
    pub fn start(place: &Place, folder: &str, endpoints: &[&str], log: &Path) -> Self {
        Self::start_every(place, folder, endpoints, log, 1)
    }

    /// Starts one that writes a file each so many seconds.
    #[must_use]
    pub fn start_every(place: &Place, folder: &str, endpoints: &[&str], log: &Path, seconds: u32) -> Self {
        let address = loopback().trim_start_matches("http://").to_string();
        let mut command = place.agent("deltas");
        command.args([
            format!("--in={folder}"),
            "--holder=test".into(),
            format!("--interval={seconds}"),
            format!("--listen={address}"),
        ]);
        command.args(endpoints.iter().map(|endpoint| format!("--endpoint={endpoint}")));
        Self { process: Process::start(command, log), address }
    }

    /// The agent's page, once it says what is wanted.
    ///
    /// # Panics
    /// When it does not in time.
    pub async fn until(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        let mut last = Value::Null;
        while began.elapsed() < PATIENCE {
            if let Some(page) = self.page().await {
                if wanted(&page) {
                    return page;
                }
                last = page;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the agent's page stays at {last}");
    }

    async fn page(&self) -> Option<Value> {
        serde_json::from_str(&http(&self.address, "/status").await?).ok()
    }

    /// Tells it to stop and waits until it has written what it read.
    pub fn stop(mut self) {
        let id = i32::try_from(self.process.0.id()).expect("a process id");
        #[allow(unsafe_code)]
        // SAFETY: the process is our child and has not been waited for.
        let _ = unsafe { libc::kill(id, libc::SIGTERM) };
        let ended = self.process.0.wait().expect("the agent ends");
        assert!(ended.success(), "the agent ended with {ended}");
    }
}
