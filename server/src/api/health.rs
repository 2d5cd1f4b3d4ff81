//! `grpc.health.v1.Health` for the one service name etcd knows, the empty one: serving until the server drains.
//!
//! In: the serving flag of the context. Out: its value, or its changes.

use std::{collections::HashMap, sync::Arc};

use quorate_proto::health as pb;
use tonic::{Request, Response, Status};

use super::{
    Door, Method,
    door::{Learner, Outgoing},
    stream::AnswerStream,
};
use pb::health_check_response::ServingStatus;

/// The service.
pub struct Health(pub Arc<Door>);

fn refuses<M>(_: &M) -> Learner {
    Learner::Refuses
}

fn response(serving: bool) -> pb::HealthCheckResponse {
    let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    pb::HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl pb::health_server::Health for Health {
    async fn check(&self, request: Request<pb::HealthCheckRequest>) -> Result<Response<pb::HealthCheckResponse>, Status> {
        self.0
            .unary(Method::HealthCheck, request, refuses, |request| async move {
                if !request.service.is_empty() {
                    return Err(Status::not_found("unknown service"));
                }
                Ok(response(*self.0.context.serving.borrow()))
            })
            .await
    }

    async fn list(&self, request: Request<pb::HealthListRequest>) -> Result<Response<pb::HealthListResponse>, Status> {
        self.0
            .unary(Method::HealthList, request, refuses, |_| async move {
                let statuses = HashMap::from([(String::new(), response(*self.0.context.serving.borrow()))]);
                Ok(pb::HealthListResponse { statuses })
            })
            .await
    }

    type WatchStream = AnswerStream<pb::HealthCheckResponse>;

    async fn watch(&self, request: Request<pb::HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        self.0.stream(Method::HealthWatch, request, Learner::Refuses, watch)
    }
}

async fn watch(door: Arc<Door>, request: pb::HealthCheckRequest, mut out: Outgoing<pb::HealthCheckResponse>) -> Result<(), Status> {
    out.received();
    if !request.service.is_empty() {
        // The protocol keeps the stream open, since a service may become known; here none ever does.
        out.send(pb::HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() }).await;
        return std::future::pending().await;
    }
    let mut serving = door.context.serving.clone();
    loop {
        let now = *serving.borrow_and_update();
        out.send(response(now)).await;
        if serving.changed().await.is_err() {
            return Ok(());
        }
    }
}
