//! Dial: how a connection to a peer is made. The room asks for a byte stream and does not know about certificates; whoever builds
//! the server says how https is spoken.

use hyper_util::rt::TokioIo;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tonic::transport::{Channel, Endpoint};

/// A byte stream to a peer.
pub trait PeerStream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> PeerStream for S {}

/// A connection being made.
pub type Dialing = Pin<Box<dyn Future<Output = io::Result<Box<dyn PeerStream>>> + Send>>;

/// Opens byte streams to peer URLs (`http`, `https`, `unix`, `unixs`).
pub trait Dial: Send + Sync + 'static {
    /// Connects to `url`, handshake included. Bounds its own time.
    fn dial(&self, url: &str) -> Dialing;
}

/// Dials without encryption; an https URL is refused.
#[derive(Clone, Copy, Default, Debug)]
pub struct PlainDial;

impl Dial for PlainDial {
    fn dial(&self, url: &str) -> Dialing {
        let url = url.to_string();
        Box::pin(async move {
            if let Some(path) = url.strip_prefix("unix://") {
                return Ok(Box::new(UnixStream::connect(path).await?) as Box<dyn PeerStream>);
            }
            let Some(rest) = url.strip_prefix("http://") else {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("{url} asks for TLS, and this member has no peer certificates"),
                ));
            };
            let stream = TcpStream::connect(rest.trim_end_matches('/')).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn PeerStream>)
        })
    }
}

/// Stream window: enough for a megabyte in flight on a link of 10 ms at a gigabit.
const WINDOW: u32 = 4 << 20;

/// Connects a gRPC channel to `url`. A peer that stops answering is noticed within about `silence`, at least a second.
pub(super) async fn connect(dial: &Arc<dyn Dial>, url: &str, silence: Duration) -> Result<Channel, tonic::transport::Error> {
    let silence = silence.max(Duration::from_secs(1));
    // The endpoint's own address is only a name: our dialer knows where to go, and tonic's client would refuse an https scheme.
    let endpoint = Endpoint::from_static("http://peer.quorate")
        .connect_timeout(silence * 2)
        .http2_keep_alive_interval(silence)
        .keep_alive_timeout(silence)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW * 2);
    let (dial, url) = (dial.clone(), url.to_string());
    let connector = tower::service_fn(move |_: http::Uri| {
        let dialing = dial.dial(&url);
        async move { dialing.await.map(TokioIo::new) }
    });
    endpoint.connect_with_connector(connector).await
}
