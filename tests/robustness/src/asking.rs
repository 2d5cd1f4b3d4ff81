//! An operation on its way: from the form in which it is checked into a call, and the answer back.
//!
//! Invariant: only an answer that says so counts as done, only an error that proves it as not done; everything else may have
//! happened or may yet.

use quorate::mvcc::{RangeResult, ReadError};
use quorate::state::{Answer, ApplyError, Outcome, TxnOpOutcome, TxnOutcome};
use quorate_client::{Client, Code, Error};
use quorate_proto::entry::command::Op;
use quorate_proto::entry::{self, CompareTarget, op};
use quorate_proto::etcdserverpb as pb;
use sim::ops::Told;

fn range(q: &entry::Range) -> pb::RangeRequest {
    pb::RangeRequest {
        key: q.key.clone(),
        range_end: q.range_end.clone(),
        limit: q.limit,
        revision: q.revision,
        serializable: q.serializable,
        ..Default::default()
    }
}

fn put(p: &entry::Put) -> pb::PutRequest {
    pb::PutRequest { key: p.key.clone(), value: p.value.clone(), lease: p.lease, prev_kv: p.prev_kv, ..Default::default() }
}

fn delete(d: &entry::DeleteRange) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest { key: d.key.clone(), range_end: d.range_end.clone(), prev_kv: d.prev_kv }
}

fn compare(c: &entry::Compare) -> pb::Compare {
    use pb::compare::TargetUnion;
    let target = match c.target() {
        CompareTarget::Version => TargetUnion::Version(c.number),
        CompareTarget::Create => TargetUnion::CreateRevision(c.number),
        CompareTarget::Mod => TargetUnion::ModRevision(c.number),
        CompareTarget::Lease => TargetUnion::Lease(c.number),
        CompareTarget::Value => TargetUnion::Value(c.value.clone()),
    };
    // Both enumerations are etcd's on the wire for targets; results are told apart by name.
    let result = match c.result() {
        entry::CompareResult::Equal => pb::compare::CompareResult::Equal,
        entry::CompareResult::Greater => pb::compare::CompareResult::Greater,
        entry::CompareResult::Less => pb::compare::CompareResult::Less,
        entry::CompareResult::NotEqual => pb::compare::CompareResult::NotEqual,
    };
    let mut out = pb::Compare { key: c.key.clone(), target_union: Some(target), ..Default::default() };
    out.set_result(result);
    out.set_target(match c.target() {
        CompareTarget::Version => pb::compare::CompareTarget::Version,
        CompareTarget::Create => pb::compare::CompareTarget::Create,
        CompareTarget::Mod => pb::compare::CompareTarget::Mod,
        CompareTarget::Lease => pb::compare::CompareTarget::Lease,
        CompareTarget::Value => pb::compare::CompareTarget::Value,
    });
    out
}

fn part(o: &entry::Op) -> pb::RequestOp {
    use pb::request_op::Request;
    let request = o.op.as_ref().and_then(|o| match o {
        op::Op::Range(q) => Some(Request::RequestRange(range(q))),
        op::Op::Put(p) => Some(Request::RequestPut(put(p))),
        op::Op::DeleteRange(d) => Some(Request::RequestDeleteRange(delete(d))),
        op::Op::Txn(_) => None,
    });
    pb::RequestOp { request }
}

fn txn(t: &entry::Txn) -> pb::TxnRequest {
    pb::TxnRequest {
        compare: t.compare.iter().map(compare).collect(),
        success: t.success.iter().map(part).collect(),
        failure: t.failure.iter().map(part).collect(),
    }
}

fn revision(header: Option<&pb::ResponseHeader>) -> i64 {
    header.map_or(0, |h| h.revision)
}

fn read(a: pb::RangeResponse) -> RangeResult {
    RangeResult { revision: revision(a.header.as_ref()), kvs: a.kvs, more: a.more, count: a.count }
}

fn parts(answer: pb::TxnResponse) -> TxnOutcome {
    use pb::response_op::Response;
    let one = |r: pb::ResponseOp| match r.response {
        Some(Response::ResponseRange(a)) => TxnOpOutcome::Range(read(a)),
        Some(Response::ResponsePut(a)) => TxnOpOutcome::Put { revision: revision(a.header.as_ref()), prev: a.prev_kv },
        Some(Response::ResponseDeleteRange(a)) => {
            TxnOpOutcome::DeleteRange { revision: revision(a.header.as_ref()), deleted: a.deleted, prev: a.prev_kvs }
        }
        _ => TxnOpOutcome::Txn(TxnOutcome::default(), 0),
    };
    TxnOutcome { succeeded: answer.succeeded, ops: answer.responses.into_iter().map(one).collect() }
}

fn done(header: Option<&pb::ResponseHeader>, outcome: Outcome) -> Told {
    Told::Answer(Answer { revision: revision(header), term: 0, result: Ok(outcome) })
}

/// Sends an operation and says how it ended.
pub async fn ask(client: &Client, op: &Op) -> Told {
    ask_as(client, op, false).await
}

/// The same, with reads sent as serializable when they are to be `stale`: the check must then find some that are.
pub async fn ask_as(client: &Client, op: &Op, stale: bool) -> Told {
    let asked = match op {
        Op::Put(p) => client.put(put(p)).await.map(|a| done(a.header.as_ref(), Outcome::Put { prev: a.prev_kv })),
        Op::DeleteRange(d) => client.delete_range(delete(d)).await.map(|a| {
            let outcome = Outcome::DeleteRange { deleted: a.deleted, prev: a.prev_kvs };
            done(a.header.as_ref(), outcome)
        }),
        Op::Txn(t) => client.txn(txn(t)).await.map(|a| {
            let header = a.header;
            done(header.as_ref(), Outcome::Txn(parts(a)))
        }),
        Op::Compact(c) => {
            let request = pb::CompactionRequest { revision: c.revision, ..Default::default() };
            client.compact(request).await.map(|a| done(a.header.as_ref(), Outcome::Compact))
        }
        Op::LeaseGrant(g) => {
            let request = pb::LeaseGrantRequest { id: g.id, ttl: g.ttl };
            client.lease_grant(request).await.map(|a| done(a.header.as_ref(), Outcome::LeaseGrant { id: a.id, ttl: a.ttl }))
        }
        Op::LeaseRevoke(r) => {
            let request = pb::LeaseRevokeRequest { id: r.ids[0] };
            client.lease_revoke(request).await.map(|a| done(a.header.as_ref(), Outcome::LeaseRevoke))
        }
        Op::Range(q) => client
            .range(pb::RangeRequest { serializable: q.serializable || stale, ..range(q) })
            .await
            .map(|a| Told::Read(Ok(read(a)))),
        other => return Told::Refused(format!("the clients here do not ask {other:?}")),
    };
    asked.unwrap_or_else(|e| failed(op, &e))
}

/// What an error says about the operation.
fn failed(op: &Op, error: &Error) -> Told {
    let refused = |e: ApplyError| Told::Answer(Answer { revision: 0, term: 0, result: Err(e) });
    let text = match error {
        Error::Connect(text) => return Told::Refused(text.clone()),
        Error::Server { message, .. } => message.strip_prefix("etcdserver: ").unwrap_or(message),
        _ => return Told::Nothing,
    };
    match (text, op) {
        ("mvcc: required revision has been compacted", Op::Range(_)) => return Told::Read(Err(ReadError::Compacted)),
        ("mvcc: required revision is a future revision", Op::Range(_)) => return Told::Read(Err(ReadError::FutureRevision)),
        ("mvcc: required revision has been compacted", _) => return refused(ApplyError::Compacted),
        ("mvcc: required revision is a future revision", _) => return refused(ApplyError::FutureRevision),
        ("requested lease not found", _) => return refused(ApplyError::LeaseNotFound),
        ("too many requests" | "mvcc: database space exceeded" | "rpc not supported for learner", _) => {
            return Told::Refused(text.to_string());
        }
        _ => {}
    }
    // Nothing that the clients here ask is malformed or out of order.
    match error.code() {
        Some(Code::InvalidArgument | Code::FailedPrecondition | Code::NotFound | Code::DataLoss | Code::Unimplemented) => {
            match op {
                Op::Range(_) => Told::Read(Err(ReadError::Io(text.to_string()))),
                _ => refused(ApplyError::Internal(text.to_string())),
            }
        }
        _ => Told::Nothing,
    }
}
