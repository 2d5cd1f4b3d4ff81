//! The command line client: etcdctl's commands, flags, output and exit codes, for Quorate and for etcd alike.
//!
//! Called as `etcdctl` it also gives etcdctl's name and version, so that scripts and test suites take it for the original.
//!
//! Invariant: what goes to stdout is the answer, all else goes to stderr.

mod command;
mod context;
mod failure;
mod flags;
mod global;
mod help;
mod notation;
mod print;
mod range;
mod table;
mod terminal;
mod verb;

use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::ExitCode;

use bytes::Bytes;

use crate::command::{Found, find};
use crate::context::Context;
use crate::failure::{Done, Failure};
use crate::flags::Parsed;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let called = args.next().unwrap_or_default();
    let program = match Path::new(&called).file_name().and_then(|name| name.to_str()) {
        Some("etcdctl") => "etcdctl",
        _ => "quoratectl",
    };
    let args: Vec<Bytes> = args.map(|arg| Bytes::from(arg.into_vec())).collect();
    let done = run(program, &args);
    let flushed = std::io::stdout().flush();
    match done {
        Ok(()) if flushed.is_ok() => ExitCode::SUCCESS,
        Ok(()) => ExitCode::from(6),
        Err(Failure { code, message }) => {
            if let Some(message) = message {
                eprintln!("Error: {message}");
            }
            ExitCode::from(code)
        }
    }
}

fn run(program: &'static str, args: &[Bytes]) -> Done {
    let (args, asks_help) = command::without_help(&table::ROOT, args);
    let found = find(&table::ROOT, &args).map_err(|word| {
        failure::error(format!(
            "unknown command {} for \"{program}\"\nRun '{program} --help' for usage.",
            notation::quote(word.as_bytes())
        ))
    })?;
    let parsed = Parsed::read(&found.rest, &found.flags()).map_err(|why| misused(program, &found, &why))?;
    match found.command().run {
        Some(run) if !parsed.help && !asks_help => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(run(Context { flags: parsed, program }))
        }
        _ => {
            print!("{}", help::page(program, &found));
            Ok(())
        }
    }
}

/// Reports a flag that is not understood, together with how to call the command.
fn misused(program: &str, found: &Found, why: &str) -> Failure {
    eprintln!("Error: {why}\n{}", help::usage(program, found));
    failure::silent(1)
}
