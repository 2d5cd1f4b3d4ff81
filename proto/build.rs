//! Turns the .proto files into Rust, without protoc.
//!
//! In: proto/. Out, in OUT_DIR: one Rust file per package, and `descriptors.bin`, the encoded FileDescriptorSet with the names
//! exactly as in the files.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

const FILES: &[&str] = &[
    "etcd/mvccpb.proto",
    "etcd/authpb.proto",
    "etcd/header.proto",
    "etcd/kv.proto",
    "etcd/watch.proto",
    "etcd/lease.proto",
    "etcd/cluster.proto",
    "etcd/maintenance.proto",
    "etcd/auth.proto",
    "etcd/lock.proto",
    "etcd/election.proto",
    "etcd/health.proto",
    "quorate/entry.proto",
    "quorate/state.proto",
    "quorate/peer.proto",
    "quorate/backup.proto",
];

/// Field names that the snake case rule would spell `peer_ur_ls`; Rust gets the right-hand name, the descriptors keep the left.
const READABLE: &[(&str, &str)] = &[("peerURLs", "peer_urls"), ("clientURLs", "client_urls")];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=build.rs");
    let mut files = protox::compile(FILES, ["proto"])?;

    let mut bare = files.clone();
    for file in &mut bare.file {
        file.source_code_info = None;
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), bare.encode_to_vec())?;

    for message in files.file.iter_mut().flat_map(|file| &mut file.message_type) {
        for field in &mut message.field {
            if let Some((_, readable)) = READABLE.iter().find(|(name, _)| *name == field.name()) {
                field.name = Some((*readable).to_string());
            }
        }
    }
    tonic_prost_build::configure()
        .bytes(".")
        .extern_path(".mvccpb.KeyValue", "crate::RawKv")
        .emit_rerun_if_changed(false)
        .compile_fds(files)?;
    Ok(())
}
