//! Servers in TLS: how they are met, and what can be wrong with that.

use std::io;

use oncewire::rustls::{AlertDescription as Alert, CertificateError, Error};
use oncewire::{ClientTls, TcpConnector, TlsConnector};

use crate::address::Address;
use crate::args::TrustArgs;
use crate::exit::Failure;

/// Dials `host:port`, and speaks TLS there.
pub(crate) fn connector(
    address: &str,
    trust: &TrustArgs,
) -> Result<TlsConnector<TcpConnector>, Failure> {
    let wrong = |error: io::Error| Failure::Usage(error.to_string());
    let mut tls = ClientTls::builder();
    if trust.ca.is_empty() {
        tls = tls.system_authorities();
    }
    for file in &trust.ca {
        tls = tls.authorities_file(file);
    }
    if let (Some(certificate), Some(key)) = (&trust.cert, &trust.key) {
        tls = tls.identity_files(certificate, key);
    }
    let tls = tls.build().map_err(|error| match trust.ca.is_empty() {
        true if error.to_string().starts_with("no authority") => {
            Failure::Usage("this system trusts no authority: name one with --ca".to_owned())
        }
        _ => wrong(error),
    })?;
    let name = trust.server_name.as_deref().unwrap_or_else(|| host(address));
    TlsConnector::new(TcpConnector::new(address), tls, name).map_err(wrong)
}

/// The host of `host:port`; that of `[::1]:port` without its brackets.
fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// Options of TLS at an address without it would let their user think that the line is safe.
pub(crate) fn refuse_options(address: &Address, trust: &TrustArgs) -> Result<(), Failure> {
    let option = if !trust.ca.is_empty() {
        "--ca"
    } else if trust.cert.is_some() {
        "--cert"
    } else if trust.server_name.is_some() {
        "--server-name"
    } else {
        return Ok(());
    };
    Err(Failure::Usage(format!("{option} is for tls: addresses, and {address} is none")))
}

/// Why there is no TLS with a server. Another attempt would end likewise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The other end does not speak TLS, or nothing that both speak.
    NoTls,
    /// The server's certificate is of an authority that is not trusted.
    Authority,
    /// It has expired, or is not valid yet.
    Time,
    /// It is for another name.
    Name,
    /// The server demands a certificate of this side, or does not accept the one that it has.
    OwnCertificate,
    /// Anything else.
    Other,
}

impl Problem {
    pub(crate) fn status(self) -> u8 {
        match self {
            Problem::NoTls => 30,
            Problem::Authority => 31,
            Problem::Time => 32,
            Problem::Name => 33,
            Problem::OwnCertificate => 34,
            Problem::Other => 35,
        }
    }

    /// What TLS says by this error, if it is one of TLS.
    pub(crate) fn of(error: &io::Error) -> Option<Problem> {
        let source = std::error::Error::source(error.get_ref()?)?;
        Some(match source.downcast_ref::<Error>()? {
            Error::InvalidCertificate(why) => Problem::of_certificate(why),
            Error::AlertReceived(alert) => Problem::of_alert(*alert),
            Error::InvalidMessage(_)
            | Error::PeerIncompatible(_)
            | Error::NoApplicationProtocol => Problem::NoTls,
            _ => Problem::Other,
        })
    }

    /// The same of an error of a dial.
    pub(crate) fn of_dial(address: &Address, error: &io::Error) -> Option<Problem> {
        // A server that speaks something else may hang up on what it does not understand.
        let hangs_up =
            matches!(address, Address::Tls(_)) && error.kind() == io::ErrorKind::UnexpectedEof;
        Problem::of(error).or(hangs_up.then_some(Problem::NoTls))
    }

    fn of_certificate(why: &CertificateError) -> Problem {
        match why {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Problem::Authority,
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Problem::Time,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Problem::Name
            }
            _ => Problem::Other,
        }
    }

    fn of_alert(alert: Alert) -> Problem {
        match alert {
            Alert::CertificateRequired
            | Alert::NoCertificate
            | Alert::UnknownCA
            | Alert::DecryptError
            | Alert::CertificateExpired
            | Alert::CertificateRevoked
            | Alert::CertificateUnknown
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::AccessDenied => Problem::OwnCertificate,
            Alert::ProtocolVersion | Alert::NoApplicationProtocol => Problem::NoTls,
            _ => Problem::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_what_a_certificate_is_for() {
        for (address, name) in [("a.b:1", "a.b"), ("127.0.0.1:1", "127.0.0.1"), ("[::1]:1", "::1")]
        {
            assert_eq!(host(address), name);
        }
    }
}
