//! What the outside may see of the inside: metrics under etcd's names, and logs in etcd's shape.

pub mod instrument;
pub mod log;
mod metrics;
pub mod process;
pub mod rotate;

pub use instrument::{Counter, Family, Gauge, Histogram};
pub use metrics::{Metrics, Read, round_trip};
