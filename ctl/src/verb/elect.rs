//! `elect`: takes part in an election, or watches one.

use quorate_client::proto::etcdserverpb::RangeRequest;
use quorate_client::{Client, Election, Session};

use super::lock::interrupted;
use crate::context::Context;
use crate::failure::{self, Done};
use crate::flags::{Flag, Kind, flag};
use crate::print::Printer;

/// Flags of the command.
pub const FLAGS: &[Flag] = &[flag("listen", Kind::Bool, "watch only").short('l')];

/// Seconds that leadership outlives a leader that went away.
const TTL: i64 = 60;

/// Runs the command.
pub async fn run(mut cx: Context) -> Done {
    let listen = cx.flags.bool("listen");
    match (cx.args().len(), listen) {
        (1, true) | (2, false) => {}
        (1, false) => return Err(failure::bad_args("no proposal argument but -l not set")),
        (2, true) => return Err(failure::bad_args("proposal given but -l is set")),
        _ => return Err(failure::bad_args("elect takes one election name argument and an optional proposal argument")),
    }
    let (client, printer) = cx.connect_patiently().await?;
    match listen {
        true => observe(&cx, &client, printer.as_ref()).await,
        false => campaign(&cx, &client, printer.as_ref()).await,
    }
}

async fn observe(cx: &Context, client: &Client, printer: &dyn Printer) -> Done {
    // What went wrong while showing an answer; the observer itself only knows errors of the server.
    let mut failed = None;
    let observing = Election::observe(client, &cx.args()[0], |answer| {
        printer.get(answer, false).map_err(|failure| {
            failed = Some(failure);
            quorate_client::Error::Closed
        })
    });
    let ended = tokio::select! {
        ended = observing => ended,
        () = interrupted() => return Ok(()),
    };
    match (failed, ended) {
        (Some(failure), _) => Err(failure),
        (None, Err(error)) => Err(failure::error(format!("elect: observer lost: {error}"))),
        (None, Ok(())) => Err(failure::error("elect: observer lost")),
    }
}

async fn campaign(cx: &Context, client: &Client, printer: &dyn Printer) -> Done {
    let session = Session::open(client, TTL).await?;
    let election = Election::new(&session, &cx.args()[0]);
    let won = tokio::select! {
        won = election.campaign(cx.args()[1].clone()) => won?,
        () = interrupted() => {
            election.resign().await?;
            return Err(failure::error("context canceled"));
        }
    };
    let answer = client.range(RangeRequest { key: won.key, ..RangeRequest::default() }).await?;
    printer.get(&answer, false)?;
    tokio::select! {
        () = interrupted() => election.resign().await.map_err(failure::error),
        () = session.lost() => Err(failure::error("elect: session expired")),
    }
}
