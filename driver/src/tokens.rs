//! Tokens: secrets by which callers say who they are.
//!
//! A client sends its token when it connects ([`ClientOptions::token`](crate::ClientOptions::token)), and only where others
//! cannot read it: in TLS, over unix sockets, over pipes. A server that was built with a table of [`Tokens`] serves those who
//! show one of the table, and takes them for the names that stand there, whatever the transport says of them: these names are
//! the callers that own sessions, have shares of the limits, and that `authorize` and handlers see.
//!
//! A name may have several tokens, so that one can take the place of another while clients of both are served.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use oncewire_core::wire::{self, Decoded, Frame, Role};
use oncewire_core::{TOKEN_LEN_MAX, TOKEN_LEN_MIN, Token};
use subtle::{ConditionallySelectable, ConstantTimeEq};

use crate::transport::Subject;

/// Bytes of the longest name in a table.
const NAME_LEN_MAX: usize = 256;
/// Bytes of the longest file that is read.
const FILE_LEN_MAX: u64 = 4 << 20;
/// Tokens of a table at most: all are compared, at each handshake.
const TABLE_LEN_MAX: usize = 4_096;

/// Whose token is whose, at a server. A clone is the same table, so that it can be replaced while the server runs.
///
/// ```
/// use oncewire_driver::tokens::Tokens;
/// use oncewire_driver::Server;
///
/// // As `openssl rand -hex 32` makes them. `alice` has a new one, and clients that still have the old one.
/// let tokens = Tokens::parse(
///     "alice 0b2e8ba3f1b2f1c3a2c1f0e9d8c7b6a5\n\
///      alice 6f1d02a9b3c4d5e6f708192a3b4c5d6e\n\
///      bob   c0ffee00c0ffee00c0ffee00c0ffee00\n",
/// )?;
/// let builder = Server::builder("bank").tokens(&tokens);
/// // Later, when all have the new one:
/// tokens.replace(&Tokens::parse("alice 6f1d02a9b3c4d5e6f708192a3b4c5d6e")?);
/// # drop(builder);
/// # Ok::<(), oncewire_driver::tokens::TokensError>(())
/// ```
#[derive(Clone)]
pub struct Tokens(Arc<RwLock<Table>>);

type Table = Arc<[Entry]>;

struct Entry {
    words: Words,
    name: Arc<str>,
}

/// A token with zeros behind it, and its length: what is compared as a whole.
type Words = [u64; TOKEN_LEN_MAX / 8 + 1];

fn words(token: &Token) -> Words {
    let (bytes, len) = token.padded();
    let mut words = [u64::from(len); TOKEN_LEN_MAX / 8 + 1];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}

/// What is wrong with a table of tokens. It shows no token.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokensError {
    /// A line does not consist of a name, blanks and a token of 16 to 128 bytes.
    Line {
        /// Its number, from 1.
        line: usize,
    },
    /// There are more than 4,096 tokens: each is compared at each handshake.
    TooMany,
    /// A name is empty, has more than 256 bytes, or has control characters.
    Name,
    /// One token has two names.
    Ambiguous {
        /// The one.
        first: Arc<str>,
        /// The other.
        second: Arc<str>,
    },
}

impl fmt::Display for TokensError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TokensError::Line { line } => write!(
                f,
                "line {line} is not a name and a token of {TOKEN_LEN_MIN} to {TOKEN_LEN_MAX} bytes"
            ),
            TokensError::TooMany => write!(f, "there are more than {TABLE_LEN_MAX} tokens"),
            TokensError::Name => write!(
                f,
                "a name has 1 to {NAME_LEN_MAX} bytes, and no control characters among them"
            ),
            TokensError::Ambiguous { first, second } => {
                write!(f, "one token stands for {first:?} and for {second:?}")
            }
        }
    }
}

impl std::error::Error for TokensError {}

impl Tokens {
    /// A table of names and their tokens. An empty one admits no one.
    ///
    /// # Errors
    /// A name that is none, a token of two names, or too many tokens.
    pub fn new<N: Into<Arc<str>>>(
        entries: impl IntoIterator<Item = (N, Token)>,
    ) -> Result<Tokens, TokensError> {
        let mut known: HashMap<Vec<u8>, Arc<str>> = HashMap::new();
        let mut table = Vec::new();
        for (name, token) in entries {
            let name: Arc<str> = name.into();
            let is_name = (1..=NAME_LEN_MAX).contains(&name.len());
            if !is_name || name.chars().any(char::is_control) {
                return Err(TokensError::Name);
            }
            match known.insert(token.as_bytes().to_vec(), name.clone()) {
                None if table.len() == TABLE_LEN_MAX => return Err(TokensError::TooMany),
                None => table.push(Entry { words: words(&token), name }),
                Some(first) if first == name => {}
                Some(first) => return Err(TokensError::Ambiguous { first, second: name }),
            }
        }
        Ok(Tokens(Arc::new(RwLock::new(table.into()))))
    }

    /// The same from a text of one name and one of its tokens a line, with blanks between them. Empty lines and those that
    /// begin with `#` say nothing.
    ///
    /// # Errors
    /// As [`new`](Tokens::new), and a line of another form.
    pub fn parse(text: &str) -> Result<Tokens, TokensError> {
        let mut entries = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = TokensError::Line { line: at + 1 };
            let (name, token) = line.split_once(char::is_whitespace).ok_or(wrong.clone())?;
            let token = token.trim_start();
            let token = Some(token).filter(|token| !token.contains(char::is_whitespace));
            let token = token.and_then(|token| Token::new(token.as_bytes())).ok_or(wrong)?;
            entries.push((name, token));
        }
        Tokens::new(entries)
    }

    /// The same from a file, which other users must not be able to read or write, nor its group to write.
    ///
    /// # Errors
    /// What is wrong with the file or, as [`InvalidData`](ErrorKind::InvalidData), with the table in it.
    pub fn read(path: impl AsRef<Path>) -> io::Result<Tokens> {
        let path = path.as_ref();
        let named = |error: TokensError| {
            let text = format!("{}: {error}", path.display());
            io::Error::new(ErrorKind::InvalidData, text)
        };
        Tokens::parse(&read_secret(path)?).map_err(named)
    }

    /// Puts another table in the place of this one, for all its clones. Connections that exist live on, and so do sessions:
    /// they are resumed by a token of the same name.
    pub fn replace(&self, other: &Tokens) {
        let table = other.table();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = table;
    }

    fn table(&self) -> Table {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whose token this is. The time that takes depends on the length of the table, and on nothing else in it.
    pub(crate) fn find(&self, token: &Token) -> Option<Subject> {
        let table = self.table();
        let words = words(token);
        let mut found = u64::MAX;
        for (at, entry) in (0u64..).zip(table.iter()) {
            found.conditional_assign(&at, entry.words.ct_eq(&words));
        }
        let entry = usize::try_from(found).ok().and_then(|at| table.get(at));
        entry.map(|entry| Subject::Name(entry.name.clone()))
    }

    /// Who says the `Hello` that is all that has come on a connection. `None` if it is not whole, or none, or has no token
    /// of the table: the machine judges that.
    pub(crate) fn identify(&self, data: &[u8]) -> Option<Subject> {
        match wire::decode(data, Role::Client, 0) {
            Ok(Decoded::Frame(Frame::Hello(hello), _)) => self.find(&hello.token?),
            _ => None,
        }
    }
}

/// The names alone, with the number of tokens.
impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.table();
        let mut counts: std::collections::BTreeMap<&str, usize> = Default::default();
        for entry in table.iter() {
            *counts.entry(&*entry.name).or_default() += 1;
        }
        f.debug_map().entries(counts).finish()
    }
}

/// A token that is all there is in a file, but for blanks around it. Other users must not be able to read or write the file, nor its group
/// to write it.
///
/// # Errors
/// What is wrong with the file; [`InvalidData`](ErrorKind::InvalidData) if what is in it is no token.
pub fn read_token(path: impl AsRef<Path>) -> io::Result<Token> {
    let path = path.as_ref();
    Token::new(read_secret(path)?.trim().as_bytes()).ok_or_else(|| {
        let text = format!(
            "{}: a token has {TOKEN_LEN_MIN} to {TOKEN_LEN_MAX} bytes, and what is in the file has not",
            path.display()
        );
        io::Error::new(ErrorKind::InvalidData, text)
    })
}

/// The text of a file that other users cannot read, and only its owner can write.
fn read_secret(path: &Path) -> io::Result<String> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let file = File::open(path).map_err(named)?;
    let metadata = file.metadata().map_err(named)?;
    check_mode(&metadata).map_err(named)?;
    let mut text = String::new();
    let len = file.take(FILE_LEN_MAX + 1).read_to_string(&mut text).map_err(named)?;
    if len as u64 > FILE_LEN_MAX {
        let error = format!("it has more than {FILE_LEN_MAX} bytes");
        return Err(named(io::Error::new(ErrorKind::InvalidData, error)));
    }
    Ok(text)
}

#[cfg(unix)]
fn check_mode(metadata: &std::fs::Metadata) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let mode = metadata.mode() & 0o777;
    // Its group may be the one that is to read it, as for secrets that a cluster mounts. Who can write it can name callers.
    let what = match mode {
        _ if !metadata.is_file() || mode & 0o026 == 0 => return Ok(()),
        _ if mode & 0o006 != 0 => "every user read or change",
        _ => "its group change",
    };
    let text = format!("its mode {mode:04o} lets {what} the tokens in it; chmod g-w,o-rw");
    Err(io::Error::new(ErrorKind::PermissionDenied, text))
}

#[cfg(not(unix))]
fn check_mode(_: &std::fs::Metadata) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "0123456789abcdef";
    const TWO: &str = "0123456789abcdeg";

    #[cfg(unix)]
    #[test]
    fn c433_a_file_of_tokens_that_others_can_read_or_its_group_can_write_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let path = std::env::temp_dir().join(format!("oncewire-tokens-{}", std::process::id()));
        std::fs::write(&path, format!("alice {ONE}\n")).unwrap();
        let read = |mode| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            (Tokens::read(&path).map(drop), read_token(&path).map(drop))
        };
        for mode in [0o600, 0o400, 0o640, 0o440] {
            assert!(read(mode).0.is_ok(), "{mode:04o}");
        }
        for (mode, who) in
            [(0o620, "its group change"), (0o660, "its group"), (0o604, "every user")]
        {
            let (table, token) = read(mode);
            for error in [table.unwrap_err(), token.unwrap_err()] {
                assert_eq!(error.kind(), ErrorKind::PermissionDenied);
                let text = error.to_string();
                assert!(text.contains(&format!("{mode:04o} lets {who}")), "{text}");
                assert!(text.contains("chmod g-w,o-rw"), "{text}");
            }
        }
        std::fs::remove_file(&path).unwrap();
    }

    fn named(tokens: &Tokens, token: &str) -> Option<String> {
        tokens.find(&Token::new(token.as_bytes()).unwrap()).map(|subject| subject.to_string())
    }

    #[test]
    fn a_table_has_names_with_one_token_or_several() {
        let text = format!("# tokens\n\nalice {ONE}\n  bob\t{TWO} \r\nalice {ONE}{TWO}\n");
        let tokens = Tokens::parse(&text).unwrap();
        assert_eq!(named(&tokens, ONE).as_deref(), Some("alice"));
        assert_eq!(named(&tokens, TWO).as_deref(), Some("bob"));
        assert_eq!(named(&tokens, &format!("{ONE}{TWO}")).as_deref(), Some("alice"));
        for wrong in [&format!("{ONE}0"), &format!("{ONE}\0"), "0123456789abcdeF"] {
            assert_eq!(named(&tokens, wrong), None, "{wrong:?}");
        }
        assert_eq!(format!("{tokens:?}"), r#"{"alice": 2, "bob": 1}"#);
        tokens.clone().replace(&Tokens::parse("").unwrap());
        assert_eq!(named(&tokens, ONE), None, "an empty table admits no one");
    }

    #[test]
    fn what_is_wrong_with_a_table_is_said_without_its_tokens() {
        for (text, line) in
            [("alice", 1), ("\nalice short", 2), ("alice 0123456789 abcdef", 1), (ONE, 1)]
        {
            assert_eq!(Tokens::parse(text).unwrap_err(), TokensError::Line { line }, "{text}");
        }
        let twice = Tokens::parse(&format!("alice {ONE}\nbob {ONE}")).unwrap_err();
        assert_eq!(twice.to_string(), r#"one token stands for "alice" and for "bob""#);
        let token = Token::new(ONE.as_bytes()).unwrap();
        for name in [String::new(), "x".repeat(257), "a\nb".to_owned()] {
            assert_eq!(Tokens::new([(name, token)]).unwrap_err(), TokensError::Name);
        }
        assert!(Tokens::parse(&format!("alice {ONE}\nalice {ONE}")).is_ok());
        let many = |count: usize| {
            (0..count).map(|at| ("alice", Token::new(format!("{at:0>16}").as_bytes()).unwrap()))
        };
        assert_eq!(Tokens::new(many(4_097)).unwrap_err(), TokensError::TooMany);
        assert!(Tokens::new(many(4_096)).is_ok());
    }
}
