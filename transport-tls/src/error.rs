//! What went wrong, for the one who has to mend it.

use std::fmt;
use std::io;

use rustls::{AlertDescription, CertificateError, Error, OtherError};

/// Which end of a connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

impl Side {
    fn peer(self) -> &'static str {
        match self {
            Side::Client => "server",
            Side::Server => "client",
        }
    }
}

/// An error of TLS in words, with rustls's own as its source.
#[derive(Debug)]
struct TlsError {
    text: String,
    source: Error,
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for TlsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Says in words what an error of rustls means, and by its kind whether another attempt can end otherwise:
/// [`PermissionDenied`](io::ErrorKind::PermissionDenied) for certificates that are not accepted, and
/// [`Unsupported`](io::ErrorKind::Unsupported) for ends that have nothing in common, mean that it cannot. Other errors stay.
pub(crate) fn explain(side: Side, handshaking: bool, error: io::Error) -> io::Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    let peer = side.peer();
    let Some(source) = inner.cloned() else {
        let cut = handshaking && error.kind() == io::ErrorKind::UnexpectedEof;
        let text =
            || format!("the {peer} ends the connection in the handshake; it may not speak TLS");
        return if cut { io::Error::new(error.kind(), text()) } else { error };
    };
    let (kind, text) = match &source {
        Error::InvalidCertificate(why) => {
            (io::ErrorKind::PermissionDenied, format!("the {peer}'s certificate {}", bad(why)))
        }
        Error::NoCertificatesPresented => {
            (io::ErrorKind::PermissionDenied, format!("the {peer} has shown no certificate"))
        }
        Error::AlertReceived(alert) => alert_received(peer, *alert),
        Error::InvalidMessage(_) if handshaking => {
            (io::ErrorKind::Unsupported, format!("the {peer} does not speak TLS"))
        }
        Error::PeerIncompatible(why) => {
            (io::ErrorKind::Unsupported, format!("no common parameters with the {peer}: {why:?}"))
        }
        Error::NoApplicationProtocol => {
            (io::ErrorKind::Unsupported, format!("the {peer} speaks another protocol in TLS"))
        }
        other => (io::ErrorKind::InvalidData, format!("TLS with the {peer} has failed: {other}")),
    };
    io::Error::new(kind, TlsError { text, source })
}

/// Whether an error is a verdict of [`explain`] that another attempt will not change.
pub(crate) fn is_verdict(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, Unsupported};
    let is_of_tls = error.get_ref().is_some_and(|inner| inner.is::<TlsError>());
    is_of_tls && matches!(error.kind(), PermissionDenied | Unsupported)
}

/// What is wrong with a certificate, after its subject.
fn bad(why: &CertificateError) -> String {
    const DAY: u64 = 24 * 60 * 60;
    match why {
        CertificateError::Expired => "has expired".to_owned(),
        CertificateError::ExpiredContext { time, not_after } => {
            let days = time.as_secs().saturating_sub(not_after.as_secs()) / DAY;
            format!("has expired, {days} days ago")
        }
        CertificateError::NotValidYet => "is not valid yet".to_owned(),
        CertificateError::NotValidYetContext { time, not_before } => {
            let days = not_before.as_secs().saturating_sub(time.as_secs()) / DAY;
            format!("is not valid yet: it will be in {days} days")
        }
        CertificateError::BadSignature => {
            "is not signed by the authority of that name that is trusted here".to_owned()
        }
        CertificateError::UnknownIssuer => "is of an authority that is not trusted here".to_owned(),
        CertificateError::NotValidForNameContext { expected, presented } => {
            format!("is for {}, not for {}", presented.join(", "), expected.to_str())
        }
        CertificateError::NotValidForName => "is for another name".to_owned(),
        CertificateError::Revoked => "was revoked".to_owned(),
        CertificateError::ApplicationVerificationFailure => "is not admitted".to_owned(),
        CertificateError::Other(OtherError(why)) => match why.downcast_ref::<webpki::Error>() {
            Some(webpki::Error::CaUsedAsEndEntity) => {
                "is an authority's own, not one that it has signed for an end of a connection"
                    .to_owned()
            }
            Some(webpki::Error::UnsupportedCertVersion) => {
                "is of version 1: it has no extensions, which say what it is for".to_owned()
            }
            _ => format!("is not accepted: {why}"),
        },
        other => format!("is not accepted: {other}"),
    }
}

fn alert_received(peer: &str, alert: AlertDescription) -> (io::ErrorKind, String) {
    use AlertDescription as Alert;
    let refused = |why: &str| {
        let text = format!("the {peer} does not accept this side's certificate: {why}");
        (io::ErrorKind::PermissionDenied, text)
    };
    match alert {
        Alert::CertificateRequired | Alert::NoCertificate => {
            let text = format!("the {peer} asks for a certificate, and this side has none");
            (io::ErrorKind::PermissionDenied, text)
        }
        Alert::UnknownCA => refused("its authority is not trusted there"),
        // What rustls and others say of a signature that is not the authority's.
        Alert::DecryptError => refused("its signature is not that of the authority known there"),
        Alert::CertificateExpired => refused("it has expired"),
        Alert::CertificateRevoked => refused("it was revoked"),
        Alert::AccessDenied => refused("access denied"),
        Alert::BadCertificate | Alert::UnsupportedCertificate | Alert::CertificateUnknown => {
            refused(&format!("{alert:?}"))
        }
        Alert::HandshakeFailure => {
            let text = format!(
                "the {peer} refuses the handshake: no parameters in common, or, in TLS 1.2, no certificate of this side"
            );
            (io::ErrorKind::Unsupported, text)
        }
        Alert::ProtocolVersion
        | Alert::InsufficientSecurity
        | Alert::UnrecognisedName
        | Alert::NoApplicationProtocol => {
            let text = format!("the {peer} refuses the handshake: {alert:?}");
            (io::ErrorKind::Unsupported, text)
        }
        other => (io::ErrorKind::InvalidData, format!("the {peer} ends the connection: {other:?}")),
    }
}
