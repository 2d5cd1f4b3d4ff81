//! Where backups are: the kept library for object stores, opened by the agent's flags, and objects that go through encryption.
//!
//! In: flags and, for credentials, the environment that the pod gives. Out: whole objects, streamed or at once. Invariant: what is
//! written here is encrypted when the store has keys; what is read here is decrypted when it was encrypted.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::buffered::BufWriter;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt, PutPayload, RetryConfig};
use tokio::io::AsyncWriteExt;

use super::chain::{self, Full, Manifest, Segment};
use super::seal::{Keys, Opener, Sealer};
use super::{Error, io};

/// What goes to the store at once, bytes.
pub const PART: usize = 8 << 20;
/// Manifests that are read at the same time.
const AT_ONCE: usize = 16;

/// How long one question is asked again and again, and how often: whoever waits for the answer is told why sooner than by the library's
/// own habit, and tries everything again by itself.
fn patience() -> RetryConfig {
    RetryConfig { max_retries: 5, retry_timeout: Duration::from_secs(30), ..RetryConfig::default() }
}

/// Where backups are, as the pod's flags say. Credentials come from the environment.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct StoreFlags {
    /// The folder at which the store's volume is mounted
    #[arg(long, value_name = "DIR")]
    pub folder: Option<PathBuf>,
    /// The bucket, reached by the S3 protocol
    #[arg(long, conflicts_with = "folder", value_name = "NAME")]
    pub bucket: Option<String>,
    /// The S3 bucket's region
    #[arg(long, default_value = "us-east-1", value_name = "NAME")]
    pub region: String,
    /// URL of the S3 service
    #[arg(long, value_name = "URL")]
    pub s3_endpoint: Option<String>,
    /// The bucket of Google Cloud Storage
    #[arg(long, conflicts_with_all = ["folder", "bucket"], value_name = "NAME")]
    pub gcs_bucket: Option<String>,
    /// URL of the service that speaks Google Cloud Storage's protocol
    #[arg(long, value_name = "URL")]
    pub gcs_endpoint: Option<String>,
    /// The container of Azure Blob Storage
    #[arg(long, conflicts_with_all = ["folder", "bucket", "gcs_bucket"], requires = "azure_account", value_name = "NAME")]
    pub azure_container: Option<String>,
    /// The storage account of the container
    #[arg(long, value_name = "NAME")]
    pub azure_account: Option<String>,
    /// URL of the service that speaks Azure Blob Storage's protocol
    #[arg(long, value_name = "URL")]
    pub azure_endpoint: Option<String>,
    /// A folder with encryption keys: the file `key` encrypts, all of them decrypt
    #[arg(long, value_name = "DIR")]
    pub keys: Option<PathBuf>,
}

/// An open store.
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    keys: Option<Keys>,
}

fn path(name: &str) -> Result<ObjectPath, Error> {
    Ok(ObjectPath::parse(name)?)
}

fn is_plain(endpoint: Option<&String>) -> bool {
    endpoint.is_some_and(|url| url.starts_with("http://"))
}

/// The bucket by the S3 protocol.
pub fn s3(flags: &StoreFlags, bucket: &str) -> AmazonS3Builder {
    let builder = AmazonS3Builder::from_env().with_retry(patience()).with_bucket_name(bucket).with_region(&flags.region);
    match &flags.s3_endpoint {
        // Services other than Amazon's are reached by path: names of buckets are not names of hosts there.
        Some(endpoint) => {
            builder.with_endpoint(endpoint).with_virtual_hosted_style_request(false).with_allow_http(is_plain(Some(endpoint)))
        }
        None => builder,
    }
}

/// The bucket of Google Cloud Storage.
pub fn gcs(flags: &StoreFlags, bucket: &str) -> GoogleCloudStorageBuilder {
    let builder = GoogleCloudStorageBuilder::from_env().with_retry(patience()).with_bucket_name(bucket);
    match &flags.gcs_endpoint {
        Some(endpoint) => {
            let options = ClientOptions::new().with_allow_http(is_plain(Some(endpoint)));
            builder.with_base_url(endpoint).with_client_options(options)
        }
        None => builder,
    }
}

/// The container of Azure Blob Storage.
pub fn azure(flags: &StoreFlags, container: &str) -> MicrosoftAzureBuilder {
    let builder = MicrosoftAzureBuilder::from_env().with_retry(patience()).with_container_name(container);
    let builder = match &flags.azure_account {
        Some(account) => builder.with_account(account),
        None => builder,
    };
    match &flags.azure_endpoint {
        Some(endpoint) => builder.with_endpoint(endpoint.clone()).with_allow_http(is_plain(Some(endpoint))),
        None => builder,
    }
}

impl Store {
    /// Opens the store that the flags name.
    ///
    /// # Errors
    /// When they name none, what they say is no store, or the keys cannot be read. Nothing is asked of the service yet.
    pub fn open(flags: &StoreFlags) -> Result<Self, Error> {
        let objects: Arc<dyn ObjectStore> = if let Some(folder) = &flags.folder {
            Arc::new(LocalFileSystem::new_with_prefix(folder)?)
        } else if let Some(bucket) = &flags.bucket {
            Arc::new(s3(flags, bucket).build()?)
        } else if let Some(bucket) = &flags.gcs_bucket {
            Arc::new(gcs(flags, bucket).build()?)
        } else if let Some(container) = &flags.azure_container {
            Arc::new(azure(flags, container).build()?)
        } else {
            return Err(Error::NoStore);
        };
        Ok(Self { objects, keys: flags.keys.as_deref().map(Keys::read).transpose()? })
    }

    /// A store over objects that are open already.
    pub fn over(objects: Arc<dyn ObjectStore>, keys: Option<Keys>) -> Self {
        Self { objects, keys }
    }

    /// The id of the key that new objects are encrypted with.
    pub fn key_id(&self) -> Option<String> {
        self.keys.as_ref().map(Keys::current)
    }

    /// Begins an object that is written piece by piece.
    pub fn create(&self, name: &str) -> Result<Upload, Error> {
        let writer = BufWriter::with_capacity(self.objects.clone(), path(name)?, PART);
        Ok(Upload { writer, sealer: self.keys.as_ref().map(Sealer::new) })
    }

    /// Writes a whole object.
    pub async fn put(&self, name: &str, content: Vec<u8>) -> Result<(), Error> {
        let content = match &self.keys {
            None => content,
            Some(keys) => {
                let mut sealer = Sealer::new(keys);
                let mut out = sealer.take(&content);
                out.extend(sealer.finish());
                out
            }
        };
        self.objects.put(&path(name)?, PutPayload::from(content)).await?;
        Ok(())
    }

    /// Gives an object's content to `take`, piece by piece.
    pub async fn read(&self, name: &str, mut take: impl AsyncFnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error> {
        let mut pieces = self.objects.get(&path(name)?).await?.into_stream();
        let mut opener = Opener::new(self.keys.as_ref());
        let named = |error| Error::Sealed { object: name.to_string(), error };
        while let Some(piece) = pieces.try_next().await? {
            let content = opener.take(&piece).map_err(named)?;
            if !content.is_empty() {
                take(&content).await?;
            }
        }
        let content = opener.finish().map_err(named)?;
        take(&content).await
    }

    /// A whole object's content.
    pub async fn get(&self, name: &str) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        self.read(name, async |piece| {
            out.extend_from_slice(piece);
            Ok(())
        })
        .await?;
        Ok(out)
    }

    /// Deletes an object; one that is not there is fine.
    pub async fn delete(&self, name: &str) -> Result<(), Error> {
        match self.objects.delete(&path(name)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Puts a manifest beside its full backup. Manifests hold no data of the cluster and are never encrypted.
    pub async fn put_manifest(&self, object: &str, manifest: &Manifest) -> Result<(), Error> {
        let content = serde_json::to_vec_pretty(manifest).expect("a manifest is plain data");
        self.objects.put(&path(&chain::manifest_name(object))?, PutPayload::from(content)).await?;
        Ok(())
    }

    /// The full backups and files of deltas in a folder. What is not ours is passed over.
    pub async fn list(&self, folder: &str) -> Result<(Vec<Full>, Vec<Segment>), Error> {
        let prefix = path(folder.trim_end_matches('/'))?;
        let names: Vec<String> = self.objects.list(Some(&prefix)).map_ok(|meta| meta.location.to_string()).try_collect().await?;
        let segments = names.iter().filter_map(|name| chain::segment(folder, name)).collect();
        let mut fulls = Vec::new();
        let manifests: Vec<&String> = names.iter().filter(|name| chain::is_manifest(folder, name)).collect();
        for few in manifests.chunks(AT_ONCE) {
            let read = few.iter().map(|name| async {
                let bytes = self.objects.get(&path(name)?).await?.bytes().await?;
                Ok::<_, Error>(serde_json::from_slice::<Manifest>(&bytes))
            });
            for (name, manifest) in few.iter().zip(futures::future::try_join_all(read).await?) {
                match manifest {
                    Ok(manifest) => {
                        let name = name.strip_suffix(".json").unwrap_or(name).to_string();
                        fulls.push(Full { name, manifest });
                    }
                    Err(error) => tracing::warn!(object = name.as_str(), %error, "not a manifest of a backup"),
                }
            }
        }
        Ok((fulls, segments))
    }

    /// Files of deltas of one cluster in a folder.
    pub async fn segments(&self, folder: &str, cluster: &str) -> Result<Vec<Segment>, Error> {
        let prefix = path(&format!("{folder}deltas/{cluster}"))?;
        let names: Vec<String> = self.objects.list(Some(&prefix)).map_ok(|meta| meta.location.to_string()).try_collect().await?;
        Ok(names.iter().filter_map(|name| chain::segment(folder, name)).collect())
    }
}

/// An object that is being written. It becomes one when it is finished, and not before.
pub struct Upload {
    writer: BufWriter,
    sealer: Option<Sealer>,
}

impl Upload {
    /// Adds to it.
    pub async fn write(&mut self, content: &[u8]) -> Result<(), Error> {
        match &mut self.sealer {
            Some(sealer) => {
                let sealed = sealer.take(content);
                self.writer.write_all(&sealed).await
            }
            None => self.writer.write_all(content).await,
        }
        .map_err(io("store"))
    }

    /// Makes it an object.
    pub async fn finish(mut self) -> Result<(), Error> {
        if let Some(sealer) = self.sealer {
            self.writer.write_all(&sealer.finish()).await.map_err(io("store"))?;
        }
        self.writer.shutdown().await.map_err(io("store"))
    }

    /// Leaves nothing of it.
    pub async fn abort(mut self) {
        if let Err(error) = self.writer.abort().await {
            tracing::warn!(%error, "parts of an object that was given up may be left in the store");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use axum::extract::Request;
    use axum::http::{Method, StatusCode};
    use axum::response::{IntoResponse, Response};

    use super::*;

    /// Objects by path, and who asked.
    #[derive(Default)]
    struct Shelf {
        objects: BTreeMap<String, Vec<u8>>,
        asked_by: Vec<String>,
    }

    /// Takes, gives and forgets objects as all three services do when an object is small.
    async fn answer(shelf: Arc<Mutex<Shelf>>, request: Request) -> Response {
        let (method, path) = (request.method().clone(), request.uri().path().to_string());
        let who = request.headers().get("authorization").map(|value| value.to_str().unwrap_or_default().to_string());
        let body = axum::body::to_bytes(request.into_body(), usize::MAX).await.unwrap();
        let mut shelf = shelf.lock().unwrap();
        shelf.asked_by.push(who.unwrap_or_default());
        let about = [("etag", "\"1\""), ("last-modified", "Sat, 21 Nov 2026 17:00:00 GMT")];
        match method {
            Method::PUT => {
                shelf.objects.insert(path, body.to_vec());
                (StatusCode::CREATED, about).into_response()
            }
            Method::GET => match shelf.objects.get(&path) {
                Some(bytes) => (about, bytes.clone()).into_response(),
                None => StatusCode::NOT_FOUND.into_response(),
            },
            // How a bucket by the S3 protocol is told to delete: a list of keys, answered one by one.
            Method::POST => {
                let body = String::from_utf8(body.to_vec()).unwrap();
                let key = body.split("<Key>").nth(1).and_then(|rest| rest.split("</Key>").next()).unwrap_or_default();
                shelf.objects.remove(&format!("{path}/{key}"));
                format!("<DeleteResult><Deleted><Key>{key}</Key></Deleted></DeleteResult>").into_response()
            }
            Method::DELETE => match shelf.objects.remove(&path) {
                Some(_) => StatusCode::ACCEPTED.into_response(),
                None => StatusCode::NOT_FOUND.into_response(),
            },
            _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
        }
    }

    /// Each kind of service is asked at the endpoint that was given, with the credentials that were given, and objects come back; one
    /// that is not there may be deleted.
    #[tokio::test]
    async fn kinds_of_services() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let shelf = Arc::<Mutex<Shelf>>::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let router = axum::Router::new().fallback({
            let shelf = shelf.clone();
            move |request| answer(shelf.clone(), request)
        });
        let serving = tokio::spawn(async move { axum::serve(listener, router).await });
        let flags = StoreFlags {
            region: "us-east-1".into(),
            s3_endpoint: Some(endpoint.clone()),
            gcs_endpoint: Some(endpoint.clone()),
            azure_account: Some("account".into()),
            azure_endpoint: Some(endpoint.clone()),
            ..StoreFlags::default()
        };
        let s3 = s3(&flags, "b1").with_access_key_id("key").with_secret_access_key("secret").build().unwrap();
        let gcs = gcs(&flags, "b2").with_bearer_token("token").build().unwrap();
        let azure = azure(&flags, "b3").with_access_key("a2V5").build().unwrap();
        let kinds: [(Arc<dyn ObjectStore>, &str, &str); 3] = [
            (Arc::new(s3), "/b1/", "Credential=key/"),
            (Arc::new(gcs), "/b2/", "Bearer token"),
            (Arc::new(azure), "/b3/", "SharedKey account:"),
        ];
        for (objects, place, credentials) in kinds {
            let store = Store::over(objects, None);
            store.put("lab/x.segment", b"content".to_vec()).await.unwrap();
            let names: Vec<String> = shelf.lock().unwrap().objects.keys().cloned().collect();
            assert!(names.len() == 1 && names[0].contains(place), "{names:?}");
            assert_eq!(store.get("lab/x.segment").await.unwrap(), b"content");
            // Azure is told in a batch whose answer is a message of many parts, which is beyond this stand-in.
            if place != "/b3/" {
                store.delete("lab/x.segment").await.unwrap();
                store.delete("lab/x.segment").await.unwrap();
                assert!(matches!(store.get("lab/x.segment").await, Err(Error::Store(object_store::Error::NotFound { .. }))));
            }
            let asked: Vec<String> = std::mem::take(&mut shelf.lock().unwrap().asked_by);
            assert!(asked.iter().all(|who| who.contains(credentials)), "{asked:?}");
        }
        serving.abort();
    }

    /// Without a store, with two, or with keys that are none, nothing is opened.
    #[test]
    fn flags() {
        assert!(matches!(Store::open(&StoreFlags::default()), Err(Error::NoStore)));
        let folder = std::env::temp_dir();
        let flags = StoreFlags { folder: Some(folder.clone()), keys: Some(folder.join("no-such-folder")), ..StoreFlags::default() };
        assert!(matches!(Store::open(&flags), Err(Error::Keys(_))));
    }
}
