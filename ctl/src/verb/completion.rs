//! `completion`: a script that teaches a shell our commands and flags, made from the command table.

use std::fmt::Write;

use crate::command::Command;
use crate::context::Context;
use crate::failure::{self, Done};
use crate::table::ROOT;
use crate::{global, print};

/// Runs the command.
pub async fn run(cx: Context) -> Done {
    if cx.args().len() != 1 {
        return Err(failure::error(format!("accepts 1 arg(s), received {}", cx.args().len())));
    }
    match cx.text(0).as_str() {
        "bash" => print::write(bash(cx.program)),
        "zsh" => {
            print::write(format!("#compdef {0}\nautoload -U +X bashcompinit && bashcompinit\n{1}", cx.program, bash(cx.program)))
        }
        "fish" => print::write(fish(cx.program)),
        shell => Err(failure::bad_feature(format!("no completion for the shell {shell:?}: bash, zsh and fish have one"))),
    }
}

/// Each command as its words with spaces between, and what may follow them.
fn rows() -> Vec<(String, Vec<String>)> {
    let mut rows = Vec::new();
    collect(&ROOT, String::new(), &[], &mut rows);
    rows
}

fn collect(command: &Command, path: String, inherited: &[String], rows: &mut Vec<(String, Vec<String>)>) {
    let mut flags = inherited.to_vec();
    flags.extend(command.flags.iter().map(|flag| format!("--{}", flag.name)));
    let next = command.children.iter().map(|child| child.name.to_string()).chain(flags.iter().cloned()).collect();
    rows.push((path.clone(), next));
    for child in command.children {
        let path = if path.is_empty() { child.name.to_string() } else { format!("{path} {}", child.name) };
        collect(child, path, &flags, rows);
    }
}

/// Finds the command by the words so far that are no flags, the longest that is one.
fn bash(program: &str) -> String {
    let mut cases = String::new();
    for (path, next) in rows() {
        writeln!(cases, "    {path:?}) echo {:?} ;;", next.join(" ")).expect("writing to a string");
    }
    format!(
        "_{program}_next() {{
  case \"$1\" in
{cases}    *) return 1 ;;
  esac
}}
_{program}_complete() {{
  local word path='' next
  next=$(_{program}_next '')
  for word in \"${{COMP_WORDS[@]:1:COMP_CWORD-1}}\"; do
    case \"$word\" in -*) continue ;; esac
    if _{program}_next \"${{path:+$path }}$word\" >/dev/null; then
      path=\"${{path:+$path }}$word\"
      next=$(_{program}_next \"$path\")
    fi
  done
  COMPREPLY=($(compgen -W \"$next\" -- \"${{COMP_WORDS[COMP_CWORD]}}\"))
}}
complete -o default -F _{program}_complete {program}
"
    )
}

fn fish(program: &str) -> String {
    let mut out = String::new();
    for flag in global::FLAGS {
        writeln!(out, "complete -c {program} -l {} -d {:?}", flag.name, flag.help).expect("writing to a string");
    }
    for command in ROOT.children {
        writeln!(out, "complete -c {program} -n __fish_use_subcommand -f -a {} -d {:?}", command.name, command.short)
            .expect("writing to a string");
        let seen = format!("__fish_seen_subcommand_from {}", command.name);
        for child in command.children {
            writeln!(out, "complete -c {program} -n {seen:?} -f -a {} -d {:?}", child.name, child.short)
                .expect("writing to a string");
        }
        for flag in command.flags.iter().chain(command.children.iter().flat_map(|child| child.flags)) {
            writeln!(out, "complete -c {program} -n {seen:?} -l {} -d {:?}", flag.name, flag.help).expect("writing to a string");
        }
    }
    out
}
