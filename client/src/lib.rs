//! A client for etcd's v3 API, for Quorate's own programs: the command line, the operator, tests and benches.
//!
//! In: a [`Config`] with one or more endpoints. Out: a [`Client`], cheap to clone, with one method per RPC that takes and gives
//! the protocol's own messages (`quorate_proto::etcdserverpb` and friends), the streams [`WatchStream`] and [`KeepAlive`], and
//! the recipes [`Session`], [`Mutex`] and [`Election`].
//!
//! Invariants:
//! - Nothing is sent twice unless that is safe: reads are repeated when a member turns out to be unavailable, writes only when
//!   no connection came about, so that nothing can have reached a server.
//! - A call ends by its time limit ([`Config::timeout`], [`Client::timeout`]); without one it waits for a server for ever.
//! - Certificates, keys and authorities are read at each handshake, so renewed files need no restart.

mod address;
mod client;
mod concurrency;
mod config;
mod connector;
mod error;
mod keep_alive;
mod keys;
mod page;
mod roots;
mod services;
mod tls;
mod watch;

pub use address::{Address, Scheme};
pub use client::Client;
pub use concurrency::{Election, Mutex, Session, Won};
pub use config::{Config, Credentials, Pem, TlsConfig};
pub use error::{Error, Result};
pub use keep_alive::KeepAlive;
pub use keys::{FROM_KEY_END, prefix_end};
pub use page::page;
pub use quorate_proto as proto;
pub use tonic::{Code, Streaming};
pub use watch::{WatchSender, WatchStream, Watcher};
