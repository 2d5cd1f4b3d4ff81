//! `quorate.backup.v1.Backup`: the history as it grows, for agents that keep it elsewhere.
//!
//! In: from which revision on. Out: the rows of the log as they are, the rows beside it that a restore needs (leases, alarms, auth), the
//! compaction mark and the entry clock; after that the same again whenever something changed. A word that says nothing new comes at
//! least every second, and only from a member that has just agreed with a quorum: what it does not hold has not happened.
//!
//! Invariants: rows come in order, each once; a message's `revision` never runs ahead of its rows; a gap ends the call with
//! `OUT_OF_RANGE`, before any row after the gap is sent.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use quorate_proto::backup as pb;
use tonic::{Request, Response, Status};

use super::{
    Door, Method,
    door::{Learner, Outgoing},
    stream::AnswerStream,
};
use crate::types::Revision;

/// How often a member looks for something new, and so how finely a restore to a time can choose.
const PACE: Duration = Duration::from_millis(250);
/// The longest silence.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// KeyValue bytes in one message, give or take a row.
const PAGE: usize = 1 << 20;
/// Bytes of a caller's name.
const NAME: usize = 64;

/// The service.
pub struct Backup(pub Arc<Door>);

#[tonic::async_trait]
impl pb::backup_server::Backup for Backup {
    type DeltasStream = AnswerStream<pb::Delta>;

    async fn deltas(&self, request: Request<pb::DeltasRequest>) -> Result<Response<Self::DeltasStream>, Status> {
        self.0.stream(Method::Deltas, request, Learner::Refuses, |door, request, out| async move {
            out.received();
            deltas(&door, request, out).await
        })
    }

    async fn stored(&self, request: Request<pb::StoredRequest>) -> Result<Response<pb::StoredResponse>, Status> {
        self.0
            .unary(
                Method::Stored,
                request,
                |_| Learner::Refuses,
                |request| async move {
                    named(&request.holder)?;
                    let store = &self.0.context.store;
                    if request.revision > store.revision() {
                        return Err(Status::out_of_range("the revision is newer than the store"));
                    }
                    Ok(pb::StoredResponse { held: store.hold(&request.holder, request.revision, Instant::now()) })
                },
            )
            .await
    }
}

fn named(holder: &str) -> Result<(), Status> {
    if (1..=NAME).contains(&holder.len()) {
        return Ok(());
    }
    Err(Status::invalid_argument(format!("the holder's name must have 1 to {NAME} bytes, not {}", holder.len())))
}

fn gap(from: i64) -> Status {
    Status::out_of_range(format!("the history from revision {from} on is not whole any more: it was compacted"))
}

async fn deltas(door: &Door, request: pb::DeltasRequest, mut out: Outgoing<pb::Delta>) -> Result<(), Status> {
    named(&request.holder)?;
    let cluster = door.context.node.status().cluster_id;
    if request.cluster != 0 && request.cluster != cluster {
        return Err(Status::failed_precondition(format!("this is cluster {cluster:016x}, not {:016x}", request.cluster)));
    }
    door.barrier().await?;
    let newest = door.context.store.revision();
    let from = if request.from_revision == 0 { newest + 1 } else { request.from_revision };
    if from < 1 || from > newest + 1 {
        return Err(Status::out_of_range(format!("revision {from} is not one to begin with: the newest is {newest}")));
    }
    if !door.context.store.hold(&request.holder, from - 1, Instant::now()) {
        return Err(gap(from));
    }
    let mut next = Revision::new(from, 0);
    let copier = Arc::new(door.context.store.side_copier());
    let mut compacted = 0;
    loop {
        let (applied, upto) = (door.context.shared.applied_index(), door.context.store.revision());
        // Read after the revision, so that it is not older than that.
        let time_ms = door.context.shared.time_ms();
        let mut message = pb::Delta { revision: upto, time_ms, cluster, ..pb::Delta::default() };
        while next.main <= upto {
            let page = door.read(false, move |store| store.history(next, upto, PAGE)).await?.ok_or_else(|| gap(next.main))?;
            let Some(last) = page.rows.last().map(|row| row.revision) else { break };
            next = Revision::new(last.main, last.sub + 1);
            message.rows = page.rows.into_iter().map(row).collect();
            if !page.more {
                break;
            }
            let rows = std::mem::take(&mut message.rows);
            out.send(pb::Delta { revision: last.main - 1, time_ms, compacted, rows, cluster, ..pb::Delta::default() }).await;
        }
        next = next.max(Revision::new(upto + 1, 0));
        let copied = copier.clone();
        let ((whole, side), mark) =
            door.read(false, move |store| Ok((store.side_news(&copied)?, store.compact_revision()))).await?;
        message.side = side.into_iter().map(side_row).collect();
        message.side_whole = whole;
        // A mark may be newer than the revision that was read first; the next message tells of it.
        let new_mark = mark <= upto && mark != compacted;
        if new_mark {
            compacted = mark;
        }
        message.compacted = compacted;
        let news = !message.rows.is_empty() || !message.side.is_empty() || whole || new_mark;
        if news {
            out.send(message).await;
        }
        let mut silent = Duration::ZERO;
        loop {
            tokio::time::sleep(PACE).await;
            silent += PACE;
            let context = &door.context;
            if context.store.revision() != upto
                || context.shared.applied_index() != applied
                || context.store.compact_revision() != mark
            {
                break;
            }
            if silent >= HEARTBEAT {
                door.barrier().await?;
                silent = Duration::ZERO;
                // What the quorum knew may have been applied just now; then it is news.
                if context.store.revision() == upto {
                    out.send(pb::Delta { revision: upto, time_ms, compacted, cluster, ..pb::Delta::default() }).await;
                }
            }
        }
    }
}

fn row(row: crate::mvcc::HistoryRow) -> pb::Row {
    pb::Row { main: row.revision.main, sub: row.revision.sub, deletion: row.tombstone, kv: row.kv }
}

fn side_row((key, value): (Bytes, Option<Bytes>)) -> pb::SideRow {
    pb::SideRow { key, gone: value.is_none(), value: value.unwrap_or_default() }
}
