//! A restore: the full backup and the deltas that lead to the wanted state, fetched and checked, then given to the server's program,
//! which makes a member of them.

use std::path::{Path, PathBuf};

use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;

use super::chain::{self, Plan, Target};
use super::store::Store;
use super::{Error, Source, Tail, io};

/// Far more writes than a cluster does between a backup and its loss; revisions beyond it were never given out.
pub const REVISION_BUMP: i64 = 1_000_000_000;

/// The member that is made.
pub struct Member<'a> {
    /// Its data directory.
    pub data_dir: &'a Path,
    /// Its name.
    pub name: &'a str,
    /// Its peer URL.
    pub peer_url: &'a str,
    /// The new cluster's token.
    pub token: &'a str,
    /// The server's program.
    pub server: &'a Path,
}

/// The last words of a restore.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Restored {
    /// The revision whose state it is; what clients see is higher.
    pub revision: i64,
    /// The full backup it began with.
    pub full: String,
    /// Files of deltas after it.
    pub deltas: usize,
    /// Newer full backups that could not be used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passed_over: Vec<String>,
}

/// What is fetched, and how far it goes.
struct Wanted {
    full: String,
    segments: Vec<String>,
    target: Option<Target>,
    revision: i64,
    /// What the full backup's manifest says of its content, where it was looked at.
    sha256: Option<String>,
}

/// Files of deltas that are fetched at the same time.
const AT_ONCE: usize = 8;
/// Room that a volume must have for each byte of a full backup, to take it and the store that is made of it.
const ROOM: u64 = 3;

/// Where what is fetched lies until a member is made of it.
struct Shelf {
    file: PathBuf,
    folder: PathBuf,
}

impl Shelf {
    fn beside(data_dir: &Path) -> Self {
        Self { file: data_dir.with_extension("snapshot"), folder: data_dir.with_extension("deltas") }
    }

    /// Beside the member if there is room for both, or else where there is more: a volume is sized for the store alone.
    fn choose(data_dir: &Path, size: u64) -> Self {
        let (near, far) =
            (Self::beside(data_dir), Self::beside(&std::env::temp_dir().join(format!("restore-{}", std::process::id()))));
        let free =
            |shelf: &Self| shelf.file.parent().and_then(|folder| rustix::fs::statvfs(folder).ok()).map(|s| s.f_bavail * s.f_frsize);
        match (free(&near), free(&far)) {
            (Some(here), Some(there)) if here < size.saturating_mul(ROOM) && there > here => far,
            _ => near,
        }
    }

    /// Nothing of this or an earlier try is left: what is fetched is in the clear, and takes the member's room.
    async fn clear(&self) {
        let _ = tokio::fs::remove_file(&self.file).await;
        let _ = tokio::fs::remove_dir_all(&self.folder).await;
    }
}

/// Restores a cluster's data, its revision raised by `bump`, far above any that was given out.
///
/// # Errors
/// When something is missing, damaged or refused; no member is made then.
pub async fn restore(store: &Store, source: &Source, member: &Member<'_>, bump: i64) -> Result<Restored, Error> {
    // An earlier try of this Job may have come to its end without being heard; a member's folder is whole once it is there.
    if member.data_dir.join("member").exists() {
        Shelf::beside(member.data_dir).clear().await;
        return Ok(Restored::default());
    }
    let bump = ["--bump-revision", &bump.to_string(), "--mark-compacted"];
    fetch_and_make(store, source, &[], member, &bump).await
}

/// Fetches what the source names and makes a member of it, with further flags for the server's program. Full backups in `without` are
/// not begun with.
///
/// A full backup that a plan chose and that turns out to be unusable is passed over for the one before it, where there is one and the
/// deltas lead on from there: they are kept as long as any full backup is.
pub(super) async fn fetch_and_make(
    store: &Store,
    source: &Source,
    without: &[String],
    member: &Member<'_>,
    flags: &[&str],
) -> Result<Restored, Error> {
    let mut bad = Bad::new(without);
    loop {
        let wanted = bad.find(store, source).await?;
        Shelf::beside(member.data_dir).clear().await;
        let shelf = Shelf::choose(member.data_dir, store.size(&wanted.full).await?);
        shelf.clear().await;
        let made = async {
            fetch_full(store, &wanted, &shelf.file).await.map_err(Failed::Full)?;
            fetch_segments(store, &wanted.segments, &shelf.folder).await.map_err(Failed::Else)?;
            make(member, &shelf, &wanted, flags).await.map_err(Failed::Else)
        };
        let made = made.await;
        shelf.clear().await;
        match made {
            Ok(reached) => {
                let revision = reached.unwrap_or(wanted.revision);
                return Ok(Restored { revision, full: wanted.full, deltas: wanted.segments.len(), passed_over: bad.passed_over() });
            }
            Err(Failed::Full(error)) => bad.pass_over(wanted, error)?,
            Err(Failed::Else(error)) => return Err(error),
        }
    }
}

/// Whether a plan leads to this source without these full backups.
pub(super) async fn is_reachable(store: &Store, source: &Source, without: &[String]) -> Result<bool, Error> {
    match Bad::new(without).find(store, source).await {
        Ok(_) => Ok(true),
        Err(Error::Refuted(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Reads all that a restore of this source would read, and checks it: the object is there and whole, can be decrypted, and so is each
/// file of deltas that leads to the wanted state.
///
/// # Errors
/// What is not there or damaged.
pub async fn look(store: &Store, source: &Source) -> Result<Restored, Error> {
    let mut bad = Bad::new(&[]);
    loop {
        let wanted = bad.find(store, source).await?;
        if let Err(error) = read_full(store, &wanted, async |_: &[u8]| Ok(())).await {
            bad.pass_over(wanted, error)?;
            continue;
        }
        let mut read = futures::stream::iter(wanted.segments.iter().map(|name| fetch_segment(store, name))).buffered(AT_ONCE);
        while read.try_next().await?.is_some() {}
        drop(read);
        let (revision, deltas) = (wanted.revision, wanted.segments.len());
        return Ok(Restored { revision, full: wanted.full, deltas, passed_over: bad.passed_over() });
    }
}

/// What failed: the full backup, or anything else.
enum Failed {
    Full(Error),
    Else(Error),
}

/// Full backups that are not begun with: those that the caller names, and those that turned out to be unusable.
struct Bad<'a> {
    without: &'a [String],
    found: Vec<(String, Error)>,
}

impl<'a> Bad<'a> {
    fn new(without: &'a [String]) -> Self {
        Self { without, found: Vec::new() }
    }

    /// The way to what is wanted.
    async fn find(&self, store: &Store, source: &Source) -> Result<Wanted, Error> {
        let unusable = |name: &String| self.without.contains(name) || self.found.iter().any(|(bad, _)| bad == name);
        match find(store, source, unusable).await {
            // The first reason is the one that counts: without it there would have been a way.
            Err(error @ Error::Refuted(_)) => match self.found.first() {
                Some((_, first)) => Err(Error::Refuted(format!("{first}; and without it: {error}"))),
                None => Err(error),
            },
            other => other,
        }
    }

    /// Goes on without this full backup, if it was a plan that chose it and the backup is what is wrong.
    fn pass_over(&mut self, wanted: Wanted, error: Error) -> Result<(), Error> {
        if wanted.target.is_none() || !error.refutes() {
            return Err(error);
        }
        tracing::warn!(full = wanted.full, %error, "a full backup cannot be used: the one before it is tried");
        self.found.push((wanted.full, error));
        Ok(())
    }

    fn passed_over(self) -> Vec<String> {
        self.found.into_iter().map(|(name, _)| name).collect()
    }
}

/// What is not there is told by its name alone.
fn absent(name: &str, error: Error) -> Error {
    match error {
        Error::Store(object_store::Error::NotFound { .. }) => Error::Refuted(format!("there is no object {name} in the store")),
        other => other,
    }
}

async fn find(store: &Store, source: &Source, unusable: impl Fn(&String) -> bool) -> Result<Wanted, Error> {
    let target = match (source.revision, source.time) {
        (Some(revision), _) => Some(Target::Revision(revision)),
        (None, Some(time)) => Some(Target::Time(time.as_millisecond())),
        (None, None) => source.object.ends_with('/').then_some(Target::Newest),
    };
    let Some(target) = target else {
        return Ok(Wanted { full: source.object.clone(), segments: Vec::new(), target: None, revision: 0, sha256: None });
    };
    let (fulls, segments) = store.list(chain::folder(&source.object)).await?;
    let named = Some(source.object.as_str()).filter(|name| !name.ends_with('/'));
    let fulls = chain::without(fulls, named, unusable).map_err(Error::Refuted)?;
    let Plan { full, segments } = chain::plan(fulls, &segments, target).map_err(Error::Refuted)?;
    tracing::info!(full = full.name, revision = full.manifest.revision, deltas = segments.len(), "what leads to the wanted state");
    Ok(Wanted {
        revision: full.manifest.revision,
        full: full.name,
        segments: segments.into_iter().map(|segment| segment.name).collect(),
        target: Some(target),
        sha256: Some(full.manifest.sha256).filter(|digest| !digest.is_empty()),
    })
}

/// Reads a full backup to its end, and checks it.
async fn read_full(store: &Store, wanted: &Wanted, mut take: impl AsyncFnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error> {
    let object = &wanted.full;
    let mut digest = Tail::default();
    let read = store.read(object, async |piece| {
        digest.take(piece);
        take(piece).await
    });
    read.await.map_err(|error| absent(object, error))?;
    let found = digest.verify().map_err(|error| Error::Refuted(format!("{object}: {error}")))?;
    match &wanted.sha256 {
        Some(told) if *told != found => {
            Err(Error::Refuted(format!("{object} is not what its manifest tells of: its digest is {found}")))
        }
        _ => Ok(()),
    }
}

async fn fetch_full(store: &Store, wanted: &Wanted, file: &Path) -> Result<(), Error> {
    let shown = file.display().to_string();
    let mut out = tokio::fs::File::create(file).await.map_err(io(&shown))?;
    read_full(store, wanted, async |piece: &[u8]| out.write_all(piece).await.map_err(io(&shown))).await?;
    out.sync_all().await.map_err(io(&shown))
}

async fn fetch_segments(store: &Store, names: &[String], folder: &Path) -> Result<(), Error> {
    if names.is_empty() {
        return Ok(());
    }
    tokio::fs::create_dir_all(folder).await.map_err(io(folder.display().to_string()))?;
    let fetched = names.iter().map(|name| fetch_segment(store, name));
    let mut fetched = futures::stream::iter(fetched).buffered(AT_ONCE).enumerate();
    while let Some((at, content)) = fetched.next().await {
        let file: PathBuf = folder.join(format!("{at:08}.segment"));
        tokio::fs::write(&file, content?).await.map_err(io(file.display().to_string()))?;
    }
    Ok(())
}

async fn fetch_segment(store: &Store, name: &str) -> Result<Vec<u8>, Error> {
    let content = store.get(name).await.map_err(|error| absent(name, error))?;
    // Named here, because the server knows it by another name.
    quorate_client::proto::segment::decode(&content).map_err(|error| Error::Refuted(format!("{name} {error}")))?;
    Ok(content)
}

/// The exit code of the server's program for data that cannot be used.
pub(super) const WRONG_DATA: i32 = 4;

async fn make(member: &Member<'_>, shelf: &Shelf, wanted: &Wanted, flags: &[&str]) -> Result<Option<i64>, Error> {
    let Member { data_dir, name, peer_url, token, server } = member;
    let mut command = tokio::process::Command::new(server);
    command
        .args(["snapshot", "restore"])
        .arg(&shelf.file)
        .arg(format!("--data-dir={}", data_dir.display()))
        .args([format!("--name={name}"), format!("--initial-cluster={name}={peer_url}")])
        .args([format!("--initial-cluster-token={token}"), format!("--initial-advertise-peer-urls={peer_url}")])
        .args(flags)
        .kill_on_drop(true);
    if !wanted.segments.is_empty() {
        command.arg(format!("--delta={}", shelf.folder.display()));
    }
    match wanted.target {
        Some(Target::Revision(revision)) => drop(command.arg(format!("--to-revision={revision}"))),
        Some(Target::Time(time_ms)) => {
            let time = jiff::Timestamp::from_millisecond(time_ms).map_err(|error| Error::Refused(error.to_string()))?;
            command.arg(format!("--to-time={time}"));
        }
        Some(Target::Newest) | None => {}
    }
    let output = command.output().await.map_err(io(server.display().to_string()))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr).trim().to_string();
        return Err(match output.status.code() {
            Some(WRONG_DATA) => Error::Refuted(words),
            _ => Error::Refused(words),
        });
    }
    Ok(reached(&String::from_utf8_lossy(&output.stdout)))
}

/// The revision that the program's words name.
fn reached(words: &str) -> Option<i64> {
    let rest = words.trim().rsplit_once(": revision ")?.1;
    rest.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The revision is read off the program's words, whatever the file's name is.
    #[test]
    fn words() {
        assert_eq!(reached("restored /a: revision b into /c: revision 17 with 3 files of deltas\n"), Some(17));
        assert_eq!(reached("restored /a into /c"), None);
    }
}
