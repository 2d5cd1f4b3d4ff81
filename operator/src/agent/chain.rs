//! What lies in a cluster's folder of a store, and what of it leads to a wanted state. Pure: names and manifests in, names out.
//!
//! ```text
//! FOLDER/TIME-NAME-UID.snapshot                            a full backup
//! FOLDER/TIME-NAME-UID.snapshot.json                       its manifest, written after it: without one it is not looked at here
//! FOLDER/deltas/CLUSTER/AFTER-REVISION-TIME-PREVIOUS-OWN.segment    what followed revision AFTER up to REVISION, at TIME ms
//! ```
//! PREVIOUS and OWN are the first half of the hashes of the file before and of this one: no two files of different content share a name,
//! and names alone tell which follows which. Where two agents went on from the same file, there are two branches; both are good, and
//! each is followed by itself.
//!
//! Anything else in there belongs to somebody else: it is neither read nor deleted.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

/// Letters of a hash in a file's name.
const HASH_LETTERS: usize = 16;

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
    /// The first half of the hash of the file before, hexadecimal; zeros for the first of a run.
    pub previous: String,
    /// The first half of this file's hash.
    pub own: String,
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

/// The name of a file of deltas. `previous` and `own` are the whole hashes of the file before and of this one; the first of a run has
/// none before it.
pub fn segment_name(
    folder: &str,
    cluster: &str,
    (after, revision, time_ms): (i64, i64, i64),
    previous: &[u8],
    own: &[u8],
) -> String {
    let (previous, own) = (hash_letters(previous), hash_letters(own));
    format!("{folder}deltas/{cluster}/{after:019}-{revision:019}-{time_ms:015}-{previous}-{own}.segment")
}

fn hash_letters(hash: &[u8]) -> String {
    let letters: String = hash.iter().take(HASH_LETTERS / 2).map(|byte| format!("{byte:02x}")).collect();
    format!("{letters:0<HASH_LETTERS$}")
}

/// Reads such a name.
pub fn segment(folder: &str, name: &str) -> Option<Segment> {
    let (cluster, file) = name.strip_prefix(folder)?.strip_prefix("deltas/")?.split_once('/')?;
    let parts: Vec<&str> = file.strip_suffix(".segment")?.split('-').collect();
    let [after, revision, time_ms, previous, own] = parts[..] else { return None };
    let number = |text: &str, letters: usize| text.parse::<i64>().ok().filter(|number| *number >= 0 && text.len() == letters);
    let hash = |text: &str| {
        let plain = text.len() == HASH_LETTERS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        plain.then(|| text.to_string())
    };
    Some(Segment {
        after: number(after, 19)?,
        revision: number(revision, 19)?,
        time_ms: number(time_ms, 15)?,
        cluster: cluster.to_string(),
        previous: hash(previous)?,
        own: hash(own)?,
        name: name.to_string(),
    })
}

/// The files of one cluster, and which follows which.
struct Branches<'a> {
    files: Vec<&'a Segment>,
    by_hash: HashMap<&'a str, &'a Segment>,
}

impl<'a> Branches<'a> {
    fn new(segments: &'a [Segment], cluster: &str) -> Self {
        let mut files: Vec<&Segment> = segments.iter().filter(|segment| segment.cluster == cluster).collect();
        files.sort();
        let by_hash = files.iter().map(|file| (file.own.as_str(), *file)).collect();
        Self { files, by_hash }
    }

    /// The file that this one follows. The first of a run follows whatever ends where it begins: it tells the whole of what lies
    /// beside the key space.
    fn before(&self, file: &Segment) -> Option<&'a Segment> {
        if file.previous.bytes().any(|letter| letter != b'0') {
            return self.by_hash.get(file.previous.as_str()).copied().filter(|before| before.revision == file.after);
        }
        let joins =
            |before: &&&Segment| before.revision >= file.after && (before.after, before.revision) < (file.after, file.revision);
        self.files.iter().filter(joins).min_by_key(|before| (before.revision, -before.time_ms)).copied()
    }

    /// Each branch, in order: from its first file that ends at this revision or later to its newest.
    fn all(&self, from: i64) -> Vec<Vec<&'a Segment>> {
        let followed: HashSet<&str> = self.files.iter().map(|file| file.previous.as_str()).collect();
        let leaves = self.files.iter().filter(|file| file.revision >= from && !followed.contains(file.own.as_str()));
        leaves
            .map(|leaf| {
                let mut branch = vec![*leaf];
                // Names can lie; a circle of them must end.
                while let Some(before) = self
                    .before(branch[branch.len() - 1])
                    .filter(|before| before.revision >= from && branch.len() < self.files.len())
                {
                    branch.push(before);
                }
                branch.reverse();
                branch
            })
            .collect()
    }
}

/// The full backups that a plan may begin with: those that are not `unusable`, and where one is named, those of its cluster's line of
/// history.
///
/// # Errors
/// When the named one is not there.
pub fn without(mut fulls: Vec<Full>, named: Option<&str>, unusable: impl Fn(&String) -> bool) -> Result<Vec<Full>, String> {
    if let Some(named) = named {
        let cluster = fulls.iter().find(|full| full.name == named).map(|full| full.manifest.cluster_id.clone());
        let cluster = cluster
            .ok_or_else(|| format!("{named} has no manifest beside it: it was not finished, or is too old to go on from"))?;
        fulls.retain(|full| full.manifest.cluster_id == cluster);
    }
    fulls.retain(|full| !unusable(&full.name));
    Ok(fulls)
}

/// The way to a state.
///
/// # Errors
/// Why there is none.
pub fn plan(fulls: Vec<Full>, segments: &[Segment], target: Target) -> Result<Plan, String> {
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
    let (begin, taken) = (full.manifest.revision, full.manifest.time_ms);
    // A later revision of an earlier time is of another history: the cluster was put back in between, and kept its id.
    let segments: Vec<Segment> =
        segments.iter().filter(|segment| segment.revision <= begin || segment.time_ms >= taken).cloned().collect();
    let branches = Branches::new(&segments, &full.manifest.cluster_id).all(begin);
    // What of a branch leads to the target, and how far it does.
    let cut = |branch: &Vec<&Segment>| {
        let (mut place, mut over, mut chosen) = (begin, full.manifest.time_ms, Vec::new());
        for segment in branch {
            let enough = match target {
                Target::Newest => false,
                Target::Revision(wanted) => place >= wanted && segment.revision > wanted,
                // One that ends later may begin before.
                Target::Time(wanted) => over > wanted,
            };
            if enough {
                break;
            }
            (place, over) = (place.max(segment.revision), over.max(segment.time_ms));
            chosen.push((*segment).clone());
        }
        (place, over, chosen)
    };
    let (whole, torn): (Vec<_>, Vec<_>) = branches.into_iter().partition(|branch| branch[0].after <= begin);
    let best = whole.iter().map(cut).max_by_key(|(place, over, chosen)| (*place, *over, chosen.len()));
    let (place, over, chosen) = best.unwrap_or((begin, full.manifest.time_ms, Vec::new()));
    let reached = match target {
        Target::Newest => true,
        Target::Revision(wanted) => place >= wanted,
        Target::Time(wanted) => over > wanted,
    };
    let gap = torn.iter().map(|branch| branch[0].after).filter(|after| *after > place).min();
    // What comes after a gap is newer, and would be lost without a word.
    let lost = torn.iter().filter(|branch| branch[branch.len() - 1].revision > place).map(|branch| branch[0].after).min();
    let hint = format!("and no full backup is newer; the state at revision {place} can be asked for");
    match (target, gap) {
        (Target::Newest, Some(after)) => Err(format!("the deltas from revision {} to {after} are missing, {hint}", place + 1)),
        (Target::Newest, None) if lost.is_some() => {
            Err(format!("the file of deltas before the one from revision {} on is missing, {hint}", lost.unwrap_or_default()))
        }
        (_, Some(after)) if !reached => Err(format!("the deltas from revision {} to {after} are missing", place + 1)),
        (Target::Revision(wanted), _) if !reached => Err(format!("the deltas end at revision {place}, before {wanted}")),
        _ => Ok(Plan { full, segments: chosen }),
    }
}

/// The revision after which the files of a cluster's deltas follow one another without a gap up to the newest, and the newest file: the
/// one that the next is to follow.
pub fn run(segments: &[Segment], cluster: &str) -> Option<(i64, Segment)> {
    let branches = Branches::new(segments, cluster).all(i64::MIN);
    let (begin, last) = branches
        .iter()
        .filter_map(|branch| Some((branch.len(), branch[0].after, *branch.last()?)))
        .max_by_key(|(length, _, last)| (last.revision, last.time_ms, *length))
        .map(|(_, begin, last)| (begin, last))?;
    Some((begin, last.clone()))
}

/// The revision after which files follow one another without a gap up to the one whose content has this hash; none when that is not
/// there.
pub fn since(segments: &[Segment], cluster: &str, hash: &[u8]) -> Option<i64> {
    let branches = Branches::new(segments, cluster);
    let mut file = *branches.by_hash.get(hash_letters(hash).as_str())?;
    // Names can lie; a circle of them must end.
    for _ in 0..branches.files.len() {
        match branches.before(file) {
            Some(before) => file = before,
            None => break,
        }
    }
    Some(file.after)
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

    /// A file of that content whose hash begins with `own`, which follows the one whose hash begins with `previous`.
    fn linked(cluster: &str, (after, revision): (i64, i64), previous: u64, own: u64) -> Segment {
        let hash = |number: u64| if number == 0 { Vec::new() } else { number.to_be_bytes().to_vec() };
        let name = segment_name(FOLDER, cluster, (after, revision, revision * 10), &hash(previous), &hash(own));
        segment(FOLDER, &name).unwrap()
    }

    /// The first file of a run.
    fn file(cluster: &str, after: i64, revision: i64) -> Segment {
        linked(cluster, (after, revision), 0, (after * 1000 + revision).cast_unsigned() + 1)
    }

    /// Files that follow one another.
    fn chain(cluster: &str, places: &[i64]) -> Vec<Segment> {
        let number = |at: usize| if at == 0 { 0 } else { 1 << 40 | at as u64 };
        let pairs = places.windows(2).enumerate();
        pairs.map(|(at, pair)| linked(cluster, (pair[0], pair[1]), number(at), number(at + 1))).collect()
    }

    #[track_caller]
    fn check(target: Target, named: Option<&str>, wanted: Result<(&str, &[i64]), &str>) {
        let fulls = vec![full("a1", "a", 10, 100), full("a2", "a", 30, 300), full("b1", "b", 1000, 500)];
        let files = [chain("a", &[5, 12, 20, 35, 35]), vec![file("a", 40, 50), file("b", 990, 1005)]].concat();
        let found = without(fulls, named, |_| false).and_then(|fulls| plan(fulls, &files, target));
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
        // Nobody is given less than there is without a word.
        check(Target::Newest, Some("a1"), Err("from revision 36 to 40 are missing"));
        check(Target::Time(299), Some("a1"), Ok(("a1", &[12, 20, 35])));
        check(Target::Time(150), None, Ok(("a1", &[12, 20])));
        check(Target::Time(99), None, Err("100 ms"));
        check(Target::Newest, Some("x"), Err("no manifest"));
        assert!(plan(vec![], &[], Target::Newest).is_err());
    }

    /// Without a full backup that cannot be used the one before it is begun with, and the deltas from there on.
    #[test]
    fn unusable_fulls() {
        let fulls = || vec![full("a1", "a", 10, 100), full("a2", "a", 30, 300), full("b1", "b", 20, 250)];
        let files = chain("a", &[5, 12, 20, 35]);
        let found = |named| {
            let fulls = without(fulls(), named, |name| name == "a2")?;
            plan(fulls, &files, Target::Revision(33)).map(|plan| (plan.full.name, plan.segments.len()))
        };
        assert_eq!(found(Some("a2")), Ok(("a1".into(), 3)));
        assert!(found(None).is_err_and(|e| e.contains("end at revision 20")), "of another cluster, and newer");
        assert!(found(Some("x")).is_err());
    }

    /// Agents that begin anew on a quiet history write files of the same range; each is there, and they are followed in order. What
    /// somebody wrote beside them from the same file on is a branch of its own.
    #[test]
    fn branches() {
        let fulls = || vec![full("a1", "a", 10, 100)];
        let mut files = vec![linked("a", (10, 20), 0, 7), linked("a", (20, 20), 7, 9), linked("a", (20, 20), 9, 8)];
        let owns = |plan: Plan| plan.segments.iter().map(|file| u64::from_str_radix(&file.own, 16).unwrap()).collect::<Vec<_>>();
        assert_eq!(plan(fulls(), &files, Target::Newest).map(owns), Ok(vec![7, 9, 8]));
        files.extend([linked("a", (20, 30), 8, 1), linked("a", (20, 25), 9, 2), linked("a", (30, 40), 1, 3)]);
        assert_eq!(plan(fulls(), &files, Target::Newest).map(owns), Ok(vec![7, 9, 8, 1, 3]));
        assert_eq!(plan(fulls(), &files, Target::Revision(35)).map(owns), Ok(vec![7, 9, 8, 1, 3]));
        assert_eq!(plan(fulls(), &files, Target::Revision(20)).map(owns), Ok(vec![7, 9, 8]));
        // One that was lost is missed, though others cover the same revisions.
        files.retain(|file| file.own != "0000000000000008");
        assert!(
            plan(fulls(), &files, Target::Newest).is_err_and(|e| e.contains("from revision 20 on") && e.contains("at revision 25"))
        );
        assert_eq!(plan(fulls(), &files, Target::Revision(25)).map(owns), Ok(vec![7, 9, 2]));
        assert!(plan(fulls(), &files, Target::Revision(35)).is_err_and(|e| e.contains("25")));
        // Names that lead in a circle end.
        let circle = [linked("a", (10, 10), 5, 6), linked("a", (10, 10), 6, 5)];
        assert_eq!(plan(fulls(), &circle, Target::Newest).map(owns), Ok(vec![]));
    }

    /// Of a cluster that was put back and kept its id, the deltas of the history that it left are not taken for what followed.
    #[test]
    fn histories_that_were_left() {
        let at = |(after, revision): (i64, i64), time_ms: i64, previous: u64, own: u64| {
            let hash = |number: u64| if number == 0 { Vec::new() } else { number.to_be_bytes().to_vec() };
            let name = segment_name(FOLDER, "a", (after, revision, time_ms), &hash(previous), &hash(own));
            segment(FOLDER, &name).unwrap()
        };
        // Written up to 100, put back to 50, written up to 70 again.
        let files = [at((40, 55), 550, 0, 1), at((55, 100), 1000, 1, 2), at((50, 60), 1100, 0, 3), at((60, 70), 1200, 3, 4)];
        let fulls = || vec![full("before", "a", 40, 400), full("after", "a", 52, 1050)];
        let found = |target| {
            let plan = plan(fulls(), &files, target).unwrap();
            (plan.full.name, plan.segments.iter().map(|file| (file.revision, file.time_ms)).collect::<Vec<_>>())
        };
        assert_eq!(found(Target::Newest), ("after".into(), vec![(60, 1100), (70, 1200)]));
        assert_eq!(found(Target::Revision(65)), ("after".into(), vec![(60, 1100), (70, 1200)]));
        assert_eq!(found(Target::Time(900)), ("before".into(), vec![(55, 550), (100, 1000)]));
    }

    /// Names lead back to what they were made from; foreign names to nothing.
    #[test]
    fn names() {
        let found = file("00ab", 7, 9);
        assert_eq!((found.after, found.revision, found.time_ms, found.cluster.as_str()), (7, 9, 90, "00ab"));
        for name in
            ["lab/ns/kv/u/deltas/a/1-2-3-4-5.segment", "lab/ns/kv/u/deltas/x.segment", "other/deltas/a/1.segment", "lab/ns/kv/u/x"]
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
        let mut files = [chain("a", &[5, 12, 20]), vec![file("a", 25, 30), file("a", 28, 40), file("b", 1, 99)]].concat();
        let (begin, last) = run(&files, "a").unwrap();
        assert_eq!((begin, last.revision), (25, 40));
        // Of two that end at the same place the one is gone on from that the other is followed by.
        files.extend([linked("a", (40, 40), 28_041, 3), linked("a", (40, 40), 3, 2), linked("a", (40, 40), 28_041, 9)]);
        assert_eq!(run(&files, "a").unwrap().1.own, "0000000000000002");
        // Each branch is as long as it is by itself.
        let of = |own: u64| since(&files, "a", &own.to_be_bytes());
        assert_eq!((of(2), of(9), of(1 << 40 | 2), of(77)), (Some(25), Some(25), Some(5), None));
        assert_eq!(run(&files, "c"), None);
    }

    /// Deltas go with the full backups they lead from: a kept full backup keeps all that follows it, whatever else is there.
    #[test]
    fn pruning() {
        let files = [chain("a", &[5, 12, 20, 35]), vec![file("b", 1, 9), file("c", 1, 9)]].concat();
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
