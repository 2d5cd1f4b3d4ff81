//! Key ranges by prefix.

/// As `range_end`: all keys from `key` on.
pub const FROM_KEY_END: &[u8] = &[0];

/// The exclusive upper bound of all keys that start with `prefix`. When there is none (empty, or all bytes 0xff) it is
/// [`FROM_KEY_END`].
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    match prefix.iter().rposition(|byte| *byte != 0xff) {
        Some(last) => {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            end
        }
        None => FROM_KEY_END.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::prefix_end;

    /// The bound is the smallest key above all that start with the prefix.
    #[test]
    fn prefix_ends() {
        assert_eq!(prefix_end(b"a/"), b"a0");
        assert_eq!(prefix_end(b"a\xff\xff"), b"b");
        assert_eq!(prefix_end(b"\xff"), b"\0");
        assert_eq!(prefix_end(b""), b"\0");
    }
}
