//! Short texts that control frames carry, stored in place.

use core::fmt;

use serde::{Deserialize, Serialize};

/// Bytes of the longest service name.
pub const SERVICE_NAME_LEN_MAX: usize = 64;

/// The name of a service, at most [`SERVICE_NAME_LEN_MAX`] bytes of UTF-8.
///
/// ```
/// use oncewire_core::ServiceName;
/// assert_eq!(ServiceName::new("bank").unwrap().as_str(), "bank");
/// assert!(ServiceName::new(&"x".repeat(65)).is_none());
/// ```
// A literal: rustc 1.95 takes a named constant here for another type in some closures, and panics.
pub type ServiceName = Text<64>;

const _: () = assert!(ServiceName::LEN_MAX == SERVICE_NAME_LEN_MAX);

/// At most `LEN_MAX` bytes of UTF-8, which is 255 at most.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Text<const LEN_MAX: usize> {
    bytes: [u8; LEN_MAX],
    len: u8,
}

impl<const LEN_MAX: usize> Text<LEN_MAX> {
    /// Bytes of the longest.
    pub const LEN_MAX: usize = LEN_MAX;
    /// No text.
    pub const EMPTY: Text<LEN_MAX> = Text { bytes: [0; LEN_MAX], len: 0 };

    /// `None` if the text is too long.
    pub const fn new(text: &str) -> Option<Text<LEN_MAX>> {
        if text.len() > LEN_MAX {
            return None;
        }
        Some(Text::EMPTY.with_front(text, text.len()))
    }

    /// As much of the front of `text` as fits, in whole characters.
    pub const fn truncated(text: &str) -> Text<LEN_MAX> {
        let mut len = if text.len() < LEN_MAX { text.len() } else { LEN_MAX };
        while !text.is_char_boundary(len) {
            len -= 1;
        }
        Text::EMPTY.with_front(text, len)
    }

    const fn with_front(mut self, text: &str, len: usize) -> Text<LEN_MAX> {
        assert!(LEN_MAX <= u8::MAX as usize, "its length is kept in a byte");
        let mut at = 0;
        while at < len {
            self.bytes[at] = text.as_bytes()[at];
            at += 1;
        }
        self.len = len as u8;
        self
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or("")
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<const LEN_MAX: usize> fmt::Display for Text<LEN_MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

impl<const LEN_MAX: usize> fmt::Debug for Text<LEN_MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Text({:?})", self.as_str())
    }
}

impl<const LEN_MAX: usize> Serialize for Text<LEN_MAX> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de, const LEN_MAX: usize> Deserialize<'de> for Text<LEN_MAX> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&str>::deserialize(deserializer)?;
        Text::new(text).ok_or_else(|| serde::de::Error::custom("text too long"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_cut_between_characters() {
        assert_eq!(Text::<4>::truncated("host").as_str(), "host");
        assert_eq!(Text::<4>::truncated("hosts").as_str(), "host");
        assert_eq!(Text::<4>::truncated("höst").as_str(), "hös");
        assert_eq!(Text::<4>::truncated("hosö").as_str(), "hos");
        assert!(Text::<4>::truncated("").is_empty());
        assert_eq!(Text::<4>::new("hosts"), None);
    }
}
