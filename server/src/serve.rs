//! Composition: builds the rooms, hands each its channels, opens the door, and takes everything down in order.

use crate::api::{self, LeaseDesk, LeaseError, LeaseTimes};
use crate::config::{self, Config};
use crate::door::{Address, ClientTls, Direct, Door, Entrance, Http2, Listener, NetThreads, net_threads_for};
use crate::env::files::{Files, RealFiles};
use crate::gateway::{self, Access, JsonCalls};
use crate::membership::{self, Desk, DeskSettings, departure, versions};
use crate::mvcc::RevisionEvents;
use crate::node::{EventSink, Node, NodeHandle, Opened, PeerSink, ProposeError, StartError, stand_alone};
use crate::peer::{Dial, LeaseForwarder, PeerSettings, Peers, Speaks};
use crate::state::Shared;
use crate::telemetry::Metrics;
use crate::watch::{Hub, HubOptions};
use quorate_proto::entry::{self, Command, command::Op};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tonic::service::Routes;
use tower::Service;

/// Why the server ended before it served, or could not start. The text is for the operator.
#[derive(Debug)]
pub struct Failure {
    pub text: String,
    /// 1: settings or addresses; 3: data directory in use; 4: damaged or foreign data; 5: disk; 6: removed from the cluster.
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
        let hint = if e.wants_rebuild() && !e.to_string().contains("add it again") { rebuild } else { "" };
        Self::new(e.exit_code(), format!("{e}{hint}"))
    }
}

mod budget;
pub mod compare;
mod meter;
pub(crate) use budget::node_settings;
pub mod files;
mod join;
mod pages;
mod snapshots;
mod tls;

/// Leases asked of this member; the leader's answer counts.
struct Leases(LeaseForwarder);

fn lease_error(e: ProposeError) -> LeaseError {
    match e {
        ProposeError::NotLeader => LeaseError::NotPrimary,
        ProposeError::NoLeader => LeaseError::NoLeader,
        ProposeError::LeaderChanged => LeaseError::LeaderChanged,
        ProposeError::Stopped => LeaseError::Stopped,
        _ => LeaseError::TimedOut,
    }
}

#[tonic::async_trait]
impl LeaseDesk for Leases {
    async fn renew(&self, id: i64) -> Result<i64, LeaseError> {
        self.0.renew(id).await.map_err(lease_error)?.ok_or(LeaseError::NotFound)
    }

    async fn time_to_live(&self, id: i64, keys: bool) -> Result<LeaseTimes, LeaseError> {
        let (view, keys) = self.0.time_to_live(id, keys).await.map_err(lease_error)?.ok_or(LeaseError::NotFound)?;
        Ok(LeaseTimes { granted_ttl: view.granted, remaining_ttl: view.remaining, keys })
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

    fn reset(&self, revision: i64) {
        self.0.reset(revision);
    }
}

pub(crate) fn make_data_dir(dir: &Path) -> Result<(), Failure> {
    RealFiles.create_dir(dir).map_err(|e| Failure::new(5, format!("the data directory {} cannot be made: {e}", dir.display())))
}

fn bind(urls: &[config::ListenUrl], shared: bool) -> Result<Vec<Listener>, Failure> {
    let parsed: Result<Vec<Address>, _> = urls.iter().map(|url| Address::parse(&url.url().to_string())).collect();
    parsed.and_then(|addresses| Address::bind_all(&addresses, shared)).map_err(|e| Failure::new(1, e))
}

/// Tells systemd, when it asked to be told.
fn notify_ready() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    // A name that begins with an at sign is one of Linux's own names, which no file stands for.
    let address = match path.as_bytes().split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&path),
    };
    let sent = address.and_then(|to| UnixDatagram::unbound()?.send_to_addr(b"READY=1\n", &to));
    if let Err(e) = sent {
        tracing::warn!(error = %e, "systemd asked to be told of readiness and could not be reached");
    }
}

/// How long one attempt to publish the member may take.
const PUBLISH: Duration = Duration::from_secs(1);

/// Tells the cluster this member's name and where clients find it, until it is heard.
async fn publish(node: NodeHandle, name: String, client_urls: Vec<String>) {
    loop {
        let member = node.status().member_id;
        let known = node.shared().members().iter().any(|m| m.id == member && m.name == name && m.client_urls == client_urls);
        if known {
            return;
        }
        let attributes = entry::MemberAttributes { member, name: name.clone(), client_urls: client_urls.clone() };
        let proposed = node.propose(Command { op: Some(Op::MemberAttributes(attributes)) });
        // A proposal that met no connection to the leader is lost; saying the same twice does no harm.
        let proposed = tokio::time::timeout(PUBLISH, proposed).await.unwrap_or(Err(ProposeError::TimedOut));
        match proposed {
            Ok(_) => tracing::info!(member_id = format!("{member:016x}"), name, "published local member to cluster through raft"),
            Err(ProposeError::Stopped) => return,
            Err(e) => {
                tracing::warn!(error = %e, "failed to publish local member to cluster through raft");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// A server that runs.
pub struct Server {
    node: Node,
    peers: Peers,
    hub: Arc<Hub>,
    door: Door,
    peer_door: Door,
    serving: tokio::sync::watch::Sender<bool>,
    /// What goes on beside the requests; each holds the node.
    upkeep: JoinSet<()>,
    data_dir: PathBuf,
}

/// Starts everything; returns when clients are served.
pub async fn start(config: &Config) -> Result<Server, Failure> {
    make_data_dir(&config.data_dir)?;
    // Ports first: a second server on the same address must not touch the data.
    let client_listeners = bind(&config.listen_client_urls, config.socket_reuse_port)?;
    let peer_listeners = bind(&config.listen_peer_urls, config.socket_reuse_port)?;
    let client_tls = tls::server_tls(config, &config.client_tls, &config.listen_client_urls, "client")?;
    let peer_tls = tls::server_tls(config, &config.peer_tls, &config.listen_peer_urls, "peer")?;
    let dial_tls = match &peer_tls {
        Some(server) => Some(ClientTls::load(server.settings().clone()).map_err(|e| Failure::new(1, e))?),
        None => None,
    };
    if departure::is_buried(&config.data_dir) {
        return Err(Failure::new(departure::EXIT_CODE, departure::farewell(&config.data_dir)));
    }
    let metrics = Metrics::new(config.extensive_metrics);
    let metrics_listeners = bind(&config.listen_metrics_urls, config.socket_reuse_port)?;
    let http_listeners = bind(&config.listen_client_http_urls, config.socket_reuse_port)?;
    let net = Arc::new(NetThreads::start("net", net_threads_for(cores())).map_err(|e| Failure::new(5, e))?);
    let places = files::places();
    let dial: Arc<dyn Dial> = Arc::new(tls::PeerDial { tls: dial_tls, from: tls::local_address(config) });
    let settings = budget::node_settings(config, &metrics);
    let doors = join::Doors {
        net: net.clone(),
        client: (&client_listeners, client_tls.clone()),
        http: &http_listeners,
        metrics: &metrics_listeners,
        places: places.clone(),
    };
    let entered = join::founding(config, &settings, dial.clone(), (&peer_listeners, peer_tls.clone()), &doors).await?;
    if config.force_new_cluster && entered.is_none() {
        let position = stand_alone(&settings, &RealFiles::shared())?;
        tracing::warn!(
            index = position.index,
            term = position.term,
            "made a cluster of this member alone; the others are forgotten"
        );
    }
    let opened = Opened::open(settings, entered.as_ref().map(|e| &e.founding), RealFiles::shared())?;
    let hub_options = HubOptions { progress_interval: config.watch_progress_notify_interval, ..Default::default() };
    let hub = Arc::new(Hub::start(opened.store().clone(), hub_options).map_err(|e| Failure::new(5, e))?);
    let identity = opened.identity();
    if opened.machine().shared().is_removed(identity.member) {
        return Err(Failure::new(departure::EXIT_CODE, departure::farewell(&config.data_dir)));
    }
    if config.features.initial_corrupt_check && entered.is_none() {
        compare::compare(&opened, &dial, config.request_timeout()).await?;
    }
    let speaks =
        Speaks { feature_level: crate::state::FEATURE_LEVEL, version: config::ETCD_VERSION.into(), build: config::VERSION.into() };
    let settings = PeerSettings {
        cluster_id: identity.cluster,
        member_id: identity.member,
        election: config.election_timeout,
        snapshot_rate: config.snapshot_rate_bytes_per_second,
        dial: dial.clone(),
        speaks: speaks.clone(),
    };
    let peers = Peers::start(settings).map_err(|e| Failure::new(5, e))?;
    let sink: Arc<dyn PeerSink> = Arc::new(peers.clone());
    let node = opened.run(sink, Box::new(HubSink(hub.clone())))?;
    let handle = node.handle().clone();
    peers.attach(handle.clone());
    let desk_settings = DeskSettings {
        strict: config.strict_reconfig_check,
        max_learners: config.max_learners,
        token: config.initial_cluster_token.clone(),
        timeout: config.request_timeout(),
    };
    let desk = Desk::new(handle.clone(), peers.clone(), desk_settings);
    peers.attach_desk(Arc::new(desk.clone()));
    tracing::info!(
        member_id = format!("{:016x}", identity.member),
        cluster_id = format!("{:016x}", identity.cluster),
        revision = handle.store().revision(),
        "opened the member"
    );

    for thread in net.handles() {
        let node = handle.clone();
        thread.spawn(async move { node.attach_thread().await });
    }
    let (serving, is_serving) = tokio::sync::watch::channel(true);
    let counters = Arc::new(pages::counters(config, &metrics));
    let shared: Arc<Shared> = handle.shared().clone();
    let context = api::Context {
        node: handle.clone(),
        store: handle.store().clone(),
        shared,
        hub: hub.clone(),
        leases: Arc::new(Leases(peers.leases(config.request_timeout()))),
        membership: Arc::new(desk),
        snapshots: Arc::new(snapshots::Snapshots(handle.clone())),
        serving: is_serving,
        counters: counters.clone(),
        metrics: metrics.clone(),
    };
    let limits = api::Limits {
        max_request_bytes: config.max_request_bytes,
        max_txn_ops: config.max_txn_ops,
        quota_bytes: config.quota_bytes.map_or(-1, |q| q as i64),
        election_timeout: config.election_timeout,
        slow_call: config.warning_unary_request_duration,
        etcd_version: config::ETCD_VERSION.to_string(),
    };
    let (routes, kv) = api::routes(context, limits);
    let grpc = routes.into_axum_router();
    let direct = Direct { prefix: api::KV_PREFIX, call: Arc::new(move |request| Box::pin(kv.clone().call(request))) };
    let http2 = Http2 {
        max_streams: config.max_concurrent_streams.unwrap_or(u32::MAX),
        ping_after: config.keepalive.map_or(Duration::ZERO, |k| k.interval),
        ping_timeout: config.keepalive.map_or(Duration::from_secs(20), |k| k.timeout),
    };
    pages::observe(config, &metrics, &handle, &hub, &counters, &peers);
    let site = pages::pages(&handle, &metrics);
    let calls = match config.grpc_gateway {
        true => Some(JsonCalls::new(grpc.clone(), config.max_request_bytes).map_err(|e| Failure::new(1, e))?),
        false => None,
    };
    let http = gateway::client_routes(
        &site,
        calls,
        Access { origins: pages::allow(&config.cors), hosts: pages::allow(&config.host_whitelist) },
    );
    let door = Door::new(net.clone());
    // Peers' streams never end by themselves: they have a door of their own, closed after the clients'.
    let peer_door = Door::new(net);
    let open = |door: &Door, listeners: Vec<Listener>, entrance: Entrance| {
        for listener in listeners {
            let address = listener.address().to_string();
            let name = entrance.name;
            door.open(listener, entrance.clone()).map_err(|e| Failure::new(1, e))?;
            tracing::info!(address, "serving {name} traffic");
        }
        Ok::<(), Failure>(())
    };
    let peer_grpc = Routes::new(peers.service()).prepare().into_axum_router();
    let peer_http = gateway::peer_routes(pages::versions(&handle), pages::members(&handle));
    let mut waiting = match entered {
        Some(entered) => {
            join::leave(entered.peers).await;
            entered.clients
        }
        None => None,
    };
    open(
        &peer_door,
        peer_listeners,
        Entrance {
            name: "peer",
            tls: peer_tls,
            grpc: Some(peer_grpc),
            direct: None,
            http: Some(peer_http),
            http2: Http2::default(),
            bytes: Arc::default(),
            limit: places.peers.clone(),
        },
    )?;
    let has_state = async {
        if tokio::time::timeout(join::SILENT, wait_state(&handle)).await.is_err() {
            // Alive is not the same as able to serve: probes are answered while a quorum, or this member's first state, is awaited.
            join::leave(waiting.take()).await;
            waiting = Some(join::open_clients(&doors, "no leader", Some(&site))?);
        }
        wait_state(&handle).await;
        Ok::<(), Failure>(())
    };
    let gone = tokio::select! {
        has = has_state => has.map(|()| false)?,
        // Its peers refuse it and no leader ever speaks to it: there is no state to wait for.
        () = departure::removed(handle.clone(), peers.clone(), config.data_dir.clone()) => true,
    };
    if gone {
        peers.stop();
        stop_node(node).await;
        return Err(Failure::new(departure::EXIT_CODE, departure::farewell(&config.data_dir)));
    }
    join::leave(waiting).await;
    drop(doors);
    let apart = !http_listeners.is_empty();
    let entrance = Entrance {
        name: "client",
        tls: client_tls,
        grpc: Some(grpc.clone()),
        direct: Some(direct),
        http: Some(http.clone()).filter(|_| !apart),
        http2,
        bytes: metrics.client_bytes.clone(),
        limit: places.clients.clone(),
    };
    // What is no gRPC by its port does not count as its traffic.
    let of_http =
        |name, http| Entrance { name, grpc: None, direct: None, http: Some(http), bytes: Arc::default(), ..entrance.clone() };
    let of_metrics = Entrance { limit: places.metrics.clone(), ..of_http("metrics", gateway::metrics_routes(&site)) };
    open(&door, http_listeners, of_http("client http", http))?;
    open(&door, metrics_listeners, of_metrics)?;
    open(&door, client_listeners, entrance)?;

    let urls = config.advertise_client_urls.iter().map(|u| u.to_string()).collect();
    let mut upkeep = JoinSet::new();
    upkeep.spawn(publish(handle.clone(), config.name.clone(), urls));
    upkeep.spawn(versions::run(handle.clone(), dial, speaks, config.downgrade_check_interval));
    upkeep.spawn(crate::compactor::run(handle.clone(), config.auto_compaction));
    upkeep.spawn(crate::space::run(handle.clone(), config.quota_bytes));
    tracing::info!("ready to serve client requests");
    notify_ready();
    Ok(Server { node, peers, hub, door, peer_door, serving, upkeep, data_dir: config.data_dir.clone() })
}

/// Waits until the cluster has a leader, and a member that joins has its state: before that there is nothing to serve clients with.
async fn wait_state(node: &NodeHandle) {
    let mut leader = node.leader_changes();
    let _ = leader.wait_for(|l| *l != 0).await;
    while node.shared().applied_index() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// How long open requests may take to end when the server stops.
const DRAIN: Duration = Duration::from_millis(800);
/// How long peers' calls may take to end.
const PEER_DRAIN: Duration = Duration::from_millis(50);

impl Server {
    /// Returns why, when this server must end by itself: its member was removed from the cluster.
    pub async fn ended(&self) -> Failure {
        departure::removed(self.node.handle().clone(), self.peers.clone(), self.data_dir.clone()).await;
        Failure::new(departure::EXIT_CODE, departure::farewell(&self.data_dir))
    }

    /// Hands leadership over, ends the requests, leaves a checkpoint.
    pub async fn stop(mut self) {
        let handle = self.node.handle().clone();
        self.serving.send_replace(false);
        if handle.status().is_leader {
            membership::hand_over(&handle, &self.peers).await;
        }
        self.hub.close();
        self.door.close(DRAIN).await;
        self.peers.stop();
        self.peer_door.close(PEER_DRAIN).await;
        self.upkeep.shutdown().await;
        stop_node(self.node).await;
    }
}

async fn stop_node(node: Node) {
    if tokio::task::spawn_blocking(move || node.stop()).await.is_err() {
        tracing::error!("the node did not stop cleanly");
    }
}
