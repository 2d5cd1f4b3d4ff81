//! Snapshots, the loop's part: the view that followers are sent, and the snapshot that this member takes up.
//!
//! In: views and complete snapshots, what is durable and applied. Out: tasks for the apply thread.
//! Invariant: nothing later is applied before a snapshot that raft took is in place.

use super::*;

/// A view that nobody reads any more is kept for this long: a transfer that broke goes on with it.
const VIEW_KEPT: Duration = Duration::from_secs(60);

/// A snapshot that raft took: installed once its mark in the log is durable, and nothing later is applied before.
pub(super) struct Installing {
    pub(super) number: u64,
    /// Gone when the apply thread has it.
    pub(super) snapshot: Option<Snapshot>,
    pub(super) index: u64,
    pub(super) held: Vec<Entry>,
}

impl Loop {
    pub(super) fn view_ready(&mut self, view: Option<Arc<View>>) {
        self.view_asked = false;
        let Some(view) = view else { return };
        let mut snapshot = Snapshot::default();
        let meta = snapshot.mut_metadata();
        (meta.index, meta.term) = (view.applied.index, view.applied.term);
        meta.set_conf_state(conf_state(view.configuration.clone()));
        self.driver.store().snapshot_state().ready = Some(snapshot);
        *self.inner.view.lock() = Some(view);
        self.view_used = self.inner.time.now();
    }

    /// Lets go of a view nobody reads, or that the log has left behind.
    pub(super) fn drop_old_view(&mut self, now: Duration) {
        let mut slot = self.inner.view.lock();
        let Some(view) = slot.as_ref() else { return };
        let idle = Arc::strong_count(view) == 1;
        if !idle {
            self.view_used = now;
        } else if now.saturating_sub(self.view_used) > VIEW_KEPT {
            *slot = None;
            self.driver.store().snapshot_state().ready = None;
        }
    }

    /// Steps a snapshot whose rows are complete; true when raft takes it. A second one while the first is not yet installed would
    /// end the process.
    pub(super) fn take_snapshot(&mut self, message: Message, complete: bool) -> bool {
        if self.installing.is_some() {
            return false;
        }
        let index = message.get_snapshot().get_metadata().index;
        // One that was asked for replaces the log as well: it must have the rows, and reach as far as the log does.
        if self.driver.requested().is_some_and(|wanted| !complete || index < wanted) {
            return false;
        }
        self.driver.step(message);
        let effects = self.driver.ready();
        self.carry_out(effects);
        let taken = self.installing.as_ref().is_some_and(|i| i.index == index);
        if taken {
            // A second one would be received for nothing.
            self.inner.rows_wanted.store(0, Ordering::Release);
        }
        taken
    }

    /// The log is durable up to a number: a snapshot whose mark is among that may become the member's rows.
    pub(super) fn install(&mut self, number: u64) {
        if let Some(i) = self.installing.as_mut().filter(|i| i.number <= number)
            && let Some(snapshot) = i.snapshot.take()
        {
            let _ = self.apply.send(ApplyTask::Install(snapshot));
        }
    }

    pub(super) fn installed(&mut self, index: u64) {
        if self.installing.as_ref().is_some_and(|i| i.index <= index)
            && let Some(done) = self.installing.take()
            && !done.held.is_empty()
        {
            let _ = self.apply.send(ApplyTask::Entries(done.held));
        }
    }
}
