//! The founding of a member whose data directory is empty: what the flags or the ticket say, held at the gate until it is clear what
//! this member becomes. Meanwhile its ports answer that it waits.

use super::{Failure, max_connections};
use crate::config::{self, Config};
use crate::door::{Door, Entrance, Http2, Listener, NetThreads, ServerTls};
use crate::gateway::{self, Versions};
use crate::membership::gate::{self, Plan};
use crate::membership::ticket::Ticket;
use crate::node::{Founding, NodeSettings, Stamp, read_stamped, refuse_foreign};
use crate::peer::{Dial, vacant};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tonic::service::Routes;

/// The ports, and what they speak.
pub(super) struct Doors<'a> {
    pub net: Arc<NetThreads>,
    pub peer: (&'a [Listener], Option<Arc<ServerTls>>),
    pub client: (&'a [Listener], Option<Arc<ServerTls>>),
    /// Ports of HTTP alone; TLS as for clients.
    pub http_only: Vec<&'a Listener>,
}

/// How long calls that are under way may take when the gate closes.
const DRAIN: Duration = Duration::from_millis(50);

/// Code of a start that would go against what is on disk, or was.
const WRONG_DATA: i32 = 4;

/// The founding for an empty data directory, once it is clear; `None` when a member lives there, which must then be the one meant.
pub(super) async fn founding(
    config: &Config,
    settings: &NodeSettings,
    dial: Arc<dyn Dial>,
    doors: Doors<'_>,
) -> Result<Option<Founding>, Failure> {
    if let Some((_, stamp)) = read_stamped(&config.data_dir)? {
        check_stamp(config, &stamp)?;
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
        return Ok(plan.form);
    }
    let boot = rand::random();
    let door = open(doors, boot)?;
    let passed = gate::pass(plan, dial, boot).await;
    door.close(DRAIN).await;
    let founding = passed.map_err(|e| Failure::new(WRONG_DATA, e))?;
    let how = if founding.joins { "joining the cluster" } else { "forming the cluster" };
    tracing::info!(
        cluster_id = format!("{:016x}", founding.cluster_id),
        member_id = format!("{:016x}", founding.member_id),
        members = founding.members.len(),
        "{how}"
    );
    Ok(Some(founding))
}

/// Ports of a member that waits.
fn open(doors: Doors<'_>, boot: u64) -> Result<Door, Failure> {
    let door = Door::new(doors.net, max_connections());
    let versions = || Versions { server: config::ETCD_VERSION.to_string(), cluster: None, storage: None };
    let peer = Entrance {
        name: "peer",
        tls: doors.peer.1,
        grpc: Some(Routes::new(vacant(boot)).prepare().into_axum_router()),
        http: Some(gateway::peer_routes(Arc::new(versions), Arc::new(|| serde_json::json!({ "state": "empty" })))),
        http2: Http2::default(),
        bytes: Arc::default(),
    };
    let client = Entrance {
        name: "client",
        tls: doors.client.1,
        grpc: Some(gateway::waiting_calls()),
        http: Some(gateway::waiting_routes()),
        http2: Http2::default(),
        bytes: Arc::default(),
    };
    let http_only = Entrance { grpc: None, ..client.clone() };
    let all = doors.peer.0.iter().map(|l| (l, &peer));
    let all = all.chain(doors.client.0.iter().map(|l| (l, &client))).chain(doors.http_only.into_iter().map(|l| (l, &http_only)));
    for (listener, entrance) in all {
        let shared = listener.share().map_err(|e| Failure::new(1, e))?;
        door.open(shared, entrance.clone()).map_err(|e| Failure::new(1, e))?;
    }
    Ok(door)
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

fn owner_of(path: &Path) -> Result<String, String> {
    Ticket::read(path).map(|t| t.owner)
}
