//! What a method takes and returns.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::table::{Builder, Index, Malformed, Nodes, distinct};
use crate::types::{Link, Schema, Type};

/// What a method takes and returns, as a constant.
///
/// ```
/// use oncewire_schema::Signature;
///
/// const DEDUCT: Signature = Signature::of::<(u64, u64), Result<u64, String>>(&["account", "cents"]);
/// assert_eq!(DEDUCT.to_string(), "(account: u64, cents: u64) -> Result<u64, String>");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Signature {
    parameters: &'static [&'static str],
    arguments: Link,
    reply: Link,
}

impl Signature {
    /// Of a method that takes a tuple `A`, whose elements have these names, or any `A` if there are none; and returns `R`.
    ///
    /// # Panics
    /// If `A` is a tuple of another number of elements than there are names. In a constant it is the compiler that says so.
    pub const fn of<A: Schema, R: Schema>(parameters: &'static [&'static str]) -> Signature {
        let count = match A::TYPE {
            Type::Tuple(elements) => elements.len(),
            _ => 0,
        };
        assert!(
            parameters.is_empty() || parameters.len() == count,
            "the arguments are a tuple, and each element has a name"
        );
        Signature { parameters, arguments: A::LINK, reply: R::LINK }
    }

    pub(crate) const fn new(
        parameters: &'static [&'static str],
        arguments: Link,
        reply: Link,
    ) -> Signature {
        Signature { parameters, arguments, reply }
    }

    /// The same as a value of its own: to compare, print, send, or convert with.
    pub fn table(&self) -> SignatureTable {
        let mut builder = Builder::default();
        let (arguments, reply) = (builder.index(self.arguments), builder.index(self.reply));
        let parameters = self.parameters.iter().map(|name| (*name).to_owned()).collect();
        SignatureTable { parameters, arguments, reply, nodes: builder.finish() }
    }

    /// Whether both are surely the same, by the addresses of what they are made of: costs next to nothing. False says nothing.
    #[inline]
    pub fn ptr_eq(&self, other: &Signature) -> bool {
        core::ptr::eq(self.parameters, other.parameters)
            && self.arguments.ptr_eq(other.arguments)
            && self.reply.ptr_eq(other.reply)
    }

    /// See [`SignatureTable::hash`]. It is computed at each call.
    pub fn hash(&self) -> u64 {
        self.table().hash()
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.table().fmt(f)
    }
}

/// What a method takes and returns, as a value of its own, which may come from another program.
///
/// What holds for a [`TypeTable`](crate::TypeTable) holds for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "UncheckedSignatureTable")]
pub struct SignatureTable {
    /// None if the arguments are not a tuple with names.
    pub(crate) parameters: Vec<String>,
    pub(crate) arguments: Index,
    pub(crate) reply: Index,
    pub(crate) nodes: Nodes,
}

/// Before its references are known to lead somewhere.
#[derive(Deserialize)]
struct UncheckedSignatureTable {
    parameters: Vec<String>,
    arguments: Index,
    reply: Index,
    nodes: Nodes,
}

impl TryFrom<UncheckedSignatureTable> for SignatureTable {
    type Error = Malformed;

    fn try_from(unchecked: UncheckedSignatureTable) -> Result<SignatureTable, Malformed> {
        let UncheckedSignatureTable { parameters, arguments, reply, nodes } = unchecked;
        nodes.check(&[arguments, reply])?;
        distinct(parameters.iter().map(String::as_str))?;
        Ok(SignatureTable { parameters, arguments, reply, nodes })
    }
}
