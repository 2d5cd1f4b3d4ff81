//! `compaction`: forgets what was superseded before a revision.

use quorate_client::proto::etcdserverpb::CompactionRequest;

use crate::context::Context;
use crate::failure::{self, Done};
use crate::flags::{Flag, Kind, flag};
use crate::{notation, print};

/// Flags of the command.
pub const FLAGS: &[Flag] = &[flag("physical", Kind::Bool, "wait until the rows are gone for good")];

/// Runs the command.
pub async fn run(mut cx: Context) -> Done {
    if cx.args().len() != 1 {
        return Err(failure::bad_args("compaction command needs 1 argument"));
    }
    let revision = notation::parse_int(&cx.text(0), 10).map_err(failure::error)?;
    let physical = cx.flags.bool("physical");
    let (client, _) = cx.connect().await?;
    client.compact(CompactionRequest { revision, physical }).await?;
    print::line(format!("compacted revision {revision}"))
}
