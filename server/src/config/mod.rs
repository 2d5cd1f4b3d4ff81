//! The room that turns what the operator wrote into one checked [`Config`]. In: arguments, environment, and a way to read
//! the configuration file. Out: a configuration with warnings, a wish for help or version, or an error with an exit code.
//! It opens no file, prints nothing and never ends the process.
//!
//! ```text
//!   args, env ─► settings ─┐                      ┌─► Config ─► first_start (ids, when there is no data yet)
//!                          ├─► check (all rules) ─┤
//!   file ─────► yaml ──────┘                      └─► warnings
//!                    table + rows: one line a flag drives all of them, and the help
//! ```
//!
//! The flags are etcd 3.7's. Those whose subject does not exist here are accepted with a note; those whose meaning must
//! not be lost (bootstrap by discovery, flags of older releases) are refused with what to use instead.

mod auth;
mod check;
pub mod cluster;
mod error;
mod gates;
mod help;
pub mod identity;
mod log;
mod model;
mod rows;
mod settings;
mod table;
mod tls;
mod url;
mod value;
mod yaml;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::path::Path;

pub use cluster::{Bootstrap, BootstrapMember, FirstStart, InitialCluster, form};
pub use error::{ConfigError, Level, Origin, Warning};
pub use gates::{FeatureGates, GATES, Gate, Stage};
pub use help::{ETCD_VERSION, VERSION, flags_markdown, help_text, version_text};
pub use identity::member_id;
pub use model::{
    AllowList, AuthToken, AutoCompaction, ClusterState, Config, JwtMethod, Keepalive, LogFormat, LogLevel, LogOutput, LogRotation,
    LogSettings,
};
pub use table::{Effect, Flag, Group, Kind, flags};
pub use tls::{CertPair, CipherSuite, SUITES, TlsBounds, TlsSettings, TlsVersion};
pub use url::{Bind, ListenUrl, Scheme, Url};
pub(crate) use value::{parse_bool, parse_uint};

use settings::{Asked, Settings};

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// Run with this configuration; the warnings are for the log.
    Run(Box<Config>, Vec<Warning>),
    /// Print [`version_text`] and exit with 0.
    ShowVersion,
    /// Print [`help_text`] and exit with 0.
    ShowHelp,
}

impl Config {
    /// Reads the command line (without the program's name), the environment, and through `read_file` the file that
    /// `--config-file` names. Text that is not UTF-8 is refused where it matters and ignored elsewhere. `find_host` says by which address other
    /// machines reach this one; it is asked when a listener has all addresses and nothing says which of them to advertise.
    ///
    /// # Errors
    /// The first thing that is wrong; [`ConfigError::exit_code`] tells how to end.
    pub fn from_env_and_args(
        args: impl Iterator<Item = OsString>,
        env: impl Iterator<Item = (OsString, OsString)>,
        read_file: impl FnOnce(&Path) -> io::Result<String>,
        find_host: fn() -> Option<IpAddr>,
    ) -> Result<Parsed, ConfigError> {
        // Sorted by name, so that warnings come in the same order on every start.
        let env: BTreeMap<String, OsString> = env.filter_map(|(key, value)| Some((key.into_string().ok()?, value))).collect();
        let mut warnings = Vec::new();
        let mut settings = Settings::default();
        if settings.read_args(args)? == Asked::Help {
            return Ok(Parsed::ShowHelp);
        }
        if settings.bool("version")? {
            return Ok(Parsed::ShowVersion);
        }
        let from_env = || env.get("ETCD_CONFIG_FILE").map(|path| path.to_string_lossy().into_owned());
        let path = settings.path("config-file").map(|path| path.to_string_lossy().into_owned()).or_else(from_env);
        match path.filter(|path| !path.is_empty()) {
            Some(path) => {
                warn_ignored(&settings, &env, &path, &mut warnings);
                let text = read_file(Path::new(&path))
                    .map_err(|e| ConfigError::File { path: path.clone(), reason: format!("cannot be read: {e}") })?;
                settings = yaml::read(&path, &text, &mut warnings)?;
            }
            None => settings.read_env(&env, &mut warnings)?,
        }
        let config = check::config(&settings, find_host, &mut warnings)?;
        Ok(Parsed::Run(Box::new(config), warnings))
    }
}

/// With a file, all other sources are ignored, as in etcd; whoever set something there should hear of it.
fn warn_ignored(settings: &Settings, env: &BTreeMap<String, OsString>, path: &str, warnings: &mut Vec<Warning>) {
    let flags_set = settings.names().filter(|name| *name != "config-file").map(|name| format!("--{name}"));
    let variables = flags()
        .iter()
        .map(Flag::env_name)
        .filter(|name| name != "ETCD_CONFIG_FILE" && env.get(name).is_some_and(|v| !v.is_empty()));
    for setting in flags_set.chain(variables) {
        warnings.push(Warning::warn(setting, format!("ignored, since all settings come from the config file {path:?}")));
    }
}
