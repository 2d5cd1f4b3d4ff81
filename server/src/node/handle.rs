//! What the doors hold: propose, wait for a fresh read, ask how things stand.

use super::meter::Meter;
use super::port::{Ports, Ticket};
use super::run::{Input, PROPOSAL, READ, class_of};
use super::standing::OwnStanding;
use crate::env::clock::Clock;
use crate::env::plant::{self, Plant};
use crate::lease::LeaseClock;
use crate::mvcc::Store;
use crate::queue::Sender;
use crate::snapshot::{Receiver, SnapshotError, View};
use crate::state::{self, Answer, Shared};
use crate::types::{LeaseId, MemberId};
use arc_swap::ArcSwap;
use bytes::Bytes;
use crossbeam_channel::TrySendError;
use parking_lot::Mutex;
use prost::Message;
use quorate_proto::entry::{Command, Proposal, command::Op};
use quorate_proto::state::MemberChange;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// Why a request got no answer from the machine. All but `TooManyRequests`, `TooLarge` and the leadership ones leave open whether a
/// write happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    #[error("no leader")]
    NoLeader,
    #[error("leader changed")]
    LeaderChanged,
    #[error("request timed out")]
    TimedOut,
    #[error("request timed out, possibly due to previous leader failure")]
    TimedOutLeaderFailure,
    #[error("too many requests")]
    TooManyRequests,
    #[error("server stopped")]
    Stopped,
    #[error("not leader")]
    NotLeader,
    #[error("bad leader transferee")]
    BadTransferee,
    #[error("request is too large")]
    TooLarge,
    #[error("unhealthy cluster")]
    Unhealthy,
}

/// How the member stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    pub member_id: u64,
    pub cluster_id: u64,
    /// 0: none.
    pub leader: u64,
    pub term: u64,
    /// Index of the newest committed entry known here.
    pub raft_index: u64,
    pub applied_index: u64,
    /// Index and term of the newest entry in the log, committed or not: what votes are given by.
    pub last_index: u64,
    pub last_term: u64,
    pub is_leader: bool,
    pub is_learner: bool,
}

/// A lease as the leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseView {
    pub granted: i64,
    pub remaining: i64,
}

/// What became of a wish to renew a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// It has its full time again, in seconds.
    Full(i64),
    /// There is no such lease.
    Gone,
    /// It ran out, and is gone as soon as the log says so; until then a leader that follows may let it live.
    Ending,
    /// Another member may lead by now: nothing was done. A read round brings certainty.
    Unsure,
}

/// Answers that travel through the ports.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    Applied(Answer),
    Read(Result<(), ProposeError>),
    Transferred(Result<(), ProposeError>),
    /// It did not get into the log, and never will.
    NotProposed(ProposeError),
}

/// Numbers the loop keeps current for everyone.
#[derive(Default)]
pub(super) struct Gauges {
    pub leader: AtomicU64,
    pub term: AtomicU64,
    pub committed: AtomicU64,
    pub last_index: AtomicU64,
    pub last_term: AtomicU64,
    /// The log waits for space on its disk.
    pub log_full: AtomicBool,
    /// As the leader it waits for a quorum to confirm reads.
    pub confirming: AtomicBool,
    pub is_leader: AtomicBool,
    pub is_learner: AtomicBool,
    /// Before this time, in nanoseconds of the member's clock, no other member can lead; 0: that is not known.
    pub sure_until: AtomicU64,
    /// A lone voter that leads and has committed in its term: what is published is linearizable as it is.
    pub reads_are_fresh: AtomicBool,
    /// The feature level that entries made here carry, where it is above the cluster's.
    pub raise_level: AtomicU32,
    /// Bytes of proposals between the door and their application.
    pub pending_bytes: AtomicI64,
    pub pending: AtomicI64,
    pub failed: AtomicU64,
    pub leader_changes: Arc<AtomicU64>,
}

/// Bounds and durations of requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestLimits {
    pub timeout: Duration,
    pub election: Duration,
    /// Seconds.
    pub min_lease_ttl: i64,
}

pub(super) struct Inner {
    pub member_id: MemberId,
    pub cluster_id: u64,
    pub inbox: Sender<Input>,
    pub ports: Ports<Reply>,
    pub gauges: Gauges,
    pub store: Arc<Store>,
    pub shared: Arc<Shared>,
    /// The loop wants word of what is applied; else it looks by itself at its next turn.
    pub applied_wanted: AtomicBool,
    pub clock: Mutex<LeaseClock>,
    pub time: Clock,
    pub leader_changes: watch::Sender<u64>,
    /// When, by `time`.
    pub leader_lost: ArcSwap<Option<Duration>>,
    /// What followers that are too far behind are sent.
    pub view: Mutex<Option<Arc<View>>>,
    /// Where a snapshot's rows are received.
    pub receiver: Receiver,
    pub limits: RequestLimits,
    pub meter: Arc<dyn Meter>,
    /// What this member says of its state.
    pub standing: OwnStanding,
    /// This member is set aside: it serves nobody.
    pub fenced: watch::Sender<bool>,
    /// The least index of the snapshot that is to replace this member's rows; 0 when none is awaited.
    pub rows_wanted: AtomicU64,
}

impl Inner {
    /// The feature level that an entry made here carries.
    pub fn entry_level(&self) -> u32 {
        self.shared.feature_level().max(self.gauges.raise_level.load(Ordering::Acquire))
    }

    /// True while this member is set aside: what it holds must reach nobody.
    pub fn is_fenced(&self) -> bool {
        self.shared.fenced_at(self.member_id).is_some()
    }
}

/// The desk's front: cheap to clone, usable from any thread.
#[derive(Clone)]
pub struct NodeHandle(pub(super) Arc<Inner>);

/// Committed entries that may wait for their application; etcd's bound.
const MAX_APPLY_GAP: u64 = 5000;
/// Bytes of proposals that may wait; beyond it new ones are refused at once.
const MAX_PENDING_BYTES: i64 = 256 << 20;
/// Pause before a lease that ran out is looked at again: its end is proposed with the next tick.
const ENDING_PAUSE: Duration = Duration::from_millis(5);

impl NodeHandle {
    /// Lets the entries this member makes as leader carry a feature level above the cluster's, which raises that; 0 takes it back.
    /// Only who knows that every member's program knows the level may call this.
    pub fn raise_level(&self, level: u32) {
        self.0.gauges.raise_level.store(level, Ordering::Release);
    }

    /// Gives the calling thread an answer port of its own; spawn the returned task on this thread's runtime.
    pub fn attach_thread(&self) -> impl Future<Output = ()> + Send + use<> {
        self.0.ports.attach()
    }

    /// Replicates a command and waits until it is applied here.
    pub async fn propose(&self, command: Command) -> Result<Answer, ProposeError> {
        let (began, op) = (self.0.time.now(), command.op.as_ref().map_or("", state::op_name));
        let answer = self.answer_to(command).await;
        let well = answer.as_ref().is_ok_and(|a| a.result.is_ok());
        self.0.meter.requested(op, well, self.0.time.now().saturating_sub(began));
        answer
    }

    async fn answer_to(&self, command: Command) -> Result<Answer, ProposeError> {
        let (mut ticket, _weight) = self.enqueue(command)?;
        match tokio::time::timeout(self.0.limits.timeout, ticket.answer()).await {
            Ok(Some(Reply::Applied(answer))) => Ok(answer),
            Ok(_) => Err(ProposeError::Stopped),
            Err(_) => {
                self.0.gauges.failed.fetch_add(1, Ordering::Relaxed);
                Err(self.timed_out())
            }
        }
    }

    /// Hands a command to the loop: the place where its answer arrives, and what counts it among those pending.
    pub(super) fn enqueue(&self, mut command: Command) -> Result<(Ticket<Reply>, Weight<'_>), ProposeError> {
        if let Some(Op::LeaseGrant(grant)) = &mut command.op {
            // The floor depends on the member's settings, so it is laid here and not where every member must agree.
            grant.ttl = grant.ttl.max(self.0.limits.min_lease_ttl);
        }
        self.admit()?;
        let ticket = self.0.ports.open();
        let proposal =
            Proposal { origin: self.0.member_id, sequence: ticket.sequence, command: Some(command), ..Default::default() };
        let bytes = Bytes::from(proposal.encode_to_vec());
        let weight = Weight::new(&self.0, bytes.len() as i64);
        self.0.inbox.try_send_as(Input::Propose(bytes), PROPOSAL).map_err(refused)?;
        Ok((ticket, weight))
    }

    /// Changes the member list through raft's configuration and waits until it is applied here. Only the leader can.
    ///
    /// # Errors
    /// `NotLeader` and `TooManyRequests` say that nothing was proposed; after the others the change may happen yet.
    pub async fn change_members(&self, mut change: MemberChange) -> Result<Answer, ProposeError> {
        let mut ticket = self.0.ports.open();
        (change.origin, change.sequence) = (self.0.member_id, ticket.sequence);
        self.send(Input::ChangeMembers(change))?;
        match tokio::time::timeout(self.0.limits.timeout, ticket.answer()).await {
            Ok(Some(Reply::Applied(answer))) => Ok(answer),
            Ok(Some(Reply::NotProposed(e))) => Err(e),
            Ok(_) => Err(ProposeError::Stopped),
            Err(_) => Err(self.timed_out()),
        }
    }

    fn admit(&self) -> Result<(), ProposeError> {
        let gauges = &self.0.gauges;
        let gap = gauges.committed.load(Ordering::Relaxed).saturating_sub(self.0.shared.applied_index());
        if gap > MAX_APPLY_GAP || gauges.pending_bytes.load(Ordering::Relaxed) > MAX_PENDING_BYTES {
            return Err(ProposeError::TooManyRequests);
        }
        Ok(())
    }

    pub(super) fn send(&self, input: Input) -> Result<(), ProposeError> {
        self.0.inbox.try_send(input).map_err(refused)
    }

    fn timed_out(&self) -> ProposeError {
        // Within an election of having lost a leader, that loss is the likely cause.
        let lost = **self.0.leader_lost.load();
        let window = self.0.limits.timeout + self.0.limits.election;
        if lost.is_some_and(|at| self.0.time.now().saturating_sub(at) < window) {
            ProposeError::TimedOutLeaderFailure
        } else {
            ProposeError::TimedOut
        }
    }

    /// Waits until everything acknowledged before this call, by any member, is visible in this member's store.
    pub async fn read_barrier(&self) -> Result<(), ProposeError> {
        if self.0.gauges.reads_are_fresh.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut ticket = self.0.ports.open();
        self.0.inbox.try_send_as(Input::Read(ticket.sequence), READ).map_err(refused)?;
        match tokio::time::timeout(self.0.limits.timeout, ticket.answer()).await {
            Ok(Some(Reply::Read(result))) => result,
            Ok(_) => Err(ProposeError::Stopped),
            Err(_) => {
                self.0.meter.read_failed();
                Err(self.timed_out())
            }
        }
    }

    pub fn status(&self) -> Status {
        let g = &self.0.gauges;
        Status {
            member_id: self.0.member_id,
            cluster_id: self.0.cluster_id,
            leader: g.leader.load(Ordering::Acquire),
            term: g.term.load(Ordering::Acquire),
            raft_index: g.committed.load(Ordering::Acquire),
            applied_index: self.0.shared.applied_index(),
            last_index: g.last_index.load(Ordering::Acquire),
            last_term: g.last_term.load(Ordering::Acquire),
            is_leader: g.is_leader.load(Ordering::Acquire),
            is_learner: g.is_learner.load(Ordering::Acquire),
        }
    }

    /// Counts the changes of leader this member has seen.
    pub fn leader_change_count(&self) -> Arc<AtomicU64> {
        self.0.gauges.leader_changes.clone()
    }

    /// Proposals waiting for their answer, and those that timed out.
    pub fn proposals(&self) -> (u64, u64) {
        let g = &self.0.gauges;
        (g.pending.load(Ordering::Relaxed).max(0) as u64, g.failed.load(Ordering::Relaxed))
    }

    /// Hands leadership to another voter and waits until it leads. Only the leader can.
    pub async fn transfer_leader(&self, to: MemberId) -> Result<(), ProposeError> {
        if !self.status().is_leader {
            return Err(ProposeError::NotLeader);
        }
        if to == self.0.member_id {
            return Ok(());
        }
        let mut ticket = self.0.ports.open();
        self.send(Input::Transfer { to, sequence: ticket.sequence })?;
        match tokio::time::timeout(self.0.limits.election + self.0.limits.election, ticket.answer()).await {
            Ok(Some(Reply::Transferred(result))) => result,
            Ok(_) => Err(ProposeError::Stopped),
            Err(_) => Err(ProposeError::TimedOut),
        }
    }

    pub fn has_leader(&self) -> bool {
        self.0.gauges.leader.load(Ordering::Acquire) != 0
    }

    /// The leader's id, each time it changes; 0 for none.
    pub fn leader_changes(&self) -> watch::Receiver<u64> {
        self.0.leader_changes.subscribe()
    }

    pub fn store(&self) -> &Arc<Store> {
        &self.0.store
    }

    pub fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    /// Messages from a peer, in the order it sent them.
    pub fn peer_messages(&self, messages: Vec<raft::eraftpb::Message>) -> Result<(), ProposeError> {
        let class = class_of(&messages, &self.0.gauges);
        self.0.inbox.try_send_as(Input::Peer(messages), class).map_err(refused)
    }

    /// Proposals that a follower's clients made, each an encoded `Proposal`; what is none is dropped.
    pub fn forwarded(&self, proposals: Vec<Bytes>) -> Result<(), ProposeError> {
        if !self.status().is_leader {
            return Err(ProposeError::NotLeader);
        }
        // In an entry, one that no member can read or carry out would stop them all, at every start.
        let is_sound = |p: &Bytes| match Proposal::decode(p.clone()) {
            Ok(proposal) if proposal.command.as_ref().is_some_and(|c| c.op.is_some()) => true,
            Ok(_) => {
                tracing::warn!("dropped a forwarded proposal without a command that this build knows");
                false
            }
            Err(e) => {
                tracing::warn!(error = %e, "dropped a forwarded proposal that cannot be read");
                false
            }
        };
        let mut sound = proposals.into_iter().filter(is_sound);
        sound.try_for_each(|p| self.0.inbox.try_send_as(Input::Propose(p), PROPOSAL).map_err(refused))
    }

    /// Proposals of this member's clients that the leader we sent them to did not take: they wait for the next leader.
    pub fn proposals_again(&self, proposals: Vec<Bytes>) -> Result<(), ProposeError> {
        proposals.into_iter().try_for_each(|p| self.send(Input::Propose(p)))
    }

    pub fn report_unreachable(&self, id: MemberId) {
        let _ = self.send(Input::Unreachable(id));
    }

    pub fn report_snapshot(&self, id: MemberId, ok: bool) {
        let _ = self.send(Input::SnapshotStatus { id, ok });
    }

    /// True while what this member is to write waits for space on its disk.
    pub fn waits_for_space(&self) -> bool {
        self.0.gauges.log_full.load(Ordering::Acquire) || self.0.store.is_disk_full()
    }

    // === fences ===

    /// Whether this member is set aside because its data differ, each time that changes.
    pub fn fenced(&self) -> watch::Receiver<bool> {
        self.0.fenced.subscribe()
    }

    /// True while this member is set aside: what it holds must reach nobody.
    pub fn is_fenced(&self) -> bool {
        self.0.is_fenced()
    }

    // === snapshots ===

    /// True when a snapshot at this index has something for this member: entries it has not applied, or rows in place of damaged ones.
    pub fn wants_snapshot(&self, index: u64) -> bool {
        match self.0.rows_wanted.load(Ordering::Acquire) {
            0 => index > self.0.shared.applied_index(),
            wanted => index >= wanted,
        }
    }

    /// The view that was announced to a follower as a snapshot at this index, while it is kept.
    pub(crate) fn announced_view(&self, index: u64) -> Option<Arc<View>> {
        self.0.view.lock().clone().filter(|v| v.applied.index == index)
    }

    /// Pins everything applied so far, made durable first. The view costs disk space for as long as it is held: rows that are
    /// compacted meanwhile stay.
    ///
    /// # Errors
    /// When the rows cannot be read or the member stops.
    pub async fn pin(&self) -> Result<Arc<View>, SnapshotError> {
        let (answer, answered) = oneshot::channel();
        let stopped = || SnapshotError::Refused(ProposeError::Stopped.to_string());
        self.send(Input::Pin(answer)).map_err(|e| SnapshotError::Refused(e.to_string()))?;
        answered.await.map_err(|_| stopped())?
    }

    /// Where a snapshot's rows are received.
    pub(crate) fn receiver(&self) -> &Receiver {
        &self.0.receiver
    }

    /// Hands raft a snapshot; true when it takes it, and the folder of its rows with it. Without `complete` there are no rows: raft is
    /// only to answer with where this member stands.
    ///
    /// # Errors
    /// When the member stops or is overwhelmed.
    pub(crate) async fn offer_snapshot(&self, message: raft::eraftpb::Message, complete: bool) -> Result<bool, ProposeError> {
        let (answer, answered) = oneshot::channel();
        self.send(Input::Snapshot { message, complete, answer })?;
        answered.await.map_err(|_| ProposeError::Stopped)
    }

    // === leases: only the leader's answers count ===

    /// Waits until what is committed now is applied here. A follower may have applied, and its client been told of, what its leader
    /// has committed and not applied yet.
    pub async fn caught_up(&self) -> Result<(), ProposeError> {
        let committed = self.0.gauges.committed.load(Ordering::Acquire);
        let applied = async {
            while self.0.shared.applied_index() < committed {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(self.0.limits.timeout, applied).await.map_err(|_| self.timed_out())
    }

    /// Gives a lease its full time again: its seconds to live, `Ok(None)` when there is no such lease. Neither is said by a member that
    /// cannot know whether it still leads, such as one that was paused: another may have granted the lease, or let it live.
    ///
    /// # Errors
    /// `NotLeader` when another member is to be asked.
    pub async fn renew(&self, id: LeaseId) -> Result<Option<i64>, ProposeError> {
        let begun = self.0.time.now();
        loop {
            self.caught_up().await?;
            match self.renew_here(id)? {
                Renewal::Full(ttl) => return Ok(Some(ttl)),
                Renewal::Gone => return Ok(None),
                Renewal::Ending => tokio::time::sleep(ENDING_PAUSE).await,
                Renewal::Unsure => self.read_barrier().await?,
            }
            self.still_time(begun)?;
        }
    }

    /// A lease's times; `Ok(None)` when there is no such lease. As careful as [`NodeHandle::renew`].
    ///
    /// # Errors
    /// `NotLeader` when another member is to be asked.
    pub async fn lease(&self, id: LeaseId) -> Result<Option<LeaseView>, ProposeError> {
        let begun = self.0.time.now();
        loop {
            self.caught_up().await?;
            let view = self.lease_here(id)?;
            if self.surely_leads() {
                return Ok(view);
            }
            self.read_barrier().await?;
            self.still_time(begun)?;
        }
    }

    fn still_time(&self, begun: Duration) -> Result<(), ProposeError> {
        if self.0.time.now().saturating_sub(begun) < self.0.limits.timeout { Ok(()) } else { Err(self.timed_out()) }
    }

    /// True while no other member can lead.
    fn surely_leads(&self) -> bool {
        let gauges = &self.0.gauges;
        let until = Duration::from_nanos(gauges.sure_until.load(Ordering::Acquire));
        gauges.reads_are_fresh.load(Ordering::Acquire) || self.0.time.now() < until || plant::is(Plant::UnprovenLeader)
    }

    /// Gives a lease its full time again, if this is known to be the leader.
    ///
    /// # Errors
    /// `NotLeader`.
    pub fn renew_here(&self, id: LeaseId) -> Result<Renewal, ProposeError> {
        let mut clock = self.0.clock.lock();
        if !clock.leading() {
            return Err(ProposeError::NotLeader);
        }
        if !self.surely_leads() {
            return Ok(Renewal::Unsure);
        }
        Ok(match clock.renew(id, self.0.time.now()) {
            Some(ttl) => {
                self.0.meter.lease_renewed();
                Renewal::Full(ttl)
            }
            None if clock.knows(id) => Renewal::Ending,
            None => Renewal::Gone,
        })
    }

    /// Seconds a lease has left, as far as this member knows.
    fn lease_here(&self, id: LeaseId) -> Result<Option<LeaseView>, ProposeError> {
        let clock = self.0.clock.lock();
        if !clock.leading() {
            return Err(ProposeError::NotLeader);
        }
        let Some(lease) = self.0.shared.lease(id) else { return Ok(None) };
        let remaining = clock.remaining(id, self.0.time.now()).unwrap_or(lease.ttl);
        Ok(Some(LeaseView { granted: lease.ttl, remaining }))
    }
}

fn refused(e: TrySendError<Input>) -> ProposeError {
    match e {
        TrySendError::Full(_) => ProposeError::TooManyRequests,
        TrySendError::Disconnected(_) => ProposeError::Stopped,
    }
}

/// Counts a proposal among those pending for as long as it lives.
pub(super) struct Weight<'a> {
    inner: &'a Inner,
    bytes: i64,
}

impl<'a> Weight<'a> {
    fn new(inner: &'a Inner, bytes: i64) -> Self {
        inner.gauges.pending_bytes.fetch_add(bytes, Ordering::Relaxed);
        inner.gauges.pending.fetch_add(1, Ordering::Relaxed);
        Self { inner, bytes }
    }
}

impl Drop for Weight<'_> {
    fn drop(&mut self) {
        self.inner.gauges.pending_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.inner.gauges.pending.fetch_sub(1, Ordering::Relaxed);
    }
}
