//! The dialing side: the newest good client configuration, and a dialer for http(s) and unix(s) URLs.

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::client::WebPkiServerVerifier;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::server::Follower;
use super::verify::{AnyServer, ServerRules};
use super::{TlsError, TlsSettings, material};
use crate::door::address::{Address, Place, keep_alive};
use crate::door::meter::{ByteCounts, Metered};

/// Bounds connecting and the handshake together.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// A client configuration that follows its files, as [`super::ServerTls`] does.
pub struct ClientTls {
    follower: Follower<ClientConfig>,
}

impl ClientTls {
    /// Reads the files: authority from `trusted_ca` (or the system), certificate from `client_cert`/`client_key`, else `cert`/`key`, else none.
    pub fn load(settings: TlsSettings) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self { follower: Follower::new(settings, build)? }))
    }

    /// The configuration for a handshake that starts at this moment.
    pub fn config(&self) -> Arc<ClientConfig> {
        self.follower.newest()
    }

    /// Speaks TLS on `stream` with the server at `host`.
    pub async fn connect<S>(&self, host: &str, stream: S) -> io::Result<tokio_rustls::client::TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = self.follower.settings.server_name.as_deref().filter(|n| !n.is_empty()).unwrap_or(host);
        let name = ServerName::try_from(name.to_owned()).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        TlsConnector::from(self.config()).connect(name, stream).await
    }
}

fn build(settings: &TlsSettings) -> Result<ClientConfig, TlsError> {
    let provider = material::provider(&settings.cipher_suites)?;
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&material::versions(settings)?)
        .map_err(|e| TlsError::Rules(e.to_string()))?;
    let builder = if settings.self_signed {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
    } else {
        let roots = material::roots(settings.trusted_ca.as_deref())?;
        let names = settings.names();
        if names.is_empty() {
            builder.with_root_certificates(roots)
        } else {
            let inner = WebPkiServerVerifier::builder_with_provider(roots.into(), provider)
                .build()
                .map_err(|e| TlsError::Rules(e.to_string()))?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(ServerRules { inner, names }))
        }
    };
    let (cert, key) = match (&settings.client_cert, &settings.client_key) {
        (Some(cert), Some(key)) => (cert, key),
        _ => (&settings.cert, &settings.key),
    };
    let mut config = if cert.as_os_str().is_empty() {
        builder.with_no_client_auth()
    } else {
        let (chain, der) = (material::certificates(cert)?, material::key(key)?);
        builder.with_client_auth_cert(chain, der).map_err(|e| TlsError::Pair(cert.clone(), key.clone(), e))?
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Connects to http, https, unix and unixs URLs; a tower service, so tonic's `Endpoint::connect_with_connector` takes it.
///
/// tonic refuses https URIs without its own TLS feature: give it the URL as `http://host:port` and say `secure` here.
#[derive(Clone)]
pub struct Dialer {
    place: Place,
    tls: Option<Arc<ClientTls>>,
    counts: Arc<ByteCounts>,
    from: Option<IpAddr>,
}

/// A dialed stream, encrypted or not, counted.
pub type Dialed = TokioIo<Metered<Box<dyn Stream>>>;

#[doc(hidden)]
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Dialer {
    /// A dialer of `address`; `tls` is used when the address asks for it, and must be there then.
    pub fn new(address: &Address, tls: Option<Arc<ClientTls>>, counts: Arc<ByteCounts>) -> Result<Self, TlsError> {
        if address.tls && tls.is_none() {
            return Err(TlsError::Rules(format!("{address} needs TLS, and no TLS files are set for it")));
        }
        Ok(Self { place: address.place.clone(), tls: tls.filter(|_| address.tls), counts, from: None })
    }

    /// Connects from this address of ours, which the other side may look for in our certificate; `None` lets the kernel choose.
    pub fn from(self, from: Option<IpAddr>) -> Self {
        Self { from, ..self }
    }

    /// Connects, within 5 s.
    pub async fn dial(&self) -> io::Result<Dialed> {
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "connecting took too long");
        let stream = tokio::time::timeout(DIAL_TIMEOUT, self.open()).await.map_err(late)??;
        Ok(TokioIo::new(Metered::new(stream, self.counts.clone())))
    }

    async fn open(&self) -> io::Result<Box<dyn Stream>> {
        match &self.place {
            Place::Unix(path) => self.secure("localhost", UnixStream::connect(path).await?).await,
            Place::Tcp { host, port } => {
                let stream = match self.from {
                    None => TcpStream::connect((host.as_str(), *port)).await?,
                    Some(from) => connect_from(from, host, *port).await?,
                };
                stream.set_nodelay(true)?;
                keep_alive(&stream)?;
                self.secure(host, stream).await
            }
        }
    }

    async fn secure<S: Stream + 'static>(&self, host: &str, stream: S) -> io::Result<Box<dyn Stream>> {
        match &self.tls {
            None => Ok(Box::new(stream)),
            Some(tls) => Ok(Box::new(tls.connect(host, stream).await?)),
        }
    }
}

async fn connect_from(from: IpAddr, host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, format!("{host} has no address that {from} can reach"));
    for to in tokio::net::lookup_host((host, port)).await?.filter(|to| to.is_ipv4() == from.is_ipv4()) {
        let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.bind((from, 0).into())?;
        match socket.connect(to).await {
            Ok(stream) => return Ok(stream),
            Err(e) => last = e,
        }
    }
    Err(last)
}

impl tower::Service<Uri> for Dialer {
    type Response = Dialed;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Dialed>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The URI is tonic's idea of where we go; the dialer was told at birth.
    fn call(&mut self, _: Uri) -> Self::Future {
        let dialer = self.clone();
        Box::pin(async move { dialer.dial().await })
    }
}
