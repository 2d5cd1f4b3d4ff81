//! The operator's HTTP door: /healthz, /readyz and /metrics.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::metrics::Metrics;

/// All addresses means those of IPv6 as well, where the machine has it: pods may have no other.
async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    if address.ip() == IpAddr::from(Ipv4Addr::UNSPECIFIED)
        && let Ok(listener) = TcpListener::bind((Ipv6Addr::UNSPECIFIED, address.port())).await
    {
        return Ok(listener);
    }
    TcpListener::bind(address).await
}

/// Opens the door. `ready` turns true once the process works or waits for its turn.
pub async fn open(address: SocketAddr, metrics: Arc<Metrics>, ready: Arc<AtomicBool>) -> std::io::Result<()> {
    let listener = bind(address).await?;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Who asks for all addresses is reached at each that the machine has.
    #[tokio::test]
    async fn all_addresses() {
        let listener = bind((Ipv4Addr::UNSPECIFIED, 0).into()).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        if let Ok(other) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await {
            drop(other);
            tokio::net::TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await.unwrap();
        }
    }
}
