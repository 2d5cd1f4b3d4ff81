//! Clients that write and read until the server is gone, and the record of what each was told.
//!
//! In: an endpoint, a seed, how much to do. Out: a `Record`: every request with its answer, or the fact that it had none, and what a
//! watcher saw meanwhile. Each value written is unique, so a value found later names the request it came from.
//!
//! Invariant: a request counts as answered only when its response arrived, as refused only when the server said so in a way that
//! means "nothing was done"; everything else is unanswered and may or may not have taken effect.

use crate::Chance;
use bytes::Bytes;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::mvccpb::KeyValue;
use rand::Rng;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;
use tonic::Code;
use tonic::transport::Channel;

/// Longest wait for an answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// Leases last far longer than any test: none runs out by itself.
pub const LEASE_TTL: i64 = 1_000_000;

/// What is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ask {
    Put {
        key: Bytes,
        value: Bytes,
        lease: i64,
    },
    Delete {
        key: Bytes,
    },
    /// When `guard` exists it and `other` are put, else `other` alone.
    Txn {
        guard: Bytes,
        other: Bytes,
        value: Bytes,
    },
    Grant {
        id: i64,
    },
    Revoke {
        id: i64,
    },
    Compact {
        revision: i64,
    },
    Read {
        key: Bytes,
    },
}

/// What was told.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Answer {
    /// The revision in the response's header.
    pub revision: i64,
    /// Keys deleted.
    pub deleted: i64,
    /// The branch a transaction took.
    pub succeeded: bool,
    /// The pair that was read.
    pub pair: Option<KeyValue>,
}

/// How a request ended.
#[derive(Clone, PartialEq, Debug)]
pub enum End {
    Answered(Answer),
    Refused(String),
    Unanswered(String),
}

/// One request of one client.
#[derive(Clone, PartialEq, Debug)]
pub struct Request {
    pub client: usize,
    /// Ticks of a clock that all clients share: when it was sent, and when it ended.
    pub sent: u64,
    pub done: u64,
    pub ask: Ask,
    pub end: End,
}

/// One change of one key, as a watcher is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    pub put: bool,
    pub pair: KeyValue,
}

/// Everything clients know of one life of the server.
#[derive(Clone, Debug, Default)]
pub struct Record {
    pub requests: Vec<Request>,
    /// Changes a watcher was told of while it all went on.
    pub seen: Vec<Change>,
}

impl Record {
    /// Requests that were answered.
    #[must_use]
    pub fn answered(&self) -> usize {
        self.requests.iter().filter(|r| matches!(r.end, End::Answered(_))).count()
    }
}

/// How much to do.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub clients: usize,
    /// Requests of each client.
    pub requests: u64,
    pub keys: usize,
    /// Bytes of the largest value.
    pub value: usize,
    /// Numbers lives of a server, so that values and leases stay unique.
    pub life: u64,
    /// Compactions may go up to this revision; 0 for none.
    pub compact_to: i64,
}

/// A client connected to one server.
#[derive(Clone)]
pub struct Client {
    pub kv: pb::kv_client::KvClient<Channel>,
    pub lease: pb::lease_client::LeaseClient<Channel>,
    pub watch: pb::watch_client::WatchClient<Channel>,
    pub maintenance: pb::maintenance_client::MaintenanceClient<Channel>,
}

/// No answer is too large for a test.
const LARGE: usize = 1 << 30;

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn connect(endpoint: &str) -> Result<Self, String> {
        let endpoint = tonic::transport::Endpoint::from_shared(endpoint.to_owned()).map_err(|e| e.to_string())?;
        let channel = endpoint.connect_timeout(DEADLINE).connect().await.map_err(|e| format!("cannot connect: {e}"))?;
        Ok(Self {
            kv: pb::kv_client::KvClient::new(channel.clone()).max_decoding_message_size(LARGE),
            lease: pb::lease_client::LeaseClient::new(channel.clone()),
            watch: pb::watch_client::WatchClient::new(channel.clone()).max_decoding_message_size(LARGE),
            maintenance: pb::maintenance_client::MaintenanceClient::new(channel),
        })
    }

    /// Asks once.
    pub async fn ask(&mut self, ask: &Ask) -> End {
        match tokio::time::timeout(DEADLINE, self.send(ask)).await {
            Ok(Ok(answer)) => End::Answered(answer),
            Ok(Err(status)) => match status.code() {
                Code::NotFound | Code::InvalidArgument | Code::OutOfRange | Code::FailedPrecondition | Code::ResourceExhausted => {
                    End::Refused(status.to_string())
                }
                _ => End::Unanswered(status.to_string()),
            },
            Err(_) => End::Unanswered("no answer in time".to_owned()),
        }
    }

    async fn send(&mut self, ask: &Ask) -> Result<Answer, tonic::Status> {
        let answer =
            |header: Option<pb::ResponseHeader>| Answer { revision: header.map_or(0, |h| h.revision), ..Answer::default() };
        Ok(match ask {
            Ask::Put { key, value, lease } => answer(self.kv.put(put(key, value, *lease)).await?.into_inner().header),
            Ask::Delete { key } => {
                let response =
                    self.kv.delete_range(pb::DeleteRangeRequest { key: key.clone(), ..Default::default() }).await?.into_inner();
                Answer { deleted: response.deleted, ..answer(response.header) }
            }
            Ask::Txn { guard, other, value } => {
                let response = self.kv.txn(txn(guard, other, value)).await?.into_inner();
                Answer { succeeded: response.succeeded, ..answer(response.header) }
            }
            Ask::Grant { id } => {
                answer(self.lease.lease_grant(pb::LeaseGrantRequest { id: *id, ttl: LEASE_TTL }).await?.into_inner().header)
            }
            Ask::Revoke { id } => answer(self.lease.lease_revoke(pb::LeaseRevokeRequest { id: *id }).await?.into_inner().header),
            Ask::Compact { revision } => {
                answer(self.kv.compact(pb::CompactionRequest { revision: *revision, physical: false }).await?.into_inner().header)
            }
            Ask::Read { key } => {
                let response = self.kv.range(pb::RangeRequest { key: key.clone(), ..Default::default() }).await?.into_inner();
                let pair = match response.kvs.first() {
                    Some(raw) => Some(raw.decode().map_err(|e| tonic::Status::internal(e.to_string()))?),
                    None => None,
                };
                Answer { pair, ..answer(response.header) }
            }
        })
    }
}

fn put(key: &Bytes, value: &Bytes, lease: i64) -> pb::PutRequest {
    pb::PutRequest { key: key.clone(), value: value.clone(), lease, ..Default::default() }
}

/// The two values a transaction writes, told apart by their last byte.
#[must_use]
pub fn txn_values(value: &Bytes) -> (Bytes, Bytes) {
    let with = |byte: u8| Bytes::from([value.as_ref(), &[byte]].concat());
    (with(b'g'), with(b'o'))
}

fn txn(guard: &Bytes, other: &Bytes, value: &Bytes) -> pb::TxnRequest {
    let (for_guard, for_other) = txn_values(value);
    let op = |key, value: &Bytes| pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put(key, value, 0))) };
    let exists = pb::Compare {
        key: guard.clone(),
        target: pb::compare::CompareTarget::Version as i32,
        result: pb::compare::CompareResult::Greater as i32,
        target_union: Some(pb::compare::TargetUnion::Version(0)),
        ..Default::default()
    };
    pb::TxnRequest {
        compare: vec![exists],
        success: vec![op(guard, &for_guard), op(other, &for_other)],
        failure: vec![op(other, &for_other)],
    }
}

/// Runs all clients and a watcher until the work is done or the server is gone.
pub async fn run(endpoint: &str, load: Load, seed: u64) -> Record {
    let Ok(client) = Client::connect(endpoint).await else { return Record::default() };
    let clock = Arc::new(AtomicU64::new(1));
    let compacted = Arc::new(AtomicI64::new(0));
    let (over, is_over) = tokio::sync::watch::channel(());
    let watcher = tokio::spawn(watch(client, is_over));
    let clients: Vec<_> = (0..load.clients)
        .map(|number| tokio::spawn(one(endpoint.to_owned(), number, load, seed, clock.clone(), compacted.clone())))
        .collect();
    let mut record = Record::default();
    for client in clients {
        record.requests.extend(client.await.expect("a client does not panic"));
    }
    drop(over);
    record.seen = watcher.await.expect("the watcher does not panic");
    record
}

async fn one(
    endpoint: String,
    number: usize,
    load: Load,
    seed: u64,
    clock: Arc<AtomicU64>,
    compacted: Arc<AtomicI64>,
) -> Vec<Request> {
    let mut requests = Vec::new();
    let Ok(mut client) = Client::connect(&endpoint).await else { return requests };
    let mut chance = crate::chance(seed, &format!("client {number} of life {}", load.life));
    let mut leases: Vec<i64> = Vec::new();
    for turn in 0..load.requests {
        let ask = next(&mut chance, number, turn, &load, &mut leases, &compacted);
        let sent = clock.fetch_add(1, Ordering::SeqCst);
        let end = client.ask(&ask).await;
        let done = clock.fetch_add(1, Ordering::SeqCst);
        if let (Ask::Grant { id }, End::Answered(_)) = (&ask, &end) {
            leases.push(*id);
        }
        let gone = matches!(end, End::Unanswered(_));
        requests.push(Request { client: number, sent, done, ask, end });
        if gone {
            return requests;
        }
    }
    requests
}

fn next(chance: &mut Chance, number: usize, turn: u64, load: &Load, leases: &mut Vec<i64>, compacted: &AtomicI64) -> Ask {
    let mut key = || Bytes::from(format!("key-{:03}", chance.random_range(0..load.keys)));
    let (key, other) = (key(), key());
    let mut value = format!("life-{}-client-{number}-turn-{turn}-", load.life).into_bytes();
    let size = chance.random_range(0..=load.value);
    // Half of the bytes are chances, so that compression does not make the rows small.
    value.extend((0..size).map(|i| if i % 2 == 0 { chance.random::<u8>() } else { b'.' }));
    let value = Bytes::from(value);
    match chance.random_range(0..100) {
        0..45 => Ask::Put { key, value, lease: 0 },
        45..55 => match leases.last() {
            Some(lease) => Ask::Put { key, value, lease: *lease },
            None => Ask::Put { key, value, lease: 0 },
        },
        55..67 => Ask::Delete { key },
        67..82 if key != other => Ask::Txn { guard: key, other, value },
        67..82 => Ask::Read { key },
        82..86 => Ask::Grant { id: (((load.life + 1) << 32) | ((number as u64) << 20) | (turn + 1)) as i64 },
        86..88 if !leases.is_empty() => Ask::Revoke { id: leases.remove(chance.random_range(0..leases.len())) },
        88..90 if number == 0 && load.compact_to > 0 => {
            let before = compacted.load(Ordering::Relaxed);
            let revision = (before.max(load.compact_to / 2) + 1).min(load.compact_to);
            compacted.store(revision, Ordering::Relaxed);
            Ask::Compact { revision }
        }
        _ => Ask::Read { key },
    }
}

/// Follows all keys until told that it is over or the stream ends.
async fn watch(mut client: Client, mut over: tokio::sync::watch::Receiver<()>) -> Vec<Change> {
    let mut seen = Vec::new();
    let create =
        pb::WatchCreateRequest { key: Bytes::from_static(&[0]), range_end: Bytes::from_static(&[0]), ..Default::default() };
    let request = pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) };
    let (asks, stream) = tokio::sync::mpsc::channel(1);
    if asks.send(request).await.is_err() {
        return seen;
    }
    let Ok(response) = client.watch.watch(tokio_stream::wrappers::ReceiverStream::new(stream)).await else { return seen };
    let mut responses = response.into_inner();
    loop {
        tokio::select! {
            biased;
            message = responses.message() => match message {
                Ok(Some(message)) => seen.extend(message.events.iter().filter_map(change)),
                Ok(None) | Err(_) => return seen,
            },
            _ = over.changed() => return seen,
        }
    }
}

/// What an event says; `None` for one that cannot be read.
#[must_use]
pub fn change(event: &quorate_proto::mvccpb::Event) -> Option<Change> {
    let pair = event.kv.as_ref()?.decode().ok()?;
    Some(Change { put: event.r#type == 0, pair })
}
