//! The refusal of messages larger than the limit, in the words of etcd's gRPC library.
//!
//! tonic refuses such a message before a handler sees it, with code `OutOfRange`; Go's gRPC says `ResourceExhausted`, and clients look for that.
//! One that is too large only when unpacked has the right code and other words.
//! In: a service. Out: the same service with those answers mended. An answer that carries messages is not looked into: only a refusal has its
//! status among the headers.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{HeaderValue, Request, Response, header::HeaderMap};
use tonic::{Code, body::Body, server::NamedService};
use tower::Service;

/// How tonic 0.14 begins the text of that refusal; a test holds this against the library.
const TONIC_TEXT: &str = "Error, decoded message length too large: found ";

/// How it begins the text of the refusal of what is too large when unpacked.
const TONIC_UNPACKED: &str = "Error decompressing: size limit, of ";

/// A service whose oversize refusals look like Go's.
#[derive(Clone)]
pub struct Oversize<S> {
    inner: S,
}

impl<S> Oversize<S> {
    /// Wraps `inner`.
    pub fn new(inner: S) -> Oversize<S> {
        Oversize { inner }
    }
}

impl<S: NamedService> NamedService for Oversize<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, B> Service<Request<B>> for Oversize<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
    S::Future: Unpin,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Mended<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        Mended { inner: self.inner.call(request) }
    }
}

/// The answer under way.
pub struct Mended<F> {
    inner: F,
}

impl<F: Future<Output = Result<Response<Body>, Infallible>> + Unpin> Future for Mended<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut answer = ready!(Pin::new(&mut self.inner).poll(context));
        if let Ok(response) = &mut answer {
            mend(response.headers_mut());
        }
        Poll::Ready(answer)
    }
}

fn mend(headers: &mut HeaderMap) {
    const OUT_OF_RANGE: &str = "11";
    const EXHAUSTED: &str = "8";
    let Some(status) = headers.get("grpc-status").and_then(|status| status.to_str().ok()) else { return };
    let text = || headers.get("grpc-message")?.to_str().ok();
    let mended = match status {
        OUT_OF_RANGE => text()
            .and_then(sizes)
            .map(|(found, limit)| format!("grpc:%20received%20message%20larger%20than%20max%20({found}%20vs.%20{limit})")),
        EXHAUSTED => text()
            .and_then(unpacked_limit)
            .map(|limit| format!("grpc:%20received%20message%20after%20decompression%20larger%20than%20max%20{limit}")),
        _ => None,
    };
    let Some(text) = mended else { return };
    if let Ok(text) = HeaderValue::try_from(text) {
        headers.insert("grpc-status", HeaderValue::from(Code::ResourceExhausted as i32));
        headers.insert("grpc-message", text);
    }
}

/// The size found and the limit, from tonic's percent-encoded text.
fn sizes(text: &str) -> Option<(u64, u64)> {
    let text = text.replace("%20", " ");
    let (found, rest) = text.strip_prefix(TONIC_TEXT)?.split_once(" bytes, the limit is: ")?;
    Some((found.parse().ok()?, rest.strip_suffix(" bytes")?.parse().ok()?))
}

/// The limit, from tonic's percent-encoded text about an unpacked message.
fn unpacked_limit(text: &str) -> Option<u64> {
    let text = text.replace("%20", " ");
    text.strip_prefix(TONIC_UNPACKED)?.split_once(" bytes, exceeded")?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;

    fn mended(status: Status) -> Status {
        let mut response = status.into_http::<Body>();
        mend(response.headers_mut());
        Status::from_header_map(response.headers()).unwrap()
    }

    /// Only the oversize refusals change; another `OutOfRange`, which etcd uses for compacted revisions, stays.
    #[test]
    fn mends_only_the_oversize_refusal() {
        let text = "Error, decoded message length too large: found 37748736 bytes, the limit is: 2097152 bytes";
        let status = mended(Status::out_of_range(text));
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.message(), "grpc: received message larger than max (37748736 vs. 2097152)");
        let text = "Error decompressing: size limit, of 2097152 bytes, exceeded while decompressing message";
        let status = mended(Status::resource_exhausted(text));
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.message(), "grpc: received message after decompression larger than max 2097152");
        let status = mended(Status::resource_exhausted("etcdserver: mvcc: database space exceeded"));
        assert_eq!(status.message(), "etcdserver: mvcc: database space exceeded");
        let status = mended(Status::out_of_range("etcdserver: mvcc: required revision has been compacted"));
        assert_eq!(status.code(), Code::OutOfRange);
    }
}
