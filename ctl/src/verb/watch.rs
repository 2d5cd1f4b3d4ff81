//! `watch`: shows changes as they happen, or runs a program for each.
//!
//! One watch survives lost connections. With `-i` watches are read from standard input, one a line, and share one stream.

use std::os::unix::ffi::{OsStrExt, OsStringExt};

use bytes::Bytes;
use quorate_client::proto::etcdserverpb::{WatchCreateRequest, WatchResponse};
use quorate_client::proto::mvccpb::KeyValue;
use quorate_client::{Client, Error, WatchStream, prefix_end};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::txn;
use crate::context::Context;
use crate::failure::{self, Done};
use crate::flags::{Flag, Kind, Parsed, flag};
use crate::notation::quote;
use crate::print::{self, Printer};

/// Flags of the command.
pub const FLAGS: &[Flag] = &[
    flag("interactive", Kind::Bool, "read watches from standard input").short('i'),
    flag("prefix", Kind::Bool, "all keys that start with the key"),
    flag("rev", Kind::Int, "revision to start at"),
    flag("prev-kv", Kind::Bool, "show the pairs that were there before"),
    flag("progress-notify", Kind::Bool, "say from time to time how far the watch has come"),
];

/// What to watch, and the program to run for each change.
struct Wanted {
    request: WatchCreateRequest,
    program: Vec<Bytes>,
}

/// Runs the command.
pub async fn run(mut cx: Context) -> Done {
    let key = variable("ETCDCTL_WATCH_KEY");
    let end = variable("ETCDCTL_WATCH_RANGE_END");
    if key.is_none() && end.is_some() {
        let end = quote(&end.unwrap_or_default());
        return Err(failure::bad_args(format!("ETCDCTL_WATCH_KEY is empty but got ETCDCTL_WATCH_RANGE_END={end}")));
    }
    let environment: Vec<Bytes> = key.into_iter().chain(end).collect();
    if cx.flags.bool("interactive") {
        let (client, printer) = cx.connect_patiently().await?;
        return interactive(&client.require_leader(), printer.as_ref(), &environment).await;
    }
    let wanted = wanted(&cx.flags, &environment).map_err(failure::bad_args)?;
    let (client, printer) = cx.connect_patiently().await?;
    let mut watcher = client.require_leader().watcher(wanted.request);
    loop {
        match watcher.next().await {
            Ok(answer) if answer.created && !answer.canceled => {}
            Ok(answer) => {
                let canceled = answer.canceled;
                show(answer, &wanted.program, printer.as_ref()).await?;
                if canceled {
                    break;
                }
            }
            Err(error) => {
                eprintln!("watch was canceled ({error})");
                break;
            }
        }
    }
    Err(failure::interrupted("watch is canceled by the server"))
}

/// Reads watches line by line and shows what comes, until the input ends.
async fn interactive(client: &Client, printer: &dyn Printer, environment: &[Bytes]) -> Done {
    let mut lines = BufReader::new(tokio::io::stdin()).split(b'\n');
    let mut stream: Option<WatchStream> = None;
    // Programs by watch id: watches are answered in the order in which they were asked for.
    let mut programs: Vec<(i64, Vec<Bytes>)> = Vec::new();
    let mut waiting: std::collections::VecDeque<Vec<Bytes>> = std::collections::VecDeque::new();
    loop {
        let line = tokio::select! {
            line = lines.next_segment() => line?,
            answer = next(&mut stream) => {
                let answer = answer?;
                if answer.created {
                    programs.push((answer.watch_id, waiting.pop_front().unwrap_or_default()));
                }
                if answer.created && !answer.canceled {
                    continue;
                }
                let program = programs.iter().find(|(id, _)| *id == answer.watch_id).map(|(_, program)| program.clone());
                show(answer, &program.unwrap_or_default(), printer).await?;
                continue;
            }
        };
        let Some(line) = line else {
            return Err(failure::invalid_input("error reading watch request line: EOF"));
        };
        let shown = String::from_utf8_lossy(&line).into_owned();
        let words = txn::split(&line)?;
        match words.first().map(|word| word.as_ref()) {
            None => eprintln!("Invalid command: {shown} (watch and progress supported)"),
            Some(b"watch") if words.len() < 2 && environment.is_empty() => {
                eprintln!("Invalid command {shown} (command type or key is not provided)");
            }
            Some(b"watch") => match read_line(&words[1..], environment) {
                Err(error) => return Err(failure::bad_args(error)),
                Ok(wanted) => {
                    waiting.push_back(wanted.program);
                    match &stream {
                        Some(stream) => stream.sender().create(wanted.request).await?,
                        None => stream = Some(client.watch(wanted.request).await?),
                    }
                }
            },
            Some(b"progress") => {
                if let Some(stream) = &stream {
                    stream.sender().progress().await?;
                }
            }
            Some(_) => eprintln!("Invalid command {shown} (only support watch)"),
        }
    }
}

async fn next(stream: &mut Option<WatchStream>) -> Result<WatchResponse, Error> {
    match stream {
        Some(stream) => stream.next().await,
        None => std::future::pending().await,
    }
}

fn read_line(words: &[Bytes], environment: &[Bytes]) -> Result<Wanted, String> {
    let known: Vec<&Flag> = FLAGS.iter().collect();
    wanted(&Parsed::read(words, &known)?, environment)
}

/// Key and end come from the environment or from the words before `--`, never from both; what follows is the program.
fn wanted(flags: &Parsed, environment: &[Bytes]) -> Result<Wanted, String> {
    let (range, program) = flags.words.split_at(flags.dash.unwrap_or(flags.words.len()));
    if flags.dash.is_some() && program.is_empty() {
        return Err("bad number of arguments (found separator --, but no commands)".to_string());
    }
    let range = match (environment, range) {
        ([], range) => range,
        (environment, []) => environment,
        _ => return Err("bad number of arguments (found conflicting environment key)".to_string()),
    };
    let prefix = flags.bool("prefix");
    let (key, range_end) = match range {
        [] => return Err("bad number of arguments".to_string()),
        [_, _] if prefix => return Err("`range_end` and `--prefix` are mutually exclusive".to_string()),
        [key] if prefix && key.is_empty() => (Bytes::from_static(&[0]), Bytes::from_static(&[0])),
        [key] if prefix => (key.clone(), prefix_end(key).into()),
        [key, end] => (key.clone(), end.clone()),
        [key, ..] => (key.clone(), Bytes::new()),
    };
    let request = WatchCreateRequest {
        key,
        range_end,
        start_revision: flags.int("rev"),
        prev_kv: flags.bool("prev-kv"),
        progress_notify: flags.bool("progress-notify"),
        ..WatchCreateRequest::default()
    };
    Ok(Wanted { request, program: program.to_vec() })
}

/// Shows one answer and runs the program for each change in it.
async fn show(mut answer: WatchResponse, program: &[Bytes], printer: &dyn Printer) -> Done {
    if answer.canceled {
        eprintln!("watch was canceled ({})", reason(&answer));
        // Readers see a cancellation at creation as the cancellation that it is.
        answer.created = false;
    }
    let revision = answer.header.map_or(0, |header| header.revision);
    if answer.events.is_empty() && !answer.canceled && revision != 0 {
        print::line(format!("progress notify: {revision}"))?;
    }
    printer.watch(&answer)?;
    if program.is_empty() {
        return Ok(());
    }
    for event in &answer.events {
        let pair = event.kv.as_ref().and_then(|pair| pair.decode().ok()).unwrap_or_default();
        execute(program, revision, event.r#type().as_str_name(), &pair).await?;
    }
    Ok(())
}

fn reason(answer: &WatchResponse) -> String {
    match (answer.compact_revision, answer.cancel_reason.as_str()) {
        (1.., _) => "etcdserver: mvcc: required revision has been compacted".to_string(),
        (_, "") => "etcdserver: mvcc: required revision is a future revision".to_string(),
        (_, reason) if reason.starts_with("etcdserver: ") => reason.to_string(),
        (_, reason) => format!("rpc error: code = FailedPrecondition desc = {reason}"),
    }
}

async fn execute(program: &[Bytes], revision: i64, kind: &str, pair: &KeyValue) -> Done {
    let text = |word: &Bytes| std::ffi::OsStr::from_bytes(word).to_owned();
    let status = Command::new(text(&program[0]))
        .args(program[1..].iter().map(text))
        .env("ETCD_WATCH_REVISION", revision.to_string())
        .env("ETCD_WATCH_EVENT_TYPE", format!("\"{kind}\""))
        .env("ETCD_WATCH_KEY", quote(&pair.key))
        .env("ETCD_WATCH_VALUE", quote(&pair.value))
        .stdin(std::process::Stdio::null())
        .status()
        .await;
    let failed = match status {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => status.code().map_or(status.to_string(), |code| format!("exit status {code}")),
        Err(error) => error.to_string(),
    };
    let words: Vec<String> = program.iter().map(|word| quote(word)).collect();
    eprintln!("command [{}] error ({failed})", words.join(" "));
    Err(failure::silent(1))
}

fn variable(name: &str) -> Option<Bytes> {
    std::env::var_os(name).map(|value| Bytes::from(value.into_vec())).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&'static str], environment: &[&'static str]) -> Result<(Bytes, Bytes, usize), String> {
        let bytes =
            |words: &[&'static str]| -> Vec<Bytes> { words.iter().map(|word| Bytes::from_static(word.as_bytes())).collect() };
        let wanted = read_line(&bytes(words), &bytes(environment))?;
        Ok((wanted.request.key, wanted.request.range_end, wanted.program.len()))
    }

    /// Key and end are found among words and environment, and a program only after the separator.
    #[test]
    fn words() {
        assert_eq!(read(&["a", "b"], &[]), Ok(("a".into(), "b".into(), 0)));
        assert_eq!(read(&["--prefix", "a", "--", "echo", "--x"], &[]), Ok(("a".into(), "b".into(), 2)));
        assert_eq!(read(&["--", "echo"], &["k", "l"]), Ok(("k".into(), "l".into(), 1)));
        assert!(read(&[], &[]).is_err());
        assert!(read(&["a", "--"], &[]).is_err());
        assert!(read(&["a"], &["k"]).is_err());
        assert!(read(&["a", "b", "--prefix"], &[]).is_err());
    }
}
