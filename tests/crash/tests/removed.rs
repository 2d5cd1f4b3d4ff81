//! Members that were put out of their cluster while they were down, with real processes: they learn it when they are started, though
//! no leader will ever speak to them, and end.

use crash_tests::group::{Group, offline, remove};

const REMOVED: i32 = 6;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Started, the member ends as one that was removed, and at every later start, for which it has written that down.
fn stays_away(group: &mut Group, at: usize, reason: &str) {
    for _ in 0..2 {
        group.spawn(at, &[], None);
        assert_eq!(group.exit(at).code(), Some(REMOVED), "{}", group.log(at));
        assert!(group.log(at).contains(reason), "{}", group.log(at));
        assert!(group.dir(at).join("member/removed").is_file());
    }
}

#[test]
fn a_member_removed_while_it_was_down() {
    let mut group = Group::new(3);
    group.found();
    group.kill(2);
    runtime().block_on(remove(&group.places[0].client, &group.places[2].peer));
    stays_away(&mut group, 2, "removed from the cluster");
}

/// One of the two that a recovery left behind, by itself: it has no quorum and gets no leader.
#[test]
fn a_member_left_behind_by_a_recovery() {
    let mut group = Group::new(3);
    group.found();
    (0..3).for_each(|at| group.kill(at));
    let done = offline(&["recover", "--data-dir", group.dir(0).to_str().expect("a readable path"), "--yes"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    group.spawn(0, &[], None);
    group.ready(0);
    stays_away(&mut group, 1, "the cluster was lost and recovered without this member");
}
