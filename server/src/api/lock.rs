//! `v3lockpb.Lock`: locks that the server waits for on the caller's behalf.
//!
//! In: a name and a lease. Out: the key that holds the lock for as long as it exists. The lease is the caller's to keep alive.
//! A call that ends while it waits takes its place in the line with it.

use std::sync::Arc;

use quorate_proto::{etcdserverpb as pb, v3lockpb};
use tonic::{Request, Response, Status};

use super::{
    Door, Method,
    door::Learner,
    kv,
    session::{self, Cleanup},
};

/// The service.
pub struct Lock(pub Arc<Door>);

fn refuses<M>(_: &M) -> Learner {
    Learner::Refuses
}

#[tonic::async_trait]
impl v3lockpb::lock_server::Lock for Lock {
    async fn lock(&self, request: Request<v3lockpb::LockRequest>) -> Result<Response<v3lockpb::LockResponse>, Status> {
        let work = |request| async { lock(&self.0, request).await.map_err(session::without_code) };
        self.0.unary(Method::Lock, request, refuses, work).await
    }

    async fn unlock(&self, request: Request<v3lockpb::UnlockRequest>) -> Result<Response<v3lockpb::UnlockResponse>, Status> {
        let work = |request: v3lockpb::UnlockRequest| async {
            let delete = pb::DeleteRangeRequest { key: request.key, ..Default::default() };
            let response = kv::delete_range(&self.0, delete).await.map_err(session::without_code)?;
            Ok(v3lockpb::UnlockResponse { header: response.header })
        };
        self.0.unary(Method::Unlock, request, refuses, work).await
    }
}

/// Lines up for the lock and waits for it.
pub async fn lock(door: &Arc<Door>, request: v3lockpb::LockRequest) -> Result<v3lockpb::LockResponse, Status> {
    let lease = session::session_lease(door, request.lease).await?;
    let prefix = session::waiters_prefix(&request.name);
    let key = session::waiter_key(&prefix, lease);
    // A session that is in the line already keeps its place.
    let line_up = pb::TxnRequest {
        compare: vec![session::created_at(&key, 0)],
        success: vec![session::put(&key, Default::default(), lease), session::range(session::oldest_waiter(&prefix))],
        failure: vec![session::get(&key), session::range(session::oldest_waiter(&prefix))],
    };
    let response = kv::txn(door, line_up).await?;
    let created = if response.succeeded {
        session::revision(response.header.as_ref())
    } else {
        session::first_pair(&response, 0)?.map_or(0, |waiter| waiter.create_revision)
    };
    let owner = session::first_pair(&response, 1)?;
    if owner.is_none_or(|owner| owner.create_revision == created) {
        return Ok(v3lockpb::LockResponse { header: response.header, key });
    }
    let cleanup = Cleanup::of(door, &key, created);
    session::wait_for_older(door, &prefix, created - 1).await?;
    // The lease may have ended while the line moved up, and the place with it.
    let mine = kv::range(door, pb::RangeRequest { key: key.clone(), ..Default::default() }).await?;
    if mine.kvs.is_empty() {
        return Err(Status::unknown("mutex: session is expired"));
    }
    cleanup.keep();
    Ok(v3lockpb::LockResponse { header: mine.header, key })
}
