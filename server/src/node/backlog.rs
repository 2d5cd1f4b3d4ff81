//! Backlog: bytes handed to another thread, in order, that it has not dealt with.
//!
//! In: what is handed over, by a number that rises, and how far the other thread is. Out: the bytes in between. Pure.

use std::collections::VecDeque;

/// What another thread has in hand. Invariant: `bytes` is the sum over `parts`, whose numbers rise.
#[derive(Default)]
pub(super) struct Backlog {
    /// The last number of each part, and its bytes.
    parts: VecDeque<(u64, usize)>,
    bytes: usize,
}

impl Backlog {
    /// Hands over everything up to a number.
    pub fn add(&mut self, upto: u64, bytes: usize) {
        self.parts.push_back((upto, bytes));
        self.bytes += bytes;
    }

    /// The other thread has dealt with everything up to a number.
    pub fn done(&mut self, upto: u64) {
        while let Some((_, bytes)) = self.parts.pop_front_if(|(last, _)| *last <= upto) {
            self.bytes -= bytes;
        }
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A part counts until its last number is done.
    #[test]
    fn parts_count_until_they_are_done() {
        let mut backlog = Backlog::default();
        backlog.add(3, 10);
        backlog.add(7, 5);
        backlog.done(2);
        assert_eq!(backlog.bytes(), 15);
        backlog.done(3);
        assert_eq!(backlog.bytes(), 5);
        backlog.done(9);
        assert_eq!(backlog.bytes(), 0);
    }
}
