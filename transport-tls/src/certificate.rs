//! The name in a certificate.

use std::io;

use rustls::pki_types::CertificateDer;

use crate::der::Der;

/// Longer names are refused: they are kept for each client, and some authorities sign what they are asked to.
const NAME_LEN_MAX: usize = 256;

/// The name of a certificate, which says who its owner is: the first URI among its alternative names, else the first DNS
/// name, else the common name of its subject.
///
/// ```
/// # fn show(certificate: &oncewire_tls::rustls::pki_types::CertificateDer<'_>) -> std::io::Result<()> {
/// println!("called by {}", oncewire_tls::certificate_name(certificate)?);
/// # Ok(()) }
/// ```
///
/// # Errors
/// [`InvalidData`](io::ErrorKind::InvalidData) for something that is no certificate, or has no such name, or has one that is
/// empty, longer than 256 bytes, or holds control characters, or has several common names.
pub fn certificate_name(certificate: &CertificateDer<'_>) -> io::Result<String> {
    let invalid = |message: String| io::Error::new(io::ErrorKind::InvalidData, message);
    let certificate = webpki::EndEntityCert::try_from(certificate)
        .map_err(|error| invalid(format!("not a certificate: {error}")))?;
    let alternative = certificate.valid_uri_names().next();
    let name = match alternative.or_else(|| certificate.valid_dns_names().next()) {
        Some(name) => name,
        None => common_name(certificate.subject())
            .ok_or_else(|| invalid("the certificate has no name".to_owned()))?,
    };
    if name.is_empty() || name.len() > NAME_LEN_MAX || name.chars().any(char::is_control) {
        return Err(invalid("the certificate's name cannot be used".to_owned()));
    }
    Ok(name.to_owned())
}

/// The one common name of a subject: `SEQUENCE OF SET OF SEQUENCE { type OID, value ANY }` (RFC 5280, 4.1.2.4), without
/// the outermost head. Of two names each reader may choose another, so there must be one.
fn common_name(subject: &[u8]) -> Option<&str> {
    /// 2.5.4.3.
    const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
    const UTF8_STRING: u8 = 0x0c;
    const PRINTABLE_STRING: u8 = 0x13;
    const IA5_STRING: u8 = 0x16;
    let mut found = None;
    let mut sets = Der(subject);
    while !sets.is_empty() {
        let mut attributes = Der(sets.take(0x31)?);
        while !attributes.is_empty() {
            let mut attribute = Der(attributes.take(0x30)?);
            if attribute.take(0x06)? != COMMON_NAME {
                continue;
            }
            let (tag, value) = attribute.next()?;
            let text = match tag {
                UTF8_STRING | PRINTABLE_STRING | IA5_STRING => std::str::from_utf8(value).ok()?,
                _ => return None,
            };
            if found.replace(text).is_some() {
                return None;
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn certificate(common_names: &[&str], alternatives: Vec<SanType>) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "example");
        for name in common_names {
            params.distinguished_name.push(DnType::CommonName, *name);
        }
        params.subject_alt_names = alternatives;
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn the_name_is_a_uri_else_a_dns_name_else_the_common_name() {
        let uri = SanType::URI("spiffe://example.org/alice".try_into().unwrap());
        let dns = SanType::DnsName("alice.example.org".try_into().unwrap());
        let cases = [
            (vec![dns.clone(), uri], "spiffe://example.org/alice"),
            (vec![dns], "alice.example.org"),
            (vec![], "Alice Ω"),
        ];
        for (alternatives, name) in cases {
            let certificate = certificate(&["Alice Ω"], alternatives);
            assert_eq!(certificate_name(&certificate).unwrap(), name);
        }
    }

    #[test]
    fn names_that_cannot_be_trusted_are_none() {
        let long = "a".repeat(NAME_LEN_MAX + 1);
        for names in [&[][..], &["with\nline"], &["with\0nul"], &[""], &[&long]] {
            let error = certificate_name(&certificate(names, vec![])).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{names:?}: {error}");
        }
    }

    #[test]
    fn no_bytes_of_a_subject_panic() {
        let name = |text: &[u8]| {
            let mut bytes = vec![0x31, 9 + text.len() as u8, 0x30, 7 + text.len() as u8];
            bytes.extend([0x06, 3, 0x55, 4, 3, 0x0c, text.len() as u8]);
            bytes.extend(text);
            bytes
        };
        let alice = name(b"alice");
        assert_eq!(common_name(&alice), Some("alice"));
        // A second name.
        assert_eq!(common_name(&[alice.clone(), name(b"bob")].concat()), None);
        for len in 0..alice.len() {
            assert_eq!(common_name(&alice[..len]), None, "{len}");
        }
        for at in 0..alice.len() {
            for byte in 0..=255 {
                let mut bytes = alice.clone();
                bytes[at] = byte;
                let _any = common_name(&bytes);
            }
        }
    }
}
