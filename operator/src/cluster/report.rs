//! From what was seen and decided to the status that users and programs read. Pure.
//!
//! Conditions follow Kubernetes' conventions: a time of transition changes only with the status, and every condition names the
//! generation it speaks of. Reasons are part of the interface: programs wait for them.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use super::build;
use super::errand::{Purpose, Stage};
use super::plan::Plan;
use super::secrets::Standing;
use super::validate::Valid;
use super::world::{Kind, Member, Seconds, World};
use super::{BUSY, QUIET};
use crate::crd::cluster::TlsMode;
use crate::crd::status::{ClusterStatus, MemberStatus, OperationStatus, QuorumStatus, SecretsStatus, TlsStatus, VolumeStatus};
use crate::member::Survey;

mod errand;
#[cfg(test)]
mod tests;
mod upkeep;

/// How long a step may take before people should look, seconds.
const SLOW_AFTER: Seconds = 1800;
/// How long something may stand still before it is looked at less often, seconds.
const STILL_AFTER: Seconds = 300;

/// A condition before it is dated.
struct Finding {
    kind: &'static str,
    status: Option<bool>,
    reason: String,
    message: String,
}

fn finding(kind: &'static str, status: impl Into<Option<bool>>, reason: impl Into<String>, message: impl Into<String>) -> Finding {
    Finding { kind, status: status.into(), reason: reason.into(), message: message.into() }
}

/// All that a status is made from.
pub struct Seen<'a> {
    /// The cluster.
    pub cluster: &'a Valid,
    /// What was looked at.
    pub world: &'a World,
    /// What the members said.
    pub survey: &'a Survey,
    /// What will be done.
    pub plan: &'a Plan,
    /// How certificates stand.
    pub standing: Option<&'a Standing>,
    /// What goes wrong besides, in words.
    pub trouble: Option<(&'static str, String)>,
    /// Why the last step failed.
    pub failure: Option<String>,
}

/// The next status, from the one that stands.
pub fn report(old: &ClusterStatus, generation: Option<i64>, seen: &Seen<'_>) -> ClusterStatus {
    let Seen { cluster, world, survey, plan, standing, .. } = seen;
    let mut status = old.clone();
    status.observed_generation = generation;
    status.selector = Some(build::selector_text(cluster));
    status.replicas = i32::try_from(world.replicas()).unwrap_or(i32::MAX);
    let ready = world.slots.values().filter(|place| place.pod.as_ref().is_some_and(|pod| pod.ready)).count();
    status.ready_replicas = i32::try_from(ready).unwrap_or(i32::MAX);
    status.operation = plan.operation.as_ref().map(|operation| OperationStatus {
        kind: operation.kind.as_str().into(),
        slot: operation.slot.and_then(|slot| i32::try_from(slot).ok()),
        step: operation.step.clone(),
        started_at: time(operation.started),
        step_at: time(operation.step_started),
        attempt: i32::try_from(operation.attempt).unwrap_or(i32::MAX),
        revision: operation.revision,
    });
    let another = plan.errand.as_ref().is_some_and(|errand| errand.stage == Stage::Retiring && world.members.is_some());
    if let Some(id) = survey.cluster_id.filter(|_| status.cluster_id.is_none() || another) {
        status.cluster_id = Some(format!("{id:016x}"));
    }
    errand::record(&mut status, cluster, world, plan);
    upkeep::record(&mut status, seen);
    // A restored store that is given up must not be remembered in place of the members that come back.
    let going_back = [&world.errand, &plan.errand].into_iter().flatten().any(|errand| errand.stage == Stage::GoingBack);
    if let Some(members) = world.members.as_ref().filter(|_| !going_back) {
        status.members = members.iter().map(|member| member_status(seen, member, &old.members)).collect();
        status.members.sort_by(|a, b| (a.slot, &a.id).cmp(&(b.slot, &b.id)));
        record_volumes(&mut status, world, members);
    } else {
        for member in &mut status.members {
            member.phase = if world.replicas() == 0 { "Stopped" } else { "Unhealthy" }.into();
            let applied = answer_of(survey, &member.id).and_then(|answer| i64::try_from(answer.raft_applied_index).ok());
            member.applied_index = applied.or(member.applied_index);
        }
    }
    quorum(&mut status, world);
    let running = world.slots.values().filter_map(|place| place.pod.as_ref()).filter(|pod| pod.running && !pod.version.is_empty());
    status.version = running.map(|pod| &pod.version).min_by_key(|version| numbers(version)).cloned().or(status.version);
    status.db_size = survey.answers.values().map(|answer| answer.db_size).max().map(size_text).or(status.db_size);
    if world.members.is_some() {
        status.alarms = survey.alarms.clone();
    }
    let sizes = world.slots.values().filter_map(|place| place.volume.as_ref()).filter(|volume| volume.ours);
    let sizes = sizes.filter_map(|volume| Some((crate::quantity(&volume.size)?, &volume.size)));
    status.volume_size = sizes.max().map(|(_, size)| size.clone()).or(status.volume_size);
    status.leader = leader(world).map(|slot| cluster.pod(slot));
    status.endpoints = vec![cluster.endpoint()];
    status.secrets = matches!(cluster.spec.tls.mode, TlsMode::SelfSigned | TlsMode::CertManager)
        .then(|| SecretsStatus { client: cluster.named("client-tls") });
    status.tls = match standing {
        Some(Standing::Made { not_after, authority_not_after, rotation, since, .. }) => Some(TlsStatus {
            not_after: time(*not_after),
            authority_not_after: time(*authority_not_after),
            rotation: rotation.as_str().into(),
            rotation_since: time(*since),
        }),
        _ => None,
    };
    let findings = findings(&status, seen);
    status.phase = Some(phase(&findings, seen).into());
    date(&mut status.conditions, findings, generation, world.now);
    status
}

/// Until the next look: soon while something moves or is not as wished, at leisure where that has been so for long. A change of pods
/// brings a look at once in any case.
pub fn pace(status: &ClusterStatus, now: Seconds) -> Duration {
    let unmet =
        status.conditions.iter().find(|known| known.type_ == "Ready" && known.status != "True" && known.reason != "Hibernated");
    if status.operation.is_none() && unmet.is_none() {
        return QUIET;
    }
    let moved = status.conditions.iter().map(|known| known.last_transition_time.0.as_second());
    let step = status.operation.as_ref().map(|operation| operation.step_at.0.as_second());
    let last = moved.chain(step).max().unwrap_or(now);
    if now - last < STILL_AFTER { BUSY } else { QUIET }
}

/// The status of a cluster that cannot be worked on: what stood stays, and a condition says why.
pub fn failed(
    old: &ClusterStatus,
    generation: Option<i64>,
    reason: &str,
    message: &str,
    permanent: bool,
    now: Seconds,
) -> ClusterStatus {
    let mut status = old.clone();
    status.observed_generation = generation;
    let mut findings = vec![
        finding("Ready", false, reason, message),
        finding("Stalled", permanent, if permanent { reason } else { "Retrying" }, message),
    ];
    if matches!(reason, "CertificatesFailed" | "CertificatesPending") {
        findings.push(finding("CertificatesReady", false, reason, message));
    }
    if permanent {
        status.phase = Some("Stalled".into());
    }
    date(&mut status.conditions, findings, generation, now);
    status
}

fn certificates(seen: &Seen<'_>) -> Finding {
    match (seen.cluster.spec.tls.mode, seen.standing) {
        (TlsMode::Disabled, _) => finding("CertificatesReady", true, "Disabled", "the cluster uses no certificates"),
        (_, Some(Standing::Given { secret, not_after, late: true })) => {
            let (word, reason) = if *not_after <= seen.world.now { ("ended", "Expired") } else { ("ends", "Expiring") };
            let message = format!("the certificate in secret {secret} {word} at {}: see why it is not renewed", time(*not_after).0);
            finding("CertificatesReady", false, reason, message)
        }
        (TlsMode::Secret, _) => finding("CertificatesReady", true, "Provided", "certificates are the user's"),
        (TlsMode::CertManager, _) => finding("CertificatesReady", true, "Issued", "cert-manager has issued all certificates"),
        (TlsMode::SelfSigned, Some(Standing::Made { not_after, overdue: true, .. })) => {
            let until = time(*not_after).0;
            let message =
                format!("certificates end at {until} and are not renewed while spec.paused is true: end the pause before");
            finding("CertificatesReady", false, "RenewalPaused", message)
        }
        (TlsMode::SelfSigned, standing) => {
            let step = if let Some(Standing::Made { rotation, .. }) = standing { rotation.as_str() } else { "Steady" };
            finding("CertificatesReady", true, step, "certificates are valid and renewed in time")
        }
    }
}

fn member_status(seen: &Seen<'_>, member: &Member, old: &[MemberStatus]) -> MemberStatus {
    let world = seen.world;
    let id = format!("{:016x}", member.id);
    let answer = answer_of(seen.survey, &id);
    let applied = answer.and_then(|answer| i64::try_from(answer.raft_applied_index).ok());
    let before = old.iter().find(|old| old.id == id).and_then(|old| old.applied_index);
    // Only rough: a status that changed with every write would never rest.
    let still = before.filter(|before| applied.is_some_and(|applied| (0..1000).contains(&(applied - before))));
    let listed = seen.survey.members.iter().flatten().find(|listed| listed.id == member.id);
    let url = listed.and_then(|listed| listed.peer_urls.first().cloned()).unwrap_or_default();
    let operation = seen.plan.operation.as_ref().filter(|operation| operation.slot.is_some() && operation.slot == member.slot);
    let pod = member.slot.and_then(|slot| world.pod(slot));
    let phase = match operation.map(|operation| operation.kind) {
        Some(Kind::Replace) if !member.learner => "Replacing",
        Some(Kind::ScaleIn) => "Leaving",
        Some(Kind::Rollout) if !member.healthy => "Restarting",
        _ if member.learner => "Joining",
        _ if member.healthy => "Ready",
        _ if pod.is_some_and(|pod| pod.terminating) => "Restarting",
        _ => "Unhealthy",
    };
    let role = if member.learner {
        "Learner"
    } else if member.leader {
        "Leader"
    } else {
        "Voter"
    };
    MemberStatus {
        name: member.slot.map_or(url, |slot| seen.cluster.pod(slot)),
        id,
        slot: member.slot.and_then(|slot| i32::try_from(slot).ok()),
        role: role.into(),
        phase: phase.into(),
        version: pod.filter(|pod| !pod.version.is_empty()).map(|pod| pod.version.clone()),
        applied_index: still.or(applied).or(before),
    }
}

fn answer_of<'a>(survey: &'a Survey, id: &str) -> Option<&'a quorate_client::proto::etcdserverpb::StatusResponse> {
    let id = u64::from_str_radix(id, 16).ok()?;
    survey.answers.values().find(|answer| answer.header.as_ref().is_some_and(|header| header.member_id == id))
}

/// Remembers which volume a member wrote on when it is first seen working there; forgets volumes that are gone.
fn record_volumes(status: &mut ClusterStatus, world: &World, members: &[Member]) {
    let mut kept: Vec<VolumeStatus> = Vec::new();
    for known in &status.volumes {
        let slot = u32::try_from(known.slot).unwrap_or(u32::MAX);
        let listed = members.iter().any(|member| format!("{:016x}", member.id) == known.member);
        let there = world.volume(slot).is_some_and(|volume| volume.uid == known.uid);
        if listed || there {
            kept.push(known.clone());
        }
    }
    for member in members.iter().filter(|member| member.started && member.healthy) {
        let Some(slot) = member.slot else { continue };
        let id = format!("{:016x}", member.id);
        let Some(volume) = world.volume(slot).filter(|volume| !volume.terminating) else { continue };
        if kept.iter().any(|known| known.member == id) {
            continue;
        }
        // A working member is the volume's only owner, whoever wrote there before.
        kept.retain(|known| known.uid != volume.uid);
        kept.push(VolumeStatus { slot: i32::try_from(slot).unwrap_or(i32::MAX), uid: volume.uid.clone(), member: id });
    }
    kept.sort_by(|a, b| (a.slot, &a.uid).cmp(&(b.slot, &b.uid)));
    status.volumes = kept;
}

fn quorum(status: &mut ClusterStatus, world: &World) {
    let (voters, healthy) = match &world.members {
        Some(members) => {
            let voters = members.iter().filter(|member| !member.learner);
            (voters.clone().count(), voters.filter(|member| member.healthy).count())
        }
        None => (status.members.iter().filter(|member| member.role != "Learner").count(), 0),
    };
    let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    status.quorum = (voters > 0).then(|| QuorumStatus { healthy: number(healthy), needed: number(voters / 2 + 1) });
    status.summary = Some(format!("{healthy}/{voters}"));
}

fn leader(world: &World) -> Option<u32> {
    world.members.iter().flatten().find(|member| member.leader)?.slot
}

fn findings(status: &ClusterStatus, seen: &Seen<'_>) -> Vec<Finding> {
    let (world, plan) = (seen.world, seen.plan);
    let asleep = world.formed && world.wish.replicas == 0;
    let kind = plan.operation.as_ref().map(|operation| operation.kind);
    let waking = kind == Some(Kind::Wake);
    let errand = plan.errand.as_ref().map(|errand| match errand.purpose {
        Purpose::Restore => ("Restoring", "a backup takes the place of the data"),
        Purpose::RecoverQuorum => ("Recovering", "one member becomes the whole cluster"),
    });
    let available = match (&world.members, world.formed || status.cluster_id.is_some()) {
        (Some(_), _) if seen.survey.stopped => finding(
            "Available",
            false,
            "MembersDiffer",
            "members hold different data and no majority agrees, so the store serves nobody: restore a backup, or see docs/operations.md",
        ),
        (Some(_), _) if world.upkeep.full => {
            // Backups are taken of what is available, and this is.
            finding("Available", true, "StoreFull", "reads are served; writes that add data are refused, since the store is full")
        }
        (Some(_), _) => finding("Available", true, "QuorumServes", "reads and writes are served"),
        (None, _) if asleep => finding("Available", false, "Hibernated", "no member runs, as spec.replicas says"),
        (None, false) => finding("Available", false, "Forming", "the first members have not found each other yet"),
        (None, true) if waking => finding("Available", false, "Waking", "the members start again"),
        (None, true) if errand.is_some() => {
            let (reason, message) = errand.unwrap_or_default();
            finding("Available", false, reason, message)
        }
        (None, true) => finding("Available", false, "NoQuorum", "no quorum of members answers"),
    };
    let voters = || world.members.iter().flatten().filter(|member| !member.learner);
    let ill: Vec<String> = voters()
        .filter(|member| !member.healthy)
        .map(|member| match member.slot {
            Some(slot) if world.pod(slot).is_some_and(|pod| pod.node_off.is_some()) => {
                format!("{} (nothing is heard of its node)", seen.cluster.pod(slot))
            }
            Some(slot) => seen.cluster.pod(slot),
            None => "a foreign member".into(),
        })
        .collect();
    let quorum = match &world.members {
        Some(_) if ill.is_empty() => finding("QuorumHealthy", true, "AllHealthy", "all voters are healthy"),
        Some(_) => finding("QuorumHealthy", true, "SomeUnhealthy", format!("there is a quorum without {}", ill.join(", "))),
        None if asleep => finding("QuorumHealthy", None, "Hibernated", "no member runs, as spec.replicas says"),
        None if !world.formed => finding("QuorumHealthy", None, "Forming", "the first members have not found each other yet"),
        None if waking => finding("QuorumHealthy", None, "Waking", "the members start again"),
        None if errand.is_some() => {
            let (reason, message) = errand.unwrap_or_default();
            finding("QuorumHealthy", None, reason, message)
        }
        None => finding("QuorumHealthy", false, "QuorumLost", lost_text(status, seen)),
    };
    let degraded = match &world.members {
        Some(_) if ill.is_empty() => finding("Degraded", false, "AllHealthy", "all voters are healthy"),
        Some(_) => finding("Degraded", true, "MembersUnhealthy", format!("unhealthy: {}", ill.join(", "))),
        None if asleep || waking || !world.formed => {
            finding("Degraded", false, "NotRunning", "nothing runs that could be degraded")
        }
        None => finding("Degraded", true, "NoQuorum", "no quorum of members answers"),
    };
    let progressing = match &plan.operation {
        Some(operation) if !world.wish.paused => {
            let failure = seen.failure.as_ref().map(|failure| format!(" (the last try failed: {failure})"));
            let message = format!("{}{}", operation.step, failure.unwrap_or_default());
            finding("Progressing", true, operation.kind.as_str(), message)
        }
        _ => finding("Progressing", false, "Settled", "nothing is being changed"),
    };
    let paused = match world.wish.paused {
        true => finding("Paused", true, "SpecPaused", "spec.paused is true: nothing is changed"),
        false => finding("Paused", false, "Running", "changes are made as they are needed"),
    };
    let stalled = match (&plan.blocked, &seen.trouble) {
        (Some(blocked), _) => finding("Stalled", true, blocked.reason, blocked.message.clone()),
        (None, Some((reason, message))) => finding("Stalled", true, *reason, message.clone()),
        (None, None) if slow(seen) => finding(
            "Stalled",
            true,
            "OperationSlow",
            "the operation has made no step for half an hour: look at its step and at the pods",
        ),
        (None, None) => finding("Stalled", false, "NotStalled", "nothing waits for a person"),
    };
    let certificates = certificates(seen);
    let unready = |member: &&Member| member.slot.is_some_and(|slot| world.pod(slot).is_none_or(|pod| !pod.ready));
    let unready: Vec<String> = voters().filter(unready).filter_map(|member| Some(seen.cluster.pod(member.slot?))).collect();
    let pending = (0..world.replicas()).any(|slot| world.pod(slot).is_some_and(|pod| !pod.current));
    let is = |finding: &Finding| finding.status == Some(true);
    let ready = if asleep {
        finding("Ready", false, "Hibernated", "no member runs, as spec.replicas says")
    } else if let Some(bad) = [&stalled].into_iter().find(|finding| is(finding)) {
        finding("Ready", false, bad.reason.clone(), bad.message.clone())
    } else if !is(&available) {
        finding("Ready", false, available.reason.clone(), available.message.clone())
    } else if is(&progressing) {
        finding("Ready", false, progressing.reason.clone(), progressing.message.clone())
    } else if is(&degraded) {
        finding("Ready", false, degraded.reason.clone(), degraded.message.clone())
    } else if world.upkeep.full {
        finding("Ready", false, available.reason.clone(), available.message.clone())
    } else if !unready.is_empty() {
        finding("Ready", false, "PodsNotReady", format!("healthy, but not ready: {}", unready.join(", ")))
    } else if pending && !world.wish.paused {
        finding("Ready", false, "UpdatePending", "pods of an earlier form wait to be deleted: spec.update.strategy is Supervised")
    } else {
        finding("Ready", true, "AsWished", "the cluster is as its spec says")
    };
    let mut findings = vec![ready, available, progressing, degraded, quorum, certificates, paused, stalled];
    findings.extend(upkeep::maintained(status, seen));
    findings
}

/// The running operation has stood at one step for long.
fn slow(seen: &Seen<'_>) -> bool {
    seen.plan.operation.as_ref().is_some_and(|operation| seen.world.now - operation.step_started >= SLOW_AFTER)
}

/// Names who could bring the data back: of those that answer the one whose log reaches furthest, as a recovery would choose, and of the
/// others the one that was seen furthest. What was seen of those is rough.
fn lost_text(status: &ClusterStatus, seen: &Seen<'_>) -> String {
    let positions = &seen.world.positions;
    let needed = status.quorum.as_ref().map_or(0, |quorum| quorum.needed);
    let answering = seen.survey.answers.len();
    let best = positions.iter().max_by_key(|(slot, position)| (**position, u32::MAX - **slot));
    let best = best.map_or(String::new(), |(slot, (_, index))| {
        format!("; of these the log of {} reaches furthest, to entry {index}", seen.cluster.pod(*slot))
    });
    let silent = |member: &&MemberStatus| {
        let slot = member.slot.and_then(|slot| u32::try_from(slot).ok());
        member.role != "Learner" && slot.is_none_or(|slot| !positions.contains_key(&slot))
    };
    let other = status.members.iter().filter(silent).max_by_key(|member| member.applied_index);
    let other = other.map_or(String::new(), |member| {
        format!("; of the others {} was seen furthest, at about entry {}", member.name, member.applied_index.unwrap_or(0))
    });
    format!(
        "{answering} of {needed} needed members answer{best}{other}; no volume is deleted: bring members back, or make a QuorateTask of type RecoverQuorum, or a QuorateRestore"
    )
}

fn phase(findings: &[Finding], seen: &Seen<'_>) -> &'static str {
    let is = |kind: &str, status: bool| findings.iter().any(|finding| finding.kind == kind && finding.status == Some(status));
    let reason = |reason: &str| findings.iter().any(|finding| finding.reason == reason);
    if seen.world.wish.paused {
        "Paused"
    } else if reason("Hibernated") {
        "Hibernated"
    } else if reason("QuorumLost") {
        "QuorumLost"
    } else if is("Stalled", true) {
        "Stalled"
    } else if reason("Forming") && seen.plan.operation.as_ref().is_none_or(|operation| operation.kind == Kind::Form) {
        "Forming"
    } else {
        match &seen.plan.operation {
            Some(operation) => operation.kind.as_str(),
            None if is("Degraded", true) => "Degraded",
            None if is("Ready", true) => "Ready",
            None => "Pending",
        }
    }
}

/// Dates findings: a transition is a change of status.
fn date(conditions: &mut Vec<Condition>, findings: Vec<Finding>, generation: Option<i64>, now: Seconds) {
    for finding in findings {
        let status = match finding.status {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        };
        let known = conditions.iter().position(|condition| condition.type_ == finding.kind);
        let since = known.map(|at| &conditions[at]).filter(|condition| condition.status == status);
        let dated = Condition {
            type_: finding.kind.into(),
            status: status.into(),
            reason: finding.reason,
            message: finding.message,
            observed_generation: generation,
            last_transition_time: since.map_or(time(now), |condition| condition.last_transition_time.clone()),
        };
        match known {
            Some(at) => conditions[at] = dated,
            None => conditions.push(dated),
        }
    }
}

/// The numbers of a version, to compare by: 0.10.0 is above 0.9.0.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

fn size_text(bytes: i64) -> String {
    match bytes {
        ..1_048_576 => format!("{} KiB", bytes / 1024),
        1_048_576..1_073_741_824 => format!("{} MiB", bytes >> 20),
        _ => format!("{}.{} GiB", bytes >> 30, ((bytes % (1 << 30)) * 10) >> 30),
    }
}

/// Seconds as Kubernetes writes times.
pub fn time(seconds: Seconds) -> Time {
    Time(Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// The pod role that a member's place in the list gives.
pub fn role(member: &Member) -> &'static str {
    if member.learner { "learner" } else { "voter" }
}

/// What the change from one status to the next has to tell: whether it is a warning, the reason, and the words.
pub fn news(old: &ClusterStatus, new: &ClusterStatus) -> Vec<(bool, String, String)> {
    let mut news = Vec::new();
    let operation = |status: &ClusterStatus| status.operation.as_ref().map(|operation| (operation.kind.clone(), operation.slot));
    let step = |status: &ClusterStatus| status.operation.as_ref().map(|operation| operation.step.clone());
    match (operation(old), operation(new)) {
        (Some((kind, _)), None) => news.push((false, format!("{kind}Done"), "finished; nothing else is to be done".to_string())),
        _ if step(old) != step(new) => {
            if let Some(operation) = &new.operation {
                news.push((false, operation.kind.clone(), operation.step.clone()));
            }
        }
        _ => (),
    }
    if old.cluster_id.is_none()
        && let Some(id) = &new.cluster_id
    {
        news.push((false, "Formed".into(), format!("the store told its cluster id {id}; no other can be founded in its place")));
    }
    if let Some(ended) = new.last_errand.as_ref().filter(|ended| old.last_errand.as_ref() != Some(ended)) {
        news.push((!ended.done, if ended.done { "AskedDone" } else { "AskedFailed" }.into(), ended.message.clone()));
    }
    let full = |status: &ClusterStatus| status.alarms.iter().any(|alarm| alarm == "NOSPACE");
    if full(old) && !full(new) {
        news.push((false, "SpaceHealed".into(), "the store that was full takes writes again".into()));
    }
    for condition in &new.conditions {
        let before = old.conditions.iter().find(|old| old.type_ == condition.type_);
        if before.is_some_and(|before| before.status == condition.status && before.reason == condition.reason) {
            continue;
        }
        let bad = match condition.type_.as_str() {
            "Available" | "QuorumHealthy" | "CertificatesReady" => condition.status == "False",
            "Degraded" | "Stalled" => condition.status == "True",
            "Maintained" => condition.status == "False",
            _ => continue,
        };
        let was_bad = before.is_some_and(|before| before.status != condition.status);
        let startup = matches!(condition.reason.as_str(), "Forming" | "Hibernated" | "Waking");
        if (bad && !startup) || (was_bad && condition.type_ == "Available" && condition.status == "True") {
            news.push((bad, condition.reason.clone(), format!("{}: {}", condition.type_, condition.message)));
        }
    }
    news
}
