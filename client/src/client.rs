//! The client itself: endpoints, choice among them, sign-in, and the one loop that every unary call goes through.
//!
//! Invariants: a call that nobody answered in time makes later ones go to another endpoint. A write is sent again only when its error
//! proves that no connection came about; a read whenever a member was unavailable. A call that is refused because its identity went
//! stale signs in again and is sent once more, up to a limit (the server checks who asks before it does anything).

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use quorate_proto::etcdserverpb::AuthenticateRequest;
use quorate_proto::etcdserverpb::auth_client::AuthClient;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use crate::address::Address;
use crate::config::{Config, Credentials};
use crate::connector::Connector;
use crate::error::{Error, Result, not_connected};

/// Servers hang up on clients that probe more often than this.
const KEEP_ALIVE_FLOOR: Duration = Duration::from_secs(10);
/// Pause between attempts, give or take a tenth.
const BACKOFF: Duration = Duration::from_millis(25);
/// How often one call may be refused for an identity that went stale: users and roles may be changing all the time.
const STALE: u32 = 20;
/// How long a member that could not be reached is passed over while others are left.
const AVOID: Duration = Duration::from_millis(500);

/// What may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retry {
    /// Changes nothing: again whenever a member is unavailable.
    Reads,
    /// Changes something: again only when nothing was sent.
    Writes,
}

/// A connection pool and an identity. Clones share both. Connections are opened at first use.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    /// Indices into `shared.nodes` that this client may use.
    chosen: Arc<[usize]>,
    timeout: Option<Duration>,
    require_leader: bool,
    repeatable: bool,
}

struct Shared {
    nodes: Vec<Node>,
    /// Where the next call goes; counts on when `spread` is set.
    turn: AtomicUsize,
    spread: bool,
    credentials: Option<Credentials>,
    token: Mutex<Option<MetadataValue<Ascii>>>,
    /// The server said that authentication is off, so there is no token to get until a call fails for want of one.
    open_to_all: AtomicBool,
    /// Held while signing in, so that many failing calls make one sign-in.
    signing_in: tokio::sync::Mutex<()>,
    limits: Limits,
}

struct Node {
    address: Address,
    channel: Channel,
    avoid_until: Mutex<Option<Instant>>,
}

/// The node that one attempt goes to. One that gave no answer until the attempt was given up is passed over next time, as one that
/// failed: its machine may hang, and then nothing else says so.
struct Pick<'a> {
    client: &'a Client,
    node: &'a Node,
    /// The turn that led to it, and the turn that leads to the one after it.
    turn: usize,
    next: usize,
    answered: bool,
}

impl Pick<'_> {
    /// Later calls go elsewhere, if there is an elsewhere. Of many calls that failed at one node only the first moves the turn on:
    /// otherwise they could lead round to that very node again.
    fn pass_over(&self) {
        *self.node.avoid_until.lock() = Some(Instant::now() + AVOID);
        if self.client.chosen.len() > 1 {
            let _ = self.client.shared.turn.compare_exchange(self.turn, self.next, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

impl Drop for Pick<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.pass_over();
        }
    }
}

/// Message sizes, bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub send: usize,
    pub receive: usize,
}

impl Client {
    /// Checks the settings. Must be called inside a Tokio runtime; connects to nobody yet.
    pub fn new(config: Config) -> Result<Self> {
        if config.endpoints.is_empty() {
            return Err(Error::Config("at least one endpoint is required".to_string()));
        }
        let token = match &config.credentials {
            Some(Credentials::Token(token)) => Some(ascii(token)?),
            _ => None,
        };
        let tls = config.tls.clone().map(Arc::new);
        if let Some(tls) = &tls {
            crate::tls::client_config(tls)?;
        }
        let mut nodes = Vec::with_capacity(config.endpoints.len());
        for text in &config.endpoints {
            let address = Address::parse(text)?;
            let connector = Connector { address: address.clone(), tls: tls.clone(), timeout: config.dial_timeout };
            let channel = endpoint(&config, &connector)?.connect_with_connector_lazy(connector);
            nodes.push(Node { address, channel, avoid_until: Mutex::new(None) });
        }
        let chosen = (0..nodes.len()).collect();
        let limits = Limits { send: config.max_send_bytes, receive: config.max_receive_bytes };
        let shared = Shared {
            nodes,
            turn: AtomicUsize::new(0),
            spread: config.spread,
            credentials: config.credentials,
            token: Mutex::new(token),
            open_to_all: AtomicBool::new(false),
            signing_in: tokio::sync::Mutex::new(()),
            limits,
        };
        Ok(Self { shared: Arc::new(shared), chosen, timeout: config.timeout, require_leader: false, repeatable: false })
    }

    /// The same client with another time limit for its unary calls; `None` waits for ever.
    #[must_use]
    pub fn timeout(&self, timeout: Option<Duration>) -> Self {
        Self { timeout, ..self.clone() }
    }

    /// The same client, whose changes of members may be repetitions: an add of addresses that were added and not started yet, and a
    /// removal of who was removed, are answered as the first time. Quorate knows this; to etcd they stay conflicts.
    #[must_use]
    pub fn repeatable(&self) -> Self {
        Self { repeatable: true, ..self.clone() }
    }

    /// The same client, whose calls fail at once, and whose streams end, when the member it talks to knows no leader.
    #[must_use]
    pub fn require_leader(&self) -> Self {
        Self { require_leader: true, ..self.clone() }
    }

    /// The same client limited to one of its endpoints, given as in the settings. `None` when it is not one of them.
    pub fn only(&self, endpoint: &str) -> Option<Self> {
        let index = self.shared.nodes.iter().position(|node| node.address.as_str() == endpoint.trim())?;
        Some(Self { chosen: Arc::new([index]), ..self.clone() })
    }

    /// The endpoints that this client may use, as they were given.
    pub fn endpoints(&self) -> impl Iterator<Item = &str> {
        self.chosen.iter().map(|index| self.shared.nodes[*index].address.as_str())
    }

    /// Sends one unary call, to another member or again as the policy allows, until it is answered or its time is up.
    pub(crate) async fn unary<Q, A, F, R>(&self, request: Q, retry: Retry, send: F) -> Result<A>
    where
        Q: prost::Message + Clone,
        F: Fn(Channel, Limits, Request<Q>) -> R,
        R: Future<Output = Result<Response<A>, Status>>,
    {
        // Looked at here, since further down it would only break the stream, and nobody would say why.
        let (size, limit) = (request.encoded_len(), self.shared.limits.send);
        if size > limit {
            let message = format!("trying to send message larger than max ({size} vs. {limit})");
            return Err(Error::Server { code: Code::ResourceExhausted, message });
        }
        let deadline = self.timeout.map(|timeout| Instant::now() + timeout);
        let work = self.attempts(deadline, retry, |node, left| {
            let mut message = self.dress(Request::new(request.clone()));
            if let Some(left) = left {
                message.set_timeout(left);
            }
            send(node.channel.clone(), self.shared.limits, message)
        });
        let answer = match deadline {
            Some(deadline) => timeout_at(deadline, work).await.map_err(|_| Error::Timeout)?,
            None => work.await,
        };
        Ok(answer?.into_inner())
    }

    /// Opens a stream. Only the opening is repeated, and only while no connection comes about; there is no time limit.
    pub(crate) async fn open<A, F, R>(&self, open: F) -> Result<A>
    where
        F: Fn(Channel, Limits) -> R,
        R: Future<Output = Result<Response<A>, Status>>,
    {
        Ok(self.attempts(None, Retry::Writes, |node, _| open(node.channel.clone(), self.shared.limits)).await?.into_inner())
    }

    /// Adds to a request what every request carries. Signs in first when there is no token yet: see [`Client::sign_in_first`].
    pub(crate) fn dress<Q>(&self, mut request: Request<Q>) -> Request<Q> {
        let metadata = request.metadata_mut();
        if let Some(token) = self.shared.token.lock().clone() {
            metadata.insert("token", token);
        }
        if self.repeatable {
            metadata.insert("quorate-repeatable", MetadataValue::from_static("true"));
        }
        if self.require_leader {
            metadata.insert("hasleader", MetadataValue::from_static("true"));
        }
        metadata.insert("client-api-version", MetadataValue::from_static("3.7"));
        request
    }

    async fn attempts<A, F, R>(&self, deadline: Option<Instant>, retry: Retry, send: F) -> Result<A>
    where
        F: Fn(&Node, Option<Duration>) -> R,
        R: Future<Output = Result<A, Status>>,
    {
        self.sign_in_first().await?;
        let mut stale = STALE;
        loop {
            let mut pick = self.pick();
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let used = self.shared.token.lock().clone();
            let answer = send(pick.node, left).await;
            pick.answered = true;
            let status = match answer {
                Ok(answer) => {
                    *pick.node.avoid_until.lock() = None;
                    return Ok(answer);
                }
                Err(status) => status,
            };
            if stale > 0 && self.may_refresh(&status) {
                stale -= 1;
                match self.can_sign_in() {
                    true => self.sign_in(used.as_ref()).await?,
                    false => sleep(BACKOFF).await,
                }
                continue;
            }
            let unreachable = not_connected(&status).is_some();
            let unavailable = status.code() == Code::Unavailable;
            let again = unreachable || (retry == Retry::Reads && unavailable);
            let error = Error::from(status);
            if unreachable || unavailable || matches!(error, Error::Timeout) {
                pick.pass_over();
            }
            if !again {
                return Err(error);
            }
            sleep(BACKOFF.mul_f64(rand::random_range(0.9..1.1))).await;
        }
    }

    /// The next node: in turn, but not one that just failed while there are others.
    fn pick(&self) -> Pick<'_> {
        let turn = match self.shared.spread {
            true => self.shared.turn.fetch_add(1, Ordering::Relaxed),
            false => self.shared.turn.load(Ordering::Relaxed),
        };
        let now = Instant::now();
        let count = self.chosen.len();
        let at = |step: usize| &self.shared.nodes[self.chosen[(turn % count + step) % count]];
        let usable = |step: &usize| at(*step).avoid_until.lock().is_none_or(|until| until <= now);
        let step = (0..count).find(usable).unwrap_or(0);
        Pick { client: self, node: at(step), turn, next: turn.wrapping_add(step + 1), answered: false }
    }

    /// True for refusals that another try with a fresh identity may change; the server did nothing before them. Whoever is known
    /// by certificate has nothing to refresh, but is looked at anew with each try.
    fn may_refresh(&self, status: &Status) -> bool {
        match status.message() {
            "etcdserver: invalid auth token" | "etcdserver: revision of auth store is old" => {
                !matches!(self.shared.credentials, Some(Credentials::Token(_)))
            }
            "etcdserver: user name is empty" => self.can_sign_in(),
            _ => false,
        }
    }

    fn can_sign_in(&self) -> bool {
        matches!(self.shared.credentials, Some(Credentials::Password { .. }))
    }

    /// Signs in, if there is a password and no token yet. Every call does this by itself; calling it first tells wrong passwords
    /// from other errors. Waits for a server for ever.
    pub async fn sign_in_first(&self) -> Result<()> {
        let known_open = self.shared.open_to_all.load(Ordering::Relaxed);
        if self.can_sign_in() && !known_open && self.shared.token.lock().is_none() {
            self.sign_in(None).await?;
        }
        Ok(())
    }

    /// Gets a token in place of `stale`. When someone else already replaced it, theirs is used.
    async fn sign_in(&self, stale: Option<&MetadataValue<Ascii>>) -> Result<()> {
        let _turn = self.shared.signing_in.lock().await;
        if self.shared.token.lock().as_ref() != stale {
            return Ok(());
        }
        let Some(Credentials::Password { user, password }) = &self.shared.credentials else {
            return Ok(());
        };
        loop {
            let mut pick = self.pick();
            let request = AuthenticateRequest { name: user.clone(), password: password.clone() };
            let answer = AuthClient::new(pick.node.channel.clone()).authenticate(request).await;
            pick.answered = true;
            match answer {
                Ok(answer) => {
                    *self.shared.token.lock() = Some(ascii(&answer.into_inner().token)?);
                    self.shared.open_to_all.store(false, Ordering::Relaxed);
                    return Ok(());
                }
                // Signing in with a password while authentication is off is no error: everyone may do everything.
                Err(status) if status.message() == "etcdserver: authentication is not enabled" => {
                    *self.shared.token.lock() = None;
                    self.shared.open_to_all.store(true, Ordering::Relaxed);
                    return Ok(());
                }
                Err(status) if status.code() == Code::Unavailable || not_connected(&status).is_some() => {
                    pick.pass_over();
                    sleep(BACKOFF).await;
                }
                Err(status) => return Err(status.into()),
            }
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let endpoints: Vec<&str> = self.endpoints().collect();
        f.debug_struct("Client").field("endpoints", &endpoints).field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

fn ascii(token: &str) -> Result<MetadataValue<Ascii>> {
    MetadataValue::try_from(token)
        .map_err(|_| Error::Config("the token holds characters that gRPC metadata cannot carry".to_string()))
}

fn endpoint(config: &Config, connector: &Connector) -> Result<Endpoint> {
    let invalid = |error: &dyn std::error::Error| Error::Config(format!("endpoint {}: {error}", connector.address));
    let authority = connector.address.authority();
    // The connector does TLS by itself, so the URI it is handed says http; the origin is what servers see.
    let uri = format!("http://{authority}");
    let scheme = if connector.uses_tls() { "https" } else { "http" };
    let origin = format!("{scheme}://{authority}").parse().map_err(|error: http::uri::InvalidUri| invalid(&error))?;
    let mut endpoint = Endpoint::from_shared(uri)
        .map_err(|error| invalid(&error))?
        .origin(origin)
        .user_agent(concat!("quorate-client/", env!("CARGO_PKG_VERSION")))
        .map_err(|error| invalid(&error))?
        .initial_stream_window_size(Some(1 << 20))
        .initial_connection_window_size(Some(4 << 20))
        .keep_alive_timeout(config.keep_alive_timeout);
    if let Some(interval) = config.keep_alive {
        endpoint = endpoint.http2_keep_alive_interval(interval.max(KEEP_ALIVE_FLOOR)).keep_alive_while_idle(true);
    }
    Ok(endpoint)
}
