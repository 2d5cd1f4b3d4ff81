//! Clients of the store: each asks one thing at a time, of one member, and moves on to another when that one does not answer.
//!
//! A request that gets no answer in time, or whose connection breaks, has an unknown outcome; its client never asks it again.

use crate::Time;
use crate::damage::QUIET;
use crate::member::Asked;
use crate::ops::{NEVER, Operation, Told, value_of};
use crate::world::{Event, MS, SECOND, World};
use bytes::Bytes;
use quorate::mvcc::ReadError;
use quorate_proto::entry::command::Op;
use quorate_proto::entry::{
    Command, Compact, Compare, CompareResult, CompareTarget, DeleteRange, LeaseGrant, LeaseRevoke, Op as TxnOp, Put, Range, Txn, op,
};

/// A client.
#[derive(Default)]
pub struct Client {
    member: usize,
    current: Option<usize>,
    /// The member that has the current request.
    at: usize,
    /// The newest revision it was told of.
    seen: i64,
    /// The newest revision that any watcher had been told when it asked.
    floor: i64,
    /// A revision at which something was deleted.
    deleted_at: i64,
    lease: i64,
}

impl Client {
    /// A client of one member.
    pub fn at(member: usize) -> Self {
        Self { member, ..Self::default() }
    }

    /// The newest revision that any watcher had been told when it asked.
    pub fn floor(&self) -> i64 {
        self.floor
    }

    pub fn waits_at(&self, operation: usize, at: usize) -> bool {
        self.current == Some(operation) && self.at == at
    }
}

/// Keys are few, so that clients meet.
const KEYS: u64 = 9;
/// Mean pause of a client between two requests.
const PAUSE: Time = 430 * MS;

fn key(n: u64) -> Bytes {
    let prefix = if n.is_multiple_of(2) { 'a' } else { 'b' };
    format!("{prefix}{n}").into()
}

impl World {
    pub fn add_clients(&mut self, count: usize) {
        for client in 0..count {
            let member = client % self.members.len();
            self.clients.push(Client { member, ..Client::default() });
            let delay = SECOND + self.chance.below(SECOND);
            self.after(delay, Event::Client { client });
        }
    }

    /// A client's next request.
    pub fn client(&mut self, client: usize) {
        if self.now >= self.settings.seconds * SECOND || self.clients[client].current.is_some() {
            return;
        }
        let operation = self.operations.len();
        let op = self.choose(client, operation);
        self.operations.push(Operation { client, op, invoked: self.now, returned: NEVER, told: Told::Nothing });
        let at = self.asks(client, operation);
        let delay = self.chance.between(50, 600);
        self.after(delay, Event::Request { at, operation });
        let limit = self.chance.between(SECOND, 3 * SECOND);
        self.after(limit, Event::Timeout { operation });
    }

    /// A client waits for an answer from the member it knows.
    pub fn asks(&mut self, client: usize, operation: usize) -> usize {
        let at = self.clients[client].member;
        self.clients[client].current = Some(operation);
        self.clients[client].floor = self.watched;
        self.clients[client].at = at;
        at
    }

    fn choose(&mut self, client: usize, operation: usize) -> Op {
        let seen = self.clients[client].seen;
        let chance = &mut self.chance;
        match chance.below(100) {
            0..4 => {
                let k = format!("{QUIET}{}", chance.below(4));
                Op::Put(Put { key: k.into(), value: value_of(operation).into(), ..Default::default() })
            }
            4..38 => {
                let lease = if chance.chance(50) { self.clients[client].lease } else { 0 };
                let k = key(chance.below(KEYS));
                let prev_kv = chance.chance(30);
                Op::Put(Put { key: k, value: value_of(operation).into(), lease, prev_kv, ..Default::default() })
            }
            38..62 => {
                let mut range = self.range();
                // A few look back into history.
                if self.chance.chance(25) && seen > 2 {
                    range.revision = seen - self.chance.below(seen.min(25) as u64) as i64;
                }
                range.serializable = self.chance.chance(20);
                if !range.range_end.is_empty() && range.limit == 0 && self.chance.chance(35) {
                    self.walks(operation);
                }
                Op::Range(range)
            }
            62..71 => {
                let mut range = self.range();
                if self.chance.chance(70) {
                    range.range_end = Bytes::new();
                    range.key = key(self.chance.below(KEYS));
                }
                Op::DeleteRange(DeleteRange { key: range.key, range_end: range.range_end, prev_kv: self.chance.chance(30) })
            }
            71..90 => Op::Txn(self.txn(client, operation)),
            90..93 if seen > 10 => {
                let last = self.clients[client].deleted_at;
                let revision = if last > 0 && self.chance.chance(60) { last } else { seen - self.chance.below(8) as i64 };
                self.compact_asked = self.compact_asked.max(revision);
                Op::Compact(Compact { revision })
            }
            90..99 if self.clients[client].lease == 0 => {
                let id = 7000 + operation as i64;
                self.leases.asked(id, self.now);
                Op::LeaseGrant(LeaseGrant { id, ttl: self.chance.between(1, 5) as i64 })
            }
            99 if self.clients[client].lease != 0 => {
                let id = std::mem::take(&mut self.clients[client].lease);
                self.leases.revoke_asked(id);
                Op::LeaseRevoke(LeaseRevoke { ids: vec![id] })
            }
            _ => {
                let k = key(self.chance.below(KEYS));
                Op::Put(Put { key: k, value: value_of(operation).into(), ..Default::default() })
            }
        }
    }

    fn range(&mut self) -> Range {
        let chance = &mut self.chance;
        let (key, range_end) = match chance.below(4) {
            0 => (Bytes::from_static(b"a"), Bytes::from_static(b"b")),
            1 => (Bytes::from_static(b"a"), Bytes::from_static(b"\0")),
            _ => (key(chance.below(KEYS)), Bytes::new()),
        };
        let limit = if chance.chance(20) { chance.between(1, 4) as i64 } else { 0 };
        Range { key, range_end, limit, ..Default::default() }
    }

    fn txn(&mut self, client: usize, operation: usize) -> Txn {
        let seen = self.clients[client].seen;
        let (first, chance) = (self.chance.below(KEYS), &mut self.chance);
        let compared = key(first);
        let (target, result, number) = match chance.below(5) {
            0 => (CompareTarget::Create, CompareResult::Equal, 0),
            1 => (CompareTarget::Version, CompareResult::Greater, chance.below(4) as i64),
            2 => (CompareTarget::Mod, CompareResult::Less, seen - chance.below(10) as i64),
            3 => (CompareTarget::Mod, CompareResult::Equal, seen),
            _ => (CompareTarget::Lease, CompareResult::NotEqual, 0),
        };
        let mut compare = Compare { key: compared.clone(), number, ..Default::default() };
        compare.set_target(target);
        compare.set_result(result);
        let wrap = |op| TxnOp { op: Some(op) };
        let put = |k: Bytes| wrap(op::Op::Put(Put { key: k, value: value_of(operation).into(), ..Default::default() }));
        let get = |k: Bytes| wrap(op::Op::Range(Range { key: k, ..Default::default() }));
        // No key is written twice: the door refuses that.
        let (second, third) = (key((first + 1) % KEYS), key((first + 2) % KEYS));
        let mut success = vec![put(compared.clone())];
        if chance.chance(50) {
            success.push(put(second.clone()));
        }
        if chance.chance(30) {
            success.push(wrap(op::Op::DeleteRange(DeleteRange { key: third.clone(), prev_kv: true, ..Default::default() })));
        }
        success.push(get(key((first + 3) % KEYS)));
        let mut failure = vec![get(compared)];
        if chance.chance(30) {
            failure.push(put(second));
        }
        if chance.chance(20) {
            failure.push(wrap(op::Op::DeleteRange(DeleteRange { key: third, ..Default::default() })));
        }
        Txn { compare: vec![compare], success, failure }
    }

    /// A request reaches its member.
    pub fn request(&mut self, at: usize, operation: usize) {
        if self.operations[operation].returned != NEVER {
            return;
        }
        if self.members[at].running.is_none() {
            return self.answer(operation, Told::Refused("connection refused".into()));
        }
        if self.is_set_aside(at) {
            return self.answer(operation, Told::Refused("corrupt cluster".into()));
        }
        let serializable = matches!(&self.operations[operation].op, Op::Range(range) if range.serializable);
        if self.is_learner(at) && !serializable {
            return self.answer(operation, Told::Refused("rpc not supported for learner".into()));
        }
        let life = self.members[at].life;
        let op = self.operations[operation].op.clone();
        match &op {
            Op::Range(range) if range.serializable => return self.read_now(at, operation),
            _ => {}
        }
        let mut fresh = false;
        let mut refused = None;
        let now = self.now;
        self.members[at].set_clock(now);
        if let Some(running) = &mut self.members[at].running {
            let asked = match op {
                Op::Range(_) => running.node.read(),
                op => running.node.propose(Command { op: Some(op) }).map(Some),
            };
            match asked {
                Ok(Some(waiting)) => running.asked.push(Asked { operation, waiting }),
                Ok(None) => fresh = true,
                Err(e) => refused = Some(e.to_string()),
            }
        }
        if fresh {
            self.read_now(at, operation);
        }
        if let Some(reason) = refused {
            self.answer(operation, Told::Refused(reason));
        }
        if self.members[at].life == life {
            self.settle(at);
        }
    }

    /// Reads from a member's store as it is.
    pub fn read_now(&mut self, at: usize, operation: usize) {
        if self.is_set_aside(at) {
            return self.answer(operation, Told::Refused("corrupt cluster".into()));
        }
        if self.begin_walk(at, operation) {
            return;
        }
        let Op::Range(range) = &self.operations[operation].op else { return };
        let Some(running) = &self.members[at].running else { return };
        let (wanted, shown) = (range.revision, running.shown);
        let result = running.node.handle().store().range(range);
        match &result {
            Ok(result) => self.shows_again(at, operation, result.revision),
            Err(ReadError::FutureRevision) if wanted <= shown => {
                self.violation(format!(
                    "operation {operation} was told that {wanted} is to come by member {at}, which had shown it"
                ));
            }
            Err(_) => {}
        }
        self.answer(operation, Told::Read(result));
    }

    /// A member whose data differ answers nobody.
    fn is_set_aside(&self, at: usize) -> bool {
        self.members[at].running.as_ref().is_some_and(|r| r.node.handle().is_fenced())
    }

    /// An answer reaches its client.
    pub fn response(&mut self, operation: usize) {
        let Some(told) = self.answers.remove(&operation) else { return };
        let client = self.operations[operation].client;
        if self.clients[client].current != Some(operation) {
            return;
        }
        let refused = matches!(told, Told::Refused(_));
        let revision = match &told {
            Told::Answer(answer) => answer.revision,
            Told::Read(Ok(result)) => result.revision,
            _ => 0,
        };
        let c = &mut self.clients[client];
        c.seen = c.seen.max(revision);
        if let Told::Answer(answer) = &told {
            self.learn(client, operation, answer.result.is_ok(), revision);
        }
        if self.settings.trace {
            self.note(&format!("client {client} {:?} -> {told:?}", self.operations[operation].op));
        } else {
            self.note(&format!("{operation}: {revision} {refused}"));
        }
        self.check_told(client, operation, &told);
        self.finish(operation, told);
        if refused || self.chance.chance(5) {
            self.clients[client].member = self.endpoint();
        }
    }

    fn learn(&mut self, client: usize, operation: usize, ok: bool, revision: i64) {
        match &self.operations[operation].op {
            Op::DeleteRange(_) if ok => self.clients[client].deleted_at = revision,
            Op::LeaseGrant(grant) if ok => {
                let (id, ttl) = (grant.id, grant.ttl);
                self.clients[client].lease = id;
                let applied =
                    self.members.iter().filter_map(|m| Some(m.running.as_ref()?.node.handle().status().applied_index)).max();
                self.leases.granted(id, ttl, applied.unwrap_or(u64::MAX));
                let at = self.clients[client].member;
                // Kept alive for a while, then left to run out.
                self.after(500 * MS, Event::KeepAlive { client, lease: id, at, hops: 0 });
            }
            // Its lease is over.
            Op::Put(put) if !ok && put.lease != 0 => self.clients[client].lease = 0,
            _ => {}
        }
    }

    /// No answer will count any more.
    pub fn timeout(&mut self, operation: usize) {
        let client = self.operations[operation].client;
        if self.clients[client].current != Some(operation) {
            return;
        }
        let at = self.clients[client].at;
        if let Some(running) = &mut self.members[at].running {
            running.asked.retain(|asked| asked.operation != operation);
        }
        self.finish(operation, Told::Nothing);
        self.clients[client].member = self.endpoint();
    }

    fn finish(&mut self, operation: usize, told: Told) {
        self.walks.remove(&operation);
        let o = &mut self.operations[operation];
        o.returned = self.now;
        o.told = told;
        let client = o.client;
        self.clients[client].current = None;
        let pause = self.chance.between(10 * MS, 2 * PAUSE);
        self.after(pause, Event::Client { client });
    }
}
