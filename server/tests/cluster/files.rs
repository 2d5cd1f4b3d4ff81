//! Snapshot files: saved from a running member, looked at, restored into a new cluster.

use crate::harness::{CLUSTER, Cluster, Tuning, must, put, value};
use quorate::env::files::RealFiles;
use quorate::node::{Founding, Opened, restore};
use quorate::snapshot::{RestoreOptions, export, status};
use quorate_proto::state::Member;
use sha2::{Digest, Sha256};
use std::path::Path;

/// Stores a stream as etcdctl does: the bytes, then their sha256.
async fn save(cluster: &Cluster, path: &Path) {
    let view = cluster.handle(0).pin().await.expect("a view");
    let mut stream = export(view, CLUSTER).await.expect("a stream");
    let mut bytes = Vec::new();
    while let Some(blob) = stream.blobs.recv().await {
        bytes.extend_from_slice(&blob.expect("a blob"));
    }
    assert_eq!(bytes.len() as u64, stream.total_bytes, "the length is told beforehand");
    assert_eq!(bytes.len() % 512, 0);
    let hash = Sha256::digest(&bytes);
    bytes.extend_from_slice(&hash);
    std::fs::write(path, bytes).expect("the file");
}

/// A saved file restores to a member with the same history under new ids, with the revision raised and marked when asked; a damaged
/// file makes no member.
#[tokio::test]
async fn saved_and_restored() {
    let cluster = Cluster::start(1, Tuning::default());
    for n in 0..300 {
        must(cluster.handle(0), put(&format!("key-{}", n % 90), &[n as u8; 3000])).await;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("saved");
    save(&cluster, &file).await;
    let revision = cluster.handle(0).store().revision();
    let hash = cluster.handle(0).store().hash_kv(0).expect("a hash").hash;

    let found = status(&file).expect("a status");
    assert_eq!((found.revision, found.total_keys, found.cluster_id), (revision, 300, CLUSTER));

    let member = Member { id: 900, peer_urls: vec!["http://127.0.0.1:1".into()], ..Default::default() };
    let founding = Founding { cluster_id: 901, member_id: 900, members: vec![member], ..Default::default() };
    let mut settings = cluster.settings(0);
    settings.data_dir = dir.path().join("plain");
    restore(&file, &settings, &founding, &RestoreOptions::default(), &RealFiles::shared()).expect("it restores");
    assert!(restore(&file, &settings, &founding, &RestoreOptions::default(), &RealFiles::shared()).is_err(), "never over a member");
    let opened = Opened::open(settings, None, RealFiles::shared()).expect("it opens");
    assert_eq!((opened.identity().cluster, opened.identity().member), (901, 900));
    assert_eq!(opened.store().revision(), revision);
    assert_eq!(opened.store().hash_kv(0).expect("a hash").hash, hash);
    let node = opened.run(std::sync::Arc::new(()), Box::new(())).expect("it runs");
    must(node.handle(), put("new", b"1")).await;
    assert_eq!(value(node.handle(), "new").as_deref(), Some(&b"1"[..]));
    assert_eq!(node.handle().store().revision(), revision + 1);
    assert_eq!(node.handle().shared().members().len(), 1);
    tokio::task::spawn_blocking(move || node.stop()).await.expect("it stops");

    let mut settings = cluster.settings(0);
    settings.data_dir = dir.path().join("bumped");
    let options = RestoreOptions { bump_revision: 1000, mark_compacted: true, ..RestoreOptions::default() };
    restore(&file, &settings, &founding, &options, &RealFiles::shared()).expect("it restores");
    let opened = Opened::open(settings, None, RealFiles::shared()).expect("it opens");
    assert_eq!((opened.store().revision(), opened.store().compact_revision()), (revision + 1000, revision + 1000));
    drop(opened);

    let mut bytes = std::fs::read(&file).expect("the file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).expect("the file");
    let mut settings = cluster.settings(0);
    settings.data_dir = dir.path().join("damaged");
    assert!(restore(&file, &settings, &founding, &RestoreOptions::default(), &RealFiles::shared()).is_err());
    assert!(!settings.data_dir.join("member").exists());
    assert!(status(&file).is_err());
}
