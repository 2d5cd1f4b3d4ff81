//! The door: etcd's gRPC services and that of backups, one file each, over the rooms behind them.
//!
//! In: client calls. Out: answers and refusals that etcd's clients cannot tell from etcd's.
//! [`Context`] is the seam: everything this room needs of the others. [`routes`] turns it into services for the accept loop.
//!
//! What is the same for every method is in [`door`]: counting, the learner rule, `hasleader`, headers. What is checked about a message is in
//! [`decode`]; how an error looks is in [`status`].

pub mod auth;
mod client_version;
pub mod cluster;
pub mod counters;
pub mod decode;
pub mod deltas;
pub mod door;
pub mod election;
pub mod health;
pub mod kv;
pub mod lease;
pub mod lock;
pub mod maintenance;
mod overlap;
mod oversize;
pub mod quota;
pub mod session;
pub mod snapshot;
pub mod status;
pub mod stream;
#[cfg(test)]
mod tests;
pub mod watch;
mod watch_wire;

use std::{sync::Arc, time::Duration};

use quorate_proto::{
    backup::backup_server::BackupServer,
    etcdserverpb::{
        auth_server::AuthServer, cluster_server::ClusterServer, kv_server::KvServer, lease_server::LeaseServer,
        maintenance_server::MaintenanceServer,
    },
    health::health_server::HealthServer,
    v3electionpb::election_server::ElectionServer,
    v3lockpb::lock_server::LockServer,
};
use tokio::sync::watch as signal;
use tonic::{codec::CompressionEncoding, service::Routes};

pub use self::{
    cluster::{MemberError, Membership},
    counters::{Counters, Method, MethodCounts},
    door::Door,
    lease::{LeaseDesk, LeaseError, LeaseTimes},
    snapshot::{OpenSnapshot, SnapshotError, SnapshotSource},
    status::Refusal,
};
use crate::{mvcc, node, state, telemetry::Metrics, watch::Hub};

/// What the door needs of the rooms behind it.
#[derive(Clone)]
pub struct Context {
    /// Proposals, read rounds and this member's place in the cluster.
    pub node: node::NodeHandle,
    /// Reads.
    pub store: Arc<mvcc::Store>,
    /// Alarms and members as applied.
    pub shared: Arc<state::Shared>,
    /// Watches.
    pub hub: Arc<Hub>,
    /// The leader-only half of leases.
    pub leases: Arc<dyn LeaseDesk>,
    /// Changes of members.
    pub membership: Arc<dyn Membership>,
    /// Snapshots for `Maintenance.Snapshot`.
    pub snapshots: Arc<dyn SnapshotSource>,
    /// False while the server drains: what the health service answers.
    pub serving: signal::Receiver<bool>,
    /// Counted here, read by the metrics page.
    pub counters: Arc<Counters>,
    /// Times and totals of what has no row of its own in `counters`.
    pub metrics: Arc<Metrics>,
}

/// Numbers and names fixed at start.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest encoded command, in bytes (`--max-request-bytes`).
    pub max_request_bytes: usize,
    /// Operation budget of a transaction (`--max-txn-ops`).
    pub max_txn_ops: usize,
    /// Space quota in bytes (`--quota-backend-bytes`, its default filled in); negative turns it off.
    pub quota_bytes: i64,
    /// One election timeout (`--election-timeout`).
    pub election_timeout: Duration,
    /// A unary call that takes longer is named in the log (`--warning-unary-request-duration`).
    pub slow_call: Duration,
    /// The etcd version clients are told, `major.minor.patch`.
    pub etcd_version: String,
}

/// How far a gRPC message may exceed [`Limits::max_request_bytes`]; the same allowance as etcd's.
pub const MESSAGE_OVERHEAD_BYTES: usize = 512 * 1024;

/// What requests may be compressed with, as etcd takes them. Answers are never compressed: clients that offer it, as the API server does,
/// are near, and the time would be lost.
pub(crate) const COMPRESSION: CompressionEncoding = CompressionEncoding::Gzip;

/// What the paths of its calls begin with.
pub const KV_PREFIX: &str = "/etcdserverpb.KV/";

/// The service that is asked most.
pub type KvService = oversize::Oversize<KvServer<kv::Kv>>;

/// All services, ready for the accept loop, and one of them by itself, for who spares it the router.
pub fn routes(context: Context, limits: Limits) -> (Routes, KvService) {
    let limit = limits.max_request_bytes + MESSAGE_OVERHEAD_BYTES;
    let door = Arc::new(Door::new(context, limits));
    macro_rules! service {
        ($server:ident, $room:path) => {
            oversize::Oversize::new(
                $server::new($room(door.clone()))
                    .max_decoding_message_size(limit)
                    .max_encoding_message_size(usize::MAX)
                    .accept_compressed(COMPRESSION),
            )
        };
    }
    let kv = service!(KvServer, kv::Kv);
    let routes = Routes::new(kv.clone())
        .add_service(watch_wire::WatchServer::new(watch::Watch(door.clone()), limit))
        .add_service(service!(LeaseServer, lease::Lease))
        .add_service(service!(ClusterServer, cluster::Cluster))
        .add_service(service!(MaintenanceServer, maintenance::Maintenance))
        .add_service(service!(AuthServer, auth::Auth))
        .add_service(service!(LockServer, lock::Lock))
        .add_service(service!(ElectionServer, election::Election))
        .add_service(service!(HealthServer, health::Health))
        .add_service(service!(BackupServer, deltas::Backup))
        .prepare();
    (routes, kv)
}
