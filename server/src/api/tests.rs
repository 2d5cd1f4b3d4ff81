//! The door over a real member: gRPC in, gRPC out, through the log and the store of a cluster of one in a temporary folder.
//!
//! A member of three whose peers never come stands for a cluster without a leader.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use quorate_proto::{
    entry,
    etcdserverpb::{
        self as pb, auth_client::AuthClient, cluster_client::ClusterClient, kv_client::KvClient, lease_client::LeaseClient,
        maintenance_client::MaintenanceClient, watch_client::WatchClient,
    },
    health,
    state::{self, Member},
    v3electionpb, v3lockpb,
};
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, watch as signal};
use tokio_stream::{
    StreamExt,
    wrappers::{ReceiverStream, TcpListenerStream},
};
use tonic::{Code, Request, Status, transport::Channel};

use super::*;
use crate::{
    base::RocksOptions,
    env::files::RealFiles,
    lease::LeaseTable,
    mvcc::{DeltaPolicy, RevisionEvents},
    node::{EventSink, Founding, Node, NodeSettings, Opened, SweepPace},
    watch::HubOptions,
};

mod deltas;

const MEMBER: u64 = 7;
const CLUSTER: u64 = 9;

struct Sink(Arc<Hub>);

impl EventSink for Sink {
    fn publish(&self, events: Vec<RevisionEvents>) {
        self.0.publish(events);
    }

    fn compacted(&self, revision: i64) {
        self.0.compacted(revision);
    }

    fn reset(&self, revision: i64) {
        self.0.reset(revision);
    }
}

/// Leases whose time stands still, so that a test knows what is left of it.
struct StillDesk(node::NodeHandle);

#[tonic::async_trait]
impl LeaseDesk for StillDesk {
    async fn renew(&self, id: i64) -> Result<i64, LeaseError> {
        self.0.shared().lease(id).map(|lease| lease.ttl).ok_or(LeaseError::NotFound)
    }

    async fn time_to_live(&self, id: i64, keys: bool) -> Result<LeaseTimes, LeaseError> {
        let lease = self.0.shared().lease(id).ok_or(LeaseError::NotFound)?;
        let keys = if keys { LeaseTable::keys(self.0.store(), id).map_err(|_| LeaseError::Stopped)? } else { vec![] };
        Ok(LeaseTimes { granted_ttl: lease.ttl, remaining_ttl: lease.ttl - 1, keys })
    }
}

/// A snapshot of three hundred bytes that says it has `claimed`.
struct Fixed {
    claimed: u64,
}

#[tonic::async_trait]
impl SnapshotSource for Fixed {
    async fn open(&self) -> Result<OpenSnapshot, SnapshotError> {
        let (blobs, receiver) = mpsc::channel(3);
        for _ in 0..3 {
            blobs.try_send(Ok(vec![5; 100].into())).map_err(|error| SnapshotError(error.to_string()))?;
        }
        Ok(OpenSnapshot { total_bytes: self.claimed, version: "3.7.0".into(), blobs: receiver })
    }
}

/// A cluster whose members are those it was formed with: every change is refused as not possible here.
struct StaticMembership;

#[tonic::async_trait]
impl Membership for StaticMembership {
    async fn add(
        &self,
        _: Vec<String>,
        _: bool,
    ) -> Result<(quorate_proto::state::Member, Vec<quorate_proto::state::Member>), MemberError> {
        Err(MemberError::NotCapable)
    }

    async fn remove(&self, _: u64) -> Result<Vec<quorate_proto::state::Member>, MemberError> {
        Err(MemberError::NotCapable)
    }

    async fn update(&self, _: u64, _: Vec<String>) -> Result<Vec<quorate_proto::state::Member>, MemberError> {
        Err(MemberError::NotCapable)
    }

    async fn promote(&self, _: u64) -> Result<Vec<quorate_proto::state::Member>, MemberError> {
        Err(MemberError::NotCapable)
    }
}

struct World {
    node: Node,
    hub: Arc<Hub>,
    channel: Channel,
    counters: Arc<Counters>,
    serving: signal::Sender<bool>,
    _dir: tempfile::TempDir,
}

impl World {
    /// A member of a cluster of `members`, with its door open; waits for a leader when it is alone.
    async fn start(members: u64, edit: impl FnOnce(&mut Limits, &mut Fixed)) -> World {
        let dir = tempfile::tempdir().unwrap();
        let settings = NodeSettings {
            data_dir: dir.path().to_path_buf(),
            wal_dir: None,
            heartbeat: Duration::from_millis(10),
            election: Duration::from_millis(100),
            pre_vote: true,
            request_timeout: Duration::from_millis(500),
            catch_up_entries: 5000,
            no_sync: true,
            rocks: RocksOptions { block_cache: 1 << 20, write_buffer: 1 << 20, background_jobs: 1 },
            delta: DeltaPolicy { freeze_bytes: 1 << 20, inline: false },
            entry_cache: 1 << 20,
            sweep: SweepPace { rows: 1000, pause: Duration::from_millis(1) },
            meter: Arc::new(()),
            checks: Default::default(),
        };
        let member = |n| Member { id: MEMBER + n, peer_urls: vec![format!("http://127.0.0.1:{}", n + 1)], ..Default::default() };
        let founding =
            Founding { cluster_id: CLUSTER, member_id: MEMBER, members: (0..members).map(member).collect(), ..Default::default() };
        let opened = Opened::open(settings, Some(&founding), RealFiles::shared()).unwrap();
        let hub = Arc::new(Hub::start(opened.store().clone(), HubOptions::default()).unwrap());
        let node = opened.run(Arc::new(()), Box::new(Sink(hub.clone()))).unwrap();
        let handle = node.handle().clone();
        tokio::spawn(handle.attach_thread());
        if members == 1 {
            handle.leader_changes().wait_for(|&leader| leader != 0).await.unwrap();
        }
        let counters = Arc::<Counters>::default();
        let (serving, is_serving) = signal::channel(true);
        let mut limits = Limits {
            max_request_bytes: 1536 * 1024,
            max_txn_ops: 128,
            quota_bytes: 2 << 30,
            election_timeout: Duration::from_millis(100),
            slow_call: Duration::from_secs(60),
            etcd_version: "3.7.3".into(),
        };
        let mut snapshots = Fixed { claimed: 300 };
        edit(&mut limits, &mut snapshots);
        let context = Context {
            node: handle.clone(),
            store: handle.store().clone(),
            shared: handle.shared().clone(),
            hub: hub.clone(),
            leases: Arc::new(StillDesk(handle.clone())),
            membership: Arc::new(StaticMembership),
            snapshots: Arc::new(snapshots),
            serving: is_serving,
            counters: counters.clone(),
            metrics: crate::telemetry::Metrics::new(false),
        };
        let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder().add_routes(routes(context, limits).0);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        World { node, hub, channel, counters, serving, _dir: dir }
    }

    async fn alone() -> World {
        World::start(1, |_, _| {}).await
    }

    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone())
    }

    fn row(&self, method: Method) -> MethodCounts {
        self.counters.read().find(|row| row.method == method).unwrap()
    }

    async fn stop(self) {
        self.hub.close();
        let node = self.node;
        tokio::task::spawn_blocking(move || node.stop()).await.unwrap();
    }
}

fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest { key: key.to_string().into(), value: value.to_string().into(), ..Default::default() }
}

fn get(key: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.to_string().into(), ..Default::default() }
}

fn value(kv: &quorate_proto::RawKv) -> String {
    String::from_utf8(kv.decode().unwrap().value.to_vec()).unwrap()
}

fn with_leader<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("hasleader", "true".parse().unwrap());
    request
}

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, text: &str) {
    let status = answer.unwrap_err();
    assert_eq!((status.code(), status.message()), (code, text));
}

/// Puts, reads, deletions and compactions carry etcd's headers, values and refusals.
#[tokio::test]
async fn keys() {
    let world = World::alone().await;
    let mut kv = world.kv();
    let header = kv.put(put("a", "1")).await.unwrap().into_inner().header.unwrap();
    assert_eq!((header.cluster_id, header.member_id, header.revision), (CLUSTER, MEMBER, 2));
    assert!(header.raft_term > 0);
    let answer = kv.put(pb::PutRequest { prev_kv: true, ..put("a", "2") }).await.unwrap().into_inner();
    assert_eq!(value(&answer.prev_kv.unwrap()), "1");
    let answer = kv.range(pb::RangeRequest { revision: 2, ..get("a") }).await.unwrap().into_inner();
    assert_eq!((answer.header.unwrap().revision, answer.count, value(&answer.kvs[0])), (3, 1, "1".into()));
    let future = kv.range(pb::RangeRequest { revision: 9, ..get("a") }).await;
    refused(future, Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision");
    refused(kv.put(put("", "")).await, Code::InvalidArgument, "etcdserver: key is not provided");
    let large = kv.put(put("k", &"x".repeat(1536 * 1024))).await;
    refused(large, Code::InvalidArgument, "etcdserver: request is too large");
    let larger = kv.put(put("k", &"x".repeat(3 << 20))).await;
    refused(larger, Code::ResourceExhausted, "grpc: received message larger than max (3145736 vs. 2097152)");
    let deletion = pb::DeleteRangeRequest { key: "a".into(), prev_kv: true, ..Default::default() };
    let answer = kv.delete_range(deletion).await.unwrap().into_inner();
    assert_eq!((answer.deleted, answer.prev_kvs.len(), answer.header.unwrap().revision), (1, 1, 4));
    let answer = kv.compact(pb::CompactionRequest { revision: 3, physical: true }).await.unwrap().into_inner();
    assert_eq!(answer.header.unwrap().revision, 4);
    let again = kv.compact(pb::CompactionRequest { revision: 3, physical: false }).await;
    refused(again, Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted");
    // Every call the handlers saw was counted once; the oversize one never reached a handler.
    let puts = world.row(Method::Put);
    assert_eq!((puts.started, puts.handled[Code::Ok as usize], puts.handled[Code::InvalidArgument as usize]), (4, 2, 2));
    world.stop().await;
}

/// The shapes kube-apiserver sends: compare on a mod revision, then put, else the current pair in the same answer.
#[tokio::test]
async fn transactions() {
    let world = World::alone().await;
    let mut kv = world.kv();
    kv.put(put("a", "1")).await.unwrap();
    let compare = pb::Compare {
        key: "a".into(),
        target: pb::compare::CompareTarget::Mod.into(),
        target_union: Some(pb::compare::TargetUnion::ModRevision(2)),
        ..Default::default()
    };
    let read = session::range(get("a"));
    let update = pb::TxnRequest {
        compare: vec![compare],
        success: vec![session::put(&"a".into(), "2".into(), 0)],
        failure: vec![read.clone()],
    };
    let answer = kv.txn(update.clone()).await.unwrap().into_inner();
    assert_eq!((answer.succeeded, answer.header.unwrap().revision), (true, 3));
    let answer = kv.txn(update).await.unwrap().into_inner();
    assert!(!answer.succeeded);
    let Some(pb::response_op::Response::ResponseRange(inner)) = &answer.responses[0].response else { panic!("{answer:?}") };
    assert_eq!(value(&inner.kvs[0]), "2");
    assert_eq!(inner.header, Some(pb::ResponseHeader { revision: 3, ..Default::default() }));
    let before = world.row(Method::Txn).handled[0];
    let answer = kv.txn(pb::TxnRequest { success: vec![read], ..Default::default() }).await.unwrap().into_inner();
    assert_eq!((answer.succeeded, answer.header.unwrap().revision, answer.responses.len()), (true, 3, 1));
    assert_eq!(world.row(Method::Txn).handled[0], before + 1);
    world.stop().await;
}

/// The metrics of keys count as etcd's do: a transaction is an access of more than one step, a deletion counts once.
#[tokio::test]
async fn counted_transactions() {
    let world = World::alone().await;
    let mut kv = world.kv();
    let counts = || {
        let stats = &world.node.handle().store().stats;
        (stats.txns.load(std::sync::atomic::Ordering::Relaxed), stats.deletes.load(std::sync::atomic::Ordering::Relaxed))
    };
    let of = |success: Vec<pb::RequestOp>| pb::TxnRequest { success, ..Default::default() };
    let (one, two) = (|| session::put(&"a".into(), "1".into(), 0), || session::put(&"b".into(), "1".into(), 0));
    kv.put(put("a", "1")).await.unwrap();
    kv.txn(of(vec![one()])).await.unwrap();
    kv.txn(of(vec![session::range(get("a"))])).await.unwrap();
    assert_eq!(counts(), (0, 0));
    kv.txn(of(vec![one(), two()])).await.unwrap();
    kv.txn(of(vec![session::range(get("a")), session::range(get("b"))])).await.unwrap();
    assert_eq!(counts(), (2, 0));
    kv.put(pb::PutRequest { prev_kv: true, ..put("a", "2") }).await.unwrap();
    assert_eq!(counts(), (3, 0));
    let both = pb::DeleteRangeRequest { key: "a".into(), range_end: "c".into(), ..Default::default() };
    assert_eq!(kv.delete_range(both.clone()).await.unwrap().into_inner().deleted, 2);
    kv.delete_range(both).await.unwrap();
    assert_eq!(counts(), (3, 2));
    world.stop().await;
}

/// Without a leader, only what needs no agreement is answered, and nothing is to whoever asks for a leader.
#[tokio::test]
async fn without_a_leader() {
    let world = World::start(3, |_, _| {}).await;
    let mut kv = world.kv();
    let serializable = pb::RangeRequest { serializable: true, ..get("a") };
    assert!(kv.txn(pb::TxnRequest::default()).await.is_ok());
    assert!(kv.range(serializable.clone()).await.is_ok());
    assert_eq!(kv.range(get("a")).await.unwrap_err().code(), Code::Unavailable);
    refused(kv.put(put("a", "1")).await, Code::DeadlineExceeded, "context deadline exceeded");
    let alarms = MaintenanceClient::new(world.channel.clone()).alarm(pb::AlarmRequest::default()).await;
    refused(alarms, Code::DeadlineExceeded, "context deadline exceeded");
    refused(kv.range(with_leader(serializable)).await, Code::Unavailable, "etcdserver: no leader");
    let mut watch = WatchClient::new(world.channel.clone());
    refused(watch.watch(with_leader(tokio_stream::pending())).await, Code::Unavailable, "etcdserver: no leader");
    let status = MaintenanceClient::new(world.channel.clone()).status(pb::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.leader, &status.errors[0][..]), (0, "etcdserver: no leader"));
    world.stop().await;
}

/// The chunks of a streamed range add up to what a range answers, whatever the limit, and only the last has a header.
#[tokio::test]
async fn streamed_range_equals_range() {
    let world = World::start(1, |limits, _| limits.max_request_bytes = 4096).await;
    let mut kv = world.kv();
    for n in 0..120 {
        kv.put(put(&format!("k{n:04}"), &"v".repeat(3 * n))).await.unwrap();
    }
    for limit in [0, 1, 10, 11, 57, 119, 120, 121] {
        let query = pb::RangeRequest { key: "k".into(), range_end: "l".into(), limit, ..Default::default() };
        let whole = kv.range(query.clone()).await.unwrap().into_inner();
        let mut stream = kv.range_stream(query).await.unwrap().into_inner();
        let (mut merged, mut chunks) = (pb::RangeResponse::default(), 0);
        while let Some(chunk) = stream.next().await {
            assert!(merged.header.is_none(), "a chunk after the last");
            let chunk = chunk.unwrap().range_response.unwrap();
            merged.kvs.extend(chunk.kvs);
            (merged.header, merged.more, merged.count) = (chunk.header, chunk.more, chunk.count);
            chunks += 1;
        }
        assert_eq!(merged, whole, "limit {limit}");
        assert!(limit != 0 || chunks > 3, "{chunks} chunks");
    }
    let count = pb::RangeRequest { key: "k".into(), range_end: "l".into(), count_only: true, ..Default::default() };
    let mut stream = kv.range_stream(count).await.unwrap().into_inner();
    let only = stream.next().await.unwrap().unwrap().range_response.unwrap();
    assert_eq!((only.count, only.kvs.len(), only.header.unwrap().revision), (120, 0, 121));
    assert!(stream.next().await.is_none());
    world.stop().await;
}

/// A watch stream: history, live events with the pair before, deletion, progress, refusals, cancel.
#[tokio::test]
async fn watches() {
    use pb::watch_request::RequestUnion;
    let world = World::alone().await;
    let mut kv = world.kv();
    kv.put(put("w1", "a")).await.unwrap();
    let (ask, asked) = mpsc::channel(10);
    let mut stream =
        WatchClient::new(world.channel.clone()).watch(with_leader(ReceiverStream::new(asked))).await.unwrap().into_inner();
    let ask = |union| {
        let ask = ask.clone();
        async move { ask.send(pb::WatchRequest { request_union: Some(union) }).await.unwrap() }
    };
    let prefix =
        pb::WatchCreateRequest { key: "w".into(), range_end: "x".into(), start_revision: 2, prev_kv: true, ..Default::default() };
    ask(RequestUnion::CreateRequest(prefix)).await;
    let answer = stream.next().await.unwrap().unwrap();
    assert_eq!((answer.created, answer.canceled, answer.watch_id), (true, false, 0));
    assert_eq!(stream.next().await.unwrap().unwrap().events.len(), 1);
    kv.put(put("w1", "b")).await.unwrap();
    let answer = stream.next().await.unwrap().unwrap();
    assert_eq!((value(answer.events[0].prev_kv.as_ref().unwrap()), answer.header.unwrap().revision), ("a".into(), 3));
    kv.delete_range(pb::DeleteRangeRequest { key: "w1".into(), ..Default::default() }).await.unwrap();
    let answer = stream.next().await.unwrap().unwrap();
    assert_eq!(answer.events[0].r#type(), quorate_proto::mvccpb::event::EventType::Delete);
    assert_eq!(answer.events[0].kv.as_ref().unwrap().decode().unwrap().mod_revision, 4);
    ask(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
    let answer = stream.next().await.unwrap().unwrap();
    assert_eq!((answer.watch_id, answer.header.unwrap().revision, answer.events.len()), (-1, 4, 0));
    let negative = pb::WatchCreateRequest { key: "w".into(), start_revision: -1, ..Default::default() };
    let empty = pb::WatchCreateRequest { key: "w".into(), range_end: "a".into(), ..Default::default() };
    let cases = [(negative, "etcdserver: mvcc: required revision has been compacted"), (empty, "mvcc: watcher range is empty")];
    for (request, reason) in cases {
        ask(RequestUnion::CreateRequest(request)).await;
        let answer = stream.next().await.unwrap().unwrap();
        assert_eq!((answer.created, answer.canceled, answer.watch_id, &answer.cancel_reason[..]), (true, true, -1, reason));
    }
    ask(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: 0 })).await;
    let answer = stream.next().await.unwrap().unwrap();
    assert_eq!((answer.canceled, answer.watch_id), (true, 0));
    assert_eq!((world.row(Method::Watch).started, world.row(Method::Watch).received), (1, 5));
    world.stop().await;
}

/// Answers to creates come in the order of the creates, those that are refused too: clients tell them apart by nothing else.
#[tokio::test]
async fn answers_to_creates_keep_their_order() {
    let world = World::alone().await;
    let starts: Vec<i64> = (0..40).map(|n| if n % 3 == 1 { -1 } else { 0 }).collect();
    let create = |start_revision: i64| {
        let create = pb::WatchCreateRequest { key: "k".into(), start_revision, ..Default::default() };
        pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) }
    };
    let requests: Vec<_> = starts.iter().map(|start| create(*start)).collect();
    let asked = tokio_stream::iter(requests).chain(tokio_stream::pending());
    let mut answers = WatchClient::new(world.channel.clone()).watch(asked).await.unwrap().into_inner();
    for start in starts {
        let answer = answers.next().await.unwrap().unwrap();
        assert_eq!((answer.created, answer.canceled), (true, start < 0));
    }
    world.stop().await;
}

/// Requests may be compressed, as etcd takes them; what is too large when unpacked is refused as if it came so.
#[tokio::test]
async fn compressed_requests() {
    let world = World::alone().await;
    let mut kv = world.kv().send_compressed(CompressionEncoding::Gzip);
    kv.put(put("k", "value")).await.unwrap();
    assert_eq!(value(&kv.range(get("k")).await.unwrap().into_inner().kvs[0]), "value");
    let create = pb::WatchCreateRequest { key: "k".into(), start_revision: 2, ..Default::default() };
    let create = pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) };
    let mut watch = WatchClient::new(world.channel.clone()).send_compressed(CompressionEncoding::Gzip);
    let asked = tokio_stream::iter([create]).chain(tokio_stream::pending());
    let mut answers = watch.watch(asked).await.unwrap().into_inner();
    assert!(answers.next().await.unwrap().unwrap().created);
    assert_eq!(answers.next().await.unwrap().unwrap().events.len(), 1);
    let large = kv.put(put("k", &"0".repeat(8 << 20))).await.unwrap_err();
    let text = "grpc: received message after decompression larger than max 2097152";
    refused::<()>(Err(large), Code::ResourceExhausted, text);
    world.stop().await;
}

/// Leases: ids of the server's choice, times, and the answers for leases that are not there.
#[tokio::test]
async fn leases() {
    let world = World::alone().await;
    let mut lease = LeaseClient::new(world.channel.clone());
    let granted = lease.lease_grant(pb::LeaseGrantRequest { id: 0, ttl: 10 }).await.unwrap().into_inner();
    assert!(granted.id > 0);
    assert_eq!(granted.ttl, 10);
    world.kv().put(pb::PutRequest { lease: granted.id, ..put("l", "") }).await.unwrap();
    let times = lease.lease_time_to_live(pb::LeaseTimeToLiveRequest { id: granted.id, keys: true }).await.unwrap().into_inner();
    assert_eq!((times.ttl, times.granted_ttl, times.keys), (9, 10, vec!["l".into()]));
    let missing = lease.lease_time_to_live(pb::LeaseTimeToLiveRequest { id: 5, keys: true }).await.unwrap().into_inner();
    assert_eq!((missing.ttl, missing.granted_ttl), (-1, 0));
    let beats = tokio_stream::iter([granted.id, 5]).map(|id| pb::LeaseKeepAliveRequest { id });
    let answers: Vec<_> =
        lease.lease_keep_alive(beats).await.unwrap().into_inner().map(|answer| answer.unwrap().ttl).collect().await;
    assert_eq!(answers, [10, 0]);
    assert_eq!(lease.lease_leases(pb::LeaseLeasesRequest {}).await.unwrap().into_inner().leases.len(), 1);
    lease.lease_revoke(pb::LeaseRevokeRequest { id: granted.id }).await.unwrap();
    let again = lease.lease_revoke(pb::LeaseRevokeRequest { id: granted.id }).await;
    refused(again, Code::NotFound, "etcdserver: requested lease not found");
    world.stop().await;
}

/// A member that the cluster set aside shows nobody what it holds, ends its watches, says so in its alarms and hashes on; a disarm
/// takes it back.
#[tokio::test]
async fn a_fenced_member_serves_nobody() {
    let world = World::alone().await;
    let mut kv = world.kv();
    kv.put(pb::PutRequest { key: "k".into(), value: "v".into(), ..Default::default() }).await.unwrap();
    let create = pb::WatchCreateRequest { key: "k".into(), ..Default::default() };
    let create = pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) };
    let asked = tokio_stream::iter([create]).chain(tokio_stream::pending());
    let mut watch = WatchClient::new(world.channel.clone()).watch(asked).await.unwrap().into_inner();
    assert!(watch.message().await.unwrap().unwrap().created);

    let fence = entry::Fence { member: MEMBER, ..Default::default() };
    let node = world.node.handle().clone();
    // It answers nothing that it applies from then on, this included.
    tokio::spawn(async move { node.propose(entry::Command { op: Some(entry::command::Op::Fence(fence)) }).await });
    let ended = watch.message().await.unwrap_err();
    assert_eq!((ended.code(), ended.message()), (Code::DataLoss, "etcdserver: corrupt cluster"));
    let refused = |status: Status| assert_eq!((status.code(), status.message()), (Code::DataLoss, "etcdserver: corrupt cluster"));
    for serializable in [false, true] {
        refused(kv.range(pb::RangeRequest { key: "k".into(), serializable, ..Default::default() }).await.unwrap_err());
    }
    refused(kv.put(pb::PutRequest { key: "k".into(), ..Default::default() }).await.unwrap_err());
    let mut maintenance = MaintenanceClient::new(world.channel.clone());
    assert!(maintenance.hash_kv(pb::HashKvRequest::default()).await.is_ok());
    let alarm = |action| pb::AlarmRequest { action, member_id: MEMBER, alarm: 2 };
    assert_eq!(maintenance.alarm(alarm(0)).await.unwrap().into_inner().alarms.len(), 1);
    assert_eq!(maintenance.alarm(alarm(2)).await.unwrap().into_inner().alarms.len(), 1);
    assert!(maintenance.alarm(alarm(0)).await.unwrap().into_inner().alarms.is_empty());
    assert_eq!(kv.range(pb::RangeRequest { key: "k".into(), ..Default::default() }).await.unwrap().into_inner().count, 1);
}

/// A write over the quota is refused and raises the alarm; disarming it lets smaller writes through.
#[tokio::test]
async fn quota_and_alarms() {
    let world = World::start(1, |limits, _| limits.quota_bytes = 4000).await;
    let mut maintenance = MaintenanceClient::new(world.channel.clone());
    let large = world.kv().put(put("q", &"x".repeat(5000))).await;
    refused(large, Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded");
    let status = maintenance.status(pb::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.errors, [format!("memberID:{MEMBER} alarm:NOSPACE")]);
    assert!(status.db_size > 0 && status.db_size_in_use > 0);
    assert_eq!((&status.version[..], &status.storage_version[..], status.leader), ("3.7.3", "3.7.0", MEMBER));
    let action = |action, member_id, alarm| pb::AlarmRequest { action, member_id, alarm };
    assert_eq!(maintenance.alarm(action(0, 0, 0)).await.unwrap().into_inner().alarms.len(), 1);
    assert_eq!(maintenance.alarm(action(2, MEMBER, 1)).await.unwrap().into_inner().alarms.len(), 1);
    assert_eq!(maintenance.alarm(action(0, 0, 0)).await.unwrap().into_inner().alarms.len(), 0);
    world.kv().put(put("q", "x")).await.unwrap();
    world.stop().await;
}

/// A snapshot ends with the checksum of its bytes, and one that ends early is an error and has none.
#[tokio::test]
async fn snapshots() {
    let world = World::alone().await;
    let mut maintenance = MaintenanceClient::new(world.channel.clone());
    let stream = maintenance.snapshot(pb::SnapshotRequest {}).await.unwrap().into_inner();
    let blobs: Vec<_> = stream.map(Result::unwrap).collect().await;
    let sizes: Vec<_> = blobs.iter().map(|answer| (answer.remaining_bytes, answer.blob.len())).collect();
    assert_eq!(sizes, [(200, 100), (100, 100), (0, 100), (0, 32)]);
    assert_eq!(&blobs[3].blob[..], &Sha256::digest([5; 300])[..]);
    world.stop().await;

    let world = World::start(1, |_, snapshots| snapshots.claimed = 301).await;
    let mut maintenance = MaintenanceClient::new(world.channel.clone());
    let stream = maintenance.snapshot(pb::SnapshotRequest {}).await.unwrap().into_inner();
    let last = stream.collect::<Vec<_>>().await.pop().unwrap();
    refused(last, Code::Unknown, "snapshot ended 1 bytes early");
    world.stop().await;
}

/// The rest of what an operator asks.
#[tokio::test]
async fn operators_calls() {
    let world = World::alone().await;
    let mut maintenance = MaintenanceClient::new(world.channel.clone());
    assert!(maintenance.defragment(pb::DefragmentRequest {}).await.is_ok());
    let target = maintenance.move_leader(pb::MoveLeaderRequest { target_id: 8 }).await;
    refused(target, Code::FailedPrecondition, "etcdserver: bad leader transferee");
    let downgrade = |action, version: &str| pb::DowngradeRequest { action, version: version.into() };
    let format = maintenance.downgrade(downgrade(0, "x")).await;
    refused(format, Code::InvalidArgument, "etcdserver: wrong downgrade target version format");
    let unknown = maintenance.downgrade(downgrade(1, "3.6")).await;
    refused(unknown, Code::FailedPrecondition, "etcdserver: cluster version not found during downgrade");
    assert_eq!(maintenance.downgrade(downgrade(2, "")).await.unwrap().into_inner().version, "3.7");
    let agreed = || {
        let version = entry::ClusterVersion { version: "3.7.0".into() };
        world.node.handle().propose(entry::Command { op: Some(entry::command::Op::ClusterVersion(version)) })
    };
    agreed().await.unwrap();
    let far = maintenance.downgrade(downgrade(0, "3.5")).await;
    refused(far, Code::InvalidArgument, "etcdserver: invalid downgrade target version");
    assert_eq!(maintenance.downgrade(downgrade(0, "3.6.0")).await.unwrap().into_inner().version, "3.7");
    refused(maintenance.downgrade(downgrade(1, "3.6")).await, Code::FailedPrecondition, "etcdserver: not capable");
    world.node.handle().raise_level(2);
    agreed().await.unwrap();
    assert_eq!(maintenance.downgrade(downgrade(1, "3.6")).await.unwrap().into_inner().version, "3.7");
    let twice = maintenance.downgrade(downgrade(1, "3.6")).await;
    refused(twice, Code::FailedPrecondition, "etcdserver: cluster has a downgrade job in progress");
    let status = maintenance.status(pb::StatusRequest {}).await.unwrap().into_inner();
    let info = status.downgrade_info.unwrap();
    assert!(info.enabled && info.target_version == "3.6.0");
    assert!(maintenance.downgrade(downgrade(2, "")).await.is_ok());
    assert!(!maintenance.status(pb::StatusRequest {}).await.unwrap().into_inner().downgrade_info.unwrap().enabled);
    let mut cluster = ClusterClient::new(world.channel.clone());
    let members = cluster.member_list(pb::MemberListRequest { linearizable: true }).await.unwrap().into_inner();
    assert_eq!((members.members.len(), members.header.unwrap().revision), (1, 0));
    // A change that may be asked for again finds what the first one did; without the word it is a change like any other.
    let url = "http://127.0.0.1:99".to_string();
    let learner = |id| state::Member { id, peer_urls: vec![url.clone()], learner: true, ..Default::default() };
    let change = |kind: state::MemberChangeKind| {
        let change = state::MemberChange { kind: kind.into(), member: Some(learner(77)), ..Default::default() };
        world.node.handle().change_members(change)
    };
    fn again<M>(message: M) -> Request<M> {
        let mut request = Request::new(message);
        request.metadata_mut().insert(cluster::REPEATABLE, "true".parse().unwrap());
        request
    }
    change(state::MemberChangeKind::AddLearner).await.unwrap().result.unwrap();
    let add = |is_learner| pb::MemberAddRequest { peer_urls: vec![url.clone()], is_learner };
    assert_eq!(cluster.member_add(again(add(true))).await.unwrap().into_inner().member.unwrap().id, 77);
    refused(cluster.member_add(again(add(false))).await, Code::FailedPrecondition, "etcdserver: not capable");
    refused(cluster.member_add(add(true)).await, Code::FailedPrecondition, "etcdserver: not capable");
    refused(
        cluster.member_remove(again(pb::MemberRemoveRequest { id: 77 })).await,
        Code::FailedPrecondition,
        "etcdserver: not capable",
    );
    change(state::MemberChangeKind::Remove).await.unwrap().result.unwrap();
    assert_eq!(cluster.member_remove(again(pb::MemberRemoveRequest { id: 77 })).await.unwrap().into_inner().members.len(), 1);
    refused(cluster.member_remove(pb::MemberRemoveRequest { id: 77 }).await, Code::FailedPrecondition, "etcdserver: not capable");

    let mut auth = AuthClient::new(world.channel.clone());
    assert!(!auth.auth_status(pb::AuthStatusRequest {}).await.unwrap().into_inner().enabled);
    let sign_in = auth.authenticate(pb::AuthenticateRequest::default()).await;
    refused(sign_in, Code::FailedPrecondition, "etcdserver: authentication is not enabled");
    let mut health = health::health_client::HealthClient::new(world.channel.clone());
    let ask = |service: &str| health::HealthCheckRequest { service: service.into() };
    refused(health.check(ask("etcd")).await, Code::NotFound, "unknown service");
    let mut changes = health.watch(ask("")).await.unwrap().into_inner();
    assert_eq!(changes.next().await.unwrap().unwrap().status(), health::health_check_response::ServingStatus::Serving);
    world.serving.send_replace(false);
    assert_eq!(changes.next().await.unwrap().unwrap().status(), health::health_check_response::ServingStatus::NotServing);
    world.stop().await;
}

/// The checksum of the history is answered at once, also while the newest writes are in memory only.
#[tokio::test]
async fn history_checksum() {
    let world = World::alone().await;
    world.kv().put(put("a", "1")).await.unwrap();
    let mut maintenance = MaintenanceClient::new(world.channel.clone());
    let hash = tokio::time::timeout(Duration::from_secs(10), maintenance.hash_kv(pb::HashKvRequest { revision: 0 }));
    let hash = hash.await.expect("the hash ends").unwrap().into_inner();
    assert_eq!((hash.hash_revision, hash.header.unwrap().revision), (2, 2));
    assert_eq!(hash.hash, maintenance.hash(pb::HashRequest {}).await.unwrap().into_inner().hash);
    world.stop().await;
}

async fn wait_for_count(kv: &mut KvClient<Channel>, key: &str, count: i64) {
    while kv.range(get(key)).await.unwrap().into_inner().count != count {
        tokio::task::yield_now().await;
    }
}

/// Locks are given in the order of the line; who gives up or has no lease leaves nothing in it.
#[tokio::test]
async fn locks() {
    let world = World::alone().await;
    let mut kv = world.kv();
    for id in [0x1f, 0x2f, 0x3f] {
        LeaseClient::new(world.channel.clone()).lease_grant(pb::LeaseGrantRequest { id, ttl: 100 }).await.unwrap();
    }
    let lock = v3lockpb::lock_client::LockClient::new(world.channel.clone());
    let take = |lease| {
        let mut lock = lock.clone();
        tokio::spawn(
            async move { lock.lock(v3lockpb::LockRequest { name: "n".into(), lease }).await.map(|held| held.into_inner().key) },
        )
    };
    assert_eq!(take(0x1f).await.unwrap().unwrap(), "n/1f");
    assert_eq!(take(0x1f).await.unwrap().unwrap(), "n/1f");
    let second = take(0x2f);
    wait_for_count(&mut kv, "n/2f", 1).await;
    let third = take(0x3f);
    wait_for_count(&mut kv, "n/3f", 1).await;
    third.abort();
    wait_for_count(&mut kv, "n/3f", 0).await;
    assert!(!second.is_finished());
    lock.clone().unlock(v3lockpb::UnlockRequest { key: "n/1f".into() }).await.unwrap();
    assert_eq!(second.await.unwrap().unwrap(), "n/2f");
    refused(take(0x99).await.unwrap(), Code::Unknown, "etcdserver: requested lease not found");
    world.stop().await;
}

/// Elections: the oldest campaign leads, observers see each value and each leader, who resigned may not proclaim.
#[tokio::test]
async fn elections() {
    use v3electionpb::{CampaignRequest, LeaderRequest, ProclaimRequest, ResignRequest};
    let world = World::alone().await;
    for id in [0x1f, 0x2f] {
        LeaseClient::new(world.channel.clone()).lease_grant(pb::LeaseGrantRequest { id, ttl: 100 }).await.unwrap();
    }
    let mut election = v3electionpb::election_client::ElectionClient::new(world.channel.clone());
    refused(election.leader(LeaderRequest { name: "e".into() }).await, Code::Unknown, "election: no leader");
    let mut seen = election.observe(LeaderRequest { name: "e".into() }).await.unwrap().into_inner();
    let won = election.campaign(CampaignRequest { name: "e".into(), lease: 0x1f, value: "one".into() }).await.unwrap().into_inner();
    let leader = won.leader.unwrap();
    assert_eq!((&leader.key[..], leader.rev), (&b"e/1f"[..], won.header.unwrap().revision));
    assert_eq!(value(&seen.next().await.unwrap().unwrap().kv.unwrap()), "one");
    election.proclaim(ProclaimRequest { leader: Some(leader.clone()), value: "two".into() }).await.unwrap();
    assert_eq!(value(&seen.next().await.unwrap().unwrap().kv.unwrap()), "two");
    let mut other = election.clone();
    let next =
        tokio::spawn(async move { other.campaign(CampaignRequest { name: "e".into(), lease: 0x2f, value: "three".into() }).await });
    wait_for_count(&mut world.kv(), "e/2f", 1).await;
    election.resign(ResignRequest { leader: Some(leader.clone()) }).await.unwrap();
    next.await.unwrap().unwrap();
    assert_eq!(value(&seen.next().await.unwrap().unwrap().kv.unwrap()), "three");
    let late = election.proclaim(ProclaimRequest { leader: Some(leader), value: "x".into() }).await;
    refused(late, Code::Unknown, "election: not leader");
    refused(election.resign(ResignRequest { leader: None }).await, Code::Unknown, "\"leader\" field must be provided");
    world.stop().await;
}
