//! `user`: add, delete, get, list, passwd, grant-role, revoke-role.

use quorate_client::proto::authpb::UserAddOptions;
use quorate_client::proto::etcdserverpb::{
    AuthRoleGetRequest, AuthUserAddRequest, AuthUserChangePasswordRequest, AuthUserDeleteRequest, AuthUserGetRequest,
    AuthUserGrantRoleRequest, AuthUserListRequest, AuthUserRevokeRoleRequest,
};

use crate::context::Context;
use crate::failure::{self, Done};
use crate::flags::{Flag, Kind, flag};
use crate::{print, terminal};

/// Flags of `add`.
pub const ADD_FLAGS: &[Flag] = &[
    flag("interactive", Kind::Bool, "ask for the password on the terminal, not on standard input").or("true"),
    flag("new-user-password", Kind::Text, "the password"),
    flag("no-password", Kind::Bool, "a user who signs in by certificate only"),
];
/// Flags of `get`.
pub const GET_FLAGS: &[Flag] = &[flag("detail", Kind::Bool, "show what the user's roles may do")];
/// Flags of `passwd`.
pub const PASSWD_FLAGS: &[Flag] = &[flag("interactive", Kind::Bool, "ask on the terminal, not on standard input").or("true")];

/// `user add`.
pub async fn add(mut cx: Context) -> Done {
    one_word(&cx, "user add command requires user name as its argument")?;
    let word = cx.text(0);
    let no_password = cx.flags.bool("no-password");
    let given = cx.flags.text("new-user-password");
    let (name, password) = match word.split_once(':') {
        _ if no_password => (word, String::new()),
        _ if !given.is_empty() => (word, given.to_string()),
        Some(("", _)) => return Err(failure::bad_args("empty user name is not allowed")),
        Some((name, password)) => (name.to_string(), password.to_string()),
        None => {
            let password = new_password(&cx, &word)?;
            (word, password)
        }
    };
    let (client, printer) = cx.connect_patiently().await?;
    let options = Some(UserAddOptions { no_password });
    let request = AuthUserAddRequest { name: name.clone(), password, options, hashed_password: String::new() };
    printer.user_add(&client.user_add(request).await?, &name)
}

/// `user delete`.
pub async fn delete(mut cx: Context) -> Done {
    one_word(&cx, "user delete command requires user name as its argument")?;
    let name = cx.text(0);
    let (client, printer) = cx.connect_patiently().await?;
    printer.user_delete(&client.user_delete(AuthUserDeleteRequest { name: name.clone() }).await?, &name)
}

/// `user get`.
pub async fn get(mut cx: Context) -> Done {
    one_word(&cx, "user get command requires user name as its argument")?;
    let name = cx.text(0);
    let (client, printer) = cx.connect_patiently().await?;
    let answer = client.user_get(AuthUserGetRequest { name: name.clone() }).await?;
    if !cx.flags.bool("detail") {
        return printer.user_get(&answer, &name);
    }
    print::line(format!("User: {name}"))?;
    for role in &answer.roles {
        print::line("")?;
        printer.role_get(&client.role_get(AuthRoleGetRequest { role: role.clone() }).await?, role)?;
    }
    Ok(())
}

/// `user list`.
pub async fn list(mut cx: Context) -> Done {
    if !cx.args().is_empty() {
        return Err(failure::bad_args("user list command requires no arguments"));
    }
    let (client, printer) = cx.connect_patiently().await?;
    printer.user_list(&client.user_list(AuthUserListRequest {}).await?)
}

/// `user passwd`.
pub async fn passwd(mut cx: Context) -> Done {
    one_word(&cx, "user passwd command requires user name as its argument")?;
    let name = cx.text(0);
    let password = new_password(&cx, &name)?;
    let (client, printer) = cx.connect_patiently().await?;
    let request = AuthUserChangePasswordRequest { name, password, hashed_password: String::new() };
    printer.user_change_password(&client.user_change_password(request).await?)
}

/// `user grant-role`.
pub async fn grant_role(mut cx: Context) -> Done {
    if cx.args().len() != 2 {
        return Err(failure::bad_args("user grant command requires user name and role name as its argument"));
    }
    let (user, role) = (cx.text(0), cx.text(1));
    let (client, printer) = cx.connect_patiently().await?;
    let request = AuthUserGrantRoleRequest { user: user.clone(), role: role.clone() };
    printer.user_grant_role(&client.user_grant_role(request).await?, &user, &role)
}

/// `user revoke-role`.
pub async fn revoke_role(mut cx: Context) -> Done {
    if cx.args().len() != 2 {
        return Err(failure::bad_args("user revoke-role requires user name and role name as its argument"));
    }
    let (user, role) = (cx.text(0), cx.text(1));
    let (client, printer) = cx.connect_patiently().await?;
    let request = AuthUserRevokeRoleRequest { name: user.clone(), role: role.clone() };
    printer.user_revoke_role(&client.user_revoke_role(request).await?, &user, &role)
}

fn one_word(cx: &Context, missing: &str) -> Done {
    if cx.args().len() == 1 { Ok(()) } else { Err(failure::bad_args(missing)) }
}

/// A new password: asked for twice on the terminal, or the first word of standard input.
fn new_password(cx: &Context, user: &str) -> Done<String> {
    if !cx.flags.bool("interactive") {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line)?;
        return Ok(line.split_whitespace().next().unwrap_or_default().to_string());
    }
    let ask = |prompt: String| {
        terminal::ask_secret(&prompt).map_err(|error| failure::bad_args(format!("failed to ask password: {error}")))
    };
    let first = ask(format!("Password of {user}: "))?;
    if first.is_empty() {
        return Err(failure::bad_args("empty password"));
    }
    if ask(format!("Type password of {user} again for confirmation: "))? != first {
        return Err(failure::bad_args("given passwords are different"));
    }
    Ok(first)
}
