//! Memory budgets and the node's settings, from flags.

use super::meter::Listener;
use crate::base::RocksOptions;
use crate::config::Config;
use crate::env::failpoint;
use crate::mvcc::DeltaPolicy;
use crate::node::{Checks, NodeSettings, SweepPace};
use crate::telemetry::Metrics;
use std::sync::Arc;

/// Bytes of memory this process may plan with: the flag, else the cgroup's limit, else the machine's memory.
fn memory_limit(config: &Config) -> u64 {
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok().filter(|v| *v < 1 << 50);
    let machine = || {
        let text = std::fs::read_to_string("/proc/meminfo").ok()?;
        let line = text.lines().find(|l| l.starts_with("MemTotal:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib << 10)
    };
    let cgroup = number("/sys/fs/cgroup/memory.max").or_else(|| number("/sys/fs/cgroup/memory/memory.limit_in_bytes"));
    config.memory_limit_bytes.or(cgroup).or_else(machine).unwrap_or(1 << 30)
}

const MIB: u64 = 1 << 20;

pub(crate) fn node_settings(config: &Config, metrics: &Arc<Metrics>) -> NodeSettings {
    let memory = memory_limit(config);
    let share = |part: u64, least: u64, most: u64| (memory / part).clamp(least * MIB, most * MIB) as usize;
    let delta = failpoint::delta_bytes().map_or_else(|| share(64, 4, 32), |bytes| bytes as usize);
    NodeSettings {
        data_dir: config.data_dir.clone(),
        wal_dir: config.wal_dir.clone(),
        heartbeat: config.heartbeat_interval,
        election: config.election_timeout,
        pre_vote: config.pre_vote,
        request_timeout: config.request_timeout(),
        catch_up_entries: config.snapshot_catchup_entries,
        no_sync: config.unsafe_no_fsync,
        rocks: RocksOptions {
            block_cache: share(32, 8, 64),
            write_buffer: (2 * delta).max(MIB as usize),
            ..RocksOptions::default()
        },
        delta: DeltaPolicy { freeze_bytes: delta, inline: false },
        entry_cache: share(64, 4, 32),
        sweep: SweepPace { rows: config.compaction_batch_limit, pause: config.compaction_sleep_interval },
        meter: Listener::new(metrics.clone(), config.warning_apply_duration),
        checks: Checks {
            history: config.corrupt_check_interval,
            compactions: Some(config.compact_hash_check_interval).filter(|_| config.features.compact_hash_check),
        },
    }
}
