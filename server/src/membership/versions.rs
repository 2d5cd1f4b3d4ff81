//! Versions: what every member's program knows, and what the cluster therefore may use.
//!
//! In: what the members say of their programs, and the cluster's own version, feature level and downgrade. Out: proposals of the
//! leader: the version clients are shown, a higher feature level, the end of a downgrade. [`steps`] is pure; [`run`] asks and proposes.
//! Invariants: the level rises only when every member has said that it knows the higher one; it never falls. While a downgrade of
//! the API's version is under way nothing rises.

use crate::node::{NodeHandle, ProposeError};
use crate::peer::{Dial, Speaks, ask_members};
use crate::state::FEATURE_LEVEL;
use quorate_proto::entry::{self, Command, command::Op};
use quorate_proto::state::Member;
use std::sync::Arc;
use std::time::Duration;

/// `major.minor`, the part of a version that counts.
type Minor = (u64, u64);

/// Reads the first two numbers of a version.
pub fn minor(version: &str) -> Option<Minor> {
    let mut parts = version.split(['.', '-', '+']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// A cluster's version as it is kept and shown.
pub fn whole((major, minor): Minor) -> String {
    format!("{major}.{minor}.0")
}

/// Where a cluster of a version may be downgraded to.
pub fn downgrade_target((major, minor): Minor) -> Option<Minor> {
    minor.checked_sub(1).map(|m| (major, m))
}

/// The cluster as the leader sees it.
pub struct Scene<'a> {
    /// The cluster's version; `None` before there is one.
    pub version: Option<Minor>,
    pub level: u32,
    pub downgrade: Option<Minor>,
    pub own: &'a Speaks,
    /// What each other member says; `None` of one that does not answer.
    pub others: &'a [Option<Speaks>],
}

/// What the leader proposes next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    Version(Minor),
    Level(u32),
    EndDowngrade,
}

impl Scene<'_> {
    /// The oldest version among the members that answered; the leader's own for those that do not say.
    fn oldest(&self) -> Option<Minor> {
        let own = minor(&self.own.version)?;
        Some(self.others.iter().flatten().filter_map(|s| minor(&s.version)).fold(own, Minor::min))
    }

    fn all_answer(&self) -> bool {
        self.others.iter().all(Option::is_some)
    }
}

/// What is to be proposed, if anything.
pub fn steps(scene: &Scene<'_>) -> Option<Step> {
    let oldest = scene.oldest()?;
    // A member that is silent at the founding speaks no older version than the first that there was.
    let Some(version) = scene.version else { return Some(Step::Version(oldest)) };
    if let Some(target) = scene.downgrade {
        if version != target {
            return (downgrade_target(version) == Some(target)).then_some(Step::Version(target));
        }
        let at_target = |s: &Speaks| minor(&s.version) == Some(target);
        let done = at_target(scene.own) && scene.others.iter().all(|s| s.as_ref().is_some_and(at_target));
        return done.then_some(Step::EndDowngrade);
    }
    if !scene.all_answer() {
        return None;
    }
    if version < oldest {
        return Some(Step::Version(oldest));
    }
    let least = scene.others.iter().flatten().map(|s| s.feature_level.max(1)).fold(scene.own.feature_level, u32::min);
    (least > scene.level).then_some(Step::Level(least))
}

/// How long one member may take to answer.
const ANSWER: Duration = Duration::from_secs(1);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(500);

async fn ask(dial: &Arc<dyn Dial>, cluster: u64, own: u64, member: Member) -> Option<Speaks> {
    for url in &member.peer_urls {
        if let Ok(answer) = ask_members(dial, url, cluster, own, ANSWER).await
            && !answer.empty
        {
            return Some(Speaks { feature_level: answer.feature_level, version: answer.version, build: answer.build });
        }
    }
    None
}

async fn ask_all(node: &NodeHandle, dial: &Arc<dyn Dial>) -> Vec<Option<Speaks>> {
    let status = node.status();
    let members = node.shared().members();
    let others = members.iter().filter(|m| m.id != status.member_id).cloned();
    let asking: Vec<_> = others
        .map(|member| {
            let dial = dial.clone();
            tokio::spawn(async move { ask(&dial, status.cluster_id, status.member_id, member).await })
        })
        .collect();
    let mut answers = Vec::with_capacity(asking.len());
    for answer in asking {
        answers.push(answer.await.ok().flatten());
    }
    answers
}

/// True when no answer of any member could lead to a step.
fn is_settled(node: &NodeHandle, own: &Speaks) -> bool {
    let shared = node.shared();
    minor(&shared.cluster_version()) == minor(&own.version)
        && shared.feature_level() >= FEATURE_LEVEL
        && shared.downgrade().is_none()
}

async fn carry_out(node: &NodeHandle, step: &Step) -> Result<(), ProposeError> {
    let version = |version: String| Command { op: Some(Op::ClusterVersion(entry::ClusterVersion { version })) };
    match step {
        Step::Version(to) => {
            let (from, to) = (node.shared().cluster_version(), whole(*to));
            node.propose(version(to.clone())).await?;
            tracing::info!(from = from.as_str(), cluster_version = to, "updated cluster version");
        }
        Step::Level(level) => {
            // The entry itself carries the level; what it says is what holds already.
            node.raise_level(*level);
            node.propose(version(node.shared().cluster_version().to_string())).await?;
            tracing::info!(
                feature_level = level,
                "raised the feature level: every member knows it, older programs can no longer join"
            );
        }
        Step::EndDowngrade => {
            node.propose(Command { op: Some(Op::Downgrade(entry::Downgrade::default())) }).await?;
            tracing::info!(cluster_version = node.shared().cluster_version().as_str(), "the cluster has been downgraded");
        }
    }
    Ok(())
}

/// Looks after the cluster's versions as long as this member leads. `downgrade_check` is the time between two looks whether a
/// downgrade has come to its end; `None` leaves it to the operator.
pub async fn run(node: NodeHandle, dial: Arc<dyn Dial>, own: Speaks, downgrade_check: Option<Duration>) {
    let mut leader = node.leader_changes();
    let mut looked: Option<tokio::time::Instant> = None;
    loop {
        let shared = node.shared();
        if !node.status().is_leader {
            node.raise_level(0);
        } else if !is_settled(&node, &own) {
            let version = minor(&shared.cluster_version());
            let downgrade = shared.downgrade().as_ref().as_deref().and_then(minor);
            let reached = downgrade.is_some() && downgrade == version;
            let due = !reached || downgrade_check.is_some_and(|every| looked.is_none_or(|at| at.elapsed() >= every));
            if due {
                looked = Some(tokio::time::Instant::now());
                let others = ask_all(&node, &dial).await;
                let scene = Scene { version, level: shared.feature_level(), downgrade, own: &own, others: &others };
                match steps(&scene) {
                    Some(step) => match carry_out(&node, &step).await {
                        Ok(()) => continue,
                        Err(ProposeError::Stopped) => return,
                        Err(e) => tracing::debug!(error = %e, "a change of the cluster's version was not agreed on yet"),
                    },
                    None => node.raise_level(0),
                }
            }
        }
        tokio::select! {
            changed = leader.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speaks(version: &str, feature_level: u32) -> Speaks {
        Speaks { feature_level, version: version.into(), build: String::new() }
    }

    fn next(version: Option<Minor>, level: u32, downgrade: Option<Minor>, others: &[Option<Speaks>]) -> Option<Step> {
        steps(&Scene { version, level, downgrade, own: &speaks("3.7.3", 2), others })
    }

    /// The first version is the oldest anyone speaks; it rises, and so does the level, when all members are known to be further; a
    /// silent one holds both back.
    #[test]
    fn versions_and_levels_rise_with_the_last_member() {
        let (new, old) = (Some(speaks("3.7.3", 2)), Some(speaks("", 0)));
        assert_eq!(next(None, 1, None, &[new.clone(), None]), Some(Step::Version((3, 7))));
        assert_eq!(next(None, 1, None, &[Some(speaks("3.6.1", 1)), None]), Some(Step::Version((3, 6))));
        assert_eq!(next(Some((3, 6)), 1, None, &[new.clone(), None]), None);
        assert_eq!(next(Some((3, 6)), 1, None, std::slice::from_ref(&new)), Some(Step::Version((3, 7))));
        assert_eq!(next(Some((3, 7)), 1, None, &[new.clone(), old]), None, "the oldest counts");
        assert_eq!(next(Some((3, 7)), 1, None, &[new.clone(), None]), None);
        assert_eq!(next(Some((3, 7)), 1, None, &[new.clone(), new.clone()]), Some(Step::Level(2)));
        assert_eq!(next(Some((3, 7)), 1, None, &[]), Some(Step::Level(2)), "alone");
        assert_eq!(next(Some((3, 7)), 2, None, &[new.clone(), new]), None);
    }

    /// A downgrade lowers the version by one, holds everything there, and ends when every member is of that version.
    #[test]
    fn a_downgrade_goes_one_step_and_ends() {
        let (new, old) = (Some(speaks("3.7.3", 2)), Some(speaks("3.6.9", 2)));
        assert_eq!(next(Some((3, 7)), 1, Some((3, 6)), &[None]), Some(Step::Version((3, 6))));
        assert_eq!(next(Some((3, 7)), 1, Some((3, 5)), &[None]), None);
        assert_eq!(next(Some((3, 6)), 1, Some((3, 6)), std::slice::from_ref(&new)), None, "it neither ends nor rises");
        let own = speaks("3.6.9", 2);
        let scene = Scene { version: Some((3, 6)), level: 2, downgrade: Some((3, 6)), own: &own, others: &[old] };
        assert_eq!(steps(&scene), Some(Step::EndDowngrade));
        assert_eq!(minor("3.7.0-rc.1"), Some((3, 7)));
        assert_eq!(minor(""), None);
        assert_eq!(downgrade_target((4, 0)), None);
    }
}
