//! What can go wrong while the configuration is read, as one enum: each variant says what to mend and which exit code the
//! process ends with. In: the flag or variable at fault and its value. Out: one sentence. Nothing here prints or exits.

use std::fmt;

/// Where a setting came from. The exit code and the wording of errors depend on it, as in etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A command-line flag.
    Flag,
    /// An environment variable.
    Environment,
    /// The file named by `--config-file`.
    File,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Origin::Flag => "command line",
            Origin::Environment => "environment",
            Origin::File => "config file",
        })
    }
}

/// Why no configuration could be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A flag that neither etcd 3.7 nor this server has.
    #[error("unknown flag --{flag}{hint}")]
    UnknownFlag { flag: String, hint: String },
    /// A flag that older etcd releases had; `advice` names what to use instead.
    #[error("flag --{flag} was removed: {advice}")]
    RemovedFlag { flag: String, advice: String },
    /// A flag that takes a value came last, without one.
    #[error("flag --{flag} needs a value")]
    MissingValue { flag: String },
    /// An argument that starts with a dash but is not a flag, or is not UTF-8.
    #[error("bad flag syntax in {arg:?}: {reason}")]
    BadSyntax { arg: String, reason: String },
    /// A value that cannot be read as the flag's kind.
    #[error("invalid value {value:?} for {setting} ({origin}): {reason}")]
    BadValue { setting: String, value: String, origin: Origin, reason: String },
    /// An argument without a leading dash: the server takes flags only.
    #[error("{arg:?} is not a valid flag: {reason}")]
    StrayArgument { arg: String, reason: String },
    /// Values that can be read, but that the server must not run with.
    #[error("--{flag}: {reason}")]
    Refused { flag: String, reason: String },
    /// The configuration file cannot be read or is not a YAML map.
    #[error("config file {path:?}: {reason}")]
    File { path: String, reason: String },
}

impl ConfigError {
    /// The process exit code: 2 when the command line itself cannot be read, 1 when its meaning is refused. etcd draws the
    /// line at the same place, and supervisors tell the two apart by it.
    pub fn exit_code(&self) -> u8 {
        match self {
            ConfigError::UnknownFlag { .. }
            | ConfigError::RemovedFlag { .. }
            | ConfigError::MissingValue { .. }
            | ConfigError::BadSyntax { .. } => 2,
            ConfigError::BadValue { origin, .. } => match origin {
                Origin::Flag => 2,
                Origin::Environment | Origin::File => 1,
            },
            ConfigError::StrayArgument { .. } | ConfigError::Refused { .. } | ConfigError::File { .. } => 1,
        }
    }

    pub(super) fn refused(flag: &str, reason: impl Into<String>) -> Self {
        ConfigError::Refused { flag: flag.to_owned(), reason: reason.into() }
    }
}

/// How loudly a warning asks for attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Worth a line in the log; nothing to do.
    Note,
    /// The operator probably wants to change something.
    Warn,
}

/// Something odd that does not stop the server. The caller logs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    pub level: Level,
    /// The flag, environment variable or file key it is about.
    pub setting: String,
    /// One sentence, lower case, no full stop.
    pub message: String,
}

impl Warning {
    pub(super) fn warn(setting: impl Into<String>, message: impl Into<String>) -> Self {
        Warning { level: Level::Warn, setting: setting.into(), message: message.into() }
    }

    pub(super) fn note(setting: impl Into<String>, message: impl Into<String>) -> Self {
        Warning { level: Level::Note, setting: setting.into(), message: message.into() }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.setting, self.message)
    }
}
