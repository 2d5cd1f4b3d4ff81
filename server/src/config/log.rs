//! The logging flags. In: raw settings. Out: [`LogSettings`]. Files are opened by the telemetry room.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::error::ConfigError;
use super::model::{LogFormat, LogLevel, LogOutput, LogSettings};
use super::settings::Settings;

pub(super) fn settings(s: &Settings) -> Result<LogSettings, ConfigError> {
    match s.text("logger") {
        "zap" => {}
        "capnslog" => return Err(ConfigError::refused("logger", "capnslog was removed in etcd 3.5; use zap")),
        other => return Err(ConfigError::refused("logger", format!("unknown logger option {other:?}"))),
    }
    let level = match s.text("log-level").to_ascii_lowercase().as_str() {
        "debug" => LogLevel::Debug,
        "info" | "" => LogLevel::Info,
        "warn" => LogLevel::Warn,
        "error" => LogLevel::Error,
        "panic" | "dpanic" => LogLevel::Panic,
        "fatal" => LogLevel::Fatal,
        other => {
            return Err(ConfigError::refused(
                "log-level",
                format!("unrecognized level {other:?} (debug, info, warn, error, panic, fatal)"),
            ));
        }
    };
    let format = match s.text("log-format") {
        "json" | "" => LogFormat::Json,
        "console" => LogFormat::Console,
        other => {
            return Err(ConfigError::refused(
                "log-format",
                format!("unknown log format {other:?}, supported values json, console"),
            ));
        }
    };
    const FLAG: &str = "log-outputs";
    let words: BTreeSet<String> = s.list(FLAG).into_iter().collect();
    if words.len() > 1 && words.iter().any(|word| word == "default" || word == "systemd/journal") {
        return Err(ConfigError::refused(FLAG, "default and systemd/journal cannot be combined with other outputs"));
    }
    let mut outputs: Vec<LogOutput> = words
        .into_iter()
        .map(|word| match word.as_str() {
            "default" | "stderr" => LogOutput::Stderr,
            "stdout" => LogOutput::Stdout,
            "systemd/journal" => LogOutput::Journal,
            _ => LogOutput::File(PathBuf::from(word)),
        })
        .collect();
    if outputs.is_empty() {
        outputs.push(LogOutput::Stderr);
    }
    Ok(LogSettings { level, format, outputs })
}
