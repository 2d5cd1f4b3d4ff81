//! Where a listener stands: an address taken from a listen URL, and the socket bound to it.
//!
//! In: a listen URL (`http://`, `https://`, `unix://`, `unixs://`). Out: a bound, non-blocking socket whose backlog already fills.
//! Invariants: one process holds an address at a time (SO_REUSEPORT only when asked for; a live unix socket is never taken over), and every failure is one
//! sentence that names the address.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Connections the kernel may queue while the acceptor is busy; the kernel lowers it to net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// A place to listen on or to dial, with whether TLS is spoken there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    pub place: Place,
    pub tls: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// Host name or IP (without brackets) and port.
    Tcp {
        host: String,
        port: u16,
    },
    Unix(PathBuf),
}

/// A bound socket, ready to be handed to a [`super::Door`].
#[derive(Debug)]
pub struct Listener {
    pub(super) socket: Socket,
    /// Plain connections are welcome too, where `address` says TLS: the first byte tells which one comes.
    pub(super) mixed: bool,
    address: Address,
    local: String,
    /// A unix socket's file goes with this one.
    owns_file: bool,
}

#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Why an address cannot be used. The text is meant to be printed as it is.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("cannot read the URL {0:?}: {1}")]
    Url(String, &'static str),
    #[error("cannot listen on {0}: bind: address already in use (another process holds it)")]
    InUse(String),
    #[error("cannot listen on {0}: {1}")]
    Io(String, #[source] io::Error),
}

// === impl Address ===

impl Address {
    /// Reads `scheme://host:port` (scheme http or https) or `unix://path` and `unixs://path`.
    ///
    /// As in etcd, everything after `unix://` is the path, so `unix://localhost:1` is a file of that name in the working folder.
    pub fn parse(url: &str) -> Result<Self, BindError> {
        let bad = |why| BindError::Url(url.to_owned(), why);
        let (scheme, rest) = url.split_once("://").ok_or_else(|| bad("it has no scheme"))?;
        let tls = matches!(scheme, "https" | "unixs");
        match scheme {
            "unix" | "unixs" if rest.is_empty() => Err(bad("it has no path")),
            "unix" | "unixs" => Ok(Self { place: Place::Unix(rest.into()), tls }),
            "http" | "https" => {
                let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
                if !path.is_empty() {
                    return Err(bad("a path is not expected"));
                }
                let (host, port) = authority.rsplit_once(':').ok_or_else(|| bad("it has no port"))?;
                let port = port.parse().map_err(|_| bad("its port is not a number below 65536"))?;
                let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
                if bare.is_none() && host.contains(':') {
                    return Err(bad("an IPv6 host needs square brackets"));
                }
                Ok(Self { place: Place::Tcp { host: bare.unwrap_or(host).to_owned(), port }, tls })
            }
            _ => Err(bad("its scheme is none of http, https, unix, unixs")),
        }
    }

    /// Takes the address. A unix socket file nobody answers on is replaced.
    pub fn bind(&self) -> Result<Listener, BindError> {
        self.bind_with(false)
    }

    /// As [`Address::bind`]; `shared` lets other processes that say so too listen on the same TCP port.
    fn bind_with(&self, shared: bool) -> Result<Listener, BindError> {
        let name = self.to_string();
        let (socket, local) = match &self.place {
            Place::Tcp { host, port } => bind_tcp(host, *port, shared).map(|(l, a)| (Socket::Tcp(l), a.to_string())),
            Place::Unix(path) => bind_unix(path).map(|l| (Socket::Unix(l), path.display().to_string())),
        }
        .map_err(|e| {
            if e.kind() == io::ErrorKind::AddrInUse { BindError::InUse(name.clone()) } else { BindError::Io(name.clone(), e) }
        })?;
        Ok(Listener { socket, mixed: false, address: self.clone(), local, owns_file: true })
    }

    /// Takes all addresses. A host and port that is named both with and without TLS becomes one listener that serves either.
    ///
    /// `shared` sets SO_REUSEPORT, as `--socket-reuse-port` asks: then a second process that does the same is not refused.
    pub fn bind_all(addresses: &[Address], shared: bool) -> Result<Vec<Listener>, BindError> {
        let twin = |a: &Address| {
            let other = Address { tls: !a.tls, ..a.clone() };
            matches!(a.place, Place::Tcp { port, .. } if port != 0) && addresses.contains(&other)
        };
        let mut listeners = Vec::new();
        for address in addresses.iter().filter(|a| a.tls || !twin(a)) {
            let mut listener = address.bind_with(shared)?;
            listener.mixed = twin(address);
            listeners.push(listener);
        }
        Ok(listeners)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.tls { "s" } else { "" };
        match &self.place {
            Place::Tcp { host, port } if host.contains(':') => write!(f, "http{s}://[{host}]:{port}"),
            Place::Tcp { host, port } => write!(f, "http{s}://{host}:{port}"),
            Place::Unix(path) => write!(f, "unix{s}://{}", path.display()),
        }
    }
}

/// Lets the kernel ask for the other side of a connection that is silent, as etcd does: after 30 s, and every 30 s from then on.
pub(super) fn keep_alive(stream: &tokio::net::TcpStream) -> io::Result<()> {
    let every = std::time::Duration::from_secs(30);
    socket2::SockRef::from(stream).set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(every).with_interval(every))
}

// === impl Listener ===

impl Listener {
    /// The same socket for another door that opens first: connections that neither has accepted wait for whichever is open. The file
    /// of a unix socket stays with the original.
    ///
    /// # Errors
    /// When the process may open no more files.
    pub fn share(&self) -> io::Result<Self> {
        let socket = match &self.socket {
            Socket::Tcp(l) => Socket::Tcp(l.try_clone()?),
            Socket::Unix(l) => Socket::Unix(l.try_clone()?),
        };
        Ok(Self { socket, address: self.address.clone(), local: self.local.clone(), owns_file: false, mixed: self.mixed })
    }

    /// The address asked for.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The address got: differs from the one asked for when port 0 let the kernel choose.
    pub fn local(&self) -> &str {
        &self.local
    }
}

impl Drop for Listener {
    /// A unix socket's file goes with its listener; the next start would have to guess otherwise.
    fn drop(&mut self) {
        if self.owns_file
            && let Place::Unix(path) = &self.address.place
        {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn bind_tcp(host: &str, port: u16, shared: bool) -> io::Result<(TcpListener, SocketAddr)> {
    let resolved: Vec<SocketAddr> = if host.is_empty() {
        vec![
            SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), port),
            SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), port),
        ]
    } else {
        (host, port).to_socket_addrs()?.collect()
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
    // IPv4 first, as a host without IPv6 still lists ::1 under "localhost"; the empty host wants the dual-stack wildcard first.
    let (v4, v6): (Vec<_>, Vec<_>) = resolved.into_iter().partition(|a| a.is_ipv4() != host.is_empty());
    for addr in v4.into_iter().chain(v6) {
        match bind_addr(addr, shared) {
            Ok(bound) => return Ok(bound),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => return Err(e),
            Err(e) => last = e,
        }
    }
    Err(last)
}

fn bind_addr(addr: SocketAddr, shared: bool) -> io::Result<(TcpListener, SocketAddr)> {
    use socket2::{Domain, Protocol, Type};
    let socket = socket2::Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        let wildcard = matches!(addr.ip(), std::net::IpAddr::V6(ip) if ip.is_unspecified());
        socket.set_only_v6(!wildcard)?;
    }
    // SO_REUSEADDR only lets a restart pass over connections in TIME_WAIT; a second live listener is still refused.
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    let listener: TcpListener = socket.into();
    let local = listener.local_addr()?;
    Ok((listener, local))
}

fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    use std::os::unix::fs::FileTypeExt;
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is not a socket is in the way"));
        }
        // Only a refused connection proves that nobody listens; any other answer leaves the file alone.
        Ok(_) => match UnixStream::connect(path) {
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
            Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
            Err(e) => return Err(e),
        },
    }
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The four schemes are read and printed back; what is not a listen URL is refused with its reason.
    #[test]
    fn urls_round_trip_or_say_why_not() {
        for url in ["http://127.0.0.1:2379", "https://[::1]:2380", "unix:///run/q.sock", "unixs://localhost:7"] {
            assert_eq!(Address::parse(url).expect(url).to_string(), url);
        }
        for (url, why) in [
            ("127.0.0.1:1", "scheme"),
            ("http://a", "port"),
            ("http://::1:1", "brackets"),
            ("ftp://a:1", "scheme"),
            ("http://a:1/x", "path"),
            ("unix://", "path"),
        ] {
            let text = Address::parse(url).expect_err(url).to_string();
            assert!(text.contains(why) && text.contains(url), "{text}");
        }
    }

    /// A second listener on a held TCP port fails with one sentence that names the address.
    #[test]
    fn a_held_port_is_refused_by_name() {
        let first = Address::parse("http://127.0.0.1:0").expect("url").bind().expect("bind");
        let url = format!("http://{}", first.local());
        let error = Address::parse(&url).expect("url").bind().expect_err("second bind").to_string();
        assert_eq!(error, format!("cannot listen on {url}: bind: address already in use (another process holds it)"));
    }

    /// With SO_REUSEPORT on both sides two listeners share a port; a third without it is refused.
    #[test]
    fn a_port_is_shared_only_by_those_who_say_so() {
        let first = &Address::bind_all(&[Address::parse("http://127.0.0.1:0").expect("url")], true).expect("bind")[0];
        let address = Address::parse(&format!("http://{}", first.local())).expect("url");
        let second = Address::bind_all(std::slice::from_ref(&address), true).expect("shared");
        assert!(matches!(Address::bind_all(&[address], false), Err(BindError::InUse(_))));
        drop(second);
    }

    /// A unix socket: a live one is refused, a stale file is replaced, a plain file is left alone, and a drop takes the file away.
    #[test]
    fn unix_sockets_replace_only_stale_files() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("s");
        let address = Address { place: Place::Unix(path.clone()), tls: false };
        let live = address.bind().expect("first");
        assert!(matches!(address.bind(), Err(BindError::InUse(_))));
        drop(live);
        assert!(!path.exists());
        drop(UnixListener::bind(&path).expect("leave a stale file"));
        assert!(path.exists());
        drop(address.bind().expect("stale file replaced"));
        std::fs::write(&path, b"data").expect("write");
        assert!(matches!(address.bind(), Err(BindError::Io(..))));
        assert_eq!(std::fs::read(&path).expect("read"), b"data");
    }
}
