//! TLS of the client and peer sides, from settings to the door's terms.

use super::Failure;
use crate::config::{self, Config};
use crate::door::{Address, ClientTls, Dialer, ServerTls, tls};
use crate::peer::{Dial, PeerStream};
use std::net::IpAddr;
use std::sync::Arc;

pub(super) fn server_tls(
    config: &Config,
    side: &config::TlsSettings,
    hosts: &[config::ListenUrl],
    name: &str,
) -> Result<Option<Arc<ServerTls>>, Failure> {
    if !side.is_on() {
        return Ok(None);
    }
    let settings = tls_settings(config, side, hosts, name)?;
    ServerTls::load(settings).map(Some).map_err(|e| Failure::new(1, e))
}

pub(super) fn tls_settings(
    config: &Config,
    side: &config::TlsSettings,
    hosts: &[config::ListenUrl],
    name: &str,
) -> Result<tls::TlsSettings, Failure> {
    let version = |v: config::TlsVersion| match v {
        config::TlsVersion::Tls12 => tls::TlsVersion::Tls12,
        config::TlsVersion::Tls13 => tls::TlsVersion::Tls13,
    };
    let mut out = tls::TlsSettings {
        trusted_ca: side.trusted_ca.clone(),
        client_cert_auth: side.require_client_cert,
        crl: side.crl.clone(),
        allowed_cns: side.allowed_cns.clone(),
        allowed_hostnames: side.allowed_hostnames.clone(),
        cipher_suites: config.tls.cipher_suites.iter().map(|s| s.name.to_string()).collect(),
        min_version: Some(version(config.tls.min)),
        max_version: Some(version(config.tls.max)),
        check_address: name == "peer" && !side.skip_client_san_verification,
        ..Default::default()
    };
    match &side.server {
        Some(pair) => (out.cert, out.key) = (pair.cert.clone(), pair.key.clone()),
        None => {
            let mut names: Vec<String> = hosts.iter().filter_map(|u| u.url().host_port().map(|(h, _)| h.to_string())).collect();
            names.dedup();
            let dir = config.data_dir.join("fixtures").join(name);
            let made = tls::self_signed(&dir, &names, config.tls.self_signed_years).map_err(|e| Failure::new(1, e))?;
            (out.cert, out.key, out.self_signed) = (made.cert, made.key, true);
        }
    }
    if let Some(pair) = &side.dial {
        (out.client_cert, out.client_key) = (Some(pair.cert.clone()), Some(pair.key.clone()));
    }
    Ok(out)
}

/// Dials peers, encrypted where their URLs say so.
pub(super) struct PeerDial {
    pub tls: Option<Arc<ClientTls>>,
    /// The address of ours that peers are dialed from.
    pub from: Option<IpAddr>,
}

/// The first address among our peer URLs that other hosts can reach, when the gate SetMemberLocalAddr asks to dial from there.
pub(super) fn local_address(config: &Config) -> Option<IpAddr> {
    let ip = |url: &config::Url| url.host_port().and_then(|(host, _)| host.parse::<IpAddr>().ok());
    let usable = |ip: &IpAddr| !ip.is_loopback() && !ip.is_unspecified();
    let found = config.advertise_peer_urls.iter().filter_map(ip).find(usable);
    found.filter(|_| config.features.set_member_local_addr)
}

impl Dial for PeerDial {
    fn dial(&self, url: &str) -> crate::peer::Dialing {
        let (url, tls, from) = (url.to_string(), self.tls.clone(), self.from);
        Box::pin(async move {
            let address = Address::parse(&url).map_err(std::io::Error::other)?;
            let dialer = Dialer::new(&address, tls, Arc::default()).map_err(std::io::Error::other)?.from(from);
            Ok(Box::new(dialer.dial().await?.into_inner()) as Box<dyn PeerStream>)
        })
    }
}
