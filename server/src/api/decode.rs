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
    let filters = [query.min_mod_revision, query.max_mod_revision, query.min_create_revision, query.max_create_revision];
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

#[cfg(test)]
mod tests {
    use pb::{compare::TargetUnion, request_op::Request};

    use super::*;

    fn range_of(key: &str) -> pb::RangeRequest {
        pb::RangeRequest { key: key.to_string().into(), ..Default::default() }
    }

    fn op(request: Request) -> pb::RequestOp {
        pb::RequestOp { request: Some(request) }
    }

    fn put_op(key: &str) -> pb::RequestOp {
        op(Request::RequestPut(pb::PutRequest { key: key.to_string().into(), ..Default::default() }))
    }

    fn delete_op(key: &str, end: &str) -> pb::RequestOp {
        let (key, range_end) = (key.to_string().into(), end.to_string().into());
        op(Request::RequestDeleteRange(pb::DeleteRangeRequest { key, range_end, prev_kv: false }))
    }

    fn txn_op(success: Vec<pb::RequestOp>, failure: Vec<pb::RequestOp>) -> pb::RequestOp {
        op(Request::RequestTxn(pb::TxnRequest { compare: vec![], success, failure }))
    }

    /// A transaction of `success`, held to a budget of 128: passes with None, else is refused.
    fn check(success: Vec<pb::RequestOp>, expect: Option<Refusal>) {
        let request = pb::TxnRequest { success: success.clone(), ..Default::default() };
        assert_eq!(txn(request, 128).err(), expect, "success: {success:?}");
        let request = pb::TxnRequest { failure: success.clone(), ..Default::default() };
        assert_eq!(txn(request, 128).err(), expect, "failure: {success:?}");
    }

    /// Ranges need a key and known sort options; streamed ones also key order and no filters.
    #[test]
    fn range_refusals() {
        assert_eq!(range(range_of("")).err(), Some(Refusal::EmptyKey));
        assert_eq!(range(pb::RangeRequest { sort_order: 9, ..range_of("") }).err(), Some(Refusal::EmptyKey));
        assert_eq!(range(pb::RangeRequest { sort_order: 3, ..range_of("k") }).err(), Some(Refusal::InvalidSortOption));
        assert_eq!(range(pb::RangeRequest { sort_target: 5, ..range_of("k") }).err(), Some(Refusal::InvalidSortOption));
        assert_eq!(range(pb::RangeRequest { sort_target: -1, ..range_of("k") }).err(), Some(Refusal::InvalidSortOption));
        for (sort_order, sort_target, refused) in [(0, 0, false), (0, 4, false), (1, 0, false), (2, 0, true), (1, 3, true)] {
            let request = pb::RangeRequest { sort_order, sort_target, ..range_of("k") };
            let expect = refused.then_some(Refusal::StreamSortUnsupported);
            assert_eq!(range_stream(request).err(), expect, "{sort_order} {sort_target}");
        }
        let filtered = pb::RangeRequest { max_create_revision: 1, ..range_of("k") };
        assert_eq!(range_stream(filtered).err(), Some(Refusal::StreamFilterUnsupported));
    }

    /// Puts need a key, and no value or lease that they ask to be ignored.
    #[test]
    fn put_refusals() {
        let request = |key: &str, value: &str| pb::PutRequest {
            key: key.to_string().into(),
            value: value.to_string().into(),
            ..Default::default()
        };
        assert_eq!(put(request("", "")).err(), Some(Refusal::EmptyKey));
        assert_eq!(put(pb::PutRequest { ignore_value: true, ..request("k", "v") }).err(), Some(Refusal::ValueProvided));
        assert_eq!(put(pb::PutRequest { ignore_lease: true, lease: 1, ..request("k", "") }).err(), Some(Refusal::LeaseProvided));
        assert!(put(pb::PutRequest { ignore_value: true, ignore_lease: true, ..request("k", "") }).is_ok());
        assert_eq!(delete_range(pb::DeleteRangeRequest::default()).err(), Some(Refusal::EmptyKey));
    }

    /// A put's bytes are those of the request, not a copy.
    #[test]
    fn put_moves_its_bytes() {
        let request = pb::PutRequest { key: "key".into(), value: vec![7; 100].into(), ..Default::default() };
        let (key, value) = (request.key.as_ptr(), request.value.as_ptr());
        let put = put(request).unwrap();
        assert_eq!((put.key.as_ptr(), put.value.as_ptr()), (key, value));
    }

    /// The budget counts the longest list, and a nested transaction has only what is left above it.
    #[test]
    fn txn_budget() {
        let range_op = || op(Request::RequestRange(range_of("k")));
        let compare = || pb::Compare { key: "k".into(), ..Default::default() };
        let with = |compares: usize, success: usize, failure: usize| pb::TxnRequest {
            compare: vec![compare(); compares],
            success: vec![range_op(); success],
            failure: vec![range_op(); failure],
        };
        assert!(txn(with(3, 3, 3), 3).is_ok());
        for request in [with(4, 0, 0), with(0, 4, 0), with(0, 0, 4)] {
            assert_eq!(txn(request, 3).err(), Some(Refusal::TooManyOps));
        }
        let nested = |inner: usize| pb::TxnRequest { success: vec![txn_op(vec![range_op(); inner], vec![])], ..Default::default() };
        assert!(txn(nested(2), 3).is_ok());
        assert_eq!(txn(nested(3), 3).err(), Some(Refusal::TooManyOps));
        // The budget is looked at before the keys.
        assert_eq!(
            txn(pb::TxnRequest { compare: vec![pb::Compare::default(); 2], ..Default::default() }, 1).err(),
            Some(Refusal::TooManyOps)
        );
    }

    /// Nesting is bounded well below what a log entry can be read back with, whatever the budget.
    #[test]
    fn txn_depth() {
        let nest = |depth: usize| {
            let mut request = pb::TxnRequest::default();
            for _ in 0..depth {
                request = pb::TxnRequest { success: vec![op(Request::RequestTxn(request))], ..Default::default() };
            }
            request
        };
        let deepest = txn(nest(MAX_TXN_DEPTH), 1000).unwrap();
        assert_eq!(txn(nest(MAX_TXN_DEPTH + 1), 1000).err(), Some(Refusal::TooManyOps));
        let command = entry::Command { op: Some(entry::command::Op::Txn(deepest)) };
        let batch = entry::Batch {
            proposals: vec![entry::Proposal { command: Some(command), ..Default::default() }],
            ..Default::default()
        };
        assert_eq!(entry::Batch::decode(&batch.encode_to_vec()[..]).unwrap(), batch);
    }

    /// Comparisons need a key and known options; an operand of another kind than the target counts as zero.
    #[test]
    fn compare_refusals() {
        let decoded = |compare: pb::Compare| txn(pb::TxnRequest { compare: vec![compare], ..Default::default() }, 1);
        let good =
            pb::Compare { key: "k".into(), target: 2, target_union: Some(TargetUnion::ModRevision(5)), ..Default::default() };
        assert_eq!(decoded(good.clone()).unwrap().compare[0].number, 5);
        assert_eq!(
            decoded(pb::Compare { target_union: Some(TargetUnion::Version(5)), ..good.clone() }).unwrap().compare[0].number,
            0
        );
        assert_eq!(decoded(pb::Compare { key: "".into(), ..good.clone() }).err(), Some(Refusal::EmptyKey));
        assert_eq!(decoded(pb::Compare { target: 5, ..good.clone() }).err(), Some(Refusal::UnknownCompare));
        assert_eq!(decoded(pb::Compare { result: 4, ..good }).err(), Some(Refusal::UnknownCompare));
    }

    /// Operations are checked like requests of their own, in order; an empty one is etcd's "key not found".
    #[test]
    fn txn_op_refusals() {
        check(vec![pb::RequestOp::default()], Some(Refusal::KeyNotFound));
        check(vec![put_op(""), pb::RequestOp::default()], Some(Refusal::EmptyKey));
        check(vec![txn_op(vec![delete_op("", "")], vec![])], Some(Refusal::EmptyKey));
        check(vec![], None);
    }

    /// No key is put twice, or put and deleted, on one path; deletions may overlap, and branches exclude each other.
    #[test]
    fn txn_overlaps() {
        let duplicate = Some(Refusal::DuplicateKey);
        check(vec![put_op("a"), put_op("b")], None);
        check(vec![put_op("a"), put_op("a")], duplicate);
        check(vec![put_op("a"), delete_op("a", "")], duplicate);
        check(vec![delete_op("a", "c"), put_op("b")], duplicate);
        check(vec![delete_op("a", "b"), put_op("b")], None);
        check(vec![delete_op("b", "a"), put_op("b")], None);
        check(vec![delete_op("a", "\0"), put_op("z")], duplicate);
        check(vec![delete_op("a", ""), delete_op("a", "c"), delete_op("a", "")], None);
        // Nested.
        check(vec![txn_op(vec![put_op("a")], vec![put_op("a")])], None);
        check(vec![txn_op(vec![put_op("a")], vec![delete_op("a", "")])], None);
        check(vec![txn_op(vec![put_op("a")], vec![]), put_op("a")], duplicate);
        check(vec![txn_op(vec![], vec![put_op("a")]), put_op("a")], duplicate);
        check(vec![txn_op(vec![delete_op("a", "c")], vec![]), put_op("b")], duplicate);
        check(vec![delete_op("a", "c"), txn_op(vec![put_op("b")], vec![])], duplicate);
        check(vec![txn_op(vec![put_op("a")], vec![]), txn_op(vec![], vec![put_op("a")])], duplicate);
        check(vec![txn_op(vec![put_op("b")], vec![]), txn_op(vec![delete_op("a", "c")], vec![])], duplicate);
        check(vec![txn_op(vec![put_op("a"), put_op("a")], vec![])], duplicate);
        check(vec![txn_op(vec![put_op("a")], vec![put_op("b")]), txn_op(vec![put_op("c")], vec![delete_op("d", "e")])], None);
    }

    /// A transaction is read-only without writes and nested transactions; without operations it even needs no agreement.
    #[test]
    fn txn_kinds() {
        let kind = |success: Vec<pb::RequestOp>| {
            let txn = txn(pb::TxnRequest { success, ..Default::default() }, 128).unwrap();
            (is_read_only(&txn), is_serializable(&txn))
        };
        let read = |serializable| op(Request::RequestRange(pb::RangeRequest { serializable, ..range_of("k") }));
        assert_eq!(kind(vec![]), (true, true));
        assert_eq!(kind(vec![read(true)]), (true, true));
        assert_eq!(kind(vec![read(true), read(false)]), (true, false));
        assert_eq!(kind(vec![put_op("k")]), (false, false));
        assert_eq!(kind(vec![txn_op(vec![], vec![])]), (false, false));
    }

    /// What is too large for the log is refused by its encoded size.
    #[test]
    fn command_size() {
        let put = |value: usize| {
            entry::command::Op::Put(entry::Put { key: "k".into(), value: vec![0; value].into(), ..Default::default() })
        };
        let size = entry::Command { op: Some(put(1000)) }.encoded_len();
        assert!(command(put(1000), size).is_ok());
        assert_eq!(command(put(1001), size).err(), Some(Refusal::RequestTooLarge));
    }
}
