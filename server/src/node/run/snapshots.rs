//! Snapshots, the loop's part: the view that followers are sent, and the snapshot that this member takes up.
//!
//! In: views and complete snapshots, what is durable and applied. Out: tasks for the apply thread.
//! Invariant: nothing later is applied before a snapshot that raft took is in place.

use super::*;
use crate::snapshot::Place;
use std::collections::BTreeSet;

/// A view that nobody reads any more is kept for this long: a transfer that broke goes on with it.
const VIEW_KEPT: Duration = Duration::from_secs(60);
/// A view is given up after so many failed transfers none of which came further than those before.
const VIEW_FAILURES: u32 = 20;
/// A view is given up when nobody has come further in it for so long. Putting its last rows to use takes a receiver minutes at most.
const VIEW_STUCK: Duration = Duration::from_secs(600);

/// How the view for followers is getting on. While it is kept, so are the log after it and the rows' files under it: a follower that
/// never takes it must not keep them for ever.
#[derive(Default)]
pub(super) struct ViewUse {
    /// When somebody last had it in hand.
    used: Duration,
    /// How far it was read, and when it was first seen to be.
    reached: (Place, Duration),
    /// Transfers that failed since.
    failures: u32,
}

impl ViewUse {
    pub(super) fn begin(now: Duration) -> Self {
        Self { used: now, reached: (Place::default(), now), failures: 0 }
    }

    fn failed(&mut self) {
        self.failures += 1;
    }

    /// True when the view is to go.
    fn is_over(&mut self, now: Duration, is_idle: bool, reached: Place) -> bool {
        if !is_idle {
            self.used = now;
        }
        if reached > self.reached.0 {
            self.reached = (reached, now);
            self.failures = 0;
        }
        let since = |then| now.saturating_sub(then);
        since(self.used) > VIEW_KEPT || self.failures >= VIEW_FAILURES || since(self.reached.1) > VIEW_STUCK
    }
}

/// Whether two configurations are the same; the order of ids means nothing.
fn is_same(a: &ConfState, b: &ConfState) -> bool {
    let sets = |c: &ConfState| {
        [&c.voters, &c.learners, &c.voters_outgoing, &c.learners_next].map(|ids| ids.iter().copied().collect::<BTreeSet<_>>())
    };
    a.auto_leave == b.auto_leave && sets(a) == sets(b)
}

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
        let conf = conf_state(view.configuration.clone());
        if !is_same(&conf, &self.driver.conf_state()) {
            // A change came in between: the members it brought would refuse this one. Raft wants another.
            self.driver.store().snapshot_state().wanted = true;
            return;
        }
        let mut snapshot = Snapshot::default();
        let meta = snapshot.mut_metadata();
        (meta.index, meta.term) = (view.applied.index, view.applied.term);
        meta.set_conf_state(conf);
        self.driver.store().snapshot_state().ready = Some(snapshot);
        *self.inner.view.lock() = Some(view);
        self.view_use = ViewUse::begin(self.inner.time.now());
    }

    #[cfg(test)]
    pub(in crate::node) fn view_is_asked(&self) -> bool {
        self.view_asked
    }

    /// A transfer of the view ended.
    pub(super) fn view_sent(&mut self, id: MemberId, ok: bool) {
        self.driver.report_snapshot(id, ok);
        if !ok {
            self.view_use.failed();
        }
    }

    /// Lets go of a view that nobody reads, or that nobody comes to an end with: the next one is of a later moment.
    pub(super) fn drop_old_view(&mut self, now: Duration) {
        let mut slot = self.inner.view.lock();
        let Some(view) = slot.as_ref() else { return };
        let is_idle = Arc::strong_count(view) == 1;
        if self.view_use.is_over(now, is_idle, view.reached()) {
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

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn place(key: &'static str) -> Place {
        Place { family: 0, after: key.into() }
    }

    /// A view goes when nobody has had it in hand for a while, when transfers fail and come no further, and when one that is under way
    /// comes no further; headway counts for all.
    #[test]
    fn a_view_is_kept_for_who_makes_headway() {
        let mut idle = ViewUse::begin(SECOND);
        assert!(!idle.is_over(SECOND * 61, true, Place::default()));
        assert!(idle.is_over(SECOND * 62, true, Place::default()));

        let mut failing = ViewUse::begin(Duration::ZERO);
        for _ in 0..VIEW_FAILURES - 1 {
            failing.failed();
        }
        assert!(!failing.is_over(SECOND, false, Place::default()));
        failing.failed();
        assert!(!failing.is_over(SECOND * 2, false, place("a")), "the last one came further");
        for _ in 0..VIEW_FAILURES {
            failing.failed();
        }
        assert!(failing.is_over(SECOND * 3, false, place("a")));

        let mut stuck = ViewUse::begin(Duration::ZERO);
        assert!(!stuck.is_over(VIEW_STUCK, false, place("a")));
        assert!(!stuck.is_over(VIEW_STUCK * 2, false, place("a")));
        assert!(stuck.is_over(VIEW_STUCK * 2 + SECOND, false, place("a")));
    }
}
