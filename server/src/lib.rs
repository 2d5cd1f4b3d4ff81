//! Quorate server.

pub mod watch;
