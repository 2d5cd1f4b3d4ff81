//! Rounds: read requests of all members that share one confirmation of leadership.
//!
//! In: read requests as the leader gets them, its own among them, and whether a round is under way. Out: the requests that make up
//! the next round, and of the round's heartbeats one for each peer. Raft begins a round for every request; with three busy members
//! that is three rounds at once, each with a message to and from every peer, and the messages cost more than the reads.
//! Invariants: a request is confirmed only by answers to a heartbeat that was made after it came, as a round's heartbeat is made
//! after all its requests; nothing is held while no round is under way; at most [`MAX_HELD`] requests wait, and one that is dropped
//! is asked again by the member it came from.

use raft::eraftpb::{Message, MessageType};
use std::collections::BTreeMap;

/// Requests that may wait for the next round. Each member has one or, after a lost answer, two under way.
const MAX_HELD: usize = 256;

/// The requests of the next round.
#[derive(Default)]
pub(super) struct Rounds {
    held: Vec<Message>,
}

impl Rounds {
    /// Gives a request back when it may begin a round at once; else holds it for the next.
    pub fn admit(&mut self, request: Message, under_way: bool) -> Option<Message> {
        if !under_way && self.held.is_empty() {
            return Some(request);
        }
        if self.held.len() < MAX_HELD {
            self.held.push(request);
        }
        None
    }

    /// The requests that begin the next round, once none is under way.
    pub fn next(&mut self, under_way: bool) -> Vec<Message> {
        if under_way { Vec::new() } else { std::mem::take(&mut self.held) }
    }

    /// Forgets what is held: who does not lead confirms nothing.
    pub fn clear(&mut self) {
        self.held.clear();
    }
}

/// Of several heartbeats to one peer that confirm reads, leaves the last: its answer answers for the requests before it too.
pub(super) fn last_heartbeats(messages: &mut Vec<Message>) {
    let confirms = |m: &Message| m.get_msg_type() == MessageType::MsgHeartbeat && !m.context.is_empty();
    let mut last = BTreeMap::new();
    for (at, m) in messages.iter().enumerate().filter(|(_, m)| confirms(m)) {
        last.insert((m.to, m.term), at);
    }
    let mut at = 0;
    messages.retain(|m| {
        at += 1;
        !confirms(m) || last.get(&(m.to, m.term)) == Some(&(at - 1))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: MessageType, to: u64, context: &[u8]) -> Message {
        let mut m = Message { to, context: context.to_vec().into(), term: 3, ..Default::default() };
        m.set_msg_type(kind);
        m
    }

    /// The first request goes at once, the others wait for its round's end and then go together, in their order.
    #[test]
    fn requests_wait_for_the_round_before_them() {
        let mut rounds = Rounds::default();
        let request = |n: u8| message(MessageType::MsgReadIndex, 1, &[n]);
        assert!(rounds.admit(request(1), false).is_some());
        assert!(rounds.admit(request(2), true).is_none());
        // The round has ended, but those before it go first.
        assert!(rounds.admit(request(3), false).is_none());
        assert!(rounds.next(true).is_empty());
        let next: Vec<_> = rounds.next(false).into_iter().map(|m| m.context[0]).collect();
        assert_eq!(next, [2, 3]);
        assert!(rounds.admit(request(4), false).is_some());
        for n in 0..=u8::MAX {
            let _ = rounds.admit(request(n), true);
        }
        assert!(rounds.admit(request(0), true).is_none());
        assert_eq!(rounds.next(false).len(), MAX_HELD);
    }

    /// Of three rounds' heartbeats each peer gets the last; plain heartbeats and everything else stay, in their order.
    #[test]
    fn a_peer_gets_the_last_heartbeat() {
        let beat = |to, context: &[u8]| message(MessageType::MsgHeartbeat, to, context);
        let append = message(MessageType::MsgAppend, 2, b"");
        let mut messages =
            vec![beat(2, b""), beat(2, b"a"), beat(3, b"a"), append.clone(), beat(2, b"b"), beat(3, b"b"), beat(2, b"c")];
        last_heartbeats(&mut messages);
        assert_eq!(messages, [beat(2, b""), append, beat(3, b"b"), beat(2, b"c")]);
    }
}
