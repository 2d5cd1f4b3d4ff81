//! One QuorateBackupSchedule: makes a QuorateBackup when one is due or the deltas lack one, has the newest proved when that is due, has
//! the agent of the deltas run, and forgets what was superseded.
//!
//! The name of a backup is that of its schedule and the minute it was due, so that a restart makes none twice. Only the last due
//! time counts: what was missed is not made up for. While one is under way or waits, no other is made: it will hold what that would,
//! and many that wait would all be taken at once.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::cron::Cron;
use super::retain::{failures, lacks_full, proves_next, succeeded, superseded, under_way};
use super::{flow, record, verify};
use crate::cluster::{Context, Error};
use crate::crd::backup::{QuorateBackupSpec, ScheduleStatus, Verify};
use crate::crd::{QuorateBackup, QuorateBackupSchedule, QuorateCluster};
use crate::phase::{self, set_condition, set_condition_to};

/// The label of backups that names their schedule.
pub const SCHEDULE_LABEL: &str = "quorate.io/schedule";
/// The longest time between two looks.
const PACE: Duration = Duration::from_secs(60);
/// The same, while deltas are kept.
const FLOW_PACE: Duration = Duration::from_secs(10);

/// One round.
pub async fn reconcile(context: &Context, name: &str, namespace: &str) -> Result<Duration, Error> {
    let api: Api<QuorateBackupSchedule> = Api::namespaced(context.client.clone(), namespace);
    let Some(schedule) = api.get_opt(name).await? else { return Ok(PACE) };
    if schedule.metadata.deletion_timestamp.is_some() {
        return Ok(PACE);
    }
    let now = Timestamp::now();
    let mut status = schedule.status.clone().unwrap_or_default();
    let generation = schedule.metadata.generation;
    let second = Time(Timestamp::from_second(now.as_second()).unwrap_or(Timestamp::UNIX_EPOCH));
    let backups: Api<QuorateBackup> = Api::namespaced(context.client.clone(), namespace);
    let all = backups.list(&ListParams::default().labels(&format!("{SCHEDULE_LABEL}={name}"))).await?.items;
    match Cron::parse(&schedule.spec.schedule) {
        Err(why) => {
            status.next_at = None;
            set_condition(&mut status.conditions, "Valid", false, "Unreadable", &why, generation, second);
        }
        Ok(cron) => {
            set_condition(&mut status.conditions, "Valid", true, "Readable", "the schedule can be read", generation, second);
            let made = schedule.metadata.creation_timestamp.as_ref().map_or(now, |made| made.0);
            let from = status.last_scheduled_at.as_ref().map_or(made, |last| last.0);
            let due = (!schedule.spec.suspend).then(|| last_due(&cron, from, now)).flatten();
            if let Some(due) = due {
                match under_way(&all) {
                    Some(other) => {
                        let note = format!("none was made at {due}: QuorateBackup {} is not done", other.name_any());
                        record(context, &schedule, true, "BackupSkipped", &note).await;
                    }
                    None => make(&backups, &schedule, due, &all).await?,
                }
                status.last_scheduled_at = Some(Time(due));
            }
            status.next_at = cron.next(now).filter(|_| !schedule.spec.suspend).map(Time);
        }
    }
    if let Err(why) = prove(&backups, &schedule, &all, &mut status, now).await? {
        let why = format!("verify.schedule: {why}");
        set_condition(&mut status.conditions, "Valid", false, "Unreadable", &why, generation, crate::now());
    }
    let newest = all.iter().filter(|backup| succeeded(backup)).max_by_key(|backup| backup.creation_timestamp());
    if let Some(newest) = newest {
        status.last_success = Some(newest.name_any());
        status.last_success_at = newest.status.as_ref().and_then(|status| status.finished_at.clone());
    }
    tell_proofs(&schedule, &all, &mut status);
    let cluster =
        Api::<QuorateCluster>::namespaced(context.client.clone(), namespace).get_opt(&schedule.spec.cluster_ref.name).await?;
    let asleep = cluster.is_some_and(|cluster| cluster.spec.replicas == 0);
    context.metrics.backup_due(namespace, name, wanting(&schedule, newest).filter(|_| !asleep));
    let report = flow::advance(context, &schedule, &mut status).await?;
    if let Some(report) = report.filter(|report| !report.cluster_id.is_empty()) {
        // Deltas lead on from a full backup that is not older than they are.
        if lacks_full(&all, &schedule.spec.store_ref.name, &report.cluster_id, report.since, now) {
            make(&backups, &schedule, now, &all).await?;
        }
    }
    if let Some(keep) = schedule.spec.keep_last {
        let gone: BTreeSet<&String> = all.iter().filter_map(|backup| backup.status.as_ref()).flat_map(|s| &s.deleted).collect();
        // A backup whose object could not be deleted is still one.
        let gone =
            |backup: &&QuorateBackup| backup.status.as_ref().and_then(|s| s.location.as_ref()).is_some_and(|l| gone.contains(l));
        let keep = usize::try_from(keep).unwrap_or(usize::MAX);
        for old in superseded(&all, keep, &schedule.spec.store_ref.name).into_iter().filter(gone) {
            forget(&backups, old).await?;
        }
    }
    for old in failures(&all) {
        forget(&backups, old).await?;
    }
    let next = status.next_at.as_ref().map(|next| next.0.as_second() - now.as_second());
    phase::write(&api, &schedule, status).await?;
    let wait = next.and_then(|seconds| u64::try_from(seconds).ok()).map_or(PACE, |seconds| Duration::from_secs(seconds + 1));
    Ok(wait.min(if schedule.spec.deltas.is_some() { FLOW_PACE } else { PACE }))
}

/// When the first full backup after the newest one that is in the store was due, or is, seconds since 1970: in the past while one is
/// missing, however often later ones are skipped or fail. None while nothing is to be made.
fn wanting(schedule: &QuorateBackupSchedule, newest: Option<&QuorateBackup>) -> Option<f64> {
    let since = newest.and_then(|newest| newest.creation_timestamp()).or_else(|| schedule.creation_timestamp())?.0;
    // By a schedule that cannot be read none is ever made.
    let due = Cron::parse(&schedule.spec.schedule).map_or(Some(since), |cron| cron.next(since))?;
    (!schedule.spec.suspend).then(|| due.as_second() as f64)
}

/// Deletes a backup's resource, and with it its Jobs.
async fn forget(backups: &Api<QuorateBackup>, old: &QuorateBackup) -> kube::Result<()> {
    // One that was made anew under the name is another.
    let preconditions = Some(Preconditions { uid: old.uid(), resource_version: None });
    match backups.delete(&old.name_any(), &DeleteParams { preconditions, ..DeleteParams::background() }).await {
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
        other => other.map(drop),
    }
}

/// Has the newest backup proved, when that is due by the proofs' own schedule. With no backup in the store it stays due.
async fn prove(
    backups: &Api<QuorateBackup>,
    schedule: &QuorateBackupSchedule,
    all: &[QuorateBackup],
    status: &mut ScheduleStatus,
    now: Timestamp,
) -> Result<Result<(), String>, Error> {
    let Some(text) = schedule.spec.verify.as_ref().and_then(|verify| verify.schedule.as_ref()) else { return Ok(Ok(())) };
    let cron = match Cron::parse(text) {
        Ok(cron) => cron,
        Err(why) => return Ok(Err(why)),
    };
    let Some((newest, due)) = proof_due(schedule, &cron, all, status, now) else { return Ok(Ok(())) };
    let patch = json!({"metadata": {"uid": newest.uid(), "annotations": {verify::PROVE: due.as_second().to_string()}}});
    match backups.patch(&newest.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await {
        // It went meanwhile; the next look finds another, or none.
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => return Ok(Ok(())),
        other => drop(other?),
    }
    status.last_proof_due_at = Some(Time(due));
    Ok(Ok(()))
}

/// The backup that is to be proved now, and since when that is due.
fn proof_due<'a>(
    schedule: &QuorateBackupSchedule,
    cron: &Cron,
    all: &'a [QuorateBackup],
    status: &ScheduleStatus,
    now: Timestamp,
) -> Option<(&'a QuorateBackup, Timestamp)> {
    let made = schedule.metadata.creation_timestamp.as_ref().map_or(now, |made| made.0);
    let from = status.last_proof_due_at.as_ref().map_or(made, |last| last.0);
    let due = (!schedule.spec.suspend).then(|| last_due(cron, from, now)).flatten()?;
    let newest = all.iter().filter(|backup| succeeded(backup)).max_by_key(|backup| backup.creation_timestamp())?;
    Some((newest, due))
}

/// What came of the newest backup that was to be proved.
fn tell_proofs(schedule: &QuorateBackupSchedule, all: &[QuorateBackup], status: &mut ScheduleStatus) {
    status.last_verified_at = all.iter().filter_map(|backup| backup.status.as_ref()?.verified_at.clone()).max_by_key(|time| time.0);
    let said = |backup: &QuorateBackup| {
        let conditions = &backup.status.as_ref()?.conditions;
        conditions.iter().find(|condition| condition.type_ == "Verified").map(|condition| condition.status.clone())
    };
    let newest = all.iter().filter(|backup| said(backup).is_some()).max_by_key(|backup| backup.creation_timestamp());
    match newest {
        Some(newest) if schedule.spec.verify.is_some() => {
            let value = said(newest).unwrap_or_default();
            let reason = match value.as_str() {
                "True" => "Verified",
                "False" => "VerificationFailed",
                _ => "NotProved",
            };
            let (message, generation) = (format!("of QuorateBackup {}", newest.name_any()), schedule.metadata.generation);
            set_condition_to(&mut status.conditions, "Verified", &value, reason, &message, generation, crate::now());
        }
        _ => status.conditions.retain(|condition| condition.type_ != "Verified"),
    }
}

/// The last time after `from` and not after `now` at which a backup was due.
pub fn last_due(cron: &Cron, from: Timestamp, now: Timestamp) -> Option<Timestamp> {
    let mut due = None;
    // After a long pause of the operator only the last of many is wanted; looking further back than a day cannot change that for
    // schedules that name a time at least daily, and others have few times.
    let mut at = from;
    for _ in 0..2000 {
        match cron.next(at).filter(|next| *next <= now) {
            Some(next) => (due, at) = (Some(next), next),
            None => return due,
        }
    }
    // More than that were missed: begin anew near the present.
    let recent = Timestamp::from_second(now.as_second() - 86_400).ok()?;
    let mut at = recent.max(at);
    while let Some(next) = cron.next(at).filter(|next| *next <= now) {
        (due, at) = (Some(next), next);
    }
    due
}

async fn make(
    backups: &Api<QuorateBackup>,
    schedule: &QuorateBackupSchedule,
    due: Timestamp,
    all: &[QuorateBackup],
) -> Result<(), Error> {
    let spec = QuorateBackupSpec {
        cluster_ref: schedule.spec.cluster_ref.clone(),
        store_ref: schedule.spec.store_ref.clone(),
        verify: schedule.spec.verify.as_ref().and_then(Verify::every).is_some_and(|every| proves_next(all, every)),
    };
    let name = format!("{}-{}", schedule.name_any(), due.as_second() / 60);
    let mut backup = QuorateBackup::new(&name, spec);
    backup.metadata = ObjectMeta {
        labels: Some([(SCHEDULE_LABEL.to_string(), schedule.name_any())].into()),
        namespace: schedule.namespace(),
        ..backup.metadata
    };
    match backups.create(&PostParams::default(), &backup).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        other => other.map(drop).map_err(Into::into),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A proof is due by its own schedule, of the newest backup that is in the store, once a time, and not while all rests.
    #[test]
    fn due_proofs() {
        let second = |second: i64| Timestamp::from_second(second).unwrap();
        let spec = json!({"clusterRef": {"name": "kv"}, "storeRef": {"name": "s"}, "schedule": "0 3 * * *", "verify": {"schedule": "*/10 * * * *"}});
        let mut schedule = QuorateBackupSchedule::new("nightly", serde_json::from_value(spec).unwrap());
        schedule.metadata.creation_timestamp = Some(Time(second(0)));
        let backup = |name: &str, made: i64, phase: &str| {
            let mut backup = QuorateBackup::new(name, QuorateBackupSpec::default());
            backup.metadata.creation_timestamp = Some(Time(second(made)));
            backup.status = Some(crate::crd::backup::BackupStatus { phase: Some(phase.into()), ..Default::default() });
            backup
        };
        let all = [backup("a", 10, "Succeeded"), backup("b", 20, "Succeeded"), backup("c", 30, "Failed")];
        let cron = Cron::parse("*/10 * * * *").unwrap();
        let mut status = ScheduleStatus::default();
        let due = |schedule: &QuorateBackupSchedule, all: &[QuorateBackup], status: &ScheduleStatus, now: i64| {
            proof_due(schedule, &cron, all, status, second(now)).map(|(backup, due)| (backup.name_any(), due.as_second()))
        };
        assert_eq!(due(&schedule, &all, &status, 599), None);
        assert_eq!(due(&schedule, &all, &status, 1300), Some(("b".into(), 1200)));
        assert_eq!(due(&schedule, &all[2..], &status, 1300), None);
        status.last_proof_due_at = Some(Time(second(1200)));
        assert_eq!((due(&schedule, &all, &status, 1300), due(&schedule, &all, &status, 1800)), (None, Some(("b".into(), 1800))));
        schedule.spec.suspend = true;
        assert_eq!(due(&schedule, &all, &status, 1800), None);
        let verify = |spec: serde_json::Value| serde_json::from_value::<Verify>(spec).unwrap().every();
        assert_eq!((verify(json!({})), verify(json!({"every": 7}))), (Some(1), Some(7)));
        assert_eq!(
            (verify(json!({"schedule": "0 3 * * *"})), verify(json!({"every": 2, "schedule": "0 3 * * *"}))),
            (None, Some(2))
        );
    }

    /// The schedule tells what became of the newest proof, also that it could not be made.
    #[test]
    fn told_proofs() {
        let spec = json!({"clusterRef": {"name": "kv"}, "storeRef": {"name": "s"}, "schedule": "0 3 * * *", "verify": {}});
        let schedule = QuorateBackupSchedule::new("nightly", serde_json::from_value(spec).unwrap());
        let backup = |made: i64, value: &str| {
            let mut backup = QuorateBackup::new("b", QuorateBackupSpec::default());
            backup.metadata.creation_timestamp = Some(Time(Timestamp::from_second(made).unwrap()));
            let status = backup.status.get_or_insert_default();
            set_condition_to(&mut status.conditions, "Verified", value, "x", "", None, crate::now());
            backup
        };
        let told = |all: &[QuorateBackup]| {
            let mut status = ScheduleStatus::default();
            tell_proofs(&schedule, all, &mut status);
            status.conditions.first().map(|condition| (condition.status.clone(), condition.reason.clone()))
        };
        let words = |status: &str, reason: &str| Some((status.to_string(), reason.to_string()));
        assert_eq!(told(&[backup(1, "True"), backup(2, "Unknown")]), words("Unknown", "NotProved"));
        assert_eq!(told(&[backup(3, "False"), backup(2, "Unknown")]), words("False", "VerificationFailed"));
        assert_eq!(told(&[]), None);
    }

    /// A backup wants from the first time on at which one was due that is not in the store.
    #[test]
    fn wanting_backups() {
        let at = |second: i64| Some(Time(Timestamp::from_second(second).unwrap()));
        let spec = json!({"clusterRef": {"name": "kv"}, "storeRef": {"name": "s"}, "schedule": "0 * * * *"});
        let mut schedule = QuorateBackupSchedule::new("hourly", serde_json::from_value(spec).unwrap());
        schedule.metadata.creation_timestamp = at(60);
        assert_eq!(wanting(&schedule, None), Some(3600.0));
        let mut backup = QuorateBackup::new("b", QuorateBackupSpec::default());
        backup.metadata.creation_timestamp = at(7200);
        assert_eq!(wanting(&schedule, Some(&backup)), Some(10800.0));
        schedule.spec.suspend = true;
        assert_eq!(wanting(&schedule, Some(&backup)), None);
        schedule.spec.suspend = false;
        schedule.spec.schedule = "never".into();
        assert_eq!(wanting(&schedule, None), Some(60.0));
    }

    /// Of many missed times only the last counts, and none comes twice.
    #[test]
    fn due_times() {
        let cron = Cron::parse("0 * * * *").unwrap();
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert_eq!(last_due(&cron, at("2026-11-21T10:00:00Z"), at("2026-11-21T10:59:00Z")), None);
        assert_eq!(last_due(&cron, at("2026-11-21T10:00:00Z"), at("2026-11-21T15:01:00Z")), Some(at("2026-11-21T15:00:00Z")));
        let often = Cron::parse("* * * * *").unwrap();
        assert_eq!(last_due(&often, at("2020-01-01T00:00:00Z"), at("2026-11-21T15:01:30Z")), Some(at("2026-11-21T15:01:00Z")));
    }
}
