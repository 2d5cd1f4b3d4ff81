//! One QuorateRestore: checks what it names, takes the safety backup, hands it to its cluster's rounds by admitting it, and tells how
//! far they are.
//!
//! Until it is admitted nothing has been done to the cluster; a source that cannot be restored, or a safety backup that fails, ends it
//! there.

pub mod look;

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Resource, ResourceExt};

use crate::cluster::restore::{NotLocated, locate};
use crate::cluster::{Context, Error};
use crate::crd::backup::QuorateBackupSpec;
use crate::crd::cluster::NameReference;
use crate::crd::restore::RestoreStatus;
use crate::crd::status::ClusterStatus;
use crate::crd::task::OldVolumes;
use crate::crd::{QuorateBackup, QuorateCluster, QuorateRestore};
use crate::phase::{self, ADMITTED, Found, Stamp, is_final, set_condition};
use crate::task::kept;
use look::{Look, look};

/// Until the next look at one that waits or runs.
const PACE: Duration = Duration::from_secs(3);
/// A finished one needs no more looks.
const DONE: Duration = Duration::from_secs(3600);

/// How long a quorum must be missing before a safety backup is given up, seconds: members that restart come back within that.
const LOST_FOR: i64 = 60;
/// A safety backup that is older than this, seconds, is taken anew.
const FRESH_FOR: i64 = 600;

/// One round.
pub async fn reconcile(context: &Context, name: &str, namespace: &str) -> Result<Duration, Error> {
    let api: Api<QuorateRestore> = Api::namespaced(context.client.clone(), namespace);
    let Some(restore) = api.get_opt(name).await? else { return Ok(DONE) };
    let old = restore.status.clone().unwrap_or_default();
    if restore.metadata.deletion_timestamp.is_some() || is_final(old.phase.as_deref()) {
        return Ok(DONE);
    }
    let clusters: Api<QuorateCluster> = Api::namespaced(context.client.clone(), namespace);
    let cluster = clusters.get_opt(&restore.spec.cluster_ref.name).await?;
    let mut status = old;
    let (phase, step) = match &cluster {
        None => ("Pending", format!("there is no QuorateCluster {}", restore.spec.cluster_ref.name)),
        Some(cluster) => match told(&restore, cluster, &mut status) {
            Some(told) => told,
            None => prepare(context, &restore, cluster, &mut status).await?,
        },
    };
    status.step = Some(step.clone());
    let stamp = Stamp {
        phase: &mut status.phase,
        started_at: &mut status.started_at,
        finished_at: &mut status.finished_at,
        conditions: &mut status.conditions,
    };
    stamp.set(&Found { phase, reason: phase, message: &step, generation: restore.metadata.generation }, crate::now());
    phase::write(&api, &restore, status).await?;
    Ok(if is_final(Some(phase)) { DONE } else { PACE })
}

/// What the cluster's status says of it, once its rounds have taken it up.
fn told(restore: &QuorateRestore, cluster: &QuorateCluster, status: &mut RestoreStatus) -> Option<(&'static str, String)> {
    let uid = restore.uid().unwrap_or_default();
    let seen = cluster.status.clone().unwrap_or_default();
    if let Some(ended) = seen.last_errand.as_ref().filter(|ended| ended.uid == uid) {
        status.kept_volumes = kept(&ended.kept);
        return Some(match ended.done {
            false => ("Failed", ended.message.clone()),
            true => match whole(&seen, cluster.spec.replicas) {
                true => ("Succeeded", "the restored data serves, and all members have it".into()),
                false => ("Rejoining", ended.message.clone()),
            },
        });
    }
    let running = seen.errand.as_ref().is_some_and(|errand| errand.uid == uid);
    let step = || seen.operation.as_ref().map(|operation| operation.step.clone()).unwrap_or_default();
    match running {
        true => Some(("Running", step())),
        // It was taken up, and something else ended since: this one ended before, and was not told in time.
        false if status.phase.as_deref() == Some("Rejoining") => {
            Some(("Succeeded", "the restored data serves; other work on the cluster has begun since".into()))
        }
        false => None,
    }
}

/// All members that are wished for are there and healthy.
fn whole(seen: &ClusterStatus, wished: i32) -> bool {
    let healthy = seen.quorum.as_ref().map_or(0, |quorum| quorum.healthy);
    wished == 0 || (healthy == wished && i32::try_from(seen.members.len()) == Ok(wished))
}

/// What comes before: the source is there, the cluster is the one that was meant, and what it holds is safe.
async fn prepare(
    context: &Context,
    restore: &QuorateRestore,
    cluster: &QuorateCluster,
    status: &mut RestoreStatus,
) -> Result<(&'static str, String), Error> {
    let client = &context.client;
    let namespace = restore.namespace().unwrap_or_default();
    let seen = cluster.status.clone().unwrap_or_default();
    // What is backed up now should be what is replaced then, so what would come in between comes first.
    if cluster.spec.paused {
        return Ok(("Pending", format!("cluster {} is paused", cluster.name_any())));
    }
    if let Some(other) = &seen.errand {
        return Ok(("Pending", format!("waits for {} {} to end", other.kind, other.name)));
    }
    match &seen.cluster_id {
        None => return Ok(("Pending", format!("cluster {} has no data yet", cluster.name_any()))),
        Some(id) if *id != restore.spec.confirm => {
            let step = format!("spec.confirm is not the id of cluster {}, which is {id}: nothing was done", cluster.name_any());
            return Ok(("Failed", step));
        }
        Some(_) => (),
    }
    let backups: Api<QuorateBackup> = Api::namespaced(client.clone(), &namespace);
    let source = match locate(client, &namespace, &restore.spec.source).await? {
        Ok(source) => source,
        Err(NotLocated::Yet(why) | NotLocated::Missing(why)) => return Ok(("Pending", why)),
        Err(NotLocated::Never(why)) => return Ok(("Failed", format!("{why}: nothing was done"))),
    };
    let (good, reason, told) = match look(context, restore, cluster, &source).await? {
        Look::Waits(why) => return Ok(("Pending", why)),
        Look::Good(found) => {
            let mut said = format!("all of {} was read and is well, with {} files of deltas", found.full, found.deltas);
            if !found.passed_over.is_empty() {
                said += &format!("; passed over, since they cannot be used: {}", found.passed_over.join(", "));
            }
            (true, "Readable", said)
        }
        Look::Bad(why) => (false, "Unusable", why),
    };
    set_condition(&mut status.conditions, "SourceUsable", good, reason, &told, restore.metadata.generation, crate::now());
    if !good {
        return Ok(("Failed", format!("the source cannot be restored: {told}; nothing was done")));
    }
    if !restore.spec.safety_backup.enabled {
        return Ok((ADMITTED, "waits for its turn; no safety backup is wanted".into()));
    }
    let now = crate::now();
    let serves = serves(&seen, now.0);
    let name = status.safety_backup.clone().unwrap_or_else(|| safety_name(&restore.name_any(), None));
    let make = async |name: String, status: &mut RestoreStatus| {
        let store_ref = restore.spec.safety_backup.store_ref.clone().unwrap_or(NameReference { name: source.store_name.clone() });
        // It is not proved: a proof takes as long as a restore, and the restore that waits for it may be urgent.
        let spec = QuorateBackupSpec { cluster_ref: restore.spec.cluster_ref.clone(), store_ref, verify: false };
        let mut backup = QuorateBackup::new(&name, spec);
        backup.metadata = ObjectMeta {
            namespace: Some(namespace.clone()),
            // It outlives the restore: who deletes that may want it most.
            annotations: Some([(RESTORE.to_string(), restore.uid().unwrap_or_default())].into()),
            ..backup.metadata
        };
        match backups.create(&PostParams::default(), &backup).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => (),
            other => drop(other?),
        }
        status.safety_backup = Some(name.clone());
        status.safety_backup_at = None;
        Ok::<_, Error>(("BackingUp", format!("QuorateBackup {name} is taken first")))
    };
    let Some(known) = backups.get_opt(&name).await? else {
        return match serves {
            Serves::Yes => make(name, status).await,
            Serves::No => Ok((ADMITTED, "waits for its turn; there is no quorum to take a safety backup from".into())),
            Serves::Perhaps => Ok(("Pending", format!("waits for cluster {} to serve, for a safety backup", cluster.name_any()))),
        };
    };
    if known.annotations().get(RESTORE) != restore.meta().uid.as_ref() {
        let step = format!("QuorateBackup {name} belongs to something else: delete it, or use another name for this restore");
        return Ok(("Pending", step));
    }
    status.safety_backup = Some(name.clone());
    let about = known.status.unwrap_or_default();
    status.safety_backup_at = about.finished_at.clone();
    Ok(match about.phase.as_deref() {
        Some("Succeeded") => match (is_fresh(about.finished_at.as_ref(), now.0), serves) {
            (true, _) => (ADMITTED, format!("waits for its turn; QuorateBackup {name} is taken")),
            (false, Serves::Yes) => return make(safety_name(&restore.name_any(), Some(&name)), status).await,
            (false, Serves::No) => (
                ADMITTED,
                format!("waits for its turn; QuorateBackup {name} is old and cannot be taken anew: old volumes are kept"),
            ),
            (false, Serves::Perhaps) => {
                ("Pending", format!("waits for cluster {} to serve, for a new safety backup", cluster.name_any()))
            }
        },
        Some("Failed") => {
            ("Failed", format!("the safety backup {name} failed, so nothing was done: mend that, or switch spec.safetyBackup off"))
        }
        _ => ("BackingUp", format!("QuorateBackup {name} is taken first")),
    })
}

/// Whether a cluster can be backed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Serves {
    Yes,
    /// It has had no quorum for so long that waiting for one helps nobody.
    No,
    /// Not at this moment; it may again.
    Perhaps,
}

fn serves(seen: &ClusterStatus, now: Timestamp) -> Serves {
    let Some(known) = seen.conditions.iter().find(|condition| condition.type_ == "Available") else { return Serves::Perhaps };
    let lasted = now.as_second() - known.last_transition_time.0.as_second();
    match (known.status.as_str(), known.reason.as_str()) {
        ("True", _) => Serves::Yes,
        ("False", "NoQuorum" | "MembersDiffer") if lasted >= LOST_FOR => Serves::No,
        _ => Serves::Perhaps,
    }
}

/// A safety backup of this moment holds what the restore will replace, or nearly so.
fn is_fresh(taken: Option<&Time>, now: Timestamp) -> bool {
    taken.is_some_and(|taken| now.as_second() - taken.0.as_second() < FRESH_FOR)
}

/// The old volumes are kept: the user says so, or the safety backup that was wanted is not there or too old to take their place.
pub fn keeps(restore: &QuorateRestore, now: Timestamp) -> bool {
    let taken = restore.status.as_ref().and_then(|status| status.safety_backup_at.as_ref());
    let safe = !restore.spec.safety_backup.enabled || is_fresh(taken, now);
    restore.spec.old_volumes == OldVolumes::Keep || !safe
}

/// The name of a restore's safety backup: the first, or the one after this one. A long name of a restore is cut for it.
fn safety_name(restore: &str, before: Option<&str>) -> String {
    let first = format!("{restore}-safety");
    let Some(before) = before else { return first };
    let number = before.rsplit_once("-safety-").and_then(|(_, number)| number.parse::<u32>().ok()).unwrap_or(1);
    let next = format!("{first}-{}", number.saturating_add(1));
    match next.len() > LONGEST_NAME {
        false => next,
        true => {
            let hash = &crate::short_hash(restore.as_bytes())[..8];
            format!("{}-{hash}-safety-{}", restore[..20].trim_end_matches(['-', '.']), number.saturating_add(1))
        }
    }
}

/// Letters of the longest name of a QuorateBackup.
const LONGEST_NAME: usize = 52;

/// The annotation of a safety backup that names the UID of its restore.
const RESTORE: &str = "quorate.io/safety-of";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::cluster::RestoreSource;
    use crate::crd::restore::{QuorateRestoreSpec, SafetyBackup};

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).unwrap())
    }

    /// A blip is waited out; only a quorum that has been missing for a while is gone on without. Whoever sleeps or starts is waited for.
    #[test]
    fn blips() {
        let seen = |status: bool, reason: &str, since: i64| {
            let mut seen = ClusterStatus::default();
            set_condition(&mut seen.conditions, "Available", status, reason, "", None, at(since));
            serves(&seen, at(1000).0)
        };
        assert_eq!(serves(&ClusterStatus::default(), at(0).0), Serves::Perhaps);
        assert_eq!((seen(true, "QuorumServes", 999), seen(true, "QuorumServes", 1)), (Serves::Yes, Serves::Yes));
        assert_eq!((seen(false, "NoQuorum", 941), seen(false, "NoQuorum", 940)), (Serves::Perhaps, Serves::No));
        assert_eq!((seen(false, "Hibernated", 1), seen(false, "Waking", 1)), (Serves::Perhaps, Serves::Perhaps));
    }

    /// Old volumes are deleted only where a safety backup of this moment holds what was on them, or none was wanted.
    #[test]
    fn what_is_kept() {
        let keeps = |old: OldVolumes, enabled: bool, taken: Option<i64>| {
            let spec = QuorateRestoreSpec {
                cluster_ref: NameReference { name: "kv".into() },
                confirm: "1".into(),
                source: RestoreSource::default(),
                safety_backup: SafetyBackup { enabled, store_ref: None },
                old_volumes: old,
            };
            let mut restore = QuorateRestore::new("r", spec);
            restore.status = Some(RestoreStatus { safety_backup_at: taken.map(at), ..RestoreStatus::default() });
            keeps(&restore, at(1000).0)
        };
        assert!(keeps(OldVolumes::Keep, true, Some(999)) && keeps(OldVolumes::Keep, false, None));
        assert!(!keeps(OldVolumes::Delete, true, Some(401)) && !keeps(OldVolumes::Delete, false, None));
        assert!(keeps(OldVolumes::Delete, true, Some(400)) && keeps(OldVolumes::Delete, true, None));
    }

    #[test]
    fn names_of_safety_backups() {
        assert_eq!(safety_name("r", None), "r-safety");
        assert_eq!(safety_name("r", Some("r-safety")), "r-safety-2");
        assert_eq!(safety_name("r", Some("r-safety-9")), "r-safety-10");
        // The longest name of a restore, again and again.
        let restore = "r".repeat(45);
        let mut name = safety_name(&restore, None);
        for number in 2..200 {
            name = safety_name(&restore, Some(&name));
            assert!(name.len() <= LONGEST_NAME && name.ends_with(&format!("-safety-{number}")), "{name}");
        }
    }
}
