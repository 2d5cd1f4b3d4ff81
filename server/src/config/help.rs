//! Texts made from the catalogue: help, version, and the flag table of COMPAT.md. In: nothing. Out: strings; printing is
//! the caller's.

use std::fmt::Write as _;

use super::gates::{GATES, Stage};
use super::table::{Effect, Flag, Group, Kind, flags};

/// The etcd release whose API and flags this server offers.
pub const ETCD_VERSION: &str = "3.7.3";
/// The server's own version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The lines of `--version`: etcd's labels first, since scripts read them, then ours.
pub fn version_text() -> String {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    };
    format!(
        "etcd Version: {ETCD_VERSION}\nGit SHA: {}\nRust Version: {}\nRust OS/Arch: {}/{arch}\nQuorate Version: {VERSION}\n",
        option_env!("QUORATE_GIT_SHA").unwrap_or("unknown"),
        env!("CARGO_PKG_RUST_VERSION"),
        std::env::consts::OS,
    )
}

/// The text of `--help`.
pub fn help_text() -> String {
    let mut out = String::from(
        "Usage: quorate [flags]\n\n\
         Starts a server that speaks etcd's v3 API. Each flag may also be given as a variable: ETCD_DATA_DIR for --data-dir,\n\
         QUORATE_ for flags that etcd does not have. The command line wins over the environment. With --config-file all\n\
         settings come from that file. Durations are written 100ms, 5m or 1h30m.\n\n\
         Commands on data that no server uses (each says its flags when it is given none):\n\
         \x20 quorate snapshot status|restore    what a saved snapshot holds; a member out of it\n\
         \x20 quorate recover                    a cluster whose quorum is lost for good goes on from its best disk\n",
    );
    for group in Group::ALL {
        if group == Group::Legacy {
            continue;
        }
        let _ = write!(out, "\n{}:\n", group.title());
        for flag in shown(group) {
            let value = if flag.kind == Kind::Bool { String::new() } else { format!(" {}", flag.kind.label()) };
            let default = if flag.default.is_empty() { String::new() } else { format!(" (default {})", flag.default) };
            let _ = writeln!(out, "  --{}{value}{default}\n      {}", flag.name, flag.text);
            match flag.effect {
                Effect::Honoured => {}
                Effect::None(why) => {
                    let _ = writeln!(out, "      Accepted without effect: {why}");
                }
                Effect::Refused(why) => {
                    let _ = writeln!(out, "      Not offered: {why}");
                }
            }
        }
    }
    out.push_str("\nGates of --feature-gates (AllAlpha and AllBeta set a whole stage):\n");
    for gate in &GATES {
        let stage = if gate.stage == Stage::Alpha { "alpha" } else { "beta" };
        let why = gate.no_effect.map(|why| format!("; no effect: {why}")).unwrap_or_default();
        let _ = writeln!(out, "  {}=true|false ({stage}, default {}){why}", gate.name, gate.default);
    }
    out
}

/// The flags as a Markdown table, one row each, in the order of the help text.
pub fn flags_markdown() -> String {
    let mut out = String::from("| Group | Flag | Value | Default | Effect |\n|---|---|---|---|---|\n");
    for group in Group::ALL {
        for flag in flags().iter().filter(|flag| flag.group == group) {
            let effect = match flag.effect {
                Effect::Honoured => "honoured".to_owned(),
                Effect::None(why) => format!("accepted without effect: {why}"),
                Effect::Refused(why) => format!("refused: {why}"),
            };
            let name = if flag.file_only { format!("`{}` (file only)", flag.name) } else { format!("`--{}`", flag.name) };
            let default = if flag.default.is_empty() { String::new() } else { format!("`{}`", flag.default) };
            let label = flag.kind.label().replace('|', "\\|");
            let _ = writeln!(out, "| {} | {name} | {label} | {default} | {effect} |", group.title());
        }
    }
    out
}

fn shown(group: Group) -> impl Iterator<Item = &'static Flag> {
    flags().iter().filter(move |flag| flag.group == group && !flag.file_only)
}
