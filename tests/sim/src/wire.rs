//! Messages between members: out of the real outboxes, over the channels of [`crate::net`], through the receiver's gate.

use crate::Time;
use crate::net::{Flight, Kind, kind_of};
use crate::world::{Event, MS, SECOND, World};
use bytes::Bytes;
use raft::eraftpb::{Message, MessageType};
use std::task::{Context, Poll, Waker};

/// Messages put into one flight, in bytes.
const ENVELOPE: usize = 1 << 20;

impl World {
    pub fn delay(&mut self, from: usize, to: usize) -> Time {
        let extra = self.net.slow(from, to);
        let extra = if extra > 0 { self.chance.between(extra / 2, extra) } else { 0 };
        let base = if self.chance.rarely(10) { self.chance.between(2 * MS, 30 * MS) } else { self.chance.between(150, 900) };
        base + extra
    }

    pub fn send(&mut self, from: usize, life: u32, message: Message) {
        let Some(to) = self.index_of(message.to) else { return };
        // To one that is not on its list a member has no channel.
        if !self.net.is_linked(from, to) {
            return;
        }
        if message.get_msg_type() == MessageType::MsgSnapshot {
            return self.begin_transfer(from, to, message);
        }
        let kind = kind_of(&message);
        let lane = self.net.lane(from, to, kind);
        let kept = lane.outbox.push(message);
        let pump = !lane.pumping && lane.outbox.is_open();
        lane.pumping |= pump;
        if pump {
            let delay = self.chance.between(5, 50);
            self.after(delay, Event::Pump { from, to, kind });
        }
        if !kept && kind == Kind::Append {
            self.report_unreachable(from, life, to);
        }
    }

    fn report_unreachable(&mut self, from: usize, life: u32, to: usize) {
        let pair = self.net.pair(from, to);
        if self.net.reported[pair] + 50 * MS > self.now && self.net.reported[pair] > 0 {
            return;
        }
        self.net.reported[pair] = self.now;
        let about = self.members[to].id;
        if self.members[from].life == life
            && let Some(running) = &self.members[from].running
        {
            running.node.handle().report_unreachable(about);
        }
    }

    pub fn pump(&mut self, from: usize, to: usize, kind: Kind) {
        let rough = self.net.rough;
        let delay = self.delay(from, to);
        let now = self.now;
        let lane = self.net.lane(from, to, kind);
        lane.pumping = false;
        let taken = lane.outbox.poll(lane.session, ENVELOPE, &mut Context::from_waker(Waker::noop()));
        let Poll::Ready(Some(mut messages)) = taken else { return };
        let due = (now + delay).max(lane.flights.back().map_or(0, |f| f.due));
        if rough != (0, 0, 0) {
            let mut out = Vec::with_capacity(messages.len());
            for message in messages {
                if self.chance.rarely(rough.0) {
                    continue;
                }
                if self.chance.rarely(rough.1) {
                    out.push(message.clone());
                }
                out.push(message);
            }
            if out.len() > 1 && self.chance.rarely(rough.2) {
                out.reverse();
            }
            messages = out;
        }
        let lane = self.net.lane(from, to, kind);
        lane.flights.push_back(Flight { due, messages });
        if !lane.arriving {
            lane.arriving = true;
            let due = lane.flights[0].due;
            self.after(due.saturating_sub(now), Event::Arrive { from, to, kind });
        }
    }

    pub fn arrive(&mut self, from: usize, to: usize, kind: Kind) {
        let (now, cut) = (self.now, self.net.is_cut(from, to));
        let boot = u64::from(self.members[from].life);
        let limit = 800 * MS + self.chance.below(2 * SECOND);
        let lane = self.net.lane(from, to, kind);
        lane.arriving = false;
        let Some(front) = lane.flights.front() else { return };
        if front.due > now {
            let wait = front.due - now;
            lane.arriving = true;
            return self.after(wait, Event::Arrive { from, to, kind });
        }
        if cut {
            let since = *lane.stalled.get_or_insert(now);
            if now - since > limit {
                return self.break_session(from, to, kind);
            }
            lane.arriving = true;
            return self.after(50 * MS, Event::Arrive { from, to, kind });
        }
        lane.stalled = None;
        let Some(flight) = lane.flights.pop_front() else { return };
        let generation = lane.generation;
        if let Some(next) = lane.flights.front() {
            let wait = next.due.saturating_sub(now);
            lane.arriving = true;
            self.after(wait, Event::Arrive { from, to, kind });
        }
        self.deliver(from, to, kind, boot, generation, flight.messages);
    }

    /// Hands a batch to its receiver, as the reader of a stream does: nothing of an older stream passes.
    pub fn deliver(&mut self, from: usize, to: usize, kind: Kind, boot: u64, generation: u64, messages: Vec<Message>) {
        if self.members[to].running.is_none() {
            return self.break_session(from, to, kind);
        }
        if self.refuses(to, from) {
            // Its next stream is told why.
            return self.break_session(from, to, kind);
        }
        if !self.net.lane(from, to, kind).gate.passes(boot, generation) {
            return;
        }
        let life = self.members[to].life;
        self.inside(to, life, |node| {
            let _ = node.handle().peer_messages(messages);
        });
    }

    /// Ends a channel's session; its sender tries again. What was under way is lost, or comes late.
    pub fn break_session(&mut self, from: usize, to: usize, kind: Kind) {
        let boot = self.members[from].life;
        let lane = self.net.lane(from, to, kind);
        lane.stalled = None;
        if !lane.outbox.is_open() {
            lane.flights.clear();
            return;
        }
        lane.outbox.close();
        let generation = lane.generation;
        let flights = std::mem::take(&mut lane.flights);
        for flight in flights {
            if self.chance.chance(25) {
                let delay = self.chance.between(MS, 3 * SECOND);
                self.after(delay, Event::Late { from, to, kind, boot, generation, messages: flight.messages });
            }
        }
        self.report_unreachable(from, boot, to);
        let delay = self.chance.between(20 * MS, 400 * MS);
        self.after(delay, Event::Connect { from, to, kind, life: boot });
        if self.members[from].running.is_some() {
            self.poke(from);
        }
    }

    pub fn connect(&mut self, from: usize, to: usize, kind: Kind, life: u32) {
        if self.members[from].life != life || self.members[from].running.is_none() {
            return;
        }
        let reachable = self.members[to].running.is_some() && !self.net.is_cut(from, to) && !self.net.is_cut(to, from);
        if !self.net.is_linked(from, to) {
            return;
        }
        let refused = reachable && self.refuses(to, from);
        if refused && !self.members[from].told {
            self.note(&format!("member {from} is told by member {to} that it was removed"));
            self.members[from].told = true;
        }
        if !reachable || refused {
            let delay = self.chance.between(50 * MS, SECOND);
            return self.after(delay, Event::Connect { from, to, kind, life });
        }
        let now = self.now;
        let lane = self.net.lane(from, to, kind);
        if lane.outbox.is_open() {
            return;
        }
        lane.session = lane.outbox.open();
        lane.generation += 1;
        lane.flights.clear();
        lane.stalled = None;
        lane.since = now;
        let generation = lane.generation;
        if !lane.gate.admit(u64::from(life), generation) {
            self.violation(format!("a stream from {from} to {to} was refused as older than the last one"));
        }
        self.meet(to, from);
    }

    pub fn forward(&mut self, from: usize, to: usize, life: u32, proposals: Vec<Bytes>) {
        if self.net.is_cut(from, to) || self.members[to].running.is_none() || self.refuses(to, from) {
            return;
        }
        let mut refused = false;
        let mut again = proposals.clone();
        let to_life = self.members[to].life;
        self.inside(to, to_life, |node| refused = node.handle().forwarded(proposals).is_err());
        // An answer that is lost leaves the sender with nothing to do.
        if refused && !self.net.is_cut(to, from) {
            let delay = self.delay(to, from) + 20 * MS;
            self.after(delay, Event::GiveBack { at: from, life, proposals: std::mem::take(&mut again) });
        }
    }
}
