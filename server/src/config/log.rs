//! The logging flags. In: raw settings. Out: [`LogSettings`]. Files are opened by the telemetry room.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};

use super::error::{ConfigError, Origin};
use super::model::{LogFormat, LogLevel, LogOutput, LogRotation, LogSettings};
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
    // The file says "the default" by an empty list; elsewhere an empty word would name a file without a name.
    if s.origin(FLAG).is_some_and(|origin| origin != Origin::File) && s.text(FLAG).split(',').any(|word| word.trim().is_empty()) {
        return Err(ConfigError::refused(FLAG, "an output is empty; name stderr, stdout, systemd/journal or a file"));
    }
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
    let rotation = if s.bool("enable-log-rotation")? { Some(rotation(s, &outputs)?) } else { None };
    Ok(LogSettings { level, format, outputs, rotation })
}

const MIB: u64 = 1 << 20;
const DEFAULT_MAX_MIB: u64 = 100;
const SECONDS_OF_A_DAY: u64 = 86_400;

/// Reads how to rotate, and sees to it that there is one file to do it to.
fn rotation(s: &Settings, outputs: &[LogOutput]) -> Result<LogRotation, ConfigError> {
    const FLAG: &str = "log-rotation-config-json";
    if outputs.iter().filter(|output| matches!(output, LogOutput::File(_))).count() != 1 {
        let reason = "--log-outputs requires a single file path when the log file is to be rotated";
        return Err(ConfigError::refused("enable-log-rotation", reason));
    }
    let refuse = |reason: String| ConfigError::refused(FLAG, reason);
    let text = s.text(FLAG);
    let map = match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(map)) => map,
        Ok(Value::Null) => Map::new(),
        Ok(_) => return Err(refuse(format!("invalid log rotation config {text:?}: expected a JSON object"))),
        Err(e) => return Err(refuse(format!("improperly formatted log rotation config: {e}"))),
    };
    // Go finds fields whatever their case, and passes over those it does not know.
    let field = |name: &str| map.iter().rev().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
    let number = |name: &str| match field(name) {
        None | Some(Value::Null) => Ok(0),
        Some(value) => value.as_u64().ok_or_else(|| refuse(format!("{name} must be a whole number, 0 or above (set to {value})"))),
    };
    let switch = |name: &str| match field(name) {
        None | Some(Value::Null) => Ok(false),
        Some(value) => value.as_bool().ok_or_else(|| refuse(format!("{name} must be true or false (set to {value})"))),
    };
    let mib = match number("maxsize")? {
        0 => DEFAULT_MAX_MIB,
        mib => mib,
    };
    let days = number("maxage")?;
    let too_large = |name: &str| refuse(format!("{name} is too large"));
    Ok(LogRotation {
        max_bytes: mib.checked_mul(MIB).ok_or_else(|| too_large("maxsize"))?,
        max_age: match days.checked_mul(SECONDS_OF_A_DAY).ok_or_else(|| too_large("maxage"))? {
            0 => None,
            seconds => Some(Duration::from_secs(seconds)),
        },
        max_backups: usize::try_from(number("maxbackups")?).map_err(|_| too_large("maxbackups"))?,
        local_time: switch("localtime")?,
        compress: switch("compress")?,
    })
}
