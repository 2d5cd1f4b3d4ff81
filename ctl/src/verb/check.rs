//! `check perf` writes at a fixed rate for a minute and says whether the cluster kept up; `check datascale` writes as fast as it can
//! and says what memory the first endpoint's server took for it.
//!
//! In: one of four loads. Out: what was measured, with PASS or FAIL. The keys that were written are deleted afterwards, also when the
//! command is interrupted.

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

/// Flags of `check datascale`.
pub const DATASCALE_FLAGS: &[Flag] = &[
    flag("load", Kind::Text, "s(small), m(medium), l(large) or xl(xLarge)").or("s"),
    flag("prefix", Kind::Text, "where to write").or("/etcdctl-check-datascale/"),
    flag("auto-compact", Kind::Bool, "compact afterwards"),
    flag("auto-defrag", Kind::Bool, "defragment afterwards"),
];

/// Seconds that `check perf` writes.
const SECONDS: u64 = 60;
/// Slower than this is a failure.
const SLOWEST: f64 = 0.5;
/// More deviation than this is a failure.
const DEVIATION: f64 = 0.1;
/// Limit for cleaning up.
const CLEANUP: Duration = Duration::from_secs(30);

/// What is written, and by how many clients.
#[derive(Clone, Copy)]
struct Load {
    clients: usize,
    key_bytes: usize,
    value_bytes: usize,
    amount: Amount,
}

#[derive(Clone, Copy)]
enum Amount {
    /// Writes a second, for [`SECONDS`].
    Rate(u32),
    /// Writes, as fast as they are answered.
    Count(u64),
}

/// The load that a flag names: `of` gives clients and a number for small, medium, large and extra large.
fn load(name: &str, of: [(usize, u32); 4]) -> Done<(usize, u32)> {
    match name {
        "s" | "small" => Ok(of[0]),
        "m" | "medium" => Ok(of[1]),
        "l" | "large" => Ok(of[2]),
        "xl" | "xLarge" => Ok(of[3]),
        _ => Err(failure::bad_feature(format!("unknown load option {name}"))),
    }
}

/// `check perf`.
pub async fn perf(mut cx: Context) -> Done {
    let (clients, rate) = load(cx.flags.text("load"), [(50, 150), (200, 1000), (500, 8000), (1000, 15000)])?;
    let ground = Ground::open(&mut cx).await?;
    let load = Load { clients, key_bytes: 256, value_bytes: 1024, amount: Amount::Rate(rate) };
    let measured = ground.measure(load).await;
    ground.clean(&cx).await?;
    report(&measured?, rate)
}

/// `check datascale`.
pub async fn datascale(mut cx: Context) -> Done {
    let (clients, count) = load(cx.flags.text("load"), [(50, 10_000), (200, 100_000), (500, 1_000_000), (1000, 3_000_000)])?;
    let ground = Ground::open(&mut cx).await?;
    let load = Load { clients, key_bytes: 512, value_bytes: 512, amount: Amount::Count(count.into()) };
    let before = ground.resident("before").await?;
    print::line(format!(
        "Start data scale check for work load [{count} key-value pairs, {} bytes per key-value, {clients} concurrent clients].",
        load.key_bytes + load.value_bytes
    ))?;
    let measured = ground.measure(load).await;
    let after = ground.resident("after").await;
    ground.clean(&cx).await?;
    if say_errors(&measured?)? {
        return Err(failure::silent(1));
    }
    print::line(format!("PASS: Approximate system memory used : {:.2} MB.", (after? - before) / f64::from(1 << 20)))
}

/// A prefix without keys, to write below.
struct Ground {
    config: Config,
    client: Client,
    prefix: Bytes,
    range_end: Bytes,
}

impl Ground {
    /// Connects; refuses a prefix that has keys.
    async fn open(cx: &mut Context) -> Done<Self> {
        let prefix = Bytes::copy_from_slice(cx.flags.text("prefix").as_bytes());
        let (config, _) = cx.open()?;
        let client = client(config.clone()).await?;
        let range_end = Bytes::from(prefix_end(&prefix));
        let request = RangeRequest { key: prefix.clone(), range_end: range_end.clone(), limit: 1, ..RangeRequest::default() };
        if !client.timeout(None).range(request).await?.kvs.is_empty() {
            let text = String::from_utf8_lossy(&prefix).into_owned();
            let quoted = quote(&prefix);
            return Err(failure::invalid_input(format!(
                "prefix {quoted} has keys. Delete with '{} del --prefix {text}' first",
                cx.program
            )));
        }
        Ok(Self { config, client, prefix, range_end })
    }

    /// Writes until the load is done, or somebody interrupts.
    async fn measure(&self, load: Load) -> Done<Measured> {
        tokio::select! {
            measured = measure(&self.config, load, &self.prefix) => measured,
            () = interrupted() => Err(failure::interrupted("interrupted")),
        }
    }

    /// Memory of the first endpoint's server, in bytes.
    async fn resident(&self, when: &str) -> Done<f64> {
        let what = "process_resident_memory_bytes";
        let page = quorate_client::page(&self.config, &self.config.endpoints[0], "/metrics").await;
        let page = page.inspect_err(|error| eprintln!("fetch error: {error}")).unwrap_or_default();
        let value = page.lines().find_map(|line| line.strip_prefix(what)?.trim().parse().ok());
        match value {
            Some(value) => Ok(value),
            None => {
                print::line(format!("FAIL: Could not read {what} {when} the put operations."))?;
                Err(failure::silent(1))
            }
        }
    }

    /// Deletes what was written; compacts and defragments if asked to.
    async fn clean(&self, cx: &Context) -> Done {
        clean(&self.client, self.prefix.clone(), self.range_end.clone(), cx.flags.bool("auto-compact")).await?;
        if !cx.flags.bool("auto-defrag") {
            return Ok(());
        }
        for endpoint in &self.config.endpoints {
            print::line(format!("Defragmenting {}", quote(endpoint.as_bytes())))?;
            client(Config { endpoints: vec![endpoint.clone()], timeout: Some(CLEANUP), ..self.config.clone() })
                .await?
                .defragment(DefragmentRequest {})
                .await?;
            print::line(format!("Defragmented {}", quote(endpoint.as_bytes())))?;
        }
        Ok(())
    }
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

async fn measure(config: &Config, load: Load, prefix: &Bytes) -> Done<Measured> {
    let (requests, queue) = mpsc::channel::<PutRequest>(load.clients);
    let queue = Arc::new(Mutex::new(queue));
    let mut workers = JoinSet::new();
    for _ in 0..load.clients {
        let client = client(Config { timeout: None, ..config.clone() }).await?;
        workers.spawn(work(client, queue.clone()));
    }
    let start = Instant::now();
    let value = Bytes::from(vec![0; load.value_bytes]);
    let put = || {
        let mut key = [prefix.as_ref(), &rand::random::<[u8; 8]>()].concat();
        key.resize(prefix.len() + load.key_bytes, 0);
        PutRequest { key: key.into(), value: value.clone(), ..PutRequest::default() }
    };
    let mut bar = Progress::default();
    match load.amount {
        Amount::Rate(rate) => {
            let mut ticks = interval(Duration::from_secs(1) / rate);
            // A slow cluster holds the writer back; what it missed then is made up for, so that the rate stays what it should be.
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            while start.elapsed() < Duration::from_secs(SECONDS) {
                ticks.tick().await;
                if requests.send(put()).await.is_err() {
                    break;
                }
                bar.show(start.elapsed().as_secs(), SECONDS, 1, " s");
            }
        }
        Amount::Count(count) => {
            for sent in 1..=count {
                if requests.send(put()).await.is_err() {
                    break;
                }
                bar.show(sent, count, count / 100, "");
            }
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
    bar.end();
    Ok(measured)
}

/// How far it is, on a terminal.
#[derive(Default)]
struct Progress {
    shown: u64,
}

impl Progress {
    /// Shows a number when it has grown by `step`.
    fn show(&mut self, at: u64, of: u64, step: u64, unit: &str) {
        if at >= self.shown + step && std::io::stderr().is_terminal() {
            eprint!("\r{at} / {of}{unit}");
            self.shown = at;
        }
    }

    fn end(&self) {
        if self.shown > 0 {
            eprintln!();
        }
    }
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

/// Prints the errors that came; true when there were any.
fn say_errors(measured: &Measured) -> Done<bool> {
    if measured.errors.is_empty() {
        return Ok(false);
    }
    print::line("FAIL: too many errors")?;
    for (error, count) in &measured.errors {
        print::line(format!("FAIL: ERROR({error}) -> {count}"))?;
    }
    Ok(true)
}

fn report(measured: &Measured, wanted: u32) -> Done {
    let count = measured.times.len() as f64;
    let rate = count / measured.seconds;
    let slowest = measured.times.iter().copied().fold(0.0, f64::max);
    let mean = measured.times.iter().sum::<f64>() / count.max(1.0);
    let deviation = (measured.times.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / count.max(1.0)).sqrt();
    let mut passed = !say_errors(measured)?;
    let mut say = |good: bool, yes: String, no: String| {
        passed &= good;
        print::line(if good { yes } else { no })
    };
    let shown = rate as u64 + 1;
    say(
        rate / f64::from(wanted) > 0.9,
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
