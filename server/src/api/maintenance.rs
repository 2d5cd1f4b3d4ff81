//! `etcdserverpb.Maintenance`: alarms, status, hashes, snapshots, leadership.
//!
//! In: client messages. Out: entries for the node, questions for the rooms behind.
//! `Defragment` answers at once and has the store give free space back in the background, while reads and writes go on. `Downgrade` is
//! etcd's dance of versions: the cluster shows the version before until it is cancelled, or until every member's program is of it.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use quorate_proto::{entry, etcdserverpb as pb};
use sha2::{Digest, Sha256};
use tonic::{Request, Response, Status};

use super::{
    Door, Method,
    door::{Learner, Outgoing, mismatched},
    status::{Refusal, propose_status},
    stream::AnswerStream,
};
use crate::state::{AlarmEntry, Outcome};
use crate::telemetry::Read;

/// The service.
pub struct Maintenance(pub Arc<Door>);

fn refuses<M>(_: &M) -> Learner {
    Learner::Refuses
}

#[tonic::async_trait]
impl pb::maintenance_server::Maintenance for Maintenance {
    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Result<Response<pb::AlarmResponse>, Status> {
        self.0.unary(Method::Alarm, request, refuses, |request| alarm(&self.0, request)).await
    }

    async fn status(&self, request: Request<pb::StatusRequest>) -> Result<Response<pb::StatusResponse>, Status> {
        self.0.unary(Method::MaintenanceStatus, request, |_| Learner::Serves, |_| async { Ok(status(&self.0)) }).await
    }

    async fn defragment(&self, request: Request<pb::DefragmentRequest>) -> Result<Response<pb::DefragmentResponse>, Status> {
        self.0
            .unary(Method::Defragment, request, refuses, |_| async {
                // The answer does not wait: nothing else waits for that work either.
                self.0.context.store.begin_reclaim();
                self.0.context.metrics.backend_defrag.observe(0.0);
                Ok(pb::DefragmentResponse { header: None })
            })
            .await
    }

    async fn hash(&self, request: Request<pb::HashRequest>) -> Result<Response<pb::HashResponse>, Status> {
        self.0
            .unary(Method::Hash, request, refuses, |_| async {
                let began = Instant::now();
                let found = self.0.look(false, |store| store.hash_kv(0)).await?;
                self.0.context.metrics.hash_seconds.observe_seconds(began.elapsed());
                Ok(pb::HashResponse { header: Some(self.0.header(found.current_revision)), hash: found.hash })
            })
            .await
    }

    async fn hash_kv(&self, request: Request<pb::HashKvRequest>) -> Result<Response<pb::HashKvResponse>, Status> {
        self.0.unary(Method::HashKv, request, refuses, |request| hash_kv(&self.0, request)).await
    }

    type SnapshotStream = AnswerStream<pb::SnapshotResponse>;

    async fn snapshot(&self, request: Request<pb::SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        self.0.stream(Method::Snapshot, request, Learner::Serves, |door, _, out| async move {
            out.received();
            snapshot(&door, out).await
        })
    }

    async fn move_leader(&self, request: Request<pb::MoveLeaderRequest>) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        self.0.unary(Method::MoveLeader, request, refuses, |request| move_leader(&self.0, request)).await
    }

    async fn downgrade(&self, request: Request<pb::DowngradeRequest>) -> Result<Response<pb::DowngradeResponse>, Status> {
        self.0.unary(Method::Downgrade, request, refuses, |request| downgrade(&self.0, request)).await
    }
}

/// Lists alarms, raises one or clears one. Listing agrees with the cluster first, as etcd's does.
pub async fn alarm(door: &Door, request: pb::AlarmRequest) -> Result<pb::AlarmResponse, Status> {
    use pb::alarm_request::AlarmAction;
    let action = AlarmAction::try_from(request.action).map_err(|_| Refusal::UnknownMethod)?;
    let kind = alarm_kind(request.alarm)?;
    if action == AlarmAction::Get || kind == entry::AlarmKind::None {
        // To etcd this is a command like any other, and is counted and given up as one.
        door.timed(Read::Alarm, door.barrier_as_proposal()).await?;
        let listed = action == AlarmAction::Get;
        let found = |alarm: &AlarmEntry| listed && (kind == entry::AlarmKind::None || alarm.kind == kind);
        let alarms = door.context.shared.alarms().iter().copied().filter(found).map(alarm_member).collect();
        return Ok(pb::AlarmResponse { header: Some(door.header_now()), alarms });
    }
    let action = match action {
        AlarmAction::Activate => entry::AlarmAction::Raise,
        _ => entry::AlarmAction::Clear,
    };
    let command = entry::Alarm { action: action.into(), member: request.member_id, kind: kind.into() };
    match door.propose(entry::command::Op::Alarm(command)).await? {
        (Outcome::Alarm(alarms), header) => {
            Ok(pb::AlarmResponse { header: Some(header), alarms: alarms.into_iter().map(alarm_member).collect() })
        }
        _ => Err(mismatched(Method::Alarm)),
    }
}

fn alarm_kind(kind: i32) -> Result<entry::AlarmKind, Refusal> {
    entry::AlarmKind::try_from(kind).map_err(|_| Refusal::UnknownAlarm)
}

fn alarm_member(alarm: AlarmEntry) -> pb::AlarmMember {
    pb::AlarmMember { member_id: alarm.member, alarm: alarm.kind.into() }
}

fn alarm_name(kind: entry::AlarmKind) -> &'static str {
    match kind {
        entry::AlarmKind::None => "NONE",
        entry::AlarmKind::Nospace => "NOSPACE",
        entry::AlarmKind::Corrupt => "CORRUPT",
    }
}

/// How this member is. It never reports a size of zero, since etcdctl divides by it.
pub fn status(door: &Door) -> pb::StatusResponse {
    let node = door.context.node.status();
    let sizes = door.context.store.sizes();
    let mut errors = Vec::new();
    if node.leader == 0 {
        errors.push(Refusal::NoLeader.text().to_string());
    }
    for alarm in door.context.shared.alarms().iter() {
        errors.push(format!("memberID:{} alarm:{}", alarm.member, alarm_name(alarm.kind)));
    }
    pb::StatusResponse {
        header: Some(door.header_now()),
        version: door.limits.etcd_version.clone(),
        db_size: wire_size(sizes.on_disk).max(1),
        db_size_in_use: wire_size(sizes.in_use).max(1),
        db_size_quota: door.limits.quota_bytes,
        leader: node.leader,
        // The two are read one after the other, and what is applied is committed.
        raft_index: node.raft_index.max(node.applied_index),
        raft_term: node.term,
        raft_applied_index: node.applied_index,
        errors,
        is_learner: node.is_learner,
        storage_version: storage_version(door),
        downgrade_info: Some(downgrade_info(door)),
    }
}

fn wire_size(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// `major.minor` of `major.minor.patch`.
fn minor_version(version: &str) -> String {
    let mut parts = version.split('.');
    format!("{}.{}", parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}

/// The checksum of the history up to a revision, to compare members by.
pub async fn hash_kv(door: &Door, request: pb::HashKvRequest) -> Result<pb::HashKvResponse, Status> {
    let began = Instant::now();
    let found = door.look(false, move |store| store.hash_kv(request.revision)).await?;
    door.context.metrics.hash_rev_seconds.observe_seconds(began.elapsed());
    Ok(pb::HashKvResponse {
        header: Some(door.header(found.current_revision)),
        hash: found.hash,
        compact_revision: found.compact_revision,
        hash_revision: found.hash_revision,
    })
}

/// Streams a snapshot, and after it the SHA-256 of its bytes.
async fn snapshot(door: &Door, mut out: Outgoing<pb::SnapshotResponse>) -> Result<(), Status> {
    let failed = |error: super::SnapshotError| Status::unknown(error.to_string());
    let began = Instant::now();
    let mut open = door.context.snapshots.open().await.map_err(failed)?;
    let version = open.version;
    let mut remaining_bytes = open.total_bytes;
    let mut checksum = Sha256::new();
    while let Some(blob) = open.blobs.recv().await {
        let blob = blob.map_err(failed)?;
        remaining_bytes = remaining_bytes
            .checked_sub(blob.len() as u64)
            .ok_or_else(|| Status::internal("snapshot is longer than it said it would be"))?;
        checksum.update(&blob);
        out.send(pb::SnapshotResponse { header: None, remaining_bytes, blob, version: version.clone() }).await;
    }
    if remaining_bytes > 0 {
        return Err(Status::unknown(format!("snapshot ended {remaining_bytes} bytes early")));
    }
    door.context.metrics.backend_snapshot.observe_seconds(began.elapsed());
    let blob = Bytes::copy_from_slice(&checksum.finalize());
    out.send(pb::SnapshotResponse { header: None, remaining_bytes: 0, blob, version }).await;
    Ok(())
}

/// Hands leadership to another voter. Only the leader can.
pub async fn move_leader(door: &Door, request: pb::MoveLeaderRequest) -> Result<pb::MoveLeaderResponse, Status> {
    use crate::node::ProposeError;
    if !door.context.node.status().is_leader {
        return Err(Refusal::NotLeader.into());
    }
    let voter = |member: &quorate_proto::state::Member| member.id == request.target_id && !member.learner;
    if !door.context.shared.members().iter().any(voter) {
        return Err(Refusal::BadLeaderTransferee.into());
    }
    door.context.node.transfer_leader(request.target_id).await.map_err(|error| match error {
        ProposeError::TimedOut => Refusal::TimedOutLeaderTransfer.into(),
        error => propose_status(error),
    })?;
    Ok(pb::MoveLeaderResponse { header: None })
}

/// The agreed version, `major.minor`; the door's own before one is agreed on.
fn cluster_version(door: &Door) -> Option<String> {
    Some(door.context.shared.cluster_version()).filter(|v| !v.is_empty()).map(|v| minor_version(&v))
}

fn storage_version(door: &Door) -> String {
    cluster_version(door).unwrap_or_else(|| minor_version(&door.limits.etcd_version)) + ".0"
}

fn downgrade_info(door: &Door) -> pb::DowngradeInfo {
    let target = door.context.shared.downgrade();
    pb::DowngradeInfo { enabled: target.is_some(), target_version: target.as_ref().clone().unwrap_or_default() }
}

/// Checks, starts and cancels a downgrade as etcd does: one minor version down, one at a time. Cancelling where none is under way
/// changes nothing and is no error.
pub async fn downgrade(door: &Door, request: pb::DowngradeRequest) -> Result<pb::DowngradeResponse, Status> {
    use pb::downgrade_request::DowngradeAction;
    let action = DowngradeAction::try_from(request.action).map_err(|_| Refusal::UnknownMethod)?;
    let agreed = cluster_version(door).ok_or(Refusal::ClusterVersionUnavailable);
    let target = match action {
        DowngradeAction::Validate | DowngradeAction::Enable => {
            if !is_version(&request.version) {
                return Err(Refusal::DowngradeVersionFormat.into());
            }
            let agreed = agreed.clone()?;
            door.barrier().await?;
            let target = minor_version(&request.version);
            if Some(&target) != version_before(&agreed).as_ref() {
                return Err(Refusal::DowngradeTargetInvalid.into());
            }
            if door.context.shared.downgrade().is_some() {
                return Err(Refusal::DowngradeInProcess.into());
            }
            target + ".0"
        }
        DowngradeAction::Cancel => {
            door.barrier().await?;
            String::new()
        }
    };
    let changes = match action {
        DowngradeAction::Validate => false,
        DowngradeAction::Enable => true,
        DowngradeAction::Cancel => door.context.shared.downgrade().is_some(),
    };
    if changes {
        // Members of an older program would not know what this is.
        if door.context.shared.feature_level() < DOWNGRADE_LEVEL {
            return Err(Refusal::NotCapable.into());
        }
        door.propose(entry::command::Op::Downgrade(entry::Downgrade { target })).await?;
    }
    let version = agreed.unwrap_or_else(|_| minor_version(&door.limits.etcd_version));
    Ok(pb::DowngradeResponse { header: Some(door.header_now()), version })
}

/// The feature level from which a downgrade can be written down.
const DOWNGRADE_LEVEL: u32 = 2;

/// The minor version before one, within the same major one.
fn version_before(version: &str) -> Option<String> {
    let (major, minor) = version.split_once('.')?;
    let before = minor.parse::<u64>().ok()?.checked_sub(1)?;
    Some(format!("{major}.{before}"))
}

/// `major.minor`, or a semantic version.
fn is_version(version: &str) -> bool {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let parts: Vec<&str> = core.split('.').collect();
    let number = |part: &&str| !part.is_empty() && part.len() < 10 && part.bytes().all(|byte| byte.is_ascii_digit());
    parts.iter().all(number) && (parts.len() == 3 || (parts.len() == 2 && core == version))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A downgrade target may be `major.minor` or a semantic version, nothing else.
    #[test]
    fn downgrade_target_forms() {
        for (version, good) in [
            ("3.6", true),
            ("3.6.0", true),
            ("3.6.0-rc.1", true),
            ("", false),
            ("3", false),
            ("3.6.", false),
            ("v3.6", false),
            ("3.x", false),
        ] {
            assert_eq!(is_version(version), good, "{version}");
        }
        assert_eq!(minor_version("3.7.3"), "3.7");
        assert_eq!(version_before("3.7").as_deref(), Some("3.6"));
        assert_eq!(version_before("4.0"), None);
    }
}
