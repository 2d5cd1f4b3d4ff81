//! The two ends of a stream that the door holds: [`StreamHandle`] takes the client's requests, [`StreamReceiver`] gives the
//! messages to send.
//!
//! What a message takes beyond what the room holds of it, the pairs before its events, is read here and in parts, so that one message
//! is never much larger than [`MESSAGE_BYTES`] unless one revision is.
//!
//! Invariants: messages come out in the order of the outbox; what the receiver holds still counts against the stream's budget
//! until it comes for more; dropping the receiver frees all that the stream had.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio_stream::Stream;

use super::core::StreamKey;
use super::hub::Shared;
use super::message::{CreateWatch, WatchMessage};

/// Bytes from which a message ends with the revision at hand, once the pairs before its events were read.
const MESSAGE_BYTES: usize = 1024 * 1024;

/// The request side of a stream. Calls are short and never wait; answers come through the receiver, in the order of the calls.
#[derive(Clone)]
pub struct StreamHandle {
    shared: Arc<Shared>,
    shard: usize,
    key: StreamKey,
}

/// The message side of a stream.
pub struct StreamReceiver {
    handle: StreamHandle,
    taken: VecDeque<WatchMessage>,
    /// What is left of a message that was cut, before all of `taken`.
    pieces: VecDeque<WatchMessage>,
    /// What is left of a message of many revisions, after `pieces`.
    rest: Option<WatchMessage>,
    fragment_bytes: usize,
}

impl StreamHandle {
    pub(super) fn new(shared: Arc<Shared>, shard: usize, key: StreamKey) -> Self {
        Self { shared, shard, key }
    }

    /// Waits while too many answers wait for the client. To be called before each request: it bounds what a client that asks
    /// and does not listen can make the member hold.
    pub async fn ready(&self) {
        std::future::poll_fn(|context| {
            let accepts = self.shared.accepts_requests(self.shard, self.key, context.waker());
            if accepts { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Answered by `Created`, or `Refused` with etcd's text, or `Created` and at once `Canceled` when the start is compacted.
    pub fn create(&self, wish: &CreateWatch) {
        let head = self.shared.history.revision();
        let compacted = self.shared.history.compact_revision();
        let now = self.shared.now();
        self.shared.with(self.shard, |core| core.create(self.key, wish, head, compacted, now));
        self.shared.hand_out();
    }

    /// Answered by `Canceled`, after which nothing of the watch follows. An unknown id is met with silence.
    pub fn cancel(&self, id: i64) {
        let head = self.shared.history.revision();
        self.shared.with(self.shard, |core| core.cancel(self.key, id, head));
    }

    /// Ends a watch that its client may not have any more, with a reason for the client.
    pub fn revoke(&self, id: i64, reason: &str) {
        let head = self.shared.history.revision();
        self.shared.with(self.shard, |core| core.revoke(self.key, id, head, reason));
    }

    /// Answered by one `Progress` for all watches, when all are live and have every event up to the store's revision as of
    /// this call. Requests that wait are answered together. Without watches there is no answer.
    pub fn progress(&self) {
        let head = self.shared.history.revision();
        self.shared.with(self.shard, |core| core.progress(self.key, head));
    }

    /// Ends the stream: the receiver gets no more messages.
    pub fn close(&self) {
        self.shared.close_stream(self.shard, self.key);
    }
}

impl StreamReceiver {
    pub(super) fn new(handle: StreamHandle, fragment_bytes: usize) -> Self {
        Self { handle, taken: VecDeque::new(), pieces: VecDeque::new(), rest: None, fragment_bytes }
    }

    /// The next message; none when the stream is over.
    pub async fn recv(&mut self) -> Option<WatchMessage> {
        std::future::poll_fn(|context| self.poll_recv(context)).await
    }

    pub fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Option<WatchMessage>> {
        self.poll(context.waker())
    }

    /// The next message if one waits.
    pub fn try_recv(&mut self) -> Option<WatchMessage> {
        match self.poll(Waker::noop()) {
            Poll::Ready(message) => message,
            Poll::Pending => None,
        }
    }

    fn poll(&mut self, waker: &Waker) -> Poll<Option<WatchMessage>> {
        if let Some(piece) = self.pieces.pop_front() {
            return Poll::Ready(Some(piece));
        }
        if let Some(rest) = self.rest.take() {
            return Poll::Ready(Some(self.finish(rest)));
        }
        if self.taken.is_empty() {
            let StreamHandle { shared, shard, key } = &self.handle;
            if !shared.take(*shard, *key, &mut self.taken, waker) {
                return Poll::Ready(None);
            }
        }
        match self.taken.pop_front() {
            Some(message) => Poll::Ready(Some(self.finish(message))),
            None => Poll::Pending,
        }
    }

    /// Does for a message what was kept off the publish path: reads the pairs before, cuts fragments.
    fn finish(&mut self, message: WatchMessage) -> WatchMessage {
        let WatchMessage::Events { id, mut events, mut revision, fragment } = message else { return message };
        if let Some(count) = events.fill_previous(&*self.handle.shared.history, MESSAGE_BYTES) {
            let (first, rest) = events.split(count);
            self.rest = Some(WatchMessage::Events { id, events: rest, revision, fragment });
            revision = first.last_revision();
            events = first;
        }
        let pieces = if fragment { events.fragments(self.fragment_bytes) } else { None };
        let Some(pieces) = pieces else { return WatchMessage::Events { id, events, revision, fragment: false } };
        let last = pieces.len() - 1;
        let piece = |(at, events)| WatchMessage::Events { id, events, revision, fragment: at < last };
        self.pieces.extend(pieces.into_iter().enumerate().map(piece));
        self.pieces.pop_front().expect("a cut message has pieces")
    }
}

impl Stream for StreamReceiver {
    type Item = WatchMessage;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<WatchMessage>> {
        self.poll_recv(context)
    }
}

impl Drop for StreamReceiver {
    fn drop(&mut self) {
        self.handle.close();
    }
}
