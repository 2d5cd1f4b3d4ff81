//! `differential`: gives a real etcd and Quorate the same operations and compares every answer, every watch and every hash.
//!
//! In: seeds, or a script that an earlier run wrote. Out: for each difference the seed, the operation, both answers field by
//! field and a shortened script; the last line is `N passed, N failed`, and the exit code is 1 when anything failed.
//! Each seed runs on a fresh pair of servers; several pairs run at once.

mod fields;
mod generate;
mod rng;
mod run;
mod script;
mod server;
mod shrink;
mod side;
mod watch;

use clap::Parser;
use run::{Difference, Verdict};
use script::Op;
use server::Program;
use std::fmt::Write;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

#[derive(Parser, Debug)]
#[command(about = "Runs the same operations on a real etcd and on Quorate and compares every answer")]
struct Args {
    /// One seed.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Seeds from A to B, both included, written A..B.
    #[arg(long, value_parser = seeds)]
    seeds: Option<RangeInclusive<u64>>,
    /// Operations a seed.
    #[arg(long, default_value_t = 2000)]
    ops: usize,
    /// Members of each cluster; with more than one, a restart makes the others elect a leader.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=7))]
    members: u8,
    /// Pairs of clusters at once.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Run these scripts instead of seeds.
    #[arg(long, num_args = 1.., conflicts_with_all = ["seed", "seeds"])]
    script: Vec<PathBuf>,
    /// Print the script of `--seed` and run nothing.
    #[arg(long, requires = "seed")]
    print: bool,
    /// Where scripts of differences are written.
    #[arg(long, default_value = "differential-failures")]
    out: PathBuf,
    /// Report differences as they are, without looking for a shorter script.
    #[arg(long)]
    no_shrink: bool,
    /// Have the servers wait for the disk.
    #[arg(long)]
    fsync: bool,
    /// The reference server.
    #[arg(long, env = "ETCD_BIN")]
    etcd: PathBuf,
    /// The server under test.
    #[arg(long, env = "QUORATE_BIN")]
    quorate: PathBuf,
}

fn seeds(text: &str) -> Result<RangeInclusive<u64>, String> {
    let parsed = text.split_once("..").and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    parsed.map(|(a, b)| a..=b).ok_or_else(|| format!("{text:?} is not written as A..B"))
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let (true, Some(seed)) = (args.print, args.seed) {
        generate::script(seed, args.ops).iter().for_each(|op| println!("{}", op.line()));
        return ExitCode::SUCCESS;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("differential: cannot start: {e}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        // Servers end when their owners are dropped, so a signal ends this future rather than the process.
        let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).ok();
        let terminated = async {
            match &mut term {
                Some(term) => term.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            code = all(Arc::new(args)) => code,
            _ = tokio::signal::ctrl_c() => ExitCode::FAILURE,
            _ = terminated => ExitCode::FAILURE,
        }
    })
}

/// A script to run, with the name it is reported under.
struct Case {
    name: String,
    script: Vec<Op>,
}

fn cases(args: &Args) -> Result<Vec<(String, Option<PathBuf>, u64)>, String> {
    if !args.script.is_empty() {
        return Ok(args.script.iter().map(|p| (p.display().to_string(), Some(p.clone()), 0)).collect());
    }
    let seeds = match (&args.seeds, args.seed) {
        (Some(range), _) => range.clone(),
        (None, Some(seed)) => seed..=seed,
        (None, None) => return Err("give --seed, --seeds or --script".into()),
    };
    Ok(seeds.map(|s| (format!("seed {s}"), None, s)).collect())
}

async fn all(args: Arc<Args>) -> ExitCode {
    let cases = match cases(&args) {
        Ok(cases) => Arc::new(cases),
        Err(e) => {
            eprintln!("differential: {e}");
            return ExitCode::from(2);
        }
    };
    let began = Instant::now();
    let next = Arc::new(AtomicUsize::new(0));
    let failed = Arc::new(AtomicUsize::new(0));
    let mut jobs = tokio::task::JoinSet::new();
    for _ in 0..args.jobs.clamp(1, cases.len()) {
        let (args, cases, next, failed) = (args.clone(), cases.clone(), next.clone(), failed.clone());
        jobs.spawn(async move {
            loop {
                let Some((name, path, seed)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
                let script = match path {
                    None => Ok(generate::script(*seed, args.ops)),
                    Some(path) => std::fs::read_to_string(path).map_err(|e| e.to_string()).and_then(|t| script::parse(&t)),
                };
                let passed = match script {
                    Ok(script) => one(&args, Case { name: name.clone(), script }).await,
                    Err(e) => {
                        println!("{name}: {e}");
                        false
                    }
                };
                if !passed {
                    failed.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
    while let Some(ended) = jobs.join_next().await {
        if let Err(e) = ended {
            println!("a job ended early: {e}");
            failed.fetch_add(1, Ordering::Relaxed);
        }
    }
    let failed = failed.load(Ordering::Relaxed);
    println!("{:.1} s", began.elapsed().as_secs_f64());
    println!("{} passed, {failed} failed", cases.len().saturating_sub(failed));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn one(args: &Args, case: Case) -> bool {
    let program = |label, binary: &PathBuf| Program { label, binary: binary.clone(), fsync: args.fsync };
    let (etcd, quorate) = (program("the reference", &args.etcd), program("the candidate", &args.quorate));
    let members = usize::from(args.members);
    let began = Instant::now();
    match run::run(&case.script, &etcd, &quorate, members).await {
        Verdict::Same(n) => {
            println!("{}: {n} operations, no difference, {:.1} s", case.name, began.elapsed().as_secs_f64());
            true
        }
        Verdict::Broken(e) => {
            println!("{}: not decided: {e}", case.name);
            false
        }
        Verdict::Different(d) => {
            print!("{}", report(&case.name, &d));
            let (script, shown) = if args.no_shrink {
                (case.script[..(d.operation + 1).min(case.script.len())].to_vec(), d)
            } else {
                shrink::shrink(case.script, d, &etcd, &quorate, members).await
            };
            let path = args.out.join(format!("{}.script", case.name.replace([' ', '/'], "-")));
            let mut text = String::new();
            for line in report(&case.name, &shown).lines() {
                let _ = writeln!(text, "# {line}");
            }
            script.iter().for_each(|op| text.push_str(&(op.line() + "\n")));
            let written = std::fs::create_dir_all(&args.out).and_then(|()| std::fs::write(&path, &text));
            match written {
                Ok(()) => println!(
                    "{}: shortened to {} operations: {}\n{}",
                    case.name,
                    script.len(),
                    path.display(),
                    if script.len() > 20 { "" } else { &text }
                ),
                Err(e) => println!("{}: {}: {e}\n{text}", case.name, path.display()),
            }
            false
        }
    }
}

/// Both answers, field by field.
fn report(name: &str, d: &Difference) -> String {
    let mut out = format!("{name}: operation {} differs: {}\n", d.operation, d.line);
    for (path, a, b) in &d.fields {
        let _ = writeln!(out, "  {path}\n    etcd:    {a}\n    quorate: {b}");
    }
    out
}
