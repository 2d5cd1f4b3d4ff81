//! One cluster with its clients: sends an operation to the first member, the seat, and gives the answer as flat fields.
//!
//! In: operations that one request and one answer make up (watches and restarts are the runner's). Out: [`Fields`], and what the
//! answer says of the store's revision.
//! Invariant: every field of an answer is in the list, but raft terms and indexes, sizes, and seconds that pass meanwhile.

use crate::fields::Fields;
use crate::script::{Known, Op, escape};
use crate::server::{Program, Server};
use crate::watch::Stream;
use quorate_proto::etcdserverpb::{
    self as pb, auth_client::AuthClient, cluster_client::ClusterClient, kv_client::KvClient, lease_client::LeaseClient,
    maintenance_client::MaintenanceClient,
};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tonic::Status;
use tonic::codec::CompressionEncoding;
use tonic::transport::Channel;

/// Longest time one operation may take; a server that needs longer has lost it.
pub const OPERATION_PATIENCE: Duration = Duration::from_secs(20);

/// Streams that a side has open: those of the script, and one more that sees everything.
pub struct Side {
    servers: Vec<Server>,
    channel: Channel,
    pub streams: Vec<Stream>,
    pub everything: Stream,
    member: u64,
    restarts: usize,
    /// Operations answered, so that both sides pack the requests of the same ones.
    asked: usize,
}

/// Of so many operations one sends its requests of keys and transactions packed.
const PACKED_EVERY: usize = 5;

/// An answer, and the store's revision if it tells one.
pub struct Answer {
    pub fields: Fields,
    pub revision: Option<i64>,
    pub ok: bool,
    /// The server did not answer at all.
    pub lost: bool,
    /// Seconds left of a lease; they may differ by what passes between two requests.
    pub seconds: Option<i64>,
}

impl Side {
    pub async fn start(program: &Program, dir: PathBuf, members: usize, streams: usize) -> Result<Self, String> {
        let mut servers = Vec::new();
        for index in 0..members {
            servers.push(Server::start(program, dir.clone(), index, members).await?);
        }
        let channel = servers[0].ready().await?;
        let everything = Stream::open(channel.clone(), true);
        let mut side = Self { servers, channel, streams: Vec::new(), everything, member: 0, restarts: 0, asked: 0 };
        side.settle_leader().await?;
        side.open_streams(streams).await?;
        Ok(side)
    }

    /// The member that clients talk to.
    pub fn seat(&mut self) -> &mut Server {
        &mut self.servers[0]
    }

    /// Ends the seat and starts it again. In a cluster of several it leads when it ends, so that the others elect another.
    pub async fn restart(&mut self, kill: bool) -> Result<(), String> {
        let streams = self.streams.len();
        self.lead(0).await?;
        // etcd waits seconds for open streams when it is asked to end.
        self.streams.clear();
        self.everything.close();
        self.servers[0].stop(kill).await?;
        if let Some(other) = self.servers.get_mut(1) {
            // It answers once there is a leader again.
            other.ready().await?;
        }
        self.servers[0].restart()?;
        self.channel = self.servers[0].ready().await?;
        self.restarts += 1;
        self.settle_leader().await?;
        self.open_streams(streams).await
    }

    /// Ends all members at once.
    pub async fn stop(&mut self) {
        for server in &mut self.servers {
            let _ = server.stop(true).await;
        }
    }

    /// The seat leads in every second life, and forwards what it is asked in the others.
    async fn settle_leader(&mut self) -> Result<(), String> {
        self.lead((self.restarts + 1) % 2).await
    }

    /// Hands leadership to the member with this number; nothing to do for a cluster of one.
    async fn lead(&mut self, index: usize) -> Result<(), String> {
        if self.servers.len() == 1 {
            return Ok(());
        }
        let deadline = Instant::now() + OPERATION_PATIENCE;
        let mut channels = Vec::new();
        for server in &mut self.servers {
            channels.push(server.ready().await?);
        }
        loop {
            let mut answers = Vec::new();
            for channel in &channels {
                let answer = MaintenanceClient::new(channel.clone()).status(pb::StatusRequest {}).await;
                answers.push(answer.map_err(|e| e.to_string())?.into_inner());
            }
            let id = |n: usize| answers[n].header.as_ref().map_or(0, |h| h.member_id);
            let target = id(index);
            if answers.iter().all(|a| a.leader == target) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("member {index} does not come to lead"));
            }
            let leader = (0..answers.len()).find(|n| answers[*n].leader == id(*n));
            if let Some(leader) = leader.filter(|leader| *leader != index) {
                let asked = pb::MoveLeaderRequest { target_id: target };
                // It may have stopped leading meanwhile; then the next round finds out.
                let _ = MaintenanceClient::new(channels[leader].clone()).move_leader(asked).await;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The hash of each member's history up to a revision, once it has come that far.
    pub async fn hashes(&mut self, revision: i64) -> Result<Vec<u32>, String> {
        let deadline = Instant::now() + OPERATION_PATIENCE;
        let mut hashes = Vec::new();
        for server in &mut self.servers {
            let channel = server.ready().await?;
            hashes.push(loop {
                let asked = pb::HashKvRequest { revision };
                match MaintenanceClient::new(channel.clone()).hash_kv(asked).await {
                    Ok(answer) => break answer.into_inner().hash,
                    Err(e) if Instant::now() > deadline => return Err(e.to_string()),
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            });
        }
        Ok(hashes)
    }

    async fn open_streams(&mut self, n: usize) -> Result<(), String> {
        self.streams = (0..n).map(|_| Stream::open(self.channel.clone(), false)).collect();
        let kept = std::mem::take(&mut self.everything.log().history);
        self.everything = Stream::open(self.channel.clone(), true);
        self.everything.log().history = kept;
        let all = pb::WatchCreateRequest { key: "\0".into(), range_end: "\0".into(), prev_kv: true, ..Default::default() };
        self.everything.send(pb::watch_request::RequestUnion::CreateRequest(all)).await;
        let deadline = Instant::now() + OPERATION_PATIENCE;
        self.member = loop {
            let members = ClusterClient::new(self.channel.clone()).member_list(pb::MemberListRequest::default()).await;
            let members = members.map_err(|e| e.to_string())?.into_inner().members;
            match members.iter().find(|m| m.name == "m0") {
                // A member tells its name a while after it serves.
                Some(m) if members.iter().all(|m| !m.name.is_empty()) => break m.id,
                _ if Instant::now() > deadline => return Err("the member did not tell its name".into()),
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        if self.everything.wait(deadline, |log| log.created.len() == 1).await {
            Ok(())
        } else {
            Err("a watch was not created".into())
        }
    }

    /// Sends one operation and waits for its answer.
    pub async fn ask(&mut self, op: &Op, at: Known) -> Answer {
        match tokio::time::timeout(OPERATION_PATIENCE, self.answer(op, at)).await {
            Ok(answer) => answer,
            Err(_) => Answer { lost: true, ..refused(&Status::deadline_exceeded("no answer within the harness's patience")) },
        }
    }

    async fn answer(&mut self, op: &Op, at: Known) -> Answer {
        let mut f = Fields::default();
        let mut seconds = None;
        self.asked += 1;
        let packed = self.asked.is_multiple_of(PACKED_EVERY);
        let kv = || {
            let kv = KvClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX);
            // etcd answers packed requests packed.
            if packed { kv.send_compressed(CompressionEncoding::Gzip).accept_compressed(CompressionEncoding::Gzip) } else { kv }
        };
        let lease = || LeaseClient::new(self.channel.clone());
        let maintenance = || MaintenanceClient::new(self.channel.clone());
        let header = match op {
            Op::Put(p) => kv().put(p.request()).await.map(|r| {
                f.put("", r.get_ref());
                r.into_inner().header
            }),
            Op::Range(r) => {
                let asked = r.request(at);
                kv().range(asked.clone()).await.map(|r| {
                    f.range("", Some(&asked), r.get_ref());
                    r.into_inner().header
                })
            }
            Op::RangeStream(r) => {
                let asked = r.request(at);
                merged(&mut kv(), asked.clone()).await.map(|r| {
                    f.range("", Some(&asked), &r);
                    r.header
                })
            }
            Op::Delete(d) => kv().delete_range(d.request()).await.map(|r| {
                f.delete("", r.get_ref());
                r.into_inner().header
            }),
            Op::Txn(t) => {
                let asked = t.request(at);
                kv().txn(asked.clone()).await.map(|r| {
                    f.txn("", &asked, r.get_ref());
                    r.into_inner().header
                })
            }
            Op::Compact { revision, physical } => {
                let asked = pb::CompactionRequest { revision: revision.resolve(at), physical: *physical };
                kv().compact(asked).await.map(|r| {
                    f.header("header", &r.get_ref().header);
                    r.into_inner().header
                })
            }
            Op::Grant { id, ttl } => lease().lease_grant(pb::LeaseGrantRequest { ttl: *ttl, id: *id }).await.map(|r| {
                let r = r.into_inner();
                f.header("header", &r.header);
                f.set("id", r.id);
                f.set("ttl", r.ttl);
                f.set("error", r.error);
                r.header
            }),
            Op::Revoke { id } => lease().lease_revoke(pb::LeaseRevokeRequest { id: *id }).await.map(|r| {
                f.header("header", &r.get_ref().header);
                r.into_inner().header
            }),
            Op::TimeToLive { id, keys } => {
                let asked = pb::LeaseTimeToLiveRequest { id: *id, keys: *keys };
                lease().lease_time_to_live(asked).await.map(|r| {
                    let r = r.into_inner();
                    f.header("header", &r.header);
                    f.set("id", r.id);
                    f.set("granted_ttl", r.granted_ttl);
                    if r.ttl > 0 {
                        seconds = Some(r.ttl)
                    } else {
                        f.set("ttl", r.ttl)
                    }
                    let mut keys: Vec<String> = r.keys.iter().map(|k| escape(k)).collect();
                    // etcd keeps the keys of a lease in a map.
                    keys.sort();
                    f.set("keys", keys.join(", "));
                    r.header
                })
            }
            Op::Leases => lease().lease_leases(pb::LeaseLeasesRequest {}).await.map(|r| {
                let r = r.into_inner();
                f.header("header", &r.header);
                // etcd orders them by the time they end, which differs between two servers by what passes between two grants.
                let mut ids: Vec<i64> = r.leases.iter().map(|l| l.id).collect();
                ids.sort();
                f.set("leases", format!("{ids:?}"));
                r.header
            }),
            Op::KeepAlive { id } => {
                let asked = tokio_stream::iter([pb::LeaseKeepAliveRequest { id: *id }]);
                match lease().lease_keep_alive(asked).await {
                    Err(status) => Err(status),
                    Ok(stream) => stream.into_inner().message().await.map(|r| {
                        let Some(r) = r else {
                            f.set("stream", "ended without an answer");
                            return None;
                        };
                        f.header("header", &r.header);
                        f.set("id", r.id);
                        f.set("ttl", r.ttl);
                        r.header
                    }),
                }
            }
            Op::HashKv { revision } => {
                let asked = pb::HashKvRequest { revision: revision.resolve(at) };
                maintenance().hash_kv(asked).await.map(|r| {
                    let r = r.into_inner();
                    f.header("header", &r.header);
                    f.set("hash", r.hash);
                    f.set("compact_revision", r.compact_revision);
                    f.set("hash_revision", r.hash_revision);
                    r.header
                })
            }
            Op::Status => maintenance().status(pb::StatusRequest {}).await.map(|r| {
                let r = r.into_inner();
                f.header("header", &r.header);
                f.set("version", r.version);
                f.set("leader", format!("{:x}", r.leader));
                // Go prints messages with one blank or two between fields, different from build to build on purpose.
                let mut errors: Vec<String> = r.errors.iter().map(|e| e.replace("  ", " ")).collect();
                errors.sort();
                f.set("errors", format!("{errors:?}"));
                f.set("is_learner", r.is_learner);
                // The storage version is left out: etcd writes it some time after its start.
                f.set("db_size_quota", r.db_size_quota);
                f.set("downgrade_info", format!("{:?}", r.downgrade_info));
                f.set("applied beyond committed", r.raft_applied_index > r.raft_index);
                r.header
            }),
            Op::Alarm { action, kind, local, member } => {
                let member_id = if *local { self.member } else { *member };
                let asked = pb::AlarmRequest { action: *action, member_id, alarm: *kind };
                maintenance().alarm(asked).await.map(|r| {
                    let r = r.into_inner();
                    f.header("header", &r.header);
                    let mut alarms: Vec<String> = r.alarms.iter().map(|a| format!("{:x}:{}", a.member_id, a.alarm)).collect();
                    // etcd lists them out of a map.
                    alarms.sort();
                    f.set("alarms", alarms.join(", "));
                    r.header
                })
            }
            Op::Members { linearizable } => {
                let asked = pb::MemberListRequest { linearizable: *linearizable };
                ClusterClient::new(self.channel.clone()).member_list(asked).await.map(|r| {
                    let r = r.into_inner();
                    f.header("header", &r.header);
                    f.set("members", format!("{:?}", r.members));
                    None
                })
            }
            Op::AuthStatus => AuthClient::new(self.channel.clone()).auth_status(pb::AuthStatusRequest {}).await.map(|r| {
                let r = r.into_inner();
                f.header("header", &r.header);
                f.set("enabled", r.enabled);
                f.set("auth_revision", r.auth_revision);
                r.header
            }),
            Op::Defragment => maintenance().defragment(pb::DefragmentRequest {}).await.map(|r| {
                f.header("header", &r.get_ref().header);
                None
            }),
            Op::Expire { id, ttl, keys } => expire(kv(), lease(), *id, *ttl, keys, &mut f).await,
            Op::Watch(_) | Op::Cancel { .. } | Op::Progress { .. } | Op::Check | Op::Restart { .. } => {
                unreachable!("the runner does these itself")
            }
        };
        match header {
            Ok(header) => {
                let revision = header.map(|h| h.revision).filter(|r| *r > 0);
                Answer { fields: f, revision, ok: true, lost: false, seconds }
            }
            Err(status) => refused(&status),
        }
    }
}

fn refused(status: &Status) -> Answer {
    // A broken connection has a cause on this side; a server's own refusal has none.
    let lost = std::error::Error::source(status).is_some();
    Answer { fields: Fields::refusal(status), revision: None, ok: false, lost, seconds: None }
}

/// The chunks of a streamed range as one answer. A header, `more` or a count before the last chunk is shown as one more pair.
async fn merged(client: &mut KvClient<Channel>, asked: pb::RangeRequest) -> Result<pb::RangeResponse, Status> {
    let mut stream = client.range_stream(asked).await?.into_inner();
    let mut whole = pb::RangeResponse::default();
    while let Some(chunk) = stream.message().await? {
        let Some(mut chunk) = chunk.range_response else { continue };
        let mut kvs = std::mem::take(&mut whole.kvs);
        kvs.append(&mut chunk.kvs);
        whole = pb::RangeResponse { kvs, ..chunk };
    }
    Ok(whole)
}

/// Ends with a read of the store's revision, which the end of the lease may have moved.
async fn expire(
    mut kv: KvClient<Channel>,
    mut lease: LeaseClient<Channel>,
    id: i64,
    ttl: i64,
    keys: &[crate::script::Blob],
    f: &mut Fields,
) -> Result<Option<pb::ResponseHeader>, Status> {
    let granted = lease.lease_grant(pb::LeaseGrantRequest { ttl, id }).await?.into_inner();
    f.header("grant.header", &granted.header);
    f.set("grant.ttl", granted.ttl);
    for (i, key) in keys.iter().enumerate() {
        let put = pb::PutRequest { key: key.bytes(), lease: id, ..Default::default() };
        match kv.put(put).await {
            Ok(answer) => f.put(&format!("put[{i}]."), answer.get_ref()),
            Err(status) => f.set(format!("put[{i}]"), format!("{:?}: {}", status.code(), status.message())),
        }
    }
    loop {
        let left = lease.lease_time_to_live(pb::LeaseTimeToLiveRequest { id, keys: false }).await?.into_inner();
        if left.ttl == -1 && left.granted_ttl == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let read = pb::RangeRequest { key: "\0".into(), range_end: "\0".into(), count_only: true, ..Default::default() };
    let read = kv.range(read).await?.into_inner();
    f.range("", None, &read);
    Ok(read.header)
}
