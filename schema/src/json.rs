//! JSON to postcard and back, through a description.
//!
//! The JSON is what `serde_json` writes for the same value, where that can be read back. Where it cannot, this writes more:
//!
//! | value | `serde_json` | here |
//! |---|---|---|
//! | `Some(None)`, `Some(())` | `null`, as `None` | `{"Some": null}` |
//! | a float that is no number | `null`, which is no float | `"NaN"`, `"Infinity"`, `"-Infinity"` |
//! | a map whose keys are no text, number, `bool` or unit variant | an error | `[[key, value], …]` |
//!
//! A type with a serialisation for people beside that for machines, such as an address, is shown as the latter. Bytes are an
//! array of numbers.
//!
//! Fields that a struct does not have are an error, and so are keys that come twice and fields that are missing, but for
//! options, which are none then. Nothing is converted: `"5"` is no number.
//!
//! What comes from a stranger may be converted, in either direction, with a description from a stranger as well: see
//! [`Limits`].

/// What is done with a primitive: the same macro, with the type, for those that `serde_json` and postcard treat alike, and what
/// is said for the others.
macro_rules! by_primitive {
    ($primitive:expr, $plain:ident, { $($others:tt)* }) => {
        match $primitive {
            Primitive::Bool => $plain!(bool),
            Primitive::I8 => $plain!(i8),
            Primitive::I16 => $plain!(i16),
            Primitive::I32 => $plain!(i32),
            Primitive::I64 => $plain!(i64),
            Primitive::I128 => $plain!(i128),
            Primitive::U8 => $plain!(u8),
            Primitive::U16 => $plain!(u16),
            Primitive::U32 => $plain!(u32),
            Primitive::U64 => $plain!(u64),
            Primitive::U128 => $plain!(u128),
            Primitive::Char => $plain!(char),
            $($others)*
        }
    };
}

mod output;
mod path;
mod read;
mod write;

use std::fmt;

use crate::signature::SignatureTable;
use crate::table::TypeTable;

/// How far a value may unfold when it is converted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    depth_max: u32,
    len_max: usize,
}

impl Limits {
    /// 128 levels, and 16 MiB.
    pub const DEFAULT: Limits = Limits { depth_max: 128, len_max: 16 << 20 };

    /// Types within types, each option, sequence, map, struct, tuple and enum being one. JSON that is read has at most 127
    /// arrays and objects within one another, whatever is said here.
    ///
    /// A level takes some hundred bytes of stack, and some kilobytes without optimisation.
    pub const fn with_depth_max(mut self, levels: u32) -> Limits {
        self.depth_max = levels;
        self
    }

    /// Bytes of the result. Each element of a sequence has one at least in JSON, so this limits their number too. Memory is
    /// a few times as much.
    pub const fn with_len_max(mut self, bytes: usize) -> Limits {
        self.len_max = bytes;
        self
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::DEFAULT
    }
}

/// Why a value was not converted, and where in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    place: String,
    reason: String,
}

impl Error {
    /// Where: `accounts[3].name`; empty for the whole value.
    pub fn place(&self) -> &str {
        &self.place
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.place.is_empty() {
            f.write_str(&self.reason)
        } else {
            write!(f, "{}: {}", self.place, self.reason)
        }
    }
}

impl std::error::Error for Error {}

impl TypeTable {
    /// The JSON for a value that postcard has written.
    ///
    /// # Errors
    /// The bytes are no value of the type, more than one, or one beyond the limits.
    pub fn to_json(&self, postcard: &[u8], limits: Limits) -> Result<String, Error> {
        write::value(&self.nodes, self.root, postcard, limits)
    }

    /// What postcard writes for the value that JSON describes.
    ///
    /// # Errors
    /// The text is no JSON, describes no value of the type, or one beyond the limits.
    pub fn to_postcard(&self, json: &str, limits: Limits) -> Result<Vec<u8>, Error> {
        read::value(&self.nodes, self.root, json, limits)
    }
}

/// Arguments are an object by the parameters' names; from JSON, an array of them as well. Those without names are the JSON of
/// their type.
impl SignatureTable {
    /// The JSON for a request's body.
    ///
    /// # Errors
    /// See [`TypeTable::to_json`].
    pub fn arguments_to_json(&self, postcard: &[u8], limits: Limits) -> Result<String, Error> {
        write::arguments(&self.nodes, self.arguments, &self.parameters, postcard, limits)
    }

    /// A request's body.
    ///
    /// # Errors
    /// See [`TypeTable::to_postcard`].
    pub fn arguments_to_postcard(&self, json: &str, limits: Limits) -> Result<Vec<u8>, Error> {
        read::arguments(&self.nodes, self.arguments, &self.parameters, json, limits)
    }

    /// The JSON for a reply's body.
    ///
    /// # Errors
    /// See [`TypeTable::to_json`].
    pub fn reply_to_json(&self, postcard: &[u8], limits: Limits) -> Result<String, Error> {
        write::value(&self.nodes, self.reply, postcard, limits)
    }

    /// A reply's body.
    ///
    /// # Errors
    /// See [`TypeTable::to_postcard`].
    pub fn reply_to_postcard(&self, json: &str, limits: Limits) -> Result<Vec<u8>, Error> {
        read::value(&self.nodes, self.reply, json, limits)
    }
}
