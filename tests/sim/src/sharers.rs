//! Clients that keep many watches on one stream, as an API server does: watches come and go on it while the others go on, with ids
//! that the client or the stream chose, and large revisions may come in fragments.
//!
//! What each watch promises is checked by [`crate::following`]; here is what holds between those of one stream. Creations are answered
//! in their order, with the id that was asked for. Nothing comes for a watch before its creation or after its end. Progress told for
//! all watches holds for each that was created by then. A watch that was canceled resumes on the same stream, beside the others.

use crate::following::{Following, ToldEvent};
use crate::world::{Event, MS, SECOND, World};
use bytes::Bytes;
use quorate::types::KeyRange;
use quorate::watch::{CreateWatch, Filters, Limits, StreamHandle, StreamReceiver, WatchMessage};
use std::collections::VecDeque;

/// Watches that one client keeps.
const WATCHES: usize = 3;
/// Bytes of events from which a message is cut: the large revisions are.
const FRAGMENT: usize = 150;
/// The id that stands for all watches of a stream.
const ALL: i64 = -1;

/// One watch of the client.
struct Watch {
    follow: Following,
    fragment: bool,
    progress: bool,
    /// While it lives on the stream.
    id: Option<i64>,
    /// Its client asked for its end.
    leaves: bool,
    /// Fragments of a revision whose last part has not come.
    parts: Vec<ToldEvent>,
}

struct Stream {
    handle: StreamHandle,
    receiver: StreamReceiver,
    at: usize,
    life: u32,
    /// Watches whose creation is not answered, in the order asked, each with the id it wants.
    asked: VecDeque<(usize, Option<i64>)>,
    /// The next id that the client chooses.
    next_id: i64,
}

/// A client with one stream.
pub struct Sharer {
    watches: Vec<Watch>,
    stream: Option<Stream>,
}

fn range(n: usize) -> KeyRange {
    let (key, end) = [("a", "\0"), ("a", "b"), ("b3", ""), ("a2", "b5"), ("b", "c"), ("a4", "")][n % 6];
    KeyRange::from_request(&Bytes::from_static(key.as_bytes()), &Bytes::from_static(end.as_bytes()))
}

impl Sharer {
    pub fn delivered(&self) -> u64 {
        self.watches.iter().map(|w| w.follow.delivered).sum()
    }

    fn named(&mut self, id: i64) -> Result<&mut Watch, String> {
        self.watches.iter_mut().find(|w| w.id == Some(id)).ok_or_else(|| format!("a message for watch {id}, which is not there"))
    }
}

impl World {
    pub fn add_sharers(&mut self, count: usize) {
        for sharer in 0..count {
            let watch = |n: usize| Watch {
                follow: Following {
                    range: range(sharer * WATCHES + n),
                    filters: Filters { no_put: false, no_delete: n == 1 },
                    prev_kv: n != 1,
                    next: 2,
                    delivered: 0,
                },
                fragment: n != 0,
                progress: n == 2,
                id: None,
                leaves: false,
                parts: Vec::new(),
            };
            self.sharers.push(Sharer { watches: (0..WATCHES).map(watch).collect(), stream: None });
            let delay = SECOND + self.chance.below(SECOND);
            self.after(delay, Event::Share { sharer });
        }
    }

    /// Reads what has come on the stream and asks for a change of it, or opens one.
    pub fn share(&mut self, sharer: usize) {
        let pause = match self.chance.below(100) {
            0..2 if !self.calm => self.chance.between(500 * MS, 3 * SECOND),
            _ => self.chance.between(20 * MS, 200 * MS),
        };
        self.after(pause, Event::Share { sharer });
        let leave = !self.calm && self.chance.rarely(8);
        let Some(mut stream) = self.sharers[sharer].stream.take() else { return self.open_shared(sharer) };
        let member = &self.members[stream.at];
        if leave || member.life != stream.life || member.running.is_none() {
            return self.note(&format!("sharer {sharer} leaves member {}", stream.at));
        }
        if member.paused_until.is_none() {
            let at = stream.at;
            if let Err(e) = self.read_shared(sharer, &mut stream) {
                return self.violation(format!("sharer {sharer} at member {at}: {e}"));
            }
            self.change_shared(sharer, &mut stream);
            if let Some(running) = &self.members[at].running {
                running.published.lock().stirred = true;
            }
            self.sharers[sharer].stream = Some(stream);
            return self.settle(at);
        }
        self.sharers[sharer].stream = Some(stream);
    }

    fn open_shared(&mut self, sharer: usize) {
        let at = self.endpoint();
        let member = &self.members[at];
        let (Some(running), None) = (&member.running, member.paused_until) else { return };
        if self.is_learner(at) {
            return;
        }
        let limits = Limits { stream_bytes: 1200, fragment_bytes: FRAGMENT, ..Limits::default() };
        let (handle, receiver) = running.hub.open(limits);
        let mut stream = Stream { handle, receiver, at, life: member.life, asked: VecDeque::new(), next_id: 100 };
        for watch in 0..WATCHES {
            let w = &mut self.sharers[sharer].watches[watch];
            (w.id, w.leaves) = (None, false);
            w.parts.clear();
            self.create_shared(sharer, watch, &mut stream);
        }
        self.note(&format!("sharer {sharer} opens a stream at member {at}"));
        if let Some(running) = &self.members[at].running {
            running.published.lock().stirred = true;
        }
        self.sharers[sharer].stream = Some(stream);
        self.settle(at);
    }

    fn create_shared(&mut self, sharer: usize, watch: usize, stream: &mut Stream) {
        // Half of the ids are the client's choice, and none is used twice on a stream.
        let id = self.chance.chance(50).then_some(stream.next_id);
        stream.next_id += 1;
        let w = &self.sharers[sharer].watches[watch];
        stream.asked.push_back((watch, id));
        stream.handle.create(&CreateWatch {
            id,
            range: w.follow.range.clone(),
            start_revision: w.follow.next,
            progress_notify: w.progress,
            filters: w.follow.filters,
            prev_kv: w.follow.prev_kv,
            fragment: w.fragment,
        });
    }

    /// Now and then a watch is to end, or the stream is asked how far it is.
    fn change_shared(&mut self, sharer: usize, stream: &mut Stream) {
        if self.chance.chance(5) {
            stream.handle.progress();
        }
        if !self.calm && self.chance.chance(3) {
            let which = self.chance.below(WATCHES as u64) as usize;
            let w = &mut self.sharers[sharer].watches[which];
            if let Some(id) = w.id.filter(|_| !w.leaves) {
                w.leaves = true;
                stream.handle.cancel(id);
            }
        }
    }

    fn read_shared(&mut self, sharer: usize, stream: &mut Stream) -> Result<(), String> {
        for _ in 0..self.chance.between(1, 30) {
            let Some(message) = stream.receiver.try_recv() else { break };
            self.take_shared(sharer, stream, message)?;
        }
        Ok(())
    }

    /// Checks one message.
    fn take_shared(&mut self, sharer: usize, stream: &mut Stream, message: WatchMessage) -> Result<(), String> {
        let (history, compacted) = (&self.history, self.compact_asked);
        let sharers = &mut self.sharers[sharer];
        match message {
            WatchMessage::Created { id, revision } => {
                let (watch, wanted) = stream.asked.pop_front().ok_or("a creation nobody asked for")?;
                if wanted.is_some_and(|wanted| wanted != id) {
                    return Err(format!("watch {id} was created, {wanted:?} was asked for"));
                }
                if sharers.watches.iter().any(|w| w.id == Some(id)) {
                    return Err(format!("watch {id} was created twice"));
                }
                if revision > history.head() {
                    return Err(format!("created at revision {revision}, which nobody published"));
                }
                sharers.watches[watch].id = Some(id);
                self.watch_told(stream.at, revision);
            }
            WatchMessage::Refused { reason, .. } => return Err(format!("refused: {reason}")),
            WatchMessage::Canceled { id, compact_revision, reason, .. } => {
                let w = sharers.named(id)?;
                let next = w.follow.next;
                match compact_revision {
                    0 if w.leaves => {}
                    0 => return Err(format!("watch {id} was canceled: {reason}")),
                    _ if compact_revision <= next || compact_revision > compacted => {
                        return Err(format!("watch {id} was canceled for a compaction at {compact_revision}, it was at {next}"));
                    }
                    _ => w.follow.next = compact_revision,
                }
                if !w.parts.is_empty() {
                    return Err(format!("watch {id} ended in the middle of a revision"));
                }
                (w.id, w.leaves) = (None, false);
                let asked = |watch: usize| stream.asked.iter().any(|(other, _)| *other == watch);
                let again: Vec<usize> = (0..WATCHES).filter(|n| sharers.watches[*n].id.is_none() && !asked(*n)).collect();
                again.into_iter().for_each(|watch| self.create_shared(sharer, watch, stream));
            }
            WatchMessage::Events { id, events, revision, fragment } => {
                let w = sharers.named(id)?;
                w.parts.extend(events.iter().map(|e| ToldEvent {
                    key: e.key.clone(),
                    kv: e.kv.clone(),
                    delete: e.delete,
                    revision: e.revision.main,
                    prev: e.prev.cloned(),
                }));
                if fragment && !w.fragment {
                    return Err("a fragment nobody asked for".into());
                }
                if !fragment {
                    let told = std::mem::take(&mut w.parts);
                    w.follow.events(history, &told, compacted)?;
                    w.follow.progress(history, revision)?;
                    self.watch_told(stream.at, revision);
                }
            }
            WatchMessage::Progress { id, revision } => {
                let mut met = false;
                for w in sharers.watches.iter_mut().filter(|w| w.id.is_some() && (id == ALL || w.id == Some(id))) {
                    met = true;
                    if !w.parts.is_empty() {
                        return Err(format!("progress of {id} between the fragments of a revision"));
                    }
                    w.follow.progress(history, revision).map_err(|e| format!("{e} (progress of {id})"))?;
                }
                if !met {
                    return Err(format!("progress of watch {id}, which is not there"));
                }
                self.watch_told(stream.at, revision);
            }
        }
        Ok(())
    }

    /// True when every watch of every such client has everything.
    pub fn sharers_are_done(&self) -> bool {
        let head = self.history.head();
        !self.sharers.iter().flat_map(|s| &s.watches).any(|w| w.follow.waits(&self.history, head))
    }
}
