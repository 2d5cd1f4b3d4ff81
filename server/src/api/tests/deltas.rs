//! Chains of backups over a real member: the stream of deltas, files made of it, and restores to every revision.

use super::*;
use crate::base::{MemBase, RocksBase};
use crate::mvcc::{HistoryRow, Store};
use crate::snapshot::{Deltas, Reached, RestoreOptions, SnapshotError, Until, export, restore};
use crate::types::Revision;
use quorate_proto::backup::{self as bp, backup_client::BackupClient};
use quorate_proto::segment;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn rocks() -> RocksOptions {
    RocksOptions { block_cache: 1 << 20, write_buffer: 1 << 20, background_jobs: 1 }
}

/// A full backup as an agent stores it, and its revision.
async fn save(world: &World, path: &Path) -> i64 {
    let view = world.node.handle().pin().await.unwrap();
    let revision = view.applied.revision;
    let mut stream = export(view, CLUSTER).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(blob) = stream.blobs.recv().await {
        bytes.extend_from_slice(&blob.unwrap());
    }
    let hash = Sha256::digest(&bytes);
    bytes.extend_from_slice(&hash);
    std::fs::write(path, bytes).unwrap();
    revision
}

fn ask(from: i64) -> bp::DeltasRequest {
    bp::DeltasRequest { holder: "agent".into(), from_revision: from, cluster: CLUSTER }
}

/// Deltas until everything up to a revision, with what belongs to it, has come.
async fn collect(stream: &mut tonic::Streaming<bp::Delta>, upto: i64) -> Vec<bp::Delta> {
    let mut out: Vec<bp::Delta> = Vec::new();
    // A word without news follows the last news.
    while out.last().is_none_or(|last| last.revision < upto || !(last.rows.is_empty() && last.side.is_empty())) {
        out.push(stream.message().await.unwrap().expect("the stream goes on"));
    }
    out
}

/// Files of deltas, cut at random.
fn files(deltas: &[bp::Delta], after: i64, dir: &Path, random: &mut StdRng) -> Vec<PathBuf> {
    let (mut out, mut rest, mut after, mut previous) = (Vec::new(), deltas, after, Vec::new());
    while !rest.is_empty() {
        let complete = |at: &usize| rest[..*at].iter().flat_map(|d| &d.rows).all(|row| row.main <= rest[*at - 1].revision);
        let cuts: Vec<usize> = (1..=rest.len()).filter(complete).collect();
        let cut = cuts[random.random_range(0..cuts.len().min(12))];
        let (part, next) = rest.split_at(cut);
        let last = part.last().unwrap();
        let segment = bp::Segment {
            cluster: CLUSTER,
            after,
            revision: last.revision,
            time_ms: last.time_ms,
            previous: previous.into(),
            deltas: part.to_vec(),
        };
        let (bytes, hash) = segment::encode(&segment);
        let path = dir.join(format!("{:03}.segment", out.len()));
        std::fs::write(&path, bytes).unwrap();
        out.push(path);
        (rest, after, previous) = (next, last.revision, hash.to_vec());
    }
    out
}

fn restored(full: &Path, dir: &Path, files: &[PathBuf], until: Until) -> Result<(Reached, Store), SnapshotError> {
    let options = RestoreOptions { deltas: Deltas { files: files.to_vec(), until }, ..RestoreOptions::default() };
    let reached = restore::write_rows(full, dir, rocks(), &options)?;
    let base = Arc::new(RocksBase::open(dir, rocks()).unwrap());
    Ok((reached, Store::open(base, DeltaPolicy { freeze_bytes: 1 << 20, inline: false }).unwrap()))
}

/// One random step of a history.
async fn step(world: &World, random: &mut StdRng, leases: &mut Vec<i64>) {
    let mut kv = world.kv();
    let mut lease = LeaseClient::new(world.channel.clone());
    let key = |random: &mut StdRng| format!("k{}", random.random_range(0..6));
    let some = |random: &mut StdRng, leases: &[i64]| match leases.is_empty() || random.random_bool(0.6) {
        true => 0,
        false => leases[random.random_range(0..leases.len())],
    };
    match random.random_range(0..12) {
        0..5 => {
            let value = "v".repeat(random.random_range(0..40));
            let request = pb::PutRequest { lease: some(random, leases), ..put(&key(random), &value) };
            kv.put(request).await.unwrap();
        }
        5 | 6 => {
            let (a, b) = (key(random), key(random));
            let request = pb::DeleteRangeRequest { key: a.clone().into(), range_end: b.max(a + "\0").into(), prev_kv: false };
            kv.delete_range(request).await.unwrap();
        }
        7 | 8 => {
            let op = |request| pb::RequestOp { request: Some(request) };
            let names: std::collections::BTreeSet<String> = (0..3).map(|_| key(random)).collect();
            let mut success: Vec<_> = names
                .into_iter()
                .map(|k| {
                    op(pb::request_op::Request::RequestPut(pb::PutRequest { lease: some(random, leases), ..put(&k, "in txn") }))
                })
                .collect();
            let gone = pb::DeleteRangeRequest { key: "k8".into(), ..Default::default() };
            success.push(op(pb::request_op::Request::RequestDeleteRange(gone)));
            kv.txn(pb::TxnRequest { success, ..Default::default() }).await.unwrap();
        }
        9 => {
            let granted = lease.lease_grant(pb::LeaseGrantRequest { ttl: 1000, id: 0 }).await.unwrap().into_inner();
            leases.push(granted.id);
        }
        10 if !leases.is_empty() => {
            let id = leases.swap_remove(random.random_range(0..leases.len()));
            lease.lease_revoke(pb::LeaseRevokeRequest { id }).await.unwrap();
        }
        _ => {
            let (newest, mark) = (world.node.handle().store().revision(), world.node.handle().store().compact_revision());
            let revision = random.random_range(1..=newest);
            if revision > mark {
                kv.compact(pb::CompactionRequest { revision, physical: false }).await.unwrap();
            }
        }
    }
}

/// Whatever happened, a full backup and the deltas after it give back every revision: HashKV is that of the history at that revision
/// and compaction, keys hang on leases that exist, and damage, gaps and impossible targets are refused by name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_restores_every_revision() {
    for seed in 1..=4u64 {
        let random = &mut StdRng::seed_from_u64(seed);
        let world = World::alone().await;
        let store = world.node.handle().store().clone();
        let dir = tempfile::tempdir().unwrap();
        let mut client = BackupClient::new(world.channel.clone());
        let mut stream = client.deltas(ask(2)).await.unwrap().into_inner();
        let (mut fulls, mut told, mut leases, mut deltas) = (BTreeMap::new(), BTreeMap::new(), Vec::new(), Vec::new());
        for n in 0..60 {
            step(&world, random, &mut leases).await;
            let hash = store.hash_kv(0).unwrap();
            told.insert((hash.hash_revision, hash.compact_revision), hash.hash);
            if n % 20 == 7 {
                let path = dir.path().join(format!("full-{n}"));
                fulls.insert(save(&world, &path).await, path);
            }
            if n % 9 == 0 {
                let part = collect(&mut stream, store.revision()).await;
                let revision = part.last().unwrap().revision;
                deltas.extend(part);
                if n % 2 == 0 {
                    client.stored(bp::StoredRequest { holder: "agent".into(), revision }).await.unwrap();
                }
            }
        }
        // A change of leases alone leaves the revision as it is; what follows this one is behind all of them.
        world.kv().put(put("end", "")).await.unwrap();
        let hash = store.hash_kv(0).unwrap();
        told.insert((hash.hash_revision, hash.compact_revision), hash.hash);
        let last = store.revision();
        deltas.extend(collect(&mut stream, last).await);

        // The whole history, never compacted.
        let twin = Store::open(Arc::new(MemBase::new()), DeltaPolicy { freeze_bytes: 1 << 20, inline: false }).unwrap();
        for row in deltas.iter().flat_map(|d| &d.rows) {
            let row = HistoryRow { revision: Revision::new(row.main, row.sub), tombstone: row.deletion, kv: row.kv.clone() };
            twin.replayed(row.revision.main - 1);
            twin.replay(&row).unwrap();
        }
        twin.replayed(last);
        for ((revision, mark), hash) in &told {
            assert_eq!(twin.hash_as_if(*revision, *mark).unwrap(), *hash, "seed {seed}, revision {revision} compacted at {mark}");
        }

        let files = files(&deltas, 1, dir.path(), random);
        let first = *fulls.keys().next().unwrap();
        for revision in first..=last {
            let (from, full) = fulls.range(..=revision).next_back().unwrap();
            let folder = dir.path().join(format!("at-{revision}"));
            let (reached, found) = restored(full, &folder, &files, Until::Revision(revision)).unwrap();
            let place = format!("seed {seed}, revision {revision} from {from}");
            assert_eq!((reached.revision, found.revision()), (revision, revision), "{place}");
            let hash = found.hash_kv(revision).unwrap();
            assert_eq!(hash.hash, twin.hash_as_if(revision, hash.compact_revision).unwrap(), "{place}");
            let all = found.range(&quorate_proto::entry::Range { key: "\0".into(), range_end: "\0".into(), ..Default::default() });
            for kv in all.unwrap().kvs.iter().map(|kv| kv.decode().unwrap()).filter(|kv| kv.lease != 0) {
                assert!(found.sys_get(&crate::base::kind::sys::lease(kv.lease)).unwrap().is_some(), "{place}: lease {}", kv.lease);
                assert!(LeaseTable::keys(&found, kv.lease).unwrap().contains(&kv.key), "{place}: {:?}", kv.key);
            }
            drop(found);
            std::fs::remove_dir_all(folder).unwrap();
        }
        let newest = fulls.values().next_back().unwrap();
        let (reached, found) = restored(newest, &dir.path().join("newest"), &files, Until::Newest).unwrap();
        let ids: Vec<i64> = LeaseTable::load(&found).unwrap().all().map(|lease| lease.id).collect();
        leases.sort_unstable();
        assert_eq!((reached.revision, ids), (last, leases), "seed {seed}");
        assert_eq!(found.compact_revision(), store.compact_revision());
        // To a time: no later change is in it, and no earlier delta is missing.
        let middle = &deltas[deltas.len() / 2];
        if middle.revision >= first {
            let full = fulls.range(..=middle.revision).next_back().unwrap().1;
            if let Ok((reached, _)) = restored(full, &dir.path().join("time"), &files, Until::Time(middle.time_ms)) {
                let wanted = deltas.iter().filter(|d| d.time_ms <= middle.time_ms).map(|d| d.revision).max().unwrap();
                assert_eq!(reached.revision, wanted, "seed {seed}");
            }
        }

        let refused = |name: &str, files: &[PathBuf], until| {
            let full = fulls.values().next().unwrap();
            restored(full, &dir.path().join(name), files, until).err().map(|e| e.to_string()).unwrap_or_default()
        };
        assert!(refused("late", &files, Until::Revision(last + 1)).contains(&format!("the deltas end at revision {last}")));
        assert!(refused("early", &files, Until::Revision(first - 1)).contains("already"));
        assert!(refused("none", &[], Until::Revision(last)).contains("end at revision"));
        let holed = &files[files.len() - 1..];
        assert!(
            refused("holed", holed, Until::Newest).contains("are missing before"),
            "{}",
            refused("holed2", holed, Until::Newest)
        );
        let victim = &files[files.len() / 2];
        let mut bytes = std::fs::read(victim).unwrap();
        let at = bytes.len() / 2;
        bytes[at] ^= 4;
        std::fs::write(victim, bytes).unwrap();
        let words = refused("damaged", &files, Until::Newest);
        assert!(words.contains(victim.to_str().unwrap()) && words.contains("sha256"), "{words}");
        drop(stream);
        world.stop().await;
    }
}

/// A restored cluster does not begin with the alarm that members of the former one differ, neither from the full backup nor from deltas;
/// that its space is short is as true as before.
#[tokio::test]
async fn alarms_of_a_former_cluster() {
    let world = World::alone().await;
    let dir = tempfile::tempdir().unwrap();
    let mut client = BackupClient::new(world.channel.clone());
    let mut maintenance = MaintenanceClient::new(world.channel.clone());
    world.kv().put(put("k", "v")).await.unwrap();
    let before = dir.path().join("before");
    save(&world, &before).await;
    let mut stream = client.deltas(ask(2)).await.unwrap().into_inner();
    for alarm in [pb::AlarmType::Nospace, pb::AlarmType::Corrupt] {
        let request =
            pb::AlarmRequest { action: pb::alarm_request::AlarmAction::Activate.into(), member_id: 7, alarm: alarm.into() };
        maintenance.alarm(request).await.unwrap();
    }
    let mut deltas = Vec::new();
    while deltas.iter().flat_map(|delta: &bp::Delta| &delta.side).count() < 2 {
        deltas.push(stream.message().await.unwrap().unwrap());
    }
    let after = dir.path().join("after");
    save(&world, &after).await;
    let files = files(&deltas, 1, dir.path(), &mut StdRng::seed_from_u64(1));
    for (at, (full, files)) in [(&before, files.as_slice()), (&after, &[])].into_iter().enumerate() {
        let (_, found) = restored(full, &dir.path().join(at.to_string()), files, Until::Newest).unwrap();
        let has = |kind: pb::AlarmType| found.sys_get(&crate::base::kind::sys::alarm(kind.into(), 7)).unwrap().is_some();
        assert_eq!((has(pb::AlarmType::Nospace), has(pb::AlarmType::Corrupt)), (true, false), "{}", full.display());
    }
    drop(stream);
    world.stop().await;
}

/// A sweep waits for what the agent has not stored; what was swept is never passed over in silence.
#[tokio::test]
async fn a_sweep_waits_for_the_agent() {
    let world = World::alone().await;
    let mut kv = world.kv();
    let mut client = BackupClient::new(world.channel.clone());
    for n in 0..5 {
        kv.put(put("k", &n.to_string())).await.unwrap();
    }
    let mut stream = client.deltas(ask(2)).await.unwrap().into_inner();
    let compact = pb::CompactionRequest { revision: 6, physical: true };
    let waits = tokio::time::timeout(Duration::from_millis(700), kv.compact(compact)).await;
    assert!(waits.is_err(), "the sweep went on under the agent's feet");
    let rows: Vec<i64> = collect(&mut stream, 6).await.iter().flat_map(|d| d.rows.iter().map(|row| row.main)).collect();
    assert_eq!(rows, [2, 3, 4, 5, 6]);
    let held = client.stored(bp::StoredRequest { holder: "agent".into(), revision: 6 }).await.unwrap().into_inner().held;
    assert!(held);
    world.node.handle().store().compaction_done(6).await;
    let gap = "the history from revision 2 on is not whole any more: it was compacted";
    let mut late = client.deltas(ask(2)).await.unwrap().into_inner();
    refused(late.message().await, Code::OutOfRange, gap);
    assert!(!client.stored(bp::StoredRequest { holder: "late".into(), revision: 3 }).await.unwrap().into_inner().held);
    // The one that kept up goes on.
    kv.put(put("k", "again")).await.unwrap();
    assert!(collect(&mut stream, 7).await.iter().any(|d| d.rows.iter().any(|row| row.main == 7)));

    let first = |request| {
        let mut client = client.clone();
        async move { client.deltas(request).await.unwrap().into_inner().message().await.unwrap_err() }
    };
    assert_eq!(first(bp::DeltasRequest { cluster: 1, ..ask(0) }).await.code(), Code::FailedPrecondition);
    assert_eq!(first(bp::DeltasRequest { holder: String::new(), ..ask(0) }).await.code(), Code::InvalidArgument);
    assert_eq!(first(ask(99)).await.code(), Code::OutOfRange);
    drop(stream);
    world.stop().await;
}
