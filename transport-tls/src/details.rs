//! What a certificate says, for people.

use std::fmt::Write;
use std::io;
use std::net::IpAddr;

use rustls::pki_types::CertificateDer;

use crate::der::Der;

const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// 2.5.29.17.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// What a certificate says of itself, for people and for programs that watch when it ends. Nothing of it is verified here: a
/// certificate can say anything.
///
/// ```
/// # fn show(certificate: &oncewire_tls::rustls::pki_types::CertificateDer<'_>) -> std::io::Result<()> {
/// let details = oncewire_tls::CertificateDetails::read(certificate)?;
/// println!("{} is for {}", details.subject, details.names.join(", "));
/// # Ok(()) }
/// ```
///
/// Its texts may hold control characters, which a terminal obeys.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CertificateDetails {
    /// Whom it is for, as `CN=server, O=example`; empty where only the names say it.
    pub subject: String,
    /// Who has signed it, by the certificate.
    pub issuer: String,
    /// Its alternative names, each with its kind: `DNS server.example.org`, `IP 127.0.0.1`, `URI spiffe://…`.
    pub names: Vec<String>,
    /// Its serial number, in hexadecimal digits.
    pub serial: String,
    /// From when it is valid, in seconds since 1970.
    pub not_before: i64,
    /// Until when it is valid, in seconds since 1970.
    pub not_after: i64,
}

impl CertificateDetails {
    /// Reads a certificate of at most 64 KiB.
    ///
    /// # Errors
    /// [`InvalidData`](io::ErrorKind::InvalidData) for something that is no certificate.
    pub fn read(certificate: &CertificateDer<'_>) -> io::Result<CertificateDetails> {
        read(certificate).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "what was shown is no certificate")
        })
    }
}

/// RFC 5280, 4.1.
fn read(certificate: &[u8]) -> Option<CertificateDetails> {
    let mut signed = Der(Der(certificate).take(SEQUENCE)?);
    let mut fields = Der(signed.take(SEQUENCE)?);
    let _version = fields.take_optional(0xa0);
    let serial = hexadecimal(fields.take(INTEGER)?);
    let _algorithm = fields.take(SEQUENCE)?;
    let issuer = distinguished_name(fields.take(SEQUENCE)?)?;
    let mut validity = Der(fields.take(SEQUENCE)?);
    let (not_before, not_after) = (time(validity.next()?)?, time(validity.next()?)?);
    let subject = distinguished_name(fields.take(SEQUENCE)?)?;
    let _public_key = fields.take(SEQUENCE)?;
    let _issuer_id = fields.take_optional(0x81);
    let _subject_id = fields.take_optional(0x82);
    let names = match fields.take_optional(0xa3) {
        Some(extensions) => alternative_names(extensions)?,
        None => Vec::new(),
    };
    Some(CertificateDetails { subject, issuer, names, serial, not_before, not_after })
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn alternative_names(extensions: &[u8]) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut extensions = Der(Der(extensions).take(SEQUENCE)?);
    while !extensions.is_empty() {
        let mut extension = Der(extensions.take(SEQUENCE)?);
        if extension.take(OID)? != SUBJECT_ALT_NAME {
            continue;
        }
        let _critical = extension.take_optional(0x01);
        let mut list = Der(Der(extension.take(OCTET_STRING)?).take(SEQUENCE)?);
        while !list.is_empty() {
            let (kind, value) = list.next()?;
            names.push(alternative_name(kind, value));
        }
    }
    Some(names)
}

fn alternative_name(kind: u8, value: &[u8]) -> String {
    let text = |kind: &str| format!("{kind} {}", String::from_utf8_lossy(value));
    let address = || {
        let of4 = <[u8; 4]>::try_from(value).map(IpAddr::from);
        of4.or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from)).ok()
    };
    match kind {
        0x81 => text("email"),
        0x82 => text("DNS"),
        0x86 => text("URI"),
        0x87 if let Some(address) = address() => format!("IP {address}"),
        0xa4 => match Der(value).take(SEQUENCE).and_then(distinguished_name) {
            Some(name) => format!("directory {name}"),
            None => "directory, not readable".to_owned(),
        },
        _ => format!("other ({kind:#04x}) {}", hexadecimal(value)),
    }
}

/// `CN=a, O=b`, in the certificate's order; characters that would make one value look like two are escaped as RFC 4514 has it.
fn distinguished_name(sets: &[u8]) -> Option<String> {
    let mut name = String::new();
    let mut sets = Der(sets);
    while !sets.is_empty() {
        let mut attributes = Der(sets.take(SET)?);
        while !attributes.is_empty() {
            let mut attribute = Der(attributes.take(SEQUENCE)?);
            let kind = attribute_kind(attribute.take(OID)?);
            let (tag, value) = attribute.next()?;
            if !name.is_empty() {
                name.push_str(", ");
            }
            name.push_str(&kind);
            name.push('=');
            push_value(&mut name, tag, value);
        }
    }
    Some(name)
}

fn attribute_kind(oid: &[u8]) -> String {
    let known = match oid {
        [0x55, 0x04, 0x03] => "CN",
        [0x55, 0x04, 0x05] => "serialNumber",
        [0x55, 0x04, 0x06] => "C",
        [0x55, 0x04, 0x07] => "L",
        [0x55, 0x04, 0x08] => "ST",
        [0x55, 0x04, 0x0a] => "O",
        [0x55, 0x04, 0x0b] => "OU",
        // 0.9.2342.19200300.100.1.25 and .1, 1.2.840.113549.1.9.1.
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x19] => "DC",
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x01] => "UID",
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x01] => "email",
        _ => return format!("OID.{}", hexadecimal(oid)),
    };
    known.to_owned()
}

fn push_value(name: &mut String, tag: u8, value: &[u8]) {
    const UTF8: u8 = 0x0c;
    const PRINTABLE: u8 = 0x13;
    const TELETEX: u8 = 0x14;
    const IA5: u8 = 0x16;
    const BMP: u8 = 0x1e;
    let text = match tag {
        UTF8 | PRINTABLE | TELETEX | IA5 => String::from_utf8_lossy(value).into_owned(),
        BMP => {
            let units: Vec<u16> =
                value.chunks_exact(2).map(|two| u16::from_be_bytes([two[0], two[1]])).collect();
            String::from_utf16_lossy(&units)
        }
        _ => format!("#{}", hexadecimal(value)),
    };
    for letter in text.chars() {
        if matches!(letter, ',' | '+' | '"' | '\\' | '<' | '>' | ';' | '=') {
            name.push('\\');
        }
        name.push(letter);
    }
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`, as seconds since 1970.
fn time((tag, text): (u8, &[u8])) -> Option<i64> {
    let text = std::str::from_utf8(text.strip_suffix(b"Z")?).ok()?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (year, rest) = match (tag, text.len()) {
        (UTC_TIME, 12) => {
            let year: i64 = text[..2].parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, &text[2..])
        }
        (GENERALIZED_TIME, 14) => (text[..4].parse().ok()?, &text[4..]),
        _ => return None,
    };
    let field = |at: usize| rest[2 * at..2 * at + 2].parse::<i64>().ok();
    let (month, day) = (field(0)?, field(1)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let seconds = field(2)? * 3600 + field(3)? * 60 + field(4)?;
    Some(days_before(year, month, day) * 86_400 + seconds)
}

/// Days from 1970 to a day of the Gregorian calendar. Years begin with March here, so that the leap day is the last one.
fn days_before(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType, date_time_ymd};

    use super::*;

    fn certificate(change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        change(&mut params);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn a_certificate_says_whom_it_is_for_and_how_long() {
        let certificate = certificate(|params| {
            params.distinguished_name.push(DnType::CommonName, "a, CN=b");
            params.distinguished_name.push(DnType::OrganizationName, "Ω");
            params.subject_alt_names = vec![
                SanType::DnsName("server.example.org".try_into().unwrap()),
                SanType::IpAddress(Ipv4Addr::LOCALHOST.into()),
                SanType::IpAddress(Ipv6Addr::LOCALHOST.into()),
                SanType::URI("spiffe://example.org/bank".try_into().unwrap()),
            ];
            params.not_before = date_time_ymd(1999, 12, 31);
            params.not_after = date_time_ymd(2052, 2, 29);
            params.serial_number = Some(0x0102_03ff_u64.into());
        });
        let details = CertificateDetails::read(&certificate).unwrap();
        assert_eq!(details.subject, "CN=a\\, CN\\=b, O=Ω");
        assert_eq!(details.issuer, details.subject);
        let names =
            ["DNS server.example.org", "IP 127.0.0.1", "IP ::1", "URI spiffe://example.org/bank"];
        assert_eq!(details.names, names);
        assert_eq!(details.serial, "010203ff");
        // `date -ud 1999-12-31 +%s` and so on.
        assert_eq!((details.not_before, details.not_after), (946_598_400, 2_592_777_600));
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        let known =
            [(1970, 1, 1, 0), (1969, 12, 31, -1), (2000, 2, 29, 11_016), (2100, 3, 1, 47_541)];
        for (year, month, day, days) in known {
            assert_eq!(days_before(year, month, day), days, "{year}-{month}-{day}");
        }
    }

    #[test]
    fn no_bytes_panic() {
        let whole = certificate(|params| {
            params.distinguished_name.push(DnType::CommonName, "alice");
            params.subject_alt_names = vec![SanType::IpAddress(Ipv4Addr::LOCALHOST.into())];
        });
        assert!(read(&whole).is_some());
        for len in 0..whole.len() {
            let _any = read(&whole[..len]);
            let mut bytes = whole.to_vec();
            for byte in [0, 1, 0x30, 0x7f, 0x80, 0x82, 0xff] {
                bytes[len] = byte;
                let _any = read(&bytes);
            }
        }
        for time_text in
            [&b"Z"[..], b"99Z", b"991332000000Z", b"9900\xff\xff000000Z", b"991231235960"]
        {
            let _any = time((UTC_TIME, time_text));
        }
    }
}
