//! An authority, the certificates that it signs, and servers that have them.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

use oncewire::rustls::pki_types::PrivateKeyDer;
use oncewire::rustls::pki_types::pem::PemObject;
use oncewire::{ServerTls, ServerTlsBuilder};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use super::Directory;

/// Signs certificates.
pub(crate) struct Authority<'a> {
    issuer: Issuer<'static, KeyPair>,
    directory: &'a Directory,
    /// Its own certificate.
    pub(crate) file: String,
}

/// The files of a certificate and its key.
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

static FILES: AtomicU64 = AtomicU64::new(0);

fn unique(name: &str) -> String {
    format!("{}-{name}", FILES.fetch_add(1, Ordering::Relaxed))
}

impl<'a> Authority<'a> {
    pub(crate) fn new(directory: &'a Directory, name: &str) -> Authority<'a> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let file = directory.at(&unique("authority.pem"));
        fs::write(&file, params.self_signed(&key).unwrap().pem()).unwrap();
        Authority { issuer: Issuer::new(params, key), directory, file }
    }

    /// A certificate for this common name, and for localhost, 127.0.0.1 and what else `change` says.
    pub(crate) fn issue(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = vec![
            SanType::DnsName("localhost".try_into().unwrap()),
            SanType::IpAddress([127, 0, 0, 1].into()),
        ];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        let identity = Identity {
            certificate: self.directory.at(&unique("certificate.pem")),
            key: self.directory.at(&unique("key.pem")),
        };
        fs::write(&identity.certificate, signed.pem()).unwrap();
        fs::write(&identity.key, key.serialize_pem()).unwrap();
        identity
    }
}

impl Identity {
    /// A server with it.
    pub(crate) fn serves(&self) -> ServerTlsBuilder {
        ServerTls::builder(&self.certificate, &self.key)
    }

    /// The options that show it to a server.
    pub(crate) fn options(&self) -> [&str; 4] {
        ["--cert", &self.certificate, "--key", &self.key]
    }

    /// The lines of its key, and its bytes in hexadecimal digits: none may be seen anywhere.
    pub(crate) fn secrets(&self) -> Vec<String> {
        let pem = fs::read_to_string(&self.key).unwrap();
        let lines = pem.lines().filter(|line| !line.starts_with("--")).map(str::to_owned);
        let key = PrivateKeyDer::from_pem_file(&self.key).unwrap();
        let digits = key.secret_der().iter().map(|byte| format!("{byte:02x}")).collect();
        lines.chain([digits]).collect()
    }
}
