//! Clients that watch. Each checks every message against the history as it comes, and resumes where it stopped.
//!
//! What is checked is in [`crate::following`].

use crate::following::{Following, ToldEvent};
use crate::world::{Event, MS, SECOND, World};
use bytes::Bytes;
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
    pub follow: Following,
    progress: bool,
    stream: Option<Stream>,
    pub bookmarks: u64,
    pub resumed: u64,
}

impl Watcher {
    pub fn next(&self) -> i64 {
        self.follow.next
    }
}

fn prefix(p: &'static str, end: &'static str) -> KeyRange {
    KeyRange::from_request(&Bytes::from_static(p.as_bytes()), &Bytes::from_static(end.as_bytes()))
}

impl World {
    pub fn add_watchers(&mut self, count: usize) {
        for watcher in 0..count {
            let range = match watcher % 4 {
                0 => prefix("a", "\0"),
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
                follow: Following {
                    range,
                    filters,
                    prev_kv: watcher % 2 == 0,
                    next: if watcher == 1 { 0 } else { 2 },
                    delivered: 0,
                },
                progress: watcher != 3,
                stream: None,
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
        let at = self.endpoint();
        let member = &self.members[at];
        let (Some(running), None) = (&member.running, member.paused_until) else { return };
        if self.is_learner(at) {
            return;
        }
        let w = &self.watchers[watcher];
        // A small budget: a client that is slow to read lags and catches up from history.
        let limits = Limits { stream_bytes: 900, ..Limits::default() };
        let (handle, receiver) = running.hub.open(limits);
        handle.create(&CreateWatch {
            id: None,
            range: w.follow.range.clone(),
            start_revision: w.follow.next,
            progress_notify: w.progress,
            filters: w.follow.filters,
            prev_kv: w.follow.prev_kv,
            fragment: false,
        });
        running.published.lock().stirred = true;
        let life = member.life;
        let next = w.follow.next;
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
                self.watch_told(s.at, revision);
                if self.watchers[watcher].follow.next == 0 {
                    self.watchers[watcher].follow.next = revision + 1;
                }
            }
            WatchMessage::Refused { reason, .. } => return Err(format!("refused: {reason}")),
            WatchMessage::Canceled { compact_revision: 0, reason, .. } => return Err(format!("canceled: {reason}")),
            WatchMessage::Canceled { compact_revision, .. } => {
                let next = self.watchers[watcher].follow.next;
                if compact_revision <= next || compact_revision > self.compact_asked {
                    return Err(format!("canceled for a compaction at {compact_revision}, it was to resume at {next}"));
                }
                self.note(&format!("watcher {watcher} was compacted to {compact_revision}"));
                self.watchers[watcher].follow.next = compact_revision;
                return Ok(false);
            }
            WatchMessage::Events { events, revision, fragment, .. } => {
                if fragment {
                    return Err("a fragment nobody asked for".into());
                }
                self.events(watcher, &events)?;
                self.nothing_before(watcher, revision).map_err(|e| format!("{e} ({} events)", events.len()))?;
                self.watch_told(s.at, revision);
            }
            WatchMessage::Progress { id, revision } => {
                self.nothing_before(watcher, revision).map_err(|e| format!("{e} (progress of {id})"))?;
                self.watch_told(s.at, revision);
                self.watchers[watcher].bookmarks += 1;
            }
        }
        Ok(true)
    }

    fn nothing_before(&mut self, watcher: usize, revision: i64) -> Result<(), String> {
        self.watchers[watcher].follow.progress(&self.history, revision)
    }

    fn events(&mut self, watcher: usize, block: &Arc<EventBlock>) -> Result<(), String> {
        let told: Vec<_> = block
            .iter()
            .map(|e| ToldEvent {
                key: e.key.clone(),
                kv: e.kv.clone(),
                delete: e.delete,
                revision: e.revision.main,
                prev: e.prev.cloned(),
            })
            .collect();
        self.watchers[watcher].follow.events(&self.history, &told, self.compact_asked)
    }

    /// True when every watcher has everything.
    pub fn watchers_are_done(&self) -> bool {
        let head = self.history.head();
        !self.watchers.iter().any(|w| w.follow.waits(&self.history, head))
    }
}
