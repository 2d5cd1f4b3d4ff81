//! Consensus as a plain state machine: inputs and time in, effects out. Raft's node, storage and readies stay in this file.
//!
//! The caller carries effects out in this order: `log` groups to the log's thread, whose `after` messages leave only when the group
//! is durable; `send` to the peers at once (a leader's appends travel while its own disk writes); `committed` to the apply thread;
//! `reads` to whoever waits. Between two calls nothing else touches raft.
//!
//! Rules for the published raft-rs 0.7: proposals are stepped only on a leader and never empty; a lone voter does not tick towards
//! an election while its log is being written (`become_leader` asserts that everything is durable); a member that takes up a snapshot
//! does not stand for election until the machine has it; raft-rs may not batch appends: it puts entries of any index into a message
//! that has none, and the follower then acknowledges entries it does not have; every read round has a context of its own.

use super::backlog::Backlog;
use super::log_store::{LogStore, to_log, weight};
use super::rounds::{self, Rounds, last_heartbeats};
use super::slow_disk::Owed;
use crate::env::plant::{self, Plant};
use crate::wal::{Group, HardState as LogHardState, SnapshotMark};
use bytes::Bytes;
use prost::Message as _;
use raft::eraftpb::{ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType, Message, MessageType, Snapshot};
use raft::{ProgressState, RawNode, SnapshotStatus, StateRole, Storage};
use std::collections::VecDeque;
use std::time::Duration;

/// What raft is told at start.
#[derive(Clone, Debug)]
pub(super) struct DriverSettings {
    pub id: u64,
    pub election_ticks: usize,
    pub heartbeat_ticks: usize,
    pub pre_vote: bool,
    /// Index of the last entry the machine has applied durably.
    pub applied: u64,
    /// Draws the election timeouts; raft's own chances when `None`.
    pub seed: Option<u64>,
}

/// Group for the log, and the messages that may leave once it is durable.
pub(super) struct LogWrite {
    pub group: Group,
    pub after: Vec<Message>,
}

/// What the caller must do.
#[derive(Default)]
pub(super) struct Effects {
    pub log: Vec<LogWrite>,
    pub send: Vec<Message>,
    pub committed: Vec<Entry>,
    /// Read rounds that are answered: context and index.
    pub reads: Vec<(Vec<u8>, u64)>,
    /// A snapshot that raft accepted: install it before anything later is applied.
    pub snapshot: Option<Snapshot>,
}

/// Largest number of entry bytes in one append message.
const MAX_MESSAGE: u64 = 1 << 20;
/// Append messages on their way to one follower.
const MAX_INFLIGHT: usize = 128;
/// Entry bytes a leader holds that are not yet committed.
const MAX_UNCOMMITTED: u64 = 128 << 20;
/// Committed entry bytes handed out at once.
const MAX_COMMITTED: u64 = 16 << 20;
/// Groups the log may be behind by before nothing is taken from a leader: half of what its queue holds, since answers and votes must
/// still find room there.
const MAX_UNWRITTEN_GROUPS: usize = 512;
/// Entry bytes the log may be behind by.
const MAX_UNWRITTEN: usize = 128 << 20;
/// Committed entry bytes that apply may be behind by.
const MAX_UNAPPLIED: usize = 128 << 20;

pub(super) struct Driver {
    raw: RawNode<LogStore>,
    /// The groups the log is writing: their numbers, rising, and the last entry of each.
    writing: VecDeque<(u64, u64)>,
    /// Entries that the log is writing, by the numbers of their groups.
    unwritten_entries: Backlog,
    /// Committed entries that were given out and are not applied, by index.
    unapplied: Backlog,
    /// Entry bytes taken from a leader since the last ready.
    taken: usize,
    durable: u64,
    handed: u64,
    /// The last ready of which something went to the log; later ones had nothing to write.
    logged: u64,
    /// The last ready whose hard state had another term or vote than the one before, and that hard state.
    sworn: (u64, (u64, u64)),
    /// A commit index that is newer than the log's; it rides on the next group.
    unwritten: Option<LogHardState>,
    applied: u64,
    /// Index of the last committed entry that was given out.
    given: u64,
    /// The newest answer to an append that left: term, leader and index.
    answered: (u64, u64, u64),
    /// An append without entries told the leader's commit index to a member that had answered for this index already.
    told_commit: Option<u64>,
    chance: Option<u64>,
    /// Index of a snapshot that raft accepted and the machine has not taken up. Until then raft cannot read the entries between what
    /// is applied and the snapshot, and an election, which looks at them, would end the process.
    taking_up: Option<u64>,
    /// That entries are not taken for the time being was said.
    told_behind: bool,
    rounds: Rounds,
    /// Requests of members whose word completes the quorum; only a crowd's pause holds them.
    confirmed: Rounds,
    now: Duration,
}

impl Driver {
    pub fn new(settings: &DriverSettings, store: LogStore, logger: &slog::Logger) -> raft::Result<Self> {
        let config = raft::Config {
            id: settings.id,
            election_tick: settings.election_ticks,
            heartbeat_tick: settings.heartbeat_ticks,
            applied: settings.applied,
            max_size_per_msg: MAX_MESSAGE,
            max_inflight_msgs: MAX_INFLIGHT,
            max_uncommitted_size: MAX_UNCOMMITTED,
            max_committed_size_per_ready: MAX_COMMITTED,
            check_quorum: true,
            pre_vote: settings.pre_vote,
            batch_append: plant::is(Plant::BatchedAppend),
            ..Default::default()
        };
        let raw = RawNode::new(&config, store, logger)?;
        let mut driver = Self {
            raw,
            writing: VecDeque::new(),
            unwritten_entries: Backlog::default(),
            unapplied: Backlog::default(),
            taken: 0,
            durable: 0,
            handed: 0,
            logged: 0,
            sworn: (0, (0, 0)),
            unwritten: None,
            applied: settings.applied,
            given: settings.applied,
            answered: (0, 0, 0),
            told_commit: None,
            chance: settings.seed,
            taking_up: None,
            told_behind: false,
            rounds: Rounds::default(),
            confirmed: Rounds::default(),
            now: Duration::ZERO,
        };
        driver.draw_timeout();
        Ok(driver)
    }

    // === what raft knows ===

    pub fn term(&self) -> u64 {
        self.raw.raft.term
    }

    /// The leader's id; 0 when there is none.
    pub fn leader(&self) -> u64 {
        self.raw.raft.leader_id
    }

    pub fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    pub fn committed(&self) -> u64 {
        self.raw.raft.raft_log.committed
    }

    /// Index and term of the newest entry in the log, committed or not.
    pub fn last(&self) -> (u64, u64) {
        let log = &self.raw.raft.raft_log;
        let index = log.last_index();
        (index, log.term(index).unwrap_or(0))
    }

    /// A leader that has committed an entry of its own term knows everything that was committed before it.
    pub fn may_serve_reads(&self) -> bool {
        self.is_leader() && self.raw.raft.commit_to_current_term()
    }

    pub fn lone_voter(&self) -> bool {
        self.raw.raft.prs().is_singleton() && self.raw.raft.promotable()
    }

    /// True for a lone voter without learners: there is nobody to talk to.
    pub fn alone(&self) -> bool {
        self.lone_voter() && self.raw.raft.prs().iter().len() == 1
    }

    /// The newest index that raft knows to be applied.
    pub fn applied_index(&self) -> u64 {
        self.applied
    }

    pub fn conf_state(&self) -> ConfState {
        self.raw.raft.prs().conf().to_conf_state()
    }

    /// True when this member votes.
    pub fn is_voter(&self) -> bool {
        self.raw.raft.prs().conf().voters().contains(self.raw.raft.id)
    }

    /// How far a member's log is known to match ours, and how far ours is durable; `None` when it has no part in the
    /// configuration, or we do not lead.
    pub fn progress(&self, id: u64) -> Option<(u64, u64)> {
        if !self.is_leader() {
            return None;
        }
        let matched = |id| self.raw.raft.prs().get(id).map(|p| p.matched);
        Some((matched(id)?, matched(self.raw.raft.id)?))
    }

    pub fn transferring(&self) -> bool {
        self.raw.raft.lead_transferee.is_some()
    }

    /// The oldest group that the log has not made durable.
    pub fn owed(&self) -> Option<Owed> {
        self.writing.front().map(|(number, index)| Owed { number: *number, index: *index })
    }

    /// How far the other voters' logs are known to be durable; nothing when this member does not lead.
    pub fn voters(&self) -> Vec<(u64, u64)> {
        let own = self.raw.raft.id;
        let others = self.conf_state().voters.into_iter().filter(|id| *id != own);
        others.filter_map(|id| Some((id, self.progress(id)?.0))).collect()
    }

    /// Whether something is to happen as soon as the log has written what it was given. A follower's answers leave without the loop,
    /// and what it learns to be committed it mostly has on disk by then.
    pub fn waits_for_log(&self) -> bool {
        self.raw.raft.state != StateRole::Follower
            || self.committed() > self.given
            || self.taking_up.is_some()
            || self.sworn.0 > self.durable
    }

    /// How many groups the log is still writing.
    pub fn writing(&self) -> usize {
        self.writing.len()
    }

    /// True while so much waits for the log or for apply that entries are only lost on us: memory would have no bound when a disk
    /// stands still. Nothing but those threads' own progress ends it.
    pub fn is_behind(&self) -> bool {
        self.writing.len() >= MAX_UNWRITTEN_GROUPS
            || self.unwritten_entries.bytes() + self.taken >= MAX_UNWRITTEN
            || self.unapplied.bytes() >= MAX_UNAPPLIED
    }

    /// Half of that is there again: what is said of it is said once for each time.
    fn has_caught_up(&self) -> bool {
        self.writing.len() < MAX_UNWRITTEN_GROUPS / 2
            && self.unwritten_entries.bytes() + self.taken < MAX_UNWRITTEN / 2
            && self.unapplied.bytes() < MAX_UNAPPLIED / 2
    }

    /// Number of the newest ready handed to the log.
    pub fn handed(&self) -> u64 {
        self.handed
    }

    pub fn store(&mut self) -> &mut LogStore {
        self.raw.mut_store()
    }

    pub fn term_of(&self, index: u64) -> Option<u64> {
        self.raw.store().term(index).ok()
    }

    // === inputs ===

    pub fn tick(&mut self) {
        if (self.lone_voter() && !self.is_leader() && !self.writing.is_empty()) || self.taking_up.is_some() {
            return;
        }
        self.raw.tick();
        self.draw_timeout();
    }

    /// With a seed, replaces the timeout that raft drew by chance. It draws one only when it sets its election clock to zero, and
    /// looks at it at a later tick, so none of raft's own is ever used.
    fn draw_timeout(&mut self) {
        let Some(chance) = &mut self.chance else { return };
        if self.raw.raft.election_elapsed == 0 {
            let ticks = self.raw.raft.election_timeout() as u64;
            // Xorshift.
            *chance ^= *chance << 13;
            *chance ^= *chance >> 7;
            *chance ^= *chance << 17;
            self.raw.raft.set_randomized_election_timeout((ticks + *chance % ticks) as usize);
        }
    }

    /// A lone voter need not wait for its election timeout.
    pub fn campaign(&mut self) {
        if self.writing.is_empty() {
            let _ = self.raw.campaign();
            self.draw_timeout();
        }
    }

    /// Proposes one entry; false when raft takes none at the moment (no longer leader, transfer running, too much uncommitted).
    pub fn propose(&mut self, data: Bytes) -> bool {
        let entry = Entry { data, ..Default::default() };
        self.step_proposal(entry)
    }

    /// Proposes a change of the configuration; false as for [`Driver::propose`], and while another change is pending.
    pub fn propose_change(&mut self, change: &ConfChangeV2) -> bool {
        if self.raw.raft.has_pending_conf() {
            return false;
        }
        let mut entry = Entry { data: change.encode_to_vec().into(), ..Default::default() };
        entry.set_entry_type(EntryType::EntryConfChangeV2);
        self.step_proposal(entry)
    }

    fn step_proposal(&mut self, entry: Entry) -> bool {
        if !self.is_leader() {
            return false;
        }
        let mut message = Message { from: self.raw.raft.id, ..Default::default() };
        message.set_msg_type(MessageType::MsgPropose);
        message.set_entries(vec![entry]);
        self.raw.step(message).is_ok()
    }

    /// A message from a peer. Proposals never come this way, and an empty one would end the process: both are dropped.
    pub fn step(&mut self, message: Message) {
        match message.get_msg_type() {
            MessageType::MsgPropose => {}
            // Raft takes the one entry that holds the context for granted.
            MessageType::MsgReadIndex if message.entries.len() != 1 => {}
            MessageType::MsgReadIndex if self.is_leader() => self.read(message),
            // The leader sends it again, as what the network lost; its heartbeats are answered meanwhile.
            MessageType::MsgAppend if self.is_behind() => {
                if !std::mem::replace(&mut self.told_behind, true) {
                    tracing::warn!(
                        index = message.index,
                        "the log or its application is far behind; entries are not taken until it catches up"
                    );
                }
            }
            MessageType::MsgTimeoutNow if self.taking_up.is_some() => {
                tracing::info!("leadership was offered before a snapshot was in place; not taken");
            }
            _ => {
                if plant::is(Plant::VoteTwice) && message.get_msg_type() == MessageType::MsgRequestVote {
                    self.raw.raft.vote = raft::INVALID_ID;
                }
                self.forget_request(&message);
                let message = self.misread(message);
                let tells_commit = message.get_msg_type() == MessageType::MsgAppend && message.entries.is_empty();
                self.taken += message.entries.iter().map(weight).sum::<usize>();
                self.told_behind &= !self.has_caught_up();
                let (from, committed) = (message.from, self.committed());
                if let Err(e) = self.raw.step(message) {
                    tracing::debug!(error = %e, "raft refused a message");
                }
                let last = self.raw.raft.raft_log.last_index();
                if tells_commit && self.committed() > committed && self.answered == (self.term(), from, last) {
                    self.told_commit = Some(last);
                }
                self.draw_timeout();
            }
        }
    }

    /// A member that waits for a snapshot answers heartbeats with its wish. One that answers them as others do has given the wish up,
    /// and a leader that kept it would send it no entries.
    fn forget_request(&mut self, message: &Message) {
        if message.get_msg_type() == MessageType::MsgHeartbeatResponse
            && message.term == self.term()
            && let Some(progress) = self.raw.raft.mut_prs().get_mut(message.from)
            && progress.state != ProgressState::Snapshot
        {
            progress.pending_request_snapshot = raft::INVALID_INDEX;
        }
    }

    /// Takes a learner's word for a voter's, where that mistake is planted.
    fn misread(&self, mut message: Message) -> Message {
        if plant::is(Plant::LearnerAckCounts)
            && message.get_msg_type() == MessageType::MsgAppendResponse
            && !message.reject
            && self.conf_state().learners.contains(&message.from)
            && let Some(other) = self.conf_state().voters.into_iter().find(|id| *id != self.raw.raft.id)
        {
            message.from = other;
        }
        message
    }

    /// Starts a read round for so many readers, under `context`, which is never used twice.
    pub fn read_index(&mut self, context: Vec<u8>, readers: usize) {
        let request = rounds::request(context, readers);
        if self.is_leader() { self.read(request) } else { self.confirm(request) }
    }

    /// The time, by the member's clock; all that follows happens then.
    pub fn set_time(&mut self, now: Duration) {
        self.now = now;
    }

    pub fn time(&self) -> Duration {
        self.now
    }

    /// True while a leader waits for a quorum to confirm reads.
    pub fn confirms_reads(&self) -> bool {
        self.raw.raft.pending_read_count() > 0
    }

    /// When read requests that wait for nothing but time may go.
    pub fn reads_due(&self) -> Option<Duration> {
        let due = [self.rounds.due(self.confirms_reads()), self.confirmed.due(false)];
        due.into_iter().flatten().min()
    }

    /// Takes a leader's read request: it is answered, begins a round, or joins the one after that which is under way.
    fn read(&mut self, request: Message) {
        if self.confirms(request.from) {
            if let Some(request) = self.confirmed.admit(request, false, self.now) {
                self.answer(request);
            }
            return;
        }
        let under_way = self.confirms_reads();
        if let Some(request) = self.rounds.admit(request, under_way, self.now) {
            self.confirm(request);
        }
    }

    /// True when the word of the member that asks is enough. It asks after its readers came, and until then it has not helped to elect
    /// anybody in a later term; nor has this leader, until now. Where the two are a quorum of the voters there was no other leader
    /// before they asked, so what is committed here is all that was acknowledged by then.
    fn confirms(&self, from: u64) -> bool {
        let (peers, own) = (self.raw.raft.prs(), self.raw.raft.id);
        let vote = |id| peers.conf().voters().contains(id);
        let quorum = || plant::is(Plant::LoneVouch) || peers.has_quorum(&[own, from].into_iter().collect());
        from != own && vote(from) && vote(own) && quorum()
    }

    /// Answers a request that needs no round.
    fn answer(&mut self, request: Message) {
        // As raft itself does, a leader that does not know yet what is committed says nothing.
        if !self.may_serve_reads() {
            return;
        }
        let mut answer = Message { from: self.raw.raft.id, to: request.from, ..Default::default() };
        (answer.term, answer.index, answer.entries) = (self.term(), self.committed(), request.entries);
        answer.set_msg_type(MessageType::MsgReadIndexResp);
        self.raw.raft.msgs.push(answer);
    }

    fn confirm(&mut self, request: Message) {
        if let Err(e) = self.raw.raft.step(request) {
            tracing::debug!(error = %e, "raft refused a read request");
        }
    }

    /// Begins the round of those that waited for the one before.
    fn next_round(&mut self) {
        if !self.is_leader() {
            self.confirmed.clear();
            return self.rounds.clear();
        }
        for request in self.confirmed.next(false, self.now) {
            self.answer(request);
        }
        for request in self.rounds.next(self.confirms_reads(), self.now) {
            self.confirm(request);
        }
    }

    /// Asks the leader for a snapshot that takes the place of this member's rows, at or after the end of its log. Until it comes, or the
    /// wish is given up, this member takes no entries; what it has in its log stays, and its vote.
    pub fn request_snapshot(&mut self) -> bool {
        self.taking_up.is_none() && self.raw.request_snapshot().is_ok()
    }

    /// The least index of a snapshot that was asked for; `None` when none is awaited.
    pub fn requested(&self) -> Option<u64> {
        Some(self.raw.raft.pending_request_snapshot).filter(|index| *index != raft::INVALID_INDEX)
    }

    /// Takes entries again instead of waiting for a snapshot.
    pub fn give_up_request(&mut self) {
        self.raw.raft.pending_request_snapshot = raft::INVALID_INDEX;
    }

    pub fn transfer(&mut self, to: u64) {
        self.raw.transfer_leader(to);
    }

    pub fn report_unreachable(&mut self, id: u64) {
        self.raw.report_unreachable(id);
    }

    pub fn report_snapshot(&mut self, id: u64, ok: bool) {
        self.raw.report_snapshot(id, if ok { SnapshotStatus::Finish } else { SnapshotStatus::Failure });
    }

    /// The log has made every group up to `number` durable.
    pub fn persisted(&mut self, number: u64) {
        // Readies after the last logged one wait for nothing more than those before them.
        let number = if number >= self.logged { self.handed } else { number };
        if number > self.durable {
            self.durable = number;
            while self.writing.front().is_some_and(|(first, _)| *first <= number) {
                self.writing.pop_front();
            }
            self.unwritten_entries.done(number);
            self.raw.on_persist_ready(number);
        }
    }

    /// The machine has applied everything up to `index`.
    pub fn applied(&mut self, index: u64) {
        if index > self.applied {
            self.applied = index;
            self.unapplied.done(index);
            self.raw.advance_apply_to(index);
            let done = index;
            self.store().trim(done);
        }
        // A snapshot that replaces damaged rows may stand where the machine stands already.
        self.taking_up = self.taking_up.filter(|snapshot| *snapshot > index);
    }

    /// Makes a committed change of the configuration effective.
    pub fn apply_change(&mut self, change: &ConfChangeV2) -> raft::Result<ConfState> {
        let removes = change.get_changes().iter().any(|c| c.get_change_type() == ConfChangeType::RemoveNode);
        if plant::is(Plant::RemovedStillCounts) && removes {
            return Ok(self.conf_state());
        }
        let conf = self.raw.apply_conf_change(change)?;
        self.store().set_conf_state(conf.clone());
        self.draw_timeout();
        // Raft leaves a leader that is no voter any more in its place, and then asks for its own progress, which is gone.
        if self.is_leader() && !conf.voters.contains(&self.raw.raft.id) {
            let term = self.term();
            self.raw.raft.become_follower(term, raft::INVALID_ID);
            self.draw_timeout();
        }
        Ok(conf)
    }

    // === effects ===

    /// True when [`Driver::ready`] has something to give.
    pub fn has_ready(&self) -> bool {
        self.raw.has_ready()
    }

    /// Everything there is to do since the last call.
    pub fn ready(&mut self) -> Effects {
        let mut out = Effects::default();
        self.taken = 0;
        self.next_round();
        while self.raw.has_ready() {
            let mut ready = self.raw.ready();
            let mut messages = ready.take_messages();
            last_heartbeats(&mut messages);
            out.send.extend(messages);
            out.reads.extend(ready.take_read_states().into_iter().map(|r| (r.request_ctx, r.index)));
            let mut mark = None;
            if !ready.snapshot().is_empty() {
                let snapshot = ready.snapshot().clone();
                let meta = snapshot.get_metadata().clone();
                let conf = meta.get_conf_state().clone();
                mark = Some(SnapshotMark { index: meta.index, term: meta.term, conf: conf.encode_to_vec().into() });
                self.raw.mut_store().install(meta.index, meta.term, conf);
                self.given = self.given.max(meta.index);
                self.taking_up = Some(meta.index).filter(|_| !plant::is(Plant::ElectionDuringInstall));
                out.snapshot = Some(snapshot);
            }
            self.raw.mut_store().append(ready.entries());
            let hard_state = ready.hs().cloned();
            if let Some(hs) = &hard_state {
                self.raw.mut_store().set_hard_state(hs.clone());
            }
            let committed = ready.take_committed_entries();
            let changes_members = committed.iter().any(|e| e.get_entry_type() == EntryType::EntryConfChangeV2);
            out.committed.extend(committed);
            self.given = out.committed.last().map_or(self.given, |e| self.given.max(e.index));
            let hard_state = hard_state.map(|hs| LogHardState { term: hs.term, vote: hs.vote, commit: hs.commit });
            if let Some(hs) = &hard_state
                && self.sworn.1 != (hs.term, hs.vote)
            {
                self.sworn = (ready.number(), (hs.term, hs.vote));
            }
            let mut after = ready.take_persisted_messages();
            self.drop_echo(&mut after);
            // A heartbeat is answered at once, and a read asked for: all they say is that this member is in that term, which its disk
            // knows already.
            if self.sworn.0 <= self.durable {
                let speaks_of_term =
                    |m: &mut Message| matches!(m.get_msg_type(), MessageType::MsgHeartbeatResponse | MessageType::MsgReadIndex);
                out.send.extend(after.extract_if(.., speaks_of_term));
            }
            let settles = changes_members && (hard_state.is_some() || self.unwritten.is_some());
            let must_sync = ready.must_sync() || mark.is_some() || settles;
            self.handed = ready.number();
            // A commit index alone is not worth a write: a member that forgets it learns it again, from its leader or by leading. Not so
            // that of a change of members: who was removed is told and stops, and the others, back from a power cut and one short, would
            // count on it for a quorum.
            if !must_sync && ready.entries().is_empty() && after.is_empty() {
                self.unwritten = hard_state.or(self.unwritten.take());
                self.raw.advance_append_async(ready);
                if self.durable >= self.logged {
                    self.persisted(self.logged);
                }
                continue;
            }
            let group = Group {
                number: ready.number(),
                hard_state: hard_state.or(self.unwritten.take()),
                entries: ready.entries().iter().map(to_log).collect(),
                must_sync,
                snapshot: mark,
            };
            out.log.push(LogWrite { group, after });
            self.logged = self.handed;
            self.writing.push_back((self.handed, self.raw.raft.raft_log.last_index()));
            self.unwritten_entries.add(self.handed, ready.entries().iter().map(weight).sum());
            self.raw.advance_append_async(ready);
        }
        if let Some(last) = out.committed.last() {
            self.unapplied.add(last.index, out.committed.iter().map(weight).sum());
        }
        out
    }
}

impl Driver {
    /// Takes the answer to an append that only told the commit index out of what is to leave: the leader has had the same answer, and
    /// nothing it does depends on a second. At most one is left out for each commit index, so that a leader that lost the first one
    /// gets another with the next append.
    fn drop_echo(&mut self, after: &mut Vec<Message>) {
        let is_answer = |m: &Message| m.get_msg_type() == MessageType::MsgAppendResponse && !m.reject;
        if let Some(index) = self.told_commit.take()
            && let Some(at) = after.iter().rposition(|m| is_answer(m) && m.index == index)
        {
            after.remove(at);
        }
        if let Some(m) = after.iter().rfind(|m| is_answer(m)) {
            self.answered = (m.term, m.to, m.index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lone() -> Driver {
        let conf = ConfState { voters: vec![1], ..Default::default() };
        let state = raft::eraftpb::HardState { term: 1, commit: 1, ..Default::default() };
        let store = LogStore::new(state, conf, (1, 1), Vec::new(), 1 << 20);
        let settings = DriverSettings { id: 1, election_ticks: 10, heartbeat_ticks: 1, pre_vote: true, applied: 1, seed: None };
        Driver::new(&settings, store, &slog::Logger::root(slog::Discard, slog::o!())).expect("a driver")
    }

    fn leader_of_two() -> Driver {
        leader_of(ConfState { voters: vec![1, 2], ..Default::default() })
    }

    /// A leader, by the votes of 2 and 3; what it sends is thrown away.
    fn leader_of(conf: ConfState) -> Driver {
        let state = raft::eraftpb::HardState { term: 1, commit: 1, ..Default::default() };
        let store = LogStore::new(state, conf, (1, 1), Vec::new(), 1 << 20);
        let settings = DriverSettings { id: 1, election_ticks: 10, heartbeat_ticks: 1, pre_vote: false, applied: 1, seed: None };
        let mut driver = Driver::new(&settings, store, &slog::Logger::root(slog::Discard, slog::o!())).expect("a driver");
        driver.campaign();
        settle(&mut driver);
        for id in [2, 3] {
            let mut vote = from_two(MessageType::MsgRequestVoteResponse, &driver);
            vote.from = id;
            driver.step(vote);
        }
        settle(&mut driver);
        assert!(driver.is_leader());
        driver
    }

    fn from_two(kind: MessageType, driver: &Driver) -> Message {
        let mut message = Message { from: 2, to: 1, term: driver.term(), ..Default::default() };
        message.set_msg_type(kind);
        message
    }

    /// A read request without the entry that holds its context is dropped; raft would take it for granted and end the process.
    #[test]
    fn a_read_request_without_a_context_is_dropped() {
        let mut driver = leader_of_two();
        let mut done = from_two(MessageType::MsgAppendResponse, &driver);
        done.index = driver.raw.raft.raft_log.last_index();
        driver.step(done);
        settle(&mut driver);
        assert!(driver.may_serve_reads(), "before, raft drops read requests unread");
        driver.step(from_two(MessageType::MsgReadIndex, &driver));
        assert_eq!(driver.raw.raft.pending_read_count(), 0);
    }

    /// A member that answers a heartbeat as others do has given up the snapshot it asked for: it is sent entries again.
    #[test]
    fn a_wish_for_a_snapshot_ends_with_a_plain_answer() {
        let mut driver = leader_of_two();
        driver.raw.raft.mut_prs().get_mut(2).expect("a peer").pending_request_snapshot = 7;
        driver.step(from_two(MessageType::MsgHeartbeatResponse, &driver));
        assert_eq!(driver.raw.raft.prs().get(2).expect("a peer").pending_request_snapshot, raft::INVALID_INDEX);
    }

    /// Makes everything handed to the log durable, round by round, and returns the groups and the committed entries.
    fn settle(driver: &mut Driver) -> (Vec<Group>, Vec<Entry>) {
        let (mut groups, mut committed) = (Vec::new(), Vec::new());
        loop {
            let effects = driver.ready();
            committed.extend(effects.committed);
            if effects.log.is_empty() {
                return (groups, committed);
            }
            for write in effects.log {
                driver.persisted(write.group.number);
                groups.push(write.group);
            }
        }
    }

    /// A new commit index alone is not written: it rides on the next group, nothing counts as being written meanwhile, and every
    /// proposal costs one group.
    #[test]
    fn commit_index_rides_along() {
        let mut driver = lone();
        driver.campaign();
        let (groups, _) = settle(&mut driver);
        assert!(driver.is_leader() && groups.iter().all(|g| g.must_sync));
        for i in 0..3u8 {
            let before = driver.committed();
            assert!(driver.propose(Bytes::from(vec![i])));
            let (groups, committed) = settle(&mut driver);
            assert_eq!((groups.len(), committed.len(), driver.writing()), (1, 1, 0));
            assert_eq!(groups[0].hard_state.map(|h| h.commit), Some(before), "the group carries what was committed before it");
            assert_eq!(driver.committed(), before + 1);
        }
    }

    /// That a change of members is committed is written and synced at once: whoever comes back from a power cut counts quorums by it.
    #[test]
    fn the_commit_of_a_change_of_members_is_written() {
        let mut driver = lone();
        driver.campaign();
        settle(&mut driver);
        let added =
            raft::eraftpb::ConfChangeSingle { change_type: raft::eraftpb::ConfChangeType::AddLearnerNode.into(), node_id: 2 };
        assert!(driver.propose_change(&ConfChangeV2 { changes: vec![added], ..Default::default() }));
        let (groups, committed) = settle(&mut driver);
        let index = committed.iter().find(|e| e.get_entry_type() == EntryType::EntryConfChangeV2).expect("it is committed").index;
        let last = groups.last().expect("a group");
        assert_eq!((last.must_sync, last.hard_state.map(|h| h.commit)), (true, Some(index)));
    }

    /// The answer of a leader to read requests of a voter, in the next thing it sends.
    fn answers(driver: &mut Driver, from: u64) -> usize {
        let mut request = rounds::request(b"context1".to_vec(), 1);
        (request.from, request.to) = (from, 1);
        driver.step(request);
        let sent = driver.ready().send;
        sent.iter().filter(|m| m.get_msg_type() == MessageType::MsgReadIndexResp && m.to == from).count()
    }

    /// Of three voters the one that asks and the leader are a quorum: it is answered at once. Of four they are not, and a learner's word
    /// never counts.
    #[test]
    fn a_voter_that_asks_confirms_the_leader() {
        for (voters, learners, from, at_once) in [
            (vec![1, 2], vec![], 2, 1),
            (vec![1, 2, 3], vec![], 2, 1),
            (vec![1, 2, 3, 4], vec![], 2, 0),
            (vec![1, 2, 3], vec![4], 4, 0),
        ] {
            let mut driver = leader_of(ConfState { voters, learners, ..Default::default() });
            assert_eq!(answers(&mut driver, from), 0, "before its term's first commit a leader cannot tell");
            for id in [2, 3] {
                let mut done = from_two(MessageType::MsgAppendResponse, &driver);
                (done.from, done.index) = (id, driver.raw.raft.raft_log.last_index());
                driver.step(done);
            }
            settle(&mut driver);
            assert!(driver.may_serve_reads());
            assert_eq!(answers(&mut driver, from), at_once);
        }
    }

    /// A commit index that arrives while a group is being written is settled by that group's end.
    #[test]
    fn commit_during_a_write() {
        let mut driver = lone();
        driver.campaign();
        settle(&mut driver);
        assert!(driver.propose(Bytes::from_static(b"a")));
        let first = driver.ready().log.pop().expect("a group").group.number;
        assert!(driver.propose(Bytes::from_static(b"b")));
        let second = driver.ready().log.pop().expect("a group").group.number;
        driver.persisted(first);
        assert!(driver.ready().log.is_empty());
        assert!(second < driver.handed, "the new commit index had a ready of its own");
        assert_eq!(driver.writing(), 1, "which the log does not write");
        driver.persisted(second);
        assert_eq!(driver.writing(), 0);
    }

    /// A heartbeat is answered while the log still writes entries, but not before the term it speaks of is on disk.
    #[test]
    fn heartbeats_are_answered_without_waiting_for_entries() {
        let conf = ConfState { voters: vec![1, 2, 3], ..Default::default() };
        let state = raft::eraftpb::HardState { term: 1, commit: 1, ..Default::default() };
        let store = LogStore::new(state, conf, (1, 1), Vec::new(), 1 << 20);
        let settings = DriverSettings { id: 2, election_ticks: 10, heartbeat_ticks: 1, pre_vote: true, applied: 1, seed: None };
        let mut driver = Driver::new(&settings, store, &slog::Logger::root(slog::Discard, slog::o!())).unwrap();
        let message = |kind: MessageType| {
            let mut message = Message { from: 1, to: 2, term: 2, ..Default::default() };
            message.set_msg_type(kind);
            message
        };
        let answers =
            |messages: &[Message]| messages.iter().filter(|m| m.get_msg_type() == MessageType::MsgHeartbeatResponse).count();
        driver.step(message(MessageType::MsgHeartbeat));
        let first = driver.ready();
        assert_eq!(answers(&first.send), 0, "the new term is not on disk");
        assert_eq!(first.log.iter().map(|w| answers(&w.after)).sum::<usize>(), 1);
        driver.persisted(first.log.last().expect("the term is written").group.number);
        let mut append = message(MessageType::MsgAppend);
        (append.index, append.log_term) = (1, 1);
        append.set_entries(vec![Entry { index: 2, term: 2, data: Bytes::from_static(b"a"), ..Default::default() }]);
        driver.step(append);
        assert_eq!(driver.ready().log.len(), 1, "the disk is at work");
        assert_eq!(driver.owed().map(|o| o.index), Some(2));
        driver.step(message(MessageType::MsgHeartbeat));
        let next = driver.ready();
        assert_eq!((answers(&next.send), next.log.len()), (1, 0));
    }

    /// A member whose apply stands still takes no more than a bound of entries, answers heartbeats all the while, and takes entries again
    /// once apply goes on.
    #[test]
    fn a_follower_whose_apply_stands_still_takes_a_bounded_part() {
        let conf = ConfState { voters: vec![1, 2, 3], ..Default::default() };
        let state = raft::eraftpb::HardState { term: 2, commit: 1, ..Default::default() };
        let store = LogStore::new(state, conf, (1, 1), Vec::new(), 1 << 20);
        let settings = DriverSettings { id: 2, election_ticks: 10, heartbeat_ticks: 1, pre_vote: true, applied: 1, seed: None };
        let mut driver = Driver::new(&settings, store, &slog::Logger::root(slog::Discard, slog::o!())).unwrap();
        let data = Bytes::from(vec![7; 1 << 20]);
        let append = |driver: &mut Driver| {
            let (last, term) = driver.last();
            let mut message = Message { from: 1, to: 2, term: 2, index: last, log_term: term, commit: last, ..Default::default() };
            message.set_msg_type(MessageType::MsgAppend);
            message.set_entries(vec![Entry { index: last + 1, term: 2, data: data.clone(), ..Default::default() }]);
            driver.step(message);
            settle(driver);
            driver.last().0 > last
        };
        let most = MAX_UNAPPLIED / data.len() + 2;
        let taken = (0..2 * most).take_while(|_| append(&mut driver)).count();
        assert!((most / 2..=most).contains(&taken), "{taken} entries of 1 MiB were taken");
        let mut heartbeat = Message { from: 1, to: 2, term: 2, ..Default::default() };
        heartbeat.set_msg_type(MessageType::MsgHeartbeat);
        driver.step(heartbeat);
        let answers = driver.ready().send;
        assert!(answers.iter().any(|m| m.get_msg_type() == MessageType::MsgHeartbeatResponse));
        driver.applied(10);
        assert!(append(&mut driver), "it takes entries again");
    }

    /// A member that is offered leadership, or whose election timeout runs out, while its snapshot is being put in place waits for it.
    #[test]
    fn no_election_before_a_snapshot_is_in_place() {
        let settings = DriverSettings { id: 2, election_ticks: 10, heartbeat_ticks: 1, pre_vote: true, applied: 0, seed: None };
        let store = LogStore::new(Default::default(), ConfState::default(), (0, 0), Vec::new(), 1 << 20);
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let mut driver = Driver::new(&settings, store, &logger).unwrap();
        let mut snapshot = Snapshot::default();
        let meta = snapshot.mut_metadata();
        (meta.index, meta.term) = (4, 2);
        meta.set_conf_state(ConfState { voters: vec![1, 2], ..Default::default() });
        let mut message = Message { from: 1, to: 2, term: 2, ..Default::default() };
        message.set_msg_type(MessageType::MsgSnapshot);
        message.set_snapshot(snapshot);
        driver.step(message);
        let effects = driver.ready();
        assert!(effects.snapshot.is_some());
        let number = effects.log.last().unwrap().group.number;
        driver.persisted(number);

        let offer = || {
            let mut offer = Message { from: 1, to: 2, term: 2, ..Default::default() };
            offer.set_msg_type(MessageType::MsgTimeoutNow);
            offer
        };
        driver.step(offer());
        (0..50).for_each(|_| driver.tick());
        assert_eq!(driver.term(), 2);
        driver.applied(4);
        driver.step(offer());
        assert_eq!(driver.term(), 3, "it stands now");
    }
}
