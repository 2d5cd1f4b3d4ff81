//! Outbox: raft messages that wait for one channel to one peer.
//!
//! In: messages from the node's threads, which never wait. Out: batches for the stream that holds the newest session. Invariants:
//! bounded in bytes and messages; only the newest session takes messages, so that two streams never share out one order; no message
//! outlives the session it was meant for: who comes back after a while would take an old order, such as to lead, for a new one.

use parking_lot::Mutex;
use raft::eraftpb::Message;
use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

/// What to do when there is no room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Overflow {
    /// The oldest goes: a newer heartbeat or vote says more than an older one.
    DropOldest,
    /// The new one is refused: an order with a hole in it is of no use.
    Refuse,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Message>,
    bytes: usize,
    session: u64,
    /// A stream is open, or nearly so.
    open: bool,
    waker: Option<Waker>,
}

/// Messages that wait for one channel.
pub struct Outbox {
    state: Mutex<State>,
    max_bytes: usize,
    max_messages: usize,
    overflow: Overflow,
}

/// Bytes a message costs beside its entries.
const MESSAGE_COST: usize = 64;

fn weight(m: &Message) -> usize {
    MESSAGE_COST + m.context.len() + m.entries.iter().map(|e| e.data.len() + e.context.len() + 24).sum::<usize>()
}

impl Outbox {
    /// An empty box, closed until its first session is opened.
    pub fn new(max_bytes: usize, max_messages: usize, overflow: Overflow) -> Self {
        Self { state: Mutex::default(), max_bytes, max_messages, overflow }
    }

    /// Queues a message; false when it, or an older one, was dropped. Without a session there is nobody to have it: raft says again what matters.
    pub fn push(&self, message: Message) -> bool {
        let mut s = self.state.lock();
        if !s.open {
            return false;
        }
        let weight = weight(&message);
        let mut kept = true;
        // A message larger than the bound still fits an empty box.
        while !s.queue.is_empty() && (s.bytes + weight > self.max_bytes || s.queue.len() >= self.max_messages) {
            kept = false;
            match self.overflow {
                Overflow::Refuse => return false,
                Overflow::DropOldest => s.drop_first(),
            }
        }
        s.bytes += weight;
        s.queue.push_back(message);
        let waker = s.waker.take();
        drop(s);
        if let Some(waker) = waker {
            waker.wake();
        }
        kept
    }

    /// Begins a session: what waited for an older one is forgotten.
    pub fn open(&self) -> u64 {
        let mut s = self.state.lock();
        s.session += 1;
        s.open = true;
        s.queue.clear();
        s.bytes = 0;
        let waker = s.waker.take();
        let session = s.session;
        drop(s);
        if let Some(waker) = waker {
            waker.wake();
        }
        session
    }

    /// Ends a session; its stream gets nothing more.
    pub fn close(&self) {
        self.open();
        self.state.lock().open = false;
    }

    /// True while a session is open.
    pub fn is_open(&self) -> bool {
        self.state.lock().open
    }

    /// The oldest messages, about `max_bytes` of them; `None` when the session is over.
    pub fn poll(&self, session: u64, max_bytes: usize, cx: &mut Context<'_>) -> Poll<Option<Vec<Message>>> {
        let mut s = self.state.lock();
        if s.session != session || !s.open {
            return Poll::Ready(None);
        }
        if s.queue.is_empty() {
            s.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let mut out = Vec::new();
        let mut bytes = 0;
        while let Some(weight) = s.queue.front().map(weight) {
            if !out.is_empty() && bytes + weight > max_bytes {
                break;
            }
            bytes += weight;
            out.extend(s.queue.pop_front());
        }
        s.bytes -= bytes;
        Poll::Ready(Some(out))
    }
}

impl State {
    fn drop_first(&mut self) {
        if let Some(gone) = self.queue.pop_front() {
            self.bytes -= weight(&gone);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::eraftpb::Entry;

    fn message(index: u64, bytes: usize) -> Message {
        let entry = Entry { data: vec![0; bytes].into(), ..Default::default() };
        Message { index, entries: vec![entry], ..Default::default() }
    }

    fn taken(outbox: &Outbox, session: u64) -> Option<Vec<u64>> {
        match outbox.poll(session, 1 << 20, &mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Some(messages)) => Some(messages.iter().map(|m| m.index).collect()),
            Poll::Ready(None) => None,
            Poll::Pending => Some(Vec::new()),
        }
    }

    /// An ordered box refuses what does not fit and forgets what an older stream left; an older session takes nothing.
    #[test]
    fn ordered_box() {
        let outbox = Outbox::new(1000, 10, Overflow::Refuse);
        assert!(!outbox.push(message(1, 1)), "no stream yet");
        let first = outbox.open();
        assert!(outbox.push(message(2, 600)) && !outbox.push(message(3, 600)));
        let second = outbox.open();
        assert_eq!(taken(&outbox, first), None);
        assert_eq!(taken(&outbox, second), Some(vec![]));
        assert!(outbox.push(message(4, 5000)), "an empty box takes a message of any size");
        assert_eq!(taken(&outbox, second), Some(vec![4]));
        outbox.close();
        assert_eq!(taken(&outbox, second), None);
    }

    /// A control box keeps the newest messages, for the session that they were meant for and for no other.
    #[test]
    fn newest_box() {
        let outbox = Outbox::new(1 << 20, 2, Overflow::DropOldest);
        assert!(!outbox.push(message(1, 1)), "nobody is there");
        let session = outbox.open();
        assert_eq!(taken(&outbox, session), Some(vec![]));
        assert!(outbox.push(message(2, 1)) && outbox.push(message(3, 1)));
        assert!(!outbox.push(message(4, 1)), "the oldest went");
        assert_eq!(taken(&outbox, session), Some(vec![3, 4]));
        assert!(outbox.push(message(5, 1)));
        outbox.close();
        assert!(!outbox.push(message(6, 1)));
        let session = outbox.open();
        assert_eq!(taken(&outbox, session), Some(vec![]), "what was meant for those before");
    }
}
