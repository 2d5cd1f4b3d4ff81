//! What a server answers about everything it holds, as text: two servers with the same data give the same text.
//!
//! In: an endpoint. Out: lines. Left out is what may differ between starts: terms, sizes, remaining times of leases.

use quorate_proto::etcdserverpb as pb;
use std::fmt::Write;
use tonic::transport::{Channel, Endpoint};
use xxhash_rust::xxh3::xxh3_64;

/// Longest that one answer may take.
const ANSWER: std::time::Duration = std::time::Duration::from_secs(30);

async fn range(kv: &mut pb::kv_client::KvClient<Channel>, revision: i64) -> Result<pb::RangeResponse, tonic::Status> {
    let request = pb::RangeRequest { key: vec![0].into(), range_end: vec![0].into(), revision, ..Default::default() };
    kv.range(request).await.map(tonic::Response::into_inner)
}

/// Asks for all of it: each revision's keys, the hash of the history, leases with their keys, members, alarms.
///
/// # Panics
/// When the server does not answer.
pub async fn describe(endpoint: &str, with_members: bool) -> String {
    let channel = Endpoint::from_shared(endpoint.to_string()).expect("an address").timeout(ANSWER).connect_lazy();
    let mut kv = pb::kv_client::KvClient::new(channel.clone());
    let mut maintenance = pb::maintenance_client::MaintenanceClient::new(channel.clone());
    let mut leases = pb::lease_client::LeaseClient::new(channel.clone());
    let mut cluster = pb::cluster_client::ClusterClient::new(channel);
    let mut out = String::new();
    let newest = range(&mut kv, 0).await.expect("the newest keys");
    let last = newest.header.as_ref().expect("a header").revision;
    writeln!(out, "revision {last}, {} keys", newest.count).expect("text");
    for revision in 1..=last {
        match range(&mut kv, revision).await {
            Ok(found) => {
                let mut bytes = Vec::new();
                for kv in &found.kvs {
                    let kv = kv.decode().expect("a pair");
                    let numbers = [kv.create_revision, kv.mod_revision, kv.version, kv.lease];
                    bytes.extend_from_slice(&(kv.key.len() as u64).to_be_bytes());
                    bytes.extend_from_slice(&kv.key);
                    numbers.iter().for_each(|n| bytes.extend_from_slice(&n.to_be_bytes()));
                    bytes.extend_from_slice(&kv.value);
                }
                writeln!(out, "at {revision}: {} keys, {:016x}", found.count, xxh3_64(&bytes)).expect("text");
            }
            Err(status) => writeln!(out, "at {revision}: {}", status.message()).expect("text"),
        }
    }
    let hash = maintenance.hash_kv(pb::HashKvRequest { revision: 0 }).await.expect("a hash").into_inner();
    writeln!(out, "hash {:08x}, compacted at {}", hash.hash, hash.compact_revision).expect("text");
    let mut ids: Vec<i64> =
        leases.lease_leases(pb::LeaseLeasesRequest {}).await.expect("leases").into_inner().leases.iter().map(|l| l.id).collect();
    ids.sort_unstable();
    for id in ids {
        let request = pb::LeaseTimeToLiveRequest { id, keys: true };
        let lease = leases.lease_time_to_live(request).await.expect("a lease").into_inner();
        let mut keys: Vec<String> = lease.keys.iter().map(|k| String::from_utf8_lossy(k).into_owned()).collect();
        keys.sort();
        writeln!(out, "lease {id} of {} s: {}", lease.granted_ttl, keys.join(" ")).expect("text");
    }
    let alarms = pb::AlarmRequest { action: pb::alarm_request::AlarmAction::Get as i32, ..Default::default() };
    for alarm in maintenance.alarm(alarms).await.expect("alarms").into_inner().alarms {
        writeln!(out, "alarm {} of {:016x}", alarm.alarm, alarm.member_id).expect("text");
    }
    if with_members {
        let listed = cluster.member_list(pb::MemberListRequest { linearizable: true }).await.expect("members").into_inner();
        writeln!(out, "cluster {:016x}", listed.header.expect("a header").cluster_id).expect("text");
        for m in listed.members {
            writeln!(out, "member {:016x} {} {} learner {}", m.id, m.name, m.peer_urls.join(","), m.is_learner).expect("text");
        }
    }
    out
}
