//! Quorate server.

pub mod env;
pub mod wal;
