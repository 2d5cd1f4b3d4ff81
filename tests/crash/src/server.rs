//! One server process: its folder, its ports, its environment, and how it ended.
//!
//! In: a data directory and what is to be armed. Out: an endpoint, the exit status, the log. Invariant: a process started here is
//! gone when its handle is, whatever the test does.

use ports::Port;
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for a start or an end; a loaded machine takes seconds, a hang takes for ever.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The server program: the one named, or the one built beside the test.
#[must_use]
pub fn program() -> PathBuf {
    let beside = || {
        let test = std::env::current_exe().ok()?;
        Some(test.parent()?.parent()?.join("quorate"))
    };
    let path = std::env::var_os("QUORATE_BIN").map(PathBuf::from).or_else(beside).expect("a test program has a place");
    assert!(path.is_file(), "{} is not there: build the server with --release, or name it in QUORATE_BIN", path.display());
    path
}

/// How a server is to be started.
#[derive(Clone, Debug, Default)]
pub struct Start {
    pub data_dir: PathBuf,
    /// Fail points, as `QUORATE_FAILPOINT` takes them.
    pub failpoint: Option<String>,
    /// Small deltas and segments.
    pub small: bool,
    /// Library to preload and the journal it writes, with the folder it watches.
    pub power: Option<(PathBuf, PathBuf, PathBuf)>,
    /// The sync at whose beginning that library ends the process, as `shim.c` takes it.
    pub fatal_sync: Option<String>,
    /// User to run as; the caller must be root.
    pub user: Option<u32>,
    pub arguments: Vec<String>,
    /// A program and its arguments that run the server as theirs, such as `ip netns exec`.
    pub wrapper: Vec<String>,
}

impl Start {
    #[must_use]
    pub fn at(data_dir: &Path) -> Self {
        Self { data_dir: data_dir.to_path_buf(), ..Self::default() }
    }

    #[must_use]
    pub fn small(mut self) -> Self {
        self.small = true;
        self
    }

    #[must_use]
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(ToString::to_string));
        self
    }
}

/// A process, running or ended.
pub struct Server {
    child: Child,
    pub endpoint: String,
    log: PathBuf,
    _scratch: tempfile::TempDir,
    _ports: [Port; 2],
}

impl Server {
    /// Starts the program; it may not serve yet.
    #[must_use]
    pub fn spawn(start: &Start) -> Self {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let log = scratch.path().join("log");
        let ports = [Port::free(), Port::free()];
        let [endpoint, peer] = ports.each_ref().map(Port::url);
        let mut command = match start.wrapper.split_first() {
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program());
                command
            }
            None => Command::new(program()),
        };
        let data_dir = start.data_dir.to_str().expect("a readable path");
        // Urls with a fresh port would found a member of another name; the name and the founding are those of the folder.
        command
            .args([
                "--name",
                "one",
                "--data-dir",
                data_dir,
                "--listen-client-urls",
                &endpoint,
                "--advertise-client-urls",
                &endpoint,
            ])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", "http://127.0.0.1:2380"])
            .args(["--initial-cluster", "one=http://127.0.0.1:2380", "--log-format", "console"])
            .args(&start.arguments)
            .env_remove("QUORATE_FAILPOINT")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("a log file"));
        if let Some(failpoint) = &start.failpoint {
            command.env("QUORATE_FAILPOINT", failpoint);
        }
        if start.small {
            command.env("QUORATE_TEST_SIZES", "delta=49152,segment=32768").args(["--snapshot-catchup-entries", "20"]);
        }
        if let Some((library, root, journal)) = &start.power {
            command.env("LD_PRELOAD", library).env("POWER_ROOT", root).env("POWER_JOURNAL", journal);
        }
        if let Some(sync) = &start.fatal_sync {
            command.env("POWER_DIE", sync);
        }
        if let Some(user) = start.user {
            use std::os::unix::process::CommandExt;
            command.uid(user).gid(user);
        }
        let child = command.spawn().expect("the server program runs");
        Self { child, endpoint, log, _scratch: scratch, _ports: ports }
    }

    /// Waits until clients are served; gives how the process ended when it did before that.
    pub fn wait_ready(&mut self) -> Result<(), ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.ended() {
                return Err(status);
            }
            if self.log().contains("ready to serve client requests") {
                return Ok(());
            }
            assert!(Instant::now() < deadline, "the server is not ready after {PATIENCE:?}; its log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts the program and waits until it serves.
    #[must_use]
    pub fn start(start: &Start) -> Self {
        let mut server = Self::spawn(start);
        if let Err(status) = server.wait_ready() {
            panic!("the server ended with {status} instead of serving; its log:\n{}", server.log());
        }
        server
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Waits for the end, which someone else brings.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(Instant::now() < deadline, "the server goes on after {PATIENCE:?}; its log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) -> ExitStatus {
        // It may have ended by itself.
        let _ = self.child.kill();
        self.child.wait().expect("a child can be waited for")
    }

    /// Asks it to end and waits.
    pub fn stop(&mut self) -> ExitStatus {
        if self.ended().is_none() {
            self.signal(libc::SIGTERM);
        }
        self.wait()
    }

    #[expect(unsafe_code, reason = "one system call on our own child")]
    fn signal(&self, signal: i32) {
        // SAFETY: the child was not waited for, so its id is still its own.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }

    /// What it said so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }
}

/// Whether the process was ended by SIGKILL.
#[must_use]
pub fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(libc::SIGKILL)
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
