//! What the configurations are made of: PEM files, protocol versions, suites, revocation lists, and the stamp that tells whether a file changed.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::crypto::{CryptoProvider, ring};
use rustls::{RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use super::{TlsError, TlsSettings};

/// A file written this recently may be written again within the same timestamp, so it is not yet trusted to be unchanged.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// Where systems keep the authorities they trust; the first that exists is used.
const SYSTEM_BUNDLES: [&str; 4] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

impl FromStr for TlsVersion {
    type Err = String;

    /// Reads etcd's names, `TLS1.2` and `TLS1.3`.
    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "TLS1.2" => Ok(Self::Tls12),
            "TLS1.3" => Ok(Self::Tls13),
            _ => Err(format!("unexpected TLS version {name:?}, must be one of TLS1.2, TLS1.3")),
        }
    }
}

/// Suites Go knows and this server does not offer (CBC, no forward secrecy): skipped in a list rather than refused, so lists made for etcd load.
const FOREIGN_SUITES: [&str; 11] = [
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
];

/// Ring's algorithms, cut to the suites asked for.
pub(super) fn provider(suites: &[String]) -> Result<Arc<CryptoProvider>, TlsError> {
    let mut provider = ring::default_provider();
    if suites.is_empty() {
        return Ok(provider.into());
    }
    let mut wanted = Vec::new();
    for name in suites {
        // Go also accepts the two ChaCha suites without their hash.
        let full = if name.ends_with("CHACHA20_POLY1305") { format!("{name}_SHA256") } else { name.clone() };
        let ours = provider.cipher_suites.iter().find(|s| suite_name(s) == full);
        match ours {
            Some(suite) => wanted.push(suite.suite()),
            None if FOREIGN_SUITES.contains(&name.as_str()) => {
                tracing::warn!(suite = %name, "skipping a TLS cipher suite that is not offered")
            }
            None => return Err(TlsError::Suite(name.clone())),
        }
    }
    if wanted.is_empty() {
        return Err(TlsError::NoSuite);
    }
    provider.cipher_suites.retain(|s| s.tls13().is_some() || wanted.contains(&s.suite()));
    Ok(provider.into())
}

/// The IANA name; rustls writes `TLS13_` where IANA writes `TLS_`.
fn suite_name(suite: &rustls::SupportedCipherSuite) -> String {
    let name = format!("{:?}", suite.suite());
    name.strip_prefix("TLS13_").map_or_else(|| name.clone(), |rest| format!("TLS_{rest}"))
}

/// The protocol versions between the settings' bounds.
pub(super) fn versions(settings: &TlsSettings) -> Result<Vec<&'static SupportedProtocolVersion>, TlsError> {
    let (low, high) = (settings.min_version.unwrap_or(TlsVersion::Tls12), settings.max_version.unwrap_or(TlsVersion::Tls13));
    if low > high {
        return Err(TlsError::Rules("the lowest TLS version is above the highest".into()));
    }
    let all = [(TlsVersion::Tls12, &rustls::version::TLS12), (TlsVersion::Tls13, &rustls::version::TLS13)];
    Ok(all.into_iter().filter(|(v, _)| (low..=high).contains(v)).map(|(_, v)| v).collect())
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|e| TlsError::Read(path.to_owned(), e))
}

/// Every certificate of a PEM file, at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certs: Vec<_> = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<_, _>>()
        .map_err(|e| TlsError::Parse(path.to_owned(), "PEM certificates", e.to_string()))?;
    if certs.is_empty() { Err(TlsError::Empty(path.to_owned(), "certificate")) } else { Ok(certs) }
}

pub(super) fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|e| TlsError::Parse(path.to_owned(), "a PEM private key", e.to_string()))
}

/// The authorities of a bundle, or the system's when there is none.
pub(super) fn roots(bundle: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let (path, strict) = match bundle {
        Some(path) => (path.to_owned(), true),
        None => {
            let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
            let found = named.into_iter().chain(SYSTEM_BUNDLES.map(PathBuf::from)).find(|p| p.exists());
            (
                found
                    .ok_or_else(|| TlsError::Rules("no trusted authority is given and the system has no bundle of them".into()))?,
                false,
            )
        }
    };
    let mut store = RootCertStore::empty();
    for cert in certificates(&path)? {
        // A system bundle may hold relics; a bundle somebody chose must be good throughout.
        if let Err(e) = store.add(cert)
            && strict
        {
            return Err(TlsError::Parse(path, "certificates of authorities", e.to_string()));
        }
    }
    Ok(store)
}

/// Serial numbers (big-endian, no leading zeros) of a revocation list. As in etcd only the number decides, not the list's issuer.
pub(super) fn revoked(path: &Path) -> Result<HashSet<Vec<u8>>, TlsError> {
    let bytes = read(path)?;
    let bad = |e: String| TlsError::Parse(path.to_owned(), "a certificate revocation list", e);
    let der = if bytes.starts_with(b"-----") {
        rustls_pki_types::CertificateRevocationListDer::from_pem_slice(&bytes).map_err(|e| bad(e.to_string()))?.to_vec()
    } else {
        bytes
    };
    let (_, list) = CertificateRevocationList::from_der(&der).map_err(|e| bad(e.to_string()))?;
    Ok(list.iter_revoked_certificates().map(|entry| serial(entry.raw_serial())).collect())
}

pub(super) fn serial(raw: &[u8]) -> Vec<u8> {
    raw.iter().copied().skip_while(|b| *b == 0).collect()
}

/// What a set of files looked like (none: absent): equal stamps that have settled mean unchanged files.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stamp(Vec<Option<Look>>);

/// Device, inode, length, and time of the last change in seconds and nanoseconds.
type Look = (u64, u64, u64, i64, i64);

impl Stamp {
    /// Looks at the files, following links (Kubernetes swaps a link to replace a mounted Secret).
    pub(super) fn of<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Self {
        let look = |p: &Path| fs::metadata(p).ok().map(|m| (m.dev(), m.ino(), m.len(), m.mtime(), m.mtime_nsec()));
        Self(paths.into_iter().map(look).collect())
    }

    /// True when no file is so young that another write could hide behind the same timestamp.
    pub(super) fn settled(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.0.iter().flatten().all(|m| now.saturating_sub(Duration::from_secs(m.3.max(0) as u64)) > SETTLED_AFTER)
    }
}
