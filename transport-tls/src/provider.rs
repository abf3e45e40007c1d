//! The cryptography, which is always passed to rustls explicitly: its default of the whole process panics in programs that
//! have none, or two.
#![cfg(any(feature = "ring", feature = "aws-lc-rs"))]

use std::fmt::Display;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// What a client and a server agree on, if both name protocols: another protocol's server is not taken for one of ours.
pub(crate) const ALPN: &[u8] = b"oncewire";

pub(crate) fn provider() -> Arc<CryptoProvider> {
    #[cfg(feature = "aws-lc-rs")]
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    #[cfg(not(feature = "aws-lc-rs"))]
    let provider = rustls::crypto::ring::default_provider();
    Arc::new(provider)
}

/// What is wrong with a file, which it names.
fn bad_file(path: &Path, error: impl Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{}: {error}", path.display()))
}

/// What is wrong with a certificate and its key.
pub(crate) fn bad_identity(certificate: &Path, key: &Path, error: &rustls::Error) -> io::Error {
    match error {
        rustls::Error::InconsistentKeys(_) => {
            let message =
                format!("the key is not that of the certificate in {}", certificate.display());
            bad_file(key, message)
        }
        error => bad_file(certificate, error),
    }
}

/// The certificates of a PEM file, at least one.
pub(crate) fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    match certificates {
        Ok(certificates) if certificates.is_empty() => {
            Err(bad_file(path, "there is no certificate in this file"))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(bad_file(path, error)),
    }
}

/// The first private key of a PEM file.
pub(crate) fn private_key(path: &Path) -> io::Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| bad_file(path, error))
}

/// Adds the authorities of a PEM file.
pub(crate) fn add_authorities(roots: &mut RootCertStore, path: &Path) -> io::Result<()> {
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| bad_file(path, error))?;
    }
    Ok(())
}
