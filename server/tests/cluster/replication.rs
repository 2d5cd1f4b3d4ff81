//! Three members over loopback: what one acknowledges all have.

use crate::harness::{Cluster, Tuning, eventually, must, put, value};
use bytes::Bytes;
use quorate_proto::entry::{self, Command, command::Op};
use std::time::Duration;

/// A write taken by any member is readable, by a linearizable read, on every other.
#[tokio::test]
async fn writes_and_reads_on_every_member() {
    let cluster = Cluster::start(3, Tuning::default());
    cluster.leader();
    for writer in 0..3 {
        let key = format!("from-{writer}");
        must(cluster.handle(writer), put(&key, b"value")).await;
        for reader in 0..3 {
            let handle = cluster.handle(reader);
            handle.read_barrier().await.expect("a read round");
            assert_eq!(value(handle, &key).as_deref(), Some(&b"value"[..]), "written by {writer}, read by {reader}");
        }
    }
    cluster.agree();
    let leader = &cluster.running(cluster.leader()).peers;
    assert_eq!(leader.connected().len(), 2);
    let counts = leader.counts();
    assert!(counts.iter().all(|(_, c)| c.sent_bytes() > 0 && c.received_bytes() > 0 && c.round_trips().count() > 0), "{counts:?}");
}

/// Leadership moves to the member it is handed to, and writes go on.
#[tokio::test]
async fn leadership_moves() {
    let cluster = Cluster::start(3, Tuning::default());
    let (from, to) = (cluster.leader(), cluster.follower());
    must(cluster.handle(from), put("before", b"1")).await;
    cluster.handle(from).transfer_leader(cluster.slots[to].id).await.expect("the transfer");
    assert_eq!(cluster.leader(), to);
    must(cluster.handle(from), put("after", b"2")).await;
    cluster.agree();
}

/// An order to lead that could not be delivered is forgotten: the member that it was for does not lead when it comes back.
#[tokio::test]
async fn an_old_order_to_lead_is_forgotten() {
    let mut cluster = Cluster::start(3, Tuning::default());
    let (leader, away) = (cluster.leader(), cluster.follower());
    let id = cluster.slots[away].id;
    cluster.stop(away);
    let is_connected = |cluster: &Cluster| cluster.running(leader).peers.connected().contains(&id);
    eventually("the leader knows that it is away", || !is_connected(&cluster));
    cluster.handle(leader).transfer_leader(id).await.expect_err("nobody takes it");
    cluster.run(away);
    eventually("it is back", || is_connected(&cluster));
    must(cluster.handle(away), put("after", b"1")).await;
    cluster.agree();
    assert_ne!(cluster.leader(), away);
}

/// Proposals that ran out of time are counted, reads that did are not: they propose nothing.
#[tokio::test]
async fn only_proposals_are_failed_proposals() {
    let mut cluster = Cluster::start(3, Tuning::default());
    let (leader, next) = (cluster.leader(), cluster.follower());
    let last = (0..3).find(|at| ![leader, next].contains(at)).expect("a third");
    cluster.stop(next);
    cluster.stop(last);
    let handle = cluster.handle(leader);
    let before = handle.proposals().1;
    let (read, written) = tokio::join!(handle.read_barrier(), handle.propose(put("lost", b"1")));
    assert!(read.is_err() && written.is_err());
    assert_eq!(handle.proposals().1, before + 1);
}

/// What a follower's client was told of a lease, its leader knows when it is asked: a follower may apply before its leader does.
#[tokio::test]
async fn a_leader_knows_of_a_lease_what_a_follower_told() {
    let cluster = Cluster::start(3, Tuning::default());
    let follower = cluster.follower();
    let handle = cluster.handle(follower);
    let leases = cluster.running(follower).peers.leases(Duration::from_secs(5));
    for id in 1..200 {
        let grant = entry::LeaseGrant { id, ttl: 60 };
        must(handle, Command { op: Some(Op::LeaseGrant(grant)) }).await;
        let key = Bytes::from(format!("of-{id}"));
        let attach = entry::Put { key: key.clone(), lease: id, ..Default::default() };
        must(handle, Command { op: Some(Op::Put(attach)) }).await;
        let (_, keys) = leases.time_to_live(id, true).await.expect("an answer").expect("the lease");
        assert_eq!(keys, [key]);
        assert_eq!(leases.renew(id).await.expect("an answer"), Some(60));
    }
}

/// A member that was down catches up from the log; the others went on without it.
#[tokio::test]
async fn a_stopped_follower_catches_up_from_the_log() {
    let mut cluster = Cluster::start(3, Tuning::default());
    let down = cluster.follower();
    must(cluster.handle(down), put("early", b"1")).await;
    cluster.stop(down);
    let writer = cluster.leader();
    for n in 0..200 {
        must(cluster.handle(writer), put(&format!("key-{n}"), &[7; 1000])).await;
    }
    cluster.run(down);
    cluster.agree();
    assert!(value(cluster.handle(down), "key-199").is_some());
}

/// When the leader stops, the others elect one of them and writes go on; it comes back as a follower.
#[tokio::test]
async fn a_leader_that_stops_is_replaced() {
    let mut cluster = Cluster::start(3, Tuning::default());
    let first = cluster.leader();
    must(cluster.handle(first), put("a", b"1")).await;
    cluster.stop(first);
    let second = cluster.leader();
    assert_ne!(first, second);
    must(cluster.handle(second), put("b", b"2")).await;
    cluster.run(first);
    must(cluster.handle(first), put("c", b"3")).await;
    cluster.agree();
}
