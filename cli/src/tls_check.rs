//! What a server shows in a handshake, and what comes of it.

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oncewire::rustls::pki_types::CertificateDer;
use oncewire::{CertificateDetails, Examination};

use crate::address::Address;
use crate::args::{TlsCheckArgs, TrustArgs};
use crate::connect::{Target, not_connected, within};
use crate::exit::Failure;
use crate::ping::ping;
use crate::tls::{self, Problem};
use crate::{plain, say};

const DAY: i64 = 24 * 60 * 60;

/// Two connections: of the first, only the handshake is made, and what was shown in it is printed whatever comes of it. The
/// second is as that of every other command.
pub(crate) async fn run(args: TlsCheckArgs) -> Result<(), Failure> {
    let address = &args.address;
    let Address::Tls(host) = address else {
        return Err(Failure::Usage(format!("tls-check wants tls:HOST:PORT, and got {address}")));
    };
    let target = Target::new(address.clone(), &args.identity)?;
    let connector = tls::connector(host, &args.identity.trust)?;
    let examined = within(args.timeout, connector.examine()).await;
    let examined = examined.ok_or_else(|| Failure::Unreachable {
        address: address.clone(),
        why: format!("no handshake was made within {:?}", args.timeout),
    })?;
    let examined = examined.map_err(|error| not_connected(address, &error))?;
    let now = unix_seconds();
    for line in shown(&examined, now) {
        say(&plain(&line))?;
    }
    examined.verdict.as_ref().map_err(|error| not_connected(address, error))?;
    say(&plain(&accepted(&args.identity.trust)))?;
    lasts(&examined.certificates, now, &args)?;
    ping(&target, args.timeout).await.map(drop)
}

fn accepted(trust: &TrustArgs) -> String {
    let files: Vec<_> = trust.ca.iter().map(|file| file.display().to_string()).collect();
    match &files[..] {
        [] => "accepted: signed by an authority that this system trusts".to_owned(),
        files => format!("accepted: signed by an authority in {}", files.join(" or ")),
    }
}

/// Whether all that was shown is valid for long enough. One that cannot be read may end at any time.
fn lasts(shown: &[CertificateDer<'_>], now: i64, args: &TlsCheckArgs) -> Result<(), Failure> {
    let Some(min) = args.min_days else { return Ok(()) };
    let failed = |problem, why| Failure::Tls { address: args.address.clone(), problem, why };
    for (at, der) in shown.iter().enumerate() {
        let number = at + 1;
        let details = CertificateDetails::read(der).map_err(|error| {
            let why = format!("when certificate {number} ends is not known: {error}");
            failed(Problem::Other, why)
        })?;
        let days = (details.not_after - now).div_euclid(DAY);
        if days < i64::from(min) {
            let why = format!("certificate {number} ends in {days} days, and --min-days is {min}");
            return Err(failed(Problem::Time, why));
        }
    }
    Ok(())
}

/// One line for the connection, and some for each certificate.
fn shown(examined: &Examination, now: i64) -> Vec<String> {
    let mut lines = Vec::new();
    let mut agreed = Vec::new();
    agreed.extend(examined.version.map(|version| format!("{version:?}")));
    agreed.extend(examined.cipher_suite.map(|suite| format!("{suite:?}")));
    let protocol = examined.protocol.as_deref().map(String::from_utf8_lossy);
    agreed.extend(protocol.map(|protocol| format!("protocol {protocol}")));
    if !agreed.is_empty() {
        lines.push(agreed.join(", "));
    }
    for (at, der) in examined.certificates.iter().enumerate() {
        lines.extend(certificate(at + 1, der, now));
    }
    lines
}

fn certificate(number: usize, der: &CertificateDer<'_>, now: i64) -> Vec<String> {
    let details = match CertificateDetails::read(der) {
        Ok(details) => details,
        Err(error) => return vec![format!("{number}. {error}")],
    };
    let subject = if details.subject.is_empty() { "(no subject)" } else { &details.subject };
    let mut lines = vec![format!("{number}. {subject}")];
    if !details.names.is_empty() {
        lines.push(format!("   names:   {}", details.names.join(", ")));
    }
    lines.push(format!("   issuer:  {}", details.issuer));
    lines.push(format!("   serial:  {}", details.serial));
    let (from, to) = (date(details.not_before), date(details.not_after));
    let mut valid = format!("   valid:   {from} to {to}, ");
    let days = |seconds: i64| seconds.div_euclid(DAY);
    let _ = match details {
        _ if now < details.not_before => {
            write!(valid, "NOT YET: in {} days", days(details.not_before - now))
        }
        _ if now > details.not_after => {
            write!(valid, "EXPIRED {} days ago", days(now - details.not_after))
        }
        _ => write!(valid, "{} days left", days(details.not_after - now)),
    };
    lines.push(valid);
    lines
}

/// `2026-02-28`, in UTC.
fn date(seconds: i64) -> String {
    // Of years that begin with March, so that the leap day is the last one.
    let days = seconds.div_euclid(DAY) + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    format!("{:04}-{month:02}-{day:02}", era * 400 + year + next)
}

#[expect(clippy::disallowed_methods, reason = "a program's own clock")]
fn unix_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    #[test]
    fn a_certificate_that_cannot_be_read_does_not_last() {
        let line = ["oncewire", "tls-check", "tls:a:1", "--min-days", "14"];
        let Command::TlsCheck(args) = Cli::parse_from(line).command else { panic!("{line:?}") };
        let failed = lasts(&[CertificateDer::from(&[0x30, 0][..])], 0, &args).unwrap_err();
        assert!(matches!(failed, Failure::Tls { problem: Problem::Other, .. }), "{failed}");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        // `date -ud @N +%F`.
        for (seconds, text) in [
            (0, "1970-01-01"),
            (-1, "1969-12-31"),
            (951_782_400, "2000-02-29"),
            (4_107_542_400, "2100-03-01"),
            (2_592_777_600, "2052-02-29"),
            (253_402_300_799, "9999-12-31"),
        ] {
            assert_eq!(date(seconds), text);
        }
    }
}
