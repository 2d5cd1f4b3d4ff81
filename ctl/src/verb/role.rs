//! `role`: add, delete, get, list, grant-permission, revoke-permission.

use bytes::Bytes;
use quorate_client::proto::authpb::{Permission, permission::Type};
use quorate_client::proto::etcdserverpb::{
    AuthRoleAddRequest, AuthRoleDeleteRequest, AuthRoleGetRequest, AuthRoleGrantPermissionRequest, AuthRoleListRequest,
    AuthRoleRevokePermissionRequest,
};
use quorate_client::{FROM_KEY_END, prefix_end};

use crate::context::Context;
use crate::failure::{self, Done};
use crate::flags::{Flag, Kind, Parsed, flag};

/// Flags of `grant-permission` and `revoke-permission`.
pub const RANGE_FLAGS: &[Flag] = &[
    flag("prefix", Kind::Bool, "all keys that start with the key"),
    flag("from-key", Kind::Bool, "all keys from the key on, in byte order"),
];

/// `role add`.
pub async fn add(mut cx: Context) -> Done {
    let name = name(&cx, "role add command requires role name as its argument")?;
    let (client, printer) = cx.connect_patiently().await?;
    printer.role_add(&client.role_add(AuthRoleAddRequest { name: name.clone() }).await?, &name)
}

/// `role delete`.
pub async fn delete(mut cx: Context) -> Done {
    let role = name(&cx, "role delete command requires role name as its argument")?;
    let (client, printer) = cx.connect_patiently().await?;
    printer.role_delete(&client.role_delete(AuthRoleDeleteRequest { role: role.clone() }).await?, &role)
}

/// `role get`.
pub async fn get(mut cx: Context) -> Done {
    let role = name(&cx, "role get command requires role name as its argument")?;
    let (client, printer) = cx.connect_patiently().await?;
    printer.role_get(&client.role_get(AuthRoleGetRequest { role: role.clone() }).await?, &role)
}

/// `role list`.
pub async fn list(mut cx: Context) -> Done {
    if !cx.args().is_empty() {
        return Err(failure::bad_args("role list command requires no arguments"));
    }
    let (client, printer) = cx.connect_patiently().await?;
    printer.role_list(&client.role_list(AuthRoleListRequest {}).await?)
}

/// `role grant-permission`.
pub async fn grant_permission(mut cx: Context) -> Done {
    if cx.args().len() < 3 {
        return Err(failure::bad_args("role grant command requires role name, permission type, and key [endkey] as its argument"));
    }
    let (role, kind) = (cx.text(0), cx.text(1));
    let perm_type = match kind.to_uppercase().as_str() {
        "READ" => Type::Read,
        "WRITE" => Type::Write,
        "READWRITE" => Type::Readwrite,
        _ => return Err(failure::bad_args(format!("invalid permission type: {kind}"))),
    };
    let (key, range_end) = range(&cx.args()[2..], &cx.flags)?;
    let (client, printer) = cx.connect_patiently().await?;
    let perm = Some(Permission { perm_type: perm_type as i32, key, range_end });
    let request = AuthRoleGrantPermissionRequest { name: role.clone(), perm };
    printer.role_grant_permission(&client.role_grant_permission(request).await?, &role)
}

/// `role revoke-permission`.
pub async fn revoke_permission(mut cx: Context) -> Done {
    if cx.args().len() < 2 {
        return Err(failure::bad_args("role revoke-permission command requires role name and key [endkey] as its argument"));
    }
    let role = cx.text(0);
    let (key, range_end) = range(&cx.args()[1..], &cx.flags)?;
    let (client, printer) = cx.connect_patiently().await?;
    let request = AuthRoleRevokePermissionRequest { role: role.clone(), key, range_end: range_end.clone() };
    let answer = client.role_revoke_permission(request).await?;
    printer.role_revoke_permission(&answer, &role, &cx.args()[1], &range_end)
}

fn name(cx: &Context, missing: &str) -> Done<String> {
    if cx.args().len() == 1 { Ok(cx.text(0)) } else { Err(failure::bad_args(missing)) }
}

/// Key and end of a permission. An empty key with a switch means all keys.
fn range(words: &[Bytes], flags: &Parsed) -> Done<(Bytes, Bytes)> {
    let (prefix, from_key) = (flags.bool("prefix"), flags.bool("from-key"));
    let open_end = Bytes::from_static(FROM_KEY_END);
    let key = words[0].clone();
    match words.get(1) {
        _ if prefix && from_key => Err(failure::bad_args("--from-key and --prefix flags are mutually exclusive")),
        _ if key.is_empty() => Ok((Bytes::from_static(&[0]), if prefix || from_key { open_end } else { Bytes::new() })),
        Some(_) if prefix => Err(failure::bad_args("unexpected endkey argument with --prefix flag")),
        Some(_) if from_key => Err(failure::bad_args("unexpected endkey argument with --from-key flag")),
        Some(end) => Ok((key, end.clone())),
        None if prefix => Ok((key.clone(), prefix_end(&key).into())),
        None if from_key => Ok((key, open_end)),
        None => Ok((key, Bytes::new())),
    }
}
