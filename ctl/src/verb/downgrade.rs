//! `downgrade`: validate, enable, cancel.

use quorate_client::proto::etcdserverpb::{DowngradeRequest, downgrade_request::DowngradeAction};

use crate::context::Context;
use crate::failure::{self, Done};

/// `downgrade validate`.
pub async fn validate(cx: Context) -> Done {
    let version = version(&cx)?;
    send(cx, DowngradeAction::Validate, version, "validate").await
}

/// `downgrade enable`.
pub async fn enable(cx: Context) -> Done {
    let version = version(&cx)?;
    send(cx, DowngradeAction::Enable, version, "enable").await
}

/// `downgrade cancel`.
pub async fn cancel(cx: Context) -> Done {
    send(cx, DowngradeAction::Cancel, String::new(), "cancel").await
}

async fn send(mut cx: Context, action: DowngradeAction, version: String, step: &str) -> Done {
    let (client, printer) = cx.connect().await?;
    printer.downgrade(&client.downgrade(DowngradeRequest { action: action as i32, version }).await?, step)
}

fn version(cx: &Context) -> Done<String> {
    match cx.args().len() {
        0 => Err(failure::bad_args("TARGET_VERSION not provided")),
        1 if cx.args()[0].is_empty() => Err(failure::bad_args("target version not provided")),
        1 => Ok(cx.text(0)),
        _ => Err(failure::bad_args("too many arguments")),
    }
}
