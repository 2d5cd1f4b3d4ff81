//! Watches: observers, which make the history, and followers, whose every message is checked against it.
//!
//! An observer watches everything at one member and comes back where it stopped. There is one for each member, so that they are
//! compared with each other; whoever is first defines a revision. A follower watches a range at one member after another.

use crate::book::told;
use crate::ground::MEMBERS;
use crate::member::endpoint;
use crate::traffic::{PODS_END, PODS_PREFIX, Shared};
use bytes::Bytes;
use quorate::types::KeyRange;
use quorate::watch::Filters;
use quorate_client::{Error, FROM_KEY_END, WatchStream};
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::watch_create_request::FilterType;
use sim::following::Following;
use sim::rng::Rng;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// A stream that says nothing for so long is given up: progress is asked for every second.
const SILENT: Duration = Duration::from_secs(6);
/// Longest that what one member told may be unknown to all observers: a paused or cut-off member may have been the first.
const KNOWN: Duration = Duration::from_secs(120);

/// The next message of a stream; an error when it is to be left.
async fn next(stream: &mut WatchStream) -> Result<pb::WatchResponse, Error> {
    let began = Instant::now();
    loop {
        match timeout(Duration::from_secs(1), stream.next()).await {
            Ok(message) => return message,
            Err(_) if began.elapsed() > SILENT => return Err(Error::Timeout),
            Err(_) => {
                // A stream whose queue is full says nothing either, and is given up in time.
                let _ = timeout(Duration::from_millis(200), stream.sender().progress()).await;
            }
        }
    }
}

fn header(message: &pb::WatchResponse) -> i64 {
    message.header.as_ref().map_or(0, |h| h.revision)
}

/// Watches everything at a member.
pub async fn observe(shared: Arc<Shared>, at: usize) {
    let Some(client) = shared.all.only(&endpoint(at)) else { return };
    let mut from = 2;
    while !shared.over.load(Ordering::Relaxed) {
        let all = Bytes::from_static(FROM_KEY_END);
        let create = pb::WatchCreateRequest {
            key: all.clone(),
            range_end: all,
            start_revision: from,
            progress_notify: true,
            ..Default::default()
        };
        let Ok(Ok(mut stream)) = timeout(SILENT, client.watch(create)).await else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        while let Ok(message) = next(&mut stream).await {
            if message.compact_revision > 0 {
                // What is compacted, another observer has seen.
                from = from.max(message.compact_revision);
                break;
            }
            if message.canceled {
                shared.book.violation(format!(
                    "the watch of everything at member {} was canceled: {}",
                    at + 1,
                    message.cancel_reason
                ));
                sleep(Duration::from_secs(1)).await;
                break;
            }
            let taken = told(&message.events).and_then(|events| {
                if let Some(first) = events.first().filter(|e| e.revision < from) {
                    return Err(format!("revision {} came when {from} was next", first.revision));
                }
                shared.book.observe(&events).map(|()| events.last().map(|e| e.revision))
            });
            match taken {
                Ok(Some(last)) => from = last + 1,
                Ok(None) => {}
                Err(e) => {
                    shared.book.violation(format!("member {}: {e}", at + 1));
                    return;
                }
            }
            if shared.over.load(Ordering::Relaxed) {
                return;
            }
        }
    }
}

/// How a follower watches.
#[derive(Clone, Copy)]
pub struct Way {
    pub key: &'static str,
    pub end: &'static str,
    pub prev_kv: bool,
    pub no_delete: bool,
    /// Begins with a list, as Kubernetes' reflectors do, each time that its revision was compacted.
    pub list: bool,
    /// Now and then begins anew at a revision that does not exist yet.
    pub future: bool,
}

/// The followers of a run.
pub const WAYS: [Way; 7] = [
    Way { key: "\0", end: "\0", prev_kv: true, no_delete: false, list: false, future: false },
    Way { key: "a", end: "b", prev_kv: false, no_delete: false, list: false, future: false },
    Way { key: "b", end: "c", prev_kv: true, no_delete: true, list: false, future: false },
    Way { key: "a", end: "c", prev_kv: false, no_delete: false, list: false, future: true },
    Way { key: PODS_PREFIX, end: PODS_END, prev_kv: true, no_delete: false, list: true, future: false },
    Way { key: PODS_PREFIX, end: PODS_END, prev_kv: true, no_delete: false, list: true, future: false },
    Way { key: "a4", end: "", prev_kv: false, no_delete: false, list: false, future: false },
];

/// What the followers of a run saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watched {
    pub events: u64,
    pub bookmarks: u64,
    pub opened: u64,
    pub compacted: u64,
}

pub struct Follower {
    number: usize,
    way: Way,
    chance: Rng,
    follow: Following,
    seen: Watched,
}

impl Follower {
    pub fn new(number: usize, way: Way, chance: Rng) -> Self {
        let range = KeyRange::from_request(&Bytes::from_static(way.key.as_bytes()), &Bytes::from_static(way.end.as_bytes()));
        let filters = Filters { no_put: false, no_delete: way.no_delete };
        let follow = Following { range, filters, prev_kv: way.prev_kv, next: if way.list { 0 } else { 2 }, delivered: 0 };
        Self { number, way, chance, follow, seen: Watched::default() }
    }

    pub async fn run(mut self, shared: Arc<Shared>) -> Watched {
        while !shared.over.load(Ordering::Relaxed) {
            if self.follow.next == 0 && !self.list(&shared).await {
                sleep(Duration::from_millis(200)).await;
                continue;
            }
            if let Err(e) = self.watch(&shared).await {
                shared.book.violation(format!("watcher {}: {e}", self.number));
                return self.seen;
            }
            sleep(Duration::from_millis(self.chance.between(5, 200))).await;
        }
        let head = shared.book.with(|p| p.history.head());
        if shared.book.with(|p| self.follow.waits(&p.history, head)) {
            shared.book.violation(format!("watcher {} still waits at the end: {} of {head}", self.number, self.follow.next));
        }
        self.seen.events = self.follow.delivered;
        self.seen
    }

    /// Where a watch begins: after what a linearizable read shows.
    async fn list(&mut self, shared: &Shared) -> bool {
        let request =
            pb::RangeRequest { key: self.way.key.into(), range_end: self.way.end.into(), count_only: true, ..Default::default() };
        let Ok(answer) = shared.all.timeout(Some(Duration::from_secs(2))).range(request).await else { return false };
        self.follow.next = answer.header.map_or(0, |h| h.revision + 1);
        true
    }

    /// One stream, at one member.
    async fn watch(&mut self, shared: &Shared) -> Result<(), String> {
        let at = self.chance.below(MEMBERS as u64) as usize;
        let Some(client) = shared.all.only(&endpoint(at)) else { return Ok(()) };
        if self.way.future && self.chance.chance(30) && !shared.stop.load(Ordering::Relaxed) {
            self.follow.next = self.follow.next.max(shared.book.with(|p| p.history.head()) + self.chance.between(5, 120) as i64);
        }
        let start = self.follow.next;
        let create = pb::WatchCreateRequest {
            key: self.way.key.into(),
            range_end: self.way.end.into(),
            start_revision: start,
            progress_notify: true,
            prev_kv: self.way.prev_kv,
            filters: if self.way.no_delete { vec![FilterType::Nodelete as i32] } else { Vec::new() },
            ..Default::default()
        };
        let Ok(Ok(mut stream)) = timeout(SILENT, client.watch(create)).await else { return Ok(()) };
        self.seen.opened += 1;
        let leave = Instant::now() + Duration::from_millis(self.chance.between(300, 12_000));
        loop {
            if shared.over.load(Ordering::Relaxed) || (Instant::now() > leave && !shared.stop.load(Ordering::Relaxed)) {
                return Ok(());
            }
            let Ok(message) = next(&mut stream).await else { return Ok(()) };
            if !self.message(shared, &message, start).await.map_err(|e| format!("at member {} from {start}: {e}", at + 1))? {
                return Ok(());
            }
            if self.chance.chance(3) {
                let _ = timeout(Duration::from_millis(200), stream.sender().progress()).await;
            }
        }
    }

    /// Checks a message; false when the watch begins anew.
    async fn message(&mut self, shared: &Shared, message: &pb::WatchResponse, start: i64) -> Result<bool, String> {
        if message.created && !message.canceled {
            return Ok(true);
        }
        if message.canceled {
            let (compacted, asked) = (message.compact_revision, shared.book.with(|p| p.compact_asked));
            if compacted <= self.follow.next || compacted > asked {
                let why = &message.cancel_reason;
                return Err(format!("canceled at {compacted}, next is {}, compaction asked at {asked}: {why}", self.follow.next));
            }
            self.seen.compacted += 1;
            self.follow.next = if self.way.list { 0 } else { compacted };
            return Ok(false);
        }
        let revision = header(message);
        let events = told(&message.events)?;
        let newest = events.last().map_or(revision, |e| e.revision.max(revision));
        self.known(shared, newest).await?;
        shared.book.with(|p| {
            if events.is_empty() {
                // A start in the future has nothing to tell before it is reached.
                if revision + 1 < start {
                    return Err(format!("progress told revision {revision}"));
                }
                self.seen.bookmarks += 1;
            } else {
                self.follow.events(&p.history, &events, p.compact_asked)?;
            }
            self.follow.progress(&p.history, revision)
        })?;
        Ok(true)
    }

    /// Waits until the history holds a revision.
    async fn known(&self, shared: &Shared, revision: i64) -> Result<(), String> {
        let began = Instant::now();
        while shared.book.with(|p| p.history.head()) < revision {
            if began.elapsed() > KNOWN {
                return Err(format!("revision {revision} was told and no observer has seen it"));
            }
            sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }
}
