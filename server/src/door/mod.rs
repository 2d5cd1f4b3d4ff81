//! The door: listeners, TLS and the life of a connection.
//!
//! In: bound [`Listener`]s and, for each, an [`Entrance`] (what answers behind it). Out: requests, handed to the entrance's routers with an
//! `Arc<ConnInfo>` among their extensions.
//! Invariants: one port speaks HTTP/1 and HTTP/2 (by ALPN or prior knowledge) with or without TLS; a connection never leaves its net thread;
//! open connections (by kind, so that no kind keeps another out), handshakes under way and the time a silent connection may stay are
//! bounded; [`Door::close`] ends within its grace.
//!
//! ```text
//! acceptor (one task a listener) --> least loaded net thread: handshake -> rules -> hyper -> grpc | http router
//! ```
//! Left out: a limit on how often clients may ping. hyper answers HTTP/2 pings itself and does not tell, so --grpc-keepalive-min-time has no effect;
//! a ping costs less than what a request costs.

mod accept;
mod address;
mod connection;
mod limit;
mod meter;
mod net;
pub mod tls;

pub use address::{Address, BindError, Listener, Place};
pub use connection::{ConnInfo, Direct, Remote};
pub use limit::Limit;
pub use meter::{ByteCounts, Metered};
pub use net::{NetThreads, net_threads_for};
pub use tls::{ClientTls, Dialer, ServerTls, TlsError, TlsSettings, TlsVersion};

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// TLS handshakes under way at once; further connections that have greeted wait.
const HANDSHAKES: usize = if cfg!(test) { 16 } else { 512 };

/// What stands behind a listener.
#[derive(Clone)]
pub struct Entrance {
    /// Used in logs: `client`, `peer`, `metrics`.
    pub name: &'static str,
    /// Used when the listener's address asks for TLS.
    pub tls: Option<Arc<ServerTls>>,
    /// Answers requests whose content type is gRPC's; without it they go to `http`.
    pub grpc: Option<Router>,
    /// Answers those of them that it is for, before `grpc` is asked.
    pub direct: Option<Direct>,
    /// Answers everything else; without it the answer is 404.
    pub http: Option<Router>,
    pub http2: Http2,
    /// Where this listener's traffic is counted.
    pub bytes: Arc<ByteCounts>,
    /// How many connections may be open here; entrances that share one share it out.
    pub limit: Arc<Limit>,
}

/// HTTP/2 settings that come from flags.
#[derive(Clone, Copy, Debug)]
pub struct Http2 {
    /// --max-concurrent-streams, per connection.
    pub max_streams: u32,
    /// --grpc-keepalive-interval: how long a connection may be silent before it is pinged; zero never pings.
    pub ping_after: Duration,
    /// --grpc-keepalive-timeout: how long the answer to a ping may take before the connection is dropped.
    pub ping_timeout: Duration,
}

impl Default for Http2 {
    /// etcd's defaults.
    fn default() -> Self {
        Self { max_streams: u32::MAX, ping_after: Duration::from_secs(7200), ping_timeout: Duration::from_secs(20) }
    }
}

/// The listeners that are open and their connections.
pub struct Door {
    net: Arc<NetThreads>,
    tasks: TaskTracker,
    /// Set first: accept nothing more, finish what runs.
    closing: CancellationToken,
    /// Set last: drop what still runs.
    cut: CancellationToken,
    handshakes: Arc<Semaphore>,
}

impl Door {
    /// A door whose connections live on `net`.
    pub fn new(net: Arc<NetThreads>) -> Self {
        Self {
            net,
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
            cut: CancellationToken::new(),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES)),
        }
    }

    /// Starts to accept on `listener`. Fails when its address asks for TLS and the entrance has none.
    pub fn open(&self, listener: Listener, entrance: Entrance) -> io::Result<()> {
        if listener.address().tls && entrance.tls.is_none() {
            let text = format!("cannot listen on TLS for {}: KeyFile and CertFile are not presented", listener.address());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        accept::spawn(self, listener, Arc::new(entrance))
    }

    /// Connections open now, per net thread.
    pub fn open_connections(&self) -> Vec<usize> {
        self.net.open()
    }

    /// Cancelled as soon as the door begins to close: streams without an end of their own should end then.
    pub fn closing(&self) -> CancellationToken {
        self.closing.clone()
    }

    /// Stops accepting, tells every connection to finish (GOAWAY on HTTP/2), waits up to `grace`, then drops the rest. True: nothing was dropped.
    pub async fn close(&self, grace: Duration) -> bool {
        self.closing.cancel();
        self.tasks.close();
        let calm = tokio::time::timeout(grace, self.tasks.wait()).await.is_ok();
        self.cut.cancel();
        self.tasks.wait().await;
        calm
    }
}

#[cfg(test)]
mod tests;
