//! Clients in two shapes. Those of etcd ask a little of everything, of one member until it fails them. Those of Kubernetes create,
//! update and delete by the revision they know, and list in pages at one revision, through a client that finds its own way.
//!
//! A client asks one thing at a time; what got no answer in time has an unknown outcome and is never asked again.

use crate::asking::ask_as;
use crate::book::Book;
use crate::ground::MEMBERS;
use crate::member::endpoint;
use bytes::Bytes;
use quorate::state::{Outcome, TxnOpOutcome};
use quorate_client::Client;
use quorate_proto::RawKv;
use quorate_proto::entry::command::Op;
use quorate_proto::entry::{
    Compact, Compare, CompareResult, CompareTarget, DeleteRange, LeaseGrant, LeaseRevoke, Op as Part, Put, Range, Txn, op,
};
use sim::ops::Told;
use sim::rng::Rng;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What the tasks of a run share.
pub struct Shared {
    pub book: Book,
    pub all: Client,
    /// Linearizable reads are sent as serializable, to show that the check can fail.
    pub stale: bool,
    /// No new operations.
    pub stop: AtomicBool,
    /// Operations and watches end.
    pub over: AtomicBool,
}

/// Keys are few, so that clients meet.
const KEYS: u64 = 9;
const PODS: u64 = 24;
pub const PODS_PREFIX: &str = "/registry/pods/";
pub const PODS_END: &str = "/registry/pods0";

fn key(n: u64) -> Bytes {
    format!("{}{n}", if n.is_multiple_of(2) { 'a' } else { 'b' }).into()
}

fn pod(n: u64) -> Bytes {
    format!("{PODS_PREFIX}ns{}/pod-{n}", n % 3).into()
}

/// A value of about this many bytes, named after its operation.
pub fn value(name: &str, bytes: u64) -> Bytes {
    let mut text = String::with_capacity(bytes as usize + name.len() + 1);
    text.push_str(name);
    text.push(' ');
    (0..bytes).for_each(|i| text.push(char::from(b'a' + (i % 23) as u8)));
    text.into()
}

fn wrap(op: op::Op) -> Part {
    Part { op: Some(op) }
}

fn get(key: Bytes) -> Part {
    wrap(op::Op::Range(Range { key, ..Default::default() }))
}

fn compare(key: Bytes, target: CompareTarget, result: CompareResult, number: i64) -> Compare {
    let mut compare = Compare { key, number, ..Default::default() };
    compare.set_target(target);
    compare.set_result(result);
    compare
}

/// The store's revision as an answer tells it; 0 when it does not.
fn revision_of(told: &Told) -> i64 {
    match told {
        Told::Answer(a) => a.revision,
        Told::Read(Ok(r)) => r.revision,
        _ => 0,
    }
}

/// A client of etcd's shape.
pub struct Plain {
    pub number: usize,
    pub chance: Rng,
    member: usize,
    seen: i64,
    deleted_at: i64,
    lease: i64,
}

impl Plain {
    pub fn new(number: usize, chance: Rng) -> Self {
        Self { number, chance, member: number % MEMBERS, seen: 0, deleted_at: 0, lease: 0 }
    }

    pub async fn run(mut self, shared: Arc<Shared>) {
        let clients: Vec<_> = (0..MEMBERS).filter_map(|at| shared.all.only(&endpoint(at))).collect();
        while !shared.stop.load(Ordering::Relaxed) {
            let head = shared.book.with(|p| p.history.head());
            let (number, op) = shared.book.begin(self.number, |name| self.choose(name, head));
            let limit = Duration::from_millis(self.chance.between(1500, 4000));
            let told = ask_as(&clients[self.member].timeout(Some(limit)), &op, shared.stale).await;
            self.learn(&op, &told);
            let failed = matches!(told, Told::Nothing | Told::Refused(_));
            shared.book.end(number, told);
            if failed || self.chance.chance(3) {
                self.member = self.chance.below(MEMBERS as u64) as usize;
            }
            tokio::time::sleep(Duration::from_millis(self.chance.between(5, 130))).await;
        }
    }

    fn learn(&mut self, op: &Op, told: &Told) {
        self.seen = self.seen.max(revision_of(told));
        let Told::Answer(answer) = told else { return };
        match (op, &answer.result) {
            (Op::DeleteRange(_), Ok(_)) => self.deleted_at = answer.revision,
            (Op::LeaseGrant(grant), Ok(_)) => self.lease = grant.id,
            // Its lease is over.
            (Op::Put(put), Err(_)) if put.lease != 0 => self.lease = 0,
            _ => {}
        }
    }

    fn choose(&mut self, name: &str, head: i64) -> Op {
        let seen = self.seen;
        let k = key(self.chance.below(KEYS));
        match self.chance.below(100) {
            0..40 => {
                let lease = if self.chance.chance(50) { self.lease } else { 0 };
                let bytes = if self.chance.chance(3) { 20_000 } else { self.chance.between(0, 60) };
                Op::Put(Put { key: k, value: value(name, bytes), lease, prev_kv: self.chance.chance(30), ..Default::default() })
            }
            40..62 => {
                let (key, range_end) = self.span(k);
                let limit = if self.chance.chance(20) { self.chance.between(1, 4) as i64 } else { 0 };
                let back = self.chance.chance(25) && seen > 30;
                let revision = if back { seen - self.chance.below(25) as i64 } else { 0 };
                Op::Range(Range { key, range_end, limit, revision, serializable: self.chance.chance(20), ..Default::default() })
            }
            62..70 => {
                let (key, range_end) = if self.chance.chance(30) { self.span(k) } else { (k, Bytes::new()) };
                Op::DeleteRange(DeleteRange { key, range_end, prev_kv: self.chance.chance(30) })
            }
            70..90 => Op::Txn(self.txn(name, head)),
            // A revision that an observer has seen, at times the one of a deletion.
            90..92 if seen > 40 && self.number.is_multiple_of(3) => {
                let aim = if self.deleted_at > 0 && self.chance.chance(60) {
                    self.deleted_at
                } else {
                    seen - self.chance.below(30) as i64
                };
                Op::Compact(Compact { revision: aim.min(head) })
            }
            92..98 if self.lease == 0 => {
                let id = 7000 + name[1..].parse::<i64>().unwrap_or(0);
                Op::LeaseGrant(LeaseGrant { id, ttl: self.chance.between(2, 6) as i64 })
            }
            98..100 if self.lease != 0 => Op::LeaseRevoke(LeaseRevoke { ids: vec![std::mem::take(&mut self.lease)] }),
            _ => Op::Put(Put { key: k, value: value(name, 10), ..Default::default() }),
        }
    }

    /// What a request is about: mostly one key.
    fn span(&mut self, one: Bytes) -> (Bytes, Bytes) {
        match self.chance.below(4) {
            0 => (Bytes::from_static(b"a"), Bytes::from_static(b"b")),
            1 => (Bytes::from_static(b"a"), Bytes::from_static(b"c")),
            _ => (one, Bytes::new()),
        }
    }

    fn txn(&mut self, name: &str, head: i64) -> Txn {
        let first = self.chance.below(KEYS);
        let chance = &mut self.chance;
        let (target, result, number) = match chance.below(5) {
            0 => (CompareTarget::Create, CompareResult::Equal, 0),
            1 => (CompareTarget::Version, CompareResult::Greater, chance.below(4) as i64),
            2 => (CompareTarget::Mod, CompareResult::Less, head - chance.below(10) as i64),
            3 => (CompareTarget::Mod, CompareResult::NotEqual, head),
            _ => (CompareTarget::Lease, CompareResult::NotEqual, 0),
        };
        let put = |n: u64| wrap(op::Op::Put(Put { key: key(n % KEYS), value: value(name, 5), ..Default::default() }));
        let delete = |n: u64| wrap(op::Op::DeleteRange(DeleteRange { key: key(n % KEYS), prev_kv: true, ..Default::default() }));
        // No key is written twice: the door refuses that.
        let mut success = vec![put(first)];
        let mut failure = vec![get(key(first))];
        if chance.chance(40) {
            success.push(put(first + 1));
        }
        if chance.chance(30) {
            success.push(delete(first + 2));
        }
        success.push(get(key((first + 3) % KEYS)));
        if chance.chance(30) {
            failure.push(put(first + 1));
        }
        if chance.chance(20) {
            failure.push(delete(first + 2));
        }
        Txn { compare: vec![compare(key(first), target, result, number)], success, failure }
    }
}

/// A client of Kubernetes' shape.
pub struct Kube {
    pub number: usize,
    pub chance: Rng,
    /// The revision of each pod, as it was last told.
    known: BTreeMap<Bytes, i64>,
    /// The rest of a list: where it goes on, and at which revision.
    rest: Option<(Bytes, i64)>,
}

impl Kube {
    pub fn new(number: usize, chance: Rng) -> Self {
        Self { number, chance, known: BTreeMap::new(), rest: None }
    }

    pub async fn run(mut self, shared: Arc<Shared>) {
        let Ok(client) = crate::member::client(Duration::from_secs(4)) else { return };
        while !shared.stop.load(Ordering::Relaxed) {
            let (number, op) = shared.book.begin(self.number, |name| self.choose(name));
            let told = ask_as(&client, &op, shared.stale).await;
            self.learn(&op, &told);
            let refused = matches!(told, Told::Refused(_));
            shared.book.end(number, told);
            let pause = if refused { 200 } else { self.chance.between(5, 130) };
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    fn note(&mut self, pairs: &[RawKv]) {
        for pair in pairs.iter().filter_map(|p| p.decode().ok()) {
            self.known.insert(pair.key, pair.mod_revision);
        }
    }

    fn learn(&mut self, op: &Op, told: &Told) {
        match (op, told) {
            (Op::Range(q), Told::Read(Ok(result))) => {
                self.note(&result.kvs);
                let state = if q.revision > 0 { q.revision } else { result.revision };
                let last = result.kvs.last().and_then(|p| p.decode().ok());
                self.rest =
                    last.filter(|_| result.more && !q.range_end.is_empty()).map(|p| ([&p.key[..], b"\0"].concat().into(), state));
            }
            // Its revision was compacted: the list begins anew.
            (Op::Range(_), _) => self.rest = None,
            (Op::Txn(txn), Told::Answer(answer)) => {
                let Ok(Outcome::Txn(outcome)) = &answer.result else { return };
                let key = txn.compare[0].key.clone();
                match (outcome.succeeded, outcome.ops.first()) {
                    (true, Some(TxnOpOutcome::Put { .. })) => _ = self.known.insert(key, answer.revision),
                    (true, _) => _ = self.known.remove(&key),
                    (false, Some(TxnOpOutcome::Range(r))) if r.kvs.is_empty() => _ = self.known.remove(&key),
                    (false, Some(TxnOpOutcome::Range(r))) => self.note(&r.kvs),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    fn choose(&mut self, name: &str) -> Op {
        if let Some((key, revision)) = self.rest.take() {
            return Op::Range(Range { key, range_end: PODS_END.into(), limit: 8, revision, ..Default::default() });
        }
        let key = pod(self.chance.below(PODS));
        let known = self.known.get(&key).copied().unwrap_or(0);
        let bytes = self.chance.between(100, 900);
        let put = wrap(op::Op::Put(Put { key: key.clone(), value: value(name, bytes), ..Default::default() }));
        let success = match self.chance.below(100) {
            0..12 => {
                return Op::Range(Range { key: PODS_PREFIX.into(), range_end: PODS_END.into(), limit: 8, ..Default::default() });
            }
            12..22 => return Op::Range(Range { key, ..Default::default() }),
            22..34 if known != 0 => wrap(op::Op::DeleteRange(DeleteRange { key: key.clone(), ..Default::default() })),
            _ => put,
        };
        let same = compare(key.clone(), CompareTarget::Mod, CompareResult::Equal, known);
        Op::Txn(Txn { compare: vec![same], success: vec![success], failure: vec![get(key)] })
    }
}
