//! Quorate server.

pub mod config;
