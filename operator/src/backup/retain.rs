//! Which backups of a schedule are superseded, which are to be proved, and whether one is missing. Pure.

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use crate::crd::QuorateBackup;

/// After a backup that failed, the deltas wait so long for the next one, seconds.
const AGAIN: i64 = 300;
/// The same after one that was refuted: whatever made it so may be found in the next as well, and each is as large as the store.
const AGAIN_REFUTED: i64 = 3600;
/// How many backups that failed are kept, so that somebody can see why.
const FAILURES: usize = 5;

fn phase(backup: &QuorateBackup) -> &str {
    backup.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// True for one that is in the store.
pub fn succeeded(backup: &QuorateBackup) -> bool {
    phase(backup) == "Succeeded"
}

/// What its verification said last. A proof that could not be made takes nothing from an earlier one.
pub fn verdict(backup: &QuorateBackup) -> Option<bool> {
    let status = backup.status.as_ref()?;
    match status.conditions.iter().find(|condition| condition.type_ == "Verified")?.status.as_str() {
        "True" => Some(true),
        "False" => Some(false),
        _ => status.verified_at.is_some().then_some(true),
    }
}

/// One that is waited for: it will be taken, or fail, without anybody's doing.
pub fn under_way(backups: &[QuorateBackup]) -> Option<&QuorateBackup> {
    backups.iter().find(|backup| !crate::phase::is_final(Some(phase(backup))) && backup.metadata.deletion_timestamp.is_none())
}

/// Backups that failed, but the newest few: nothing of them is in the store, and their Jobs and pods stay as long as they do.
pub fn failures(backups: &[QuorateBackup]) -> Vec<&QuorateBackup> {
    newest_first(backups.iter().filter(|backup| phase(backup) == "Failed")).into_iter().skip(FAILURES).collect()
}

fn newest_first<'a>(backups: impl Iterator<Item = &'a QuorateBackup>) -> Vec<&'a QuorateBackup> {
    let mut sorted: Vec<_> = backups.collect();
    sorted.sort_by_key(|backup| std::cmp::Reverse((backup.creation_timestamp(), backup.name_any())));
    sorted
}

/// The backups in this store that are not needed when so many successful ones are kept, newest first. The newest one that was verified
/// is never among them. One that was refuted does not count as kept; it goes when enough newer ones are there.
pub fn superseded<'a>(backups: &'a [QuorateBackup], keep: usize, store: &str) -> Vec<&'a QuorateBackup> {
    let good = newest_first(backups.iter().filter(|backup| succeeded(backup) && backup.spec.store_ref.name == store));
    let proved = good.iter().find(|backup| verdict(backup) == Some(true)).map(|backup| backup.name_any());
    let mut kept = 0;
    let mut out = Vec::new();
    for backup in good {
        if kept >= keep {
            out.push(backup);
        } else if verdict(backup) != Some(false) {
            kept += 1;
        }
    }
    out.retain(|backup| Some(backup.name_any()) != proved);
    out
}

/// Whether the next backup is to be proved, when every so many-th is.
pub fn proves_next(backups: &[QuorateBackup], every: i32) -> bool {
    let since = newest_first(backups.iter()).into_iter().take_while(|backup| !backup.spec.verify).count();
    since + 1 >= usize::try_from(every).unwrap_or(1) || backups.iter().all(|backup| !backup.spec.verify)
}

/// Whether deltas in this store that are whole from a revision on have no full backup to lead on from, and none is under way.
pub fn lacks_full(backups: &[QuorateBackup], store: &str, cluster_id: &str, since: i64, now: Timestamp) -> bool {
    let younger = |backup: &QuorateBackup, seconds: i64| {
        backup.creation_timestamp().is_some_and(|made| now.as_second() - made.0.as_second() < seconds)
    };
    let serves = |backup: &&QuorateBackup| match phase(backup) {
        "Succeeded" => {
            let status = backup.status.clone().unwrap_or_default();
            let sound = verdict(backup) != Some(false) || younger(backup, AGAIN_REFUTED);
            let here = backup.spec.store_ref.name == store && status.cluster_id.as_deref() == Some(cluster_id);
            here && sound && status.revision.is_some_and(|revision| revision >= since)
        }
        "Failed" => younger(backup, AGAIN),
        _ => true,
    };
    !backups.iter().any(|backup| serves(&backup))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::backup::{BackupStatus, QuorateBackupSpec};
    use crate::crd::cluster::NameReference;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    /// Backups from old to new: S succeeded, V verified, R refuted, F failed, P pending; a small letter is in another store.
    fn backups(kinds: &str) -> Vec<QuorateBackup> {
        let one = |(at, kind): (usize, char)| {
            let store = if kind.is_lowercase() { "there" } else { "here" };
            let spec = QuorateBackupSpec {
                store_ref: NameReference { name: store.into() },
                verify: "VR".contains(kind),
                ..Default::default()
            };
            let mut backup = QuorateBackup::new(&at.to_string(), spec);
            backup.metadata.creation_timestamp = Some(Time(Timestamp::from_second(at as i64 * 1000).unwrap()));
            let mut status = BackupStatus { revision: Some(at as i64), cluster_id: Some("c".into()), ..Default::default() };
            let phase = match kind.to_ascii_uppercase() {
                'F' => "Failed",
                'P' => "Running",
                _ => "Succeeded",
            };
            status.phase = Some(phase.into());
            if "VR".contains(kind) {
                let now = Time(Timestamp::UNIX_EPOCH);
                crate::phase::set_condition(&mut status.conditions, "Verified", kind == 'V', "x", "", None, now);
            }
            backup.status = Some(status);
            backup
        };
        kinds.chars().enumerate().map(one).collect()
    }

    #[track_caller]
    fn check(kinds: &str, keep: usize, gone: &str) {
        let backups = backups(kinds);
        let found: String = superseded(&backups, keep, "here").iter().map(|backup| backup.name_any()).collect();
        assert_eq!(found, gone, "{kinds}, {keep} kept");
    }

    /// Enough successful ones stay, the newest verified one always, and what failed or was refuted takes nobody's place.
    #[test]
    fn retention() {
        check("SSSS", 2, "10");
        check("SFSPS", 2, "0");
        check("VSSS", 2, "1");
        check("VVSS", 1, "20");
        check("SSVR", 1, "10");
        check("SRSS", 2, "10");
        check("RR", 1, "");
        check("sSsS", 1, "1");
        check("SS", 0, "10");
        check("VS", 0, "1");
    }

    /// The first is proved, then every so many-th; every one when that is wanted.
    #[test]
    fn proofs() {
        assert!(proves_next(&backups(""), 3) && proves_next(&backups("SS"), 5));
        assert!(!proves_next(&backups("VS"), 3) && proves_next(&backups("VSS"), 3));
        assert!(proves_next(&backups("V"), 1));
    }

    /// Deltas without a full backup at or after their begin want one, unless one is under way or has just failed.
    #[test]
    fn missing_fulls() {
        let lacks = |kinds: &str, cluster: &str, since: i64, now: i64| {
            lacks_full(&backups(kinds), "here", cluster, since, Timestamp::from_second(now).unwrap())
        };
        assert!(lacks("", "c", 5, 0));
        assert!(lacks("SSS", "c", 3, 9000) && !lacks("SSS", "c", 2, 9000));
        assert!(lacks("SSS", "other", 0, 9000));
        assert!(!lacks("SP", "c", 9, 9000));
        assert!(!lacks("SF", "c", 9, 1100) && lacks("SF", "c", 9, 1300));
        // One in another store, or that cannot be restored, is none to lead on from.
        assert!(lacks("sss", "c", 0, 9000));
        assert!(lacks("SR", "c", 1, 9000) && !lacks("SR", "c", 0, 9000) && !lacks("SR", "c", 1, 4000));
    }

    /// A proof that could not be made leaves the verdict as it was.
    #[test]
    fn undecided_proofs() {
        let mut all = backups("V");
        let status = all[0].status.as_mut().unwrap();
        let now = Time(Timestamp::UNIX_EPOCH);
        crate::phase::set_condition_to(&mut status.conditions, "Verified", "Unknown", "x", "", None, now.clone());
        assert_eq!(verdict(&all[0]), None);
        all[0].status.as_mut().unwrap().verified_at = Some(now);
        assert_eq!(verdict(&all[0]), Some(true));
    }

    /// One is taken at a time, and of those that failed a few are kept.
    #[test]
    fn what_piles_up() {
        let names = |found: Vec<&QuorateBackup>| found.iter().map(|backup| backup.name_any()).collect::<String>();
        assert_eq!(names(failures(&backups("FFSFFPFF"))), "0");
        assert_eq!(names(failures(&backups("FSFFF"))), "");
        assert_eq!(under_way(&backups("SFPS")).map(|backup| backup.name_any()).as_deref(), Some("2"));
        assert!(under_way(&backups("SFVR")).is_none());
    }
}
