//! Integrity: what the loop does so that a member with wrong data, or a leader with a disk that stands still, is found and set aside.
//!
//! In: each tick; what members say of their state, riding on their answers. Out: commands to propose (fences, hashes, an alarm when
//! there is no telling who is wrong), leadership handed over, and, on the member that is fenced, a snapshot asked for in place of its
//! rows. The judging is [`super::compare`]'s and [`super::slow_disk`]'s.
//!
//! Invariants: a fenced member does not stay leader and sends nobody a snapshot; it keeps its log and its vote, so the cluster loses no
//! member over it; its fence is lifted only after it was rebuilt and compared again.

use super::compare::{Comparison, Recovery};
use super::driver::Driver;
use super::handle::Inner;
use super::slow_disk::SlowDisk;
use super::standing::{HistoryHash, Standing};
use crate::env::plant::{self, Plant};
use crate::state::FENCE_LEVEL;
use crate::types::MemberId;
use quorate_proto::entry::command::Op;
use quorate_proto::entry::{self, AlarmAction, AlarmKind, FenceAction};
use raft::eraftpb::{Message, MessageType};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often members are compared beside their digests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Checks {
    /// Time between two hashes of the whole history; `None`: never.
    pub history: Option<Duration>,
    /// Time between two comparisons of what compactions leave behind; `None`: never.
    pub compactions: Option<Duration>,
}

/// Election timeouts before something proposed is proposed again.
const AGAIN: u32 = 2;
/// Election timeouts in which a snapshot that was asked for must begin to come; then entries are taken again for a while.
const PATIENCE: u32 = 10;
/// Election timeouts after which a rebuilt member whose digest is right is trusted without a hash: compactions may come faster than
/// a large history can be hashed.
const UNHASHED: u32 = 300;
/// Stands among the members for a proposal that is about all of them.
const EVERYBODY: MemberId = MemberId::MAX;
/// Time between two log lines that say the same.
const TOLD_AGAIN: Duration = Duration::from_secs(10);

/// What is remembered between two ticks.
pub(super) struct Integrity {
    checks: Checks,
    election: Duration,
    /// Least time between two standings told to a leader.
    pace: Duration,
    comparison: Comparison,
    /// Something was heard since the last judgement.
    heard: bool,
    leading: bool,
    slow: SlowDisk,
    /// When the history was last asked to be hashed, and what compactions left was last compared.
    hashed: Duration,
    compared: Duration,
    told: Duration,
    warned: Option<Duration>,
    /// When each member's fence was last proposed to change.
    proposed: BTreeMap<MemberId, Duration>,
    asked_hash: Option<Duration>,
    /// Since when each fenced member has had the right digest and no hash.
    unhashed: BTreeMap<MemberId, Duration>,
    /// When a snapshot was asked for, or the wish for one given up.
    asked: Option<Duration>,
    arrival: Arrival,
}

impl Integrity {
    /// `tick` is the time between two heartbeats.
    pub fn new(checks: Checks, election: Duration, tick: Duration, now: Duration) -> Self {
        Self {
            checks,
            election,
            pace: tick,
            comparison: Comparison::default(),
            heard: false,
            leading: false,
            slow: SlowDisk::new(election),
            hashed: now,
            compared: now,
            told: Duration::ZERO,
            warned: None,
            proposed: BTreeMap::new(),
            asked_hash: None,
            unhashed: BTreeMap::new(),
            asked: None,
            arrival: Arrival::default(),
        }
    }

    /// Puts this member's standing into an answer that is about to leave, now and then.
    pub fn tell(&mut self, messages: &mut [Message], inner: &Inner) {
        let answer = messages.iter_mut().find(|m| is_answer(m) && m.context.is_empty());
        let Some(answer) = answer else { return };
        let now = inner.time.now();
        if now.saturating_sub(self.told) < self.pace && !self.told.is_zero() {
            return;
        }
        let standing = own(inner);
        if standing.newest.0 > 0 {
            self.told = now;
            answer.context = standing.encode();
        }
    }

    /// Takes a member's standing out of its answer.
    pub fn hear(&mut self, message: &mut Message, inner: &Inner) {
        if !is_answer(message) {
            return;
        }
        if let Some(standing) = Standing::decode(&message.context) {
            message.context.clear();
            if self.leading {
                self.take(message.from, &standing, inner);
            }
        }
    }

    fn take(&mut self, member: MemberId, standing: &Standing, inner: &Inner) {
        let fence = inner.shared.fences().get(&member).copied();
        self.comparison.take(member, standing, fence);
        self.heard = true;
    }

    /// What is due at a tick: the commands to propose, which count only while this member leads.
    pub fn tick(&mut self, driver: &mut Driver, inner: &Inner, now: Duration) -> Vec<Op> {
        self.mend(driver, inner, now);
        if !driver.is_leader() {
            if std::mem::take(&mut self.leading) {
                self.comparison.clear();
                self.proposed.clear();
                self.unhashed.clear();
            }
            self.slow.follows();
            return Vec::new();
        }
        self.leading = true;
        self.leave_slow_disk(driver, inner, now);
        if !driver.may_serve_reads() || inner.is_fenced() {
            return Vec::new();
        }
        let mut ops = if driver.voters().is_empty() { Vec::new() } else { self.hash_when_due(now) };
        self.judge(driver, inner, now, &mut ops);
        self.take_back(driver, inner, now, &mut ops);
        if inner.entry_level() < FENCE_LEVEL {
            // A member of an older build would stop at a command that it does not know; alarms it knows.
            ops.retain(|op| matches!(op, Op::Alarm(_)));
        }
        ops
    }

    // === the leader ===

    fn hash_when_due(&mut self, now: Duration) -> Vec<Op> {
        let due = self.checks.history.is_some_and(|every| now.saturating_sub(self.hashed) >= every);
        if !due {
            return Vec::new();
        }
        self.hashed = now;
        vec![Op::HashCheck(entry::HashCheck {})]
    }

    fn judge(&mut self, driver: &Driver, inner: &Inner, now: Duration, ops: &mut Vec<Op>) {
        let conf = driver.conf_state();
        let members: Vec<MemberId> = conf.voters.iter().chain(&conf.learners).copied().collect();
        self.comparison.retain(&members);
        self.take(inner.member_id, &own(inner), inner);
        let compactions = self.checks.compactions.is_some_and(|every| now.saturating_sub(self.compared) >= every);
        if compactions {
            self.compared = now;
        }
        if self.comparison.lacks_digest(inner.standing.begun_at()) && self.may_propose(EVERYBODY, now) {
            tracing::info!("the digest of all changes begins anew: a member has none that compares");
            ops.push(Op::DigestBegin(entry::DigestBegin {}));
        }
        if plant::is(Plant::DigestNotCompared) || !(std::mem::take(&mut self.heard) || compactions) {
            return;
        }
        let judgement = self.comparison.judge(&conf.voters, &inner.shared.fences(), compactions);
        for (member, evidence) in judgement.wrong {
            if self.may_propose(member, now) {
                let member_id = format!("{member:016x}");
                tracing::error!(member_id, %evidence, "the data of a member differ from the majority's; it is set aside and rebuilt");
                ops.push(fence(FenceAction::Raise, member, 0));
            }
        }
        if let Some(evidence) = judgement.unclear
            && !inner.shared.has_alarm(AlarmKind::Corrupt)
            && self.may_propose(0, now)
        {
            tracing::error!(%evidence, "the members' data differ and no majority agrees: there is no telling who is wrong");
            let kind = AlarmKind::Corrupt.into();
            ops.push(Op::Alarm(entry::Alarm { action: AlarmAction::Raise.into(), member: 0, kind }));
        }
        if let Some(evidence) = judgement.open
            && self.warned.is_none_or(|at| now.saturating_sub(at) >= TOLD_AGAIN)
        {
            self.warned = Some(now);
            tracing::error!(%evidence, "the members' data differ; who is wrong is known when the members that are away come back");
        }
    }

    /// Looks after the members that are fenced.
    fn take_back(&mut self, driver: &Driver, inner: &Inner, now: Duration, ops: &mut Vec<Op>) {
        let voters = driver.conf_state().voters;
        let fences = inner.shared.fences();
        for (member, fence_of) in fences.iter().filter(|(_, f)| !f.lifted) {
            let recovery = self.comparison.recovery(*member, fence_of.index, &voters, &fences);
            let since = match recovery {
                Recovery::Unhashed => *self.unhashed.entry(*member).or_insert(now),
                _ => {
                    self.unhashed.remove(member);
                    now
                }
            };
            let late = now.saturating_sub(since) >= self.election * UNHASHED;
            let due = self.asked_hash.is_none_or(|at| now.saturating_sub(at) >= self.election * AGAIN);
            let member_id = format!("{member:016x}");
            match recovery {
                Recovery::Unhashed if late && self.may_propose(*member, now) => {
                    tracing::warn!(
                        member_id,
                        "a rebuilt member is taken back by its digest alone: its history could not be hashed in time"
                    );
                    ops.push(fence(FenceAction::Lift, *member, fence_of.index));
                }
                Recovery::Unhashed if !late && due => {
                    self.asked_hash = Some(now);
                    ops.push(Op::HashCheck(entry::HashCheck {}));
                }
                Recovery::Sound if self.may_propose(*member, now) => {
                    tracing::info!(member_id, "a rebuilt member has the majority's data; it is taken back");
                    ops.push(fence(FenceAction::Lift, *member, fence_of.index));
                }
                Recovery::Differs if self.may_propose(*member, now) => {
                    tracing::error!(member_id, "a member differs from the majority after it was rebuilt; it is rebuilt again");
                    ops.push(fence(FenceAction::Raise, *member, fence_of.index));
                }
                _ => {}
            }
        }
    }

    /// A proposal needs a while to show.
    fn may_propose(&mut self, about: MemberId, now: Duration) -> bool {
        let may = self.proposed.get(&about).is_none_or(|at| now.saturating_sub(*at) >= self.election * AGAIN);
        if may {
            self.proposed.insert(about, now);
        }
        may
    }

    fn leave_slow_disk(&mut self, driver: &mut Driver, inner: &Inner, now: Duration) {
        let sound = sound_voters(driver, inner);
        let to = self.slow.tick(now, driver.owed(), sound.into_iter());
        if let Some(to) = to.filter(|_| !driver.transferring()) {
            let member_id = format!("{to:016x}");
            tracing::warn!(to = member_id, "the log's disk stands still; leadership goes to a member whose disk does not");
            driver.transfer(to);
        }
    }

    // === the fenced member ===

    /// Gets this member's rows replaced when it is fenced.
    fn mend(&mut self, driver: &mut Driver, inner: &Inner, now: Duration) {
        let fenced = inner.shared.fenced_at(inner.member_id);
        let damaged = fenced.filter(|since| inner.standing.rebuilt_at() < *since);
        if fenced.is_some() && driver.is_leader() {
            let best = sound_voters(driver, inner).into_iter().map(|(id, has)| (has, id)).max();
            if let Some((_, to)) = best.filter(|_| !driver.transferring()) {
                tracing::warn!(to = format!("{to:016x}"), "this member's data are not to be trusted; it hands leadership over");
                driver.transfer(to);
            }
        } else if damaged.is_some() {
            self.ask(driver, inner, now);
        } else {
            if driver.requested().is_some() {
                driver.give_up_request();
            }
            self.asked = None;
        }
        inner.rows_wanted.store(driver.requested().unwrap_or(0), Ordering::Release);
    }

    fn ask(&mut self, driver: &mut Driver, inner: &Inner, now: Duration) {
        let waited = self.asked.map(|at| now.saturating_sub(at));
        if driver.requested().is_some() {
            // The leader may not be able to commit what this member holds at its end without this member.
            let still = self.arrival.still(now, inner.receiver.progress());
            if waited.is_some_and(|w| w.min(still) >= self.election * PATIENCE) {
                tracing::warn!("no snapshot came to rebuild this member from; it takes entries again and asks later");
                driver.give_up_request();
                self.asked = Some(now);
            }
            return;
        }
        if waited.is_none_or(|w| w >= self.election * AGAIN) && driver.request_snapshot() {
            tracing::warn!(
                leader = format!("{:016x}", driver.leader()),
                "this member's data differ from the majority's: it asks the leader for a snapshot in place of its rows; its log and its \
                 vote stay"
            );
            self.asked = Some(now);
        }
    }
}

/// A snapshot that should arrive.
#[derive(Default)]
struct Arrival {
    /// How far it had come when last looked at, and since when it has been there.
    seen: (Option<u64>, Duration),
}

impl Arrival {
    /// How long nothing has come: a transfer that broke leaves its rows to be gone on with, and nobody may ever do so.
    fn still(&mut self, now: Duration, progress: Option<u64>) -> Duration {
        if progress.is_some() && self.seen.0 != progress {
            self.seen = (progress, now);
        }
        now.saturating_sub(self.seen.1)
    }
}

/// The other voters that are not fenced, and how far their logs are durable.
fn sound_voters(driver: &Driver, inner: &Inner) -> Vec<(MemberId, u64)> {
    let mut voters = driver.voters();
    voters.retain(|(id, _)| inner.shared.fenced_at(*id).is_none());
    voters
}

fn fence(action: FenceAction, member: MemberId, since: u64) -> Op {
    Op::Fence(entry::Fence { action: action.into(), member, since })
}

fn is_answer(message: &Message) -> bool {
    matches!(message.get_msg_type(), MessageType::MsgHeartbeatResponse | MessageType::MsgAppendResponse)
}

fn own(inner: &Inner) -> Standing {
    let left = inner.store.newest_kept_hash().map(|h| HistoryHash {
        index: 0,
        revision: h.hash_revision,
        compacted: h.compact_revision,
        hash: h.hash,
    });
    inner.standing.say(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A snapshot whose rows stopped arriving stands still, though what arrived is kept to be gone on with.
    #[test]
    fn a_broken_transfer_stands_still() {
        let mut arrival = Arrival::default();
        let at = Duration::from_secs;
        assert_eq!(arrival.still(at(10), None), at(10));
        assert_eq!(arrival.still(at(11), Some(0)), at(0));
        assert_eq!(arrival.still(at(12), Some(5)), at(0));
        assert_eq!(arrival.still(at(15), Some(5)), at(3));
        assert_eq!(arrival.still(at(16), Some(6)), at(0));
        assert_eq!(arrival.still(at(20), None), at(4), "it was given up, and none has begun");
    }
}
