//! The door as clients meet it, on loopback.

use std::path::Path;
use std::sync::atomic::Ordering;

use axum::extract::Request;
use axum::routing::any;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::tls::testing::Authority;
use super::*;

/// A door with one listener whose routers say which of them answered, over which HTTP version, to whom.
struct House {
    door: Door,
    local: String,
    bytes: Arc<ByteCounts>,
}

fn who(kind: &'static str) -> Router {
    Router::new().fallback(any(move |request: Request| async move {
        let info = request.extensions().get::<Arc<ConnInfo>>().expect("connection info");
        format!("{kind} {:?} cn={}", request.version(), info.common_name.as_deref().unwrap_or("-"))
    }))
}

fn house(tls: Option<Arc<ServerTls>>) -> House {
    house_with(tls, who("http"))
}

fn house_with(tls: Option<Arc<ServerTls>>, http: Router) -> House {
    let net = Arc::new(NetThreads::start("net", 2).expect("threads"));
    let door = Door::new(net);
    let url = if tls.is_some() { "https://127.0.0.1:0" } else { "http://127.0.0.1:0" };
    let listener = Address::parse(url).expect("url").bind().expect("bind");
    let local = listener.local().to_owned();
    let bytes = Arc::new(ByteCounts::default());
    let entrance = Entrance {
        name: "client",
        tls,
        grpc: Some(who("grpc")),
        direct: None,
        http: Some(http),
        http2: Http2::default(),
        bytes: bytes.clone(),
        limit: Limit::new(100),
    };
    door.open(listener, entrance).expect("open");
    House { door, local, bytes }
}

/// One HTTP/1 request over `stream`, the whole answer as text.
async fn http1<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(mut stream: S) -> std::io::Result<String> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

async fn http2(dialed: tls::Dialed) -> String {
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), dialed).await.expect("h2");
    tokio::spawn(connection);
    let request = Request::post("http://x/a.B/C")
        .header("content-type", "application/grpc")
        .body(Empty::<bytes::Bytes>::new())
        .expect("request");
    let answer = sender.send_request(request).await.expect("answer").into_body().collect().await.expect("body").to_bytes();
    String::from_utf8(answer.to_vec()).expect("text")
}

fn dialer(house: &House, scheme: &str, tls: Option<Arc<ClientTls>>) -> Dialer {
    let address = Address::parse(&format!("{scheme}://{}", house.local)).expect("url");
    Dialer::new(&address, tls, Arc::default()).expect("dialer")
}

/// One HTTP/1 request over TLS as `client`: the answer, or why there is none.
async fn https(house: &House, client: &TlsSettings) -> Result<String, String> {
    let tls = ClientTls::load(client.clone()).map_err(|e| e.to_string())?;
    let tcp = TcpStream::connect(&house.local).await.expect("connect");
    let stream = tls.connect("127.0.0.1", tcp).await.map_err(|e| e.to_string())?;
    http1(stream).await.map_err(|e| e.to_string())
}

/// One port without TLS answers HTTP/1 and prior-knowledge HTTP/2, each from its router, and counts the bytes.
#[tokio::test]
async fn one_port_two_protocols() {
    let house = house(None);
    let answer = http1(TcpStream::connect(&house.local).await.expect("connect")).await.expect("answer");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("http HTTP/1.1 cn=-"), "{answer}");
    let answer = http2(dialer(&house, "http", None).dial().await.expect("dial")).await;
    assert_eq!(answer, "grpc HTTP/2.0 cn=-");
    assert!(house.bytes.received.load(Ordering::Relaxed) > 60 && house.bytes.sent.load(Ordering::Relaxed) > 60);
    assert!(house.door.close(Duration::from_secs(5)).await);
}

/// A unix socket serves the same way.
#[tokio::test]
async fn unix_socket() {
    let dir = tempfile::tempdir().expect("dir");
    let door = Door::new(Arc::new(NetThreads::start("net", 1).expect("threads")));
    let address = Address { place: Place::Unix(dir.path().join("s")), tls: false };
    let entrance = Entrance {
        name: "client",
        tls: None,
        grpc: Some(who("grpc")),
        direct: None,
        http: None,
        http2: Http2::default(),
        bytes: Arc::default(),
        limit: Limit::new(10),
    };
    door.open(address.bind().expect("bind"), entrance).expect("open");
    let dialed = Dialer::new(&address, None, Arc::default()).expect("dialer").dial().await.expect("dial");
    assert_eq!(http2(dialed).await, "grpc HTTP/2.0 cn=-");
}

/// An address that asks for TLS does not open without it.
#[test]
fn tls_without_files_is_refused() {
    let door = Door::new(Arc::new(NetThreads::start("net", 1).expect("threads")));
    let listener = Address::parse("https://127.0.0.1:0").expect("url").bind().expect("bind");
    let entrance = Entrance {
        name: "client",
        tls: None,
        grpc: None,
        direct: None,
        http: None,
        http2: Http2::default(),
        bytes: Arc::default(),
        limit: Limit::new(10),
    };
    assert!(door.open(listener, entrance).expect_err("refused").to_string().contains("KeyFile and CertFile are not presented"));
}

/// Closing lets a request that runs finish within the grace, and drops one that does not.
#[tokio::test]
async fn closing_drains_then_cuts() {
    let gate = Arc::new(tokio::sync::Notify::new());
    let (inside, opened) = (Arc::new(tokio::sync::Semaphore::new(0)), gate.clone());
    let entered = inside.clone();
    let slow = Router::new().fallback(any(move || {
        let (entered, opened) = (entered.clone(), opened.clone());
        async move {
            entered.add_permits(1);
            opened.notified().await;
            "late"
        }
    }));
    for (open_gate, calm) in [(true, true), (false, false)] {
        let house = house_with(None, slow.clone());
        let request = tokio::spawn(http1(TcpStream::connect(house.local.clone()).await.expect("connect")));
        inside.acquire().await.expect("handler runs").forget();
        let closing = house.door.closing();
        let grace = if open_gate { Duration::from_secs(30) } else { Duration::from_millis(20) };
        let opener = async {
            closing.cancelled().await;
            if open_gate {
                gate.notify_one();
            }
        };
        let (was_calm, ()) = tokio::join!(house.door.close(grace), opener);
        assert_eq!(was_calm, calm);
        assert_eq!(request.await.expect("task").is_ok_and(|answer| answer.ends_with("late")), calm);
        assert!(TcpStream::connect(&house.local).await.is_err(), "the port is free again");
    }
}

struct Papers {
    ours: Authority,
    server: TlsSettings,
    client: TlsSettings,
    stranger: TlsSettings,
}

fn papers(dir: &Path) -> Papers {
    let (ours, theirs) = (Authority::new(dir, "ours"), Authority::new(dir, "theirs"));
    let trusting = |settings: TlsSettings| TlsSettings { trusted_ca: Some(ours.ca.clone()), ..settings };
    let server = ours.leaf("server", "server", &["127.0.0.1", "localhost"], 1);
    let client = trusting(ours.leaf("client", "alice", &["alice.example"], 0x8877));
    let stranger = trusting(theirs.leaf("stranger", "alice", &["alice.example"], 3));
    Papers { ours, server, client, stranger }
}

/// Who gets in under which rules.
#[tokio::test]
async fn tls_matrix() {
    let dir = tempfile::tempdir().expect("dir");
    let p = papers(dir.path());
    let nobody = TlsSettings { trusted_ca: Some(p.ours.ca.clone()), ..Default::default() };
    let asking = TlsSettings { trusted_ca: Some(p.ours.ca.clone()), client_cert_auth: true, ..p.server.clone() };
    let cn = |names: &[&str]| TlsSettings { allowed_cns: names.iter().map(|n| (*n).to_owned()).collect(), ..asking.clone() };
    let host = |name: &str| TlsSettings { allowed_hostnames: vec![name.to_owned()], ..asking.clone() };
    let revoking = |serials: &[u64]| TlsSettings { crl: Some(p.ours.revoke(serials)), ..asking.clone() };
    let address = TlsSettings { check_address: true, ..asking.clone() };
    let starred = p.ours.leaf("starred", "carol", &["*.foo.example", "*.example"], 7);
    let starred = TlsSettings { trusted_ca: Some(p.ours.ca.clone()), ..starred };
    let cases = [
        ("plain TLS, no certificate", p.server.clone(), &nobody, Some("-")),
        ("plain TLS, a certificate nobody asked for", p.server.clone(), &p.stranger, Some("-")),
        ("asked, none shown", asking.clone(), &nobody, None),
        ("asked, ours", asking.clone(), &p.client, Some("alice")),
        ("asked, of another authority", asking.clone(), &p.stranger, None),
        ("common name allowed", cn(&["bob", "alice"]), &p.client, Some("alice")),
        ("common name not allowed", cn(&["bob"]), &p.client, None),
        ("host name allowed", host("alice.example"), &p.client, Some("alice")),
        ("host name not allowed", host("bob.example"), &p.client, None),
        ("a wildcard allowed as written", host("*.foo.example"), &starred, Some("carol")),
        ("a name under the star", host("bob.example"), &starred, Some("carol")),
        ("a name beside the star", host("bob.other"), &starred, None),
        ("revoked", revoking(&[5, 0x8877]), &p.client, None),
        ("names lead elsewhere", address, &p.client, None),
    ];
    for (name, server, client, expected) in cases {
        let house = house(Some(ServerTls::load(server).expect(name)));
        let answer = https(&house, client).await;
        match expected {
            Some(cn) => {
                assert!(answer.as_ref().is_ok_and(|a| a.ends_with(&format!("http HTTP/1.1 cn={cn}"))), "{name}: {answer:?}")
            }
            None => assert!(answer.is_err() || answer.as_ref().is_ok_and(String::is_empty), "{name}: {answer:?}"),
        }
    }
}

/// Names that are let in are also the only ones that are dialed.
#[tokio::test]
async fn allowed_servers() {
    let dir = tempfile::tempdir().expect("dir");
    let p = papers(dir.path());
    let house = house(Some(ServerTls::load(p.server.clone()).expect("server")));
    let cn = |name: &str| TlsSettings { allowed_cns: vec![name.to_owned()], ..p.client.clone() };
    let host = |name: &str| TlsSettings { allowed_hostnames: vec![name.to_owned()], ..p.client.clone() };
    for settings in [cn("server"), host("localhost")] {
        assert!(https(&house, &settings).await.expect("answer").contains("200 OK"));
    }
    for (settings, why) in [(cn("alice"), "is not allowed"), (host("alice.example"), "no allowed host name")] {
        let error = https(&house, &settings).await.expect_err("refused");
        assert!(error.contains(why), "{error}");
    }
    // What is beside the names holds as well.
    let wrong_place = TlsSettings { server_name: Some("other.example".into()), ..cn("server") };
    assert!(https(&house, &wrong_place).await.expect_err("refused").contains("not valid for name"));
}

/// A host and port named with and without TLS is one listener, which serves each connection as it greets.
#[tokio::test]
async fn one_port_with_and_without_tls() {
    let dir = tempfile::tempdir().expect("dir");
    let p = papers(dir.path());
    let tls = ServerTls::load(p.server.clone()).expect("tls");
    let free = Address::parse("http://127.0.0.1:0").and_then(|a| a.bind()).expect("bind").local().to_owned();
    let urls = ["http", "https"].map(|scheme| Address::parse(&format!("{scheme}://{free}")).expect("url"));
    let mut listeners = Address::bind_all(&urls, false).expect("bind");
    assert_eq!(listeners.len(), 1);
    let door = Door::new(Arc::new(NetThreads::start("net", 1).expect("threads")));
    let http = Some(who("http"));
    let entrance = Entrance {
        name: "client",
        tls: Some(tls),
        grpc: None,
        direct: None,
        http,
        http2: Http2::default(),
        bytes: Arc::default(),
        limit: Limit::new(10),
    };
    door.open(listeners.remove(0), entrance).expect("open");
    let house = House { door, local: free, bytes: Arc::default() };
    let plain = http1(TcpStream::connect(&house.local).await.expect("connect")).await.expect("plain");
    assert!(plain.ends_with("http HTTP/1.1 cn=-"), "{plain}");
    let trusting = TlsSettings { trusted_ca: Some(p.ours.ca.clone()), ..Default::default() };
    let secret = https(&house, &trusting).await.expect("TLS");
    assert!(secret.ends_with("http HTTP/1.1 cn=-"), "{secret}");
    // Whoever leaves without a word is no loss.
    drop(TcpStream::connect(&house.local).await.expect("connect"));
    assert!(http1(TcpStream::connect(&house.local).await.expect("connect")).await.is_ok());
}

/// A list that does not name the certificate lets it pass; ALPN chooses HTTP/2; a dialer checks the server's name.
#[tokio::test]
async fn tls_passes_what_it_should() {
    let dir = tempfile::tempdir().expect("dir");
    let p = papers(dir.path());
    let crl = Some(p.ours.revoke(&[5]));
    let server = TlsSettings { trusted_ca: Some(p.ours.ca.clone()), crl, ..p.server.clone() };
    let house = house(Some(ServerTls::load(server).expect("server")));
    let client = ClientTls::load(p.client.clone()).expect("client");
    assert_eq!(http2(dialer(&house, "https", Some(client)).dial().await.expect("dial")).await, "grpc HTTP/2.0 cn=alice");
    let wrong_name = TlsSettings { server_name: Some("other.example".into()), ..p.client.clone() };
    let error = dialer(&house, "https", Some(ClientTls::load(wrong_name).expect("client"))).dial().await.err().expect("refused");
    assert!(error.to_string().contains("not valid for name"), "{error}");
}

/// Versions and suites meet or do not meet.
#[tokio::test]
async fn versions_and_suites() {
    let dir = tempfile::tempdir().expect("dir");
    let p = papers(dir.path());
    let suite = |s: &TlsSettings, name: &str| TlsSettings {
        cipher_suites: vec![name.into()],
        max_version: Some(TlsVersion::Tls12),
        ..s.clone()
    };
    let (aes, chacha) = ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305");
    let of_tls13 = TlsSettings { min_version: Some(TlsVersion::Tls13), ..p.server.clone() };
    let of_tls12 = TlsSettings { max_version: Some(TlsVersion::Tls12), ..p.client.clone() };
    let cases = [
        (suite(&p.server, aes), suite(&p.client, aes), true),
        (suite(&p.server, chacha), suite(&p.client, chacha), true),
        (suite(&p.server, aes), suite(&p.client, chacha), false),
        (of_tls13.clone(), p.client.clone(), true),
        (of_tls13, of_tls12, false),
    ];
    for (server, client, meets) in cases {
        let house = house(Some(ServerTls::load(server).expect("server")));
        assert_eq!(https(&house, &client).await.is_ok(), meets);
    }
    let refused = |s: TlsSettings| ServerTls::load(s).err().expect("refused").to_string();
    assert_eq!(refused(suite(&p.server, "TLS_NOPE")), "unexpected TLS cipher suite \"TLS_NOPE\"");
    assert!(refused(suite(&p.server, "TLS_RSA_WITH_AES_128_CBC_SHA")).contains("none of"));
    assert!(refused(TlsSettings { key: p.client.key.clone(), ..p.server.clone() }).contains("do not go together"));
    assert!(refused(TlsSettings { cert: dir.path().join("absent"), ..p.server.clone() }).contains("absent"));
    assert!("TLS1.1".parse::<TlsVersion>().is_err());
}

/// Certificate, authority and revocation list are followed; a broken file changes nothing until it is mended.
#[tokio::test]
async fn files_are_followed() {
    let dir = tempfile::tempdir().expect("dir");
    let p = papers(dir.path());
    let list = p.ours.revoke(&[5]);
    let bundle = dir.path().join("bundle.pem");
    std::fs::copy(&p.ours.ca, &bundle).expect("copy");
    let settings = TlsSettings { trusted_ca: Some(bundle.clone()), crl: Some(list.clone()), ..p.server.clone() };
    let tls = ServerTls::load(settings).expect("server");
    let house = house(Some(tls.clone()));
    let welcome = async |client: &TlsSettings| https(&house, client).await.is_ok_and(|answer| answer.contains("200 OK"));
    assert!(welcome(&p.client).await && !welcome(&p.stranger).await);

    // A second authority joins the bundle; the server shows a new certificate.
    let both = [std::fs::read(&p.ours.ca).expect("read"), std::fs::read(dir.path().join("theirs-ca.pem")).expect("read")].concat();
    std::fs::write(&bundle, both).expect("write");
    p.ours.leaf("server", "server", &["127.0.0.1"], 99);
    tls.check_now();
    assert!(welcome(&p.client).await && welcome(&p.stranger).await);

    // The key is torn: the pair before it stays. Then it is whole again, and the list names the client.
    std::fs::write(&p.server.key, "torn").expect("write");
    p.ours.revoke(&[0x8877]);
    tls.check_now();
    assert!(welcome(&p.client).await && welcome(&p.stranger).await);
    p.ours.leaf("server", "server", &["127.0.0.1"], 100);
    tls.check_now();
    assert!(!welcome(&p.client).await && welcome(&p.stranger).await);
}

/// Certificates made by ourselves: made once, and enough for two members to talk.
#[tokio::test]
async fn self_signed_pair() {
    let dir = tempfile::tempdir().expect("dir");
    let place = dir.path().join("fixtures/peer");
    let make = || tls::self_signed(&place, &["127.0.0.1".into(), "localhost".into()], 1).expect("pair");
    let pair = make();
    let first = std::fs::read(&pair.cert).expect("cert");
    assert_eq!(std::fs::read(make().cert).expect("cert"), first);
    assert!(tls::self_signed(&dir.path().join("other"), &[], 0).is_err());
    let settings = TlsSettings { cert: pair.cert, key: pair.key, self_signed: true, ..Default::default() };
    let house = house(Some(ServerTls::load(settings.clone()).expect("server")));
    assert!(https(&house, &settings).await.expect("answer").ends_with("cn=-"));
}

/// A kind of connections that has used up its places keeps no other kind out.
#[tokio::test]
async fn full_for_one_kind_alone() {
    let door = Door::new(Arc::new(NetThreads::start("net", 1).expect("threads")));
    let open = |name, limit: Arc<Limit>| {
        let listener = Address::parse("http://127.0.0.1:0").and_then(|a| a.bind()).expect("bind");
        let local = listener.local().to_owned();
        let http = Some(who(name));
        let entrance =
            Entrance { name, tls: None, grpc: None, direct: None, http, http2: Http2::default(), bytes: Arc::default(), limit };
        door.open(listener, entrance).expect("open");
        local
    };
    let clients = Limit::new(2);
    let (client, metrics) = (open("client", clients.clone()), open("metrics", Limit::new(1)));
    let held = [TcpStream::connect(&client).await.expect("connect"), TcpStream::connect(&client).await.expect("connect")];
    let mut third = Box::pin(http1(TcpStream::connect(&client).await.expect("the kernel's queue")));
    let answer = tokio::select! {
        _ = &mut third => panic!("there was a third place"),
        answer = async { http1(TcpStream::connect(&metrics).await?).await } => answer.expect("answer"),
    };
    assert!(answer.ends_with("metrics HTTP/1.1 cn=-"), "{answer}");
    drop(held);
    assert!(third.await.expect("answer").ends_with("client HTTP/1.1 cn=-"));
}

/// More silent connections than handshakes may be under way keep nobody out of a TLS port.
#[tokio::test]
async fn silent_connections_take_no_turns() {
    let dir = tempfile::tempdir().expect("dir");
    let p = papers(dir.path());
    let house = house(Some(ServerTls::load(p.server.clone()).expect("server")));
    let mut silent = Vec::new();
    for _ in 0..HANDSHAKES + 8 {
        silent.push(TcpStream::connect(&house.local).await.expect("connect"));
    }
    let answer = tokio::time::timeout(Duration::from_secs(5), https(&house, &p.client)).await.expect("in time").expect("answer");
    assert!(answer.ends_with("http HTTP/1.1 cn=-"), "{answer}");
}

/// Nor do those that begin a handshake and leave it there, for longer than a moment.
#[tokio::test]
async fn broken_off_greetings_keep_nobody_long() {
    let dir = tempfile::tempdir().expect("dir");
    let p = papers(dir.path());
    let house = house(Some(ServerTls::load(p.server.clone()).expect("server")));
    let mut stuck = Vec::new();
    for _ in 0..HANDSHAKES {
        let mut stream = TcpStream::connect(&house.local).await.expect("connect");
        stream.write_all(&[0x16]).await.expect("greeting");
        stuck.push(stream);
    }
    let answer = tokio::time::timeout(Duration::from_secs(8), https(&house, &p.client)).await.expect("in time").expect("answer");
    assert!(answer.ends_with("http HTTP/1.1 cn=-"), "{answer}");
}

/// Ten thousand streams of one connection are open at once.
#[tokio::test]
async fn many_streams() {
    const STREAMS: usize = 10_000;
    let gate = Arc::new(tokio::sync::Barrier::new(STREAMS));
    let all_inside = Router::new().fallback(any(move || {
        let gate = gate.clone();
        async move {
            gate.wait().await;
        }
    }));
    let house = house_with(None, all_inside);
    let io = TokioIo::new(TcpStream::connect(&house.local).await.expect("connect"));
    let mut client = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (sender, connection) = client.initial_max_send_streams(STREAMS).handshake(io).await.expect("h2");
    tokio::spawn(connection);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..STREAMS {
        let mut sender = sender.clone();
        calls.spawn(async move {
            sender
                .send_request(Request::get("http://x/").body(Empty::<bytes::Bytes>::new()).expect("request"))
                .await
                .expect("answer")
                .status()
        });
    }
    assert!(calls.join_all().await.iter().all(|status| *status == 200));
}
