//! The outside world as values: what a room needs from the operating system, real and simulated side by side.
//!
//! Rooms name these traits instead of `std::fs` and `std::time`, so the same code runs over a disk that can be crashed, filled and
//! corrupted by a seed, and over a clock that is moved by hand.

pub mod busy;
pub mod clock;
pub mod end;
pub mod failpoint;
pub mod files;
pub mod files_sim;
pub mod host;
pub mod plant;
