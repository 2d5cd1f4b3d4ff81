//! `alarm`: list and disarm.

use quorate_client::proto::etcdserverpb::{AlarmMember, AlarmRequest, AlarmResponse, alarm_request::AlarmAction};

use crate::context::Context;
use crate::failure::{self, Done};

/// `alarm list`.
pub async fn list(mut cx: Context) -> Done {
    if !cx.args().is_empty() {
        return Err(failure::bad_args("alarm list command accepts no arguments"));
    }
    let (client, printer) = cx.connect().await?;
    printer.alarm(&client.alarm(AlarmRequest::default()).await?)
}

/// `alarm disarm`: clears every alarm there is, one by one, and shows those it cleared.
pub async fn disarm(mut cx: Context) -> Done {
    if !cx.args().is_empty() {
        return Err(failure::bad_args("alarm disarm command accepts no arguments"));
    }
    let (client, printer) = cx.connect().await?;
    let raised = client.alarm(AlarmRequest::default()).await?;
    let mut cleared = AlarmResponse::default();
    for AlarmMember { member_id, alarm } in raised.alarms {
        let action = AlarmAction::Deactivate as i32;
        let answer = client.alarm(AlarmRequest { action, member_id, alarm }).await?;
        cleared.alarms.extend(answer.alarms);
    }
    printer.alarm(&cleared)
}
