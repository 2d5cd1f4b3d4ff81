//! A restore: the full backup and the deltas that lead to the wanted state, fetched and checked, then given to the server's program,
//! which makes a member of them.

use std::path::{Path, PathBuf};

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
}

/// What is fetched, and how far it goes.
struct Wanted {
    full: String,
    segments: Vec<String>,
    target: Option<Target>,
    revision: i64,
}

/// Restores a cluster's data, its revision raised by `bump`, far above any that was given out.
///
/// # Errors
/// When something is missing, damaged or refused; no member is made then.
pub async fn restore(store: &Store, source: &Source, member: &Member<'_>, bump: i64) -> Result<Restored, Error> {
    // An earlier try of this Job may have come to its end without being heard; a member's folder is whole once it is there.
    if member.data_dir.join("member").exists() {
        return Ok(Restored::default());
    }
    let bump = ["--bump-revision", &bump.to_string(), "--mark-compacted"];
    fetch_and_make(store, source, member, &bump).await
}

/// Fetches what the source names and makes a member of it, with further flags for the server's program.
pub(super) async fn fetch_and_make(store: &Store, source: &Source, member: &Member<'_>, flags: &[&str]) -> Result<Restored, Error> {
    let wanted = find(store, source).await?;
    let (file, folder) = (member.data_dir.with_extension("snapshot"), member.data_dir.with_extension("deltas"));
    let made = async {
        fetch_full(store, &wanted.full, &file).await?;
        fetch_segments(store, &wanted.segments, &folder).await?;
        make(member, &file, &folder, &wanted, flags).await
    };
    let made = made.await;
    let _ = tokio::fs::remove_file(&file).await;
    let _ = tokio::fs::remove_dir_all(&folder).await;
    let revision = made?.unwrap_or(wanted.revision);
    Ok(Restored { revision, full: wanted.full, deltas: wanted.segments.len() })
}

/// Reads all that a restore of this source would read, and checks it: the object is there and whole, can be decrypted, and so is each
/// file of deltas that leads to the wanted state.
///
/// # Errors
/// What is not there or damaged.
pub async fn look(store: &Store, source: &Source) -> Result<Restored, Error> {
    let wanted = find(store, source).await?;
    let mut digest = Tail::default();
    let read = store.read(&wanted.full, async |piece| {
        digest.take(piece);
        Ok(())
    });
    read.await.map_err(|error| absent(&wanted.full, error))?;
    digest.verify().map_err(|error| Error::Refused(format!("{}: {error}", wanted.full)))?;
    for name in &wanted.segments {
        fetch_segment(store, name).await?;
    }
    Ok(Restored { revision: wanted.revision, full: wanted.full, deltas: wanted.segments.len() })
}

/// What is not there is told by its name alone.
fn absent(name: &str, error: Error) -> Error {
    match error {
        Error::Store(object_store::Error::NotFound { .. }) => Error::Refused(format!("there is no object {name} in the store")),
        other => other,
    }
}

async fn find(store: &Store, source: &Source) -> Result<Wanted, Error> {
    let target = match (source.revision, source.time) {
        (Some(revision), _) => Some(Target::Revision(revision)),
        (None, Some(time)) => Some(Target::Time(time.as_millisecond())),
        (None, None) => source.object.ends_with('/').then_some(Target::Newest),
    };
    let Some(target) = target else {
        return Ok(Wanted { full: source.object.clone(), segments: Vec::new(), target: None, revision: 0 });
    };
    let (fulls, segments) = store.list(chain::folder(&source.object)).await?;
    let named = Some(source.object.as_str()).filter(|name| !name.ends_with('/'));
    let Plan { full, segments } = chain::plan(fulls, &segments, target, named).map_err(Error::Refused)?;
    tracing::info!(full = full.name, revision = full.manifest.revision, deltas = segments.len(), "what leads to the wanted state");
    Ok(Wanted {
        revision: full.manifest.revision,
        full: full.name,
        segments: segments.into_iter().map(|segment| segment.name).collect(),
        target: Some(target),
    })
}

async fn fetch_full(store: &Store, object: &str, file: &Path) -> Result<(), Error> {
    let shown = file.display().to_string();
    let mut out = tokio::fs::File::create(file).await.map_err(io(&shown))?;
    let mut digest = Tail::default();
    let read = store.read(object, async |piece| {
        digest.take(piece);
        out.write_all(piece).await.map_err(io(&shown))
    });
    read.await.map_err(|error| absent(object, error))?;
    digest.verify().map_err(|error| Error::Refused(format!("{object}: {error}")))?;
    out.sync_all().await.map_err(io(&shown))
}

async fn fetch_segments(store: &Store, names: &[String], folder: &Path) -> Result<(), Error> {
    if names.is_empty() {
        return Ok(());
    }
    tokio::fs::create_dir_all(folder).await.map_err(io(folder.display().to_string()))?;
    for (at, name) in names.iter().enumerate() {
        let content = fetch_segment(store, name).await?;
        let file: PathBuf = folder.join(format!("{at:08}.segment"));
        tokio::fs::write(&file, content).await.map_err(io(file.display().to_string()))?;
    }
    Ok(())
}

async fn fetch_segment(store: &Store, name: &str) -> Result<Vec<u8>, Error> {
    let content = store.get(name).await.map_err(|error| absent(name, error))?;
    // Named here, because the server knows it by another name.
    quorate_client::proto::segment::decode(&content).map_err(|error| Error::Refused(format!("{name} {error}")))?;
    Ok(content)
}

async fn make(member: &Member<'_>, file: &Path, folder: &Path, wanted: &Wanted, flags: &[&str]) -> Result<Option<i64>, Error> {
    let Member { data_dir, name, peer_url, token, server } = member;
    let mut command = tokio::process::Command::new(server);
    command
        .args(["snapshot", "restore"])
        .arg(file)
        .arg(format!("--data-dir={}", data_dir.display()))
        .args([format!("--name={name}"), format!("--initial-cluster={name}={peer_url}")])
        .args([format!("--initial-cluster-token={token}"), format!("--initial-advertise-peer-urls={peer_url}")])
        .args(flags);
    if !wanted.segments.is_empty() {
        command.arg(format!("--delta={}", folder.display()));
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
        return Err(Error::Refused(String::from_utf8_lossy(&output.stderr).trim().to_string()));
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
