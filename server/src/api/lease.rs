//! `etcdserverpb.Lease`: grants and revocations through the log, renewals and remaining times from the leader.
//!
//! In: client messages. Out: entries for the node, questions for the [`LeaseDesk`].
//! A missing lease is no error to whoever renews it or asks for its time: renewing answers TTL 0, asking answers TTL -1.

use std::sync::Arc;

use bytes::Bytes;
use quorate_proto::{entry, etcdserverpb as pb};
use rand::Rng;
use tokio_stream::StreamExt;
use tonic::{Request, Response, Status, Streaming};

use super::{
    Door, Method,
    door::{Learner, Outgoing, mismatched},
    quota,
    status::Refusal,
    stream::AnswerStream,
};
use crate::state::Outcome;

/// The half of leases that only the leader can answer. A member that does not lead asks the leader.
#[tonic::async_trait]
pub trait LeaseDesk: Send + Sync {
    /// Starts the lease's time anew. Ok is the granted time to live, in seconds.
    async fn renew(&self, id: i64) -> Result<i64, LeaseError>;

    /// The lease's times and, if asked for, the keys that hang on it.
    async fn time_to_live(&self, id: i64, keys: bool) -> Result<LeaseTimes, LeaseError>;
}

/// A lease's times, in seconds, and its keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseTimes {
    /// As granted.
    pub granted_ttl: i64,
    /// What is left.
    pub remaining_ttl: i64,
    /// Sorted; empty unless asked for.
    pub keys: Vec<Bytes>,
}

/// Why the leader's half did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseError {
    /// There is no such lease.
    NotFound,
    /// This member led when it was asked and cannot prove that it still does: the client tries another.
    NotPrimary,
    /// Leadership moved while the answer was made.
    LeaderChanged,
    /// No leader is known.
    NoLeader,
    /// The leader did not answer in time.
    TimedOut,
    /// This server is stopping.
    Stopped,
}

impl From<LeaseError> for Status {
    fn from(error: LeaseError) -> Status {
        match error {
            LeaseError::NotFound => Refusal::LeaseNotFound,
            LeaseError::NotPrimary => Refusal::NotPrimaryLessor,
            LeaseError::LeaderChanged => Refusal::LeaderChanged,
            LeaseError::NoLeader => Refusal::NoLeader,
            LeaseError::TimedOut => Refusal::TimedOut,
            LeaseError::Stopped => Refusal::Stopped,
        }
        .into()
    }
}

/// The service.
pub struct Lease(pub Arc<Door>);

fn refuses<M>(_: &M) -> Learner {
    Learner::Refuses
}

#[tonic::async_trait]
impl pb::lease_server::Lease for Lease {
    async fn lease_grant(&self, request: Request<pb::LeaseGrantRequest>) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        self.0.unary(Method::LeaseGrant, request, refuses, |request| grant(&self.0, request)).await
    }

    async fn lease_revoke(&self, request: Request<pb::LeaseRevokeRequest>) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        self.0.unary(Method::LeaseRevoke, request, refuses, |request| revoke(&self.0, request)).await
    }

    type LeaseKeepAliveStream = AnswerStream<pb::LeaseKeepAliveResponse>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        self.0.stream(Method::LeaseKeepAlive, request, Learner::Refuses, keep_alive)
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        self.0.unary(Method::LeaseTimeToLive, request, refuses, |request| time_to_live(&self.0, request)).await
    }

    async fn lease_leases(&self, request: Request<pb::LeaseLeasesRequest>) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        self.0.unary(Method::LeaseLeases, request, refuses, |_| leases(&self.0)).await
    }
}

/// Grants a lease, under a random positive id unless the client names one.
pub async fn grant(door: &Door, request: pb::LeaseGrantRequest) -> Result<pb::LeaseGrantResponse, Status> {
    door.check_quota(quota::lease_cost()).await?;
    let id = if request.id == 0 { rand::rng().random_range(1..=i64::MAX) } else { request.id };
    match door.propose(entry::command::Op::LeaseGrant(entry::LeaseGrant { id, ttl: request.ttl })).await? {
        (Outcome::LeaseGrant { id, ttl }, header) => {
            Ok(pb::LeaseGrantResponse { header: Some(header), id, ttl, error: String::new() })
        }
        _ => Err(mismatched(Method::LeaseGrant)),
    }
}

/// Revokes a lease and deletes its keys.
pub async fn revoke(door: &Door, request: pb::LeaseRevokeRequest) -> Result<pb::LeaseRevokeResponse, Status> {
    let (_, header) = door.propose(entry::command::Op::LeaseRevoke(entry::LeaseRevoke { ids: vec![request.id] })).await?;
    Ok(pb::LeaseRevokeResponse { header: Some(header) })
}

async fn keep_alive(
    door: Arc<Door>,
    mut requests: Streaming<pb::LeaseKeepAliveRequest>,
    mut out: Outgoing<pb::LeaseKeepAliveResponse>,
) -> Result<(), Status> {
    while let Some(request) = requests.next().await {
        let id = request?.id;
        out.received();
        // The header is taken first: its revision must not run ahead of the moment at which the leader renewed.
        let header = door.header_now();
        let ttl = match door.context.leases.renew(id).await {
            Ok(ttl) => ttl,
            Err(LeaseError::NotFound) => 0,
            Err(error) => return Err(error.into()),
        };
        out.send(pb::LeaseKeepAliveResponse { header: Some(header), id, ttl }).await;
    }
    Ok(())
}

/// Tells a lease's remaining time.
pub async fn time_to_live(door: &Door, request: pb::LeaseTimeToLiveRequest) -> Result<pb::LeaseTimeToLiveResponse, Status> {
    let times = match door.context.leases.time_to_live(request.id, request.keys).await {
        Ok(times) => times,
        Err(LeaseError::NotFound) => LeaseTimes { remaining_ttl: -1, ..LeaseTimes::default() },
        Err(error) => return Err(error.into()),
    };
    Ok(pb::LeaseTimeToLiveResponse {
        header: Some(door.header_now()),
        id: request.id,
        ttl: times.remaining_ttl,
        granted_ttl: times.granted_ttl,
        keys: times.keys,
    })
}

/// Lists the leases this member knows.
pub async fn leases(door: &Door) -> Result<pb::LeaseLeasesResponse, Status> {
    let leases = door.context.shared.leases().into_iter().map(|lease| pb::LeaseStatus { id: lease.id }).collect();
    Ok(pb::LeaseLeasesResponse { header: Some(door.header_now()), leases })
}
