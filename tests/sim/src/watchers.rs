//! Clients that watch. Each checks every message against the history as it comes, and resumes where it stopped.
//!
//! What is checked: events come in the order of revisions and never twice (ordered, unique), nothing that the watch wants is left
//! out between two of them (reliable), a revision comes whole (atomic), a watch that resumes at the revision after its last goes on
//! without a gap (resumable), and a revision told as progress has nothing below it that is still to come (bookmarkable).

use crate::world::{Event, MS, SECOND, World};
use bytes::Bytes;
use quorate::mvcc::Event as Change;
use quorate::types::KeyRange;
use quorate::watch::{CreateWatch, EventBlock, Filters, Limits, StreamHandle, StreamReceiver, WatchMessage};
use std::sync::Arc;

struct Stream {
    handle: StreamHandle,
    receiver: StreamReceiver,
    at: usize,
    life: u32,
    id: Option<i64>,
}

/// A client that watches.
pub struct Watcher {
    range: KeyRange,
    filters: Filters,
    prev_kv: bool,
    progress: bool,
    /// The first revision not yet seen; 0 before the first stream says where it begins.
    next: i64,
    stream: Option<Stream>,
    pub delivered: u64,
    pub bookmarks: u64,
    pub resumed: u64,
}

impl Watcher {
    fn wants(&self, event: &Change) -> bool {
        let dropped = if event.delete { self.filters.no_delete } else { self.filters.no_put };
        self.range.contains(&event.key) && !dropped
    }

    pub fn next(&self) -> i64 {
        self.next
    }
}

fn prefix(p: &'static str, end: &'static str) -> KeyRange {
    KeyRange::from_request(&Bytes::from_static(p.as_bytes()), &Bytes::from_static(end.as_bytes()))
}

impl World {
    pub fn add_watchers(&mut self, count: usize) {
        for watcher in 0..count {
            let range = match watcher % 4 {
                0 => KeyRange::all(),
                1 => prefix("a", "b"),
                2 => prefix("b", "c"),
                _ => prefix("a2", "b5"),
            };
            let filters = match watcher {
                2 => Filters { no_put: false, no_delete: false },
                5 => Filters { no_put: true, no_delete: false },
                _ => Filters::default(),
            };
            self.watchers.push(Watcher {
                range,
                filters,
                prev_kv: watcher % 2 == 0,
                progress: watcher != 3,
                next: if watcher == 1 { 0 } else { 2 },
                stream: None,
                delivered: 0,
                bookmarks: 0,
                resumed: 0,
            });
            let delay = SECOND + self.chance.below(SECOND);
            self.after(delay, Event::Watch { watcher });
        }
    }

    /// A watcher reads what has come, or opens a stream.
    pub fn watch(&mut self, watcher: usize) {
        let pause = match self.chance.below(100) {
            0..2 if !self.calm => self.chance.between(500 * MS, 4 * SECOND),
            2..30 => self.chance.between(MS, 20 * MS),
            _ => self.chance.between(20 * MS, 150 * MS),
        };
        self.after(pause, Event::Watch { watcher });
        let leave = !self.calm && self.chance.rarely(12);
        let stream = self.watchers[watcher].stream.take();
        let gone = |world: &Self, s: &Stream| world.members[s.at].life != s.life || world.members[s.at].running.is_none();
        match stream {
            Some(s) if leave || gone(self, &s) => {
                self.note(&format!("watcher {watcher} leaves member {}", s.at));
            }
            Some(s) if self.members[s.at].paused_until.is_some() => self.watchers[watcher].stream = Some(s),
            Some(s) => self.read(watcher, s),
            None => self.open(watcher),
        }
    }

    fn open(&mut self, watcher: usize) {
        let at = self.chance.below(self.members.len() as u64) as usize;
        let member = &self.members[at];
        let (Some(running), None) = (&member.running, member.paused_until) else { return };
        let w = &self.watchers[watcher];
        // A small budget: a client that is slow to read lags and catches up from history.
        let limits = Limits { stream_bytes: 900, ..Limits::default() };
        let (handle, receiver) = running.hub.open(limits);
        handle.create(&CreateWatch {
            id: None,
            range: w.range.clone(),
            start_revision: w.next,
            progress_notify: w.progress,
            filters: w.filters,
            prev_kv: w.prev_kv,
            fragment: false,
        });
        running.published.lock().stirred = true;
        let life = member.life;
        let next = w.next;
        self.watchers[watcher].resumed += 1;
        self.watchers[watcher].stream = Some(Stream { handle, receiver, at, life, id: None });
        self.note(&format!("watcher {watcher} watches from {next} at member {at}"));
        self.settle(at);
    }

    fn read(&mut self, watcher: usize, mut s: Stream) {
        let mut over = false;
        let most = self.chance.between(1, 40);
        for _ in 0..most {
            let Some(message) = s.receiver.try_recv() else { break };
            match self.message(watcher, &mut s, message) {
                Ok(true) => {}
                Ok(false) => {
                    over = true;
                    break;
                }
                Err(e) => {
                    self.violation(format!("watcher {watcher} at member {}: {e}", s.at));
                    return;
                }
            }
        }
        if self.chance.chance(4) {
            s.handle.progress();
        }
        // What was read makes room, and a watcher that lagged may go on.
        if let Some(running) = &self.members[s.at].running {
            running.published.lock().stirred = true;
        }
        let at = s.at;
        if !over {
            self.watchers[watcher].stream = Some(s);
        }
        self.settle(at);
    }

    /// Checks one message; false when the watch is over and begins anew.
    fn message(&mut self, watcher: usize, s: &mut Stream, message: WatchMessage) -> Result<bool, String> {
        match message {
            WatchMessage::Created { id, revision } => {
                s.id = Some(id);
                if revision > self.history.head() {
                    return Err(format!("created at revision {revision}, which nobody published"));
                }
                if self.watchers[watcher].next == 0 {
                    self.watchers[watcher].next = revision + 1;
                }
            }
            WatchMessage::Refused { reason, .. } => return Err(format!("refused: {reason}")),
            WatchMessage::Canceled { compact_revision: 0, reason, .. } => return Err(format!("canceled: {reason}")),
            WatchMessage::Canceled { compact_revision, .. } => {
                let next = self.watchers[watcher].next;
                if compact_revision <= next || compact_revision > self.compact_asked {
                    return Err(format!("canceled for a compaction at {compact_revision}, it was to resume at {next}"));
                }
                self.note(&format!("watcher {watcher} was compacted to {compact_revision}"));
                self.watchers[watcher].next = compact_revision;
                return Ok(false);
            }
            WatchMessage::Events { events, revision, fragment, .. } => {
                if fragment {
                    return Err("a fragment nobody asked for".into());
                }
                self.events(watcher, &events)?;
                self.nothing_before(watcher, revision).map_err(|e| format!("{e} ({} events)", events.len()))?;
            }
            WatchMessage::Progress { id, revision } => {
                self.nothing_before(watcher, revision).map_err(|e| format!("{e} (progress of {id})"))?;
                self.watchers[watcher].bookmarks += 1;
            }
        }
        Ok(true)
    }

    /// Every event at or below a revision went before: the watch goes on after it.
    fn nothing_before(&mut self, watcher: usize, revision: i64) -> Result<(), String> {
        let w = &self.watchers[watcher];
        if revision > self.history.head() {
            return Err(format!("revision {revision} was told, which nobody published"));
        }
        for missed in w.next..=revision {
            if self.history.at(missed).is_some_and(|r| r.events.iter().any(|e| w.wants(e))) {
                return Err(format!("revision {revision} was told as complete and {missed} had not come"));
            }
        }
        let w = &mut self.watchers[watcher];
        w.next = w.next.max(revision + 1);
        Ok(())
    }

    fn events(&mut self, watcher: usize, block: &Arc<EventBlock>) -> Result<(), String> {
        let told: Vec<_> = block.iter().collect();
        let mut at = 0;
        while at < told.len() {
            let revision = told[at].revision.main;
            let end = at + told[at..].iter().take_while(|e| e.revision.main == revision).count();
            let w = &self.watchers[watcher];
            if revision < w.next {
                return Err(format!("revision {revision} came when {} was next", w.next));
            }
            if revision > w.next {
                self.nothing_before(watcher, revision - 1)?;
            }
            let w = &self.watchers[watcher];
            let known = self.history.at(revision).ok_or_else(|| format!("revision {revision} came, which nobody published"))?;
            let wanted: Vec<_> = known.events.iter().filter(|e| w.wants(e)).collect();
            if wanted.len() != end - at {
                return Err(format!("revision {revision} came with {} events of {}", end - at, wanted.len()));
            }
            for (have, want) in told[at..end].iter().zip(wanted) {
                if (have.key, have.kv, have.delete, have.revision) != (&want.key, &want.kv, want.delete, want.revision) {
                    return Err(format!("revision {revision} came as {have:?}, it is {want:?}"));
                }
                if w.prev_kv {
                    let before = self.history.get(&want.key, revision - 1);
                    let prev = have.prev.map(|p| p.decode().map_err(|e| e.to_string())).transpose()?;
                    // What is compacted is left out.
                    if prev.as_ref() != before && !(prev.is_none() && self.compact_asked >= revision) {
                        return Err(format!("revision {revision}: the pair before came as {prev:?}, it was {before:?}"));
                    }
                }
            }
            self.watchers[watcher].delivered += (end - at) as u64;
            self.watchers[watcher].next = revision + 1;
            at = end;
        }
        Ok(())
    }

    /// True when every watcher has everything.
    pub fn watchers_are_done(&self) -> bool {
        let head = self.history.head();
        let waits = |w: &Watcher| {
            w.next == 0 || (w.next..=head).any(|r| self.history.at(r).is_some_and(|r| r.events.iter().any(|e| w.wants(e))))
        };
        !self.watchers.iter().any(waits)
    }
}
