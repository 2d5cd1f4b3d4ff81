//! Tests of the whole room over a store in memory, without threads unless the test is about them.

mod cost;
mod model;
mod rules;

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_proto::RawKv;

use super::{CreateWatch, Filters, History, Hub, HubOptions, Limits, StreamHandle, StreamReceiver, WatchMessage};
use crate::mvcc::{Event, ReadError, RevisionEvents};
use crate::types::{KeyRange, Revision};

/// A store that only remembers its events.
#[derive(Default)]
pub(super) struct Log {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    revisions: Vec<RevisionEvents>,
    compacted: i64,
    previous_reads: usize,
    broken: bool,
    /// Revisions that one read gives at most; zero for no such bound.
    most: usize,
    /// Where reads of events began.
    reads: Vec<i64>,
}

/// The watcher's view of an event in tests.
type Seen = (i64, i64, Bytes);

pub(super) fn event(main: i64, sub: i64, key: &[u8]) -> Event {
    let kv = RawKv(Bytes::from(format!("{}@{main}.{sub}", String::from_utf8_lossy(key))));
    let revision = Revision { main, sub };
    Event { key: Bytes::copy_from_slice(key), kv, delete: false, create: false, revision, prev: None, has_prev: false, lease: 0 }
}

impl Log {
    /// The store begins at revision 1, without events.
    fn append(&self, keys: &[&str]) -> RevisionEvents {
        self.append_with(keys, |_| {})
    }

    fn append_with(&self, keys: &[&str], change: impl Fn(&mut Event)) -> RevisionEvents {
        let mut state = self.state.lock();
        let revision = state.revisions.len() as i64 + 2;
        let mut events: Vec<_> = keys.iter().enumerate().map(|(sub, key)| event(revision, sub as i64, key.as_bytes())).collect();
        events.iter_mut().for_each(change);
        let made = RevisionEvents { revision, events };
        state.revisions.push(made.clone());
        made
    }

    fn compact(&self, mark: i64) {
        self.state.lock().compacted = mark;
    }
}

impl History for Log {
    fn revision(&self) -> i64 {
        self.state.lock().revisions.len() as i64 + 1
    }

    fn compact_revision(&self) -> i64 {
        self.state.lock().compacted
    }

    fn events(&self, from: i64, to: i64, max_bytes: usize) -> Result<Vec<RevisionEvents>, ReadError> {
        let mut state = self.state.lock();
        state.reads.push(from);
        if state.broken {
            return Err(ReadError::Io("broken on purpose".into()));
        }
        if from < state.compacted {
            return Err(ReadError::Compacted);
        }
        let (mut out, mut bytes) = (Vec::new(), 0);
        for revision in state.revisions.iter().filter(|r| (from..=to).contains(&r.revision)) {
            if bytes >= max_bytes || (state.most > 0 && out.len() >= state.most) {
                break;
            }
            bytes += revision.events.iter().map(|e| e.kv.0.len()).sum::<usize>();
            out.push(revision.clone());
        }
        Ok(out)
    }

    fn previous(&self, key: &[u8], before: i64) -> Result<Option<RawKv>, ReadError> {
        let mut state = self.state.lock();
        state.previous_reads += 1;
        let earlier = state.revisions.iter().rev().filter(|r| r.revision < before).flat_map(|r| &r.events);
        Ok(earlier.into_iter().find(|e| e.key == key).map(|e| e.kv.clone()))
    }
}

fn hub(log: &Arc<Log>) -> Hub {
    let options = HubOptions { shards: 2, progress_interval: std::time::Duration::from_secs(10), seed: 3 };
    Hub::without_threads(log.clone(), options)
}

fn limits(stream_bytes: usize) -> Limits {
    Limits { stream_bytes, ..Limits::default() }
}

/// Everything that is under `prefix`; a prefix of "" is every key.
fn wish(prefix: &str, start_revision: i64) -> CreateWatch {
    let start = if prefix.is_empty() { Bytes::from_static(b"\0") } else { Bytes::copy_from_slice(prefix.as_bytes()) };
    let mut end = start.to_vec();
    if !prefix.is_empty() {
        *end.last_mut().expect("not empty") += 1;
    }
    let range = KeyRange::from_request(&start, &Bytes::from(end));
    let filters = Filters::default();
    CreateWatch { id: None, range, start_revision, progress_notify: false, filters, prev_kv: false, fragment: false }
}

fn key_wish(key: &str, start_revision: i64) -> CreateWatch {
    let range = KeyRange::from_request(&Bytes::copy_from_slice(key.as_bytes()), &Bytes::new());
    CreateWatch { range, ..wish(key, start_revision) }
}

/// One line a message, the form in which tests compare.
fn show(message: &WatchMessage) -> String {
    match message {
        WatchMessage::Created { id, revision } => format!("created {id} at {revision}"),
        WatchMessage::Refused { revision, reason } => format!("refused at {revision}: {reason}"),
        WatchMessage::Canceled { id, compact_revision, reason, .. } => {
            format!("canceled {id} compact {compact_revision} {reason}").trim_end().to_owned()
        }
        WatchMessage::Events { id, events, revision, fragment } => {
            let list: Vec<_> = events
                .iter()
                .map(|e| {
                    let prev = e.prev.map(|p| format!("<{}", String::from_utf8_lossy(&p.0))).unwrap_or_default();
                    format!("{}{}", String::from_utf8_lossy(&e.kv.0), prev)
                })
                .collect();
            format!("events {id} through {revision}{}: {}", if *fragment { " (more)" } else { "" }, list.join(" "))
        }
        WatchMessage::Progress { id, revision } => format!("progress {id} at {revision}"),
    }
}

fn drain(receiver: &mut StreamReceiver) -> Vec<String> {
    std::iter::from_fn(|| receiver.try_recv()).map(|message| show(&message)).collect()
}

fn open(hub: &Hub) -> (StreamHandle, StreamReceiver) {
    hub.open(Limits::default())
}
