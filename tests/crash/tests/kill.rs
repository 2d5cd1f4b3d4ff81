//! kill -9 at every fail point, over and over on the same data directory.
//!
//! Proves: whatever the moment at which the process dies, all it ever answered is there, at its revision, and nothing else is.

use crash_tests::case::{Plan, Sum, run};

/// Runs a place for a few seeds; it must be reached, or the test shows nothing.
fn at(place: &'static str, visits: u64, rounds: u64) {
    for seed in crash_tests::seeds(1) {
        let sum = run(&Plan::new(seed, rounds).at(place, visits));
        report(place, seed, &sum);
        assert!(sum.reached > 0, "{place} was never reached with seed {seed}: {sum:?}");
    }
}

fn report(place: &str, seed: u64, sum: &Sum) {
    println!("{place} seed {seed}: {sum:?}");
}

macro_rules! places {
    ($($test:ident: $place:literal, $visits:literal, $rounds:literal;)*) => {
        $(#[test] fn $test() { at($place, $visits, $rounds); })*
    };
}

places! {
    before_a_write_to_the_log: "wal-before-write", 60, 3;
    after_a_write_to_the_log: "wal-after-write", 60, 3;
    after_a_sync_of_the_log: "wal-after-sync", 60, 3;
    before_a_segment_is_named: "wal-before-rotate", 4, 3;
    after_a_segment_is_named: "wal-after-rotate", 4, 3;
    before_segments_are_purged: "wal-before-purge", 2, 4;
    while_segments_are_purged: "wal-during-purge", 3, 4;
    after_segments_are_purged: "wal-after-purge", 2, 4;
    between_mark_and_purge: "after-mark", 3, 3;
    before_a_checkpoint: "checkpoint-begin", 3, 3;
    after_the_log_rows_of_a_checkpoint: "checkpoint-log", 3, 3;
    after_the_hist_rows_of_a_checkpoint: "checkpoint-hist", 3, 3;
    after_the_latest_rows_of_a_checkpoint: "checkpoint-latest", 3, 3;
    before_the_flush_of_a_checkpoint: "checkpoint-written", 3, 3;
    after_the_flush_of_a_checkpoint: "checkpoint-flushed", 3, 3;
    in_a_physical_compaction: "sweep", 2, 4;
    between_log_and_rows_of_a_new_member: "found-log", 2, 3;
    before_a_new_member_has_its_name: "found-before-rename", 2, 3;
    after_a_new_member_has_its_name: "found-after-rename", 2, 3;
    between_log_and_rows_of_a_start: "opened-log", 2, 5;
    at_the_end_of_a_start: "opened", 2, 5;
}

/// A log in a folder of its own is there before the member has its name: a first start that is cut short must not stand in the way.
#[test]
fn a_new_member_with_a_log_elsewhere() {
    use crash_tests::load::{Ask, Client, End};
    use crash_tests::server::{Server, Start, was_killed};
    for place in ["found-log", "found-before-rename", "found-after-rename"] {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let log = scratch.path().join("log");
        let start = Start::at(&scratch.path().join("data")).with(&["--wal-dir", log.to_str().expect("a readable path")]);
        let dying = Start { failpoint: Some(format!("{place}=kill:1")), ..start.clone() };
        for _ in 0..2 {
            let ended = Server::spawn(&dying).wait_ready().expect_err("it dies");
            assert!(was_killed(ended), "{place}: {ended}");
            if place == "found-after-rename" {
                break;
            }
        }
        let server = Server::start(&start);
        // Only what it has acknowledged must not be taken for a leftover; before that its log may be empty.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut client = Client::connect(&server.endpoint).await.expect("it serves");
            let end = client.ask(&Ask::Put { key: "k".into(), value: "v".into(), lease: 0 }).await;
            assert!(matches!(end, End::Answered(_)), "{end:?}");
        });
        drop(server);
        // With the data directory gone, the log of a member that served is not taken for a leftover.
        std::fs::remove_dir_all(scratch.path().join("data")).expect("removable");
        let mut refused = Server::spawn(&start);
        let status = refused.wait_ready().expect_err("it must not start over a log with entries");
        assert_eq!(status.code(), Some(4), "{}", refused.log());
    }
}

#[test]
fn at_chance_moments() {
    for seed in crash_tests::seeds(1) {
        report("chance", seed, &run(&Plan::new(seed, 4)));
    }
}
