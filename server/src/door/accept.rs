//! Accepting: one task per listener, on the first net thread; it only accepts and hands on.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::address::Socket;
use super::connection::{self, Arrival, Permits, Raw};
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
    let (connections, handshakes) = (door.connections.clone(), door.handshakes.clone());
    let (tls, mixed) = (listener.address().tls, listener.mixed);
    let accepting = async move {
        loop {
            let next = async {
                let open = permit(&connections).await?;
                let handshake = if tls { Some(permit(&handshakes).await?) } else { None };
                Some((source.accept().await, Permits { _open: open, handshake }))
            };
            let (accepted, permits) = tokio::select! {
                () = closing.cancelled() => break,
                next = next => match next { Some(next) => next, None => break },
            };
            match accepted {
                Ok(raw) => {
                    let Some(net) = net.upgrade() else { break };
                    let arrival = Arrival {
                        raw,
                        entrance: entrance.clone(),
                        tls,
                        mixed,
                        permits,
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

fn permit(semaphore: &Arc<Semaphore>) -> impl Future<Output = Option<OwnedSemaphorePermit>> + use<> {
    let semaphore = semaphore.clone();
    async move { semaphore.acquire_owned().await.ok() }
}

impl Source {
    /// The next connection, off this runtime again, so that its net thread can take it over.
    async fn accept(&self) -> io::Result<Raw> {
        match self {
            Self::Tcp(l) => {
                let (stream, remote) = l.accept().await?;
                stream.set_nodelay(true)?;
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
