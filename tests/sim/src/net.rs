//! The network between members: for each ordered pair two channels, each a stream of one session at a time.
//!
//! In: raft messages, which wait in the real outbox of their channel. Out: batches that arrive, later, in the order of their session.
//! A direction that is cut holds its batches back until it heals or the session breaks, and what a broken session had under way is
//! lost, or arrives late under its old generation, where the receiver's real gate must refuse it. A rough network drops, doubles and
//! swaps single messages beside that.

use crate::Time;
use quorate::peer::gate::Gate;
use quorate::peer::outbox::{Outbox, Overflow};
use raft::eraftpb::{Message, MessageType};
use std::collections::VecDeque;

/// A channel's bounds as the real peer room has them, scaled to the size of a simulated cluster.
const CONTROL: (usize, usize) = (1 << 20, 256);
const APPEND: (usize, usize) = (4 << 20, 512);

/// Which of a pair's channels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Control,
    Append,
}

pub const KINDS: [Kind; 2] = [Kind::Control, Kind::Append];

/// Messages under way together.
pub struct Flight {
    pub due: Time,
    pub messages: Vec<Message>,
}

/// One direction of one channel.
pub struct Lane {
    pub outbox: Outbox,
    pub session: u64,
    pub generation: u64,
    pub flights: VecDeque<Flight>,
    /// When the front flight first met a cut.
    pub stalled: Option<Time>,
    /// When the session was opened.
    pub since: Time,
    pub pumping: bool,
    pub arriving: bool,
    /// The receiver's side.
    pub gate: Gate,
}

impl Lane {
    fn new(kind: Kind) -> Self {
        let outbox = match kind {
            Kind::Control => Outbox::new(CONTROL.0, CONTROL.1, Overflow::DropOldest),
            Kind::Append => Outbox::new(APPEND.0, APPEND.1, Overflow::Refuse),
        };
        Self {
            outbox,
            session: 0,
            generation: 0,
            flights: VecDeque::new(),
            stalled: None,
            since: 0,
            pumping: false,
            arriving: false,
            gate: Gate::default(),
        }
    }
}

/// The state of all links.
pub struct Net {
    members: usize,
    lanes: Vec<Lane>,
    /// Who keeps channels to whom: to those on its list of members.
    linked: Vec<bool>,
    cut: Vec<bool>,
    /// Extra delay of each direction.
    slow: Vec<Time>,
    /// Messages in a thousand that are lost, doubled, swapped.
    pub rough: (u64, u64, u64),
    /// A transfer of a snapshot is under way.
    pub sending: Vec<bool>,
    /// When a sender last reported a receiver as unreachable.
    pub reported: Vec<Time>,
}

/// The channel that a message takes.
pub fn kind_of(message: &Message) -> Kind {
    match message.get_msg_type() {
        MessageType::MsgAppend | MessageType::MsgAppendResponse => Kind::Append,
        _ => Kind::Control,
    }
}

impl Net {
    /// Links between `members`, and as many more as they may become.
    pub fn new(members: usize) -> Self {
        let pairs = members * members;
        Self {
            members,
            lanes: (0..pairs * 2).map(|i| Lane::new(KINDS[i % 2])).collect(),
            linked: vec![false; pairs],
            cut: vec![false; pairs],
            slow: vec![0; pairs],
            rough: (0, 0, 0),
            sending: vec![false; pairs],
            reported: vec![0; pairs],
        }
    }

    pub fn pair(&self, from: usize, to: usize) -> usize {
        from * self.members + to
    }

    pub fn lane(&mut self, from: usize, to: usize, kind: Kind) -> &mut Lane {
        let at = self.pair(from, to) * 2 + kind as usize;
        &mut self.lanes[at]
    }

    pub fn is_linked(&self, from: usize, to: usize) -> bool {
        self.linked[self.pair(from, to)]
    }

    /// Opens or closes a member's channels to another; what waited in closed ones is lost.
    pub fn set_linked(&mut self, from: usize, to: usize, linked: bool) {
        let at = self.pair(from, to);
        self.linked[at] = linked;
        for kind in KINDS {
            let lane = self.lane(from, to, kind);
            if !linked {
                lane.outbox.close();
                lane.flights.clear();
                lane.stalled = None;
            }
        }
    }

    /// How long a member's control channel to another has been open.
    pub fn connected_for(&mut self, from: usize, to: usize, now: Time) -> Option<Time> {
        let lane = self.lane(from, to, Kind::Control);
        lane.outbox.is_open().then(|| now - lane.since)
    }

    /// Forgets what a sender's process held; its next life opens new sessions.
    pub fn forget_sender(&mut self, from: usize) {
        for to in 0..self.members {
            let pair = self.pair(from, to);
            self.linked[pair] = false;
            for kind in KINDS {
                let lane = self.lane(from, to, kind);
                let gate = std::mem::take(&mut lane.gate);
                *lane = Lane { gate, ..Lane::new(kind) };
            }
        }
    }

    /// Forgets what a receiver's process knew of streams.
    pub fn forget_receiver(&mut self, to: usize) {
        for from in 0..self.members {
            for kind in KINDS {
                let lane = self.lane(from, to, kind);
                lane.gate = Gate::default();
                lane.arriving = false;
            }
        }
    }

    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cut[self.pair(from, to)]
    }

    pub fn set_cut(&mut self, from: usize, to: usize, cut: bool) {
        let at = self.pair(from, to);
        self.cut[at] = cut;
    }

    pub fn slow(&self, from: usize, to: usize) -> Time {
        self.slow[self.pair(from, to)]
    }

    pub fn set_slow(&mut self, from: usize, to: usize, extra: Time) {
        let at = self.pair(from, to);
        self.slow[at] = extra;
    }

    pub fn heal(&mut self) {
        self.cut.fill(false);
        self.slow.fill(0);
        self.rough = (0, 0, 0);
    }
}
