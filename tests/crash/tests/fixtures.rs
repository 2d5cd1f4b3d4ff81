//! Data of earlier builds, kept in `fixtures/`: each is opened by this build, for ever, and answers as the build that wrote it did.
//!
//! Proves: every format that was ever written can be read: the log's segments, the tables of rows, identities with and without a
//! stamp, the stream of a snapshot. A fixture is never changed; a new format adds one. See `fixtures/README.md`.

use crash_tests::describe::describe;
use crash_tests::group::{Group, offline, until};
use quorate_proto::etcdserverpb as pb;
use std::path::{Path, PathBuf};
use std::process::Command;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a readable path")
}

/// Archives are packed and unpacked by the system's tar, so that they stay readable without this project.
fn tar(arguments: &[&str]) {
    let done = Command::new("tar").args(arguments).output().expect("tar runs");
    assert!(done.status.success(), "tar {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

fn expected(name: &str) -> String {
    std::fs::read_to_string(fixtures().join(format!("{name}.txt"))).expect("the answers beside the fixture")
}

/// The addresses that fixtures were made with: a member keeps its peer URLs.
const PEER: &str = "http://127.0.0.1:42380";

fn opens(name: &str, flags: impl Fn(&Path) -> Vec<String>) {
    let mut group = Group::new(1);
    let archive = fixtures().join(format!("{name}.tar.gz"));
    std::fs::create_dir(group.dir(0)).expect("a folder");
    tar(&["-xzf", text(&archive), "-C", text(group.dir(0))]);
    group.places[0].peer_advertised = Some(PEER.into());
    let flags = flags(group.scratch.path());
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    for start in ["first", "second"] {
        group.spawn(0, &flags, None);
        group.ready(0);
        let found = runtime().block_on(describe(&group.places[0].client, true));
        assert_eq!(found, expected(name), "{name}, {start} start");
        assert!(group.stop(0).success(), "{}", group.log(0));
    }
}

/// A member that was killed: rows, a log with entries behind them, an identity without a stamp.
#[test]
fn a_killed_member_of_level_1() {
    opens("level-1-killed", |_| Vec::new());
}

/// A member made by a ticket, that was stopped: a stamped identity, rows with everything.
#[test]
fn a_stopped_member_of_level_1_with_a_stamp() {
    opens("level-1-stamped", |scratch| {
        let ticket = scratch.join("ticket.json");
        std::fs::write(&ticket, TICKET.replace("PEER", PEER)).expect("written");
        vec!["--boot-ticket".into(), text(&ticket).into()]
    });
}

/// A saved snapshot: its checksum is right, and what is restored from it has the saved data.
#[test]
fn a_snapshot_of_level_1() {
    let mut group = Group::new(1);
    let file = group.scratch.path().join("snapshot");
    let archive = fixtures().join("level-1-snapshot.tar.gz");
    tar(&["-xzf", text(&archive), "-C", text(group.scratch.path())]);
    let status = offline(&["snapshot", "status", text(&file)]);
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    let place = &group.places[0];
    let cluster = format!("m0={}", place.peer);
    let restored = offline(&[
        "snapshot",
        "restore",
        text(&file),
        "--data-dir",
        text(&place.dir),
        "--name",
        "m0",
        "--initial-cluster",
        &cluster,
        "--initial-advertise-peer-urls",
        &place.peer,
    ]);
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    group.spawn(0, &[], None);
    group.ready(0);
    assert_eq!(runtime().block_on(describe(&group.places[0].client, false)), expected("level-1-snapshot"));
}

const TICKET: &str = r#"{"cluster": "uid-1", "form": true, "members": {"m0": "PEER"}}"#;

/// Writes what fixtures hold: keys of several versions, deletions, transactions, leases, a compaction, and more after a checkpoint.
async fn fill(endpoint: &str) {
    let channel = tonic::transport::Endpoint::from_shared(endpoint.to_string()).expect("an address").connect_lazy();
    let mut kv = pb::kv_client::KvClient::new(channel.clone());
    let mut leases = pb::lease_client::LeaseClient::new(channel);
    for id in [7, 8] {
        leases.lease_grant(pb::LeaseGrantRequest { id, ttl: 100_000_000 * id }).await.expect("a lease");
    }
    for n in 0..160u32 {
        let key = format!("key-{:02}", n % 40).into_bytes();
        let value = format!("value {n} ").repeat(40 + n as usize % 7).into_bytes();
        let lease = if n % 10 == 0 { 7 } else { 0 };
        let put = pb::PutRequest { key: key.clone().into(), value: value.into(), lease, ..Default::default() };
        match n % 8 {
            5 => drop(kv.delete_range(pb::DeleteRangeRequest { key: key.into(), ..Default::default() }).await.expect("a deletion")),
            6 => {
                let ops = [put, pb::PutRequest { key: format!("other-{n}").into_bytes().into(), ..Default::default() }];
                let success = ops.map(|p| pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(p)) }).to_vec();
                drop(kv.txn(pb::TxnRequest { success, ..Default::default() }).await.expect("a transaction"));
            }
            _ => drop(kv.put(put).await.expect("a put")),
        }
        if n == 90 {
            kv.compact(pb::CompactionRequest { revision: 60, physical: true }).await.expect("a compaction");
        }
    }
}

/// Makes the fixtures anew with the program in `QUORATE_BIN`; run by hand, once for each format, never for one that is kept already.
#[test]
#[ignore = "writes the fixtures; see fixtures/README.md"]
fn make() {
    let level = std::env::var("FIXTURE_LEVEL").expect("FIXTURE_LEVEL names what is made, such as level-1");
    for kind in ["killed", "stamped"] {
        let name = format!("{level}-{kind}");
        let mut group = Group::new(1);
        group.places[0].peer_advertised = Some(PEER.into());
        let ticket = group.scratch.path().join("ticket.json");
        std::fs::write(&ticket, TICKET.replace("PEER", PEER)).expect("written");
        let by_flags = ["--initial-cluster".to_string(), format!("m0={PEER}")];
        let by_ticket = ["--boot-ticket".to_string(), text(&ticket).to_string()];
        let flags = if kind == "killed" { by_flags } else { by_ticket };
        group.spawn(0, &flags.iter().map(String::as_str).collect::<Vec<_>>(), None);
        group.ready(0);
        runtime().block_on(fill(&group.places[0].client));
        until("the cluster's version is agreed on", || group.log(0).contains("updated cluster version").then_some(()));
        let answers = runtime().block_on(describe(&group.places[0].client, true));
        if kind == "killed" {
            let file = group.scratch.path().join("snapshot");
            runtime().block_on(save(&group.places[0].client, &file));
            let archive = fixtures().join(format!("{level}-snapshot.tar.gz"));
            tar(&["-czf", text(&archive), "-C", text(group.scratch.path()), "snapshot"]);
            let plain = runtime().block_on(describe(&group.places[0].client, false));
            std::fs::write(fixtures().join(format!("{level}-snapshot.txt")), plain).expect("written");
            group.kill(0);
        } else {
            assert!(group.stop(0).success());
        }
        std::fs::write(fixtures().join(format!("{name}.txt")), answers).expect("written");
        let archive = fixtures().join(format!("{name}.tar.gz"));
        tar(&["-czf", text(&archive), "-C", text(group.dir(0)), "member"]);
    }
}

/// Saves a snapshot as clients do.
async fn save(endpoint: &str, file: &Path) {
    let channel = tonic::transport::Endpoint::from_shared(endpoint.to_string()).expect("an address").connect_lazy();
    let mut maintenance = pb::maintenance_client::MaintenanceClient::new(channel);
    let mut stream = maintenance.snapshot(pb::SnapshotRequest {}).await.expect("a snapshot").into_inner();
    let mut bytes = Vec::new();
    while let Some(part) = stream.message().await.expect("a part") {
        bytes.extend_from_slice(&part.blob);
    }
    std::fs::write(file, bytes).expect("written");
}
