//! Open files: how many this process may have, and how they are shared out.
//!
//! In: the limits that the kernel keeps for this process. Out: how many connections of each kind may be open. Invariants: what the store and the log
//! need is not given to connections; however low the limit, each kind has a few places, and the metrics port its own: probes come by it.

use crate::door::Limit;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::sync::Arc;

/// Files for the log, peers that are dialed and everything else that is no connection of ours, as in etcd.
const RESERVED: u64 = 150;
/// Files that RocksDB may keep open.
const STORE: u64 = 512;
/// Connections to the metrics port: scrapers and probes.
const METRICS: u64 = 64;
/// Fewest and most connections that peers are left: a few for each of them.
const PEERS: (u64, u64) = (32, 4096);
/// Fewest connections that clients are left.
const CLIENTS: u64 = 64;

/// Lets this process open as many files as it may, as etcd does: what is set for it at first is a habit of shells.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum
        && let Err(e) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
    {
        tracing::warn!(error = %e, current = limit.current, maximum = limit.maximum, "the limit of open files cannot be raised");
    }
}

/// How many connections of each kind may be open at a time.
#[derive(Clone)]
pub(super) struct Places {
    pub clients: Arc<Limit>,
    pub peers: Arc<Limit>,
    pub metrics: Arc<Limit>,
}

/// Shares out what this process may open now.
pub(super) fn places() -> Places {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let (clients, peers) = shares(files);
    if clients <= CLIENTS {
        tracing::warn!(
            limit = files,
            wanted = RESERVED + STORE + METRICS + PEERS.0 + CLIENTS + 1,
            "few files may be open: clients may have to wait"
        );
    }
    let limit = |most: u64| Limit::new(usize::try_from(most).unwrap_or(usize::MAX));
    Places { clients: limit(clients), peers: limit(peers), metrics: limit(METRICS) }
}

/// Connections of clients and of peers, of as many files as may be open.
fn shares(files: u64) -> (u64, u64) {
    let free = files.saturating_sub(RESERVED + STORE + METRICS);
    let peers = (free / 8).clamp(PEERS.0, PEERS.1);
    (free.saturating_sub(peers).max(CLIENTS), peers)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clients get most, peers enough, and nobody nothing.
    #[test]
    fn shared_out() {
        assert_eq!(shares(1024), (261, 37));
        assert_eq!(shares(65_536), (60_714, 4096));
        assert_eq!(shares(0), (64, 32));
        assert_eq!(shares(u64::MAX).1, 4096);
    }

    /// All that may be opened is asked for.
    #[test]
    fn raised() {
        raise_limit();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }
}
