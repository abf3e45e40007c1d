//! A type's description as a constant: what `#[derive(Schema)]` writes.

use core::any::TypeId;
use core::fmt;

use serde::{Deserialize, Serialize};

/// A type whose values postcard can carry, and how it does.
///
/// `#[derive(Schema)]` implements it for structs and enums that derive serde's traits. By hand it is as good, and for a
/// type whose `Serialize` and `Deserialize` are written by hand it is the only way: describe what those write.
///
/// ```
/// use oncewire_schema::{Schema, Type, TypeTable};
///
/// /// Serialised as text.
/// struct Ticket(u64);
///
/// impl Schema for Ticket {
///     const TYPE: Type = String::TYPE;
/// }
///
/// assert_eq!(TypeTable::of::<Vec<Ticket>>().to_string(), "Vec<String>");
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no schema",
    label = "what postcard writes for this type is not known",
    note = "put `#[derive(Schema)]` on it, or say for a field what its value is serialised as: `#[schema(as = String)]`"
)]
pub trait Schema: 'static {
    /// What postcard writes for its values.
    const TYPE: Type;

    /// Where others refer to it: what is described as another type refers to that one.
    #[doc(hidden)]
    const LINK: Link = Link::of::<Self>();
}

/// What postcard writes for the values of a type.
#[derive(Clone, Copy, Debug)]
pub enum Type {
    /// One value without parts.
    Primitive(Primitive),
    /// A byte 0, or a byte 1 and a value.
    Option(Link),
    /// The number of elements, and the elements: `Vec`, slices, sets.
    Sequence(Link),
    /// The number of entries, and for each its key and its value.
    Map(Link, Link),
    /// So many elements, without their number.
    Array(Link, usize),
    /// The elements.
    Tuple(&'static [Link]),
    /// A type that a program defines.
    Named(Named),
}

/// A value without parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[expect(missing_docs, reason = "their names are what they are")]
pub enum Primitive {
    /// Nothing: no byte.
    Unit,
    Bool,
    I8,
    I16,
    I32,
    I64,
    I128,
    U8,
    U16,
    U32,
    U64,
    U128,
    F32,
    F64,
    /// Text of one character.
    Char,
    String,
}

/// A type that a program defines. On the wire it has no name.
#[derive(Clone, Copy, Debug)]
pub struct Named {
    /// Its name, without a path.
    pub name: &'static str,
    /// The types that its generic parameters are.
    pub parameters: &'static [Link],
    /// What it is.
    pub shape: Shape,
}

/// What kind of type a program defines.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// The fields, one after the other.
    Struct(Fields),
    /// The variant's number from 0, as it comes in the definition, and the variant's fields.
    Enum(&'static [Variant]),
}

/// The fields of a struct or of a variant, in their order.
#[derive(Clone, Copy, Debug)]
pub enum Fields {
    /// Without names. If it is one, then the whole is on the wire and in JSON as the field alone.
    Unnamed(&'static [Link]),
    /// With names.
    Named(&'static [Field]),
}

/// A field with a name.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// As serde calls it, after `rename`.
    pub name: &'static str,
    /// Its type.
    pub of: Link,
}

/// A variant of an enum.
#[derive(Clone, Copy, Debug)]
pub struct Variant {
    /// As serde calls it, after `rename`.
    pub name: &'static str,
    /// What is in it.
    pub fields: Fields,
}

/// Refers to a type that has a [`Schema`]. Being a function it may refer to a type that contains it.
#[derive(Clone, Copy)]
pub struct Link(fn() -> Target);

/// Where a link leads.
pub(crate) struct Target {
    pub(crate) id: TypeId,
    pub(crate) of: Type,
}

impl Link {
    /// To this type.
    pub const fn of<T: Schema + ?Sized>() -> Link {
        fn target<T: Schema + ?Sized>() -> Target {
            Target { id: TypeId::of::<T>(), of: T::TYPE }
        }
        Link(target::<T>)
    }

    /// Whether both surely lead to the same type: the function names it.
    #[inline]
    pub(crate) fn ptr_eq(self, other: Link) -> bool {
        core::ptr::fn_addr_eq(self.0, other.0)
    }

    pub(crate) fn target(self) -> Target {
        (self.0)()
    }

    /// The description of the type that it leads to.
    pub fn follow(self) -> Type {
        self.target().of
    }
}

impl fmt::Debug for Link {
    /// Not the type itself, which may contain the link.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Link")
    }
}
