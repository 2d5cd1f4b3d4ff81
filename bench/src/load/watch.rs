//! Fan-out: many watchers on one prefix, puts at a rate, every event counted when it arrives.
//!
//! Each connection carries one watch stream with its share of the watchers, as client libraries do it. A put's number lies in its
//! value, so an event's latency is from the put's due time to the event's arrival; an operation is one event at one watcher.
//! The run ends when every watcher has had every event, or when none came for some seconds: what is missing counts as errors.

use super::{Plan, Probe, Tally, Tickets, bounded_key};
use crate::{Failure, keys, summary::Report};
use bytes::{Bytes, BytesMut};
use quorate_proto::etcdserverpb::{self as pb, kv_client::KvClient, watch_client::WatchClient, watch_request::RequestUnion};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// No event for this long: what is missing will not come.
const PATIENCE: Duration = Duration::from_secs(10);
/// Puts under way at once; more would measure the writers.
const WRITERS: usize = 32;

struct Shared {
    plan: Arc<Plan>,
    tickets: Arc<Tickets>,
    /// Events still to come, over all watchers.
    missing: AtomicI64,
    complete: Notify,
}

pub fn run(plan: &Plan, probe: &mut dyn Probe) -> Result<Report, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(fan_out(Arc::new(plan.clone()), probe))
}

async fn fan_out(plan: Arc<Plan>, probe: &mut dyn Probe) -> Result<Report, Failure> {
    let tickets = Arc::new(Tickets::new(&plan));
    let missing = AtomicI64::new((plan.ops * plan.watchers as u64) as i64);
    let shared = Arc::new(Shared { plan: plan.clone(), tickets: tickets.clone(), missing, complete: Notify::new() });
    let mut streams = Vec::new();
    for c in 0..plan.connections.min(plan.watchers) {
        let share = (c..plan.watchers).step_by(plan.connections).count();
        streams.push(open(&plan, c, share).await?);
    }
    let mut writers = Vec::new();
    for w in 0..WRITERS.min(plan.clients) {
        writers.push(KvClient::new(if w < 2 { plan.link.connect(w).await? } else { break }));
    }
    probe.begin()?;
    tickets.start();
    let began = Instant::now();
    let readers: Vec<_> = streams.into_iter().map(|(ask, s)| tokio::spawn(read(shared.clone(), ask, s))).collect();
    let puts: Vec<_> =
        (0..WRITERS.min(plan.clients)).map(|w| tokio::spawn(write(shared.clone(), writers[w % writers.len()].clone()))).collect();
    let mut tally = Tally::default();
    for p in puts {
        tally.merge(p.await?);
    }
    loop {
        let before = shared.missing.load(Ordering::Relaxed);
        if before <= 0 {
            break;
        }
        let waited = tokio::time::timeout(PATIENCE, shared.complete.notified()).await;
        if waited.is_err() && shared.missing.load(Ordering::Relaxed) == before {
            break;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    probe.end()?;
    let left = shared.missing.load(Ordering::Relaxed);
    for r in readers {
        if left > 0 {
            r.abort();
        }
        match r.await {
            Ok(t) => tally.merge(t),
            Err(_) => tally.failed("a watcher missed events"),
        }
    }
    if left != 0 {
        tally.errors += left.unsigned_abs();
        tally.first_error.get_or_insert(format!("{left} events did not arrive"));
    }
    Ok(tally.report(plan.workload, seconds))
}

type Stream = (mpsc::Sender<pb::WatchRequest>, Streaming<pb::WatchResponse>);

/// One connection, one stream, `share` watchers on it, all acknowledged.
async fn open(plan: &Plan, connection: usize, share: usize) -> Result<Stream, Failure> {
    let mut client = WatchClient::new(plan.link.connect(connection).await?).max_decoding_message_size(usize::MAX);
    let (ask, requests) = mpsc::channel(16);
    let key = Bytes::from(plan.prefix.clone());
    let create = pb::WatchCreateRequest { range_end: keys::prefix_end(&key), key, ..Default::default() };
    let request = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    ask.send(request.clone()).await?;
    let mut answers = client.watch(ReceiverStream::new(requests)).await?.into_inner();
    for i in 0..share {
        if i > 0 {
            ask.send(request.clone()).await?;
        }
        let answer = answers.message().await?.ok_or("the watch stream ended at once")?;
        if !answer.created || answer.canceled {
            return Err(format!("a watcher was refused: {}", answer.cancel_reason).into());
        }
    }
    Ok((ask, answers))
}

/// Counts events until the last has come to whoever it was for. The sender is held so that the stream stays open.
async fn read(shared: Arc<Shared>, _ask: mpsc::Sender<pb::WatchRequest>, mut answers: Streaming<pb::WatchResponse>) -> Tally {
    let mut tally = Tally::default();
    let began = shared.tickets.began();
    let own = shared.plan.ops * ((shared.plan.watchers / shared.plan.connections.min(shared.plan.watchers)) as u64);
    tally.latencies.reserve(own as usize);
    loop {
        let answer = tokio::select! {
            answer = answers.message() => answer,
            () = shared.complete.notified() => break,
        };
        match answer {
            Ok(Some(answer)) => {
                let now = Instant::now();
                for event in &answer.events {
                    let number = event.kv.as_ref().and_then(number_of).unwrap_or(0);
                    let due = began
                        + Duration::from_secs_f64(if shared.plan.rate > 0.0 { number as f64 / shared.plan.rate } else { 0.0 });
                    tally.latencies.push(now.saturating_duration_since(due).as_micros().min(u128::from(u32::MAX)) as u32);
                }
                let events = answer.events.len() as i64;
                if events > 0 && shared.missing.fetch_sub(events, Ordering::Relaxed) <= events {
                    shared.complete.notify_waiters();
                    shared.complete.notify_one();
                    break;
                }
            }
            Ok(None) => {
                tally.failed("the watch stream ended");
                break;
            }
            Err(e) => {
                tally.failed(e);
                break;
            }
        }
    }
    tally
}

/// Puts until tickets are out; the puts are not operations of the report.
async fn write(shared: Arc<Shared>, mut kv: KvClient<tonic::transport::Channel>) -> Tally {
    let mut tally = Tally::default();
    let began = shared.tickets.began();
    while let Some(ticket) = shared.tickets.take(began).await {
        let mut value = BytesMut::from(&keys::value(ticket.number, shared.plan.value_size.max(8))[..]);
        value[..8].copy_from_slice(&ticket.number.to_le_bytes());
        let key = bounded_key(&shared.plan, ticket.number % shared.plan.key_space);
        if let Err(e) = kv.put(pb::PutRequest { key, value: value.freeze(), ..Default::default() }).await {
            tally.failed(e);
        }
    }
    tally
}

fn number_of(kv: &quorate_proto::RawKv) -> Option<u64> {
    let value = kv.decode().ok()?.value;
    Some(u64::from_le_bytes(value.get(..8)?.try_into().ok()?))
}
