//! The desk: the one consensus loop, and what stands round it.
//!
//! [`driver`] wraps raft as a plain state machine: inputs and time in, effects out. [`run`] is the loop that feeds it and carries out
//! the effects in order: log, peers, apply. [`apply`] is the thread that runs the machine and answers; [`keeper`] the thread that
//! writes checkpoints and sweeps. [`handle`] is what the doors hold. [`start`] opens a member's folder and puts these together.

mod alone;
mod apply;
mod driver;
mod handle;
mod keeper;
mod log_store;
mod port;
mod run;
mod start;

pub use alone::stand_alone;
pub use apply::EventSink;
pub use handle::{LeaseView, NodeHandle, ProposeError, Status};
pub use keeper::SweepPace;
pub use run::{PeerMessage, PeerSink};
pub use start::{Founding, Node, NodeSettings, Opened, Stamp, StartError, read_identity, read_stamped, refuse_foreign, restore};
