//! Desk: changes of members from the first question to the applied answer.
//!
//! In: calls of this member's clients, and of other members for theirs. Out: the members after the change. Whoever is asked hands the
//! change to the leader; the leader judges it by [`super::rules`] and proposes it. A leader that is to be removed hands leadership
//! over first, so that nobody waits for an election.
//! Invariants: a change that was proposed once is never proposed again by the desk; a refusal says that nothing happened, except for
//! the time-outs.

use super::rules::{Against, HEALTH_INTERVAL, Scene};
use crate::api::{MemberError, Membership};
use crate::config;
use crate::env::plant::{self, Plant};
use crate::node::{NodeHandle, ProposeError};
use crate::peer::{ChangeDesk, Changing, NoAnswer, Peers};
use crate::state::{ApplyError, Outcome, Shared};
use crate::types::MemberId;
use quorate_proto::peer::{ChangeRefusal, ChangeResponse};
use quorate_proto::state::{Member, MemberChange, MemberChangeKind};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// What the desk is told.
#[derive(Clone, Debug)]
pub struct DeskSettings {
    /// `--strict-reconfig-check`.
    pub strict: bool,
    /// `--max-learners`.
    pub max_learners: u32,
    /// `--initial-cluster-token`: goes into new ids.
    pub token: String,
    /// How long a change may take in all.
    pub timeout: Duration,
}

/// Changes members. Cheap to clone.
#[derive(Clone)]
pub struct Desk(Arc<Inner>);

struct Inner {
    node: NodeHandle,
    peers: Peers,
    settings: DeskSettings,
}

/// Pause before the leader is looked for again.
const PAUSE: Duration = Duration::from_millis(50);
/// How long the answer waits for this member to apply what the leader has.
const CATCH_UP: Duration = Duration::from_secs(2);

/// Gives leadership to a connected voter; false when none took it. One that is not connected would be waited for in vain, while the
/// others have a leader that is about to end.
pub async fn hand_over(node: &NodeHandle, peers: &Peers) -> bool {
    let own = node.status().member_id;
    let connected = peers.connected();
    let members = node.shared().members();
    for to in members.iter().filter(|m| !m.learner && m.id != own && connected.contains(&m.id)) {
        match node.transfer_leader(to.id).await {
            Ok(()) => {
                tracing::info!(to = format!("{:016x}", to.id), "handed leadership over");
                return true;
            }
            Err(ProposeError::NotLeader | ProposeError::LeaderChanged) => return true,
            Err(_) => {}
        }
    }
    false
}

/// What logs call a kind of change.
fn word(kind: MemberChangeKind) -> String {
    kind.as_str_name().trim_start_matches("MEMBER_CHANGE_KIND_").to_lowercase()
}

impl Desk {
    /// A desk over a member's node and peers.
    pub fn new(node: NodeHandle, peers: Peers, settings: DeskSettings) -> Self {
        Self(Arc::new(Inner { node, peers, settings }))
    }

    /// Finds the leader, wherever it is, and has it carry the change out.
    async fn change(&self, change: MemberChange) -> Result<Vec<Member>, MemberError> {
        let (node, settings) = (&self.0.node, &self.0.settings);
        let deadline = Instant::now() + settings.timeout;
        let mut last = ProposeError::TimedOut;
        while Instant::now() < deadline {
            let status = node.status();
            if status.is_leader {
                match self.here(change.clone()).await {
                    Err(MemberError::NotAgreed(e @ ProposeError::NotLeader)) => last = e,
                    done => return done,
                }
            } else if status.leader != 0 {
                let left = deadline.saturating_duration_since(Instant::now());
                match self.0.peers.ask_change(status.leader, change.clone(), left).await {
                    Ok(answer) if answer.refusal() == ChangeRefusal::NotLeader => last = ProposeError::NotLeader,
                    Ok(answer) => return self.answered(&change, answer).await,
                    Err(NoAnswer::NotAsked) => last = ProposeError::NoLeader,
                    // It may have happened: asking again could do it twice.
                    Err(NoAnswer::Lost) => return Err(MemberError::NotAgreed(ProposeError::TimedOut)),
                }
            } else {
                // Without a leader there is no quorum at the moment; the rules say so sooner than the clock.
                self.judge(&change)?;
                last = ProposeError::NoLeader;
            }
            tokio::time::sleep(PAUSE).await;
        }
        let error = if last == ProposeError::NotLeader { ProposeError::TimedOut } else { last };
        Err(MemberError::NotAgreed(if error == ProposeError::NoLeader { ProposeError::TimedOut } else { error }))
    }

    /// The leader's answer; waits a little until what it says is true here as well.
    async fn answered(&self, change: &MemberChange, answer: ChangeResponse) -> Result<Vec<Member>, MemberError> {
        refusal_to_error(answer.refusal())?;
        let removes_us = change.kind() == MemberChangeKind::Remove && id_of(change) == self.0.node.status().member_id;
        let until = Instant::now() + CATCH_UP;
        while !removes_us && self.0.node.status().applied_index < answer.applied && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(answer.members)
    }

    /// Carries a change out on the leader.
    async fn here(&self, change: MemberChange) -> Result<Vec<Member>, MemberError> {
        self.judge(&change)?;
        let own = self.0.node.status().member_id;
        if change.kind() == MemberChangeKind::Remove && id_of(&change) == own && hand_over(&self.0.node, &self.0.peers).await {
            return Err(MemberError::NotAgreed(ProposeError::NotLeader));
        }
        let (kind, id) = (change.kind(), id_of(&change));
        let answer = self.0.node.change_members(change).await.map_err(MemberError::NotAgreed)?;
        match answer.result.map_err(MemberError::Refused)? {
            Outcome::Members(members) => {
                tracing::info!(
                    change = word(kind),
                    member_id = format!("{id:016x}"),
                    members = members.len(),
                    "applied a configuration change through raft"
                );
                Ok(members)
            }
            _ => Err(MemberError::Refused(ApplyError::Internal("a change of members with another answer".into()))),
        }
    }

    fn judge(&self, change: &MemberChange) -> Result<(), MemberError> {
        if !self.0.settings.strict {
            return Ok(());
        }
        let members = self.0.node.shared().members();
        let connected = self.0.peers.connected().into_iter().collect();
        let steady = self.0.peers.connected_for(HEALTH_INTERVAL).into_iter().collect();
        let own = self.0.node.status().member_id;
        let scene = Scene { own, members: &members, connected: &connected, steady: &steady };
        let Err(against) = scene.judge(change) else { return Ok(()) };
        let change = word(change.kind());
        match against {
            Against::NotEnoughStarted => {
                tracing::warn!(change, "rejecting a change of members; not enough healthy members");
                Err(MemberError::NotEnoughStarted)
            }
            Against::Unhealthy => {
                tracing::warn!(change, "rejecting a change of members; too few voters have been connected for long enough");
                Err(MemberError::Refused(ApplyError::Unhealthy))
            }
        }
    }
}

/// An id that is nobody's and never was, for a member at these addresses. `now` is the time of day in nanoseconds: with it the id of
/// an add that is still under way is another one.
pub fn fresh_id(shared: &Shared, urls: &[String], token: &str, now: u128) -> MemberId {
    if plant::is(Plant::MemberIdTwice)
        && let Some(used) = shared.any_removed()
    {
        return used;
    }
    let members = shared.members();
    (0u64..)
        .map(|n| config::member_id(urls, &format!("{token}{now}{n}")))
        .find(|id| *id != 0 && !shared.is_removed(*id) && members.iter().all(|m| m.id != *id))
        .expect("ids do not run out")
}

fn id_of(change: &MemberChange) -> u64 {
    change.member.as_ref().map_or(0, |m| m.id)
}

fn change(kind: MemberChangeKind, member: Member) -> MemberChange {
    MemberChange { kind: kind.into(), member: Some(member), ..Default::default() }
}

#[tonic::async_trait]
impl Membership for Desk {
    async fn add(&self, peer_urls: Vec<String>, learner: bool) -> Result<(Member, Vec<Member>), MemberError> {
        let kind = if learner { MemberChangeKind::AddLearner } else { MemberChangeKind::Add };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        let id = fresh_id(self.0.node.shared(), &peer_urls, &self.0.settings.token, now);
        let member = Member { id, peer_urls, learner, ..Default::default() };
        let mut asked = change(kind, member.clone());
        asked.max_learners = Some(self.0.settings.max_learners);
        Ok((member, self.change(asked).await?))
    }

    async fn remove(&self, id: u64) -> Result<Vec<Member>, MemberError> {
        self.change(change(MemberChangeKind::Remove, Member { id, ..Default::default() })).await
    }

    async fn update(&self, id: u64, peer_urls: Vec<String>) -> Result<Vec<Member>, MemberError> {
        self.change(change(MemberChangeKind::Update, Member { id, peer_urls, ..Default::default() })).await
    }

    async fn promote(&self, id: u64) -> Result<Vec<Member>, MemberError> {
        self.change(change(MemberChangeKind::Promote, Member { id, ..Default::default() })).await
    }
}

impl ChangeDesk for Desk {
    fn change(&self, change: MemberChange) -> Changing<'_> {
        Box::pin(async move {
            if !self.0.node.status().is_leader {
                return ChangeResponse { refusal: ChangeRefusal::NotLeader.into(), ..Default::default() };
            }
            match self.here(change).await {
                Ok(members) => ChangeResponse { members, applied: self.0.node.status().applied_index, ..Default::default() },
                Err(e) => ChangeResponse { refusal: error_to_refusal(&e).into(), ..Default::default() },
            }
        })
    }
}

fn error_to_refusal(error: &MemberError) -> ChangeRefusal {
    match error {
        MemberError::NotEnoughStarted => ChangeRefusal::NotEnoughStarted,
        MemberError::NotAgreed(ProposeError::NotLeader) => ChangeRefusal::NotLeader,
        MemberError::NotAgreed(ProposeError::TooManyRequests) => ChangeRefusal::TooManyRequests,
        MemberError::Refused(ApplyError::MemberNotFound) => ChangeRefusal::MemberNotFound,
        MemberError::Refused(ApplyError::MemberExists) => ChangeRefusal::MemberExists,
        MemberError::Refused(ApplyError::PeerUrlExists) => ChangeRefusal::PeerUrlExists,
        MemberError::Refused(ApplyError::NotLearner) => ChangeRefusal::NotLearner,
        MemberError::Refused(ApplyError::LearnerNotReady) => ChangeRefusal::LearnerNotReady,
        MemberError::Refused(ApplyError::TooManyLearners) => ChangeRefusal::TooManyLearners,
        MemberError::Refused(ApplyError::Unhealthy) => ChangeRefusal::Unhealthy,
        _ => ChangeRefusal::TimedOut,
    }
}

fn refusal_to_error(refusal: ChangeRefusal) -> Result<(), MemberError> {
    let refused = |e| Err(MemberError::Refused(e));
    match refusal {
        ChangeRefusal::None => Ok(()),
        ChangeRefusal::NotLeader => Err(MemberError::NotAgreed(ProposeError::NotLeader)),
        ChangeRefusal::MemberNotFound => refused(ApplyError::MemberNotFound),
        ChangeRefusal::MemberExists => refused(ApplyError::MemberExists),
        ChangeRefusal::PeerUrlExists => refused(ApplyError::PeerUrlExists),
        ChangeRefusal::NotLearner => refused(ApplyError::NotLearner),
        ChangeRefusal::LearnerNotReady => refused(ApplyError::LearnerNotReady),
        ChangeRefusal::TooManyLearners => refused(ApplyError::TooManyLearners),
        ChangeRefusal::Unhealthy => refused(ApplyError::Unhealthy),
        ChangeRefusal::NotEnoughStarted => Err(MemberError::NotEnoughStarted),
        ChangeRefusal::TooManyRequests => Err(MemberError::NotAgreed(ProposeError::TooManyRequests)),
        ChangeRefusal::TimedOut => Err(MemberError::NotAgreed(ProposeError::TimedOut)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every refusal keeps its meaning on the way from the leader to the member that was asked.
    #[test]
    fn refusals_survive_the_way() {
        for code in 1..=11 {
            let refusal = ChangeRefusal::try_from(code).unwrap();
            let error = refusal_to_error(refusal).unwrap_err();
            assert_eq!(error_to_refusal(&error), refusal);
        }
    }
}
