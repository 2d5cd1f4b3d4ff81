//! Settings of a client.

use std::path::PathBuf;
use std::time::Duration;

/// Everything a client needs to know. `Config::new(endpoints)` gives the defaults.
#[derive(Debug, Clone)]
pub struct Config {
    /// At least one, in the forms that [`crate::Address::parse`] reads.
    pub endpoints: Vec<String>,
    /// Used for https endpoints, and for those without a scheme. Without it, https endpoints are checked against the system's
    /// authorities.
    pub tls: Option<TlsConfig>,
    /// Who to sign in as.
    pub credentials: Option<Credentials>,
    /// Limit for one attempt to connect, name lookup and TLS handshake included.
    pub dial_timeout: Duration,
    /// Limit for each unary call, retries included; `None` waits for ever. Streams have none.
    pub timeout: Option<Duration>,
    /// How often to probe a quiet connection; `None` never. Less than 10 s is raised to 10 s, because servers hang up on
    /// clients that ask more often.
    pub keep_alive: Option<Duration>,
    /// How long to wait for the answer to a probe before the connection is given up.
    pub keep_alive_timeout: Duration,
    /// Largest request, bytes.
    pub max_send_bytes: usize,
    /// Largest answer, bytes.
    pub max_receive_bytes: usize,
    /// Take turns between endpoints call by call. Off: stay with one until it fails.
    pub spread: bool,
}

impl Config {
    /// Defaults: no TLS settings, no sign-in, 2 s to connect, 5 s a call, 2 MiB out, 2 GiB in.
    pub fn new<I>(endpoints: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            tls: None,
            credentials: None,
            dial_timeout: Duration::from_secs(2),
            timeout: Some(Duration::from_secs(5)),
            keep_alive: Some(Duration::from_secs(30)),
            keep_alive_timeout: Duration::from_secs(10),
            max_send_bytes: 2 * 1024 * 1024,
            max_receive_bytes: i32::MAX as usize,
            spread: false,
        }
    }
}

/// Who to sign in as.
#[derive(Clone)]
pub enum Credentials {
    /// Exchanged for a token, again whenever the server no longer takes it.
    Password {
        /// User name.
        user: String,
        /// In the clear; it leaves the process only in the sign-in call.
        password: String,
    },
    /// A token that someone else made, sent as it is.
    Token(String),
}

impl std::fmt::Debug for Credentials {
    /// Shows no secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Password { user, .. } => f.debug_struct("Password").field("user", user).finish_non_exhaustive(),
            Self::Token(_) => f.write_str("Token(..)"),
        }
    }
}

/// TLS settings. The default checks servers against the system's authorities and shows no certificate.
#[derive(Debug, Clone, Default)]
pub struct TlsConfig {
    /// Authorities to trust instead of the system's.
    pub authorities: Option<Pem>,
    /// Own certificate chain and its key.
    pub identity: Option<(Pem, Pem)>,
    /// Name to expect in the server's certificate instead of the endpoint's host.
    pub server_name: Option<String>,
    /// Accept any server certificate. For tests and emergencies: whoever answers can read and change everything.
    pub insecure_skip_verify: bool,
}

/// PEM text, where it comes from.
#[derive(Clone)]
pub enum Pem {
    /// Read at each handshake.
    File(PathBuf),
    /// Given once.
    Text(Vec<u8>),
}

impl std::fmt::Debug for Pem {
    /// Shows no key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Text(text) => write!(f, "Text({} bytes)", text.len()),
        }
    }
}
