//! The customs desk: untrusted client messages become commands and queries that the inner rooms need not check again.
//!
//! In: etcd's protobuf messages. Out: [`entry`] values, or the [`Refusal`] etcd would give, found in etcd's order.
//! Key and value bytes move and are never copied.
//!
//! What holds for every value that leaves here:
//! - keys are not empty (a range end may be), sort options and compare options are known enum values;
//! - a transaction stays within the operation budget and [`MAX_TXN_DEPTH`];
//! - on any path through a transaction a key is put at most once and never both put and deleted;
//! - an encoded command fits the request limit.

use prost::Message;
use quorate_proto::{entry, etcdserverpb as pb};

use super::{overlap, status::Refusal};

/// Deepest nesting of transactions taken. etcd lets the operation budget bound it; a log entry wraps a transaction in three more messages and
/// its decoder stops at a hundred levels, two to a nesting, so the bound must keep well away from what a member could not read back.
pub const MAX_TXN_DEPTH: usize = 32;

/// A range query.
pub fn range(request: pb::RangeRequest) -> Result<entry::Range, Refusal> {
    if request.key.is_empty() {
        return Err(Refusal::EmptyKey);
    }
    if pb::range_request::SortOrder::try_from(request.sort_order).is_err()
        || pb::range_request::SortTarget::try_from(request.sort_target).is_err()
    {
        return Err(Refusal::InvalidSortOption);
    }
    Ok(entry::Range {
        key: request.key,
        range_end: request.range_end,
        limit: request.limit,
        revision: request.revision,
        sort_order: request.sort_order,
        sort_target: request.sort_target,
        serializable: request.serializable,
        keys_only: request.keys_only,
        count_only: request.count_only,
        min_mod_revision: request.min_mod_revision,
        max_mod_revision: request.max_mod_revision,
        min_create_revision: request.min_create_revision,
        max_create_revision: request.max_create_revision,
    })
}

/// A streamed range: key order only, and no revision filters, since chunks are cut in key order.
pub fn range_stream(request: pb::RangeRequest) -> Result<entry::Range, Refusal> {
    let query = range(request)?;
    let key_order = query.sort_order() == entry::SortOrder::None
        || (query.sort_target() == entry::SortTarget::Key && query.sort_order() == entry::SortOrder::Ascend);
    if !key_order {
        return Err(Refusal::StreamSortUnsupported);
    }
    let filters =
        [query.min_mod_revision, query.max_mod_revision, query.min_create_revision, query.max_create_revision];
    if filters.iter().any(|&filter| filter != 0) {
        return Err(Refusal::StreamFilterUnsupported);
    }
    Ok(query)
}

/// A put.
pub fn put(request: pb::PutRequest) -> Result<entry::Put, Refusal> {
    if request.key.is_empty() {
        return Err(Refusal::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(Refusal::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Refusal::LeaseProvided);
    }
    Ok(entry::Put {
        key: request.key,
        value: request.value,
        lease: request.lease,
        prev_kv: request.prev_kv,
        ignore_value: request.ignore_value,
        ignore_lease: request.ignore_lease,
    })
}

/// A deletion.
pub fn delete_range(request: pb::DeleteRangeRequest) -> Result<entry::DeleteRange, Refusal> {
    if request.key.is_empty() {
        return Err(Refusal::EmptyKey);
    }
    Ok(entry::DeleteRange { key: request.key, range_end: request.range_end, prev_kv: request.prev_kv })
}

/// A transaction of at most `max_ops` operations, counted as etcd counts: the longest of compares, success and failure, and a nested
/// transaction has what the levels above left over.
pub fn txn(request: pb::TxnRequest, max_ops: usize) -> Result<entry::Txn, Refusal> {
    let txn = txn_level(request, max_ops, 0)?;
    overlap::check(&txn)?;
    Ok(txn)
}

fn txn_level(request: pb::TxnRequest, max_ops: usize, depth: usize) -> Result<entry::Txn, Refusal> {
    let used = request.compare.len().max(request.success.len()).max(request.failure.len());
    if used > max_ops || depth > MAX_TXN_DEPTH {
        return Err(Refusal::TooManyOps);
    }
    let left = max_ops - used;
    let ops = |ops: Vec<pb::RequestOp>| ops.into_iter().map(|op| request_op(op, left, depth)).collect::<Result<_, _>>();
    Ok(entry::Txn {
        compare: request.compare.into_iter().map(compare).collect::<Result<_, _>>()?,
        success: ops(request.success)?,
        failure: ops(request.failure)?,
    })
}

fn request_op(op: pb::RequestOp, left: usize, depth: usize) -> Result<entry::Op, Refusal> {
    use pb::request_op::Request;
    let op = match op.request {
        Some(Request::RequestRange(request)) => entry::op::Op::Range(range(request)?),
        Some(Request::RequestPut(request)) => entry::op::Op::Put(put(request)?),
        Some(Request::RequestDeleteRange(request)) => entry::op::Op::DeleteRange(delete_range(request)?),
        Some(Request::RequestTxn(request)) => entry::op::Op::Txn(txn_level(request, left, depth + 1)?),
        None => return Err(Refusal::KeyNotFound),
    };
    Ok(entry::Op { op: Some(op) })
}

/// The operand follows the target: an operand of another kind counts as zero or empty, as it does for etcd. Unknown options are refused, since
/// an entry must mean the same to members of every version.
fn compare(compare: pb::Compare) -> Result<entry::Compare, Refusal> {
    use pb::compare::{CompareResult, CompareTarget as Target, TargetUnion as Operand};
    if compare.key.is_empty() {
        return Err(Refusal::EmptyKey);
    }
    let target = Target::try_from(compare.target).map_err(|_| Refusal::UnknownCompare)?;
    CompareResult::try_from(compare.result).map_err(|_| Refusal::UnknownCompare)?;
    let (mut number, mut value) = (0, Default::default());
    match (target, compare.target_union) {
        (Target::Version, Some(Operand::Version(operand)))
        | (Target::Create, Some(Operand::CreateRevision(operand)))
        | (Target::Mod, Some(Operand::ModRevision(operand)))
        | (Target::Lease, Some(Operand::Lease(operand))) => number = operand,
        (Target::Value, Some(Operand::Value(operand))) => value = operand,
        _ => {}
    }
    Ok(entry::Compare {
        result: compare.result,
        target: compare.target,
        key: compare.key,
        range_end: compare.range_end,
        number,
        value,
    })
}

/// Wraps `op` as a command and holds it to the request limit of `max_bytes`.
pub fn command(op: entry::command::Op, max_bytes: usize) -> Result<entry::Command, Refusal> {
    let command = entry::Command { op: Some(op) };
    if command.encoded_len() > max_bytes { Err(Refusal::RequestTooLarge) } else { Ok(command) }
}

/// True when the transaction only reads. A nested transaction counts as a write even if it only reads: it goes through the log, as in etcd.
pub fn is_read_only(txn: &entry::Txn) -> bool {
    branches(txn).all(|op| matches!(op.op, Some(entry::op::Op::Range(_))))
}

/// True when a read-only transaction asks for no agreement: every read is serializable, or there is none at all.
pub fn is_serializable(txn: &entry::Txn) -> bool {
    branches(txn).all(|op| matches!(&op.op, Some(entry::op::Op::Range(range)) if range.serializable))
}

fn branches(txn: &entry::Txn) -> impl Iterator<Item = &entry::Op> {
    txn.success.iter().chain(&txn.failure)
}
