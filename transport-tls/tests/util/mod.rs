//! An authority, the certificates that it signs, and files that hold them.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use oncewire_tls::rustls::pki_types::pem::PemObject;
use oncewire_tls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use oncewire_tls::{ClientTls, ClientTlsBuilder, ServerTls, ServerTlsBuilder};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};

/// Signs certificates, in a directory of its own that is removed in the end.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    directory: PathBuf,
    serial: AtomicU64,
}

/// A certificate and its key.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// The name of every server here.
pub(crate) const SERVER: &str = "server.example.org";

static DIRECTORIES: AtomicU64 = AtomicU64::new(0);

impl Authority {
    pub(crate) fn new() -> Authority {
        Authority::named("an authority")
    }

    pub(crate) fn named(name: &str) -> Authority {
        let number = DIRECTORIES.fetch_add(1, Ordering::Relaxed);
        let directory = format!("oncewire-tls-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(directory);
        std::fs::create_dir_all(&directory).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(directory.join("authority.pem"), certificate.pem()).unwrap();
        Authority { issuer: Issuer::new(params, key), directory, serial: AtomicU64::new(0) }
    }

    /// Its own certificate.
    pub(crate) fn file(&self) -> PathBuf {
        self.directory.join("authority.pem")
    }

    /// A certificate for this common name and these others.
    pub(crate) fn issue(&self, common_name: &str, alternatives: Vec<SanType>) -> Identity {
        self.issue_with(common_name, alternatives, |_| {})
    }

    pub(crate) fn issue_with(
        &self,
        common_name: &str,
        alternatives: Vec<SanType>,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.subject_alt_names = alternatives;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let identity = Identity {
            certificate: self.directory.join(format!("{serial}.pem")),
            key: self.directory.join(format!("{serial}.key")),
        };
        std::fs::write(&identity.certificate, certificate.pem()).unwrap();
        std::fs::write(&identity.key, key.serialize_pem()).unwrap();
        identity
    }

    /// A certificate of a server.
    pub(crate) fn server(&self) -> Identity {
        self.issue("server", vec![dns(SERVER)])
    }

    /// A certificate of a client.
    pub(crate) fn client(&self, name: &str) -> Identity {
        self.issue(name, vec![])
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.directory);
    }
}

impl Identity {
    /// A server with it.
    pub(crate) fn serves(&self) -> ServerTlsBuilder {
        ServerTls::builder(&self.certificate, &self.key)
    }

    /// What is in its files.
    pub(crate) fn load(&self) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let certificate = CertificateDer::from_pem_file(&self.certificate).unwrap();
        (certificate, PrivateKeyDer::from_pem_file(&self.key).unwrap())
    }

    /// A client with it.
    pub(crate) fn asks(&self) -> ClientTlsBuilder {
        ClientTls::builder().identity_files(&self.certificate, &self.key)
    }
}

pub(crate) fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

pub(crate) fn uri(name: &str) -> SanType {
    SanType::URI(name.try_into().unwrap())
}
