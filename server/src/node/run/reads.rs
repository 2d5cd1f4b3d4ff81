//! Reads, the loop's part: readers gather into rounds, and are let go when a round is confirmed and the machine has come that far.
//!
//! In: readers by their sequence, confirmed rounds, what is applied. Out: answers.
//! Invariant: a reader is answered only by a round that began after it came.

use super::*;

/// A read round that got no answer is asked again, under a new context.
const READ_RETRY: Duration = Duration::from_millis(500);

pub(super) struct Round {
    pub(super) context: u64,
    /// By the member's clock.
    pub(super) asked: Duration,
    pub(super) readers: Vec<(Duration, u64)>,
}

/// When a lone voter's store may be read as it is: once everything that was committed when its term began is applied. From then on a
/// write is acknowledged only after it is applied, so the published store is never behind an acknowledgement; before, the writes of
/// an earlier life may still wait in the log.
#[derive(Default)]
pub(super) struct Fresh {
    /// The term, and the committed index when it was first seen to serve.
    since: Option<(u64, u64)>,
}

impl Fresh {
    pub(super) fn at(&mut self, serves: bool, term: u64, committed: u64, applied: u64) -> bool {
        if !serves {
            self.since = None;
            return false;
        }
        if self.since.is_none_or(|(t, _)| t != term) {
            self.since = Some((term, committed));
        }
        self.since.is_some_and(|(_, index)| applied >= index)
    }
}

impl Loop {
    pub(super) fn start_round(&mut self) {
        if self.readers.is_empty() || self.round.is_some() || self.driver.leader() == 0 {
            return;
        }
        // Before its first commit a leader drops rounds without a word.
        if self.driver.is_leader() && !self.driver.may_serve_reads() {
            return;
        }
        if plant::is(Plant::StaleReadIndex) && self.driver.is_leader() {
            let readers = self.readers.drain(..).map(|(_, sequence)| sequence).collect();
            self.answered.push((self.driver.committed(), readers));
            return self.release_reads(self.inner.shared.applied_index());
        }
        self.next_context += 1;
        let readers = std::mem::take(&mut self.readers);
        self.driver.read_index(self.next_context.to_be_bytes().to_vec(), readers.len());
        self.round = Some(Round { context: self.next_context, asked: self.inner.time.now(), readers });
    }

    pub(super) fn retry_reads(&mut self, now: Duration) {
        let late = self.round.as_ref().is_some_and(|r| now.saturating_sub(r.asked) >= READ_RETRY);
        if late && !plant::is(Plant::LostRound) {
            let round = self.round.take().expect("checked");
            self.inner.meter.slow_read_round();
            self.readers.splice(0..0, round.readers);
        }
    }

    pub(super) fn answer_rounds(&mut self, reads: Vec<(Vec<u8>, u64)>) {
        for (context, index) in reads {
            let mine = self.round.as_ref().is_some_and(|r| r.context.to_be_bytes().as_slice() == context);
            if mine {
                let round = self.round.take().expect("checked");
                self.led(round.asked);
                self.answered.push((index, round.readers.into_iter().map(|(_, sequence)| sequence).collect()));
            }
        }
        self.release_reads(self.inner.shared.applied_index());
        self.start_round();
    }

    /// A quorum confirmed this member as the leader after `asked`. It votes for nobody else within an election timeout of that, unless
    /// leadership is handed over. Voters count that time in ticks, whose first may come at once, and another at once after one that was
    /// late; and a timeout that is no whole number of ticks is cut. So three are left out.
    pub(super) fn led(&mut self, asked: Duration) {
        if self.driver.is_leader() && !self.driver.transferring() {
            let until = asked + self.inner.limits.election.saturating_sub(self.tick * 3);
            self.inner.gauges.sure_until.store(u64::try_from(until.as_nanos()).unwrap_or(0), Ordering::Release);
        }
    }

    pub(super) fn release_reads(&mut self, applied: u64) {
        if self.answered.is_empty() {
            return;
        }
        let applied = if plant::is(Plant::ReadBeforeApply) { u64::MAX } else { applied };
        let (ready, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.answered).into_iter().partition(|(i, _)| *i <= applied);
        self.answered = rest;
        let sequences = ready.into_iter().flat_map(|(_, readers)| readers);
        self.inner.ports.answer(sequences.map(|s| (s, Reply::Read(Ok(())))));
    }
}

#[cfg(test)]
mod tests {
    use super::Fresh;

    /// What an earlier life acknowledged and this one has not replayed yet is not missed by a read.
    #[test]
    fn a_lone_voter_is_fresh_once_its_first_entry_is_applied() {
        let mut fresh = Fresh::default();
        assert!(!fresh.at(false, 2, 100, 40), "no leader yet");
        assert!(!fresh.at(true, 3, 101, 40), "entries of the earlier life wait in the log");
        assert!(!fresh.at(true, 3, 105, 100));
        assert!(fresh.at(true, 3, 105, 101), "what came after was not acknowledged before it was applied");
        assert!(fresh.at(true, 3, 200, 150));
        assert!(!fresh.at(true, 4, 210, 150), "a new term begins anew");
        assert!(!fresh.at(false, 4, 210, 210));
    }
}
