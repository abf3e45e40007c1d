//! A handshake that is made to see what a server shows.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures_io::{AsyncRead, AsyncWrite};
use oncewire_driver::BoxStream;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CipherSuite, ClientConnection, DistinguishedName, Error, ProtocolVersion};

use crate::client::Current;
use crate::delegate::signatures_are_verified_by;
use crate::error::{Side, explain};

/// What a server has shown in a handshake: see [`TlsConnector::examine`](crate::TlsConnector::examine).
#[derive(Debug)]
#[non_exhaustive]
pub struct Examination {
    /// The server's certificate, and those that it has sent with it; empty where the handshake did not come so far. Unless the
    /// verdict is that they are accepted, anyone can have sent them.
    pub certificates: Vec<CertificateDer<'static>>,
    /// The version of TLS, as far as it was agreed on.
    pub version: Option<ProtocolVersion>,
    /// How the connection would be encrypted, as far as it was agreed on.
    pub cipher_suite: Option<CipherSuite>,
    /// The protocol inside (ALPN), if both ends have named one.
    pub protocol: Option<Vec<u8>>,
    /// Whether the handshake was completed, and if not, why: the error that
    /// [`connect`](oncewire_driver::Connect::connect) ends with. What the server says of *this* side's certificate is not in
    /// it in TLS 1.3, where it comes after the handshake.
    pub verdict: io::Result<()>,
}

/// Makes the handshake on a stream.
pub(crate) async fn examine(
    current: &Current,
    name: ServerName<'static>,
    mut stream: BoxStream,
) -> Examination {
    let shown = Arc::new(Mutex::new(Vec::new()));
    let mut config = (*current.config).clone();
    if let Some(inner) = current.verifier.clone() {
        let verifier = Recording { inner, shown: shown.clone() };
        config.dangerous().set_certificate_verifier(Arc::new(verifier));
    }
    let mut examination = Examination {
        certificates: Vec::new(),
        version: None,
        cipher_suite: None,
        protocol: None,
        verdict: Ok(()),
    };
    let mut tls = match ClientConnection::new(Arc::new(config), name) {
        Ok(tls) => tls,
        Err(error) => {
            examination.verdict = Err(explained(error));
            return examination;
        }
    };
    let made = handshake(&mut tls, &mut stream).await;
    tls.send_close_notify();
    // Where the connection is broken, its end needs no announcement.
    let _announced = flush(&mut tls, &mut stream).await;
    let accepted = tls.peer_certificates().unwrap_or_default().iter().cloned();
    let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
    examination.certificates = std::mem::take(&mut *shown);
    if examination.certificates.is_empty() {
        examination.certificates = accepted.map(CertificateDer::into_owned).collect();
    }
    examination.version = tls.protocol_version();
    examination.cipher_suite = tls.negotiated_cipher_suite().map(|suite| suite.suite());
    examination.protocol = tls.alpn_protocol().map(<[u8]>::to_vec);
    examination.verdict = made;
    examination
}

fn explained(error: Error) -> io::Error {
    explain(Side::Client, true, io::Error::new(io::ErrorKind::InvalidData, error))
}

async fn handshake(tls: &mut ClientConnection, stream: &mut BoxStream) -> io::Result<()> {
    let mut chunk = [0; 4096];
    loop {
        flush(tls, stream).await?;
        if !tls.is_handshaking() {
            return Ok(());
        }
        let len = poll_fn(|cx| Pin::new(&mut *stream).poll_read(cx, &mut chunk)).await?;
        if len == 0 {
            return Err(explain(Side::Client, true, io::ErrorKind::UnexpectedEof.into()));
        }
        let mut left = &chunk[..len];
        while !left.is_empty() {
            tls.read_tls(&mut left)?;
            tls.process_new_packets().map_err(explained)?;
        }
    }
}

/// Writes what the handshake has to say.
async fn flush(tls: &mut ClientConnection, stream: &mut BoxStream) -> io::Result<()> {
    let mut bytes = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut bytes)?;
    }
    let mut left = &bytes[..];
    while !left.is_empty() {
        let len = poll_fn(|cx| Pin::new(&mut *stream).poll_write(cx, left)).await?;
        if len == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        left = &left[len..];
    }
    poll_fn(|cx| Pin::new(&mut *stream).poll_flush(cx)).await
}

/// Judges as another verifier does, and notes what it is asked to judge.
struct Recording {
    inner: Arc<dyn ServerCertVerifier>,
    shown: Arc<Mutex<Vec<CertificateDer<'static>>>>,
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recording").finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Recording {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let all = std::iter::once(certificate).chain(intermediates);
        let all = all.map(|certificate| certificate.clone().into_owned()).collect();
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = all;
        self.inner.verify_server_cert(certificate, intermediates, name, ocsp_response, now)
    }

    signatures_are_verified_by!(inner);

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        self.inner.root_hint_subjects()
    }
}
