//! `defrag`: asks each endpoint to give free space back, one after the other.

use std::time::Instant;

use quorate_client::Config;
use quorate_client::proto::etcdserverpb::DefragmentRequest;

use super::endpoint;
use crate::context::{Context, client};
use crate::failure::{self, Done};
use crate::{notation, print};

/// Runs the command.
pub async fn run(mut cx: Context) -> Done {
    let (config, _) = cx.open()?;
    let mut failed = false;
    for endpoint in endpoint::endpoints(&cx, &config).await? {
        let client = client(Config { endpoints: vec![endpoint.clone()], ..config.clone() }).await?;
        let start = Instant::now();
        let answer = client.defragment(DefragmentRequest {}).await;
        let took = notation::duration(start.elapsed());
        match answer {
            Ok(_) => print::line(format!("Finished defragmenting etcd member[{endpoint}]. took {took}"))?,
            Err(error) => {
                eprintln!("Failed to defragment etcd member[{endpoint}]. took {took}. ({error})");
                failed = true;
            }
        }
    }
    if failed { Err(failure::silent(1)) } else { Ok(()) }
}
