//! Space and scheduled maintenance as plain values, and what follows from schedules and thresholds alone. Pure.
//!
//! A window is due from the minute that its schedule names until it was done or the next one comes; windows that were missed while
//! nothing could be done are not made up for one by one.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;

use super::world::{Seconds, Slot};
use crate::backup::cron::Cron;

/// What the planner is told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Upkeep {
    /// The store refuses writes for want of space.
    pub full: bool,
    /// A full store is given room by itself; so many of the newest revisions stay.
    pub heal_keeping: Option<i64>,
    /// When it was last done, or found to be of no use.
    pub healed: Option<Seconds>,
    /// Everything before this revision is forgotten. None when nobody told.
    pub compacted: Option<i64>,
    /// Sizes by slot.
    pub sizes: BTreeMap<Slot, Sizes>,
    /// A compaction is due.
    pub compaction: Option<Compaction>,
    /// A reclaim is due.
    pub reclaim: Option<Reclaim>,
}

/// A member's space, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// What its store takes on disk.
    pub on_disk: i64,
    /// What of that is live data.
    pub in_use: i64,
    /// What counts against the quota: on a store whose data compresses well it is more than what is in use. None: it does not tell.
    pub counted: Option<i64>,
    /// How much may count; 0 when there is no limit.
    pub quota: i64,
}

impl Sizes {
    /// What the quota goes by, or what comes nearest to it.
    pub fn taken(&self) -> i64 {
        self.counted.unwrap_or(self.in_use)
    }
}

/// A compaction that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compaction {
    /// Since when.
    pub due: Seconds,
    /// Up to which revision. None: nothing is old enough.
    pub to: Option<i64>,
}

/// A reclaim that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reclaim {
    /// Since when.
    pub due: Seconds,
    /// Members with less free space than this many hundredths of their size are left alone.
    pub min_free_percent: i64,
    /// Members with less free space than this many bytes are left alone.
    pub min_free_bytes: i64,
}

impl Reclaim {
    /// It is worth the work.
    pub fn worth(&self, sizes: &Sizes) -> bool {
        let free = sizes.on_disk.saturating_sub(sizes.in_use);
        free >= self.min_free_bytes && free.saturating_mul(100) >= sizes.on_disk.saturating_mul(self.min_free_percent)
    }
}

/// Free space that makes it worth while to let writes in again, hundredths of the quota.
const ROOM: i64 = 5;

impl Upkeep {
    /// What is kept leaves so little of the quota that the alarm would be back at once: so much of so much.
    pub fn hopelessly_full(&self) -> Option<(i64, i64)> {
        let worst = self.sizes.values().filter(|sizes| sizes.quota > 0).max_by_key(|sizes| sizes.taken())?;
        let taken = worst.taken();
        (taken.saturating_mul(100) >= worst.quota.saturating_mul(100 - ROOM)).then_some((taken, worst.quota))
    }
}

/// The last minute after `done` and not after `now` that a schedule names, and the next one after `now`.
pub fn due(schedule: &Cron, done: Seconds, now: Seconds) -> (Option<Seconds>, Option<Seconds>) {
    let stamp = |seconds: Seconds| Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH);
    let last = crate::backup::schedule::last_due(schedule, stamp(done), stamp(now)).map(|due| due.as_second());
    (last, schedule.next(stamp(now)).map(|next| next.as_second()))
}

/// Most marks that are kept: a day of one each quarter of an hour.
const MARKS: usize = 100;

/// Adds a mark; of too many every second old one goes, so that the oldest and the newest stay.
pub fn mark(marks: &mut Vec<(Seconds, i64)>, at: Seconds, revision: i64, age: Seconds) {
    if marks.last().is_some_and(|(last, _)| *last >= at) {
        return;
    }
    marks.push((at, revision));
    // Of those that are old enough only the newest is ever used.
    let old = marks.iter().filter(|(known, _)| *known <= at - age).count();
    marks.drain(..old.saturating_sub(1));
    if marks.len() > MARKS {
        let mut at = 0;
        marks.retain(|_| {
            at += 1;
            at % 2 == 1 || at > MARKS
        });
    }
}

/// The newest revision that the store had reached an age ago.
pub fn older_than(marks: &[(Seconds, i64)], now: Seconds, age: Seconds) -> Option<i64> {
    marks.iter().rev().find(|(at, _)| *at <= now - age).map(|(_, revision)| *revision)
}

/// Seconds of a duration such as 30m, 12h or 7d.
pub fn duration(text: &str) -> Option<Seconds> {
    let (number, unit) = text.split_at(text.len().checked_sub(1)?);
    let unit = match unit {
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    number.parse::<Seconds>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both thresholds must be passed.
    #[test]
    fn thresholds() {
        let reclaim = Reclaim { due: 0, min_free_percent: 40, min_free_bytes: 100 };
        let worth = |on_disk, in_use| reclaim.worth(&Sizes { on_disk, in_use, ..Sizes::default() });
        assert!(worth(1000, 600) && !worth(1000, 601) && !worth(200, 101) && worth(200, 100));
    }

    /// Fullness goes by what counts against the quota, not by what compression makes of it; a member that does not tell is judged by
    /// what is in use.
    #[test]
    fn fullness() {
        let full = |in_use, counted| {
            let sizes = Sizes { on_disk: 500, in_use, counted, quota: 1000 };
            Upkeep { sizes: [(0, sizes)].into(), ..Upkeep::default() }.hopelessly_full()
        };
        assert_eq!((full(10, Some(990)), full(10, Some(900)), full(990, Some(10))), (Some((990, 1000)), None, None));
        assert_eq!((full(950, None), full(949, None)), (Some((950, 1000)), None));
    }

    /// Marks stay few, the newest of those that are old enough is found, and older ones are let go.
    #[test]
    fn marks() {
        let mut marks = Vec::new();
        for minute in 0..1000 {
            mark(&mut marks, minute * 60, minute, 6000);
            assert!(marks.len() <= MARKS + 1);
        }
        let found = older_than(&marks, 999 * 60, 6000).unwrap();
        assert!((880..=899).contains(&found), "{found}");
        assert_eq!(older_than(&marks[1..], 10, 6000), None);
        assert!(marks.iter().filter(|(at, _)| *at <= 999 * 60 - 6000).count() <= 1);
    }

    /// A window is due until it was done, and the next one is known.
    #[test]
    fn windows() {
        let hourly = Cron::parse("0 * * * *").unwrap();
        assert_eq!(due(&hourly, 0, 3599), (None, Some(3600)));
        assert_eq!(due(&hourly, 0, 7300), (Some(7200), Some(10_800)));
        assert_eq!(due(&hourly, 7200, 7300), (None, Some(10_800)));
    }

    #[test]
    fn durations() {
        assert_eq!((duration("30m"), duration("2d"), duration("x"), duration("")), (Some(1800), Some(172_800), None, None));
    }
}
