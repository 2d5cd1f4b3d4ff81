//! A stand-in for `protobuf` 2: the four calls that raft 0.7.0 makes, answered by prost.
//!
//! In: any prost message. Out: its size, its bytes, or an error that raft can carry in `raft::Error::CodecError`.
//! Invariant: nothing here knows a message type or keeps state; the wire format is prost's alone.
//! Left out on purpose: reflection, descriptors, streams, generated code. A crate that needs any of those does not
//! compile against this one, which is how the real `protobuf` 2 is kept out of the tree
//! (docs/adr/2026-11-21-raft-messages-on-prost.md).

use std::fmt;

/// What raft expects of a message. Every prost message with a default value has it.
pub trait Message {
    /// Encoded length in bytes. A message longer than `u32::MAX` bytes reports `u32::MAX`, because raft uses the
    /// number only to compare it with a size limit.
    fn compute_size(&self) -> u32;

    /// Encodes the message into a new vector. It never fails: the vector grows as needed. The `Result` is what the
    /// caller's `?` asks for.
    fn write_to_bytes(&self) -> ProtobufResult<Vec<u8>>;

    /// Decodes `bytes` over this message: single fields are replaced, repeated ones are extended.
    ///
    /// # Errors
    /// [`ProtobufError`] if `bytes` is not a well-formed message. Fields met before the fault stay changed.
    fn merge_from_bytes(&mut self, bytes: &[u8]) -> ProtobufResult<()>;
}

impl<M: prost::Message + Default> Message for M {
    fn compute_size(&self) -> u32 {
        u32::try_from(self.encoded_len()).unwrap_or(u32::MAX)
    }

    fn write_to_bytes(&self) -> ProtobufResult<Vec<u8>> {
        Ok(self.encode_to_vec())
    }

    fn merge_from_bytes(&mut self, bytes: &[u8]) -> ProtobufResult<()> {
        self.merge(bytes).map_err(ProtobufError)
    }
}

/// The bytes were not a well-formed message; the source is prost's own error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtobufError(prost::DecodeError);

/// The result of an encode or a decode.
pub type ProtobufResult<T> = Result<T, ProtobufError>;

impl fmt::Display for ProtobufError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("message does not decode")
    }
}

impl std::error::Error for ProtobufError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}
