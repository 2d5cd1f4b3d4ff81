//! What the members' own words add up to: who may have which vote and whose acknowledgement counts, which ids were used, and that
//! changes of members go one at a time.
//!
//! In: every raft message when it leaves its member, and every list of members that a member applies. Out: violations. Voters are those
//! of the replicated list, not those of raft's configuration: where the two differ, that is found.

use crate::world::World;
use quorate::node::Status;
use quorate::types::MemberId;
use quorate_proto::state::Member as MemberRow;
use raft::eraftpb::{EntryType, Message, MessageType};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What was said so far.
#[derive(Default)]
pub struct Ledger {
    /// The newest entry that each member acknowledged to the leader of each term.
    acked: BTreeMap<(u64, MemberId), u64>,
    /// Who granted a candidate its vote, by term and candidate.
    votes: BTreeMap<(u64, MemberId), BTreeSet<MemberId>>,
    /// The lowest applied index at which a member is known to be removed.
    removed: BTreeMap<MemberId, u64>,
    /// The names that ids were first given.
    names: BTreeMap<MemberId, String>,
    /// Changes of members in the logs, by the term and index they were proposed at.
    changes: BTreeSet<(u64, u64)>,
}

fn has_quorum(voters: &[MemberId], counts: impl Fn(MemberId) -> bool) -> bool {
    voters.iter().filter(|id| counts(**id)).count() > voters.len() / 2
}

impl Ledger {
    /// True once any member has applied its removal.
    pub fn is_removed(&self, id: MemberId) -> bool {
        self.removed.contains_key(&id)
    }

    /// Changes of members that were proposed.
    pub fn changes(&self) -> usize {
        self.changes.len()
    }

    /// Takes note of a vote or an acknowledgement that leaves its member, durable. Nobody votes for two in one term, and nobody
    /// acknowledges what its log does not reach.
    pub fn sent(&mut self, message: &Message, sender: &Status) -> Result<(), String> {
        match message.get_msg_type() {
            MessageType::MsgAppendResponse if !message.reject => {
                let newest = self.acked.entry((message.term, message.from)).or_default();
                *newest = (*newest).max(message.index);
                // An answer of an earlier term may speak of entries that a later leader took back.
                if message.term == sender.term && message.index > sender.last_index {
                    return Err(format!("entry {} is acknowledged, its log ends at {}", message.index, sender.last_index));
                }
            }
            MessageType::MsgRequestVoteResponse if !message.reject => {
                self.votes.entry((message.term, message.to)).or_default().insert(message.from);
                let of_term = self.votes.range((message.term, 0)..=(message.term, MemberId::MAX));
                let chosen: Vec<MemberId> =
                    of_term.filter(|(_, who)| who.contains(&message.from)).map(|((_, id), _)| *id).collect();
                if chosen.len() > 1 {
                    return Err(format!("it votes for {chosen:x?} in term {}", message.term));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Looks at the entries that a leader sends: they follow the entry that the message names, and of changes of members the next one
    /// is proposed only when the one before is applied.
    pub fn appended(&mut self, message: &Message, leader: &Status) -> Result<(), String> {
        if message.get_msg_type() != MessageType::MsgAppend {
            return Ok(());
        }
        let follows = message.entries.iter().zip(message.index + 1..).all(|(entry, index)| entry.index == index);
        if !follows {
            let told: Vec<u64> = message.entries.iter().map(|e| e.index).collect();
            return Err(format!("entries {told:?} are sent as those after entry {}", message.index));
        }
        if !leader.is_leader || leader.term != message.term {
            return Ok(());
        }
        for entry in message.entries.iter().filter(|e| e.term == message.term && e.get_entry_type() != EntryType::EntryNormal) {
            if !self.changes.insert((entry.term, entry.index)) {
                continue;
            }
            let under_way = (entry.term, leader.applied_index + 1)..(entry.term, entry.index);
            if let Some((_, before)) = self.changes.range(under_way).next() {
                return Err(format!(
                    "a change of members at entry {} was proposed while that of {before} was under way",
                    entry.index
                ));
            }
        }
        Ok(())
    }
}

impl World {
    /// The voters on a member's own list.
    pub fn voters_of(&self, at: usize) -> Vec<MemberId> {
        self.members[at].list.iter().filter(|m| !m.learner).map(|m| m.id).collect()
    }

    /// Looks at a member's list when it has a new one: an id that was removed never comes back, and none is given to two machines.
    pub fn look_at_members(&mut self, at: usize) {
        let Some(running) = &self.members[at].running else { return };
        let shared = running.node.handle().shared();
        let (list, applied) = (shared.members(), shared.applied_index());
        if Arc::ptr_eq(&list, &self.members[at].list) {
            return;
        }
        let gone: Vec<MemberId> = self.members.iter().map(|m| m.id).filter(|id| *id != 0 && shared.is_removed(*id)).collect();
        for id in gone {
            let first = self.ledger.removed.entry(id).or_insert(applied);
            *first = (*first).min(applied);
        }
        for member in list.iter() {
            if self.ledger.removed.get(&member.id).is_some_and(|removed| *removed <= applied) {
                self.violation(format!("member {at} lists {:016x} at entry {applied}, which was removed before", member.id));
            }
            if !member.name.is_empty() {
                let name = self.ledger.names.entry(member.id).or_insert_with(|| member.name.clone()).clone();
                if name != member.name {
                    self.violation(format!("id {:016x} was given to {name} and to {}", member.id, member.name));
                }
            }
        }
        if self.settings.trace {
            let text: Vec<_> = list.iter().map(|m| format!("{}{}", m.name, if m.learner { "(learner)" } else { "" })).collect();
            self.note(&format!("member {at} lists {} at entry {applied}", text.join(" ")));
        }
        self.members[at].list = list;
    }

    /// Looks at what a leader owes to others: its leadership to the votes of a majority, a commit to the disks of one. A change of
    /// members takes effect in the middle of a turn, so the voters before the turn count as well as those after it.
    pub fn look_at_leader(&mut self, at: usize, first: bool, status: &Status) {
        let own = self.members[at].id;
        let voters = [self.voters_of(at), self.members[at].voters.clone()];
        if first {
            let granted = self.ledger.votes.get(&(status.term, own));
            let votes = |id: MemberId| id == own || granted.is_some_and(|g| g.contains(&id));
            if !voters.iter().any(|v| has_quorum(v, votes)) {
                self.violation(format!("member {at} leads in term {} by the votes {granted:x?}, of {voters:x?}", status.term));
            }
        }
        let (term, seen) = self.members[at].committed;
        self.members[at].committed = (status.term, status.raft_index);
        // What was committed when it came to lead was committed by others.
        if first || term != status.term || status.raft_index <= seen {
            return;
        }
        let index = |id: MemberId| self.ledger.acked.get(&(status.term, id)).copied();
        let acked = |id: MemberId| id == own || index(id).is_some_and(|index| index >= status.raft_index);
        if !voters.iter().any(|v| has_quorum(v, acked)) {
            let acked: Vec<_> = voters[0].iter().map(|id| (*id, index(*id))).collect();
            let commit = status.raft_index;
            self.violation(format!(
                "member {at} commits entry {commit} in term {term}, acknowledged as {acked:x?}, of {voters:x?}"
            ));
        }
    }

    /// The members in the end: one list everywhere, and raft's configuration is that list.
    pub fn check_members(&self, found: &mut Vec<String>) {
        let listed = self.listed();
        let ids = |learner: bool| -> Vec<MemberId> {
            let rows = listed.iter().filter(|m: &&MemberRow| m.learner == learner);
            rows.map(|m| m.id).collect()
        };
        let wanted = (ids(false), ids(true));
        for (at, member) in self.members.iter().enumerate() {
            let Some(running) = member.running.as_ref().filter(|_| listed.iter().any(|m| m.id == member.id)) else { continue };
            let list = running.node.handle().shared().members();
            if list != listed {
                found.push(format!("member {at} ends with the members {list:?}, another with {listed:?}"));
            }
            let configuration = running.node.configuration();
            if configuration != wanted {
                found.push(format!("member {at} ends with raft's configuration {configuration:x?}, its list is {wanted:x?}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::eraftpb::Entry;

    fn status(last_index: u64) -> Status {
        Status {
            member_id: 2,
            cluster_id: 1,
            leader: 1,
            term: 3,
            raft_index: 5,
            applied_index: 5,
            last_index,
            last_term: 3,
            is_leader: false,
            is_learner: false,
        }
    }

    fn message(kind: MessageType, to: u64, index: u64) -> Message {
        let mut message = Message { from: 2, to, term: 3, index, ..Default::default() };
        message.set_msg_type(kind);
        message
    }

    /// An acknowledgement may not name what the log does not reach; one of an earlier term may, and a rejection says nothing.
    #[test]
    fn an_acknowledgement_beyond_the_log_is_found() {
        let mut ledger = Ledger::default();
        let ack = message(MessageType::MsgAppendResponse, 1, 9);
        assert_eq!(ledger.sent(&ack, &status(9)), Ok(()));
        assert!(ledger.sent(&ack, &status(8)).is_err());
        let old = Message { term: 2, ..ack.clone() };
        assert_eq!(ledger.sent(&old, &status(8)), Ok(()));
        let rejection = Message { reject: true, ..ack };
        assert_eq!(ledger.sent(&rejection, &status(8)), Ok(()));
    }

    /// A vote may be told twice, and given again in the next term, but not to two in one.
    #[test]
    fn a_second_vote_in_a_term_is_found() {
        let mut ledger = Ledger::default();
        let vote = |to| message(MessageType::MsgRequestVoteResponse, to, 0);
        assert_eq!(ledger.sent(&vote(1), &status(5)), Ok(()));
        assert_eq!(ledger.sent(&vote(1), &status(5)), Ok(()));
        assert_eq!(ledger.sent(&Message { term: 4, ..vote(3) }, &status(5)), Ok(()));
        assert!(ledger.sent(&vote(3), &status(5)).is_err());
    }

    /// Entries follow the one that their message names, without a gap.
    #[test]
    fn entries_that_do_not_follow_are_found() {
        let mut ledger = Ledger::default();
        let append = |indexes: &[u64]| {
            let entries: Vec<Entry> = indexes.iter().map(|i| Entry { index: *i, term: 3, ..Default::default() }).collect();
            Message { entries, ..message(MessageType::MsgAppend, 1, 7) }
        };
        for right in [&[][..], &[8], &[8, 9]] {
            assert_eq!(ledger.appended(&append(right), &status(9)), Ok(()));
        }
        for wrong in [&[7][..], &[9], &[8, 10]] {
            assert!(ledger.appended(&append(wrong), &status(9)).is_err(), "{wrong:?}");
        }
    }
}
