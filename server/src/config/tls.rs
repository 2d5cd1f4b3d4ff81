//! TLS settings of one side (clients or peers) and the bounds both share. In: raw settings and the listen URLs. Out:
//! [`TlsSettings`], [`TlsBounds`]. File names are checked for completeness here; what is in the files is read where TLS is
//! set up, since they may change while the server runs.

use std::path::PathBuf;

use super::error::{ConfigError, Warning};
use super::settings::Settings;
use super::url::{ListenUrl, Scheme};

/// A certificate chain and its key, both PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertPair {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// How one side proves itself and whom it trusts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// Shown to whoever connects. `None` means plain text, or `auto`.
    pub server: Option<CertPair>,
    /// Shown when dialling, if not the same as `server`. Peers only.
    pub dial: Option<CertPair>,
    /// Signs the certificates of the other side; `None` leaves that to the system's authorities.
    pub trusted_ca: Option<PathBuf>,
    /// Revoked certificates of the other side.
    pub crl: Option<PathBuf>,
    /// The certificate's common name may stand for the user (clients), as asked by --client-cert-auth.
    pub cert_auth: bool,
    /// Connections without a certificate that `trusted_ca` vouches for are refused: with `cert_auth`, and, as in etcd,
    /// whenever a CA is given.
    pub require_client_cert: bool,
    /// Make a certificate at start. Never set together with `server`.
    pub auto: bool,
    /// The other side's common name must be one of these; empty allows all.
    pub allowed_cns: Vec<String>,
    /// The other side's certificate must be good for one of these names; empty allows all.
    pub allowed_hostnames: Vec<String>,
    pub skip_client_san_verification: bool,
}

impl TlsSettings {
    /// True when TLS can be served: files are given or will be made.
    pub fn is_on(&self) -> bool {
        self.server.is_some() || self.auto
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

/// Bounds that hold for clients and peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsBounds {
    pub min: TlsVersion,
    pub max: TlsVersion,
    /// Empty means all. When only TLS 1.2 suites are named, those of TLS 1.3 stay on, as in etcd.
    pub cipher_suites: Vec<CipherSuite>,
    /// How long made certificates are valid, in years; at least 1 when any are made.
    pub self_signed_years: u32,
}

/// A cipher suite this server can speak, under its number in the TLS registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CipherSuite {
    /// The name Go, and so etcd's flag, uses.
    pub name: &'static str,
    /// As in `rustls::CipherSuite::from(u16)`.
    pub code: u16,
    pub version: TlsVersion,
}

const fn suite(name: &'static str, code: u16, version: TlsVersion) -> CipherSuite {
    CipherSuite { name, code, version }
}

/// All suites that can be spoken.
pub static SUITES: [CipherSuite; 9] = [
    suite("TLS_AES_128_GCM_SHA256", 0x1301, TlsVersion::Tls13),
    suite("TLS_AES_256_GCM_SHA384", 0x1302, TlsVersion::Tls13),
    suite("TLS_CHACHA20_POLY1305_SHA256", 0x1303, TlsVersion::Tls13),
    suite("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", 0xc02b, TlsVersion::Tls12),
    suite("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", 0xc02c, TlsVersion::Tls12),
    suite("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", 0xc02f, TlsVersion::Tls12),
    suite("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", 0xc030, TlsVersion::Tls12),
    suite("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", 0xcca8, TlsVersion::Tls12),
    suite("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", 0xcca9, TlsVersion::Tls12),
];

/// Suites that etcd accepts by name and that are too weak to be offered here.
static WEAK: [&str; 16] = [
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
];

/// Reads versions, suites and the validity of made certificates; `served` says whether any listener speaks TLS.
pub(super) fn bounds(s: &Settings, served: bool, warnings: &mut Vec<Warning>) -> Result<TlsBounds, ConfigError> {
    let min = version(s, "tls-min-version")?.unwrap_or(TlsVersion::Tls12);
    let max = version(s, "tls-max-version")?.unwrap_or(TlsVersion::Tls13);
    if min > max {
        let reason =
            format!("min version ({}) is greater than max version ({})", s.text("tls-min-version"), s.text("tls-max-version"));
        return Err(ConfigError::refused("tls-min-version", reason));
    }
    const FLAG: &str = "cipher-suites";
    let names = s.list(FLAG);
    if min == TlsVersion::Tls13 && !names.is_empty() {
        return Err(ConfigError::refused(FLAG, "cipher suites cannot be configured when only TLS1.3 is enabled"));
    }
    let mut cipher_suites: Vec<CipherSuite> = Vec::new();
    for name in &names {
        // Two suites had shorter names in Go once.
        let full = match name.as_str() {
            "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305" | "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305" => format!("{name}_SHA256"),
            _ => name.clone(),
        };
        if let Some(suite) = SUITES.iter().find(|suite| suite.name == full) {
            if !cipher_suites.contains(suite) {
                cipher_suites.push(*suite);
            }
        } else if WEAK.contains(&full.as_str()) {
            warnings.push(Warning::warn(FLAG, format!("{name} is too weak to be offered and is left out")));
        } else {
            return Err(ConfigError::refused(FLAG, format!("unexpected TLS cipher suite {name:?}")));
        }
    }
    if !names.is_empty() && !cipher_suites.iter().any(|suite| suite.version <= max) {
        let reason = "none of the suites named can be offered with the TLS versions allowed";
        if served {
            return Err(ConfigError::refused(FLAG, reason));
        }
        warnings.push(Warning::warn(FLAG, format!("{reason}; ignored, since no listener speaks TLS")));
        cipher_suites.clear();
    }
    let years = s.uint("self-signed-cert-validity")?;
    let self_signed_years = u32::try_from(years)
        .ok()
        .filter(|years| *years <= 100)
        .ok_or_else(|| ConfigError::refused("self-signed-cert-validity", format!("{years} years is above 100")))?;
    if self_signed_years == 0 && (s.bool("auto-tls")? || s.bool("peer-auto-tls")?) {
        return Err(ConfigError::refused("self-signed-cert-validity", "must be greater than 0 when certificates are to be made"));
    }
    Ok(TlsBounds { min, max, cipher_suites, self_signed_years })
}

fn version(s: &Settings, flag: &str) -> Result<Option<TlsVersion>, ConfigError> {
    match s.text(flag) {
        "" => Ok(None),
        "TLS1.2" => Ok(Some(TlsVersion::Tls12)),
        "TLS1.3" => Ok(Some(TlsVersion::Tls13)),
        other => Err(ConfigError::refused(flag, format!("unexpected TLS version {other:?} (must be one of: TLS1.2, TLS1.3)"))),
    }
}

/// The names of one side's flags; the sides differ in prefix, but not regularly.
struct Names {
    peer: bool,
    cert: &'static str,
    key: &'static str,
    dial_cert: &'static str,
    dial_key: &'static str,
    ca: &'static str,
    crl: &'static str,
    auth: &'static str,
    auto: &'static str,
    cns: &'static str,
    hostnames: &'static str,
    skip_san: &'static str,
}

const CLIENT: Names = Names {
    peer: false,
    cert: "cert-file",
    key: "key-file",
    dial_cert: "client-cert-file",
    dial_key: "client-key-file",
    ca: "trusted-ca-file",
    crl: "client-crl-file",
    auth: "client-cert-auth",
    auto: "auto-tls",
    cns: "client-cert-allowed-cn",
    hostnames: "client-cert-allowed-hostname",
    skip_san: "client-skip-client-san-verification",
};

const PEER: Names = Names {
    peer: true,
    cert: "peer-cert-file",
    key: "peer-key-file",
    dial_cert: "peer-client-cert-file",
    dial_key: "peer-client-key-file",
    ca: "peer-trusted-ca-file",
    crl: "peer-crl-file",
    auth: "peer-client-cert-auth",
    auto: "peer-auto-tls",
    cns: "peer-cert-allowed-cn",
    hostnames: "peer-cert-allowed-hostname",
    skip_san: "peer-skip-client-san-verification",
};

pub(super) fn client(s: &Settings, urls: &[&ListenUrl], warnings: &mut Vec<Warning>) -> Result<TlsSettings, ConfigError> {
    side(s, &CLIENT, urls, warnings)
}

pub(super) fn peer(s: &Settings, urls: &[&ListenUrl], warnings: &mut Vec<Warning>) -> Result<TlsSettings, ConfigError> {
    side(s, &PEER, urls, warnings)
}

fn side(s: &Settings, names: &Names, urls: &[&ListenUrl], warnings: &mut Vec<Warning>) -> Result<TlsSettings, ConfigError> {
    let served = urls.iter().any(|url| url.scheme().is_tls());
    let server = pair(s, names.cert, names.key, served, warnings)?;
    let dial = pair(s, names.dial_cert, names.dial_key, served, warnings)?;
    let trusted_ca = s.path(names.ca);
    let cert_auth = s.bool(names.auth)?;
    let mut auto = s.bool(names.auto)?;
    if auto && server.is_some() {
        warnings.push(Warning::warn(names.auto, format!("ignored, since --{} is given", names.cert)));
        auto = false;
    }
    let mut tls = TlsSettings {
        dial,
        crl: s.path(names.crl),
        require_client_cert: cert_auth || trusted_ca.is_some(),
        trusted_ca,
        cert_auth,
        auto,
        server,
        allowed_cns: s.list(names.cns),
        allowed_hostnames: s.list(names.hostnames),
        skip_client_san_verification: s.bool(names.skip_san)?,
    };
    check_urls(&tls, names, urls, warnings)?;
    check_allowed(&mut tls, names, served, warnings)?;
    if names.peer && tls.auto {
        trust_all_peers(&mut tls, names, s, warnings);
    } else if served && tls.require_client_cert && tls.trusted_ca.is_none() {
        let why = format!("--{} is not given, so certificates of the system's authorities are accepted, and no others", names.ca);
        warnings.push(Warning::warn(names.auth, why));
    }
    if !tls.require_client_cert {
        for flag in [names.crl, names.cns, names.hostnames] {
            if !s.text(flag).is_empty() {
                let why =
                    format!("nothing is checked, since no certificate is asked for without --{} or --{}", names.auth, names.ca);
                warnings.push(Warning::warn(flag, why));
            }
        }
    }
    Ok(tls)
}

/// Each TLS URL needs a certificate; what is set for plain ones does nothing and is said.
fn check_urls(tls: &TlsSettings, names: &Names, urls: &[&ListenUrl], warnings: &mut Vec<Warning>) -> Result<(), ConfigError> {
    for url in urls {
        if url.scheme().is_tls() {
            if !tls.is_on() {
                let reason = format!("TLS key and cert (--{}, --{}) must be provided for listen url {url}", names.cert, names.key);
                return Err(ConfigError::refused(names.cert, reason));
            }
        } else if matches!(url.scheme(), Scheme::Http | Scheme::Unix) {
            if tls.is_on() {
                warnings.push(Warning::warn(names.cert, format!("{url} is not TLS, so the key and certificate are ignored there")));
            }
            if tls.cert_auth {
                warnings.push(Warning::warn(names.auth, format!("{url} is not TLS, so no client certificate is asked for there")));
            }
        }
    }
    Ok(())
}

/// Common names and host names exclude each other where certificates are looked at; elsewhere neither counts.
fn check_allowed(tls: &mut TlsSettings, names: &Names, served: bool, warnings: &mut Vec<Warning>) -> Result<(), ConfigError> {
    if tls.allowed_cns.is_empty() || tls.allowed_hostnames.is_empty() {
        return Ok(());
    }
    let reason = format!("cannot be used together with --{}", names.hostnames);
    if served {
        return Err(ConfigError::refused(names.cns, reason));
    }
    warnings.push(Warning::warn(names.cns, format!("{reason}; both are ignored, since no listener of that side speaks TLS")));
    tls.allowed_cns.clear();
    tls.allowed_hostnames.clear();
    Ok(())
}

/// Peers that make their own certificates have no authority in common, so nothing of what a certificate says can be
/// checked: the traffic is encrypted and nobody is told apart, as in etcd.
fn trust_all_peers(tls: &mut TlsSettings, names: &Names, s: &Settings, warnings: &mut Vec<Warning>) {
    for flag in [names.auth, names.ca, names.crl, names.cns, names.hostnames] {
        let set = if flag == names.auth { tls.cert_auth } else { !s.text(flag).is_empty() };
        if set {
            let why = format!("ignored with --{}: members that make their own certificates cannot check each other's", names.auto);
            warnings.push(Warning::warn(flag, why));
        }
    }
    tls.cert_auth = false;
    tls.require_client_cert = false;
    tls.trusted_ca = None;
    tls.crl = None;
    tls.allowed_cns.clear();
    tls.allowed_hostnames.clear();
}

/// A certificate with its key. Half a pair is an error where it would be shown, and left out where nobody asks for it.
fn pair(s: &Settings, cert: &str, key: &str, served: bool, warnings: &mut Vec<Warning>) -> Result<Option<CertPair>, ConfigError> {
    let (given, missing) = match (s.path(cert), s.path(key)) {
        (None, None) => return Ok(None),
        (Some(cert), Some(key)) => return Ok(Some(CertPair { cert, key })),
        (Some(_), None) => (cert, key),
        (None, Some(_)) => (key, cert),
    };
    if served {
        return Err(ConfigError::refused(given, format!("needs --{missing} as well")));
    }
    warnings.push(Warning::warn(given, format!("ignored: it needs --{missing} as well, and no listener of that side speaks TLS")));
    Ok(None)
}
