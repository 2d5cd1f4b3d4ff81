//! From a QuorateCluster as it was written to one that can be built: names, image and addresses worked out once.
//!
//! The API server checked the schema's rules before; what is checked here is what they cannot say, or what an older definition
//! of the resource let pass.

use kube::ResourceExt;

use crate::crd::QuorateCluster;
use crate::crd::cluster::{QuorateClusterSpec, TlsMode};

use super::world::Slot;

/// A cluster that can be built.
#[derive(Clone, Debug, PartialEq)]
pub struct Valid {
    /// Its name, which all objects' names begin with.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its UID: a namesake that is made later is another cluster.
    pub uid: String,
    /// What the members' disks are stamped with: the UID, or that of the deleted cluster whose volumes this one went on with.
    pub stamp: String,
    /// What is wanted.
    pub spec: QuorateClusterSpec,
    /// The server's image.
    pub image: String,
    /// What members listen at: every address. Those of IPv6 are only asked for where pods are reached by them, since a machine may
    /// have none.
    pub listen: &'static str,
}

/// Every address, given one of the API server's, which pods reach by the family that they are reached by.
pub fn every_address(of_kubernetes: &str) -> &'static str {
    if of_kubernetes.contains(':') { "[::]" } else { "0.0.0.0" }
}

/// Every address, for what runs in pods beside this process: by the family that it reaches the API server by itself.
pub fn every_address_here() -> &'static str {
    every_address(&std::env::var("KUBERNETES_SERVICE_HOST").unwrap_or_default())
}

/// Why a cluster cannot be built; only a change of its spec helps.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The API server gave an object without what every object has.
    #[error("the object has no {0}")]
    Incomplete(&'static str),
    /// A number of members that is not offered.
    #[error("spec.replicas is {0}: use 1, 3, 5 or 7, or 0 to hibernate")]
    Replicas(i32),
    /// Nobody said where the image is.
    #[error("no image is known: set spec.image.repository, or start the operator with --image")]
    NoImage,
    /// Mode Secret without secrets.
    #[error("spec.tls.mode is Secret, but spec.tls.secretRefs is missing")]
    NoSecrets,
    /// Mode CertManager without an issuer.
    #[error("spec.tls.mode is CertManager, but spec.tls.issuerRef is missing")]
    NoIssuer,
    /// Members of versions that far apart were never tried side by side.
    #[error("spec asks for version {to}, members run {from}: go by one minor version at a time")]
    VersionStep {
        /// What runs.
        from: String,
        /// What is asked for.
        to: String,
    },
    /// Raft needs several heartbeats within an election timeout.
    #[error(
        "spec.config.electionTimeout ({election} ms) must be at least five times spec.config.heartbeatInterval ({heartbeat} ms)"
    )]
    Timing {
        /// Milliseconds.
        election: i32,
        /// Milliseconds.
        heartbeat: i32,
    },
}

/// Checks a cluster. `default_image` is what the operator came with.
pub fn validate(cluster: &QuorateCluster, default_image: Option<&str>) -> Result<Valid, Invalid> {
    let spec = cluster.spec.clone();
    if !matches!(spec.replicas, 0 | 1 | 3 | 5 | 7) {
        return Err(Invalid::Replicas(spec.replicas));
    }
    if spec.tls.mode == TlsMode::Secret && spec.tls.secret_refs.is_none() {
        return Err(Invalid::NoSecrets);
    }
    if spec.tls.mode == TlsMode::CertManager && spec.tls.issuer_ref.is_none() {
        return Err(Invalid::NoIssuer);
    }
    let (heartbeat, election) = (spec.config.heartbeat_interval.unwrap_or(100), spec.config.election_timeout.unwrap_or(1000));
    if election < heartbeat.saturating_mul(5) {
        return Err(Invalid::Timing { election, heartbeat });
    }
    let image = image(&spec, default_image).ok_or(Invalid::NoImage)?;
    let uid = cluster.uid().ok_or(Invalid::Incomplete("uid"))?;
    Ok(Valid {
        name: cluster.name_any(),
        namespace: cluster.namespace().ok_or(Invalid::Incomplete("namespace"))?,
        stamp: cluster.status.as_ref().and_then(|status| status.origin.clone()).unwrap_or_else(|| uid.clone()),
        uid,
        spec,
        image,
        listen: every_address(""),
    })
}

/// Refuses a change of version by more than one minor version, up or down: members of both would have to work side by side. `running`
/// are the images of members; what has no version in its tag is not judged.
///
/// # Errors
/// Which versions are too far apart.
pub fn step<'a>(running: impl Iterator<Item = &'a str>, wanted: &str) -> Result<(), Invalid> {
    let Some(to) = version(wanted) else { return Ok(()) };
    let near = |from: (u64, u64)| {
        let (low, high) = (from.min(to), from.max(to));
        match high.0 - low.0 {
            0 => high.1 - low.1 <= 1,
            // Which minor version is the last of its major one is not known here; the first of the next is.
            1 => high.1 == 0,
            _ => false,
        }
    };
    let told = |image: &str| split(image).1.trim_start_matches([':', 'v']).to_string();
    match running.into_iter().find(|image| version(image).is_some_and(|from| !near(from))) {
        Some(image) => Err(Invalid::VersionStep { from: told(image), to: told(wanted) }),
        None => Ok(()),
    }
}

/// Major and minor version of an image's tag, such as 0.1.0 or v1.2.3-rc.1.
fn version(image: &str) -> Option<(u64, u64)> {
    let tag = split(image).1.strip_prefix(':')?;
    let tag = tag.strip_prefix('v').unwrap_or(tag);
    let mut parts = tag.splitn(3, '.');
    let (major, minor, patch) = (parts.next()?, parts.next()?, parts.next()?);
    patch.starts_with(|c: char| c.is_ascii_digit()).then_some(())?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The image's full name. Parts that the spec leaves open come from the operator's default.
fn image(spec: &QuorateClusterSpec, default: Option<&str>) -> Option<String> {
    let (default_repository, default_suffix) = match default {
        Some(name) => {
            let (repository, suffix) = split(name);
            (Some(repository), Some(suffix))
        }
        None => (None, None),
    };
    let repository = spec.image.repository.as_deref().or(default_repository)?;
    if let Some(digest) = &spec.image.digest {
        return Some(format!("{repository}@{digest}"));
    }
    if let Some(tag) = spec.image.tag.as_deref().or(spec.version.as_deref()) {
        return Some(format!("{repository}:{tag}"));
    }
    // A digest of the default image says nothing about another repository.
    let suffix = default_suffix.filter(|suffix| spec.image.repository.is_none() || suffix.starts_with(':'));
    Some(format!("{repository}{}", suffix.unwrap_or_default()))
}

/// Splits an image's name before its tag or digest. A colon before a slash belongs to the registry's port.
fn split(name: &str) -> (&str, &str) {
    if let Some(at) = name.find('@') {
        return name.split_at(at);
    }
    let path = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[path..].rfind(':') {
        Some(colon) => name.split_at(path + colon),
        None => (name, ""),
    }
}

/// What an image calls its version: its tag, or the beginning of its digest. Empty when it has neither.
pub fn version_of(image: &str) -> String {
    let suffix = split(image).1;
    match suffix.strip_prefix('@') {
        Some(digest) => digest.chars().take("sha256:".len() + 12).collect(),
        None => suffix.trim_start_matches(':').to_string(),
    }
}

impl Valid {
    /// The image that is wanted where pods get `running` now. A spec that names no version, tag or digest keeps the one that it has,
    /// whatever a newer operator comes with; it may name another repository for it.
    pub fn kept_image(&self, running: &str) -> String {
        let image = &self.spec.image;
        if self.spec.version.is_some() || image.tag.is_some() || image.digest.is_some() {
            return self.image.clone();
        }
        let Some(repository) = &image.repository else { return running.to_string() };
        let (present, suffix) = split(running);
        // A digest may be of an index that only this one repository has.
        match present == repository || suffix.starts_with(':') {
            true => format!("{repository}{suffix}"),
            false => self.image.clone(),
        }
    }

    /// Members wished for.
    pub fn replicas(&self) -> u32 {
        u32::try_from(self.spec.replicas).unwrap_or(0)
    }

    /// Whether members, clients and the operator talk by TLS.
    pub fn tls(&self) -> bool {
        self.spec.tls.mode != TlsMode::Disabled
    }

    /// `https` or `http`.
    pub fn scheme(&self) -> &'static str {
        if self.tls() { "https" } else { "http" }
    }

    /// The name of the object of this cluster that has this ending.
    pub fn named(&self, ending: &str) -> String {
        format!("{}-{ending}", self.name)
    }

    /// A slot's pod.
    pub fn pod(&self, slot: Slot) -> String {
        format!("{}-{slot}", self.name)
    }

    /// A slot's volume claim.
    pub fn claim(&self, slot: Slot) -> String {
        format!("data-{}-{slot}", self.name)
    }

    /// A pod's host name inside Kubernetes, without the cluster's domain, which pods search.
    pub fn host(&self, pod: &str) -> String {
        format!("{pod}.{}-peer.{}.svc", self.name, self.namespace)
    }

    /// What a slot's member is listed under in the store.
    pub fn peer_url(&self, slot: Slot) -> String {
        format!("{}://{}:2380", self.scheme(), self.host(&self.pod(slot)))
    }

    /// The slot of a peer URL, if it is one of ours.
    pub fn slot_of_url(&self, url: &str) -> Option<Slot> {
        let host = url.strip_prefix(self.scheme())?.strip_prefix("://")?.strip_suffix(":2380")?;
        let (pod, rest) = host.split_once('.')?;
        (rest == format!("{}-peer.{}.svc", self.name, self.namespace)).then(|| self.slot_of_pod(pod))?
    }

    /// The slot of a pod's name.
    pub fn slot_of_pod(&self, pod: &str) -> Option<Slot> {
        let number = pod.strip_prefix(&self.name)?.strip_prefix('-')?;
        let slot: Slot = number.parse().ok()?;
        (slot.to_string() == number).then_some(slot)
    }

    /// Where clients find the cluster.
    pub fn endpoint(&self) -> String {
        format!("{}://{}-client.{}.svc:2379", self.scheme(), self.name, self.namespace)
    }

    /// The Secrets that are mounted into pods and that the operator shows: server, peer, operator.
    pub fn secrets(&self) -> (String, String, String) {
        match &self.spec.tls.secret_refs {
            Some(refs) => (refs.server.name.clone(), refs.peer.name.clone(), refs.client.name.clone()),
            None => (self.named("server-tls"), self.named("peer-tls"), self.named("operator-tls")),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::crd::cluster::ImageSpec;

    /// A cluster named kv in namespace ns.
    pub(crate) fn sample() -> QuorateCluster {
        let mut cluster = QuorateCluster::new("kv", serde_json::from_str("{}").unwrap());
        cluster.metadata.namespace = Some("ns".into());
        cluster.metadata.uid = Some("6f0c".into());
        cluster
    }

    fn image_of(image: ImageSpec, version: Option<&str>, default: Option<&str>) -> Option<String> {
        let spec = QuorateClusterSpec { image, version: version.map(str::to_string), ..QuorateClusterSpec::default() };
        super::image(&spec, default)
    }

    /// Each part of the image's name comes from the nearest place that gives it.
    #[test]
    fn images() {
        let some = |text: &str| Some(text.to_string());
        let default = Some("reg:5000/quorate:0.1.0");
        let none = ImageSpec::default();
        assert_eq!(image_of(none.clone(), None, default), some("reg:5000/quorate:0.1.0"));
        assert_eq!(image_of(none.clone(), Some("0.2.0"), default), some("reg:5000/quorate:0.2.0"));
        assert_eq!(image_of(none.clone(), Some("0.2.0"), Some("q@sha256:1")), some("q:0.2.0"));
        assert_eq!(image_of(none.clone(), None, None), None);
        let mirror = ImageSpec { repository: some("other/q"), ..none.clone() };
        assert_eq!(image_of(mirror.clone(), None, default), some("other/q:0.1.0"));
        assert_eq!(image_of(mirror.clone(), None, Some("q@sha256:1")), some("other/q"));
        assert_eq!(
            image_of(ImageSpec { digest: some("sha256:2"), tag: some("x"), ..mirror }, None, default),
            some("other/q@sha256:2")
        );
    }

    /// The version is what the image is called by.
    #[test]
    fn versions_of_images() {
        let digest = format!("reg/q@sha256:{}", "0123456789abcdef".repeat(4));
        let told = ["reg:5000/q:0.1.0", "reg:5000/q", &digest].map(version_of);
        assert_eq!(told, ["0.1.0", "", "sha256:0123456789ab"]);
    }

    /// Nothing but a word in the spec changes the version: a newer operator's default reaches no cluster that is there, also where its
    /// repository is named.
    #[test]
    fn images_are_kept() {
        let kept = |image: ImageSpec, version: Option<&str>, running: &str| {
            let mut cluster = sample();
            (cluster.spec.image, cluster.spec.version) = (image, version.map(str::to_string));
            validate(&cluster, Some("reg:5000/quorate:0.9.0")).unwrap().kept_image(running)
        };
        let none = ImageSpec::default();
        let mirror = ImageSpec { repository: Some("mirror/q".into()), ..none.clone() };
        assert_eq!(kept(none.clone(), None, "reg:5000/quorate:0.1.0"), "reg:5000/quorate:0.1.0");
        assert_eq!(kept(mirror.clone(), None, "mirror/q:0.1.0"), "mirror/q:0.1.0");
        assert_eq!(kept(mirror.clone(), None, "reg:5000/quorate:0.1.0"), "mirror/q:0.1.0", "it only moves");
        assert_eq!(kept(mirror.clone(), None, "mirror/q@sha256:1"), "mirror/q@sha256:1");
        assert_eq!(kept(mirror.clone(), None, "reg:5000/quorate@sha256:1"), "mirror/q:0.9.0");
        assert_eq!(kept(mirror, Some("0.2.0"), "mirror/q:0.1.0"), "mirror/q:0.2.0");
        assert_eq!(kept(none, Some("0.2.0"), "x:0.1.0"), "reg:5000/quorate:0.2.0");
    }

    /// Peer URLs and slots belong together, and foreign URLs have no slot.
    #[test]
    fn slots() {
        let valid = validate(&sample(), Some("q:1")).unwrap();
        assert_eq!(valid.slot_of_url(&valid.peer_url(12)), Some(12));
        for url in
            ["https://kv-01.kv-peer.ns.svc:2380", "https://kv-1.kv-peer.other.svc:2380", "http://kv-1.kv-peer.ns.svc:2380", "x"]
        {
            assert_eq!(valid.slot_of_url(url), None, "{url}");
        }
    }

    /// One minor version at a time, up or down, from what any member runs; tags that are no versions are the user's affair.
    #[test]
    fn steps_of_versions() {
        let may = |from: &[&str], to: &str| {
            let images: Vec<String> = from.iter().map(|tag| format!("reg:5000/q:{tag}")).collect();
            step(images.iter().map(String::as_str), &format!("other/q:{to}"))
        };
        for (from, to) in [("0.1.0", "0.2.3"), ("0.2.0", "0.1.9"), ("0.1.0", "0.1.7"), ("0.9.1", "1.0.0"), ("v1.2.3", "1.3.0-rc.1")]
        {
            assert_eq!(may(&[from], to), Ok(()), "{from} {to}");
        }
        for (from, to) in [("0.1.0", "0.3.0"), ("0.3.0", "0.1.0"), ("0.9.0", "1.1.0"), ("1.0.0", "3.0.0")] {
            let refused = may(&[from], to).unwrap_err().to_string();
            assert!(refused.contains(from) && refused.contains(to) && refused.contains("one minor version at a time"), "{refused}");
        }
        assert!(may(&["0.2.0", "0.1.0"], "0.3.0").is_err(), "a rollout that is not over counts by its oldest member");
        assert!(may(&[], "0.9.0").is_ok() && may(&["next"], "0.9.0").is_ok() && may(&["0.1.0"], "next").is_ok());
        assert!(step(["q@sha256:1"].into_iter(), "q:0.9.0").is_ok());
    }

    /// What cannot work is refused with what to do.
    #[test]
    fn refusals() {
        let mut cluster = sample();
        assert_eq!(validate(&cluster, None), Err(Invalid::NoImage));
        cluster.spec.config.heartbeat_interval = Some(500);
        assert_eq!(validate(&cluster, Some("q")), Err(Invalid::Timing { election: 1000, heartbeat: 500 }));
        cluster.spec.replicas = 2;
        assert_eq!(validate(&cluster, Some("q")), Err(Invalid::Replicas(2)));
    }
}
