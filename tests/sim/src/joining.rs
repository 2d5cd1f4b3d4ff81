//! How machines become members and how members end: the gate an empty disk waits at, the channels that follow the list of members, the
//! name a new member tells, and the end of one that was removed.
//!
//! The gate's judgement, the rows and the log of a member that joins, and who counts as removed are the server's own; here is what its
//! threads and connections do round them.

use crate::member::{CLUSTER, Stage, name_of};
use crate::net::KINDS;
use crate::world::{Event, MS, SECOND, World};
use quorate::membership::gate::{Heard, Plan, Verdict, decide};
use quorate::node::Stamp;
use quorate::types::MemberId;
use quorate_proto::entry::command::Op;
use quorate_proto::entry::{Command, MemberAttributes};
use quorate_proto::state::Member as MemberRow;
use std::sync::Arc;

/// How often a member looks whether it was removed, and how long it lingers then.
const LOOK: u64 = 200 * MS;
const LINGER: u64 = SECOND;
/// Time between two attempts to tell its name.
const ANNOUNCE: u64 = SECOND;

impl World {
    /// The machine of a member's id; the newest, if a mistake gave it to two.
    pub fn index_of(&self, id: MemberId) -> Option<usize> {
        self.members.iter().rposition(|m| m.id == id)
    }

    /// Machines with a member's disk whose id is not known to be removed.
    pub fn current(&self) -> Vec<usize> {
        let is_current = |m: &crate::member::Member| m.stage == Stage::Member && !self.ledger.is_removed(m.id);
        (0..self.members.len()).filter(|at| is_current(&self.members[*at])).collect()
    }

    /// A member that a client may know; it may have been removed since.
    pub fn endpoint(&mut self) -> usize {
        let able: Vec<usize> = (0..self.members.len()).filter(|at| self.members[*at].stage == Stage::Member).collect();
        if able.is_empty() { 0 } else { self.chance.pick(&able) }
    }

    /// The members as the one that has applied most knows them; nothing when none runs.
    pub fn listed(&self) -> Arc<Vec<MemberRow>> {
        let running = self.members.iter().filter_map(|m| Some((m.id, m.running.as_ref()?.node.handle())));
        let on_its_list = running.filter(|(id, handle)| handle.shared().members().iter().any(|m| m.id == *id));
        let newest = on_its_list.max_by_key(|(_, handle)| handle.status().applied_index);
        newest.map(|(_, handle)| handle.shared().members()).unwrap_or_default()
    }

    pub fn is_learner(&self, at: usize) -> bool {
        self.members[at].running.as_ref().is_some_and(|r| r.node.handle().status().is_learner)
    }

    /// Whether a member refuses another as removed.
    pub fn refuses(&self, to: usize, from: usize) -> bool {
        let id = self.members[from].id;
        self.members[to].running.as_ref().is_some_and(|r| r.node.handle().shared().is_removed(id))
    }

    // === the gate ===

    /// A machine with an empty disk asks who belongs to the cluster, and joins when it is listed.
    pub fn gate(&mut self, at: usize) {
        if self.members[at].stage != Stage::Empty {
            return;
        }
        let heard: Vec<Heard> = self.current().into_iter().map(|other| self.ask(at, other)).collect();
        let own_urls = vec![self.members[at].url.clone()];
        let plan = Plan { form: None, others: Vec::new(), own_urls, stamp: Stamp::default(), recovery: None };
        match decide(&plan, &heard) {
            Verdict::Become(founding) => {
                self.note(&format!("machine {at} joins as member {:016x}", founding.member_id));
                self.members[at].join(&founding);
                self.joined += 1;
                // Who lists it opens channels to it from now on.
                for running in self.members.iter_mut().filter_map(|m| m.running.as_mut()) {
                    running.follows = None;
                }
                self.start(at);
            }
            Verdict::Wait(_) | Verdict::Refuse(_) => {
                let delay = self.chance.between(100 * MS, 400 * MS);
                self.after(delay, Event::Gate { at });
            }
        }
    }

    fn ask(&self, at: usize, other: usize) -> Heard {
        let member = &self.members[other];
        let reached = member.paused_until.is_none() && !self.net.is_cut(at, other) && !self.net.is_cut(other, at);
        match &member.running {
            Some(running) if reached => Heard::Cluster {
                url: member.url.clone(),
                cluster: CLUSTER,
                members: running.node.handle().shared().members().to_vec(),
                applied: running.node.handle().status().applied_index,
                recoveries: Vec::new(),
            },
            _ => Heard::Silent("no answer".into()),
        }
    }

    // === a member that runs ===

    /// Opens channels to members that are new on a member's list, and closes those to members that are gone from it.
    pub fn follow_members(&mut self, at: usize) {
        let (own, life) = (self.members[at].id, self.members[at].life);
        let Some(running) = &mut self.members[at].running else { return };
        let list = running.node.handle().shared().members();
        if running.follows.as_ref().is_some_and(|known| Arc::ptr_eq(known, &list)) {
            return;
        }
        let wanted = running.strangers.with_members(&list, |id| running.node.handle().shared().is_removed(id), own);
        running.follows = Some(list);
        for other in 0..self.members.len() {
            if self.refuses(at, other) {
                // Its streams end, and its next ones are told why.
                KINDS.into_iter().for_each(|kind| self.break_session(other, at, kind));
            }
            let id = self.members[other].id;
            let listed = wanted.contains_key(&id) && self.index_of(id) == Some(other);
            if listed == self.net.is_linked(at, other) {
                continue;
            }
            self.net.set_linked(at, other, listed);
            for kind in KINDS {
                if listed {
                    let delay = self.chance.between(MS, 30 * MS);
                    self.after(delay, Event::Connect { from: at, to: other, kind, life });
                }
            }
        }
    }

    /// A member let another one's stream in: it keeps a way back to it, listed or not.
    pub fn meet(&mut self, at: usize, from: usize) {
        let (id, list) = (self.members[from].id, self.members[from].list.clone());
        let Some(running) = &mut self.members[at].running else { return };
        let urls = list.iter().find(|m| m.id == id).map(|m| m.peer_urls.clone()).unwrap_or_default();
        if running.strangers.meet(&running.node.handle().shared().members(), id, &urls) {
            running.follows = None;
            self.follow_members(at);
        }
    }

    /// A member that joined tells its name until it stands on its list: from then on it counts as started.
    pub fn announce(&mut self, at: usize) {
        let now = self.now;
        let member = &mut self.members[at];
        let Some(running) = &member.running else { return };
        let own = running.follows.iter().flat_map(|list| list.iter()).find(|m| m.id == member.id);
        if own.is_none_or(|m| !m.name.is_empty()) || now < member.announced + ANNOUNCE {
            return;
        }
        let status = running.node.handle().status();
        if status.leader == 0 || status.applied_index == 0 {
            return;
        }
        member.announced = now;
        let attributes = MemberAttributes { member: member.id, name: name_of(at), client_urls: Vec::new() };
        // Nobody waits for the answer: its list says whether it was heard.
        let _ = running.node.propose(Command { op: Some(Op::MemberAttributes(attributes)) });
        self.settle(at);
    }

    // === the end of a removed member ===

    /// Whether the rows of a member that runs say that it was removed.
    pub fn was_removed(&self, at: usize) -> bool {
        let id = self.members[at].id;
        self.members[at].running.as_ref().is_some_and(|r| r.node.handle().shared().is_removed(id))
    }

    /// Ends a member that was removed; it never starts again.
    pub fn bury(&mut self, at: usize) {
        self.note(&format!("member {at} was removed and ends"));
        if self.members[at].running.is_some() {
            self.kill(at, false);
        }
        self.members[at].stage = Stage::Gone;
    }

    /// A member looks whether it was removed. It writes that down at once, and ends a little later.
    pub fn look_for_removal(&mut self, at: usize) {
        let removed = self.was_removed(at) || self.members[at].told;
        let member = &mut self.members[at];
        let life = member.life;
        let Some(running) = member.running.as_mut().filter(|r| removed && !r.leaves) else { return };
        running.leaves = true;
        member.buried = true;
        let delay = self.chance.below(LOOK) + LINGER;
        self.after(delay, Event::Depart { at, life });
    }

    pub fn depart(&mut self, at: usize, life: u32) {
        if self.members[at].life == life && self.members[at].running.is_some() {
            self.bury(at);
        }
    }

    /// Whether a machine that is down may start; one that wrote down its removal refuses for ever.
    pub fn may_start(&mut self, at: usize) -> bool {
        let member = &mut self.members[at];
        if member.stage == Stage::Member && member.buried {
            member.stage = Stage::Gone;
        }
        member.stage == Stage::Member && !member.held
    }
}
