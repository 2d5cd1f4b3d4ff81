//! What clients asked and what they were told.

use crate::Time;
use quorate::mvcc::{RangeResult, ReadError};
use quorate::state::Answer;
use quorate_proto::entry::command::Op;

/// One request of one client.
pub struct Operation {
    pub client: usize,
    pub op: Op,
    pub invoked: Time,
    /// When the client knew how it ended; later than everything while it does not.
    pub returned: Time,
    pub told: Told,
}

/// How a request ended, for its client.
#[derive(Clone, Debug)]
pub enum Told {
    /// No answer yet, or none came in time, or the connection broke: a write may have happened, or may yet.
    Nothing,
    /// It surely did not happen.
    Refused(String),
    Answer(Answer),
    Read(Result<RangeResult, ReadError>),
}

/// A time after all others.
pub const NEVER: Time = Time::MAX;

/// Marks a value as written by an operation, so that every value is written by one.
pub fn value_of(op: usize) -> String {
    format!("w{op}")
}

/// The operation that wrote a value; what comes after a space is ballast.
pub fn writer_of(value: &[u8]) -> Option<usize> {
    let name = value.split(|b| *b == b' ').next()?;
    std::str::from_utf8(name).ok()?.strip_prefix('w')?.parse().ok()
}
