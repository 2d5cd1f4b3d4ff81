//! Hashes of the history, asked of another member by one that compares itself before it serves.
//!
//! In: the other member's address and a revision. Out: its hash there, or why it gives none.

use super::{Dial, dial, link};
use crate::types::MemberId;
use quorate_proto::peer::peer_client::PeerClient;
use quorate_proto::peer::{HashRequest, HashResponse};
use std::sync::Arc;
use std::time::Duration;

/// Asks the member at `url` for the hash of its history up to `revision`.
///
/// # Errors
/// When nobody answers in time, or the member belongs to another cluster.
pub async fn ask_hash(
    dial: &Arc<dyn Dial>,
    url: &str,
    cluster: u64,
    from: MemberId,
    revision: i64,
    timeout: Duration,
) -> Result<HashResponse, tonic::Status> {
    let ask = async {
        let channel = dial::connect(dial, url, timeout).await.map_err(|e| tonic::Status::unavailable(link::causes(&e)))?;
        let answer = PeerClient::new(channel).hash(HashRequest { cluster, from, revision }).await?;
        Ok(answer.into_inner())
    };
    let late = |_| tonic::Status::deadline_exceeded(format!("{url} did not answer in time"));
    tokio::time::timeout(timeout, ask).await.map_err(late)?
}
