//! Which clients are accepted, of those whose certificates are good.
#![cfg(any(feature = "ring", feature = "aws-lc-rs"))]

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DistinguishedName, Error};

use crate::certificate::certificate_name;
use crate::delegate::signatures_are_verified_by;

/// Whether a client is accepted.
pub(crate) type Admit = Arc<dyn Fn(&PeerCertificate<'_>) -> bool + Send + Sync>;

/// A client's certificate, which was found good.
#[derive(Debug)]
pub struct PeerCertificate<'a> {
    name: &'a str,
    certificate: &'a CertificateDer<'a>,
    intermediates: &'a [CertificateDer<'a>],
}

impl PeerCertificate<'_> {
    /// Its [name](certificate_name).
    pub fn name(&self) -> &str {
        self.name
    }

    /// The certificate itself, as DER.
    pub fn certificate(&self) -> &[u8] {
        self.certificate
    }

    /// What the client sent with it: not all of it need be part of the chain to the authority.
    pub fn intermediates(&self) -> &[CertificateDer<'_>] {
        self.intermediates
    }
}

/// Accepts clients whose certificates are good, have a name, and are admitted.
pub(crate) struct NamedClients {
    certificates: Arc<dyn ClientCertVerifier>,
    admit: Option<Admit>,
}

impl NamedClients {
    pub(crate) fn new(
        certificates: Arc<dyn ClientCertVerifier>,
        admit: Option<Admit>,
    ) -> NamedClients {
        NamedClients { certificates, admit }
    }
}

/// Asks the program. A panic denies: unwound, it would end the accepting task, and a client could bring it about.
fn admits(admit: &Admit, peer: &PeerCertificate<'_>) -> bool {
    let asked = catch_unwind(AssertUnwindSafe(|| admit(peer)));
    asked.unwrap_or_else(|payload| {
        // Its drop may panic again.
        std::mem::forget(payload);
        false
    })
}

impl fmt::Debug for NamedClients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NamedClients").finish_non_exhaustive()
    }
}

impl ClientCertVerifier for NamedClients {
    fn offer_client_auth(&self) -> bool {
        self.certificates.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.certificates.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.certificates.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.certificates.verify_client_cert(certificate, intermediates, now)?;
        // The client is sent the alert "access denied".
        let denied = Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
        let Ok(name) = certificate_name(certificate) else { return Err(denied) };
        let peer = PeerCertificate { name: &name, certificate, intermediates };
        match &self.admit {
            Some(admit) if !admits(admit, &peer) => Err(denied),
            _ => Ok(verified),
        }
    }

    signatures_are_verified_by!(certificates);
}
