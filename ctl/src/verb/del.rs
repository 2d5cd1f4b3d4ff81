//! `del`: one key or a range of keys.

use std::time::Duration;

use quorate_client::proto::etcdserverpb::DeleteRangeRequest;

use crate::context::Context;
use crate::failure::{self, Done};
use crate::flags::{Flag, Kind, Parsed, flag};
use crate::notation::quote;
use crate::range;

/// Flags of the command.
pub const FLAGS: &[Flag] = &[
    flag("prefix", Kind::Bool, "all keys that start with the key"),
    flag("prev-kv", Kind::Bool, "show the pairs that were there before"),
    flag("from-key", Kind::Bool, "all keys from the key on, in byte order"),
    flag("range", Kind::Bool, "delete a range at once, without time to think again"),
];

/// Runs the command.
pub async fn run(mut cx: Context) -> Done {
    let request = request(&cx.flags)?;
    let (client, printer) = cx.connect().await?;
    printer.del(&client.delete_range(request).await?)
}

/// The request that the words and flags ask for. A range without `--range` waits two seconds for second thoughts.
pub fn request(flags: &Parsed) -> Done<DeleteRangeRequest> {
    if flags.words.is_empty() || flags.words.len() > 2 {
        return Err(failure::bad_args("del command needs one argument as key and an optional argument as range_end"));
    }
    range::one_switch(flags)?;
    let (key, range_end) = range::from_words(&flags.words, flags)?;
    if flags.words.len() == 2 && !flags.bool("range") {
        eprintln!(
            "Warning: Keys between {} and {} will be deleted. Please interrupt the command within next 2 seconds to cancel. \
             You can provide `--range` flag to avoid the delay.",
            quote(&flags.words[0]),
            quote(&flags.words[1])
        );
        std::thread::sleep(Duration::from_secs(2));
    }
    Ok(DeleteRangeRequest { key, range_end, prev_kv: flags.bool("prev-kv") })
}
