//! Snapshots: the whole durable state as of one applied position, as rows, apart from how the rows are kept on disk.
//!
//! [`view`] pins the durable rows at a moment and cuts them into chunks; [`rows`] is the form of a chunk; [`receive`] builds new
//! durable rows from chunks that arrive; [`folder`] knows which folder of rows a member uses and switches it in one step. [`export`] writes a view out as a file, whose form is [`file`];
//! [`restore`] reads it back, and [`replay`] goes on from there with files of deltas.
//!
//! How a follower that is too far behind gets one: raft asks its log for a snapshot and is told what a pinned view holds; the peer
//! room sends the view's rows; the receiver writes them into a folder of their own, checks everything, marks the folder as complete
//! and only then hands raft the message; raft's mark goes into the log and is synced; then the folder becomes the member's rows. A
//! crash before the mark leaves the old rows in use and the new folder is removed at the next start; a crash after it finds the
//! complete folder by the mark's index and takes it up.

pub mod export;
pub mod file;
pub mod folder;
pub mod folder_mem;
pub mod receive;
pub mod replay;
pub mod restore;
pub mod rows;
pub mod view;

pub use export::{Export, export};
pub use receive::{Receiver, Staging};
pub use replay::{Deltas, Reached, Until};
pub use restore::{FileStatus, RestoreOptions, status};
pub use rows::Place;
pub use view::{Chunk, View};

use crate::base::BaseError;

/// Why a snapshot could not be read, taken in or written.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("{0}")]
    Base(#[from] BaseError),
    #[error("{path}: {error}")]
    Io { path: std::path::PathBuf, error: std::io::Error },
    /// What arrived is not what was sent, or not in order.
    #[error("damaged snapshot: {0}")]
    Damaged(String),
    /// A newer transfer took over, or a snapshot is being installed.
    #[error("{0}")]
    Refused(String),
}
