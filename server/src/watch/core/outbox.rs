//! Messages that wait for a stream's client, and the bytes they are charged for.
//!
//! Invariant: events wait only within the budget, or alone. Answers are let in beyond it; their number is bounded by the door,
//! which reads no further requests while too many wait, and by the number of watches.

use std::collections::VecDeque;

use super::Limits;
use crate::watch::message::WatchMessage;

pub(super) struct Outbox {
    limits: Limits,
    queue: VecDeque<WatchMessage>,
    queued: usize,
    answers: usize,
    /// Bytes taken last, which the receiver holds until it comes again.
    in_hand: usize,
    /// A message was turned away that half the budget is too small for.
    starved: bool,
    /// The receiver was woken and has not come yet.
    signaled: bool,
}

impl Outbox {
    pub fn new(limits: Limits) -> Self {
        Self { limits, queue: VecDeque::new(), queued: 0, answers: 0, in_hand: 0, starved: false, signaled: false }
    }

    /// Whether events fit; when they do not, there is room again at half the budget, or, for a large message, when all is gone.
    pub fn fits(&mut self, message: &WatchMessage) -> bool {
        let bytes = self.bytes();
        let fits = bytes == 0 || bytes + message.size() <= self.limits.stream_bytes;
        self.starved |= !fits && message.size() > self.limits.stream_bytes / 2;
        fits
    }

    /// Adds a message; true when the receiver must be woken.
    pub fn push(&mut self, message: WatchMessage) -> bool {
        self.queued += message.size();
        self.answers += usize::from(!matches!(message, WatchMessage::Events { .. }));
        self.queue.push_back(message);
        !std::mem::replace(&mut self.signaled, true)
    }

    pub fn take(&mut self, into: &mut VecDeque<WatchMessage>) {
        self.in_hand = self.queued;
        self.queued = 0;
        self.answers = 0;
        self.signaled = false;
        into.append(&mut self.queue);
        self.starved &= self.in_hand > 0;
    }

    /// Whether lagging watchers should read on.
    pub fn has_room(&self) -> bool {
        self.bytes() == 0 || (!self.starved && self.bytes() <= self.limits.stream_bytes / 2)
    }

    pub fn is_idle(&self) -> bool {
        self.bytes() == 0
    }

    pub fn accepts_answers(&self) -> bool {
        self.answers < self.limits.answers
    }

    fn bytes(&self) -> usize {
        self.queued + self.in_hand
    }
}
