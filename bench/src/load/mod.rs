//! Load: clients that each wait for one answer before they ask again, over a few connections.
//!
//! In: a [`Plan`]. Out: a [`Report`]. A [`Probe`] hears when the measured part begins and ends.
//! Threads are current-thread runtimes with their own connections and clients; nothing is shared on the hot path but one counter.
//! With a rate, operations have due times, and latency counts from the due time: a server that stalls cannot hide its queue.
//! Invariant: connections, streams, leases and the keys a workload needs exist before the measured part begins.

mod calls;
mod fill;
mod lease;
mod watch;

use crate::link::Link;
use crate::summary::Report;
use crate::{Failure, keys};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// Puts over a bounded space of keys, or with --fresh keys never seen before
    Put,
    /// Range of one key; with --serializable without a quorum
    Get,
    /// First page (--limit keys) of the prefix
    Page,
    /// If the key is absent then put else range: a create, as kube-apiserver sends it
    TxnCreate,
    /// If the key is unchanged then put else range: an update, as kube-apiserver sends it
    TxnUpdate,
    /// Puts at --rate under a prefix that --watchers watch; an operation is an event delivered
    Watch,
    /// Keepalives, one lease and one stream for each client
    Lease,
    /// Puts all keys of the space once, many in a transaction: preparation, not a measurement
    Fill,
}

/// What to run.
#[derive(Args, Clone, Debug)]
pub struct Plan {
    #[arg(value_enum)]
    pub workload: Workload,
    #[command(flatten)]
    pub link: Link,
    /// Clients that ask at the same time
    #[arg(long, default_value_t = 100)]
    pub clients: usize,
    /// Connections the clients share
    #[arg(long, default_value_t = 10)]
    pub connections: usize,
    /// Threads of this program
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Operations in all (watch: puts)
    #[arg(long, default_value_t = 20_000)]
    pub ops: u64,
    /// Stop after this many seconds even if operations are left
    #[arg(long, default_value_t = 600.0)]
    pub seconds: f64,
    /// Operations per second; 0: as fast as answers come
    #[arg(long, default_value_t = 0.0)]
    pub rate: f64,
    /// Bytes of a key
    #[arg(long, default_value_t = 64)]
    pub key_size: usize,
    /// Bytes of a value
    #[arg(long, default_value_t = 256)]
    pub value_size: usize,
    /// How many keys the bounded space has
    #[arg(long, default_value_t = 10_000)]
    pub key_space: u64,
    /// Take keys never written before instead of the bounded space's
    #[arg(long)]
    pub fresh: bool,
    /// What keys begin with
    #[arg(long, default_value = "/registry/bench/")]
    pub prefix: String,
    /// Read without a quorum
    #[arg(long)]
    pub serializable: bool,
    /// Keys in a page
    #[arg(long, default_value_t = 500)]
    pub limit: i64,
    /// Watchers, spread over the connections, all on the prefix
    #[arg(long, default_value_t = 100)]
    pub watchers: usize,
    /// Makes fresh keys and random choices differ between runs
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Hears the edges of the measured part.
pub trait Probe {
    fn begin(&mut self) -> Result<(), Failure>;
    fn end(&mut self) -> Result<(), Failure>;
}

impl Probe for () {
    fn begin(&mut self) -> Result<(), Failure> {
        Ok(())
    }
    fn end(&mut self) -> Result<(), Failure> {
        Ok(())
    }
}

/// Runs a plan.
pub fn run(plan: &Plan, probe: &mut dyn Probe) -> Result<Report, Failure> {
    if plan.clients == 0 || plan.connections == 0 || plan.threads == 0 || plan.link.endpoints.is_empty() {
        return Err("clients, connections, threads and endpoints must be at least one".into());
    }
    match plan.workload {
        Workload::Watch => watch::run(plan, probe),
        Workload::Fill => fill::run(plan, probe),
        Workload::Lease => closed_loop(plan, probe, lease::prepare, lease::client),
        _ => closed_loop(plan, probe, calls::prepare, calls::client),
    }
}

/// The operations of a run, handed out one at a time.
pub struct Tickets {
    next: AtomicU64,
    ops: u64,
    rate: f64,
    begin: Mutex<Instant>,
    seconds: f64,
}

/// One operation: its number, and when it was due.
pub struct Ticket {
    pub number: u64,
    due: Instant,
}

impl Tickets {
    fn new(plan: &Plan) -> Self {
        Self { next: AtomicU64::new(0), ops: plan.ops, rate: plan.rate, begin: Mutex::new(Instant::now()), seconds: plan.seconds }
    }

    fn start(&self) {
        *self.begin.lock().expect("no holder panics") = Instant::now();
    }

    fn began(&self) -> Instant {
        *self.begin.lock().expect("no holder panics")
    }

    /// The next operation, at its due time; `None` when there are no more. `began` is [`Tickets::began`].
    async fn take(&self, began: Instant) -> Option<Ticket> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        if number >= self.ops || now.duration_since(began).as_secs_f64() > self.seconds {
            return None;
        }
        if self.rate <= 0.0 {
            return Some(Ticket { number, due: now });
        }
        let due = began + Duration::from_secs_f64(number as f64 / self.rate);
        if due > now {
            tokio::time::sleep_until(due.into()).await;
        }
        Some(Ticket { number, due })
    }
}

/// What a client brings home.
#[derive(Default)]
pub struct Tally {
    pub latencies: Vec<u32>,
    pub errors: u64,
    pub first_error: Option<String>,
}

impl Tally {
    fn done(&mut self, ticket: &Ticket) {
        self.latencies.push(ticket.due.elapsed().as_micros().min(u128::from(u32::MAX)) as u32);
    }

    fn failed(&mut self, error: impl ToString) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| error.to_string());
    }

    fn merge(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
    }

    fn report(self, workload: Workload, seconds: f64) -> Report {
        let name = workload.to_possible_value().expect("none is skipped").get_name().to_owned();
        let mut report = Report::new(&name, self.latencies.len() as u64, seconds, self.latencies);
        (report.errors, report.first_error) = (self.errors, self.first_error);
        report
    }
}

/// Runs clients that ask, wait and ask again: `prepare` makes a client ready, `work` runs it until tickets are out.
fn closed_loop<C, P, W>(
    plan: &Plan,
    probe: &mut dyn Probe,
    prepare: fn(Arc<Plan>, tonic::transport::Channel, u64) -> P,
    work: fn(C, Arc<Tickets>) -> W,
) -> Result<Report, Failure>
where
    C: Send + 'static,
    P: Future<Output = Result<C, Failure>> + Send + 'static,
    W: Future<Output = Tally> + Send + 'static,
{
    let plan = Arc::new(plan.clone());
    let tickets = Arc::new(Tickets::new(&plan));
    let threads = plan.threads.min(plan.clients).min(plan.connections.max(1));
    // Twice: all are ready; the probe has read its first counters.
    let gate = Arc::new(Barrier::new(threads + 1));
    let mut joins = Vec::new();
    for thread in 0..threads {
        let (plan, tickets, gate) = (plan.clone(), tickets.clone(), gate.clone());
        joins.push(std::thread::spawn(move || -> Result<Tally, Failure> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let ready = runtime.block_on(async {
                let mut channels = Vec::new();
                for c in (thread..plan.connections).step_by(threads) {
                    channels.push(plan.link.connect(c).await?);
                }
                let mut preparing = Vec::new();
                for (i, client) in (thread..plan.clients).step_by(threads).enumerate() {
                    let channel = channels[i % channels.len()].clone();
                    preparing.push(tokio::spawn(prepare(plan.clone(), channel, client as u64)));
                }
                let mut clients = Vec::new();
                for p in preparing {
                    clients.push(p.await??);
                }
                Ok::<_, Failure>(clients)
            });
            // Reached even after a failure, or the others would wait for ever.
            gate.wait();
            gate.wait();
            let clients = ready?;
            Ok(runtime.block_on(async {
                let running: Vec<_> = clients.into_iter().map(|c| tokio::spawn(work(c, tickets.clone()))).collect();
                let mut tally = Tally::default();
                for r in running {
                    match r.await {
                        Ok(t) => tally.merge(t),
                        Err(e) => tally.failed(e),
                    }
                }
                tally
            }))
        }));
    }
    gate.wait();
    let begun = probe.begin();
    tickets.start();
    gate.wait();
    let began = tickets.began();
    let mut tally = Tally::default();
    let mut failure = begun.err();
    for join in joins {
        match join.join().map_err(|_| Failure::from("a load thread panicked"))? {
            Ok(t) => tally.merge(t),
            Err(e) => failure = failure.or(Some(e)),
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    probe.end()?;
    match failure {
        Some(e) => Err(e),
        None => Ok(tally.report(plan.workload, seconds)),
    }
}

/// A key of the bounded space.
fn bounded_key(plan: &Plan, n: u64) -> Bytes {
    keys::key(&plan.prefix, n, plan.key_size)
}

/// A key no other run with another seed writes.
fn fresh_key(plan: &Plan, n: u64) -> Bytes {
    keys::key(&plan.prefix, keys::scatter(plan.seed << 40 | n), plan.key_size)
}
