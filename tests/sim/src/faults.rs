//! What goes wrong: one fault every few seconds, of network, disk, clock and process, until the world becomes calm.

use crate::member::Stage;
use crate::world::{Event, MS, SECOND, World};
use quorate::env::files_sim::Fault;
use quorate::node::StartError;
use std::path::Path;

/// Time before the end in which nothing breaks any more.
const CALM: u64 = 8 * SECOND;

impl World {
    pub fn begin_faults(&mut self) {
        let first = 3 * SECOND + self.chance.below(2 * SECOND);
        self.after(first, Event::Fault);
    }

    /// Who led last, of those that run.
    pub fn leader(&self) -> Option<usize> {
        self.leaders.iter().rev().map(|(_, at)| *at).find(|at| self.members[*at].running.is_some())
    }

    fn anyone(&mut self) -> usize {
        let current = self.current();
        if current.is_empty() { 0 } else { self.chance.pick(&current) }
    }

    /// Whether the cluster works on without one more of its members. Now and then it need not.
    pub fn may_lose(&mut self) -> bool {
        let current = self.current();
        let away = current.iter().filter(|at| self.members[**at].down || self.members[**at].paused_until.is_some()).count();
        away < (current.len().max(1) - 1) / 2 || (away < current.len() && self.chance.chance(10))
    }

    fn tell(&mut self, text: String) {
        self.note(&format!("fault: {text}"));
        self.faults.push((self.now, text));
    }

    /// The next fault, unless it is time to become calm.
    pub fn fault(&mut self) {
        if self.now + CALM >= self.settings.seconds * SECOND {
            return self.become_calm();
        }
        let next = self.chance.between(1500 * MS, 5 * SECOND);
        self.after(next, Event::Fault);
        let may_lose = self.may_lose();
        // Each seed loses its leader at once, and then anything.
        let kind = if self.faults.is_empty() { 1 } else { self.chance.below(20) };
        let at = self.anyone();
        let lasts = self.chance.between(SECOND, 6 * SECOND);
        let leader = self.leader().unwrap_or(at);
        let target = if self.chance.chance(50) { leader } else { at };
        match kind {
            0 if may_lose => self.crash(at, true, 4 * SECOND),
            1 if may_lose => self.crash(leader, true, 5 * SECOND),
            2 if may_lose => self.crash(target, false, 3 * SECOND),
            3 if may_lose => self.crash(at, true, 14 * SECOND),
            4 | 5 if may_lose && self.members[target].running.is_some() => {
                let pause = self.chance.between(300 * MS, 6 * SECOND);
                self.tell(format!("member {target} is paused for {} ms", pause / MS));
                self.members[target].paused_until = Some(self.now + pause);
                let life = self.members[target].life;
                self.after(pause, Event::Resume { at: target, life });
            }
            6 => {
                self.tell(format!("member {target} is cut off"));
                for other in 0..self.members.len() {
                    self.net.set_cut(target, other, true);
                    self.net.set_cut(other, target, true);
                }
                self.heal_after(lasts);
            }
            7 => {
                let side = self.chance.draw();
                self.tell("the network splits".into());
                for a in 0..self.members.len() {
                    for b in 0..self.members.len() {
                        self.net.set_cut(a, b, (side >> a) & 1 != (side >> b) & 1);
                    }
                }
                self.heal_after(lasts);
            }
            8 | 9 => {
                let (deaf, only) = (self.chance.chance(50), self.chance.chance(50));
                let other = self.anyone();
                self.tell(format!("one way is cut at member {target}"));
                for b in 0..self.members.len() {
                    if !only || b == other {
                        let (from, to) = if deaf { (b, target) } else { (target, b) };
                        self.net.set_cut(from, to, true);
                    }
                }
                self.heal_after(lasts);
            }
            10 => {
                let extra = self.chance.between(20 * MS, 400 * MS);
                self.tell(format!("the network is slow by {} ms", extra / MS));
                for a in 0..self.members.len() {
                    for b in 0..self.members.len() {
                        if self.chance.chance(60) {
                            self.net.set_slow(a, b, extra);
                        }
                    }
                }
                self.heal_after(lasts);
            }
            11 | 12 => {
                let (lost, doubled) = (self.chance.below(200), self.chance.below(200));
                self.tell(format!("of a thousand messages {lost} are lost and {doubled} come twice"));
                self.net.rough = (lost, doubled, 300);
                self.heal_after(lasts);
            }
            13 => {
                let times = self.chance.between(20, 400);
                self.tell(format!("the disk of member {target} is {times} times slower"));
                self.members[target].slow_disk = times;
                self.heal_after(lasts);
            }
            14 => {
                let calls = self.chance.below(20);
                self.tell(format!("the disk of member {target} is full"));
                self.members[target].disk.files.fail_after(calls, Fault::NoSpace);
                self.heal_after(lasts);
            }
            15 if may_lose => {
                let calls = self.chance.below(30);
                self.tell(format!("the disk of member {target} fails"));
                self.members[target].disk.files.fail_after(calls, Fault::Broken);
                self.heal_after(lasts);
            }
            16 => {
                let to = self.members[at].id;
                self.tell(format!("leadership is to move from member {leader} to {at}"));
                if let Some(running) = &self.members[leader].running {
                    let _ = running.node.transfer(to);
                }
                self.settle(leader);
            }
            17 if self.chance.chance(40) => {
                self.tell("the power of all members fails".into());
                for at in 0..self.members.len() {
                    if self.members[at].stage != Stage::Member {
                        continue;
                    }
                    if self.members[at].running.is_some() {
                        self.kill(at, true);
                    }
                    let delay = self.chance.between(100 * MS, 2 * SECOND);
                    self.after(delay, Event::Mend { at });
                }
            }
            18 if self.damage_row(target) => self.tell(format!("a bit flips in a row of member {target}, unseen by checksums")),
            19 if self.damage_digest(target) => self.tell(format!("a bit flips in what member {target} has applied")),
            _ => {
                let jump = self.chance.below(7200 * SECOND) as i64 - (3600 * SECOND) as i64;
                self.tell(format!("the time of day of member {target} jumps by {} s", jump / SECOND as i64));
                self.members[target].wall_offset += jump;
            }
        }
    }

    fn heal_after(&mut self, delay: u64) {
        self.heals += 1;
        let number = self.heals;
        self.after(delay, Event::Heal { number });
    }

    pub fn crash(&mut self, at: usize, power: bool, most: u64) {
        if self.members[at].running.is_none() {
            return;
        }
        self.tell(format!("member {at} {}", if power { "loses power" } else { "is killed" }));
        self.kill(at, power);
        if power && self.chance.chance(25) {
            self.flip(at);
        }
        if quorate::env::plant::is(quorate::env::plant::Plant::ReusedMemberId) && self.chance.chance(50) {
            let members = self.settings.members;
            if at < members {
                self.members[at].lose_disk(at, members);
            }
        }
        let delay = self.chance.between(100 * MS, most);
        self.after(delay, Event::Mend { at });
    }

    /// Flips a bit in the oldest of several segments of a member's log: a place where damage can be told from an unfinished write.
    fn flip(&mut self, at: usize) {
        let contents = self.members[at].disk.files.contents();
        let is_segment = |p: &Path| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("seg-"));
        let segments: Vec<_> = contents.iter().filter(|(path, _)| is_segment(path)).collect();
        let [(path, bytes), _, ..] = segments[..] else { return };
        let (offset, bit) = (self.chance.below(bytes.len() as u64), self.chance.below(8) as u8);
        self.members[at].disk.files.flip_bit(path, offset, bit);
        self.tell(format!("a bit flips in the log of member {at} at {offset}"));
        self.members[at].flipped = Some((path.clone(), offset, bit));
    }

    /// A member did not start: right where its log is damaged, and wrong anywhere else.
    pub fn refused_to_start(&mut self, at: usize, error: &StartError) {
        self.note(&format!("member {at} does not start: {error}"));
        let Some((path, offset, bit)) = self.members[at].flipped.take() else {
            return self.violation(format!("member {at} does not start: {error}"));
        };
        if error.exit_code() != 4 {
            return self.violation(format!("member {at} does not name damage as damage: {error}"));
        }
        self.members[at].disk.files.flip_bit(&path, offset, bit);
        let delay = self.chance.between(100 * MS, SECOND);
        self.after(delay, Event::Mend { at });
    }

    /// Starts a member that is down, with a disk that works.
    pub fn mend(&mut self, at: usize) {
        if self.members[at].running.is_some() || !self.may_start(at) {
            return;
        }
        let seed = self.chance.draw();
        if self.members[at].down {
            // A disk that failed may have dropped what it had not synced.
            self.members[at].disk.files.crash(seed);
        }
        self.members[at].disk.files.heal();
        self.start(at);
        if self.members[at].running.is_some() {
            self.members[at].flipped = None;
        }
    }

    /// What lasts for a while is over; a later fault of that kind has its own end.
    pub fn heal(&mut self, number: u32) {
        if number != self.heals {
            return;
        }
        self.note("healed");
        self.net.heal();
        for member in &mut self.members {
            member.slow_disk = 1;
            if member.running.is_some() {
                member.disk.files.heal();
            }
        }
    }

    fn become_calm(&mut self) {
        self.calm = true;
        self.heals += 1;
        self.heal(self.heals);
        self.end_operator();
        for at in 0..self.members.len() {
            self.after(SECOND, Event::Mend { at });
        }
    }
}
