//! Probes: when the cluster is at rest, every member that may answer is asked, and has to.
//!
//! That the members agree in the end does not say that anyone is answered: a read that hangs, or a proposal that nobody forwards,
//! changes no state. So each voter is asked for a linearizable read and for a write, and must answer both within a bound; what was
//! refused is asked again until then.

use crate::Time;
use crate::clients::Client;
use crate::damage::QUIET;
use crate::ops::{NEVER, Operation, Told, value_of};
use crate::world::{Event, SECOND, World};
use quorate_proto::entry::command::Op;
use quorate_proto::entry::{Put, Range};

/// Longest that a member at rest may take to answer.
pub const ANSWERS: Time = 5 * SECOND;

/// What one member is asked.
pub struct Probe {
    member: usize,
    writes: bool,
    operation: usize,
}

impl World {
    /// Asks every voter.
    pub fn begin_probes(&mut self) {
        let listed = self.listed();
        for row in listed.iter().filter(|m| !m.learner) {
            let Some(member) = self.index_of(row.id) else { continue };
            for writes in [false, true] {
                let client = self.clients.len();
                self.clients.push(Client::at(member));
                let operation = self.probe(client, member, writes);
                self.probes.push(Probe { member, writes, operation });
            }
        }
    }

    fn probe(&mut self, client: usize, member: usize, writes: bool) -> usize {
        let operation = self.operations.len();
        let key = format!("{QUIET}{member}").into();
        let op = match writes {
            true => Op::Put(Put { key, value: value_of(operation).into(), ..Default::default() }),
            false => Op::Range(Range { key, ..Default::default() }),
        };
        self.operations.push(Operation { client, op, invoked: self.now, returned: NEVER, told: Told::Nothing });
        self.asks(client, operation);
        self.after(100, Event::Request { at: member, operation });
        operation
    }

    /// True when all have answered; what was refused is asked again.
    pub fn probes_are_answered(&mut self) -> bool {
        let mut open = 0;
        for at in 0..self.probes.len() {
            let Probe { member, writes, operation } = self.probes[at];
            let Operation { client, told, returned, .. } = &self.operations[operation];
            if matches!(told, Told::Answer(_) | Told::Read(_)) {
                continue;
            }
            open += 1;
            if *returned != NEVER {
                let client = *client;
                self.probes[at].operation = self.probe(client, member, writes);
            }
        }
        open == 0
    }

    /// Members that left a probe unanswered are at fault.
    pub fn check_probes(&mut self) {
        let open = |p: &&Probe| !matches!(self.operations[p.operation].told, Told::Answer(_) | Told::Read(_));
        let silent: Vec<_> = self.probes.iter().filter(open).map(|p| (p.member, if p.writes { "write" } else { "read" })).collect();
        for (member, what) in silent {
            self.violation(format!("member {member} is at rest and leaves a {what} unanswered for {} s", ANSWERS / SECOND));
        }
    }
}
