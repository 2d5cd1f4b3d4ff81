//! What the kernel knows of this process, read from /proc; zero where it cannot be read.

use std::fs;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

/// The kernel's clock ticks and page size in /proc on every Linux this server is built for.
const TICKS_PER_SECOND: f64 = 100.0;

/// A snapshot. Times in seconds, sizes in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    pub cpu_seconds: f64,
    pub resident_bytes: u64,
    pub virtual_bytes: u64,
    /// `u64::MAX` is no limit.
    pub virtual_max_bytes: u64,
    pub open_fds: u64,
    pub max_fds: u64,
    pub start_seconds: f64,
    /// Over all interfaces of the network namespace except the loopback one.
    pub network_received: u64,
    pub network_sent: u64,
}

impl Process {
    pub fn now() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let (status, limits) = (read("/proc/self/status"), read("/proc/self/limits"));
        let (network_received, network_sent) = network(&read("/proc/net/dev"));
        Self {
            cpu_seconds: cpu(&read("/proc/self/stat")),
            resident_bytes: kib(&status, "VmRSS:"),
            virtual_bytes: kib(&status, "VmSize:"),
            virtual_max_bytes: limit(&limits, "Max address space"),
            open_fds: fs::read_dir("/proc/self/fd").map_or(0, |dir| dir.count() as u64),
            max_fds: limit(&limits, "Max open files"),
            start_seconds: start(),
            network_received,
            network_sent,
        }
    }
}

/// User and system time; the command's name, in parentheses, may hold anything, so fields are counted after it.
fn cpu(stat: &str) -> f64 {
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let ticks: f64 = after.split_whitespace().skip(11).take(2).filter_map(|f| f.parse::<f64>().ok()).sum();
    ticks / TICKS_PER_SECOND
}

fn kib(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|l| l.strip_prefix(name));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// The soft limit.
fn limit(limits: &str, name: &str) -> u64 {
    let word = limits.lines().find_map(|l| l.strip_prefix(name)).and_then(|l| l.split_whitespace().next());
    word.map_or(0, |w| w.parse().unwrap_or(u64::MAX))
}

fn network(dev: &str) -> (u64, u64) {
    let mut sums = (0, 0);
    for (name, row) in dev.lines().filter_map(|l| l.split_once(':')) {
        if name.trim() != "lo" {
            let mut fields = row.split_whitespace().map(|f| f.parse().unwrap_or(0));
            sums.0 += fields.next().unwrap_or(0);
            sums.1 += fields.nth(7).unwrap_or(0);
        }
    }
    sums
}

/// When this process first asked, which is at its start: /proc gives the start relative to a boot time that clock changes move.
fn start() -> f64 {
    static START: OnceLock<f64> = OnceLock::new();
    *START.get_or_init(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's tables are read right.
    #[test]
    fn tables() {
        assert_eq!(cpu("1 (a) b) S 1 1 1 0 -1 4 0 0 0 0 150 50 0 0"), 2.0);
        assert_eq!(kib("Name:\tx\nVmRSS:\t  12 kB\n", "VmRSS:"), 12288);
        let limits = "Max open files            1024   4096   files\nMax address space         unlimited unlimited bytes\n";
        assert_eq!((limit(limits, "Max open files"), limit(limits, "Max address space")), (1024, u64::MAX));
        let dev = "Inter-| Receive\n face |bytes\n  lo: 5 1 0 0 0 0 0 0 5 1\neth0: 7 1 0 0 0 0 0 0 9 1 0\n";
        assert_eq!(network(dev), (7, 9));
    }

    /// This process is alive.
    #[test]
    fn self_portrait() {
        let now = Process::now();
        assert!(now.resident_bytes > 0 && now.open_fds > 0 && now.max_fds >= now.open_fds && now.start_seconds > 1e9);
    }
}
