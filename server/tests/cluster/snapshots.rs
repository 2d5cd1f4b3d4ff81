//! A follower that is too far behind gets a snapshot while the cluster serves.

use crate::harness::{Cluster, Tuning, eventually, must, put, value};
use quorate::node::NodeHandle;
use quorate_proto::entry::{self, Command, command::Op};

/// The log keeps next to nothing, and every few writes are checkpointed.
fn forgetful() -> Tuning {
    Tuning { catch_up_entries: 5, freeze_bytes: 64 << 10, ..Default::default() }
}

async fn write_many(handle: &NodeHandle, from: usize, to: usize) {
    for n in from..to {
        must(handle, put(&format!("key-{:04}", n % 500), &[n as u8; 4000])).await;
    }
}

fn snapshots_sent(cluster: &Cluster) -> u64 {
    cluster.up().iter().flat_map(|at| cluster.running(*at).peers.counts()).map(|(_, c)| c.snapshots().0).sum()
}

/// A follower that was down while the log was cut gets a snapshot: it has the same history, leases and compaction mark, its watchers
/// are told, and it goes on with the log and survives a restart.
#[tokio::test]
async fn a_follower_far_behind_gets_a_snapshot() {
    let mut cluster = Cluster::start(3, forgetful());
    let down = cluster.follower();
    write_many(cluster.handle(down), 0, 20).await;
    cluster.agree();
    let behind = cluster.handle(down).store().revision();
    cluster.stop(down);
    let writer = cluster.leader();
    write_many(cluster.handle(writer), 20, 900).await;
    let grant = entry::LeaseGrant { id: 77, ttl: 3600 };
    must(cluster.handle(writer), Command { op: Some(Op::LeaseGrant(grant)) }).await;
    must(cluster.handle(writer), Command { op: Some(Op::Compact(entry::Compact { revision: behind + 100 })) }).await;
    write_many(cluster.handle(writer), 900, 950).await;
    assert_eq!(snapshots_sent(&cluster), 0);

    cluster.run(down);
    cluster.agree();
    assert!(snapshots_sent(&cluster) >= 1, "the log was too short to catch up from");
    {
        let told = cluster.running(down).told.lock().unwrap();
        assert!(told.resets.first().is_some_and(|r| *r > behind), "{:?}", told.resets);
    }
    let handle = cluster.handle(down);
    assert_eq!(handle.store().compact_revision(), behind + 100);
    assert!(handle.shared().lease(77).is_some());
    assert_eq!(handle.shared().members().len(), 3);

    // It writes, reads and restarts like any other.
    must(handle, put("after", b"1")).await;
    handle.read_barrier().await.expect("a read round");
    assert_eq!(value(handle, "after").as_deref(), Some(&b"1"[..]));
    cluster.agree();
    cluster.stop(down);
    cluster.run(down);
    must(cluster.handle(down), put("again", b"2")).await;
    cluster.agree();
    let rows = std::fs::read_dir(cluster.slots[down].dir.path().join("member")).expect("the folder");
    let rows = rows.filter(|e| e.as_ref().is_ok_and(|e| e.file_name().to_string_lossy().starts_with("db"))).count();
    assert_eq!(rows, 1, "superseded rows are removed");
}

/// A receiver that goes down in the middle of a snapshot gets it when it is back.
#[tokio::test]
async fn a_snapshot_that_breaks_off_is_sent_again() {
    let mut cluster = Cluster::start(3, forgetful());
    let down = cluster.follower();
    write_many(cluster.handle(down), 0, 5).await;
    cluster.agree();
    cluster.stop(down);
    let writer = cluster.leader();
    write_many(cluster.handle(writer), 5, 1500).await;
    for _ in 0..3 {
        cluster.run(down);
        let dir = cluster.slots[down].dir.path().join("member");
        // As soon as rows arrive, or the whole snapshot has.
        eventually("a snapshot arrives", || {
            let begun = std::fs::read_dir(&dir)
                .expect("the folder")
                .any(|e| e.is_ok_and(|e| e.file_name().to_string_lossy().starts_with("db.")));
            begun || !cluster.running(down).told.lock().unwrap().resets.is_empty()
        });
        cluster.stop(down);
    }
    cluster.run(down);
    cluster.agree();
}

/// The cluster takes writes while a follower gets its snapshot.
#[tokio::test]
async fn writes_go_on_during_a_snapshot() {
    let mut cluster = Cluster::start(3, forgetful());
    let down = cluster.follower();
    write_many(cluster.handle(down), 0, 5).await;
    cluster.agree();
    cluster.stop(down);
    let writer = cluster.leader();
    write_many(cluster.handle(writer), 5, 600).await;
    cluster.run(down);
    write_many(cluster.handle(writer), 600, 1200).await;
    cluster.agree();
    assert!(snapshots_sent(&cluster) >= 1);
}
