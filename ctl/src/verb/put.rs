//! `put`: one key, its value from the command line or from standard input.

use std::io::Read;

use bytes::Bytes;
use quorate_client::proto::etcdserverpb::PutRequest;

use crate::context::Context;
use crate::failure::{self, Done};
use crate::flags::{Flag, Kind, Parsed, flag};
use crate::notation;

/// Flags of the command.
pub const FLAGS: &[Flag] = &[
    flag("lease", Kind::Text, "lease to hang the key on, in hexadecimal").or("0"),
    flag("prev-kv", Kind::Bool, "show the pair that was there before"),
    flag("ignore-value", Kind::Bool, "keep the value that is there"),
    flag("ignore-lease", Kind::Bool, "keep the lease that is there"),
];

/// Runs the command.
pub async fn run(mut cx: Context) -> Done {
    let request = request(&cx.flags, std::io::stdin().lock())?;
    let (client, printer) = cx.connect().await?;
    printer.put(&client.put(request).await?)
}

/// The request that the words and flags ask for. Reads `input` to its end when the value is not among the words.
pub fn request(flags: &Parsed, mut input: impl Read) -> Done<PutRequest> {
    let missing = || failure::bad_args("put command needs 1 argument and input from stdin or 2 arguments");
    let key = flags.words.first().cloned().ok_or_else(missing)?;
    let ignore_value = flags.bool("ignore-value");
    let value = match flags.words.get(1) {
        Some(_) if ignore_value => return Err(failure::bad_args("put command needs only 1 argument when 'ignore-value' is set")),
        Some(value) => value.clone(),
        None if ignore_value => Bytes::new(),
        None => {
            let mut value = Vec::new();
            input.read_to_end(&mut value).map_err(|_| missing())?;
            Some(value).filter(|value| !value.is_empty()).ok_or_else(missing)?.into()
        }
    };
    let lease = notation::parse_int(flags.text("lease"), 16)
        .map_err(|error| failure::bad_args(format!("bad lease ID ({error}), expecting ID in Hex")))?;
    Ok(PutRequest { key, value, lease, prev_kv: flags.bool("prev-kv"), ignore_value, ignore_lease: flags.bool("ignore-lease") })
}
