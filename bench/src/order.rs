//! Durability in order: under strace, no put's answer is written to its socket before a sync that began after the put arrived.
//!
//! One client puts one value at a time, so between two answers there must be a completed sync. The trace is kept for reading.

use crate::Failure;
use crate::load::{self, Plan, Workload};
use crate::member::{self, Cluster, Program};
use clap::Args;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

#[derive(Args, Debug)]
pub struct Options {
    /// The server's program
    pub server: PathBuf,
    /// Folder for data and trace
    #[arg(long, default_value = "bench.data")]
    pub data: PathBuf,
    #[arg(long, default_value_t = 23_870)]
    pub port: u16,
    /// Puts, one after another
    #[arg(long, default_value_t = 20)]
    pub puts: u64,
}

/// Traces and judges.
pub fn run(options: &Options) -> Result<(), Failure> {
    let program = Program { name: "traced".to_owned(), path: options.server.clone(), extra: Vec::new() };
    let dir = std::path::absolute(&options.data)?.join("order");
    let _ = fs::remove_dir_all(&dir);
    let cluster = Cluster::start(&program, &dir, 1, options.port, None)?;
    let trace = dir.join("order.strace");
    let mut strace = Command::new("strace")
        .args(["-f", "-tt", "-T", "-yy", "-s", "0", "-e", "trace=fdatasync,fsync,sendto,sendmsg,writev,write,pwrite64,pwritev"])
        .arg("-o")
        .arg(&trace)
        .args(["-p", &cluster.pids()[0].to_string()])
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("strace does not start: {e}"))?;
    std::thread::sleep(Duration::from_millis(500));
    // A rate keeps the puts apart, so that a sync between two answers can only be the later one's.
    let plan = Plan {
        clients: 1,
        connections: 1,
        ops: options.puts,
        rate: 20.0,
        value_size: 1000,
        ..member::plan(Workload::Put, cluster.link())
    };
    let report = load::run(&plan, &mut ());
    member::signal("INT", strace.id())?;
    strace.wait()?;
    let ops = report?.ops;
    let text = fs::read_to_string(&trace)?;
    drop(cluster);
    let judged = judge(&text);
    println!(
        "{} puts, {} syncs, {} answers to the client; {} answers without a sync since the answer before",
        ops, judged.syncs, judged.answers, judged.early
    );
    println!("{}", judged.sample.join("\n"));
    fs::remove_dir_all(&dir)?;
    if judged.early > 0 || judged.answers < ops {
        return Err("an answer was written before its sync, or answers are missing from the trace".into());
    }
    Ok(())
}

struct Judged {
    syncs: u64,
    answers: u64,
    early: u64,
    /// The lines of one put, from its log write to its answer.
    sample: Vec<String>,
}

/// An answer to a put takes at least its headers and message; acknowledgements of HTTP/2 settings, pings and windows are shorter.
const ANSWER_BYTES: u64 = 40;

fn judge(trace: &str) -> Judged {
    let mut judged = Judged { syncs: 0, answers: 0, early: 0, sample: Vec::new() };
    let (mut synced, mut since) = (false, Vec::new());
    for line in trace.lines() {
        since.push(line.to_owned());
        let done = !line.contains("<unfinished");
        let sync = line.contains("fdatasync") || line.contains("fsync");
        if sync && done {
            judged.syncs += 1;
            synced = true;
        }
        // The call's entry counts, not its return: bytes may leave from then on.
        let socket = line.contains("<TCP:") && !line.contains("resumed>");
        let bytes = line.rsplit_once(" = ").and_then(|(_, r)| r.split_ascii_whitespace().next()?.parse::<u64>().ok());
        if socket && bytes.is_none_or(|b| b >= ANSWER_BYTES) {
            judged.answers += 1;
            judged.early += u64::from(!synced);
            if judged.answers == 5 {
                judged.sample = std::mem::take(&mut since);
            }
            synced = false;
            since.clear();
        }
    }
    judged
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer counts as early exactly when no sync ended since the answer before it.
    #[test]
    fn early_answers_are_seen() {
        let sync = "1 10:00:00.0 fdatasync(3</d/seg.wal>) = 0 <0.0001>";
        let answer = "2 10:00:00.1 writev(9<TCP:[127.0.0.1:1->127.0.0.1:2]>, [...], 2) = 90 <0.0001>";
        let ping = "2 10:00:00.1 writev(9<TCP:[127.0.0.1:1->127.0.0.1:2]>, [...], 2) = 17 <0.0001>";
        let begun = "1 10:00:00.0 fdatasync(3</d/seg.wal> <unfinished ...>";
        let early = |lines: &[&str]| judge(&lines.join("\n")).early;
        assert_eq!(early(&[sync, answer, ping, sync, answer]), 0);
        assert_eq!(early(&[sync, answer, answer]), 1);
        assert_eq!(early(&[begun, answer]), 1);
    }
}
