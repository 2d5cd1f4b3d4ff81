//! The configuration file: etcd's YAML keys into raw settings. In: the file's text. Out: settings with origin `File`.
//! A key is a flag's name, or one of the sections etcd groups TLS, socket and discovery settings under. Keys that etcd does
//! not know it drops in silence; here each gives a warning. Durations may be integers (nanoseconds, as etcd wants them) or
//! Go durations. Booleans may be YAML 1.1's words, whole numbers may have an exponent, a byte order mark is passed over, and
//! only the first document is read. A key that comes twice is refused.

use serde::Deserialize;
use serde_yaml_ng::{Deserializer, Mapping, Number, Value};

use super::error::{ConfigError, Origin, Warning};
use super::settings::Settings;
use super::table::{self, Kind};

/// Section keys of etcd and the flags they set; the key inside a section stands left.
const CLIENT_TLS: &[(&str, &str)] = &[
    ("cert-file", "cert-file"),
    ("key-file", "key-file"),
    ("client-cert-file", "client-cert-file"),
    ("client-key-file", "client-key-file"),
    ("client-cert-auth", "client-cert-auth"),
    ("trusted-ca-file", "trusted-ca-file"),
    ("auto-tls", "auto-tls"),
    ("allowed-cn", "client-cert-allowed-cn"),
    ("allowed-hostname", "client-cert-allowed-hostname"),
    ("skip-client-san-verification", "client-skip-client-san-verification"),
    ("crl-file", "client-crl-file"),
];
const PEER_TLS: &[(&str, &str)] = &[
    ("cert-file", "peer-cert-file"),
    ("key-file", "peer-key-file"),
    ("client-cert-file", "peer-client-cert-file"),
    ("client-key-file", "peer-client-key-file"),
    ("client-cert-auth", "peer-client-cert-auth"),
    ("trusted-ca-file", "peer-trusted-ca-file"),
    ("auto-tls", "peer-auto-tls"),
    ("allowed-cn", "peer-cert-allowed-cn"),
    ("allowed-hostname", "peer-cert-allowed-hostname"),
    ("skip-client-san-verification", "peer-skip-client-san-verification"),
    ("crl-file", "peer-crl-file"),
];
const SOCKET: &[(&str, &str)] = &[("reuse-port", "socket-reuse-port"), ("reuse-address", "socket-reuse-address")];

/// Reads the file's text.
///
/// # Errors
/// When it is no YAML map, a value has the wrong shape, or a discovery service is configured.
pub(super) fn read(path: &str, text: &str, warnings: &mut Vec<Warning>) -> Result<Settings, ConfigError> {
    let fail = |reason: String| ConfigError::File { path: path.to_owned(), reason };
    let mut settings = Settings::default();
    // Editors of other systems put a mark before the first byte; and of several documents the first counts, as in etcd.
    let first = Deserializer::from_str(text.strip_prefix('\u{feff}').unwrap_or(text)).next();
    let value = first.map_or(Ok(Value::Null), Value::deserialize);
    let map = match value.map_err(|e| fail(format!("not valid YAML: {e}")))? {
        Value::Mapping(map) => map,
        Value::Null => return Ok(settings),
        _ => return Err(fail("expected a map of settings".to_owned())),
    };
    for (key, value) in &map {
        let key = key_text(key).ok_or_else(|| fail("expected setting names as keys".to_owned()))?;
        let section = match key.as_str() {
            "client-transport-security" => Some(CLIENT_TLS),
            "peer-transport-security" => Some(PEER_TLS),
            "socket-options" => Some(SOCKET),
            _ => None,
        };
        if value.is_null() {
            continue;
        }
        if let Some(section) = section {
            let Value::Mapping(inner) = value else {
                return Err(fail(format!("{key} must be a map")));
            };
            for (inner_key, value) in inner {
                let inner_key = key_text(inner_key).ok_or_else(|| fail(format!("expected setting names as keys of {key}")))?;
                let label = format!("{key}.{inner_key}");
                match section.iter().find(|(name, _)| *name == inner_key) {
                    Some((_, flag)) => put(&mut settings, &label, flag, value, warnings)?,
                    None => warnings.push(unknown_key(&label)),
                }
            }
        } else if key == "discovery-config" {
            discovery(value, warnings)?;
        } else {
            put(&mut settings, &key, &key, value, warnings)?;
        }
    }
    Ok(settings)
}

fn key_text(key: &Value) -> Option<String> {
    key.as_str().map(str::to_ascii_lowercase)
}

fn unknown_key(label: &str) -> Warning {
    Warning::warn(label, "unknown key in the config file, ignored")
}

fn put(settings: &mut Settings, label: &str, name: &str, value: &Value, warnings: &mut Vec<Warning>) -> Result<(), ConfigError> {
    if value.is_null() {
        return Ok(());
    }
    let Some(flag) = table::find(name).filter(|flag| flag.kind != Kind::Ignored && !matches!(flag.name, "config-file" | "version"))
    else {
        warnings.push(match table::removed(name) {
            Some(advice) => Warning::warn(label, format!("this setting was removed: {advice}; ignored")),
            None => unknown_key(label),
        });
        return Ok(());
    };
    // etcd overlooks this one in its file, whatever it says.
    if flag.name == "v2-deprecation" {
        warnings.push(Warning::note(label, "has no effect: there is no v2 store to deprecate"));
        return Ok(());
    }
    let text = text_of(value, flag.kind).ok_or_else(|| ConfigError::BadValue {
        setting: label.to_owned(),
        value: serde_yaml_ng::to_string(value).unwrap_or_default().trim_end().to_owned(),
        origin: Origin::File,
        reason: format!("expected {}", flag.kind.label()),
    })?;
    settings.set(flag, text, Origin::File, label)
}

/// The value as it would stand on the command line; `None` when its shape does not fit the kind.
fn text_of(value: &Value, kind: Kind) -> Option<String> {
    match (value, kind) {
        (Value::String(text), Kind::Bool) => Some(old_bool(text).to_owned()),
        (Value::String(text), _) => Some(text.clone()),
        (Value::Bool(on), _) => Some(on.to_string()),
        (Value::Number(n), Kind::Duration) => whole(n).map(|nanos| format!("{nanos}ns")),
        (Value::Number(n), _) => Some(whole(n).unwrap_or_else(|| n.to_string())),
        (Value::Sequence(items), Kind::List | Kind::Urls | Kind::Origins | Kind::Choices(_)) => {
            let words: Option<Vec<String>> = items.iter().map(|item| text_of(item, Kind::Text)).collect();
            words.map(|words| words.join(","))
        }
        _ => None,
    }
}

/// The words that YAML 1.1, and so etcd, takes for true and false besides these two.
fn old_bool(text: &str) -> &str {
    match text {
        "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "y" | "Y" => "true",
        "no" | "No" | "NO" | "off" | "Off" | "OFF" | "n" | "N" => "false",
        other => other,
    }
}

/// A whole number without a point or an exponent, however it was written: `1e9` is one.
fn whole(n: &Number) -> Option<String> {
    match n.as_f64() {
        _ if n.is_i64() || n.is_u64() => Some(n.to_string()),
        // Above this Go writes an exponent, which its integers do not take.
        Some(float) if float.fract() == 0.0 && float.abs() < 1e21 => Some(format!("{float:.0}")),
        _ => None,
    }
}

/// etcd's v3 discovery section: refused when it names a service, since a member would otherwise form a cluster alone.
fn discovery(value: &Value, warnings: &mut Vec<Warning>) -> Result<(), ConfigError> {
    let filled = |map: &Mapping, key: &str| match map.get(key) {
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Sequence(items)) => !items.is_empty(),
        _ => false,
    };
    if let Value::Mapping(map) = value {
        let client = map.get("client").and_then(Value::as_mapping);
        if filled(map, "token") || client.is_some_and(|client| filled(client, "endpoints")) {
            return Err(ConfigError::refused(
                "discovery-endpoints",
                "bootstrap by discovery is not offered; list the members with --initial-cluster",
            ));
        }
    }
    warnings.push(Warning::note("discovery-config", "has no effect: there is no discovery client"));
    Ok(())
}
