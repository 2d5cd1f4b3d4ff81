//! The raw settings: what was set, where, and as which text; and the reading of the command line and the environment into
//! it. In: argument and variable lists. Out: [`Settings`], whose getters give typed values with the catalogue's defaults.
//! Invariant: a stored text has passed its kind's check.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::error::{ConfigError, Origin, Warning};
use super::table::{self, Flag, Kind};
use super::url::Url;
use super::value::{parse_bool, parse_bytes, parse_int, parse_signed_duration, parse_uint};
use crate::env::failpoint;

#[derive(Debug, Clone)]
struct Setting {
    text: String,
    origin: Origin,
}

/// Raw values by flag name.
#[derive(Debug, Clone, Default)]
pub(super) struct Settings {
    values: BTreeMap<&'static str, Setting>,
}

/// How the command line ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Run,
    Help,
}

impl Settings {
    /// Stores one value after checking that it can be read as the flag's kind. `setting` is how the user wrote the name.
    pub(super) fn set(&mut self, flag: &'static Flag, text: String, origin: Origin, setting: &str) -> Result<(), ConfigError> {
        flag.kind.check(&text).map_err(|reason| ConfigError::BadValue {
            setting: setting.to_owned(),
            value: text.clone(),
            origin,
            reason,
        })?;
        let text = match (flag.kind, self.values.get(flag.name)) {
            // Gates named by earlier occurrences stay set, as in etcd.
            (Kind::Gates, Some(earlier)) => format!("{},{text}", earlier.text),
            // An empty URL list leaves what was there before it.
            (Kind::Urls, Some(earlier)) if text.is_empty() => earlier.text.clone(),
            _ => text,
        };
        self.values.insert(flag.name, Setting { text, origin });
        Ok(())
    }

    /// Reads the command line as Go's flag package does: one or two dashes, `=value` or the next argument, switches alone.
    pub(super) fn read_args(&mut self, args: impl Iterator<Item = OsString>) -> Result<Asked, ConfigError> {
        let mut args = args.map(|arg| {
            arg.into_string().map_err(|arg| ConfigError::BadSyntax {
                arg: arg.to_string_lossy().into_owned(),
                reason: "not valid UTF-8".to_owned(),
            })
        });
        while let Some(arg) = args.next() {
            let arg = arg?;
            if arg == "--" {
                return match args.next() {
                    Some(rest) => Err(stray(rest?)),
                    None => Ok(Asked::Run),
                };
            }
            let body = match arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')) {
                Some(body) if !body.is_empty() => body,
                _ => return Err(stray(arg)),
            };
            if body.starts_with('-') || body.starts_with('=') {
                return Err(ConfigError::BadSyntax { arg, reason: "expected --name or --name=value".to_owned() });
            }
            let (name, value) = match body.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (body, None),
            };
            let Some(flag) = table::find(name).filter(|flag| !flag.file_only) else {
                if name == "h" || name == "help" {
                    return Ok(Asked::Help);
                }
                return Err(unknown(name));
            };
            let value = match value {
                Some(value) => value,
                None if flag.kind.is_switch() => "true".to_owned(),
                None => args.next().ok_or_else(|| ConfigError::MissingValue { flag: name.to_owned() })??,
            };
            self.set(flag, value, Origin::Flag, &format!("--{name}"))?;
        }
        Ok(Asked::Run)
    }

    /// Adds the variables of flags that the command line left unset; says which were unknown or shadowed.
    pub(super) fn read_env(&mut self, env: &BTreeMap<String, OsString>, warnings: &mut Vec<Warning>) -> Result<(), ConfigError> {
        for (key, value) in env {
            if !key.starts_with("ETCD_") && !key.starts_with("QUORATE_") {
                continue;
            }
            // etcd asks for this one to permit an odd processor; no processor is refused here.
            if key == "ETCD_UNSUPPORTED_ARCH" {
                continue;
            }
            // Not settings: the crash tests' own, read before any setting is.
            if key == failpoint::PLACES || key == failpoint::SIZES {
                continue;
            }
            let flag = table::flags().iter().find(|flag| !flag.file_only && flag.env_name() == *key);
            let Some(flag) = flag else {
                let name = key.trim_start_matches("ETCD_").to_ascii_lowercase().replace('_', "-");
                warnings.push(Warning::warn(
                    key.as_str(),
                    match table::removed(&name) {
                        Some(advice) => format!("flag --{name} was removed: {advice}; the variable is ignored"),
                        None => "unrecognized environment variable".to_owned(),
                    },
                ));
                continue;
            };
            if flag.name == "version" {
                warnings.push(Warning::warn(
                    key.as_str(),
                    "the version can be asked for on the command line only; the variable is ignored",
                ));
                continue;
            }
            if value.is_empty() {
                continue;
            }
            if self.origin(flag.name) == Some(Origin::Flag) {
                warnings.push(Warning::warn(key.as_str(), format!("shadowed by --{} on the command line, which wins", flag.name)));
                continue;
            }
            let text = value.clone().into_string().map_err(|raw| ConfigError::BadValue {
                setting: key.clone(),
                value: raw.to_string_lossy().into_owned(),
                origin: Origin::Environment,
                reason: "not valid UTF-8".to_owned(),
            })?;
            self.set(flag, text, Origin::Environment, key)?;
        }
        Ok(())
    }

    /// Names of all settings made so far.
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.values.keys().copied()
    }

    pub(super) fn origin(&self, name: &str) -> Option<Origin> {
        self.values.get(name).map(|setting| setting.origin)
    }

    pub(super) fn is_set(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// Whether a setting was made and means something else than the flag's default. What is read and thrown away never does.
    pub(super) fn differs(&self, name: &str) -> bool {
        match (self.values.get(name), table::find(name)) {
            (Some(_), Some(flag)) => !flag.kind.same(self.text(name), flag.default),
            _ => false,
        }
    }

    /// The text set, or the default.
    pub(super) fn text(&self, name: &str) -> &str {
        let default = || table::find(name).map_or("", |flag| flag.default);
        match self.values.get(name) {
            Some(setting) if setting.text.is_empty() && table::find(name).is_some_and(|flag| flag.kind == Kind::Urls) => default(),
            Some(setting) => &setting.text,
            None => default(),
        }
    }

    fn typed<T>(&self, name: &str, read: impl FnOnce(&str) -> Result<T, String>) -> Result<T, ConfigError> {
        read(self.text(name)).map_err(|reason| ConfigError::refused(name, reason))
    }

    pub(super) fn bool(&self, name: &str) -> Result<bool, ConfigError> {
        self.typed(name, parse_bool)
    }

    pub(super) fn uint(&self, name: &str) -> Result<u64, ConfigError> {
        self.typed(name, |text| parse_uint(text, u64::MAX))
    }

    pub(super) fn int(&self, name: &str) -> Result<i64, ConfigError> {
        self.typed(name, parse_int)
    }

    /// A negative duration counts as zero.
    pub(super) fn duration(&self, name: &str) -> Result<Duration, ConfigError> {
        self.typed(name, parse_signed_duration).map(|(length, below)| if below { Duration::ZERO } else { length })
    }

    /// Whether a duration below zero was set.
    pub(super) fn is_negative(&self, name: &str) -> bool {
        table::find(name).is_some_and(|flag| flag.kind == Kind::Duration)
            && parse_signed_duration(self.text(name)).is_ok_and(|(_, below)| below)
    }

    pub(super) fn bytes(&self, name: &str) -> Result<u64, ConfigError> {
        self.typed(name, parse_bytes)
    }

    /// `None` when empty.
    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        Some(self.text(name)).filter(|text| !text.is_empty()).map(PathBuf::from)
    }

    /// The words between the commas, blanks trimmed and empty ones left out.
    pub(super) fn list(&self, name: &str) -> Vec<String> {
        self.text(name).split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
    }

    pub(super) fn urls(&self, name: &str) -> Result<Vec<Url>, ConfigError> {
        match self.text(name) {
            "" => Ok(Vec::new()),
            _ => self.typed(name, Url::parse_list),
        }
    }
}

fn unknown(name: &str) -> ConfigError {
    if let Some(advice) = table::removed(name) {
        return ConfigError::RemovedFlag { flag: name.to_owned(), advice };
    }
    let hint = table::nearest(name).map(|near| format!(" (did you mean --{near}?)")).unwrap_or_default();
    ConfigError::UnknownFlag { flag: name.to_owned(), hint }
}

fn stray(arg: String) -> ConfigError {
    let reason = match arg.as_str() {
        "gateway" | "grpc-proxy" => "the proxies of the etcd binary are not part of this server",
        _ => "the server takes flags only; a switch is set with --name=true or --name=false",
    };
    ConfigError::StrayArgument { arg, reason: reason.to_owned() }
}
