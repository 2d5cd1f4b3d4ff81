//! Real members in one process: files in temporary folders, gRPC over loopback.

mod harness;
mod replication;
mod snapshots;
