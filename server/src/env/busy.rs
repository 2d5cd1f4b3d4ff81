//! Busy: a flag that is up while something is under way, and comes down however that ends, a panic included.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Holds a flag up for as long as it lives.
pub struct Busy(Arc<AtomicBool>);

impl Busy {
    /// Puts the flag up; `None` when it is up already.
    #[must_use]
    pub fn begin(flag: &Arc<AtomicBool>) -> Option<Self> {
        (!flag.swap(true, Ordering::AcqRel)).then(|| Self(flag.clone()))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One at a time, and one that ended in a panic is not under way for ever.
    #[test]
    fn a_panic_puts_the_flag_down() {
        let flag = Arc::<AtomicBool>::default();
        let busy = Busy::begin(&flag).expect("nothing is under way");
        assert!(Busy::begin(&flag).is_none());
        let work = std::thread::spawn(move || {
            let _busy = busy;
            panic!("as a test has it");
        });
        assert!(work.join().is_err());
        assert!(Busy::begin(&flag).is_some());
    }
}
