//! JSON calls: a POST with a JSON body becomes a gRPC call on the router in this process, its answer JSON again.
//!
//! The messages' descriptors do the translation, so no message is named here. What is accepted: field names as in the .proto files or in camel case,
//! 64-bit numbers as numbers or strings, bytes in base64, enums by name or number, unknown fields (ignored). What is given: .proto names, 64-bit
//! numbers as strings, zero fields left out. Streams: one `{"result":...}` a line; a stream's requests may follow each other in the body.

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, BodyDataStream};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::BodyExt;
use prost::Message;
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor, MethodDescriptor, SerializeOptions};
use serde::Deserialize;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use tower::ServiceExt;

use super::route_table::ROUTES;
use crate::door::ConnInfo;

/// What gRPC allows a message above --max-request-bytes.
const GRPC_ROOM: usize = 512 << 10;
/// Messages of a request stream that wait for the handler.
const STREAM_AHEAD: usize = 4;
/// A watch stays open when its requests have ended; the other streams end with them.
const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// The translator and the router it calls.
pub struct JsonCalls {
    router: Router,
    methods: HashMap<&'static str, (&'static str, MethodDescriptor)>,
    max_json_bytes: usize,
}

impl JsonCalls {
    /// Calls go to `router`, the gRPC router, which judges what is above `max_request_bytes`; JSON that no gRPC message could be made of
    /// (twice what gRPC takes: base64 and names take room) is refused here.
    ///
    /// # Errors
    /// Names a route whose method the descriptors do not know.
    pub fn new(router: Router, max_request_bytes: usize) -> Result<Self, String> {
        let pool = DescriptorPool::decode(quorate_proto::DESCRIPTORS).map_err(|e| e.to_string())?;
        let mut methods = HashMap::new();
        for route in ROUTES {
            let (service, name) = route.method[1..].split_once('/').ok_or(route.method)?;
            let service = pool.get_service_by_name(service).ok_or(route.method)?;
            let method = service.methods().find(|m| m.name() == name).ok_or(route.method)?;
            methods.insert(route.path, (route.method, method));
        }
        Ok(Self { router, methods, max_json_bytes: max_request_bytes.saturating_add(GRPC_ROOM).saturating_mul(2) })
    }
}

pub(super) async fn serve(State(calls): State<Arc<JsonCalls>>, request: Request) -> Response {
    let Some((path, method)) = calls.methods.get(request.uri().path()) else {
        return refusal(StatusCode::NOT_FOUND, &Status::not_found("Not Found"));
    };
    if request.method() != Method::POST {
        return refusal(StatusCode::NOT_IMPLEMENTED, &Status::unimplemented("Method Not Allowed"));
    }
    let deadline = match deadline(request.headers()) {
        Ok(deadline) => deadline,
        Err(status) => return refusal(http_status(status.code()), &status),
    };
    let call = calls.call(path, method, request, deadline);
    let answer = match deadline {
        None => call.await,
        Some(deadline) => tokio::time::timeout_at(deadline, call).await.unwrap_or_else(|_| Err(late())),
    };
    match answer {
        Ok(response) => response,
        Err(status) if method.is_server_streaming() && status.code() == Code::DeadlineExceeded => stream_refusal(&status),
        Err(status) => refusal(http_status(status.code()), &status),
    }
}

/// When the call is to be given up, by the header Grpc-Timeout: digits and a unit, as gRPC writes it.
fn deadline(headers: &HeaderMap) -> Result<Option<Instant>, Status> {
    let Some(value) = headers.get("grpc-timeout").filter(|value| !value.is_empty()) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    let bad = || Status::invalid_argument(format!("invalid grpc-timeout: {text}"));
    let (digits, unit) = text.split_at_checked(text.len().wrapping_sub(1)).ok_or_else(bad)?;
    let nanos: u64 = match unit {
        "H" => 3_600_000_000_000,
        "M" => 60_000_000_000,
        "S" => 1_000_000_000,
        "m" => 1_000_000,
        "u" => 1_000,
        "n" => 1,
        _ => return Err(bad()),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    let count: u64 = digits.parse().map_err(|_| bad())?;
    // A time that no clock can hold is no deadline.
    Ok(Instant::now().checked_add(Duration::from_nanos(count.saturating_mul(nanos))))
}

fn late() -> Status {
    Status::deadline_exceeded("context deadline exceeded")
}

/// Why a body could not be had whole.
fn unread(e: &axum::Error) -> Status {
    match std::error::Error::source(e) {
        Some(source) if source.is::<http_body_util::LengthLimitError>() => {
            Status::invalid_argument("etcdserver: request is too large")
        }
        _ => Status::invalid_argument(format!("the body cannot be read: {e}")),
    }
}

impl JsonCalls {
    async fn call(
        &self,
        path: &'static str,
        method: &MethodDescriptor,
        request: Request,
        deadline: Option<Instant>,
    ) -> Result<Response, Status> {
        let (parts, body) = request.into_parts();
        let body = if method.is_client_streaming() {
            let (sender, receiver) = mpsc::channel(STREAM_AHEAD);
            let feed =
                Feed { body: body.into_data_stream(), input: method.input(), limit: self.max_json_bytes, hold: path == WATCH };
            tokio::spawn(feed.run(sender));
            Body::from_stream(ReceiverStream::new(receiver).map(Ok::<_, Infallible>))
        } else {
            let bytes = axum::body::to_bytes(body, self.max_json_bytes).await.map_err(|e| unread(&e))?;
            Body::from(frame(&parse(&bytes, method.input())?))
        };
        let mut call = Request::post(path).header(header::CONTENT_TYPE, "application/grpc").header(header::TE, "trailers");
        if let Some(headers) = call.headers_mut() {
            metadata(&parts.headers, headers);
        }
        let mut call = call.body(body).map_err(|e| Status::internal(e.to_string()))?;
        if let Some(info) = parts.extensions.get::<Arc<ConnInfo>>() {
            let anonymous = ConnInfo { listener: info.listener, remote: info.remote.clone(), tls: info.tls, common_name: None };
            call.extensions_mut().insert(Arc::new(anonymous));
        }
        let response = self.router.clone().oneshot(call).await.unwrap_or_else(|never| match never {});
        if let Some(status) = Status::from_header_map(response.headers())
            && status.code() != Code::Ok
        {
            return if method.is_server_streaming() { Ok(stream_refusal(&status)) } else { Err(status) };
        }
        let mut answers = Answers { body: response.into_body(), buffer: BytesMut::new(), output: method.output() };
        if method.is_server_streaming() {
            return stream(answers, deadline).await;
        }
        let answer = answers.next().await.ok_or_else(|| Status::internal("the call had no answer"))??;
        // The status comes after the answer and may still be an error.
        if let Some(Err(status)) = answers.next().await {
            return Err(status);
        }
        Ok((ANSWER, answer).into_response())
    }
}

const ANSWER: [(&str, &str); 2] = [("content-type", "application/json"), ("grpc-metadata-content-type", "application/grpc")];

/// Metadata by grpc-gateway's rules, as far as the services read any.
fn metadata(from: &HeaderMap, to: &mut HeaderMap) {
    for (name, value) in from {
        match name.as_str() {
            "authorization" => drop(to.insert(name.clone(), value.clone())),
            other => {
                if let Some(Ok(inner)) = other.strip_prefix("grpc-metadata-").map(header::HeaderName::try_from)
                    && inner != header::CONTENT_TYPE
                {
                    to.insert(inner, value.clone());
                }
            }
        }
    }
}

// === requests ===

/// Turns the body's JSON messages into gRPC frames until it ends, is wrong, or nobody listens.
struct Feed {
    body: BodyDataStream,
    input: MessageDescriptor,
    limit: usize,
    hold: bool,
}

impl Feed {
    async fn run(mut self, sender: mpsc::Sender<Bytes>) {
        let mut waiting = Vec::new();
        while let Some(Ok(chunk)) = self.body.next().await {
            waiting.extend_from_slice(&chunk);
            loop {
                let mut values = serde_json::Deserializer::from_slice(&waiting).into_iter::<serde::de::IgnoredAny>();
                let used = match values.next() {
                    Some(Ok(_)) => values.byte_offset(),
                    Some(Err(e)) if e.is_eof() => break,
                    Some(Err(_)) => return,
                    None => {
                        waiting.clear();
                        break;
                    }
                };
                let Ok(message) = parse(&waiting[..used], self.input.clone()) else { return };
                if sender.send(frame(&message)).await.is_err() {
                    return;
                }
                waiting.drain(..used);
            }
            if waiting.len() > self.limit {
                return;
            }
        }
        if self.hold {
            sender.closed().await;
        }
    }
}

/// One message from JSON; an empty body is an empty message, as in etcd.
fn parse(json: &[u8], input: MessageDescriptor) -> Result<DynamicMessage, Status> {
    if json.iter().all(u8::is_ascii_whitespace) {
        return Ok(DynamicMessage::new(input));
    }
    let mut de = serde_json::Deserializer::from_slice(json);
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let message = DynamicMessage::deserialize_with_options(input.clone(), &mut de, &options);
    let once = || Once(Some(&input)).deserialize(&mut serde_json::Deserializer::from_slice(json));
    let message = message.and_then(|m| de.end().map(|()| m)).and_then(|m| once().map(|()| m));
    message.map_err(|e| Status::invalid_argument(format!("proto: {e}")))
}

/// Reads JSON for one thing only: that no field of the message, or of those inside it, comes twice under either of its names. Which of
/// two values counts would be anybody's guess. `None` is a value with no message in it.
struct Once<'a>(Option<&'a MessageDescriptor>);

impl<'de> DeserializeSeed<'de> for Once<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        match self.0 {
            Some(_) => from.deserialize_any(self),
            None => serde::de::IgnoredAny::deserialize(from).map(drop),
        }
    }
}

impl<'de> Visitor<'de> for Once<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a message")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = BTreeSet::new();
        while let Some(name) = map.next_key::<String>()? {
            let field = self.0.and_then(|m| m.get_field_by_json_name(&name).or_else(|| m.get_field_by_name(&name)));
            if field.as_ref().is_some_and(|field| !seen.insert(field.number())) {
                return Err(serde::de::Error::custom(format!("duplicate field {name:?}")));
            }
            let kind = field.filter(|field| !field.is_map()).map(|field| field.kind());
            map.next_value_seed(Once(kind.as_ref().and_then(|kind| kind.as_message())))?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Once(self.0))?.is_some() {}
        Ok(())
    }

    // Everything else has no fields; whether it fits was judged before.
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// The gRPC frame of an uncompressed message: a zero, the length in four bytes, the message.
fn frame(message: &DynamicMessage) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(5 + length);
    bytes.put_u8(0);
    bytes.put_u32(length as u32);
    bytes.put_slice(&message.encode_to_vec());
    bytes.freeze()
}

// === answers ===

/// The answers of a call, as JSON texts; an error is the last.
struct Answers {
    body: Body,
    buffer: BytesMut,
    output: MessageDescriptor,
}

impl Answers {
    async fn next(&mut self) -> Option<Result<String, Status>> {
        loop {
            if let Some(message) = self.take() {
                return Some(render(message, self.output.clone()));
            }
            match self.body.frame().await? {
                Err(e) => return Some(Err(Status::internal(e.to_string()))),
                Ok(frame) => match frame.into_data() {
                    Ok(data) => self.buffer.extend_from_slice(&data),
                    Err(frame) => {
                        let status = frame.trailers_ref().and_then(Status::from_header_map)?;
                        return (status.code() != Code::Ok).then_some(Err(status));
                    }
                },
            }
        }
    }

    fn take(&mut self) -> Option<Bytes> {
        let mut head = self.buffer.get(..5)?;
        head.advance(1);
        let length = head.get_u32() as usize;
        if self.buffer.len() - 5 < length {
            return None;
        }
        self.buffer.advance(5);
        Some(self.buffer.split_to(length).freeze())
    }
}

fn render(message: Bytes, output: MessageDescriptor) -> Result<String, Status> {
    let internal = |e: String| Status::internal(e);
    let message = DynamicMessage::decode(output, message).map_err(|e| internal(e.to_string()))?;
    let mut out = serde_json::Serializer::new(Vec::new());
    message
        .serialize_with_options(&mut out, &SerializeOptions::new().use_proto_field_name(true))
        .map_err(|e| internal(e.to_string()))?;
    String::from_utf8(out.into_inner()).map_err(|e| internal(e.to_string()))
}

/// A stream's answer begins with its first message, because an error before it still sets the HTTP status.
async fn stream(mut answers: Answers, deadline: Option<Instant>) -> Result<Response, Status> {
    let first = match answers.next().await {
        Some(Err(status)) => return Ok(stream_refusal(&status)),
        Some(Ok(first)) => Some(line(&first)),
        None => None,
    };
    let (sender, receiver) = mpsc::channel(STREAM_AHEAD);
    tokio::spawn(async move {
        loop {
            let ends = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            let answer = tokio::select! {
                () = sender.closed() => return,
                () = ends => {
                    let _ = sender.send(error_line(&late())).await;
                    return;
                }
                answer = answers.next() => answer,
            };
            let text = match answer {
                None => return,
                Some(Ok(text)) => line(&text),
                Some(Err(status)) => error_line(&status),
            };
            if sender.send(text).await.is_err() {
                return;
            }
        }
    });
    let texts = tokio_stream::iter(first).chain(ReceiverStream::new(receiver));
    Ok((ANSWER, Body::from_stream(texts.map(Ok::<_, Infallible>))).into_response())
}

fn line(text: &str) -> String {
    format!("{{\"result\":{text}}}\n")
}

fn error_line(status: &Status) -> String {
    format!("{{\"error\":{}}}\n", error_text(status))
}

fn stream_refusal(status: &Status) -> Response {
    (http_status(status.code()), [("content-type", "application/json")], error_line(status)).into_response()
}

fn refusal(code: StatusCode, status: &Status) -> Response {
    let mut response = (code, [("content-type", "application/json")], error_text(status)).into_response();
    if status.code() == Code::Unauthenticated
        && let Ok(why) = HeaderValue::from_str(status.message())
    {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, why);
    }
    response
}

/// A google.rpc.Status without its empty fields.
fn error_text(status: &Status) -> String {
    let message = serde_json::Value::from(status.message());
    format!("{{\"code\":{},\"message\":{message}}}", status.code() as i32)
}

/// grpc-gateway's table.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
