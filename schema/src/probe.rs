//! For the code that the attribute `service` writes. No part of the interface.

/// See above.
#[doc(hidden)]
pub mod __private {
    use core::fmt;
    use core::marker::PhantomData;

    use crate::signature::Signature;
    use crate::types::{Link, Schema};

    /// Asks whether a method's types have a schema, and does not ask it of them: the constant of the type comes before that
    /// of a trait, but only where its bounds hold. It works for types that are known, and not for generic parameters.
    pub struct Probe<A, R>(PhantomData<fn() -> (A, R)>);

    pub type Links = Option<(Link, Link)>;

    impl<A, R> fmt::Debug for Probe<A, R> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Probe")
        }
    }

    impl<A: Schema, R: Schema> Probe<A, R> {
        pub const LINKS: Links = Some((A::LINK, R::LINK));
    }

    pub trait WithoutSchema {
        const LINKS: Links = None;
    }

    impl<A, R> WithoutSchema for Probe<A, R> {}

    pub const fn signature(parameters: &'static [&'static str], links: Links) -> Option<Signature> {
        match links {
            Some((arguments, reply)) => Some(Signature::new(parameters, arguments, reply)),
            None => None,
        }
    }
}
