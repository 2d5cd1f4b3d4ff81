//! What a command is, and how the words of a command line find one.
//!
//! A command has either children or something to run. Names may be shortened as long as only one fits.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;

use crate::context::Context;
use crate::failure::Done;
use crate::flags::{Flag, Kind};

/// What a command does.
pub type Run = fn(Context) -> Pin<Box<dyn Future<Output = Done>>>;

/// One node of the command tree.
pub struct Command {
    /// The word that calls it.
    pub name: &'static str,
    /// What follows the name, for the usage line.
    pub usage: &'static str,
    /// One line.
    pub short: &'static str,
    /// Heading it stands under at the top level.
    pub group: &'static str,
    /// Flags of its own; children inherit them.
    pub flags: &'static [Flag],
    /// Commands below it.
    pub children: &'static [Command],
    /// `None` shows help.
    pub run: Option<Run>,
}

/// A command line matched to the tree.
pub struct Found {
    /// From the root to the command.
    pub path: Vec<&'static Command>,
    /// The words that remain: flags and arguments.
    pub rest: Vec<Bytes>,
}

impl Found {
    /// The command itself.
    pub fn command(&self) -> &'static Command {
        self.path[self.path.len() - 1]
    }

    /// All flags it knows, its own first.
    pub fn flags(&self) -> Vec<&'static Flag> {
        self.path.iter().rev().flat_map(|command| command.flags).collect()
    }
}

/// Walks down the tree along the words that are no flags. The error is the word that is no command.
pub fn find(root: &'static Command, args: &[Bytes]) -> Result<Found, String> {
    let mut found = Found { path: vec![root], rest: args.to_vec() };
    loop {
        let command = found.command();
        let Some(at) = first_word(&found.rest, &found.flags()) else {
            return Ok(found);
        };
        let word = String::from_utf8_lossy(&found.rest[at]).into_owned();
        match child(command, &word) {
            Some(child) => {
                found.rest.remove(at);
                found.path.push(child);
            }
            None if found.path.len() == 1 => return Err(word),
            None => return Ok(found),
        }
    }
}

/// The words without a leading `help`, wherever flags leave it, and whether it was there.
pub fn without_help(root: &'static Command, args: &[Bytes]) -> (Vec<Bytes>, bool) {
    let mut args = args.to_vec();
    let known: Vec<&Flag> = root.flags.iter().collect();
    let at = first_word(&args, &known).filter(|at| args[*at].as_ref() == b"help");
    if let Some(at) = at {
        args.remove(at);
    }
    (args, at.is_some())
}

fn child(command: &'static Command, word: &str) -> Option<&'static Command> {
    let exact = command.children.iter().find(|child| child.name == word);
    exact.or_else(|| {
        let mut fitting = command.children.iter().filter(|child| child.name.starts_with(word));
        fitting.next().filter(|_| fitting.next().is_none())
    })
}

/// Where the first word stands that is neither a flag nor the value of one.
fn first_word(args: &[Bytes], known: &[&Flag]) -> Option<usize> {
    let mut at = 0;
    while at < args.len() {
        let arg = &args[at];
        let takes_next = if arg.as_ref() == b"--" {
            return None;
        } else if let Some(long) = arg.strip_prefix(b"--") {
            !long.contains(&b'=')
                && long != b"help"
                && !known.iter().any(|flag| flag.kind == Kind::Bool && flag.name.as_bytes() == long)
        } else if arg.len() == 2 && arg[0] == b'-' {
            let letter = char::from(arg[1]);
            letter != 'h' && !known.iter().any(|flag| flag.kind == Kind::Bool && flag.short == Some(letter))
        } else if arg.len() > 1 && arg[0] == b'-' {
            false
        } else {
            return Some(at);
        };
        at += if takes_next { 2 } else { 1 };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::ROOT;

    /// `help` is found behind flags and their values, and is not mistaken for a value or a key.
    #[test]
    fn help_behind_flags() {
        let words = |text: &str| text.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect::<Vec<_>>();
        for (line, rest, help) in [
            ("help put", "put", true),
            ("--endpoints X help put", "--endpoints X put", true),
            ("--endpoints=X -w json help put", "--endpoints=X -w json put", true),
            ("--debug help member", "--debug member", true),
            ("--endpoints help put", "--endpoints help put", false),
            ("put help x", "put help x", false),
        ] {
            assert_eq!(without_help(&ROOT, &words(line)), (words(rest), help), "{line}");
        }
    }
}
