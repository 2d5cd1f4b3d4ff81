//! A few short seeds as part of the plain tests; the program `sim` runs many whole ones.

use sim::{Settings, run};

fn settings(seed: u64, members: usize) -> Settings {
    Settings { seed, members, seconds: 20, trace: false }
}

/// The same seed gives the same bytes: every event, every answer and every member's end are in the hash.
#[test]
fn the_same_seed_gives_the_same_trace() {
    for (seed, members) in [(1, 3), (3, 5)] {
        let (first, second) = (run(settings(seed, members)), run(settings(seed, members)));
        assert_eq!(first.violations, Vec::<String>::new());
        assert_eq!(first.hash, second.hash, "seed {seed}");
        assert_ne!(first.hash, run(settings(seed + 1, members)).hash);
    }
}

/// Members come and go in most seeds, and all that is checked holds. Which ones they are changes with every draw that is added.
#[test]
fn members_come_and_go() {
    let reports: Vec<_> = (1..=24).map(|seed| run(Settings { seconds: 40, ..settings(seed, 3) })).collect();
    for report in &reports {
        assert_eq!(report.violations, Vec::<String>::new(), "seed {}", report.settings.seed);
    }
    assert!(reports.iter().filter(|r| r.changes > 1).count() > 2, "{reports:?}");
    assert!(reports.iter().filter(|r| r.joined > 0).count() > 2, "{reports:?}");
}

/// A seed has something in it to be found: answers, faults, leader changes, events and bookmarks.
#[test]
fn a_seed_is_worth_its_time() {
    let report = run(settings(7, 3));
    assert_eq!(report.violations, Vec::<String>::new());
    assert!(report.answered > 100 && report.faults > 2 && report.leader_changes > 0, "{report:?}");
    assert!(report.watched > 100 && report.bookmarks > 10, "{report:?}");
}
