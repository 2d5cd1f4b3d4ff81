//! The catalogue of settings: one row a flag with its group, kind, default and effect. Parsing, the help text and the
//! compatibility table are all driven by it, so a flag is added here and read in `check.rs`, nowhere else.
//! Invariant (tested): names are unique, and each default can be read as its kind.

use super::rows::{FLAGS, REMOVED};
use super::value::{parse_bool, parse_bytes, parse_int, parse_signed_duration, parse_uint};

/// Which heading a flag stands under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    Member,
    Clustering,
    Security,
    Auth,
    Monitoring,
    Logging,
    Tracing,
    Features,
    Unsafe,
    /// Flags that etcd does not have.
    Own,
    /// Flags that etcd itself has long ignored.
    Legacy,
}

impl Group {
    /// All groups in the order they are shown.
    pub const ALL: [Group; 11] = [
        Group::Member,
        Group::Clustering,
        Group::Security,
        Group::Auth,
        Group::Monitoring,
        Group::Logging,
        Group::Tracing,
        Group::Features,
        Group::Unsafe,
        Group::Own,
        Group::Legacy,
    ];

    pub fn title(self) -> &'static str {
        match self {
            Group::Member => "Member",
            Group::Clustering => "Clustering",
            Group::Security => "Security",
            Group::Auth => "Auth",
            Group::Monitoring => "Monitoring",
            Group::Logging => "Logging",
            Group::Tracing => "Distributed tracing",
            Group::Features => "Checks, compaction and watch",
            Group::Unsafe => "Unsafe",
            Group::Own => "Quorate's own (etcd has none of these)",
            Group::Legacy => "Ignored, as etcd ignores them",
        }
    }
}

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The only kind whose value may be left out on the command line.
    Bool,
    /// Unsigned, up to 64 bits.
    Uint,
    /// Unsigned, up to 32 bits.
    Uint32,
    /// Signed, 64 bits.
    Int,
    /// An unsigned count of milliseconds.
    Millis,
    /// A Go duration; in the file a bare integer counts nanoseconds.
    Duration,
    /// Bytes, with an optional KiB, MiB, GiB or TiB.
    Bytes,
    Text,
    /// Comma-separated words; the last occurrence of the flag wins.
    List,
    /// Comma-separated URLs; an empty value leaves the default, as in etcd.
    Urls,
    /// `*` or comma-separated URLs.
    Origins,
    /// One of the words given.
    Choice(&'static [&'static str]),
    /// Comma-separated, each one of the words given.
    Choices(&'static [&'static str]),
    /// `Name=bool,...`; repeated flags add up.
    Gates,
    /// Read and thrown away; takes no value.
    Ignored,
}

impl Kind {
    /// True when the flag may stand alone on the command line.
    pub fn is_switch(self) -> bool {
        matches!(self, Kind::Bool | Kind::Ignored)
    }

    /// Says whether `text` can be read as this kind.
    pub(super) fn check(self, text: &str) -> Result<(), String> {
        match self {
            Kind::Bool => parse_bool(text).map(drop),
            Kind::Uint | Kind::Millis => parse_uint(text, u64::MAX).map(drop),
            Kind::Uint32 => parse_uint(text, u64::from(u32::MAX)).map(drop),
            Kind::Int => parse_int(text).map(drop),
            Kind::Duration => parse_signed_duration(text).map(drop),
            Kind::Bytes => parse_bytes(text).map(drop),
            Kind::Text | Kind::List | Kind::Ignored => Ok(()),
            Kind::Urls if text.is_empty() => Ok(()),
            Kind::Origins if text.is_empty() || text == "*" => Ok(()),
            Kind::Urls | Kind::Origins => super::url::Url::parse_list(text).map(drop),
            Kind::Choice(words) => one_of(text, words),
            Kind::Choices(words) => text.split(',').try_for_each(|word| one_of(word, words)),
            Kind::Gates => super::gates::parse(text).map(drop),
        }
    }

    /// Whether two texts that passed [`Kind::check`] mean the same value.
    pub(super) fn same(self, a: &str, b: &str) -> bool {
        fn by<T: PartialEq>(read: impl Fn(&str) -> Result<T, String>, a: &str, b: &str) -> bool {
            matches!((read(a), read(b)), (Ok(a), Ok(b)) if a == b)
        }
        a == b
            || match self {
                Kind::Bool => by(parse_bool, a, b),
                Kind::Uint | Kind::Uint32 | Kind::Millis => by(|text| parse_uint(text, u64::MAX), a, b),
                Kind::Int => by(parse_int, a, b),
                Kind::Duration => by(parse_signed_duration, a, b),
                Kind::Bytes => by(parse_bytes, a, b),
                Kind::Ignored => true,
                Kind::Text | Kind::List | Kind::Urls | Kind::Origins | Kind::Choice(_) | Kind::Choices(_) | Kind::Gates => false,
            }
    }

    /// The word that stands for the value in help and tables.
    pub fn label(self) -> String {
        match self {
            Kind::Bool => "bool".to_owned(),
            Kind::Uint | Kind::Uint32 => "count".to_owned(),
            Kind::Int => "integer".to_owned(),
            Kind::Millis => "milliseconds".to_owned(),
            Kind::Duration => "duration".to_owned(),
            Kind::Bytes => "bytes".to_owned(),
            Kind::Text => "text".to_owned(),
            Kind::List => "list".to_owned(),
            Kind::Urls | Kind::Origins => "urls".to_owned(),
            Kind::Choice(words) | Kind::Choices(words) => words.join("|"),
            Kind::Gates => "Gate=bool,...".to_owned(),
            Kind::Ignored => "anything".to_owned(),
        }
    }
}

fn one_of(text: &str, words: &[&str]) -> Result<(), String> {
    if words.contains(&text) { Ok(()) } else { Err(format!("expected one of {}", words.join(", "))) }
}

/// What setting the flag does to this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It means what it means in etcd.
    Honoured,
    /// It is accepted and changes nothing; the sentence says why.
    None(&'static str),
    /// It is known, and refused when set; the sentence says what to do instead.
    Refused(&'static str),
}

/// One row of the catalogue.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    pub name: &'static str,
    pub group: Group,
    pub kind: Kind,
    /// As it would be written on the command line.
    pub default: &'static str,
    pub effect: Effect,
    /// One line for the help text.
    pub text: &'static str,
    /// True for settings that etcd has in its file only.
    pub file_only: bool,
}

impl Flag {
    /// The environment variable that sets this flag: `ETCD_` and the name, or `QUORATE_` for our own flags.
    pub fn env_name(&self) -> String {
        let prefix = if self.group == Group::Own { "QUORATE" } else { "ETCD" };
        format!("{prefix}_{}", self.name.replace('-', "_").to_ascii_uppercase())
    }
}

/// All flags, in the order they are shown.
pub fn flags() -> &'static [Flag] {
    FLAGS
}

pub(super) fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

/// What to say about a flag of an older release; `None` if there never was such a flag.
pub(super) fn removed(name: &str) -> Option<String> {
    if let Some((_, advice)) = REMOVED.iter().find(|(old, _)| *old == name) {
        return Some((*advice).to_owned());
    }
    let rest = name.strip_prefix("experimental-")?;
    Some(match find(rest) {
        Some(_) => format!("use --{rest}"),
        None => "etcd 3.7 has no --experimental-* flags, and this one has no successor".to_owned(),
    })
}

/// A hint at the known flag nearest to a mistyped one.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    let (best, distance) = FLAGS
        .iter()
        .filter(|flag| !flag.file_only && flag.kind != Kind::Ignored)
        .map(|flag| (flag.name, edits(name, flag.name)))
        .min_by_key(|(_, distance)| *distance)?;
    (distance <= 2).then_some(best)
}

/// Edit distance over bytes; names longer than any flag are not measured, so the work is bounded.
fn edits(a: &str, b: &str) -> usize {
    if a.len() > 64 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let change = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_defaults_can_be_read() {
        let mut seen = std::collections::BTreeSet::new();
        for flag in FLAGS {
            assert!(seen.insert(flag.name), "{} appears twice", flag.name);
            if !matches!(flag.kind, Kind::Choices(_)) {
                flag.kind.check(flag.default).unwrap_or_else(|e| panic!("{}: {e}", flag.name));
            }
            assert!(!flag.text.is_empty() && !flag.text.ends_with('.'), "{}", flag.name);
        }
    }

    #[test]
    fn removed_flags_are_not_in_the_catalogue() {
        for (name, _) in REMOVED {
            assert!(find(name).is_none(), "{name}");
        }
    }

    #[test]
    fn a_slip_of_the_pen_is_recognised() {
        assert_eq!(nearest("data-dri"), Some("data-dir"));
        assert_eq!(nearest("listen-client-url"), Some("listen-client-urls"));
        assert_eq!(nearest("frobnicate"), None);
        assert_eq!(nearest(&"x".repeat(1 << 20)), None);
    }
}
