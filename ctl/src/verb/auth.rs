//! `auth`: enable, disable, status.

use quorate_client::proto::etcdserverpb::{
    AuthDisableRequest, AuthEnableRequest, AuthRoleAddRequest, AuthStatusRequest, AuthUserGrantRoleRequest,
};

use crate::context::Context;
use crate::failure::{self, Done};
use crate::print;

/// `auth enable`. Gives user root the role root first when that is all that is missing.
pub async fn enable(mut cx: Context) -> Done {
    no_words(&cx, "enable")?;
    let (client, _) = cx.connect().await?;
    match client.auth_enable(AuthEnableRequest {}).await {
        Err(error) if error.is_etcd("root user does not have root role") => {
            client.role_add(AuthRoleAddRequest { name: "root".to_string() }).await?;
            client.user_grant_role(AuthUserGrantRoleRequest { user: "root".to_string(), role: "root".to_string() }).await?;
            client.auth_enable(AuthEnableRequest {}).await?;
        }
        answer => drop(answer?),
    }
    print::line("Authentication Enabled")
}

/// `auth disable`.
pub async fn disable(mut cx: Context) -> Done {
    no_words(&cx, "disable")?;
    let (client, _) = cx.connect().await?;
    client.auth_disable(AuthDisableRequest {}).await?;
    print::line("Authentication Disabled")
}

/// `auth status`.
pub async fn status(mut cx: Context) -> Done {
    no_words(&cx, "status")?;
    let (client, printer) = cx.connect().await?;
    printer.auth_status(&client.auth_status(AuthStatusRequest {}).await?)
}

fn no_words(cx: &Context, verb: &str) -> Done {
    match cx.args().is_empty() {
        true => Ok(()),
        false => Err(failure::bad_args(format!("auth {verb} command does not accept any arguments"))),
    }
}
