//! What a connection string says of TLS, in libpq's words. The crate `postgres` knows some of them only.

use std::ops::Range;

/// What a connection string says of TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TlsWords {
    /// `sslmode` is `require`, `verify-ca` or `verify-full`; or files are named, and no mode.
    pub(crate) is_required: bool,
    /// `sslmode` is something else than these, `prefer` and `disable`.
    pub(crate) has_unknown_mode: bool,
    /// `sslrootcert`: a file in PEM, or `system`.
    pub(crate) authorities: Option<String>,
    /// `sslcert`: a file in PEM.
    pub(crate) certificate: Option<String>,
    /// `sslkey`: a file in PEM.
    pub(crate) key: Option<String>,
}

impl TlsWords {
    /// The first word that only our own TLS obeys.
    pub(crate) fn first_file(&self) -> Option<&'static str> {
        let named = [
            (&self.authorities, "sslrootcert"),
            (&self.certificate, "sslcert"),
            (&self.key, "sslkey"),
        ];
        named.iter().find_map(|(value, name)| value.is_some().then_some(*name))
    }
}

/// A connection string without what the crate `postgres` does not know of TLS, and that. What is malformed is left for that crate to
/// say so.
pub(crate) fn take_tls_words(connection: &str) -> (String, TlsWords) {
    let is_url =
        ["postgres://", "postgresql://"].iter().any(|scheme| connection.starts_with(scheme));
    let settings = if is_url { settings_of_url(connection) } else { settings_of_words(connection) };
    let (mut words, mut mode, mut rest) = (TlsWords::default(), None, connection.to_owned());
    // From the end, so that the places of those before stay right.
    for Setting { name, value, place } in settings.into_iter().rev() {
        match name.as_str() {
            "sslrootcert" => words.authorities = words.authorities.or(Some(value)),
            "sslcert" => words.certificate = words.certificate.or(Some(value)),
            "sslkey" => words.key = words.key.or(Some(value)),
            "sslmode" => {
                let is_ours = value == "verify-ca" || value == "verify-full";
                mode = mode.or(Some(value));
                if !is_ours {
                    continue;
                }
            }
            _ => continue,
        }
        rest.replace_range(place, "");
    }
    match mode.as_deref() {
        Some("require" | "verify-ca" | "verify-full") => words.is_required = true,
        Some("prefer" | "disable") => {}
        Some(_) => words.has_unknown_mode = true,
        None => words.is_required = words.first_file().is_some(),
    }
    (rest, words)
}

/// One setting of a connection string, and where it is written there, with what sets it apart from the next.
struct Setting {
    name: String,
    value: String,
    place: Range<usize>,
}

/// Of `name=value name='a value'`.
fn settings_of_words(text: &str) -> Vec<Setting> {
    let mut settings = Vec::new();
    let mut at = 0;
    loop {
        let rest = text[at..].trim_start();
        let begin = text.len() - rest.len();
        let Some((name, value)) = rest.split_once('=') else { return settings };
        let value = value.trim_start();
        let Some((value, len)) = word(value).map(|(word, len)| (word, begin_of(text, value) + len))
        else {
            return settings;
        };
        settings.push(Setting { name: name.trim_end().to_owned(), value, place: begin..len });
        at = len;
    }
}

/// Where a part of a text that reaches to its end begins.
fn begin_of(text: &str, end: &str) -> usize {
    text.len() - end.len()
}

/// The value at the beginning of a text, without its quotes and backslashes, and how long it is with them; `None` if its quote does not
/// end.
fn word(text: &str) -> Option<(String, usize)> {
    let is_quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut characters = text.char_indices().skip(usize::from(is_quoted));
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            '\'' if is_quoted => return Some((value, at + 1)),
            blank if !is_quoted && blank.is_whitespace() => return Some((value, at)),
            other => value.push(other),
        }
    }
    (!is_quoted).then_some((value, text.len()))
}

/// Of `postgres://user:secret@host/name?name=value&name=value`.
fn settings_of_url(url: &str) -> Vec<Setting> {
    // A password may hold a question mark.
    let credentials = url.find('@').map_or(0, |at| at + 1);
    let Some(query) = url[credentials..].find('?').map(|at| credentials + at + 1) else {
        return Vec::new();
    };
    let mut begin = query;
    let mut settings = Vec::new();
    for pair in url[query..].split_inclusive('&') {
        let end = begin + pair.len();
        if let Some((name, value)) = pair.trim_end_matches('&').split_once('=') {
            let (name, value) = (decoded(name), decoded(value));
            settings.push(Setting { name, value, place: begin..end });
        }
        begin = end;
    }
    settings
}

/// With `%2F` as what it means.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let escaped = (*first == b'%').then(|| after.get(..2)).flatten();
        let escaped = escaped.and_then(|digits| std::str::from_utf8(digits).ok());
        match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn required(authorities: Option<&str>) -> TlsWords {
        TlsWords {
            is_required: true,
            authorities: authorities.map(str::to_owned),
            ..TlsWords::default()
        }
    }

    #[test]
    fn what_libpq_calls_tls_is_taken_out_of_a_connection_string_and_the_rest_stays() {
        let plain = "host=db password='a sslmode=verify-full \\' b' dbname=bank";
        assert_eq!(take_tls_words(plain), (plain.to_owned(), TlsWords::default()));
        let prefers = "host=db sslmode=prefer";
        assert_eq!(take_tls_words(prefers), (prefers.to_owned(), TlsWords::default()));
        let requires = "host=db sslmode = require";
        assert_eq!(take_tls_words(requires), (requires.to_owned(), required(None)));
        assert_eq!(
            take_tls_words("host=db sslrootcert='/a b/\\'ca.pem' sslmode=verify-full user=u"),
            ("host=db   user=u".to_owned(), required(Some("/a b/'ca.pem")))
        );
        assert_eq!(take_tls_words("sslrootcert=system").1, required(Some("system")));
        let off = take_tls_words("sslmode=disable sslrootcert=ca.pem").1;
        assert!(!off.is_required && off.first_file() == Some("sslrootcert"));
        let with_identity = take_tls_words("sslcert=c sslkey=k sslrootcert=r").1;
        assert_eq!(
            (with_identity.certificate.as_deref(), with_identity.key.as_deref()),
            (Some("c"), Some("k"))
        );
        assert!(take_tls_words("sslmode=verify").1.has_unknown_mode);
        for malformed in ["", "host", "host='db", "host=db sslmode"] {
            assert_eq!(take_tls_words(malformed), (malformed.to_owned(), TlsWords::default()));
        }
    }

    #[test]
    fn the_same_in_an_url() {
        let (rest, words) = take_tls_words(
            "postgres://u:a?sslmode=x@db/bank?sslmode=verify-ca&sslrootcert=%2Fetc%2Fca.pem&connect_timeout=3",
        );
        assert_eq!(rest, "postgres://u:a?sslmode=x@db/bank?connect_timeout=3");
        assert_eq!(words, required(Some("/etc/ca.pem")));
        let (rest, words) = take_tls_words("postgresql://db?sslmode=require");
        assert_eq!((rest.as_str(), words), ("postgresql://db?sslmode=require", required(None)));
        assert_eq!(take_tls_words("postgres://db").1, TlsWords::default());
        assert_eq!(decoded("100%"), "100%");
    }
}
