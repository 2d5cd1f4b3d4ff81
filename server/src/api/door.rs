//! What every method passes through: counting, the learner rule, request metadata, headers, and the calls into the rooms behind.
//!
//! In: tonic requests. Out: a handler's answer, wrapped and counted.
//! Nothing here allocates for a call that succeeds, and there is no layer: a method that needs none of this pays none of it.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use quorate_proto::{entry, etcdserverpb::ResponseHeader};
use tonic::{Request, Response, Status, metadata::MetadataMap};

use super::{
    Context, Limits,
    client_version::{ClientVersions, Shape},
    counters::Method,
    decode,
    status::{Refusal, apply_status, proposal_status, propose_status, read_status},
    stream::{AnswerStream, Yielder, generate},
};
use crate::{
    mvcc::{RangeResult, ReadError, Store},
    state::{Answer, Outcome},
    telemetry::Read,
};

/// How many election timeouts without a leader a stream survives that asked for one. etcd waits as long: a reconnecting stream costs far more
/// than a refused request.
const LEADERLESS_TIMEOUTS: u32 = 3;

/// Ranges that may bring or walk over more keys than this are read on the blocking pool, so that they hold up no other connection of
/// the thread.
const INLINE_KEYS: u64 = 256;

/// The rooms behind, and the limits: what each service holds.
pub struct Door {
    /// The seam to the other rooms.
    pub context: Context,
    /// Numbers fixed at start.
    pub limits: Limits,
    versions: ClientVersions,
}

/// Whether a learner, which has no vote and may lag, serves the call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Learner {
    /// It does.
    Serves,
    /// It does not.
    Refuses,
}

impl Door {
    /// A door over `context`.
    pub fn new(context: Context, limits: Limits) -> Door {
        let versions = ClientVersions::new(context.metrics.clone());
        Door { context, limits, versions }
    }

    /// Runs a unary method. `learner` looks at the message, since a learner serves some requests of a method and not others.
    pub async fn unary<M, R, F>(
        &self,
        method: Method,
        request: Request<M>,
        learner: impl FnOnce(&M) -> Learner,
        work: impl FnOnce(M) -> F,
    ) -> Result<Response<R>, Status>
    where
        F: Future<Output = Result<R, Status>>,
    {
        let call = self.context.counters.start(method);
        call.received();
        let (metadata, _, message) = request.into_parts();
        let result = match self.admit(method, &metadata, learner(&message), Shape::Unary) {
            Ok(_) => work(message).await,
            Err(refusal) => Err(refusal.into()),
        };
        if result.is_ok() {
            call.sent();
        }
        let took = call.elapsed();
        if took >= self.limits.slow_call {
            self.slow(method, took, result.as_ref().err());
        }
        call.end(&result);
        result.map(Response::new)
    }

    /// Runs a streaming method: `work` writes its messages to the [`Outgoing`] it gets. A stream that asked for a leader is cut when there has
    /// been none for too long.
    pub fn stream<M, T, F>(
        self: &Arc<Self>,
        method: Method,
        request: Request<M>,
        learner: Learner,
        work: impl FnOnce(Arc<Door>, M, Outgoing<T>) -> F,
    ) -> Result<Response<AnswerStream<T>>, Status>
    where
        T: Send + 'static,
        F: Future<Output = Result<(), Status>> + Send + 'static,
    {
        let call = Arc::new(self.context.counters.start(method));
        let (metadata, _, message) = request.into_parts();
        let need_leader = match self.admit(method, &metadata, learner, Shape::Stream) {
            Ok(need_leader) => need_leader,
            Err(refusal) => {
                let refused = Err(refusal.into());
                if let Some(call) = Arc::into_inner(call) {
                    call.end(&refused);
                }
                return refused;
            }
        };
        let door = self.clone();
        let shows_data = method.shows_data();
        Ok(Response::new(generate(|yielder| {
            let work = work(door.clone(), message, Outgoing { yielder, call: call.clone() });
            async move {
                let result = tokio::select! {
                    result = work => result,
                    () = door.leader_lost(), if need_leader => Err(Refusal::NoLeader.into()),
                    () = door.fenced(), if shows_data => Err(Refusal::Corrupt.into()),
                };
                // The block's half of the call is gone with the block, so this is the last one.
                if let Some(call) = Arc::into_inner(call) {
                    call.end(&result);
                }
                result
            }
        })))
    }

    /// The checks before any handler, in etcd's order. Ok says whether the client asked for a leader to be known.
    fn admit(&self, method: Method, metadata: &MetadataMap, learner: Learner, shape: Shape) -> Result<bool, Refusal> {
        if method.shows_data() && self.context.node.is_fenced() {
            return Err(Refusal::Corrupt);
        }
        if learner == Learner::Refuses && self.context.node.status().is_learner {
            return Err(Refusal::NotSupportedForLearner);
        }
        let version = metadata.get("client-api-version").map(|version| version.as_encoded_bytes());
        self.versions.count(shape, version)?;
        if metadata.is_empty() {
            return Ok(false);
        }
        let need_leader = metadata.get("hasleader").is_some_and(|value| value.as_encoded_bytes() == b"true");
        if need_leader && !self.context.node.has_leader() {
            return Err(Refusal::NoLeader);
        }
        Ok(need_leader)
    }

    /// Names a call that took long, with the line etcd has for it.
    #[cold]
    fn slow(&self, method: Method, took: Duration, error: Option<&Status>) {
        let (service, name, _) = method.labels();
        let error = error.map(|status| status.message().to_string());
        tracing::warn!(
            "time spent" = ?took,
            "expected duration" = ?self.limits.slow_call,
            "response type" = format!("/{service}/{name}"),
            error,
            "request stats"
        );
    }

    /// Completes when this member has known no leader for [`LEADERLESS_TIMEOUTS`] election timeouts on end.
    async fn leader_lost(&self) {
        let patience: Duration = self.limits.election_timeout * LEADERLESS_TIMEOUTS;
        let mut leader = self.context.node.leader_changes();
        loop {
            if leader.wait_for(|&leader| leader == 0).await.is_err() {
                // The node is gone, which ends the server and this stream with it; until then there is nothing to say.
                std::future::pending::<()>().await;
            }
            tokio::select! {
                () = tokio::time::sleep(patience) => return,
                _ = leader.wait_for(|&leader| leader != 0) => {}
            }
        }
    }

    /// Completes when this member is set aside because its data differ.
    async fn fenced(&self) {
        if self.context.node.fenced().wait_for(|fenced| *fenced).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The header of an answer at `revision`, with the term this member is in.
    pub fn header(&self, revision: i64) -> ResponseHeader {
        let status = self.context.node.status();
        ResponseHeader { cluster_id: status.cluster_id, member_id: status.member_id, revision, raft_term: status.term }
    }

    /// The header of an answer that names the newest revision.
    pub fn header_now(&self) -> ResponseHeader {
        self.header(self.context.store.revision())
    }

    /// The header of an answer without a revision, as the member calls give.
    pub fn header_bare(&self) -> ResponseHeader {
        self.header(0)
    }

    /// Waits until reads here are as fresh as the cluster.
    pub async fn barrier(&self) -> Result<(), Status> {
        self.context.node.read_barrier().await.map_err(propose_status)
    }

    /// As [`Door::barrier`], for what etcd proposes and this server only reads: without a leader its time runs out in the same words.
    pub async fn barrier_as_proposal(&self) -> Result<(), Status> {
        let node = &self.context.node;
        let led = node.has_leader();
        node.read_barrier().await.map_err(|error| proposal_status(error, led || node.has_leader()))
    }

    /// Proposes `op` within the request limit and waits for its outcome, given with the answer's header.
    pub async fn propose(&self, op: entry::command::Op) -> Result<(Outcome, ResponseHeader), Status> {
        let command = decode::command(op, self.limits.max_request_bytes)?;
        let node = &self.context.node;
        let led = node.has_leader();
        let answer = node.propose(command).await.map_err(|error| proposal_status(error, led || node.has_leader()));
        let Answer { revision, result, .. } = answer?;
        let outcome = result.map_err(apply_status)?;
        Ok((outcome, self.header(revision)))
    }

    /// Reads `query`, first agreeing with the cluster unless it is serializable.
    pub async fn range(&self, query: entry::Range) -> Result<RangeResult, Status> {
        self.timed(Read::Range, self.agree_and_range(query)).await
    }

    /// Waits for `read`, and counts it among the requests as etcd does, with its time.
    pub async fn timed<T>(&self, kind: Read, read: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        let began = Instant::now();
        let result = read.await;
        self.context.metrics.read_times(kind, result.is_ok()).observe_seconds(began.elapsed());
        result
    }

    async fn agree_and_range(&self, query: entry::Range) -> Result<RangeResult, Status> {
        if !query.serializable {
            self.barrier().await?;
        }
        // However few keys a range brings, to count, to sort and to filter it may have to walk over all there are.
        let small = query.range_end.is_empty() || self.context.store.live_keys() <= INLINE_KEYS;
        let began = Instant::now();
        let result = self.read(small, move |store| store.range(&query)).await;
        self.context.metrics.range_times(result.is_ok()).observe_seconds(began.elapsed());
        result
    }

    /// Runs a read: at once when it is small, else on the blocking pool. What a member that is set aside holds is not shown.
    pub async fn read<T: Send + 'static>(
        &self,
        small: bool,
        work: impl FnOnce(&Store) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, Status> {
        let result = self.look(small, work).await;
        if self.context.node.is_fenced() {
            return Err(Refusal::Corrupt.into());
        }
        result
    }

    /// As [`Door::read`], whatever the cluster thinks of this member's data.
    pub async fn look<T: Send + 'static>(
        &self,
        small: bool,
        work: impl FnOnce(&Store) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, Status> {
        if small {
            return work(&self.context.store).map_err(read_status);
        }
        let store = self.context.store.clone();
        match tokio::task::spawn_blocking(move || work(&store)).await {
            Ok(result) => result.map_err(read_status),
            Err(error) => Err(Status::unknown(format!("read did not finish: {error}"))),
        }
    }
}

/// The error when apply answered with an outcome of another kind than was asked for: a mistake of ours, told and not hidden.
pub fn mismatched(method: Method) -> Status {
    Status::internal(format!("{method:?} was answered with an outcome of another kind"))
}

/// Where a streaming handler writes; counts what it sends.
pub struct Outgoing<T> {
    yielder: Yielder<T>,
    call: Arc<super::counters::Call>,
}

impl<T> Outgoing<T> {
    /// Sends one message; completes when the client's connection asks for more.
    pub async fn send(&mut self, message: T) {
        self.call.sent();
        self.yielder.send(message).await;
    }

    /// Counts one message from the client.
    pub fn received(&self) {
        self.call.received();
    }
}
