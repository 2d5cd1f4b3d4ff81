//! The cluster's Secrets of mode SelfSigned, and the identity that the operator shows to members in any mode.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use super::apply::{self, Applied, apply, put_secret};
use super::build;
use super::validate::Valid;
use super::world::Seconds;
use crate::certificates::{self, Authority, Data, Rotation, leaves};
use crate::crd::QuorateCluster;
use crate::crd::cluster::TlsMode;
use crate::member::Identity;

/// Annotation of the QuorateCluster: another value asks for a new authority; one that begins with `now` does not wait for clients
/// that trust it only after a restart.
pub const ROTATE: &str = "quorate.io/rotate-authority";
const SINCE: &str = "quorate.io/rotation-since";

/// How the certificates stand.
#[derive(Clone, Debug)]
pub enum Standing {
    /// The operator makes them.
    Made {
        /// When the first leaf ends.
        not_after: Seconds,
        /// When the authority ends.
        authority_not_after: Seconds,
        /// How far a change of authority is.
        rotation: Rotation,
        /// When that step began.
        since: Seconds,
        /// Something should have been renewed by now: the cluster is paused.
        overdue: bool,
    },
    /// Somebody else does.
    Given {
        /// The Secret whose certificate ends first.
        secret: String,
        /// When it does.
        not_after: Seconds,
        /// It should have been renewed by now.
        late: bool,
    },
}

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused.
    #[error(transparent)]
    Kube(#[from] kube::Error),
    /// Making or reading failed.
    #[error(transparent)]
    Certificates(#[from] certificates::Error),
    /// Something is not of this cluster, or could not be written.
    #[error(transparent)]
    Apply(#[from] apply::Error),
    /// cert-manager has not issued a certificate yet.
    #[error("wait for cert-manager to fill secret {0}: look at the Certificate of that name, and whether its issuer tells ca.crt")]
    Pending(String),
    /// A Secret of the user's is not there or incomplete.
    #[error("secret {secret} has no {key}: create it as spec.tls.secretRefs says")]
    Missing {
        /// Its name.
        secret: String,
        /// What is missing.
        key: String,
    },
}

/// How long what was made sure of counts, so that quiet clusters cost little. A Secret that somebody deletes is back after that.
const TRUST: Duration = Duration::from_secs(60);

/// What the operator shows to members, and how the certificates stand.
type Ensured = (Option<Identity>, Option<Standing>);

/// What was made sure of lately, by the cluster's UID: for which wish, and when.
#[derive(Default)]
pub struct Known(Mutex<HashMap<String, (String, Instant, Ensured)>>);

/// Makes sure of all Secrets, unless that was done for the same wish a moment ago. A paused cluster's are only looked at.
pub async fn ensure(
    client: &Client,
    (applied, known): (&Applied, &Known),
    object: &QuorateCluster,
    cluster: &Valid,
    now: Seconds,
) -> Result<Ensured, Error> {
    let wish = format!("{:?} {:?}", object.metadata.generation, object.annotations().get(ROTATE));
    let fresh = |entry: &&(String, Instant, Ensured)| entry.0 == wish && entry.1.elapsed() < TRUST;
    if let Some((_, _, ensured)) = known.0.lock().expect("no one panics in there").get(&cluster.uid).filter(fresh) {
        return Ok(ensured.clone());
    }
    let ensured = match cluster.spec.paused {
        true => existing(client, cluster, now).await?,
        false => ensure_now(client, applied, object, cluster, now).await?,
    };
    let mut known = known.0.lock().expect("no one panics in there");
    known.retain(|_, (_, at, _)| at.elapsed() < TRUST);
    known.insert(cluster.uid.clone(), (wish, Instant::now(), ensured.clone()));
    Ok(ensured)
}

async fn ensure_now(
    client: &Client,
    applied: &Applied,
    object: &QuorateCluster,
    cluster: &Valid,
    now: Seconds,
) -> Result<Ensured, Error> {
    let api: Api<Secret> = Api::namespaced(client.clone(), &cluster.namespace);
    match cluster.spec.tls.mode {
        TlsMode::Disabled => Ok((None, None)),
        TlsMode::Secret => {
            let (server, peer, operator) = cluster.secrets();
            let mut given = Vec::new();
            for name in [server, peer, operator] {
                let identity = complete(&name, &data_of(api.get_opt(&name).await?.as_ref()))?;
                given.push((name, identity));
            }
            let standing = first_to_end(&given, now);
            Ok((given.pop().map(|(_, operator)| operator), standing))
        }
        TlsMode::CertManager => {
            for certificate in build::certificates(cluster) {
                apply(client, cluster, applied, &certificate).await?;
            }
            let mut given = Vec::new();
            for leaf in leaves(cluster) {
                let name = cluster.named(leaf.ending);
                let secret = ours(api.get_opt(&name).await?, cluster)?;
                let identity = complete(&name, &data_of(secret.as_ref())).map_err(|_| Error::Pending(name.clone()))?;
                given.push((name, identity));
            }
            let (standing, operator) = (first_to_end(&given, now), cluster.named("operator-tls"));
            Ok((given.into_iter().find(|(name, _)| *name == operator).map(|(_, identity)| identity), standing))
        }
        TlsMode::SelfSigned => {
            let (identity, standing) = self_signed(client, &api, object, cluster, now).await?;
            Ok((Some(identity), Some(standing)))
        }
    }
}

/// The Secrets as they are: what the operator shows to members, and how certificates stand that nobody renews meanwhile.
async fn existing(client: &Client, cluster: &Valid, now: Seconds) -> Result<Ensured, Error> {
    if !cluster.tls() {
        return Ok((None, None));
    }
    let api: Api<Secret> = Api::namespaced(client.clone(), &cluster.namespace);
    let (_, _, operator) = cluster.secrets();
    let identity = complete(&operator, &data_of(api.get_opt(&operator).await?.as_ref())).map(Some)?;
    let name = cluster.named("ca");
    let stored = api.get_opt(&name).await?.filter(|_| cluster.spec.tls.mode == TlsMode::SelfSigned);
    let Some(authority) = read_authority(&name, stored.as_ref(), now)? else {
        let standing = identity.as_ref().and_then(|identity| first_to_end(&[(operator, identity.clone())], now));
        return Ok((identity, standing));
    };
    let (mut not_after, mut overdue) = (authority.not_after(), authority.is_due(now));
    for leaf in leaves(cluster) {
        let data = data_of(api.get_opt(&cluster.named(leaf.ending)).await?.as_ref());
        let certificate = data.get("tls.crt").map(|bytes| String::from_utf8_lossy(bytes)).unwrap_or_default();
        not_after = not_after.min(certificates::not_after(&certificate));
        overdue |= certificates::due(&certificate, now);
    }
    Ok((identity, Some(standing(&authority, not_after, overdue))))
}

fn read_authority(name: &str, stored: Option<&Secret>, now: Seconds) -> Result<Option<Authority>, Error> {
    let note = |key: &str| stored.and_then(|secret| secret.annotations().get(key)).cloned().unwrap_or_default();
    let data = stored.map(|secret| data_of(Some(secret)));
    Ok(Authority::read(name, data.as_ref(), note(SINCE).parse().unwrap_or(now), &note(ROTATE))?)
}

fn standing(authority: &Authority, not_after: Seconds, overdue: bool) -> Standing {
    let (authority_not_after, rotation) = (authority.not_after(), authority.rotation());
    Standing::Made { not_after, authority_not_after, rotation, since: authority.since(), overdue }
}

/// Which of these certificates, that somebody else renews, ends first. One that cannot be read is refused elsewhere.
fn first_to_end(given: &[(String, Identity)], now: Seconds) -> Option<Standing> {
    let ends = given.iter().map(|(secret, identity)| {
        let certificate = String::from_utf8_lossy(&identity.certificate);
        (certificates::not_after(&certificate), certificates::ends_soon(&certificate, now), secret)
    });
    let (not_after, late, secret) = ends.filter(|(not_after, ..)| *not_after > 0).min()?;
    Some(Standing::Given { secret: secret.clone(), not_after, late })
}

async fn self_signed(
    client: &Client,
    api: &Api<Secret>,
    object: &QuorateCluster,
    cluster: &Valid,
    now: Seconds,
) -> Result<(Identity, Standing), Error> {
    let name = cluster.named("ca");
    let stored = ours(api.get_opt(&name).await?, cluster)?;
    let known = read_authority(&name, stored.as_ref(), now)?;
    // A new cluster has not asked for a change of what it does not have yet.
    let asked = object.annotations().get(ROTATE).cloned().unwrap_or_default();
    let authority = Authority::advance(known.clone(), cluster, &asked, now)?;
    if known.as_ref() != Some(&authority) {
        let notes = BTreeMap::from([
            (SINCE.to_string(), authority.since().to_string()),
            (ROTATE.to_string(), authority.asked().to_string()),
        ]);
        put_secret(client, &cluster.namespace, stored.as_ref(), secret(cluster, &name, "Opaque", authority.data(), notes)).await?;
    }
    let mut identity = None;
    let mut not_after = authority.not_after();
    for leaf in leaves(cluster) {
        let name = cluster.named(leaf.ending);
        let stored = ours(api.get_opt(&name).await?, cluster)?;
        let data = stored.as_ref().map(|secret| data_of(Some(secret)));
        let (wanted, until) = authority.leaf(&leaf, Seconds::from(cluster.spec.tls.certificate_days), data.as_ref(), now)?;
        not_after = not_after.min(until);
        if data.as_ref() != Some(&wanted) {
            let object = secret(cluster, &name, "kubernetes.io/tls", wanted.clone(), BTreeMap::new());
            put_secret(client, &cluster.namespace, stored.as_ref(), object).await?;
        }
        if leaf.ending == "operator-tls" {
            identity = Some(complete(&name, &wanted)?);
        }
    }
    let standing = standing(&authority, not_after, false);
    let identity = identity.ok_or_else(|| Error::Missing { secret: cluster.named("operator-tls"), key: "tls.crt".into() })?;
    Ok((identity, standing))
}

fn ours(secret: Option<Secret>, cluster: &Valid) -> Result<Option<Secret>, Error> {
    if let Some(secret) = &secret {
        apply::is_ours(cluster, "Secret", &secret.metadata)?;
    }
    Ok(secret)
}

fn data_of(secret: Option<&Secret>) -> Data {
    let entries = secret.and_then(|secret| secret.data.as_ref()).into_iter().flatten();
    entries.map(|(key, value)| (key.clone(), value.0.clone())).collect()
}

fn complete(secret: &str, data: &Data) -> Result<Identity, Error> {
    let get = |key: &str| data.get(key).cloned().ok_or_else(|| Error::Missing { secret: secret.into(), key: key.into() });
    Ok(Identity { authorities: get("ca.crt")?, certificate: get("tls.crt")?, key: get("tls.key")? })
}

fn secret(cluster: &Valid, name: &str, kind: &str, data: Data, annotations: BTreeMap<String, String>) -> Secret {
    let head = json!({
        "metadata": {"name": name, "namespace": cluster.namespace, "labels": build::labels(cluster), "annotations": annotations,
            "ownerReferences": [build::owner(cluster, true)]},
        "type": kind,
    });
    let mut secret: Secret = serde_json::from_value(head).expect("the head of a secret is plain data");
    secret.data = Some(data.into_iter().map(|(key, value)| (key, ByteString(value))).collect());
    secret
}
