//! `v3electionpb.Election`: elections that the server waits for on the caller's behalf.
//!
//! In: a name, a lease, a value. Out: the leader's key; its value is what followers observe. The oldest waiter leads, until its key goes.
//! A campaign that ends while it waits takes its place in the line with it.

use std::sync::Arc;

use bytes::Bytes;
use quorate_proto::{RawKv, etcdserverpb as pb, v3electionpb};
use tonic::{Request, Response, Status};

use super::{
    Door, Method,
    door::{Learner, Outgoing},
    kv,
    session::{self, Cleanup, Watching},
    stream::AnswerStream,
};
use crate::{types::KeyRange, watch::Filters};

const NOT_LEADER: &str = "election: not leader";
const NO_LEADER: &str = "election: no leader";
const NO_LEADER_KEY: &str = "\"leader\" field must be provided";

/// The service.
pub struct Election(pub Arc<Door>);

fn refuses<M>(_: &M) -> Learner {
    Learner::Refuses
}

#[tonic::async_trait]
impl v3electionpb::election_server::Election for Election {
    async fn campaign(
        &self,
        request: Request<v3electionpb::CampaignRequest>,
    ) -> Result<Response<v3electionpb::CampaignResponse>, Status> {
        let work = |request| async { campaign(&self.0, request).await.map_err(session::without_code) };
        self.0.unary(Method::Campaign, request, refuses, work).await
    }

    async fn proclaim(
        &self,
        request: Request<v3electionpb::ProclaimRequest>,
    ) -> Result<Response<v3electionpb::ProclaimResponse>, Status> {
        let work = |request: v3electionpb::ProclaimRequest| async {
            let mut leader = request.leader.ok_or_else(|| Status::unknown(NO_LEADER_KEY))?;
            leader.lease = session::session_lease(&self.0, leader.lease).await.map_err(session::without_code)?;
            let header = proclaim(&self.0, &leader, request.value).await.map_err(session::without_code)?;
            Ok(v3electionpb::ProclaimResponse { header })
        };
        self.0.unary(Method::Proclaim, request, refuses, work).await
    }

    async fn leader(
        &self,
        request: Request<v3electionpb::LeaderRequest>,
    ) -> Result<Response<v3electionpb::LeaderResponse>, Status> {
        let work = |request| async { leader(&self.0, request).await.map_err(session::without_code) };
        self.0.unary(Method::Leader, request, refuses, work).await
    }

    type ObserveStream = AnswerStream<v3electionpb::LeaderResponse>;

    async fn observe(&self, request: Request<v3electionpb::LeaderRequest>) -> Result<Response<Self::ObserveStream>, Status> {
        self.0.stream(Method::Observe, request, Learner::Refuses, |door, request, mut out| async move {
            out.received();
            // What ends an observer ends its stream without an error: the client opens another.
            if let Err(error) = observe(&door, request, &mut out).await {
                tracing::debug!(%error, "an election is no longer observed");
            }
            Ok(())
        })
    }

    async fn resign(
        &self,
        request: Request<v3electionpb::ResignRequest>,
    ) -> Result<Response<v3electionpb::ResignResponse>, Status> {
        let work = |request: v3electionpb::ResignRequest| async {
            let leader = request.leader.ok_or_else(|| Status::unknown(NO_LEADER_KEY))?;
            let resign = pb::TxnRequest {
                compare: vec![session::created_at(&leader.key, leader.rev)],
                success: vec![session::delete(&leader.key)],
                failure: vec![],
            };
            let response = kv::txn(&self.0, resign).await.map_err(session::without_code)?;
            Ok(v3electionpb::ResignResponse { header: response.header })
        };
        self.0.unary(Method::Resign, request, refuses, work).await
    }
}

/// Lines up with a value and waits to lead.
pub async fn campaign(door: &Arc<Door>, request: v3electionpb::CampaignRequest) -> Result<v3electionpb::CampaignResponse, Status> {
    let lease = session::session_lease(door, request.lease).await?;
    let prefix = session::waiters_prefix(&request.name);
    let key = session::waiter_key(&prefix, lease);
    let line_up = pb::TxnRequest {
        compare: vec![session::created_at(&key, 0)],
        success: vec![session::put(&key, request.value.clone(), lease)],
        failure: vec![session::get(&key)],
    };
    let response = kv::txn(door, line_up).await?;
    let mut leader =
        v3electionpb::LeaderKey { name: request.name, key: key.clone(), rev: session::revision(response.header.as_ref()), lease };
    let cleanup;
    if response.succeeded {
        cleanup = Cleanup::of(door, &key, leader.rev);
    } else {
        let waiter = session::first_pair(&response, 0)?.ok_or_else(|| Status::unknown(NOT_LEADER))?;
        leader.rev = waiter.create_revision;
        cleanup = Cleanup::of(door, &key, leader.rev);
        if waiter.value != request.value {
            proclaim(door, &leader, request.value).await?;
        }
    }
    session::wait_for_older(door, &prefix, leader.rev - 1).await?;
    cleanup.keep();
    Ok(v3electionpb::CampaignResponse { header: response.header, leader: Some(leader) })
}

/// Changes the value of a key that still leads.
async fn proclaim(door: &Door, leader: &v3electionpb::LeaderKey, value: Bytes) -> Result<Option<pb::ResponseHeader>, Status> {
    let proclaim = pb::TxnRequest {
        compare: vec![session::created_at(&leader.key, leader.rev)],
        success: vec![session::put(&leader.key, value, leader.lease)],
        failure: vec![],
    };
    let response = kv::txn(door, proclaim).await?;
    if response.succeeded { Ok(response.header) } else { Err(Status::unknown(NOT_LEADER)) }
}

/// The oldest waiter and its value.
pub async fn leader(door: &Door, request: v3electionpb::LeaderRequest) -> Result<v3electionpb::LeaderResponse, Status> {
    let response = kv::range(door, session::oldest_waiter(&session::waiters_prefix(&request.name))).await?;
    match response.kvs.into_iter().next() {
        Some(kv) => Ok(v3electionpb::LeaderResponse { header: response.header, kv: Some(kv) }),
        None => Err(Status::unknown(NO_LEADER)),
    }
}

/// Sends the leader's value, each value it proclaims after that, and each leader that follows.
async fn observe(
    door: &Door,
    request: v3electionpb::LeaderRequest,
    out: &mut Outgoing<v3electionpb::LeaderResponse>,
) -> Result<(), Status> {
    let prefix = session::waiters_prefix(&request.name);
    loop {
        let response = kv::range(door, session::oldest_waiter(&prefix)).await?;
        let asked_at = session::revision(response.header.as_ref());
        let (kv, seen_at) = match response.kvs.into_iter().next() {
            Some(kv) => (kv, asked_at),
            None => first_put(door, &prefix, asked_at).await?,
        };
        let key = session::decode(&kv)?.key;
        out.send(v3electionpb::LeaderResponse { header: Some(door.header(seen_at)), kv: Some(kv) }).await;
        let mut changes = Watching::open(door, KeyRange::from_request(&key, &Bytes::new()), seen_at + 1, Filters::default());
        'leads: loop {
            let seen = changes.next().await?;
            for event in seen.events.iter() {
                if event.delete {
                    break 'leads;
                }
                let message = v3electionpb::LeaderResponse { header: Some(door.header(seen.revision)), kv: Some(event.kv.clone()) };
                out.send(message).await;
            }
        }
    }
}

/// Waits for the first waiter of an election that has none, from `revision` on.
async fn first_put(door: &Door, prefix: &Bytes, revision: i64) -> Result<(RawKv, i64), Status> {
    let range = KeyRange::from_request(prefix, &session::prefix_end(prefix));
    let mut puts = Watching::open(door, range, revision, Filters { no_put: false, no_delete: true });
    loop {
        let seen = puts.next().await?;
        if let Some(event) = seen.events.iter().next() {
            return Ok((event.kv.clone(), event.revision.main));
        }
    }
}
