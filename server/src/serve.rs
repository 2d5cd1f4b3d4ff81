//! Composition: builds the rooms, hands each its channels, opens the door, and takes everything down in order.

use crate::api::{self, LeaseDesk, LeaseError, LeaseTimes};
use crate::base::RocksOptions;
use crate::config::{self, Config, FirstStart};
use crate::door::{Address, ByteCounts, Door, Entrance, Http2, Listener, NetThreads, ServerTls, net_threads_for, tls};
use crate::env::files::RealFiles;
use crate::mvcc::{DeltaPolicy, RevisionEvents};
use crate::node::{EventSink, Founding, Node, NodeHandle, NodeSettings, Opened, PeerSink, ProposeError, StartError, SweepPace, read_identity};
use crate::state::Shared;
use crate::watch::{Hub, HubOptions};
use quorate_proto::entry::{self, Command, command::Op};
use quorate_proto::state::Member;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Why the server ended before it served, or could not start. The text is for the operator.
#[derive(Debug)]
pub struct Failure {
    pub text: String,
    /// 1: settings or addresses; 3: data directory in use; 4: damaged or foreign data; 5: disk.
    pub code: i32,
}

impl Failure {
    fn new(code: i32, text: impl std::fmt::Display) -> Self {
        Self { text: text.to_string(), code }
    }
}

impl From<StartError> for Failure {
    fn from(e: StartError) -> Self {
        let rebuild = "; the other members are not affected: remove this member from the cluster and add it again with an empty data directory";
        let hint = if e.exit_code() == 4 && !e.to_string().contains("add it again") { rebuild } else { "" };
        Self::new(e.exit_code(), format!("{e}{hint}"))
    }
}

struct HubSink(Arc<Hub>);

impl EventSink for HubSink {
    fn publish(&self, events: Vec<RevisionEvents>) {
        self.0.publish(events);
    }

    fn compacted(&self, revision: i64) {
        self.0.compacted(revision);
    }
}

/// Leases asked of this member: the leader answers by itself.
struct Desk(NodeHandle);

fn lease_error(e: ProposeError) -> LeaseError {
    match e {
        ProposeError::NotLeader => LeaseError::NotPrimary,
        ProposeError::NoLeader => LeaseError::NoLeader,
        ProposeError::Stopped => LeaseError::Stopped,
        _ => LeaseError::TimedOut,
    }
}

#[tonic::async_trait]
impl LeaseDesk for Desk {
    async fn renew(&self, id: i64) -> Result<i64, LeaseError> {
        self.0.renew_here(id).map_err(lease_error)?.ok_or(LeaseError::NotFound)
    }

    async fn time_to_live(&self, id: i64, keys: bool) -> Result<LeaseTimes, LeaseError> {
        let view = self.0.lease_here(id).map_err(lease_error)?.ok_or(LeaseError::NotFound)?;
        let keys = if keys {
            crate::lease::LeaseTable::keys(self.0.store(), id).map_err(|_| LeaseError::Stopped)?
        } else {
            Vec::new()
        };
        Ok(LeaseTimes { granted_ttl: view.granted, remaining_ttl: view.remaining, keys })
    }
}

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

fn node_settings(config: &Config) -> NodeSettings {
    let memory = memory_limit(config);
    let share = |part: u64, least: u64, most: u64| (memory / part).clamp(least * MIB, most * MIB) as usize;
    let delta = share(64, 4, 32);
    NodeSettings {
        data_dir: config.data_dir.clone(),
        wal_dir: config.wal_dir.clone(),
        heartbeat: config.heartbeat_interval,
        election: config.election_timeout,
        pre_vote: config.pre_vote,
        request_timeout: config.request_timeout(),
        catch_up_entries: config.snapshot_catchup_entries,
        no_sync: config.unsafe_no_fsync,
        rocks: RocksOptions { block_cache: share(32, 8, 64), write_buffer: 2 * delta, background_jobs: 2 },
        delta: DeltaPolicy { freeze_bytes: delta, inline: false },
        entry_cache: share(64, 4, 32),
        sweep: SweepPace { rows: config.compaction_batch_limit, pause: config.compaction_sleep_interval },
        on_log_write: Box::new(|_, _| {}),
        on_checkpoint: Box::new(|_| {}),
    }
}

fn founding(config: &Config) -> Result<Option<Founding>, Failure> {
    if read_identity(&config.data_dir)?.is_some() {
        return Ok(None);
    }
    match config.first_start().map_err(|e| Failure::new(i32::from(e.exit_code()), e))? {
        FirstStart::Form(b) => {
            let member = |m: &config::BootstrapMember| Member {
                id: m.id,
                // A member tells its name itself, once it serves.
                peer_urls: m.peer_urls.iter().map(|u| u.to_string()).collect(),
                ..Default::default()
            };
            let members = b.members.iter().map(member).collect();
            Ok(Some(Founding { cluster_id: b.cluster_id, member_id: b.local_id, members }))
        }
        FirstStart::Join(_) => Err(Failure::new(1, "joining an existing cluster (--initial-cluster-state=existing) is not part of this build")),
    }
}

fn make_data_dir(dir: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|e| Failure::new(5, format!("the data directory {} cannot be made: {e}", dir.display())))
}

fn server_tls(config: &Config, side: &config::TlsSettings, hosts: &[config::ListenUrl], name: &str) -> Result<Option<Arc<ServerTls>>, Failure> {
    if !side.is_on() {
        return Ok(None);
    }
    let settings = tls_settings(config, side, hosts, name)?;
    ServerTls::load(settings).map(Some).map_err(|e| Failure::new(1, e))
}

fn tls_settings(config: &Config, side: &config::TlsSettings, hosts: &[config::ListenUrl], name: &str) -> Result<tls::TlsSettings, Failure> {
    let version = |v: config::TlsVersion| match v {
        config::TlsVersion::Tls12 => tls::TlsVersion::Tls12,
        config::TlsVersion::Tls13 => tls::TlsVersion::Tls13,
    };
    let mut out = tls::TlsSettings {
        trusted_ca: side.trusted_ca.clone(),
        client_cert_auth: side.require_client_cert,
        crl: side.crl.clone(),
        allowed_cns: side.allowed_cns.clone(),
        allowed_hostnames: side.allowed_hostnames.clone(),
        cipher_suites: config.tls.cipher_suites.iter().map(|s| s.name.to_string()).collect(),
        min_version: Some(version(config.tls.min)),
        max_version: Some(version(config.tls.max)),
        check_address: name == "peer" && !side.skip_client_san_verification,
        ..Default::default()
    };
    match &side.server {
        Some(pair) => (out.cert, out.key) = (pair.cert.clone(), pair.key.clone()),
        None => {
            let mut names: Vec<String> = hosts.iter().filter_map(|u| u.url().host_port().map(|(h, _)| h.to_string())).collect();
            names.dedup();
            let dir = config.data_dir.join("fixtures").join(name);
            let made = tls::self_signed(&dir, &names, config.tls.self_signed_years).map_err(|e| Failure::new(1, e))?;
            (out.cert, out.key, out.self_signed) = (made.cert, made.key, true);
        }
    }
    if let Some(pair) = &side.dial {
        (out.client_cert, out.client_key) = (Some(pair.cert.clone()), Some(pair.key.clone()));
    }
    Ok(out)
}

fn bind(urls: &[config::ListenUrl]) -> Result<Vec<Listener>, Failure> {
    let one = |url: &config::ListenUrl| Address::parse(&url.url().to_string()).and_then(|a| a.bind()).map_err(|e| Failure::new(1, e));
    urls.iter().map(one).collect()
}

/// Tells systemd, when it asked to be told.
fn notify_ready() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let sent = std::os::unix::net::UnixDatagram::unbound().and_then(|s| s.send_to(b"READY=1\n", Path::new(&path)));
    if let Err(e) = sent {
        tracing::warn!(error = %e, "systemd asked to be told of readiness and could not be reached");
    }
}

/// Tells the cluster this member's name and where clients find it, until it is heard.
async fn publish(node: NodeHandle, name: String, client_urls: Vec<String>) {
    loop {
        let member = node.status().member_id;
        let known = node.shared().members().iter().any(|m| m.id == member && m.name == name && m.client_urls == client_urls);
        if known {
            return;
        }
        let attributes = entry::MemberAttributes { member, name: name.clone(), client_urls: client_urls.clone() };
        match node.propose(Command { op: Some(Op::MemberAttributes(attributes)) }).await {
            Ok(_) => tracing::info!(member_id = format!("{member:016x}"), name, "published local member to cluster through raft"),
            Err(ProposeError::Stopped) => return,
            Err(e) => {
                tracing::warn!(error = %e, "failed to publish local member to cluster through raft");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// The leader writes down the version all members speak.
async fn settle_version(node: NodeHandle) {
    let mut leader = node.leader_changes();
    let version = cluster_version();
    loop {
        if node.shared().cluster_version().as_str() == version {
            return;
        }
        if node.status().is_leader {
            let set = entry::ClusterVersion { version: version.clone() };
            match node.propose(Command { op: Some(Op::ClusterVersion(set)) }).await {
                Ok(_) => tracing::info!(cluster_version = version, "updated cluster version"),
                Err(ProposeError::Stopped) => return,
                Err(_) => {}
            }
        }
        tokio::select! {
            changed = leader.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
        }
    }
}

fn cluster_version() -> String {
    let mut parts = config::ETCD_VERSION.split('.');
    format!("{}.{}.0", parts.next().unwrap_or("3"), parts.next().unwrap_or("7"))
}

/// A server that runs.
pub struct Server {
    node: Node,
    hub: Arc<Hub>,
    door: Door,
    serving: tokio::sync::watch::Sender<bool>,
}

/// Starts everything; returns when clients are served.
pub async fn start(config: &Config) -> Result<Server, Failure> {
    make_data_dir(&config.data_dir)?;
    // Ports first: a second server on the same address must not touch the data.
    let client_listeners = bind(&config.listen_client_urls)?;
    let client_tls = server_tls(config, &config.client_tls, &config.listen_client_urls, "client")?;
    let founding = founding(config)?;
    let opened = Opened::open(node_settings(config), founding.as_ref(), RealFiles::shared())?;
    let hub_options = HubOptions { progress_interval: config.watch_progress_notify_interval, ..Default::default() };
    let hub = Arc::new(Hub::start(opened.store().clone(), hub_options).map_err(|e| Failure::new(5, e))?);
    let peers: Arc<dyn PeerSink> = Arc::new(());
    let identity = opened.identity();
    let node = opened.run(peers, Box::new(HubSink(hub.clone())))?;
    let handle = node.handle().clone();
    tracing::info!(
        member_id = format!("{:016x}", identity.member),
        cluster_id = format!("{:016x}", identity.cluster),
        revision = handle.store().revision(),
        "opened the member"
    );

    let net = Arc::new(NetThreads::start("net", net_threads_for(cores())).map_err(|e| Failure::new(5, e))?);
    for thread in net.handles() {
        let node = handle.clone();
        thread.spawn(async move { node.attach_thread().await });
    }
    let (serving, is_serving) = tokio::sync::watch::channel(true);
    let counters = Arc::<api::Counters>::default();
    let shared: Arc<Shared> = handle.shared().clone();
    let context = api::Context {
        node: handle.clone(),
        store: handle.store().clone(),
        shared,
        hub: hub.clone(),
        leases: Arc::new(Desk(handle.clone())),
        membership: Arc::new(api::StaticMembership),
        snapshots: Arc::new(NoSnapshots),
        serving: is_serving,
        counters,
    };
    let limits = api::Limits {
        max_request_bytes: config.max_request_bytes,
        max_txn_ops: config.max_txn_ops,
        quota_bytes: config.quota_bytes.map_or(-1, |q| q as i64),
        election_timeout: config.election_timeout,
        etcd_version: config::ETCD_VERSION.to_string(),
    };
    let grpc = api::routes(context, limits).into_axum_router();
    let http2 = Http2 {
        max_streams: config.max_concurrent_streams.unwrap_or(u32::MAX),
        ping_after: config.keepalive.map_or(Duration::ZERO, |k| k.interval),
        ping_timeout: config.keepalive.map_or(Duration::from_secs(20), |k| k.timeout),
    };
    let door = Door::new(net, max_connections());
    let bytes = Arc::<ByteCounts>::default();
    for listener in client_listeners {
        let address = listener.local().to_string();
        let entrance =
            Entrance { name: "client", tls: client_tls.clone(), grpc: Some(grpc.clone()), http: None, http2, bytes: bytes.clone() };
        door.open(listener, entrance).map_err(|e| Failure::new(1, e))?;
        tracing::info!(address, "serving client traffic");
    }

    let urls = config.advertise_client_urls.iter().map(|u| u.to_string()).collect();
    tokio::spawn(publish(handle.clone(), config.name.clone(), urls));
    tokio::spawn(settle_version(handle.clone()));
    tokio::spawn(crate::compactor::run(handle.clone(), config.auto_compaction));
    wait_ready(&handle).await;
    tracing::info!("ready to serve client requests");
    notify_ready();
    Ok(Server { node, hub, door, serving })
}

struct NoSnapshots;

#[tonic::async_trait]
impl api::SnapshotSource for NoSnapshots {
    async fn open(&self) -> Result<api::OpenSnapshot, api::SnapshotError> {
        Err(api::SnapshotError("not built in".into()))
    }
}

/// Waits until the cluster has a leader and this member has published itself.
async fn wait_ready(node: &NodeHandle) {
    let mut leader = node.leader_changes();
    let _ = leader.wait_for(|l| *l != 0).await;
    let _ = node.read_barrier().await;
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

fn max_connections() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    #[allow(unsafe_code)]
    // SAFETY: getrlimit writes the struct it is given and nothing else.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0;
    if known { (limit.rlim_cur as usize).saturating_sub(150) } else { 874 }
}

/// How long open requests may take to end when the server stops.
const DRAIN: Duration = Duration::from_secs(3);

impl Server {
    /// Hands leadership over, ends the requests, leaves a checkpoint.
    pub async fn stop(self) {
        let handle = self.node.handle().clone();
        self.serving.send_replace(false);
        self.hand_over(&handle).await;
        self.hub.close();
        self.door.close(DRAIN).await;
        let node = self.node;
        let stopped = tokio::task::spawn_blocking(move || node.stop()).await;
        if stopped.is_err() {
            tracing::error!("the node did not stop cleanly");
        }
    }

    async fn hand_over(&self, handle: &NodeHandle) {
        let status = handle.status();
        let others: Vec<u64> = handle.shared().members().iter().filter(|m| !m.learner && m.id != status.member_id).map(|m| m.id).collect();
        if !status.is_leader {
            return;
        }
        for to in others {
            if handle.transfer_leader(to).await.is_ok() {
                tracing::info!(to = format!("{to:016x}"), "handed leadership over");
                return;
            }
        }
    }
}
