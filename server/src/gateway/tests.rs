//! The HTTP side as its clients meet it; the bodies are those a real etcd 3.7.3 gave to the same requests.

use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, Kind, MessageDescriptor, SerializeOptions, Value};
use tower::ServiceExt;

use super::*;

// === pages ===

#[derive(Default)]
struct Member {
    no_space: AtomicBool,
    corrupt: AtomicBool,
    no_leader: AtomicBool,
    learner: AtomicBool,
    no_quorum: AtomicBool,
    disk_full: AtomicBool,
}

impl HealthSource for Member {
    fn alarms(&self) -> Vec<Alarm> {
        let raised = |flag: &AtomicBool, alarm| flag.load(Ordering::Relaxed).then_some(alarm);
        [raised(&self.no_space, Alarm::NoSpace), raised(&self.corrupt, Alarm::Corrupt)].into_iter().flatten().collect()
    }

    fn has_leader(&self) -> bool {
        !self.no_leader.load(Ordering::Relaxed)
    }

    fn waits_for_space(&self) -> bool {
        self.disk_full.load(Ordering::Relaxed)
    }

    fn is_learner(&self) -> bool {
        self.learner.load(Ordering::Relaxed)
    }

    fn read(&self, linearizable: bool) -> ReadFuture<'_> {
        let fails = linearizable && self.no_quorum.load(Ordering::Relaxed);
        Box::pin(std::future::ready(if fails { Err("etcdserver: request timed out".into()) } else { Ok(()) }))
    }
}

fn pages(member: &Arc<Member>) -> Pages {
    let versions = || Versions { server: "3.7.3".into(), cluster: None, storage: Some("3.7.0".into()) };
    Pages {
        health: member.clone(),
        metrics: Metrics::new(false),
        versions: Arc::new(versions),
        live: Arc::new(|| serde_json::json!({"term": 2})),
    }
}

async fn ask(router: &Router, request: Request) -> (u16, HeaderMap, String) {
    let response = router.clone().oneshot(request).await.expect("answer");
    let (head, body) = response.into_parts();
    let body = body.collect().await.expect("body").to_bytes();
    (head.status.as_u16(), head.headers, String::from_utf8(body.to_vec()).expect("text"))
}

async fn get(router: &Router, path: &str) -> (u16, String) {
    let (code, _, body) = ask(router, Request::get(path).body(Body::empty()).expect("request")).await;
    (code, body)
}

/// /health looks at alarms, leader and a read, in this order, and can be told to overlook an alarm or the quorum.
#[tokio::test]
async fn health() {
    let member = Arc::new(Member::default());
    let pages = pages(&member);
    let router = metrics_routes(&pages);
    assert_eq!(get(&router, "/health").await, (200, r#"{"health":"true","reason":""}"#.into()));
    member.no_quorum.store(true, Ordering::Relaxed);
    let ill = |reason: &str| (503, format!("{{\"health\":\"false\",\"reason\":\"{reason}\"}}\n"));
    assert_eq!(get(&router, "/health").await, ill("RANGE ERROR:etcdserver: request timed out"));
    member.no_leader.store(true, Ordering::Relaxed);
    assert_eq!(get(&router, "/health").await, ill("RAFT NO LEADER"));
    assert_eq!(get(&router, "/health?serializable=true").await.0, 200);
    member.no_space.store(true, Ordering::Relaxed);
    assert_eq!(get(&router, "/health").await, ill("ALARM NOSPACE"));
    assert_eq!(get(&router, "/health?serializable=true&exclude=CORRUPT&exclude=NOSPACE").await.0, 200);
    let (code, headers, body) = ask(&router, Request::post("/health").body(Body::empty()).expect("request")).await;
    assert_eq!((code, headers["allow"].as_bytes(), body.as_str()), (405, &b"GET"[..], "Method Not Allowed\n"));
    assert_eq!((pages.metrics.health_success.get(), pages.metrics.health_failures.get()), (3, 3));
}

/// A member that waits shows metrics and answers probes as soon as there is one to be asked; before that it says that it lives, and why it waits.
#[tokio::test]
async fn waiting() {
    let member = Arc::new(Member::default());
    member.no_leader.store(true, Ordering::Relaxed);
    member.no_quorum.store(true, Ordering::Relaxed);
    let early = waiting_routes("not joined", None);
    assert_eq!(get(&early, "/livez").await.0, 200);
    for path in ["/readyz", "/health", "/metrics", "/version"] {
        let (code, body) = get(&early, path).await;
        assert!(code == 503 && body.contains("not joined"), "{path}: {code} {body}");
    }
    let late = waiting_routes("no leader", Some(&pages(&member)));
    assert_eq!(get(&late, "/livez").await.0, 200);
    assert_eq!(get(&late, "/health").await, (503, "{\"health\":\"false\",\"reason\":\"RAFT NO LEADER\"}\n".into()));
    let (code, body) = get(&late, "/readyz").await;
    assert!(code == 503 && body.contains("[-]linearizable_read failed: etcdserver: request timed out\n"), "{body}");
    let (code, page) = get(&late, "/metrics").await;
    assert!(code == 200 && page.contains("\netcd_server_has_leader 0\n"), "{code}");
    assert_eq!(get(&late, "/version").await, (503, "no leader\n".into()));
}

/// A member whose writes wait for space is neither well nor ready, and says why; another start would not help it.
#[tokio::test]
async fn a_full_disk_shows() {
    let member = Arc::new(Member::default());
    let router = client_routes(&pages(&member), None, Access::default());
    member.disk_full.store(true, Ordering::Relaxed);
    assert_eq!(get(&router, "/health").await, (503, "{\"health\":\"false\",\"reason\":\"THE DISK IS FULL\"}\n".into()));
    let (status, report) = get(&router, "/readyz").await;
    assert!(status == 503 && report.contains("[-]disk_space failed: the disk is full\n"), "{report}");
    assert_eq!(get(&router, "/readyz?exclude=disk_space").await.0, 200);
    assert_eq!(get(&router, "/livez").await.0, 200);
}

/// /livez and /readyz: a store at its quota does not matter, the rest does; details come when asked for or when something is wrong.
#[tokio::test]
async fn probes() {
    let member = Arc::new(Member::default());
    let pages = pages(&member);
    let router = client_routes(&pages, None, Access::default());
    member.no_space.store(true, Ordering::Relaxed);
    assert_eq!(get(&router, "/livez").await, (200, "ok\n".into()));
    let report = "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\nok\n";
    assert_eq!(get(&router, "/readyz?verbose").await, (200, report.into()));
    assert_eq!(get(&router, "/readyz/linearizable_read?verbose").await, (200, "[+]linearizable_read ok\nok\n".into()));
    assert_eq!(get(&router, "/readyz/nope").await, (404, "404 page not found\n".into()));
    member.no_quorum.store(true, Ordering::Relaxed);
    member.learner.store(true, Ordering::Relaxed);
    member.corrupt.store(true, Ordering::Relaxed);
    let report = "[-]data_corruption failed: alarm activated: CORRUPT\n[+]serializable_read ok\n\
                  [-]linearizable_read failed: etcdserver: request timed out\n[-]non_learner failed: not supported for learner\n\n";
    assert_eq!(get(&router, "/readyz").await, (503, report.into()));
    let all = "/readyz?exclude=data_corruption&exclude=linearizable_read&exclude=non_learner&exclude=unknown";
    assert_eq!(get(&router, all).await, (200, "ok\n".into()));
    assert_eq!(get(&router, "/livez").await.0, 200);
    let page = pages.metrics.render();
    assert!(page.contains("etcd_server_healthcheck{name=\"non_learner\",type=\"readyz\"} 0\n"));
    assert!(page.contains("etcd_server_healthchecks_total{name=\"serializable_read\",status=\"success\",type=\"livez\"} 2\n"));
}

/// The other pages.
#[tokio::test]
async fn other_pages() {
    let member = Arc::default();
    let router = client_routes(&pages(&member), None, Access::default());
    assert_eq!(get(&router, "/version").await.1, r#"{"etcdserver":"3.7.3","etcdcluster":"not_decided","storage":"3.7.0"}"#);
    assert_eq!(get(&router, "/debug/quorate").await.1, r#"{"term":2}"#);
    assert!(get(&router, "/metrics").await.1.contains("# TYPE etcd_server_has_leader gauge\netcd_server_has_leader 0\n"));
    let vars: serde_json::Value = serde_json::from_str(&get(&router, "/debug/vars").await.1).expect("JSON");
    assert!(vars["file_descriptor_limit"].as_u64().expect("number") > 0);
    assert!(vars["memstats"]["Alloc"].as_u64().expect("number") > 0);
    assert_eq!(vars["raft.status"]["term"], 2);
    assert_eq!(get(&router, "/").await, (404, "404 page not found\n".into()));
    assert_eq!(get(&metrics_routes(&pages(&member)), "/version").await.0, 404);
}

/// The metrics page is gzipped for whoever asks for that, and only then.
#[tokio::test]
async fn metrics_gzipped() {
    use std::io::Read;
    let router = metrics_routes(&pages(&Arc::default()));
    for (accepts, zipped) in [("gzip", true), ("deflate, GZIP;q=0.5", true), ("gzip;q=0", false), ("identity", false), ("", false)]
    {
        let request = Request::get("/metrics").header("accept-encoding", accepts).body(Body::empty()).expect("request");
        let response = router.clone().oneshot(request).await.expect("answer");
        assert_eq!(response.headers().get("content-encoding").is_some_and(|v| v == "gzip"), zipped, "{accepts}");
        let bytes = response.into_body().collect().await.expect("body").to_bytes();
        let mut text = String::new();
        match zipped {
            true => flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut text).expect("gzip"),
            false => (&bytes[..]).read_to_string(&mut text).expect("text"),
        };
        assert!(text.contains("\netcd_server_has_leader 0\n"), "{accepts}");
    }
}

/// Host names and origins: who is let in, and what a browser is told.
#[tokio::test]
async fn access() {
    let only = |word: &str| AllowList::Only([word.to_owned()].into());
    let router = |access| client_routes(&pages(&Arc::default()), None, access);
    let request = |host: &str, method: &str| {
        Request::builder()
            .method(method)
            .uri("/version")
            .header("host", host)
            .header("origin", "https://o")
            .body(Body::empty())
            .expect("request")
    };
    let closed = router(Access { hosts: only("kv.example"), origins: only("https://o") });
    assert_eq!(ask(&closed, request("kv.example:2379", "GET")).await.0, 200);
    assert_eq!(ask(&closed, request("evil.example:2379", "GET")).await.0, 421);
    let allowed = |headers: &HeaderMap| headers.get("access-control-allow-origin").map(|v| v.to_str().expect("text").to_owned());
    let (code, headers, body) = ask(&closed, request("kv.example", "OPTIONS")).await;
    assert_eq!((code, allowed(&headers).as_deref(), body.as_str()), (200, Some("https://o"), ""));
    let (_, headers, _) = ask(&router(Access { origins: only("https://p"), ..Access::default() }), request("x", "GET")).await;
    assert_eq!(allowed(&headers), None);
    let (_, headers, _) = ask(&router(Access::default()), request("[::1]:1", "GET")).await;
    assert_eq!(allowed(&headers).as_deref(), Some("*"));
}

// === JSON calls ===

/// A gRPC server that answers every call by `answer(path, messages)`: the messages to send and the status to end with.
fn grpc(answer: impl Fn(&str, Vec<Bytes>) -> (Vec<Bytes>, u32, &'static str) + Clone + Send + Sync + 'static) -> Router {
    Router::new().fallback(move |request: Request| {
        let answer = answer.clone();
        async move {
            let path = request.uri().path().to_owned();
            // A watch's requests do not end; its first frame is enough to answer on.
            let mut body = request.into_body();
            let mut bytes = BytesMut::new();
            while let Some(Ok(frame)) = body.frame().await {
                bytes.extend_from_slice(&frame.into_data().unwrap_or_default());
                if path.ends_with("/Watch") {
                    break;
                }
            }
            let (messages, code, text) = answer(&path, split(bytes.freeze()));
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", code.into());
            trailers.insert("grpc-message", text.parse().expect("text"));
            let frames = messages.into_iter().map(|m| Frame::data(framed(&m))).chain([Frame::trailers(trailers)]);
            Body::new(StreamBody::new(tokio_stream::iter(frames.map(Ok::<_, std::convert::Infallible>)))).into_response()
        }
    })
}

fn framed(message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(message.len() as u32);
    bytes.put_slice(message);
    bytes.freeze()
}

fn split(mut bytes: Bytes) -> Vec<Bytes> {
    let mut messages = Vec::new();
    while bytes.len() >= 5 {
        let head = bytes.split_to(5);
        messages.push(bytes.split_to(u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize));
    }
    messages
}

fn json_router(grpc: Router) -> Router {
    let calls = JsonCalls::new(grpc, 1 << 20).expect("routes");
    client_routes(&pages(&Arc::default()), Some(calls), Access::default())
}

async fn post(router: &Router, path: &str, body: &str) -> (u16, String) {
    let (code, _, body) = ask(router, Request::post(path).body(Body::from(body.to_owned())).expect("request")).await;
    (code, body)
}

/// A message with every field set, the last of each oneof, down to a depth.
fn full(descriptor: MessageDescriptor, depth: usize) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    for field in descriptor.fields() {
        let value = match field.kind() {
            Kind::Message(_) if depth == 0 => continue,
            Kind::Message(inner) => Value::Message(full(inner, depth - 1)),
            Kind::Enum(kind) => Value::EnumNumber(kind.values().last().map_or(0, |v| v.number())),
            Kind::Bool => Value::Bool(true),
            Kind::String => Value::String("a \"b\" é".into()),
            Kind::Bytes => Value::Bytes(Bytes::from_static(&[0, 0xff, 7])),
            Kind::Int64 => Value::I64(-(1 << 60) - 1),
            Kind::Uint64 => Value::U64(u64::MAX),
            Kind::Int32 => Value::I32(-5),
            Kind::Uint32 => Value::U32(5),
            other => unreachable!("{other:?}"),
        };
        let value = if field.is_list() { Value::List(vec![value.clone(), value]) } else { value };
        message.set_field(&field, value);
    }
    message
}

/// Every route, in every way JSON may be spelled: the request reaches its method whole, and the answer comes back whole.
#[tokio::test]
async fn every_route_round_trips() {
    let pool = DescriptorPool::decode(quorate_proto::DESCRIPTORS).expect("descriptors");
    assert_eq!(ROUTES.len(), 51);
    for route in ROUTES {
        let (service, name) = route.method[1..].split_once('/').expect("path");
        let method = pool.get_service_by_name(service).expect("service").methods().find(|m| m.name() == name).expect("method");
        let (request, answer) = (full(method.input(), 3), full(method.output(), 3));
        let expected = request.encode_to_vec();
        let sent = Bytes::from(answer.encode_to_vec());
        let path = route.method;
        let router = json_router(grpc(move |at, got| {
            let whole = at == path && got.len() == 1 && got[0] == expected;
            if whole { (vec![sent.clone()], 0, "") } else { (vec![], 13, "not what was sent") }
        }));
        for names in [true, false] {
            for text in [true, false] {
                let options =
                    SerializeOptions::new().use_proto_field_name(names).stringify_64_bit_integers(text).use_enum_numbers(!text);
                let mut out = serde_json::Serializer::new(Vec::new());
                request.serialize_with_options(&mut out, &options).expect("serialize");
                let (code, body) = post(&router, route.path, std::str::from_utf8(&out.into_inner()).expect("text")).await;
                assert_eq!(code, 200, "{} {body}", route.path);
                let value: serde_json::Value = serde_json::from_str(&body).expect("JSON");
                let value = if method.is_server_streaming() { value["result"].clone() } else { value };
                assert_eq!(DynamicMessage::deserialize(method.output(), value).expect("answer"), answer, "{}", route.path);
            }
        }
    }
}

/// What a real etcd printed, byte for byte but for the blanks Go's printer puts in at random.
#[tokio::test]
async fn bodies_as_etcd_prints_them() {
    let range = r#"{"header":{"cluster_id":"13455796455940752355","member_id":"443629905751424238","revision":"2","raft_term":"2"},"kvs":[{"key":"Zm9v","create_revision":"2","mod_revision":"2","version":"1","value":"YmFy"}],"count":"1"}"#;
    let member = r#"{"member":{"ID":"7","name":"a","peerURLs":["http://x:1"],"isLearner":true}}"#;
    for (path, output, text) in [
        ("/v3/kv/range", "etcdserverpb.RangeResponse", range),
        ("/v3/cluster/member/add", "etcdserverpb.MemberAddResponse", member),
        (
            "/v3/maintenance/status",
            "etcdserverpb.StatusResponse",
            r#"{"dbSize":"20480","raftAppliedIndex":"6","downgradeInfo":{}}"#,
        ),
    ] {
        let pool = DescriptorPool::decode(quorate_proto::DESCRIPTORS).expect("descriptors");
        let message = DynamicMessage::deserialize(
            pool.get_message_by_name(output).expect("type"),
            &mut serde_json::Deserializer::from_str(text),
        )
        .expect("message");
        let bytes = Bytes::from(message.encode_to_vec());
        let router = json_router(grpc(move |_, _| (vec![bytes.clone()], 0, "")));
        let (code, headers, body) = ask(&router, Request::post(path).body(Body::from("{}")).expect("request")).await;
        assert_eq!((code, body.as_str()), (200, text));
        assert_eq!(
            (headers["content-type"].as_bytes(), headers["grpc-metadata-content-type"].as_bytes()),
            (&b"application/json"[..], &b"application/grpc"[..])
        );
    }
}

/// Wrong paths, methods, bodies and refused calls, each with etcd's code and body.
#[tokio::test]
async fn errors() {
    let router = json_router(grpc(|path, _| {
        if path.ends_with("Put") { (vec![], 3, "etcdserver: key is not provided") } else { (vec![], 11, "late") }
    }));
    let no_key = (400, r#"{"code":3,"message":"etcdserver: key is not provided"}"#.to_owned());
    for body in ["", "{}", r#"{"key":"","keyx":"aa"}"#] {
        assert_eq!(post(&router, "/v3/kv/put", body).await, no_key, "{body}");
    }
    assert_eq!(post(&router, "/v3beta/kv/put", "{}").await, no_key);
    assert_eq!(post(&router, "/v3/kv/range", "{}").await, (400, r#"{"code":11,"message":"late"}"#.into()));
    assert_eq!(post(&router, "/v3/kv/nope", "{}").await, (404, r#"{"code":5,"message":"Not Found"}"#.into()));
    assert_eq!(get(&router, "/v3/kv/put").await, (501, r#"{"code":12,"message":"Method Not Allowed"}"#.into()));
    for body in ["{bad", r#"{"key":1}"#, r#"{"key":"a"}"#, r#"{"lease":"x"}"#, "{} {}"] {
        let (code, text) = post(&router, "/v3/kv/put", body).await;
        assert!(code == 400 && text.starts_with(r#"{"code":3,"message":"proto: "#), "{body}: {code} {text}");
    }
    // A stream that is refused before its first message has the error inside.
    assert_eq!(post(&router, "/v3/watch", "{}").await, (400, "{\"error\":{\"code\":11,\"message\":\"late\"}}\n".into()));
}

/// An unknown enum name is overlooked, as in etcd.
#[tokio::test]
async fn unknown_enum_names_are_ignored() {
    let router = json_router(grpc(|_, got| {
        if got == [Bytes::from_static(b"\n\x01k")] { (vec![Bytes::new()], 0, "") } else { (vec![], 13, "other") }
    }));
    assert_eq!(post(&router, "/v3/kv/range", r#"{"key":"aw==","sort_order":"FOO"}"#).await, (200, "{}".into()));
}

/// Streams: several requests in one body, one line an answer, an error as the last line.
#[tokio::test]
async fn streams() {
    // A request's ID is field 1, an answer's field 2: the server moves it.
    let renewed = |request: &Bytes| Bytes::from([&[0x10], &request[1..]].concat());
    let router = json_router(grpc(move |_, got| (got.iter().map(renewed).collect(), 14, "gone")));
    let lines = "{\"result\":{\"ID\":\"1\"}}\n{\"result\":{\"ID\":\"2\"}}\n{\"error\":{\"code\":14,\"message\":\"gone\"}}\n";
    assert_eq!(post(&router, "/v3/lease/keepalive", "{\"ID\":\"1\"}\n {\"ID\":2}").await, (200, lines.into()));
    let pool = DescriptorPool::decode(quorate_proto::DESCRIPTORS).expect("descriptors");
    let blob = base64::engine::general_purpose::STANDARD.encode([7; 40]);
    let message = DynamicMessage::deserialize(
        pool.get_message_by_name("etcdserverpb.SnapshotResponse").expect("type"),
        serde_json::json!({"blob": blob}),
    )
    .expect("message");
    let bytes = Bytes::from(message.encode_to_vec());
    let router = json_router(grpc(move |_, _| (vec![bytes.clone(), bytes.clone()], 0, "")));
    let line = format!("{{\"result\":{{\"blob\":\"{blob}\"}}}}\n");
    assert_eq!(post(&router, "/v3/maintenance/snapshot", "{}").await, (200, line.repeat(2)));
}

/// Tokens reach the call; the client certificate's name does not.
#[tokio::test]
async fn identity() {
    let seen = Router::new().fallback(|request: Request| async move {
        let info = request.extensions().get::<Arc<crate::door::ConnInfo>>().expect("info");
        let header = |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or("-").to_owned();
        let text = format!("{} {} {:?}", header("authorization"), header("hasleader"), info.common_name);
        let response: Response = ([("grpc-status", "2"), ("grpc-message", text.replace(' ', "%20").as_str())]).into_response();
        response
    });
    let info = crate::door::ConnInfo {
        listener: "client",
        remote: crate::door::Remote::Unix,
        tls: true,
        common_name: Some("alice".into()),
    };
    let mut request = Request::post("/v3/kv/range")
        .header("authorization", "tok")
        .header("grpc-metadata-hasleader", "true")
        .body(Body::empty())
        .expect("request");
    request.extensions_mut().insert(Arc::new(info));
    assert_eq!(ask(&json_router(seen), request).await.2, r#"{"code":2,"message":"tok true None"}"#);
}

/// A call is given up at its Grpc-Timeout, a stream too; a time that cannot be read is refused.
#[tokio::test]
async fn timeouts() {
    let never = Router::new().fallback(std::future::pending::<Response>);
    let router = json_router(never);
    let timed =
        |path: &str, timeout: &str| Request::post(path).header("grpc-timeout", timeout).body(Body::from("{}")).expect("request");
    let late = r#"{"code":4,"message":"context deadline exceeded"}"#;
    for timeout in ["5m", "0S", "5000u", "1n"] {
        let (code, _, body) = ask(&router, timed("/v3/kv/range", timeout)).await;
        assert_eq!((code, body.as_str()), (504, late), "{timeout}");
    }
    let (code, _, body) = ask(&router, timed("/v3/watch", "5m")).await;
    assert_eq!((code, body), (504, format!("{{\"error\":{late}}}\n")));
    for timeout in ["1", "S", "1x", "-1S", "1.5S", "99999999999999999999S"] {
        let (code, _, body) = ask(&router, timed("/v3/kv/range", timeout)).await;
        assert_eq!((code, body), (400, format!(r#"{{"code":3,"message":"invalid grpc-timeout: {timeout}"}}"#)));
    }
    // In time is in time.
    let quick = json_router(grpc(|_, _| (vec![Bytes::new()], 0, "")));
    assert_eq!(ask(&quick, timed("/v3/kv/range", "1H")).await.2, "{}");
}

/// A stream whose answers stop is ended at its Grpc-Timeout.
#[tokio::test]
async fn streams_end_in_time() {
    let first = Router::new().fallback(|| async {
        let frames = tokio_stream::iter([Ok::<_, std::convert::Infallible>(Frame::data(framed(b"")))]);
        Body::new(StreamBody::new(tokio_stream::StreamExt::chain(frames, tokio_stream::pending()))).into_response()
    });
    let request = Request::post("/v3/watch").header("grpc-timeout", "50m").body(Body::from("{}")).expect("request");
    let (code, _, body) = ask(&json_router(first), request).await;
    let late = "{\"error\":{\"code\":4,\"message\":\"context deadline exceeded\"}}\n";
    assert_eq!((code, body), (200, format!("{{\"result\":{{}}}}\n{late}")));
}

/// Unclean paths are sent to the clean ones, with their query.
#[tokio::test]
async fn unclean_paths() {
    let router = client_routes(&pages(&Arc::default()), None, Access::default());
    for (path, clean) in [
        ("//version", "/version"),
        ("/v3//kv/put", "/v3/kv/put"),
        ("/v3/./kv/../kv/put/?a=b&c", "/v3/kv/put/?a=b&c"),
        ("/../..", "/"),
    ] {
        let (code, headers, body) = ask(&router, Request::post(path).body(Body::empty()).expect("request")).await;
        assert_eq!((code, headers["location"].to_str().expect("text"), body.as_str()), (307, clean, ""), "{path}");
    }
    let (code, body) = get(&router, "//version").await;
    assert_eq!((code, body.as_str()), (307, "<a href=\"/version\">Temporary Redirect</a>.\n\n"));
    assert_eq!(get(&router, "/version").await.0, 200);
}

/// A field that comes twice is refused, at every depth and under either name; the call is not made.
#[tokio::test]
async fn duplicate_fields() {
    let router = json_router(grpc(|_, _| (vec![Bytes::new()], 0, "")));
    for (path, body, name) in [
        ("/v3/kv/put", r#"{"key":"YQ==","key":"Yg=="}"#, "key"),
        ("/v3/kv/range", r#"{"range_end":"YQ==","rangeEnd":"Yg=="}"#, "rangeEnd"),
        ("/v3/kv/txn", r#"{"success":[{"requestPut":{"key":"YQ==","key":null}}]}"#, "key"),
    ] {
        let (code, text) = post(&router, path, body).await;
        let says = serde_json::to_string(&format!("duplicate field {name:?}")).expect("text");
        assert!(code == 400 && text.contains(says.trim_matches('"')), "{body}: {code} {text}");
    }
    // The same name in two messages, and unknown fields, are no repeats.
    let body = r#"{"success":[{"requestPut":{"key":"YQ=="}},{"requestPut":{"key":"YQ=="}}],"x":1,"x":{"y":1,"y":2}}"#;
    assert_eq!(post(&router, "/v3/kv/txn", body).await, (200, "{}".into()));
}

/// With a small limit the gRPC call says what is too large; a body beyond all limits is refused with the same words.
#[tokio::test]
async fn large_bodies() {
    let router = client_routes(
        &pages(&Arc::default()),
        Some(JsonCalls::new(grpc(|_, got| (vec![], 3, if got[0].len() > 10 { "large" } else { "small" })), 10).expect("routes")),
        Access::default(),
    );
    let put = |bytes: usize| format!(r#"{{"value":"{}"}}"#, base64::engine::general_purpose::STANDARD.encode(vec![1; bytes]));
    assert_eq!(post(&router, "/v3/kv/put", &put(400 << 10)).await, (400, r#"{"code":3,"message":"large"}"#.into()));
    let large = r#"{"code":3,"message":"etcdserver: request is too large"}"#;
    assert_eq!(post(&router, "/v3/kv/put", &put(4 << 20)).await, (400, large.into()));
}
