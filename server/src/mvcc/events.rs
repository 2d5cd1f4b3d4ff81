//! The history as events, for watchers.

use super::delta::Row;
use super::{ReadError, Rows, encode};
use crate::base::Family;
use crate::base::kind::log;
use crate::types::{LeaseId, Revision};
use bytes::Bytes;
use prost::Message;
use quorate_proto::RawKv;
use quorate_proto::mvccpb::KeyValue;

/// One change, as a watcher sees it. Cheap to clone: its bytes are shared.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub key: Bytes,
    /// The KeyValue after the change; of a deletion, its key and revision.
    pub kv: RawKv,
    pub delete: bool,
    /// The key did not exist before.
    pub create: bool,
    pub revision: Revision,
    /// The KeyValue before the change, when it was in memory; else ask [`super::Store::previous`].
    pub prev: Option<RawKv>,
    /// False: there surely is no previous KeyValue.
    pub has_prev: bool,
    pub lease: LeaseId,
}

/// All events of one main revision, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RevisionEvents {
    pub revision: i64,
    pub events: Vec<Event>,
}

fn event_of_row(row: &Row) -> Event {
    let kv = if row.tombstone { encode::key_value(&row.key, 0, row.rev.main, 0, &[], 0).0 } else { row.kv.clone() };
    Event {
        key: row.key.clone(),
        kv: RawKv(kv),
        delete: row.tombstone,
        create: row.version == 1,
        revision: row.rev,
        prev: None,
        has_prev: row.tombstone || row.version > 1,
        lease: row.lease,
    }
}

fn event_of_log(rev: Revision, tombstone: bool, value: &[u8]) -> Result<Event, ReadError> {
    let value = Bytes::copy_from_slice(value);
    let kv = KeyValue::decode(value.clone()).map_err(|e| ReadError::Corrupt(format!("revision {}: {e}", rev.main)))?;
    let raw = if tombstone { encode::key_value(&kv.key, 0, rev.main, 0, &[], 0).0 } else { value };
    Ok(Event {
        key: kv.key,
        kv: RawKv(raw),
        delete: tombstone,
        create: kv.version == 1,
        revision: rev,
        prev: None,
        has_prev: tombstone || kv.version > 1,
        lease: kv.lease,
    })
}

fn add(out: &mut Vec<RevisionEvents>, event: Event) {
    match out.last_mut() {
        Some(last) if last.revision == event.revision.main => last.events.push(event),
        _ => out.push(RevisionEvents { revision: event.revision.main, events: vec![event] }),
    }
}

impl Rows {
    /// The events of revisions `from..=to`, whole revisions in order, stopping after about `max_bytes` of KeyValues. A watch may
    /// start at the compacted revision itself: the newest versions at it are kept.
    pub fn events(&self, from: i64, to: i64, max_bytes: usize) -> Result<Vec<RevisionEvents>, ReadError> {
        let to = to.min(self.revision());
        if from < self.compact_revision() {
            return Err(ReadError::Compacted);
        }
        let mut out: Vec<RevisionEvents> = Vec::new();
        let mut bytes = 0;
        // Durable rows first, up to where the oldest delta begins; deltas are held alive by their Arcs or copied under the lock.
        let (first_memory, rows) = self.memory_rows(from, to, max_bytes);
        let durable_to = first_memory.map_or(to, |first| first - 1).min(to);
        if from <= durable_to {
            let mut cursor = self.base.cursor(Family::Log, &log::lower(from), Some(&log::lower(durable_to + 1)))?;
            while let Some((k, v)) = cursor.row() {
                let (rev, tombstone) = log::parse_key(k).ok_or_else(|| ReadError::Corrupt("a key of the history".into()))?;
                if bytes >= max_bytes && out.last().is_some_and(|l| l.revision != rev.main) {
                    return self.still_kept(from, out);
                }
                bytes += v.len();
                add(&mut out, event_of_log(rev, tombstone, v)?);
                cursor.advance()?;
            }
        }
        for event in rows {
            if bytes >= max_bytes && out.last().is_some_and(|l| l.revision != event.revision.main) {
                break;
            }
            bytes += event.kv.0.len();
            add(&mut out, event);
        }
        self.still_kept(from, out)
    }

    fn still_kept(&self, from: i64, out: Vec<RevisionEvents>) -> Result<Vec<RevisionEvents>, ReadError> {
        if from < self.compact_revision() { Err(ReadError::Compacted) } else { Ok(out) }
    }

    /// The first main revision held in memory, and the events there of `from..=to`, at least `max_bytes` of them if there are.
    fn memory_rows(&self, from: i64, to: i64, max_bytes: usize) -> (Option<i64>, Vec<Event>) {
        let layers = self.layers.read();
        let mut first = None;
        let mut out = Vec::new();
        let mut bytes = 0;
        for delta in layers.frozen.iter().map(|d| d.as_ref()).chain([&layers.active]) {
            first = first.or(delta.first_main());
            for row in delta.log_from(from) {
                let new_revision = out.last().is_some_and(|e: &Event| e.revision.main != row.rev.main);
                if row.rev.main > to || (bytes > max_bytes && new_revision) {
                    return (first, out);
                }
                bytes += row.kv.len();
                out.push(event_of_row(row));
            }
        }
        (first, out)
    }
}
