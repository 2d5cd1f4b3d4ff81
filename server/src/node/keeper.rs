//! The keeper: the one thread that writes the durable rows. Checkpoints come first, sweeps run in slices between them.

use super::apply::ApplyTask;
use super::run::Input;
use crate::base::BaseError;
use crate::base::{Base, RocksBase, RocksOptions};
use crate::mvcc::Store;
use crate::queue::{Receiver, Sender};
use crate::snapshot::{SnapshotError, View, folder};
use crate::state::Position;
use std::cell::RefCell;
use std::collections::VecDeque;
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
    pub store: Arc<Store>,
    pub tasks: Receiver<KeeperTask>,
    pub apply: Sender<ApplyTask>,
    pub node: Sender<Input>,
    pub pace: SweepPace,
    /// Told how long each checkpoint took.
    pub on_checkpoint: Box<dyn Fn(Duration) + Send>,
    /// The member's folder, where folders of rows are.
    pub member: PathBuf,
    pub rocks: RocksOptions,
    /// Tasks met while the disk was full.
    pub held: RefCell<VecDeque<KeeperTask>>,
}

/// Pause before a full disk is tried again.
const FULL_PAUSE: Duration = Duration::from_secs(1);
/// Free bytes, beside those a checkpoint takes, at which a disk is no longer full.
const ROOM: u64 = 4 << 20;

impl Keeper {
    /// Runs until told to stop.
    pub fn run(self) {
        let mut durable = self.store.revision_at_open();
        while let Some(task) = self.next() {
            match task {
                KeeperTask::Checkpoint(position) => self.checkpoint(position, &mut durable),
                KeeperTask::Sweep => self.sweep(&mut durable),
                KeeperTask::View(whom) => self.view(whom),
                KeeperTask::Install { index, done } => self.install(index, &done, &mut durable),
                KeeperTask::Stop => return,
            }
        }
    }

    fn fail(e: impl std::fmt::Display) -> ! {
        tracing::error!(error = %e, "writing the durable rows failed; this member stops. Nothing acknowledged is lost: the log has it");
        std::process::abort();
    }

    fn next(&self) -> Option<KeeperTask> {
        let held = self.held.borrow_mut().pop_front();
        held.or_else(|| self.tasks.recv().ok())
    }

    /// Waits a while for space; false when the keeper is to stop, which loses nothing: the log has what is not in the rows.
    ///
    /// RocksDB does not take up writing again once a flush has failed for want of space, until it is opened anew. So when there is
    /// space and it still refuses, the member ends itself and whoever watches over it starts it again.
    fn wait_for_space(&self, e: &BaseError) -> bool {
        let free = rustix::fs::statvfs(&self.member).map_or(0, |s| s.f_bavail * s.f_frsize);
        if free > ROOM + 3 * self.store.policy().freeze_bytes as u64 {
            Self::fail(format_args!(
                "{e}; there is space again ({free} bytes), and the rows must be opened anew: start this member again"
            ));
        }
        tracing::error!(error = %e, "the disk is full; the durable rows wait until there is space");
        let until = Instant::now() + FULL_PAUSE;
        while let Ok(task) = self.tasks.recv_deadline(until) {
            let stop = matches!(task, KeeperTask::Stop);
            self.held.borrow_mut().push_back(task);
            if stop {
                return false;
            }
        }
        true
    }

    fn checkpoint(&self, position: Position, durable: &mut i64) {
        let started = Instant::now();
        let flush = !self.store.policy().inline;
        loop {
            match self.store.checkpoint(flush) {
                Ok(Some(revision)) => *durable = revision,
                Ok(None) => return,
                // Rows that were written already are written again, the same.
                Err(e @ BaseError::NoSpace(_)) if self.wait_for_space(&e) => continue,
                Err(BaseError::NoSpace(_)) => return,
                Err(e) => Self::fail(e),
            }
            break;
        }
        (self.on_checkpoint)(started.elapsed());
        if flush {
            let _ = self.node.send(Input::Checkpointed(position));
        }
    }

    fn view(&self, whom: ViewFor) {
        let base = self.store.base();
        let flushed = if self.store.policy().inline { base.flush() } else { Ok(()) };
        if let Err(e) = flushed {
            Self::fail(e);
        }
        let view = View::open(base);
        match whom {
            ViewFor::Followers => match view {
                Ok(view) => drop(self.node.send(Input::ViewReady(Some(view)))),
                Err(e) => {
                    tracing::warn!(error = %e, "the rows could not be pinned for a snapshot");
                    let _ = self.node.send(Input::ViewReady(None));
                }
            },
            ViewFor::Reader(answer) => drop(answer.send(view)),
        }
    }

    /// The log says already that the rows are those of the snapshot: there is no way back, and a crash here is made good at start.
    fn install(&self, index: u64, done: &Sender<()>, durable: &mut i64) {
        let take_up = || -> Result<(), SnapshotError> {
            let none = || SnapshotError::Damaged(format!("no complete snapshot at entry {index} is there"));
            let name = folder::staged(&self.member, index)?.ok_or_else(none)?;
            folder::switch(&self.member, &name)?;
            let base: Arc<dyn Base> = Arc::new(RocksBase::open(&self.member.join(name), self.rocks)?);
            Ok(self.store.replace(base)?)
        };
        if let Err(e) = take_up() {
            Self::fail(e);
        }
        *durable = self.store.revision_at_open();
        let _ = done.send(());
    }

    fn sweep(&self, durable: &mut i64) {
        let Some(mut sweep) = self.store.next_sweep() else { return };
        let target = sweep.target();
        // The sweep looks at durable rows alone, so those up to its target must be there.
        if *durable < target {
            let _ = self.apply.send(ApplyTask::Freeze);
            while *durable < target {
                match self.next() {
                    Some(KeeperTask::Checkpoint(position)) => self.checkpoint(position, durable),
                    Some(KeeperTask::Sweep) => {}
                    Some(KeeperTask::View(whom)) => self.view(whom),
                    Some(KeeperTask::Install { index, done }) => return self.install(index, &done, durable),
                    Some(KeeperTask::Stop) | None => return,
                }
            }
        }
        let started = Instant::now();
        let mut again = false;
        loop {
            match self.store.sweep(&mut sweep, self.pace.rows) {
                Ok(true) => break,
                Ok(false) => {}
                Err(e @ BaseError::NoSpace(_)) => {
                    // The sweep starts over from its durable mark.
                    self.wait_for_space(&e);
                    self.held.borrow_mut().push_back(KeeperTask::Sweep);
                    return;
                }
                Err(e) => Self::fail(e),
            }
            match self.tasks.recv_timeout(self.pace.pause) {
                Ok(KeeperTask::Checkpoint(position)) => self.checkpoint(position, durable),
                Ok(KeeperTask::Sweep) => again = true,
                Ok(KeeperTask::View(whom)) => self.view(whom),
                // The rows under the sweep are gone; the apply thread asks for a new one.
                Ok(KeeperTask::Install { index, done }) => return self.install(index, &done, durable),
                Ok(KeeperTask::Stop) => return,
                Err(crossbeam_channel::RecvTimeoutError::Timeout) => {}
                Err(crossbeam_channel::RecvTimeoutError::Disconnected) => return,
            }
        }
        tracing::info!(compact_revision = target, took = ?started.elapsed(), "finished scheduled compaction");
        if again {
            self.sweep(durable);
        }
    }
}
