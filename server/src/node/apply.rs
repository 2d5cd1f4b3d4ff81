//! The apply thread: runs the machine over committed entries, answers those who wait, tells the watchers.

use super::handle::{Inner, Reply};
use super::hasher::Hasher;
use super::keeper::{KeeperTask, ViewFor};
use super::run::Input;
use crate::base::BaseError;
use crate::env::end;
use crate::mvcc::RevisionEvents;
use crate::queue::{Receiver, Sender};
use crate::state::{Applied, EntryResult, LeaseChange, Machine};
use prost::Message as _;
use quorate_proto::state::{Configuration, MemberChange};
use raft::eraftpb::{ConfChangeV2, ConfState, Entry, EntryType, Snapshot};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Whoever wants to know what was applied; calls are in order and must not block.
pub trait EventSink: Send {
    fn publish(&self, events: Vec<RevisionEvents>);
    fn compacted(&self, revision: i64);
    /// A snapshot put other rows in place: everything up to this revision is there, and was not published one by one.
    fn reset(&self, revision: i64);
}

impl EventSink for () {
    fn publish(&self, _: Vec<RevisionEvents>) {}
    fn compacted(&self, _: i64) {}
    fn reset(&self, _: i64) {}
}

pub(super) enum ApplyTask {
    Entries(Vec<Entry>),
    Install(Snapshot),
    /// Freeze now: a physical compaction waits for its checkpoint.
    Freeze,
    /// Make everything applied so far durable, then pin it.
    View(ViewFor),
    Stop,
}

pub(super) struct ApplyThread {
    pub machine: Machine,
    pub inner: Arc<Inner>,
    pub tasks: Receiver<ApplyTask>,
    pub keeper: Sender<KeeperTask>,
    pub sink: Box<dyn EventSink>,
    /// Gives the loop a committed change of raft's configuration and waits for the new one; `None` when the loop has ended.
    pub reconfigure: Reconfigure,
    /// The loop ended while a change of the configuration waited for it: nothing more is applied.
    pub ended: bool,
    pub hasher: Hasher,
}

pub(super) type Reconfigure = Box<dyn Fn(ConfChangeV2) -> Option<ConfState> + Send>;

/// Asks the loop's thread.
pub(super) fn ask_loop(inbox: Sender<Input>) -> Reconfigure {
    Box::new(move |change| {
        let (reply, conf) = crate::queue::bounded(1);
        let _ = inbox.send(Input::ApplyChange { change, reply });
        conf.recv().ok()
    })
}

pub(super) fn configuration(cs: &ConfState) -> Configuration {
    Configuration {
        voters: cs.voters.clone(),
        learners: cs.learners.clone(),
        voters_outgoing: cs.voters_outgoing.clone(),
        learners_next: cs.learners_next.clone(),
        auto_leave: cs.auto_leave,
    }
}

impl ApplyThread {
    /// Runs until told to stop; then leaves a checkpoint, so that the next start has nothing to replay.
    pub fn run(mut self) {
        while let Ok(task) = self.tasks.recv() {
            if let ApplyTask::Install(snapshot) = &task {
                let is_done = self.ask_install(snapshot);
                if is_done.recv().is_ok() {
                    self.installed(snapshot);
                }
            } else if !self.step(task) {
                return;
            }
        }
    }

    /// Does any task but an install, which waits for the keeper; false when it is to stop.
    pub fn step(&mut self, task: ApplyTask) -> bool {
        match task {
            ApplyTask::Entries(entries) => {
                let last = entries.last().map(|e| e.index);
                match self.entries(entries) {
                    Ok(true) => {}
                    // The next start goes on with the entry that was not applied.
                    Ok(false) => return true,
                    Err(e) => {
                        // Going on would diverge from the other members.
                        tracing::error!(error = %e, "applying failed; this member stops. Its data on disk is as it was");
                        give_up(&e);
                    }
                }
                self.stand();
                // The index was moved before; see the loop's side.
                std::sync::atomic::fence(Ordering::SeqCst);
                if let Some(index) = last
                    && self.inner.applied_wanted.load(Ordering::SeqCst)
                {
                    let _ = self.inner.inbox.send(Input::Applied(index));
                }
                self.settle(false);
            }
            ApplyTask::Install(_) => unreachable!("an install is done in two halves"),
            ApplyTask::Freeze => self.settle(true),
            ApplyTask::View(whom) => {
                self.settle(true);
                let _ = self.keeper.send(KeeperTask::View(whom));
            }
            ApplyTask::Stop => {
                self.settle(true);
                let _ = self.keeper.send(KeeperTask::Stop);
                return false;
            }
        }
        true
    }

    fn settle(&self, force: bool) {
        if self.machine.settle(force) {
            let _ = self.keeper.send(KeeperTask::Checkpoint(self.machine.position()));
        }
    }

    /// Has the keeper take up a snapshot whose rows wait in their folder and whose mark the log holds.
    pub fn ask_install(&self, snapshot: &Snapshot) -> Receiver<()> {
        let (done, is_done) = crate::queue::bounded(1);
        self.inner.meter.installing(true);
        let _ = self.keeper.send(KeeperTask::Install { index: snapshot.get_metadata().index, done });
        is_done
    }

    /// Goes on from a snapshot that the keeper has taken up.
    pub fn installed(&mut self, snapshot: &Snapshot) {
        let index = snapshot.get_metadata().index;
        if let Err(e) = self.machine.reload() {
            tracing::error!(error = %e, "the rows of a snapshot cannot be read; this member stops");
            give_up(&e);
        }
        self.inner.standing.rebuilt(self.machine.position());
        self.stand();
        let found = self.machine.position().index;
        assert!(found == index, "a snapshot at entry {index} holds the rows of entry {found}");
        let revision = self.machine.store().revision();
        tracing::info!(index, revision, "installed a snapshot");
        self.inner.meter.installing(false);
        self.sink.reset(revision);
        let _ = self.keeper.send(KeeperTask::Sweep);
        let _ = self.inner.inbox.send(Input::Installed(index));
    }

    /// Applies entries in order; false when the loop ended in between, and with it everything that follows.
    fn entries(&mut self, entries: Vec<Entry>) -> Result<bool, BaseError> {
        for e in entries {
            if self.ended {
                return Ok(false);
            }
            if e.index <= self.machine.position().index {
                continue;
            }
            match e.get_entry_type() {
                EntryType::EntryNormal => {
                    let mut last = self.inner.time.now();
                    let applied = self.machine.apply(e.index, e.term, e.data, |op, well| {
                        let now = self.inner.time.now();
                        self.inner.meter.applied(op, well, now.saturating_sub(std::mem::replace(&mut last, now)));
                    })?;
                    if applied.digest_begun {
                        self.inner.standing.began(e.index);
                    }
                    if let Some(wanted) = applied.hash {
                        self.hasher.hash(&self.inner, e.index, wanted);
                    }
                    self.tell(applied);
                }
                EntryType::EntryConfChangeV2 | EntryType::EntryConfChange => self.change(e)?,
            }
            self.inner.standing.mark(self.machine.position());
        }
        Ok(!self.ended)
    }

    /// Says where this member stands after what it applied, and whether it is set aside.
    fn stand(&self) {
        self.inner.standing.moved(self.machine.position());
        let fenced = self.inner.is_fenced();
        let changed = self.inner.fenced.send_if_modified(|was| std::mem::replace(was, fenced) != fenced);
        match (changed, fenced) {
            (true, true) => tracing::error!("the cluster found this member's data to differ: it serves nobody until it is rebuilt"),
            (true, false) => tracing::info!("this member was rebuilt and compared; it serves again"),
            _ => {}
        }
    }

    fn tell(&self, applied: Applied) {
        if !applied.leases.is_empty() {
            let mut clock = self.inner.clock.lock();
            let now = self.inner.time.now();
            for change in applied.leases {
                match change {
                    LeaseChange::Granted { id, ttl } => {
                        self.inner.meter.lease_granted(id, ttl);
                        clock.granted(id, ttl, now);
                    }
                    LeaseChange::Revoked { id } => {
                        self.inner.meter.lease_revoked(id);
                        clock.revoked(id);
                    }
                }
            }
        }
        if !applied.events.is_empty() {
            self.sink.publish(applied.events);
        }
        if let Some(rev) = applied.compacted {
            self.sink.compacted(rev);
            let _ = self.keeper.send(KeeperTask::Sweep);
        }
        self.answer(applied.results);
    }

    fn answer(&self, results: Vec<EntryResult>) {
        // What was made from rows that differ is not to be told; whoever waits learns nothing of what happened, which is the truth.
        if self.inner.is_fenced() {
            return;
        }
        let mine = results.into_iter().filter(|r| r.origin == self.inner.member_id);
        self.inner.ports.answer(mine.map(|r| (r.sequence, Reply::Applied(r.answer))));
    }

    fn change(&mut self, e: Entry) -> Result<(), BaseError> {
        let corrupt = |e: prost::DecodeError| BaseError::Corrupt(format!("a configuration change: {e}"));
        let change = ConfChangeV2::decode(e.data).map_err(corrupt)?;
        let member =
            if change.context.is_empty() { None } else { Some(MemberChange::decode(change.context.clone()).map_err(corrupt)?) };
        let allowed = member.as_ref().is_none_or(|m| self.machine.check_change(m).is_ok());
        let steps = !change.get_changes().is_empty() || member.is_none();
        if allowed && steps {
            match (self.reconfigure)(change) {
                Some(conf) => self.machine.put_configuration(&configuration(&conf)),
                // The loop is gone. Members must not change without raft's configuration: both wait for the next start.
                None => {
                    self.ended = true;
                    return Ok(());
                }
            }
        }
        if let Some(result) = self.machine.apply_change(e.index, e.term, member)? {
            self.answer(vec![result]);
        }
        Ok(())
    }
}

/// Ends the member for what its rows gave; the caller has logged it.
pub(super) fn give_up(e: &BaseError) -> ! {
    match e {
        BaseError::Corrupt(_) => {
            tracing::error!(
                "its data are damaged: remove this member from the cluster and add it again, with an empty data directory"
            );
            end::damaged()
        }
        _ => end::process(),
    }
}
