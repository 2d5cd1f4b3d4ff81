//! An authority, a server's and a client's certificate, as PEM files in a folder: for runs over mutual TLS.

use crate::Failure;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use std::fs;
use std::path::{Path, PathBuf};

/// Where the files lie. The server's pair serves its peers too.
#[derive(Clone, Debug)]
pub struct Certificates {
    pub ca: PathBuf,
    pub server: (PathBuf, PathBuf),
    pub client: (PathBuf, PathBuf),
}

/// Makes fresh ones (ECDSA P-256, valid for 127.0.0.1 and localhost) in `dir`.
pub fn make(dir: &Path) -> Result<Certificates, Failure> {
    fs::create_dir_all(dir)?;
    let mut params = CertificateParams::new(vec![])?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "bench authority");
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate()?;
    let ca = dir.join("ca.pem");
    fs::write(&ca, params.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(params, key);

    let leaf = |name: &str| -> Result<(PathBuf, PathBuf), Failure> {
        let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        // A server asks its peers, and etcd's gateway itself, as a client too.
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let files = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
        fs::write(&files.0, params.signed_by(&key, &issuer)?.pem())?;
        fs::write(&files.1, key.serialize_pem())?;
        Ok(files)
    };
    Ok(Certificates { server: leaf("server")?, client: leaf("client")?, ca })
}
