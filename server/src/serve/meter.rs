//! The desk's listener: what its threads tell becomes metrics, and a line in the log when a command took too long.

use crate::node::Meter;
use crate::telemetry::{Histogram, Metrics};
use crate::types::LeaseId;
use parking_lot::RwLock;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Writes into the metrics.
pub(crate) struct Listener {
    metrics: Arc<Metrics>,
    /// `--warning-apply-duration`.
    slow: Duration,
    applied: Members,
    requested: Members,
}

/// Histograms by operation and success, found without the family's lock. There are few, so a list is as good as a map.
#[derive(Default)]
struct Members(RwLock<Vec<(&'static str, bool, Arc<Histogram>)>>);

impl Members {
    fn observe(&self, op: &'static str, well: bool, took: Duration, make: impl Fn(&str) -> Arc<Histogram>) {
        let found = |list: &[(&'static str, bool, Arc<Histogram>)]| {
            list.iter().find(|m| m.1 == well && std::ptr::eq(m.0, op)).map(|m| m.2.observe_seconds(took)).is_some()
        };
        if !found(&self.0.read()) {
            let histogram = make(if well { "true" } else { "false" });
            histogram.observe_seconds(took);
            self.0.write().push((op, well, histogram));
        }
    }
}

impl Listener {
    pub(crate) fn new(metrics: Arc<Metrics>, slow: Duration) -> Arc<Self> {
        Arc::new(Self { metrics, slow, applied: Members::default(), requested: Members::default() })
    }
}

fn millis(took: Duration) -> f64 {
    took.as_secs_f64() * 1000.0
}

impl Meter for Listener {
    fn log_written(&self, bytes: u64, wrote: Duration, synced: Option<Duration>) {
        self.metrics.wal_bytes.add(bytes as f64);
        self.metrics.wal_write.observe_seconds(wrote);
        if let Some(took) = synced {
            self.metrics.wal_fsync.observe_seconds(took);
        }
    }

    fn checkpoint(&self, took: Duration) {
        self.metrics.backend_commit.observe_seconds(took);
    }

    fn applied(&self, op: &'static str, well: bool, took: Duration) {
        self.applied.observe(op, well, took, |success| self.metrics.apply_seconds.with(&["v3", op, success]));
        if took > self.slow {
            self.metrics.slow_apply.inc();
            tracing::warn!(took = ?took, "expected-duration" = ?self.slow, request = op, "apply request took too long");
        }
    }

    fn requested(&self, op: &'static str, well: bool, took: Duration) {
        self.requested.observe(op, well, took, |success| self.metrics.request_seconds.with(&[op, success]));
    }

    fn lease_granted(&self, _: LeaseId, ttl: i64) {
        self.metrics.lease_granted.inc();
        self.metrics.lease_ttl.observe(ttl as f64);
    }

    fn lease_revoked(&self, _: LeaseId) {
        self.metrics.lease_revoked.inc();
    }

    fn lease_renewed(&self) {
        self.metrics.lease_renewed.inc();
    }

    fn leases_expired(&self, count: usize) {
        self.metrics.lease_expired.add(count as u64);
    }

    fn sweep_step(&self, took: Duration) {
        self.metrics.compaction_pause.observe(millis(took));
    }

    fn swept(&self, took: Duration) {
        self.metrics.compaction_total.observe(millis(took));
        self.metrics.compaction_last.set(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs() as f64));
    }

    fn installing(&self, now: bool) {
        self.metrics.snapshot_applying.set(f64::from(u8::from(now)));
    }

    fn late_heartbeat(&self) {
        self.metrics.heartbeat_failures.inc();
    }

    fn slow_read_round(&self) {
        self.metrics.slow_read_indexes.inc();
    }

    fn read_failed(&self) {
        self.metrics.read_indexes_failed.inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told is on the page: by operation and outcome, and slow commands counted.
    #[test]
    fn told_and_shown() {
        let metrics = Metrics::new(false);
        let listener = Listener::new(metrics.clone(), Duration::from_millis(100));
        for (op, well, took) in [("Put", true, 1), ("Put", true, 2), ("Put", false, 1), ("Txn", true, 200)] {
            listener.applied(op, well, Duration::from_millis(took));
            listener.requested(op, well, Duration::from_millis(took));
        }
        listener.log_written(512, Duration::from_millis(1), Some(Duration::from_millis(2)));
        listener.lease_granted(1, 60);
        listener.leases_expired(2);
        let page = metrics.render();
        for line in [
            "etcd_server_apply_duration_seconds_count{version=\"v3\",op=\"Put\",success=\"true\"} 2",
            "etcd_server_apply_duration_seconds_count{version=\"v3\",op=\"Put\",success=\"false\"} 1",
            "etcd_server_request_duration_seconds_count{type=\"Txn\",success=\"true\"} 1",
            "etcd_server_slow_apply_total 1",
            "etcd_disk_wal_write_bytes_total 512",
            "etcd_disk_wal_write_duration_seconds_count 1",
            "etcd_debugging_lease_granted_total 1",
            "etcd_debugging_server_lease_expired_total 2",
        ] {
            assert!(page.lines().any(|l| l == line), "{line}");
        }
    }
}
