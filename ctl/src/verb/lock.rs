//! `lock`: holds a lock until interrupted, or for as long as a program runs.

use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;

use bytes::Bytes;
use quorate_client::proto::etcdserverpb::RangeRequest;
use quorate_client::{Client, Mutex, Session, Won};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use crate::context::Context;
use crate::failure::{self, Done};
use crate::flags::{Flag, Kind, flag};
use crate::print::Printer;

/// Flags of the command.
pub const FLAGS: &[Flag] = &[flag("ttl", Kind::Int, "seconds that the lock outlives a holder that went away").or("10")];

/// Runs the command.
pub async fn run(mut cx: Context) -> Done {
    if cx.args().is_empty() {
        return Err(failure::bad_args("lock takes a lock name argument and an optional command to execute"));
    }
    let (client, printer) = cx.connect_patiently().await?;
    let session = Session::open(&client, cx.flags.int("ttl")).await?;
    let mutex = Mutex::new(&session, &cx.args()[0]);
    let won = tokio::select! {
        won = mutex.lock() => won?,
        () = interrupted() => {
            mutex.unlock().await?;
            return Err(failure::error("context canceled"));
        }
    };
    let done = match cx.args().get(1..) {
        Some(program) if !program.is_empty() => {
            let done = execute(program, &won).await;
            let unlocked = mutex.unlock().await;
            done.and(unlocked.map_err(failure::error))
        }
        _ => hold(&client, &session, &mutex, &won, printer.as_ref()).await,
    };
    // The lock is given back; what is left of the lease runs out by itself if this does not reach the server.
    let _ = session.close().await;
    done
}

async fn hold(client: &Client, session: &Session, mutex: &Mutex, won: &Won, printer: &dyn Printer) -> Done {
    let answer = client.range(RangeRequest { key: won.key.clone(), ..RangeRequest::default() }).await?;
    if answer.kvs.is_empty() {
        return Err(failure::error("lock lost on init"));
    }
    printer.get(&answer, false)?;
    tokio::select! {
        () = interrupted() => mutex.unlock().await.map_err(failure::error),
        () = session.lost() => Err(failure::error("session expired")),
    }
}

async fn execute(program: &[Bytes], won: &Won) -> Done {
    let revision = won.header.map_or(0, |header| header.revision);
    let text = |word: &Bytes| std::ffi::OsStr::from_bytes(word).to_owned();
    let status = Command::new(text(&program[0]))
        .args(program[1..].iter().map(text))
        .env("ETCD_LOCK_KEY", text(&won.key))
        .env("ETCD_LOCK_REV", revision.to_string())
        .stdin(Stdio::null())
        .status()
        .await
        .map_err(|error| failure::error(format!("{}: {error}", String::from_utf8_lossy(&program[0]))))?;
    match status.code() {
        Some(0) => Ok(()),
        Some(code) => Err(failure::Failure { code: u8::try_from(code).unwrap_or(1), message: Some(format!("exit status {code}")) }),
        None => Err(failure::error(status)),
    }
}

/// Returns at SIGINT or SIGTERM. Where they cannot be caught they end the process, which gives the lock back later.
pub async fn interrupted() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
