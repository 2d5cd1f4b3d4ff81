//! Clusters that lost their quorum for good, with real processes: `quorate recover`, and the same by the boot ticket.
//!
//! Proves: what the surviving disk held is there afterwards and the cluster grows again; those left behind are refused, and say why; a
//! recovery that is cut short happens exactly once; directories that are only looked at are not changed.

use crash_tests::group::{Acknowledged, Group, Writer, add, cluster_id, members, offline, until, written};
use crash_tests::server::was_killed;
use crash_tests::tree;
use std::path::Path;

const IN_USE: i32 = 3;
const WRONG_DATA: i32 = 4;
const REMOVED: i32 = 6;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a readable path")
}

fn said(output: &std::process::Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The value of a number in a flat JSON page.
fn number(page: &str, name: &str) -> i64 {
    let at = page.find(&format!("\"{name}\":")).unwrap_or_else(|| panic!("{name} in {page}"));
    page[at + name.len() + 3..].chars().take_while(char::is_ascii_digit).collect::<String>().parse().expect("a number")
}

/// What was acknowledged up to a revision is there, at its revision.
fn check(told: &Acknowledged, found: &Acknowledged, upto: i64) -> usize {
    let had: Vec<_> = told.iter().filter(|(_, revision)| **revision <= upto).collect();
    for (n, revision) in &had {
        assert_eq!(found.get(n), Some(*revision), "write {n}, acknowledged at revision {revision}");
    }
    had.len()
}

/// Three members under load lose two disks; the third goes on by `quorate recover` with all it had, two new members join it, and the
/// old two, when they come back with their old disks, are refused and end.
#[test]
fn the_third_member_goes_on() {
    let mut group = Group::new(5);
    let list = group.list(&[0, 1, 2]);
    (0..3).for_each(|at| group.spawn(at, &["--initial-cluster", &list], None));
    (0..3).for_each(|at| group.ready(at));
    let writer = Writer::start((0..3).map(|at| group.places[at].client.clone()).collect(), 0);
    writer.more(300);
    // The survivor lags behind what the other two acknowledge without it, and not behind the beginning.
    until("the third has the first writes", || {
        (runtime().block_on(written(&group.places[2].client, false)).len() >= 300).then_some(())
    });
    group.kill(2);
    writer.more(20);
    group.kill(0);
    group.kill(1);
    let told = writer.finish();
    let former = tree::read(group.dir(2)).expect("readable");

    let dir = group.dir(2).to_path_buf();
    let looked = offline(&["recover", "--data-dir", text(&dir), "--dry-run", "-w", "json"]);
    assert!(looked.status.success(), "{}", said(&looked));
    let page = String::from_utf8_lossy(&looked.stdout).into_owned();
    assert!(page.contains("\"acknowledged_writes_may_be_lost\":true") && page.contains("\"voters\":3"), "{page}");
    let refused = offline(&["recover", "--data-dir", text(&dir)]);
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    assert!(said(&refused).contains("acknowledged writes may be lost: 1 of 3 voters"), "{}", said(&refused));
    assert_eq!(tree::differences(&former, &tree::read(&dir).expect("readable")), Vec::<std::path::PathBuf>::new());

    // With a second disk nothing can be missing, and the choice is the one that has more.
    let both = offline(&["recover", "--data-dir", text(&dir), "--data-dir", text(group.dir(0)), "--dry-run"]);
    assert!(said(&both).contains("no acknowledged write is lost: 2 of 3 voters"), "{}", said(&both));
    assert!(said(&both).contains(&format!("chosen: {}", text(group.dir(0)))), "{}", said(&both));

    let done = offline(&["recover", "--data-dir", text(&dir), "--yes", "-w", "json"]);
    assert!(done.status.success(), "{}", said(&done));
    let revision = number(&String::from_utf8_lossy(&done.stdout), "revision");
    let known =
        String::from_utf8_lossy(&done.stdout).split("\"id\":\"").last().map(|t| t[..16].to_string()).expect("the recovery's id");
    let twice = offline(&["recover", "--data-dir", text(&dir), "--yes", "--id", &known]);
    assert!(twice.status.code() == Some(WRONG_DATA) && said(&twice).contains("already"), "{}", said(&twice));
    group.spawn(2, &[], None);
    group.ready(2);
    runtime().block_on(async {
        let found = written(&group.places[2].client, true).await;
        let kept = check(&told, &found, revision);
        assert!(kept >= 300, "{kept} of {} acknowledged writes were on the survivor", told.len());
        assert_eq!(members(&group.places[2].client).await.len(), 1);
    });

    for at in [3, 4] {
        runtime().block_on(add(&group.places[2].client, &group.places[at].peer));
        let joined: Vec<usize> = (2..=at).collect();
        let list = group.list(&joined);
        group.spawn(at, &["--initial-cluster", &list, "--initial-cluster-state", "existing"], None);
        group.ready(at);
    }
    let again = Writer::start((2..5).map(|at| group.places[at].client.clone()).collect(), 1_000_000);
    again.more(50);

    // The old two are a quorum of the lost cluster: they may even serve for a moment. The first that reaches the survivor is told.
    (0..2).for_each(|at| group.spawn(at, &[], None));
    for at in 0..2 {
        assert_eq!(group.exit(at).code(), Some(REMOVED), "{}", group.log(at));
        assert!(group.log(at).contains("the cluster was lost and recovered without this member"), "{}", group.log(at));
        group.spawn(at, &[], None);
        assert_eq!(group.exit(at).code(), Some(REMOVED), "it stays away: {}", group.log(at));
    }
    let anew = again.finish();
    runtime().block_on(async {
        for at in 2..5 {
            let found = written(&group.places[at].client, true).await;
            check(&told, &found, revision);
            check(&anew, &found, i64::MAX);
            assert_eq!(members(&group.places[at].client).await.len(), 3);
        }
    });
}

/// A member that is down while the others go on: its cluster is not lost, and is not recovered from its disk by mistake.
#[test]
fn a_cluster_at_work_is_not_recovered() {
    let mut group = Group::new(3);
    let list = group.list(&[0, 1, 2]);
    (0..3).for_each(|at| group.spawn(at, &["--initial-cluster", &list], None));
    (0..3).for_each(|at| group.ready(at));
    group.kill(2);
    let dir = group.dir(2).to_path_buf();
    let former = tree::read(&dir).expect("readable");
    let refused = offline(&["recover", "--data-dir", text(&dir), "--yes"]);
    assert_eq!(refused.status.code(), Some(IN_USE), "{}", said(&refused));
    let peers = [group.places[0].peer.clone(), group.places[1].peer.clone()];
    let named = |page: &str| peers.iter().all(|peer| page.contains(peer.as_str()));
    assert!(said(&refused).contains("may be at work") && named(&said(&refused)), "{}", said(&refused));
    let looked = offline(&["recover", "--data-dir", text(&dir), "--dry-run"]);
    assert!(looked.status.success() && named(&said(&looked)), "{}", said(&looked));
    assert_eq!(tree::differences(&former, &tree::read(&dir).expect("readable")), Vec::<std::path::PathBuf>::new());

    // One of them alone has no quorum. And whoever knows better says so.
    group.kill(1);
    let looked = offline(&["recover", "--data-dir", text(&dir), "--dry-run"]);
    assert!(said(&looked).contains(peers[0].as_str()) && !said(&looked).contains("may be at work"), "{}", said(&looked));
    group.spawn(1, &[], None);
    group.ready(1);
    let forced = offline(&["recover", "--data-dir", text(&dir), "--yes", "--force"]);
    assert!(forced.status.success(), "{}", said(&forced));
}

/// A recovery that ended before the new log was in its place: the member goes on alone by force as by a plain start. One that ended
/// before the identity was written down is refused.
#[test]
fn a_recovery_cut_short_goes_on_by_force() {
    let mut group = Group::new(1);
    group.found();
    let writer = Writer::start(vec![group.places[0].client.clone()], 0);
    writer.more(50);
    let told = writer.finish();
    group.kill(0);
    for (place, goes_on) in [("recover-log", false), ("recover-identity", true)] {
        let status = std::process::Command::new(crash_tests::server::program())
            .args(["recover", "--data-dir", text(group.dir(0)), "--yes", "--id", "r-1"])
            .env("QUORATE_FAILPOINT", format!("{place}=kill:1"))
            .status()
            .expect("the program runs");
        assert!(was_killed(status), "{place}: {status}");
        group.spawn(0, &["--force-new-cluster"], None);
        if goes_on {
            group.ready(0);
            let found = runtime().block_on(written(&group.places[0].client, true));
            check(&told, &found, i64::MAX);
        } else {
            assert_eq!(group.exit(0).code(), Some(WRONG_DATA), "{}", group.log(0));
            assert!(group.log(0).contains("cut short"), "{}", group.log(0));
        }
    }
}

/// Whoever reads the help may have enough of it: that is no failure, and nothing is said about it.
#[test]
fn help_into_a_closed_pipe() {
    use std::process::{Command, Stdio};
    let mut help = Command::new(crash_tests::server::program())
        .arg("--help")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    drop(help.stdout.take());
    let done = help.wait_with_output().expect("it ends");
    assert!(done.status.success() && done.stderr.is_empty(), "{done:?}");
}

/// Directories that cannot be used together, or at all, are named, with the exit code a start on them would have; none is changed.
#[test]
fn directories_that_are_refused() {
    let (mut one, mut other) = (Group::new(1), Group::new(1));
    one.found();
    other.found();
    let writer = Writer::start(vec![one.places[0].client.clone()], 0);
    writer.more(20);
    drop(writer.finish());
    let (a, b) = (one.dir(0).to_path_buf(), other.dir(0).to_path_buf());
    let busy = offline(&["recover", "--data-dir", text(&a), "--yes"]);
    assert_eq!(busy.status.code(), Some(IN_USE), "{}", said(&busy));
    one.kill(0);
    other.kill(0);
    let before = tree::read(&a).expect("readable");
    let mixed = offline(&["recover", "--data-dir", text(&a), "--data-dir", text(&b), "--yes"]);
    assert_eq!(mixed.status.code(), Some(WRONG_DATA), "{}", said(&mixed));
    assert!(said(&mixed).contains("not of one cluster"), "{}", said(&mixed));
    let empty = one.scratch.path().join("empty");
    std::fs::create_dir(&empty).expect("a folder");
    let none = offline(&["recover", "--data-dir", text(&a), "--data-dir", text(&empty), "--yes"]);
    assert_eq!(none.status.code(), Some(WRONG_DATA), "{}", said(&none));
    assert!(said(&none).contains("no member's data directory"), "{}", said(&none));
    assert_eq!(tree::differences(&before, &tree::read(&a).expect("readable")), Vec::<std::path::PathBuf>::new());
    let identity = b.join("member").join("identity");
    let whole = std::fs::read_to_string(&identity).expect("an identity");
    std::fs::write(&identity, whole.replace("cluster", "clustes")).expect("written");
    let damaged = offline(&["recover", "--data-dir", text(&b), "--yes"]);
    assert_eq!(damaged.status.code(), Some(WRONG_DATA), "{}", said(&damaged));
}

/// The text of a boot ticket for the members of a group.
fn ticket(group: &Group, form: bool, recover: Option<(&str, &str)>) -> String {
    let rows: Vec<String> = group.places.iter().map(|p| format!("\"{}\":\"{}\"", p.name, p.peer)).collect();
    let recover = recover.map_or(String::new(), |(slot, id)| format!(",\"recover\":{{\"slot\":\"{slot}\",\"id\":\"{id}\"}}"));
    format!("{{\"cluster\":\"uid-1\",\"form\":{form},\"members\":{{{}}}{recover}}}", rows.join(","))
}

/// By the ticket: the named member recovers itself once, however often it starts and wherever it is cut short; another with data from
/// before does not start, and joins with an empty disk.
#[test]
fn the_ticket_names_the_member_that_goes_on() {
    let mut group = Group::new(3);
    let path = group.scratch.path().join("ticket.json");
    let flags = ["--boot-ticket".to_string(), text(&path).to_string()];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    std::fs::write(&path, ticket(&group, true, None)).expect("written");
    (0..3).for_each(|at| group.spawn(at, &flags, None));
    (0..3).for_each(|at| group.ready(at));
    let writer = Writer::start(group.places.iter().map(|p| p.client.clone()).collect(), 0);
    writer.more(100);
    let told = writer.finish();
    let former = runtime().block_on(cluster_id(&group.places[2].client));
    (0..3).for_each(|at| group.kill(at));
    let lost = tree::read(group.dir(2)).expect("readable");

    std::fs::write(&path, ticket(&group, false, Some(("m2", "r-1")))).expect("written");
    let mut ids = Vec::new();
    for place in ["checkpoint-flushed", "recover-rows", "recover-log", "recover-identity", "recover-swap"] {
        std::fs::remove_dir_all(group.dir(2)).expect("removable");
        tree::write(group.dir(2), &lost).expect("written");
        group.spawn(2, &flags, Some(&format!("{place}=kill:1")));
        assert!(was_killed(group.exit(2)), "{place}: {}", group.log(2));
        if !["recover-identity", "recover-swap"].contains(&place) {
            // Half done, and nothing says so to this start: it does not serve what is neither the old cluster nor the new.
            group.spawn(2, &[], None);
            assert_eq!(group.exit(2).code(), Some(WRONG_DATA), "{place}: {}", group.log(2));
            assert!(group.log(2).contains("cut short"), "{place}: {}", group.log(2));
        }
        for _ in 0..2 {
            group.spawn(2, &flags, None);
            group.ready(2);
            ids.push(runtime().block_on(cluster_id(&group.places[2].client)));
            if ids.len().is_multiple_of(2) {
                let found = runtime().block_on(written(&group.places[2].client, true));
                check(&told, &found, i64::MAX);
            }
            group.kill(2);
        }
    }
    assert!(ids.iter().all(|id| *id == ids[0] && *id != former), "{former:x}: {ids:x?}");

    group.spawn(2, &flags, None);
    group.ready(2);
    group.spawn(0, &flags, None);
    assert_eq!(group.exit(0).code(), Some(WRONG_DATA), "{}", group.log(0));
    assert!(group.log(0).contains("recovery \"r-1\"") && group.log(0).contains("needs an empty volume"), "{}", group.log(0));
    std::fs::remove_dir_all(group.dir(0)).expect("removable");
    group.spawn(0, &flags, None);
    until("it waits at the gate", || group.log(0).contains("does not list").then_some(()));
    runtime().block_on(add(&group.places[2].client, &group.places[0].peer));
    group.ready(0);
    // Its stamp knows the recovery: it starts again as a member of the recovered cluster.
    group.kill(0);
    group.spawn(0, &flags, None);
    group.ready(0);
    let found = runtime().block_on(written(&group.places[0].client, true));
    check(&told, &found, i64::MAX);
}
