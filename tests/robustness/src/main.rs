//! Robustness on real processes: three members, clients in the shapes of etcd's and of Kubernetes' traffic, watches, and faults from
//! a seed, one at a time with a calm between. In the end everything that a client or a watch was told is checked.
//!
//! [`ground`] makes networks and disks, [`member`] runs the processes, [`cluster`] asks for rest; [`traffic`] and [`watching`] use
//! the cluster, [`asking`] speaks for them, [`book`] writes it all down; [`faults`] is what may go wrong, [`doing`] how, and [`report`] the table.
//! The check itself is the simulation's ([`sim::check`], [`sim::following`]): revisions give the order of all that happened.
//!
//! The history is what three watches of everything saw, one at each member, which must agree. A seed gives the same faults in the
//! same order; what they meet differs from run to run, as processes do.

mod asking;
mod book;
mod cluster;
mod doing;
mod faults;
mod ground;
mod member;
mod report;
mod traffic;
mod watching;

use book::Book;
use clap::Parser;
use cluster::{Builds, Cluster};
use faults::{Fault, UPGRADE, schedule};
use ground::{Ground, MEMBERS};
use member::Members;
use report::Table;
use sim::ops::Told;
use sim::rng::Rng;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use traffic::{Kube, Plain, Shared};
use watching::{Follower, WAYS, Watched, observe};

/// Three real members, clients, faults, and a check of all that clients saw.
#[derive(Parser)]
#[command(name = "robustness")]
struct Arguments {
    /// The server to run.
    #[arg(long, env = "QUORATE_BIN")]
    server: PathBuf,
    /// An older build: instead of faults, the members are brought from it to the server and back, one at a time.
    #[arg(long)]
    older: Option<PathBuf>,
    /// For how long faults happen.
    #[arg(long, default_value_t = 3)]
    minutes: u64,
    /// What faults there are, and in which order.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Clients of etcd's shape.
    #[arg(long, default_value_t = 7)]
    plain: usize,
    /// Clients of Kubernetes' shape.
    #[arg(long, default_value_t = 6)]
    kube: usize,
    /// Only faults whose name holds this text.
    #[arg(long)]
    only: Option<String>,
    /// Send linearizable reads as serializable: a run that must fail, to show that the check can.
    #[arg(long)]
    stale: bool,
    /// Where logs and the table are kept.
    #[arg(long, default_value = "target/robustness")]
    out: PathBuf,
    /// A document that keeps the table of a run without failures.
    #[arg(long)]
    keep: Option<PathBuf>,
}

/// Clients at work without faults, at the beginning and between two faults.
const CALM: Duration = Duration::from_millis(1500);

/// Answers a second, on average, without which a run is not worth its time.
const LEAST: u64 = 20;

fn main() -> ExitCode {
    let mut arguments = Arguments::parse();
    let fail = |e: String| {
        eprintln!("robustness: {e}");
        ExitCode::from(2)
    };
    match ground::enter() {
        Ok(None) => {}
        Ok(Some(code)) => return ExitCode::from(code),
        Err(e) => return fail(e),
    }
    if let Err(e) = std::fs::create_dir_all(&arguments.out) {
        return fail(format!("{}: {e}", arguments.out.display()));
    }
    for path in [&mut arguments.out, &mut arguments.server].into_iter().chain(&mut arguments.older) {
        match path.canonicalize() {
            Ok(whole) => *path = whole,
            Err(e) => return fail(format!("{}: {e}", path.display())),
        }
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return fail(format!("no runtime: {e}")),
    };
    match runtime.block_on(run(&arguments)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => fail(e),
    }
}

/// Everybody who uses the cluster.
struct Users {
    clients: Vec<JoinHandle<()>>,
    observers: Vec<JoinHandle<()>>,
    followers: Vec<JoinHandle<Watched>>,
}

fn users(arguments: &Arguments, shared: &Arc<Shared>) -> Users {
    let chance = |n: usize| Rng::new(arguments.seed.wrapping_mul(1000).wrapping_add(n as u64 + 1));
    let plain = (0..arguments.plain).map(|n| tokio::spawn(Plain::new(n, chance(n)).run(shared.clone())));
    let kube = (0..arguments.kube).map(|n| {
        let number = arguments.plain + n;
        tokio::spawn(Kube::new(number, chance(number)).run(shared.clone()))
    });
    Users {
        clients: plain.chain(kube).collect(),
        observers: (0..MEMBERS).map(|at| tokio::spawn(observe(shared.clone(), at))).collect(),
        followers: WAYS
            .iter()
            .enumerate()
            .map(|(n, way)| tokio::spawn(Follower::new(n, *way, chance(500 + n)).run(shared.clone())))
            .collect(),
    }
}

async fn run(arguments: &Arguments) -> Result<bool, String> {
    let ground = Ground::lay(&arguments.out.join("disks"))?;
    let first = arguments.older.as_ref().unwrap_or(&arguments.server);
    let mut members = Members::new(first, &arguments.out);
    for at in 0..MEMBERS {
        let _ = std::fs::remove_file(members.log(at));
        members.start(&ground, at, false)?;
    }
    let shared = Arc::new(Shared {
        book: Book::new(),
        all: member::client(Duration::from_secs(3))?,
        stale: arguments.stale,
        stop: AtomicBool::new(false),
        over: AtomicBool::new(false),
    });
    let builds = Builds { newer: arguments.server.clone(), older: arguments.older.clone() };
    let mut cluster = Cluster { ground, members, shared: shared.clone(), builds };
    let went = drive(arguments, &mut cluster).await;
    cluster.members.end();
    went
}

async fn drive(arguments: &Arguments, cluster: &mut Cluster) -> Result<bool, String> {
    let shared = cluster.shared.clone();
    cluster.settle().await?;
    let users = users(arguments, &shared);
    sleep(CALM).await;
    let mut table = Table::default();
    let mut chance = Rng::new(arguments.seed);
    let began = Instant::now();
    let (mut count, mut passed) = (0, 0);
    let mut windows = Vec::new();
    for fault in UPGRADE.into_iter().filter(|_| arguments.older.is_some()) {
        let from = shared.book.now();
        let good = one(cluster, fault, &mut chance, &mut table).await;
        windows.push((fault, from, shared.book.now()));
        count += 1;
        passed += u32::from(good);
    }
    while arguments.older.is_none() && began.elapsed() < Duration::from_secs(arguments.minutes * 60) {
        for fault in schedule(&mut chance) {
            let wanted = arguments.only.as_ref().is_none_or(|text| fault.name().contains(text.as_str()));
            if !wanted || began.elapsed() >= Duration::from_secs(arguments.minutes * 60) {
                continue;
            }
            let from = shared.book.now();
            let good = one(cluster, fault, &mut chance, &mut table).await;
            windows.push((fault, from, shared.book.now()));
            count += 1;
            passed += u32::from(good);
        }
        sleep(CALM).await;
    }
    finish(cluster, users, &windows, &mut table).await?;
    let panics = cluster.members.panics();
    panics.iter().for_each(|line| shared.book.violation(line.clone()));
    let violations = shared.book.violations();
    for text in &violations {
        println!("violation: {text}");
    }
    let (operations, answered, revisions) = shared.book.with(|p| {
        let answered = p.operations.iter().filter(|o| matches!(o.told, Told::Answer(_) | Told::Read(_))).count();
        (p.operations.len(), answered, p.history.head())
    });
    let figures = format!(
        "seed {}, {} s: {operations} operations ({answered} answered), {revisions} revisions, {} violations",
        arguments.seed,
        began.elapsed().as_secs(),
        violations.len()
    );
    println!("{figures}\n{}", table.markdown());
    let good = violations.is_empty() && passed == count;
    if let Some(document) = arguments.keep.as_ref().filter(|_| good) {
        table.keep(document, &figures)?;
    }
    // What no fault can be blamed for counts as one failure more.
    let failed = (count - passed).max(u32::from(!good));
    println!("{count} faults, {operations} operations, {} passed, {failed} failed", count - failed.min(count));
    Ok(good)
}

/// One fault, until the members are at rest again and alike.
async fn one(cluster: &mut Cluster, fault: Fault, chance: &mut Rng, table: &mut Table) -> bool {
    let book = &cluster.shared.clone().book;
    let before = book.violations().len();
    println!("{:>7} ms  {}", book.now() / 1000, fault.name());
    book.measure();
    if let Err(e) = cluster.fault(fault, chance).await {
        book.violation(format!("{}: {e}", fault.name()));
    }
    let ended = Instant::now();
    if let Err(e) = cluster.settle().await {
        book.violation(format!("after {}: {e}", fault.name()));
    }
    let rest = u64::try_from(ended.elapsed().as_millis()).unwrap_or(u64::MAX);
    sleep(CALM).await;
    if let Err(e) = cluster.compare().await {
        book.violation(format!("after {}: {e}", fault.name()));
    }
    let row = table.0.entry(fault).or_default();
    row.times += 1;
    row.longest_gap = row.longest_gap.max(book.measured() / 1000);
    row.longest_rest = row.longest_rest.max(rest);
    let good = book.violations().len() == before;
    row.failed += u32::from(!good);
    good
}

/// Clients stop, leases run out, watches get what is left; then all is checked.
async fn finish(cluster: &mut Cluster, users: Users, windows: &[(Fault, u64, u64)], table: &mut Table) -> Result<(), String> {
    let shared = cluster.shared.clone();
    shared.stop.store(true, Ordering::Relaxed);
    for client in users.clients {
        client.await.map_err(|e| format!("a client: {e}"))?;
    }
    cluster.settle().await?;
    // Leases live for six seconds at most, and as long again after a change of leader.
    sleep(Duration::from_secs(13)).await;
    for at in 0..MEMBERS {
        if let Err(e) = cluster.holds(at).await {
            shared.book.violation(e);
        }
    }
    if let Err(e) = cluster.compare().await {
        shared.book.violation(e);
    }
    // The followers have a moment to be told the rest: a progress notice comes every second.
    sleep(Duration::from_secs(4)).await;
    shared.over.store(true, Ordering::Relaxed);
    let mut seen = Watched::default();
    for follower in users.followers {
        let one = follower.await.map_err(|e| format!("a watcher: {e}"))?;
        seen.events += one.events;
        seen.bookmarks += one.bookmarks;
        seen.opened += one.opened;
        seen.compacted += one.compacted;
    }
    users.observers.iter().for_each(JoinHandle::abort);
    shared.book.check();
    for (fault, from, to) in windows {
        if let Some(row) = table.0.get_mut(fault) {
            row.lost += shared.book.lost(*from, *to);
        }
    }
    // A run in which little happened proves little.
    let answered = shared.book.with(|p| p.operations.iter().filter(|o| matches!(o.told, Told::Answer(_) | Told::Read(_))).count());
    let seconds = shared.book.now() / sim::world::SECOND;
    if (answered as u64) < LEAST * seconds || seen.events == 0 || seen.bookmarks == 0 {
        shared.book.violation(format!("too little happened: {answered} answers in {seconds} s, {seen:?}"));
    }
    println!(
        "watches: {} events, {} bookmarks, {} streams opened, {} ended by a compaction",
        seen.events, seen.bookmarks, seen.opened, seen.compacted
    );
    Ok(())
}
