//! Help texts, made from the command table.

use std::fmt::Write;

use crate::command::{Command, Found};
use crate::flags::{Flag, Kind};
use crate::global;

/// What `--help` shows.
pub fn page(program: &str, found: &Found) -> String {
    let mut out = format!("{}\n\n", found.command().short);
    out.push_str(&usage(program, found));
    writeln!(out, "Use \"{program} options\" for the flags that every command takes.").expect("writing to a string");
    out
}

/// How to call a command.
pub fn usage(program: &str, found: &Found) -> String {
    let command = found.command();
    let mut line = program.to_string();
    for command in &found.path[1..] {
        write!(line, " {}", command.name).expect("writing to a string");
    }
    let mut out = format!("Usage:\n  {line}");
    if command.children.is_empty() {
        let space = if command.usage.is_empty() { "" } else { " " };
        writeln!(out, "{space}{} [flags]", command.usage).expect("writing to a string");
    } else {
        out.push_str(" [command]\n");
        children(&mut out, command);
    }
    let own: Vec<&Flag> = found.path[1..].iter().flat_map(|command| command.flags).collect();
    out.push_str("\nFlags:\n");
    out.push_str(&flags(&own, true));
    out.push('\n');
    if !command.children.is_empty() {
        writeln!(out, "Use \"{line} [command] --help\" for more about a command.").expect("writing to a string");
    }
    out
}

/// What `options` shows.
pub fn options() -> String {
    let all: Vec<&Flag> = global::FLAGS.iter().collect();
    format!("Flags that every command takes:\n\n{}", flags(&all, false))
}

fn children(out: &mut String, command: &Command) {
    let mut group = None;
    for child in command.children {
        if group != Some(child.group) {
            let heading = if child.group.is_empty() { "Available Commands:" } else { child.group };
            writeln!(out, "\n{heading}").expect("writing to a string");
            group = Some(child.group);
        }
        writeln!(out, "  {:<18} {}", child.name, child.short).expect("writing to a string");
    }
}

fn flags(flags: &[&Flag], with_help: bool) -> String {
    let mut rows: Vec<(String, String)> = flags.iter().map(|flag| row(flag)).collect();
    if with_help {
        rows.push(("  -h, --help".to_string(), "show this".to_string()));
    }
    rows.sort_by(|left, right| left.0[6..].cmp(&right.0[6..]));
    let width = rows.iter().map(|(left, _)| left.len()).max().unwrap_or_default();
    rows.iter().fold(String::new(), |mut out, (left, right)| {
        writeln!(out, "{left:<width$}   {right}").expect("writing to a string");
        out
    })
}

fn row(flag: &Flag) -> (String, String) {
    let short = flag.short.map_or("      ".to_string(), |short| format!("  -{short}, "));
    let default = match (flag.kind, flag.default) {
        (_, "" | "false") | (Kind::Int | Kind::Uint, "0") => String::new(),
        (Kind::Text, default) => format!(" (default \"{default}\")"),
        (Kind::List, default) => format!(" (default [{default}])"),
        (_, default) => format!(" (default {default})"),
    };
    (format!("{short}--{}{}", flag.name, flag.kind.word()), format!("{}{default}", flag.help))
}
