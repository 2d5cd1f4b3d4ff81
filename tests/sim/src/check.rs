//! Whether what the clients saw follows from what the members agreed on.
//!
//! Why this is complete for etcd's model. Each change of the store has its own revision, the members agree on the content of each
//! (checked as they publish), and each answer names the revision at which it was given. So the order in which the operations took
//! effect is not to be searched for: it is the order of revisions, the writer of a revision before those who saw it, and those in the
//! order in which they were asked. That order explains the history if and only if
//! 1. every revision was written by exactly one operation, an end of a lease included, and has the content that this operation makes
//!    of the state before it; every answered write with an effect wrote the revision it was told;
//! 2. every answer is the model's answer in the state of its revision;
//! 3. the order respects real time: an operation asked after another was answered has a revision at least as high, and higher when it
//!    wrote. With equal revisions the order above puts the earlier one first.
//!
//! Operations whose outcome their client never learned are resolved by the history: they wrote at most one revision, not before they
//! were asked, or none. Serializable reads keep 2 alone, and never show what nobody has published.

use crate::Time;
use crate::agreed::History;
use crate::leases::Lease;
use crate::ops::{NEVER, Operation, Told, writer_of};
use crate::world::{MS, SECOND};
use bytes::Bytes;
use quorate::mvcc::ReadError;
use quorate::state::{ApplyError, Outcome, TxnOpOutcome};
use quorate::types::KeyRange;
use quorate_proto::entry::command::Op;
use quorate_proto::entry::{Compare, CompareResult, CompareTarget, Range, Txn, op};
use quorate_proto::mvccpb::KeyValue;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

/// A change that an operation makes: the key, and its value and lease; nothing when it is deleted.
type Change = (Bytes, Option<(Bytes, i64)>);

/// What an operation does in the state of a revision.
struct Effect {
    changes: Vec<Change>,
    /// Deleted keys, branch taken, pairs read: what the answer shows of it.
    shown: Shown,
}

#[derive(Debug, PartialEq)]
enum Shown {
    Put { prev: Option<KeyValue> },
    Delete { deleted: i64, prev: Vec<KeyValue> },
    Txn { succeeded: bool, ops: Vec<Shown> },
    Range { kvs: Vec<KeyValue>, count: i64, more: bool },
    Done,
}

fn range_at(history: &History, q: &Range, state: i64) -> Shown {
    let range = KeyRange::from_request(&q.key, &q.range_end);
    let pairs = history.pairs(state, |k| range.contains(k));
    let count = pairs.len() as i64;
    let limit = if q.limit > 0 { q.limit as usize } else { usize::MAX };
    Shown::Range { kvs: pairs.iter().take(limit).map(|p| (*p).clone()).collect(), count, more: pairs.len() > limit }
}

fn holds(history: &History, compare: &Compare, state: i64) -> bool {
    let none = KeyValue::default();
    let pair = history.get(&compare.key, state).unwrap_or(&none);
    let number = match compare.target() {
        CompareTarget::Version => pair.version,
        CompareTarget::Create => pair.create_revision,
        CompareTarget::Mod => pair.mod_revision,
        CompareTarget::Lease => pair.lease,
        CompareTarget::Value => return pair.value == compare.value,
    };
    match (compare.result(), number.cmp(&compare.number)) {
        (CompareResult::Equal, order) => order == Ordering::Equal,
        (CompareResult::NotEqual, order) => order != Ordering::Equal,
        (CompareResult::Greater, order) => order == Ordering::Greater,
        (CompareResult::Less, order) => order == Ordering::Less,
    }
}

fn delete_at(history: &History, key: &Bytes, end: &Bytes, prev_kv: bool, state: i64) -> (Vec<Change>, Shown) {
    let range = KeyRange::from_request(key, end);
    let pairs = history.pairs(state, |k| range.contains(k));
    let prev = if prev_kv { pairs.iter().map(|p| (*p).clone()).collect() } else { Vec::new() };
    let changes: Vec<Change> = pairs.iter().map(|p| (p.key.clone(), None)).collect();
    let deleted = changes.len() as i64;
    (changes, Shown::Delete { deleted, prev })
}

fn txn_at(history: &History, txn: &Txn, state: i64) -> Effect {
    let succeeded = txn.compare.iter().all(|c| holds(history, c, state));
    let mut changes = Vec::new();
    let mut ops = Vec::new();
    // The clients' transactions touch each key once, so that every part sees the state before.
    for part in if succeeded { &txn.success } else { &txn.failure } {
        match &part.op {
            Some(op::Op::Put(put)) => {
                changes.push((put.key.clone(), Some((put.value.clone(), put.lease))));
                ops.push(Shown::Put { prev: None });
            }
            Some(op::Op::DeleteRange(d)) => {
                let (more, shown) = delete_at(history, &d.key, &d.range_end, d.prev_kv, state);
                changes.extend(more);
                ops.push(shown);
            }
            Some(op::Op::Range(q)) => ops.push(range_at(history, q, state)),
            _ => {}
        }
    }
    Effect { changes, shown: Shown::Txn { succeeded, ops } }
}

/// What an operation does in the state of a revision; leases' ends are found by the keys that hang on them.
fn effect(history: &History, op: &Op, state: i64) -> Effect {
    match op {
        Op::Put(put) => {
            let prev = if put.prev_kv { history.get(&put.key, state).cloned() } else { None };
            Effect { changes: vec![(put.key.clone(), Some((put.value.clone(), put.lease)))], shown: Shown::Put { prev } }
        }
        Op::DeleteRange(d) => {
            let (changes, shown) = delete_at(history, &d.key, &d.range_end, d.prev_kv, state);
            Effect { changes, shown }
        }
        Op::Txn(txn) => txn_at(history, txn, state),
        Op::LeaseRevoke(revoke) => Effect { changes: lease_end(history, revoke.ids[0], state), shown: Shown::Done },
        _ => Effect { changes: Vec::new(), shown: Shown::Done },
    }
}

fn lease_end(history: &History, lease: i64, state: i64) -> Vec<Change> {
    let pairs = history.pairs(state, |_| true);
    pairs.iter().filter(|p| p.lease == lease).map(|p| (p.key.clone(), None)).collect()
}

pub(crate) fn pair(raw: &quorate_proto::RawKv) -> KeyValue {
    raw.decode().unwrap_or_default()
}

/// What an answer shows, in the form in which the model says it.
fn shown(outcome: &Outcome) -> Shown {
    match outcome {
        Outcome::Put { prev } => Shown::Put { prev: prev.as_ref().map(pair) },
        Outcome::DeleteRange { deleted, prev } => Shown::Delete { deleted: *deleted, prev: prev.iter().map(pair).collect() },
        Outcome::Txn(txn) => {
            let op = |o: &TxnOpOutcome| match o {
                TxnOpOutcome::Range(r) => Shown::Range { kvs: r.kvs.iter().map(pair).collect(), count: r.count, more: r.more },
                TxnOpOutcome::Put { prev, .. } => Shown::Put { prev: prev.as_ref().map(pair) },
                TxnOpOutcome::DeleteRange { deleted, prev, .. } => {
                    Shown::Delete { deleted: *deleted, prev: prev.iter().map(pair).collect() }
                }
                TxnOpOutcome::Txn(..) => Shown::Done,
            };
            Shown::Txn { succeeded: txn.succeeded, ops: txn.ops.iter().map(op).collect() }
        }
        _ => Shown::Done,
    }
}

fn changes_of(history: &History, revision: i64) -> Vec<Change> {
    let events = history.at(revision).map_or(&[][..], |r| &r.events);
    let change = |e: &quorate::mvcc::Event| {
        let pair = pair(&e.kv);
        (e.key.clone(), (!e.delete).then_some((pair.value, pair.lease)))
    };
    events.iter().map(change).collect()
}

/// What a run has to show: the history, and what its clients asked and were told. Where they come from does not matter here: the
/// members themselves, or a watch of everything over the wire.
pub struct Seen<'a> {
    pub history: &'a History,
    pub operations: &'a [Operation],
    pub leases: &'a BTreeMap<i64, Lease>,
}

/// Finds what the clients saw that does not follow from the history.
pub fn clients(seen: &Seen) -> Vec<String> {
    let mut found = Vec::new();
    let mut wrote: BTreeMap<usize, i64> = BTreeMap::new();
    writers(seen, &mut wrote, &mut found);
    answers(seen, &wrote, &mut found);
    real_time(seen, &wrote, &mut found);
    found
}

/// 1: who wrote each revision.
fn writers(seen: &Seen, wrote: &mut BTreeMap<usize, i64>, found: &mut Vec<String>) {
    let history = seen.history;
    let mut claims: BTreeMap<i64, usize> = BTreeMap::new();
    for (at, o) in seen.operations.iter().enumerate() {
        let Told::Answer(answer) = &o.told else { continue };
        let Ok(outcome) = &answer.result else { continue };
        let writes = match (&o.op, outcome) {
            (Op::Put(_), _) => true,
            (Op::DeleteRange(_), Outcome::DeleteRange { deleted, .. }) => *deleted > 0,
            (Op::Txn(_), Outcome::Txn(txn)) => txn.ops.iter().any(|o| match o {
                TxnOpOutcome::Put { .. } => true,
                TxnOpOutcome::DeleteRange { deleted, .. } => *deleted > 0,
                _ => false,
            }),
            (Op::LeaseRevoke(revoke), _) => {
                // One that found no keys is told the revision of whoever was before it.
                let gone = lease_end(history, revoke.ids[0], answer.revision - 1);
                let after = history.at(answer.revision).is_some_and(|r| o.invoked <= r.at);
                after && !gone.is_empty() && gone == changes_of(history, answer.revision)
            }
            _ => false,
        };
        if !writes {
            continue;
        }
        let revokes = |at: &usize| matches!(seen.operations[*at].op, Op::LeaseRevoke(_));
        let other = claims.get(&answer.revision).copied();
        if other.is_some() && revokes(&at) {
            continue;
        }
        if let Some(other) = other.filter(revokes) {
            wrote.remove(&other);
        }
        claims.insert(answer.revision, at);
        if let Some(other) = other.filter(|o| !revokes(o)) {
            found.push(format!("operations {other} and {at} were both told revision {}", answer.revision));
        }
        wrote.insert(at, answer.revision);
    }
    for (revision, at) in claims.iter().filter(|(revision, _)| history.at(**revision).is_none()) {
        found.push(format!("operation {at} was told revision {revision}, which nobody published"));
    }
    let mut open = Vec::new();
    for revision in 2..=history.head() {
        let changes = changes_of(history, revision);
        let by = changes.iter().find_map(|(_, to)| writer_of(&to.as_ref()?.0));
        if let Some(at) = claims.get(&revision) {
            let made = effect(history, &seen.operations[*at].op, revision - 1).changes;
            if made != changes {
                let op = &seen.operations[*at].op;
                found.push(format!("revision {revision} should be {made:?}, as {op:?} makes it, and is {changes:?}"));
            }
            continue;
        }
        if let Some(at) = by {
            let o = &seen.operations[at];
            let may = matches!(o.told, Told::Nothing) && !wrote.contains_key(&at);
            if !may {
                found.push(format!("revision {revision} is another effect of operation {at}, which was told {:?}", o.told));
            } else if effect(history, &o.op, revision - 1).changes != changes {
                found.push(format!("revision {revision} is {changes:?}, which {:?} does not make", o.op));
            }
            wrote.insert(at, revision);
            continue;
        }
        open.push(revision);
    }
    deletions(seen, &open, wrote, found);
}

/// Who made the revisions of deletions that nobody was told of: ends of leases, and clients that got no answer. Several such clients
/// may explain the same revision, and each made one at most, so they are matched.
fn deletions(seen: &Seen, revisions: &[i64], wrote: &mut BTreeMap<usize, i64>, found: &mut Vec<String>) {
    let history = seen.history;
    let mut candidates: Vec<Vec<usize>> = Vec::new();
    let mut unexplained: Vec<i64> = Vec::new();
    for &revision in revisions {
        let changes = changes_of(history, revision);
        let at = history.at(revision).map_or(0, |r| r.at);
        let lease = changes.first().and_then(|(key, _)| history.get(key, revision - 1)).map_or(0, |p| p.lease);
        let known = seen.leases.get(&lease).filter(|_| lease_end(history, lease, revision - 1) == changes);
        let mut early = Vec::new();
        if let Some(known) = known {
            ended(lease, known, at, &format!("revision {revision}"), &mut early);
            if early.is_empty() {
                continue;
            }
        }
        let made = |(n, o): &(usize, &Operation)| {
            matches!(o.told, Told::Nothing)
                && !wrote.contains_key(n)
                && o.invoked <= at
                && effect(history, &o.op, revision - 1).changes == changes
        };
        candidates.push(seen.operations.iter().enumerate().filter(made).map(|(n, _)| n).collect());
        unexplained.push(revision);
        if candidates.last().is_some_and(Vec::is_empty) {
            let before: Vec<_> = changes.iter().map(|(key, _)| history.get(key, revision - 1)).collect();
            early.push(format!("nobody made revision {revision} at {} ms: {changes:?}, before it {before:?}", at / MS));
            found.append(&mut early);
        }
    }
    let mut taken: BTreeMap<usize, usize> = BTreeMap::new();
    for at in 0..candidates.len() {
        let mut tried = BTreeSet::new();
        if !candidates[at].is_empty() && !matched(at, &candidates, &mut taken, &mut tried) {
            found.push(format!("revision {} has no maker: {:?} made others", unexplained[at], candidates[at]));
        }
    }
    for (operation, at) in taken {
        wrote.insert(operation, unexplained[at]);
    }
}

/// Finds an operation for a revision, moving others to other operations where that helps.
fn matched(at: usize, candidates: &[Vec<usize>], taken: &mut BTreeMap<usize, usize>, tried: &mut BTreeSet<usize>) -> bool {
    for &operation in &candidates[at] {
        if !tried.insert(operation) {
            continue;
        }
        let holder = taken.get(&operation).copied();
        if holder.is_none_or(|other| matched(other, candidates, taken, tried)) {
            taken.insert(operation, at);
            return true;
        }
    }
    false
}

/// A lease may not be over before its time, unless a client asked for that. Clocks drift by up to one in a thousand against each other.
fn ended(id: i64, lease: &Lease, at: u64, where_: &str, found: &mut Vec<String>) {
    let ttl = lease.ttl.max(1) as u64 * SECOND;
    let full_at = lease.full_before(at);
    let due = full_at + ttl - ttl / 1000 - MS;
    if !lease.revoke_asked && at < due && full_at <= at {
        found.push(format!("{where_} shows the end of lease {id} at {} ms, its time was not over before {} ms", at / MS, due / MS));
    }
}

/// 2: each answer is the model's.
fn answers(seen: &Seen, wrote: &BTreeMap<usize, i64>, found: &mut Vec<String>) {
    let history = seen.history;
    let compactions = compactions(seen);
    for (at, o) in seen.operations.iter().enumerate() {
        match &o.told {
            Told::Answer(answer) => match &answer.result {
                Ok(outcome) => {
                    let state = wrote.get(&at).map_or(answer.revision, |r| r - 1);
                    let model = effect(history, &o.op, state);
                    let told = shown(outcome);
                    if model.shown != told {
                        found
                            .push(format!("operation {at} {:?} was told {told:?}, in state {state} it is {:?}", o.op, model.shown));
                    }
                    let none_written = !wrote.contains_key(&at) && !model.changes.is_empty() && !matches!(o.op, Op::LeaseRevoke(_));
                    if none_written {
                        found.push(format!("operation {at} {:?} had no effect in state {state}, where it should", o.op));
                    }
                }
                Err(e) => refused(seen, at, e, found),
            },
            Told::Read(read) => reads(seen, at, &compactions, read, found),
            Told::Nothing | Told::Refused(_) => {}
        }
    }
}

fn refused(seen: &Seen, at: usize, error: &ApplyError, found: &mut Vec<String>) {
    let o = &seen.operations[at];
    match (&o.op, error) {
        (Op::Put(put), ApplyError::LeaseNotFound) if put.lease != 0 => {
            if let Some(lease) = seen.leases.get(&put.lease) {
                ended(put.lease, lease, o.returned, &format!("operation {at}"), found);
            }
        }
        (Op::LeaseRevoke(_), ApplyError::LeaseNotFound) => {}
        (Op::Compact(_), ApplyError::Compacted) => {}
        _ => found.push(format!("operation {at} {:?} was refused: {error}", o.op)),
    }
}

/// When each compaction was asked and answered, and its revision.
type Compaction = (Time, Time, i64);

fn compactions(seen: &Seen) -> Vec<Compaction> {
    let each = seen.operations.iter().filter_map(|c| match (&c.op, &c.told) {
        (Op::Compact(compact), Told::Answer(a)) if a.result.is_ok() => Some((c.invoked, c.returned, compact.revision)),
        (Op::Compact(compact), Told::Nothing) => Some((c.invoked, NEVER, compact.revision)),
        _ => None,
    });
    each.collect()
}

fn reads(
    seen: &Seen,
    at: usize,
    compactions: &[Compaction],
    read: &Result<quorate::mvcc::RangeResult, ReadError>,
    found: &mut Vec<String>,
) {
    let (history, o) = (seen.history, &seen.operations[at]);
    let Op::Range(q) = &o.op else { return };
    // The newest compaction that was answered before this was asked, and the newest that was asked before this was answered.
    let (mut surely, mut perhaps) = (0, 0);
    for &(invoked, returned, revision) in if q.revision > 0 { compactions } else { &[] } {
        if returned < o.invoked {
            surely = surely.max(revision);
        }
        if invoked < o.returned {
            perhaps = perhaps.max(revision);
        }
    }
    match read {
        Ok(result) => {
            let state = if q.revision > 0 { q.revision } else { result.revision };
            if result.revision > history.head() || state > result.revision {
                found.push(format!("operation {at} read revision {state} of {}, which nobody published", result.revision));
                return;
            }
            let told = Shown::Range { kvs: result.kvs.iter().map(pair).collect(), count: result.count, more: result.more };
            let model = range_at(history, q, state);
            if told != model {
                found.push(format!("operation {at} {q:?} read {told:?}, at revision {state} it is {model:?}"));
            }
            if q.revision > 0 && q.revision < surely && !q.serializable {
                found.push(format!("operation {at} read revision {}, which was compacted at {surely} before", q.revision));
            }
        }
        Err(ReadError::Compacted) if q.revision > 0 && q.revision < perhaps => {}
        Err(ReadError::FutureRevision) if q.serializable => {}
        Err(e) => found.push(format!("operation {at} {q:?} failed: {e}")),
    }
}

/// 3: the order of revisions respects real time.
fn real_time(seen: &Seen, wrote: &BTreeMap<usize, i64>, found: &mut Vec<String>) {
    // Everything that happened, by time: a return shows a revision, an asking demands one.
    let mut moments: Vec<(u64, bool, usize, i64)> = Vec::new();
    for (at, o) in seen.operations.iter().enumerate() {
        let serializable = matches!(&o.op, Op::Range(q) if q.serializable);
        let revision = match &o.told {
            // A refusal over the wire names no revision.
            Told::Answer(answer) if answer.revision == 0 => continue,
            Told::Answer(answer) => answer.revision,
            Told::Read(Ok(result)) => result.revision,
            _ => match wrote.get(&at) {
                Some(revision) => *revision,
                None => continue,
            },
        };
        if !serializable {
            moments.push((o.invoked, true, at, revision));
        }
        if !matches!(o.told, Told::Nothing) {
            moments.push((o.returned, false, at, revision));
        }
    }
    // At the same moment an asking comes before a return: the two overlap.
    moments.sort_by_key(|(time, asked, at, _)| (*time, !*asked, *at));
    let (mut newest, mut shown_by) = (1, None);
    for (_, asked, at, revision) in moments {
        if !asked {
            if revision > newest {
                (newest, shown_by) = (revision, Some(at));
            }
            continue;
        }
        let least = if wrote.contains_key(&at) { newest + 1 } else { newest };
        if revision < least {
            let op = &seen.operations[at].op;
            found.push(format!(
                "operation {at} {op:?} has revision {revision}, but was asked after operation {shown_by:?} had shown {newest}"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lease that was renewed after it ended early ended early all the same.
    #[test]
    fn an_early_end_is_found_whatever_renewed_the_lease_later() {
        let lease = Lease { ttl: 5, full_at: 20 * SECOND, earlier: vec![3 * SECOND, 10 * SECOND], ..Lease::default() };
        for (at, early) in [(11, true), (16, false), (24, true), (26, false), (2, false)] {
            let mut found = Vec::new();
            ended(7, &lease, at * SECOND, "revision 9", &mut found);
            assert_eq!(found.len(), usize::from(early), "at {at} s: {found:?}");
        }
    }
}
