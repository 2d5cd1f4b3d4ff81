//! Locks and elections made of keys, the way etcd's own clients make them, so that programs in other languages can take part.
//!
//! A contender puts the key `NAME/LEASE` (lease in hex) under its lease. Among the keys below `NAME/` the oldest wins; each
//! other contender waits for those older than itself to go.
//!
//! Invariant: a key lives no longer than its session's lease. Whoever loses the session has lost the lock.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_proto::etcdserverpb::{
    Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RangeRequest, RangeResponse, RequestOp,
    ResponseHeader, ResponseOp, TxnRequest, WatchCreateRequest, compare, range_request, request_op, response_op,
};
use quorate_proto::mvccpb::{KeyValue, event::EventType};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::keep_alive::KeepAlive;
use crate::keys::prefix_end;

/// A lease that is kept alive in the background until the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Session {
    client: Client,
    lease: i64,
    lost: watch::Receiver<bool>,
    _task: Arc<AbortOnDrop>,
}

#[derive(Debug)]
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Session {
    /// Grants a lease of `ttl` seconds and keeps it alive.
    pub async fn open(client: &Client, ttl: i64) -> Result<Self> {
        let granted = client.lease_grant(LeaseGrantRequest { ttl, id: 0 }).await?;
        let expires = Instant::now() + Duration::from_secs(granted.ttl.max(0).unsigned_abs());
        Ok(Self::kept(client, granted.id, client.keep_alive_until(granted.id, expires)))
    }

    /// Keeps a lease alive that exists already.
    pub fn with_lease(client: &Client, lease: i64) -> Self {
        Self::kept(client, lease, client.keep_alive(lease))
    }

    fn kept(client: &Client, lease: i64, mut keep_alive: KeepAlive) -> Self {
        let (lose, lost) = watch::channel(false);
        let task = tokio::spawn(async move {
            while keep_alive.next().await.is_ok() {}
            lose.send_replace(true);
        });
        Self { client: client.clone(), lease, lost, _task: Arc::new(AbortOnDrop(task.abort_handle())) }
    }

    /// The lease's id.
    pub fn lease(&self) -> i64 {
        self.lease
    }

    /// Returns once the lease is lost.
    pub async fn lost(&self) {
        let mut lost = self.lost.clone();
        // An error means that the task is gone, and with it the renewals.
        let _ = lost.wait_for(|lost| *lost).await;
    }

    /// Revokes the lease, and with it everything that hangs on it.
    pub async fn close(self) -> Result<()> {
        self.client.lease_revoke(LeaseRevokeRequest { id: self.lease }).await.map(|_| ())
    }

    fn key(&self, prefix: &[u8]) -> Bytes {
        [prefix, format!("{:x}", self.lease).as_bytes()].concat().into()
    }
}

/// What a winner holds.
#[derive(Debug, Clone)]
pub struct Won {
    /// The contender's key.
    pub key: Bytes,
    /// The revision that created the key: the place in the queue.
    pub revision: i64,
    /// The header of the last answer that was needed.
    pub header: Option<ResponseHeader>,
}

/// A lock.
#[derive(Debug)]
pub struct Mutex {
    session: Session,
    prefix: Bytes,
}

impl Mutex {
    /// The lock of that name, for this session.
    pub fn new(session: &Session, name: &[u8]) -> Self {
        Self { session: session.clone(), prefix: [name, b"/"].concat().into() }
    }

    /// Waits until the lock is ours. Dropping the future leaves the key behind, up to the session's end: call [`Mutex::unlock`].
    pub async fn lock(&self) -> Result<Won> {
        let (won, owner) = enter(&self.session, &self.prefix, Bytes::new()).await?;
        if owner.is_none_or(|owner| owner.create_revision == won.revision) {
            return Ok(won);
        }
        wait_for_older(&self.session, &self.prefix, &won).await
    }

    /// Gives the lock back, or leaves the queue.
    pub async fn unlock(&self) -> Result<()> {
        leave(&self.session, &self.prefix).await
    }
}

/// An election.
#[derive(Debug)]
pub struct Election {
    session: Session,
    prefix: Bytes,
}

impl Election {
    /// The election of that name, for this session.
    pub fn new(session: &Session, name: &[u8]) -> Self {
        Self { session: session.clone(), prefix: [name, b"/"].concat().into() }
    }

    /// Waits until we are the leader, with `value` for all to see.
    pub async fn campaign(&self, value: Bytes) -> Result<Won> {
        let (won, owner) = enter(&self.session, &self.prefix, value).await?;
        if owner.is_none_or(|owner| owner.create_revision == won.revision) {
            return Ok(won);
        }
        wait_for_older(&self.session, &self.prefix, &won).await
    }

    /// Gives leadership up, or leaves the queue.
    pub async fn resign(&self) -> Result<()> {
        leave(&self.session, &self.prefix).await
    }

    /// Calls `each` with the leader's pair, now and whenever the leader or its value changes. Returns only with an error: the
    /// server's, or what `each` returned.
    pub async fn observe(client: &Client, name: &[u8], mut each: impl FnMut(&RangeResponse) -> Result<()>) -> Result<()> {
        let prefix: Bytes = [name, b"/"].concat().into();
        loop {
            let answer = client.range(oldest(&prefix)).await?;
            let revision = answer.header.as_ref().map_or(0, |header| header.revision);
            let leader = match answer.kvs.first() {
                Some(leader) => leader.decode().map_err(broken)?,
                None => {
                    wait_for_put(client, &prefix, revision + 1).await?;
                    continue;
                }
            };
            each(&answer)?;
            follow(client, &leader, revision + 1, &mut each).await?;
        }
    }
}

/// Puts this session's key unless it is there already; tells where in the queue it stands and who is first.
async fn enter(session: &Session, prefix: &Bytes, value: Bytes) -> Result<(Won, Option<KeyValue>)> {
    let key = session.key(prefix);
    let absent = Compare {
        result: compare::CompareResult::Equal as i32,
        target: compare::CompareTarget::Create as i32,
        key: key.clone(),
        range_end: Bytes::new(),
        target_union: Some(compare::TargetUnion::CreateRevision(0)),
    };
    let put = PutRequest { key: key.clone(), value: value.clone(), lease: session.lease, ..PutRequest::default() };
    let mine = RangeRequest { key: key.clone(), ..RangeRequest::default() };
    let first = request_op::Request::RequestRange(oldest(prefix));
    let request = TxnRequest {
        compare: vec![absent],
        success: vec![op(request_op::Request::RequestPut(put.clone())), op(first.clone())],
        failure: vec![op(request_op::Request::RequestRange(mine)), op(first)],
    };
    let answer = session.client.txn(request).await?;
    let mut revision = answer.header.as_ref().map_or(0, |header| header.revision);
    if !answer.succeeded {
        let mine = pair_of(answer.responses.first())?.ok_or(Error::LeaseLost)?;
        revision = mine.create_revision;
        if mine.value != value {
            session.client.put(put).await?;
        }
    }
    let owner = pair_of(answer.responses.get(1))?;
    Ok((Won { key, revision, header: answer.header }, owner))
}

/// Waits until no key below the prefix is older than ours, then makes sure that ours is still there.
async fn wait_for_older(session: &Session, prefix: &Bytes, won: &Won) -> Result<Won> {
    let wait = async {
        loop {
            let newest_older = RangeRequest {
                key: prefix.clone(),
                range_end: prefix_end(prefix).into(),
                limit: 1,
                sort_order: range_request::SortOrder::Descend as i32,
                sort_target: range_request::SortTarget::Create as i32,
                max_create_revision: won.revision - 1,
                ..RangeRequest::default()
            };
            let answer = session.client.range(newest_older).await?;
            let Some(older) = answer.kvs.first() else {
                break;
            };
            let revision = answer.header.as_ref().map_or(0, |header| header.revision);
            wait_for_delete(&session.client, older.decode().map_err(broken)?.key, revision + 1).await?;
        }
        let mine = session.client.range(RangeRequest { key: won.key.clone(), ..RangeRequest::default() }).await?;
        if mine.kvs.is_empty() {
            return Err(Error::LeaseLost);
        }
        Ok(Won { header: mine.header, ..won.clone() })
    };
    tokio::select! {
        won = wait => won,
        () = session.lost() => Err(Error::LeaseLost),
    }
}

async fn leave(session: &Session, prefix: &[u8]) -> Result<()> {
    session.client.delete_range(DeleteRangeRequest { key: session.key(prefix), ..DeleteRangeRequest::default() }).await.map(|_| ())
}

async fn wait_for_delete(client: &Client, key: Bytes, start_revision: i64) -> Result<()> {
    let mut watcher = client.watcher(WatchCreateRequest { key, start_revision, ..WatchCreateRequest::default() });
    loop {
        let answer = watcher.next().await?;
        if answer.canceled {
            return Err(canceled(&answer.cancel_reason, answer.compact_revision));
        }
        if answer.events.iter().any(|event| event.r#type() == EventType::Delete) {
            return Ok(());
        }
    }
}

async fn wait_for_put(client: &Client, prefix: &Bytes, start_revision: i64) -> Result<()> {
    let range_end = prefix_end(prefix).into();
    let mut watcher =
        client.watcher(WatchCreateRequest { key: prefix.clone(), range_end, start_revision, ..WatchCreateRequest::default() });
    loop {
        let answer = watcher.next().await?;
        if answer.canceled {
            return Err(canceled(&answer.cancel_reason, answer.compact_revision));
        }
        if answer.events.iter().any(|event| event.r#type() == EventType::Put) {
            return Ok(());
        }
    }
}

/// Reports each new value of one leader until its key goes.
async fn follow(
    client: &Client,
    leader: &KeyValue,
    start_revision: i64,
    each: &mut impl FnMut(&RangeResponse) -> Result<()>,
) -> Result<()> {
    let mut watcher =
        client.watcher(WatchCreateRequest { key: leader.key.clone(), start_revision, ..WatchCreateRequest::default() });
    loop {
        let answer = watcher.next().await?;
        if answer.canceled {
            return Err(canceled(&answer.cancel_reason, answer.compact_revision));
        }
        for event in &answer.events {
            if event.r#type() == EventType::Delete {
                return Ok(());
            }
            let kvs: Vec<_> = event.kv.iter().cloned().collect();
            let count = 1;
            each(&RangeResponse { header: answer.header, kvs, more: false, count })?;
        }
    }
}

fn oldest(prefix: &Bytes) -> RangeRequest {
    RangeRequest {
        key: prefix.clone(),
        range_end: prefix_end(prefix).into(),
        limit: 1,
        sort_order: range_request::SortOrder::Ascend as i32,
        sort_target: range_request::SortTarget::Create as i32,
        ..RangeRequest::default()
    }
}

fn op(request: request_op::Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn pair_of(answer: Option<&ResponseOp>) -> Result<Option<KeyValue>> {
    match answer.and_then(|answer| answer.response.as_ref()) {
        Some(response_op::Response::ResponseRange(range)) => {
            range.kvs.first().map(|pair| pair.decode().map_err(broken)).transpose()
        }
        _ => Ok(None),
    }
}

fn broken(error: impl std::fmt::Display) -> Error {
    Error::Server { code: tonic::Code::DataLoss, message: format!("unreadable pair: {error}") }
}

fn canceled(reason: &str, compact_revision: i64) -> Error {
    let message = match (reason, compact_revision) {
        ("", 1..) => "etcdserver: mvcc: required revision has been compacted",
        ("", _) => "watch canceled",
        (reason, _) => reason,
    };
    Error::Server { code: tonic::Code::OutOfRange, message: message.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    /// A session whose servers went away before the first renewal was answered is lost when its lease must have run out: whoever holds
    /// a lock by it has to know.
    #[tokio::test]
    async fn sessions_that_were_never_renewed_are_lost() {
        let port = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let client = Client::new(Config::new([format!("http://127.0.0.1:{port}")])).unwrap();
        let expires = Instant::now() + Duration::from_millis(200);
        let session = Session::kept(&client, 7, client.keep_alive_until(7, expires));
        tokio::time::timeout(Duration::from_secs(10), session.lost()).await.expect("it is lost");
        assert!(Instant::now() >= expires);
    }
}
