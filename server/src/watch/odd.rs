//! Intervals that are neither a key nor a prefix, ordered by start and kept in short runs that each know their farthest end.
//!
//! In: half-open intervals with the id of what watches them. Out: the ids of the intervals that hold a key. Such ranges are rare
//! (they come from tools, hardly from the API server), so the structure favours little memory, O(n), over the best bound: a
//! lookup visits the runs whose span reaches the key, about n/128 of them plus the answer.
//!
//! Invariants: runs are never empty, hold at most [`RUN`] intervals, and are in order of (start, id) within and among themselves.

use bytes::Bytes;

/// Intervals in a run before it is split in two.
const RUN: usize = 128;

#[derive(Default)]
pub(super) struct OddRanges {
    runs: Vec<Run>,
}

struct Run {
    intervals: Vec<Interval>,
    /// The farthest end in this run.
    reach: Option<Bytes>,
}

/// `end` of none reaches over all keys.
#[derive(Clone)]
struct Interval {
    start: Bytes,
    end: Option<Bytes>,
    id: u32,
}

impl OddRanges {
    pub fn insert(&mut self, start: Bytes, end: Option<Bytes>, id: u32) {
        let interval = Interval { start, end, id };
        let at = self.run_of(&interval.start, id);
        let Some(run) = self.runs.get_mut(at) else {
            self.runs.push(Run::new(vec![interval]));
            return;
        };
        let place = run.place(&interval.start, id).unwrap_or_else(|place| place);
        if !covers(run.reach.as_ref(), interval.end.as_ref()) {
            run.reach.clone_from(&interval.end);
        }
        run.intervals.insert(place, interval);
        if run.intervals.len() > RUN {
            let upper = run.intervals.split_off(RUN / 2);
            *run = Run::new(std::mem::take(&mut run.intervals));
            self.runs.insert(at + 1, Run::new(upper));
        }
    }

    pub fn remove(&mut self, start: &Bytes, id: u32) {
        let at = self.run_of(start, id);
        let Some(run) = self.runs.get_mut(at) else { return };
        let Ok(place) = run.place(start, id) else { return };
        run.intervals.remove(place);
        if run.intervals.is_empty() {
            self.runs.remove(at);
        } else {
            *run = Run::new(std::mem::take(&mut run.intervals));
        }
    }

    pub fn find(&self, key: &[u8], mut found: impl FnMut(u32)) {
        for run in &self.runs {
            if run.intervals[0].start.as_ref() > key {
                return;
            }
            if !ends_after(run.reach.as_ref(), key) {
                continue;
            }
            for interval in run.intervals.iter().take_while(|interval| interval.start.as_ref() <= key) {
                if ends_after(interval.end.as_ref(), key) {
                    found(interval.id);
                }
            }
        }
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The last run that begins at or before (start, id), else the first.
    fn run_of(&self, start: &Bytes, id: u32) -> usize {
        let after = self.runs.partition_point(|run| {
            let first = &run.intervals[0];
            (&first.start, first.id) <= (start, id)
        });
        after.saturating_sub(1)
    }
}

impl Run {
    fn new(intervals: Vec<Interval>) -> Self {
        let mut reach = Some(Bytes::new());
        for interval in &intervals {
            if !covers(reach.as_ref(), interval.end.as_ref()) {
                reach.clone_from(&interval.end);
            }
        }
        Self { intervals, reach }
    }

    fn place(&self, start: &Bytes, id: u32) -> Result<usize, usize> {
        self.intervals.binary_search_by(|interval| (&interval.start, interval.id).cmp(&(start, id)))
    }
}

/// Whether `reach` is at or beyond `end`.
fn covers(reach: Option<&Bytes>, end: Option<&Bytes>) -> bool {
    match (reach, end) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(reach), Some(end)) => reach >= end,
    }
}

fn ends_after(end: Option<&Bytes>, key: &[u8]) -> bool {
    end.is_none_or(|end| end.as_ref() > key)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that lookups agree with a plain scan while intervals come and go.
    #[test]
    fn agrees_with_a_scan() {
        let mut ranges = OddRanges::default();
        let mut plain: Vec<Interval> = Vec::new();
        let mut seed = 7u32;
        let mut next = |bound: u32| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) % bound
        };
        for id in 0..2000 {
            let (a, width) = (next(500), 1 + next(40));
            let start = Bytes::from(format!("{a:04}"));
            let end = (next(20) != 0).then(|| Bytes::from(format!("{:04}", a + width)));
            ranges.insert(start.clone(), end.clone(), id);
            plain.push(Interval { start, end, id });
            if next(3) == 0 {
                let gone = plain.swap_remove(next(plain.len() as u32) as usize);
                ranges.remove(&gone.start, gone.id);
            }
            let key = format!("{:04}", next(560));
            let mut got = Vec::new();
            ranges.find(key.as_bytes(), |id| got.push(id));
            got.sort_unstable();
            let mut want: Vec<u32> = plain
                .iter()
                .filter(|i| i.start.as_ref() <= key.as_bytes() && i.end.as_ref().is_none_or(|e| e.as_ref() > key.as_bytes()))
                .map(|i| i.id)
                .collect();
            want.sort_unstable();
            assert_eq!(got, want);
        }
        for gone in plain {
            ranges.remove(&gone.start, gone.id);
        }
        assert!(ranges.is_empty());
    }
}
