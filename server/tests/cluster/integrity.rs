//! Members whose data differ: rows are changed through the database itself, so that every checksum is right and the content is not.

use crate::harness::{Cluster, Tuning, eventually, must, put, value};
use bytes::Bytes;
use prost::Message;
use quorate::base::{Base, Batch, Family, RocksBase};
use quorate::env::files::RealFiles;
use quorate::node::{Checks, Opened};
use quorate::peer::{Dial, PlainDial};
use quorate::serve::compare::compare;
use quorate::state::ApplyError;
use quorate_proto::entry::{self, AlarmAction, AlarmKind, Command, command::Op};
use quorate_proto::mvccpb::KeyValue;
use std::sync::Arc;
use std::time::Duration;

/// Histories are compared often.
fn watchful() -> Tuning {
    let checks = Checks { history: Some(Duration::from_millis(300)), compactions: Some(Duration::from_millis(300)) };
    Tuning { checks, ..Default::default() }
}

/// Damages a key's row on a follower, which is down meanwhile; the follower.
fn damage_a_follower(cluster: &mut Cluster, key: &str) -> usize {
    let at = cluster.follower();
    cluster.stop(at);
    damage(cluster, at, key);
    cluster.run(at);
    at
}

/// Changes the value of a key's newest version in the rows of a member that is down.
fn damage(cluster: &Cluster, at: usize, key: &str) {
    let member = cluster.slots[at].dir.path().join("member");
    let name = std::fs::read_to_string(member.join("CURRENT")).map_or("db".into(), |name| name.trim_end().to_string());
    let base = RocksBase::open(&member.join(name), cluster.settings(at).rocks).expect("the rows open");
    let mut newest = None;
    let mut cursor = base.cursor(Family::Log, &[], None).expect("a cursor");
    while let Some((row, bytes)) = cursor.row() {
        let pair = KeyValue::decode(bytes).expect("a pair");
        if pair.key == key {
            newest = Some((Bytes::copy_from_slice(row), pair));
        }
        cursor.advance().expect("the next row");
    }
    drop(cursor);
    let (row, mut pair) = newest.expect("the key has a durable version");
    let mut changed = pair.value.to_vec();
    changed[0] ^= 1;
    pair.value = changed.into();
    let mut batch = Batch::default();
    batch.put(Family::Log, row, pair.encode_to_vec());
    base.write(batch).expect("a write");
    base.flush().expect("a flush");
}

fn fenced(cluster: &Cluster, at: usize) -> bool {
    let id = cluster.slots[at].id;
    cluster.up().iter().any(|m| cluster.handle(*m).shared().fenced_at(id).is_some())
}

fn was_fenced(cluster: &Cluster, at: usize) -> bool {
    let id = cluster.slots[at].id;
    cluster.up().iter().any(|m| cluster.handle(*m).shared().fences().contains_key(&id))
}

/// A row that differs at one member is found by its history's hash: the member is set aside under its CORRUPT alarm, refuses to be
/// read, gets other rows and is taken back, while the others take writes. What it had is right again, after a restart too.
#[tokio::test]
async fn a_damaged_member_is_found_and_rebuilt() {
    let mut cluster = Cluster::start(3, watchful());
    for n in 0..30 {
        must(cluster.handle(0), put(&format!("key-{n}"), b"value")).await;
    }
    cluster.agree();
    let at = damage_a_follower(&mut cluster, "key-7");
    let other = cluster.leader();
    let id = cluster.slots[at].id;
    let mut refused = cluster.handle(at).fenced();
    let writes = async {
        let mut writes = 0;
        while !was_fenced(&cluster, at) || fenced(&cluster, at) {
            must(cluster.handle(other), put("meanwhile", b"x")).await;
            writes += 1;
            assert!(writes < 100_000, "never found and taken back");
        }
        writes
    };
    let seen = async {
        refused.wait_for(|fenced| *fenced).await.expect("it runs");
        let alarms = cluster.handle(other).shared().alarms();
        assert!(alarms.iter().all(|a| a.member == id && a.kind == AlarmKind::Corrupt), "{alarms:?}");
        assert!(!cluster.handle(other).shared().has_alarm(AlarmKind::Corrupt), "it concerns one member");
    };
    let (writes, ()) = tokio::join!(writes, seen);
    assert!(writes > 0);
    eventually("it hears of it", || !cluster.handle(at).is_fenced());
    assert_eq!(value(cluster.handle(at), "key-7").as_deref(), Some(&b"value"[..]));
    assert!(!cluster.running(at).told.lock().unwrap().resets.is_empty(), "its rows were replaced");
    assert!(cluster.handle(other).shared().alarms().is_empty());
    cluster.agree();
    cluster.stop(at);
    cluster.run(at);
    must(cluster.handle(at), put("after", b"1")).await;
    assert_eq!(value(cluster.handle(at), "key-7").as_deref(), Some(&b"value"[..]));
    cluster.agree();
}

/// A leader whose data differ is found by what it compares itself, hands leadership over and is rebuilt by the next one.
#[tokio::test]
async fn a_damaged_leader_steps_down() {
    let mut cluster = Cluster::start(3, watchful());
    must(cluster.handle(0), put("key", b"value")).await;
    cluster.agree();
    let at = damage_a_follower(&mut cluster, "key");
    let leader = cluster.leader();
    // It may be found before it leads; either way it does not stay leader.
    let _ = cluster.handle(leader).transfer_leader(cluster.slots[at].id).await;
    eventually("it is found", || was_fenced(&cluster, at));
    eventually("it is taken back", || !fenced(&cluster, at));
    assert!(!cluster.running(at).told.lock().unwrap().resets.is_empty());
    assert_eq!(value(cluster.handle(at), "key").as_deref(), Some(&b"value"[..]));
    must(cluster.handle(at), put("after", b"1")).await;
    cluster.agree();
}

/// Of two members that differ nobody can tell who is wrong: the alarm names none, and nothing may change until it is disarmed.
#[tokio::test]
async fn two_that_differ_stop() {
    let mut cluster = Cluster::start(2, watchful());
    must(cluster.handle(0), put("key", b"value")).await;
    cluster.agree();
    damage_a_follower(&mut cluster, "key");
    let leader = cluster.leader();
    eventually("the alarm", || cluster.handle(leader).shared().has_alarm(AlarmKind::Corrupt));
    let alarms = cluster.handle(leader).shared().alarms();
    assert_eq!(alarms.iter().map(|a| a.member).collect::<Vec<_>>(), [0]);
    let answer = cluster.handle(leader).propose(put("key", b"other")).await.expect("an answer");
    assert_eq!(answer.result, Err(ApplyError::Corrupt));
}

/// A CORRUPT alarm that somebody raises by hand stops the whole cluster until it is disarmed, as in etcd, whoever it names.
#[tokio::test]
async fn an_alarm_raised_by_hand_stops_all() {
    let cluster = Cluster::start(3, Tuning::default());
    let handle = cluster.handle(cluster.leader());
    let alarm = |action: AlarmAction| {
        let alarm = entry::Alarm { action: action.into(), member: cluster.slots[1].id, kind: AlarmKind::Corrupt.into() };
        Command { op: Some(Op::Alarm(alarm)) }
    };
    must(handle, alarm(AlarmAction::Raise)).await;
    let answer = handle.propose(put("key", b"value")).await.expect("an answer");
    assert_eq!(answer.result, Err(ApplyError::Corrupt));
    assert!(!fenced(&cluster, 1), "nobody is rebuilt for it");
    must(handle, alarm(AlarmAction::Clear)).await;
    must(handle, put("key", b"value")).await;
    cluster.agree();
}

/// The comparison before a member serves: it passes when the data are alike or nobody answers, and refuses, naming the damage as
/// such and changing nothing, when they differ.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_compares_itself_before_it_serves() {
    let mut cluster = Cluster::start(3, Tuning::default());
    for n in 0..10 {
        must(cluster.handle(0), put(&format!("key-{n}"), b"value")).await;
    }
    cluster.agree();
    let at = cluster.follower();
    cluster.stop(at);
    let dial: Arc<dyn Dial> = Arc::new(PlainDial);
    let open = |cluster: &Cluster| Opened::open(cluster.settings(at), None, RealFiles::shared()).expect("the member opens");
    let opened = open(&cluster);
    let sound = compare(&opened, &dial, Duration::from_secs(10)).await;
    assert!(sound.is_ok(), "{sound:?}");
    drop(opened);

    damage(&cluster, at, "key-3");
    let opened = open(&cluster);
    let failure = compare(&opened, &dial, Duration::from_secs(10)).await.expect_err("its data differ");
    assert_eq!(failure.code, 4);
    assert_eq!(failure.text, format!("{:x} found data inconsistency with peers", cluster.slots[at].id));
    let revision = opened.store().revision();
    drop(opened);
    let opened = open(&cluster);
    assert_eq!(opened.store().revision(), revision);
    for other in cluster.up() {
        cluster.stop(other);
    }
    let alone = compare(&opened, &dial, Duration::from_millis(300)).await;
    assert!(alone.is_ok(), "nobody answers: {alone:?}");
}
