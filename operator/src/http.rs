//! The operator's HTTP door: /healthz, /readyz and /metrics.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::metrics::Metrics;

/// Opens the door. `ready` turns true once the process works or waits for its turn.
pub async fn open(address: SocketAddr, metrics: Arc<Metrics>, ready: Arc<AtomicBool>) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let page = move || {
        let text = metrics.text();
        async move { ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text) }
    };
    let readiness = move || {
        let ready = ready.load(Ordering::Relaxed);
        async move {
            match ready {
                true => (StatusCode::OK, "ok").into_response(),
                false => (StatusCode::SERVICE_UNAVAILABLE, "the API server was not reached yet").into_response(),
            }
        }
    };
    let router =
        Router::new().route("/healthz", get(|| async { "ok" })).route("/readyz", get(readiness)).route("/metrics", get(page));
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the HTTP door closed");
        }
    });
    Ok(())
}
