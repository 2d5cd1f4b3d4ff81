//! TLS: what files and rules a side of the door uses, and the configurations made of them.
//!
//! In: paths and rules ([`TlsSettings`]). Out: [`ServerTls`] and [`ClientTls`], which hand out the newest good rustls configuration and read the
//! files again when they change. Invariant: a broken file never replaces a working configuration.

mod client;
mod material;
mod self_signed;
mod server;
#[cfg(test)]
pub(in crate::door) mod testing;
mod verify;

pub use client::{ClientTls, Dialed, Dialer};
pub use material::TlsVersion;
pub use self_signed::{SelfSigned, self_signed};
pub use server::ServerTls;
pub(in crate::door) use verify::{common_name, leads_to};

use std::path::PathBuf;

/// Files and rules of one kind of TLS traffic (client or peer), as etcd's flags name them.
#[derive(Clone, Debug, Default)]
pub struct TlsSettings {
    /// PEM chain and PEM key shown to those who connect.
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Shown instead when dialing, when both are set.
    pub client_cert: Option<PathBuf>,
    pub client_key: Option<PathBuf>,
    /// PEM bundle: who may connect, and who is believed when dialing. Setting it asks for client certificates, as in etcd.
    pub trusted_ca: Option<PathBuf>,
    /// Ask for client certificates; without `trusted_ca` the system's authorities decide.
    pub client_cert_auth: bool,
    /// Revocation list (PEM or DER); a certificate whose serial number it lists is refused.
    pub crl: Option<PathBuf>,
    /// Accepted common names of client certificates, and of servers that are dialed; empty accepts all. Not together with `allowed_hostnames`.
    pub allowed_cns: Vec<String>,
    /// Names of which such a certificate must carry one; empty accepts all.
    pub allowed_hostnames: Vec<String>,
    /// IANA names of TLS 1.2 suites; empty takes all good ones. TLS 1.3 suites are always on.
    pub cipher_suites: Vec<String>,
    pub min_version: Option<TlsVersion>,
    pub max_version: Option<TlsVersion>,
    /// Name expected of the other side when dialing, instead of the URL's host.
    pub server_name: Option<String>,
    /// The certificate was made by [`self_signed`]: dialing cannot check the other side, which made its own.
    pub self_signed: bool,
    /// A client certificate's names must lead to the address it comes from (peers, unless --peer-skip-client-san-verification).
    pub check_address: bool,
}

impl TlsSettings {
    fn names(&self) -> verify::Names {
        verify::Names { cns: self.allowed_cns.clone(), hostnames: self.allowed_hostnames.clone() }
    }
}

/// Why a TLS configuration cannot be made. The text names the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {0}: {1}")]
    Read(PathBuf, #[source] std::io::Error),
    #[error("{0} holds no {1}")]
    Empty(PathBuf, &'static str),
    #[error("{0} is not readable as {1}: {2}")]
    Parse(PathBuf, &'static str, String),
    #[error("certificate {0} and key {1} do not go together: {2}")]
    Pair(PathBuf, PathBuf, rustls::Error),
    #[error("unexpected TLS cipher suite {0:?}")]
    Suite(String),
    #[error("none of the TLS cipher suites asked for is offered by this server")]
    NoSuite,
    #[error("allowed common names and allowed host names are mutually exclusive")]
    Allowed,
    #[error("the TLS rules do not fit together: {0}")]
    Rules(String),
    #[error("cannot make a certificate: {0}")]
    SelfSigned(String),
}
