//! What the kernel says of a server process.

use crate::Failure;
use std::fs;
use std::ops::{AddAssign, Sub};
use std::path::Path;

/// Counters that only grow, of one process or summed over several.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// User and system time, in microseconds. The kernel counts run time exactly; only the split is sampled.
    pub cpu_us: f64,
    /// Bytes handed to the disk layer.
    pub write_bytes: u64,
    pub switches: u64,
}

/// Memory, in KiB.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    pub rss: u64,
    pub peak: u64,
}

impl AddAssign for Usage {
    fn add_assign(&mut self, o: Self) {
        self.cpu_us += o.cpu_us;
        self.write_bytes += o.write_bytes;
        self.switches += o.switches;
    }
}

impl Sub for Usage {
    type Output = Self;
    fn sub(self, o: Self) -> Self {
        Self {
            cpu_us: self.cpu_us - o.cpu_us,
            write_bytes: self.write_bytes.saturating_sub(o.write_bytes),
            switches: self.switches.saturating_sub(o.switches),
        }
    }
}

/// Linux counts in hundredths of a second on every machine we run on.
const TICK_US: f64 = 10_000.0;

/// Reads a process's counters.
pub fn usage(pid: u32) -> Result<Usage, Failure> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in brackets may hold anything, so fields are counted from its end.
    let fields: Vec<&str> = stat.rsplit_once(')').ok_or("stat without a name")?.1.split_ascii_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).ok_or("stat is short");
    let io = fs::read_to_string(format!("/proc/{pid}/io"))?;
    let mut switches = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end between listing and reading.
        let status = fs::read_to_string(task?.path().join("status")).unwrap_or_default();
        switches += field(&status, "voluntary_ctxt_switches:");
    }
    Ok(Usage { cpu_us: (ticks(11)? + ticks(12)?) * TICK_US, write_bytes: field(&io, "write_bytes:"), switches })
}

/// Reads a process's memory.
pub fn memory(pid: u32) -> Result<Memory, Failure> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(Memory { rss: field(&status, "VmRSS:"), peak: field(&status, "VmHWM:") })
}

fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|l| l.strip_prefix(name))
        .and_then(|v| v.split_ascii_whitespace().next())
        .and_then(|v| v.parse().ok())
        .unwrap_or(0)
}

/// Bytes a folder takes on disk, blocks counted, sparse holes not.
pub fn disk_bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
    let below = match fs::read_dir(path) {
        Ok(entries) if meta.is_dir() => entries.flatten().map(|e| disk_bytes(&e.path())).sum(),
        _ => 0,
    };
    meta.blocks() * 512 + below
}
