//! The keeper: the one thread that writes the durable rows. Checkpoints come first, sweeps run in slices between them.

use super::apply::{ApplyTask, give_up};
use super::meter::Meter;
use super::run::Input;
use crate::base::kind::log;
use crate::base::{Base, BaseError, Family};
use crate::env::plant::{self, Plant};
use crate::mvcc::{Store, Sweep};
use crate::queue::{Receiver, Sender};
use crate::snapshot::folder::Folders;
use crate::snapshot::{SnapshotError, View};
use crate::state::Position;
use crossbeam_channel::RecvTimeoutError;
use std::collections::VecDeque;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

pub(super) enum KeeperTask {
    /// A delta is frozen; after it is durable the log up to this position may go.
    Checkpoint(Position),
    /// The compaction mark moved.
    Sweep,
    /// Pin the rows as they are: everything asked for before is durable by then.
    View(ViewFor),
    /// Take up the complete folder of rows of a snapshot at this index; answers when the store reads them.
    Install {
        index: u64,
        done: Sender<()>,
    },
    Stop,
}

/// Who wants a view.
pub(super) enum ViewFor {
    /// Raft, for followers that are too far behind.
    Followers,
    Reader(oneshot::Sender<Result<Arc<View>, SnapshotError>>),
}

/// Rows looked at in one slice of a sweep, and the pause after it: a sweep never takes more than a share of the disk.
#[derive(Clone, Copy, Debug)]
pub struct SweepPace {
    pub rows: usize,
    pub pause: Duration,
}

pub(super) struct Keeper {
    store: Arc<Store>,
    tasks: Receiver<KeeperTask>,
    apply: Sender<ApplyTask>,
    node: Sender<Input>,
    pace: SweepPace,
    meter: Arc<dyn Meter>,
    /// The member's folder, whose disk is asked for its free space.
    member: PathBuf,
    folders: Arc<dyn Folders>,
    /// Tasks met while the disk was full.
    held: VecDeque<KeeperTask>,
    /// The revision that the durable rows reach.
    durable: i64,
    /// The compaction mark that they hold.
    marked: i64,
    sweep: Option<Sweep>,
    /// When its first slice was done.
    sweep_begun: Option<Instant>,
    /// The next slice does not wait for its pause.
    slice_due: bool,
    /// The mark moved again meanwhile.
    sweep_again: bool,
}

/// Why a snapshot is not given out yet.
const REPLAYS: &str = "this member still replays its log after a crash: ask again, or ask another member";
/// Pause before a sweep that waits for a backup looks again.
const HELD_PAUSE: Duration = Duration::from_millis(200);
/// Pause before a full disk is tried again.
const FULL_PAUSE: Duration = Duration::from_secs(1);
/// Free bytes, beside those a checkpoint takes, at which a disk is no longer full.
const ROOM: u64 = 4 << 20;

impl Keeper {
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        store: Arc<Store>,
        tasks: Receiver<KeeperTask>,
        apply: Sender<ApplyTask>,
        node: Sender<Input>,
        pace: SweepPace,
        meter: Arc<dyn Meter>,
        member: PathBuf,
        folders: Arc<dyn Folders>,
    ) -> Self {
        let durable = store.revision_at_open();
        let mut keeper = Self {
            store,
            tasks,
            apply,
            node,
            pace,
            meter,
            member,
            folders,
            held: VecDeque::new(),
            durable,
            marked: -1,
            sweep: None,
            sweep_begun: None,
            slice_due: false,
            sweep_again: false,
        };
        // An earlier life may have ended between a compaction and the end of its sweep.
        keeper.read_mark();
        keeper.begin_sweep();
        keeper
    }

    /// Runs until told to stop.
    pub fn run(mut self) {
        while let Some(task) = self.next() {
            match task {
                Some(task) => {
                    if !self.step(task) {
                        return;
                    }
                }
                None => self.sweep_slice(),
            }
        }
    }

    /// Does a task; false when it is to stop.
    pub fn step(&mut self, task: KeeperTask) -> bool {
        match task {
            KeeperTask::Checkpoint(position) => self.checkpoint(position),
            KeeperTask::Sweep if self.sweep.is_some() => self.sweep_again = true,
            KeeperTask::Sweep => self.begin_sweep(),
            KeeperTask::View(whom) => self.view(whom),
            KeeperTask::Install { index, done } => self.install(index, &done),
            KeeperTask::Stop => return false,
        }
        true
    }

    fn read_mark(&mut self) {
        match self.store.durable_mark() {
            Ok(mark) => self.marked = mark,
            Err(e) => Self::fail(&e),
        }
    }

    /// True when a slice of a sweep may be done: the sweep looks at durable rows alone, so those up to its target must be there, and
    /// so must the mark, or a crash would leave a member that lacks rows and does not know it.
    pub fn may_sweep(&self) -> bool {
        self.ready_target().is_some_and(|target| self.store.may_sweep_to(target, Instant::now()))
    }

    /// Where a sweep goes whose rows and mark are durable.
    fn ready_target(&self) -> Option<i64> {
        let marked = |target| self.marked >= target || plant::is(Plant::SweepBeforeMark);
        self.sweep.as_ref().map(Sweep::target).filter(|target| self.durable >= *target && marked(*target))
    }

    fn fail(e: &BaseError) -> ! {
        tracing::error!(error = %e, "writing the durable rows failed; this member stops. Nothing acknowledged is lost: the log has it");
        give_up(e)
    }

    /// True when a task waits.
    pub fn has_task(&self) -> bool {
        !self.held.is_empty() || !self.tasks.is_empty()
    }

    /// The next task, if one waits.
    pub fn next_task(&mut self) -> Option<KeeperTask> {
        self.held.pop_front().or_else(|| self.tasks.try_recv().ok())
    }

    /// The next task, `Some(None)` when the next thing to do is a slice of a sweep, `None` when there will be no more tasks.
    fn next(&mut self) -> Option<Option<KeeperTask>> {
        if let Some(task) = self.held.pop_front() {
            return Some(Some(task));
        }
        while !self.may_sweep() {
            if self.ready_target().is_none() {
                return self.tasks.recv().ok().map(Some);
            }
            // A backup has not copied all that the sweep would remove, and nobody tells when it has.
            match self.tasks.recv_timeout(HELD_PAUSE) {
                Ok(task) => return Some(Some(task)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
        // Between two slices there is a task or a pause.
        if std::mem::take(&mut self.slice_due) {
            return Some(None);
        }
        match self.tasks.recv_timeout(self.pace.pause) {
            Ok(task) => {
                self.slice_due = true;
                Some(Some(task))
            }
            Err(RecvTimeoutError::Timeout) => Some(None),
            Err(RecvTimeoutError::Disconnected) => None,
        }
    }

    /// Waits a while for space; false when the keeper is to stop, which loses nothing: the log has what is not in the rows.
    ///
    /// RocksDB does not take up writing again once a flush has failed for want of space, until it is opened anew. So when there is
    /// space and it still refuses, the member ends itself and whoever watches over it starts it again.
    fn wait_for_space(&mut self, e: &BaseError) -> bool {
        self.store.disk_is_full(true);
        // Tasks before the last one may be waited for by who gives it.
        if self.store.is_closing() || self.held.iter().any(|task| matches!(task, KeeperTask::Stop)) {
            return false;
        }
        let free = rustix::fs::statvfs(&self.member).map_or(0, |s| s.f_bavail * s.f_frsize);
        if free > ROOM + 3 * self.store.policy().freeze_bytes as u64 && self.takes_bytes() {
            let text =
                format!("{e}; there is space again ({free} bytes), and the rows must be opened anew: start this member again");
            Self::fail(&BaseError::Io(text));
        }
        tracing::error!(error = %e, "the disk is full; the durable rows wait until there is space");
        let until = Instant::now() + FULL_PAUSE;
        loop {
            match self.tasks.recv_deadline(until) {
                Ok(task) => {
                    let stop = matches!(task, KeeperTask::Stop);
                    self.held.push_back(task);
                    if stop {
                        return false;
                    }
                }
                Err(RecvTimeoutError::Timeout) => return !self.store.is_closing(),
                // Whoever gives tasks is gone, and with it the reason to wait.
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }

    /// Bytes can be written to the member's folder: a quota of a user, or of files, leaves free bytes that are not for us.
    fn takes_bytes(&self) -> bool {
        let probe = self.member.join("space.probe");
        let write = || -> std::io::Result<()> {
            let mut file = std::fs::File::create(&probe)?;
            file.write_all(&[1; 64 << 10])?;
            file.sync_all()
        };
        let wrote = write();
        let _ = std::fs::remove_file(&probe);
        wrote.is_ok()
    }

    fn checkpoint(&mut self, position: Position) {
        let started = Instant::now();
        let flush = !self.store.policy().inline;
        loop {
            match self.store.checkpoint(flush) {
                Ok(Some(revision)) => {
                    self.durable = revision;
                    self.store.disk_is_full(false);
                }
                Ok(None) => return,
                // Rows that were written already are written again, the same.
                Err(e @ BaseError::NoSpace(_)) if self.wait_for_space(&e) => continue,
                Err(BaseError::NoSpace(_)) => return,
                Err(e) => Self::fail(&e),
            }
            break;
        }
        self.read_mark();
        self.meter.checkpoint(started.elapsed());
        if flush {
            let _ = self.node.send(Input::Checkpointed(position));
        }
    }

    fn view(&self, whom: ViewFor) {
        let base = self.store.base();
        let flushed = if self.store.policy().inline { base.flush() } else { Ok(()) };
        if let Err(e) = flushed {
            Self::fail(&e);
        }
        let view = View::open(base.clone());
        match whom {
            ViewFor::Followers => match view {
                Ok(view) => drop(self.node.send(Input::ViewReady(Some(view)))),
                Err(e) => {
                    tracing::warn!(error = %e, "the rows could not be pinned for a snapshot");
                    let _ = self.node.send(Input::ViewReady(None));
                }
            },
            ViewFor::Reader(answer) => {
                let view = match self.rows_run_ahead(base.as_ref()) {
                    Ok(false) => view,
                    Ok(true) => view.and(Err(SnapshotError::Refused(REPLAYS.into()))),
                    Err(e) => Self::fail(&e),
                };
                drop(answer.send(view));
            }
        }
    }

    /// Rows are there that are newer than the position they are said to have: a crash cut a checkpoint short, and the log has not been
    /// replayed that far yet. They are right in this member's future and in no other: a copy must not have them.
    fn rows_run_ahead(&self, base: &dyn Base) -> Result<bool, BaseError> {
        let next = log::lower(self.durable + 1);
        Ok(base.cursor(Family::Log, &next, None)?.row().is_some())
    }

    /// The log says already that the rows are those of the snapshot: there is no way back, and a crash here is made good at start.
    fn install(&mut self, index: u64, done: &Sender<()>) {
        let taken_up = self.folders.take_up(index).and_then(|base| Ok(self.store.replace(base)?));
        match taken_up {
            Ok(()) => {}
            Err(SnapshotError::Base(e)) => Self::fail(&e),
            Err(e) => Self::fail(&BaseError::Io(e.to_string())),
        }
        self.durable = self.store.revision_at_open();
        self.read_mark();
        // The rows under a sweep are gone; the apply thread asks for a new one.
        (self.sweep, self.sweep_begun, self.sweep_again) = (None, None, false);
        let _ = done.send(());
    }

    fn begin_sweep(&mut self) {
        self.sweep = self.store.next_sweep();
        (self.sweep_begun, self.slice_due, self.sweep_again) = (None, true, false);
        if self.sweep.is_some() && !self.may_sweep() {
            let _ = self.apply.send(ApplyTask::Freeze);
        }
    }

    /// One slice of the sweep under way.
    pub fn sweep_slice(&mut self) {
        let Some(mut sweep) = self.sweep.take() else { return };
        let begun = *self.sweep_begun.get_or_insert_with(Instant::now);
        let step = Instant::now();
        let swept = self.store.sweep(&mut sweep, self.pace.rows);
        self.meter.sweep_step(step.elapsed());
        match swept {
            Ok(true) => {
                self.meter.swept(begun.elapsed());
                tracing::info!(compact_revision = sweep.target(), took = ?begun.elapsed(), "finished scheduled compaction");
                if self.sweep_again {
                    self.begin_sweep();
                }
            }
            Ok(false) => self.sweep = Some(sweep),
            Err(e @ BaseError::NoSpace(_)) => {
                // The sweep starts over from its durable mark.
                self.wait_for_space(&e);
                self.held.push_back(KeeperTask::Sweep);
            }
            Err(e) => Self::fail(&e),
        }
    }
}
