//! The proof of a backup: it is restored into a server of its own, on the loopback and thrown away, which is then asked what the member
//! was asked when the backup was taken.
//!
//! Deltas are proved in two ways: what they lead to from here on can be restored; and what leads here, from the full backup before,
//! shows the same as this one.
//!
//! Invariant: an error that refutes the backup ([`Error::refutes`]) says something of what is in the store, and never of the way to it
//! or of the room in which it was tried.

use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use quorate_client::Client;
use quorate_client::proto::etcdserverpb as pb;
use serde::{Deserialize, Serialize};

use super::restore::{Member, WRONG_DATA, fetch_and_make, is_reachable};
use super::store::Store;
use super::take::READ_ALL;
use super::{Error, Restored, Source, client, io};

/// The longest a server may take to serve and to hash what it holds.
const PATIENCE: Duration = Duration::from_secs(300 + READ_ALL.as_secs());

/// What was recorded when the backup was taken.
#[derive(Clone, Debug, clap::Args)]
pub struct Expected {
    /// Its revision
    #[arg(long = "expect-revision", value_name = "N")]
    pub revision: i64,
    /// HashKV at it
    #[arg(long = "expect-hash", value_name = "N")]
    pub hash: u32,
    /// The compaction revision that the hash was taken at
    #[arg(long = "expect-compacted", value_name = "N", allow_hyphen_values = true)]
    pub compacted: i64,
    /// Keys alive
    #[arg(id = "expect_keys", long = "expect-keys", value_name = "N")]
    pub keys: i64,
}

/// The last words of a backup that was proved.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verified {
    /// HashKV, equal to what was recorded.
    pub hash: u32,
    /// Keys alive, as many as were recorded.
    pub keys: i64,
    /// The newest revision that deltas lead to, when they were proved too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain_revision: Option<i64>,
    /// The full backup before it, from which deltas lead to the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub led_from: Option<String>,
}

/// Proves one.
///
/// # Errors
/// What differs, or why it could not be restored.
pub async fn verify(
    store: &Store,
    object: &str,
    expected: &Expected,
    chain: bool,
    scratch: &Path,
    server: &Path,
) -> Result<Verified, Error> {
    let alone = Source { object: object.to_string(), revision: None, time: None };
    let (_, found) = show(store, &alone, &[], &scratch.join("full"), server, expected.compacted).await?;
    found.compare(expected)?;
    // A restore to a revision or time, and every one once Kubernetes' own objects are gone, goes by the manifest.
    let manifest = store.manifest(object).await?.ok_or_else(|| Error::Refuted(format!("{object} has no manifest beside it")))?;
    if (manifest.revision, manifest.hash, manifest.keys) != (expected.revision, expected.hash, expected.keys) {
        return Err(Error::Refuted(format!(
            "the manifest of {object} tells of revision {}, or of other content",
            manifest.revision
        )));
    }
    let mut verified = Verified { hash: found.hash, keys: found.keys, ..Verified::default() };
    if !chain {
        return Ok(verified);
    }
    let folder = super::chain::folder(object);
    let newest = Source { object: folder.to_string(), revision: None, time: None };
    let (restored, found) = show(store, &newest, &[], &scratch.join("newest"), server, 0).await?;
    if found.revision != restored.revision {
        return Err(Error::Refuted(format!(
            "the deltas end at revision {}, but restored they are at {}",
            restored.revision, found.revision
        )));
    }
    verified.chain_revision = Some(restored.revision);
    let (fulls, _) = store.list(folder).await?;
    let later: Vec<String> =
        fulls.into_iter().filter(|full| full.manifest.revision >= expected.revision).map(|full| full.name).collect();
    let here = Source { object: object.to_string(), revision: Some(expected.revision), time: None };
    // The first of a run of deltas has none before it, and the newest may not be in the store yet.
    if is_reachable(store, &here, &later).await? {
        let (restored, found) = show(store, &here, &later, &scratch.join("before"), server, expected.compacted).await?;
        let differs = |error: Error| Error::Refuted(format!("by {} and the deltas after it: {error}", restored.full));
        found.compare_content(expected).map_err(differs)?;
        verified.led_from = Some(restored.full);
    }
    Ok(verified)
}

/// What a restored server shows.
struct Found {
    revision: i64,
    hash: u32,
    compacted: i64,
    keys: i64,
}

impl Found {
    /// The same as was recorded. By deltas a later compaction mark may have come along; then there is no hash to compare with.
    fn compare_content(&self, expected: &Expected) -> Result<(), Error> {
        match self.compacted > expected.compacted {
            true => Self { hash: expected.hash, compacted: expected.compacted, ..*self }.compare(expected),
            false => self.compare(expected),
        }
    }

    fn compare(&self, expected: &Expected) -> Result<(), Error> {
        let told = |what: &str, recorded: &dyn std::fmt::Display, found: &dyn std::fmt::Display| {
            Err(Error::Refuted(format!("the restored {what} is {found}, recorded was {recorded}")))
        };
        if self.revision != expected.revision {
            return told("revision", &expected.revision, &self.revision);
        }
        if self.keys != expected.keys {
            return told("number of keys", &expected.keys, &self.keys);
        }
        if self.compacted != expected.compacted {
            return told("compaction revision", &expected.compacted, &self.compacted);
        }
        if self.hash != expected.hash {
            return told("HashKV", &expected.hash, &self.hash);
        }
        Ok(())
    }
}

/// Restores into an empty folder, without these full backups, starts a server on it and asks. Returns what the restore said, and what
/// was seen.
async fn show(
    store: &Store,
    source: &Source,
    without: &[String],
    folder: &Path,
    server: &Path,
    compacted: i64,
) -> Result<(Restored, Found), Error> {
    tokio::fs::create_dir_all(folder).await.map_err(io(folder.display().to_string()))?;
    let data_dir = folder.join("data");
    let (client_url, peer_url) = (loopback()?, loopback()?);
    let member = Member { data_dir: &data_dir, name: "verify", peer_url: &peer_url, token: "verify", server };
    let restored = fetch_and_make(store, source, without, &member, &[]).await?;
    let log = std::fs::File::create(folder.join("log")).map_err(io("the server's log"))?;
    let mut child = tokio::process::Command::new(server)
        .arg(format!("--data-dir={}", data_dir.display()))
        .arg("--name=verify")
        .args([format!("--listen-client-urls={client_url}"), format!("--advertise-client-urls={client_url}")])
        .args([format!("--listen-peer-urls={peer_url}"), format!("--initial-advertise-peer-urls={peer_url}")])
        .arg(format!("--initial-cluster=verify={peer_url}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .map_err(io(server.display().to_string()))?;
    let client = client(&[client_url], None)?;
    let asked = tokio::select! {
        asked = tokio::time::timeout(PATIENCE, ask(&client, compacted)) => {
            asked.unwrap_or_else(|_| Err(Error::Refused("the restored server did not serve in time".into())))
        }
        ended = child.wait() => {
            let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
            let last = log.lines().next_back().unwrap_or_default();
            let data = ended.as_ref().is_ok_and(|ended| ended.code() == Some(WRONG_DATA));
            let said = format!("the restored server ended ({}): {last}", ended.map_or_else(|e| e.to_string(), |e| e.to_string()));
            Err(if data { Error::Refuted(said) } else { Error::Refused(said) })
        }
    };
    let _ = child.kill().await;
    let _ = tokio::fs::remove_dir_all(folder).await;
    Ok((restored, asked?))
}

async fn ask(client: &Client, compacted: i64) -> Result<Found, Error> {
    let everything = pb::RangeRequest { key: vec![0].into(), range_end: vec![0].into(), count_only: true, ..Default::default() };
    // A linearizable read waits until the server leads.
    let range = loop {
        match client.range(everything.clone()).await {
            Ok(range) => break range,
            Err(quorate_client::Error::Timeout) => continue,
            Err(error) if error.code() == Some(quorate_client::Code::Unavailable) => continue,
            Err(error) => return Err(error.into()),
        }
    };
    let revision = range.header.unwrap_or_default().revision;
    let client = &client.timeout(Some(READ_ALL));
    let mut hash = client.hash_kv(pb::HashKvRequest { revision }).await?;
    // The member may have been compacted between its snapshot and its hash.
    if compacted > hash.compact_revision {
        client.compact(pb::CompactionRequest { revision: compacted, physical: false }).await?;
        hash = client.hash_kv(pb::HashKvRequest { revision }).await?;
    }
    Ok(Found { revision, hash: hash.hash, compacted: hash.compact_revision, keys: range.count })
}

/// An address on the loopback that was free a moment ago; nothing else in the pod listens.
fn loopback() -> Result<String, Error> {
    let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).map_err(io("loopback"))?;
    Ok(format!("http://{address}"))
}
