//! Composition: builds the rooms, hands each its channels, opens the door, and takes everything down in order.

use crate::api::{self, LeaseDesk, LeaseError, LeaseTimes};
use crate::base::RocksOptions;
use crate::config::{self, Config, FirstStart};
use crate::door::{Address, ByteCounts, Door, Entrance, Http2, Listener, NetThreads, ServerTls, net_threads_for, tls};
use crate::env::failpoint;
use crate::env::files::RealFiles;
use crate::mvcc::{DeltaPolicy, RevisionEvents};
use crate::node::{EventSink, Founding, Node, NodeHandle, NodeSettings, Opened, PeerSink, ProposeError, StartError, SweepPace, read_identity};
use crate::gateway::{self, Access, HealthSource, JsonCalls, Pages, ReadFuture, Versions};
use crate::state::Shared;
use crate::telemetry::Metrics;
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
        let foreign = matches!(e, StartError::Foreign { .. });
        let hint = if e.exit_code() == 4 && !foreign && !e.to_string().contains("add it again") { rebuild } else { "" };
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

fn node_settings(config: &Config, metrics: &Arc<Metrics>) -> NodeSettings {
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
        rocks: RocksOptions { block_cache: share(32, 8, 64), write_buffer: (2 * delta).max(MIB as usize), background_jobs: 2 },
        delta: DeltaPolicy { freeze_bytes: delta, inline: false },
        entry_cache: share(64, 4, 32),
        sweep: SweepPace { rows: config.compaction_batch_limit, pause: config.compaction_sleep_interval },
        on_log_write: Box::new({
            let metrics = metrics.clone();
            move |bytes, synced| {
                metrics.wal_bytes.add(bytes as f64);
                if let Some(took) = synced {
                    metrics.wal_fsync.observe_seconds(took);
                }
            }
        }),
        on_checkpoint: Box::new({
            let metrics = metrics.clone();
            move |took| metrics.backend_commit.observe_seconds(took)
        }),
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
    let missing: Vec<&Path> = dir.ancestors().take_while(|d| !d.as_os_str().is_empty() && !d.exists()).collect();
    let make = || {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        // A folder whose name is not durable takes everything in it along when the power goes.
        for made in &missing {
            let parent = made.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            std::fs::File::open(parent)?.sync_all()?;
        }
        Ok(())
    };
    make().map_err(|e: std::io::Error| Failure::new(5, format!("the data directory {} cannot be made: {e}", dir.display())))
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
    let metrics = Metrics::new(config.extensive_metrics);
    let metrics_listeners = bind(&config.listen_metrics_urls)?;
    let http_listeners = bind(&config.listen_client_http_urls)?;
    let opened = Opened::open(node_settings(config, &metrics), founding.as_ref(), RealFiles::shared())?;
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
        counters: counters.clone(),
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
    observe(config, &metrics, &handle, &hub, &counters);
    let pages = pages(&handle, &metrics);
    let calls = match config.grpc_gateway {
        true => Some(JsonCalls::new(grpc.clone(), config.max_request_bytes).map_err(|e| Failure::new(1, e))?),
        false => None,
    };
    let http = gateway::client_routes(&pages, calls, Access { origins: allow(&config.cors), hosts: allow(&config.host_whitelist) });
    let door = Door::new(net, max_connections());
    let open = |listeners: Vec<Listener>, name, grpc: Option<axum::Router>, http: Option<axum::Router>, bytes: &Arc<ByteCounts>| {
        for listener in listeners {
            let address = listener.address().to_string();
            let (grpc, http) = (grpc.clone(), http.clone());
            let entrance = Entrance { name, tls: client_tls.clone(), grpc, http, http2, bytes: bytes.clone() };
            door.open(listener, entrance).map_err(|e| Failure::new(1, e))?;
            tracing::info!(address, "serving {name} traffic");
        }
        Ok::<(), Failure>(())
    };
    let apart = !http_listeners.is_empty();
    open(client_listeners, "client", Some(grpc.clone()), Some(http.clone()).filter(|_| !apart), &metrics.client_bytes)?;
    open(http_listeners, "client http", None, Some(http), &metrics.client_bytes)?;
    open(metrics_listeners, "metrics", None, Some(gateway::metrics_routes(&pages)), &Arc::default())?;

    let urls = config.advertise_client_urls.iter().map(|u| u.to_string()).collect();
    tokio::spawn(publish(handle.clone(), config.name.clone(), urls));
    tokio::spawn(settle_version(handle.clone()));
    tokio::spawn(crate::compactor::run(handle.clone(), config.auto_compaction));
    wait_ready(&handle).await;
    tracing::info!("ready to serve client requests");
    notify_ready();
    Ok(Server { node, hub, door, serving })
}

fn allow(list: &config::AllowList) -> gateway::AllowList {
    match list {
        config::AllowList::All => gateway::AllowList::All,
        config::AllowList::Only(words) => gateway::AllowList::Only(words.clone()),
    }
}

/// What /health and its kin ask.
struct Health(NodeHandle);

impl HealthSource for Health {
    fn alarms(&self) -> Vec<gateway::Alarm> {
        let kind = |a: &crate::state::AlarmEntry| match a.kind {
            entry::AlarmKind::Nospace => Some(gateway::Alarm::NoSpace),
            entry::AlarmKind::Corrupt => Some(gateway::Alarm::Corrupt),
            entry::AlarmKind::None => None,
        };
        self.0.shared().alarms().iter().filter_map(kind).collect()
    }

    fn has_leader(&self) -> bool {
        self.0.has_leader()
    }

    fn is_learner(&self) -> bool {
        self.0.status().is_learner
    }

    fn read(&self, linearizable: bool) -> ReadFuture<'_> {
        Box::pin(async move {
            if linearizable {
                self.0.read_barrier().await.map_err(|e| format!("etcdserver: {e}"))?;
            }
            let probe = entry::Range { key: bytes::Bytes::from_static(b"health"), limit: 1, ..Default::default() };
            self.0.store().range(&probe).map(|_| ()).map_err(|e| format!("etcdserver: mvcc: {e}"))
        })
    }
}

fn pages(node: &NodeHandle, metrics: &Arc<Metrics>) -> Pages {
    let versions = {
        let node = node.clone();
        move || {
            let cluster = Some(node.shared().cluster_version().to_string()).filter(|v| !v.is_empty());
            Versions { server: config::ETCD_VERSION.to_string(), storage: cluster.clone(), cluster }
        }
    };
    let live = {
        let node = node.clone();
        move || {
            let (s, store) = (node.status(), node.store());
            let sizes = store.sizes();
            serde_json::json!({
                "version": config::VERSION,
                "member_id": format!("{:016x}", s.member_id),
                "cluster_id": format!("{:016x}", s.cluster_id),
                "leader": format!("{:016x}", s.leader),
                "term": s.term,
                "committed_index": s.raft_index,
                "applied_index": s.applied_index,
                "revision": store.revision(),
                "compact_revision": store.compact_revision(),
                "swept_revision": store.swept_revision(),
                "bytes_on_disk": sizes.on_disk,
                "bytes_in_use": sizes.in_use,
                "quota_usage_bytes": sizes.quota_usage,
                "leases": node.shared().leases().len(),
                "members": node.shared().members().len(),
                "pending_proposals": node.proposals().0,
            })
        }
    };
    Pages { health: Arc::new(Health(node.clone())), metrics: metrics.clone(), versions: Arc::new(versions), live: Arc::new(live) }
}

/// Lets the metrics page read the rooms' own numbers, at each request for it.
fn observe(config: &Config, metrics: &Arc<Metrics>, node: &NodeHandle, hub: &Arc<Hub>, counters: &Arc<api::Counters>) {
    use std::sync::atomic::Ordering::Relaxed;
    let flag = |on: bool| if on { 1.0 } else { 0.0 };
    let status = node.status();
    Metrics::name(&metrics.server_id, &format!("{:x}", status.member_id));
    Metrics::name(&metrics.server_version, config::ETCD_VERSION);
    metrics.quota.set(config.quota_bytes.map_or(0.0, |q| q as f64));
    let (node, watch, counters) = (node.clone(), hub.counters(), counters.clone());
    let changes = node.leader_change_count();
    metrics.sample_with(move |m| {
        let (s, store) = (node.status(), node.store());
        m.has_leader.set(flag(s.leader != 0));
        m.is_leader.set(flag(s.is_leader));
        m.is_learner.set(flag(s.is_learner));
        m.leader_changes.set(changes.load(Relaxed));
        m.proposals_committed.set(s.raft_index as f64);
        m.proposals_applied.set(s.applied_index as f64);
        let (pending, failed) = node.proposals();
        m.proposals_pending.set(pending as f64);
        m.proposals_failed.set(failed);
        let version = node.shared().cluster_version();
        if !version.is_empty() {
            Metrics::name(&m.cluster_version, version.rsplit_once('.').map_or(version.as_str(), |(minor, _)| minor));
        }
        let sizes = store.sizes();
        m.db_size.set(sizes.on_disk as f64);
        m.db_in_use.set(sizes.in_use as f64);
        m.compact_revision.set(store.compact_revision() as f64);
        m.current_revision.set(store.revision() as f64);
        m.puts.set(store.stats.puts.load(Relaxed));
        m.deletes.set(store.stats.deletes.load(Relaxed));
        m.ranges.set(store.stats.ranges.load(Relaxed));
        m.txns.set(store.stats.txns.load(Relaxed));
        m.compaction_keys.set(store.stats.compacted_rows.load(Relaxed));
        m.watchers.set(watch.watchers() as f64);
        m.watch_streams.set(watch.streams() as f64);
        m.slow_watchers.set(watch.lagging() as f64);
        m.events.set(watch.events());
        for row in counters.read() {
            let (service, method, kind) = row.method.labels();
            let labels = [method, service, kind];
            m.grpc_started.with(&labels).set(row.started);
            m.grpc_received.with(&labels).set(row.received);
            m.grpc_sent.with(&labels).set(row.sent);
            for (code, count) in row.handled.iter().enumerate() {
                m.grpc_handled.with(&[api::counters::CODE_NAMES[code], method, service, kind]).set(*count);
            }
        }
    });
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
