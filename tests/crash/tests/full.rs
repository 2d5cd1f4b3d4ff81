//! A disk without space: writes wait, nothing is torn, and everything goes on once there is space.
//!
//! The disk is a small tmpfs in a mount namespace of its own; its files are reached through the namespace's holder.

use bytes::Bytes;
use crash_tests::check::Ledger;
use crash_tests::load::{self, Ask, Client, End, Load, Record, Request};
use crash_tests::server::{Server, Start};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A mount namespace with a small file system, held by a process that reads from us; it ends when we do.
struct Small {
    holder: Child,
    mount: tempfile::TempDir,
}

impl Small {
    /// `None` where namespaces may not be made.
    fn new(size: &str) -> Option<Self> {
        let mount = tempfile::tempdir().expect("a temporary folder");
        let script = format!("mount -t tmpfs -o size={size} none {} && echo mounted && exec cat", mount.path().display());
        let mut holder = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let mut line = String::new();
        let _ = BufReader::new(holder.stdout.as_mut()?).read_line(&mut line);
        if line.trim() != "mounted" {
            let _ = holder.kill();
            let _ = holder.wait();
            return None;
        }
        Some(Self { holder, mount })
    }

    fn path(&self) -> &Path {
        self.mount.path()
    }

    /// The same place as seen from outside.
    fn outside(&self, name: &str) -> PathBuf {
        let inside = self.path().strip_prefix("/").expect("an absolute path").join(name);
        Path::new("/proc").join(self.holder.id().to_string()).join("root").join(inside)
    }

    fn start(&self) -> Start {
        let target = self.holder.id().to_string();
        let wrapper = ["nsenter", "--target", &target, "--mount", "--"].map(str::to_owned).to_vec();
        Start { wrapper, ..Start::at(&self.path().join("data")).small() }
    }

    /// Takes all space that is left.
    fn fill(&self) {
        let mut filler = std::fs::File::create(self.outside("filler")).expect("a file");
        let block = vec![1; 64 << 10];
        while filler.write_all(&block).is_ok() {}
        // The last page as well.
        while filler.write_all(&block[..512]).is_ok() {}
    }

    fn free(&self) {
        std::fs::remove_file(self.outside("filler")).expect("the filler is there");
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        if let Some(mut out) = self.holder.stdout.take() {
            let _ = out.read_to_end(&mut Vec::new());
        }
    }
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Asks until it is answered, and adds every try to the record.
async fn insist(server: &Server, client: &mut Client, record: &mut Record, tick: &mut u64, ask: Ask) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let end = client.ask(&ask).await;
        let answered = matches!(end, End::Answered(_));
        record.requests.push(Request { client: 99, sent: *tick, done: *tick + 1, ask: ask.clone(), end });
        *tick += 2;
        if answered {
            return;
        }
        assert!(Instant::now() < deadline, "no answer to {ask:?}: {:?}; the log:\n{}", record.requests.last(), server.log());
    }
}

#[test]
fn a_full_disk() {
    let Some(small) = Small::new("24m") else {
        println!("no mount namespace may be made here; nothing was tested");
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut ledger = Ledger::default();
    let load = Load { clients: 4, requests: 60, keys: 30, value: 1500, life: 1, compact_to: 0 };
    let mut server = Server::start(&small.start());
    let record = runtime.block_on(load::run(&server.endpoint, load, 1));
    runtime.block_on(ledger.check(&server.endpoint, &record)).expect("life with space");

    // Writes wait, reads do not, and the log says why.
    small.fill();
    let mut record = runtime.block_on(load::run(&server.endpoint, Load { life: 2, requests: 500, ..load }, 1));
    assert!(
        record.requests.iter().any(|r| matches!(r.end, End::Unanswered(_))),
        "the disk never was full: {} answers",
        record.answered()
    );
    wait_for("a word on the full disk", || server.log().contains("the disk is full"));
    assert!(server.ended().is_none(), "a full disk ended the server; its log:\n{}", server.log());
    runtime.block_on(async {
        let mut client = Client::connect(&server.endpoint).await.expect("it serves");
        let end = client.ask(&Ask::Read { key: Bytes::from_static(b"key-001") }).await;
        assert!(matches!(end, End::Answered(_)), "a read on a full disk: {end:?}");
    });

    // With space again, what waited goes on; deletions and compactions too. When a flush had failed, the rows must be opened anew: the
    // member then ends itself with a word on it, and whoever watches over it (this test) starts it again.
    small.free();
    let patience = Instant::now() + Duration::from_secs(5);
    while server.ended().is_none() && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(20));
    }
    if server.ended().is_some() {
        assert!(server.log().contains("there is space again"), "it ended without a word; its log:\n{}", server.log());
        server = Server::start(&small.start());
    }
    let mut tick = 1 << 40;
    runtime.block_on(async {
        let mut client = Client::connect(&server.endpoint).await.expect("it serves");
        insist(
            &server,
            &mut client,
            &mut record,
            &mut tick,
            Ask::Put { key: "key-001".into(), value: "there is space".into(), lease: 0 },
        )
        .await;
        for number in 2..10 {
            insist(&server, &mut client, &mut record, &mut tick, Ask::Delete { key: format!("key-{number:03}").into() }).await;
        }
        let revision = ledger.revision() - 1;
        insist(&server, &mut client, &mut record, &mut tick, Ask::Compact { revision }).await;
    });
    wait_for("the compaction", || server.log().contains("finished scheduled compaction"));
    server.kill();
    let mut server = Server::start(&small.start());
    runtime.block_on(ledger.check(&server.endpoint, &record)).expect("after the full disk");

    // Killed on a full disk, started on it: it serves or says why not; with space it serves.
    small.fill();
    let record = runtime.block_on(load::run(&server.endpoint, Load { life: 3, requests: 500, ..load }, 1));
    server.kill();
    let mut again = Server::spawn(&small.start());
    if let Err(status) = again.wait_ready() {
        let log = again.log();
        assert_eq!(status.code(), Some(5), "the log:\n{log}");
        assert!(log.contains("o space left"), "the log does not say that the disk is full:\n{log}");
        println!("on a full disk: {}", log.lines().last().unwrap_or_default());
    }
    again.kill();
    small.free();
    let server = Server::start(&small.start());
    runtime.block_on(ledger.check(&server.endpoint, &record)).expect("after a death on a full disk");
}

/// A member that is asked to stop while its disk is full stops, whether one delta waits for its checkpoint or so many that apply stands
/// still, and whether its log has space or not. Started with space again it has everything that was acknowledged.
#[test]
fn stopping_on_a_full_disk() {
    // With the log elsewhere, so many writes of each of four clients: one delta is frozen, or apply waits for room for the third.
    for (log_apart, requests) in [(true, 11), (true, 100), (false, 200)] {
        let Some(small) = Small::new("24m") else {
            println!("no mount namespace may be made here; nothing was tested");
            return;
        };
        let apart = tempfile::tempdir().expect("a temporary folder");
        let start = match log_apart {
            true => small.start().with(&["--wal-dir", apart.path().to_str().expect("a readable path")]),
            false => small.start(),
        };
        let case = format!("log apart: {log_apart}, requests: {requests}");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let mut ledger = Ledger::default();
        let load = Load { clients: 4, requests: 5, keys: 30, value: 1500, life: 1, compact_to: 0 };
        let mut server = Server::start(&start);
        let record = runtime.block_on(load::run(&server.endpoint, load, 1));
        runtime.block_on(ledger.check(&server.endpoint, &record)).expect("life with space");
        small.fill();
        let record = runtime.block_on(load::run(&server.endpoint, Load { life: 2, requests, ..load }, 1));
        wait_for("a word on the full disk", || server.log().contains("the disk is full"));
        let status = server.stop();
        assert!(status.success(), "{case}: it ended with {status}; its log:\n{}", server.log());
        drop(server);
        small.free();
        let server = Server::start(&start);
        runtime.block_on(ledger.check(&server.endpoint, &record)).unwrap_or_else(|e| panic!("{case}: {e}"));
    }
}
