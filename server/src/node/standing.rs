//! Standing: what this member says of its own state, so that the leader can compare it with the others'.
//!
//! In: the machine's position after each batch of entries, hashes of the history, and that a snapshot took the place of the rows. Out:
//! the message that rides on the answers to the leader, and what the leader itself takes into the comparison. Invariants: a mark is
//! kept for each entry whose index all members know to keep, so that members at different positions have some in common; everything
//! here is bounded, and costs a write nothing but a look at its index.

use crate::state::{HashWanted, Position};
use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use quorate_proto::peer;
use std::collections::VecDeque;

/// Marks are kept of entries whose index one of these divides: fine ones for a cluster that does little, coarse ones for members that
/// are thousands of entries apart.
pub(super) const LEVELS: [u64; 3] = [16, 256, 4096];
/// Marks of each level told in one message, the newest.
const MARKS: usize = 3;
/// Hashes told in one message, the newest.
const HASHES: usize = 3;
/// Contexts of read rounds have this length; nothing said here is so short.
const READ_CONTEXT: usize = 8;

/// The coarsest level that has a mark at an entry; `None` when none has.
pub(super) fn level(index: u64) -> Option<usize> {
    LEVELS.iter().rposition(|every| index > 0 && index.is_multiple_of(*every))
}

/// The digest after an entry.
pub(super) type Mark = (u64, u128);

/// A hash of the history.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct HistoryHash {
    /// The entry that asked for it; 0 for one that a compaction left behind.
    pub index: u64,
    pub revision: i64,
    pub compacted: i64,
    pub hash: u32,
}

/// What a member says of its state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    pub newest: Mark,
    pub marks: Vec<Mark>,
    pub hashes: Vec<HistoryHash>,
    /// Index of the snapshot that this process took its rows from.
    pub rebuilt: u64,
}

impl Standing {
    /// As the context of an answer to the leader.
    pub fn encode(&self) -> Bytes {
        let mark = |m: &Mark| peer::Mark { index: m.0, digest: Bytes::copy_from_slice(&m.1.to_be_bytes()) };
        let hash = |h: &HistoryHash| peer::HistoryHash {
            index: h.index,
            revision: h.revision,
            compact_revision: h.compacted,
            hash: h.hash,
        };
        let message = peer::Standing {
            newest: Some(mark(&self.newest)),
            marks: self.marks.iter().map(mark).collect(),
            hashes: self.hashes.iter().map(hash).collect(),
            rebuilt: self.rebuilt,
        };
        message.encode_to_vec().into()
    }

    /// From the context of an answer; `None` when it is that of a read round, or not to be understood.
    pub fn decode(context: &Bytes) -> Option<Self> {
        if context.len() <= READ_CONTEXT {
            return None;
        }
        let message = peer::Standing::decode(context.clone()).ok()?;
        let mark = |m: &peer::Mark| Some((m.index, u128::from_be_bytes(m.digest.as_ref().try_into().ok()?)));
        let hash = |h: &peer::HistoryHash| HistoryHash {
            index: h.index,
            revision: h.revision,
            compacted: h.compact_revision,
            hash: h.hash,
        };
        Some(Self {
            newest: mark(message.newest.as_ref()?)?,
            marks: message.marks.iter().map(mark).collect::<Option<_>>()?,
            hashes: message.hashes.iter().map(hash).collect(),
            rebuilt: message.rebuilt,
        })
    }
}

/// This member's own, filled by the thread that applies and read by the loop.
#[derive(Default)]
pub(super) struct OwnStanding(Mutex<Own>);

#[derive(Default)]
struct Own {
    newest: Mark,
    marks: [VecDeque<Mark>; LEVELS.len()],
    hashes: VecDeque<HistoryHash>,
    rebuilt: u64,
    begun: u64,
}

impl OwnStanding {
    /// The digest began anew after an entry.
    pub fn began(&self, index: u64) {
        self.0.lock().begun = index;
    }

    /// The entry after which the digest began, as far as this process knows.
    pub fn begun_at(&self) -> u64 {
        self.0.lock().begun
    }

    /// After each entry; most leave no mark.
    pub fn mark(&self, position: Position) {
        let Some(level) = level(position.index).filter(|_| position.digest != 0) else { return };
        let marks = &mut self.0.lock().marks[level];
        marks.push_back((position.index, position.digest));
        if marks.len() > MARKS {
            marks.pop_front();
        }
    }

    /// After a batch of entries.
    pub fn moved(&self, position: Position) {
        self.0.lock().newest = (position.index, position.digest);
    }

    /// A hash that the entry at `index` asked for.
    pub fn hashed(&self, index: u64, of: HashWanted, hash: u32) {
        let mut own = self.0.lock();
        own.hashes.push_back(HistoryHash { index, revision: of.revision, compacted: of.compacted, hash });
        if own.hashes.len() > HASHES {
            own.hashes.pop_front();
        }
    }

    /// The rows are those of a snapshot now, and what was said of the old ones is void.
    pub fn rebuilt(&self, position: Position) {
        let newest = (position.index, position.digest);
        let mut own = self.0.lock();
        *own = Own { newest, rebuilt: position.index, begun: own.begun, ..Own::default() };
    }

    /// How often rows were replaced, told by the last snapshot's index: a hash begun before belongs to the old ones.
    pub fn rebuilt_at(&self) -> u64 {
        self.0.lock().rebuilt
    }

    /// What there is to say, with the newest hash that a compaction left behind.
    pub fn say(&self, compaction: Option<HistoryHash>) -> Standing {
        let own = self.0.lock();
        Standing {
            newest: own.newest,
            marks: own.marks.iter().flatten().copied().collect(),
            hashes: own.hashes.iter().copied().chain(compaction).collect(),
            rebuilt: own.rebuilt,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said is understood as it was said, never taken for the context of a read round, and nothing grows.
    #[test]
    fn a_standing_travels() {
        let own = OwnStanding::default();
        for n in 1..=40u64 {
            let position = Position { index: n * LEVELS[0], digest: u128::from(n) << 90, ..Default::default() };
            own.mark(position);
            own.moved(position);
            own.hashed(n, HashWanted { revision: n as i64, compacted: -1 }, n as u32);
        }
        let said = own.say(Some(HistoryHash { index: 0, revision: 7, compacted: 3, hash: 9 }));
        assert_eq!((said.marks.len(), said.hashes.len()), (MARKS + 2, HASHES + 1), "two of the next level");
        assert_eq!(said.newest, (40 * LEVELS[0], 40 << 90));
        assert_eq!((level(48), level(512), level(8192), level(7), level(0)), (Some(0), Some(1), Some(2), None, None));
        assert_eq!(Standing::decode(&said.encode()), Some(said));
        assert!(Standing::default().encode().len() > READ_CONTEXT);
        assert_eq!(Standing::decode(&Bytes::from_static(b"12345678")), None);
        assert_eq!(Standing::decode(&Bytes::from_static(b"not a message at all")), None);
    }
}
