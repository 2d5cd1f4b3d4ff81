//! Opens one connection to one endpoint: TCP or a socket file, with TLS on top where the endpoint wants it.
//!
//! In: an [`Address`] and the settings. Out: a byte stream for gRPC. Every failure is a [`ConnectFailure`], which tells the
//! caller that nothing was sent. That holds beyond the handshake: servers may still hang up on a connection that we take for
//! made (in TLS 1.3 that is how they refuse our certificate), so no request leaves before the server has said something. What
//! waits for that is [`Gate`].

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tower::Service;

use crate::address::{Address, Scheme, Target};
use crate::config::TlsConfig;
use crate::error::{ConnectFailure, UNHEARD};
use crate::tls;

/// Connects to its one endpoint whatever URI it is asked for.
#[derive(Clone)]
pub(crate) struct Connector {
    pub address: Address,
    pub tls: Option<Arc<TlsConfig>>,
    pub timeout: Duration,
}

impl Connector {
    /// Whether connections to this endpoint are encrypted.
    pub fn uses_tls(&self) -> bool {
        match self.address.scheme() {
            Scheme::Plain => false,
            Scheme::Tls => true,
            Scheme::Either => self.tls.is_some(),
        }
    }

    async fn connect(self) -> Result<Stream, ConnectFailure> {
        self.limited(self.open()).await
    }

    async fn limited<T>(&self, opens: impl Future<Output = Result<T, ConnectFailure>>) -> Result<T, ConnectFailure> {
        let within = self.timeout;
        let late = || ConnectFailure(format!("dial {}: no answer within {within:?}", self.address));
        tokio::time::timeout(within, opens).await.unwrap_or_else(|_| Err(late()))
    }

    /// A connection for HTTP/1.1, where the client speaks first.
    pub async fn connect_http(self) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static, ConnectFailure> {
        self.limited(self.dial(Some(b"http/1.1"))).await
    }

    async fn open(&self) -> Result<Stream, ConnectFailure> {
        Ok(Stream { io: self.dial(None).await?, heard: false, gate: Gate::default(), waiting: None })
    }

    /// A connection with its handshake done; `protocol` is offered in place of h2.
    async fn dial(&self, protocol: Option<&[u8]>) -> Result<Box<dyn Io>, ConnectFailure> {
        let failed = |error: io::Error| ConnectFailure(format!("dial {}: {error}", self.address));
        let bare: Box<dyn Io> = match &self.address.target {
            Target::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(failed)?;
                stream.set_nodelay(true).and_then(|()| keep_alive(&stream)).map_err(failed)?;
                Box::new(stream)
            }
            Target::Unix(path) => Box::new(UnixStream::connect(path).await.map_err(failed)?),
        };
        if !self.uses_tls() {
            return Ok(bare);
        }
        let default = TlsConfig::default();
        let settings = self.tls.as_deref().unwrap_or(&default);
        let mut config = tls::client_config(settings).map_err(|error| ConnectFailure(error.to_string()))?;
        if let Some(protocol) = protocol {
            config.alpn_protocols = vec![protocol.to_vec()];
        }
        let name = settings.server_name.as_deref().unwrap_or_else(|| self.address.server_name());
        let name = ServerName::try_from(name.trim_end_matches('.').to_string())
            .map_err(|error| ConnectFailure(format!("server name {name:?}: {error}")))?;
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, bare)
            .await
            .map_err(|error| ConnectFailure(format!("authentication handshake failed with {}: {error}", self.address)))?;
        Ok(Box::new(stream))
    }
}

/// Lets the kernel ask for a server that is silent, after 30 s and every 30 s from then on: a watch on one whose machine went off would wait for ever.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    let every = Duration::from_secs(30);
    socket2::SockRef::from(stream).set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(every).with_interval(every))
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = ConnectFailure;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let connect = self.clone().connect();
        Box::pin(async move { connect.await.map(TokioIo::new) })
    }
}

pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection of any of the kinds above.
pub(crate) struct Stream {
    io: Box<dyn Io>,
    /// The server has said something, so the gate is open.
    heard: bool,
    gate: Gate,
    /// Whoever wants to write what the gate holds back.
    waiting: Option<Waker>,
}

impl Stream {
    /// Opens the gate at the first byte from the server; names a hang-up before that as what it is.
    fn listen(&mut self, read: Poll<io::Result<()>>, bytes: usize) -> Poll<io::Result<()>> {
        let why = match &read {
            _ if self.heard => return read,
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(())) if bytes > 0 => {
                self.heard = true;
                if let Some(waiting) = self.waiting.take() {
                    waiting.wake();
                }
                return read;
            }
            Poll::Ready(Ok(())) => "hung up".to_string(),
            Poll::Ready(Err(error)) => error.to_string(),
        };
        Poll::Ready(Err(io::Error::other(ConnectFailure(format!("{UNHEARD}{why}")))))
    }
}

/// Tells how much of what HTTP/2 writes on a new connection is no request yet: the client's preface and settings.
#[derive(Clone, Default)]
struct Gate {
    /// Bytes seen so far, counted up to the length of the preface.
    preface: usize,
    /// The part of a frame's header that was seen.
    header: Vec<u8>,
    /// Bytes left of the frame's payload.
    payload: usize,
}

const PREFACE: usize = 24;
const FRAME_HEADER: usize = 9;
const HEADERS_FRAME: u8 = 1;

impl Gate {
    /// How many bytes of `text` may pass, from here on.
    fn allowed(&self, text: &[u8]) -> usize {
        let mut ahead = self.clone();
        let mut at = 0;
        while at < text.len() {
            if ahead.at_request(&text[at..]) {
                return at;
            }
            at += ahead.step(&text[at..]);
        }
        at
    }

    /// Notes that `text` has passed.
    fn pass(&mut self, text: &[u8]) {
        let mut at = 0;
        while at < text.len() {
            at += self.step(&text[at..]);
        }
    }

    /// True when `text` begins with the frame that begins a request.
    fn at_request(&self, text: &[u8]) -> bool {
        let between_frames = self.preface == PREFACE && self.payload == 0 && self.header.is_empty();
        between_frames && text.get(3) == Some(&HEADERS_FRAME)
    }

    /// Takes one piece of preface, header or payload; gives its length, which is never 0.
    fn step(&mut self, text: &[u8]) -> usize {
        if self.preface < PREFACE {
            let taken = text.len().min(PREFACE - self.preface);
            self.preface += taken;
            return taken;
        }
        if self.payload > 0 {
            let taken = text.len().min(self.payload);
            self.payload -= taken;
            return taken;
        }
        let taken = text.len().min(FRAME_HEADER - self.header.len());
        self.header.extend_from_slice(&text[..taken]);
        if self.header.len() == FRAME_HEADER {
            self.payload = usize::from(self.header[0]) << 16 | usize::from(self.header[1]) << 8 | usize::from(self.header[2]);
            self.header.clear();
        }
        taken
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        self.listen(read, buf.filled().len() - before)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.heard || buf.is_empty() {
            return Pin::new(&mut self.io).poll_write(cx, buf);
        }
        let allowed = self.gate.allowed(buf);
        if allowed == 0 {
            self.waiting = Some(cx.waker().clone());
            // What passed before must reach the server, or it has nothing to answer.
            return match Pin::new(&mut self.io).poll_flush(cx) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                _ => Poll::Pending,
            };
        }
        let written = Pin::new(&mut self.io).poll_write(cx, &buf[..allowed]);
        if let Poll::Ready(Ok(count)) = written {
            self.gate.pass(&buf[..count]);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if !self.heard {
            let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
            return self.poll_write(cx, first);
        }
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, 0, 0, 0, 0, 0][..], payload].concat()
    }

    /// Preface, settings and window updates pass in pieces of any size; the first request does not.
    #[test]
    fn the_gate_holds_requests() {
        let greeting = [&[b'P'; PREFACE][..], &frame(4, &[1; 12]), &frame(8, &[1; 4])].concat();
        let all = [&greeting[..], &frame(HEADERS_FRAME, b"request")].concat();
        for cut in 0..=greeting.len() {
            let mut gate = Gate::default();
            assert_eq!(gate.allowed(&all[..cut]), cut);
            gate.pass(&all[..cut]);
            assert_eq!(gate.allowed(&all[cut..]), greeting.len() - cut, "cut at {cut}");
        }
    }
}
