//! Endpoints as users write them.
//!
//! In: `http://host:port`, `https://host:port`, `unix://path`, `unixs://path` or a bare `host:port`. Out: an [`Address`].
//!
//! Invariant: whether TLS is used follows the scheme; only without one does it follow the settings.

use std::fmt;
use std::path::PathBuf;

use crate::error::{Error, Result};

/// How an endpoint says whether it wants TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `http` or `unix`: never TLS.
    Plain,
    /// `https` or `unixs`: always TLS.
    Tls,
    /// No scheme: TLS when there are TLS settings.
    Either,
}

/// Where to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    text: String,
    scheme: Scheme,
    pub(crate) target: Target,
}

impl Address {
    /// Reads an endpoint. A path after host and port is ignored, as etcd's clients do; a missing port is 2379, and a port without a host
    /// is this machine's.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        let (scheme, rest, socket) = match text.split_once("://") {
            Some((scheme, rest)) => match scheme.to_ascii_lowercase().as_str() {
                "http" => (Scheme::Plain, rest, false),
                "https" => (Scheme::Tls, rest, false),
                "unix" => (Scheme::Plain, rest, true),
                "unixs" => (Scheme::Tls, rest, true),
                _ => return Err(Error::Config(format!("endpoint {text:?} has an unknown scheme {scheme:?}"))),
            },
            None => match text.split_once(':') {
                Some(("unix", rest)) => (Scheme::Plain, rest, true),
                Some(("unixs", rest)) => (Scheme::Tls, rest, true),
                _ => (Scheme::Either, text, false),
            },
        };
        let target = if socket {
            if rest.is_empty() {
                return Err(Error::Config(format!("endpoint {text:?} has no path")));
            }
            Target::Unix(PathBuf::from(rest))
        } else {
            let authority = rest.split('/').next().unwrap_or_default();
            let (host, port) =
                host_and_port(authority).ok_or_else(|| Error::Config(format!("endpoint {text:?} is not host:port")))?;
            Target::Tcp { host, port }
        };
        Ok(Self { text: text.to_string(), scheme, target })
    }

    /// The endpoint as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What it says about TLS.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// What to check the server's certificate against: the host, or `localhost` for a socket file.
    pub(crate) fn server_name(&self) -> &str {
        match &self.target {
            Target::Tcp { host, .. } => host,
            Target::Unix(_) => "localhost",
        }
    }

    /// The value of `:authority`.
    pub(crate) fn authority(&self) -> String {
        match &self.target {
            Target::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Target::Tcp { host, port } => format!("{host}:{port}"),
            Target::Unix(_) => "localhost".to_string(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Splits `host`, `host:port`, `[v6]` or `[v6]:port`.
fn host_and_port(authority: &str) -> Option<(String, u16)> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        (host, after.strip_prefix(':').unwrap_or(after))
    } else {
        match authority.split_once(':') {
            Some((_, port)) if port.contains(':') => return None,
            Some(split) => split,
            None => (authority, ""),
        }
    };
    let host = match (host, port) {
        ("", "") => return None,
        ("", _) => "localhost",
        (host, _) => host,
    };
    let port = if port.is_empty() { 2379 } else { port.parse().ok()? };
    Some((host.to_string(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Target {
        Target::Tcp { host: host.to_string(), port }
    }

    /// Every form that etcd's clients accept is read, and says the right thing about TLS.
    #[test]
    fn forms() {
        for (text, scheme, target) in [
            ("http://a:1", Scheme::Plain, tcp("a", 1)),
            ("https://a.b.:2379/x", Scheme::Tls, tcp("a.b.", 2379)),
            ("127.0.0.1:5", Scheme::Either, tcp("127.0.0.1", 5)),
            ("node", Scheme::Either, tcp("node", 2379)),
            (":30310", Scheme::Either, tcp("localhost", 30310)),
            ("HTTP://:1", Scheme::Plain, tcp("localhost", 1)),
            ("Https://a:1", Scheme::Tls, tcp("a", 1)),
            ("http://[::1]:7", Scheme::Plain, tcp("::1", 7)),
            ("unix:///run/q.sock", Scheme::Plain, Target::Unix("/run/q.sock".into())),
            ("unixs://localhost:m10", Scheme::Tls, Target::Unix("localhost:m10".into())),
            ("unix:/q", Scheme::Plain, Target::Unix("/q".into())),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!((address.scheme, address.target.clone()), (scheme, target), "{text}");
        }
        assert_eq!(Address::parse("http://[::1]:7").unwrap().authority(), "[::1]:7");
    }

    /// What cannot be an endpoint is refused with words.
    #[test]
    fn refusals() {
        for text in ["", "ftp://a:1", "http://", "http://:", ":", "[]", "a:b", "::1", "unix://", "a:70000"] {
            assert!(matches!(Address::parse(text), Err(Error::Config(_))), "{text}");
        }
    }
}
