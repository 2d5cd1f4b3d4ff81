//! Judges a history against what the cluster holds.
//!
//! In: the lines of a history, the keys and the counter read from the cluster after those lines were noted, and a window of
//! time. Out: a [`Verdict`]. Pure: no clock, no network.
//!
//! - Every acknowledged write is there, with its value.
//! - Nothing is there that no writer wrote.
//! - The counter holds at least the acknowledged steps, and at most those and the ones whose end is unknown.
//! - The watch told of each write of a revision that it has passed, once.

use std::collections::{HashMap, HashSet};

use crate::history::{End, Line};

/// What the cluster holds.
#[derive(Debug, Default)]
pub struct Held {
    /// The writes whose keys are there with the right value.
    pub writes: HashSet<(u32, u64)>,
    /// Keys with a value that nobody wrote.
    pub strange: Vec<String>,
    /// The counter's value.
    pub counter: u64,
}

/// What a window of a run was like.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Acknowledged writes in the window.
    pub acknowledged: u64,
    /// Writes in the window whose end nobody knows.
    pub unknown: u64,
    /// Longest time without an acknowledged write, in milliseconds, the window's ends counting as writes.
    pub gap: u64,
    /// Acknowledged writes of the whole run that are not there.
    pub lost: u64,
    /// What else must never be, of the whole run.
    pub violations: Vec<String>,
}

/// Judges the window `from..=to`, in milliseconds of the Unix epoch. `ended` says that no client was running when `held` was
/// read, so that upper bounds hold too.
pub fn judge(lines: &[Line], held: &Held, from: u64, to: u64, ended: bool) -> Verdict {
    let mut verdict = Verdict::default();
    let mut times = Vec::new();
    let (mut counted, mut maybe_counted) = (0, 0);
    let mut seen: HashMap<(u32, u64), u32> = HashMap::new();
    let mut passed = 0;
    let mut acknowledged = Vec::new();
    for line in lines {
        match line {
            Line::Write { at, writer, number, end, revision } => {
                let inside = (from..=to).contains(at);
                match end {
                    End::Ok => {
                        acknowledged.push((*writer, *number, *revision));
                        if inside {
                            times.push(*at);
                        }
                    }
                    End::Unknown => verdict.unknown += u64::from(inside),
                    End::Refused => {}
                }
            }
            Line::Count { end: End::Ok, .. } => counted += 1,
            Line::Count { end: End::Unknown, .. } => maybe_counted += 1,
            Line::Count { .. } => {}
            Line::Seen { writer, number, revision } => {
                *seen.entry((*writer, *number)).or_default() += 1;
                passed = passed.max(*revision);
            }
            Line::Violation { text, .. } => verdict.violations.push(text.clone()),
        }
    }
    verdict.acknowledged = times.len() as u64;
    verdict.gap = longest_gap(times, from, to);
    for (writer, number, revision) in acknowledged {
        if !held.writes.contains(&(writer, number)) {
            verdict.lost += 1;
        }
        // The events of one revision arrive together, and a later revision has been seen.
        if revision < passed && !seen.contains_key(&(writer, number)) {
            verdict.violations.push(format!("the watch passed revision {revision} without write {number} of writer {writer}"));
        }
    }
    for ((writer, number), times) in seen {
        if times > 1 {
            verdict.violations.push(format!("the watch told {times} times of write {number} of writer {writer}"));
        }
    }
    verdict.violations.extend(held.strange.iter().map(|key| format!("{key} holds what nobody wrote")));
    if held.counter < counted {
        verdict.violations.push(format!("the counter holds {}, acknowledged were {counted} steps", held.counter));
    }
    if ended && held.counter > counted + maybe_counted {
        verdict.violations.push(format!("the counter holds {}, at most {} steps happened", held.counter, counted + maybe_counted));
    }
    verdict.violations.sort();
    verdict
}

fn longest_gap(mut times: Vec<u64>, from: u64, to: u64) -> u64 {
    times.extend([from, to]);
    times.sort_unstable();
    times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(at: u64, number: u64, end: End, revision: i64) -> Line {
        Line::Write { at, writer: 0, number, end, revision }
    }

    fn held(numbers: impl IntoIterator<Item = u64>) -> Held {
        Held { writes: numbers.into_iter().map(|number| (0, number)).collect(), ..Held::default() }
    }

    #[test]
    fn a_whole_run_has_nothing_to_say() {
        let lines = [write(110, 1, End::Ok, 2), write(150, 2, End::Unknown, 0), write(180, 3, End::Ok, 3)];
        let verdict = judge(&lines, &held([1, 3]), 100, 200, true);
        assert_eq!(verdict, Verdict { acknowledged: 2, unknown: 1, gap: 70, ..Verdict::default() });
    }

    #[test]
    fn an_acknowledged_write_that_is_gone_is_lost_whenever_it_was() {
        let lines = [write(10, 1, End::Ok, 2), write(150, 2, End::Ok, 3)];
        assert_eq!(judge(&lines, &held([2]), 100, 200, true).lost, 1);
    }

    #[test]
    fn the_gap_reaches_to_the_ends_of_the_window() {
        assert_eq!(judge(&[], &held([]), 100, 400, true).gap, 300);
        assert_eq!(judge(&[write(90, 1, End::Ok, 2)], &held([1]), 100, 400, true).gap, 300);
    }

    #[test]
    fn the_counter_has_two_bounds_once_all_clients_have_ended() {
        let step = |end| Line::Count { at: 1, value: 1, end };
        let lines = [step(End::Ok), step(End::Unknown), step(End::Refused)];
        for (counter, bad) in [(0, true), (1, false), (2, false), (3, true)] {
            let held = Held { counter, ..Held::default() };
            assert_eq!(!judge(&lines, &held, 0, 1, true).violations.is_empty(), bad, "{counter}");
        }
        assert!(judge(&lines, &Held { counter: 3, ..Held::default() }, 0, 1, false).violations.is_empty());
    }

    #[test]
    fn the_watch_may_lag_but_not_skip_or_repeat() {
        let seen = |number, revision| Line::Seen { writer: 0, number, revision };
        let writes = [write(1, 1, End::Ok, 2), write(2, 2, End::Ok, 3), write(3, 3, End::Ok, 4)];
        let judged = |events: &[Line]| judge(&[&writes[..], events].concat(), &held([1, 2, 3]), 0, 9, true).violations.len();
        assert_eq!(judged(&[seen(1, 2), seen(2, 3)]), 0);
        assert_eq!(judged(&[seen(1, 2), seen(3, 4)]), 1);
        assert_eq!(judged(&[seen(1, 2), seen(1, 2)]), 1);
    }

    #[test]
    fn what_nobody_wrote_is_told() {
        let held = Held { strange: vec!["/e2e/w/x".to_string()], ..Held::default() };
        assert_eq!(judge(&[], &held, 0, 1, true).violations, ["/e2e/w/x holds what nobody wrote"]);
    }
}
