//! The worker inside a Job's pod: takes a backup from a member to a store, or from a store to a member's empty volume.
//!
//! In: flags and, for S3, the environment that the Job gives. Out: a line of JSON in the file that Kubernetes keeps as the pod's last
//! words, and the exit code.
//!
//! Invariants: an object is in the store whole or not at all; its digest was checked while it was written; a volume that holds a
//! member is not touched; only objects whose names were handed in are deleted.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;
use object_store::buffered::BufWriter;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use quorate_client::proto::etcdserverpb as pb;
use quorate_client::{Client, Config, Pem, TlsConfig};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

/// Bytes of the digest that ends a snapshot.
const DIGEST: usize = 32;
/// What goes to the store at once, bytes.
const PART: usize = 8 << 20;
/// Far more writes than a cluster does between a backup and its loss; revisions beyond it were never given out.
pub const REVISION_BUMP: i64 = 1_000_000_000;

/// Where backups are, as the Job's flags say.
#[derive(Clone, Debug, clap::Args)]
pub struct StoreFlags {
    /// The folder at which the store's volume is mounted
    #[arg(long, value_name = "DIR")]
    pub folder: Option<PathBuf>,
    /// The bucket; credentials come from the environment
    #[arg(long, conflicts_with = "folder", value_name = "NAME")]
    pub bucket: Option<String>,
    /// The bucket's region
    #[arg(long, default_value = "us-east-1", value_name = "NAME")]
    pub region: String,
    /// URL of the S3 service
    #[arg(long, value_name = "URL")]
    pub s3_endpoint: Option<String>,
    /// The object's name
    #[arg(long, value_name = "NAME")]
    pub object: String,
}

/// What the agent does.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Work {
    /// From a member to the store
    Backup {
        /// The store
        #[command(flatten)]
        store: StoreFlags,
        /// The member's client URL
        #[arg(long, value_name = "URL")]
        endpoint: String,
        /// A folder with tls.crt, tls.key and ca.crt
        #[arg(long, value_name = "DIR")]
        tls: Option<PathBuf>,
        /// Objects to delete once this one is in the store; may be given several times
        #[arg(long, value_name = "NAME")]
        delete: Vec<String>,
    },
    /// From the store to an empty data directory
    Restore {
        /// The store
        #[command(flatten)]
        store: StoreFlags,
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
}

/// The last words of a backup that succeeded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Taken {
    /// The newest revision that is certainly in it.
    pub revision: i64,
    /// The store's cluster id, hexadecimal.
    pub cluster_id: String,
    /// The member's version.
    pub version: String,
    /// Bytes.
    pub size: i64,
    /// Digest of the content, hexadecimal.
    pub sha256: String,
}

/// Why the work failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The flags do not name a store.
    #[error("name a store by --folder or --bucket")]
    NoStore,
    /// The store refused.
    #[error("store: {0}")]
    Store(#[from] object_store::Error),
    /// An object's name cannot be one.
    #[error("object name: {0}")]
    Name(#[from] object_store::path::Error),
    /// The member refused.
    #[error("member: {0}")]
    Member(#[from] quorate_client::Error),
    /// The stream ended early or was altered on the way.
    #[error("the snapshot is damaged: {0}")]
    Damaged(&'static str),
    /// A file or the program.
    #[error("{what}: {error}")]
    Io {
        /// Which.
        what: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// The server's program refused the snapshot.
    #[error("{0}")]
    Refused(String),
}

fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
    let what = what.into();
    move |error| Error::Io { what, error }
}

/// Does the work; returns its last words.
pub async fn work(work: &Work) -> Result<String, Error> {
    match work {
        Work::Backup { store, endpoint, tls, delete } => {
            let (stores, name) = (open(store)?, ObjectPath::parse(&store.object)?);
            let taken = backup(stores.clone(), &name, endpoint, tls.as_deref()).await?;
            for old in delete {
                match stores.delete(&ObjectPath::parse(old)?).await {
                    Ok(()) | Err(object_store::Error::NotFound { .. }) => (),
                    // The new backup is safe; what could not be deleted now is asked for again with the next.
                    Err(error) => tracing::warn!(object = old, %error, "cannot delete an old backup"),
                }
            }
            Ok(serde_json::to_string(&taken).expect("last words are plain data"))
        }
        Work::Restore { store, data_dir, name, peer_url, token, bump_revision, server } => {
            restore(store, data_dir, name, peer_url, token, *bump_revision, server).await?;
            Ok("restored".to_string())
        }
    }
}

fn open(flags: &StoreFlags) -> Result<Arc<dyn ObjectStore>, Error> {
    if let Some(folder) = &flags.folder {
        return Ok(Arc::new(LocalFileSystem::new_with_prefix(folder)?));
    }
    let bucket = flags.bucket.as_ref().ok_or(Error::NoStore)?;
    Ok(Arc::new(bucket_of(flags, bucket).build()?))
}

fn bucket_of(flags: &StoreFlags, bucket: &str) -> AmazonS3Builder {
    let builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_region(&flags.region);
    match &flags.s3_endpoint {
        // Services other than Amazon's are reached by path: names of buckets are not names of hosts there.
        Some(endpoint) => builder
            .with_endpoint(endpoint)
            .with_virtual_hosted_style_request(false)
            .with_allow_http(endpoint.starts_with("http://")),
        None => builder,
    }
}

async fn backup(store: Arc<dyn ObjectStore>, name: &ObjectPath, endpoint: &str, tls: Option<&Path>) -> Result<Taken, Error> {
    let mut config = Config::new([endpoint]);
    config.timeout = Some(Duration::from_secs(15));
    config.dial_timeout = Duration::from_secs(5);
    config.tls = tls.map(|folder| TlsConfig {
        authorities: Some(Pem::File(folder.join("ca.crt"))),
        identity: Some((Pem::File(folder.join("tls.crt")), Pem::File(folder.join("tls.key")))),
        ..TlsConfig::default()
    });
    let client = Client::new(config)?;
    // A quorum's word first: what was acknowledged before this moment has been applied by the member that is asked next.
    client.range(pb::RangeRequest { key: vec![0].into(), limit: 1, ..Default::default() }).await?;
    let status = client.status(pb::StatusRequest {}).await?;
    let header = status.header.unwrap_or_default();
    let mut pieces = client.snapshot(pb::SnapshotRequest {}).await?;
    let mut writer = BufWriter::with_capacity(store, name.clone(), PART);
    let copied = async {
        let (mut digest, mut size) = (Tail::default(), 0i64);
        while let Some(piece) = pieces.message().await.map_err(|status| Error::Refused(status.to_string()))? {
            digest.take(&piece.blob);
            size += i64::try_from(piece.blob.len()).unwrap_or(i64::MAX);
            writer.write_all(&piece.blob).await.map_err(io("store"))?;
        }
        Ok::<_, Error>((digest.verify()?, size))
    };
    let (sha256, size) = match copied.await {
        Ok(copied) => copied,
        Err(error) => {
            // Nothing of it becomes an object.
            let _ = writer.abort().await;
            return Err(error);
        }
    };
    writer.shutdown().await.map_err(io("store"))?;
    Ok(Taken {
        revision: header.revision,
        cluster_id: format!("{:016x}", header.cluster_id),
        version: status.version,
        size,
        sha256,
    })
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
            return Err(Error::Damaged("it ended early"));
        }
        let digest = self.digest.finalize();
        if digest[..] != self.held[..] {
            return Err(Error::Damaged("its digest is not that of its content"));
        }
        Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

async fn restore(
    flags: &StoreFlags,
    data_dir: &Path,
    name: &str,
    peer_url: &str,
    token: &str,
    bump: i64,
    server: &Path,
) -> Result<(), Error> {
    // An earlier try of this Job may have come to its end without being heard; a member's folder is whole once it is there.
    if data_dir.join("member").exists() {
        return Ok(());
    }
    let store = open(flags)?;
    let file = data_dir.with_extension("snapshot");
    let mut out = tokio::fs::File::create(&file).await.map_err(io(file.display().to_string()))?;
    let mut pieces = store.get(&ObjectPath::parse(&flags.object)?).await?.into_stream();
    let mut digest = Tail::default();
    while let Some(piece) = pieces.try_next().await? {
        digest.take(&piece);
        out.write_all(&piece).await.map_err(io(file.display().to_string()))?;
    }
    digest.verify()?;
    out.sync_all().await.map_err(io(file.display().to_string()))?;
    drop(out);
    let output = tokio::process::Command::new(server)
        .args(["snapshot", "restore"])
        .arg(&file)
        .arg(format!("--data-dir={}", data_dir.display()))
        .args([format!("--name={name}"), format!("--initial-cluster={name}={peer_url}")])
        .args([format!("--initial-cluster-token={token}"), format!("--initial-advertise-peer-urls={peer_url}")])
        .arg(format!("--bump-revision={bump}"))
        .arg("--mark-compacted")
        .output()
        .await
        .map_err(io(server.display().to_string()))?;
    let _ = std::fs::remove_file(&file);
    match output.status.success() {
        true => Ok(()),
        false => Err(Error::Refused(String::from_utf8_lossy(&output.stderr).trim().to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(content: &[u8]) -> Vec<u8> {
        [content, &Sha256::digest(content)[..]].concat()
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

    /// Parts and objects of a service that knows as much of S3 as the agent needs.
    type Shelf = Arc<std::sync::Mutex<std::collections::BTreeMap<String, Vec<u8>>>>;

    async fn answer(shelf: Shelf, request: axum::extract::Request) -> axum::response::Response {
        use axum::http::{Method, StatusCode};
        use axum::response::IntoResponse;
        let (method, path) = (request.method().clone(), request.uri().path().to_string());
        let query = request.uri().query().unwrap_or_default().to_string();
        let signed =
            request.headers().get("authorization").is_some_and(|value| value.to_str().unwrap().contains("Credential=key/"));
        if !signed {
            return StatusCode::FORBIDDEN.into_response();
        }
        let body = axum::body::to_bytes(request.into_body(), usize::MAX).await.unwrap();
        let part = query.split('&').find_map(|pair| pair.strip_prefix("partNumber="));
        let mut shelf = shelf.lock().unwrap();
        match (method, part, query.contains("uploadId=")) {
            (Method::POST, _, false) => {
                format!("<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>{path}</Key><UploadId>1</UploadId></InitiateMultipartUploadResult>").into_response()
            }
            (Method::PUT, Some(part), true) => {
                shelf.insert(format!("part {:0>5}", part), body.to_vec());
                ([("etag", format!("\"{part}\""))], "").into_response()
            }
            (Method::POST, _, true) => {
                let parts: Vec<String> = shelf.keys().filter(|key| key.starts_with("part ")).cloned().collect();
                let whole = parts.iter().flat_map(|part| shelf.remove(part).unwrap()).collect();
                shelf.insert(path, whole);
                "<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>".into_response()
            }
            (Method::PUT, None, _) => {
                shelf.insert(path, body.to_vec());
                ([("etag", "\"1\"")], "").into_response()
            }
            (Method::GET, ..) => match shelf.get(&path) {
                Some(bytes) => {
                    ([("etag", "\"1\""), ("last-modified", "Sat, 21 Nov 2026 17:00:00 GMT")], bytes.clone()).into_response()
                }
                None => StatusCode::NOT_FOUND.into_response(),
            },
            (Method::DELETE, ..) => {
                shelf.remove(&path);
                StatusCode::NO_CONTENT.into_response()
            }
            _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
        }
    }

    /// Small and large objects go to a service of the S3 protocol and come back whole; calls are signed; deletion deletes.
    #[tokio::test]
    async fn buckets() {
        let shelf = Shelf::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let router = axum::Router::new().fallback({
            let shelf = shelf.clone();
            move |request| answer(shelf.clone(), request)
        });
        let serving = tokio::spawn(async move { axum::serve(listener, router).await });
        let flags = StoreFlags {
            folder: None,
            bucket: Some("b".into()),
            region: "us-east-1".into(),
            s3_endpoint: Some(endpoint),
            object: String::new(),
        };
        let builder = bucket_of(&flags, "b").with_access_key_id("key").with_secret_access_key("secret");
        let store: Arc<dyn ObjectStore> = Arc::new(builder.build().unwrap());
        for (name, length) in [("lab/small.snapshot", 100), ("lab/large.snapshot", 2 * PART + 5)] {
            let content: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let path = ObjectPath::parse(name).unwrap();
            let mut writer = BufWriter::with_capacity(store.clone(), path.clone(), PART);
            for piece in content.chunks(3 << 20) {
                writer.write_all(piece).await.unwrap();
            }
            writer.shutdown().await.unwrap();
            assert!(store.get(&path).await.unwrap().bytes().await.unwrap() == content, "{name}");
            store.delete(&path).await.unwrap();
        }
        assert!(shelf.lock().unwrap().is_empty());
        serving.abort();
    }
}
