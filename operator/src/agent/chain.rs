//! What lies in a cluster's folder of a store, and what of it leads to a wanted state. Pure: names and manifests in, names out.
//!
//! ```text
//! FOLDER/TIME-NAME-UID.snapshot                            a full backup
//! FOLDER/TIME-NAME-UID.snapshot.json                       its manifest, written after it: without one it is not looked at here
//! FOLDER/deltas/CLUSTER/AFTER-REVISION-TIME.segment        what followed revision AFTER up to REVISION, at TIME ms
//! ```
//! Anything else in there belongs to somebody else: it is neither read nor deleted.

use serde::{Deserialize, Serialize};

/// What is known of a full backup; also the last words of the agent that took it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// The revision whose state it is.
    pub revision: i64,
    /// The cluster's entry clock at it, milliseconds since 1970.
    #[serde(default)]
    pub time_ms: i64,
    /// The store's cluster id, hexadecimal.
    #[serde(rename = "clusterID")]
    pub cluster_id: String,
    /// The member's version.
    pub version: String,
    /// Bytes of the content.
    pub size: i64,
    /// Digest of the content, hexadecimal.
    pub sha256: String,
    /// HashKV at the revision.
    #[serde(default)]
    pub hash: u32,
    /// The compaction revision that the hash was taken at.
    #[serde(default)]
    pub compacted: i64,
    /// Keys alive at the revision.
    #[serde(default)]
    pub keys: i64,
    /// The schedule it was made by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// The id of the key it is encrypted with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// A full backup and where it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Full {
    /// The object's name.
    pub name: String,
    /// Its manifest.
    pub manifest: Manifest,
}

/// A file of deltas, as its name tells.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Segment {
    /// It holds what follows this revision.
    pub after: i64,
    /// Up to and with this one.
    pub revision: i64,
    /// The entry clock there, milliseconds since 1970.
    pub time_ms: i64,
    /// The store's cluster id, hexadecimal.
    pub cluster: String,
    /// The object's name.
    pub name: String,
}

/// What state is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The newest there is.
    Newest,
    /// This revision's.
    Revision(i64),
    /// The newest at or before this time, milliseconds since 1970.
    Time(i64),
}

/// What leads there.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The full backup to begin with.
    pub full: Full,
    /// Names of files of deltas, in order.
    pub segments: Vec<Segment>,
}

/// The folder of an object's name, with a slash at its end; a folder's name is its own.
pub fn folder(object: &str) -> &str {
    object.rfind('/').map_or("", |slash| &object[..=slash])
}

/// The name of a full backup's manifest.
pub fn manifest_name(object: &str) -> String {
    format!("{object}.json")
}

/// True for the name of a manifest that lies in this folder itself.
pub fn is_manifest(folder: &str, name: &str) -> bool {
    name.strip_prefix(folder).is_some_and(|rest| !rest.contains('/') && rest.ends_with(".snapshot.json"))
}

/// The name of a file of deltas.
pub fn segment_name(folder: &str, cluster: &str, after: i64, revision: i64, time_ms: i64) -> String {
    format!("{folder}deltas/{cluster}/{after:019}-{revision:019}-{time_ms:015}.segment")
}

/// Reads such a name.
pub fn segment(folder: &str, name: &str) -> Option<Segment> {
    let (cluster, file) = name.strip_prefix(folder)?.strip_prefix("deltas/")?.split_once('/')?;
    let mut numbers = file.strip_suffix(".segment")?.split('-').map(|number| number.parse::<i64>().ok());
    let (after, revision, time_ms) = (numbers.next()??, numbers.next()??, numbers.next()??);
    let found = Segment { after, revision, time_ms, cluster: cluster.to_string(), name: name.to_string() };
    (segment_name(folder, cluster, after, revision, time_ms) == name).then_some(found)
}

/// The way to a state. `named` is the full backup that the user named: only its cluster's line of history counts then.
///
/// # Errors
/// Why there is none.
pub fn plan(mut fulls: Vec<Full>, segments: &[Segment], target: Target, named: Option<&str>) -> Result<Plan, String> {
    if let Some(named) = named {
        let cluster = fulls.iter().find(|full| full.name == named).map(|full| full.manifest.cluster_id.clone());
        let cluster = cluster
            .ok_or_else(|| format!("{named} has no manifest beside it: it was not finished, or is too old to go on from"))?;
        fulls.retain(|full| full.manifest.cluster_id == cluster);
    }
    let fits = |full: &Full| match target {
        Target::Newest => true,
        Target::Revision(wanted) => full.manifest.revision <= wanted,
        Target::Time(wanted) => full.manifest.time_ms <= wanted,
    };
    let oldest = fulls.iter().map(|full| (full.manifest.revision, full.manifest.time_ms)).min();
    let best = fulls.into_iter().filter(fits).max_by_key(|full| (full.manifest.time_ms, full.manifest.revision));
    let full = best.ok_or_else(|| match (target, oldest) {
        (_, None) => "there is no full backup in the folder".to_string(),
        (Target::Revision(wanted), Some((revision, _))) => {
            format!("the oldest full backup is at revision {revision}, after {wanted}")
        }
        (_, Some((_, time_ms))) => format!("the oldest full backup is of {time_ms} ms since 1970, after the time that is wanted"),
    })?;
    let mut mine: Vec<&Segment> = segments.iter().filter(|segment| segment.cluster == full.manifest.cluster_id).collect();
    mine.sort();
    let (mut place, mut chosen) = (full.manifest.revision, Vec::new());
    let mut over = full.manifest.time_ms;
    for segment in mine.into_iter().filter(|segment| segment.revision >= full.manifest.revision) {
        let enough = match target {
            Target::Newest => false,
            Target::Revision(wanted) => place >= wanted && segment.revision > wanted,
            // One that ends later may begin before.
            Target::Time(wanted) => over > wanted,
        };
        if enough {
            break;
        }
        if segment.after > place {
            if target == Target::Newest {
                break;
            }
            return Err(format!("the deltas from revision {} to {} are missing", place + 1, segment.after));
        }
        place = place.max(segment.revision);
        over = over.max(segment.time_ms);
        chosen.push(segment.clone());
    }
    match target {
        Target::Revision(wanted) if wanted > place => Err(format!("the deltas end at revision {place}, before {wanted}")),
        _ => Ok(Plan { full, segments: chosen }),
    }
}

/// The revision after which the files of a cluster's deltas follow one another without a gap up to the newest, and the newest file.
pub fn run(segments: &[Segment], cluster: &str) -> Option<(i64, Segment)> {
    let mut mine: Vec<&Segment> = segments.iter().filter(|segment| segment.cluster == cluster).collect();
    mine.sort();
    let last = mine.iter().max_by_key(|segment| (segment.revision, segment.time_ms))?;
    let (mut begin, mut place) = (mine[0].after, mine[0].revision);
    for segment in &mine {
        if segment.after > place {
            begin = segment.after;
        }
        place = place.max(segment.revision);
    }
    Some((begin, (*last).clone()))
}

/// Files of deltas that nothing leads on from: those before the oldest full backup of their cluster, whichever schedule or person made
/// it, and those of clusters that no full backup in the folder is of. None while the schedule itself has no full backup there. `fulls`
/// are all that are left.
pub fn superfluous(fulls: &[Full], segments: &[Segment], schedule: &str) -> Vec<String> {
    if !fulls.iter().any(|full| full.manifest.schedule.as_deref() == Some(schedule)) {
        return Vec::new();
    }
    let gone = |segment: &&Segment| {
        let of_cluster = fulls.iter().filter(|full| full.manifest.cluster_id == segment.cluster);
        of_cluster.map(|full| full.manifest.revision).min().is_none_or(|oldest| segment.revision < oldest)
    };
    segments.iter().filter(gone).map(|segment| segment.name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOLDER: &str = "lab/ns/kv/u/";

    fn full(name: &str, cluster: &str, revision: i64, time_ms: i64) -> Full {
        let manifest =
            Manifest { revision, time_ms, cluster_id: cluster.into(), schedule: Some("nightly".into()), ..Manifest::default() };
        Full { name: name.into(), manifest }
    }

    fn file(cluster: &str, after: i64, revision: i64) -> Segment {
        segment(FOLDER, &segment_name(FOLDER, cluster, after, revision, revision * 10)).unwrap()
    }

    #[track_caller]
    fn check(target: Target, named: Option<&str>, wanted: Result<(&str, &[i64]), &str>) {
        let fulls = vec![full("a1", "a", 10, 100), full("a2", "a", 30, 300), full("b1", "b", 1000, 500)];
        let files =
            [file("a", 5, 12), file("a", 12, 20), file("a", 20, 35), file("a", 35, 35), file("a", 40, 50), file("b", 990, 1005)];
        let found = plan(fulls, &files, target, named);
        let found = found.map(|plan| (plan.full.name, plan.segments.iter().map(|s| s.revision).collect::<Vec<_>>()));
        match wanted {
            Ok((full, revisions)) => assert_eq!(found, Ok((full.to_string(), revisions.to_vec())), "{target:?}"),
            Err(words) => assert!(found.clone().is_err_and(|e| e.contains(words)), "{target:?}: {found:?}"),
        }
    }

    /// The newest full backup at or below the target, and exactly the deltas from it on; gaps and targets out of reach are told.
    #[test]
    fn plans() {
        check(Target::Revision(10), Some("a1"), Ok(("a1", &[])));
        check(Target::Revision(15), Some("a2"), Ok(("a1", &[12, 20])));
        check(Target::Revision(30), Some("a1"), Ok(("a2", &[])));
        check(Target::Revision(31), Some("a1"), Ok(("a2", &[35])));
        check(Target::Revision(35), Some("a1"), Ok(("a2", &[35, 35])));
        check(Target::Revision(45), Some("a1"), Err("from revision 36 to 40 are missing"));
        check(Target::Revision(9), Some("a1"), Err("at revision 10"));
        check(Target::Revision(2000), None, Err("end at revision 1005"));
        check(Target::Newest, None, Ok(("b1", &[1005])));
        check(Target::Newest, Some("a1"), Ok(("a2", &[35, 35])));
        check(Target::Time(299), Some("a1"), Ok(("a1", &[12, 20, 35])));
        check(Target::Time(150), None, Ok(("a1", &[12, 20])));
        check(Target::Time(99), None, Err("100 ms"));
        check(Target::Newest, Some("x"), Err("no manifest"));
        assert!(plan(vec![], &[], Target::Newest, None).is_err());
    }

    /// Names lead back to what they were made from; foreign names to nothing.
    #[test]
    fn names() {
        let found = file("00ab", 7, 9);
        assert_eq!((found.after, found.revision, found.time_ms, found.cluster.as_str()), (7, 9, 90, "00ab"));
        for name in
            ["lab/ns/kv/u/deltas/a/1-2-3.segment", "lab/ns/kv/u/deltas/x.segment", "other/deltas/a/1.segment", "lab/ns/kv/u/x"]
        {
            assert_eq!(segment(FOLDER, name), None, "{name}");
        }
        assert!(is_manifest(FOLDER, "lab/ns/kv/u/x.snapshot.json"));
        assert!(!is_manifest(FOLDER, "lab/ns/kv/u/deltas/x.snapshot.json") && !is_manifest(FOLDER, "lab/ns/kv/u/x.json"));
        assert_eq!((folder("a/b/c"), folder("a/b/"), folder("c")), ("a/b/", "a/b/", ""));
    }

    /// The unbroken run of deltas ends at the newest and begins after the last gap.
    #[test]
    fn runs() {
        let files = [file("a", 5, 12), file("a", 12, 20), file("a", 25, 30), file("a", 28, 40), file("b", 1, 99)];
        let (begin, last) = run(&files, "a").unwrap();
        assert_eq!((begin, last.revision), (25, 40));
        assert_eq!(run(&files, "c"), None);
    }

    /// Deltas go with the full backups they lead from: a kept full backup keeps all that follows it, whatever else is there.
    #[test]
    fn pruning() {
        let files = [file("a", 5, 12), file("a", 12, 20), file("a", 20, 35), file("b", 1, 9), file("c", 1, 9)];
        let manual = Full { manifest: Manifest { schedule: None, ..full("m", "b", 1, 1).manifest }, ..full("m", "b", 1, 1) };
        let gone = |fulls: &[Full]| superfluous(fulls, &files, "nightly");
        let names = |picked: &[usize]| picked.iter().map(|at| files[*at].name.clone()).collect::<Vec<_>>();
        assert_eq!(gone(&[full("a2", "a", 20, 300), manual.clone()]), names(&[0, 4]));
        assert_eq!(gone(&[full("a1", "a", 12, 100), full("a2", "a", 30, 300)]), names(&[3, 4]));
        // What somebody else took is led on from as well.
        let other = Full { manifest: Manifest { schedule: None, ..full("m", "a", 12, 1).manifest }, ..full("m", "a", 12, 1) };
        assert_eq!(gone(&[full("a2", "a", 30, 300), other, manual.clone()]), names(&[4]));
        assert_eq!(gone(&[manual]), names(&[]));
        assert_eq!(gone(&[]), names(&[]));
    }
}
