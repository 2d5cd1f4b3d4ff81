//! Slow disk: when a leader whose disk stands still steps aside, and for whom. Pure.
//!
//! In, at each tick: the log's oldest write that waits for its sync, the entries it covers, and how far the voters' logs are durable. Out: the voter to hand leadership to, if any. Heartbeats do not wait for the disk, so nobody else would notice.
//!
//! Invariants: nothing is handed over while no voter has had all that the leader's disk owes for half an election timeout (when all
//! disks are slow, none has), nor within some election timeouts of the last time this member took or gave leadership: leadership that
//! moved for a slow disk stays for a while.

use crate::types::MemberId;
use std::collections::BTreeMap;
use std::time::Duration;

/// Election timeouts between two hand-overs.
const REST: u32 = 3;

/// The log's oldest write that is not durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Owed {
    /// Its number: it tells this write from the next.
    pub number: u64,
    /// The last entry that it covers.
    pub index: u64,
}

/// What is remembered between two ticks.
pub(super) struct SlowDisk {
    election: Duration,
    /// When this member began to lead, or last tried to hand over.
    changed: Option<Duration>,
    /// The write that is owed, and when it was first seen to be.
    owed: (u64, Duration),
    /// When each voter was first seen to have what is owed.
    has: BTreeMap<MemberId, Duration>,
}

impl SlowDisk {
    /// `election` is the election timeout.
    pub fn new(election: Duration) -> Self {
        Self { election, changed: None, owed: (0, Duration::ZERO), has: BTreeMap::new() }
    }

    /// This member does not lead.
    pub fn follows(&mut self) {
        self.changed = None;
        self.has.clear();
    }

    /// Whom to hand leadership to now. `voters` are the other voters, each with the last entry that is durable there.
    pub fn tick(&mut self, now: Duration, owed: Option<Owed>, voters: impl Iterator<Item = (MemberId, u64)>) -> Option<MemberId> {
        let changed = *self.changed.get_or_insert(now);
        let Some(owed) = owed else {
            self.has.clear();
            return None;
        };
        if owed.number != self.owed.0 {
            self.owed = (owed.number, now);
            self.has.clear();
        }
        let mut best = Vec::new();
        for (voter, durable) in voters {
            if durable >= owed.index {
                self.has.entry(voter).or_insert(now);
                best.push((durable, voter));
            }
        }
        let waits = now.saturating_sub(self.owed.1) >= self.election;
        let rested = now.saturating_sub(changed) >= self.election * REST;
        if !waits || !rested {
            return None;
        }
        let long = |voter: &MemberId| self.has.get(voter).is_some_and(|seen| now.saturating_sub(*seen) >= self.election / 2);
        best.retain(|(_, voter)| long(voter));
        let (_, to) = best.into_iter().max()?;
        self.changed = Some(now);
        Some(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn disk() -> SlowDisk {
        SlowDisk::new(1000 * MS)
    }

    fn owed(number: u32) -> Option<Owed> {
        Some(Owed { number: u64::from(number), index: 50 })
    }

    /// Runs ticks of 100 ms from `from` on and gives the time and the voter of the first hand-over.
    fn first(
        disk: &mut SlowDisk,
        from: u32,
        owed: impl Fn(u32) -> Option<Owed>,
        voters: impl Fn(u32) -> Vec<(u64, u64)>,
    ) -> Option<(u32, u64)> {
        (from / 100..300).map(|n| n * 100).find_map(|at| disk.tick(at * MS, owed(at), voters(at).into_iter()).map(|to| (at, to)))
    }

    /// A disk that stands still for an election timeout is noticed, and leadership goes to the voter that has most.
    #[test]
    fn a_still_disk_is_left() {
        let mut disk = disk();
        let stands = |at| if at >= 7000 { owed(3) } else { None };
        let voters = |at| if at >= 7100 { vec![(2, 51), (3, if at >= 7300 { 50 } else { 49 })] } else { vec![(2, 49), (3, 49)] };
        assert_eq!(first(&mut disk, 0, stands, voters), Some((8000, 2)));
    }

    /// Alone, with nobody who has everything, with one that is slow as well, or soon after it began to lead, a leader stays.
    #[test]
    fn a_leader_stays() {
        let stands = |at: u32| if at >= 7000 { owed(3) } else { None };
        assert_eq!(first(&mut disk(), 0, stands, |_| vec![]), None);
        assert_eq!(first(&mut disk(), 0, stands, |_| vec![(2, 49), (3, 12)]), None);
        let all_slow = |at: u32| owed(at / 1500);
        let after_a_while = |at: u32| vec![(2, if at % 1500 >= 1200 { 50 } else { 49 })];
        assert_eq!(first(&mut disk(), 0, all_slow, after_a_while), None, "every disk takes more than a second");
        assert_eq!(first(&mut disk(), 0, |_| owed(1), |_| vec![(2, 50)]), Some((3000, 2)), "it has led for a while by then");
    }

    /// Writes that are slow but end are no reason to leave.
    #[test]
    fn each_write_is_looked_at_by_itself() {
        let slow = |at: u32| owed(at / 900);
        assert_eq!(first(&mut disk(), 0, slow, |_| vec![(2, 50), (3, 50)]), None);
    }
}
