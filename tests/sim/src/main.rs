//! Runs seeds, on as many threads as asked for: a seed is one thread's, so that nothing but the seed decides what happens in it.

use clap::Parser;
use sim::{Report, Settings, run};
use std::ops::RangeInclusive;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Runs whole clusters in one thread over virtual time, from a seed, and checks what clients saw.
#[derive(Parser)]
#[command(name = "sim")]
struct Arguments {
    /// One seed, or the first and the last of several.
    #[arg(long, default_value = "1..100", value_parser = seeds)]
    seeds: RangeInclusive<u64>,
    /// Members of the cluster; by default a seed chooses 3 or 5.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=7))]
    members: Option<u64>,
    /// Virtual seconds of a seed.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Seeds run at the same time.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Prints what happens.
    #[arg(long)]
    trace: bool,
    /// Runs every seed twice and compares the traces.
    #[arg(long)]
    twice: bool,
    /// Plants a mistake, by name, and runs seeds until one finds it; `all` for each in turn. Needs the feature `plant`.
    #[arg(long)]
    plant: Option<String>,
}

fn seeds(text: &str) -> Result<RangeInclusive<u64>, String> {
    let number = |t: &str| t.parse::<u64>().map_err(|e| format!("{t:?} is no seed: {e}"));
    match text.split_once("..") {
        Some((first, last)) => Ok(number(first)?..=number(last)?),
        None => number(text).map(|n| n..=n),
    }
}

/// Two seeds of three have 3 members, the others 5.
fn members_of(seed: u64) -> usize {
    if seed.is_multiple_of(3) { 5 } else { 3 }
}

impl Arguments {
    fn settings(&self, seed: u64) -> Settings {
        let members = self.members.map_or_else(|| members_of(seed), |m| m as usize);
        Settings { seed, members, seconds: self.seconds, trace: self.trace }
    }
}

fn failed(report: &Report) -> String {
    let s = report.settings;
    let lines: Vec<_> = report.violations.iter().map(|v| format!("  {v}\n")).collect();
    let again = format!("make sim SEEDS={} ARGS=\"--members {} --seconds {} --trace\"", s.seed, s.members, s.seconds);
    format!("seed {} failed:\n{}  replay: {again}\n", s.seed, lines.concat())
}

/// Runs the seeds and gives the reports of those that went wrong, and of all: operations, faults, leader changes.
fn run_all(arguments: &Arguments, stop_at_first: bool) -> (Vec<Report>, Totals) {
    let next = AtomicU64::new(*arguments.seeds.start());
    let bad = Mutex::new(Vec::new());
    let totals = Mutex::new(Totals::default());
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let enough = stop_at_first && !bad.lock().expect("no holder panics").is_empty();
                    if seed > *arguments.seeds.end() || enough {
                        return;
                    }
                    let mut report = run(arguments.settings(seed));
                    if arguments.twice && report.violations.is_empty() {
                        let again = run(arguments.settings(seed));
                        if again.hash != report.hash {
                            report.violations.push(format!("two runs differ: {:016x} and {:016x}", report.hash, again.hash));
                        }
                    }
                    totals.lock().expect("no holder panics").add(&report);
                    if !report.violations.is_empty() {
                        if !stop_at_first {
                            print!("{}", failed(&report));
                        }
                        bad.lock().expect("no holder panics").push(report);
                    }
                }
            });
        }
    });
    let mut bad = bad.into_inner().expect("no holder panics");
    bad.sort_by_key(|r| r.settings.seed);
    (bad, totals.into_inner().expect("no holder panics"))
}

#[derive(Default)]
struct Totals {
    seeds: usize,
    operations: usize,
    answered: usize,
    faults: usize,
    leader_changes: usize,
    revisions: i64,
    watched: u64,
    bookmarks: u64,
    renewals: u64,
    snapshots: u32,
    rebuilt: u32,
    changes: usize,
    joined: u32,
    /// Seeds that are smaller than a seed has to be.
    small: usize,
    virtual_seconds: u64,
}

impl Totals {
    fn add(&mut self, r: &Report) {
        self.seeds += 1;
        self.operations += r.operations;
        self.answered += r.answered;
        self.faults += r.faults;
        self.leader_changes += r.leader_changes;
        self.revisions += r.revisions;
        self.watched += r.watched;
        self.bookmarks += r.bookmarks;
        self.renewals += r.renewals;
        self.snapshots += r.snapshots;
        self.rebuilt += r.rebuilt;
        self.changes += r.changes;
        self.joined += r.joined;
        self.virtual_seconds += r.time / sim::world::SECOND;
        let small = r.operations < 500 || r.faults < 5 || r.leader_changes < 1;
        self.small += usize::from(small && r.violations.is_empty());
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // A panic inside a member is told with its seed.
    std::panic::set_hook(Box::new(|_| {}));
    if let Some(name) = &arguments.plant {
        return plant(&arguments, name);
    }
    let began = Instant::now();
    let (bad, t) = run_all(&arguments, false);
    println!(
        "{} operations ({} answered), {} revisions, {} faults, {} leader changes, {} snapshots, {} members rebuilt, {} changes of members, {} joined, {} events watched, {} bookmarks, {} renewals",
        t.operations,
        t.answered,
        t.revisions,
        t.faults,
        t.leader_changes,
        t.snapshots,
        t.rebuilt,
        t.changes,
        t.joined,
        t.watched,
        t.bookmarks,
        t.renewals
    );
    if t.small > 0 {
        println!("{} seeds had fewer than 500 operations, 5 faults or 1 leader change", t.small);
    }
    if !bad.is_empty() {
        let seeds: Vec<_> = bad.iter().map(|r| r.settings.seed.to_string()).collect();
        println!("failed seeds: {}", seeds.join(" "));
    }
    let took = began.elapsed().as_secs_f64();
    println!("{} passed, {} failed: {} virtual seconds in {took:.1} s", t.seeds - bad.len(), bad.len(), t.virtual_seconds);
    if bad.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(not(feature = "plant"))]
fn plant(_: &Arguments, _: &str) -> ExitCode {
    eprintln!("no mistakes are built in: run with --features plant");
    ExitCode::from(2)
}

#[cfg(feature = "plant")]
fn plant(arguments: &Arguments, name: &str) -> ExitCode {
    use quorate::env::plant::{Plant, set};
    let wanted: Vec<Plant> = Plant::ALL.into_iter().filter(|p| name == "all" || name == p.name()).collect();
    if wanted.is_empty() {
        let names: Vec<_> = Plant::ALL.iter().map(|p| p.name()).collect();
        eprintln!("no mistake is named {name:?}; there are: {}", names.join(", "));
        return ExitCode::from(2);
    }
    let (mut found, mut missed) = (0, 0);
    for plant in wanted {
        set(Some(plant));
        let began = Instant::now();
        let (bad, totals) = run_all(arguments, true);
        set(None);
        let took = began.elapsed().as_secs_f64();
        match bad.first() {
            Some(report) => {
                found += 1;
                let seen: String = report.violations[0].chars().take(200).collect();
                println!("{}: found by seed {} ({took:.1} s): {seen}", plant.name(), report.settings.seed);
            }
            None => {
                missed += 1;
                println!("{}: not found by {} seeds ({took:.1} s)", plant.name(), totals.seeds);
            }
        }
    }
    println!("{found} passed, {missed} failed");
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
