//! Holds a restarted server against what clients were told.
//!
//! In: the record of the life that ended, and a server that serves again. Out: the first promise that was broken, in words. What is
//! promised, in the order it is checked:
//! 1. the history, as a watch from the oldest kept revision tells it, has no gap, and what was found earlier is still the same;
//! 2. each answered write stands at the revision it was answered with, with all its changes and no other;
//! 3. every other revision is the whole effect of one request that had no answer: nothing is invented, nothing is half done;
//! 4. a read or a watch never showed what the history does not hold: what can be seen is durable;
//! 5. requests that followed one another have revisions that do, too;
//! 6. the pairs at the newest and at older revisions, with all their counters, are what the history makes of them;
//! 7. leases and compactions that were answered are there.

use crate::load::{Answer, Ask, Change, Client, End, Record, Request, txn_values};
use bytes::Bytes;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::mvccpb::KeyValue;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

/// A key, its value (`None` when deleted) and its lease.
type Effect = (Bytes, Option<Bytes>, i64);

type Pairs = BTreeMap<Bytes, KeyValue>;

/// What is known of one data directory, over all its lives.
#[derive(Clone, Default)]
pub struct Ledger {
    /// Every revision ever found, with its changes.
    pub history: BTreeMap<i64, Vec<Change>>,
    /// Leases that were answered and not revoked.
    leases: BTreeSet<i64>,
    /// Leases whose grant or revocation had no answer.
    unsure: BTreeSet<i64>,
    compacted: i64,
    /// Compactions without an answer may have gone this far.
    compacted_most: i64,
    /// The newest revision that an earlier check has explained.
    settled: i64,
}

fn ensure(holds: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why()) }
}

/// The short form of a request for a report.
fn show(request: &Request) -> String {
    let text = format!("{:?} -> {:?}", request.ask, request.end);
    format!("client {} {}", request.client, text.chars().take(400).collect::<String>())
}

impl Ledger {
    /// The newest revision found.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.history.keys().next_back().copied().unwrap_or(1)
    }

    /// The pairs as of a revision, made from the history alone.
    #[must_use]
    pub fn pairs(&self, revision: i64) -> Pairs {
        let mut pairs = Pairs::new();
        for change in self.history.range(..=revision).flat_map(|(_, changes)| changes) {
            if change.put {
                pairs.insert(change.pair.key.clone(), change.pair.clone());
            } else {
                pairs.remove(&change.pair.key);
            }
        }
        pairs
    }

    /// Checks a server that serves again after the life that `record` tells of.
    ///
    /// # Errors
    /// The first promise that was broken.
    pub async fn check(&mut self, endpoint: &str, record: &Record) -> Result<(), String> {
        let mut client = Client::connect(endpoint).await?;
        let all = pb::RangeRequest { key: Bytes::from_static(&[0]), range_end: Bytes::from_static(&[0]), ..Default::default() };
        let now = client.kv.range(all.clone()).await.map_err(|e| format!("a read after the restart: {e}"))?.into_inner();
        let current = now.header.as_ref().map_or(0, |h| h.revision);
        let compacted = self.take_history(&mut client, current).await?;
        self.check_compaction(compacted, record)?;
        self.check_requests(record, current)?;
        self.check_order(record)?;
        self.check_seen(record)?;
        same_pairs(&self.pairs(current), &now.kvs, current)?;
        // Older revisions, as they are still kept.
        for older in [compacted.max(1) + 1, (compacted + current) / 2, current - 1] {
            if older > compacted.max(1) && older < current {
                let at = pb::RangeRequest { revision: older, ..all.clone() };
                let then = client.kv.range(at).await.map_err(|e| format!("a read at revision {older}: {e}"))?.into_inner();
                same_pairs(&self.pairs(older), &then.kvs, older)?;
            }
        }
        self.check_leases(&mut client, record, current).await?;
        self.settled = current;
        Ok(())
    }

    /// Replays the history by a watch and adds it; gives the revision it was compacted to.
    async fn take_history(&mut self, client: &mut Client, current: i64) -> Result<i64, String> {
        let known = self.revision();
        ensure(current >= known, || format!("the newest revision is {current}, and {known} was there before"))?;
        let mut from = 2;
        let mut compacted = 0;
        let found = loop {
            if from > current {
                break BTreeMap::new();
            }
            match tokio::time::timeout(PATIENCE, replay(client, from, current)).await {
                Ok(Ok(Ok(found))) => break found,
                Ok(Ok(Err(at))) => {
                    ensure(at > compacted, || format!("a watch from {from} is refused for a compaction at {at}"))?;
                    (compacted, from) = (at, at + 1);
                }
                Ok(Err(why)) => return Err(format!("a watch from revision {from} to {current}: {why}")),
                Err(_) => return Err(format!("a watch from revision {from} does not reach {current} in {PATIENCE:?}")),
            }
        };
        for revision in from..=current {
            let Some(changes) = found.get(&revision) else {
                return Err(format!("revision {revision} of {current} has no change"));
            };
            match self.history.get(&revision) {
                Some(before) => ensure(before == changes, || format!("revision {revision} was {before:?} and is {changes:?}"))?,
                None => {
                    ensure(revision > known, || format!("revision {revision} came to be below {known}"))?;
                    self.history.insert(revision, changes.clone());
                }
            }
        }
        for revision in 2..=current {
            ensure(self.history.contains_key(&revision), || format!("revision {revision} was never seen and is compacted"))?;
        }
        Ok(compacted)
    }

    fn check_compaction(&mut self, compacted: i64, record: &Record) -> Result<(), String> {
        let mut answered = self.compacted;
        for request in &record.requests {
            if let Ask::Compact { revision } = request.ask {
                match request.end {
                    End::Answered(_) => answered = answered.max(revision),
                    End::Unanswered(_) => self.compacted_most = self.compacted_most.max(revision),
                    End::Refused(_) => {}
                }
            }
        }
        self.compacted_most = self.compacted_most.max(answered);
        ensure(compacted >= answered, || format!("the compaction at {answered} was answered, the server stands at {compacted}"))?;
        ensure(compacted <= self.compacted_most, || format!("nobody asked for the compaction at {compacted}"))?;
        self.compacted = compacted;
        Ok(())
    }

    fn check_requests(&self, record: &Record, current: i64) -> Result<(), String> {
        let mut owner: BTreeMap<i64, usize> = BTreeMap::new();
        for (number, request) in record.requests.iter().enumerate() {
            let End::Answered(answer) = &request.end else { continue };
            ensure(answer.revision <= current, || format!("lost: the newest revision is {current}; {}", show(request)))?;
            match self.effect(request, answer)? {
                Some(effect) => {
                    let changes = self.history.get(&answer.revision).map_or(&[][..], |changes| changes);
                    ensure(same_effect(&effect, changes), || {
                        format!("revision {} is {changes:?}, not the answered {}", answer.revision, show(request))
                    })?;
                    if let Some(other) = owner.insert(answer.revision, number) {
                        return Err(format!("one revision for two: {} and {}", show(&record.requests[other]), show(request)));
                    }
                }
                None => self.check_nothing(request, answer)?,
            }
        }
        let first = self.settled + 1;
        let mut unanswered: Vec<&Request> = record.requests.iter().filter(|r| matches!(r.end, End::Unanswered(_))).collect();
        for (revision, changes) in self.history.range(first..) {
            if owner.contains_key(revision) {
                continue;
            }
            let explains = |request: &&Request| self.could_be(request, changes, *revision);
            match unanswered.iter().position(explains) {
                Some(position) => drop(unanswered.swap_remove(position)),
                None => return Err(format!("revision {revision} is invented: no request explains {changes:?}")),
            }
        }
        Ok(())
    }

    /// The changes an answered request must have made, `None` for none.
    fn effect(&self, request: &Request, answer: &Answer) -> Result<Option<Vec<Effect>>, String> {
        Ok(match &request.ask {
            Ask::Put { key, value, lease } => Some(vec![(key.clone(), Some(value.clone()), *lease)]),
            Ask::Delete { key } => (answer.deleted > 0).then(|| vec![(key.clone(), None, 0)]),
            Ask::Txn { guard, other, value } => {
                let existed = self.pair_at(guard, answer.revision - 1).is_some();
                ensure(existed == answer.succeeded, || format!("the guard was there: {existed}; {}", show(request)))?;
                Some(txn_effect(guard, other, value, answer.succeeded))
            }
            Ask::Revoke { id } => {
                let keys = self.keys_of(*id, answer.revision - 1);
                // Without keys there is no revision; with keys, this must be the one that deleted them.
                let deleted_here = !keys.is_empty() && self.history.get(&answer.revision).is_some_and(|c| c.iter().all(|c| !c.put));
                deleted_here.then(|| keys.into_iter().map(|key| (key, None, 0)).collect())
            }
            Ask::Grant { .. } | Ask::Compact { .. } | Ask::Read { .. } => None,
        })
    }

    /// Requests that changed nothing saw the state at the revision of their answer.
    fn check_nothing(&self, request: &Request, answer: &Answer) -> Result<(), String> {
        match &request.ask {
            Ask::Read { key } => {
                let pair = self.pair_at(key, answer.revision);
                ensure(pair == answer.pair.as_ref(), || format!("the history says {pair:?}; {}", show(request)))
            }
            Ask::Delete { key } => {
                let pair = self.pair_at(key, answer.revision);
                ensure(pair.is_none(), || format!("nothing was deleted and the key is there: {}", show(request)))
            }
            Ask::Revoke { id } => {
                let keys = self.keys_of(*id, answer.revision);
                ensure(keys.is_empty(), || format!("keys {keys:?} outlive their lease: {}", show(request)))
            }
            _ => Ok(()),
        }
    }

    fn could_be(&self, request: &Request, changes: &[Change], revision: i64) -> bool {
        match &request.ask {
            Ask::Put { key, value, lease } => same_effect(&[(key.clone(), Some(value.clone()), *lease)], changes),
            Ask::Delete { key } => same_effect(&[(key.clone(), None, 0)], changes),
            Ask::Txn { guard, other, value } => {
                let existed = self.pair_at(guard, revision - 1).is_some();
                same_effect(&txn_effect(guard, other, value, existed), changes)
            }
            Ask::Revoke { id } => {
                let effect: Vec<_> = self.keys_of(*id, revision - 1).into_iter().map(|key| (key, None, 0)).collect();
                !effect.is_empty() && same_effect(&effect, changes)
            }
            Ask::Grant { .. } | Ask::Compact { .. } | Ask::Read { .. } => false,
        }
    }

    fn pair_at(&self, key: &Bytes, revision: i64) -> Option<&KeyValue> {
        let newest =
            self.history.range(..=revision).rev().flat_map(|(_, changes)| changes.iter().rev()).find(|c| c.pair.key == key)?;
        newest.put.then_some(&newest.pair)
    }

    fn keys_of(&self, lease: i64, revision: i64) -> Vec<Bytes> {
        let pairs = self.pairs(revision).into_iter();
        pairs.filter(|(_, pair)| pair.lease == lease).map(|(key, _)| key).collect()
    }

    /// What was answered before something else was sent has a smaller revision, for writes, and no greater one for reads.
    fn check_order(&self, record: &Record) -> Result<(), String> {
        let mut by_done: Vec<(&Request, i64)> = record
            .requests
            .iter()
            .filter_map(|request| match &request.end {
                End::Answered(answer) => Some((request, answer.revision)),
                _ => None,
            })
            .collect();
        by_done.sort_by_key(|(request, _)| request.done);
        let mut by_sent = by_done.clone();
        by_sent.sort_by_key(|(request, _)| request.sent);
        let (mut ended, mut newest) = (0, 0);
        for (request, revision) in by_sent {
            while ended < by_done.len() && by_done[ended].0.done < request.sent {
                newest = newest.max(by_done[ended].1);
                ended += 1;
            }
            let least = newest + i64::from(matches!(request.ask, Ask::Put { .. } | Ask::Txn { .. }));
            ensure(revision >= least, || format!("revision {newest} was answered before this was sent: {}", show(request)))?;
        }
        Ok(())
    }

    fn check_seen(&self, record: &Record) -> Result<(), String> {
        let mut before = 0;
        for change in &record.seen {
            let revision = change.pair.mod_revision;
            ensure(revision >= before, || format!("a watcher saw {revision} after {before}"))?;
            before = revision;
            let stands = self.history.get(&revision).is_some_and(|changes| changes.contains(change));
            ensure(stands, || format!("a watcher saw what is not in the history: {change:?}"))?;
        }
        Ok(())
    }

    async fn check_leases(&mut self, client: &mut Client, record: &Record, current: i64) -> Result<(), String> {
        for request in &record.requests {
            match (&request.ask, &request.end) {
                (Ask::Grant { id }, End::Answered(_)) => drop(self.leases.insert(*id)),
                (Ask::Grant { id }, End::Unanswered(_)) => drop(self.unsure.insert(*id)),
                (Ask::Revoke { id }, End::Answered(_)) => drop(self.leases.remove(id)),
                (Ask::Revoke { id }, End::Unanswered(_)) => {
                    self.leases.remove(id);
                    self.unsure.insert(*id);
                }
                _ => {}
            }
        }
        let listed = client.lease.lease_leases(pb::LeaseLeasesRequest {}).await.map_err(|e| format!("the list of leases: {e}"))?;
        let listed: BTreeSet<i64> = listed.into_inner().leases.iter().map(|lease| lease.id).collect();
        for id in &self.leases {
            ensure(listed.contains(id), || format!("lease {id:x} was granted and answered and is gone"))?;
        }
        for id in &listed {
            let known = self.leases.contains(id) || self.unsure.contains(id);
            ensure(known, || format!("lease {id:x} is invented"))?;
        }
        // What is found is settled: it may not vanish later.
        self.leases = listed;
        self.unsure.clear();
        for id in self.leases.iter().take(3) {
            let ask = pb::LeaseTimeToLiveRequest { id: *id, keys: true };
            let told = client.lease.lease_time_to_live(ask).await.map_err(|e| format!("lease {id:x}: {e}"))?.into_inner();
            let keys = self.keys_of(*id, current);
            let mut told_keys = told.keys.clone();
            told_keys.sort();
            ensure(told_keys == keys, || format!("lease {id:x} holds {told_keys:?}, the history says {keys:?}"))?;
            let granted = crate::load::LEASE_TTL;
            ensure(told.granted_ttl == granted, || format!("lease {id:x} was granted {granted} s and says {}", told.granted_ttl))?;
        }
        for (key, pair) in self.pairs(current) {
            let held = pair.lease == 0 || self.leases.contains(&pair.lease);
            ensure(held, || format!("{key:?} hangs on lease {:x}, which is not there", pair.lease))?;
        }
        Ok(())
    }
}

fn txn_effect(guard: &Bytes, other: &Bytes, value: &Bytes, succeeded: bool) -> Vec<(Bytes, Option<Bytes>, i64)> {
    let (for_guard, for_other) = txn_values(value);
    let mut effect = vec![(other.clone(), Some(for_other), 0)];
    if succeeded {
        effect.insert(0, (guard.clone(), Some(for_guard), 0));
    }
    effect
}

/// Whether `changes` are these, each one whole and none beside them.
fn same_effect(effect: &[(Bytes, Option<Bytes>, i64)], changes: &[Change]) -> bool {
    let same = |(key, value, lease): &(Bytes, Option<Bytes>, i64)| {
        changes.iter().any(|c| match value {
            Some(value) => c.put && c.pair.key == key && c.pair.value == value && c.pair.lease == *lease,
            None => !c.put && c.pair.key == key,
        })
    };
    effect.len() == changes.len() && effect.iter().all(same)
}

fn same_pairs(expected: &Pairs, found: &[quorate_proto::RawKv], revision: i64) -> Result<(), String> {
    let mut pairs = Pairs::new();
    for raw in found {
        let pair = raw.decode().map_err(|e| format!("a pair at revision {revision} cannot be read: {e}"))?;
        pairs.insert(pair.key.clone(), pair);
    }
    for (key, pair) in expected {
        let there = pairs.get(key);
        ensure(there == Some(pair), || format!("at revision {revision} {key:?} should be {pair:?} and is {there:?}"))?;
    }
    match pairs.keys().find(|key| !expected.contains_key(*key)) {
        Some(key) => Err(format!("at revision {revision} {key:?} is there and should not be")),
        None => Ok(()),
    }
}

type Found = Result<BTreeMap<i64, Vec<Change>>, i64>;

/// The changes from one revision to another as a watch tells them; the inner error is a compaction's revision.
async fn replay(client: &mut Client, from: i64, to: i64) -> Result<Found, String> {
    let create = pb::WatchCreateRequest {
        key: Bytes::from_static(&[0]),
        range_end: Bytes::from_static(&[0]),
        start_revision: from,
        ..Default::default()
    };
    let request = pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) };
    let (asks, stream) = tokio::sync::mpsc::channel(1);
    asks.send(request).await.map_err(|e| e.to_string())?;
    let response = client.watch.watch(tokio_stream::wrappers::ReceiverStream::new(stream)).await.map_err(|e| e.to_string())?;
    let mut responses = response.into_inner();
    let mut found: BTreeMap<i64, Vec<Change>> = BTreeMap::new();
    while let Some(message) = responses.message().await.map_err(|e| e.to_string())? {
        if message.canceled {
            return if message.compact_revision > 0 { Ok(Err(message.compact_revision)) } else { Err(message.cancel_reason) };
        }
        for event in &message.events {
            let change = crate::load::change(event).ok_or("an event cannot be read")?;
            let revision = change.pair.mod_revision;
            let newest = found.keys().next_back().copied().unwrap_or(from);
            ensure(revision >= newest, || format!("revision {revision} came after {newest}"))?;
            found.entry(revision).or_default().push(change);
        }
        // The newest revision is whole: a response never parts one, unless it asked for fragments.
        if found.contains_key(&to) {
            return Ok(Ok(found));
        }
    }
    Err("the stream ended".to_owned())
}

/// The hash of all pairs and their history.
///
/// # Errors
/// The server's refusal.
pub async fn hash(endpoint: &str, revision: i64) -> Result<(u32, i64, i64), String> {
    let mut client = Client::connect(endpoint).await?;
    let told = client.maintenance.hash_kv(pb::HashKvRequest { revision }).await.map_err(|e| format!("the hash: {e}"))?.into_inner();
    Ok((told.hash, told.hash_revision, told.compact_revision))
}

impl Ledger {
    /// Does everything in the history again on an empty server, compacts as the first one is, and gives its hash.
    ///
    /// # Errors
    /// What was refused, or took another revision than it had.
    pub async fn write_again(&self, endpoint: &str) -> Result<(u32, i64, i64), String> {
        let mut client = Client::connect(endpoint).await?;
        let leases: BTreeSet<i64> = self.history.values().flatten().map(|change| change.pair.lease).filter(|id| *id != 0).collect();
        for id in leases {
            let grant = pb::LeaseGrantRequest { id, ttl: crate::load::LEASE_TTL };
            client.lease.lease_grant(grant).await.map_err(|e| format!("granting lease {id:x} again: {e}"))?;
        }
        for (revision, changes) in &self.history {
            let ops = changes.iter().map(|change| {
                let (key, value, lease) = (change.pair.key.clone(), change.pair.value.clone(), change.pair.lease);
                let request = match change.put {
                    true => pb::request_op::Request::RequestPut(pb::PutRequest { key, value, lease, ..Default::default() }),
                    false => pb::request_op::Request::RequestDeleteRange(pb::DeleteRangeRequest { key, ..Default::default() }),
                };
                pb::RequestOp { request: Some(request) }
            });
            let txn = pb::TxnRequest { success: ops.collect(), ..Default::default() };
            let told = client.kv.txn(txn).await.map_err(|e| format!("writing revision {revision} again: {e}"))?.into_inner();
            let took = told.header.map_or(0, |h| h.revision);
            ensure(took == *revision, || format!("revision {revision} became {took} when it was written again"))?;
        }
        if self.compacted > 0 {
            let compact = pb::CompactionRequest { revision: self.compacted, physical: true };
            client.kv.compact(compact).await.map_err(|e| format!("compacting again: {e}"))?;
        }
        hash(endpoint, self.revision()).await
    }
}
