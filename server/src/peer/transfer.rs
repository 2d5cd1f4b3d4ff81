//! Transfer: a snapshot on its way to a peer, over a connection of its own.
//!
//! The offer names the view; the receiver says where to go on; rows follow in chunks, a few of them unacknowledged at a time; the
//! end carries a count and a checksum. Whatever happens, raft is told how it went: a follower that nobody reports about would wait
//! for ever.

use super::MAX_MESSAGE;
use super::dial::connect;
use super::link::{Link, causes, refusal};
use crate::node::NodeHandle;
use crate::snapshot::{Place, View};
use prost::Message as _;
use quorate_proto::peer::peer_client::PeerClient;
use quorate_proto::peer::{SnapshotChunk, SnapshotEnd, SnapshotOffer, SnapshotReceipt};
use raft::eraftpb::Message;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// Rows put into one chunk, in bytes.
const CHUNK: usize = 1 << 20;
/// Chunks on their way that the receiver has not written yet.
const UNACKNOWLEDGED: usize = 4;
/// A receiver that writes nothing for so long has failed.
const SILENCE: Duration = Duration::from_secs(30);
/// Putting everything on disk at the end may take longer.
const LAST_SILENCE: Duration = Duration::from_secs(300);
/// Pause before raft is told of a failure: it asks again at once.
const PAUSE: Duration = Duration::from_millis(500);

/// Sends the snapshot a message announces and reports to raft how it went.
pub(super) async fn run(link: Arc<Link>, node: NodeHandle, message: Message) {
    let index = message.get_snapshot().get_metadata().index;
    let begun = tokio::time::Instant::now();
    let peer = format!("{:016x}", link.id);
    let result = match node.announced_view(index) {
        Some(view) => tokio::select! {
            () = link.closed.cancelled() => Err("the link was closed".to_string()),
            sent = send(&link, &node, &view, &message) => sent,
        },
        None => Err("its rows are no longer kept".into()),
    };
    link.count.snapshot_went(result.is_ok());
    match &result {
        Ok(()) => tracing::info!(peer, index, took = ?begun.elapsed(), "sent a snapshot"),
        Err(reason) => {
            tracing::warn!(peer, index, reason, "sending a snapshot failed; it is tried again");
            tokio::time::sleep(PAUSE).await;
        }
    }
    node.report_snapshot(link.id, result.is_ok());
}

async fn send(link: &Arc<Link>, node: &NodeHandle, view: &View, message: &Message) -> Result<(), String> {
    let urls = link.urls();
    let mut reason = "the peer has no address".to_string();
    for url in urls.iter() {
        match connect(&link.inner.dial, url, link.inner.election).await {
            Ok(channel) => {
                let client = PeerClient::new(channel).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE);
                return over(client, link, node, view, message).await;
            }
            Err(e) => reason = causes(&e),
        }
    }
    Err(reason)
}

async fn over(
    mut client: PeerClient<tonic::transport::Channel>,
    link: &Arc<Link>,
    node: &NodeHandle,
    view: &View,
    message: &Message,
) -> Result<(), String> {
    let (chunks, outbound) = mpsc::channel(1);
    let offer = SnapshotOffer {
        cluster: link.inner.cluster_id,
        from: link.inner.member_id,
        to: link.id,
        id: view.id,
        message: message.encode_to_vec().into(),
    };
    let first = SnapshotChunk { offer: Some(offer), ..Default::default() };
    chunks.try_send(first).expect("an empty channel takes one");
    let opening = tokio::time::timeout(SILENCE, client.snapshot(ReceiverStream::new(outbound)));
    let mut receipts = match opening.await {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => return Err(refusal(&status)),
        Err(_) => return Err("the peer did not answer the offer".into()),
    };
    let place = receipt(&mut receipts, SILENCE).await?;
    let mut from = Some(Place { family: place.family, after: place.after });
    let mut end = SnapshotEnd::default();
    let mut waiting = 0;
    let mut pace = link.inner.snapshot_rate.map(|rate| Pace::new(rate, tokio::time::Instant::now()));
    let size = pace.as_ref().map_or(CHUNK, Pace::chunk);
    while from.is_some() || waiting > 0 {
        while waiting < UNACKNOWLEDGED
            && let Some(at) = from.take()
        {
            may_send(node)?;
            let chunk = view.chunk(at, size).await.map_err(|e| e.to_string())?;
            from = chunk.next;
            if chunk.count == 0 {
                continue;
            }
            end.rows += chunk.count;
            end.crc32c = crc32c::crc32c_append(end.crc32c, &chunk.rows);
            link.count.sent(chunk.rows.len());
            if let Some(pace) = &mut pace {
                tokio::time::sleep_until(pace.due()).await;
                pace.sent(chunk.rows.len());
            }
            let crc32c = crc32c::crc32c(&chunk.rows);
            let chunk = SnapshotChunk { family: chunk.family, rows: chunk.rows, crc32c, ..Default::default() };
            // A closed channel says that the call is over; the receipts say why.
            if tokio::time::timeout(SILENCE, chunks.send(chunk)).await.is_err() {
                return Err("the peer takes no more rows".into());
            }
            waiting += 1;
        }
        if waiting > 0 {
            receipt(&mut receipts, SILENCE).await?;
            waiting -= 1;
        }
    }
    may_send(node)?;
    let _ = chunks.send(SnapshotChunk { end: Some(end), ..Default::default() }).await;
    match receipt(&mut receipts, LAST_SILENCE).await? {
        SnapshotReceipt { done: true, .. } => Ok(()),
        _ => Err("the peer did not say that it took the snapshot".into()),
    }
}

/// Rows of a member that does not lead, or whose data are not to be trusted, must not become another's.
fn may_send(node: &NodeHandle) -> Result<(), String> {
    if node.is_fenced() {
        return Err("this member's data differ from the majority's".into());
    }
    if !node.status().is_leader {
        return Err("this member no longer leads".into());
    }
    Ok(())
}

async fn receipt(receipts: &mut Streaming<SnapshotReceipt>, silence: Duration) -> Result<SnapshotReceipt, String> {
    match tokio::time::timeout(silence, receipts.message()).await {
        Ok(Ok(Some(receipt))) => Ok(receipt),
        Ok(Ok(None)) => Err("the peer closed the stream".into()),
        Ok(Err(status)) => Err(refusal(&status)),
        Err(_) => Err("the peer made no progress".into()),
    }
}

/// Spreads a snapshot over time: each chunk waits until those before it have had theirs.
struct Pace {
    /// Bytes a second, > 0.
    rate: u64,
    began: tokio::time::Instant,
    bytes: u64,
}

impl Pace {
    fn new(rate: u64, began: tokio::time::Instant) -> Self {
        Self { rate, began, bytes: 0 }
    }

    /// Bytes of one chunk: never more than a second's worth, so that a slow transfer still shows progress to the receiver.
    fn chunk(&self) -> usize {
        usize::try_from(self.rate).map_or(CHUNK, |rate| rate.clamp(1, CHUNK))
    }

    /// When the next chunk may go.
    fn due(&self) -> tokio::time::Instant {
        self.began + Duration::from_secs_f64(self.bytes as f64 / self.rate as f64)
    }

    fn sent(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten chunks at a bound of four chunks a second: the first goes at once, the last one when nine have had their quarter second.
    #[test]
    fn a_snapshot_keeps_to_its_rate() {
        let began = tokio::time::Instant::now();
        let mut pace = Pace::new(4 << 20, began);
        assert_eq!(pace.chunk(), CHUNK);
        assert_eq!(pace.due(), began);
        for _ in 0..9 {
            pace.sent(1 << 20);
        }
        assert_eq!(pace.due(), began + Duration::from_millis(2250));
    }

    /// A rate below one chunk a second makes the chunks small, and no pause longer than a second.
    #[test]
    fn a_slow_snapshot_goes_in_small_chunks() {
        let mut pace = Pace::new(10_000, tokio::time::Instant::now());
        let chunk = pace.chunk();
        assert_eq!(chunk, 10_000);
        let before = pace.due();
        pace.sent(chunk);
        assert_eq!(pace.due() - before, Duration::from_secs(1));
    }
}
