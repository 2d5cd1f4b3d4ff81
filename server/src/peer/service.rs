//! Service: the receiving side, mounted on the peer listener.
//!
//! In: other members' streams and calls, on whatever thread serves their connection. Out: messages and proposals for the node, in
//! the order of their stream. A caller of another cluster, or one that means another member, is refused with the reason.

use super::counts::PeerCount;
use super::gate::Gate;
use super::intake::Intake;
use super::link::Kind;
use super::{Inner, LEFT_BEHIND, REMOVED, Speaks};
use crate::node::{NodeHandle, ProposeError};
use crate::types::MemberId;
use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use quorate_proto::peer::peer_server::Peer;
use quorate_proto::peer::{
    Ack, ChangeRequest, ChangeResponse, Envelope, ForwardRequest, ForwardResponse, HashRequest, HashResponse, LeaseRenewRequest,
    LeaseRenewResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, MembersRequest, MembersResponse, SnapshotChunk,
    SnapshotReceipt,
};
use raft::eraftpb::{Message, MessageType};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, WatchStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

/// A stream says who it is within this time.
const GREETING: Duration = Duration::from_secs(5);
/// What came is acknowledged at most this often. A sender only measures round trips by it: raft answers for its messages itself.
const ACK_PAUSE: Duration = Duration::from_millis(250);
/// Keys of a lease told at most: they travel in one message.
const MAX_LEASE_IDS: usize = 10_000;

/// The newest generation of each peer's streams, by channel.
type Gates = HashMap<(MemberId, &'static str), Arc<Mutex<Gate>>>;

/// The gRPC service of this member towards its peers.
#[derive(Clone)]
pub struct Service {
    inner: Arc<Inner>,
    newest: Arc<Mutex<Gates>>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Service {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self { inner, newest: Arc::default() }
    }

    fn node(&self) -> Result<&NodeHandle, Status> {
        self.inner.node.get().ok_or_else(|| Status::unavailable("this member is still starting"))
    }

    fn check_cluster(&self, cluster: u64) -> Result<(), Status> {
        if cluster == self.inner.cluster_id {
            return Ok(());
        }
        let own = self.inner.cluster_id;
        let recoveries = self.node()?.shared().recoveries();
        if let Some(recovery) = recoveries.iter().find(|r| r.former == cluster) {
            return Err(Status::permission_denied(format!("{LEFT_BEHIND} (recovery {}, cluster {own:016x})", recovery.id)));
        }
        Err(Status::failed_precondition(format!("this member belongs to cluster {own:016x}, not to cluster {cluster:016x}")))
    }

    /// A caller of this cluster, as long as it belongs to it: a removed member is told, so that it need not find out.
    fn check_caller(&self, cluster: u64, from: MemberId) -> Result<(), Status> {
        self.check_cluster(cluster)?;
        match self.node()?.shared().is_removed(from) {
            true => Err(Status::permission_denied(REMOVED)),
            false => Ok(()),
        }
    }

    fn check_to(&self, to: MemberId) -> Result<(), Status> {
        if to == self.inner.member_id {
            return Ok(());
        }
        let own = self.inner.member_id;
        Err(Status::failed_precondition(format!(
            "this is member {own:016x}, not member {to:016x}: the addresses of the cluster are mixed up"
        )))
    }

    /// Takes a stream in: greets, then reads it in a task of its own until it ends or a newer one takes over.
    async fn receive(&self, kind: Kind, mut inbound: Streaming<Envelope>) -> Result<Response<Answers<Ack>>, Status> {
        let node = self.node()?.clone();
        let late = |_| Status::deadline_exceeded("the stream did not say whose it is");
        let hello = tokio::time::timeout(GREETING, inbound.message()).await.map_err(late)??;
        let hello = hello.ok_or_else(|| Status::invalid_argument("an empty stream"))?;
        self.check_caller(hello.cluster, hello.from)?;
        self.check_to(hello.to)?;
        let caller = self.inner.callers.lock().entry(hello.from).or_default().clone();
        // Whoever is removed from here on finds the caller's streams.
        self.check_caller(hello.cluster, hello.from)?;
        let slot = self.newest.lock().entry((hello.from, kind.name())).or_default().clone();
        if !slot.lock().admit(hello.boot, hello.generation) {
            return Err(Status::aborted("a newer stream of the same sender is open"));
        }
        if self.inner.strangers.lock().meet(&node.shared().members(), hello.from, &hello.urls) {
            self.inner.met.notify_one();
        }
        if let Some(link) = self.inner.links.load().get(&hello.from) {
            link.seen();
        }
        let (acks, received) = tokio::sync::watch::channel(1);
        let reader = Reader {
            node,
            slot,
            boot: hello.boot,
            generation: hello.generation,
            count: self.inner.counts.of(hello.from),
            from: hello.from,
        };
        let stop = self.inner.stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = caller.cancelled() => {}
                () = reader.run(inbound, acks) => {}
            }
        });
        let answers = WatchStream::new(received).map(|received| Ok(Ack { received }));
        Ok(Response::new(Box::pin(answers)))
    }

    /// How a lease question of another member is refused.
    fn lease_refusal(e: ProposeError) -> Status {
        match e {
            ProposeError::NotLeader => Status::failed_precondition(NOT_LEADER),
            e => Status::unavailable(e.to_string()),
        }
    }
}

/// The refusal that makes the asker look for the new leader.
pub(super) const NOT_LEADER: &str = "this member does not lead";

struct Reader {
    node: NodeHandle,
    slot: Arc<Mutex<Gate>>,
    boot: u64,
    generation: u64,
    count: Arc<PeerCount>,
    from: MemberId,
}

impl Reader {
    async fn run(self, mut inbound: Streaming<Envelope>, acks: tokio::sync::watch::Sender<u64>) {
        let (mut received, mut told) = (1, None::<Instant>);
        loop {
            let envelope = match inbound.message().await {
                Ok(Some(envelope)) => envelope,
                Ok(None) => return,
                Err(status) => {
                    tracing::debug!(peer = format!("{:016x}", self.from), reason = status.message(), "a stream of a peer broke");
                    return;
                }
            };
            if !self.deliver(envelope.messages) {
                return;
            }
            received += 1;
            if told.is_none_or(|at| at.elapsed() >= ACK_PAUSE) {
                told = Some(Instant::now());
                let _ = acks.send(received);
            }
        }
    }

    /// Hands messages to the node; false when this stream is over. The check and the hand-over are one step, so that nothing of an
    /// older stream comes after a newer one's first message.
    fn deliver(&self, messages: Vec<Bytes>) -> bool {
        self.count.received(messages.iter().map(Bytes::len).sum());
        let mut decoded = Vec::with_capacity(messages.len());
        for bytes in messages {
            match Message::decode(bytes) {
                // The stream's own name counts: a message cannot speak for another member.
                Ok(message) if message.from == self.from => decoded.push(message),
                Ok(_) => self.count.failed_receive(),
                Err(e) => {
                    self.count.failed_receive();
                    tracing::warn!(peer = format!("{:016x}", self.from), error = %e, "a peer sent a message that cannot be read");
                    return false;
                }
            }
        }
        if self.node.shared().is_removed(self.from) {
            // Its next stream is told why.
            return false;
        }
        let newest = self.slot.lock();
        if !newest.passes(self.boot, self.generation) {
            return false;
        }
        match self.node.peer_messages(decoded) {
            Ok(()) => true,
            // Raft sends again what it misses.
            Err(ProposeError::TooManyRequests) => {
                self.count.failed_receive();
                true
            }
            Err(_) => false,
        }
    }
}

#[tonic::async_trait]
impl Peer for Service {
    type ControlStream = Answers<Ack>;
    type AppendStream = Answers<Ack>;
    type SnapshotStream = Answers<SnapshotReceipt>;

    async fn control(&self, request: Request<Streaming<Envelope>>) -> Result<Response<Self::ControlStream>, Status> {
        self.receive(Kind::Control, request.into_inner()).await
    }

    async fn append(&self, request: Request<Streaming<Envelope>>) -> Result<Response<Self::AppendStream>, Status> {
        self.receive(Kind::Append, request.into_inner()).await
    }

    async fn snapshot(&self, request: Request<Streaming<SnapshotChunk>>) -> Result<Response<Self::SnapshotStream>, Status> {
        let node = self.node()?.clone();
        let mut inbound = request.into_inner();
        let late = |_| Status::deadline_exceeded("the stream did not say what it brings");
        let first = tokio::time::timeout(GREETING, inbound.message()).await.map_err(late)??;
        let offer = first.and_then(|c| c.offer).ok_or_else(|| Status::invalid_argument("a snapshot begins with an offer"))?;
        self.check_caller(offer.cluster, offer.from)?;
        self.check_to(offer.to)?;
        let unreadable = |e| Status::invalid_argument(format!("the announcing message cannot be read: {e}"));
        let message = Message::decode(offer.message).map_err(unreadable)?;
        if message.from != offer.from || message.get_msg_type() != MessageType::MsgSnapshot {
            return Err(Status::invalid_argument("the announcing message is not the sender's"));
        }
        let (intake, receipt) = Intake::begin(node, self.inner.counts.of(offer.from), offer.id, message).await?;
        let (answers, answered) = mpsc::channel(4);
        answers.try_send(Ok(receipt)).expect("an empty channel takes one");
        let stop = self.inner.stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = intake.run(inbound, answers) => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answered))))
    }

    async fn forward(&self, request: Request<ForwardRequest>) -> Result<Response<ForwardResponse>, Status> {
        let request = request.into_inner();
        self.check_caller(request.cluster, request.from)?;
        let answer = match self.node()?.forwarded(request.proposals) {
            Ok(()) => ForwardResponse::default(),
            Err(e) => ForwardResponse { error: e.to_string(), not_leader: e == ProposeError::NotLeader },
        };
        Ok(Response::new(answer))
    }

    async fn lease_renew(&self, request: Request<LeaseRenewRequest>) -> Result<Response<LeaseRenewResponse>, Status> {
        let request = request.into_inner();
        self.check_caller(request.cluster, request.from)?;
        if request.ids.len() > MAX_LEASE_IDS {
            return Err(Status::invalid_argument(format!("more than {MAX_LEASE_IDS} leases in one question")));
        }
        let node = self.node()?;
        let mut ttls = Vec::with_capacity(request.ids.len());
        for id in request.ids {
            ttls.push(node.renew(id).await.map_err(Self::lease_refusal)?.unwrap_or_default());
        }
        Ok(Response::new(LeaseRenewResponse { ttls, error: String::new() }))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let request = request.into_inner();
        self.check_caller(request.cluster, request.from)?;
        let node = self.node()?;
        let Some(view) = node.lease(request.id).await.map_err(Self::lease_refusal)? else {
            return Ok(Response::new(LeaseTimeToLiveResponse::default()));
        };
        let keys = match request.keys {
            true => super::lease::keys_of(node, request.id).await.map_err(Self::lease_refusal)?,
            false => Vec::new(),
        };
        let (granted_ttl, remaining_ttl) = (view.granted, view.remaining);
        Ok(Response::new(LeaseTimeToLiveResponse { found: true, granted_ttl, remaining_ttl, keys, error: String::new() }))
    }

    async fn change(&self, request: Request<ChangeRequest>) -> Result<Response<ChangeResponse>, Status> {
        let request = request.into_inner();
        self.check_caller(request.cluster, request.from)?;
        let change = request.change.ok_or_else(|| Status::invalid_argument("no change was named"))?;
        let desk = self.inner.desk.lock().clone();
        let desk = desk.ok_or_else(|| Status::unavailable("this member is still starting"))?;
        Ok(Response::new(desk.change(change).await))
    }

    async fn hash(&self, request: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        let request = request.into_inner();
        self.check_caller(request.cluster, request.from)?;
        let node = self.node()?.clone();
        let hashed = tokio::task::spawn_blocking(move || node.hash_history(request.revision)).await;
        let hashed = hashed.map_err(|e| Status::internal(format!("the hash did not finish: {e}")))?;
        hashed.map(Response::new).map_err(Status::data_loss)
    }

    async fn members(&self, request: Request<MembersRequest>) -> Result<Response<MembersResponse>, Status> {
        let request = request.into_inner();
        if request.cluster != 0 {
            self.check_cluster(request.cluster)?;
        }
        let node = self.node()?;
        let members = node.shared().members().as_ref().clone();
        let applied = node.status().applied_index;
        let recoveries = node.shared().recoveries().iter().map(|r| r.id.clone()).collect();
        let Speaks { feature_level, version, build } = self.inner.speaks.clone();
        let cluster = self.inner.cluster_id;
        Ok(Response::new(MembersResponse {
            cluster,
            members,
            applied,
            recoveries,
            feature_level,
            version,
            build,
            ..Default::default()
        }))
    }
}
