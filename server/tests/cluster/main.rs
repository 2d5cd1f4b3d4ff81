//! Real members in one process: files in temporary folders, gRPC over loopback.

mod files;
mod harness;
mod integrity;
mod members;
mod replication;
mod snapshots;
