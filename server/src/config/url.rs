//! URLs as etcd's flags take them: http, https, unix or unixs; host and port, or a socket path; nothing else.
//! In: text. Out: [`Url`] (syntax checked), and [`ListenUrl`], whose host can be bound.
//! Invariant: `to_string` of a URL is what etcd would print for it; member ids and membership comparisons depend on that.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

/// The part before the colon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    Http,
    Https,
    /// A unix socket without TLS.
    Unix,
    /// A unix socket with TLS.
    Unixs,
}

impl Scheme {
    pub fn is_tls(self) -> bool {
        matches!(self, Scheme::Https | Scheme::Unixs)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::Unix => "unix",
            Scheme::Unixs => "unixs",
        }
    }
}

/// One URL that a member listens on or advertises.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Url {
    scheme: Scheme,
    place: Place,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Place {
    /// `authority` is host:port as written, IPv6 in brackets; `host` is without brackets.
    Tcp { authority: String, host: String, port: u16 },
    /// `written` is the text after the scheme's colon; `path` is the socket file.
    Socket { written: String, path: String },
}

impl Url {
    /// Reads one URL; blanks around it are dropped.
    ///
    /// # Errors
    /// A reason that quotes the URL.
    pub fn parse(text: &str) -> Result<Url, String> {
        let text = text.trim();
        if text.chars().any(|c| c.is_control() || c == ' ') {
            return Err(format!("URL holds a blank or a control character: {text:?}"));
        }
        let bad_scheme = || format!("URL scheme must be http, https, unix, or unixs: {text}");
        let (scheme, rest) = text.split_once(':').ok_or_else(bad_scheme)?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "unix" => Scheme::Unix,
            "unixs" => Scheme::Unixs,
            _ => return Err(bad_scheme()),
        };
        if rest.contains(['?', '#']) {
            return Err(format!("URL must not contain a query or a fragment: {text}"));
        }
        let place = match scheme {
            Scheme::Http | Scheme::Https => tcp(rest, text)?,
            Scheme::Unix | Scheme::Unixs => socket(rest, text)?,
        };
        Ok(Url { scheme, place })
    }

    /// Reads a comma-separated list; it is sorted and freed of repeats, as etcd does.
    pub fn parse_list(text: &str) -> Result<Vec<Url>, String> {
        let mut urls = text.split(',').map(Url::parse).collect::<Result<Vec<_>, _>>()?;
        urls.sort_by_cached_key(ToString::to_string);
        urls.dedup();
        Ok(urls)
    }

    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Host without brackets, and port; `None` for unix sockets.
    pub fn host_port(&self) -> Option<(&str, u16)> {
        match &self.place {
            Place::Tcp { host, port, .. } => Some((host, *port)),
            Place::Socket { .. } => None,
        }
    }

    /// The socket file of a unix URL; `None` for TCP.
    pub fn socket_path(&self) -> Option<&str> {
        match &self.place {
            Place::Tcp { .. } => None,
            Place::Socket { path, .. } => Some(path),
        }
    }

    /// What must differ between two listeners: host and port, or the path, without the scheme.
    pub fn address(&self) -> &str {
        match &self.place {
            Place::Tcp { authority, .. } => authority,
            Place::Socket { path, .. } => path,
        }
    }

    /// An advertised URL must name a host, since others will dial it.
    pub(crate) fn check_advertised(&self) -> Result<(), String> {
        match self.host_port() {
            Some(("", _)) => Err(format!("unexpected empty host ({self})")),
            _ => Ok(()),
        }
    }
}

fn tcp(rest: &str, text: &str) -> Result<Place, String> {
    let form = || format!("URL address does not have the form \"host:port\": {text}");
    let authority = rest.strip_prefix("//").ok_or_else(form)?;
    if let Some(slash) = authority.find('/') {
        let (authority, path) = authority.split_at(slash);
        return Err(if authority.contains(':') { format!("URL must not contain a path: {text} (path {path:?})") } else { form() });
    }
    if authority.contains('@') {
        return Err(format!("URL must not contain a user name: {}", text.split('@').next_back().unwrap_or_default()));
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(inner) => inner.split_once("]:").ok_or_else(form)?,
        None => authority.rsplit_once(':').filter(|(host, _)| !host.contains(':')).ok_or_else(form)?,
    };
    if host.contains(['[', ']']) {
        return Err(form());
    }
    if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("URL port must be a number: {text}"));
    }
    let port = port.parse::<u16>().map_err(|_| format!("URL port must be at most 65535: {text}"))?;
    Ok(Place::Tcp { authority: authority.to_owned(), host: host.to_owned(), port })
}

fn socket(rest: &str, text: &str) -> Result<Place, String> {
    // `unix:///tmp/a` and `unix:/tmp/a` are absolute; `unix://a:1` names the file "a:1" in the working directory.
    let path = rest.strip_prefix("//").unwrap_or(rest);
    if path.is_empty() || path == "/" || !rest.starts_with('/') {
        return Err(format!("unix socket URL needs a path, as in unix:///run/etcd.sock: {text}"));
    }
    // Go prints an absolute path with an empty host as `unix:///path`.
    let written = format!("//{path}");
    Ok(Place::Socket { written, path: path.to_owned() })
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Tcp { authority, .. } => write!(f, "{}://{authority}", self.scheme.as_str()),
            Place::Socket { written, .. } => write!(f, "{}:{written}", self.scheme.as_str()),
        }
    }
}

/// A URL that can be bound: its host is an IP address or `localhost`, or it is a unix socket.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ListenUrl(Url);

/// What to hand to the listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bind {
    /// Port 0 asks the kernel for a free one.
    Ip(IpAddr, u16),
    /// Each loopback address the host has.
    Localhost(u16),
    Socket(PathBuf),
}

impl ListenUrl {
    /// # Errors
    /// A reason, when the host is a name that only DNS could turn into an address.
    pub fn new(url: Url) -> Result<ListenUrl, String> {
        match url.host_port() {
            None | Some(("localhost", _)) => Ok(ListenUrl(url)),
            Some((host, _)) if host.parse::<IpAddr>().is_ok() => Ok(ListenUrl(url)),
            Some(_) => Err(format!("expected IP in URL for binding ({url})")),
        }
    }

    pub fn url(&self) -> &Url {
        &self.0
    }

    pub fn scheme(&self) -> Scheme {
        self.0.scheme
    }

    /// The address to bind.
    pub fn bind(&self) -> Bind {
        match &self.0.place {
            Place::Socket { path, .. } => Bind::Socket(PathBuf::from(path)),
            Place::Tcp { host, port, .. } => match host.parse() {
                Ok(ip) => Bind::Ip(ip, *port),
                Err(_) => Bind::Localhost(*port),
            },
        }
    }
}

impl fmt::Display for ListenUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_urls_print_as_written() {
        for text in
            ["http://localhost:2379", "https://[::1]:2380", "http://0.0.0.0:0", "unix:///tmp/a.sock", "unixs://127.0.0.1:23790"]
        {
            assert_eq!(Url::parse(text).map(|u| u.to_string()), Ok(text.to_owned()));
        }
        assert_eq!(Url::parse(" HTTP://a:1 ").map(|u| u.to_string()), Ok("http://a:1".to_owned()));
    }

    #[test]
    fn bad_urls_say_why() {
        let cases = [
            ("", "scheme"),
            ("localhost:2379", "scheme"),
            ("ftp://a:1", "scheme"),
            ("http://a", "host:port"),
            ("http:a:1", "host:port"),
            ("http://a:1:2", "host:port"),
            ("http://::1:2379", "host:port"),
            ("http://a:1/", "path"),
            ("http://a/b", "host:port"),
            ("http://a:b", "number"),
            ("http://a:", "number"),
            ("http://a:65536", "65535"),
            ("http://u:secret@a:1", "user name"),
            ("http://a:1?x=y", "query"),
            ("unix://", "needs a path"),
            ("unix:a", "needs a path"),
            ("http://a b:1", "blank"),
        ];
        for (text, part) in cases {
            let reason = Url::parse(text).expect_err(text);
            assert!(reason.contains(part), "{text:?}: {reason}");
            assert!(!reason.contains("secret"), "{reason}");
        }
    }

    #[test]
    fn lists_are_sorted_and_unique() {
        let urls = Url::parse_list("http://b:1,http://a:1,http://b:1").expect("list");
        let shown: Vec<String> = urls.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["http://a:1", "http://b:1"]);
    }

    #[test]
    fn only_addresses_can_be_bound() {
        let bind = |text: &str| Url::parse(text).and_then(ListenUrl::new).map(|l| l.bind());
        assert_eq!(bind("http://localhost:1"), Ok(Bind::Localhost(1)));
        assert_eq!(bind("http://[::1]:1"), Ok(Bind::Ip("::1".parse().expect("ip"), 1)));
        assert_eq!(bind("unix:///a"), Ok(Bind::Socket("/a".into())));
        assert!(bind("http://example.com:1").is_err());
        assert!(bind("http://:1").is_err());
    }
}
