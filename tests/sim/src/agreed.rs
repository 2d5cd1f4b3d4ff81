//! What the members agreed on: the history by revision, as they published it, and the model of the store that follows from it.
//!
//! In: every batch of events that any member publishes, in any of its lives. The first to publish a revision defines it; everyone
//! else, and the same member after a restart, must publish the same. Out: violations at once, and the store as it was at any revision.

use crate::Time;
use bytes::Bytes;
use quorate::mvcc::{Event, RevisionEvents};
use quorate_proto::mvccpb::KeyValue;
use std::collections::BTreeMap;

/// One revision: its events, and when it was first published.
pub struct Agreed {
    pub events: Vec<Event>,
    pub at: Time,
}

/// The history and the states that follow from it.
#[derive(Default)]
pub struct History {
    revisions: Vec<Agreed>,
    /// By key, ascending by revision: the pair, `None` where it was deleted.
    keys: BTreeMap<Bytes, Vec<(i64, Option<KeyValue>)>>,
}

/// The first revision that holds events; 1 is the empty store.
const FIRST: i64 = 2;

/// What of an event all members must have alike: the pair before may be in one's memory and not in another's.
fn same(a: &Event, b: &Event) -> bool {
    (&a.key, &a.kv, a.delete, a.revision, a.lease) == (&b.key, &b.kv, b.delete, b.revision, b.lease)
}

impl History {
    /// The newest revision published by anyone.
    pub fn head(&self) -> i64 {
        FIRST - 1 + self.revisions.len() as i64
    }

    pub fn at(&self, revision: i64) -> Option<&Agreed> {
        self.revisions.get(usize::try_from(revision - FIRST).ok()?)
    }

    /// Takes a published revision; says what is wrong with it.
    pub fn observe(&mut self, now: Time, told: &RevisionEvents) -> Result<(), String> {
        let revision = told.revision;
        if revision <= self.head() {
            let known = self.at(revision).ok_or_else(|| format!("revision {revision} was published"))?;
            let alike = known.events.len() == told.events.len() && known.events.iter().zip(&told.events).all(|(a, b)| same(a, b));
            if alike {
                return Ok(());
            }
            return Err(format!("two contents of revision {revision}: {:?} and {:?}", known.events, told.events));
        }
        if revision != self.head() + 1 {
            return Err(format!("revision {revision} was published when {} was the newest known", self.head()));
        }
        for (sub, event) in told.events.iter().enumerate() {
            self.follow(revision, sub as i64, event)?;
        }
        self.revisions.push(Agreed { events: told.events.clone(), at: now });
        Ok(())
    }

    /// Applies an event to the model, which knows by itself what the pair's numbers must be.
    fn follow(&mut self, revision: i64, sub: i64, event: &Event) -> Result<(), String> {
        let wrong = |why: &str| Err(format!("revision {revision}.{sub}: {why}: {event:?}"));
        if (event.revision.main, event.revision.sub) != (revision, sub) {
            return wrong("the event names another revision");
        }
        let Ok(kv) = event.kv.decode() else { return wrong("the pair cannot be read") };
        if kv.key != event.key || kv.mod_revision != revision {
            return wrong("the pair is another one's");
        }
        let before = self.get(&event.key, revision).cloned();
        let after = if event.delete {
            if before.is_none() {
                return wrong("a deletion of nothing");
            }
            None
        } else {
            let (create, version) = before.as_ref().map_or((revision, 1), |b| (b.create_revision, b.version + 1));
            if (kv.create_revision, kv.version) != (create, version) || event.create != before.is_none() {
                return wrong(&format!("create revision and version should be {create} and {version}"));
            }
            Some(kv)
        };
        let rows = self.keys.entry(event.key.clone()).or_default();
        if rows.last().is_some_and(|(r, _)| *r == revision) {
            return wrong("a key changed twice in one revision");
        }
        rows.push((revision, after));
        Ok(())
    }

    /// The pair of a key as of a revision.
    pub fn get(&self, key: &[u8], revision: i64) -> Option<&KeyValue> {
        let rows = self.keys.get(key)?;
        rows[..rows.partition_point(|(r, _)| *r <= revision)].last()?.1.as_ref()
    }

    /// Every pair that `wanted` names, as of a revision, in key order.
    pub fn pairs(&self, revision: i64, wanted: impl Fn(&[u8]) -> bool) -> Vec<&KeyValue> {
        let live = self.keys.keys().filter(|k| wanted(k));
        live.filter_map(|k| self.get(k, revision)).collect()
    }
}
