//! Key ranges as users name them: a key and an end, `--prefix`, `--from-key`.

use bytes::Bytes;
use quorate_client::{FROM_KEY_END, prefix_end};

use crate::failure::{self, Done};
use crate::flags::Parsed;

/// Key and `range_end` of a request, from one or two words and the two switches. An empty key with a switch means all keys.
pub fn from_words(words: &[Bytes], flags: &Parsed) -> Done<(Bytes, Bytes)> {
    let (prefix, from_key) = (flags.bool("prefix"), flags.bool("from-key"));
    let key = words[0].clone();
    if words.len() > 1 && (prefix || from_key) {
        return Err(failure::bad_args("too many arguments, only accept one argument when `--prefix` or `--from-key` is set"));
    }
    Ok(match (prefix, from_key) {
        (true, _) | (_, true) if key.is_empty() => (Bytes::from_static(&[0]), Bytes::from_static(FROM_KEY_END)),
        (true, _) => (key.clone(), prefix_end(&key).into()),
        (_, true) => (key, Bytes::from_static(FROM_KEY_END)),
        _ => (key, words.get(1).cloned().unwrap_or_default()),
    })
}

/// Refuses the two switches together.
pub fn one_switch(flags: &Parsed) -> Done {
    if flags.bool("prefix") && flags.bool("from-key") {
        return Err(failure::bad_args("`--prefix` and `--from-key` cannot be set at the same time, choose one"));
    }
    Ok(())
}
