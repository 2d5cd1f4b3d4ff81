//! The watch state machine of one shard: streams, their watchers, and what each has yet to be told.
//!
//! In: published revisions, chunks of history, compaction marks, jumps (snapshot installs, dropped batches), time, and the
//! clients' calls. Out: messages in the streams' outboxes, fetched with `take`, and [`Effects`]. No thread, clock, lock, or
//! randomness but the seed lives here: the same calls give the same messages.
//!
//! Invariants:
//! - Every event at or below `published` that a live watcher wants was put in its stream's outbox; none above was.
//! - A lagging watcher got everything below its `from` and nothing at or above it.
//! - A lagging watcher is in `resumable`, under its `from`, or its stream is `parked` (it has no room).

mod catch_up;
mod outbox;
mod progress;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

use self::outbox::Outbox;
use super::hub::Counters;
use super::index::{GroupId, Index, Options, WatcherId};
use super::message::{CreateWatch, EventBlock, SharedEvent, WatchMessage};
use crate::env::plant::{self, Plant};
use crate::mvcc::RevisionEvents;

/// A block is closed at the next revision border once it has this many bytes: a client gets large batches in several messages.
const BLOCK_BYTES: usize = 512 * 1024;

/// etcd's texts for creates that are refused.
const EMPTY_RANGE: &str = "mvcc: watcher range is empty";
const DUPLICATE_ID: &str = "mvcc: duplicate watch ID provided on the WatchStream";
const NEGATIVE_START: &str = "etcdserver: mvcc: required revision has been compacted";

/// Bounds of a stream.
#[derive(Copy, Clone, Debug)]
pub struct Limits {
    /// Bytes that may wait on the stream before its watchers lag. One message may exceed it when nothing else waits.
    pub stream_bytes: usize,
    /// Bytes of events from which a watch that allows fragments gets them.
    pub fragment_bytes: usize,
    /// Answers (to create, cancel, progress) that may wait before the stream's requests are read no further.
    pub answers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { stream_bytes: 1024 * 1024, fragment_bytes: 3 * 512 * 1024, answers: 1024 }
    }
}

/// Names a stream of a shard. A slot is used again under another generation.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct StreamKey {
    pub slot: u32,
    generation: u32,
}

/// What the shell has to do after a call.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// Slots of streams whose outbox was empty and is not any more.
    pub wake: Vec<u32>,
    /// Some lagging watcher can go on.
    pub catch_up: bool,
}

/// Consecutive revisions in the form in which watchers share them.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub revisions: Vec<(i64, Vec<Arc<SharedEvent>>)>,
}

pub(super) struct Core {
    published: i64,
    index: Index,
    streams: Vec<Stream>,
    free_streams: Vec<u32>,
    watchers: Vec<Option<Watcher>>,
    free_watchers: Vec<WatcherId>,
    /// Lagging watchers whose stream has room, by the revision they resume from.
    resumable: BTreeSet<(i64, WatcherId)>,
    /// Streams that wait for the answer to a progress request.
    asking: Vec<StreamKey>,
    /// When watchers with `progress_notify` are looked at next. Entries of gone watchers are dropped when they come up.
    turns: BinaryHeap<Reverse<(u64, WatcherId, u64)>>,
    progress_interval: u64,
    jitter: u64,
    /// Serial number of the next watcher, which tells a reused id apart.
    serial: u64,
    matches: Matches,
    /// Events put in outboxes and not counted in `counters` yet.
    delivered: u64,
    effects: Effects,
    counters: Arc<Counters>,
}

/// A slot for a stream; `outbox` is none while the slot is free.
struct Stream {
    generation: u32,
    outbox: Option<Outbox>,
    watches: BTreeMap<i64, WatcherId>,
    next_id: i64,
    lagging: usize,
    /// Lagging watchers wait for room instead of being in `resumable`.
    parked: bool,
    /// A progress request waits for this revision to be published and for all watchers to be live.
    asked: Option<i64>,
    /// The revision that the newest request waits for.
    asked_last: i64,
}

struct Watcher {
    serial: u64,
    stream: u32,
    id: i64,
    group: GroupId,
    place: u32,
    /// Events below are not for this watcher: it had them or never wanted them.
    from: i64,
    lagging: bool,
    fragment: bool,
    /// Below this revision there is no progress to tell.
    quiet_until: i64,
    /// Got events since its last turn.
    active: bool,
}

type Blocks = Vec<Arc<EventBlock>>;

/// Scratch space: the events of a batch by group, and the groups in the order in which they were first hit.
#[derive(Default)]
struct Matches {
    events: Vec<Vec<Arc<SharedEvent>>>,
    touched: Vec<GroupId>,
}

impl Batch {
    pub fn new(revisions: Vec<RevisionEvents>) -> Self {
        let share = |r: RevisionEvents| (r.revision, r.events.into_iter().map(SharedEvent::new).collect());
        Self { revisions: revisions.into_iter().map(share).collect() }
    }

    pub fn last_revision(&self) -> Option<i64> {
        self.revisions.last().map(|(revision, _)| *revision)
    }
}

impl Core {
    /// `published` is the revision from which on batches will come; `progress_interval` is in milliseconds.
    pub fn new(published: i64, progress_interval: u64, seed: u64, counters: Arc<Counters>) -> Self {
        Self {
            published,
            index: Index::default(),
            streams: Vec::new(),
            free_streams: Vec::new(),
            watchers: Vec::new(),
            free_watchers: Vec::new(),
            resumable: BTreeSet::new(),
            asking: Vec::new(),
            turns: BinaryHeap::new(),
            progress_interval,
            jitter: seed | 1,
            serial: 0,
            matches: Matches::default(),
            delivered: 0,
            effects: Effects::default(),
            counters,
        }
    }

    pub fn effects(&mut self) -> Effects {
        std::mem::take(&mut self.effects)
    }

    pub fn open(&mut self, limits: Limits) -> StreamKey {
        let slot = self.free_streams.pop().unwrap_or_else(|| {
            self.streams.push(Stream::free());
            u32::try_from(self.streams.len() - 1).expect("a process holds fewer than 2^32 streams")
        });
        let stream = &mut self.streams[slot as usize];
        stream.outbox = Some(Outbox::new(limits));
        Counters::add(&self.counters.streams, 1);
        StreamKey { slot, generation: stream.generation }
    }

    /// Frees all that the stream had; calls for it do nothing from here on. False when it was closed already.
    pub fn close(&mut self, key: StreamKey) -> bool {
        let Some(stream) = self.stream(key) else { return false };
        let watches: Vec<_> = stream.watches.values().copied().collect();
        for watcher in watches {
            self.remove_watcher(watcher);
        }
        let generation = key.generation.wrapping_add(1);
        self.streams[key.slot as usize] = Stream { generation, ..Stream::free() };
        self.asking.retain(|other| *other != key);
        self.free_streams.push(key.slot);
        Counters::sub(&self.counters.streams, 1);
        true
    }

    pub fn close_all(&mut self) {
        for slot in 0..self.streams.len() as u32 {
            let generation = self.streams[slot as usize].generation;
            self.close(StreamKey { slot, generation });
        }
    }

    /// Answers a create. `head` and `compacted` are the store's revision and compaction mark, read after the request came in:
    /// what the client saw done before it asked is at or below `head`. `now` is in milliseconds.
    pub fn create(&mut self, key: StreamKey, wish: &CreateWatch, head: i64, compacted: i64, now: u64) {
        let Some(stream) = self.stream(key) else { return };
        let chosen = wish.id.filter(|id| *id != 0);
        let refusal = if wish.start_revision < 0 {
            Some(NEGATIVE_START)
        } else if wish.range.is_empty() {
            Some(EMPTY_RANGE)
        } else {
            chosen.filter(|id| stream.watches.contains_key(id)).map(|_| DUPLICATE_ID)
        };
        if let Some(reason) = refusal {
            return self.answer(key, WatchMessage::Refused { revision: head, reason });
        }
        let id = chosen.unwrap_or_else(|| stream.auto_id());
        self.answer(key, WatchMessage::Created { id, revision: head });
        let start = wish.start_revision;
        if start > 0 && start < compacted {
            return self.answer(key, WatchMessage::compacted(id, compacted));
        }
        let back = i64::from(plant::is(Plant::WatchBackInTime));
        let from = if start == 0 { head + 1 } else { start - back };
        self.add_watcher(key, id, wish, from, head.max(start), now);
    }

    /// Ends a watch; nothing follows the answer. An unknown id is met with silence.
    pub fn cancel(&mut self, key: StreamKey, id: i64, head: i64) {
        self.revoke(key, id, head, "");
    }

    /// Ends a watch as `cancel` does, with a reason.
    pub fn revoke(&mut self, key: StreamKey, id: i64, head: i64, reason: &str) {
        let Some(watcher) = self.stream(key).and_then(|stream| stream.watches.get(&id).copied()) else { return };
        self.end_watch(watcher, |id| WatchMessage::canceled(id, head, reason));
    }

    /// Gives each live watcher its events of the batch. Revisions already known are passed over.
    pub fn publish(&mut self, batch: &Batch) {
        let fresh = batch.revisions.partition_point(|(revision, _)| *revision <= self.published);
        let Some(last) = batch.last_revision().filter(|last| *last > self.published) else { return };
        self.matches.collect(&self.index, &batch.revisions[fresh..]);
        self.published = last;
        for at in 0..self.matches.touched.len() {
            let group = self.matches.touched[at];
            let events = std::mem::take(&mut self.matches.events[group as usize]);
            self.deliver(group, events);
        }
        self.matches.touched.clear();
        self.settle();
    }

    /// The store went on to `revision` without its batches coming here (a snapshot was installed, or batches were dropped):
    /// every watcher resumes from its own next revision.
    pub fn jump(&mut self, revision: i64) {
        let known = self.published;
        self.published = revision;
        for id in 0..self.watchers.len() as WatcherId {
            let Some(watcher) = self.watchers[id as usize].as_mut() else { continue };
            if !watcher.lagging {
                let skipped = i64::from(plant::is(Plant::WatchGap));
                watcher.from = watcher.from.max(known + 1 + skipped);
            }
            match (watcher.from, watcher.lagging) {
                (from, false) if from <= revision => self.start_lagging(id, from),
                (from, true) if from > revision => self.stop_lagging(id),
                _ => {}
            }
        }
        self.answer_progress();
    }

    /// Ends the watches that still need a revision below the mark.
    pub fn compacted(&mut self, mark: i64) {
        let behind = |w: &Watcher| w.lagging && w.from < mark;
        let lost: Vec<_> =
            (0..self.watchers.len() as WatcherId).filter(|id| self.watchers[*id as usize].as_ref().is_some_and(behind)).collect();
        for id in lost {
            self.end_watch(id, |id| WatchMessage::compacted(id, mark));
        }
    }

    /// Moves what waits on the stream to `into`. What was taken the time before is written by then and makes room.
    pub fn take(&mut self, key: StreamKey, into: &mut std::collections::VecDeque<WatchMessage>) -> bool {
        let Some(outbox) = self.stream(key).and_then(|stream| stream.outbox.as_mut()) else { return false };
        outbox.take(into);
        self.unpark(key.slot);
        true
    }

    /// Whether the stream's next request may be answered; false means that too many answers wait already.
    pub fn accepts_requests(&self, key: StreamKey) -> bool {
        let stream = &self.streams[key.slot as usize];
        stream.generation != key.generation || stream.outbox.as_ref().is_none_or(Outbox::accepts_answers)
    }

    fn stream(&mut self, key: StreamKey) -> Option<&mut Stream> {
        self.streams.get_mut(key.slot as usize).filter(|s| s.generation == key.generation && s.outbox.is_some())
    }

    fn answer(&mut self, key: StreamKey, message: WatchMessage) {
        push(&mut self.streams[key.slot as usize], key.slot, message, &mut self.effects);
    }

    /// Ends a delivery to many watchers.
    fn settle(&mut self) {
        Counters::add(&self.counters.events, std::mem::take(&mut self.delivered));
        self.answer_progress();
    }

    fn add_watcher(&mut self, key: StreamKey, id: i64, wish: &CreateWatch, from: i64, quiet_until: i64, now: u64) {
        let watcher = self.free_watchers.pop().unwrap_or_else(|| {
            self.watchers.push(None);
            WatcherId::try_from(self.watchers.len() - 1).expect("a process holds fewer than 2^32 watchers")
        });
        let options = Options { filters: wish.filters, prev_kv: wish.prev_kv };
        let (group, place) = self.index.add(&wish.range, options, watcher);
        self.matches.reserve(self.index.capacity());
        self.serial += 1;
        self.watchers[watcher as usize] = Some(Watcher {
            serial: self.serial,
            stream: key.slot,
            id,
            group,
            place,
            from,
            lagging: false,
            fragment: wish.fragment,
            quiet_until,
            active: false,
        });
        self.streams[key.slot as usize].watches.insert(id, watcher);
        Counters::add(&self.counters.watchers, 1);
        if from <= self.published {
            self.start_lagging(watcher, from);
        }
        if wish.progress_notify {
            self.schedule_turn(watcher, now);
        }
    }

    fn remove_watcher(&mut self, id: WatcherId) {
        let watcher = self.watchers[id as usize].take().expect("a watcher is removed once");
        self.free_watchers.push(id);
        if let Some(moved) = self.index.remove(watcher.group, watcher.place) {
            self.watchers[moved as usize].as_mut().expect("groups hold watchers that exist").place = watcher.place;
        }
        let stream = &mut self.streams[watcher.stream as usize];
        stream.watches.remove(&watcher.id);
        if watcher.lagging {
            stream.lagging -= 1;
            self.resumable.remove(&(watcher.from, id));
            Counters::sub(&self.counters.lagging, 1);
        }
        Counters::sub(&self.counters.watchers, 1);
    }

    /// Removes a watcher that its client did not ask to remove, and tells the client.
    fn end_watch(&mut self, id: WatcherId, message: impl FnOnce(i64) -> WatchMessage) {
        let watcher = self.watchers[id as usize].as_ref().expect("the caller just saw it");
        let (slot, message) = (watcher.stream, message(watcher.id));
        let key = StreamKey { slot, generation: self.streams[slot as usize].generation };
        self.remove_watcher(id);
        self.answer(key, message);
        self.reconsider_progress(key);
    }

    fn start_lagging(&mut self, id: WatcherId, from: i64) {
        let watcher = self.watchers[id as usize].as_mut().expect("only watchers that exist can lag");
        let stream = &mut self.streams[watcher.stream as usize];
        watcher.lagging = true;
        watcher.from = from;
        stream.lagging += 1;
        Counters::add(&self.counters.lagging, 1);
        if stream.outbox.as_ref().is_some_and(Outbox::has_room) {
            self.resumable.insert((from, id));
            self.effects.catch_up = true;
        } else {
            stream.parked = true;
        }
    }

    fn stop_lagging(&mut self, id: WatcherId) {
        let watcher = self.watchers[id as usize].as_mut().expect("only watchers that exist can lag");
        watcher.lagging = false;
        self.resumable.remove(&(watcher.from, id));
        self.streams[watcher.stream as usize].lagging -= 1;
        Counters::sub(&self.counters.lagging, 1);
    }

    /// Lets the lagging watchers of a stream go on if it has room again.
    fn unpark(&mut self, slot: u32) {
        let stream = &mut self.streams[slot as usize];
        if !stream.parked || !stream.outbox.as_ref().is_some_and(Outbox::has_room) {
            return;
        }
        stream.parked = false;
        for id in stream.watches.values() {
            let watcher = self.watchers[*id as usize].as_ref().expect("streams hold watchers that exist");
            if watcher.lagging {
                self.resumable.insert((watcher.from, *id));
                self.effects.catch_up = true;
            }
        }
    }

    /// Hands a group's events to its live watchers: the same blocks to all, save those that begin in the middle of the batch.
    fn deliver(&mut self, group: GroupId, events: Vec<Arc<SharedEvent>>) {
        let prev_kv = self.index.group(group).options.prev_kv;
        let first = events.first().map_or(0, |event| event.event().revision.main);
        let blocks = blocks(&events, prev_kv);
        for at in 0..self.index.group(group).watchers.len() {
            let id = self.index.group(group).watchers[at];
            let watcher = self.watchers[id as usize].as_ref().expect("groups hold watchers that exist");
            if watcher.lagging {
                continue;
            }
            let stopped = if watcher.from <= first {
                self.offer(id, &blocks, self.published)
            } else {
                let wanted = events.partition_point(|event| event.event().revision.main < watcher.from);
                self.offer(id, &self::blocks(&events[wanted..], prev_kv), self.published)
            };
            if let Some(from) = stopped {
                self.start_lagging(id, from);
            }
        }
    }

    /// Puts blocks on the watcher's stream, which then holds all its events up to `through`. Returns the revision at which it
    /// had to stop for want of room.
    fn offer(&mut self, id: WatcherId, blocks: &[Arc<EventBlock>], through: i64) -> Option<i64> {
        let watcher = self.watchers[id as usize].as_mut().expect("the caller just saw it");
        let slot = watcher.stream;
        let stream = &mut self.streams[slot as usize];
        let outbox = stream.outbox.as_mut().expect("a stream with watchers is open");
        for (at, block) in blocks.iter().enumerate() {
            let last = at + 1 == blocks.len();
            let revision = if last { through } else { block.last_revision() };
            let message = WatchMessage::Events { id: watcher.id, events: block.clone(), revision, fragment: watcher.fragment };
            if !outbox.fits(&message) {
                return Some(block.first_revision());
            }
            watcher.active = true;
            self.delivered += block.len() as u64;
            if outbox.push(message) {
                self.effects.wake.push(slot);
            }
        }
        None
    }
}

impl Stream {
    fn free() -> Self {
        Self {
            generation: 0,
            outbox: None,
            watches: BTreeMap::new(),
            next_id: 0,
            lagging: 0,
            parked: false,
            asked: None,
            asked_last: 0,
        }
    }

    /// The next id that no watch of this stream has.
    fn auto_id(&mut self) -> i64 {
        while self.watches.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }
}

impl Matches {
    fn reserve(&mut self, groups: usize) {
        if self.events.len() < groups {
            self.events.resize_with(groups, Vec::new);
        }
    }

    fn collect(&mut self, index: &Index, revisions: &[(i64, Vec<Arc<SharedEvent>>)]) {
        let Self { events, touched } = self;
        for event in revisions.iter().flat_map(|(_, events)| events) {
            index.find(event.event(), |group| {
                let list = &mut events[group as usize];
                if list.is_empty() {
                    touched.push(group);
                }
                list.push(event.clone());
            });
        }
    }
}

fn push(stream: &mut Stream, slot: u32, message: WatchMessage, effects: &mut Effects) {
    if stream.outbox.as_mut().is_some_and(|outbox| outbox.push(message)) {
        effects.wake.push(slot);
    }
}

/// Cuts events into blocks of whole revisions.
fn blocks(events: &[Arc<SharedEvent>], prev_kv: bool) -> Blocks {
    let (mut done, mut start, mut size) = (Vec::new(), 0, 0);
    for (at, event) in events.iter().enumerate() {
        let border = at > start && events[at - 1].event().revision.main != event.event().revision.main;
        if border && size >= BLOCK_BYTES {
            done.push(EventBlock::new(events[start..at].to_vec(), prev_kv));
            (start, size) = (at, 0);
        }
        size += event.size(prev_kv);
    }
    if start < events.len() {
        done.push(EventBlock::new(events[start..].to_vec(), prev_kv));
    }
    done
}
