//! The system's certificate authorities.
//!
//! In: `SSL_CERT_FILE` or `SSL_CERT_DIR`, else the files that Linux distributions keep. Out: one root store.

use std::path::{Path, PathBuf};
use std::{env, fs};

use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

const FILES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// All authorities that can be read. Broken files and certificates are passed over: one of them must not lock out all servers.
pub(crate) fn system() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    if let Some(file) = env::var_os("SSL_CERT_FILE") {
        add_file(&mut roots, Path::new(&file));
    } else if let Some(file) = FILES.iter().map(Path::new).find(|file| file.is_file()) {
        add_file(&mut roots, file);
    }
    if let Some(folders) = env::var_os("SSL_CERT_DIR") {
        for folder in env::split_paths(&folders) {
            let entries: Vec<PathBuf> = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
            entries.iter().for_each(|file| add_file(&mut roots, file));
        }
    }
    roots
}

fn add_file(roots: &mut RootCertStore, file: &Path) {
    if let Ok(certificates) = CertificateDer::pem_file_iter(file) {
        roots.add_parsable_certificates(certificates.flatten());
    }
}
