//! `check perf`: writes at a fixed rate for a minute and says whether the cluster kept up.
//!
//! In: one of four loads. Out: throughput, slowest request and deviation, each with PASS or FAIL. The keys that it wrote are
//! deleted afterwards, also when it is interrupted.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_client::proto::etcdserverpb::{CompactionRequest, DefragmentRequest, DeleteRangeRequest, PutRequest, RangeRequest};
use quorate_client::{Client, Config, prefix_end};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::lock::interrupted;
use crate::context::{Context, client};
use crate::failure::{self, Done};
use crate::flags::{Flag, Kind, flag};
use crate::notation::quote;
use crate::print;

/// Flags of `check perf`.
pub const PERF_FLAGS: &[Flag] = &[
    flag("load", Kind::Text, "s(small), m(medium), l(large) or xl(xLarge)").or("s"),
    flag("prefix", Kind::Text, "where to write").or("/etcdctl-check-perf/"),
    flag("auto-compact", Kind::Bool, "compact afterwards"),
    flag("auto-defrag", Kind::Bool, "defragment afterwards"),
];

const SECONDS: u64 = 60;
const KEY_BYTES: usize = 256;
const VALUE_BYTES: usize = 1024;
/// Slower than this is a failure.
const SLOWEST: f64 = 0.5;
/// More deviation than this is a failure.
const DEVIATION: f64 = 0.1;
/// Limit for cleaning up.
const CLEANUP: Duration = Duration::from_secs(30);

/// A load: writes a second, and how many clients share them.
struct Load {
    rate: u32,
    clients: usize,
}

fn load(name: &str) -> Option<Load> {
    let (rate, clients) = match name {
        "s" | "small" => (150, 50),
        "m" | "medium" => (1000, 200),
        "l" | "large" => (8000, 500),
        "xl" | "xLarge" => (15000, 1000),
        _ => return None,
    };
    Some(Load { rate, clients })
}

/// `check perf`.
pub async fn perf(mut cx: Context) -> Done {
    let name = cx.flags.text("load");
    let load = load(name).ok_or_else(|| failure::bad_feature(format!("unknown load option {name}")))?;
    let prefix = Bytes::copy_from_slice(cx.flags.text("prefix").as_bytes());
    let (config, _) = cx.open()?;
    let first = client(config.clone()).await?;
    let range_end = Bytes::from(prefix_end(&prefix));
    let there = first
        .timeout(None)
        .range(RangeRequest { key: prefix.clone(), range_end: range_end.clone(), limit: 1, ..RangeRequest::default() })
        .await?;
    if !there.kvs.is_empty() {
        let text = String::from_utf8_lossy(&prefix).into_owned();
        let quoted = quote(&prefix);
        return Err(failure::invalid_input(format!(
            "prefix {quoted} has keys. Delete with '{} del --prefix {text}' first",
            cx.program
        )));
    }
    let measured = tokio::select! {
        measured = measure(&config, &load, &prefix) => Some(measured?),
        () = interrupted() => None,
    };
    clean(&first, prefix, range_end, cx.flags.bool("auto-compact")).await?;
    let Some(measured) = measured else {
        return Err(failure::interrupted("interrupted"));
    };
    if cx.flags.bool("auto-defrag") {
        for endpoint in &config.endpoints {
            print::line(format!("Defragmenting {}", quote(endpoint.as_bytes())))?;
            client(Config { endpoints: vec![endpoint.clone()], timeout: Some(CLEANUP), ..config.clone() })
                .await?
                .defragment(DefragmentRequest {})
                .await?;
            print::line(format!("Defragmented {}", quote(endpoint.as_bytes())))?;
        }
    }
    report(&measured, &load)
}

/// What was measured.
#[derive(Default)]
struct Measured {
    /// Seconds that each successful write took.
    times: Vec<f64>,
    /// How often each error came.
    errors: BTreeMap<String, usize>,
    /// From the first write to the last answer.
    seconds: f64,
}

async fn measure(config: &Config, load: &Load, prefix: &Bytes) -> Done<Measured> {
    let (requests, queue) = mpsc::channel::<PutRequest>(load.clients);
    let queue = Arc::new(Mutex::new(queue));
    let mut workers = JoinSet::new();
    for _ in 0..load.clients {
        let client = client(Config { timeout: None, ..config.clone() }).await?;
        workers.spawn(work(client, queue.clone()));
    }
    let start = Instant::now();
    let mut ticks = interval(Duration::from_secs(1) / load.rate);
    // A slow cluster holds the writer back; what it missed then is made up for, so that the rate stays what it should be.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let value = Bytes::from(vec![0; VALUE_BYTES]);
    let mut shown = 0;
    while start.elapsed() < Duration::from_secs(SECONDS) {
        ticks.tick().await;
        let mut key = [prefix.as_ref(), &rand::random::<[u8; 8]>()].concat();
        key.resize(prefix.len() + KEY_BYTES, 0);
        let put = PutRequest { key: key.into(), value: value.clone(), ..PutRequest::default() };
        if requests.send(put).await.is_err() {
            break;
        }
        let seconds = start.elapsed().as_secs();
        if seconds > shown && std::io::stderr().is_terminal() {
            eprint!("\r{seconds} / {SECONDS} s");
            shown = seconds;
        }
    }
    drop(requests);
    let mut measured = Measured::default();
    for part in workers.join_all().await {
        measured.times.extend(part.times);
        for (error, count) in part.errors {
            *measured.errors.entry(error).or_default() += count;
        }
    }
    measured.seconds = start.elapsed().as_secs_f64();
    if shown > 0 {
        eprintln!();
    }
    Ok(measured)
}

async fn work(client: Client, queue: Arc<Mutex<mpsc::Receiver<PutRequest>>>) -> Measured {
    let mut measured = Measured::default();
    loop {
        let next = queue.lock().await.recv().await;
        let Some(request) = next else {
            return measured;
        };
        let start = Instant::now();
        match client.put(request).await {
            Ok(_) => measured.times.push(start.elapsed().as_secs_f64()),
            Err(error) => *measured.errors.entry(error.to_string()).or_default() += 1,
        }
    }
}

async fn clean(client: &Client, key: Bytes, range_end: Bytes, compact: bool) -> Done {
    let client = client.timeout(Some(CLEANUP));
    match client.delete_range(DeleteRangeRequest { key, range_end, prev_kv: false }).await {
        Err(error) => print::line(format!("FAIL: Cleanup failed during key deletion: ERROR({error})")),
        Ok(answer) if compact => {
            let revision = answer.header.map_or(0, |header| header.revision);
            print::line(format!("Compacting with revision {revision}"))?;
            client.compact(CompactionRequest { revision, physical: true }).await?;
            print::line(format!("Compacted with revision {revision}"))
        }
        Ok(_) => Ok(()),
    }
}

fn report(measured: &Measured, load: &Load) -> Done {
    let count = measured.times.len() as f64;
    let rate = count / measured.seconds;
    let slowest = measured.times.iter().copied().fold(0.0, f64::max);
    let mean = measured.times.iter().sum::<f64>() / count.max(1.0);
    let deviation = (measured.times.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / count.max(1.0)).sqrt();
    let mut passed = measured.errors.is_empty();
    if !passed {
        print::line("FAIL: too many errors")?;
        for (error, count) in &measured.errors {
            print::line(format!("FAIL: ERROR({error}) -> {count}"))?;
        }
    }
    let mut say = |good: bool, yes: String, no: String| {
        passed &= good;
        print::line(if good { yes } else { no })
    };
    let shown = rate as u64 + 1;
    say(
        rate / f64::from(load.rate) > 0.9,
        format!("PASS: Throughput is {shown} writes/s"),
        format!("FAIL: Throughput too low: {shown} writes/s"),
    )?;
    say(
        slowest <= SLOWEST,
        format!("PASS: Slowest request took {slowest:.6}s"),
        format!("Slowest request took too long: {slowest:.6}s"),
    )?;
    say(deviation <= DEVIATION, format!("PASS: Stddev is {deviation:.6}s"), format!("Stddev too high: {deviation:.6}s"))?;
    match passed {
        true => print::line("PASS"),
        false => {
            print::line("FAIL")?;
            Err(failure::silent(1))
        }
    }
}
