//! Accepting: one task per listener, on the first net thread; it only accepts and hands on.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};

use super::address::{Socket, keep_alive};
use super::connection::{self, Arrival, Raw};
use super::{Door, Entrance, Listener};

/// Pause after an accept that failed for want of files or memory, so that the loop does not spin.
const PAUSE: Duration = Duration::from_millis(100);

/// A listener's socket, registered with a runtime. The [`Listener`] stays alive beside it for what its drop does.
enum Source {
    Tcp(TcpListener),
    Unix(UnixListener),
}

pub(super) fn spawn(door: &Door, listener: Listener, entrance: Arc<Entrance>) -> io::Result<()> {
    let handles = door.net.handles();
    let home = handles.first().ok_or(io::ErrorKind::NotFound)?;
    let source = {
        let _registered_here = home.enter();
        match &listener.socket {
            Socket::Tcp(l) => Source::Tcp(TcpListener::from_std(l.try_clone()?)?),
            Socket::Unix(l) => Source::Unix(UnixListener::from_std(l.try_clone()?)?),
        }
    };
    let net = Arc::downgrade(&door.net);
    let (tasks, closing, cut) = (door.tasks.clone(), door.closing.clone(), door.cut.clone());
    let handshakes = door.handshakes.clone();
    let (tls, mixed) = (listener.address().tls, listener.mixed);
    let accepting = async move {
        loop {
            let next = async {
                let place = entrance.limit.place(entrance.name).await;
                (source.accept().await, place)
            };
            let (accepted, place) = tokio::select! {
                () = closing.cancelled() => break,
                next = next => next,
            };
            match accepted {
                Ok(raw) => {
                    let Some(net) = net.upgrade() else { break };
                    let arrival = Arrival {
                        raw,
                        entrance: entrance.clone(),
                        tls,
                        mixed,
                        place,
                        handshakes: handshakes.clone(),
                        closing: closing.clone(),
                        cut: cut.clone(),
                    };
                    net.run(|seat| tasks.track_future(connection::serve(arrival, seat)));
                }
                Err(e) if is_of_one_connection(&e) => {}
                Err(e) => {
                    tracing::warn!(listener = entrance.name, error = %e, "cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        drop(listener);
    };
    home.spawn(door.tasks.track_future(accepting));
    Ok(())
}

impl Source {
    /// The next connection, off this runtime again, so that its net thread can take it over.
    async fn accept(&self) -> io::Result<Raw> {
        match self {
            Self::Tcp(l) => {
                let (stream, remote) = l.accept().await?;
                stream.set_nodelay(true)?;
                keep_alive(&stream)?;
                Ok(Raw::Tcp(stream.into_std()?, remote))
            }
            Self::Unix(l) => Ok(Raw::Unix(l.accept().await?.0.into_std()?)),
        }
    }
}

/// The other side was gone before we took the connection: nothing is wrong with the listener.
fn is_of_one_connection(e: &io::Error) -> bool {
    use io::ErrorKind::*;
    matches!(e.kind(), ConnectionAborted | ConnectionReset | ConnectionRefused | InvalidInput | NotConnected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// A client that is gone without a word, its machine off, is noticed: the kernel asks for it.
    #[tokio::test]
    async fn clients_are_asked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let source = Source::Tcp(listener);
        let (client, accepted) = tokio::join!(tokio::net::TcpStream::connect(address), source.accept());
        let Ok(Raw::Tcp(stream, _)) = accepted else { panic!("no connection") };
        let socket = socket2::SockRef::from(&stream);
        assert!(client.is_ok() && socket.keepalive().expect("option"));
        let idle = socket.tcp_keepalive_time().expect("time");
        assert_eq!((idle, socket.tcp_keepalive_interval().expect("interval")), (Duration::from_secs(30), Duration::from_secs(30)));
    }
}
