//! Who may connect: the checks that go beyond "signed by an authority we trust".

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::material::serial;

/// A refusal rustls has no name for, carried to the log.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(String);

fn refused(why: String) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(Refused(why)))))
}

/// The authority check of `inner`, then revocation, common name and host name.
#[derive(Debug)]
pub(super) struct ClientRules {
    pub(super) inner: Arc<dyn ClientCertVerifier>,
    pub(super) revoked: HashSet<Vec<u8>>,
    pub(super) names: Names,
}

/// Who is let pass of those whom an authority vouches for.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    pub(super) cns: Vec<String>,
    /// Host names, addresses or wildcards as they were written.
    pub(super) hostnames: Vec<String>,
}

impl Names {
    /// True when all are let pass.
    pub(super) fn is_empty(&self) -> bool {
        self.cns.is_empty() && self.hostnames.is_empty()
    }

    /// `side` is whose certificate it is: `client` or `server`.
    fn check(&self, leaf: &CertificateDer<'_>, side: &str) -> Result<(), Error> {
        let cn = common_name(leaf);
        if !self.cns.is_empty() && !cn.as_ref().is_some_and(|cn| self.cns.contains(cn)) {
            return Err(refused(format!(
                "{side} certificate authentication failed: common name {:?} is not allowed",
                cn.unwrap_or_default()
            )));
        }
        if !self.hostnames.is_empty() {
            let (names, ips) = subject_names(leaf).map_err(refused)?;
            if !self.hostnames.iter().any(|allowed| carries(&names, &ips, allowed)) {
                return Err(refused(format!("{side} certificate authentication failed: it carries no allowed host name")));
            }
        }
        Ok(())
    }
}

impl ClientCertVerifier for ClientRules {
    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(leaf, chain, now)?;
        if !self.revoked.is_empty() {
            for cert in std::iter::once(leaf).chain(chain) {
                let number = serial(parse(cert)?.raw_serial());
                if self.revoked.contains(&number) {
                    let hex: String = number.iter().map(|b| format!("{b:02x}")).collect();
                    return Err(refused(format!("certificate serial {hex} revoked")));
                }
            }
        }
        self.names.check(leaf, "client")?;
        Ok(verified)
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_tls12_signature(
        &self,
        m: &[u8],
        c: &CertificateDer<'_>,
        d: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(m, c, d)
    }

    fn verify_tls13_signature(
        &self,
        m: &[u8],
        c: &CertificateDer<'_>,
        d: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(m, c, d)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// The authority and name check of `inner`, then whether the server is one of those who are let pass: peers that are dialed must be those who may
/// dial, as in etcd.
#[derive(Debug)]
pub(super) struct ServerRules {
    pub(super) inner: Arc<dyn ServerCertVerifier>,
    pub(super) names: Names,
}

impl ServerCertVerifier for ServerRules {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.inner.verify_server_cert(leaf, chain, name, ocsp, now)?;
        self.names.check(leaf, "server")?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        m: &[u8],
        c: &CertificateDer<'_>,
        d: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(m, c, d)
    }

    fn verify_tls13_signature(
        &self,
        m: &[u8],
        c: &CertificateDer<'_>,
        d: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(m, c, d)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Believes any server: members that made their own certificates have no authority in common. The traffic is still encrypted.
#[derive(Debug)]
pub(super) struct AnyServer(pub(super) Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        m: &[u8],
        c: &CertificateDer<'_>,
        d: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(m, c, d, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        m: &[u8],
        c: &CertificateDer<'_>,
        d: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(m, c, d, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn parse<'a>(cert: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Error> {
    X509Certificate::from_der(cert).map(|(_, c)| c).map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))
}

/// The subject's common name.
pub(in crate::door) fn common_name(cert: &CertificateDer<'_>) -> Option<String> {
    let parsed = parse(cert).ok()?;
    parsed.subject().iter_common_name().next()?.as_str().ok().map(str::to_owned)
}

/// Whether the certificate's names lead to `remote`, as etcd asks of peers: an IP in it equals the address, or a DNS name in it resolves to it.
///
/// A certificate without names passes, as in etcd. A wildcard name passes too: etcd looks the address up backwards, which many clusters' DNS
/// cannot answer; the authority's signature has been checked by then.
pub(in crate::door) async fn leads_to(cert: &CertificateDer<'_>, remote: IpAddr) -> Result<(), String> {
    let (names, ips) = subject_names(cert)?;
    let remote = remote.to_canonical();
    if (ips.is_empty() && names.is_empty()) || ips.contains(&remote) || names.iter().any(|n| n.starts_with("*.")) {
        return Ok(());
    }
    for name in &names {
        if let Ok(mut found) = tokio::net::lookup_host((name.as_str(), 0)).await
            && found.any(|a| a.ip().to_canonical() == remote)
        {
            return Ok(());
        }
    }
    if names.is_empty() {
        let valid: Vec<String> = ips.iter().map(IpAddr::to_string).collect();
        return Err(format!("x509: certificate is valid for {}, not {remote}", valid.join(", ")));
    }
    Err(format!("tls: \"{remote}\" does not match any of DNSNames {names:?} or IPs {ips:?}"))
}

/// The DNS names and the addresses that a certificate is good for.
fn subject_names(cert: &CertificateDer<'_>) -> Result<(Vec<String>, Vec<IpAddr>), String> {
    let (mut names, mut ips) = (Vec::new(), Vec::new());
    let parsed = parse(cert).map_err(|e| e.to_string())?;
    let san = parsed.subject_alternative_name().map_err(|e| e.to_string())?;
    for name in san.iter().flat_map(|ext| &ext.value.general_names) {
        match name {
            GeneralName::DNSName(name) => names.push((*name).to_owned()),
            GeneralName::IPAddress(raw) => ips.extend(ip_of(raw)),
            _ => {}
        }
    }
    Ok((names, ips))
}

/// Whether one of the certificate's names stands for `allowed`, by Go's rules: an address must be listed; a name equals one
/// of the names, a wildcard among them as written, or fills the star of one, which stands for exactly one label.
fn carries(names: &[String], ips: &[IpAddr], allowed: &str) -> bool {
    let bare = allowed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(allowed);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return ips.contains(&ip.to_canonical());
    }
    let host = allowed.strip_suffix('.').unwrap_or(allowed);
    names.iter().any(|name| {
        let fills = || {
            let (label, rest) = host.split_once('.')?;
            let plain = !label.is_empty() && !host.contains('*');
            Some(plain && name.strip_prefix("*.")?.eq_ignore_ascii_case(rest))
        };
        !host.is_empty() && (name.eq_ignore_ascii_case(host) || fills().unwrap_or(false))
    })
}

fn ip_of(raw: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(raw).map(IpAddr::from).ok().or_else(|| <[u8; 16]>::try_from(raw).map(IpAddr::from).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name allowed meets the names of a certificate as in Go: literally first, then under a star of one label.
    #[test]
    fn allowed_names() {
        let (names, ips) = (["a.example", "*.foo.example", "*.example"].map(String::from), ["10.0.0.1".parse().expect("ip")]);
        for yes in
            ["a.example", "A.Example", "a.example.", "*.foo.example", "x.foo.example", "bob.example", "10.0.0.1", "*.example"]
        {
            assert!(carries(&names, &ips, yes), "{yes}");
        }
        for no in
            ["", ".", "foo.example.org", "x.y.foo.example", "*.bar.example.org", ".example", "*.*.example", "10.0.0.2", "example"]
        {
            assert!(!carries(&names, &ips, no), "{no}");
        }
        assert!(!carries(&[], &[], "a.example"));
    }
}
