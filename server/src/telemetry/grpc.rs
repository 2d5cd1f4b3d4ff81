//! Counts RPCs: begun, ended by outcome, messages either way, and (extensive) how long they took.
//!
//! A layer around the gRPC router. Messages are told apart by their five-byte heads as the bodies pass; nothing is buffered.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use prost_reflect::{DescriptorPool, MethodDescriptor};

use super::{Counter, Histogram, Metrics};

/// Names of gRPC's codes, by number.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];
const CANCELED: usize = 1;
const UNKNOWN: usize = 2;

/// One method's instruments.
struct Rpc {
    started: Arc<Counter>,
    received: Arc<Counter>,
    sent: Arc<Counter>,
    handled: [Arc<Counter>; CODES.len()],
    seconds: Option<Arc<Histogram>>,
}

/// Puts the counting around `router`, for every method of the client services; calls of other methods pass uncounted.
///
/// All samples are there, at zero, from the start, as in etcd.
pub fn counted(router: Router, metrics: &Metrics) -> Router {
    let pool = DescriptorPool::decode(quorate_proto::DESCRIPTORS).unwrap_or_default();
    let methods = pool.services().filter(|s| !s.full_name().starts_with("quorate.")).flat_map(|s| s.methods().collect::<Vec<_>>());
    let table: HashMap<String, Arc<Rpc>> =
        methods.map(|m| (format!("/{}/{}", m.parent_service().full_name(), m.name()), Arc::new(Rpc::new(&m, metrics)))).collect();
    let table = Arc::new(table);
    router.layer(axum::middleware::from_fn(move |request: Request, next: axum::middleware::Next| {
        let rpc = table.get(request.uri().path()).cloned();
        async move {
            match rpc {
                None => next.run(request).await,
                Some(rpc) => rpc.follow(request, next).await,
            }
        }
    }))
}

impl Rpc {
    fn new(method: &MethodDescriptor, metrics: &Metrics) -> Self {
        let kind = match (method.is_client_streaming(), method.is_server_streaming()) {
            (false, false) => "unary",
            (true, false) => "client_stream",
            (false, true) => "server_stream",
            (true, true) => "bidi_stream",
        };
        let service = method.parent_service().full_name().to_owned();
        let labels = [method.name(), &service, kind];
        Self {
            started: metrics.grpc_started.with(&labels),
            received: metrics.grpc_received.with(&labels),
            sent: metrics.grpc_sent.with(&labels),
            handled: CODES.map(|code| metrics.grpc_handled.with(&[code, labels[0], labels[1], labels[2]])),
            seconds: metrics.extensive.then(|| metrics.grpc_seconds.with(&labels)),
        }
    }

    async fn follow(self: Arc<Self>, request: Request, next: axum::middleware::Next) -> Response {
        self.started.inc();
        // Dropped wherever the call ends; a call nobody waits for any longer has no code and counts as canceled.
        let mut end = End { rpc: self.clone(), code: CANCELED, begun: Instant::now() };
        let request = request.map(|body| Body::new(Counted { body, heads: Heads::default(), count: self.received.clone(), end: None }));
        let response = next.run(request).await;
        if let Some(code) = code(response.headers()) {
            end.code = code;
            return response;
        }
        response.map(|body| Body::new(Counted { body, heads: Heads::default(), count: self.sent.clone(), end: Some(end) }))
    }
}

fn code(headers: &HeaderMap) -> Option<usize> {
    let code = headers.get("grpc-status")?.to_str().ok()?.parse().ok();
    Some(code.filter(|c| *c < CODES.len()).unwrap_or(UNKNOWN))
}

/// The end of a call, counted on drop.
struct End {
    rpc: Arc<Rpc>,
    code: usize,
    begun: Instant,
}

impl Drop for End {
    fn drop(&mut self) {
        self.rpc.handled[self.code].inc();
        if let Some(seconds) = &self.rpc.seconds {
            seconds.observe_seconds(self.begun.elapsed());
        }
    }
}

/// A body whose messages are counted as they pass.
struct Counted {
    body: Body,
    heads: Heads,
    count: Arc<Counter>,
    end: Option<End>,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    let messages = self.heads.pass(data);
                    self.count.add(messages);
                } else if let (Some(trailers), Some(end)) = (frame.trailers_ref(), &mut self.end) {
                    end.code = code(trailers).unwrap_or(UNKNOWN);
                }
            }
            Some(Err(_)) => {}
            None => drop(self.end.take()),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// Finds message heads in a byte stream: one byte of flags, four of length, then that many bytes.
#[derive(Debug, Default)]
struct Heads {
    head: [u8; 5],
    have: usize,
    skip: usize,
}

impl Heads {
    /// How many messages begin in `data`, which follows what passed before.
    fn pass(&mut self, mut data: &[u8]) -> u64 {
        let mut messages = 0;
        while !data.is_empty() {
            let skipped = self.skip.min(data.len());
            self.skip -= skipped;
            data = &data[skipped..];
            let taken = (5 - self.have).min(data.len());
            if self.skip == 0 && taken > 0 {
                self.head[self.have..self.have + taken].copy_from_slice(&data[..taken]);
                self.have += taken;
                data = &data[taken..];
            }
            if self.have == 5 {
                let [_, length @ ..] = self.head;
                self.skip = u32::from_be_bytes(length) as usize;
                self.have = 0;
                messages += 1;
            }
        }
        messages
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;

    use axum::routing::any;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    /// Heads are found however the bytes are cut.
    #[test]
    fn heads_in_any_cut() {
        let stream = [&[0, 0, 0, 0, 3][..], b"abc", &[0, 0, 0, 0, 0], &[1, 0, 0, 1, 0], &[7; 256]].concat();
        for cut in 1..stream.len() {
            let mut heads = Heads::default();
            assert_eq!(stream.chunks(cut).map(|c| heads.pass(c)).sum::<u64>(), 3, "{cut}");
        }
    }

    /// A call counts once, with its code from the trailers or the head, and canceled when it is given up.
    #[tokio::test]
    async fn calls_are_counted() {
        let metrics = Metrics::new(true);
        let answer = || async {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static("11"));
            let frames: [Result<_, std::convert::Infallible>; 2] =
                [Ok(Frame::data(Bytes::from_static(&[0, 0, 0, 0, 0]))), Ok(Frame::trailers(trailers))];
            Body::new(http_body_util::StreamBody::new(tokio_stream::iter(frames)))
        };
        let inner = Router::new()
            .route("/etcdserverpb.KV/Range", any(answer))
            .route("/etcdserverpb.KV/Put", any(|| async { [("grpc-status", "5")] }))
            .route("/etcdserverpb.KV/Txn", any(std::future::pending::<()>));
        let router = counted(inner, &metrics);
        let call = |method: &str| router.clone().oneshot(Request::post(format!("/etcdserverpb.KV/{method}")).body(Body::empty()).expect("request"));
        call("Range").await.expect("answer").into_body().collect().await.expect("body");
        call("Put").await.expect("answer");
        let mut given_up = Box::pin(call("Txn"));
        assert!(std::future::poll_fn(|cx| Poll::Ready(given_up.as_mut().poll(cx).is_pending())).await);
        drop(given_up);
        for (code, method) in [("OutOfRange", "Range"), ("NotFound", "Put"), ("Canceled", "Txn")] {
            assert_eq!(metrics.grpc_handled.with(&[code, method, "etcdserverpb.KV", "unary"]).get(), 1, "{method}");
            assert_eq!(metrics.grpc_started.with(&[method, "etcdserverpb.KV", "unary"]).get(), 1);
            assert_eq!(metrics.grpc_seconds.with(&[method, "etcdserverpb.KV", "unary"]).count(), 1);
        }
        assert_eq!(metrics.grpc_sent.with(&["Range", "etcdserverpb.KV", "unary"]).get(), 1);
    }
}
