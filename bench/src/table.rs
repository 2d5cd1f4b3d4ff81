//! The table: medians of kept results and their ratios, as markdown.

use crate::Failure;
use crate::compare::Run;
use crate::summary::median;
use clap::Args;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

#[derive(Args, Debug)]
pub struct Options {
    /// Results of `compare`
    #[arg(long, default_value = "bench.jsonl")]
    pub results: PathBuf,
    /// Also put the table between the marks of this file
    #[arg(long)]
    pub into: Option<PathBuf>,
    /// What Quorate was built from
    #[arg(long, default_value = "unknown")]
    pub commit: String,
}

/// A number's name in results, its heading, its digits after the point.
const COLUMNS: &[(&str, &str, usize)] = &[
    ("cpu_us_op", "server CPU, us/op", 1),
    ("p50_us", "p50, us", 0),
    ("p99_us", "p99, us", 0),
    ("throughput", "op/s", 0),
    ("write_bytes_op", "disk bytes/op", 0),
    ("wal_syncs_op", "log syncs/op", 3),
    ("sync_calls_op", "sync calls/op", 3),
    ("switches_op", "switches/op", 2),
    ("rss_mib", "RSS, MiB", 1),
    ("peak_mib", "peak RSS, MiB", 1),
    ("disk_mib", "disk, MiB", 1),
    ("first_start_s", "first start, s", 3),
    ("restart_s", "restart, s", 3),
    ("cpu_s", "restart CPU, s", 3),
    ("cpu_percent", "idle CPU, %", 2),
    ("switches_s", "idle switches/s", 0),
];

const BEGIN: &str = "<!-- table: begin -->";
const END: &str = "<!-- table: end -->";

/// Prints the table, and writes it into a page.
pub fn print(options: &Options) -> Result<(), Failure> {
    let runs = fs::read_to_string(&options.results)?.lines().map(serde_json::from_str).collect::<Result<Vec<Run>, _>>()?;
    let table = format!("{}\n{}", setting(&options.commit), render(&runs));
    println!("{table}");
    if let Some(path) = &options.into {
        let page = fs::read_to_string(path)?;
        let (head, rest) = page.split_once(BEGIN).ok_or_else(|| format!("{} has no line {BEGIN}", path.display()))?;
        let (_, tail) = rest.split_once(END).ok_or_else(|| format!("{} has no line {END}", path.display()))?;
        fs::write(path, format!("{head}{BEGIN}\n{table}{END}{tail}"))?;
    }
    Ok(())
}

fn setting(commit: &str) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let model = read("/proc/cpuinfo")
        .lines()
        .find_map(|l| l.strip_prefix("model name"))
        .map_or_else(String::new, |m| m.trim_start_matches([' ', '\t', ':']).to_owned());
    let load = read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned();
    let date = Command::new("date")
        .arg("+%Y-%m-%d")
        .output()
        .map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
        .unwrap_or_default();
    format!(
        "{date}, commit {commit}, {cores} cores ({model}), load average at the end {load}. Each cell: etcd / quorate, and quorate's part of etcd's.\n"
    )
}

fn render(runs: &[Run]) -> String {
    let mut out = String::new();
    for stage in unique(runs.iter().map(|r| r.stage.as_str())) {
        let of_stage: Vec<&Run> = runs.iter().filter(|r| r.stage == stage).collect();
        out += &format!("\n**{stage}**\n\n| | pairs |");
        let columns: Vec<_> = COLUMNS.iter().filter(|(name, ..)| of_stage.iter().any(|r| r.numbers.contains_key(*name))).collect();
        columns.iter().for_each(|(_, heading, _)| out += &format!(" {heading} |"));
        out += &format!("\n|---|---|{}\n", "---|".repeat(columns.len()));
        for row in unique(of_stage.iter().map(|r| r.row.as_str())) {
            let of = |server: &str| {
                of_stage.iter().filter(|r| r.row == row && r.server == server && r.error.is_none()).copied().collect::<Vec<_>>()
            };
            let (etcd, quorate) = (of("etcd"), of("quorate"));
            out += &format!("| {row} | {} |", etcd.len().min(quorate.len()));
            for (name, _, digits) in &columns {
                let middle = |runs: &[&Run]| median(runs.iter().filter_map(|r| r.numbers.get(*name).copied()).collect());
                out += &cell(middle(&etcd), middle(&quorate), *digits);
            }
            out.push('\n');
            for failed in of_stage.iter().filter(|r| r.row == row && r.error.is_some()) {
                out += &format!(
                    "| {row}: {} failed: {} | |{}\n",
                    failed.server,
                    failed.error.as_deref().unwrap_or_default().replace('|', "/"),
                    " |".repeat(columns.len())
                );
            }
        }
    }
    out
}

fn cell(etcd: Option<f64>, quorate: Option<f64>, digits: usize) -> String {
    let show = |n: Option<f64>| n.map_or_else(|| "-".to_owned(), |n| format!("{n:.digits$}"));
    match (etcd, quorate) {
        (None, None) => " |".to_owned(),
        (Some(e), Some(q)) if e > 0.0 => format!(" {} / {} = **{:.2}** |", show(etcd), show(quorate), q / e),
        _ => format!(" {} / {} |", show(etcd), show(quorate)),
    }
}

/// In order of first appearance.
fn unique<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for name in names {
        if !seen.contains(&name) {
            seen.push(name);
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cell shows both medians and quorate's part; a number one side lacks is a dash.
    #[test]
    fn cells() {
        assert_eq!(cell(Some(80.0), Some(20.0), 1), " 80.0 / 20.0 = **0.25** |");
        assert_eq!(cell(Some(80.0), None, 0), " 80 / - |");
    }
}
