//! A server that does just enough: it counts calls, refuses when told to, demands a token, and breaks watches off.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use quorate_client::proto::etcdserverpb::kv_server::{Kv, KvServer};
use quorate_client::proto::etcdserverpb::watch_request::RequestUnion;
use quorate_client::proto::etcdserverpb::watch_server::{Watch, WatchServer};
use quorate_client::proto::etcdserverpb::{
    AuthenticateResponse, CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse, RangeStreamResponse, TxnRequest, TxnResponse, WatchRequest, WatchResponse,
};
use quorate_client::proto::mvccpb::{Event, KeyValue};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::codegen::http;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status, Streaming};

/// What a fake remembers and what it was told.
#[derive(Default)]
pub struct State {
    pub puts: AtomicUsize,
    pub ranges: AtomicUsize,
    pub sign_ins: AtomicUsize,
    pub watch_starts: Mutex<Vec<i64>>,
    refusals: Mutex<VecDeque<(Code, String)>>,
    token: Mutex<Option<String>>,
}

impl State {
    /// The next calls fail like this.
    pub fn refuse_next(&self, count: usize, code: Code, message: &str) {
        self.refusals.lock().extend((0..count).map(|_| (code, message.to_string())));
    }

    /// From now on only this token is taken, and given to whoever signs in.
    pub fn demand_token(&self, token: &str) {
        *self.token.lock() = Some(token.to_string());
    }

    fn admit<T>(&self, request: &Request<T>, count: &AtomicUsize) -> Result<(), Status> {
        if let Some(token) = self.token.lock().as_deref()
            && request.metadata().get("token").is_none_or(|given| given.as_bytes() != token.as_bytes())
        {
            return Err(Status::unauthenticated("etcdserver: invalid auth token"));
        }
        count.fetch_add(1, Ordering::SeqCst);
        match self.refusals.lock().pop_front() {
            Some((code, message)) => Err(Status::new(code, message)),
            None => Ok(()),
        }
    }
}

/// A running fake; it ends with the test's runtime.
pub struct Fake {
    pub state: Arc<State>,
    url: String,
}

/// An address where nobody listens.
pub async fn dead_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// An address where connections are taken and dropped at once.
pub async fn rude_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    url
}

/// An address where connections are taken by the kernel and by nobody else, as long as the listener lives.
pub async fn hanging_address() -> (String, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    (format!("http://{}", listener.local_addr().unwrap()), listener)
}

impl Fake {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State::default());
        tokio::spawn(Server::builder().add_routes(routes(&state)).serve_with_incoming(TcpListenerStream::new(listener)));
        Self { state, url }
    }

    /// The same behind TLS, with a certificate for `localhost`, for clients with a certificate of the same authority.
    pub async fn start_tls(authority: &Authority) -> Self {
        Self::accept_tls(authority.acceptor()).await
    }

    /// The same with the authority's own certificate, for anyone.
    pub async fn start_self_signed(authority: &Authority) -> Self {
        Self::accept_tls(authority.own_acceptor()).await
    }

    async fn accept_tls(acceptor: TlsAcceptor) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let state = Arc::new(State::default());
        let (connections, accepted) = tokio::sync::mpsc::channel(4);
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                if let Ok(connection) = acceptor.accept(connection).await {
                    let _ = connections.send(Ok::<_, std::io::Error>(Connection(connection))).await;
                }
            }
        });
        tokio::spawn(Server::builder().add_routes(routes(&state)).serve_with_incoming(ReceiverStream::new(accepted)));
        Self { state, url }
    }

    pub fn url(&self) -> String {
        self.url.clone()
    }
}

fn routes(state: &Arc<State>) -> Routes {
    let sign_in = state.clone();
    let mut routes = Routes::new(KvServer::new(Service(state.clone())));
    routes = routes.add_service(WatchServer::new(Service(state.clone())));
    routes.add_service(SignIn(sign_in))
}

/// The one call of the Auth service that clients make by themselves, so that the other sixteen need no stand-in.
#[derive(Clone)]
struct SignIn(Arc<State>);

impl tonic::server::NamedService for SignIn {
    const NAME: &'static str = "etcdserverpb.Auth";
}

impl tower::Service<http::Request<tonic::body::Body>> for SignIn {
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let state = self.0.clone();
        Box::pin(async move {
            let codec = tonic_prost::ProstCodec::default();
            Ok(tonic::server::Grpc::new(codec).unary(Answer(state), request).await)
        })
    }
}

struct Answer(Arc<State>);

impl tonic::server::UnaryService<quorate_client::proto::etcdserverpb::AuthenticateRequest> for Answer {
    type Response = AuthenticateResponse;
    type Future = std::future::Ready<Result<Response<AuthenticateResponse>, Status>>;

    fn call(&mut self, request: Request<quorate_client::proto::etcdserverpb::AuthenticateRequest>) -> Self::Future {
        self.0.sign_ins.fetch_add(1, Ordering::SeqCst);
        std::future::ready(match request.into_inner().password.as_str() {
            "p" => {
                let token = self.0.token.lock().clone().unwrap_or_default();
                Ok(Response::new(AuthenticateResponse { header: None, token }))
            }
            _ => Err(Status::invalid_argument("etcdserver: authentication failed, invalid user ID or password")),
        })
    }
}

struct Service(Arc<State>);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Kv for Service {
    async fn range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        self.0.admit(&request, &self.0.ranges)?;
        Ok(Response::new(RangeResponse::default()))
    }

    type RangeStreamStream = Answers<RangeStreamResponse>;

    async fn range_stream(&self, _: Request<RangeRequest>) -> Result<Response<Self::RangeStreamStream>, Status> {
        Err(Status::unimplemented("not asked for here"))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        self.0.admit(&request, &self.0.puts)?;
        Ok(Response::new(PutResponse::default()))
    }

    async fn delete_range(&self, _: Request<DeleteRangeRequest>) -> Result<Response<DeleteRangeResponse>, Status> {
        Err(Status::unimplemented("not asked for here"))
    }

    async fn txn(&self, _: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        Err(Status::unimplemented("not asked for here"))
    }

    async fn compact(&self, _: Request<CompactionRequest>) -> Result<Response<CompactionResponse>, Status> {
        Err(Status::unimplemented("not asked for here"))
    }
}

#[tonic::async_trait]
impl Watch for Service {
    type WatchStream = Answers<WatchResponse>;

    async fn watch(&self, request: Request<Streaming<WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        let first = request.into_inner().message().await?.and_then(|request| request.request_union);
        let Some(RequestUnion::CreateRequest(create)) = first else {
            return Err(Status::invalid_argument("the first request makes a watch"));
        };
        let start = create.start_revision;
        self.0.watch_starts.lock().push(start);
        let event = |mod_revision| {
            let pair = KeyValue { key: "k".into(), mod_revision, ..KeyValue::default() };
            Event { kv: Some(pair.into()), ..Event::default() }
        };
        let answer = |events: Vec<Event>, fragment| Ok(WatchResponse { events, fragment, ..WatchResponse::default() });
        let answers = vec![
            Ok(WatchResponse { created: true, ..WatchResponse::default() }),
            answer(vec![event(start)], false),
            answer(vec![event(start + 1)], true),
            answer(vec![event(start + 1)], false),
            Err(Status::unavailable("the connection broke")),
        ];
        Ok(Response::new(Box::pin(tokio_stream::iter(answers).map(|answer| answer))))
    }
}

/// A certificate authority for one test.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        Self::named("authority")
    }

    /// An authority whose own certificate is for a server of that name.
    pub fn named(name: &str) -> Self {
        let mut params = CertificateParams::new(vec![name.to_string()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Its own certificate.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for a name, and its key.
    pub fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_string()]).unwrap().signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn own_acceptor(&self) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = PrivateKeyDer::from_pem_slice(self.0.key().serialize_pem().as_bytes()).unwrap();
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.0.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }

    fn acceptor(&self) -> TlsAcceptor {
        let (certificate, key) = self.issue("localhost");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}

/// A TLS connection that tonic's server takes.
struct Connection(tokio_rustls::server::TlsStream<tokio::net::TcpStream>);

impl tonic::transport::server::Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl tokio::io::AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl tokio::io::AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
