//! What a watch promises, checked against the history as its messages come.
//!
//! Events come in the order of revisions and never twice (ordered, unique), nothing that the watch wants is left out between two of
//! them (reliable), a revision comes whole (atomic), a watch that resumes at the revision after its last goes on without a gap
//! (resumable), and a revision told as progress has nothing below it that is still to come (bookmarkable).

use crate::agreed::History;
use bytes::Bytes;
use quorate::mvcc::Event as Change;
use quorate::types::KeyRange;
use quorate::watch::Filters;
use quorate_proto::RawKv;

/// One event as a watcher was told it.
#[derive(Clone, Debug)]
pub struct ToldEvent {
    pub key: Bytes,
    pub kv: RawKv,
    pub delete: bool,
    /// The main revision.
    pub revision: i64,
    pub prev: Option<RawKv>,
}

/// How far one watch has come.
pub struct Following {
    pub range: KeyRange,
    pub filters: Filters,
    pub prev_kv: bool,
    /// The first revision not yet seen; 0 before the first stream says where it begins.
    pub next: i64,
    pub delivered: u64,
}

impl Following {
    fn wants(&self, event: &Change) -> bool {
        let dropped = if event.delete { self.filters.no_delete } else { self.filters.no_put };
        self.range.contains(&event.key) && !dropped
    }

    /// True when something up to `head` is still to come.
    pub fn waits(&self, history: &History, head: i64) -> bool {
        self.next == 0 || (self.next..=head).any(|r| history.at(r).is_some_and(|r| r.events.iter().any(|e| self.wants(e))))
    }

    /// Every event at or below a revision went before: the watch goes on after it.
    pub fn progress(&mut self, history: &History, revision: i64) -> Result<(), String> {
        if revision > history.head() {
            return Err(format!("revision {revision} was told, which nobody published"));
        }
        for missed in self.next..=revision {
            if history.at(missed).is_some_and(|r| r.events.iter().any(|e| self.wants(e))) {
                return Err(format!("revision {revision} was told as complete and {missed} had not come"));
            }
        }
        self.next = self.next.max(revision + 1);
        Ok(())
    }

    /// Takes the events of one message. `compacted` is the newest revision whose compaction anyone has asked for: pairs before a
    /// change at or below it may be left out.
    pub fn events(&mut self, history: &History, told: &[ToldEvent], compacted: i64) -> Result<(), String> {
        let mut at = 0;
        while at < told.len() {
            let revision = told[at].revision;
            let end = at + told[at..].iter().take_while(|e| e.revision == revision).count();
            if revision < self.next {
                return Err(format!("revision {revision} came when {} was next", self.next));
            }
            if revision > self.next {
                self.progress(history, revision - 1)?;
            }
            let known = history.at(revision).ok_or_else(|| format!("revision {revision} came, which nobody published"))?;
            let wanted: Vec<_> = known.events.iter().filter(|e| self.wants(e)).collect();
            if wanted.len() != end - at {
                return Err(format!("revision {revision} came with {} events of {}", end - at, wanted.len()));
            }
            for (have, want) in told[at..end].iter().zip(wanted) {
                if (&have.key, &have.kv, have.delete) != (&want.key, &want.kv, want.delete) {
                    return Err(format!("revision {revision} came as {have:?}, it is {want:?}"));
                }
                if self.prev_kv {
                    let before = history.get(&want.key, revision - 1);
                    let prev = have.prev.as_ref().map(|p| p.decode().map_err(|e| e.to_string())).transpose()?;
                    // What is compacted is left out.
                    if prev.as_ref() != before && !(prev.is_none() && compacted >= revision) {
                        return Err(format!("revision {revision}: the pair before came as {prev:?}, it was {before:?}"));
                    }
                }
            }
            self.delivered += (end - at) as u64;
            self.next = revision + 1;
            at = end;
        }
        Ok(())
    }
}
