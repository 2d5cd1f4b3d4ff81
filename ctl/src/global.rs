//! The flags that every command takes, their twins in the environment, and the client that follows from them.
//!
//! Each flag `--some-name` can also be given as `ETCDCTL_SOME_NAME`. Giving both is refused: one of them would be lost.

use std::time::Duration;

use quorate_client::{Config, Credentials, Pem, TlsConfig};

use crate::failure::{self, Done};
use crate::flags::{Flag, Kind, Parsed, flag};
use crate::terminal;

/// What every command takes.
pub const FLAGS: &[Flag] = &[
    flag("endpoints", Kind::List, "members to talk to").or("127.0.0.1:2379"),
    flag("debug", Kind::Bool, "show the settings in use"),
    flag("write-out", Kind::Text, "output format: fields, json, protobuf, simple or table").or("simple").short('w'),
    flag("hex", Kind::Bool, "show bytes and ids in hexadecimal"),
    flag("dial-timeout", Kind::Duration, "time limit for one attempt to connect").or("2s"),
    flag("command-timeout", Kind::Duration, "time limit for short commands, connecting not included").or("5s"),
    flag("keepalive-time", Kind::Duration, "how often to probe a quiet connection").or("2s"),
    flag("keepalive-timeout", Kind::Duration, "how long to wait for the answer to a probe").or("6s"),
    flag("max-request-bytes", Kind::Int, "largest request, bytes (0: 2 MiB)"),
    flag("max-recv-bytes", Kind::Int, "largest answer, bytes (0: 2 GiB)"),
    flag("insecure-transport", Kind::Bool, "talk without TLS where nothing asks for it").or("true"),
    flag("insecure-discovery", Kind::Bool, "accept discovered endpoints without TLS").or("true"),
    flag("insecure-skip-tls-verify", Kind::Bool, "take any server certificate; for tests only"),
    flag("cert", Kind::Text, "own TLS certificate file"),
    flag("key", Kind::Text, "key file to the own certificate"),
    flag("cacert", Kind::Text, "file with the authorities to check servers against"),
    flag("auth-jwt-token", Kind::Text, "token to show instead of signing in"),
    flag("user", Kind::Text, "name[:password] to sign in with; asks for a password that is not given"),
    flag("password", Kind::Text, "password to sign in with; --user then holds the name only"),
    flag("discovery-srv", Kind::Text, "domain whose SRV records name the endpoints").short('d'),
    flag("discovery-srv-name", Kind::Text, "service name in those records"),
];

const PREFIX: &str = "ETCDCTL_";

/// Variables that the watch command reads by itself.
const OTHER_VARIABLES: &[&str] = &["ETCDCTL_WATCH_KEY", "ETCDCTL_WATCH_RANGE_END"];

/// Fills flags from the environment. Unknown variables are named on stderr and passed over.
pub fn read_environment(parsed: &mut Parsed) -> Done {
    for (name, value) in std::env::vars_os() {
        let (Some(name), Some(value)) = (name.to_str(), value.to_str()) else {
            continue;
        };
        if !name.starts_with(PREFIX) || OTHER_VARIABLES.contains(&name) {
            continue;
        }
        let Some(flag) = FLAGS.iter().find(|flag| variable(flag) == name) else {
            eprintln!("unrecognized environment variable {name}={value}");
            continue;
        };
        if parsed.given(flag.name) {
            return Err(failure::error(format!(
                "conflicting environment variable is shadowed by corresponding command-line flag \
                 (either unset environment variable or disable flag): {name}"
            )));
        }
        // A value that does not fit is as good as none, as in etcdctl.
        if !value.is_empty() && parsed.set(flag, value.to_string()).is_err() {
            eprintln!("ignoring environment variable {name}={value}: not a value for --{}", flag.name);
        }
    }
    Ok(())
}

fn variable(flag: &Flag) -> String {
    format!("{PREFIX}{}", flag.name.to_uppercase().replace('-', "_"))
}

/// The endpoints to talk to.
pub fn endpoints(flags: &Parsed) -> Done<Vec<String>> {
    if !flags.text("discovery-srv").is_empty() {
        return Err(failure::bad_feature("finding endpoints by --discovery-srv is not supported; name them with --endpoints"));
    }
    Ok(flags.list("endpoints"))
}

/// The client's settings. May ask for a password.
pub fn config(flags: &Parsed) -> Done<Config> {
    if flags.bool("debug") {
        for flag in FLAGS.iter().filter(|flag| !matches!(flag.name, "password" | "user" | "auth-jwt-token")) {
            eprintln!("{}={}", variable(flag), flags.text(flag.name));
        }
    }
    let mut config = Config::new(endpoints(flags)?);
    config.dial_timeout = flags.duration("dial-timeout");
    config.timeout = Some(flags.duration("command-timeout"));
    config.keep_alive = Some(flags.duration("keepalive-time")).filter(|time| *time > Duration::ZERO);
    config.keep_alive_timeout = flags.duration("keepalive-timeout");
    if let Ok(bytes @ 1..) = usize::try_from(flags.int("max-request-bytes")) {
        config.max_send_bytes = bytes;
    }
    if let Ok(bytes @ 1..) = usize::try_from(flags.int("max-recv-bytes")) {
        config.max_receive_bytes = bytes;
    }
    config.tls = tls(flags.text("cert"), flags.text("key"), flags.text("cacert"), flags)?;
    config.credentials = credentials(flags.text("user"), flags.text("password"), flags.text("auth-jwt-token"), "Password: ")?;
    Ok(config)
}

fn tls(cert: &str, key: &str, cacert: &str, flags: &Parsed) -> Done<Option<TlsConfig>> {
    for name in ["cert", "key", "cacert"] {
        if flags.given(name) && flags.text(name).is_empty() {
            return Err(failure::bad_args(format!("empty string is passed to --{name} option")));
        }
    }
    let skip = flags.bool("insecure-skip-tls-verify");
    let mut settings = tls_files(cert, key, cacert)?;
    if skip || !flags.bool("insecure-transport") {
        settings.get_or_insert_default().insecure_skip_verify = skip;
    }
    Ok(settings)
}

/// TLS settings from file names; `None` when all are empty.
pub fn tls_files(cert: &str, key: &str, cacert: &str) -> Done<Option<TlsConfig>> {
    let identity = match (cert, key) {
        ("", "") => None,
        ("", _) | (_, "") => {
            return Err(failure::bad_args(format!("KeyFile and CertFile must both be present[key: {key}, cert: {cert}]")));
        }
        (cert, key) => Some((Pem::File(cert.into()), Pem::File(key.into()))),
    };
    let authorities = Some(cacert).filter(|file| !file.is_empty()).map(|file| Pem::File(file.into()));
    if identity.is_none() && authorities.is_none() {
        return Ok(None);
    }
    Ok(Some(TlsConfig { authorities, identity, ..TlsConfig::default() }))
}

/// Who to sign in as; asks on the terminal for a password that was not given.
pub fn credentials(user: &str, password: &str, token: &str, prompt: &str) -> Done<Option<Credentials>> {
    if !token.is_empty() {
        return Ok(Some(Credentials::Token(token.to_string())));
    }
    if user.is_empty() {
        return Ok(None);
    }
    let (user, password) = match (password, user.split_once(':')) {
        ("", Some((user, password))) => (user.to_string(), password.to_string()),
        ("", None) => (user.to_string(), terminal::ask_secret(prompt).map_err(failure::error)?),
        (password, _) => (user.to_string(), password.to_string()),
    };
    Ok(Some(Credentials::Password { user, password }))
}
