//! Certificates for tests: an authority and leaves signed by it, as files.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SerialNumber,
};

use crate::door::TlsSettings;

/// An authority whose files lie in a folder.
pub(crate) struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    pub(crate) ca: PathBuf,
}

impl Authority {
    pub(crate) fn new(dir: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(vec![]).expect("params");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("key");
        let ca = dir.join(format!("{name}-ca.pem"));
        std::fs::write(&ca, params.self_signed(&key).expect("sign").pem()).expect("write");
        Self { dir: dir.to_owned(), issuer: Issuer::new(params, key), ca }
    }

    /// Writes `NAME.pem` and `NAME.key` for a leaf with this common name, host names and serial number; server settings that show it.
    pub(crate) fn leaf(&self, name: &str, cn: &str, hosts: &[&str], serial: u64) -> TlsSettings {
        let mut params = CertificateParams::new(hosts.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>()).expect("params");
        params.distinguished_name.remove(DnType::CommonName);
        params.distinguished_name.push(DnType::CommonName, cn);
        params.serial_number = Some(SerialNumber::from(serial));
        let key = KeyPair::generate().expect("key");
        let cert = params.signed_by(&key, &self.issuer).expect("sign");
        let settings = TlsSettings {
            cert: self.dir.join(format!("{name}.pem")),
            key: self.dir.join(format!("{name}.key")),
            ..Default::default()
        };
        std::fs::write(&settings.cert, cert.pem()).expect("write");
        std::fs::write(&settings.key, key.serialize_pem()).expect("write");
        settings
    }

    /// Writes a PEM revocation list of these serial numbers.
    pub(crate) fn revoke(&self, serials: &[u64]) -> PathBuf {
        let at = rcgen::date_time_ymd(2026, 1, 1);
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: at,
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: at,
            next_update: rcgen::date_time_ymd(2046, 1, 1),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        let path = self.dir.join("list.crl");
        std::fs::write(&path, list.signed_by(&self.issuer).expect("sign").pem().expect("pem")).expect("write");
        path
    }
}
