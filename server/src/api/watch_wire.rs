//! How watch answers go on the wire: etcd's `WatchResponse`, with the events spliced in already encoded.
//!
//! Many clients watch the same keys, and the watch room hands all of them the same block of events. The block is encoded once, by whoever sends
//! it first, and every other stream copies the bytes. In: [`Frame`]s. Out: gRPC messages that decode as `WatchResponse`.
//! Invariant: the events' field number is the highest of the message, so that bytes appended at the end are in field order.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{Request, Response};
use prost::{
    Message,
    encoding::{encode_varint, encoded_len_varint},
};
use quorate_proto::{RawKv, etcdserverpb as pb};
use tonic::{
    Code, Status,
    body::Body,
    codec::{BufferSettings, Codec, EnabledCompressionEncodings, EncodeBuf, Encoder},
    server::{Grpc, NamedService, StreamingService},
};
use tonic_prost::{ProstCodec, ProstDecoder};
use tower::Service;

use super::{COMPRESSION, stream::AnswerStream, watch::Watch};
use crate::watch::EventBlock;

/// One answer: everything but the events, and the events.
#[derive(Debug, Default)]
pub struct Frame {
    /// Its `events` stay empty.
    pub response: pb::WatchResponse,
    /// The encoded events; empty for none.
    pub events: Bytes,
}

/// The encoded events of a block, made at most once.
pub fn encoded(block: &EventBlock) -> Bytes {
    block.encoded(|block| {
        let mut out = BytesMut::with_capacity(block.iter().map(|event| event_field_len(event.delete, event.kv, event.prev)).sum());
        for event in block.iter() {
            put_event(&mut out, event.delete, event.kv, event.prev);
        }
        out.freeze()
    })
}

// Field keys: `WatchResponse.events` is 11; in `Event`, `type` is 1, `kv` is 2, `prev_kv` is 3. All but `type` are length-delimited.
const EVENTS_KEY: u8 = 11 << 3 | 2;
const TYPE_KEY: u8 = 1 << 3;
const KV_KEY: u8 = 2 << 3 | 2;
const PREV_KV_KEY: u8 = 3 << 3 | 2;

fn pair_len(kv: &RawKv) -> usize {
    1 + encoded_len_varint(kv.0.len() as u64) + kv.0.len()
}

fn event_len(delete: bool, kv: &RawKv, prev: Option<&RawKv>) -> usize {
    let kind = if delete { 2 } else { 0 };
    kind + pair_len(kv) + prev.map_or(0, pair_len)
}

fn event_field_len(delete: bool, kv: &RawKv, prev: Option<&RawKv>) -> usize {
    let len = event_len(delete, kv, prev);
    1 + encoded_len_varint(len as u64) + len
}

fn put_event(out: &mut BytesMut, delete: bool, kv: &RawKv, prev: Option<&RawKv>) {
    out.put_u8(EVENTS_KEY);
    encode_varint(event_len(delete, kv, prev) as u64, out);
    if delete {
        out.put_slice(&[TYPE_KEY, 1]);
    }
    for (key, kv) in [(KV_KEY, Some(kv)), (PREV_KV_KEY, prev)] {
        let Some(kv) = kv else { continue };
        out.put_u8(key);
        encode_varint(kv.0.len() as u64, out);
        out.put_slice(&kv.0);
    }
}

/// Requests as prost reads them, answers as [`Frame`]s.
#[derive(Default)]
struct FrameCodec;

impl Codec for FrameCodec {
    type Encode = Frame;
    type Decode = pb::WatchRequest;
    type Encoder = FrameEncoder;
    type Decoder = ProstDecoder<pb::WatchRequest>;

    fn encoder(&mut self) -> FrameEncoder {
        FrameEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<pb::WatchResponse, pb::WatchRequest>::raw_decoder(BufferSettings::default())
    }
}

struct FrameEncoder;

impl Encoder for FrameEncoder {
    type Item = Frame;
    type Error = Status;

    fn encode(&mut self, frame: Frame, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(frame.response.encoded_len() + frame.events.len());
        frame.response.encode(out).map_err(|error| Status::internal(format!("watch answer not encoded: {error}")))?;
        out.put_slice(&frame.events);
        Ok(())
    }
}

/// The watch service for the router. It stands where a generated one would, for the sake of the codec.
#[derive(Clone)]
pub struct WatchServer {
    watch: Arc<Watch>,
    max_decoding_message_size: usize,
}

impl WatchServer {
    /// Serves `watch`, taking requests of up to `max_decoding_message_size` bytes.
    pub fn new(watch: Watch, max_decoding_message_size: usize) -> WatchServer {
        WatchServer { watch: Arc::new(watch), max_decoding_message_size }
    }
}

impl NamedService for WatchServer {
    const NAME: &'static str = "etcdserverpb.Watch";
}

struct Streams(Arc<Watch>);

impl StreamingService<pb::WatchRequest> for Streams {
    type Response = Frame;
    type ResponseStream = AnswerStream<Frame>;
    type Future = std::future::Ready<Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: tonic::Request<tonic::Streaming<pb::WatchRequest>>) -> Self::Future {
        std::future::ready(self.0.watch(request))
    }
}

impl Service<Request<Body>> for WatchServer {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move {
            if request.uri().path() != "/etcdserverpb.Watch/Watch" {
                return Ok(Status::new(Code::Unimplemented, "").into_http());
            }
            let mut accepted = EnabledCompressionEncodings::default();
            accepted.enable(COMPRESSION);
            let mut grpc = Grpc::new(FrameCodec)
                .apply_compression_config(accepted, EnabledCompressionEncodings::default())
                .apply_max_message_size_config(Some(server.max_decoding_message_size), Some(usize::MAX));
            Ok(grpc.streaming(Streams(server.watch), request).await)
        })
    }
}

#[cfg(test)]
mod tests {
    use quorate_proto::mvccpb::{Event, KeyValue, event::EventType};

    use super::*;

    /// Spliced bytes decode as the events they were made of, puts and deletes, with and without the pair before.
    #[test]
    fn spliced_events_decode() {
        let pair = |value: usize| {
            let kv = KeyValue { key: "k".into(), mod_revision: 7, value: vec![1; value].into(), ..Default::default() };
            RawKv::from(kv)
        };
        let cases = [(false, pair(0), None), (false, pair(300), Some(pair(1))), (true, pair(0), Some(pair(40_000)))];
        let mut events = BytesMut::new();
        for (delete, kv, prev) in &cases {
            let before = events.len();
            put_event(&mut events, *delete, kv, prev.as_ref());
            assert_eq!(events.len() - before, event_field_len(*delete, kv, prev.as_ref()));
        }
        let header = pb::ResponseHeader { revision: 9, ..Default::default() };
        let mut wire = pb::WatchResponse { header: Some(header), watch_id: 3, ..Default::default() }.encode_to_vec();
        wire.extend_from_slice(&events);
        let decoded = pb::WatchResponse::decode(&wire[..]).unwrap();
        assert_eq!((decoded.watch_id, decoded.header.unwrap().revision), (3, 9));
        let expected: Vec<Event> = cases
            .into_iter()
            .map(|(delete, kv, prev_kv)| {
                let kind = if delete { EventType::Delete } else { EventType::Put };
                Event { r#type: kind.into(), kv: Some(kv), prev_kv }
            })
            .collect();
        assert_eq!(decoded.events, expected);
    }
}
