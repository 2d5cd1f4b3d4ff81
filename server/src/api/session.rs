//! What locks and elections share: sessions, the key that stands for a waiter, and waiting for those who came before.
//!
//! Both services are recipes over the key space. A waiter is a key `prefix/lease` that hangs on the caller's lease; the waiter with the lowest
//! create revision holds the lock or leads. In: the door. Out: plain results.
//! etcd runs these services through its own client, whose errors lose their gRPC code on the way: all of them leave as `Unknown`, by text.

use bytes::Bytes;
use quorate_proto::{RawKv, etcdserverpb as pb, mvccpb::KeyValue};
use tonic::{Code, Status};

use super::{Door, kv, lease, status::Refusal};
use crate::{
    types::KeyRange,
    watch::{CreateWatch, EventBlock, Filters, Limits, StreamReceiver, WatchMessage},
};

/// Time to live of a lease granted for a caller without one, in seconds.
const SESSION_TTL: i64 = 60;

/// An error as etcd's own client hands it on: the text without the code.
pub fn without_code(status: Status) -> Status {
    match status.code() {
        Code::Cancelled | Code::DeadlineExceeded => status,
        _ => Status::unknown(status.message()),
    }
}

/// The caller's lease, or a new one.
pub async fn session_lease(door: &Door, lease: i64) -> Result<i64, Status> {
    if lease != 0 {
        return Ok(lease);
    }
    Ok(lease::grant(door, pb::LeaseGrantRequest { id: 0, ttl: SESSION_TTL }).await?.id)
}

/// The prefix under which the waiters of `name` line up.
pub fn waiters_prefix(name: &[u8]) -> Bytes {
    [name, b"/"].concat().into()
}

/// The waiter's key: the lease in hexadecimal, with a sign when it is negative.
pub fn waiter_key(prefix: &[u8], lease: i64) -> Bytes {
    let sign = if lease < 0 { "-" } else { "" };
    [prefix, format!("{sign}{:x}", lease.unsigned_abs()).as_bytes()].concat().into()
}

/// The first key after every key that starts with `prefix`; `\0`, to the end, when there is none.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    match prefix.iter().rposition(|&byte| byte < 0xff) {
        Some(last) => {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            end.into()
        }
        None => Bytes::from_static(b"\0"),
    }
}

/// Asks for the oldest waiter.
pub fn oldest_waiter(prefix: &Bytes) -> pb::RangeRequest {
    pb::RangeRequest {
        key: prefix.clone(),
        range_end: prefix_end(prefix),
        limit: 1,
        sort_order: pb::range_request::SortOrder::Ascend.into(),
        sort_target: pb::range_request::SortTarget::Create.into(),
        ..Default::default()
    }
}

/// A comparison: `key` was created at `revision`, zero for not at all.
pub fn created_at(key: &Bytes, revision: i64) -> pb::Compare {
    pb::Compare {
        result: pb::compare::CompareResult::Equal.into(),
        target: pb::compare::CompareTarget::Create.into(),
        key: key.clone(),
        range_end: Bytes::new(),
        target_union: Some(pb::compare::TargetUnion::CreateRevision(revision)),
    }
}

/// A get of one key, as part of a transaction.
pub fn get(key: &Bytes) -> pb::RequestOp {
    range(pb::RangeRequest { key: key.clone(), ..Default::default() })
}

/// A range, as part of a transaction.
pub fn range(request: pb::RangeRequest) -> pb::RequestOp {
    pb::RequestOp { request: Some(pb::request_op::Request::RequestRange(request)) }
}

/// A put under a lease, as part of a transaction.
pub fn put(key: &Bytes, value: Bytes, lease: i64) -> pb::RequestOp {
    let put = pb::PutRequest { key: key.clone(), value, lease, ..Default::default() };
    pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
}

/// A deletion of one key, as part of a transaction.
pub fn delete(key: &Bytes) -> pb::RequestOp {
    let delete = pb::DeleteRangeRequest { key: key.clone(), ..Default::default() };
    pb::RequestOp { request: Some(pb::request_op::Request::RequestDeleteRange(delete)) }
}

/// The revision in an answer's header.
pub fn revision(header: Option<&pb::ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}

/// The first pair that the `index`-th operation of a transaction read.
pub fn first_pair(response: &pb::TxnResponse, index: usize) -> Result<Option<KeyValue>, Status> {
    match response.responses.get(index).and_then(|op| op.response.as_ref()) {
        Some(pb::response_op::Response::ResponseRange(range)) => range.kvs.first().map(decode).transpose(),
        _ => Err(Status::internal("transaction answered with operations of another kind")),
    }
}

/// The fields of a stored pair.
pub fn decode(kv: &RawKv) -> Result<KeyValue, Status> {
    kv.decode().map_err(|error| Status::internal(format!("stored pair is damaged: {error}")))
}

/// Waits until no waiter under `prefix` was created at or before `revision`. Waits for the youngest of them each time, so that a crowd of
/// waiters forms a line and not a stampede.
pub async fn wait_for_older(door: &Door, prefix: &Bytes, revision_limit: i64) -> Result<(), Status> {
    loop {
        let request = pb::RangeRequest {
            sort_order: pb::range_request::SortOrder::Descend.into(),
            max_create_revision: revision_limit,
            ..oldest_waiter(prefix)
        };
        let response = kv::range(door, request).await?;
        let Some(before) = response.kvs.first() else { return Ok(()) };
        let key = decode(before)?.key;
        let range = KeyRange::from_request(&key, &Bytes::new());
        let mut deletions =
            Watching::open(door, range, revision(response.header.as_ref()), Filters { no_put: true, no_delete: false });
        while deletions.next().await?.events.is_empty() {}
    }
}

/// A watch of the door's own.
pub struct Watching {
    receiver: StreamReceiver,
}

/// Events and the revision they bring the watch to.
pub struct Seen {
    /// At least one event.
    pub events: std::sync::Arc<EventBlock>,
    /// Every event at or below it has been seen.
    pub revision: i64,
}

impl Watching {
    /// Watches `range` from `start_revision` on.
    pub fn open(door: &Door, range: KeyRange, start_revision: i64, filters: Filters) -> Watching {
        let (handle, receiver) = door.context.hub.open(Limits::default());
        let create =
            CreateWatch { id: None, range, start_revision, progress_notify: false, filters, prev_kv: false, fragment: false };
        handle.create(&create);
        Watching { receiver }
    }

    /// The next events. Fails when the watch ends: compacted away, or the server stops.
    pub async fn next(&mut self) -> Result<Seen, Status> {
        loop {
            match self.receiver.recv().await {
                Some(WatchMessage::Events { events, revision, .. }) => return Ok(Seen { events, revision }),
                Some(WatchMessage::Created { .. } | WatchMessage::Progress { .. }) => {}
                Some(WatchMessage::Refused { reason, .. }) => return Err(Status::unknown(reason)),
                Some(WatchMessage::Canceled { compact_revision, .. }) if compact_revision > 0 => {
                    return Err(Refusal::Compacted.into());
                }
                Some(WatchMessage::Canceled { reason, .. }) => return Err(Status::unknown(reason)),
                None => return Err(Refusal::Stopped.into()),
            }
        }
    }
}

/// Undoes a waiter whose call ends without success, be it an error or a client that went away: left behind, it would block those after it
/// until its lease ends.
pub struct Cleanup {
    undo: Option<(std::sync::Arc<Door>, pb::TxnRequest)>,
}

impl Cleanup {
    /// Deletes `key` on drop if it still is the one created at `created`.
    pub fn of(door: &std::sync::Arc<Door>, key: &Bytes, created: i64) -> Cleanup {
        let undo = pb::TxnRequest { compare: vec![created_at(key, created)], success: vec![delete(key)], failure: vec![] };
        Cleanup { undo: Some((door.clone(), undo)) }
    }

    /// The call succeeded: nothing is undone.
    pub fn keep(mut self) {
        self.undo = None;
    }
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        let Some((door, undo)) = self.undo.take() else { return };
        // Without a runtime the server is gone, and the lease ends the waiter.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            if let Err(error) = kv::txn(&door, undo).await {
                tracing::info!(%error, "a waiter was left behind until its lease ends");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waiter keys spell leases as Go prints them, and prefix ends carry over 0xff.
    #[test]
    fn keys() {
        assert_eq!(waiter_key(b"a/", 0x1f), "a/1f");
        assert_eq!(waiter_key(b"a/", -16), "a/-10");
        assert_eq!(prefix_end(b"a/"), "a0");
        assert_eq!(prefix_end(b"a\xff"), "b");
        assert_eq!(&prefix_end(b"\xff")[..], b"\0");
    }
}
