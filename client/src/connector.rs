//! Opens one connection to one endpoint: TCP or a socket file, with TLS on top where the endpoint wants it.
//!
//! In: an [`Address`] and the settings. Out: a byte stream for gRPC. Every failure is a [`ConnectFailure`], which tells the
//! caller that nothing was sent.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
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
use crate::error::ConnectFailure;
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
        let within = self.timeout;
        tokio::time::timeout(within, self.open())
            .await
            .unwrap_or_else(|_| Err(ConnectFailure(format!("dial {}: no answer within {within:?}", self.address))))
    }

    async fn open(&self) -> Result<Stream, ConnectFailure> {
        let failed = |error: io::Error| ConnectFailure(format!("dial {}: {error}", self.address));
        let bare: Box<dyn Io> = match &self.address.target {
            Target::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(failed)?;
                stream.set_nodelay(true).map_err(failed)?;
                Box::new(stream)
            }
            Target::Unix(path) => Box::new(UnixStream::connect(path).await.map_err(failed)?),
        };
        if !self.uses_tls() {
            return Ok(Stream(bare));
        }
        let default = TlsConfig::default();
        let settings = self.tls.as_deref().unwrap_or(&default);
        let config = tls::client_config(settings).map_err(|error| ConnectFailure(error.to_string()))?;
        let name = settings.server_name.as_deref().unwrap_or_else(|| self.address.server_name());
        let name = ServerName::try_from(name.trim_end_matches('.').to_string())
            .map_err(|error| ConnectFailure(format!("server name {name:?}: {error}")))?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, bare).await.map_err(|error| {
            ConnectFailure(format!("authentication handshake failed with {}: {error}", self.address))
        })?;
        Ok(Stream(Box::new(stream)))
    }
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

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection of any of the kinds above.
pub(crate) struct Stream(Box<dyn Io>);

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}
