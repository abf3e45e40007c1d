//! Services: sets of methods that are offered together. The attribute `service` writes them; what its code needs beside the
//! public interface is here as well.

use crate::server::ServerBuilder;

/// Offers a set of methods at a server: see [`ServerBuilder::service`].
///
/// The attribute `service` writes an implementation for each trait that it is put on. One by hand is as good:
///
/// ```
/// use oncewire_driver::{Method, Server, ServerBuilder, Service};
///
/// const ADD_ONE: Method<i32, i32> = Method::new("toy/add_one");
///
/// struct Toy;
///
/// impl<L> Service<L> for Toy {
///     fn offer(self, builder: ServerBuilder<L>) -> ServerBuilder<L> {
///         builder.method(&ADD_ONE, |_context, n| async move { n + 1 })
///     }
/// }
///
/// let server = Server::builder("toy").service(Toy).build()?;
/// # Ok::<(), oncewire_driver::BuildError>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a service that a server can offer",
    note = "wrap the type that implements the trait: `.service(BankServer(…))` for a trait `Bank` with the attribute `service`"
)]
pub trait Service<L> {
    /// Adds all its methods.
    fn offer(self, builder: ServerBuilder<L>) -> ServerBuilder<L>;
}

impl<L> ServerBuilder<L> {
    /// Offers all methods of a service. A server may have several.
    pub fn service(self, service: impl Service<L>) -> Self {
        service.offer(self)
    }
}

/// For the code that the attribute `service` writes. No part of the interface.
#[doc(hidden)]
pub mod __private {
    use oncewire_core::MethodId;
    pub use oncewire_schema::__private::{Probe, WithoutSchema, signature};
    use serde::Serialize;
    use serde::de::DeserializeOwned;

    use crate::ledger::Rollback;
    use crate::server::Context;

    /// The type that a method takes as its context.
    #[diagnostic::on_unimplemented(
        message = "`{Self}` is not the `Context` with which a service's method begins",
        label = "this must be the `Context` of the call",
        note = "a method begins with `&self, context: Context`, a transactional one with \
                `&self, transaction: &mut Self::Transaction, context: &Context`"
    )]
    pub trait IsContext: Sized {
        fn owned(context: Context) -> Self;
        fn borrowed(context: &Context) -> &Self;
    }

    impl IsContext for Context {
        #[inline]
        fn owned(context: Context) -> Self {
            context
        }

        #[inline]
        fn borrowed(context: &Context) -> &Self {
            context
        }
    }

    /// What a transactional method returns.
    #[diagnostic::on_unimplemented(
        message = "a transactional method returns `Result<reply, Rollback>`, not `{Self}`",
        label = "this must be a `Result<reply, Rollback>`"
    )]
    pub trait TransactionalResult {
        type Reply;
    }

    impl<R> TransactionalResult for Result<R, Rollback> {
        type Reply = R;
    }

    /// Reports what a type of arguments lacks, at its place.
    pub const fn argument<A: Serialize + DeserializeOwned + Send + 'static>() {}

    /// Reports what a type of replies lacks, at its place.
    pub const fn reply<R: Serialize + DeserializeOwned + 'static>() {}

    /// The same for a type of items.
    pub const fn item<T: Serialize + DeserializeOwned + Send + 'static>() {}

    /// Whether no two methods have the same number.
    pub const fn are_distinct(methods: &[MethodId]) -> bool {
        let mut one = 0;
        while one < methods.len() {
            let mut other = one + 1;
            while other < methods.len() {
                if methods[one].number() == methods[other].number() {
                    return false;
                }
                other += 1;
            }
            one += 1;
        }
        true
    }
}
