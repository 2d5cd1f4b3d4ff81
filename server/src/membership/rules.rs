//! Rules of reconfiguration: whether a change leaves the cluster able to work. Pure; etcd's rules of `--strict-reconfig-check`.
//!
//! In: the member list, and who is connected. Out: nothing, or the reason against it. A member counts as started once it has told
//! its name.

use crate::types::MemberId;
use quorate_proto::state::{Member, MemberChange, MemberChangeKind};
use std::collections::BTreeSet;
use std::time::Duration;

/// How long a member must have been connected without a break to count; etcd's bound.
pub const HEALTH_INTERVAL: Duration = Duration::from_secs(5);

/// Why a change is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Against {
    /// Too few of the voters after the change would be started.
    NotEnoughStarted,
    /// Too few of the voters are connected.
    Unhealthy,
}

/// The cluster as the judging member sees it.
pub struct Scene<'a> {
    pub own: MemberId,
    pub members: &'a [Member],
    /// Others that are connected at this moment.
    pub connected: &'a BTreeSet<MemberId>,
    /// Others that have been connected for [`HEALTH_INTERVAL`].
    pub steady: &'a BTreeSet<MemberId>,
}

fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

fn is_started(member: &Member) -> bool {
    !member.name.is_empty()
}

impl Scene<'_> {
    fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|m| !m.learner)
    }

    fn steady_voters(&self) -> usize {
        self.voters().filter(|m| m.id == self.own || self.steady.contains(&m.id)).count()
    }

    /// Judges a change, whatever it is.
    ///
    /// # Errors
    /// The reason against it.
    pub fn judge(&self, change: &MemberChange) -> Result<(), Against> {
        match change.kind() {
            MemberChangeKind::Add => self.may_add(false),
            MemberChangeKind::AddLearner => self.may_add(true),
            MemberChangeKind::Remove => self.may_remove(change.member.as_ref().map_or(0, |m| m.id)),
            MemberChangeKind::Promote => self.may_promote(),
            MemberChangeKind::Update => Ok(()),
        }
    }

    /// Adding a member: it counts as not yet working.
    ///
    /// # Errors
    /// When the cluster could lose its quorum by it.
    pub fn may_add(&self, learner: bool) -> Result<(), Against> {
        let voters = self.voters().count();
        let started = self.voters().filter(|m| is_started(m)).count();
        // A lone member grows to two without a rule: there is no other way to a cluster of more.
        let grows_from_one = voters == 1 && started == 1;
        if !learner && !grows_from_one && started < quorum(voters + 1) {
            return Err(Against::NotEnoughStarted);
        }
        if voters > 1 && self.steady_voters() < quorum(voters + 1) {
            return Err(Against::Unhealthy);
        }
        Ok(())
    }

    /// Removing a member.
    ///
    /// # Errors
    /// When those that stay could not work on.
    pub fn may_remove(&self, id: MemberId) -> Result<(), Against> {
        if self.members.iter().any(|m| m.id == id && m.learner) {
            return Ok(());
        }
        let staying = self.voters().filter(|m| m.id != id);
        let (mut voters, mut started) = (0, 0);
        for member in staying {
            voters += 1;
            started += usize::from(is_started(member));
        }
        if started < quorum(voters) {
            return Err(Against::NotEnoughStarted);
        }
        // One that is down takes no part in the quorum that works now.
        if id != self.own && !self.connected.contains(&id) {
            return Ok(());
        }
        let all = self.voters().count();
        if self.steady_voters().saturating_sub(1) < 1 + all.saturating_sub(1) / 2 {
            return Err(Against::Unhealthy);
        }
        Ok(())
    }

    /// Making a learner a voter; it counts as started.
    ///
    /// # Errors
    /// When too few voters have started.
    pub fn may_promote(&self) -> Result<(), Against> {
        let voters = self.voters().count() + 1;
        let started = self.voters().filter(|m| is_started(m)).count() + 1;
        if started < quorum(voters) { Err(Against::NotEnoughStarted) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Members 1.. of which those in `started` have told their names.
    fn members(count: u64, started: &[u64]) -> Vec<Member> {
        let name = |id| if started.contains(&id) { format!("m{id}") } else { String::new() };
        (1..=count).map(|id| Member { id, name: name(id), ..Default::default() }).collect()
    }

    fn judge<T>(members: &[Member], connected: &[u64], steady: &[u64], ask: impl FnOnce(&Scene<'_>) -> T) -> T {
        let (connected, steady) = (connected.iter().copied().collect(), steady.iter().copied().collect());
        ask(&Scene { own: 1, members, connected: &connected, steady: &steady })
    }

    /// A lone member grows freely; a larger cluster only when a quorum with the newcomer has started and is connected.
    #[test]
    fn adding() {
        assert_eq!(judge(&members(1, &[1]), &[], &[], |s| s.may_add(false)), Ok(()));
        let two = members(2, &[1]);
        assert_eq!(judge(&two, &[], &[], |s| s.may_add(false)), Err(Against::NotEnoughStarted));
        assert_eq!(judge(&two, &[], &[], |s| s.may_add(true)), Err(Against::Unhealthy));
        let three = members(3, &[1, 2, 3]);
        assert_eq!(judge(&three, &[2, 3], &[2, 3], |s| s.may_add(false)), Ok(()));
        assert_eq!(judge(&three, &[2, 3], &[2], |s| s.may_add(false)), Err(Against::Unhealthy), "one is down");
        assert_eq!(judge(&three, &[2, 3], &[2], |s| s.may_add(true)), Err(Against::Unhealthy));
        let four = members(4, &[1, 2, 3, 4]);
        assert_eq!(judge(&four, &[2, 3], &[2, 3], |s| s.may_add(true)), Ok(()), "one of four is down");
        let five = members(5, &[1, 2, 3, 4, 5]);
        assert_eq!(judge(&five, &[2, 3], &[2, 3], |s| s.may_add(true)), Err(Against::Unhealthy), "two of five are down");
    }

    /// A member that is down may go when the others have a quorum; one that works only when enough others do.
    #[test]
    fn removing() {
        assert_eq!(judge(&members(1, &[1]), &[], &[], |s| s.may_remove(1)), Err(Against::NotEnoughStarted));
        let three = members(3, &[1, 2, 3]);
        assert_eq!(judge(&three, &[2, 3], &[2, 3], |s| s.may_remove(3)), Ok(()));
        assert_eq!(judge(&three, &[2, 3], &[2], |s| s.may_remove(3)), Err(Against::Unhealthy));
        assert_eq!(judge(&three, &[2], &[2], |s| s.may_remove(3)), Ok(()), "it is down");
        assert_eq!(judge(&three, &[2], &[2], |s| s.may_remove(2)), Err(Against::Unhealthy), "the other one is down");
        let unstarted = members(3, &[1, 2]);
        assert_eq!(judge(&unstarted, &[2], &[2], |s| s.may_remove(2)), Err(Against::NotEnoughStarted));
        let mut learner = members(3, &[1, 2]);
        learner[2].learner = true;
        assert_eq!(judge(&learner, &[], &[], |s| s.may_remove(3)), Ok(()), "a learner has no part in the quorum");
    }

    #[test]
    fn promoting() {
        assert_eq!(judge(&members(1, &[1]), &[], &[], |s| s.may_promote()), Ok(()));
        assert_eq!(judge(&members(3, &[1]), &[], &[], |s| s.may_promote()), Err(Against::NotEnoughStarted));
        assert_eq!(judge(&members(3, &[1, 2]), &[], &[], |s| s.may_promote()), Ok(()));
    }
}
