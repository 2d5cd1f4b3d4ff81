//! Link: one peer's connections, each kept up by a task of its own on the peer thread.
//!
//! A lane (control, append) connects, opens its stream with the next generation, feeds it from its outbox until it breaks, reports
//! the peer as unreachable and begins again after a pause. Forwarded proposals travel as calls on the append lane's connection: no
//! entries flow in that direction.

use super::counts::PeerCount;
use super::dial::connect;
use super::outbox::{Outbox, Overflow};
use super::{Inner, MAX_MESSAGE};
use crate::types::MemberId;
use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use quorate_proto::peer::peer_client::PeerClient;
use quorate_proto::peer::{Ack, Envelope, ForwardRequest};
use raft::eraftpb::{Message, MessageType};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// Control messages that may wait: a few heartbeats of many rounds.
const CONTROL_MESSAGES: usize = 1024;
const CONTROL_BYTES: usize = 4 << 20;
/// Entries that may wait: what raft itself lets be in flight to one follower, within the bytes.
const APPEND_MESSAGES: usize = 4096;
const APPEND_BYTES: usize = 64 << 20;
/// Proposals that may wait to be forwarded.
const FORWARD_BYTES: usize = 32 << 20;
/// Raft messages put into one envelope, in bytes.
const ENVELOPE: usize = 1 << 20;
/// Pauses between attempts to connect, doubled from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// A stream that a peer had taken for longer than this was a good one: what comes after it begins anew.
const LASTING: Duration = Duration::from_secs(5);
/// Reports of one unreachable peer come at most this often.
const REPORT_GAP: Duration = Duration::from_millis(50);
/// Envelopes of which it is remembered when they left, to measure round trips.
const MAX_STAMPS: usize = 256;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Control,
    Append,
}

impl Kind {
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Control => "control",
            Kind::Append => "append",
        }
    }
}

struct Lane {
    kind: Kind,
    outbox: Outbox,
    /// The connection of the newest attempt, for calls beside the stream.
    channel: Mutex<Option<Channel>>,
    /// The peer showed itself: no need to wait any longer before the next attempt.
    seen: Notify,
}

impl Lane {
    fn new(kind: Kind, outbox: Outbox) -> Self {
        Self { kind, outbox, channel: Mutex::default(), seen: Notify::new() }
    }
}

#[derive(Default)]
struct Proposals {
    queue: VecDeque<Bytes>,
    bytes: usize,
}

/// One peer.
pub(crate) struct Link {
    pub inner: Arc<Inner>,
    pub id: MemberId,
    urls: ArcSwap<Vec<String>>,
    control: Lane,
    append: Lane,
    /// When the newest envelopes left by the control lane, by their number in the session: the oldest first.
    stamps: Mutex<VecDeque<(u64, Instant)>>,
    proposals: Mutex<Proposals>,
    proposed: Notify,
    generation: AtomicU64,
    /// A snapshot is on its way.
    sending: AtomicBool,
    reported: Mutex<Option<Instant>>,
    /// Since when the peer takes what the control channel brings.
    connected: Mutex<Option<Instant>>,
    pub count: Arc<PeerCount>,
    pub closed: CancellationToken,
}

impl Link {
    /// Makes a link and its tasks; must be called on the peer thread's runtime.
    pub fn open(inner: Arc<Inner>, id: MemberId, urls: Vec<String>) -> Arc<Self> {
        let link = Arc::new(Self {
            id,
            urls: ArcSwap::from_pointee(urls),
            control: Lane::new(Kind::Control, Outbox::new(CONTROL_BYTES, CONTROL_MESSAGES, Overflow::DropOldest)),
            append: Lane::new(Kind::Append, Outbox::new(APPEND_BYTES, APPEND_MESSAGES, Overflow::Refuse)),
            stamps: Mutex::default(),
            proposals: Mutex::default(),
            proposed: Notify::new(),
            generation: AtomicU64::new(1),
            sending: AtomicBool::new(false),
            reported: Mutex::default(),
            connected: Mutex::default(),
            count: inner.counts.of(id),
            closed: inner.stop.child_token(),
            inner: inner.clone(),
        });
        for kind in [Kind::Control, Kind::Append] {
            let task = link.clone();
            let closed = link.closed.clone();
            inner.runtime.spawn(async move {
                tokio::select! {
                    () = closed.cancelled() => {}
                    () = task.keep(kind) => {}
                }
                task.lane(kind).outbox.close();
                *task.lane(kind).channel.lock() = None;
                if kind == Kind::Control {
                    *task.connected.lock() = None;
                }
            });
        }
        let (task, closed) = (link.clone(), link.closed.clone());
        inner.runtime.spawn(async move {
            tokio::select! {
                () = closed.cancelled() => {}
                () = task.forward_all() => {}
            }
        });
        link
    }

    pub fn close(&self) {
        self.closed.cancel();
    }

    pub fn is_connected(&self) -> bool {
        self.connected.lock().is_some()
    }

    /// How long the peer has been connected without a break; `None` when it is not.
    pub fn connected_for(&self) -> Option<Duration> {
        self.connected.lock().map(|since| since.elapsed())
    }

    /// Connects at once what waits to connect again: the peer has opened a stream of its own, so it is there, and our answers to it need one.
    pub fn seen(&self) {
        self.control.seen.notify_one();
        self.append.seen.notify_one();
    }

    pub fn set_urls(&self, urls: &[String]) {
        if self.urls.load().as_slice() != urls {
            self.urls.store(Arc::new(urls.to_vec()));
        }
    }

    pub fn urls(&self) -> Arc<Vec<String>> {
        self.urls.load_full()
    }

    /// The connection for short calls, when there is one.
    pub fn calls(&self) -> Option<Channel> {
        self.control.channel.lock().clone()
    }

    fn lane(&self, kind: Kind) -> &Lane {
        match kind {
            Kind::Control => &self.control,
            Kind::Append => &self.append,
        }
    }

    /// Queues a raft message on its channel. Never blocks.
    pub fn send(self: &Arc<Self>, message: Message) {
        let lane = match message.get_msg_type() {
            MessageType::MsgSnapshot => return self.send_snapshot(message),
            MessageType::MsgAppend | MessageType::MsgAppendResponse => &self.append,
            _ => &self.control,
        };
        if !lane.outbox.push(message) {
            self.count.failed_send(1);
            if lane.kind == Kind::Append {
                self.report();
            }
        }
    }

    /// Starts a transfer, unless one is under way: that one's report will do.
    fn send_snapshot(self: &Arc<Self>, message: Message) {
        let Some(node) = self.inner.node.get().cloned() else { return };
        if self.sending.swap(true, Ordering::AcqRel) {
            return;
        }
        let link = self.clone();
        self.inner.runtime.spawn(async move {
            super::transfer::run(link.clone(), node, message).await;
            link.sending.store(false, Ordering::Release);
        });
    }

    /// Tells raft that what was sent last may not have arrived.
    fn report(&self) {
        let mut reported = self.reported.lock();
        if reported.is_some_and(|at| at.elapsed() < REPORT_GAP) {
            return;
        }
        *reported = Some(Instant::now());
        if let Some(node) = self.inner.node.get() {
            node.report_unreachable(self.id);
        }
    }

    // === streams ===

    /// Connects and feeds the lane's stream, again and again.
    async fn keep(self: &Arc<Self>, kind: Kind) {
        let mut turns = Turns::first();
        loop {
            let urls = self.urls();
            if let Some(url) = turns.address(&urls) {
                let mut taken = None;
                let error = self.session(kind, url, &mut taken).await;
                if kind == Kind::Control && self.connected.lock().take().is_some() {
                    self.count.disconnected();
                }
                self.lane(kind).outbox.close();
                *self.lane(kind).channel.lock() = None;
                self.report();
                if turns.over(taken.map(|at: Instant| at.elapsed())) {
                    tracing::info!(
                        peer = format!("{:016x}", self.id),
                        url,
                        channel = kind.name(),
                        reason = error,
                        "a channel to a peer is down"
                    );
                }
            }
            tokio::time::sleep(FIRST_PAUSE).await;
            let rest = turns.pause - FIRST_PAUSE;
            let showed = tokio::time::timeout(rest, self.lane(kind).seen.notified()).await.is_ok();
            turns.next(showed);
        }
    }

    /// One stream from its opening to its end; says why it ended, and in `taken` when the peer took it, if it did.
    async fn session(self: &Arc<Self>, kind: Kind, url: &str, taken: &mut Option<Instant>) -> String {
        let channel = match connect(&self.inner.dial, url, self.inner.election).await {
            Ok(channel) => channel,
            Err(e) => return causes(&e),
        };
        let lane = self.lane(kind);
        let session = lane.outbox.open();
        if kind == Kind::Control {
            self.stamps.lock().clear();
        }
        let hello = Envelope {
            cluster: self.inner.cluster_id,
            from: self.inner.member_id,
            to: self.id,
            generation: self.generation.fetch_add(1, Ordering::Relaxed),
            boot: self.inner.boot,
            urls: self.inner.own_urls(),
            messages: Vec::new(),
        };
        let outbound = Outbound { link: self.clone(), kind, session, hello: Some(hello), sent: 0 };
        let mut client =
            PeerClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE);
        let open = async {
            match kind {
                Kind::Control => client.control(outbound).await,
                Kind::Append => client.append(outbound).await,
            }
        };
        let acks = match tokio::time::timeout(self.inner.election * 3, open).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => {
                self.inner.heed(&status);
                return refusal(&status);
            }
            Err(_) => return "the peer did not open the stream in time".into(),
        };
        *taken = Some(Instant::now());
        if kind == Kind::Control {
            *self.connected.lock() = *taken;
        }
        *lane.channel.lock() = Some(channel);
        tracing::debug!(peer = format!("{:016x}", self.id), url, channel = kind.name(), "a channel to a peer is up");
        self.read_acks(kind, acks).await
    }

    async fn read_acks(&self, kind: Kind, mut acks: Streaming<Ack>) -> String {
        loop {
            match acks.message().await {
                // Only the control lane's leaving is remembered.
                Ok(Some(_)) if kind == Kind::Append => {}
                Ok(Some(ack)) => {
                    // Not every envelope is acknowledged: those before the one that is tell no time.
                    let mut stamps = self.stamps.lock();
                    let mut newest = None;
                    while stamps.front().is_some_and(|(n, _)| *n <= ack.received) {
                        newest = stamps.pop_front();
                    }
                    if let Some((_, left)) = newest.filter(|(n, _)| *n == ack.received) {
                        self.count.round_trip_took(left.elapsed());
                    }
                }
                Ok(None) => return "the peer closed the stream".into(),
                Err(status) => {
                    self.count.failed_send(1);
                    return refusal(&status);
                }
            }
        }
    }

    // === proposals ===

    /// Queues proposals for a leader; what does not fit is dropped, and its clients are told that they timed out.
    pub fn forward(&self, proposals: Vec<Bytes>) {
        let mut queue = self.proposals.lock();
        for proposal in proposals {
            if queue.bytes + proposal.len() > FORWARD_BYTES && !queue.queue.is_empty() {
                self.count.failed_send(1);
                continue;
            }
            queue.bytes += proposal.len();
            queue.queue.push_back(proposal);
        }
        drop(queue);
        self.proposed.notify_one();
    }

    fn next_proposals(&self) -> Vec<Bytes> {
        let mut queue = self.proposals.lock();
        let mut out = Vec::new();
        let mut bytes = 0;
        while let Some(size) = queue.queue.front().map(Bytes::len) {
            if !out.is_empty() && bytes + size > ENVELOPE {
                break;
            }
            bytes += size;
            out.extend(queue.queue.pop_front());
        }
        queue.bytes -= bytes;
        out
    }

    /// One call at a time, so that proposals keep their order; what queues up meanwhile shares the next one.
    async fn forward_all(&self) {
        loop {
            let proposals = self.next_proposals();
            if proposals.is_empty() {
                self.proposed.notified().await;
                continue;
            }
            let channel = self.append.channel.lock().clone();
            let Some(channel) = channel else {
                self.count.failed_send(proposals.len());
                tracing::debug!(
                    peer = format!("{:016x}", self.id),
                    count = proposals.len(),
                    "proposals for an unreachable leader are dropped"
                );
                continue;
            };
            let bytes: usize = proposals.iter().map(Bytes::len).sum();
            let request =
                ForwardRequest { cluster: self.inner.cluster_id, from: self.inner.member_id, proposals: proposals.clone() };
            let mut client = PeerClient::new(channel).max_encoding_message_size(MAX_MESSAGE);
            match tokio::time::timeout(self.inner.election * 3, client.forward(request)).await {
                Ok(Ok(answer)) => {
                    let answer = answer.into_inner();
                    self.count.sent(bytes);
                    if answer.not_leader {
                        // None was taken, so none can happen twice: the node finds the new leader.
                        tokio::time::sleep(FIRST_PAUSE).await;
                        self.give_back(proposals);
                    } else if !answer.error.is_empty() {
                        self.count.failed_send(1);
                        tracing::debug!(
                            peer = format!("{:016x}", self.id),
                            reason = answer.error,
                            "the leader did not take proposals"
                        );
                    }
                }
                Ok(Err(status)) => {
                    self.count.failed_send(1);
                    tracing::debug!(peer = format!("{:016x}", self.id), reason = refusal(&status), "forwarding proposals failed");
                }
                Err(_) => self.count.failed_send(1),
            }
        }
    }

    fn give_back(&self, proposals: Vec<Bytes>) {
        if let Some(node) = self.inner.node.get() {
            let _ = node.proposals_again(proposals);
        }
    }
}

/// An error with what caused it: the outermost text alone says only that the transport failed.
pub(super) fn causes(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

pub(super) fn refusal(status: &Status) -> String {
    match std::error::Error::source(status) {
        Some(cause) => format!("{}: {}", status.message(), causes(cause)),
        None => status.message().to_string(),
    }
}

/// Which of a peer's addresses is tried next, and how long after the one before.
struct Turns {
    attempt: usize,
    pause: Duration,
}

impl Turns {
    fn first() -> Self {
        Self { attempt: 0, pause: FIRST_PAUSE }
    }

    fn address<'a>(&self, urls: &'a [String]) -> Option<&'a String> {
        match urls.len() {
            0 => None,
            n => urls.get(self.attempt % n),
        }
    }

    /// An attempt is over; `taken` is how long the peer had taken the stream for, if it did. The time before that does not count:
    /// connecting alone may take longer than a session that was worth its name. True when people should hear of it.
    fn over(&mut self, taken: Option<Duration>) -> bool {
        let lasted = taken.is_some_and(|time| time > LASTING);
        let tell = lasted || self.attempt == 0;
        if lasted {
            *self = Self::first();
        }
        tell
    }

    /// The pause is over; `showed` says that the peer ended it by calling us.
    fn next(&mut self, showed: bool) {
        self.attempt += 1;
        self.pause = if showed { FIRST_PAUSE } else { (self.pause * 2).min(LAST_PAUSE) };
    }
}

/// A lane's stream as gRPC pulls it: the greeting, then whatever waits in the outbox, an envelope at a time.
struct Outbound {
    link: Arc<Link>,
    kind: Kind,
    session: u64,
    hello: Option<Envelope>,
    sent: u64,
}

impl Stream for Outbound {
    type Item = Envelope;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Envelope>> {
        if let Some(hello) = self.hello.take() {
            self.sent = 1;
            return Poll::Ready(Some(hello));
        }
        let this = self.get_mut();
        let lane = this.link.lane(this.kind);
        let messages = match lane.outbox.poll(this.session, ENVELOPE, cx) {
            Poll::Ready(Some(messages)) => messages,
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => return Poll::Pending,
        };
        this.sent += 1;
        let messages: Vec<Bytes> = messages.iter().map(|m| Bytes::from(m.encode_to_vec())).collect();
        this.link.count.sent(messages.iter().map(Bytes::len).sum());
        if this.kind == Kind::Control {
            let mut stamps = this.link.stamps.lock();
            if stamps.len() >= MAX_STAMPS {
                stamps.pop_front();
            }
            stamps.push_back((this.sent, Instant::now()));
        }
        Poll::Ready(Some(Envelope { messages, ..Default::default() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each address has its turn, however long the others took to be given up; after a session that lasted it begins anew.
    #[test]
    fn every_address_has_its_turn() {
        let urls = ["a", "b", "c"].map(String::from);
        let mut turns = Turns::first();
        let mut tried = Vec::new();
        for _ in 0..6 {
            tried.extend(turns.address(&urls).cloned());
            // An address that nobody answers at costs as long as it takes to connect, which is no session.
            turns.over(None);
            turns.next(false);
        }
        assert_eq!(tried, ["a", "b", "c", "a", "b", "c"]);
        assert_eq!(turns.pause, LAST_PAUSE);
        assert!(!turns.over(Some(Duration::from_secs(1))), "a session that breaks at once is no better");
        turns.next(false);
        assert_eq!(turns.pause, LAST_PAUSE);
        assert!(turns.over(Some(Duration::from_secs(6))));
        assert_eq!((turns.attempt, turns.pause), (0, FIRST_PAUSE));
        turns.next(true);
        assert_eq!(turns.pause, FIRST_PAUSE);
        assert_eq!(Turns::first().address(&[]), None);
    }
}
