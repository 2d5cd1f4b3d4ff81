//! Members talking to members: over gRPC, on three channels a peer, so that nothing waits behind bulk.
//!
//! In: raft messages and forwarded proposals from the node, member lists to follow. Out: the same, handed to the other member's
//! node; reports of peers that cannot be reached. Each channel is a connection of its own: *control* (votes, heartbeats, read
//! rounds), *append* (entries, in order) and *snapshot* (on demand).
//!
//! Invariants: what travels on a channel arrives in the order it was sent or not at all; after a newer stream of a sender has begun,
//! nothing from its older ones is delivered; every queue is bounded, and what does not fit is dropped and reported to raft as
//! unreachable, never waited for.
//!
//! [`Peers`] is the room's door; [`link`] keeps one peer's connections; [`outbox`] holds what waits for them; [`service`] is the
//! receiving side; [`transfer`] and [`intake`] are the two sides of a snapshot; [`lease`] asks the leader about leases, [`change`] for changes of members; [`hash`] asks for hashes; [`dial`] opens connections, encrypted or not; [`vacant`]
//! answers for a member that has no cluster yet.

mod change;
mod counts;
mod dial;
pub mod gate;
mod hash;
mod intake;
mod lease;
mod link;
pub mod outbox;
mod service;
pub mod strangers;
mod transfer;
mod vacant;

pub use change::{ChangeDesk, Changing, NoAnswer};
pub use counts::{PeerCount, PeerCounts};
pub use dial::{Dial, Dialing, PeerStream, PlainDial};
pub use hash::ask_hash;
pub use lease::LeaseForwarder;
pub use service::Service;
pub use vacant::vacant;

use crate::node::{NodeHandle, PeerSink};
use crate::types::MemberId;
use arc_swap::ArcSwap;
use bytes::Bytes;
use link::Link;
use parking_lot::Mutex;
use quorate_proto::peer::peer_client::PeerClient;
use quorate_proto::peer::peer_server::PeerServer;
use quorate_proto::peer::{ChangeResponse, MembersRequest, MembersResponse};
use quorate_proto::state::MemberChange;
use raft::eraftpb::Message;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use strangers::Strangers;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Largest message either side takes, in bytes: an entry may be as large as the largest request, which is configurable.
const MAX_MESSAGE: usize = 512 << 20;
/// How often the member list is looked at for peers that came, went or moved.
const LOOK: Duration = Duration::from_millis(200);

/// What the room is told.
pub struct PeerSettings {
    pub cluster_id: u64,
    pub member_id: MemberId,
    /// The election timeout: a peer that is silent for so long is taken for gone.
    pub election: Duration,
    /// Bytes a second at which a snapshot goes to a peer, > 0; `None` is no bound.
    pub snapshot_rate: Option<u64>,
    pub dial: Arc<dyn Dial>,
    /// What this member tells the others of its program.
    pub speaks: Speaks,
}

/// What a member says of its program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Speaks {
    /// The highest feature level it knows; 0 of a program that does not say, which knows level 1.
    pub feature_level: u32,
    /// The version it shows to clients.
    pub version: String,
    /// Its own version.
    pub build: String,
}

pub(crate) struct Inner {
    pub cluster_id: u64,
    pub member_id: MemberId,
    pub election: Duration,
    pub snapshot_rate: Option<u64>,
    pub dial: Arc<dyn Dial>,
    /// Tells this process's streams from those of an earlier life.
    pub boot: u64,
    pub node: OnceLock<NodeHandle>,
    pub links: ArcSwap<BTreeMap<MemberId, Arc<Link>>>,
    pub counts: PeerCounts,
    pub runtime: Handle,
    pub stop: CancellationToken,
    /// Carries out changes of members when this member leads. It knows this room as well, so it is let go when the room stops.
    pub desk: Mutex<Option<Arc<dyn ChangeDesk>>>,
    /// Cancelled when another member said that this one was removed.
    pub removed: CancellationToken,
    /// What it said.
    pub farewell: OnceLock<String>,
    /// Members that are not on the list yet and talk to this one.
    pub strangers: Mutex<Strangers>,
    /// Cancelled when the caller of that id was removed: its streams end, and its next ones are told why.
    pub callers: Mutex<BTreeMap<MemberId, CancellationToken>>,
    /// A stranger is new.
    pub met: Notify,
    pub speaks: Speaks,
}

/// What a removed member is told by those that stayed; etcd's words.
pub const REMOVED: &str = "the member has been permanently removed from the cluster";

/// What a member of a lost cluster is told by the cluster that a recovery made of it; the recovery's name follows.
pub const LEFT_BEHIND: &str = "the cluster was lost and recovered without this member";

impl Inner {
    /// Where the list says that this member is.
    fn own_urls(&self) -> Vec<String> {
        let members = self.node.get().map(|node| node.shared().members()).unwrap_or_default();
        members.iter().find(|m| m.id == self.member_id).map(|m| m.peer_urls.clone()).unwrap_or_default()
    }

    /// Looks whether a refusal says that this member was removed: only members of its own cluster, or of what became of it, say so.
    fn heed(&self, status: &tonic::Status) {
        let text = status.message();
        if status.code() == tonic::Code::PermissionDenied && (text == REMOVED || text.starts_with(LEFT_BEHIND)) {
            // The first to say so is believed; all say the same.
            let _ = self.farewell.set(text.to_string());
            self.removed.cancel();
        }
    }
}

/// The way to the other members and back. Cheap to clone.
#[derive(Clone)]
pub struct Peers {
    inner: Arc<Inner>,
}

impl Peers {
    /// Starts the room's thread. Nothing is sent before [`Peers::attach`].
    ///
    /// # Errors
    /// When the system gives no thread or no event loop.
    pub fn start(settings: PeerSettings) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let inner = Arc::new(Inner {
            cluster_id: settings.cluster_id,
            member_id: settings.member_id,
            election: settings.election,
            snapshot_rate: settings.snapshot_rate,
            dial: settings.dial,
            boot: rand::random(),
            node: OnceLock::new(),
            links: ArcSwap::default(),
            counts: PeerCounts::default(),
            runtime: runtime.handle().clone(),
            stop: CancellationToken::new(),
            desk: Mutex::new(None),
            removed: CancellationToken::new(),
            farewell: OnceLock::new(),
            strangers: Mutex::default(),
            callers: Mutex::default(),
            met: Notify::new(),
            speaks: settings.speaks,
        });
        let stop = inner.stop.clone();
        std::thread::Builder::new().name("peer".into()).spawn(move || runtime.block_on(stop.cancelled()))?;
        Ok(Self { inner })
    }

    /// Names the node this room serves; from here on links follow its member list. Only the first call counts.
    pub fn attach(&self, node: NodeHandle) {
        if self.inner.node.set(node).is_ok() {
            self.inner.runtime.spawn(follow_members(self.inner.clone()));
        }
    }

    /// Names who carries out changes of members that others ask this member for.
    pub fn attach_desk(&self, desk: Arc<dyn ChangeDesk>) {
        *self.inner.desk.lock() = Some(desk);
    }

    /// Asks another member, the leader, to carry a change out.
    ///
    /// # Errors
    /// When it cannot be asked, or gives no answer within `timeout`.
    pub async fn ask_change(&self, leader: MemberId, change: MemberChange, timeout: Duration) -> Result<ChangeResponse, NoAnswer> {
        change::ask(&self.inner, leader, change, timeout).await
    }

    /// Cancelled once another member has said that this one was removed from the cluster.
    pub fn removed(&self) -> CancellationToken {
        self.inner.removed.clone()
    }

    /// What the member that said so gave as the reason.
    pub fn farewell(&self) -> Option<String> {
        self.inner.farewell.get().cloned()
    }

    /// Members that have been connected without a break for at least `least`.
    pub fn connected_for(&self, least: Duration) -> Vec<MemberId> {
        let links = self.inner.links.load();
        links.iter().filter(|(_, l)| l.connected_for().is_some_and(|d| d >= least)).map(|(id, _)| *id).collect()
    }

    /// The receiving side, for the peer listener.
    pub fn service(&self) -> PeerServer<Service> {
        PeerServer::new(Service::new(self.inner.clone()))
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    /// Lease questions, answered here when this member leads and by the leader when not. `timeout` bounds each question.
    pub fn leases(&self, timeout: Duration) -> LeaseForwarder {
        LeaseForwarder::new(self.inner.clone(), timeout)
    }

    /// Traffic with each peer so far.
    pub fn counts(&self) -> Vec<(MemberId, Arc<PeerCount>)> {
        self.inner.counts.all()
    }

    /// Peers that a control stream is open to at this moment.
    pub fn connected(&self) -> Vec<MemberId> {
        self.inner.links.load().iter().filter(|(_, l)| l.is_connected()).map(|(id, _)| *id).collect()
    }

    /// Closes every connection and ends the thread.
    pub fn stop(&self) {
        self.inner.stop.cancel();
        *self.inner.desk.lock() = None;
        self.inner.links.store(Arc::default());
    }
}

impl PeerSink for Peers {
    fn send(&self, messages: Vec<Message>) {
        let links = self.inner.links.load();
        for message in messages {
            match links.get(&message.to) {
                Some(link) => link.send(message),
                None => tracing::trace!(to = format!("{:016x}", message.to), "a message to a member that has no address yet"),
            }
        }
    }

    fn forward(&self, leader: MemberId, proposals: Vec<Bytes>) {
        match self.inner.links.load().get(&leader) {
            Some(link) => link.forward(proposals),
            None => {
                tracing::debug!(leader = format!("{leader:016x}"), "proposals for a leader that has no address yet are dropped")
            }
        }
    }
}

/// Keeps one link for each other member, listed or not yet, under its newest addresses.
async fn follow_members(inner: Arc<Inner>) {
    let node = inner.node.get().expect("attach set it").clone();
    let mut seen = None;
    let mut met = false;
    loop {
        let members = node.shared().members();
        if met || seen.as_ref().is_none_or(|s| !Arc::ptr_eq(s, &members)) {
            let mut links = BTreeMap::clone(&inner.links.load());
            let wanted = inner.strangers.lock().with_members(&members, |id| node.shared().is_removed(id), inner.member_id);
            links.retain(|id, link| {
                let stays = wanted.contains_key(id);
                if !stays {
                    link.close();
                    inner.counts.forget(*id);
                }
                stays
            });
            for (id, urls) in wanted {
                match links.get(&id) {
                    Some(link) => link.set_urls(&urls),
                    None => {
                        links.insert(id, Link::open(inner.clone(), id, urls));
                    }
                }
            }
            inner.links.store(Arc::new(links));
            // One that has nothing to say, a learner above all, would never be told otherwise.
            inner.callers.lock().retain(|id, caller| {
                let removed = node.shared().is_removed(*id);
                if removed {
                    caller.cancel();
                }
                !removed
            });
            seen = Some(members);
        }
        met = tokio::time::timeout(LOOK, inner.met.notified()).await.is_ok();
    }
}

/// Asks the member at `url` who belongs to its cluster: the first question of a member that wants to join. `from` and `cluster` are
/// the asker's, 0 when it has none yet.
///
/// # Errors
/// When nobody answers in time, or the member belongs to another cluster.
pub async fn ask_members(
    dial: &Arc<dyn Dial>,
    url: &str,
    cluster: u64,
    from: MemberId,
    timeout: Duration,
) -> Result<MembersResponse, tonic::Status> {
    let ask = async {
        let channel = dial::connect(dial, url, timeout).await.map_err(|e| tonic::Status::unavailable(link::causes(&e)))?;
        let answer = PeerClient::new(channel).members(MembersRequest { cluster, from }).await?;
        Ok(answer.into_inner())
    };
    tokio::time::timeout(timeout, ask)
        .await
        .map_err(|_| tonic::Status::deadline_exceeded(format!("{url} did not answer in time")))?
}
