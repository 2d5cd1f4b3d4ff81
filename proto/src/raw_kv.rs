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
    fn merge_field(&mut self, tag: u32, wire_type: WireType, buf: &mut impl Buf, ctx: DecodeContext) -> Result<(), DecodeError> {
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

#[cfg(test)]
mod tests {
    use bytes::{Buf, Bytes, BytesMut};
    use prost::Message;

    use super::{KeyValue, RawKv};
    use crate::etcdserverpb::{PutResponse, RangeResponse};
    use crate::mvccpb::Event;

    fn pair() -> KeyValue {
        KeyValue {
            key: Bytes::from_static(b"k"),
            create_revision: 2,
            mod_revision: 300,
            version: 3,
            value: Bytes::from(vec![0xff; 200]),
            lease: -1,
        }
    }

    /// The bytes are the ones etcd writes: ascending fields, zeros left out. Written out by hand from the wire format.
    #[test]
    fn encoding_is_etcds() {
        let small = KeyValue { key: Bytes::from_static(b"ab"), mod_revision: 300, ..KeyValue::default() };
        assert_eq!(RawKv::from(&small).0[..], [0x0a, 2, b'a', b'b', 0x18, 0xac, 0x02]);
        let full = KeyValue {
            key: Bytes::from_static(b"a"),
            create_revision: 1,
            mod_revision: 2,
            version: 3,
            value: Bytes::from_static(b"v"),
            lease: 4,
        };
        assert_eq!(RawKv::from(&full).0[..], [0x0a, 1, b'a', 0x10, 1, 0x18, 2, 0x20, 3, 0x2a, 1, b'v', 0x30, 4]);
        assert!(RawKv::from(&KeyValue::default()).0.is_empty());
    }

    /// A pair survives fields -> bytes -> fields.
    #[test]
    fn fields_round_trip() {
        assert_eq!(RawKv::from(&pair()).decode().unwrap(), pair());
        assert!(RawKv(Bytes::from_static(&[0x0a, 9, 1])).decode().is_err());
    }

    /// Spliced into an answer and taken out again, the bytes are the same; also beside absent and empty ones.
    #[test]
    fn answers_carry_the_same_bytes() {
        let raw = RawKv::from(&pair());
        let answer = RangeResponse {
            kvs: vec![raw.clone(), RawKv::default(), raw.clone()],
            more: true,
            count: 3,
            ..RangeResponse::default()
        };
        let back = RangeResponse::decode(Bytes::from(answer.encode_to_vec())).unwrap();
        assert_eq!(back, answer);
        assert_eq!(back.kvs[2].0, raw.0);

        let event = Event { kv: Some(raw.clone()), prev_kv: None, ..Event::default() };
        assert_eq!(Event::decode(Bytes::from(event.encode_to_vec())).unwrap(), event);
        let put = PutResponse { header: None, prev_kv: Some(raw) };
        assert_eq!(PutResponse::decode(&put.encode_to_vec()[..]).unwrap(), put);
    }

    /// Buffers in several pieces decode like whole ones: fields may cross the border anywhere.
    #[test]
    fn decoding_from_pieces() {
        let answer = RangeResponse { kvs: vec![RawKv::from(&pair())], ..RangeResponse::default() };
        let bytes = Bytes::from(answer.encode_to_vec());
        for cut in 0..bytes.len() {
            let pieces = bytes.slice(..cut).chain(bytes.slice(cut..));
            assert_eq!(RangeResponse::decode(pieces).unwrap(), answer, "cut at {cut}");
        }
    }

    /// A field that pairs do not have is dropped, a known one with the wrong wire type is an error.
    #[test]
    fn unknown_fields_and_wrong_types() {
        let mut bytes = BytesMut::from(&RawKv::from(&pair()).0[..]);
        bytes.extend_from_slice(&[0x3a, 2, 7, 7, 0x40, 5]);
        assert_eq!(RawKv::decode_as_message(&bytes), Ok(RawKv::from(&pair())));
        assert!(RawKv::decode_as_message(&[0x08, 1]).is_err());
        assert!(RawKv::decode_as_message(&[0x0a, 200, 1, 0]).is_err());
    }

    impl RawKv {
        fn decode_as_message(bytes: &[u8]) -> Result<Self, prost::DecodeError> {
            <Self as Message>::decode(bytes)
        }
    }
}
