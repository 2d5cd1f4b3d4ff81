//! Proposals, the loop's part: what waits is put into entries, when raft takes them; changes of members go one at a time.
//!
//! In: encoded proposals of clients, this member's own, and changes of members. Out: entries for raft, or the way to the leader.

use super::*;

/// Proposal bytes put into one entry, but for a proposal that is larger by itself.
const MAX_ENTRY: usize = 512 << 10;
/// Changes of members that may wait for one another.
const MAX_CHANGES: usize = 64;
/// The part of the leader's log that a learner must have before it may vote.
const READY_PART: f64 = 0.9;
/// Leases revoked in one entry.
const MAX_EXPIRED: usize = 256;
/// Proposals that wait for a leader, or for the log to catch up, and their bytes; beyond either new ones are dropped and time out. The
/// door refuses at fewer bytes, but counts only those whose clients still wait.
const MAX_WAITING: usize = 65_536;
const MAX_WAITING_BYTES: usize = 256 << 20;

/// Encoded proposals that wait to be put into an entry or sent to the leader, each with the time it came, the oldest first.
#[derive(Default)]
pub(super) struct Proposals {
    queue: VecDeque<(Duration, Bytes)>,
    bytes: usize,
}

impl Proposals {
    pub(super) fn push(&mut self, now: Duration, proposal: Bytes) {
        if self.queue.len() < MAX_WAITING && self.bytes + proposal.len() <= MAX_WAITING_BYTES {
            self.bytes += proposal.len();
            self.queue.push_back((now, proposal));
        }
    }

    /// Drops those whose clients have been told by now that they timed out.
    pub(super) fn forget(&mut self, now: Duration, timeout: Duration) {
        let late = self.queue.iter().take_while(|(came, _)| now.saturating_sub(*came) >= timeout).count();
        drop(self.take(late));
    }

    fn len(&self) -> usize {
        self.queue.len()
    }

    fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    fn iter(&self) -> impl Iterator<Item = &Bytes> {
        self.queue.iter().map(|(_, proposal)| proposal)
    }

    /// The oldest `count`, which leave.
    fn take(&mut self, count: usize) -> impl Iterator<Item = Bytes> {
        self.bytes -= self.iter().take(count).map(Bytes::len).sum::<usize>();
        self.queue.drain(..count).map(|(_, proposal)| proposal)
    }
}

impl Loop {
    pub(super) fn propose(&mut self) {
        while let Some(change) = self.changes.pop_front() {
            if !self.propose_change(&change) {
                self.changes.push_front(change);
                break;
            }
        }
        if !self.driver.is_leader() {
            // What a leader decided by its clock is not to be carried out under another, whose clients may have kept leases alive.
            let own = std::mem::take(&mut self.own);
            if plant::is(Plant::ForwardedExpiry) {
                own.into_iter().for_each(|p| self.waiting.push(self.driver.time(), p));
            }
        }
        while !self.own.is_empty() || !self.waiting.is_empty() {
            if self.driver.leader() == 0 {
                return;
            }
            if !self.driver.is_leader() {
                let leader = self.driver.leader();
                let all = self.waiting.len();
                self.peers.forward(leader, self.waiting.take(all).collect());
                return;
            }
            let bytes: usize = self.waiting.iter().map(Bytes::len).take(MAX_INPUTS).sum();
            if self.driver.transferring() || self.driver.is_behind() || (self.driver.writing() >= MAX_WRITING && bytes < MAX_ENTRY)
            {
                return;
            }
            let (entry, count) = self.entry();
            if !self.driver.propose(entry) {
                return;
            }
            let own = count.min(self.own.len());
            self.own.drain(..own);
            drop(self.waiting.take(count - own));
            // Raft hands out what was proposed before the next entry is built, so that the count of groups being written is true.
            let effects = self.driver.ready();
            self.carry_out(effects);
        }
    }

    /// One entry of as many waiting proposals as it takes. The proposals are spliced in as they came.
    pub(super) fn entry(&mut self) -> (Bytes, usize) {
        let mut count = 0;
        let mut size = 0;
        for p in self.own.iter().chain(self.waiting.iter()) {
            if count > 0 && size + p.len() > MAX_ENTRY {
                break;
            }
            size += p.len() + 8;
            count += 1;
        }
        let time = self.inner.time.wall().as_millis() as i64;
        self.last_time_ms = self.last_time_ms.max(time);
        let head = entry::Batch { version: self.inner.entry_level(), time_ms: self.last_time_ms, proposals: Vec::new() };
        let mut out = BytesMut::with_capacity(size + 24);
        head.encode(&mut out).expect("the buffer grows");
        for p in self.own.iter().chain(self.waiting.iter()).take(count) {
            encode_key(3, WireType::LengthDelimited, &mut out);
            encode_varint(p.len() as u64, &mut out);
            out.put_slice(p);
        }
        (out.freeze(), count)
    }

    /// Takes a change of members to propose, when this member leads; whoever asked looks for the leader when not.
    pub(super) fn take_change(&mut self, change: MemberChange) {
        let refused = if !self.driver.is_leader() {
            Some(ProposeError::NotLeader)
        } else {
            (self.changes.len() >= MAX_CHANGES).then_some(ProposeError::TooManyRequests)
        };
        match refused {
            Some(e) => self.inner.ports.answer([(change.sequence, Reply::NotProposed(e))]),
            None => self.changes.push_back(change),
        }
    }

    /// Proposes a change; false when it must wait, since another one is under way.
    pub(super) fn propose_change(&mut self, change: &MemberChange) -> bool {
        if !self.driver.is_leader() {
            self.inner.ports.answer([(change.sequence, Reply::NotProposed(ProposeError::NotLeader))]);
            return true;
        }
        let id = change.member.as_ref().map_or(0, |m| m.id);
        if change.kind() == MemberChangeKind::Promote
            && let Err(e) = self.may_promote(id)
        {
            let answer = Answer { revision: self.inner.store.revision(), term: self.driver.term(), result: Err(e) };
            self.inner.ports.answer([(change.sequence, Reply::Applied(answer))]);
            return true;
        }
        let kind = match change.kind() {
            MemberChangeKind::Add | MemberChangeKind::Promote => ConfChangeType::AddNode,
            MemberChangeKind::AddLearner => ConfChangeType::AddLearnerNode,
            MemberChangeKind::Remove => ConfChangeType::RemoveNode,
            // Raft knows nothing of addresses, and takes no change without a step: the member becomes what it is.
            MemberChangeKind::Update if self.driver.conf_state().learners.contains(&id) => ConfChangeType::AddLearnerNode,
            MemberChangeKind::Update => ConfChangeType::AddNode,
        };
        let mut single = ConfChangeSingle { node_id: id, ..Default::default() };
        single.set_change_type(kind);
        let mut v2 = ConfChangeV2 { context: change.encode_to_vec().into(), ..Default::default() };
        v2.set_changes(vec![single]);
        self.driver.propose_change(&v2)
    }

    /// A learner votes only once it has nine tenths of the log, as in etcd: before, the quorum would wait for it.
    pub(super) fn may_promote(&self, id: MemberId) -> Result<(), ApplyError> {
        let (matched, own) = self.driver.progress(id).ok_or(ApplyError::MemberNotFound)?;
        if (matched as f64) < own as f64 * READY_PART { Err(ApplyError::LearnerNotReady) } else { Ok(()) }
    }

    pub(super) fn expire_leases(&mut self, now: Duration) {
        // While the log takes nothing, what it is asked again and again would pile up here.
        if !self.driver.is_leader() || self.inner.is_fenced() || !self.own.is_empty() {
            return;
        }
        let ids = self.inner.clock.lock().expired(now, MAX_EXPIRED);
        if !ids.is_empty() {
            self.inner.meter.leases_expired(ids.len());
            self.propose_own(Op::LeaseRevoke(entry::LeaseRevoke { ids }));
        }
    }

    /// Puts a command of this member's own among those to propose, which count only while it leads.
    pub(super) fn propose_own(&mut self, op: Op) {
        let command = Command { op: Some(op) };
        self.own.push_back(Proposal { command: Some(command), ..Default::default() }.encode_to_vec().into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A proposal leaves with its client's patience, however long there is no leader, and what came later stays.
    #[test]
    fn proposals_are_not_kept_longer_than_their_clients_wait() {
        let mut waiting = Proposals::default();
        let timeout = Duration::from_secs(7);
        for n in 0..10u8 {
            waiting.push(Duration::from_secs(u64::from(n)), Bytes::copy_from_slice(&[n]));
        }
        waiting.forget(Duration::from_secs(11), timeout);
        assert_eq!(waiting.iter().map(|p| p[0]).collect::<Vec<_>>(), [5, 6, 7, 8, 9]);
        assert_eq!(waiting.take(2).count(), 2);
        waiting.forget(Duration::from_secs(60), timeout);
        assert!(waiting.is_empty());
    }

    /// Proposals whose clients went away early take a bounded part of the memory.
    #[test]
    fn proposals_that_wait_are_bounded_in_bytes() {
        let mut waiting = Proposals::default();
        let proposal = Bytes::from(vec![0; 1 << 20]);
        for _ in 0..300 {
            waiting.push(Duration::ZERO, proposal.clone());
        }
        assert_eq!(waiting.len(), 256);
        assert_eq!(waiting.take(6).count(), 6);
        for _ in 0..10 {
            waiting.push(Duration::from_secs(1), proposal.clone());
        }
        assert_eq!(waiting.len(), 256);
        waiting.forget(Duration::from_secs(7), Duration::from_secs(7));
        assert_eq!((waiting.len(), waiting.bytes), (6, 6 << 20));
    }
}
