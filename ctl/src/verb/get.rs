//! `get`: one key or a range of keys.

use quorate_client::Client;
use quorate_client::proto::etcdserverpb::RangeResponse;
use quorate_client::proto::etcdserverpb::{RangeRequest, range_request::SortOrder, range_request::SortTarget};

use crate::context::Context;
use crate::failure::{self, Done};
use crate::flags::{Flag, Kind, Parsed, flag};
use crate::range;

/// Flags of the command.
pub const FLAGS: &[Flag] = &[
    flag("consistency", Kind::Text, "l: linearizable, s: serializable").or("l"),
    flag("order", Kind::Text, "ASCEND or DESCEND"),
    flag("sort-by", Kind::Text, "CREATE, KEY, MODIFY, VALUE or VERSION"),
    flag("limit", Kind::Int, "most pairs to show"),
    flag("prefix", Kind::Bool, "all keys that start with the key"),
    flag("from-key", Kind::Bool, "all keys from the key on, in byte order"),
    flag("rev", Kind::Int, "revision to read at"),
    flag("keys-only", Kind::Bool, "leave the values out"),
    flag("count-only", Kind::Bool, "count only; with --write-out=fields"),
    flag("print-value-only", Kind::Bool, "leave the keys out; with --write-out=simple"),
    flag("min-create-rev", Kind::Int, "leave out keys created before"),
    flag("max-create-rev", Kind::Int, "leave out keys created after"),
    flag("min-mod-rev", Kind::Int, "leave out keys changed before"),
    flag("max-mod-rev", Kind::Int, "leave out keys changed after"),
    flag("stream", Kind::Bool, "let the server answer in pieces"),
];

/// Runs the command.
pub async fn run(mut cx: Context) -> Done {
    let request = request(&cx.flags)?;
    let (client, printer) = cx.connect().await?;
    let answer = match cx.flags.bool("stream") {
        true => {
            let limit = cx.flags.duration("command-timeout");
            tokio::time::timeout(limit, streamed(&client, request)).await.map_err(|_| quorate_client::Error::Timeout)??
        }
        false => client.range(request).await?,
    };
    if cx.flags.bool("count-only") && printer.name() != "fields" {
        return Err(failure::bad_args("--count-only is only for `--write-out=fields`"));
    }
    let values_only = cx.flags.bool("print-value-only");
    if values_only && !printer.is_simple() {
        return Err(failure::bad_args("print-value-only is only for `--write-out=simple`"));
    }
    printer.get(&answer, values_only)
}

/// Puts the pieces of a streamed range together.
async fn streamed(client: &Client, request: RangeRequest) -> Result<RangeResponse, quorate_client::Error> {
    let mut stream = client.range_stream(request).await?;
    let mut whole = RangeResponse::default();
    while let Some(piece) = stream.message().await? {
        let piece = piece.range_response.unwrap_or_default();
        whole.kvs.extend(piece.kvs);
        whole.header = piece.header.or(whole.header);
        whole.more |= piece.more;
        whole.count += piece.count;
    }
    Ok(whole)
}

/// The request that the words and flags ask for.
pub fn request(flags: &Parsed) -> Done<RangeRequest> {
    if flags.words.is_empty() {
        return Err(failure::bad_args("get command needs one argument as key and an optional argument as range_end"));
    }
    range::one_switch(flags)?;
    if flags.bool("keys-only") && flags.bool("count-only") {
        return Err(failure::bad_args("`--keys-only` and `--count-only` cannot be set at the same time, choose one"));
    }
    let serializable = serializable(flags)?;
    let (key, range_end) = range::from_words(&flags.words, flags)?;
    let target = target(flags.text("sort-by"))?;
    let order = order(flags.text("order"), target)?;
    let revision = |name| flags.int(name).max(0);
    for (least, most, name) in [("min-create-rev", "max-create-rev", "CreateRev"), ("min-mod-rev", "max-mod-rev", "ModRev")] {
        let (least, most) = (flags.int(least), flags.int(most));
        if most > 0 && least > most {
            return Err(failure::bad_feature(format!("getMin{name}(={least}) > getMax{name}(={most})")));
        }
    }
    Ok(RangeRequest {
        key,
        range_end,
        limit: flags.int("limit"),
        revision: revision("rev"),
        sort_order: order as i32,
        sort_target: target as i32,
        serializable,
        keys_only: flags.bool("keys-only"),
        count_only: flags.bool("count-only"),
        min_mod_revision: revision("min-mod-rev"),
        max_mod_revision: revision("max-mod-rev"),
        min_create_revision: revision("min-create-rev"),
        max_create_revision: revision("max-create-rev"),
    })
}

/// Whether `--consistency` asks for a serializable read.
pub fn serializable(flags: &Parsed) -> Done<bool> {
    match flags.text("consistency") {
        "l" => Ok(false),
        "s" => Ok(true),
        other => Err(failure::bad_feature(format!("unknown consistency flag {other:?}"))),
    }
}

fn target(text: &str) -> Done<SortTarget> {
    Ok(match text.to_uppercase().as_str() {
        "CREATE" => SortTarget::Create,
        "KEY" | "" => SortTarget::Key,
        "MODIFY" => SortTarget::Mod,
        "VALUE" => SortTarget::Value,
        "VERSION" => SortTarget::Version,
        _ => return Err(failure::bad_feature(format!("bad sort target {text}"))),
    })
}

/// Sorting by key upwards is the order anyway, and servers stream only what they need not sort.
fn order(text: &str, target: SortTarget) -> Done<SortOrder> {
    Ok(match text.to_uppercase().as_str() {
        "ASCEND" if target == SortTarget::Key => SortOrder::None,
        "ASCEND" => SortOrder::Ascend,
        "DESCEND" => SortOrder::Descend,
        "" => SortOrder::None,
        _ => return Err(failure::bad_feature(format!("bad sort order {text}"))),
    })
}
