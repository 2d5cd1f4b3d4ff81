//! The founding of a member whose data directory is empty: what the flags or the ticket say, held at the gate until it is clear what
//! this member becomes. Meanwhile its ports answer that it waits.

use super::Failure;
use super::files::Places;
use crate::config::{self, Config};
use crate::door::{Door, Entrance, Http2, Listener, NetThreads, ServerTls};
use crate::env::files::RealFiles;
use crate::gateway::{self, Pages, Versions};
use crate::membership::gate::{self, Plan};
use crate::membership::ticket::Ticket;
use crate::node::{Founding, NodeSettings, Recovering, Stamp, read_stamped, recover, refuse_foreign, survey};
use crate::peer::{Dial, vacant};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tonic::service::Routes;

/// The clients' ports, and what they speak.
pub(super) struct Doors<'a> {
    pub net: Arc<NetThreads>,
    pub client: (&'a [Listener], Option<Arc<ServerTls>>),
    /// Ports of HTTP alone; TLS as for clients.
    pub http: &'a [Listener],
    pub metrics: &'a [Listener],
    pub places: Places,
}

/// What became clear at the gate.
pub(super) struct Entered {
    pub founding: Founding,
    /// Still answers that this member is empty: the others form the cluster at the same time and count on it.
    pub peers: Option<Door>,
    /// Answers probes, when that took long.
    pub clients: Option<Door>,
}

/// Leaves the ports of a door to another.
pub(super) async fn leave(door: Option<Door>) {
    if let Some(door) = door {
        door.close(DRAIN).await;
    }
}

/// How long clients wait in the port's queue before they, and the probes, are told that this member waits.
pub(super) const SILENT: Duration = Duration::from_secs(2);

/// How long calls that are under way may take when the gate closes.
const DRAIN: Duration = Duration::from_millis(50);

/// Code of a start that would go against what is on disk, or was.
const WRONG_DATA: i32 = 4;

/// The founding for an empty data directory, once it is clear; `None` when a member lives there, which must then be the one meant.
pub(super) async fn founding(
    config: &Config,
    settings: &NodeSettings,
    dial: Arc<dyn Dial>,
    peers: (&[Listener], Option<Arc<ServerTls>>),
    doors: &Doors<'_>,
) -> Result<Option<Entered>, Failure> {
    if let Some((_, stamp)) = read_stamped(&config.data_dir)? {
        check_stamp(config, &stamp)?;
        take_recovery(config, settings, &stamp)?;
        return Ok(None);
    }
    refuse_foreign(settings)?;
    let mut plan: Box<dyn FnMut() -> Result<Plan, String> + Send> = match &config.boot_ticket {
        Some(path) => {
            let (path, config) = (path.clone(), config.clone());
            Box::new(move || gate::plan_of_ticket(&Ticket::read(&path)?, &config))
        }
        None => {
            let plan = gate::plan_of_flags(config).map_err(|e| Failure::new(i32::from(e.exit_code()), e))?;
            Box::new(move || Ok(plan.clone()))
        }
    };
    if let Ok(plan) = plan()
        && plan.others.is_empty()
        && plan.form.is_some()
    {
        // Nobody to ask: the cluster of one is formed at once.
        return Ok(plan.form.map(|founding| Entered { founding, peers: None, clients: None }));
    }
    let boot = rand::random();
    let peers = open_peers(peers, doors, boot)?;
    let passed = gate::pass(plan, dial, boot);
    tokio::pin!(passed);
    let (clients, passed) = tokio::select! {
        passed = &mut passed => (None, passed),
        () = tokio::time::sleep(SILENT) => (Some(open_clients(doors, "not joined", None)?), passed.await),
    };
    let founding = passed.map_err(|e| Failure::new(WRONG_DATA, e))?;
    let how = if founding.joins { "joining the cluster" } else { "forming the cluster" };
    tracing::info!(
        cluster_id = format!("{:016x}", founding.cluster_id),
        member_id = format!("{:016x}", founding.member_id),
        members = founding.members.len(),
        "{how}"
    );
    Ok(Some(Entered { founding, peers: Some(peers), clients }))
}

/// The peer ports of a member that has no cluster.
fn open_peers((listeners, tls): (&[Listener], Option<Arc<ServerTls>>), doors: &Doors<'_>, boot: u64) -> Result<Door, Failure> {
    let versions = || Versions { server: config::ETCD_VERSION.to_string(), cluster: None, storage: None };
    let entrance = Entrance {
        name: "peer",
        tls,
        grpc: Some(Routes::new(vacant(boot)).prepare().into_axum_router()),
        direct: None,
        http: Some(gateway::peer_routes(Arc::new(versions), Arc::new(|| serde_json::json!({ "state": "empty" })))),
        http2: Http2::default(),
        bytes: Arc::default(),
        limit: doors.places.peers.clone(),
    };
    let door = Door::new(doors.net.clone());
    share(&door, listeners, &entrance)?;
    Ok(door)
}

/// The client ports of a member that waits: its probes are answered, by the member itself where there is one, which then shows its metrics, too.
pub(super) fn open_clients(doors: &Doors<'_>, reason: &'static str, site: Option<&Pages>) -> Result<Door, Failure> {
    let client = Entrance {
        name: "client",
        tls: doors.client.1.clone(),
        grpc: Some(gateway::waiting_calls(reason)),
        direct: None,
        http: Some(gateway::waiting_routes(reason, site)),
        http2: Http2::default(),
        bytes: Arc::default(),
        limit: doors.places.clients.clone(),
    };
    let http = Entrance { name: "client http", grpc: None, ..client.clone() };
    let pages = site.map_or_else(|| gateway::waiting_routes(reason, None), gateway::metrics_routes);
    let metrics = Entrance { name: "metrics", http: Some(pages), limit: doors.places.metrics.clone(), ..http.clone() };
    let door = Door::new(doors.net.clone());
    share(&door, doors.client.0, &client)?;
    share(&door, doors.http, &http)?;
    share(&door, doors.metrics, &metrics)?;
    Ok(door)
}

fn share(door: &Door, listeners: &[Listener], entrance: &Entrance) -> Result<(), Failure> {
    for listener in listeners {
        let shared = listener.share().map_err(|e| Failure::new(1, e))?;
        door.open(shared, entrance.clone()).map_err(|e| Failure::new(1, e))?;
    }
    Ok(())
}

/// A member that was made for somebody serves nobody else, and under no other name.
fn check_stamp(config: &Config, stamp: &Stamp) -> Result<(), Failure> {
    let Some(path) = &config.boot_ticket else { return Ok(()) };
    let refuse = |what: &str, is: &str, asked: &str| {
        let dir = config.data_dir.display();
        let text = format!(
            "the data directory {dir} belongs to {what} {is:?}, and this start is for {what} {asked:?}: attach the right volume, or start with \
             an empty data directory"
        );
        Err(Failure::new(WRONG_DATA, text))
    };
    if let Some(name) = stamp.name.as_ref().filter(|name| **name != config.name) {
        return refuse("member", name, &config.name);
    }
    match (owner_of(path), &stamp.owner) {
        (Ok(asked), Some(owner)) if asked != *owner => refuse("cluster", owner, &asked),
        (Err(e), _) => {
            // A member with data starts without a ticket, so a missing one must not keep it down.
            tracing::warn!(reason = e, "the boot ticket cannot be compared with the data directory");
            Ok(())
        }
        _ => Ok(()),
    }
}

/// What the ticket says of a recovery, for a member with data: the one it names goes on alone, once; another one with data from before
/// is left behind.
fn take_recovery(config: &Config, settings: &NodeSettings, stamp: &Stamp) -> Result<(), Failure> {
    let ticket = config.boot_ticket.as_deref().and_then(|path| Ticket::read(path).ok());
    let Some(asked) = ticket.and_then(|t| t.recover) else { return Ok(()) };
    if stamp.recovered.contains(&asked.id) {
        return Ok(());
    }
    let files = RealFiles::shared();
    // Who joined the recovered cluster without hearing of the recovery knows it from the cluster's own rows; so does a member of it
    // that is named now, whose cluster must not be taken apart a second time.
    let (is_behind, begun, cluster) = {
        let survey = survey(settings, &files)?;
        let behind = survey.recoveries.iter().any(|r| r.id == asked.id && r.cluster == survey.identity.cluster);
        (behind, survey.begun, survey.identity.cluster)
    };
    if is_behind {
        return Ok(());
    }
    if asked.slot != config.name {
        let dir = config.data_dir.display();
        return Err(Failure::new(
            WRONG_DATA,
            format!(
                "the cluster was lost and recovered without this member (recovery {:?} from member {:?}): the data directory {dir} is from                  before that, in cluster {cluster:016x}; to join the recovered cluster this member needs an empty volume",
                asked.id, asked.slot
            ),
        ));
    }
    tracing::warn!(
        recovery = asked.id,
        begun = begun.is_some(),
        former_cluster_id = format!("{cluster:016x}"),
        "recovering the lost cluster from this member alone, as the boot ticket says"
    );
    let peer_urls = config.advertise_peer_urls.iter().map(ToString::to_string).collect();
    let recovering = Recovering { id: asked.id.clone(), name: Some(config.name.clone()), peer_urls };
    let (position, identity) = recover(settings, &recovering, &files)?;
    let position = position.unwrap_or_default();
    tracing::warn!(
        recovery = asked.id,
        cluster_id = format!("{:016x}", identity.cluster),
        index = position.index,
        term = position.term,
        "made a cluster of this member alone, under a new cluster id; the others are left behind"
    );
    Ok(())
}

fn owner_of(path: &Path) -> Result<String, String> {
    Ticket::read(path).map(|t| t.owner)
}
