//! Keys and values: fixed lengths, reproducible from a number.
//!
//! Invariant: equal numbers give equal keys; [`scatter`] is one to one, so fresh numbers give fresh keys in no order.

use bytes::Bytes;

/// A number spread over 64 bits (splitmix64's last step): neighbours come out far apart, no two numbers meet.
pub fn scatter(n: u64) -> u64 {
    let mut x = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Random numbers good enough to spread load.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(scatter(seed))
    }

    /// Below `bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(1);
        ((u128::from(scatter(self.0)) * u128::from(bound)) >> 64) as u64
    }
}

/// `prefix`, then `n` in decimal, padded with zeros to `length` bytes in all (never shorter than 20 digits allow).
pub fn key(prefix: &str, n: u64, length: usize) -> Bytes {
    let digits = length.saturating_sub(prefix.len()).max(20);
    Bytes::from(format!("{prefix}{n:0digits$}"))
}

/// The end of the range of all keys that begin with `prefix`; the whole key space when there is none.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return Bytes::from(end);
        }
    }
    Bytes::from_static(b"\0")
}

/// `length` bytes that do not compress well: 16 times 4 bits of every 8 vary.
pub fn value(seed: u64, length: usize) -> Bytes {
    let mut random = Random::new(seed);
    (0..length).map(|_| b"0123456789abcdef"[random.below(16) as usize]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A prefix's end bounds exactly the keys that begin with it.
    #[test]
    fn ends_of_prefixes() {
        assert_eq!(prefix_end(b"a/"), &b"a0"[..]);
        assert_eq!(prefix_end(b"a\xff"), &b"b"[..]);
        assert_eq!(prefix_end(b"\xff"), &b"\0"[..]);
    }

    /// Keys have the asked length and keep the order of their numbers.
    #[test]
    fn keys_are_even() {
        assert_eq!(key("k/", 7, 64).len(), 64);
        assert!(key("k/", 9, 64) < key("k/", 10, 64));
    }
}
