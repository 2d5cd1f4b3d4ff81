//! The accepting side: the newest good server configuration.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::material::{self, Stamp};
use super::verify::ClientRules;
use super::{TlsError, TlsSettings};

/// The files are looked at no more often than this.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// A configuration that follows its files. Cheap to ask, safe to share.
pub struct ServerTls {
    follower: Follower<ServerConfig>,
}

impl ServerTls {
    /// Reads the files; an error here should stop the start.
    pub fn load(settings: TlsSettings) -> Result<Arc<Self>, TlsError> {
        if !settings.allowed_cns.is_empty() && !settings.allowed_hostnames.is_empty() {
            return Err(TlsError::Allowed);
        }
        Ok(Arc::new(Self { follower: Follower::new(settings, build)? }))
    }

    /// The configuration for a handshake that starts at this moment.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.follower.newest()
    }

    /// What this configuration is made from.
    pub fn settings(&self) -> &TlsSettings {
        &self.follower.settings
    }

    #[cfg(test)]
    pub(in crate::door) fn check_now(&self) {
        self.follower.check();
    }
}

fn build(settings: &TlsSettings) -> Result<ServerConfig, TlsError> {
    let provider = material::provider(&settings.cipher_suites)?;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&material::versions(settings)?)
        .map_err(|e| TlsError::Rules(e.to_string()))?;
    let builder = if settings.client_cert_auth || settings.trusted_ca.is_some() {
        let roots = material::roots(settings.trusted_ca.as_deref())?;
        let inner = WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
            .build()
            .map_err(|e| TlsError::Rules(e.to_string()))?;
        builder.with_client_cert_verifier(rules(settings, inner)?)
    } else {
        builder.with_no_client_auth()
    };
    let (chain, key) = (material::certificates(&settings.cert)?, material::key(&settings.key)?);
    let mut config =
        builder.with_single_cert(chain, key).map_err(|e| TlsError::Pair(settings.cert.clone(), settings.key.clone(), e))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn rules(settings: &TlsSettings, inner: Arc<dyn ClientCertVerifier>) -> Result<Arc<ClientRules>, TlsError> {
    Ok(Arc::new(ClientRules {
        inner,
        revoked: settings.crl.as_deref().map(material::revoked).transpose()?.unwrap_or_default(),
        names: settings.names(),
    }))
}

/// A value made of the settings' files, made anew when they change; the last good one stays while they are broken.
pub(super) struct Follower<C> {
    pub(super) settings: TlsSettings,
    build: fn(&TlsSettings) -> Result<C, TlsError>,
    current: ArcSwap<C>,
    born: Instant,
    /// Milliseconds after `born` from which the files may be looked at again.
    due: AtomicU64,
    state: Mutex<Seen>,
}

/// The stamp of the files `current` was made from (none when they must be read again), and the last failure, to log each only once.
struct Seen {
    stamp: Option<Stamp>,
    failure: Option<String>,
}

impl<C> Follower<C> {
    pub(super) fn new(settings: TlsSettings, build: fn(&TlsSettings) -> Result<C, TlsError>) -> Result<Self, TlsError> {
        let stamp = Stamp::of(paths(&settings));
        let current = ArcSwap::from_pointee(build(&settings)?);
        let state = Mutex::new(Seen { stamp: stamp.settled().then_some(stamp), failure: None });
        Ok(Self { settings, build, current, born: Instant::now(), due: AtomicU64::new(CHECK_EVERY.as_millis() as u64), state })
    }

    pub(super) fn newest(&self) -> Arc<C> {
        let now = self.born.elapsed().as_millis() as u64;
        let due = self.due.load(Ordering::Relaxed);
        // Whoever moves the due time forward does the looking; everybody else goes on with what there is.
        let next = now + CHECK_EVERY.as_millis() as u64;
        if now >= due && self.due.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.check();
        }
        self.current.load_full()
    }

    pub(super) fn check(&self) {
        let mut seen = self.state.lock();
        // Taken before the files are read: a write in between shows at the next look.
        let stamp = Stamp::of(paths(&self.settings));
        if seen.stamp.as_ref() == Some(&stamp) {
            return;
        }
        match (self.build)(&self.settings) {
            Ok(config) => {
                self.current.store(Arc::new(config));
                let settled = stamp.settled();
                if settled || seen.failure.is_some() {
                    tracing::info!(cert = %self.settings.cert.display(), "TLS files read again");
                }
                *seen = Seen { stamp: settled.then_some(stamp), failure: None };
            }
            Err(e) => {
                let text = e.to_string();
                if seen.failure.as_ref() != Some(&text) {
                    tracing::warn!(cert = %self.settings.cert.display(), error = %text, "changed TLS files are not usable; going on with the previous ones");
                }
                *seen = Seen { stamp: None, failure: Some(text) };
            }
        }
    }
}

fn paths(s: &TlsSettings) -> impl Iterator<Item = &Path> {
    let optional = [&s.client_cert, &s.client_key, &s.trusted_ca, &s.crl].into_iter().flatten();
    [&s.cert, &s.key].into_iter().chain(optional).map(|p| p.as_path())
}
