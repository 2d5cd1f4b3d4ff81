//! Leases: the table every member keeps alike ([`table`]) and the leader's clockwork ([`clock`]).

pub mod clock;
pub mod table;

pub use clock::LeaseClock;
pub use table::{Lease, LeaseTable};
