//! Others: whether members whose directories are not given seem to be at work.
//!
//! In: what a directory tells of its cluster. Out: those of the others whose peer addresses take a connection within a moment. Nothing
//! is sent. It is a guard against recovering a cluster that lives, not a proof: another program may listen there by now, and a member
//! that is cut off from this machine is not seen.

use crate::config::Url;
use crate::node::Survey;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Longest wait for all names to be looked up and all connections to be made.
const PATIENCE: Duration = Duration::from_secs(3);

/// A member that seems to be at work.
pub(super) struct Other {
    pub id: u64,
    name: String,
    address: String,
}

impl std::fmt::Display for Other {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.name.as_str() {
            "" => write!(f, "member {:016x} ({})", self.id, self.address),
            name => write!(f, "member {name} ({})", self.address),
        }
    }
}

fn connects(host: &str, port: u16) -> bool {
    let Ok(addresses) = (host, port).to_socket_addrs() else { return false };
    addresses.into_iter().any(|address| TcpStream::connect_timeout(&address, PATIENCE).is_ok())
}

/// Members of the survey's list, without those of `given`, that take connections; each once.
pub(super) fn at_work(survey: &Survey, given: &[u64]) -> Vec<Other> {
    let (found, answers) = mpsc::channel();
    for member in survey.members.iter().filter(|member| !given.contains(&member.id)) {
        for address in &member.peer_urls {
            let Ok(url) = Url::parse(address) else { continue };
            let Some((host, port)) = url.host_port().map(|(host, port)| (host.to_string(), port)) else { continue };
            let other = Other { id: member.id, name: member.name.clone(), address: address.clone() };
            let found = found.clone();
            // A look-up of a name has no time limit of its own: it is left behind when it takes too long.
            std::thread::spawn(move || {
                if connects(&host, port) {
                    let _ = found.send(other);
                }
            });
        }
    }
    drop(found);
    let deadline = Instant::now() + PATIENCE;
    let mut others: Vec<Other> = Vec::new();
    while let Ok(other) = answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        if !others.iter().any(|known| known.id == other.id) {
            others.push(other);
        }
    }
    others.sort_by_key(|other| other.id);
    others
}
