//! How the client behaves when servers are away, refuse, or ask for a sign-in. The servers are small ones made here, on loopback
//! ports that the system chooses; what they answer is what a test needs, nothing more.

mod fake;

use std::sync::atomic::Ordering;
use std::time::Duration;

use fake::Fake;
use quorate_client::proto::etcdserverpb::{PutRequest, RangeRequest, WatchCreateRequest};
use quorate_client::{Client, Code, Config, Credentials, Error, Pem, TlsConfig};

fn range() -> RangeRequest {
    RangeRequest { key: "k".into(), ..RangeRequest::default() }
}

fn put() -> PutRequest {
    PutRequest { key: "k".into(), ..PutRequest::default() }
}

/// With one endpoint dead, reads and writes go to the other, and later calls go there at once.
#[tokio::test]
async fn dead_endpoints_are_passed_over() {
    let fake = Fake::start().await;
    let client = Client::new(Config::new([fake::dead_address().await, fake.url()])).unwrap();
    client.put(put()).await.unwrap();
    client.range(range()).await.unwrap();
    assert_eq!((fake.state.puts.load(Ordering::SeqCst), fake.state.ranges.load(Ordering::SeqCst)), (1, 1));
    assert!(client.only("nobody:1").is_none());
    assert_eq!(client.only(&fake.url()).unwrap().endpoints().collect::<Vec<_>>(), [fake.url()]);
}

/// A read is repeated when the server is unavailable; a write is not, for it may have happened.
#[tokio::test]
async fn only_reads_are_repeated() {
    let fake = Fake::start().await;
    let client = Client::new(Config::new([fake.url()])).unwrap();
    fake.state.refuse_next(2, Code::Unavailable, "etcdserver: leader changed");
    client.range(range()).await.unwrap();
    assert_eq!(fake.state.ranges.load(Ordering::SeqCst), 3);
    fake.state.refuse_next(1, Code::Unavailable, "etcdserver: leader changed");
    let error = client.put(put()).await.unwrap_err();
    assert!(error.is_etcd("leader changed"), "{error}");
    assert_eq!(error.code(), Some(Code::Unavailable));
    assert_eq!(fake.state.puts.load(Ordering::SeqCst), 1);
}

/// Other errors come back at once with code and text unchanged.
#[tokio::test]
async fn refusals_are_kept() {
    let fake = Fake::start().await;
    let client = Client::new(Config::new([fake.url()])).unwrap();
    fake.state.refuse_next(1, Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted");
    let error = client.range(range()).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::OutOfRange));
    assert_eq!(error.to_string(), "etcdserver: mvcc: required revision has been compacted");
    assert_eq!(fake.state.ranges.load(Ordering::SeqCst), 1);
}

/// A message above the limit is not sent, and the error says how large it is.
#[tokio::test]
async fn large_messages_are_not_sent() {
    let fake = Fake::start().await;
    let mut config = Config::new([fake.url()]);
    config.max_send_bytes = 10;
    let client = Client::new(config).unwrap();
    let large = PutRequest { value: vec![b'b'; 16].into(), ..put() };
    let error = client.put(large).await.unwrap_err();
    assert_eq!(error.to_string(), "rpc error: code = ResourceExhausted desc = trying to send message larger than max (21 vs. 10)");
    assert_eq!(fake.state.puts.load(Ordering::SeqCst), 0);
    client.put(put()).await.unwrap();
}

/// Without any server a call ends when its time is up, not before and not never.
#[tokio::test]
async fn time_limits_end_calls() {
    let client = Client::new(Config::new([fake::dead_address().await])).unwrap();
    let error = client.timeout(Some(Duration::from_millis(200))).put(put()).await.unwrap_err();
    assert!(matches!(error, Error::Timeout), "{error}");
    assert_eq!(error.to_string(), "context deadline exceeded");
}

/// A member that hangs takes connections, for its kernel does, and says nothing. The calls that meet it end when their time is up, be
/// they one or many; those after them go to the next.
#[tokio::test]
async fn hanging_members_are_left() {
    for at_once in [1, 2, 4] {
        let (hanging, _listener) = fake::hanging_address().await;
        let fake = Fake::start().await;
        let client = Client::new(Config::new([hanging, fake.url()])).unwrap().timeout(Some(Duration::from_millis(300)));
        let calls: Vec<_> = (0..at_once)
            .map(|_| {
                tokio::spawn({
                    let client = client.clone();
                    async move { client.put(put()).await }
                })
            })
            .collect();
        for call in calls {
            let error = call.await.unwrap().unwrap_err();
            assert!(matches!(error, Error::Timeout), "{error}");
        }
        assert_eq!(fake.state.puts.load(Ordering::SeqCst), 0, "a write that nobody answered was sent again");
        // Longer than a member that failed is avoided.
        tokio::time::sleep(Duration::from_millis(600)).await;
        client.timeout(Some(Duration::from_secs(5))).put(put()).await.unwrap();
        assert_eq!(fake.state.puts.load(Ordering::SeqCst), 1);
    }
}

/// The same for one that hangs while somebody signs in.
#[tokio::test]
async fn hanging_sign_ins_are_left() {
    let (hanging, _listener) = fake::hanging_address().await;
    let fake = Fake::start().await;
    fake.state.demand_token("first");
    let mut config = Config::new([hanging, fake.url()]);
    config.credentials = Some(Credentials::Password { user: "u".to_string(), password: "p".to_string() });
    let client = Client::new(config).unwrap();
    let error = client.timeout(Some(Duration::from_millis(300))).put(put()).await.unwrap_err();
    assert!(matches!(error, Error::Timeout), "{error}");
    client.put(put()).await.unwrap();
}

/// A password becomes a token before the first call; a token that the server no longer takes is replaced, once per failure.
#[tokio::test]
async fn tokens_are_renewed() {
    let fake = Fake::start().await;
    fake.state.demand_token("first");
    let mut config = Config::new([fake.url()]);
    config.credentials = Some(Credentials::Password { user: "u".to_string(), password: "p".to_string() });
    let client = Client::new(config.clone()).unwrap();
    client.put(put()).await.unwrap();
    assert_eq!(fake.state.sign_ins.load(Ordering::SeqCst), 1);
    fake.state.demand_token("second");
    client.put(put()).await.unwrap();
    assert_eq!((fake.state.sign_ins.load(Ordering::SeqCst), fake.state.puts.load(Ordering::SeqCst)), (2, 2));

    config.credentials = Some(Credentials::Password { user: "u".to_string(), password: "wrong".to_string() });
    let error = Client::new(config).unwrap().put(put()).await.unwrap_err();
    assert!(error.is_etcd("authentication failed, invalid user ID or password"), "{error}");
}

/// A watch goes on over a lost connection at the next revision: each event is seen once.
#[tokio::test]
async fn watches_outlive_connections() {
    let fake = Fake::start().await;
    let client = Client::new(Config::new([fake.url()])).unwrap();
    let mut watcher = client.watcher(WatchCreateRequest { key: "k".into(), start_revision: 5, ..WatchCreateRequest::default() });
    let mut seen = Vec::new();
    let mut created = 0;
    // The fake sends two revisions a stream, the second in two fragments, then breaks off.
    while seen.len() < 6 {
        let answer = watcher.next().await.unwrap();
        created += usize::from(answer.created);
        seen.extend(answer.events.iter().map(|event| event.kv.as_ref().unwrap().decode().unwrap().mod_revision));
    }
    assert_eq!(seen, [5, 6, 6, 7, 8, 8]);
    assert_eq!(created, 1);
    assert_eq!(*fake.state.watch_starts.lock(), [5, 7]);
}

/// A server whose one certificate signed itself is taken when that certificate is the authority, under its own name only.
#[tokio::test]
async fn self_signed_servers() {
    let authority = fake::Authority::named("localhost");
    let fake = Fake::start_self_signed(&authority).await;
    let mut config = Config::new([fake.url()]);
    let tls = TlsConfig { authorities: Some(Pem::Text(authority.pem().into_bytes())), ..TlsConfig::default() };
    config.tls = Some(tls.clone());
    Client::new(config.clone()).unwrap().put(put()).await.unwrap();

    config.timeout = Some(Duration::from_millis(300));
    config.tls = Some(TlsConfig { server_name: Some("elsewhere".to_string()), ..tls.clone() });
    assert!(Client::new(config.clone()).unwrap().put(put()).await.is_err());
    config.tls = Some(TlsConfig { authorities: Some(Pem::Text(fake::Authority::named("localhost").pem().into_bytes())), ..tls });
    assert!(Client::new(config).unwrap().put(put()).await.is_err());
    assert_eq!(fake.state.puts.load(Ordering::SeqCst), 1);
}

/// A server that hangs up before it says anything has got no request: a write goes on to the next endpoint.
#[tokio::test]
async fn hang_ups_lose_no_writes() {
    let fake = Fake::start().await;
    let client = Client::new(Config::new([fake::rude_address().await, fake.url()])).unwrap();
    client.put(put()).await.unwrap();
    assert_eq!(fake.state.puts.load(Ordering::SeqCst), 1);
}

/// TLS in both directions: the server is checked against the given authority, and the client shows its certificate. Without
/// the authority, or under another name, nothing is sent.
#[tokio::test]
async fn tls() {
    let authority = fake::Authority::new();
    let fake = Fake::start_tls(&authority).await;
    let (certificate, key) = authority.issue("client");
    let pem = |text: String| Pem::Text(text.into_bytes());
    let good = TlsConfig {
        authorities: Some(pem(authority.pem())),
        identity: Some((pem(certificate), pem(key))),
        server_name: None,
        insecure_skip_verify: false,
    };
    let mut config = Config::new([fake.url()]);
    config.timeout = Some(Duration::from_secs(2));
    config.tls = Some(good.clone());
    Client::new(config.clone()).unwrap().put(put()).await.unwrap();

    config.tls = Some(TlsConfig { authorities: None, insecure_skip_verify: true, ..good.clone() });
    Client::new(config.clone()).unwrap().put(put()).await.unwrap();

    config.timeout = Some(Duration::from_millis(300));
    for bad in [
        TlsConfig { authorities: Some(pem(fake::Authority::new().pem())), ..good.clone() },
        TlsConfig { server_name: Some("elsewhere".to_string()), ..good.clone() },
        TlsConfig { identity: None, ..good.clone() },
    ] {
        config.tls = Some(bad);
        assert!(Client::new(config.clone()).unwrap().put(put()).await.is_err());
    }
    assert_eq!(fake.state.puts.load(Ordering::SeqCst), 2);
    config.tls = Some(TlsConfig { authorities: Some(Pem::File("/does/not/exist".into())), ..good });
    assert!(matches!(Client::new(config), Err(Error::Config(_))));
}
