//! A secret by which a caller says who it is.

use core::fmt;
use core::hint::black_box;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes of the shortest token: fewer could be guessed.
pub const TOKEN_LEN_MIN: usize = 16;
/// Bytes of the longest token.
pub const TOKEN_LEN_MAX: usize = 128;

/// A secret by which a caller says who it is: 16 to 128 bytes, from a source of random bits (W29).
///
/// `Debug` does not show it. How long `==` takes depends on neither token's bytes.
///
/// ```
/// use oncewire_core::Token;
///
/// let token = Token::new(b"0123456789abcdef").unwrap();
/// assert_eq!(format!("{token:?}"), "Token(…)");
/// assert!(Token::new(b"short").is_none());
/// ```
#[derive(Clone, Copy)]
pub struct Token {
    /// Zeros behind the token.
    bytes: [u8; TOKEN_LEN_MAX],
    len: u8,
}

impl Token {
    /// `None` if it is shorter than [`TOKEN_LEN_MIN`] or longer than [`TOKEN_LEN_MAX`].
    pub fn new(secret: &[u8]) -> Option<Token> {
        if !(TOKEN_LEN_MIN..=TOKEN_LEN_MAX).contains(&secret.len()) {
            return None;
        }
        let mut bytes = [0; TOKEN_LEN_MAX];
        bytes[..secret.len()].copy_from_slice(secret);
        Some(Token { bytes, len: secret.len() as u8 })
    }

    /// The secret itself: for comparing and sending, not for logs.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The secret itself, with zeros behind it, and its length: for comparing all of it whatever its length.
    pub fn padded(&self) -> (&[u8; TOKEN_LEN_MAX], u8) {
        (&self.bytes, self.len)
    }
}

impl PartialEq for Token {
    fn eq(&self, other: &Token) -> bool {
        let pairs = self.bytes.iter().zip(&other.bytes);
        // All bytes are looked at, and the compiler does not see what would make the others needless.
        let bits = pairs.fold(self.len ^ other.len, |bits, (a, b)| black_box(bits | (a ^ b)));
        bits == 0
    }
}

impl Eq for Token {}

#[cfg(feature = "_explore")]
impl core::hash::Hash for Token {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Serialize for Token {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.as_bytes())
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Token, D::Error> {
        struct Bytes;

        impl Visitor<'_> for Bytes {
            type Value = Token;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{TOKEN_LEN_MIN} to {TOKEN_LEN_MAX} bytes")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Token, E> {
                Token::new(bytes).ok_or_else(|| E::custom("a token of another length"))
            }
        }

        deserializer.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_equal_if_all_their_bytes_are() {
        let bytes = [7; TOKEN_LEN_MAX];
        let token = |len: usize| Token::new(&bytes[..len]);
        for len in 0..=TOKEN_LEN_MAX {
            let made = token(len);
            assert_eq!(made.is_some(), len >= TOKEN_LEN_MIN, "{len}");
            assert_eq!(made, token(len));
            assert!(made.is_none() || made != token(len - 1));
        }
        assert!(Token::new(&[7; TOKEN_LEN_MAX + 1]).is_none());
        // Zeros are bytes like others.
        assert_ne!(Token::new(&[0; 16]), Token::new(&[0; 17]));
        for at in 0..16 {
            let mut other = [7; 16];
            other[at] ^= 0x80;
            assert_ne!(Token::new(&[7; 16]), Token::new(&other), "byte {at}");
        }
    }
}
