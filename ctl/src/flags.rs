//! Reading flags the way etcdctl's users write them.
//!
//! In: the words after the command's name, and the flags it knows. Out: their values, and the other words in order.
//!
//! Forms: `--name value`, `--name=value`, `-n value`, `-nvalue`, `-n=value`; a switch takes a value only after `=`. Flags and
//! other words may be mixed; after `--` everything is a word. Keys and values may hold any bytes, so words are bytes.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use crate::notation;

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A switch.
    Bool,
    /// A signed number.
    Int,
    /// An unsigned number.
    Uint,
    /// Any text.
    Text,
    /// Texts between commas; the flag may come more than once.
    List,
    /// A time such as `5s`.
    Duration,
}

impl Kind {
    /// The word for it in help texts.
    pub fn word(self) -> &'static str {
        match self {
            Self::Bool => "",
            Self::Int => " int",
            Self::Uint => " uint",
            Self::Text => " string",
            Self::List => " strings",
            Self::Duration => " duration",
        }
    }

    fn check(self, value: &str) -> Result<(), String> {
        match self {
            Self::Bool => notation::parse_bool(value).map(drop),
            Self::Int => notation::parse_int(value, 10).map(drop),
            Self::Uint => notation::parse_uint(value, 10).map(drop),
            Self::Duration => notation::parse_duration(value).map(drop),
            Self::Text | Self::List => Ok(()),
        }
    }
}

/// A flag that a command knows.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// Without dashes.
    pub name: &'static str,
    /// One letter, if it has a short form.
    pub short: Option<char>,
    /// What it takes.
    pub kind: Kind,
    /// Its value when it is not given, as text.
    pub default: &'static str,
    /// One line.
    pub help: &'static str,
}

/// A flag without a short form. The default of a switch is `false`, of a number `0`, else empty.
pub const fn flag(name: &'static str, kind: Kind, help: &'static str) -> Flag {
    let default = match kind {
        Kind::Bool => "false",
        Kind::Int | Kind::Uint => "0",
        Kind::Text | Kind::List | Kind::Duration => "",
    };
    Flag { name, short: None, kind, default, help }
}

impl Flag {
    /// The same flag with a default.
    pub const fn or(self, default: &'static str) -> Self {
        Self { default, ..self }
    }

    /// The same flag with a short form.
    pub const fn short(self, short: char) -> Self {
        Self { short: Some(short), ..self }
    }
}

/// Flags with their values, and the words between them.
#[derive(Debug, Clone, Default)]
pub struct Parsed {
    values: BTreeMap<&'static str, (Kind, String)>,
    given: Vec<&'static str>,
    /// Words that are no flags.
    pub words: Vec<Bytes>,
    /// How many words came before `--`, if it was there.
    pub dash: Option<usize>,
    /// `--help` or `-h` was there.
    pub help: bool,
}

impl Parsed {
    /// Reads `args`. The error is one line without a full stop.
    pub fn read(args: &[Bytes], known: &[&Flag]) -> Result<Self, String> {
        let mut parsed = Self::default();
        for flag in known {
            parsed.values.insert(flag.name, (flag.kind, flag.default.to_string()));
        }
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            if arg.as_ref() == b"--" {
                parsed.dash = Some(parsed.words.len());
                parsed.words.extend(args.by_ref().cloned());
            } else if let Some(long) = arg.strip_prefix(b"--") {
                parsed.long(&String::from_utf8_lossy(long), known, &mut args)?;
            } else if arg.len() > 1 && arg[0] == b'-' {
                parsed.shorts(&String::from_utf8_lossy(&arg[1..]), known, &mut args)?;
            } else {
                parsed.words.push(arg.clone());
            }
            if parsed.help {
                break;
            }
        }
        Ok(parsed)
    }

    fn long<'a>(&mut self, text: &str, known: &[&Flag], args: &mut impl Iterator<Item = &'a Bytes>) -> Result<(), String> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_string())),
            None => (text, None),
        };
        if name.is_empty() || name.starts_with('-') || name.starts_with('=') {
            return Err(format!("bad flag syntax: --{text}"));
        }
        let Some(flag) = known.iter().find(|flag| flag.name == name) else {
            if name == "help" {
                self.help = true;
                return Ok(());
            }
            return Err(format!("unknown flag: --{name}"));
        };
        let value = match value {
            Some(value) => value,
            None if flag.kind == Kind::Bool => "true".to_string(),
            None => lossy(args.next().ok_or_else(|| format!("flag needs an argument: --{name}"))?),
        };
        self.give(flag, value)
    }

    fn shorts<'a>(&mut self, text: &str, known: &[&Flag], args: &mut impl Iterator<Item = &'a Bytes>) -> Result<(), String> {
        let mut rest = text;
        while let Some(letter) = rest.chars().next() {
            let after = &rest[letter.len_utf8()..];
            let Some(flag) = known.iter().find(|flag| flag.short == Some(letter)) else {
                if letter == 'h' {
                    self.help = true;
                    return Ok(());
                }
                return Err(format!("unknown shorthand flag: '{letter}' in -{rest}"));
            };
            if let Some(value) = after.strip_prefix('=') {
                return self.give(flag, value.to_string());
            }
            if flag.kind == Kind::Bool {
                self.give(flag, "true".to_string())?;
                rest = after;
                continue;
            }
            let value = match after {
                "" => lossy(args.next().ok_or_else(|| format!("flag needs an argument: '{letter}' in -{rest}"))?),
                after => after.to_string(),
            };
            return self.give(flag, value);
        }
        Ok(())
    }

    fn give(&mut self, flag: &Flag, value: String) -> Result<(), String> {
        let shown = match flag.short {
            Some(short) => format!("-{short}, --{}", flag.name),
            None => format!("--{}", flag.name),
        };
        self.set(flag, value.clone())
            .map_err(|why| format!("invalid argument {} for \"{shown}\" flag: {why}", notation::quote(value.as_bytes())))
    }

    /// Sets a flag as if it had been given. The error says what is wrong with the value.
    pub fn set(&mut self, flag: &Flag, value: String) -> Result<(), String> {
        flag.kind.check(&value)?;
        let again = flag.kind == Kind::List && self.given(flag.name);
        let entry = self.values.entry(flag.name).or_insert((flag.kind, String::new()));
        entry.1 = if again { format!("{},{value}", entry.1) } else { value };
        self.given.push(flag.name);
        Ok(())
    }

    /// Whether the flag was given.
    pub fn given(&self, name: &str) -> bool {
        self.given.contains(&name)
    }

    /// A flag's value as text.
    ///
    /// # Panics
    /// When the command does not know the flag: a mistake in the command table.
    pub fn text(&self, name: &str) -> &str {
        &self.values.get(name).unwrap_or_else(|| panic!("flag {name} is not in the command's table")).1
    }

    /// A switch.
    pub fn bool(&self, name: &str) -> bool {
        notation::parse_bool(self.text(name)).unwrap_or_default()
    }

    /// A signed number.
    pub fn int(&self, name: &str) -> i64 {
        notation::parse_int(self.text(name), 10).unwrap_or_default()
    }

    /// An unsigned number.
    pub fn uint(&self, name: &str) -> u64 {
        notation::parse_uint(self.text(name), 10).unwrap_or_default()
    }

    /// A time.
    pub fn duration(&self, name: &str) -> Duration {
        notation::parse_duration(self.text(name)).unwrap_or_default()
    }

    /// The texts of a list.
    pub fn list(&self, name: &str) -> Vec<String> {
        self.text(name).split(',').map(|item| item.trim().to_string()).filter(|item| !item.is_empty()).collect()
    }
}

fn lossy(word: &Bytes) -> String {
    String::from_utf8_lossy(word).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&Flag] = &[
        &flag("prefix", Kind::Bool, ""),
        &flag("limit", Kind::Int, ""),
        &flag("write-out", Kind::Text, "").or("simple").short('w'),
        &flag("interactive", Kind::Bool, "").short('i'),
        &flag("endpoints", Kind::List, ""),
    ];

    fn read(args: &[&'static str]) -> Result<Parsed, String> {
        let args: Vec<Bytes> = args.iter().map(|arg| Bytes::from_static(arg.as_bytes())).collect();
        Parsed::read(&args, KNOWN)
    }

    /// All forms are understood, mixed with words, and `--` ends them.
    #[test]
    fn forms() {
        let parsed = read(&["a", "--prefix", "b", "--limit=-5", "-wjson", "-i", "--", "--limit", "x"]).unwrap();
        assert!(parsed.bool("prefix") && parsed.bool("interactive") && parsed.given("limit"));
        assert_eq!((parsed.int("limit"), parsed.text("write-out")), (-5, "json"));
        assert_eq!(parsed.words, ["a", "b", "--limit", "x"]);
        assert_eq!(parsed.dash, Some(2));
        assert_eq!(read(&["-w", "table"]).unwrap().text("write-out"), "table");
        assert_eq!(read(&["--endpoints=a, b", "--endpoints", "c"]).unwrap().list("endpoints"), ["a", "b", "c"]);
        assert!(!read(&["--prefix=false"]).unwrap().bool("prefix"));
        assert!(read(&["x", "-h", "--nonsense"]).unwrap().help);
    }

    /// Mistakes are named in the words that users of etcdctl know.
    #[test]
    fn mistakes() {
        for (args, error) in [
            (&["--bogus"][..], "unknown flag: --bogus"),
            (&["-x"], "unknown shorthand flag: 'x' in -x"),
            (&["-w"], "flag needs an argument: 'w' in -w"),
            (&["--limit"], "flag needs an argument: --limit"),
            (&["--limit=x"], r#"invalid argument "x" for "--limit" flag: strconv.ParseInt: parsing "x": invalid syntax"#),
            (&["--prefix=no"], r#"invalid argument "no" for "--prefix" flag: strconv.ParseBool: parsing "no": invalid syntax"#),
        ] {
            assert_eq!(read(args).unwrap_err(), error);
        }
    }
}
