//! The messages of Quorate: etcd's v3 services under etcd's names, and Quorate's own for the log, the rows and the peers.
//!
//! Everything but [`RawKv`], [`mvccpb::KeyValue`] and the form of a file of deltas ([`segment`]) is generated from the files under
//! `proto/` at build time. There is no logic here. Every `bytes` field is a [`bytes::Bytes`], so a decoded message shares the buffer it came from.
//!
//! Invariant: wherever another message holds a stored pair, the generated type holds a [`RawKv`], the pair as encoded bytes.
//! A pair is encoded once, when it is written, and spliced into every answer after that.

mod raw_kv;
pub mod segment;

pub use raw_kv::RawKv;

/// The encoded `FileDescriptorSet` of all packages, with the field names exactly as in the .proto files and no comments.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// etcd's client services: KV, Watch, Lease, Cluster, Maintenance, Auth.
#[allow(clippy::all, missing_docs, rustdoc::all)]
pub mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}

/// Stored pairs and events.
#[allow(clippy::all, missing_docs, rustdoc::all)]
pub mod mvccpb {
    pub use crate::raw_kv::KeyValue;
    tonic::include_proto!("mvccpb");
}

/// Users, roles, permissions.
#[allow(clippy::all, missing_docs, rustdoc::all)]
pub mod authpb {
    tonic::include_proto!("authpb");
}

/// The lock service.
#[allow(clippy::all, missing_docs, rustdoc::all)]
pub mod v3lockpb {
    tonic::include_proto!("v3lockpb");
}

/// The election service.
#[allow(clippy::all, missing_docs, rustdoc::all)]
pub mod v3electionpb {
    tonic::include_proto!("v3electionpb");
}

/// gRPC's standard health service.
#[allow(clippy::all, missing_docs, rustdoc::all)]
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}

/// Generated code names messages of other packages by their place in this tree; users take the short names below.
#[allow(clippy::all, missing_docs, rustdoc::all)]
mod quorate {
    pub mod entry {
        pub mod v1 {
            tonic::include_proto!("quorate.entry.v1");
        }
    }
    pub mod state {
        pub mod v1 {
            tonic::include_proto!("quorate.state.v1");
        }
    }
    pub mod peer {
        pub mod v1 {
            tonic::include_proto!("quorate.peer.v1");
        }
    }
    pub mod backup {
        pub mod v1 {
            tonic::include_proto!("quorate.backup.v1");
        }
    }
}

/// What backup agents ask, and the files they keep.
pub use quorate::backup::v1 as backup;
/// What raft replicates.
pub use quorate::entry::v1 as entry;
/// How members talk.
pub use quorate::peer::v1 as peer;
/// Rows beside the key space.
pub use quorate::state::v1 as state;

#[cfg(test)]
mod tests {
    use super::DESCRIPTORS;

    /// The descriptors keep etcd's spelling, which the JSON gateway shows, though the Rust fields read `peer_urls`.
    #[test]
    fn descriptors_keep_the_wire_names() {
        let holds = |name: &str| DESCRIPTORS.windows(name.len()).any(|window| window == name.as_bytes());
        for name in ["peerURLs", "clientURLs", "etcdserverpb", "RangeStream", "grpc.health.v1", "quorate.entry.v1"] {
            assert!(holds(name), "{name}");
        }
        assert!(!super::state::Member::default().learner);
    }
}
