//! What a run writes down: every operation of every client, the history as watches told it, and what is wrong.
//!
//! In: operations as they begin and end, revisions as observers receive them. Out: what [`sim::check`] asks for. Times are
//! microseconds since the run began.
//!
//! Invariants: an operation is written down before it is sent, so that its number can be in the value it writes; an answer is
//! stamped after it came. Compaction is asked for only at revisions that an observer has seen, so the history has no holes.

use parking_lot::Mutex;
use quorate::mvcc::{Event, RevisionEvents};
use quorate::types::Revision;
use quorate_proto::entry::command::Op;
use quorate_proto::mvccpb;
use sim::Time;
use sim::agreed::History;
use sim::check::{Seen, clients};
use sim::following::ToldEvent;
use sim::leases::Lease;
use sim::ops::{NEVER, Operation, Told, value_of, writer_of};
use std::collections::BTreeMap;
use std::time::Instant;

/// Violations kept; the first ones say what went wrong, the rest follow from them.
const MOST: usize = 50;

/// The longest time without an acknowledged write.
#[derive(Clone, Copy, Default)]
struct Gap {
    last: Time,
    longest: Time,
}

#[derive(Default)]
pub struct Pages {
    pub operations: Vec<Operation>,
    pub history: History,
    pub leases: BTreeMap<i64, Lease>,
    /// The newest revision whose compaction was asked for.
    pub compact_asked: i64,
    violations: Vec<String>,
    gap: Gap,
}

/// The one book of a run, shared by all its tasks.
pub struct Book {
    began: Instant,
    pages: Mutex<Pages>,
}

/// True for requests that change the store when they succeed.
fn writes(op: &Op) -> bool {
    matches!(op, Op::Put(_) | Op::DeleteRange(_) | Op::Txn(_))
}

/// The events of a watch's message as the checks take them.
pub fn told(events: &[mvccpb::Event]) -> Result<Vec<ToldEvent>, String> {
    let one = |e: &mvccpb::Event| {
        let kv = e.kv.clone().ok_or("an event without a pair")?;
        let pair = kv.decode().map_err(|e| e.to_string())?;
        let delete = e.r#type() == mvccpb::event::EventType::Delete;
        Ok(ToldEvent { key: pair.key, kv, delete, revision: pair.mod_revision, prev: e.prev_kv.clone() })
    };
    events.iter().map(one).collect()
}

impl Book {
    pub fn new() -> Self {
        Self { began: Instant::now(), pages: Mutex::default() }
    }

    pub fn now(&self) -> Time {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(NEVER)
    }

    /// Looks at the pages, or changes them.
    pub fn with<T>(&self, look: impl FnOnce(&mut Pages) -> T) -> T {
        look(&mut self.pages.lock())
    }

    /// Writes an operation down, made with the value that names it; the time is taken last.
    pub fn begin(&self, client: usize, make: impl FnOnce(&str) -> Op) -> (usize, Op) {
        let mut pages = self.pages.lock();
        let number = pages.operations.len();
        let op = make(&value_of(number));
        let now = self.now();
        match &op {
            Op::Compact(c) => pages.compact_asked = pages.compact_asked.max(c.revision),
            Op::LeaseGrant(g) => {
                pages.leases.insert(g.id, Lease { full_at: now, ..Lease::default() });
            }
            Op::LeaseRevoke(r) => {
                for id in &r.ids {
                    if let Some(lease) = pages.leases.get_mut(id) {
                        lease.revoke_asked = true;
                    }
                }
            }
            _ => {}
        }
        pages.operations.push(Operation { client, op: op.clone(), invoked: now, returned: NEVER, told: Told::Nothing });
        (number, op)
    }

    pub fn end(&self, number: usize, told: Told) {
        let mut pages = self.pages.lock();
        let now = self.now();
        let answered = matches!(&told, Told::Answer(a) if a.result.is_ok());
        if answered && writes(&pages.operations[number].op) {
            let silent = now - pages.gap.last;
            pages.gap.longest = pages.gap.longest.max(silent);
            pages.gap.last = now;
        }
        if answered && let Op::LeaseGrant(grant) = &pages.operations[number].op {
            let (id, ttl) = (grant.id, grant.ttl);
            if let Some(lease) = pages.leases.get_mut(&id) {
                lease.ttl = ttl.max(2);
            }
        }
        let operation = &mut pages.operations[number];
        (operation.returned, operation.told) = (now, told);
    }

    /// Begins to measure the longest time without an acknowledged write.
    pub fn measure(&self) {
        let now = self.now();
        self.with(|p| p.gap = Gap { last: now, longest: 0 });
    }

    /// The longest time without an acknowledged write since [`Book::measure`], the time since the last one included, in microseconds.
    pub fn measured(&self) -> Time {
        let now = self.now();
        self.with(|p| p.gap.longest.max(now - p.gap.last))
    }

    /// Takes a message of a watch over everything: whole revisions, in order.
    pub fn observe(&self, events: &[ToldEvent]) -> Result<(), String> {
        let now = self.now();
        let mut at = 0;
        let mut pages = self.pages.lock();
        while at < events.len() {
            let revision = events[at].revision;
            let end = at + events[at..].iter().take_while(|e| e.revision == revision).count();
            let mut told = RevisionEvents { revision, events: Vec::with_capacity(end - at) };
            for (sub, e) in events[at..end].iter().enumerate() {
                let version = e.kv.decode().map_err(|e| e.to_string())?.version;
                told.events.push(Event {
                    key: e.key.clone(),
                    kv: e.kv.clone(),
                    delete: e.delete,
                    create: !e.delete && version == 1,
                    revision: Revision::new(revision, sub as i64),
                    prev: None,
                    has_prev: true,
                    lease: 0,
                });
            }
            pages.history.observe(now, &told)?;
            at = end;
        }
        Ok(())
    }

    pub fn violation(&self, text: String) {
        let at = self.now() / 1000;
        self.with(|p| {
            if p.violations.len() < MOST {
                eprintln!("violation at {at} ms: {text}");
                p.violations.push(format!("at {at} ms: {text}"));
            }
        });
    }

    pub fn violations(&self) -> Vec<String> {
        self.with(|p| p.violations.clone())
    }

    /// Checks what clients saw against the history.
    pub fn check(&self) {
        let found = self.with(|p| clients(&Seen { history: &p.history, operations: &p.operations, leases: &p.leases }));
        for text in found {
            self.violation(text);
        }
    }

    /// Acknowledged writes between two times that the history does not have as their own.
    pub fn lost(&self, from: Time, to: Time) -> usize {
        self.with(|p| {
            let values = |op: &Op| match op {
                Op::Put(put) => writer_of(&put.value),
                _ => None,
            };
            let lost = |o: &&Operation| match (&o.told, values(&o.op)) {
                (Told::Answer(a), Some(me)) if a.result.is_ok() => !p
                    .history
                    .at(a.revision)
                    .is_some_and(|r| r.events.iter().any(|e| e.kv.decode().is_ok_and(|pair| writer_of(&pair.value) == Some(me)))),
                // Others must have left a revision at least; what is in it is the whole check's question.
                (Told::Answer(a), None) => a.revision > p.history.head(),
                _ => false,
            };
            p.operations.iter().filter(|o| (from..to).contains(&o.returned)).filter(lost).count()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate::mvcc::RangeResult;
    use quorate::state::{Answer, Outcome};
    use quorate_proto::RawKv;
    use quorate_proto::entry::{Put, Range};
    use quorate_proto::mvccpb::KeyValue;

    fn put(book: &Book) -> usize {
        book.begin(0, |name| Op::Put(Put { key: "a".into(), value: name.to_string().into(), ..Default::default() })).0
    }

    fn acknowledge(book: &Book, number: usize, revision: i64) {
        book.end(number, Told::Answer(Answer { revision, term: 0, result: Ok(Outcome::Put { prev: None }) }));
    }

    fn pair(number: usize, revision: i64, version: i64) -> KeyValue {
        let (key, value) = ("a".into(), value_of(number).into());
        KeyValue { key, value, mod_revision: revision, create_revision: 2, version, ..Default::default() }
    }

    fn publish(book: &Book, pair: &KeyValue) {
        let event = ToldEvent { key: "a".into(), kv: RawKv::from(pair), delete: false, revision: pair.mod_revision, prev: None };
        book.observe(&[event]).expect("the next revision");
    }

    fn read(book: &Book, revision: i64, seen: &KeyValue) {
        let (number, _) = book.begin(1, |_| Op::Range(Range { key: "a".into(), ..Default::default() }));
        let result = RangeResult { kvs: vec![RawKv::from(seen)], more: false, count: 1, revision };
        book.end(number, Told::Read(Ok(result)));
    }

    /// What follows from the history is no violation; a write without an answer may be in it or not.
    #[test]
    fn a_good_history() {
        let book = Book::new();
        let (first, unknown, never) = (put(&book), put(&book), put(&book));
        publish(&book, &pair(first, 2, 1));
        acknowledge(&book, first, 2);
        publish(&book, &pair(unknown, 3, 2));
        book.end(unknown, Told::Nothing);
        book.end(never, Told::Nothing);
        read(&book, 3, &pair(unknown, 3, 2));
        book.check();
        assert_eq!(book.violations(), Vec::<String>::new());
        assert_eq!(book.lost(0, NEVER), 0);
    }

    /// An acknowledged write that the history does not have is found, and counted as lost.
    #[test]
    fn a_lost_write() {
        let book = Book::new();
        let (first, lost) = (put(&book), put(&book));
        publish(&book, &pair(first, 2, 1));
        acknowledge(&book, first, 2);
        acknowledge(&book, lost, 3);
        book.check();
        assert_eq!(book.violations().len(), 1, "{:?}", book.violations());
        assert_eq!(book.lost(0, NEVER), 1);
    }

    /// A read of an older state, asked after a newer one had been shown, is found.
    #[test]
    fn a_stale_read() {
        let book = Book::new();
        let (first, second) = (put(&book), put(&book));
        publish(&book, &pair(first, 2, 1));
        acknowledge(&book, first, 2);
        publish(&book, &pair(second, 3, 2));
        acknowledge(&book, second, 3);
        // Answers and questions at the same moment overlap.
        while book.with(|p| p.operations[second].returned) == book.now() {}
        read(&book, 2, &pair(first, 2, 1));
        book.check();
        assert_eq!(book.violations().len(), 1, "{:?}", book.violations());
    }

    /// Members that tell one revision differently, or leave one out, are found as they tell it.
    #[test]
    fn members_that_differ() {
        let book = Book::new();
        publish(&book, &pair(0, 2, 1));
        let told = |pair: &KeyValue| ToldEvent {
            key: "a".into(),
            kv: pair.into(),
            delete: false,
            revision: pair.mod_revision,
            prev: None,
        };
        assert!(book.observe(&[told(&pair(1, 2, 1))]).is_err());
        assert!(book.observe(&[told(&pair(0, 4, 2))]).is_err());
        assert!(book.observe(&[told(&pair(0, 3, 3))]).is_err(), "the version is wrong");
    }
}
