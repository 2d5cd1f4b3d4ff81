//! The loop: one thread that feeds the driver and carries out its effects.
//!
//! Order of effects, each with its why: log groups first (their write is the slowest step), then a leader's messages (they travel
//! while its disk writes), then committed entries to the apply thread, then read rounds. A follower's answers leave from the log's
//! own callback, after the sync that covers them.
//! What the loop does for snapshots, proposals and reads has a file each below this one.

mod proposals;
mod reads;
mod snapshots;

use super::apply::ApplyTask;
use super::driver::{Driver, Effects};
use super::handle::{Gauges, Inner, ProposeError, Reply};
use super::integrity::Integrity;
use super::keeper::ViewFor;
use crate::env::plant::{self, Plant};
use crate::env::{end, failpoint};
use crate::queue::{Class, Classes, Receiver, Sender};
use crate::snapshot::{SnapshotError, View};
use crate::state::{Answer, ApplyError, Position};
use crate::types::MemberId;
use crate::wal::{Group, SnapshotMark, WalError, WalTask, WalWriter};
use bytes::{BufMut, Bytes, BytesMut};
use crossbeam_channel::RecvTimeoutError;
use proposals::Proposals;
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};
use quorate_proto::entry::{self, Command, Proposal, command::Op};
use quorate_proto::state::{Configuration, MemberChange, MemberChangeKind};
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState, Entry, Message, MessageType, Snapshot};
use reads::{Fresh, Round};
use snapshots::{Installing, ViewUse};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot;

/// Raft messages to one peer.
pub struct PeerMessage {
    pub to: MemberId,
    pub message: Message,
}

/// The way to the peers. Calls never block: what cannot be queued is dropped and reported as unreachable.
pub trait PeerSink: Send + Sync {
    fn send(&self, messages: Vec<Message>);
    /// Hands encoded proposals of our clients to the leader.
    fn forward(&self, leader: MemberId, proposals: Vec<Bytes>);
}

/// Raft's configuration as the rows keep it.
pub(super) fn conf_state(c: Configuration) -> ConfState {
    ConfState {
        voters: c.voters,
        learners: c.learners,
        voters_outgoing: c.voters_outgoing,
        learners_next: c.learners_next,
        auto_leave: c.auto_leave,
    }
}

/// A lone member has nobody to talk to.
impl PeerSink for () {
    fn send(&self, _: Vec<Message>) {}
    fn forward(&self, _: MemberId, _: Vec<Bytes>) {}
}

/// The log as the loop sees it: what is submitted is written in order, and answered by [`Input::Persisted`].
pub(super) trait Log: Send {
    /// False when nothing is written any more.
    fn submit(&self, task: WalTask<Vec<Message>>) -> bool;
    /// Writes a task at once, on the calling thread, when nothing else is being written: the number it is durable up to, for which no
    /// [`Input::Persisted`] comes. Otherwise the task comes back.
    #[expect(clippy::result_large_err, reason = "the task goes on to the log's thread; in a box each would cost an allocation")]
    fn write_now(&self, task: WalTask<Vec<Message>>) -> Result<u64, WalTask<Vec<Message>>> {
        Err(task)
    }
    /// Gives up what is only needed up to an index; may be passed over, a later purge makes up for it.
    fn purge(&self, index: u64);
    fn close(self: Box<Self>) -> Result<(), WalError>;
}

impl Log for WalWriter<Vec<Message>> {
    fn submit(&self, task: WalTask<Vec<Message>>) -> bool {
        WalWriter::submit(self, task).is_ok()
    }

    fn write_now(&self, task: WalTask<Vec<Message>>) -> Result<u64, WalTask<Vec<Message>>> {
        WalWriter::write_now(self, task).map(|durable| durable.number)
    }

    fn purge(&self, index: u64) {
        WalWriter::purge(self, index);
    }

    fn close(self: Box<Self>) -> Result<(), WalError> {
        WalWriter::close(*self)
    }
}

/// Inputs for which the loop does not always wake, see [`Loop::wakes_for`].
pub(super) const PROPOSAL: Class = Class::patient(1);
/// Word from the log.
pub(super) const PERSISTED: Class = Class::patient(2);
/// A reader, or another member's request to read.
pub(super) const READ: Class = Class::patient(3);
pub(super) const READ_REQUEST: Class = Class::patient(4);
/// An answer that changes nothing: it is taken with the next input, at the latest with the next tick.
pub(super) const ECHO: Class = Class::patient(5);

/// How urgent a peer's messages are. Who answers that it has exactly what is committed moves nothing: the quorum was complete without
/// it; nor does a second answer to a round that one has confirmed.
pub(super) fn class_of(messages: &[Message], gauges: &Gauges) -> Class {
    let committed = gauges.committed.load(Ordering::Acquire);
    let confirming = gauges.confirming.load(Ordering::Acquire);
    let is_echo = |m: &Message| match m.get_msg_type() {
        MessageType::MsgAppendResponse => !m.reject && m.context.is_empty() && m.index == committed,
        MessageType::MsgHeartbeatResponse => !m.context.is_empty() && !confirming,
        _ => false,
    };
    if messages.iter().all(is_echo) {
        return ECHO;
    }
    let asks = |m: &Message| m.get_msg_type() == MessageType::MsgReadIndex;
    if messages.iter().all(asks) { READ_REQUEST } else { Class::URGENT }
}

pub(super) enum Input {
    /// An encoded proposal.
    Propose(Bytes),
    ChangeMembers(MemberChange),
    /// A reader waits under this sequence.
    Read(u64),
    Transfer {
        to: MemberId,
        sequence: u64,
    },
    Peer(Vec<Message>),
    Persisted(u64),
    Applied(u64),
    /// A snapshot is in place, up to this index.
    Installed(u64),
    /// The machine allowed a committed configuration change; the new state goes back.
    ApplyChange {
        change: ConfChangeV2,
        reply: Sender<ConfState>,
    },
    /// A checkpoint made everything up to this position durable.
    Checkpointed(Position),
    Unreachable(MemberId),
    SnapshotStatus {
        id: MemberId,
        ok: bool,
    },
    /// The view that was asked for on behalf of followers; `None` when it could not be made.
    ViewReady(Option<Arc<View>>),
    /// Somebody wants a view of their own.
    Pin(oneshot::Sender<Result<Arc<View>, SnapshotError>>),
    /// A snapshot, its rows complete or none there; told whether raft takes it.
    Snapshot {
        message: Message,
        complete: bool,
        answer: oneshot::Sender<bool>,
    },
    Stop,
}

/// Groups the log may be writing before further proposals wait to share an entry: with one, what came during a sync shares the next.
const MAX_WRITING: usize = 1;
/// Inputs taken at once.
const MAX_INPUTS: usize = 1024;

pub(super) struct Loop {
    pub driver: Driver,
    pub inner: Arc<Inner>,
    pub inbox: Receiver<Input>,
    pub wal: Box<dyn Log>,
    pub apply: Sender<ApplyTask>,
    pub peers: Arc<dyn PeerSink>,
    pub tick: Duration,
    /// Entries kept for followers that lag, before the durable applied position.
    pub catch_up_entries: u64,
    pub no_sync: bool,
    waiting: Proposals,
    /// Proposals that this member makes as the leader. They count only while it leads: they are never forwarded.
    own: VecDeque<Bytes>,
    /// Readers for the next round, and when each came.
    readers: Vec<(Duration, u64)>,
    round: Option<Round>,
    next_context: u64,
    /// Rounds that are answered and wait for the machine: index and readers.
    answered: Vec<(u64, Vec<u64>)>,
    transfer: Option<(MemberId, u64)>,
    changes: VecDeque<MemberChange>,
    last_time_ms: i64,
    fresh: Fresh,
    /// As `fresh`, of any leader: when its machine has what the leaders before it left.
    caught_up: Fresh,
    /// The leases' clock runs here.
    keeps_time: bool,
    /// A view was asked for and has not come.
    view_asked: bool,
    /// How the view for followers is getting on.
    view_use: ViewUse,
    installing: Option<Installing>,
    /// The log is durable up to here, by a write of this thread; the driver is to be told.
    written: Option<u64>,
    integrity: Integrity,
}

impl Loop {
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        driver: Driver,
        inner: Arc<Inner>,
        inbox: Receiver<Input>,
        wal: Box<dyn Log>,
        apply: Sender<ApplyTask>,
        peers: Arc<dyn PeerSink>,
        tick: Duration,
        catch_up_entries: u64,
        no_sync: bool,
        last_time_ms: i64,
        life: u32,
        integrity: Integrity,
    ) -> Self {
        // Contexts of an earlier life may still be answered: those of two lives differ.
        let next_context = u64::from(life) << 32;
        Self {
            driver,
            inner,
            inbox,
            wal,
            apply,
            peers,
            tick,
            catch_up_entries,
            no_sync,
            waiting: Proposals::default(),
            own: VecDeque::new(),
            readers: Vec::new(),
            round: None,
            next_context,
            answered: Vec::new(),
            transfer: None,
            changes: VecDeque::new(),
            last_time_ms,
            fresh: Fresh::default(),
            caught_up: Fresh::default(),
            keeps_time: false,
            view_asked: false,
            view_use: ViewUse::default(),
            installing: None,
            written: None,
            integrity,
        }
    }

    /// Runs until told to stop.
    pub fn run(mut self) {
        self.begin();
        let mut next_tick = self.inner.time.now() + self.tick;
        'run: loop {
            self.work();
            // Apply looks at the wish after it moved the index, and the index is looked at after the wish was spoken: one sees the other.
            let waits = self.waits_for_apply();
            self.inner.applied_wanted.store(waits, Ordering::SeqCst);
            std::sync::atomic::fence(Ordering::SeqCst);
            let moved = waits && self.installing.is_none() && self.inner.shared.applied_index() > self.driver.applied_index();
            let wake = self.driver.reads_due().map_or(next_tick, |due| due.min(next_tick));
            let wait = if moved { Duration::ZERO } else { wake.saturating_sub(self.inner.time.now()) };
            let mut taken = 0;
            let mut input = match self.inbox.recv_some_timeout(self.wakes_for(), wait) {
                Ok(input) => Some(input),
                Err(RecvTimeoutError::Timeout) => self.inbox.try_recv().ok(),
                Err(RecvTimeoutError::Disconnected) => break,
            };
            while let Some(i) = input {
                if matches!(i, Input::Stop) {
                    break 'run;
                }
                self.take(i);
                taken += 1;
                input = if taken < MAX_INPUTS { self.inbox.try_recv().ok() } else { None };
            }
            let now = self.inner.time.now();
            if now >= next_tick {
                if self.driver.is_leader() && now.saturating_sub(next_tick) >= self.tick {
                    self.inner.meter.late_heartbeat();
                }
                self.tick(now);
                // Time lost to a pause is not made up for by a burst of ticks.
                next_tick = (next_tick + self.tick).max(now);
            }
        }
        self.inner.store.close();
        // A view holds its rows' files; nobody is sent it any more.
        *self.inner.view.lock() = None;
        let _ = self.apply.send(ApplyTask::Stop);
        if let Err(e) = self.wal.close() {
            tracing::error!(error = %e, "the log did not close cleanly");
        }
    }

    /// What the loop has a use for at once.
    fn wakes_for(&self) -> Classes {
        // While the log writes all that it may, more proposals would only be put aside: they can wait for it too.
        let proposals = !self.driver.is_leader() || self.driver.writing() < MAX_WRITING;
        // While a round is under way readers only gather for the next.
        Classes::URGENT
            .and(PROPOSAL, proposals)
            .and(PERSISTED, self.driver.waits_for_log())
            .and(READ, self.round.is_none())
            .and(READ_REQUEST, !self.driver.confirms_reads())
    }

    /// What comes before the first input.
    pub fn begin(&mut self) {
        if self.driver.lone_voter() {
            self.driver.campaign();
        }
    }

    /// One tick of raft's clock, and all that waits for time to pass.
    pub fn tick(&mut self, now: Duration) {
        self.driver.set_time(now);
        self.driver.tick();
        self.forget_the_late(now);
        self.retry_reads(now);
        self.expire_leases(now);
        self.drop_old_view(now);
        for op in self.integrity.tick(&mut self.driver, &self.inner, now) {
            self.propose_own(op);
        }
    }

    /// Lets go of what nobody waits for any more: while there is no leader it would pile up, and be carried out long after its client
    /// was told that it timed out.
    fn forget_the_late(&mut self, now: Duration) {
        let timeout = self.inner.limits.timeout;
        self.waiting.forget(now, timeout);
        self.readers.retain(|(came, _)| now.saturating_sub(*came) < timeout);
    }

    pub fn take(&mut self, input: Input) {
        match input {
            Input::Propose(bytes) => {
                self.waiting.push(self.driver.time(), bytes);
            }
            Input::ChangeMembers(change) => self.take_change(change),
            Input::Read(sequence) => self.readers.push((self.driver.time(), sequence)),
            Input::Transfer { to, sequence } => self.start_transfer(to, sequence),
            Input::Peer(messages) => {
                for mut message in messages {
                    self.integrity.hear(&mut message, &self.inner);
                    // A snapshot counts only with its rows, and those come another way.
                    if message.get_msg_type() != MessageType::MsgSnapshot {
                        self.driver.step(message);
                    }
                }
            }
            Input::Persisted(number) => self.persisted(number),
            Input::ViewReady(view) => self.view_ready(view),
            Input::Pin(answer) => drop(self.apply.send(ApplyTask::View(ViewFor::Reader(answer)))),
            Input::Snapshot { message, complete, answer } => drop(answer.send(self.take_snapshot(message, complete))),
            Input::Applied(index) => self.applied(index),
            Input::Installed(index) => {
                self.installed(index);
                self.applied(index);
            }
            Input::ApplyChange { change, reply } => {
                let _ = reply.send(self.reconfigure(&change));
            }
            Input::Checkpointed(position) => self.checkpointed(position),
            Input::Unreachable(id) => self.driver.report_unreachable(id),
            Input::SnapshotStatus { id, ok } => self.view_sent(id, ok),
            Input::Stop => {}
        }
    }

    /// Makes a committed change of the configuration effective and gives the new one.
    pub fn reconfigure(&mut self, change: &ConfChangeV2) -> ConfState {
        // A view from before the change does not know the members it brought, and they would refuse it.
        self.driver.store().snapshot_state().ready = None;
        *self.inner.view.lock() = None;
        match self.driver.apply_change(change) {
            Ok(conf) => conf,
            Err(e) => {
                tracing::error!(error = %e, "raft refused a configuration change");
                self.driver.conf_state()
            }
        }
    }

    /// Moves everything that can move.
    pub fn work(&mut self) {
        loop {
            self.advance();
            // What was carried out may call for more at once: a write that is done already, the round after one that was answered.
            match self.written.take() {
                Some(number) => self.persisted(number),
                None if self.driver.has_ready() => {}
                None => break,
            }
        }
        self.publish();
    }

    fn advance(&mut self) {
        self.driver.set_time(self.inner.time.now());
        self.look_at_applied();
        self.propose();
        self.start_round();
        let effects = self.driver.ready();
        self.carry_out(effects);
        let fenced = self.inner.is_fenced();
        if fenced {
            // Rows that are not to be trusted must not become another member's.
            self.driver.store().snapshot_state().ready = None;
            *self.inner.view.lock() = None;
        }
        if !self.view_asked && !fenced && std::mem::take(&mut self.driver.store().snapshot_state().wanted) {
            self.view_asked = true;
            let _ = self.apply.send(ApplyTask::View(ViewFor::Followers));
        }
    }

    fn persisted(&mut self, number: u64) {
        self.driver.persisted(number);
        self.install(number);
    }

    /// Takes note of what was applied since the last turn. Apply sends no word of it while nobody waits for it: see
    /// [`Loop::waits_for_apply`].
    fn look_at_applied(&mut self) {
        self.applied(self.inner.shared.applied_index());
    }

    fn applied(&mut self, index: u64) {
        // While a snapshot is taken up only its own end counts: entries before it may end at the very same index.
        if self.installing.is_some() {
            return;
        }
        self.driver.applied(index);
        self.release_reads(index);
    }

    /// Whether something is to happen as soon as apply goes on.
    fn waits_for_apply(&self) -> bool {
        let g = &self.inner.gauges;
        let becoming =
            self.driver.is_leader() && !(self.keeps_time && (g.reads_are_fresh.load(Ordering::Relaxed) || !self.driver.alone()));
        becoming || !self.answered.is_empty() || self.installing.is_some()
    }

    // === leadership ===

    fn start_transfer(&mut self, to: MemberId, sequence: u64) {
        let refuse = |e| self.inner.ports.answer([(sequence, Reply::Transferred(Err(e)))]);
        if !self.driver.is_leader() {
            return refuse(ProposeError::NotLeader);
        }
        if !self.driver.conf_state().voters.contains(&to) {
            return refuse(ProposeError::BadTransferee);
        }
        self.driver.transfer(to);
        self.transfer = Some((to, sequence));
    }

    /// Makes the newest state visible to the other threads.
    fn publish(&mut self) {
        if plant::is(Plant::EarlyLeaseClock) && self.driver.is_leader() && !self.inner.gauges.is_leader.load(Ordering::Acquire) {
            self.led(self.inner.time.now());
        }
        let g = &self.inner.gauges;
        let (leader, leading) = (self.driver.leader(), self.driver.is_leader());
        g.term.store(self.driver.term(), Ordering::Release);
        g.is_learner.store(!self.driver.is_voter(), Ordering::Release);
        let (index, term) = self.driver.last();
        g.last_index.store(index, Ordering::Release);
        g.last_term.store(term, Ordering::Release);
        // With a learner beside it the member may be one of two voters without knowing: its apply may lag behind the learner's.
        let serves = self.driver.alone() && self.driver.may_serve_reads();
        let fresh = self.fresh.at(serves, self.driver.term(), self.driver.committed(), self.inner.shared.applied_index());
        g.reads_are_fresh.store(fresh, Ordering::Release);
        g.is_leader.store(leading, Ordering::Release);
        if !leading {
            g.sure_until.store(0, Ordering::Release);
        }
        // Entries of the leader before may still end leases: none is kept alive before they are applied.
        let serves = self.driver.may_serve_reads();
        let keeps_time = self.caught_up.at(serves, self.driver.term(), self.driver.committed(), self.inner.shared.applied_index())
            || (leading && plant::is(Plant::EarlyLeaseClock));
        if keeps_time != self.keeps_time {
            self.keeps_time = keeps_time;
            let mut clock = self.inner.clock.lock();
            if keeps_time {
                let grace = self.inner.limits.election;
                clock.lead(self.inner.shared.leases().into_iter(), self.inner.time.now(), grace);
            } else {
                clock.follow();
            }
        }
        let before = g.leader.swap(leader, Ordering::AcqRel);
        if before != leader {
            tracing::info!(
                from = format!("{before:016x}"),
                to = format!("{leader:016x}"),
                term = self.driver.term(),
                "the leader changed"
            );
            if before != 0 {
                self.inner.leader_lost.store(Arc::new(Some(self.inner.time.now())));
            }
            if leader != 0 {
                g.leader_changes.fetch_add(1, Ordering::Relaxed);
            }
            self.inner.leader_changes.send_replace(leader);
            // A round sent to the old leader may never be answered.
            if let Some(round) = self.round.take() {
                self.readers.splice(0..0, round.readers);
            }
            if let Some((to, sequence)) = self.transfer
                && leader != 0
            {
                self.transfer = None;
                let result = if leader == to { Ok(()) } else { Err(ProposeError::LeaderChanged) };
                self.inner.ports.answer([(sequence, Reply::Transferred(result))]);
            }
        }
    }

    // === effects ===

    fn carry_out(&mut self, mut effects: Effects) {
        // Known here before a follower can know it.
        self.inner.gauges.committed.store(self.driver.committed(), Ordering::Release);
        self.inner.gauges.confirming.store(self.driver.confirms_reads(), Ordering::Release);
        if self.driver.transferring() {
            // Before the word that hands leadership over is on its way.
            self.inner.gauges.sure_until.store(0, Ordering::Release);
        }
        if let Some(snapshot) = effects.snapshot {
            let index = snapshot.get_metadata().index;
            let number = effects.log.iter().filter(|w| w.group.snapshot.is_some()).map(|w| w.group.number).max().unwrap_or(0);
            self.installing = Some(Installing { number, snapshot: Some(snapshot), index, held: Vec::new() });
        }
        for mut write in std::mem::take(&mut effects.log) {
            if self.no_sync {
                write.group.must_sync = false;
            }
            self.integrity.tell(&mut write.after, &self.inner);
            self.log(write.group, write.after);
        }
        if !effects.send.is_empty() {
            self.integrity.tell(&mut effects.send, &self.inner);
            self.peers.send(effects.send);
        }
        if !effects.committed.is_empty() {
            match &mut self.installing {
                Some(installing) => installing.held.extend(effects.committed),
                None => drop(self.apply.send(ApplyTask::Entries(effects.committed))),
            }
        }
        if !effects.reads.is_empty() {
            self.answer_rounds(effects.reads);
        }
    }

    fn log(&mut self, group: Group, after: Vec<Message>) {
        let mut task = WalTask { group, tag: after };
        // Alone there are no heartbeats to send meanwhile, and the next proposals wait for this write whoever does it: two changes of
        // threads are spared.
        if task.tag.is_empty() && self.driver.alone() {
            match self.wal.write_now(task) {
                Ok(number) => {
                    self.written = self.written.max(Some(number));
                    return;
                }
                Err(back) => task = back,
            }
        }
        // The log's queue is longer than the groups it may be behind by; see `Driver::is_behind`.
        if !self.wal.submit(task) {
            tracing::error!("the log's thread is gone; stopping");
            end::process();
        }
    }

    /// The log up to a durable checkpoint is no longer needed, but for what lagging followers may ask for.
    fn checkpointed(&mut self, position: Position) {
        // Apply may be further than raft was told within this turn, and raft still looks for what it does not know to be applied.
        self.look_at_applied();
        // What follows a view that is being sent is kept, or its receiver would need the next snapshot at once.
        let viewed = self.inner.view.lock().as_ref().map_or(u64::MAX, |v| v.applied.index);
        let index = position.index.saturating_sub(self.catch_up_entries).min(viewed).min(self.driver.applied_index());
        let Some(term) = self.driver.term_of(index).filter(|_| index > 1) else { return };
        let conf = self.driver.conf_state().encode_to_vec().into();
        // The mark comes after every group handed over so far, and so answers for them too: a batch is answered by its last number.
        let number = self.driver.handed();
        let group = Group { number, snapshot: Some(SnapshotMark { index, term, conf }), ..Default::default() };
        self.log(group, Vec::new());
        failpoint::visit(failpoint::Place::AfterMark);
        self.wal.purge(index);
        self.driver.store().compact(index, term);
    }
}
