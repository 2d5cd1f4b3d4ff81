//! Members come and go while a client writes: nothing acknowledged is lost.

use crate::harness::{Cluster, Tuning, eventually, must, put, value};
use quorate::api::{MemberError, Membership};
use quorate::env::files::RealFiles;
use quorate::node::{NodeHandle, stand_alone};
use quorate::state::ApplyError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A client that writes one key after the other through whichever member takes it, and remembers what was acknowledged.
struct Writer {
    doors: Arc<Mutex<Vec<NodeHandle>>>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<u64>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Writer {
    fn start(cluster: &Cluster) -> Self {
        let (doors, stop, acknowledged) = (Arc::<Mutex<Vec<NodeHandle>>>::default(), Arc::<AtomicBool>::default(), Arc::default());
        let mut writer = Self { doors, stop, acknowledged, thread: None };
        writer.look(cluster);
        let (doors, stop, acknowledged) = (writer.doors.clone(), writer.stop.clone(), writer.acknowledged.clone());
        writer.thread = Some(std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let (mut n, mut turn) = (0u64, 0);
                while !stop.load(Ordering::Acquire) {
                    let door = {
                        let doors = doors.lock().unwrap();
                        doors[turn % doors.len()].clone()
                    };
                    let write = door.propose(put(&format!("w-{n}"), n.to_string().as_bytes()));
                    match tokio::time::timeout(Duration::from_secs(2), write).await {
                        Ok(Ok(answer)) => {
                            answer.result.expect("the machine takes it");
                            n += 1;
                            *acknowledged.lock().unwrap() = n;
                        }
                        // It may have happened: the same again does no harm.
                        _ => turn += 1,
                    }
                }
            });
        }));
        writer
    }

    /// The client finds out who serves now.
    fn look(&self, cluster: &Cluster) {
        *self.doors.lock().unwrap() = cluster.up().iter().map(|at| cluster.handle(*at).clone()).collect();
    }

    /// Waits until it has written some more.
    fn goes_on(&self) {
        let before = *self.acknowledged.lock().unwrap();
        eventually("writes go on", || *self.acknowledged.lock().unwrap() > before + 20);
    }

    fn finish(mut self) -> u64 {
        self.stop.store(true, Ordering::Release);
        self.thread.take().expect("it runs").join().expect("the writer");
        *self.acknowledged.lock().unwrap()
    }
}

fn check(cluster: &Cluster, written: u64) {
    cluster.agree();
    for at in cluster.up() {
        for n in 0..written {
            let found = value(cluster.handle(at), &format!("w-{n}"));
            assert_eq!(found.as_deref(), Some(n.to_string().as_bytes()), "write {n} at member {at}");
        }
    }
}

/// One member grows to three by learners, loses its leader for good, and replaces a member whose disk is gone, under a writer.
#[tokio::test]
async fn members_come_and_go_under_a_writer() {
    let mut cluster = Cluster::start(1, Tuning::default());
    cluster.leader();
    let writer = Writer::start(&cluster);
    writer.goes_on();
    for _ in 0..2 {
        let at = cluster.add(0, true, None).await;
        // Any member can be asked; a learner knows the leader as well.
        eventually("the learner knows the leader", || cluster.handle(at).status().leader != 0);
        assert!(cluster.handle(at).status().is_learner);
        cluster.promote(at, at).await;
        writer.look(&cluster);
        writer.goes_on();
    }
    eventually("all vote", || cluster.up().iter().all(|at| !cluster.handle(*at).status().is_learner));
    assert_eq!(cluster.handle(2).shared().members().len(), 3);

    // The leader leaves: it hands over, learns that it is out, and its id is never a member's again.
    let leader = cluster.leader();
    let gone = cluster.slots[leader].id;
    let asked = (leader + 1) % 3;
    let left = cluster.running(asked).desk.remove(gone).await.expect("the leader is removed");
    assert_eq!(left.len(), 2);
    eventually("the removed member learns it", || {
        cluster.handle(leader).shared().is_removed(gone) || cluster.running(leader).peers.removed().is_cancelled()
    });
    cluster.stop(leader);
    writer.look(&cluster);
    writer.goes_on();
    let again = cluster.running(asked).desk.remove(gone).await;
    assert!(matches!(again, Err(MemberError::Refused(ApplyError::MemberNotFound))), "{again:?}");

    // Its machine comes back with a new disk, as another member.
    cluster.add(asked, true, Some(leader)).await;
    assert_ne!(cluster.slots[leader].id, gone);
    cluster.promote(asked, leader).await;
    writer.look(&cluster);
    writer.goes_on();

    // A member loses its disk: it is removed while it is down, and replaced.
    let lost = cluster.follower();
    let id = cluster.slots[lost].id;
    cluster.stop(lost);
    writer.look(&cluster);
    let asked = cluster.leader();
    cluster.running(asked).desk.remove(id).await.expect("a member that is down is removed");
    cluster.add(asked, false, Some(lost)).await;
    writer.look(&cluster);
    writer.goes_on();
    let written = writer.finish();
    check(&cluster, written);
}

/// A member that was down while another was added comes back under that one as its leader: it answers a leader that is not on its
/// list yet, and catches up.
#[tokio::test]
async fn a_member_follows_a_leader_that_it_does_not_know_yet() {
    let mut cluster = Cluster::start(3, Tuning::default());
    let down = cluster.follower();
    cluster.stop(down);
    let leader = cluster.leader();
    let added = cluster.add(leader, true, None).await;
    cluster.promote(leader, added).await;
    let id = cluster.slots[added].id;
    let reaches = |at: usize| at == added || cluster.running(at).peers.connected().contains(&id);
    eventually("all that are up reach it", || cluster.up().into_iter().all(reaches));
    eventually("it votes", || !cluster.handle(added).status().is_learner);
    let begun = std::time::Instant::now();
    while !cluster.handle(added).status().is_leader && begun.elapsed() < Duration::from_secs(20) {
        let leader = cluster.leader();
        let _ = cluster.handle(leader).transfer_leader(id).await;
    }
    must(cluster.handle(added), put("k", b"v")).await;
    cluster.run(down);
    eventually("it catches up", || value(cluster.handle(down), "k").as_deref() == Some(b"v"));
    assert_eq!(cluster.handle(down).status().leader, cluster.slots[added].id);
    // Rows that came by a snapshot are seen a moment before the list that came with them.
    eventually("it knows the new member", || cluster.handle(down).shared().members().len() == 4);
}

/// A removed member that was down when it was removed is told by the first member it reaches.
#[tokio::test]
async fn a_removed_member_is_told_when_it_comes_back() {
    let mut cluster = Cluster::start(3, Tuning::default());
    let down = cluster.follower();
    cluster.stop(down);
    let leader = cluster.leader();
    let id = cluster.slots[down].id;
    cluster.running(leader).desk.remove(id).await.expect("it is removed");
    cluster.run(down);
    eventually("it is told", || cluster.running(down).peers.removed().is_cancelled());
    assert_eq!(cluster.handle(leader).shared().members().len(), 2);
    cluster.stop(down);
}

/// What is refused: a second learner beyond the bound, an address twice, a learner that cannot be reached, the last voter, strangers.
/// Changes that come at once are made one after the other.
#[tokio::test]
async fn refusals_and_order_of_changes() {
    let cluster = Cluster::start(3, Tuning::default());
    cluster.leader();
    let follower = cluster.follower();
    let desk = &cluster.running(follower).desk;
    let url = |n: u32| vec![format!("http://127.0.0.1:{n}")];
    let (learner, _) = desk.add(url(1), true).await.expect("the first learner");
    let refused = |e: MemberError| match e {
        MemberError::Refused(e) => e,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(desk.add(url(2), true).await.unwrap_err()), ApplyError::TooManyLearners);
    assert_eq!(refused(desk.add(url(1), false).await.unwrap_err()), ApplyError::PeerUrlExists);
    assert_eq!(refused(desk.promote(learner.id).await.unwrap_err()), ApplyError::LearnerNotReady);
    assert_eq!(refused(desk.promote(999).await.unwrap_err()), ApplyError::MemberNotFound);
    assert_eq!(refused(desk.promote(1).await.unwrap_err()), ApplyError::NotLearner);
    assert_eq!(refused(desk.update(999, url(3)).await.unwrap_err()), ApplyError::MemberNotFound);
    let updated = desk.update(learner.id, url(3)).await.expect("an address changes");
    assert!(updated.iter().any(|m| m.id == learner.id && m.learner && m.peer_urls == url(3)));
    desk.remove(learner.id).await.expect("a learner leaves");

    // Three at once through three members: each is applied.
    let adding = cluster.up().into_iter().map(|at| {
        let desk = cluster.running(at).desk.clone();
        tokio::spawn(async move { desk.update(at as u64 + 1, vec![format!("http://127.0.0.1:{}", 40 + at)]).await })
    });
    for change in adding.collect::<Vec<_>>() {
        change.await.expect("the task").expect("the change");
    }
    eventually("all three are applied everywhere", || {
        let moved = |at: usize| {
            cluster.handle(at).shared().members().iter().all(|m| m.peer_urls == [format!("http://127.0.0.1:{}", 39 + m.id)])
        };
        cluster.up().into_iter().all(moved)
    });
}

/// Of a lost cluster one member goes on alone, with everything it had; the others, should they come back, are told that they are out.
#[tokio::test]
async fn one_member_goes_on_alone() {
    let mut cluster = Cluster::start(3, Tuning { freeze_bytes: 64 << 10, ..Tuning::default() });
    let leader = cluster.leader();
    for n in 0..200 {
        must(cluster.handle(leader), put(&format!("k-{n}"), &[7; 1000])).await;
    }
    cluster.agree();
    for at in cluster.up() {
        cluster.stop(at);
    }
    let before = stand_alone(&cluster.settings(0), &RealFiles::shared()).expect("it is rewritten");
    assert_eq!(stand_alone(&cluster.settings(0), &RealFiles::shared()).expect("it is alone already").index, before.index);
    cluster.run(0);
    eventually("it leads", || cluster.handle(0).status().is_leader);
    must(cluster.handle(0), put("after", b"1")).await;
    assert_eq!(cluster.handle(0).shared().members().len(), 1);
    for n in 0..200 {
        assert_eq!(value(cluster.handle(0), &format!("k-{n}")).as_deref(), Some(&[7; 1000][..]));
    }
    cluster.stop(0);
    cluster.run(0);
    eventually("it leads again", || cluster.handle(0).status().is_leader);
    assert_eq!(value(cluster.handle(0), "after").as_deref(), Some(&b"1"[..]));
    cluster.run(1);
    eventually("the other is told", || cluster.running(1).peers.removed().is_cancelled());
    cluster.stop(1);
    let at = cluster.add(0, true, Some(1)).await;
    cluster.promote(0, at).await;
    cluster.agree();
}
