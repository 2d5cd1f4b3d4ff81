//! What users read, from looks at a cluster of three.

use super::super::plan::Step;
use super::super::validate::{tests::sample, validate};
use super::super::world::{Place, Pod, Set};
use super::*;
use crate::certificates::Rotation;

fn world() -> World {
    let member = |slot: u32| Member {
        id: u64::from(slot) + 1,
        slot: Some(slot),
        started: true,
        leader: slot == 0,
        healthy: true,
        ..Member::default()
    };
    let place = |_| Place { pod: Some(Pod { ready: true, running: true, current: true, ..Pod::default() }), volume: None };
    World {
        now: 1_800_000_000,
        formed: true,
        founders: 3,
        set: Some(Set { replicas: 3, observed: true }),
        slots: (0..3).map(|slot| (slot, place(slot))).collect(),
        members: Some((0..3).map(member).collect()),
        ..World::default()
    }
}

fn plan() -> Plan {
    Plan { step: Step::Nothing, operation: None, blocked: None, errand: None, ended: None, window: None }
}

fn told(old: &ClusterStatus, world: &World, survey: &Survey, standing: Option<&Standing>) -> ClusterStatus {
    let cluster = validate(&sample(), Some("q:1")).unwrap();
    let plan = plan();
    report(old, Some(1), &Seen { cluster: &cluster, world, survey, plan: &plan, standing, trouble: None, failure: None })
}

fn condition(status: &ClusterStatus, kind: &str) -> (String, String) {
    let known = status.conditions.iter().find(|known| known.type_ == kind).unwrap();
    (known.status.clone(), known.reason.clone())
}

fn is(status: &str, reason: &str) -> (String, String) {
    (status.into(), reason.into())
}

/// A cluster is ready when all its members' pods are and it takes writes; a store that has stopped since members differ is not available.
#[test]
fn readiness_is_true() {
    let survey = Survey::default();
    let mut seen = world();
    assert_eq!(condition(&told(&ClusterStatus::default(), &seen, &survey, None), "Ready"), is("True", "AsWished"));
    seen.slots.get_mut(&2).unwrap().pod.as_mut().unwrap().ready = false;
    let status = told(&ClusterStatus::default(), &seen, &survey, None);
    assert_eq!(condition(&status, "Ready"), is("False", "PodsNotReady"));
    let mut full = world();
    full.upkeep.full = true;
    let status = told(&ClusterStatus::default(), &full, &survey, None);
    assert_eq!((condition(&status, "Ready"), condition(&status, "Available")), (is("False", "StoreFull"), is("True", "StoreFull")));
    let stopped = Survey { stopped: true, ..Survey::default() };
    let status = told(&ClusterStatus::default(), &world(), &stopped, None);
    assert_eq!((condition(&status, "Ready").0, condition(&status, "Available")), ("False".into(), is("False", "MembersDiffer")));
}

/// The version is that of the members' own images, the lowest while they differ, by its numbers; it is remembered while none runs.
#[test]
fn versions() {
    let mut seen = world();
    for (slot, version) in [(0, "0.10.0"), (1, "0.9.1"), (2, "0.10.2")] {
        seen.slots.get_mut(&slot).unwrap().pod.as_mut().unwrap().version = version.into();
    }
    let status = told(&ClusterStatus::default(), &seen, &Survey::default(), None);
    assert_eq!((status.version.as_deref(), status.members[2].version.as_deref()), (Some("0.9.1"), Some("0.10.2")));
    seen.slots.clear();
    assert_eq!(told(&status, &seen, &Survey::default(), None).version.as_deref(), Some("0.9.1"));
}

/// Without a quorum the message names who is furthest by the logs of those that answer; what was seen of the others earlier is rough,
/// and said to be.
#[test]
fn the_furthest_is_named() {
    let member = |slot: i32, applied: i64| MemberStatus {
        name: format!("kv-{slot}"),
        slot: Some(slot),
        role: "Voter".into(),
        applied_index: Some(applied),
        ..MemberStatus::default()
    };
    let old = ClusterStatus { members: vec![member(0, 5001), member(1, 5000), member(2, 4000)], ..ClusterStatus::default() };
    let mut lost = World { members: None, ..world() };
    lost.positions = [(0, (7, 5500)), (1, (7, 5990))].into();
    let status = told(&old, &lost, &Survey::default(), None);
    let message = &status.conditions.iter().find(|known| known.type_ == "QuorumHealthy").unwrap().message;
    assert!(message.contains("of these the log of kv-1 reaches furthest, to entry 5990"), "{message}");
    assert!(message.contains("of the others kv-2 was seen furthest, at about entry 4000"), "{message}");
}

/// Certificates that nobody renews, since the cluster is paused, are told of while there is time.
#[test]
fn a_pause_does_not_hide_the_end_of_certificates() {
    let mut paused = world();
    paused.wish.paused = true;
    let standing = |overdue| Standing::Made {
        not_after: paused.now + 86_400,
        authority_not_after: paused.now + 864_000,
        rotation: Rotation::Steady,
        since: 0,
        overdue,
    };
    let tell = |overdue| told(&ClusterStatus::default(), &paused, &Survey::default(), Some(&standing(overdue)));
    assert_eq!(condition(&tell(false), "CertificatesReady"), is("True", "Steady"));
    let status = tell(true);
    assert_eq!(condition(&status, "CertificatesReady"), is("False", "RenewalPaused"));
    assert!(status.tls.is_some());
    assert!(news(&ClusterStatus::default(), &status).iter().any(|(warning, reason, _)| *warning && reason == "RenewalPaused"));
}

/// Certificates that somebody else renews: which one ends, and when, is told while there is time, and after that.
#[test]
fn given_certificates_that_end_are_told() {
    let mut cluster = sample();
    cluster.spec.tls.mode = crate::crd::cluster::TlsMode::Secret;
    cluster.spec.tls.secret_refs =
        serde_json::from_value(serde_json::json!({"server": {"name": "s"}, "peer": {"name": "p"}, "client": {"name": "o"}}))
            .unwrap();
    let (cluster, world, plan) = (validate(&cluster, Some("q:1")).unwrap(), world(), plan());
    let tell = |not_after, late| {
        let standing = Standing::Given { secret: "p".into(), not_after, late };
        let survey = Survey::default();
        let seen = Seen {
            cluster: &cluster,
            world: &world,
            survey: &survey,
            plan: &plan,
            standing: Some(&standing),
            trouble: None,
            failure: None,
        };
        report(&ClusterStatus::default(), Some(1), &seen)
    };
    assert_eq!(condition(&tell(world.now + 86_400_000, false), "CertificatesReady"), is("True", "Provided"));
    assert_eq!(condition(&tell(world.now + 86_400, true), "CertificatesReady"), is("False", "Expiring"));
    let ended = tell(world.now - 1, true);
    assert_eq!(condition(&ended, "CertificatesReady"), is("False", "Expired"));
    assert!(ended.conditions.iter().any(|known| known.message.contains("secret p ended at")));
}

/// What moves is looked at often; what has stood still for minutes is not, however bad it is.
#[test]
fn the_pace() {
    let mut bad = world();
    bad.members.as_mut().unwrap()[1].healthy = false;
    let first = told(&ClusterStatus::default(), &bad, &Survey::default(), None);
    assert_eq!((pace(&first, bad.now), pace(&first, bad.now + STILL_AFTER)), (BUSY, QUIET));
    let well = told(&ClusterStatus::default(), &world(), &Survey::default(), None);
    assert_eq!(pace(&well, bad.now), QUIET);
}
