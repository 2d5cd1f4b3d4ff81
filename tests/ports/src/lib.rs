//! Ports on the loopback for servers under test.
//!
//! A port that the kernel names for a bind to port 0 is one of those it also gives to outgoing connections, so a server that stops
//! may find it taken when it starts again. The ports here lie below that range, and a lock says which test holds which.

use std::fs::{File, OpenOptions};
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};

/// Above what servers listen on by default, below what etcd's own suites count up from, and below the kernel's range (32,768).
const FIRST: u16 = 12_000;
const COUNT: u16 = 8_000;

/// A port that is its holder's until it is dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

/// Takes the lock of one port among all processes of this machine, unless it is held.
fn lock(folder: &Path, number: u16) -> Option<File> {
    let file = OpenOptions::new().create(true).append(true).open(folder.join(number.to_string())).ok()?;
    file.try_lock().is_ok().then_some(file)
}

impl Port {
    /// A port that nobody holds and nobody listens on. Panics when there is none.
    #[must_use]
    pub fn free() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let folder = std::env::temp_dir().join("quorate-test-ports");
        std::fs::create_dir_all(&folder).expect("a folder for the locks of ports");
        // Processes that start together begin at places apart.
        let base = (std::process::id() % u32::from(COUNT / 16)) as u16 * 16;
        for _ in 0..COUNT {
            let number = FIRST + (base + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT;
            let Some(lock) = lock(&folder, number) else { continue };
            if TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Self { number, _lock: lock };
            }
        }
        panic!("every port from {FIRST} to {} is taken", FIRST + COUNT - 1)
    }

    /// The port.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }

    /// What a server listens on there, without TLS.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when two holders can have one port, or a dropped one is lost: more are asked for than there are, in turns.
    #[test]
    fn a_port_has_one_holder() {
        for _ in 0..3 {
            let held: Vec<Port> = (0..COUNT / 2 - 100).map(|_| Port::free()).collect();
            let mut numbers: Vec<u16> = held.iter().map(Port::number).collect();
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), held.len());
        }
    }

    /// The kernel gives none of these to an outgoing connection.
    #[test]
    fn outgoing_connections_take_others() {
        let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").expect("the kernel's range");
        let first: u16 = range.split_whitespace().next().and_then(|n| n.parse().ok()).expect("its first port");
        assert!(FIRST + COUNT <= first, "this machine gives ports from {first} on to outgoing connections");
    }
}
