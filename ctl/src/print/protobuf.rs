//! `-w protobuf`: the answer's bytes as they came, without anything between answers.
//!
//! Leases are refused: etcdctl's types for them are no messages, and a format that it cannot write nobody reads.

use prost::Message;
use quorate_proto::etcdserverpb as pb;

use super::{Printer, write};
use crate::failure::{self, Done};

/// The printer.
pub struct Protobuf;

impl Printer for Protobuf {
    fn name(&self) -> &'static str {
        "protobuf"
    }

    fn message(&self, name: &str, encoded: &[u8]) -> Done {
        match name.strip_prefix("etcdserverpb.") {
            Some(lease) if lease.starts_with("Lease") => {
                Err(failure::bad_feature(format!("marshal unsupported for type *clientv3.{lease}")))
            }
            _ => write(encoded),
        }
    }

    /// Only the part that matters to readers: not the watch's id, nor the reason of a cancellation.
    fn watch(&self, answer: &pb::WatchResponse) -> Done {
        let shown = pb::WatchResponse { watch_id: 0, cancel_reason: String::new(), fragment: false, ..answer.clone() };
        write(shown.encode_to_vec())
    }
}
