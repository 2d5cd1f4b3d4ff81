//! `lease`: grant, revoke, timetolive, list, keep-alive.

use quorate_client::Error;
use quorate_client::proto::etcdserverpb::{LeaseGrantRequest, LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest};

use crate::context::Context;
use crate::failure::{self, Done};
use crate::flags::{Flag, Kind, flag};
use crate::{notation, print};

/// Flags of `timetolive`.
pub const TIME_TO_LIVE_FLAGS: &[Flag] = &[flag("keys", Kind::Bool, "show the keys that hang on the lease")];
/// Flags of `keep-alive`.
pub const KEEP_ALIVE_FLAGS: &[Flag] = &[flag("once", Kind::Bool, "renew once, then end")];

/// `lease grant`.
pub async fn grant(mut cx: Context) -> Done {
    if cx.args().len() != 1 {
        return Err(failure::bad_args("lease grant command needs TTL argument"));
    }
    let ttl = notation::parse_int(&cx.text(0), 10).map_err(|error| failure::bad_args(format!("bad TTL ({error})")))?;
    let (client, printer) = cx.connect().await?;
    let answer = client.lease_grant(LeaseGrantRequest { ttl, id: 0 }).await;
    printer.grant(&answer.map_err(|error| failure::error(format!("failed to grant lease ({error})")))?)
}

/// `lease revoke`.
pub async fn revoke(mut cx: Context) -> Done {
    let id = id(&cx, "lease revoke command needs 1 argument")?;
    let (client, printer) = cx.connect().await?;
    let answer = client.lease_revoke(LeaseRevokeRequest { id }).await;
    printer.revoke(&answer.map_err(|error| failure::error(format!("failed to revoke lease ({error})")))?, id)
}

/// `lease timetolive`.
pub async fn time_to_live(mut cx: Context) -> Done {
    let id = id(&cx, "lease timetolive command needs lease ID as argument")?;
    let keys = cx.flags.bool("keys");
    let (client, printer) = cx.connect_patiently().await?;
    let answer = client.lease_time_to_live(LeaseTimeToLiveRequest { id, keys }).await;
    printer.time_to_live(&answer.map_err(failure::bad_connection)?, keys)
}

/// `lease list`.
pub async fn list(mut cx: Context) -> Done {
    let (client, printer) = cx.connect_patiently().await?;
    printer.leases(&client.lease_leases(LeaseLeasesRequest {}).await.map_err(failure::bad_connection)?)
}

/// `lease keep-alive`.
pub async fn keep_alive(mut cx: Context) -> Done {
    let id = id(&cx, "lease keep-alive command needs lease ID as argument")?;
    let once = cx.flags.bool("once");
    let (client, printer) = cx.connect_patiently().await?;
    if once {
        return printer.keep_alive(&client.keep_alive_once(id).await.map_err(failure::bad_connection)?);
    }
    let mut renewals = client.keep_alive(id);
    loop {
        match renewals.next().await {
            Ok(answer) => printer.keep_alive(&answer)?,
            Err(Error::LeaseLost) => break,
            Err(error) => return Err(failure::bad_connection(error)),
        }
    }
    match printer.is_simple() {
        true => print::line(format!("lease {id:016x} expired or revoked.")),
        false => Ok(()),
    }
}

fn id(cx: &Context, missing: &str) -> Done<i64> {
    if cx.args().len() != 1 {
        return Err(failure::bad_args(missing));
    }
    notation::parse_int(&cx.text(0), 16)
        .map_err(|error| failure::bad_args(format!("bad lease ID arg ({error}), expecting ID in Hex")))
}
