//! The life of one connection: handshake, rules, requests, end.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::response::IntoResponse;
use axum::{BoxError, Router};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::meter::Metered;
use super::net::Seat;
use super::tls::{common_name, leads_to};
use super::{Entrance, Http2, ServerTls};

/// Bounds a TLS handshake, as etcd does.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a handshake keeps others waiting: one whose client dawdles goes on, but no longer at their cost.
const PATIENCE: Duration = Duration::from_secs(1);
/// A TLS record that begins a handshake begins with this byte; no request of HTTP does.
const TLS_HANDSHAKE: u8 = 0x16;
/// How long a connection may stay without a whole HTTP/1 head or HTTP/2 preface, as in etcd.
const SILENCE: Duration = Duration::from_secs(300);
/// An HTTP/2 preface has 24 bytes; whoever has sent that many has chosen a protocol, and the protocol's own timeouts hold.
const PREFACE: u64 = 24;
/// What a client may send on one stream, and on all streams of a connection, before our side has taken it in.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Room for large tokens among the request's metadata.
const HEADER_LIST: u32 = 64 << 10;
/// Streams a client may cancel before we saw them; a client with many calls in flight that all time out is no attacker.
const RESET_STREAMS: usize = 1024;

/// Who is on the other side; each request carries an `Arc` of it among its extensions.
#[derive(Debug)]
pub struct ConnInfo {
    /// The entrance's name.
    pub listener: &'static str,
    pub remote: Remote,
    pub tls: bool,
    /// Common name of the client certificate; there only when an authority we trust vouches for it.
    pub common_name: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remote {
    Tcp(SocketAddr),
    Unix,
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix => f.write_str("@"),
        }
    }
}

/// A connection as the acceptor hands it over.
pub(super) struct Arrival {
    pub(super) raw: Raw,
    pub(super) entrance: Arc<Entrance>,
    pub(super) tls: bool,
    /// TLS only if the first byte is that of a TLS handshake.
    pub(super) mixed: bool,
    /// Held as long as the connection.
    pub(super) place: OwnedSemaphorePermit,
    /// Where its handshake waits for its turn.
    pub(super) handshakes: Arc<Semaphore>,
    pub(super) closing: CancellationToken,
    pub(super) cut: CancellationToken,
}

pub(super) enum Raw {
    Tcp(std::net::TcpStream, SocketAddr),
    Unix(std::os::unix::net::UnixStream),
}

/// Serves a connection to its end. Failures end here: they are logged, each where it is known.
pub(super) async fn serve(arrival: Arrival, _seat: Seat) {
    let cut = arrival.cut.clone();
    let remote = match &arrival.raw {
        Raw::Tcp(_, remote) => Remote::Tcp(*remote),
        Raw::Unix(_) => Remote::Unix,
    };
    tokio::select! {
        () = cut.cancelled() => {}
        result = begin(arrival, remote.clone()) => {
            if let Err(e) = result {
                tracing::debug!("remote-addr" = %remote, error = %e, "connection ended");
            }
        }
    }
}

async fn begin(arrival: Arrival, remote: Remote) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let Arrival { raw, entrance, tls, mixed, place: _place, handshakes, closing, .. } = arrival;
    let mut tls = entrance.tls.clone().filter(|_| tls);
    match raw {
        Raw::Tcp(s, _) => {
            let stream = tokio::net::TcpStream::from_std(s)?;
            // Who says nothing takes no turn of those who do.
            if tls.is_some() && !greets_in_tls(&stream, &closing).await? && mixed {
                tls = None;
            }
            meet(stream, tls, &handshakes, entrance, remote, closing).await
        }
        Raw::Unix(s) => meet(tokio::net::UnixStream::from_std(s)?, tls, &handshakes, entrance, remote, closing).await,
    }
}

/// Looks at the first byte without taking it.
async fn greets_in_tls(stream: &tokio::net::TcpStream, closing: &CancellationToken) -> io::Result<bool> {
    let mut first = [0];
    tokio::select! {
        () = closing.cancelled() => Err(io::ErrorKind::ConnectionAborted.into()),
        seen = tokio::time::timeout(HANDSHAKE_TIMEOUT, stream.peek(&mut first)) => {
            let seen = seen.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            Ok(seen > 0 && first[0] == TLS_HANDSHAKE)
        }
    }
}

async fn meet<S>(
    stream: S,
    tls: Option<Arc<ServerTls>>,
    handshakes: &Arc<Semaphore>,
    entrance: Arc<Entrance>,
    remote: Remote,
    closing: CancellationToken,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut info = ConnInfo { listener: entrance.name, remote, tls: tls.is_some(), common_name: None };
    let Some(tls) = tls else {
        return talk(stream, entrance, info, closing).await;
    };
    let greeting = async {
        let turn = handshakes.acquire().await;
        let late = |_| Err(io::Error::new(io::ErrorKind::TimedOut, "tls: handshake took too long"));
        let mut shaking = pin!(tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake(stream, &tls, &mut info)));
        if let Ok(shaken) = tokio::time::timeout(PATIENCE, shaking.as_mut()).await {
            return shaken.unwrap_or_else(late);
        }
        drop(turn);
        shaking.await.unwrap_or_else(late)
    };
    let shaken = tokio::select! {
        () = closing.cancelled() => return Ok(()),
        shaken = greeting => shaken,
    };
    match shaken {
        Ok(stream) => talk(stream, entrance, info, closing).await,
        // A probe that connects and leaves says nothing of interest.
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
        Err(e) => {
            tracing::warn!("remote-addr" = %info.remote, error = %e, "rejected connection on {} endpoint", entrance.name);
            Ok(())
        }
    }
}

async fn handshake<S>(stream: S, tls: &ServerTls, info: &mut ConnInfo) -> io::Result<tokio_rustls::server::TlsStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let stream = TlsAcceptor::from(tls.config()).accept(stream).await?;
    if let Some(leaf) = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()) {
        if let (true, Remote::Tcp(addr)) = (tls.settings().check_address, &info.remote) {
            leads_to(leaf, addr.ip()).await.map_err(|e| io::Error::new(io::ErrorKind::PermissionDenied, e))?;
        }
        info.common_name = common_name(leaf);
    }
    Ok(stream)
}

async fn talk<S>(
    stream: S,
    entrance: Arc<Entrance>,
    info: ConnInfo,
    closing: CancellationToken,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stream = Metered::new(stream, entrance.bytes.clone());
    let seen = stream.seen();
    let builder = builder(&entrance.http2);
    let split = Split { entrance, info: Arc::new(info) };
    let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), split));
    let mut silence = pin!(tokio::time::sleep(SILENCE));
    let (mut told, mut speaks) = (false, false);
    loop {
        tokio::select! {
            result = connection.as_mut() => return result,
            () = closing.cancelled(), if !told => {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
            () = silence.as_mut(), if !speaks => {
                if seen.load(Ordering::Relaxed) < PREFACE {
                    return Ok(());
                }
                speaks = true;
            }
        }
    }
}

fn builder(h2: &Http2) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(SILENCE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(h2.max_streams)
        .max_header_list_size(HEADER_LIST)
        .max_pending_accept_reset_streams(RESET_STREAMS)
        .keep_alive_interval(Some(h2.ping_after).filter(|d| !d.is_zero()))
        .keep_alive_timeout(h2.ping_timeout);
    builder
}

/// A service that is asked without a router between: what that saves is a twentieth of a read.
#[derive(Clone)]
pub struct Direct {
    /// What the paths of its requests begin with.
    pub prefix: &'static str,
    pub call: Arc<dyn Fn(Request<Incoming>) -> DirectAnswer + Send + Sync>,
}

type DirectAnswer = Pin<Box<dyn Future<Output = Result<Response<tonic::body::Body>, Infallible>> + Send>>;

/// Chooses who answers a request and tells it who asks.
struct Split {
    entrance: Arc<Entrance>,
    info: Arc<ConnInfo>,
}

impl hyper::service::Service<Request<Incoming>> for Split {
    type Response = Response<Reply>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let of_grpc = |value: &http::HeaderValue| value.as_bytes().starts_with(b"application/grpc");
        let grpc = request.headers().get(header::CONTENT_TYPE).is_some_and(of_grpc);
        request.extensions_mut().insert(self.info.clone());
        if grpc
            && let Some(direct) = &self.entrance.direct
            && request.uri().path().starts_with(direct.prefix)
        {
            return Answer::Direct((direct.call)(request));
        }
        match self.entrance.grpc.as_ref().filter(|_| grpc).or(self.entrance.http.as_ref()) {
            Some(router) => Answer::Routed(router.clone().call(request)),
            None => Answer::Nowhere,
        }
    }
}

/// The future of an answer, without a box of its own.
#[expect(clippy::large_enum_variant, reason = "boxing the larger variant is the allocation a request that this type avoids")]
enum Answer {
    Direct(DirectAnswer),
    Routed(<Router as Service<Request<Incoming>>>::Future),
    Nowhere,
}

impl Future for Answer {
    type Output = Result<Response<Reply>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Direct(f) => f.as_mut().poll(cx).map_ok(|response| response.map(Reply::Direct)),
            Self::Routed(f) => Pin::new(f).poll(cx).map_ok(|response| response.map(Reply::Routed)),
            Self::Nowhere => {
                let response = (StatusCode::NOT_FOUND, "404 page not found\n").into_response();
                Poll::Ready(Ok(response.map(Reply::Routed)))
            }
        }
    }
}

/// The body of an answer.
enum Reply {
    Direct(tonic::body::Body),
    Routed(Body),
}

impl http_body::Body for Reply {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Direct(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Routed(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Direct(body) => body.is_end_stream(),
            Self::Routed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Direct(body) => body.size_hint(),
            Self::Routed(body) => body.size_hint(),
        }
    }
}
