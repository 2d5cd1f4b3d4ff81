//! `e2e`: the clients of the end-to-end test and the judge of what they saw.
//!
//! - `e2e load` writes, reads, counts and watches until SIGTERM or until a file appears, and notes a history.
//! - `e2e judge` reads the cluster, compares it with the history, and prints one line of figures for a window of time.

mod history;
mod judge;
mod load;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use quorate_client::proto::etcdserverpb as pb;
use quorate_client::{Client, Error, prefix_end};
use tokio::signal::unix::{SignalKind, signal};

use history::Notes;
use judge::Held;
use load::Way;

/// Keys of one page when the cluster is read.
const PAGE: i64 = 5_000;
/// How often the stop file is looked for.
const LOOK: Duration = Duration::from_millis(200);
/// The read of the whole cluster may wait for a leader.
const READ: Duration = Duration::from_secs(60);

#[derive(Parser)]
#[command(about = "Clients of a cluster while it is worked on, and the judge of what they saw")]
enum Command {
    /// Write, read, count and watch until SIGTERM, or until a file appears.
    Load {
        #[command(flatten)]
        way: Way,
        /// The file that the history is appended to.
        #[arg(long)]
        history: PathBuf,
        /// Ends the run once this file exists: signals do not reach into other PID namespaces.
        #[arg(long)]
        stop: Option<PathBuf>,
        /// How many writers.
        #[arg(long, default_value_t = 4)]
        writers: u32,
        /// Milliseconds between two writes of a writer.
        #[arg(long, default_value_t = 20)]
        period: u64,
    },
    /// Compare the cluster with the history; fails when something is lost or must not be.
    Judge {
        #[command(flatten)]
        way: Way,
        /// The file that `load` appends to.
        #[arg(long)]
        history: PathBuf,
        /// The window's first millisecond of the Unix epoch.
        #[arg(long)]
        from: u64,
        /// Its last one.
        #[arg(long)]
        to: u64,
        /// No client runs any more.
        #[arg(long)]
        ended: bool,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let result = match Command::parse() {
        Command::Load { way, history, stop, writers, period } => {
            run_load(way, &history, stop, writers, Duration::from_millis(period)).await
        }
        Command::Judge { way, history, from, to, ended } => run_judge(&way, &history, from, to, ended).await,
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("e2e: {error}");
            ExitCode::from(2)
        }
    }
}

async fn run_load(
    way: Way,
    history: &Path,
    stop: Option<PathBuf>,
    writers: u32,
    period: Duration,
) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut ends = signal(SignalKind::terminate())?;
    let (notes, written) = Notes::open(history)?;
    let stopped = async {
        tokio::select! {
            _ = ends.recv() => {}
            () = appears(stop) => {}
        }
    };
    load::run(way, writers, period, notes, stopped).await?;
    written.await??;
    println!("ended");
    Ok(ExitCode::SUCCESS)
}

/// Waits until the file exists; for ever without one.
async fn appears(file: Option<PathBuf>) {
    let Some(file) = file else { return std::future::pending().await };
    while !file.exists() {
        tokio::time::sleep(LOOK).await;
    }
}

/// Prints `gap-ms acknowledged unknown lost violations`, separated by tabs; violations are listed on stderr.
async fn run_judge(way: &Way, history: &Path, from: u64, to: u64, ended: bool) -> Result<ExitCode, Box<dyn std::error::Error>> {
    // The history first: what is acknowledged by then must be in a read that begins after.
    let lines = history::read(history)?;
    let held = read_cluster(&way.any()?.timeout(Some(READ))).await?;
    let verdict = judge::judge(&lines, &held, from, to, ended);
    for text in verdict.violations.iter().take(20) {
        eprintln!("violation: {text}");
    }
    println!("{}\t{}\t{}\t{}\t{}", verdict.gap, verdict.acknowledged, verdict.unknown, verdict.lost, verdict.violations.len());
    Ok(if verdict.lost == 0 && verdict.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// All keys of the run, page by page as of one revision.
async fn read_cluster(client: &Client) -> Result<Held, Error> {
    let (mut writes, mut strange, mut counter) = (HashSet::new(), Vec::new(), 0);
    let (mut key, mut revision) = (bytes::Bytes::from_static(load::PREFIX.as_bytes()), 0);
    loop {
        let request = pb::RangeRequest {
            key: key.clone(),
            range_end: bytes::Bytes::from(prefix_end(load::PREFIX.as_bytes())),
            limit: PAGE,
            revision,
            ..Default::default()
        };
        let answer = client.range(request).await?;
        if revision == 0 {
            revision = answer.header.as_ref().map_or(0, |header| header.revision);
        }
        for pair in &answer.kvs {
            let Ok(pair) = pair.decode() else {
                return Err(Error::Config("a pair that is not protobuf".to_string()));
            };
            if pair.key == load::COUNTER.as_bytes() {
                counter = load::number_in(&pair.value);
            } else {
                match load::parse_key(&pair.key) {
                    Some((writer, number)) if pair.value == load::value_of(writer, number).as_bytes() => {
                        writes.insert((writer, number));
                    }
                    _ => strange.push(String::from_utf8_lossy(&pair.key).into_owned()),
                }
            }
            key = bytes::Bytes::from([&pair.key[..], &[0]].concat());
        }
        if !answer.more {
            return Ok(Held { writes, strange, counter });
        }
    }
}
