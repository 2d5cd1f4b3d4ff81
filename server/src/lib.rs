//! Quorate: a replicated key-value store that speaks etcd's v3 API.
//!
//! The rooms; the arrows between them are listed in ARCHITECTURE.md and read by a test.

pub mod api;
pub mod base;
pub mod compactor;
pub mod config;
pub mod door;
pub mod env;
pub mod gateway;
pub mod lease;
pub mod membership;
pub mod mvcc;
pub mod node;
pub mod offline;
pub mod peer;
pub mod serve;
pub mod snapshot;
pub mod space;
pub mod state;
pub mod telemetry;
pub mod types;
pub mod wal;
pub mod watch;
