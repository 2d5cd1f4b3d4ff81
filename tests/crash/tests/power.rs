//! The power goes: the next start finds what was synced, and of the rest whatever chance let through, torn at sectors.
//!
//! Proves: an answer is given only for what is durable, names included, and no remains of unsynced writes are taken for data.

use crash_tests::case::{Plan, run};

/// Chance may let everything through, and how often a place is met depends on how the load goes: then further seeds follow.
const FURTHER_SEEDS: u64 = 4;

fn at(place: Option<(&'static str, u64)>, rounds: u64, seeds: u64) {
    let mut dropped = 0;
    let asked = crash_tests::seeds(seeds);
    let last = asked.last().copied().unwrap_or_default();
    for seed in asked.into_iter().chain(last + 1..=last + FURTHER_SEEDS) {
        if seed > last && dropped > 0 {
            break;
        }
        let plan = Plan::new(seed, rounds).power();
        let plan = match place {
            Some((place, visits)) => plan.at(place, visits),
            None => plan,
        };
        let sum = run(&plan);
        println!("{place:?} seed {seed}: {sum:?}");
        dropped += sum.losses.sectors_dropped + sum.losses.names_dropped;
    }
    assert!(dropped > 0, "no cut dropped anything: the journal or the places are not what they seem");
}

macro_rules! places {
    ($($test:ident: $place:literal, $visits:literal, $rounds:literal;)*) => {
        $(#[test] fn $test() { at(Some(($place, $visits)), $rounds, 1); })*
    };
}

places! {
    after_a_write_to_the_log: "wal-after-write", 60, 4;
    after_a_sync_of_the_log: "wal-after-sync", 60, 3;
    before_a_segment_is_named: "wal-before-rotate", 2, 3;
    after_a_segment_is_named: "wal-after-rotate", 2, 3;
    while_segments_are_purged: "wal-during-purge", 3, 4;
    after_segments_are_purged: "wal-after-purge", 2, 4;
    between_mark_and_purge: "after-mark", 3, 3;
    after_the_hist_rows_of_a_checkpoint: "checkpoint-hist", 3, 3;
    after_the_latest_rows_of_a_checkpoint: "checkpoint-latest", 3, 3;
    before_the_flush_of_a_checkpoint: "checkpoint-written", 3, 3;
    after_the_flush_of_a_checkpoint: "checkpoint-flushed", 3, 3;
    in_a_physical_compaction: "sweep", 2, 3;
    before_a_new_member_has_its_name: "found-before-rename", 2, 3;
    after_a_new_member_has_its_name: "found-after-rename", 2, 3;
    between_log_and_rows_of_a_start: "opened-log", 2, 5;
    before_the_list_of_files_is_synced: "sync of MANIFEST-", 24, 8;
    before_a_file_of_rows_is_synced: "sync of .sst", 12, 6;
    before_the_log_is_synced: "sync of .wal", 60, 4;
}

#[test]
fn at_chance_moments() {
    at(None, 5, 2);
}
