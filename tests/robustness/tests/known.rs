//! The bugs that etcd's own robustness tests know of, each asked of one real member: the ones that one member can show.
//!
//! In: `QUORATE_BIN`, the server program (default: `quorate` in the folder that cargo built the tests in). The numbers are etcd's
//! issues; docs/failure-matrix.md lists all, with the tests of those that need three members.

use ports::Port;
use quorate_client::{Client, Config, Error, FROM_KEY_END, WatchStream};
use quorate_proto::etcdserverpb as pb;
use quorate_proto::mvccpb::event::EventType;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::timeout;

fn program() -> PathBuf {
    let beside = || Some(std::env::current_exe().ok()?.parent()?.parent()?.join("quorate"));
    let path = std::env::var_os("QUORATE_BIN").map(PathBuf::from).or_else(beside).expect("a test program has a place");
    assert!(path.is_file(), "{} is not there: build the server, or name it in QUORATE_BIN", path.display());
    path
}

/// One member, killed when it is dropped.
struct Server {
    child: Child,
    data: TempDir,
    ports: [Port; 2],
    client: Client,
}

fn spawn(data: &TempDir, ports: &[Port; 2]) -> Child {
    let [client, peer] = ports.each_ref().map(Port::url);
    Command::new(program())
        .args(["--data-dir", &data.path().join("data").display().to_string()])
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}"), "--watch-progress-notify-interval", "100ms"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the server starts")
}

impl Server {
    /// A fresh member that answers.
    async fn start() -> Self {
        let ports = [Port::free(), Port::free()];
        let data = tempfile::tempdir().expect("a folder");
        let mut config = Config::new([ports[0].url()]);
        config.timeout = Some(Duration::from_secs(60));
        let client = Client::new(config).expect("the settings are right");
        let server = Self { child: spawn(&data, &ports), data, ports, client };
        server.revision().await;
        server
    }

    /// kill -9, and up again.
    async fn crash(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
        self.child = spawn(&self.data, &self.ports);
        self.revision().await;
    }

    /// The newest revision; asked again while the connection to an earlier life breaks.
    async fn revision(&self) -> i64 {
        let mut tries = 0;
        loop {
            match self.range("\0", 0).await {
                Ok(answer) => return answer.header.expect("a header").revision,
                Err(e) if tries == 20 => panic!("it does not answer: {e}"),
                Err(_) => tries += 1,
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn range(&self, key: &str, revision: i64) -> Result<pb::RangeResponse, Error> {
        self.client.range(pb::RangeRequest { key: key.to_string().into(), revision, ..Default::default() }).await
    }

    async fn put(&self, key: &str, value: &str) -> i64 {
        let request = pb::PutRequest { key: key.to_string().into(), value: value.to_string().into(), ..Default::default() };
        self.client.put(request).await.expect("a put").header.expect("a header").revision
    }

    async fn delete(&self, key: &str) -> i64 {
        let request = pb::DeleteRangeRequest { key: key.to_string().into(), ..Default::default() };
        self.client.delete_range(request).await.expect("a deletion").header.expect("a header").revision
    }

    /// Compacts, and waits until the rows are gone.
    async fn compact(&self, revision: i64) {
        self.client.compact(pb::CompactionRequest { revision, physical: true }).await.expect("a compaction");
    }

    /// A watch of everything; its first message is taken.
    async fn watch(&self, start_revision: i64) -> WatchStream {
        let all = bytes::Bytes::from_static(FROM_KEY_END);
        let request = pb::WatchCreateRequest {
            key: all.clone(),
            range_end: all,
            start_revision,
            progress_notify: true,
            ..Default::default()
        };
        let mut stream = self.client.watch(request).await.expect("a stream");
        assert!(stream.next().await.expect("a message").created);
        stream
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a message tells: `put KEY REVISION` and `delete KEY REVISION`.
fn lines(message: &pb::WatchResponse) -> Vec<String> {
    let line = |e: &quorate_proto::mvccpb::Event| {
        let pair = e.kv.as_ref().expect("a pair").decode().expect("a pair");
        let verb = if e.r#type() == EventType::Delete { "delete" } else { "put" };
        format!("{verb} {} {}", String::from_utf8_lossy(&pair.key), pair.mod_revision)
    };
    message.events.iter().map(line).collect()
}

async fn next(stream: &mut WatchStream) -> pb::WatchResponse {
    timeout(Duration::from_secs(60), stream.next()).await.expect("a message in time").expect("a message")
}

/// The next so many events.
async fn events(stream: &mut WatchStream, count: usize) -> Vec<String> {
    let mut told = Vec::new();
    while told.len() < count {
        told.extend(lines(&next(stream).await));
    }
    told
}

/// 14370: what was acknowledged is there after a crash at once, in a cluster of one.
#[tokio::test]
async fn an_acknowledged_write_of_a_lone_member_survives_a_crash() {
    let mut server = Server::start().await;
    for n in 0..6 {
        let revision = server.put("a", &n.to_string()).await;
        server.crash().await;
        let pair = server.range("a", 0).await.expect("a read").kvs[0].decode().expect("a pair");
        assert_eq!((pair.mod_revision, &pair.value[..]), (revision, n.to_string().as_bytes()));
    }
}

/// 14685: a crash at a defragmentation leaves revision and pairs as they were.
#[tokio::test]
async fn a_crash_at_a_defragmentation_changes_nothing() {
    let mut server = Server::start().await;
    for n in 0..50 {
        server.put(&format!("k{}", n % 7), &n.to_string()).await;
    }
    let before = (server.revision().await, server.client.hash_kv(pb::HashKvRequest { revision: 0 }).await.expect("a hash").hash);
    let client = server.client.clone();
    let asked = tokio::spawn(async move { client.defragment(pb::DefragmentRequest {}).await.map(|_| ()) });
    server.crash().await;
    asked.abort();
    let after = (server.revision().await, server.client.hash_kv(pb::HashKvRequest { revision: 0 }).await.expect("a hash").hash);
    assert_eq!(before, after);
}

/// 15220: once a progress notice has told a revision, no event at or below it comes.
#[tokio::test]
async fn progress_is_in_step_with_events() {
    let server = Server::start().await;
    let mut stream = server.watch(2).await;
    let sender = stream.sender();
    let client = server.client.clone();
    const WRITES: i64 = 600;
    let writer = tokio::spawn(async move {
        for n in 0..WRITES {
            let request = pb::PutRequest { key: format!("k{}", n % 5).into(), value: "v".into(), ..Default::default() };
            client.put(request).await.expect("a put");
            sender.progress().await.expect("an open stream");
        }
    });
    let (mut seen, mut notices) = (1, 0);
    while seen < WRITES + 1 {
        let message = next(&mut stream).await;
        let told = message.header.as_ref().expect("a header").revision;
        for event in &message.events {
            let revision = event.kv.as_ref().expect("a pair").decode().expect("a pair").mod_revision;
            assert_eq!(revision, seen + 1, "the next event is the next revision");
            seen = revision;
        }
        if message.events.is_empty() {
            assert_eq!(told, seen, "a notice tells what has come");
            notices += 1;
        }
    }
    writer.await.expect("the writer ends");
    assert!(notices > 0, "no notice came");
}

/// 17247: a transaction's events come once, whatever it read besides.
#[tokio::test]
async fn a_transactions_events_come_once() {
    let server = Server::start().await;
    let mut stream = server.watch(2).await;
    server.put("a", "0").await;
    let op = |request| pb::RequestOp { request: Some(request) };
    let put =
        |key: &str| op(pb::request_op::Request::RequestPut(pb::PutRequest { key: key.to_string().into(), ..Default::default() }));
    let read = op(pb::request_op::Request::RequestRange(pb::RangeRequest { key: "a".into(), ..Default::default() }));
    for _ in 0..3 {
        let txn = pb::TxnRequest { success: vec![read.clone(), put("a"), put("b"), read.clone()], ..Default::default() };
        assert!(server.client.txn(txn).await.expect("a transaction").succeeded);
    }
    server.put("end", "").await;
    let want = ["put a 2", "put a 3", "put b 3", "put a 4", "put b 4", "put a 5", "put b 5", "put end 6"];
    assert_eq!(events(&mut stream, want.len()).await, want);
}

/// 17529: watches of one stream whose client does not read for long get everything in the end.
#[tokio::test]
async fn a_starved_stream_loses_nothing() {
    const WATCHES: usize = 8;
    const WRITES: usize = 250;
    let server = Server::start().await;
    let mut stream = server.watch(0).await;
    let all = bytes::Bytes::from_static(FROM_KEY_END);
    for _ in 1..WATCHES {
        let request = pb::WatchCreateRequest { key: all.clone(), range_end: all.clone(), ..Default::default() };
        stream.sender().create(request).await.expect("an open stream");
        assert!(next(&mut stream).await.created);
    }
    let value = "x".repeat(10_000);
    for n in 0..WRITES {
        server.put(&format!("k{}", n % 3), &value).await;
    }
    let mut seen = [1; WATCHES];
    while seen.iter().any(|last| *last < WRITES as i64 + 1) {
        let message = next(&mut stream).await;
        assert!(!message.canceled, "{message:?}");
        for event in &message.events {
            let revision = event.kv.as_ref().expect("a pair").decode().expect("a pair").mod_revision;
            let last = &mut seen[usize::try_from(message.watch_id).expect("an id of this stream")];
            assert_eq!(revision, *last + 1, "watch {} goes on without a gap", message.watch_id);
            *last = revision;
        }
    }
}

/// 17780: a crash after a compaction at the newest revision, which deleted the last key, does not take the revision back.
#[tokio::test]
async fn the_revision_never_goes_back() {
    let mut server = Server::start().await;
    for _ in 0..3 {
        for key in ["a", "b", "c"] {
            server.put(key, "").await;
        }
        for key in ["a", "b", "c"] {
            server.delete(key).await;
        }
        let revision = server.revision().await;
        server.compact(revision).await;
        server.crash().await;
        assert_eq!(server.revision().await, revision);
        assert_eq!(server.put("d", "").await, revision + 1);
    }
}

/// 18089 and 19179: a deletion at the compacted revision is told to a watch that begins there, after a crash too.
#[tokio::test]
async fn a_deletion_at_the_compacted_revision_is_told() {
    let mut server = Server::start().await;
    server.put("a", "").await;
    let deleted = server.delete("a").await;
    server.put("b", "").await;
    server.compact(deleted).await;
    for _ in 0..2 {
        let mut stream = server.watch(deleted).await;
        assert_eq!(events(&mut stream, 2).await, ["delete a 3", "put b 4"]);
        server.crash().await;
    }
}

/// 18667: a transaction that reads a compacted revision is refused as a whole, and writes nothing.
#[tokio::test]
async fn a_compacted_read_in_a_transaction_changes_nothing() {
    let mut server = Server::start().await;
    for n in 0..5 {
        server.put("a", &n.to_string()).await;
    }
    server.compact(5).await;
    let op = |request| pb::RequestOp { request: Some(request) };
    let put =
        op(pb::request_op::Request::RequestPut(pb::PutRequest { key: "a".into(), value: "txn".into(), ..Default::default() }));
    let old = pb::RangeRequest { key: "a".into(), revision: 3, ..Default::default() };
    let read = op(pb::request_op::Request::RequestRange(old));
    for success in [vec![put.clone(), read.clone()], vec![read.clone(), put.clone()]] {
        let error = server.client.txn(pb::TxnRequest { success, ..Default::default() }).await.expect_err("it is refused");
        assert!(error.is_etcd("mvcc: required revision has been compacted"), "{error}");
        assert_eq!(server.revision().await, 6);
        server.crash().await;
        let pair = server.range("a", 0).await.expect("a read").kvs[0].decode().expect("a pair");
        assert_eq!((server.revision().await, pair.mod_revision, &pair.value[..]), (6, 6, &b"4"[..]));
    }
}

/// 20221, both: a watch of a revision that is still to come gets neither notices nor events before it, and then all of them.
#[tokio::test]
async fn a_watch_of_the_future_is_silent() {
    let server = Server::start().await;
    server.put("a", "").await;
    let mut stream = server.watch(6).await;
    for _ in 0..3 {
        server.put("a", "").await;
        stream.sender().progress().await.expect("an open stream");
    }
    // Several notices would be due in this time; that none comes can only be waited for.
    let early = timeout(Duration::from_millis(500), stream.next()).await;
    assert!(early.is_err(), "{early:?}");
    server.put("b", "").await;
    assert_eq!(events(&mut stream, 1).await, ["put b 6"]);
}
