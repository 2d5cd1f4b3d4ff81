//! --auto-tls and --peer-auto-tls: a certificate of our own, made once and kept in the data folder.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};

use super::TlsError;

/// Where the pair lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelfSigned {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// The pair in `dir` (etcd's place is `DATA/fixtures/client` or `DATA/fixtures/peer`), made for `hosts` and valid `years` years if not there yet.
///
/// `hosts` are host names or IPs without ports. The key file is readable by its owner only. The certificate is a leaf, not an authority.
pub fn self_signed(dir: &Path, hosts: &[String], years: u32) -> Result<SelfSigned, TlsError> {
    let pair = SelfSigned { cert: dir.join("cert.pem"), key: dir.join("key.pem") };
    if pair.cert.exists() && pair.key.exists() {
        return Ok(pair);
    }
    let bad = |e: String| TlsError::SelfSigned(e);
    if years == 0 {
        return Err(bad("--self-signed-cert-validity must be greater than 0".into()));
    }
    let mut params = CertificateParams::new(hosts.to_vec()).map_err(|e| bad(e.to_string()))?;
    let now = SystemTime::now();
    // Clocks of a cluster's machines differ a little.
    params.not_before = (now - Duration::from_secs(300)).into();
    params.not_after = now.checked_add(Duration::from_secs(u64::from(years.min(1000)) * 365 * 86_400)).unwrap_or(now).into();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::OrganizationName, "quorate");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().map_err(|e| bad(e.to_string()))?;
    let cert = params.self_signed(&key).map_err(|e| bad(e.to_string()))?;

    let io = |path: &Path| {
        let path = path.to_owned();
        move |e: std::io::Error| TlsError::SelfSigned(format!("cannot write {}: {e}", path.display()))
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io(dir))?;
    write(&pair.key, key.serialize_pem().as_bytes()).map_err(io(&pair.key))?;
    // The certificate comes last: a pair is taken as whole only when both are there.
    write(&pair.cert, cert.pem().as_bytes()).map_err(io(&pair.cert))?;
    tracing::warn!(cert = %pair.cert.display(), years, "automatically generate certificates");
    Ok(pair)
}

fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let part = path.with_extension("part");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(part, path)
}
