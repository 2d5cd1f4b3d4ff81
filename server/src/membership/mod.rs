//! Who belongs to the cluster: changes of members, how an empty disk becomes a member, and how a removed one ends.
//!
//! In: the Cluster service's calls and other members' ([`Desk`]); at start, an empty data directory ([`gate`]). Out: configuration
//! changes for the node, a founding for an empty disk, the end of a member that was removed ([`departure`]). [`versions`] keeps the cluster at what every member's program knows.
//! Invariants: only the leader judges a change and proposes it; an empty disk becomes a member only as one that its cluster lists
//! and has never seen started, or in the founding that every listed member agrees on.

pub mod departure;
mod desk;
pub mod gate;
pub mod rules;
pub mod ticket;
pub mod versions;

pub use desk::{Desk, DeskSettings, fresh_id, hand_over};
