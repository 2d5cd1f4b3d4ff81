//! The finished configuration: plain data, typed and checked, units in the types. In: nothing. Out: [`Config`], made by
//! `check.rs` only. Other rooms take what they need from it and check nothing again.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::gates::FeatureGates;
use super::tls::{TlsBounds, TlsSettings};
use super::url::{ListenUrl, Url};

/// Everything the server is told from outside.
///
/// Invariants, kept by the checks that make it:
/// - `heartbeat_interval` > 0 and `election_timeout` is 5 heartbeats to 50 s;
/// - `listen_peer_urls`, `listen_client_urls` and the two advertise lists hold at least one URL each;
/// - every TLS listen URL has a certificate, given or to be made;
/// - durations whose zero means "off" are `Option`s, and `Some` is never zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub name: String,
    pub data_dir: PathBuf,
    /// `None` puts the raft log under `data_dir`.
    pub wal_dir: Option<PathBuf>,
    /// Entries applied between two trims of the raft log, > 0.
    pub snapshot_count: u64,
    /// Entries kept behind a trim, > 0.
    pub snapshot_catchup_entries: u64,

    pub heartbeat_interval: Duration,
    pub election_timeout: Duration,
    pub initial_election_tick_advance: bool,
    pub pre_vote: bool,
    /// At least 5 s.
    pub peer_read_timeout: Duration,
    /// At least 5 s.
    pub peer_write_timeout: Duration,

    pub listen_peer_urls: Vec<ListenUrl>,
    pub listen_client_urls: Vec<ListenUrl>,
    /// When not empty, HTTP is served here and no longer at `listen_client_urls`.
    pub listen_client_http_urls: Vec<ListenUrl>,
    pub listen_metrics_urls: Vec<ListenUrl>,
    pub advertise_peer_urls: Vec<Url>,
    pub advertise_client_urls: Vec<Url>,
    pub socket_reuse_port: bool,
    pub socket_reuse_address: bool,

    /// As written; read by [`Config::first_start`], for a member without data only.
    pub initial_cluster: String,
    pub initial_cluster_state: ClusterState,
    pub initial_cluster_token: String,
    pub strict_reconfig_check: bool,
    pub max_learners: u32,
    pub force_new_cluster: bool,

    /// Bytes the data may grow to; `None` is no bound.
    pub quota_bytes: Option<u64>,
    /// Operations in one transaction; 0 refuses every transaction with any.
    pub max_txn_ops: usize,
    /// Bytes of one client request, > 0.
    pub max_request_bytes: usize,
    /// Streams of one connection; `None` is no bound.
    pub max_concurrent_streams: Option<u32>,
    /// Clients that ping more often are cut off; `None` allows any rate.
    pub keepalive_min_time: Option<Duration>,
    /// Pings from the server; `None` sends none.
    pub keepalive: Option<Keepalive>,

    pub tls: TlsBounds,
    pub client_tls: TlsSettings,
    pub peer_tls: TlsSettings,
    pub cors: AllowList,
    pub host_whitelist: AllowList,

    pub auth_token: AuthToken,
    /// 4 to 31.
    pub bcrypt_cost: u32,

    pub auto_compaction: AutoCompaction,
    /// Revisions in one step of a compaction, > 0.
    pub compaction_batch_limit: usize,
    /// Rest between two steps.
    pub compaction_sleep_interval: Duration,
    /// At least 100 ms.
    pub watch_progress_notify_interval: Duration,
    pub corrupt_check_interval: Option<Duration>,
    pub compact_hash_check_interval: Duration,
    pub downgrade_check_interval: Option<Duration>,
    pub warning_apply_duration: Duration,
    pub warning_unary_request_duration: Duration,

    pub grpc_gateway: bool,
    /// Latency histograms for each RPC.
    pub extensive_metrics: bool,
    pub log: LogSettings,
    pub features: FeatureGates,
    /// Never wait for the disk. Loses data when the machine stops.
    pub unsafe_no_fsync: bool,

    /// File that says how an empty disk becomes a member; the initial cluster's flags are not read then.
    pub boot_ticket: Option<PathBuf>,
    /// Bytes all memory budgets are scaled to; `None` takes the cgroup's or the host's.
    pub memory_limit_bytes: Option<u64>,
    /// Bytes a second at which snapshots go to followers; `None` is no bound.
    pub snapshot_rate_bytes_per_second: Option<u64>,
}

impl Config {
    /// Time a request may take before it is given up: five seconds for queues and disk, and two elections.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + 2 * self.election_timeout
    }

    /// Whole heartbeats in an election timeout; at least 5.
    pub fn election_ticks(&self) -> usize {
        (self.election_timeout.as_millis() / self.heartbeat_interval.as_millis().max(1)) as usize
    }
}

/// Whether a member without data forms a cluster or joins one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterState {
    New,
    Existing,
}

/// Pings from the server on quiet connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    pub interval: Duration,
    pub timeout: Duration,
}

/// All, or only those named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowList {
    All,
    Only(BTreeSet<String>),
}

impl AllowList {
    pub fn allows(&self, word: &str) -> bool {
        match self {
            AllowList::All => true,
            AllowList::Only(words) => words.contains(word),
        }
    }
}

/// How users prove who they are after they have logged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthToken {
    /// No tokens are given out, so only certificates name users.
    None,
    /// Random tokens kept in memory; `ttl` counts from the last use.
    Simple { ttl: Duration },
    /// Signed tokens. At least one key file is given; with a public key alone tokens can be checked but not made.
    Jwt { method: JwtMethod, public_key: Option<PathBuf>, private_key: Option<PathBuf>, ttl: Duration },
}

/// Signing methods, named as in the JWT registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JwtMethod {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    Hs256,
    Hs384,
    Hs512,
    EdDsa,
}

/// How history is thinned out without being asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoCompaction {
    Off,
    /// Keep this much time; never zero.
    Periodic(Duration),
    /// Keep this many revisions; never zero.
    Revision(u64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    pub level: LogLevel,
    pub format: LogFormat,
    /// At least one.
    pub outputs: Vec<LogOutput>,
    /// How the file among the outputs is rotated; there is at most one file then.
    pub rotation: Option<LogRotation>,
}

/// When a log file is full, and what becomes of full ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRotation {
    /// > 0.
    pub max_bytes: u64,
    /// `None` keeps full files of any age.
    pub max_age: Option<Duration>,
    /// 0 keeps any number of full files.
    pub max_backups: usize,
    /// Names of full files carry local time, not UTC.
    pub local_time: bool,
    pub compress: bool,
}

/// Lines below the level are dropped. Panic and Fatal, which etcd also knows, leave no line but the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
    Panic,
    Fatal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Json,
    Console,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogOutput {
    Stderr,
    Stdout,
    /// systemd's journal; never together with another output.
    Journal,
    /// Appended to.
    File(PathBuf),
}
