//! Gate: how an empty disk becomes a member, and when it does not.
//!
//! In: what the flags or the ticket say ([`Plan`]), and what the listed members answer ([`Heard`]). Out: the founding to make, a reason
//! to wait, or a reason to end. [`decide`] is pure; [`pass`] asks and waits.
//! Invariants: a cluster is formed only by its listed members, when a majority of them say that they are empty and nobody who answers
//! knows of a cluster already; a cluster is joined only under an id that it lists and has never seen started.

use crate::config::{self, Bootstrap, Config, FirstStart, InitialCluster};
use crate::membership::ticket::Ticket;
use crate::node::{Founding, Stamp};
use crate::peer::{Dial, ask_members};
use quorate_proto::state::Member;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// What an empty disk is to become.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The cluster that may be formed; `None` when one is to be joined.
    pub form: Option<Founding>,
    /// The other listed members: names and peer URLs.
    pub others: Vec<(String, Vec<String>)>,
    /// This member's own peer URLs, by which a cluster lists it.
    pub own_urls: Vec<String>,
    pub stamp: Stamp,
    /// The recovery that a cluster must have behind it to be joined: one without is what was left behind.
    pub recovery: Option<String>,
}

/// What one listed member answered.
#[derive(Clone, Debug)]
pub enum Heard {
    /// It does not answer, or says nothing of use.
    Silent(String),
    /// It has no cluster either.
    Empty,
    /// It serves a cluster.
    Cluster { url: String, cluster: u64, members: Vec<Member>, applied: u64, recoveries: Vec<String> },
}

/// What follows from the answers.
#[derive(Clone, Debug)]
pub enum Verdict {
    Become(Founding),
    Wait(String),
    /// For ever, as far as this member can tell.
    Refuse(String),
}

fn lists<'a>(members: &'a [Member], own: &[String]) -> Option<&'a Member> {
    members.iter().find(|m| m.peer_urls.iter().any(|u| own.contains(u)))
}

/// Decides from one round of answers.
pub fn decide(plan: &Plan, heard: &[Heard]) -> Verdict {
    let mut left_behind = None;
    let mut clusters: Vec<_> = heard
        .iter()
        .filter_map(|h| match h {
            Heard::Cluster { url, recoveries, .. } if plan.recovery.as_ref().is_some_and(|id| !recoveries.contains(id)) => {
                left_behind = Some(url);
                None
            }
            Heard::Cluster { url, cluster, members, applied, .. } => Some((*applied, url, *cluster, members)),
            _ => None,
        })
        .collect();
    // Who has applied most knows best: the list of one that lags may still hold a member of our address that was removed since.
    clusters.sort_by_key(|(applied, ..)| std::cmp::Reverse(*applied));
    if let Some((_, url, cluster, members)) = clusters.first().copied() {
        if let Some((_, other, foreign, _)) = clusters.iter().find(|(_, _, c, _)| *c != cluster) {
            return Verdict::Wait(format!("{url} serves cluster {cluster:016x} and {other} serves cluster {foreign:016x}"));
        }
        let Some(entry) = lists(members, &plan.own_urls) else {
            return Verdict::Wait(format!(
                "{url} serves cluster {cluster:016x}, which does not list {}: add this member to it",
                plan.own_urls.join(",")
            ));
        };
        if !entry.name.is_empty() {
            return Verdict::Refuse(format!(
                "member {:016x} has already been bootstrapped in cluster {cluster:016x} and its data is gone: it may have acknowledged what \
                 it no longer knows, so it does not start again under that id; remove it from the cluster and add it anew",
                entry.id
            ));
        }
        return match &plan.form {
            Some(form) if form.cluster_id == cluster && form.member_id == entry.id => Verdict::Become(form.clone()),
            _ => Verdict::Become(Founding {
                cluster_id: cluster,
                member_id: entry.id,
                members: members.clone(),
                joins: true,
                stamp: plan.stamp.clone(),
            }),
        };
    }
    let silent: Vec<&str> = heard
        .iter()
        .filter_map(|h| match h {
            Heard::Silent(why) => Some(why.as_str()),
            _ => None,
        })
        .collect();
    if let (Some(url), Some(id)) = (left_behind, &plan.recovery) {
        return Verdict::Wait(format!("{url} serves the cluster of before the recovery {id}, which is not joined any more"));
    }
    let Some(form) = &plan.form else {
        return Verdict::Wait(format!("no listed member serves a cluster to join ({})", reasons(&silent)));
    };
    let listed = plan.others.len() + 1;
    let empty = 1 + heard.iter().filter(|h| matches!(h, Heard::Empty)).count();
    if empty > listed / 2 {
        return Verdict::Become(form.clone());
    }
    let need = listed / 2 + 1;
    Verdict::Wait(format!(
        "{empty} of {listed} listed members are here and without a cluster, {need} are needed ({})",
        reasons(&silent)
    ))
}

fn reasons(silent: &[&str]) -> String {
    match silent {
        [] => "all that answer are without a cluster".into(),
        some => some.join("; "),
    }
}

// === plans ===

fn texts(urls: &[config::Url]) -> Vec<String> {
    urls.iter().map(|u| u.to_string()).collect()
}

fn founding(bootstrap: Bootstrap, stamp: &Stamp) -> Founding {
    // A member tells its name itself, once it serves.
    let member = |m: config::BootstrapMember| Member { id: m.id, peer_urls: texts(&m.peer_urls), ..Default::default() };
    let members = bootstrap.members.into_iter().map(member).collect();
    Founding { cluster_id: bootstrap.cluster_id, member_id: bootstrap.local_id, members, joins: false, stamp: stamp.clone() }
}

fn others(members: &InitialCluster, own: &str) -> Vec<(String, Vec<String>)> {
    members.iter().filter(|(name, _)| *name != own).map(|(name, urls)| (name.clone(), texts(urls))).collect()
}

/// What the initial cluster's flags say.
///
/// # Errors
/// When they are wrong.
pub fn plan_of_flags(config: &Config) -> Result<Plan, config::ConfigError> {
    let stamp = Stamp::default();
    let (members, form) = match config.first_start()? {
        FirstStart::Form(b) => {
            let listed = b.members.iter().map(|m| (m.name.clone(), m.peer_urls.clone())).collect::<InitialCluster>();
            (listed, Some(founding(b, &stamp)))
        }
        FirstStart::Join(members) => (members, None),
    };
    let mut own_urls = members.get(&config.name).map(|urls| texts(urls)).unwrap_or_default();
    own_urls.extend(texts(&config.advertise_peer_urls));
    own_urls.sort();
    own_urls.dedup();
    Ok(Plan { form, others: others(&members, &config.name), own_urls, stamp, recovery: None })
}

/// What a ticket says to a member of a name and URLs.
///
/// # Errors
/// Why this member cannot do what it says, in one sentence.
pub fn plan_of_ticket(ticket: &Ticket, config: &Config) -> Result<Plan, String> {
    let recovery = ticket.recover.as_ref().map(|r| r.id.clone());
    let stamp =
        Stamp { name: Some(config.name.clone()), owner: Some(ticket.owner.clone()), recovered: recovery.iter().cloned().collect() };
    let mut own_urls = texts(&config.advertise_peer_urls);
    own_urls.sort();
    let form = match ticket.members.get(&config.name).filter(|_| ticket.form && recovery.is_none()) {
        None => None,
        Some(urls) if texts(urls) == own_urls => {
            let bootstrap = config::form(&config.name, ticket.members.clone(), &ticket.owner).map_err(|e| e.to_string())?;
            Some(founding(bootstrap, &stamp))
        }
        Some(urls) => {
            let (ticket, own) = (texts(urls).join(","), own_urls.join(","));
            return Err(format!(
                "the boot ticket lists {} at {ticket}, and its --initial-advertise-peer-urls are {own}",
                config.name
            ));
        }
    };
    Ok(Plan { form, others: others(&ticket.members, &config.name), own_urls, stamp, recovery })
}

// === asking ===

/// How long one listed member may take to answer.
const ANSWER: Duration = Duration::from_secs(1);
/// Pause between two rounds.
const PAUSE: Duration = Duration::from_millis(100);
/// A wait is told of at most this often.
const TELL: Duration = Duration::from_secs(3);
/// A refusal must hold for this long: a member that lags may give an old list.
const SURE: Duration = Duration::from_secs(2);

async fn ask(dial: &Arc<dyn Dial>, name: &str, urls: &[String], boot: u64) -> Heard {
    let mut reason = format!("{name} has no address");
    for url in urls {
        match ask_members(dial, url, 0, 0, ANSWER).await {
            Ok(answer) if answer.empty && answer.boot == boot => {
                return Heard::Silent(format!("{name} at {url} is this very member"));
            }
            Ok(answer) if answer.empty => return Heard::Empty,
            Ok(answer) if answer.cluster != 0 => {
                return Heard::Cluster {
                    url: url.clone(),
                    cluster: answer.cluster,
                    members: answer.members,
                    applied: answer.applied,
                    recoveries: answer.recoveries,
                };
            }
            Ok(_) => reason = format!("{name} at {url} does not say to which cluster it belongs"),
            Err(status) => reason = format!("{name} at {url}: {}", status.message()),
        }
    }
    Heard::Silent(reason)
}

/// Asks the listed members until it is clear what this one becomes. `plan` is asked again each round; its error is a reason to wait.
///
/// # Errors
/// Why this member must not start.
pub async fn pass(mut plan: impl FnMut() -> Result<Plan, String>, dial: Arc<dyn Dial>, boot: u64) -> Result<Founding, String> {
    let mut told: Option<Instant> = None;
    let mut refused: Option<Instant> = None;
    loop {
        let verdict = match plan() {
            Ok(plan) => {
                let asking: Vec<_> = plan
                    .others
                    .iter()
                    .cloned()
                    .map(|(name, urls)| {
                        let dial = dial.clone();
                        tokio::spawn(async move { ask(&dial, &name, &urls, boot).await })
                    })
                    .collect();
                let mut heard = Vec::with_capacity(asking.len());
                for answer in asking {
                    heard.push(answer.await.unwrap_or_else(|e| Heard::Silent(e.to_string())));
                }
                decide(&plan, &heard)
            }
            Err(why) => Verdict::Wait(why),
        };
        let why = match verdict {
            Verdict::Become(founding) => return Ok(founding),
            Verdict::Refuse(why) => {
                if refused.get_or_insert_with(Instant::now).elapsed() >= SURE {
                    return Err(why);
                }
                why
            }
            Verdict::Wait(why) => {
                refused = None;
                why
            }
        };
        if told.is_none_or(|at| at.elapsed() >= TELL) {
            told = Some(Instant::now());
            tracing::info!(reason = why, "not joined: waiting for a cluster");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, name: &str) -> Member {
        Member { id, name: name.into(), peer_urls: vec![format!("http://m{id}:2380")], ..Default::default() }
    }

    /// Member 1 of three that may form cluster 0xc1.
    fn plan(form: bool) -> Plan {
        let founding =
            Founding { cluster_id: 0xc1, member_id: 1, members: (1..=3).map(|n| member(n, "")).collect(), ..Default::default() };
        Plan {
            form: form.then_some(founding),
            others: vec![("m2".into(), vec!["http://m2:2380".into()]), ("m3".into(), vec!["http://m3:2380".into()])],
            own_urls: vec!["http://m1:2380".into()],
            stamp: Stamp::default(),
            recovery: None,
        }
    }

    fn silent() -> Heard {
        Heard::Silent("no answer".into())
    }

    fn cluster(id: u64, members: Vec<Member>, applied: u64) -> Heard {
        Heard::Cluster { url: "http://m2:2380".into(), cluster: id, members, applied, recoveries: Vec::new() }
    }

    fn waits(verdict: Verdict, why: &str) {
        match verdict {
            Verdict::Wait(text) => assert!(text.contains(why), "{text}"),
            other => panic!("{other:?}"),
        }
    }

    fn becomes(verdict: Verdict) -> (u64, u64, bool) {
        match verdict {
            Verdict::Become(f) => (f.cluster_id, f.member_id, f.joins),
            other => panic!("{other:?}"),
        }
    }

    /// A cluster is formed once a majority is there and empty; alone, nothing is formed.
    #[test]
    fn forming_needs_a_majority_of_empty_members() {
        waits(decide(&plan(true), &[silent(), silent()]), "1 of 3");
        assert_eq!(becomes(decide(&plan(true), &[Heard::Empty, silent()])), (0xc1, 1, false));
        let alone = Plan { others: vec![], ..plan(true) };
        assert_eq!(becomes(decide(&alone, &[])), (0xc1, 1, false));
    }

    /// Whoever answers with a cluster stops the forming, however many are empty.
    #[test]
    fn a_known_cluster_is_never_formed_anew() {
        let elsewhere = cluster(0xc1, vec![member(2, "m2"), member(3, "m3")], 9);
        waits(decide(&plan(true), &[elsewhere, Heard::Empty]), "does not list");
        let lost = cluster(0xc1, vec![member(1, "m1"), member(2, "m2")], 9);
        assert!(matches!(decide(&plan(true), &[lost.clone(), Heard::Empty]), Verdict::Refuse(_)));
        assert!(matches!(decide(&plan(false), &[lost]), Verdict::Refuse(_)));
        let formed = cluster(0xc1, vec![member(1, ""), member(2, "m2")], 9);
        assert_eq!(becomes(decide(&plan(true), &[formed, silent()])), (0xc1, 1, false), "the last founder comes late");
    }

    /// After a recovery only the cluster that has it behind it is joined, whatever is left of the one before.
    #[test]
    fn joining_after_a_recovery() {
        let plan = Plan { recovery: Some("r1".into()), ..plan(false) };
        let listed = |id, member_id, recoveries: &[&str]| match cluster(id, vec![Member { id: member_id, ..member(1, "") }], 9) {
            Heard::Cluster { url, cluster, members, applied, .. } => {
                Heard::Cluster { url, cluster, members, applied, recoveries: recoveries.iter().map(ToString::to_string).collect() }
            }
            other => other,
        };
        waits(decide(&plan, &[listed(0xc1, 7, &[]), silent()]), "before the recovery r1");
        assert_eq!(becomes(decide(&plan, &[listed(0xc1, 7, &[]), listed(0xc2, 8, &["r0", "r1"])])), (0xc2, 8, true));
    }

    /// A cluster that lists this member is joined under the id it gave.
    #[test]
    fn joining() {
        waits(decide(&plan(false), &[silent(), Heard::Empty]), "no listed member");
        let own = Member { id: 77, ..member(1, "") };
        let listed = cluster(0xc1, vec![own.clone(), member(2, "m2")], 9);
        assert_eq!(becomes(decide(&plan(false), std::slice::from_ref(&listed))), (0xc1, 77, true));
        assert_eq!(becomes(decide(&plan(true), std::slice::from_ref(&listed))), (0xc1, 77, true), "added anew after a removal");
        let late = cluster(0xc1, vec![member(1, "m1"), member(2, "m2")], 5);
        assert_eq!(becomes(decide(&plan(false), &[late, listed.clone()])), (0xc1, 77, true), "who lags does not count");
        let two = [listed, cluster(0xc2, vec![], 3)];
        waits(decide(&plan(false), &two), "and");
    }
}
