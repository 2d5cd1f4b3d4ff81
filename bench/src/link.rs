//! Connections to a server: plain or mutual TLS, one HTTP/2 connection each.
//!
//! In: endpoints and PEM files. Out: tonic channels, each exactly one connection, on the runtime of the calling thread.

use crate::Failure;
use clap::Args;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

/// Where a server listens and how to prove who we are.
#[derive(Args, Clone, Debug)]
pub struct Link {
    /// Client URLs, comma separated; connections are spread over them
    #[arg(long, value_delimiter = ',', default_value = "http://127.0.0.1:2379")]
    pub endpoints: Vec<String>,
    /// PEM file of the authority that signed the server's certificate; needed for https
    #[arg(long)]
    pub cacert: Option<PathBuf>,
    /// PEM file of the client's certificate
    #[arg(long, requires = "key")]
    pub cert: Option<PathBuf>,
    /// PEM file of the client's private key
    #[arg(long, requires = "cert")]
    pub key: Option<PathBuf>,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Link {
    /// The first endpoint's `host:port`, and whether it asks for TLS.
    pub fn address(endpoint: &str) -> Result<(String, bool), Failure> {
        match endpoint.split_once("://") {
            Some(("http", address)) => Ok((address.to_owned(), false)),
            Some(("https", address)) => Ok((address.to_owned(), true)),
            _ => Err(format!("endpoint {endpoint:?} begins with neither http:// nor https://").into()),
        }
    }

    /// Opens connection number `n`, to endpoint `n` modulo their count.
    pub async fn connect(&self, n: usize) -> Result<Channel, Failure> {
        let endpoint = &self.endpoints[n % self.endpoints.len()];
        let (address, secure) = Self::address(endpoint)?;
        let tls = if secure { Some(TlsConnector::from(Arc::new(self.tls()?))) } else { None };
        let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host).to_owned();
        // tonic refuses https without its own TLS; encryption is the connector's business here.
        let dial = tower::service_fn(move |_: http::Uri| {
            let (address, host, tls) = (address.clone(), host.clone(), tls.clone());
            async move {
                let stream = TcpStream::connect(&address).await?;
                stream.set_nodelay(true)?;
                let stream: Pin<Box<dyn Stream>> = match tls {
                    None => Box::pin(stream),
                    Some(tls) => {
                        let name = ServerName::try_from(host).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
                        Box::pin(tls.connect(name, stream).await?)
                    }
                };
                Ok::<_, io::Error>(TokioIo::new(stream))
            }
        });
        let plain = endpoint.replacen("https://", "http://", 1);
        let endpoint = Endpoint::from_shared(plain)?
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(16 << 20)
            .connect_timeout(std::time::Duration::from_secs(5));
        Ok(endpoint.connect_with_connector(dial).await?)
    }

    fn tls(&self) -> Result<ClientConfig, Failure> {
        let mut roots = RootCertStore::empty();
        let cacert = self.cacert.as_ref().ok_or("https needs --cacert")?;
        for certificate in CertificateDer::pem_file_iter(cacert)? {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?.with_root_certificates(roots);
        let mut config = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => {
                let chain = CertificateDer::pem_file_iter(cert)?.collect::<Result<Vec<_>, _>>()?;
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key)?)?
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}
