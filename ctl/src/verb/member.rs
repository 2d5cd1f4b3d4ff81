//! `member`: add, remove, update, list, promote.

use quorate_client::proto::etcdserverpb::{
    MemberAddRequest, MemberListRequest, MemberPromoteRequest, MemberRemoveRequest, MemberUpdateRequest,
};

use super::get;
use crate::context::Context;
use crate::failure::{self, Done};
use crate::flags::{Flag, Kind, Parsed, flag};
use crate::notation::quote;
use crate::{notation, print};

/// Flags of `add`.
pub const ADD_FLAGS: &[Flag] = &[
    flag("peer-urls", Kind::Text, "addresses of the new member for its peers, with commas"),
    flag("learner", Kind::Bool, "let it learn before it votes"),
];
/// Flags of `update`.
pub const UPDATE_FLAGS: &[Flag] = &[flag("peer-urls", Kind::Text, "new addresses of the member for its peers, with commas")];
/// Flags of `list`.
pub const LIST_FLAGS: &[Flag] = &[flag("consistency", Kind::Text, "l: linearizable, s: serializable").or("l")];

/// `member add`. The simple format adds the settings that the new member is to be started with.
pub async fn add(mut cx: Context) -> Done {
    match cx.args().len() {
        0 => return Err(failure::bad_args("member name not provided")),
        1 => {}
        count => {
            let looks_like_url = |word: &String| word.to_lowercase().starts_with("http");
            let hints: String = (0..count)
                .map(|at| cx.text(at))
                .filter(looks_like_url)
                .map(|url| format!(", did you mean --peer-urls={url}"))
                .collect();
            return Err(failure::bad_args(format!("too many arguments{hints}")));
        }
    }
    let name = cx.text(0);
    let peer_urls = peer_urls(&cx.flags)?;
    let is_learner = cx.flags.bool("learner");
    let (client, printer) = cx.connect().await?;
    let answer = client.member_add(MemberAddRequest { peer_urls, is_learner }).await?;
    printer.member_add(&answer)?;
    if !printer.is_simple() {
        return Ok(());
    }
    let new = answer.member.as_ref().map_or(0, |member| member.id);
    let peers: Vec<String> = answer
        .members
        .iter()
        .flat_map(|member| {
            let name = if member.id == new { &name } else { &member.name };
            member.peer_urls.iter().map(move |url| format!("{name}={url}"))
        })
        .collect();
    print::write(format!(
        "\nETCD_NAME={}\nETCD_INITIAL_CLUSTER={}\nETCD_INITIAL_ADVERTISE_PEER_URLS={}\nETCD_INITIAL_CLUSTER_STATE=\"existing\"\n",
        quote(name.as_bytes()),
        quote(peers.join(",").as_bytes()),
        quote(cx.flags.text("peer-urls").as_bytes())
    ))
}

/// `member remove`.
pub async fn remove(mut cx: Context) -> Done {
    let id = id(&cx)?;
    let (client, printer) = cx.connect().await?;
    printer.member_remove(&client.member_remove(MemberRemoveRequest { id }).await?, id)
}

/// `member update`.
pub async fn update(mut cx: Context) -> Done {
    let id = id(&cx)?;
    let peer_urls = peer_urls(&cx.flags)?;
    let (client, printer) = cx.connect().await?;
    printer.member_update(&client.member_update(MemberUpdateRequest { id, peer_urls }).await?, id)
}

/// `member list`.
pub async fn list(mut cx: Context) -> Done {
    let linearizable = !get::serializable(&cx.flags)?;
    let (client, printer) = cx.connect().await?;
    printer.member_list(&client.member_list(MemberListRequest { linearizable }).await?)
}

/// `member promote`.
pub async fn promote(mut cx: Context) -> Done {
    let id = id(&cx)?;
    let (client, printer) = cx.connect().await?;
    printer.member_promote(&client.member_promote(MemberPromoteRequest { id }).await?, id)
}

fn id(cx: &Context) -> Done<u64> {
    if cx.args().len() != 1 {
        return Err(failure::bad_args("member ID is not provided"));
    }
    notation::parse_uint(&cx.text(0), 16)
        .map_err(|error| failure::bad_args(format!("bad member ID arg ({error}), expecting ID in Hex")))
}

fn peer_urls(flags: &Parsed) -> Done<Vec<String>> {
    match flags.text("peer-urls") {
        "" => Err(failure::bad_args("member peer urls not provided")),
        urls => urls.split(',').map(|url| check_url(url.trim()).map(|()| url.trim().to_string())).collect(),
    }
}

/// Finds the mistakes that users make before the server has to.
fn check_url(url: &str) -> Done {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    match scheme {
        "http" | "https" => {
            let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
            let port = authority.rsplit_once(':').map(|(_, port)| port);
            if port.is_none_or(|port| port.contains(']')) {
                return Err(failure::error(format!("URL address does not have the form \"host:port\": {url}")));
            }
            if !path.is_empty() {
                return Err(failure::error(format!("URL must not contain a path: {url}")));
            }
            Ok(())
        }
        "unix" | "unixs" => Ok(()),
        _ => Err(failure::error(format!("URL scheme must be http, https, unix, or unixs: {url}"))),
    }
}
