//! A full backup: a member's snapshot as an object, a manifest beside it, and what it makes superfluous.
//!
//! The manifest records what a restore of it must show: the exact revision, which the snapshot itself tells, HashKV and the number of
//! keys at it, asked of the same member. A compaction may hide the revision before it could be asked about; then everything is done
//! again.
//!
//! A backup that has its manifest is done: whoever is asked to take it once more, since nobody heard the first, says what it says.

use std::path::Path;
use std::time::Duration;

use prost::Message;
use quorate_client::Client;
use quorate_client::proto::etcdserverpb as pb;
use quorate_client::proto::state::SnapshotHeader;
use serde::{Deserialize, Serialize};

use super::chain::{self, Manifest};
use super::store::Store;
use super::{Error, Tail, client, told_to_stop};

/// How often a backup is begun when compactions come in between.
const TRIES: usize = 5;
/// What comes before the header in a snapshot: eight letters and a version, then a frame's head.
const PREAMBLE: usize = 12;
const FRAME_HEAD: usize = 9;
/// No header is longer.
const LONGEST_HEADER: usize = 4096;

/// How many older backups are deleted at once.
const TOLD: usize = 16;
/// The longest that a member may take to hash its history, or to begin a snapshot: it reads everything once.
pub(super) const READ_ALL: Duration = Duration::from_secs(1800);

/// The last words of a backup that succeeded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Taken {
    /// What is known of it.
    #[serde(flatten)]
    pub manifest: Manifest,
    /// Objects of older backups that are gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deleted: Vec<String>,
}

/// Takes one.
///
/// # Errors
/// When the member or the store refuses; no object is left then.
pub async fn backup(
    store: &Store,
    object: &str,
    endpoint: &str,
    tls: Option<&Path>,
    schedule: Option<String>,
) -> Result<Manifest, Error> {
    match store.manifest(object).await {
        Ok(Some(manifest)) => {
            tracing::info!(object, "the backup was taken already");
            return Ok(manifest);
        }
        Ok(None) => {}
        Err(error) if error.refutes() => tracing::warn!(object, %error, "the backup is taken anew"),
        Err(error) => return Err(error),
    }
    let client = client(&[endpoint.to_string()], tls)?;
    for _ in 0..TRIES {
        if let Some(mut manifest) = copy(&client, store, object).await? {
            manifest.schedule = schedule;
            manifest.key = store.key_id();
            store.put_manifest(object, &manifest).await?;
            return Ok(manifest);
        }
    }
    Err(Error::Refused("compactions follow too fast on one another: the state of the backup was never there to be hashed".into()))
}

/// One try; none when the revision was compacted before it was hashed.
async fn copy(client: &Client, store: &Store, object: &str) -> Result<Option<Manifest>, Error> {
    // A quorum's word first: what was acknowledged before this moment has been applied by the member that is asked next.
    client.range(pb::RangeRequest { key: vec![0].into(), limit: 1, ..Default::default() }).await?;
    let status = client.status(pb::StatusRequest {}).await?;
    // A member that went meanwhile would be dialled for ever.
    let open = tokio::time::timeout(READ_ALL, client.snapshot(pb::SnapshotRequest {}));
    let mut pieces = open.await.map_err(|_| Error::Member(quorate_client::Error::Timeout))??;
    let mut upload = store.create(object)?;
    let copied = async {
        let (mut digest, mut size, mut head) = (Tail::default(), 0i64, Vec::new());
        let mut seen: Option<Option<Seen>> = None;
        while let Some(piece) = pieces.message().await.map_err(|status| Error::Refused(status.to_string()))? {
            if seen.is_none() {
                head.extend_from_slice(&piece.blob);
                if let Some(header) = header(&head)? {
                    seen = Some(look(client, &header).await?);
                }
            }
            if matches!(seen, Some(None)) {
                return Ok(None);
            }
            digest.take(&piece.blob);
            size += i64::try_from(piece.blob.len()).unwrap_or(i64::MAX);
            upload.write(&piece.blob).await?;
        }
        let seen = seen.flatten().ok_or_else(|| Error::Damaged("it ended early".into()))?;
        Ok::<_, Error>(Some((digest.verify()?, size, seen)))
    };
    let copied = async {
        tokio::select! {
            copied = copied => copied,
            told = told_to_stop() => told.and(Err(Error::Refused("told to stop".into()))),
        }
    };
    let (sha256, size, seen) = match copied.await {
        Ok(Some(copied)) => copied,
        other => {
            // Nothing of it becomes an object.
            upload.abort().await;
            return other.map(|_| None);
        }
    };
    upload.finish().await?;
    Ok(Some(Manifest {
        revision: seen.revision,
        time_ms: seen.time_ms,
        cluster_id: format!("{:016x}", seen.cluster),
        version: status.version,
        size,
        sha256,
        hash: seen.hash,
        compacted: seen.compacted,
        keys: seen.keys,
        schedule: None,
        key: None,
    }))
}

struct Seen {
    revision: i64,
    time_ms: i64,
    cluster: u64,
    hash: u32,
    compacted: i64,
    keys: i64,
}

/// The header of a snapshot, once enough of its beginning is there.
fn header(head: &[u8]) -> Result<Option<SnapshotHeader>, Error> {
    let Some(frame) = head.get(PREAMBLE..PREAMBLE + FRAME_HEAD) else { return Ok(None) };
    let length = u32::from_le_bytes(frame[1..5].try_into().expect("four bytes")) as usize;
    if length > LONGEST_HEADER {
        return Err(Error::Damaged("its header is too long".into()));
    }
    let Some(body) = head.get(PREAMBLE + FRAME_HEAD..PREAMBLE + FRAME_HEAD + length) else { return Ok(None) };
    SnapshotHeader::decode(body).map(Some).map_err(|error| Error::Damaged(format!("its header: {error}")))
}

/// What a restore must show; none when the revision is compacted already.
async fn look(client: &Client, header: &SnapshotHeader) -> Result<Option<Seen>, Error> {
    let client = &client.timeout(Some(READ_ALL));
    let applied = header.applied.clone().unwrap_or_default();
    let revision = applied.revision;
    // Of a revision that was compacted at itself a member may remember the hash from before; of the newest it never does.
    let newest = client.hash_kv(pb::HashKvRequest { revision: 0 }).await?;
    let everything = pb::RangeRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        revision,
        count_only: true,
        serializable: true,
        ..Default::default()
    };
    let asked = async {
        let hash = match newest.hash_revision == revision {
            true => newest,
            false => client.hash_kv(pb::HashKvRequest { revision }).await?,
        };
        Ok((hash, client.range(everything).await?.count))
    };
    let (hash, keys) = match asked.await {
        Ok(asked) => asked,
        Err(quorate_client::Error::Server { message, .. }) if message.contains("compacted") => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if hash.compact_revision < newest.compact_revision {
        return Ok(None);
    }
    Ok(Some(Seen {
        revision,
        time_ms: applied.time_ms,
        cluster: header.cluster,
        hash: hash.hash,
        compacted: hash.compact_revision,
        keys,
    }))
}

/// Deletes the full backups that were superseded and, for a schedule that keeps deltas, those that lead from none any more. The new
/// backup is safe, so what cannot be deleted, because it is locked, is told and left. Returns which full backups are gone.
pub async fn tidy(store: &Store, object: &str, delete: &[String], schedule: Option<&str>) -> Vec<String> {
    let mut deleted = Vec::new();
    for old in delete.iter().take(TOLD) {
        // The manifest first: an object without one is not looked at, one with a manifest is relied upon.
        let gone = async {
            store.delete(&chain::manifest_name(old)).await?;
            store.delete(old).await
        };
        match gone.await {
            Ok(()) => deleted.push(old.clone()),
            Err(error) => tracing::warn!(object = old, %error, "cannot delete an old backup"),
        }
    }
    let Some(schedule) = schedule else { return deleted };
    let superfluous = match store.list(chain::folder(object)).await {
        Ok((fulls, segments)) => chain::superfluous(&fulls, &segments, schedule),
        Err(error) => {
            tracing::warn!(%error, "cannot list the store, so old deltas stay");
            return deleted;
        }
    };
    for (name, error) in store.delete_all(&superfluous).await {
        tracing::warn!(object = name, %error, "cannot delete old deltas");
    }
    deleted
}
