//! The client's half of TLS.
//!
//! In: [`TlsConfig`]. Out: a rustls configuration that offers h2 only, unless its user changes that. It is built anew for each
//! connection, because the files behind it may have been renewed since the last one; connections are rare.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::config::{Pem, TlsConfig};
use crate::error::{Error, Result, system_text};
use crate::roots;

/// Reads the PEM sources and makes the configuration. Errors name the source that could not be used.
pub(crate) fn client_config(settings: &TlsConfig) -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Config(format!("tls versions: {error}")))?;
    let builder = if settings.insecure_skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
    } else {
        let (roots, pinned) = match &settings.authorities {
            Some(pem) => (authorities(pem)?, certificates(pem)?),
            None => (roots::system(), Vec::new()),
        };
        let by_authority = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| Error::Config(format!("authorities: {error}")))?;
        builder.dangerous().with_custom_certificate_verifier(Arc::new(KnownServer { by_authority, pinned }))
    };
    let mut config = match &settings.identity {
        Some((chain, key)) => builder
            .with_client_auth_cert(certificates(chain)?, private_key(key)?)
            .map_err(|error| Error::Config(format!("client certificate {chain:?} with key {key:?}: {error}")))?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn authorities(pem: &Pem) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate).map_err(|error| Error::Config(format!("authority in {pem:?}: {error}")))?;
    }
    Ok(roots)
}

fn certificates(pem: &Pem) -> Result<Vec<CertificateDer<'static>>> {
    let text = read(pem)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| Error::Config(format!("certificate {pem:?}: {error}")))?;
    if found.is_empty() {
        return Err(Error::Config(format!("certificate {pem:?}: no certificate in it")));
    }
    Ok(found)
}

fn private_key(pem: &Pem) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(&read(pem)?).map_err(|error| Error::Config(format!("private key {pem:?}: {error}")))
}

fn read(pem: &Pem) -> Result<Vec<u8>> {
    match pem {
        Pem::File(path) => {
            std::fs::read(path).map_err(|error| Error::Config(format!("open {}: {}", path.display(), system_text(&error))))
        }
        Pem::Text(text) => Ok(text.clone()),
    }
}

/// Takes what the authorities signed, and a certificate that is itself among the authorities: many a small cluster has one
/// certificate that signed itself, and rustls alone takes no authority for a server. Name and dates must fit all the same.
#[derive(Debug)]
struct KnownServer {
    by_authority: Arc<WebPkiServerVerifier>,
    pinned: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for KnownServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.by_authority.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        if verified.is_ok() || !self.pinned.iter().any(|pinned| pinned.as_ref() == end_entity.as_ref()) {
            return verified;
        }
        let (_, certificate) =
            X509Certificate::from_der(end_entity).map_err(|_| rustls::Error::from(CertificateError::BadEncoding))?;
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        if seconds < certificate.validity().not_before.timestamp() {
            return Err(CertificateError::NotValidYet.into());
        }
        if seconds > certificate.validity().not_after.timestamp() {
            return Err(CertificateError::Expired.into());
        }
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.by_authority.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.by_authority.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_authority.supported_verify_schemes()
    }
}

/// Takes any certificate. Whoever can show any can also sign for it, so signatures are not looked at either; that lets in
/// servers with keys that we have no code to check, such as the P-521 keys that etcd makes for itself.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let mut schemes = self.0.signature_verification_algorithms.supported_schemes();
        schemes.push(SignatureScheme::ECDSA_NISTP521_SHA512);
        schemes
    }
}
