//! The gateway: everything HTTP that is not gRPC.
//!
//! In: requests the door did not find to be gRPC's. Out: health, version, metrics and debug pages, and etcd's JSON form of the gRPC calls.
//! Invariants: a JSON call takes the very path of a gRPC call (the same router, in process), so it cannot be judged differently; a client
//! certificate's name is not used as a user here, as in etcd.

mod access;
mod health;
mod json;
mod pages;
mod route_table;

pub use access::{Access, AllowList};
pub use health::{Alarm, HealthSource, ReadFuture};
pub use json::JsonCalls;
pub use pages::Versions;
pub use route_table::{ROUTES, Route};

use std::sync::Arc;

use axum::Router;
use axum::routing::{any, get};
use http::StatusCode;

use crate::telemetry::Metrics;

/// What the pages are made from.
#[derive(Clone)]
pub struct Pages {
    pub health: Arc<dyn HealthSource>,
    pub metrics: Arc<Metrics>,
    /// Asked at every request.
    pub versions: Arc<dyn Fn() -> Versions + Send + Sync>,
    /// The page of live state, asked at every request.
    pub live: Arc<dyn Fn() -> serde_json::Value + Send + Sync>,
}

/// The client listener's HTTP side; `calls` is there when the JSON gateway is on (--enable-grpc-gateway).
pub fn client_routes(pages: &Pages, calls: Option<JsonCalls>, access: Access) -> Router {
    let mut router = probe_routes(pages)
        .route("/version", any(pages::version).with_state(pages.versions.clone()))
        .route("/debug/vars", any(pages::vars).with_state(pages.live.clone()))
        .route("/debug/quorate", get(pages::live).with_state(pages.live.clone()));
    if let Some(calls) = calls {
        router = router.route("/v3/{*path}", any(json::serve).with_state(Arc::new(calls)));
    }
    access.guard(router.fallback(not_found))
}

/// The metrics listener's routes (--listen-metrics-urls): metrics and health, nothing else.
pub fn metrics_routes(pages: &Pages) -> Router {
    probe_routes(pages).fallback(not_found)
}

/// What the peer listener answers besides gRPC.
pub fn peer_routes(
    versions: Arc<dyn Fn() -> Versions + Send + Sync>,
    members: Arc<dyn Fn() -> serde_json::Value + Send + Sync>,
) -> Router {
    Router::new()
        .route("/version", any(pages::version).with_state(versions))
        .route("/members", get(pages::live).with_state(members))
        .fallback(not_found)
}

/// The client listener of a member that waits, for the reason given: probes and metrics are answered as ever where there is a member to be
/// asked; before that it is alive, and neither ready nor healthy. Everything else is refused for now.
pub fn waiting_routes(reason: &'static str, site: Option<&Pages>) -> Router {
    let refuse = |body: String| move || async move { (StatusCode::SERVICE_UNAVAILABLE, pages::PLAIN, body) };
    if let Some(site) = site {
        return probe_routes(site).fallback(refuse(format!("{reason}\n")));
    }
    let health = serde_json::json!({ "health": "false", "reason": reason });
    Router::new()
        .route("/livez", any(|| async { (pages::PLAIN, "ok\n") }))
        .route("/readyz", any(refuse(format!("[-]serving failed: {reason}\n\n"))))
        .route("/health", any(refuse(format!("{health}\n"))))
        .fallback(refuse(format!("{reason}\n")))
}

/// What gRPC clients of a member that waits are told.
pub fn waiting_calls(reason: &'static str) -> Router {
    Router::new().fallback(move || async move {
        tonic::Status::unavailable(format!("etcdserver: {reason}")).into_http::<axum::body::Body>()
    })
}

fn probe_routes(pages: &Pages) -> Router {
    health::routes(pages.health.clone(), pages.metrics.clone())
        .route("/metrics", any(pages::metrics).with_state(pages.metrics.clone()))
}

async fn not_found() -> (StatusCode, [(&'static str, &'static str); 2], &'static str) {
    (StatusCode::NOT_FOUND, pages::PLAIN, "404 page not found\n")
}

#[cfg(test)]
mod tests;
