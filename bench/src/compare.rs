//! Two servers side by side: fresh members, alternating runs, every result kept.
//!
//! In: the two programs. Out: one JSON line a run, appended to a file that `table` reads.
//! Machine noise hits both alike because runs alternate, and what counts is the server's own CPU time, not the clock.
//! Counters are read shortly after the last answer, so that work a server put off is in the bill.

mod stages;

use crate::member::Program;
use crate::{Failure, certificates};
use clap::Args;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;

#[derive(Args, Debug)]
pub struct Options {
    /// etcd's program
    #[arg(long)]
    pub etcd: PathBuf,
    /// Quorate's program
    #[arg(long)]
    pub quorate: PathBuf,
    /// Folder for data; both servers get one on the same disk
    #[arg(long, default_value = "bench.data")]
    pub data: PathBuf,
    /// Results are appended here, a JSON line each
    #[arg(long, default_value = "bench.jsonl")]
    pub results: PathBuf,
    /// Pairs of runs for each workload (default 5; with --quick 2)
    #[arg(long)]
    pub pairs: Option<usize>,
    /// Two pairs unless told, a quarter of the operations, 100,000 keys instead of 1,000,000
    #[arg(long)]
    pub quick: bool,
    /// Only rows whose name contains one of these, comma separated
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<String>,
    /// Keys of the large stage (default 1,000,000)
    #[arg(long)]
    pub keys: Option<u64>,
    /// First of the ports used
    #[arg(long, default_value_t = 23_790)]
    pub port: u16,
}

/// One measured run of one server, as kept: numbers by name (`cpu_us`, `p50_us`, ...; their units are in the names).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    pub stage: String,
    pub row: String,
    pub server: String,
    pub numbers: BTreeMap<String, f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The runner's state: where results go, and what to run at all.
struct Runner {
    options: Options,
    programs: [Program; 2],
    results: File,
    tls: certificates::Certificates,
}

/// Runs all stages.
pub fn run(options: &Options) -> Result<(), Failure> {
    let options = Options {
        data: std::path::absolute(&options.data)?,
        pairs: options.pairs.or(Some(if options.quick { 2 } else { 5 })),
        only: options.only.clone(),
        etcd: options.etcd.clone(),
        quorate: options.quorate.clone(),
        results: options.results.clone(),
        ..*options
    };
    fs::create_dir_all(&options.data)?;
    let program = |name: &str, path: &PathBuf| Program { name: name.to_owned(), path: path.clone(), extra: Vec::new() };
    let mut runner = Runner {
        programs: [program("etcd", &options.etcd), program("quorate", &options.quorate)],
        results: File::options().create(true).append(true).open(&options.results)?,
        tls: certificates::make(&options.data.join("tls"))?,
        options,
    };
    runner.stages();
    Ok(())
}

impl Runner {
    fn pairs(&self) -> usize {
        self.options.pairs.unwrap_or(1)
    }

    fn wants(&self, stage: &str, row: &str) -> bool {
        let name = format!("{stage}: {row}");
        self.options.only.is_empty() || self.options.only.iter().any(|o| name.contains(o.as_str()))
    }

    fn keep(&mut self, run: &Run) -> Result<(), Failure> {
        let line = serde_json::to_string(run)?;
        eprintln!("{line}");
        writeln!(self.results, "{line}")?;
        Ok(())
    }
}
