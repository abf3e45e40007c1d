//! TLS as the connection string asks for it, by rustls.
//!
//! Not by `tokio-postgres-rustls` 0.13: it takes the certificate for a part of one, finds no signature in it, and so never binds a
//! password to it, as `channel_binding=require` demands.

use std::error::Error;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use oncewire_tls::ClientTls;
use postgres::Socket;
use postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use sha2::{Digest, Sha256, Sha384, Sha512};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;
use tokio_rustls::client;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::connection::TlsWords;

/// Makes each connection with what is in the files at that moment, so that certificates are renewed without a restart.
#[derive(Clone)]
pub(crate) struct ByWords(pub(crate) TlsWords);

impl ByWords {
    fn client(&self) -> io::Result<ClientTls> {
        // No protocol is named in the handshake: only PostgreSQL 17 and later know theirs.
        let mut builder = ClientTls::builder().without_alpn();
        builder = match self.0.authorities.as_deref() {
            None | Some("system") => builder.system_authorities(),
            Some(file) => builder.authorities_file(file),
        };
        if let (Some(certificate), Some(key)) = (&self.0.certificate, &self.0.key) {
            builder = builder.identity_files(certificate, key);
        }
        builder.build()
    }
}

impl MakeTlsConnect<Socket> for ByWords {
    type Stream = Stream;
    type TlsConnect = Handshake;
    type Error = Box<dyn Error + Send + Sync>;

    fn make_tls_connect(&mut self, host: &str) -> Result<Handshake, Self::Error> {
        let name = ServerName::try_from(host.to_owned())?;
        Ok(Handshake { connector: self.client()?.config().into(), name })
    }
}

/// A handshake to come.
pub(crate) struct Handshake {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl TlsConnect<Socket> for Handshake {
    type Stream = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        Box::pin(async move { Ok(Stream(self.connector.connect(self.name, socket).await?)) })
    }
}

/// A connection in TLS.
pub(crate) struct Stream(client::TlsStream<Socket>);

impl TlsStream for Stream {
    fn channel_binding(&self) -> ChannelBinding {
        let certificates = self.0.get_ref().1.peer_certificates();
        let hash = certificates.and_then(|all| hash_of(all.first()?));
        hash.map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// The hash of a certificate by which a password is bound to it (RFC 5929, section 4): by the algorithm of its own signature, but
/// SHA-256 in place of a weaker one. `None` if no hash is part of that algorithm, or it is not known here: then nothing is bound.
fn hash_of(certificate: &[u8]) -> Option<Vec<u8>> {
    Some(match signature_algorithm(certificate)? {
        // sha1WithRSAEncryption, sha256WithRSAEncryption, ecdsa-with-SHA256
        [42, 134, 72, 134, 247, 13, 1, 1, 5 | 11] | [42, 134, 72, 206, 61, 4, 3, 2] => {
            Sha256::digest(certificate).to_vec()
        }
        // sha384WithRSAEncryption, ecdsa-with-SHA384
        [42, 134, 72, 134, 247, 13, 1, 1, 12] | [42, 134, 72, 206, 61, 4, 3, 3] => {
            Sha384::digest(certificate).to_vec()
        }
        // sha512WithRSAEncryption, ecdsa-with-SHA512
        [42, 134, 72, 134, 247, 13, 1, 1, 13] | [42, 134, 72, 206, 61, 4, 3, 4] => {
            Sha512::digest(certificate).to_vec()
        }
        _ => return None,
    })
}

/// The object identifier of the algorithm by which a certificate is signed (RFC 5280): it follows what is signed.
fn signature_algorithm(certificate: &[u8]) -> Option<&[u8]> {
    const SEQUENCE: u8 = 0x30;
    const OBJECT_IDENTIFIER: u8 = 0x06;
    let (certificate, _) = element(SEQUENCE, certificate)?;
    let (_signed, rest) = element(SEQUENCE, certificate)?;
    let (algorithm, _signature) = element(SEQUENCE, rest)?;
    Some(element(OBJECT_IDENTIFIER, algorithm)?.0)
}

/// The content of the element of DER that bytes begin with, and what follows it.
fn element(tag: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let [first, short, rest @ ..] = bytes else { return None };
    let (len, rest) = match usize::from(*short) {
        len @ ..0x80 => (len, rest),
        // As many bytes follow as its lower bits say, with the length.
        long => {
            let digits = rest.get(..long & 0x7f).filter(|digits| digits.len() <= 4)?;
            let len = digits.iter().fold(0, |len, digit| len << 8 | usize::from(*digit));
            (len, &rest[digits.len()..])
        }
    };
    (*first == tag).then_some(())?;
    rest.split_at_checked(len)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

    use super::*;

    #[test]
    fn a_password_is_bound_to_a_certificate_by_the_hash_of_its_signature() {
        let signed_by = |key: KeyPair| {
            let signed = CertificateParams::new(vec!["db".to_owned()]).unwrap().self_signed(&key);
            signed.unwrap().der().to_vec()
        };
        let certificate = signed_by(KeyPair::generate().unwrap());
        assert_eq!(hash_of(&certificate), Some(Sha256::digest(&certificate).to_vec()));
        let certificate = signed_by(KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap());
        assert_eq!(hash_of(&certificate), Some(Sha384::digest(&certificate).to_vec()));
        // Ed25519 names no hash.
        assert_eq!(hash_of(&signed_by(KeyPair::generate_for(&PKCS_ED25519).unwrap())), None);
        for len in 0..certificate.len() {
            assert_eq!(hash_of(&certificate[..len]), None, "{len}");
        }
        assert_eq!(element(0x30, &[0x30, 0x84, 255, 255, 255, 255]), None);
    }
}
