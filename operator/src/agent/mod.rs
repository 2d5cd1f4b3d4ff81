//! The worker in a pod of its own: takes a backup from a member to a store, puts one into a member's empty volume, proves one, and,
//! for as long as a schedule wants it, keeps what changes in between.
//!
//! In: flags and, for stores, the environment that the pod gives. Out: words in the file that Kubernetes keeps as the pod's last ones,
//! and the exit code; of the long-lived one, a page of its state.
//!
//! [`store`] opens stores, [`seal`] encrypts, [`chain`] knows what lies where, [`take`], [`restore`], [`verify`] and [`deltas`] do the
//! work.
//!
//! Invariants: an object is in the store whole or not at all; its digest was checked while it was written; a volume that holds a
//! member is not touched; only objects whose names were handed in, or that [`chain`] knows as superfluous, are deleted.

pub mod chain;
pub mod deltas;
pub mod restore;
pub mod seal;
pub mod store;
pub mod take;
pub mod verify;

use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate_client::{Client, Config, Pem, TlsConfig};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::signal::unix::{SignalKind, signal};

pub use chain::Manifest;
pub use restore::{REVISION_BUMP, Restored};
pub use store::StoreFlags;
pub use take::Taken;
pub use verify::Verified;

/// Bytes of the digest that ends a snapshot.
const DIGEST: usize = 32;

/// What the agent does.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Work {
    /// From a member to the store
    Backup {
        /// The store
        #[command(flatten)]
        store: StoreFlags,
        /// The object's name
        #[arg(long, value_name = "NAME")]
        object: String,
        /// The member's client URL
        #[arg(long, value_name = "URL")]
        endpoint: String,
        /// A folder with tls.crt, tls.key and ca.crt
        #[arg(long, value_name = "DIR")]
        tls: Option<PathBuf>,
        /// The schedule that wants it
        #[arg(long, value_name = "NAME")]
        schedule: Option<String>,
        /// Also delete deltas that lead on from no full backup any more
        #[arg(long, requires = "schedule")]
        prune_deltas: bool,
        /// Objects to delete once this one is in the store; may be given several times
        #[arg(long, value_name = "NAME")]
        delete: Vec<String>,
    },
    /// From the store to an empty data directory
    Restore {
        /// The store
        #[command(flatten)]
        store: StoreFlags,
        /// What is restored
        #[command(flatten)]
        source: Source,
        /// The member's data directory
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
        /// The member's name
        #[arg(long, value_name = "NAME")]
        name: String,
        /// The member's peer URL
        #[arg(long, value_name = "URL")]
        peer_url: String,
        /// Distinguishes the new cluster from the one that was backed up
        #[arg(long, value_name = "TEXT")]
        token: String,
        /// How far revisions are raised
        #[arg(long, default_value_t = REVISION_BUMP, value_name = "N")]
        bump_revision: i64,
        /// The server's program
        #[arg(long, default_value = "/usr/bin/quorate", value_name = "FILE")]
        server: PathBuf,
    },
    /// Reads all that a restore would read, and checks it; nothing is kept
    Look {
        /// The store
        #[command(flatten)]
        store: StoreFlags,
        /// What would be restored
        #[command(flatten)]
        source: Source,
    },
    /// Restores an object into a server that is thrown away, and compares
    Verify {
        /// The store
        #[command(flatten)]
        store: StoreFlags,
        /// The object's name
        #[arg(long, value_name = "NAME")]
        object: String,
        /// What was recorded when it was taken
        #[command(flatten)]
        expected: verify::Expected,
        /// Also restore the newest state that deltas lead to
        #[arg(long)]
        chain: bool,
        /// An empty folder to work in
        #[arg(long, default_value = "/scratch", value_name = "DIR")]
        scratch: PathBuf,
        /// The server's program
        #[arg(long, default_value = "/usr/bin/quorate", value_name = "FILE")]
        server: PathBuf,
    },
    /// Keeps what changes, until told to stop
    Deltas(deltas::Settings),
}

/// What is restored.
#[derive(Clone, Debug, clap::Args)]
pub struct Source {
    /// The full backup's name, or its folder with a slash at the end for the newest
    #[arg(long, value_name = "NAME")]
    pub object: String,
    /// The state at this revision
    #[arg(long, conflicts_with = "time", value_name = "N")]
    pub revision: Option<i64>,
    /// The newest state at or before this time
    #[arg(long, value_name = "RFC3339")]
    pub time: Option<jiff::Timestamp>,
}

/// Why the work failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The flags do not name a store.
    #[error("name a store by --folder, --bucket, --gcs-bucket or --azure-container")]
    NoStore,
    /// The store refused.
    #[error("store: {}", sentence(&.0.to_string()))]
    Store(#[from] object_store::Error),
    /// An object's name cannot be one.
    #[error("object name: {0}")]
    Name(#[from] object_store::path::Error),
    /// An object could not be decrypted.
    #[error("{object}: {error}")]
    Sealed {
        /// Its name.
        object: String,
        /// Why.
        error: seal::Error,
    },
    /// The keys cannot be used.
    #[error("{0}")]
    Keys(#[from] seal::Error),
    /// The member refused.
    #[error("member: {0}")]
    Member(#[from] quorate_client::Error),
    /// The stream ended early or was altered on the way.
    #[error("the snapshot is damaged: {0}")]
    Damaged(String),
    /// A file or the program.
    #[error("{what}: {}", sentence(&.error.to_string()))]
    Io {
        /// Which.
        what: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// Authorities that are to vouch for the store.
    #[error("the authorities of the store (entry ca.crt of its Secret) cannot be read: {0}")]
    Authorities(String),
    /// The server's program refused, or what is wanted is not there.
    #[error("{0}")]
    Refused(String),
    /// A backup does not hold what it should, whoever looks at it.
    #[error("{0}")]
    Refuted(String),
}

impl Error {
    /// True when it says something of the backup itself, and not of the way to it: trying again would find the same.
    pub fn refutes(&self) -> bool {
        match self {
            Self::Sealed { .. } | Self::Damaged(_) | Self::Refuted(_) => true,
            Self::Store(error) => matches!(error, object_store::Error::NotFound { .. }),
            _ => false,
        }
    }
}

/// The exit code of a proof whose backup does not hold what it should. Every other failure says nothing of the backup.
pub const REFUTED: u8 = 10;
/// Bytes of a pod's last words that Kubernetes keeps.
const KEPT_WORDS: usize = 4096;

/// The longest that a store's own words may be, letters.
const LONGEST: usize = 400;

/// A store's words for people: of an answer in XML what it says is wrong, of everything else one line.
fn sentence(words: &str) -> String {
    let tag = |name: &str| {
        let rest = words.split_once(&format!("<{name}>"))?.1;
        Some(rest.split_once(&format!("</{name}>"))?.0.trim())
    };
    if let (Some(code), message) = (tag("Code"), tag("Message")) {
        return format!("it refuses with {code}: {}", message.unwrap_or("no reason given"));
    }
    words.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(LONGEST).collect()
}

fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
    let what = what.into();
    move |error| Error::Io { what, error }
}

fn words(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("last words are plain data")
}

/// The words of a backup. Of deleted objects only so many are named as there is room for: who reads half of it understands nothing, and
/// what is not named is deleted once more by the next backup.
fn words_of_taken(mut taken: Taken) -> String {
    loop {
        let words = words(&taken);
        if words.len() <= KEPT_WORDS || taken.deleted.pop().is_none() {
            return words;
        }
    }
}

/// Does the work; returns its last words.
///
/// # Errors
/// Why it could not be done.
pub async fn work(work: &Work) -> Result<String, Error> {
    // The library for object stores takes the process' provider; two in one place would each want to be it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // One that keeps deltas writes what it has read before it ends, and one that takes a backup leaves no parts of it behind.
    let stops_itself = matches!(work, Work::Deltas(_) | Work::Backup { .. });
    tokio::select! {
        done = carry_out(work) => done,
        told = told_to_stop(), if !stops_itself => told.and(Err(Error::Refused("told to stop".into()))),
    }
}

async fn carry_out(work: &Work) -> Result<String, Error> {
    match work {
        Work::Backup { store, object, endpoint, tls, schedule, prune_deltas, delete } => {
            let store = store::Store::open(store)?;
            let manifest = take::backup(&store, object, endpoint, tls.as_deref(), schedule.clone()).await?;
            let tidy = take::tidy(&store, object, delete, schedule.as_deref().filter(|_| *prune_deltas));
            // The backup is safe; what is left is for the next one to delete.
            let deleted = tokio::select! { deleted = tidy => deleted, _ = told_to_stop() => Vec::new() };
            Ok(words_of_taken(Taken { manifest, deleted }))
        }
        Work::Restore { store, source, data_dir, name, peer_url, token, bump_revision, server } => {
            let member = restore::Member { data_dir, name, peer_url, token, server };
            Ok(words(&restore::restore(&store::Store::open(store)?, source, &member, *bump_revision).await?))
        }
        Work::Look { store, source } => Ok(words(&restore::look(&store::Store::open(store)?, source).await?)),
        Work::Verify { store, object, expected, chain, scratch, server } => {
            Ok(words(&verify::verify(&store::Store::open(store)?, object, expected, *chain, scratch, server).await?))
        }
        Work::Deltas(settings) => deltas::run(settings).await.map(|()| "stopped".to_string()),
    }
}

/// Kubernetes wants the pod to end. The first process of a container ends by no signal that it does not handle.
///
/// # Errors
/// When signals cannot be heard.
pub async fn told_to_stop() -> Result<(), Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(io("SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(io("SIGINT"))?;
    tokio::select! { _ = terminate.recv() => (), _ = interrupt.recv() => () }
    Ok(())
}

/// A client of these members, with the certificate in the folder.
fn client(endpoints: &[String], tls: Option<&Path>) -> Result<Client, Error> {
    let mut config = Config::new(endpoints.iter().cloned());
    config.timeout = Some(Duration::from_secs(15));
    config.dial_timeout = Duration::from_secs(5);
    config.tls = tls.map(|folder| TlsConfig {
        authorities: Some(Pem::File(folder.join("ca.crt"))),
        identity: Some((Pem::File(folder.join("tls.crt")), Pem::File(folder.join("tls.key")))),
        ..TlsConfig::default()
    });
    Ok(Client::new(config)?)
}

/// Checks a stream whose last bytes are the digest of those before.
#[derive(Default)]
struct Tail {
    digest: Sha256,
    held: Vec<u8>,
}

impl Tail {
    fn take(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
        let sure = self.held.len().saturating_sub(DIGEST);
        self.digest.update(&self.held[..sure]);
        self.held.drain(..sure);
    }

    fn verify(self) -> Result<String, Error> {
        if self.held.len() != DIGEST {
            return Err(Error::Damaged("it ended early".into()));
        }
        let digest = self.digest.finalize();
        if digest[..] != self.held[..] {
            return Err(Error::Damaged("its digest is not that of its content".into()));
        }
        Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// A page that the long-lived agent shows of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The store's cluster id, hexadecimal; empty before a member was reached.
    #[serde(rename = "clusterID")]
    pub cluster_id: String,
    /// The files of deltas in the store follow one another from this revision on.
    pub since: i64,
    /// Up to this one.
    pub revision: i64,
    /// Whatever was acknowledged before this moment is in the store, milliseconds since 1970 by the agent's clock; 0: nothing is yet.
    pub covered_ms: i64,
    /// Files written since the agent started.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What stands in the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(content: &[u8]) -> Vec<u8> {
        [content, &Sha256::digest(content)[..]].concat()
    }

    /// What a store says is told in one line, without the rest of its answer.
    #[test]
    fn sentences() {
        let answer = "Client error with status 403 Forbidden: <?xml version=\"1.0\"?>\n<Error><Code>SignatureDoesNotMatch</Code><Message>The \
            signature does not match.</Message><StringToSign>41 57</StringToSign></Error>";
        assert_eq!(sentence(answer), "it refuses with SignatureDoesNotMatch: The signature does not match.");
        assert_eq!(sentence("error sending\n  request"), "error sending request");
        // What is uploaded piece by piece fails as a file does.
        let upload = io("store")(std::io::Error::other(answer)).to_string();
        assert_eq!(upload, "store: it refuses with SignatureDoesNotMatch: The signature does not match.");
        assert_eq!(sentence(&"x".repeat(1000)).len(), LONGEST);
    }

    /// Last words are never longer than what Kubernetes keeps of them.
    #[test]
    fn words_that_are_kept() {
        let name = format!("{}.snapshot", "n".repeat(300));
        let manifest = Manifest { sha256: "0".repeat(64), schedule: Some("s".repeat(40)), ..Manifest::default() };
        let said = words_of_taken(Taken { manifest: manifest.clone(), deleted: vec![name.clone(); 16] });
        assert!(said.len() <= KEPT_WORDS);
        let heard: Taken = serde_json::from_str(&said).unwrap();
        assert!(heard.manifest == manifest && (8..16).contains(&heard.deleted.len()));
    }

    /// What is wrong with a backup is told from what is wrong with the way to it.
    #[test]
    fn verdicts() {
        let gone = object_store::Error::NotFound { path: "x".into(), source: "gone".into() };
        let busy = object_store::Error::Generic { store: "S3", source: "503".into() };
        assert!(Error::from(gone).refutes() && Error::Damaged("x".into()).refutes() && Error::Refuted("x".into()).refutes());
        assert!(!Error::from(busy).refutes() && !Error::NoStore.refutes() && !Error::Refused("x".into()).refutes());
        assert!(!io("scratch")(std::io::ErrorKind::StorageFull.into()).refutes());
    }

    /// The digest is checked however the stream is cut, and damage anywhere is found.
    #[test]
    fn digests() {
        let whole = snapshot(b"content of a store");
        for cut in 1..whole.len() {
            let mut tail = Tail::default();
            whole.chunks(cut).for_each(|piece| tail.take(piece));
            assert_eq!(tail.verify().unwrap().len(), 64);
        }
        for at in 0..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 1;
            let mut tail = Tail::default();
            tail.take(&bad);
            assert!(tail.verify().is_err());
        }
        let mut short = Tail::default();
        short.take(&whole[..DIGEST - 1]);
        assert!(matches!(short.verify(), Err(Error::Damaged(_))));
    }
}
