//! Gate: which stream of a sender counts, where several may be open for a moment.
//!
//! In: the greeting of each stream (the sender's boot and the stream's generation), and, for every batch, whose it is. Out: whether it
//! counts. Invariant: once a stream was admitted nothing of an older one passes, so that an order is never made of two.

/// The newest stream of one sender on one channel.
#[derive(Debug, Default)]
pub struct Gate {
    boot: u64,
    generation: u64,
}

impl Gate {
    /// Admits a stream; false when a newer one of the same boot was admitted before.
    pub fn admit(&mut self, boot: u64, generation: u64) -> bool {
        if self.boot == boot && self.generation > generation {
            return false;
        }
        *self = Self { boot, generation };
        true
    }

    /// True while no other stream was admitted after this one.
    pub fn passes(&self, boot: u64, generation: u64) -> bool {
        (self.boot, self.generation) == (boot, generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A newer stream takes over, an older one of the same boot is refused, one of another boot is always newer.
    #[test]
    fn the_newest_stream_counts() {
        let mut gate = Gate::default();
        assert!(gate.admit(7, 2));
        assert!(gate.passes(7, 2));
        assert!(!gate.admit(7, 1));
        assert!(gate.admit(7, 3));
        assert!(!gate.passes(7, 2));
        assert!(gate.admit(4, 1));
        assert!(!gate.passes(7, 3) && gate.passes(4, 1));
    }
}
