//! `version` and `options`.

use crate::context::Context;
use crate::failure::Done;
use crate::{help, print};

/// etcd's release whose command line this is.
const ETCD: &str = "3.7.3";
/// The API's version.
const API: &str = "3.7";

/// `version`. As etcdctl we give etcd's version, for whoever asks expects that; else our own.
pub async fn run(cx: Context) -> Done {
    let version = if cx.program == "etcdctl" { ETCD } else { env!("CARGO_PKG_VERSION") };
    print::line(format!("{} version: {version}\nAPI version: {API}", cx.program))
}

/// `options`.
pub async fn options(_: Context) -> Done {
    print::write(help::options())
}
