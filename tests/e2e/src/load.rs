//! The clients: writers with keys of their own, one shared counter, one watch, all the time that the cluster is worked on.
//!
//! In: a way to the cluster. Out: lines of the history. It decides nothing but what a client can see at once: a read that
//! misses an acknowledged write, and a revision that goes back.
//!
//! Each writer asks one member until a call fails, then the next: a member that hangs costs one time limit, as it would with
//! any client that has several endpoints.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quorate_client::proto::etcdserverpb as pb;
use quorate_client::proto::mvccpb::event::EventType;
use quorate_client::{Client, Code, Config, Error, Pem, TlsConfig, prefix_end};
use tokio::time::{Instant, sleep, sleep_until};

use crate::history::{End, Line, Notes, now};

/// Every key of a run lies under this.
pub const PREFIX: &str = "/e2e/";
/// The key that all counting goes through.
pub const COUNTER: &str = "/e2e/counter";
/// Where the writers' keys lie.
pub const WRITES: &str = "/e2e/w/";
/// Limit of each call.
const CALL: Duration = Duration::from_secs(2);
/// Pause after a failed call.
const PAUSE: Duration = Duration::from_millis(50);
/// A writer reads back one of this many of its writes.
const READ_BACK: u64 = 8;

/// How to reach the cluster.
#[derive(Debug, Clone, clap::Args)]
pub struct Way {
    /// Members, or a Service, as URLs.
    #[arg(long, value_delimiter = ',', required = true)]
    pub endpoints: Vec<String>,
    /// The authority that signed the members' certificates.
    #[arg(long)]
    pub cacert: Option<PathBuf>,
    /// Own certificate.
    #[arg(long, requires = "key")]
    pub cert: Option<PathBuf>,
    /// Its key.
    #[arg(long)]
    pub key: Option<PathBuf>,
}

impl Way {
    /// A client for each endpoint, in the order given.
    pub fn clients(&self) -> Result<Vec<Client>, Error> {
        self.endpoints.iter().map(|endpoint| self.client(vec![endpoint.clone()])).collect()
    }

    /// A client that uses all endpoints.
    pub fn any(&self) -> Result<Client, Error> {
        self.client(self.endpoints.clone())
    }

    fn client(&self, endpoints: Vec<String>) -> Result<Client, Error> {
        let identity = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => Some((Pem::File(cert.clone()), Pem::File(key.clone()))),
            _ => None,
        };
        let authorities = self.cacert.clone().map(Pem::File);
        let tls =
            (authorities.is_some() || identity.is_some()).then(|| TlsConfig { authorities, identity, ..TlsConfig::default() });
        Client::new(Config { tls, dial_timeout: Duration::from_secs(1), timeout: Some(CALL), ..Config::new(endpoints) })
    }
}

/// The key of a writer's write.
pub fn key_of(writer: u32, number: u64) -> String {
    format!("{WRITES}{writer}/{number:010}")
}

/// The writer and the number that a key names.
pub fn parse_key(key: &[u8]) -> Option<(u32, u64)> {
    let (writer, number) = std::str::from_utf8(key).ok()?.strip_prefix(WRITES)?.split_once('/')?;
    Some((writer.parse().ok()?, number.parse().ok()?))
}

/// Runs `writers` writers with one write each `period`, the counter and the watch, until `stop` resolves. What was begun by then comes
/// to its end and is noted: a step that nobody noted would be held against the cluster.
pub async fn run(way: Way, writers: u32, period: Duration, notes: Notes, stop: impl Future<Output = ()>) -> Result<(), Error> {
    let (mut tasks, over) = (tokio::task::JoinSet::new(), Arc::<AtomicBool>::default());
    let from = first_revision(&way.any()?).await;
    for writer in 0..writers {
        tasks.spawn(write(Turns::new(&way, writer as usize)?, writer, period, notes.clone(), over.clone()));
    }
    tasks.spawn(count(Turns::new(&way, 0)?, period * 4, notes.clone(), over.clone()));
    let watch = tokio::spawn(watch(way.any()?, from, notes.clone()));
    stop.await;
    over.store(true, Ordering::Relaxed);
    while tasks.join_next().await.is_some() {}
    watch.abort();
    Ok(())
}

/// Where the watch starts: after what is there when the run begins. Waits until the cluster answers.
async fn first_revision(client: &Client) -> i64 {
    loop {
        match client.range(pb::RangeRequest { key: COUNTER.into(), ..Default::default() }).await {
            Ok(answer) => return answer.header.map_or(0, |header| header.revision) + 1,
            Err(error) => {
                eprintln!("waiting for the cluster: {error}");
                sleep(Duration::from_millis(500)).await;
            }
        }
    }
}

/// One client for each endpoint, used until it fails.
struct Turns {
    clients: Vec<Client>,
    turn: usize,
}

impl Turns {
    fn new(way: &Way, turn: usize) -> Result<Self, Error> {
        Ok(Self { clients: way.clients()?, turn })
    }

    fn client(&self) -> &Client {
        &self.clients[self.turn % self.clients.len()]
    }

    /// What a failed call means, and on to the next endpoint. The log says which member failed, and how.
    async fn failed(&mut self, error: &Error) -> End {
        eprintln!("{} {}: {error}", now(), self.client().endpoints().next().unwrap_or_default());
        self.turn += 1;
        sleep(PAUSE).await;
        end_of(error)
    }
}

/// Refusals after which nothing can have happened, by etcd's rules; everything else may have happened.
fn end_of(error: &Error) -> End {
    match error {
        Error::Connect(_) | Error::Config(_) => End::Refused,
        Error::Server {
            code: Code::ResourceExhausted | Code::InvalidArgument | Code::PermissionDenied | Code::Unauthenticated,
            ..
        } => End::Refused,
        _ => End::Unknown,
    }
}

async fn write(mut turns: Turns, writer: u32, period: Duration, notes: Notes, over: Arc<AtomicBool>) {
    let (mut number, mut revision, mut next) = (0, 0, Instant::now());
    while !over.load(Ordering::Relaxed) {
        next = (next + period).max(Instant::now());
        sleep_until(next).await;
        number += 1;
        let key = key_of(writer, number);
        let put = pb::PutRequest { key: key.clone().into(), value: value_of(writer, number).into(), ..Default::default() };
        let answer = turns.client().put(put).await;
        let at = now();
        match answer {
            Ok(answer) => {
                let acknowledged = answer.header.map_or(0, |header| header.revision);
                notes.note(Line::Write { at, writer, number, end: End::Ok, revision: acknowledged }).await;
                if acknowledged <= revision {
                    notes.violation(format!("write {key} got revision {acknowledged} after {revision}")).await;
                }
                revision = acknowledged;
                if number % READ_BACK == 0 {
                    read_back(&mut turns, writer, number, &mut revision, &notes).await;
                }
            }
            Err(error) => {
                let end = turns.failed(&error).await;
                notes.note(Line::Write { at, writer, number, end, revision: 0 }).await;
            }
        }
    }
}

/// An acknowledged write must be in every later linearizable read, on whichever member.
async fn read_back(turns: &mut Turns, writer: u32, number: u64, revision: &mut i64, notes: &Notes) {
    let key = key_of(writer, number);
    match turns.client().range(pb::RangeRequest { key: key.clone().into(), ..Default::default() }).await {
        Ok(answer) => {
            let seen = answer.header.as_ref().map_or(0, |header| header.revision);
            let value = answer.kvs.first().and_then(|pair| pair.decode().ok()).map(|pair| pair.value);
            if value.as_deref() != Some(value_of(writer, number).as_bytes()) {
                notes.violation(format!("a read of {key} after its acknowledgement gave {value:?}")).await;
            }
            if seen < *revision {
                notes.violation(format!("a read of {key} has revision {seen}, its write {revision}")).await;
            }
            *revision = seen.max(*revision);
        }
        Err(error) => {
            turns.failed(&error).await;
        }
    }
}

/// What a writer writes under a key: enough to be told from anything else.
pub fn value_of(writer: u32, number: u64) -> String {
    format!("{writer}:{number}:{:0>200}", number)
}

/// Adds one to the counter again and again, each time only if nobody else did: no step may be lost, none may count twice.
async fn count(mut turns: Turns, period: Duration, notes: Notes, over: Arc<AtomicBool>) {
    let mut next = Instant::now();
    while !over.load(Ordering::Relaxed) {
        next = (next + period).max(Instant::now());
        sleep_until(next).await;
        let (value, revision) = match turns.client().range(pb::RangeRequest { key: COUNTER.into(), ..Default::default() }).await {
            Ok(answer) => answer
                .kvs
                .first()
                .and_then(|pair| pair.decode().ok())
                .map_or((0, 0), |pair| (number_in(&pair.value), pair.mod_revision)),
            Err(error) => {
                turns.failed(&error).await;
                continue;
            }
        };
        let step = pb::TxnRequest {
            compare: vec![pb::Compare {
                result: pb::compare::CompareResult::Equal as i32,
                target: pb::compare::CompareTarget::Mod as i32,
                key: COUNTER.into(),
                target_union: Some(pb::compare::TargetUnion::ModRevision(revision)),
                ..Default::default()
            }],
            success: vec![pb::RequestOp {
                request: Some(pb::request_op::Request::RequestPut(pb::PutRequest {
                    key: COUNTER.into(),
                    value: (value + 1).to_string().into(),
                    ..Default::default()
                })),
            }],
            failure: Vec::new(),
        };
        let answer = turns.client().txn(step).await;
        let (at, value) = (now(), value + 1);
        let end = match answer {
            Ok(answer) if answer.succeeded => End::Ok,
            // The only writer of this key lost a race: against an earlier step of its own, whose end it never learned.
            Ok(_) => End::Refused,
            Err(error) => turns.failed(&error).await,
        };
        notes.note(Line::Count { at, value, end }).await;
    }
}

/// The number in the counter's value.
pub fn number_in(value: &[u8]) -> u64 {
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// Follows all writers' keys. Each write must come once; events come by rising revision.
async fn watch(client: Client, from: i64, notes: Notes) {
    let request = |start_revision| pb::WatchCreateRequest {
        key: WRITES.into(),
        range_end: bytes::Bytes::from(prefix_end(WRITES.as_bytes())),
        start_revision,
        progress_notify: true,
        ..Default::default()
    };
    let mut last = from - 1;
    loop {
        let mut watcher = client.watcher(request(last + 1));
        let error = loop {
            let answer = match watcher.next().await {
                Ok(answer) if answer.canceled => break format!("canceled: {}", answer.cancel_reason),
                Ok(answer) => answer,
                Err(error) => break error.to_string(),
            };
            for event in answer.events {
                let Some(pair) = event.kv.as_ref().and_then(|pair| pair.decode().ok()) else { continue };
                if event.r#type == EventType::Delete as i32 {
                    notes.violation(format!("a watch says that {:?} was deleted, which nobody did", pair.key)).await;
                }
                if pair.mod_revision < last {
                    notes.violation(format!("a watch went back from revision {last} to {}", pair.mod_revision)).await;
                }
                last = last.max(pair.mod_revision);
                if let Some((writer, number)) = parse_key(&pair.key) {
                    notes.note(Line::Seen { writer, number, revision: pair.mod_revision }).await;
                }
            }
        };
        // Nobody compacts during a run, so a watch never has a reason to end for good.
        eprintln!("the watch ended at revision {last} and starts again: {error}");
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_names_its_write() {
        assert_eq!(parse_key(key_of(3, 42).as_bytes()), Some((3, 42)));
        assert_eq!(parse_key(COUNTER.as_bytes()), None);
        assert!(key_of(0, 9) < key_of(0, 10));
    }

    #[test]
    fn only_what_cannot_have_happened_counts_as_refused() {
        let server = |code| Error::Server { code, message: String::new() };
        assert_eq!(end_of(&Error::Connect(String::new())), End::Refused);
        assert_eq!(end_of(&server(Code::ResourceExhausted)), End::Refused);
        for error in [Error::Timeout, Error::Closed, server(Code::Unavailable), server(Code::Unknown)] {
            assert_eq!(end_of(&error), End::Unknown);
        }
    }
}
