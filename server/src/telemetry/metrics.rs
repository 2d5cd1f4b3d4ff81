//! The metrics: one list gives every instrument its field, name, kind and help text.
//!
//! In: rooms hold an `Arc<Metrics>` and touch its fields; samplers fill the gauges that mirror live state. Out: Prometheus' text form.
//! Invariant: a name that etcd has means here what it means there (with RocksDB for bbolt); dashboards and alerts made for etcd keep working.
//! Names that only describe bbolt's tree, the gRPC proxy, the v2 store or Go are shown with nothing counted, as etcd itself shows most of
//! them: a dashboard that asks for one finds it.

use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};

use super::instrument::{Counter, Family, Gauge, Histogram, Samples};
use super::process::Process;
use crate::door::ByteCounts;

macro_rules! metrics {
    ($($field:ident: $kind:ty = $make:expr, $name:literal, $help:literal;)*) => {
        /// Every instrument, by field. Durations in seconds unless the name says otherwise.
        pub struct Metrics {
            $(#[doc = $help] pub $field: $kind,)*
            /// Latency histograms for each RPC (--metrics=extensive).
            pub extensive: bool,
            /// What gRPC clients sent and got; the client entrance counts into it.
            pub client_bytes: Arc<ByteCounts>,
            samplers: RwLock<Vec<Sampler>>,
            /// Held while a page is made: families that are filled anew for each would be half empty on another's.
            page: Mutex<()>,
            /// The two members of `range_seconds`, so that a read needs no lock.
            range_members: [OnceLock<Arc<Histogram>>; 2],
            /// The members of `request_seconds` that only read, by [`Read`] and success, for the same reason.
            read_members: [[OnceLock<Arc<Histogram>>; 2]; 3],
        }

        impl Metrics {
            fn build(extensive: bool) -> Self {
                Self { $($field: $make,)* extensive, client_bytes: Arc::default(), samplers: RwLock::default(), page: Mutex::default(), range_members: Default::default(), read_members: Default::default() }
            }

            fn write(&self, out: &mut String) {
                $(family(out, $name, $help, &self.$field);)*
            }
        }
    };
}

/// A request that reads and proposes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    Range,
    ReadonlyTxn,
    /// A list of alarms.
    Alarm,
}

impl Read {
    /// As etcd's metrics spell it.
    fn name(self) -> &'static str {
        match self {
            Read::Range => "Range",
            Read::ReadonlyTxn => "ReadonlyTxn",
            Read::Alarm => "Alarm",
        }
    }
}

/// Fills gauges from live state just before a page is made.
type Sampler = Box<dyn Fn(&Metrics) + Send + Sync>;

/// etcd's bounds for disk work: 1 ms to 8.192 s.
fn disk() -> Histogram {
    Histogram::exponential(0.001, 2.0, 14)
}

fn apply() -> Histogram {
    Histogram::exponential(0.0001, 2.0, 20)
}

fn hash() -> Histogram {
    Histogram::exponential(0.01, 2.0, 15)
}

fn handling() -> Histogram {
    Histogram::with_bounds(vec![0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0])
}

/// etcd's bounds for round trips between members: 0.1 ms to 3.3 s.
pub fn round_trip() -> Histogram {
    Histogram::exponential(0.0001, 2.0, 16)
}

fn counter() -> Counter {
    Counter::default()
}

fn gauge() -> Gauge {
    Gauge::default()
}

const RPC: &[&str] = &["grpc_method", "grpc_service", "grpc_type"];
const RPC_CODE: &[&str] = &["grpc_code", "grpc_method", "grpc_service", "grpc_type"];

metrics! {
    cluster_version: Family<Gauge> = Family::new(&["cluster_version"], gauge), "etcd_cluster_version", "1 for the version the cluster's members have agreed on.";
    auth_revision: Gauge = gauge(), "etcd_debugging_auth_revision", "Revision of users and roles.";
    lease_granted: Counter = counter(), "etcd_debugging_lease_granted_total", "Leases granted.";
    lease_renewed: Counter = counter(), "etcd_debugging_lease_renewed_total", "Leases renewed here as leader.";
    lease_revoked: Counter = counter(), "etcd_debugging_lease_revoked_total", "Leases revoked.";
    lease_ttl: Histogram = Histogram::exponential(1.0, 2.0, 24), "etcd_debugging_lease_ttl_total", "Time to live of granted leases, in seconds.";
    lease_expired: Counter = counter(), "etcd_debugging_server_lease_expired_total", "Leases that ran out.";
    compact_revision: Gauge = gauge(), "etcd_debugging_mvcc_compact_revision", "Revision of the last compaction.";
    current_revision: Gauge = gauge(), "etcd_debugging_mvcc_current_revision", "Newest revision.";
    compaction_keys: Counter = counter(), "etcd_debugging_mvcc_db_compaction_keys_total", "Superseded rows removed by compaction.";
    compaction_last: Gauge = gauge(), "etcd_debugging_mvcc_db_compaction_last", "Unix time of the last compaction since the start.";
    compaction_pause: Histogram = Histogram::exponential(1.0, 2.0, 13), "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds", "Length of one step of a compaction, in milliseconds.";
    compaction_total: Histogram = Histogram::exponential(100.0, 2.0, 14), "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds", "Length of whole compactions, in milliseconds.";
    events: Counter = counter(), "etcd_debugging_mvcc_events_total", "Events sent to watchers.";
    keys: Gauge = gauge(), "etcd_debugging_mvcc_keys_total", "Live keys.";
    pending_events: Gauge = gauge(), "etcd_debugging_mvcc_pending_events_total", "Events that wait to be sent.";
    slow_watchers: Gauge = gauge(), "etcd_debugging_mvcc_slow_watcher_total", "Watchers that catch up from history.";
    put_bytes: Gauge = gauge(), "etcd_debugging_mvcc_total_put_size_in_bytes", "Bytes of keys and values put.";
    watch_streams: Gauge = gauge(), "etcd_debugging_mvcc_watch_stream_total", "Open watch streams.";
    watchers: Gauge = gauge(), "etcd_debugging_mvcc_watcher_total", "Open watchers.";
    backend_commit: Histogram = disk(), "etcd_disk_backend_commit_duration_seconds", "Time to write a batch of rows to the store.";
    backend_defrag: Histogram = Histogram::exponential(0.1, 2.0, 13), "etcd_disk_backend_defrag_duration_seconds", "Time of defragmentation calls, which answer at once.";
    backend_snapshot: Histogram = Histogram::exponential(0.01, 2.0, 17), "etcd_disk_backend_snapshot_duration_seconds", "Time to send a snapshot to a client.";
    defrag_inflight: Gauge = gauge(), "etcd_disk_defrag_inflight", "1 while a defragmentation runs.";
    wal_fsync: Histogram = disk(), "etcd_disk_wal_fsync_duration_seconds", "Time to make the log durable.";
    wal_bytes: Gauge = gauge(), "etcd_disk_wal_write_bytes_total", "Bytes written to the log.";
    wal_write: Histogram = disk(), "etcd_disk_wal_write_duration_seconds", "Time to write to the log, without making it durable.";
    read_transactions: Gauge = gauge(), "etcd_mvcc_db_open_read_transactions", "Open read views of the store.";
    db_size: Gauge = gauge(), "etcd_mvcc_db_total_size_in_bytes", "Bytes of the store on disk.";
    db_in_use: Gauge = gauge(), "etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of the store that hold live data.";
    deletes: Counter = counter(), "etcd_mvcc_delete_total", "Deletes applied.";
    hash_seconds: Histogram = hash(), "etcd_mvcc_hash_duration_seconds", "Time to hash the store.";
    hash_rev_seconds: Histogram = hash(), "etcd_mvcc_hash_rev_duration_seconds", "Time to hash the key space at a revision.";
    puts: Counter = counter(), "etcd_mvcc_put_total", "Puts applied.";
    ranges: Counter = counter(), "etcd_mvcc_range_total", "Ranges read.";
    txns: Counter = counter(), "etcd_mvcc_txn_total", "Transactions applied.";
    client_received: Counter = counter(), "etcd_network_client_grpc_received_bytes_total", "Bytes received from clients.";
    client_sent: Counter = counter(), "etcd_network_client_grpc_sent_bytes_total", "Bytes sent to clients.";
    active_peers: Family<Gauge> = Family::new(&["Local", "Remote"], gauge), "etcd_network_active_peers", "1 for peers with an open connection.";
    known_peers: Family<Gauge> = Family::new(&["Local", "Remote"], gauge), "etcd_network_known_peers", "1 for peers of the member list.";
    disconnected_peers: Family<Counter> = Family::new(&["Local", "Remote"], counter), "etcd_network_disconnected_peers_total", "Peer connections lost.";
    peer_received: Family<Counter> = Family::new(&["From"], counter), "etcd_network_peer_received_bytes_total", "Bytes received from a peer.";
    peer_sent: Family<Counter> = Family::new(&["To"], counter), "etcd_network_peer_sent_bytes_total", "Bytes sent to a peer.";
    peer_receive_failures: Family<Counter> = Family::new(&["From"], counter), "etcd_network_peer_received_failures_total", "Receptions from a peer that failed.";
    peer_send_failures: Family<Counter> = Family::new(&["To"], counter), "etcd_network_peer_sent_failures_total", "Sends to a peer that failed.";
    peer_round_trip: Family<Histogram> = Family::new(&["To"], round_trip), "etcd_network_peer_round_trip_time_seconds", "Round trip to a peer.";
    snapshot_send_success: Family<Counter> = Family::new(&["To"], counter), "etcd_network_snapshot_send_success", "Snapshots sent to a peer.";
    snapshot_send_failures: Family<Counter> = Family::new(&["To"], counter), "etcd_network_snapshot_send_failures", "Snapshots that could not be sent to a peer.";
    snapshot_receive_success: Family<Counter> = Family::new(&["From"], counter), "etcd_network_snapshot_receive_success", "Snapshots received from a peer.";
    snapshot_receive_failures: Family<Counter> = Family::new(&["From"], counter), "etcd_network_snapshot_receive_failures", "Snapshots from a peer that failed.";
    apply_seconds: Family<Histogram> = Family::new(&["version", "op", "success"], apply), "etcd_server_apply_duration_seconds", "Time to apply a command, by kind.";
    client_requests: Family<Counter> = Family::new(&["type", "client_api_version"], counter), "etcd_server_client_requests_total", "Client requests by the version clients say they have.";
    feature_enabled: Family<Gauge> = Family::new(&["name", "stage"], gauge), "etcd_server_feature_enabled", "1 for feature gates that are on, 0 for the others.";
    has_leader: Gauge = gauge(), "etcd_server_has_leader", "1 when a leader is known.";
    health_failures: Counter = counter(), "etcd_server_health_failures", "Calls of /health that found something wrong.";
    health_success: Counter = counter(), "etcd_server_health_success", "Calls of /health that found nothing wrong.";
    health_checks: Family<Counter> = Family::new(&["name", "status", "type"], counter), "etcd_server_healthchecks_total", "Checks of /livez and /readyz by outcome.";
    health_check_last: Family<Gauge> = Family::new(&["name", "type"], gauge), "etcd_server_healthcheck", "1 when the last such check of /livez or /readyz went well.";
    heartbeat_failures: Counter = counter(), "etcd_server_heartbeat_send_failures_total", "Heartbeats the leader sent too late.";
    server_id: Family<Gauge> = Family::new(&["server_id"], gauge), "etcd_server_id", "1 for this member's id, in hexadecimal.";
    is_leader: Gauge = gauge(), "etcd_server_is_leader", "1 when this member leads.";
    is_learner: Gauge = gauge(), "etcd_server_is_learner", "1 when this member is a learner.";
    leader_changes: Counter = counter(), "etcd_server_leader_changes_seen_total", "Changes of leader seen.";
    promote_failures: Family<Counter> = Family::new(&["Reason"], counter), "etcd_server_learner_promote_failures", "Learners that could not be promoted while this member led.";
    promote_successes: Counter = counter(), "etcd_server_learner_promote_successes", "Learners promoted while this member led.";
    proposals_applied: Gauge = gauge(), "etcd_server_proposals_applied_total", "Index of the last applied entry.";
    proposals_committed: Gauge = gauge(), "etcd_server_proposals_committed_total", "Index of the last committed entry.";
    proposals_failed: Counter = counter(), "etcd_server_proposals_failed_total", "Proposals that failed.";
    proposals_pending: Gauge = gauge(), "etcd_server_proposals_pending", "Proposals that wait for their commit.";
    log_last_index: Gauge = gauge(), "quorate_log_last_index", "Index of the newest entry in the log, committed or not.";
    log_last_term: Gauge = gauge(), "quorate_log_last_term", "Term of the newest entry in the log: after a lost quorum the member with the highest term, then index, is the furthest.";
    quota_usage: Gauge = gauge(), "quorate_quota_usage_bytes", "Bytes that count against the space quota: the kept history before it is compressed, the same on every member.";
    quota: Gauge = gauge(), "etcd_server_quota_backend_bytes", "Space quota in bytes.";
    range_seconds: Family<Histogram> = Family::new(&["success"], apply), "etcd_server_range_duration_seconds", "Time to read a range.";
    read_indexes_failed: Counter = counter(), "etcd_server_read_indexes_failed_total", "Read rounds that failed.";
    request_seconds: Family<Histogram> = Family::new(&["type", "success"], disk), "etcd_server_request_duration_seconds", "Time from proposal to answer, by kind.";
    slow_apply: Counter = counter(), "etcd_server_slow_apply_total", "Commands whose application took longer than --warning-apply-duration.";
    slow_read_indexes: Counter = counter(), "etcd_server_slow_read_indexes_total", "Read rounds that took too long.";
    snapshot_applying: Gauge = gauge(), "etcd_server_snapshot_apply_in_progress_total", "1 while a snapshot from the leader is installed.";
    server_version: Family<Gauge> = Family::new(&["server_version"], gauge), "etcd_server_version", "1 for the etcd version this server stands for.";
    snap_db_fsync: Histogram = disk(), "etcd_snap_db_fsync_duration_seconds", "Time to make a received snapshot durable.";
    snap_db_save: Histogram = Histogram::exponential(0.1, 2.0, 10), "etcd_snap_db_save_total_duration_seconds", "Time to receive and keep a snapshot.";
    snap_fsync: Histogram = disk(), "etcd_snap_fsync_duration_seconds", "Time to make a snapshot cut for followers durable.";
    grpc_handled: Family<Counter> = Family::new(RPC_CODE, counter), "grpc_server_handled_total", "RPCs that ended, by outcome.";
    grpc_seconds: Family<Histogram> = Family::new(RPC, handling), "grpc_server_handling_seconds", "Time from the first byte of an RPC to its end.";
    grpc_received: Family<Counter> = Family::new(RPC, counter), "grpc_server_msg_received_total", "Messages received in RPCs.";
    grpc_sent: Family<Counter> = Family::new(RPC, counter), "grpc_server_msg_sent_total", "Messages sent in RPCs.";
    grpc_started: Family<Counter> = Family::new(RPC, counter), "grpc_server_started_total", "RPCs begun.";
    fd_limit: Gauge = gauge(), "os_fd_limit", "Files this process may have open.";
    fd_used: Gauge = gauge(), "os_fd_used", "Files this process has open.";
    process_cpu: Seconds = Seconds::default(), "process_cpu_seconds_total", "Processor time used, in user and system mode.";
    process_max_fds: Gauge = gauge(), "process_max_fds", "Files this process may have open.";
    process_network_received: Counter = counter(), "process_network_receive_bytes_total", "Bytes received over the network.";
    process_network_sent: Counter = counter(), "process_network_transmit_bytes_total", "Bytes sent over the network.";
    process_open_fds: Gauge = gauge(), "process_open_fds", "Files this process has open.";
    process_resident: Gauge = gauge(), "process_resident_memory_bytes", "Resident memory.";
    process_start: Gauge = gauge(), "process_start_time_seconds", "Unix time at which this process started.";
    process_virtual: Gauge = gauge(), "process_virtual_memory_bytes", "Virtual memory.";
    process_virtual_max: Gauge = gauge(), "process_virtual_memory_max_bytes", "Virtual memory this process may have.";
}

/// What has no counterpart here, by name and kind: nothing is ever counted.
const NOTHING: &[(&str, &str)] = &[
    ("etcd_debugging_disk_backend_commit_rebalance_duration_seconds", "histogram"),
    ("etcd_debugging_disk_backend_commit_spill_duration_seconds", "histogram"),
    ("etcd_debugging_disk_backend_commit_write_duration_seconds", "histogram"),
    ("etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds", "histogram"),
    ("etcd_debugging_server_watch_send_loop_control_stream_duration_seconds", "histogram"),
    ("etcd_debugging_server_watch_send_loop_progress_duration_seconds", "histogram"),
    ("etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds", "histogram"),
    ("etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds", "histogram"),
    ("etcd_debugging_snap_save_marshalling_duration_seconds", "histogram"),
    ("etcd_debugging_snap_save_total_duration_seconds", "histogram"),
    ("etcd_debugging_store_expires_total", "counter"),
    ("etcd_debugging_store_watch_requests_total", "counter"),
    ("etcd_debugging_store_watchers", "gauge"),
    ("etcd_grpc_proxy_cache_hits_total", "gauge"),
    ("etcd_grpc_proxy_cache_keys_total", "gauge"),
    ("etcd_grpc_proxy_cache_misses_total", "gauge"),
    ("etcd_grpc_proxy_events_coalescing_total", "counter"),
    ("etcd_grpc_proxy_watchers_coalescing_total", "gauge"),
    ("etcd_server_go_version", "gauge"),
];

fn write_nothing(out: &mut String) {
    for (name, kind) in NOTHING {
        let _ = writeln!(out, "# HELP {name} Nothing: this server has no such thing.\n# TYPE {name} {kind}");
        let _ = match *kind {
            "histogram" => writeln!(out, "{name}_bucket{{le=\"+Inf\"}} 0\n{name}_sum 0\n{name}_count 0"),
            _ => writeln!(out, "{name} 0"),
        };
    }
}

/// A counter of fractions, taken over from the kernel.
#[derive(Debug, Default)]
pub struct Seconds(Gauge);

impl Samples for Seconds {
    const KIND: &'static str = "counter";
    fn write(&self, out: &mut String, name: &str, labels: &str) {
        self.0.write(out, name, labels);
    }
}

impl Metrics {
    /// All at zero, except that what etcd shows from its start is shown.
    pub fn new(extensive: bool) -> Arc<Self> {
        let metrics = Self::build(extensive);
        metrics.compact_revision.set(-1.0);
        Process::now();
        Arc::new(metrics)
    }

    /// Adds something that fills gauges just before each page.
    pub fn sample_with(&self, sampler: impl Fn(&Metrics) + Send + Sync + 'static) {
        self.samplers.write().push(Box::new(sampler));
    }

    /// Names the only member of a family whose label is its message, such as a version.
    pub fn name(family: &Family<Gauge>, value: &str) {
        family.clear();
        family.with(&[value]).set(1.0);
    }

    /// Times of ranges that were read, and of those that failed.
    pub fn range_times(&self, well: bool) -> &Histogram {
        let at = usize::from(!well);
        self.range_members[at].get_or_init(|| self.range_seconds.with(&[["true", "false"][at]]))
    }

    /// Times of reads from the request to the answer, by outcome.
    pub fn read_times(&self, read: Read, well: bool) -> &Histogram {
        let at = usize::from(!well);
        self.read_members[read as usize][at].get_or_init(|| self.request_seconds.with(&[read.name(), ["true", "false"][at]]))
    }

    /// Records a check of /livez or /readyz.
    pub fn health_check(&self, kind: &str, name: &str, well: bool) {
        self.health_checks.with(&[name, if well { "success" } else { "error" }, kind]).inc();
        self.health_check_last.with(&[name, kind]).set(f64::from(u8::from(well)));
    }

    /// The page, in Prometheus' text form 0.0.4.
    pub fn render(&self) -> String {
        let _alone = self.page.lock();
        self.client_received.set(self.client_bytes.received.load(Ordering::Relaxed));
        self.client_sent.set(self.client_bytes.sent.load(Ordering::Relaxed));
        self.portrait(Process::now());
        for sampler in &*self.samplers.read() {
            sampler(self);
        }
        let mut out = String::with_capacity(64 << 10);
        self.write(&mut out);
        write_nothing(&mut out);
        out
    }

    fn portrait(&self, p: Process) {
        self.process_cpu.0.set(p.cpu_seconds);
        self.process_start.set(p.start_seconds);
        let gauges = [
            (&self.fd_limit, p.max_fds),
            (&self.process_max_fds, p.max_fds),
            (&self.fd_used, p.open_fds),
            (&self.process_open_fds, p.open_fds),
            (&self.process_resident, p.resident_bytes),
            (&self.process_virtual, p.virtual_bytes),
            (&self.process_virtual_max, p.virtual_max_bytes),
        ];
        gauges.into_iter().for_each(|(gauge, value)| gauge.set(value as f64));
        self.process_network_received.set(p.network_received);
        self.process_network_sent.set(p.network_sent);
    }
}

fn family<T: Samples>(out: &mut String, name: &str, help: &str, instrument: &T) {
    let start = out.len();
    let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {}\n", T::KIND);
    let head = out.len();
    instrument.write(out, name, "");
    // A family without members is not shown, as in etcd.
    if out.len() == head {
        out.truncate(start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// etcd's names and kinds, as a fresh etcd 3.7 shows them; a line that starts with `-` names one we leave out.
    const ETCD_NAMES: &str = include_str!("etcd_names.txt");

    /// A fresh page has every name of etcd's fresh page with the same kind, except those left out on purpose, and no name twice.
    #[test]
    fn names_are_etcds() {
        let metrics = Metrics::new(true);
        for family in [&metrics.server_version, &metrics.cluster_version, &metrics.server_id] {
            Metrics::name(family, "x");
        }
        metrics.feature_enabled.with(&["x", "ALPHA"]).set(0.0);
        metrics.known_peers.with(&["a", "b"]).set(1.0);
        metrics.client_requests.with(&["unary", "3.7"]).inc();
        metrics.apply_seconds.with(&["v3", "Put", "true"]).observe(0.1);
        metrics.request_seconds.with(&["Put", "true"]).observe(0.1);
        metrics.range_seconds.with(&["true"]).observe(0.1);
        let rpc = ["Put", "etcdserverpb.KV", "unary"];
        [&metrics.grpc_started, &metrics.grpc_received, &metrics.grpc_sent].iter().for_each(|f| f.with(&rpc).inc());
        metrics.grpc_handled.with(&["OK", rpc[0], rpc[1], rpc[2]]).inc();
        metrics.grpc_seconds.with(&rpc).observe(0.1);
        let page = metrics.render();
        let ours: Vec<&str> = page.lines().filter_map(|l| l.strip_prefix("# TYPE ")).collect();
        let mut once = ours.clone();
        once.dedup();
        assert_eq!(once.len(), ours.len());
        for line in ETCD_NAMES.lines().filter(|l| !l.starts_with(['#', '-']) && !l.is_empty()) {
            assert!(ours.contains(&line), "{line} is missing");
        }
    }

    /// Reads are requests as well, and stand beside those that propose.
    #[test]
    fn reads_are_requests() {
        let metrics = Metrics::new(false);
        for (read, well) in [(Read::Range, true), (Read::Range, true), (Read::Range, false), (Read::ReadonlyTxn, true)] {
            metrics.read_times(read, well).observe(0.001);
        }
        let page = metrics.render();
        for (labels, count) in [
            ("type=\"Range\",success=\"true\"", 2),
            ("type=\"Range\",success=\"false\"", 1),
            ("type=\"ReadonlyTxn\",success=\"true\"", 1),
        ] {
            assert!(page.contains(&format!("etcd_server_request_duration_seconds_count{{{labels}}} {count}\n")), "{labels}");
        }
    }

    /// Pages that are asked for at the same time are made one after the other: none lacks what another has just cleared.
    #[test]
    fn pages_one_by_one() {
        let metrics = Metrics::new(false);
        metrics.sample_with(|m| {
            m.known_peers.clear();
            (0..50).for_each(|n| m.known_peers.with(&["a", &n.to_string()]).set(1.0));
        });
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        assert_eq!(metrics.render().matches("etcd_network_known_peers{").count(), 50);
                    }
                });
            }
        });
    }

    /// Samplers run before each page.
    #[test]
    fn samplers_fill_gauges() {
        let metrics = Metrics::new(false);
        metrics.sample_with(|m| m.has_leader.set(1.0));
        assert!(metrics.render().contains("\netcd_server_has_leader 1\n"));
    }
}
