//! A stored pair in the two forms it takes: [`KeyValue`], the fields, and [`RawKv`], their encoding.
//!
//! In: a pair to encode, or encoded bytes from the store or the wire. Out: the same bytes inside any message that holds a pair.
//!
//! Invariants: `RawKv::from(&KeyValue)` writes fields in ascending order and leaves zero fields out, so equal pairs are equal
//! bytes, and the same bytes as etcd writes. A `RawKv` that came from a decoder is well formed; one made from the public field
//! is whatever its maker put there, and [`RawKv::decode`] is the check.

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::encoding::{self, DecodeContext, WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use prost::{DecodeError, Message};

/// One version of one key, as etcd's `mvccpb.KeyValue`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct KeyValue {
    /// The key, never empty in a stored pair.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// Revision at which the key came to be, in this life of it.
    #[prost(int64, tag = "2")]
    pub create_revision: i64,
    /// Revision of this version.
    #[prost(int64, tag = "3")]
    pub mod_revision: i64,
    /// 1 at creation, one more with each put; 0 marks a deletion.
    #[prost(int64, tag = "4")]
    pub version: i64,
    /// The value.
    #[prost(bytes = "bytes", tag = "5")]
    pub value: Bytes,
    /// The lease that the key hangs on, 0 for none.
    #[prost(int64, tag = "6")]
    pub lease: i64,
}

/// An encoded [`KeyValue`]. As a message it has the same wire form as the pair itself, at the price of one copy of the bytes.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct RawKv(pub Bytes);

impl RawKv {
    /// The fields. Key and value share this buffer. Fails when the bytes are not an encoded pair.
    pub fn decode(&self) -> Result<KeyValue, DecodeError> {
        KeyValue::decode(self.0.clone())
    }

    /// Adds one field: its key, its varint (the value, or the length of what follows), its payload.
    fn append(&mut self, tag: u32, wire_type: WireType, varint: u64, payload: &[u8]) {
        // Nobody else holds the buffer while it is being decoded, so taking it back for writing costs no copy.
        let mut buffer = std::mem::take(&mut self.0).try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        buffer.reserve(key_len(tag) + encoded_len_varint(varint) + payload.len());
        encode_key(tag, wire_type, &mut buffer);
        encode_varint(varint, &mut buffer);
        buffer.put_slice(payload);
        self.0 = buffer.freeze();
    }

    /// The encoded form.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }
}

impl From<&KeyValue> for RawKv {
    fn from(pair: &KeyValue) -> Self {
        let mut buffer = BytesMut::with_capacity(pair.encoded_len());
        pair.encode_raw(&mut buffer);
        Self(buffer.freeze())
    }
}

impl From<KeyValue> for RawKv {
    fn from(pair: KeyValue) -> Self {
        Self::from(&pair)
    }
}

impl fmt::Debug for RawKv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.decode() {
            Ok(pair) => f.debug_tuple("RawKv").field(&pair).finish(),
            Err(_) => f.debug_tuple("RawKv").field(&self.0).finish(),
        }
    }
}

impl Message for RawKv {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        buf.put_slice(&self.0);
    }

    /// Appends the field as it was sent; fields that no pair has are dropped, as a decoder of [`KeyValue`] would drop them.
    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            1 | 5 => {
                let mut field = Bytes::new();
                encoding::bytes::merge(wire_type, &mut field, buf, ctx)?;
                self.append(tag, wire_type, field.len() as u64, &field);
            }
            2 | 3 | 4 | 6 => {
                let mut field = 0_u64;
                encoding::uint64::merge(wire_type, &mut field, buf, ctx)?;
                self.append(tag, wire_type, field, &[]);
            }
            _ => encoding::skip_field(wire_type, tag, buf, ctx)?,
        }
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0 = Bytes::new();
    }
}
