//! Rounds: read requests of all members that share one confirmation of leadership.
//!
//! In: read requests as the leader gets them, its own among them, whether a round is under way, and the time. Out: the requests that
//! make up the next round, and of the round's heartbeats one for each peer. Raft begins a round for every request; with three busy
//! members that is three rounds at once, each with a message to and from every peer, and the messages cost more than the reads.
//! For the same reason a round of many readers is followed by a pause, in which those of the next one gather; a reader in no crowd
//! never waits for it.
//! Invariants: a request is confirmed only by answers to a heartbeat that was made after it came, as a round's heartbeat is made
//! after all its requests; nothing is held but while a round is under way or a crowd's pause lasts; at most [`MAX_HELD`] requests wait, and one that is dropped
//! is asked again by the member it came from.

use raft::eraftpb::{Entry, Message, MessageType};
use std::collections::BTreeMap;
use std::time::Duration;

/// Requests that may wait for the next round. Each member has one or, after a lost answer, two under way.
const MAX_HELD: usize = 256;

/// Readers of one round that make it a crowd.
const CROWD: u64 = 8;
/// From the beginning of a crowd's round to that of the next.
const PAUSE: Duration = Duration::from_millis(1);

/// The requests of the next round.
#[derive(Default)]
pub(super) struct Rounds {
    held: Vec<Message>,
    /// The next round begins no sooner.
    not_before: Duration,
}

/// A read request under `context`, on behalf of so many readers; the leader takes the number as a hint only.
pub(super) fn request(context: Vec<u8>, readers: usize) -> Message {
    let readers = (readers as u64).to_le_bytes().to_vec();
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgReadIndex);
    message.set_entries(vec![Entry { data: context.into(), context: readers.into(), ..Default::default() }]);
    message
}

/// The readers behind a request; one, when it does not say.
fn readers(request: &Message) -> u64 {
    let told = request.entries.first().and_then(|e| e.context.as_ref().try_into().ok());
    told.map_or(1, u64::from_le_bytes)
}

impl Rounds {
    /// Gives a request back when it may begin a round at once; else holds it for the next.
    pub fn admit(&mut self, request: Message, under_way: bool, now: Duration) -> Option<Message> {
        if !under_way && self.held.is_empty() && now >= self.not_before {
            self.begun(now, readers(&request));
            return Some(request);
        }
        if self.held.len() < MAX_HELD {
            self.held.push(request);
        }
        None
    }

    /// The requests that begin the next round, once none is under way and its time has come.
    pub fn next(&mut self, under_way: bool, now: Duration) -> Vec<Message> {
        if under_way || now < self.not_before || self.held.is_empty() {
            return Vec::new();
        }
        let held = std::mem::take(&mut self.held);
        self.begun(now, held.iter().map(readers).fold(0, u64::saturating_add));
        held
    }

    /// When those that are held may go, if nothing but time holds them.
    pub fn due(&self, under_way: bool) -> Option<Duration> {
        (!under_way && !self.held.is_empty()).then_some(self.not_before)
    }

    fn begun(&mut self, now: Duration, readers: u64) {
        self.not_before = if readers >= CROWD { now + PAUSE } else { Duration::ZERO };
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
        let now = Duration::from_secs(1);
        assert!(rounds.admit(request(1), false, now).is_some());
        assert!(rounds.admit(request(2), true, now).is_none());
        // The round has ended, but those before it go first.
        assert!(rounds.admit(request(3), false, now).is_none());
        assert!(rounds.next(true, now).is_empty());
        let next: Vec<_> = rounds.next(false, now).into_iter().map(|m| m.context[0]).collect();
        assert_eq!(next, [2, 3]);
        assert!(rounds.admit(request(4), false, now).is_some());
        for n in 0..=u8::MAX {
            let _ = rounds.admit(request(n), true, now);
        }
        assert!(rounds.admit(request(0), true, now).is_none());
        assert_eq!(rounds.next(false, now).len(), MAX_HELD);
    }

    /// A crowd's round is followed by a pause in which nothing begins, whoever asks; a few readers' is not.
    #[test]
    fn a_crowd_waits_for_its_next_round() {
        let mut rounds = Rounds::default();
        let ask = |readers| request(vec![1], readers);
        let start = Duration::from_secs(1);
        assert!(rounds.admit(ask(CROWD as usize - 1), false, start).is_some());
        assert!(rounds.admit(ask(5), false, start).is_some(), "too few for a pause");
        let _ = rounds.admit(ask(5), true, start);
        let _ = rounds.admit(ask(3), true, start);
        assert_eq!((rounds.due(true), rounds.next(false, start).len()), (None, 2));
        assert!(rounds.admit(ask(1), false, start).is_none(), "five and three are a crowd");
        assert_eq!(rounds.due(false), Some(start + PAUSE));
        assert!(rounds.next(false, start + PAUSE / 2).is_empty());
        assert_eq!(rounds.next(false, start + PAUSE).len(), 1);
        assert!(rounds.admit(ask(1), false, start + PAUSE).is_some(), "one reader is no crowd");
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
