//! `etcdserverpb.KV`: reads, writes, transactions, compaction.
//!
//! In: client messages. Out: entries for the node, queries for the store, and etcd's answers, with every stored pair spliced in as it is.
//! A read-only transaction takes the read path; one without a linearizable read, or without any operation, needs no quorum.

use std::sync::Arc;

use bytes::Bytes;
use quorate_proto::{RawKv, entry, etcdserverpb as pb, mvccpb::KeyValue};
use tonic::{Request, Response, Status};

use super::{
    Door, Method, decode,
    door::{Learner, Outgoing, mismatched},
    quota,
    status::Refusal,
    stream::AnswerStream,
};
use crate::{
    mvcc::{Page, RangeResult},
    state::{self, Outcome, TxnOpOutcome, TxnOutcome},
    telemetry::Read,
    types::KeyRange,
};

/// Keys in the first chunk of a streamed range, as in etcd.
const FIRST_CHUNK_KEYS: i64 = 10;

/// The service.
pub struct Kv(pub Arc<Door>);

fn refuses<M>(_: &M) -> Learner {
    Learner::Refuses
}

#[tonic::async_trait]
impl pb::kv_server::Kv for Kv {
    async fn range(&self, request: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        let learner = |request: &pb::RangeRequest| if request.serializable { Learner::Serves } else { Learner::Refuses };
        self.0.unary(Method::Range, request, learner, |request| range(&self.0, request)).await
    }

    type RangeStreamStream = AnswerStream<pb::RangeStreamResponse>;

    async fn range_stream(&self, request: Request<pb::RangeRequest>) -> Result<Response<Self::RangeStreamStream>, Status> {
        self.0.stream(Method::RangeStream, request, Learner::Refuses, |door, request, out| async move {
            out.received();
            range_stream(&door, request, out).await
        })
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        self.0.unary(Method::Put, request, refuses, |request| put(&self.0, request)).await
    }

    async fn delete_range(&self, request: Request<pb::DeleteRangeRequest>) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        self.0.unary(Method::DeleteRange, request, refuses, |request| delete_range(&self.0, request)).await
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        self.0.unary(Method::Txn, request, refuses, |request| txn(&self.0, request)).await
    }

    async fn compact(&self, request: Request<pb::CompactionRequest>) -> Result<Response<pb::CompactionResponse>, Status> {
        self.0.unary(Method::Compact, request, refuses, |request| compact(&self.0, request)).await
    }
}

/// Answers a range.
pub async fn range(door: &Door, request: pb::RangeRequest) -> Result<pb::RangeResponse, Status> {
    let result = door.range(decode::range(request)?).await?;
    let header = door.header(result.revision);
    Ok(range_response(result, header))
}

fn range_response(result: RangeResult, header: pb::ResponseHeader) -> pb::RangeResponse {
    pb::RangeResponse { header: Some(header), kvs: result.kvs, more: result.more, count: result.count }
}

/// Answers a put.
pub async fn put(door: &Door, request: pb::PutRequest) -> Result<pb::PutResponse, Status> {
    door.check_quota(quota::put_cost(&request)).await?;
    match door.propose(entry::command::Op::Put(decode::put(request)?)).await? {
        (Outcome::Put { prev }, header) => Ok(pb::PutResponse { header: Some(header), prev_kv: prev }),
        _ => Err(mismatched(Method::Put)),
    }
}

/// Answers a deletion.
pub async fn delete_range(door: &Door, request: pb::DeleteRangeRequest) -> Result<pb::DeleteRangeResponse, Status> {
    match door.propose(entry::command::Op::DeleteRange(decode::delete_range(request)?)).await? {
        (Outcome::DeleteRange { deleted, prev }, header) => {
            Ok(pb::DeleteRangeResponse { header: Some(header), deleted, prev_kvs: prev })
        }
        _ => Err(mismatched(Method::DeleteRange)),
    }
}

/// Answers a transaction.
pub async fn txn(door: &Door, request: pb::TxnRequest) -> Result<pb::TxnResponse, Status> {
    door.check_quota(quota::txn_cost(&request)).await?;
    let txn = decode::txn(request, door.limits.max_txn_ops)?;
    if decode::is_read_only(&txn) {
        if !decode::is_serializable(&txn) {
            door.barrier().await?;
        }
        let small = reads_single_keys(&txn);
        let read = door.read(small, move |store| {
            let before = store.revision();
            let outcome = state::read_txn(store, &txn)?;
            // Every read of the transaction was at one revision, which is the header's; a transaction without reads shows none.
            let read_at = outcome.ops.iter().find_map(|op| match op {
                TxnOpOutcome::Range(result) => Some(result.revision),
                _ => None,
            });
            Ok((outcome, read_at.unwrap_or(before)))
        });
        let (outcome, revision) = door.timed(Read::ReadonlyTxn, read).await?;
        return Ok(txn_response(outcome, door.header(revision)));
    }
    match door.propose(entry::command::Op::Txn(txn)).await? {
        (Outcome::Txn(outcome), header) => Ok(txn_response(outcome, header)),
        _ => Err(mismatched(Method::Txn)),
    }
}

/// Whether a transaction that only reads looks at single keys alone, comparisons included.
fn reads_single_keys(txn: &entry::Txn) -> bool {
    let reads_one = |op: &entry::Op| match &op.op {
        Some(entry::op::Op::Range(range)) => range.range_end.is_empty(),
        _ => true,
    };
    txn.compare.iter().all(|compare| compare.range_end.is_empty()) && txn.success.iter().chain(&txn.failure).all(reads_one)
}

/// Inner headers carry a revision and nothing else.
fn inner_header(revision: i64) -> pb::ResponseHeader {
    pb::ResponseHeader { revision, ..Default::default() }
}

fn txn_response(outcome: TxnOutcome, header: pb::ResponseHeader) -> pb::TxnResponse {
    let responses = outcome.ops.into_iter().map(|op| pb::ResponseOp { response: Some(op_response(op)) }).collect();
    pb::TxnResponse { header: Some(header), succeeded: outcome.succeeded, responses }
}

fn op_response(outcome: TxnOpOutcome) -> pb::response_op::Response {
    use pb::response_op::Response as R;
    match outcome {
        TxnOpOutcome::Range(result) => {
            let header = inner_header(result.revision);
            R::ResponseRange(range_response(result, header))
        }
        TxnOpOutcome::Put { prev, revision } => {
            R::ResponsePut(pb::PutResponse { header: Some(inner_header(revision)), prev_kv: prev })
        }
        TxnOpOutcome::DeleteRange { deleted, prev, revision } => {
            R::ResponseDeleteRange(pb::DeleteRangeResponse { header: Some(inner_header(revision)), deleted, prev_kvs: prev })
        }
        // The header of a nested transaction is there and says nothing.
        TxnOpOutcome::Txn(outcome, _) => R::ResponseTxn(txn_response(outcome, inner_header(0))),
    }
}

/// Answers a compaction; with `physical`, after the superseded rows are gone.
pub async fn compact(door: &Door, request: pb::CompactionRequest) -> Result<pb::CompactionResponse, Status> {
    let compact = entry::Compact { revision: request.revision };
    match door.propose(entry::command::Op::Compact(compact)).await? {
        (Outcome::Compact, _) => {}
        _ => return Err(mismatched(Method::Compact)),
    }
    if request.physical {
        door.context.store.compaction_done(request.revision).await;
    }
    Ok(pb::CompactionResponse { header: Some(door.header_now()) })
}

/// Streams a range in chunks, in memory bounded by one chunk however large the range is. All chunks are read at the revision the stream began
/// with; header, `more` and `count` come with the last.
/// A target other than the key sorts within each chunk, even though no order was asked for: an old habit of etcd's ranges, which its stream
/// applies to a chunk at a time.
fn sorted_chunk(kvs: Vec<RawKv>, target: entry::SortTarget, keys_only: bool) -> Result<Vec<RawKv>, Status> {
    if target == entry::SortTarget::Key {
        return Ok(kvs);
    }
    let decoded: Result<Vec<_>, _> = kvs.into_iter().map(|raw| raw.decode().map(|kv| (kv, raw))).collect();
    let mut rows = decoded.map_err(|error| Status::data_loss(format!("a stored key-value pair cannot be read: {error}")))?;
    rows.sort_by(|(a, _), (b, _)| match target {
        entry::SortTarget::Version => a.version.cmp(&b.version),
        entry::SortTarget::Create => a.create_revision.cmp(&b.create_revision),
        entry::SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
        entry::SortTarget::Value => a.value.cmp(&b.value),
        entry::SortTarget::Key => a.key.cmp(&b.key),
    });
    let strip = |(mut kv, raw): (KeyValue, RawKv)| {
        if !keys_only {
            return raw;
        }
        (kv.value, kv.lease) = (Bytes::new(), 0);
        RawKv::from(&kv)
    };
    Ok(rows.into_iter().map(strip).collect())
}

async fn range_stream(door: &Door, request: pb::RangeRequest, mut out: Outgoing<pb::RangeStreamResponse>) -> Result<(), Status> {
    let mut query = decode::range_stream(request)?;
    if !query.serializable {
        door.barrier().await?;
        query.serializable = true;
    }
    if query.count_only {
        let result = door.range(query).await?;
        let response = pb::RangeResponse { header: Some(door.header(result.revision)), count: result.count, ..Default::default() };
        out.send(pb::RangeStreamResponse { range_response: Some(response) }).await;
        return Ok(());
    }
    let header_revision = door.context.store.revision();
    let at = if query.revision > 0 { query.revision } else { header_revision };
    if at > header_revision {
        return Err(Refusal::FutureRevision.into());
    }
    let total = if query.limit > 0 { query.limit } else { i64::MAX };
    let target = door.limits.max_request_bytes;
    // Values that decide the order are read even when only keys are sent.
    let keys_only = query.keys_only && query.sort_target() == entry::SortTarget::Key;
    let mut chunk_keys = FIRST_CHUNK_KEYS.min(total);
    let mut range = KeyRange::from_request(&query.key, &query.range_end);
    let mut sent = 0;
    loop {
        let (from, keys) = (range, chunk_keys as usize);
        let Page { kvs, next } =
            door.read(chunk_keys <= FIRST_CHUNK_KEYS, move |store| store.page(&from, at, keys, 2 * target, keys_only)).await?;
        let kvs = sorted_chunk(kvs, query.sort_target(), query.keys_only)?;
        sent += kvs.len() as i64;
        let bytes = kvs.iter().map(|kv| kv.0.len()).sum();
        let mut response = pb::RangeResponse { kvs, ..Default::default() };
        let rest = next.map(|key| KeyRange::from_request(&key, &query.range_end));
        let rest = match rest {
            Some(rest) if sent < total => rest,
            over => {
                response.header = Some(door.header(header_revision));
                response.more = over.is_some();
                response.count = sent;
                if let Some(rest) = over {
                    response.count += door.read(false, move |store| store.count(&rest, at)).await?;
                }
                out.send(pb::RangeStreamResponse { range_response: Some(response) }).await;
                return Ok(());
            }
        };
        range = rest;
        out.send(pb::RangeStreamResponse { range_response: Some(response) }).await;
        chunk_keys = next_chunk_keys(chunk_keys, bytes, target).min(total - sent);
    }
}

/// Keys for the next chunk, so that chunks come near `target` bytes: twice as many below half of it, half as many above twice.
fn next_chunk_keys(keys: i64, bytes: usize, target: usize) -> i64 {
    if bytes < target / 2 {
        keys.saturating_mul(2)
    } else if bytes > target * 2 {
        (keys / 2).max(1)
    } else {
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A comparison over a range counts as much as a range that is read.
    #[test]
    fn ranges_of_a_transaction() {
        let range = |end: &'static str| entry::Op {
            op: Some(entry::op::Op::Range(entry::Range { key: "a".into(), range_end: end.into(), ..Default::default() })),
        };
        let compare = |end: &'static str| entry::Compare { key: "a".into(), range_end: end.into(), ..Default::default() };
        let txn = |compared: &'static str, read: &'static str| entry::Txn {
            compare: vec![compare(""), compare(compared)],
            success: vec![range("")],
            failure: vec![range(read)],
        };
        assert!(reads_single_keys(&txn("", "")));
        assert!(!reads_single_keys(&txn("b", "")));
        assert!(!reads_single_keys(&txn("", "b")));
    }

    /// Chunks grow while they are small, shrink while they are large, rest between, and never reach zero keys.
    #[test]
    fn chunk_size_follows_bytes() {
        let target = 1000;
        assert_eq!(next_chunk_keys(10, 499, target), 20);
        assert_eq!(next_chunk_keys(10, 500, target), 10);
        assert_eq!(next_chunk_keys(10, 2000, target), 10);
        assert_eq!(next_chunk_keys(10, 2001, target), 5);
        assert_eq!(next_chunk_keys(1, 5000, target), 1);
    }
}
