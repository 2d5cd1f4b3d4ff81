//! The watch room: tells every stream about each change of the keys it watches, in order, once, whole revisions at a time.
//!
//! In: batches of applied revisions ([`Hub::publish`]), compaction marks, snapshot installs, and what clients ask of their
//! streams (create, cancel, progress). Out: [`WatchMessage`]s on each stream's [`StreamReceiver`].
//!
//! ```text
//!  apply ──publish──▶ queue ──▶ fan-out thread ──▶ shard 0..n  (core: index, watchers, outboxes) ──▶ StreamReceiver
//!                                                     ▲  │ lagging watchers: one integer each
//!  History (mvcc) ──events(from, to)──▶ catch-up thread ─┘
//! ```
//!
//! Invariants:
//! - A watcher is *live* (fed by publish) or *lagging* (a revision to resume from); it changes from one to the other under its
//!   shard's lock, so that no revision is missed or seen twice at the border.
//! - Publish waits for nobody. A stream whose client is slow holds at most its byte budget and one oversized message; what is
//!   beyond it is read from history again when the client has caught up.
//! - A progress message follows every event at or below its revision on that stream.
//!
//! The core ([`core`]) knows neither threads nor clocks; [`hub`] adds both. Encoding is left to the door.

mod core;
mod hub;
mod index;
mod message;
mod odd;
mod stream;
#[cfg(test)]
mod tests;

use quorate_proto::RawKv;

use crate::mvcc::{ReadError, RevisionEvents, Store};

pub use self::core::Limits;
pub use self::hub::{Counters, Hub, HubOptions};
pub use self::message::{CreateWatch, EventBlock, EventView, Filters, SharedEvent, WatchMessage};
pub use self::stream::{StreamHandle, StreamReceiver};

/// The read side of the store, as this room needs it. Calls may block for a short read and come from any thread.
///
/// The store makes a revision readable here before it is published to the hub.
pub trait History: Send + Sync {
    /// The newest readable revision.
    fn revision(&self) -> i64;

    /// The newest compaction mark; zero or less when the store was never compacted.
    fn compact_revision(&self) -> i64;

    /// The events of revisions `from..=to`, whole revisions in order, ending early once about `max_bytes` were read.
    ///
    /// # Errors
    /// `Compacted` when `from` is below the compaction mark; a watch may start at the mark itself.
    fn events(&self, from: i64, to: i64, max_bytes: usize) -> Result<Vec<RevisionEvents>, ReadError>;

    /// The pair as it stood just before the main revision `before`; none when there was none or it is compacted.
    fn previous(&self, key: &[u8], before: i64) -> Result<Option<RawKv>, ReadError>;
}

impl History for Store {
    fn revision(&self) -> i64 {
        Store::revision(self)
    }

    fn compact_revision(&self) -> i64 {
        Store::compact_revision(self)
    }

    fn events(&self, from: i64, to: i64, max_bytes: usize) -> Result<Vec<RevisionEvents>, ReadError> {
        Store::events(self, from, to, max_bytes)
    }

    fn previous(&self, key: &[u8], before: i64) -> Result<Option<RawKv>, ReadError> {
        Store::previous(self, key, before)
    }
}
