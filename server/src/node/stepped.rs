//! A node without threads: the same loop, apply, keeper and log writer, each advanced one step at a time by whoever holds it.
//!
//! In: a member's disk in memory, a clock that is moved by hand, seeds, and the order of the steps. Out: what the threads would do,
//! and answers that are polled. Nothing here waits, reads a clock of the system or draws by chance, so the same calls give the same
//! member, byte for byte. A step that cannot go on because the member must end (a failed disk, damaged rows) ends through
//! [`crate::env::end`].

use super::apply::{ApplyTask, ApplyThread, EventSink};
use super::founding::{Founding, found_in_place};
use super::handle::{NodeHandle, ProposeError, Reply};
use super::hasher::Hasher;
use super::integrity::Checks;
use super::keeper::{Keeper, SweepPace};
use super::port::Ticket;
use super::run::{Input, Log, Loop, PeerSink};
use super::start::{Desk, NodeSettings, Opened, StartError, Surroundings};
use crate::base::RocksOptions;
use crate::env::clock::Clock;
use crate::env::end;
use crate::env::files_sim::SimFiles;
use crate::mvcc::{DeltaPolicy, Store};
use crate::queue::Receiver;
use crate::snapshot::folder_mem::MemFolders;
use crate::snapshot::{Chunk, Place, Receiver as SnapshotReceiver, SnapshotError, View};
use crate::state::{Answer, Machine};
use crate::types::MemberId;
use crate::wal::{Identity, Options as WalOptions, SteppedQueue, SteppedWriter, Wal, WalError, WalTask};
use parking_lot::Mutex;
use quorate_proto::entry::Command;
use quorate_proto::state::MemberChange;
use raft::eraftpb::{Message, Snapshot};
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::sync::oneshot;

/// What outlives a member's process: its log's files and its folders of rows.
#[derive(Clone)]
pub struct MemDisk {
    pub files: SimFiles,
    pub folders: Arc<MemFolders>,
}

/// How a member is built; times are those of its own clock.
#[derive(Clone, Copy, Debug)]
pub struct SteppedSettings {
    pub heartbeat: Duration,
    pub election: Duration,
    pub pre_vote: bool,
    /// Entries kept behind a checkpoint for followers that lag.
    pub catch_up_entries: u64,
    /// Bytes of changes in memory at which they are frozen for a checkpoint.
    pub freeze_bytes: usize,
    /// Bytes of log entries in memory for followers.
    pub entry_cache: usize,
    /// Bytes of the log's first segments and of its largest.
    pub segments: (u64, u64),
    /// Rows looked at in one step of a sweep.
    pub sweep_rows: usize,
    /// Time between two comparisons of the members' histories.
    pub check_history: Option<Duration>,
}

/// What differs between two lives of a member, and must.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    /// Counts the lives, from 1.
    pub number: u32,
    /// Draws the election timeouts.
    pub seed: u64,
}

const LOG_DIR: &str = "wal";

impl SteppedSettings {
    fn node(&self) -> NodeSettings {
        NodeSettings {
            data_dir: Path::new("").to_path_buf(),
            wal_dir: None,
            heartbeat: self.heartbeat,
            election: self.election,
            pre_vote: self.pre_vote,
            request_timeout: self.election * 5,
            catch_up_entries: self.catch_up_entries,
            no_sync: false,
            rocks: RocksOptions::default(),
            delta: self.delta(),
            entry_cache: self.entry_cache,
            sweep: SweepPace { rows: self.sweep_rows, pause: Duration::ZERO },
            meter: Arc::new(()),
            checks: Checks { history: self.check_history, compactions: self.check_history },
        }
    }

    fn delta(&self) -> DeltaPolicy {
        DeltaPolicy { freeze_bytes: self.freeze_bytes, inline: false }
    }

    fn wal(&self, salt: u64) -> WalOptions {
        WalOptions { segment_first: self.segments.0, segment_most: self.segments.1, salt }
    }
}

impl MemDisk {
    /// An empty disk whose chances come from `seed`.
    pub fn new(seed: u64) -> Self {
        Self { files: SimFiles::new(seed), folders: Arc::default() }
    }

    /// Makes a member on an empty disk: a founding one, or one that joins.
    ///
    /// # Errors
    /// When the disk is not empty or refuses.
    pub fn found(&self, settings: &SteppedSettings, founding: &Founding) -> Result<(), StartError> {
        let store = Arc::new(Store::open(Arc::new(self.folders.current()), settings.delta())?);
        found_in_place(founding, Path::new(LOG_DIR), self.files.shared(), settings.wal(founding.member_id), &store)
    }

    /// Opens the member on this disk as a start does: the log is replayed, a snapshot that was half put to use is finished.
    fn open(&self, settings: &SteppedSettings, identity: Identity, life: Life) -> Result<Opened, StartError> {
        let salt = life.seed ^ u64::from(life.number);
        let (wal, replay) = Wal::open_with(Path::new(LOG_DIR), identity, self.files.shared(), settings.wal(salt))?;
        let mark = replay.snapshot.as_ref().map_or(0, |m| m.index);
        let open = || -> Result<(Arc<Store>, Machine), StartError> {
            let store = Arc::new(Store::open(Arc::new(self.folders.current()), settings.delta())?);
            let machine = Machine::open(store.clone())?;
            Ok((store, machine))
        };
        let (mut store, mut machine) = open()?;
        if machine.position().index < mark && self.folders.switch_to(mark) {
            (store, machine) = open()?;
        }
        self.folders.clean();
        Opened::assemble(settings.node(), identity, (wal, replay), store, machine, Some(life.seed))
    }
}

impl Log for SteppedQueue<Vec<Message>> {
    fn submit(&self, task: WalTask<Vec<Message>>) -> bool {
        SteppedQueue::submit(self, task)
    }

    fn purge(&self, index: u64) {
        SteppedQueue::purge(self, index);
    }

    fn close(self: Box<Self>) -> Result<(), WalError> {
        Ok(())
    }
}

/// What a step of the log came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogStep {
    /// A batch is written and waits for its sync, which is the next step. Until then a crash may lose or tear it.
    Written,
    Done,
    /// The disk is full; the same step is due again later.
    Full,
}

/// A member's node, advanced by hand.
pub struct SteppedNode {
    handle: NodeHandle,
    main: Arc<Mutex<Loop>>,
    apply: ApplyThread,
    keeper: Keeper,
    writer: SteppedWriter<Vec<Message>>,
    /// The keeper takes this up; apply goes on once it has.
    installing: Option<(Snapshot, Receiver<()>)>,
}

/// A request that waits for its answer. Dropping it gives the answer up.
pub struct Waiting(Ticket<Reply>);

/// The answer to a request.
#[derive(Clone, Debug)]
pub enum Answered {
    Applied(Answer),
    /// The member's store shows everything that was acknowledged before the question.
    Fresh,
    Refused(ProposeError),
    Transferred,
}

impl Waiting {
    /// The answer if it has come.
    pub fn poll(&mut self) -> Option<Answered> {
        Some(match self.0.try_answer()? {
            Reply::Applied(answer) => Answered::Applied(answer),
            Reply::Read(Ok(())) => Answered::Fresh,
            Reply::Transferred(Ok(())) => Answered::Transferred,
            Reply::Read(Err(e)) | Reply::Transferred(Err(e)) | Reply::NotProposed(e) => Answered::Refused(e),
        })
    }
}

impl SteppedNode {
    /// Starts the member that lives on `disk`. `sink` is made once the store is open.
    ///
    /// # Errors
    /// As a real start: damage, lost data.
    pub fn start(
        disk: &MemDisk,
        settings: &SteppedSettings,
        identity: Identity,
        life: Life,
        time: Clock,
        peers: Arc<dyn PeerSink>,
        sink: impl FnOnce(&Arc<Store>) -> Box<dyn EventSink>,
    ) -> Result<Self, StartError> {
        let opened = disk.open(settings, identity, life)?;
        let sink = sink(opened.store());
        let surroundings = Surroundings {
            time: time.clone(),
            folders: disk.folders.clone(),
            member: Path::new("").to_path_buf(),
            first_sequence: u64::from(life.number) << 32,
            life: life.number,
            hasher: Hasher::Here,
        };
        let main: Arc<Mutex<Option<Arc<Mutex<Loop>>>>> = Arc::default();
        let asked = main.clone();
        let mut writer = None;
        let desk = opened.desk(
            surroundings,
            peers,
            sink,
            |_| Box::new(move |change| Some(asked.lock().as_ref()?.lock().reconfigure(&change))),
            |wal, hooks| {
                let (stepped, queue) = SteppedWriter::new(wal, hooks, time);
                writer = Some(stepped);
                Ok(Box::new(queue))
            },
        )?;
        let Desk { inner, main: body, apply, keeper } = desk;
        let body = Arc::new(Mutex::new(body));
        *main.lock() = Some(body.clone());
        body.lock().begin();
        let writer = writer.expect("the desk made the log");
        Ok(Self { handle: NodeHandle(inner), main: body, apply, keeper, writer, installing: None })
    }

    pub fn handle(&self) -> &NodeHandle {
        &self.handle
    }

    // === steps ===

    /// One tick of raft's clock; the effects come with the next step of the loop.
    pub fn tick(&mut self) {
        let now = self.handle.0.time.now();
        self.main.lock().tick(now);
    }

    /// True when an input waits for the loop.
    pub fn loop_has_work(&self) -> bool {
        !self.main.lock().inbox.is_empty()
    }

    /// Takes up to `max` inputs, then moves everything that can move.
    pub fn step_loop(&mut self, max: usize) {
        let mut main = self.main.lock();
        for _ in 0..max {
            let Ok(input) = main.inbox.try_recv() else { break };
            main.take(input);
        }
        main.work();
    }

    /// True when [`SteppedNode::step_apply`] can go on.
    pub fn apply_has_work(&self) -> bool {
        match &self.installing {
            Some((_, done)) => !done.is_empty(),
            None => !self.apply.tasks.is_empty() && !self.handle.0.store.freeze_waits(),
        }
    }

    /// Does the next task of apply.
    pub fn step_apply(&mut self) {
        if let Some((snapshot, done)) = self.installing.take() {
            match done.try_recv() {
                Ok(()) => self.apply.installed(&snapshot),
                Err(_) => self.installing = Some((snapshot, done)),
            }
            return;
        }
        // A freeze would wait for the keeper, and the keeper for its next step.
        if self.handle.0.store.freeze_waits() {
            return;
        }
        match self.apply.tasks.try_recv() {
            Ok(ApplyTask::Install(snapshot)) => {
                let done = self.apply.ask_install(&snapshot);
                self.installing = Some((snapshot, done));
            }
            Ok(task) => drop(self.apply.step(task)),
            Err(_) => {}
        }
    }

    /// True when the keeper has a task, or a sweep to go on with.
    pub fn keeper_has_work(&self) -> bool {
        self.keeper.has_task() || self.keeper.may_sweep()
    }

    /// Does the keeper's next task, or the next slice of a sweep.
    pub fn step_keeper(&mut self) {
        match self.keeper.next_task() {
            Some(task) => drop(self.keeper.step(task)),
            None if self.keeper.may_sweep() => self.keeper.sweep_slice(),
            None => {}
        }
    }

    /// True when something waits to be written or synced.
    pub fn log_has_work(&self) -> bool {
        self.writer.has_work()
    }

    /// The log's next write or sync.
    pub fn step_log(&mut self) -> LogStep {
        match self.writer.step() {
            Ok(true) => LogStep::Written,
            Ok(false) => LogStep::Done,
            Err(e) if e.is_no_space() => LogStep::Full,
            Err(e) => {
                tracing::error!(error = %e, "the log cannot be written; this member stops, what it acknowledged is safe on disk");
                end::process()
            }
        }
    }

    /// The running checksum of every change since the beginning.
    pub fn digest(&self) -> u128 {
        self.apply.machine.position().digest
    }

    /// Raft's voters and learners, both ascending.
    pub fn configuration(&self) -> (Vec<MemberId>, Vec<MemberId>) {
        let mut conf = self.main.lock().driver.conf_state();
        conf.voters.sort_unstable();
        conf.learners.sort_unstable();
        (conf.voters, conf.learners)
    }

    /// Flips a bit of the running checksum, as if an entry had done something else here than on the other members.
    pub fn flip_digest(&mut self, bit: u32) {
        self.apply.machine.flip_digest(bit);
    }

    // === requests ===

    /// Hands a command to the member.
    ///
    /// # Errors
    /// When it is refused at once.
    pub fn propose(&self, command: Command) -> Result<Waiting, ProposeError> {
        Ok(Waiting(self.handle.enqueue(command)?.0))
    }

    /// Asks for the moment from which the member's store shows everything acknowledged so far; `None` when that is now.
    ///
    /// # Errors
    /// When it is refused at once.
    pub fn read(&self) -> Result<Option<Waiting>, ProposeError> {
        if self.handle.0.gauges.reads_are_fresh.load(std::sync::atomic::Ordering::Acquire) {
            return Ok(None);
        }
        let ticket = self.handle.0.ports.open();
        self.handle.send(Input::Read(ticket.sequence))?;
        Ok(Some(Waiting(ticket)))
    }

    /// Asks the leader to hand over to another voter.
    ///
    /// # Errors
    /// When it is refused at once.
    pub fn transfer(&self, to: MemberId) -> Result<Waiting, ProposeError> {
        let ticket = self.handle.0.ports.open();
        self.handle.send(Input::Transfer { to, sequence: ticket.sequence })?;
        Ok(Waiting(ticket))
    }

    /// Asks for a change of the members, of the leader alone.
    ///
    /// # Errors
    /// When it is refused at once.
    pub fn change_members(&self, mut change: MemberChange) -> Result<Waiting, ProposeError> {
        let ticket = self.handle.0.ports.open();
        (change.origin, change.sequence) = (self.handle.0.member_id, ticket.sequence);
        self.handle.send(Input::ChangeMembers(change))?;
        Ok(Waiting(ticket))
    }

    // === snapshots ===

    /// The view that was announced to a follower as a snapshot at this index, while it is kept.
    pub fn announced_view(&self, index: u64) -> Option<Arc<View>> {
        self.handle.announced_view(index)
    }

    /// Where a snapshot's rows are received.
    pub fn receiver(&self) -> &SnapshotReceiver {
        self.handle.receiver()
    }

    /// Hands raft a snapshot; the answer says whether it takes it. Without `complete` it has no rows, and raft only answers.
    ///
    /// # Errors
    /// When it is refused at once.
    pub fn offer_snapshot(&self, message: Message, complete: bool) -> Result<Taken, ProposeError> {
        let (answer, answered) = oneshot::channel();
        self.handle.send(Input::Snapshot { message, complete, answer })?;
        Ok(Taken(answered))
    }
}

/// Whether raft takes a snapshot that was handed to it.
pub struct Taken(oneshot::Receiver<bool>);

impl Taken {
    /// The answer if it has come; a member that stopped takes nothing.
    pub fn poll(&mut self) -> Option<bool> {
        match self.0.try_recv() {
            Ok(taken) => Some(taken),
            Err(oneshot::error::TryRecvError::Empty) => None,
            Err(oneshot::error::TryRecvError::Closed) => Some(false),
        }
    }
}

/// The next rows of a view that is held in memory, about `max` bytes of them.
///
/// # Errors
/// As [`View::chunk`]; and when the view is held by a thread, which a simulation cannot wait for.
pub fn chunk_now(view: &View, from: Place, max: usize) -> Result<Chunk, SnapshotError> {
    match std::pin::pin!(view.chunk(from, max)).as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(chunk) => chunk,
        Poll::Pending => Err(SnapshotError::Refused("the view is held by a thread".into())),
    }
}

#[cfg(test)]
mod followers;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::clock::ManualClock;
    use crate::state::Outcome;
    use quorate_proto::entry::{Put, command::Op};
    use quorate_proto::state::Member;

    pub(super) const SETTINGS: SteppedSettings = SteppedSettings {
        heartbeat: Duration::from_millis(100),
        election: Duration::from_secs(1),
        pre_vote: true,
        catch_up_entries: 10,
        freeze_bytes: 1024,
        entry_cache: 4096,
        segments: (16 << 10, 64 << 10),
        sweep_rows: 16,
        check_history: None,
    };

    fn start(disk: &MemDisk, number: u32) -> SteppedNode {
        let identity = Identity { cluster: 1, member: 7 };
        let life = Life { number, seed: 5 };
        let time = Clock::manual(Arc::new(ManualClock::default()));
        SteppedNode::start(disk, &SETTINGS, identity, life, time, Arc::new(()), |_| Box::new(())).unwrap()
    }

    fn step_all(node: &mut SteppedNode, sync: bool) {
        for _ in 0..1000 {
            node.step_loop(100);
            node.step_apply();
            node.step_keeper();
            if node.log_has_work() && node.step_log() == LogStep::Written && !sync {
                return;
            }
        }
    }

    fn put(value: usize) -> Command {
        Command { op: Some(Op::Put(Put { key: "k".into(), value: value.to_string().into(), ..Default::default() })) }
    }

    /// A lone member answers a write only after the sync that covers it; a crash before that may lose it, one after it may not, and
    /// checkpoints and purges on the way change nothing of that.
    #[test]
    fn a_write_is_answered_after_its_sync_and_survives() {
        let disk = MemDisk::new(1);
        let members = vec![Member { id: 7, ..Default::default() }];
        disk.found(&SETTINGS, &Founding { cluster_id: 1, member_id: 7, members, joins: false, stamp: Default::default() }).unwrap();
        let mut written = 0;
        for number in 1..=5 {
            let mut node = start(&disk, number);
            step_all(&mut node, true);
            assert!(node.handle().status().is_leader);
            assert_eq!(node.handle().store().revision(), written as i64 + 1, "all that was answered is there");
            for _ in 0..60 {
                let mut waiting = node.propose(put(written)).unwrap();
                step_all(&mut node, false);
                assert!(waiting.poll().is_none(), "not answered before its sync");
                step_all(&mut node, true);
                let Some(Answered::Applied(answer)) = waiting.poll() else { panic!("no answer") };
                assert_eq!(answer.result, Ok(Outcome::Put { prev: None }));
                written += 1;
                assert_eq!(answer.revision, written as i64 + 1);
            }
            drop(node);
            disk.files.crash(u64::from(number));
            disk.folders.crash(|unflushed| unflushed / 2);
        }
    }
}
