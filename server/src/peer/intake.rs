//! Intake: the receiving side of a snapshot. Rows are written off the connection's thread; raft hears of the snapshot only when all
//! of them are on disk.

use super::counts::PeerCount;
use crate::node::NodeHandle;
use crate::snapshot::{Place, SnapshotError, Staging};
use quorate_proto::peer::{SnapshotChunk, SnapshotEnd, SnapshotReceipt};
use raft::eraftpb::Message;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

/// How long the rows of a transfer that broke off wait for another attempt. A sender that can go on with them does so within seconds;
/// after a change of the leader nobody can, and they may be as many as those in use.
const KEPT: Duration = Duration::from_secs(10 * 60);

/// One attempt of a transfer.
pub(super) struct Intake {
    node: NodeHandle,
    count: Arc<PeerCount>,
    message: Message,
    staging: Arc<Staging>,
    attempt: u64,
}

fn refused(e: SnapshotError) -> Status {
    match e {
        SnapshotError::Refused(text) => Status::unavailable(text),
        SnapshotError::Damaged(_) => Status::data_loss(e.to_string()),
        e => Status::internal(e.to_string()),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, SnapshotError> + Send + 'static) -> Result<T, Status> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(refused),
        Err(_) => Err(Status::internal("a snapshot's rows could not be written")),
    }
}

fn receipt(place: Place) -> SnapshotReceipt {
    SnapshotReceipt { family: place.family, after: place.after, done: false }
}

impl Intake {
    /// Takes an offer: the attempt and the first receipt.
    pub async fn begin(
        node: NodeHandle,
        count: Arc<PeerCount>,
        view: u64,
        message: Message,
    ) -> Result<(Self, SnapshotReceipt), Status> {
        let index = message.get_snapshot().get_metadata().index;
        if !node.wants_snapshot(index) {
            // Raft answers it with where this member stands. Without that answer a leader that believes it further behind than its
            // log reaches would offer the same snapshot for ever.
            let _ = node.offer_snapshot(message, false).await;
            return Err(Status::already_exists(format!("a snapshot at entry {index} brings nothing new")));
        }
        let desk = node.clone();
        let (staging, attempt, place) = blocking(move || desk.receiver().begin(view, index)).await?;
        tracing::info!(from = format!("{:016x}", message.from), index, goes_on = !place.after.is_empty(), "receiving a snapshot");
        Ok((Self { node, count, message, staging, attempt }, receipt(place)))
    }

    /// Reads the stream to its end, answering each chunk.
    pub async fn run(self, inbound: Streaming<SnapshotChunk>, answers: mpsc::Sender<Result<SnapshotReceipt, Status>>) {
        let came = self.take(inbound, answers).await;
        self.count.snapshot_came(came);
        if came {
            return;
        }
        let (staging, attempt) = (Arc::downgrade(&self.staging), self.attempt);
        drop(self);
        tokio::time::sleep(KEPT).await;
        let Some(staging) = staging.upgrade() else { return };
        if let Ok(true) = blocking(move || Ok(staging.abandon(attempt))).await {
            tracing::info!("what arrived of a snapshot was removed: nobody went on with it");
        }
    }

    /// True when raft took the snapshot.
    async fn take(&self, mut inbound: Streaming<SnapshotChunk>, answers: mpsc::Sender<Result<SnapshotReceipt, Status>>) -> bool {
        loop {
            let answer = match inbound.message().await {
                Ok(Some(SnapshotChunk { end: Some(end), .. })) => self.finish(end).await,
                Ok(Some(chunk)) => self.write(chunk).await,
                Ok(None) => return false,
                Err(status) => {
                    tracing::info!(reason = status.message(), "a snapshot broke off; what arrived is kept");
                    return false;
                }
            };
            let came = matches!(&answer, Ok(SnapshotReceipt { done: true, .. }));
            let over = came || answer.is_err();
            if let Err(status) = &answer {
                tracing::warn!(reason = status.message(), "a snapshot was not taken");
            }
            if answers.send(answer).await.is_err() || over {
                return came;
            }
        }
    }

    async fn write(&self, chunk: SnapshotChunk) -> Result<SnapshotReceipt, Status> {
        self.count.received(chunk.rows.len());
        let (staging, attempt) = (self.staging.clone(), self.attempt);
        let place = blocking(move || staging.write(attempt, chunk.family, &chunk.rows, chunk.crc32c)).await?;
        Ok(receipt(place))
    }

    async fn finish(&self, end: SnapshotEnd) -> Result<SnapshotReceipt, Status> {
        let (staging, attempt) = (self.staging.clone(), self.attempt);
        blocking(move || staging.finish(attempt, end.rows, end.crc32c)).await?;
        match self.node.offer_snapshot(self.message.clone(), true).await {
            Ok(true) => {
                self.node.receiver().settled(&self.staging);
                Ok(SnapshotReceipt { done: true, ..Default::default() })
            }
            Ok(false) => {
                self.give_up().await;
                Err(Status::already_exists("raft does not want this snapshot"))
            }
            Err(e) => {
                self.give_up().await;
                Err(Status::unavailable(e.to_string()))
            }
        }
    }

    async fn give_up(&self) {
        let staging = self.staging.clone();
        let _ = blocking(move || {
            staging.give_up();
            Ok(())
        })
        .await;
        self.node.receiver().settled(&self.staging);
    }
}
