//! Certificates of mode SelfSigned: one authority per cluster, four leaves, renewed and rotated with overlap. Pure but for the keys'
//! randomness: time comes in as a value, Secrets' contents go out.
//!
//! A change of authority takes three steps, each long enough for every pod to have read the last one's files:
//! ```text
//!   Steady      trusted: current                 leaves by: current
//!   Announcing  trusted: current, next           leaves by: current
//!   Retiring    trusted: current, previous       leaves by: current (the former next)
//! ```
//! The announcement lasts long, for clients that must be restarted to trust the next authority; a request that begins with `now`
//! cuts it short, also while it runs, and so does an authority that ends. A leaf is valid for at most a third of its authority's time,
//! so that nothing keeps a former authority trusted until the present one is due.
//!
//! Invariant: at each moment, everyone's leaf is signed by an authority that everyone trusts, also while files of the step before
//! are still in use.

use std::collections::BTreeMap;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SerialNumber,
};
use x509_parser::pem::parse_x509_pem;

use crate::cluster::validate::Valid;
use crate::cluster::world::Seconds;

const DAY: Seconds = 86_400;
/// Clocks of a cluster's machines differ a little.
const SKEW: Seconds = 300;
/// How long kubelets may take to show pods the new content of a Secret, with much to spare.
const SPREAD: Seconds = 600;
/// How long the next authority is announced before it signs, unless it is hurried: some clients, kube-apiserver among them, read
/// what they trust only when they start.
const ANNOUNCE: Seconds = 30 * DAY;
/// What a request begins with that does not wait for such clients.
const HURRY: &str = "now";

/// A Secret's data.
pub type Data = BTreeMap<String, Vec<u8>>;

/// Something about certificates went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Making or signing.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// What is stored cannot be read. Replacing the authority would cut all clients off, so nobody does that unasked.
    #[error("secret {secret} has no usable {key}: restore it, or delete the secret to get a new one")]
    Stored {
        /// The Secret.
        secret: String,
        /// The entry.
        key: &'static str,
    },
}

/// How far a change of authority is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// There is one authority.
    Steady,
    /// All learn to trust the next one.
    Announcing,
    /// The next one signs; the previous is still trusted.
    Retiring,
}

impl Rotation {
    /// The name that the status shows.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Steady => "Steady",
            Self::Announcing => "Announcing",
            Self::Retiring => "Retiring",
        }
    }
}

/// A certificate and its key, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pair {
    certificate: String,
    key: String,
}

/// The authority with its neighbours in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    current: Pair,
    next: Option<Pair>,
    previous: Option<String>,
    /// When the step of the rotation began.
    since: Seconds,
    /// What last asked for a rotation by hand.
    asked: String,
}

/// One leaf's purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The Secret's ending.
    pub ending: &'static str,
    /// Whom it names.
    pub common_name: String,
    /// The host names and addresses that it is valid for.
    pub names: Vec<String>,
    /// It is shown to those who connect, too.
    pub server: bool,
}

/// The leaves of a cluster.
pub fn leaves(cluster: &Valid) -> Vec<Leaf> {
    let (name, namespace) = (&cluster.name, &cluster.namespace);
    let members = [format!("*.{name}-peer.{namespace}.svc"), format!("*.{name}-peer.{namespace}.svc.cluster.local")];
    let mut server: Vec<String> = members.to_vec();
    let service = format!("{name}-client");
    server.push(service.clone());
    server.extend(["", ".svc", ".svc.cluster.local"].map(|end| format!("{service}.{namespace}{end}")));
    server.extend(["localhost".to_string(), "127.0.0.1".to_string()]);
    server.extend(cluster.spec.tls.extra_sans.iter().cloned());
    let mut peer = members.to_vec();
    peer.extend(["localhost".to_string(), "127.0.0.1".to_string()]);
    let leaf = |ending, common_name: String, names, server| Leaf { ending, common_name, names, server };
    vec![
        leaf("server-tls", service, server, true),
        leaf("peer-tls", format!("{name}-peer"), peer, true),
        leaf("client-tls", "client".into(), Vec::new(), false),
        leaf("operator-tls", "root".into(), Vec::new(), false),
    ]
}

impl Authority {
    /// Reads the Secret. None when it is not there.
    pub fn read(secret: &str, data: Option<&Data>, since: Seconds, asked: &str) -> Result<Option<Self>, Error> {
        let Some(data) = data else { return Ok(None) };
        let text = |key: &'static str| data.get(key).and_then(|bytes| String::from_utf8(bytes.clone()).ok());
        let pair = |certificate: &'static str, key: &'static str| {
            let pair = Pair { certificate: text(certificate)?, key: text(key)? };
            (KeyPair::from_pem(&pair.key).is_ok() && bounds(&pair.certificate).is_some()).then_some(pair)
        };
        let current = pair("ca.crt", "ca.key").ok_or_else(|| Error::Stored { secret: secret.into(), key: "ca.crt and ca.key" })?;
        let previous = text("previous.crt").filter(|text| bounds(text).is_some());
        Ok(Some(Self { current, next: pair("next.crt", "next.key"), previous, since, asked: asked.into() }))
    }

    /// The authority as it should be by now. `asked` changes when somebody wants another authority.
    pub fn advance(known: Option<Self>, cluster: &Valid, asked: &str, now: Seconds) -> Result<Self, Error> {
        let days = Seconds::from(cluster.spec.tls.authority_days);
        let make = || authority(&cluster.name, days, now);
        let Some(mut known) = known else {
            return Ok(Self { current: make()?, next: None, previous: None, since: now, asked: asked.into() });
        };
        let waited = now - known.since;
        // A request to hurry is taken as answered only when the next authority signs.
        let hurry = known.asked != asked && asked.starts_with(HURRY);
        let announce = if hurry { SPREAD } else { ANNOUNCE.min(days * DAY / 6) };
        let ends = known.not_after();
        // Nobody trusts what an authority that ended has signed; waiting would only make that last.
        let over = now >= ends || (waited >= SPREAD && now + SPREAD >= ends);
        let held = SPREAD + DAY * Seconds::from(cluster.spec.tls.certificate_days);
        let forgotten = known.previous.as_deref().and_then(bounds).is_none_or(|(_, until)| now >= until);
        match known.rotation() {
            Rotation::Steady if known.asked != asked || due(&known.current.certificate, now) => {
                known.next = Some(make()?);
                known.since = now;
                if !hurry {
                    known.asked = asked.into();
                }
            }
            Rotation::Announcing if waited >= announce || over => {
                if let Some(next) = known.next.take() {
                    known.previous = Some(std::mem::replace(&mut known.current, next).certificate);
                    known.since = now;
                    known.asked = asked.into();
                }
            }
            // By then nothing is valid that the previous one signed. The present one must not end over that.
            Rotation::Retiring if waited >= held || forgotten || (waited >= SPREAD && due(&known.current.certificate, now)) => {
                known.previous = None;
                known.since = now;
            }
            _ => (),
        }
        Ok(known)
    }

    /// How far a change is.
    pub fn rotation(&self) -> Rotation {
        match (&self.next, &self.previous) {
            (Some(_), _) => Rotation::Announcing,
            (None, Some(_)) => Rotation::Retiring,
            (None, None) => Rotation::Steady,
        }
    }

    /// When the step began.
    pub fn since(&self) -> Seconds {
        self.since
    }

    /// What last asked for a rotation.
    pub fn asked(&self) -> &str {
        &self.asked
    }

    /// When the current authority ends.
    pub fn not_after(&self) -> Seconds {
        bounds(&self.current.certificate).map_or(0, |(_, until)| until)
    }

    /// Another should have been announced by now.
    pub fn is_due(&self, now: Seconds) -> bool {
        self.rotation() == Rotation::Steady && due(&self.current.certificate, now)
    }

    /// All that is to be trusted.
    pub fn bundle(&self) -> String {
        let next = self.next.as_ref().map(|pair| pair.certificate.as_str());
        [Some(self.current.certificate.as_str()), next, self.previous.as_deref()].into_iter().flatten().collect()
    }

    /// The Secret's data.
    pub fn data(&self) -> Data {
        let mut data = Data::new();
        let mut put = |key: &str, text: &str| drop(data.insert(key.into(), text.as_bytes().to_vec()));
        put("ca.crt", &self.current.certificate);
        put("ca.key", &self.current.key);
        if let Some(next) = &self.next {
            put("next.crt", &next.certificate);
            put("next.key", &next.key);
        }
        if let Some(previous) = &self.previous {
            put("previous.crt", previous);
        }
        data
    }

    /// A leaf's Secret as it should be: the stored one while it serves, with the bundle of the day.
    pub fn leaf(&self, leaf: &Leaf, days: Seconds, stored: Option<&Data>, now: Seconds) -> Result<(Data, Seconds), Error> {
        let purpose = crate::short_hash(format!("{leaf:?} {days} {}", self.current.certificate).as_bytes());
        let text = |key: &str| stored.and_then(|data| std::str::from_utf8(data.get(key)?).ok());
        let kept = (text("purpose") == Some(purpose.as_str())).then(|| Some((text("tls.crt")?, text("tls.key")?))).flatten();
        let kept = kept.filter(|(certificate, key)| self.has_signed(certificate, key) && !due(certificate, now));
        let (certificate, key) = match kept {
            Some((certificate, key)) => (certificate.to_string(), key.to_string()),
            None => self.sign(leaf, days, now)?,
        };
        let until = bounds(&certificate).map_or(0, |(_, until)| until);
        let parts = [("tls.crt", certificate), ("tls.key", key), ("ca.crt", self.bundle()), ("purpose", purpose)];
        Ok((parts.into_iter().map(|(key, text)| (key.to_string(), text.into_bytes())).collect(), until))
    }

    /// The certificate is of the present authority, and of this key: somebody may have put other ones in its place.
    fn has_signed(&self, certificate: &str, key: &str) -> bool {
        let fits = || {
            let (_, authority) = parse_x509_pem(self.current.certificate.as_bytes()).ok()?;
            let (_, leaf) = parse_x509_pem(certificate.as_bytes()).ok()?;
            let (authority, leaf) = (authority.parse_x509().ok()?, leaf.parse_x509().ok()?);
            let key = KeyPair::from_pem(key).ok()?;
            let owned = *leaf.public_key().subject_public_key.data == *key.public_key_raw();
            Some(owned && leaf.issuer().as_raw() == authority.subject().as_raw())
        };
        fits().unwrap_or(false)
    }

    fn sign(&self, leaf: &Leaf, days: Seconds, now: Seconds) -> Result<(String, String), Error> {
        let issuer = Issuer::from_ca_cert_pem(&self.current.certificate, KeyPair::from_pem(&self.current.key)?)?;
        let mut params = CertificateParams::new(leaf.names.clone())?;
        params.distinguished_name.push(DnType::CommonName, leaf.common_name.clone());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        // The server calls itself through its JSON gateway, and members call each other: both ends of a call.
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if leaf.server {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        // No leaf outlives its authority, nor the time for which that is trusted after the next one has begun to sign.
        params.use_authority_key_identifier_extension = true;
        let third = bounds(&self.current.certificate).map_or(0, |(from, until)| (until - from) / 3);
        set_bounds(&mut params, now - SKEW, (now + (days * DAY).min(third)).min(self.not_after()));
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }
}

fn authority(name: &str, days: Seconds, now: Seconds) -> Result<Pair, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::OrganizationName, "quorate");
    // The time tells two authorities of a cluster apart, also for software that looks issuers up by name.
    params.distinguished_name.push(DnType::CommonName, format!("{name}-ca-{now}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    set_bounds(&mut params, now - SKEW, now + days * DAY);
    let key = KeyPair::generate()?;
    Ok(Pair { certificate: params.self_signed(&key)?.pem(), key: key.serialize_pem() })
}

fn set_bounds(params: &mut CertificateParams, from: Seconds, until: Seconds) {
    let at = |seconds: Seconds| std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds.max(0).unsigned_abs());
    params.not_before = at(from).into();
    params.not_after = at(until).into();
    params.serial_number = Some(SerialNumber::from(rand::random::<u64>() >> 1));
}

/// From when until when the first certificate of a PEM text is valid.
fn bounds(pem: &str) -> Option<(Seconds, Seconds)> {
    let (_, pem) = parse_x509_pem(pem.as_bytes()).ok()?;
    let certificate = pem.parse_x509().ok()?;
    let validity = certificate.validity();
    Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

/// When a certificate ends; 0 for what is none.
pub fn not_after(pem: &str) -> Seconds {
    bounds(pem).map_or(0, |(_, until)| until)
}

/// So little of its time is left that whoever renews it should have: a tenth, seven days at most.
pub fn ends_soon(pem: &str, now: Seconds) -> bool {
    bounds(pem).is_some_and(|(from, until)| now >= until - ((until - from) / 10).min(7 * 24 * 3600))
}

/// Two thirds of its time are over.
pub fn due(pem: &str, now: Seconds) -> bool {
    bounds(pem).is_none_or(|(from, until)| now >= from + (until - from) / 3 * 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::validate::{tests::sample, validate};

    const NOW: Seconds = 1_800_000_000;

    fn cluster() -> Valid {
        validate(&sample(), Some("q:1")).unwrap()
    }

    fn advance(known: Option<Authority>, asked: &str, now: Seconds) -> Authority {
        Authority::advance(known, &cluster(), asked, now).unwrap()
    }

    fn leaf_of(authority: &Authority, stored: Option<&Data>, now: Seconds) -> Data {
        authority.leaf(&leaves(&cluster())[0], 90, stored, now).unwrap().0
    }

    fn signed_by(leaf: &Data, authority: &str) -> bool {
        let (_, leaf) = parse_x509_pem(&leaf["tls.crt"]).unwrap();
        let (_, authority) = parse_x509_pem(authority.as_bytes()).unwrap();
        let (leaf, authority) = (leaf.parse_x509().unwrap(), authority.parse_x509().unwrap());
        leaf.issuer() == authority.subject()
    }

    /// A leaf is kept while it serves, and made anew when it gets old, loses its purpose, or its Secret is damaged.
    #[test]
    fn leaves_are_renewed() {
        let authority = advance(None, "", NOW);
        let first = leaf_of(&authority, None, NOW);
        assert!(signed_by(&first, &authority.current.certificate));
        assert_eq!(leaf_of(&authority, Some(&first), NOW + 59 * DAY), first);
        assert_ne!(leaf_of(&authority, Some(&first), NOW + 61 * DAY), first);
        let other = leaves(&Valid { name: "other".into(), ..cluster() });
        assert_ne!(authority.leaf(&other[0], 90, Some(&first), NOW).unwrap().0, first);
        // Whoever renews it elsewhere is late when a tenth, or seven days, are left.
        let late = |days| ends_soon(&String::from_utf8_lossy(&first["tls.crt"]), NOW + days * DAY);
        assert!(!late(82) && late(84) && late(1000) && !ends_soon("x", NOW));
        let damaged = Data::from_iter([("tls.crt".to_string(), b"x".to_vec())]);
        assert!(leaf_of(&authority, Some(&damaged), NOW).contains_key("tls.key"));
        // Somebody puts a pair of their own there, or mixes two.
        let theirs = leaf_of(&advance(None, "", NOW + 1), None, NOW);
        let mut swapped = first.clone();
        swapped.extend(["tls.crt", "tls.key"].map(|key| (key.to_string(), theirs[key].clone())));
        assert!(signed_by(&leaf_of(&authority, Some(&swapped), NOW), &authority.current.certificate));
        let mut mixed = first.clone();
        mixed.insert("tls.key".into(), theirs["tls.key"].clone());
        assert_ne!(leaf_of(&authority, Some(&mixed), NOW)["tls.crt"], first["tls.crt"]);
    }

    /// Through a whole rotation, a leaf of any step is trusted by the bundles of that step and of both its neighbours.
    #[test]
    fn rotation_overlaps() {
        let mut steps = vec![advance(None, "", NOW)];
        let mut now = NOW;
        for (asked, wait) in [("now-1", 0), ("now-1", SPREAD), ("now-1", SPREAD + 90 * DAY)] {
            now += wait;
            let known = steps.last().cloned();
            steps.push(advance(known, asked, now));
        }
        use Rotation::{Announcing, Retiring, Steady};
        assert_eq!(steps.iter().map(Authority::rotation).collect::<Vec<_>>(), [Steady, Announcing, Retiring, Steady]);
        assert_ne!(steps[0].current, steps[3].current);
        let trusts = |bundle: &str, signer: &Authority| bundle.contains(&signer.current.certificate);
        for pair in steps[..3].windows(2) {
            assert!(trusts(&pair[0].bundle(), &pair[1]) && trusts(&pair[1].bundle(), &pair[0]));
        }
        assert!(!trusts(&steps[3].bundle(), &steps[0]), "at the end the first one is out");
        // What is stored is what is read.
        for step in &steps {
            assert_eq!(Authority::read("s", Some(&step.data()), step.since, &step.asked).unwrap().as_ref(), Some(step));
        }
    }

    /// Who does not ask to hurry gives clients a month to be restarted; whoever then does cuts that short.
    #[test]
    fn announcements_are_long() {
        let steady = advance(None, "", NOW);
        let announced = advance(Some(steady), "please", NOW);
        let later = advance(Some(announced.clone()), "please", NOW + ANNOUNCE - 1);
        assert_eq!(later.rotation(), Rotation::Announcing);
        assert_eq!(advance(Some(later.clone()), "please", NOW + ANNOUNCE).rotation(), Rotation::Retiring);
        assert_eq!(advance(Some(later), "now", NOW + ANNOUNCE - 1).rotation(), Rotation::Retiring);
        assert_eq!(advance(Some(announced), "now", NOW + SPREAD - 1).rotation(), Rotation::Announcing);
    }

    /// Years of any authority and leaf that the definition allows: the authority that signs never ends before the next one does, and
    /// no leaf that a client still holds outlives the trust in it.
    #[test]
    fn authorities_follow_each_other() {
        for (authority_days, certificate_days) in
            [(2, 90), (3, 1), (30, 30), (90, 90), (100, 90), (120, 90), (365, 3650), (3650, 90)]
        {
            let mut spec = sample();
            (spec.spec.tls.authority_days, spec.spec.tls.certificate_days) = (authority_days, certificate_days);
            let cluster = validate(&spec, Some("q:1")).unwrap();
            let step = (Seconds::from(authority_days) * DAY / 60).clamp(600, 5 * DAY);
            let (mut known, mut now, mut held) = (None, NOW, Vec::<(String, Seconds)>::new());
            for round in 0..400 {
                // Somebody hurries now and then.
                let asked = format!("now-{}", round / 37);
                let authority = Authority::advance(known, &cluster, if authority_days == 90 { &asked } else { "" }, now).unwrap();
                let what = format!("{authority_days} {certificate_days} round {round}: {:?}", authority.rotation());
                assert!(authority.not_after() > now, "the authority ended: {what}");
                let (leaf, until) = authority.leaf(&leaves(&cluster)[0], Seconds::from(certificate_days), None, now).unwrap();
                assert!(until > now && leaf.contains_key("tls.crt"), "{what}");
                held.push((authority.current.certificate.clone(), until));
                held.retain(|(_, until)| *until > now);
                let bundle = authority.bundle();
                assert!(held.iter().all(|(signer, _)| bundle.contains(signer)), "a leaf is cut off: {what}");
                known = Some(authority);
                now += step;
            }
        }
    }

    /// An operator that was away, or told to rest, until the authority had ended lets the next one sign at once.
    #[test]
    fn an_authority_that_ended_is_followed_at_once() {
        let steady = advance(None, "", NOW);
        let late = steady.not_after() + DAY;
        let announced = advance(Some(steady), "", late);
        assert_eq!(announced.rotation(), Rotation::Announcing);
        let signs = advance(Some(announced), "", late + 60);
        assert_eq!(signs.rotation(), Rotation::Retiring);
        assert!(signs.not_after() > late);
    }

    /// A damaged authority is an error and never silently replaced.
    #[test]
    fn damage_is_named() {
        let mut data = advance(None, "", NOW).data();
        data.insert("ca.key".into(), b"junk".to_vec());
        assert!(matches!(Authority::read("kv-ca", Some(&data), 0, ""), Err(Error::Stored { .. })));
    }
}
