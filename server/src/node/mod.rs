//! The desk: the one consensus loop, and what stands round it.
//!
//! [`driver`] wraps raft as a plain state machine: inputs and time in, effects out. [`run`] is the loop that feeds it and carries out
//! the effects in order: log, peers, apply; [`backlog`] bounds what it hands over. [`apply`] is the thread that runs the machine and
//! answers; [`keeper`] the thread that writes checkpoints and sweeps. [`handle`] is what the doors hold. [`start`] opens a member's folder and puts these together;
//! [`meter`] is how they tell of their work; [`integrity`] finds members whose data or disk cannot be trusted, by what [`standing`] says,
//! [`compare`] and [`slow_disk`] judge and [`hasher`] computes; [`stepped`] puts them together without threads, for simulation.

mod alone;
mod apply;
mod backlog;
mod compare;
mod driver;
mod founding;
mod handle;
mod hasher;
mod identity;
mod integrity;
mod keeper;
mod log_store;
mod meter;
mod port;
mod recover;
mod rounds;
mod run;
mod slow_disk;
#[cfg(test)]
mod stalls;
mod standing;
mod start;
pub mod stepped;

pub use alone::stand_alone;
pub use apply::EventSink;
pub use founding::Founding;
pub use handle::{LeaseView, NodeHandle, ProposeError, Renewal, Status};
pub use identity::{Stamp, read_identity, read_stamped};
pub use integrity::Checks;
pub use keeper::SweepPace;
pub use meter::Meter;
pub use recover::{Recovering, Survey, recover, recovered_cluster, survey};
pub use run::{PeerMessage, PeerSink};
pub use start::{Node, NodeSettings, Opened, StartError, refuse_foreign, restore};
