//! What is generated beside the trait: its methods' constants, its clients, and what offers an implementation at a server.
//!
//! All paths are absolute, and generic parameters have names that no user's type has: a user's `Result`, `Option` or
//! `Context` is never taken for another. The user's own types keep the spans at which they were written, so that the compiler
//! reports there what they lack.
//!
//! What of it a program does not use is not reported: see [`may_be_unused`].

use proc_macro2::{Group, Ident, Span, TokenStream, TokenTree};
use quote::{format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;

use crate::constants::constant;
use crate::model::{Kind, Method, Service};
use crate::streams;

/// The names of what is generated.
struct Names {
    methods: Ident,
    client: Ident,
    durable_client: Ident,
    server: Ident,
}

pub(crate) fn expand(service: &Service) -> TokenStream {
    // Of `r#move`, `moveClient`.
    let trait_name = service.trait_name.unraw();
    let names = Names {
        methods: format_ident!("{trait_name}Methods"),
        client: format_ident!("{trait_name}Client"),
        durable_client: format_ident!("Durable{trait_name}Client"),
        server: format_ident!("{trait_name}Server"),
    };
    let (methods, client) = (methods(service, &names), client(service, &names));
    let (durable_client, server) = (durable_client(service, &names), server(service, &names));
    quote!(#methods #client #durable_client #server)
}

/// For each item, and the trait itself: a program may use the client alone, or the server's side, or the constants, and which
/// of the rest would be reported differs between compilers. On one enclosing item it is not possible: they are beside the
/// trait.
pub(crate) fn may_be_unused() -> TokenStream {
    quote!(#[allow(dead_code, reason = "a program may use only a part of a service")])
}

/// What a deprecated method's own code refers to.
fn may_be_deprecated() -> TokenStream {
    quote!(#[allow(deprecated, reason = "a deprecated method is called and offered as the others are")])
}

/// What calls the methods.
fn calls_attributes() -> TokenStream {
    let (unused, deprecated) = (may_be_unused(), may_be_deprecated());
    quote! {
        #unused
        #deprecated
        #[allow(clippy::too_many_arguments, reason = "as many as the method has")]
    }
}

fn methods(service: &Service, names: &Names) -> TokenStream {
    let (unused, deprecated) = (may_be_unused(), may_be_deprecated());
    let Service { visibility, trait_name, library, methods } = service;
    let name = &names.methods;
    let doc = format!(
        "The methods of [`{trait_name}`]: names, types and properties, as client and server share them."
    );
    let constants = methods.iter().map(|method| constant(method, service));
    let checks = methods.iter().map(|method| check_types(method, library));
    let described = methods.iter().map(|method| {
        let (cfg, constant) = (method.conditions(), method.constant());
        quote!(#(#cfg)* Self::#constant.described())
    });
    let ids = methods.iter().map(|method| {
        let (cfg, constant) = (method.conditions(), method.constant());
        quote!(#(#cfg)* #name::#constant.id())
    });
    quote! {
        #[doc = #doc]
        #unused
        #[derive(Clone, Copy, Debug)]
        #visibility struct #name;

        #unused
        #deprecated
        impl #name {
            #(#constants)*

            /// The names and signatures of all whose types have a schema.
            #visibility fn signatures() -> ::std::vec::Vec<#library::MethodSignature> {
                let all: &[::core::option::Option<#library::MethodSignature>] = &[#(#described),*];
                ::core::iter::Iterator::collect(::core::iter::Iterator::flatten(all.iter().copied()))
            }
        }

        #deprecated
        const _: () = {
            #(#checks)*
        };

        #deprecated
        const _: () = ::core::assert!(
            #library::__private::are_distinct(&[#(#ids),*]),
            "two methods of this service have names with the same number: rename one",
        );
    }
}

/// What a type lacks to be an argument or a reply is reported where it is written.
fn check_types(method: &Method, library: &TokenStream) -> TokenStream {
    let (cfg, reply) = (method.conditions(), &method.reply);
    let arguments = method
        .arguments
        .iter()
        .map(|(_, of)| quote_spanned!(of.span()=> #library::__private::argument::<#of>();));
    let item = |item: &syn::Type| {
        // Bytes are no value, but a part of a body.
        let check = quote_spanned!(item.span()=> #library::__private::item::<#item>(););
        if streams::is_bytes(item) { TokenStream::new() } else { check }
    };
    let reply = match &method.kind {
        Kind::Outgoing { .. } => item(reply),
        kind => {
            let incoming = kind.incoming().map(item);
            let reply = quote_spanned!(reply.span()=> #library::__private::reply::<#reply>(););
            quote!(#incoming #reply)
        }
    };
    quote!(#(#cfg)* { #(#arguments)* #reply })
}

fn client(service: &Service, names: &Names) -> TokenStream {
    let (unused, attributes) = (may_be_unused(), calls_attributes());
    let Service { visibility, trait_name, library, methods } = service;
    let (name, constants) = (&names.client, &names.methods);
    let doc =
        format!("Calls the methods of [`{trait_name}`] at a server, through the client in it.");
    let calls = methods.iter().map(|method| {
        let Method { attributes, name, reply, .. } = method;
        let (parameters, arguments, constant) =
            (method.parameters(), method.values(), method.constant());
        if method.options.one_way.is_some() {
            return quote! {
                #(#attributes)*
                #[doc = ""]
                #[doc = "One way: says only whether the call was begun."]
                #visibility fn #name(&self, #(#parameters),*)
                    -> ::core::result::Result<(), #library::NotBegun>
                {
                    self.0.send(&#constants::#constant, &#arguments)
                }
            };
        }
        let (returned, call) = match &method.kind {
            Kind::Outgoing { .. } => (quote!(#library::stream::ServerStream<#reply>), "stream"),
            Kind::Incoming { item, .. } => {
                (quote!(#library::stream::Upload<#item, #reply>), "upload")
            }
            _ => (quote!(#library::Call<#reply>), "call"),
        };
        let call = Ident::new(call, Span::call_site());
        quote! {
            #(#attributes)*
            #visibility fn #name(&self, #(#parameters),*) -> #returned {
                self.0.#call(&#constants::#constant, &#arguments)
            }
        }
    });
    quote! {
        #[doc = #doc]
        #unused
        #[derive(Clone, Debug)]
        #visibility struct #name(#[doc = "Makes the calls."] #visibility #library::Client);

        #attributes
        impl #name { #(#calls)* }

        impl ::core::convert::From<#library::Client> for #name {
            fn from(client: #library::Client) -> Self {
                #name(client)
            }
        }
    }
}

fn durable_client(service: &Service, names: &Names) -> TokenStream {
    let (unused, attributes) = (may_be_unused(), calls_attributes());
    let Service { visibility, trait_name, library, methods } = service;
    let (name, constants) = (&names.durable_client, &names.methods);
    let doc = format!(
        "Makes durable calls of the methods of [`{trait_name}`]: each has a tag, which its caller knows it by after a restart."
    );
    // Not the name of an argument, though it reads the same.
    let tag = Ident::new("tag", Span::mixed_site());
    let two_way = methods
        .iter()
        .filter(|method| method.options.one_way.is_none() && !method.kind.is_stream());
    let calls = two_way.map(|method| {
        let Method { attributes, name, reply, .. } = method;
        let (parameters, arguments, constant) =
            (method.parameters(), method.values(), method.constant());
        quote! {
            #(#attributes)*
            #visibility fn #name(
                &self,
                #tag: impl ::core::convert::Into<#library::Bytes>,
                #(#parameters),*
            ) -> #library::DurableCall<#reply> {
                self.0.call(#tag, &#constants::#constant, &#arguments)
            }
        }
    });
    quote! {
        #[doc = #doc]
        #unused
        #[derive(Clone, Debug)]
        #visibility struct #name(#[doc = "Makes the calls."] #visibility #library::DurableClient);

        #attributes
        impl #name { #(#calls)* }

        impl ::core::convert::From<#library::DurableClient> for #name {
            fn from(client: #library::DurableClient) -> Self {
                #name(client)
            }
        }
    }
}

fn server(service: &Service, names: &Names) -> TokenStream {
    let (unused, deprecated) = (may_be_unused(), may_be_deprecated());
    let Service { visibility, trait_name, library, methods } = service;
    let name = &names.server;
    let doc = format!(
        "Offers an implementation of [`{trait_name}`] at a server: `builder.service({name}(…))`."
    );
    let (builder, state) =
        (Ident::new("builder", Span::mixed_site()), Ident::new("state", Span::mixed_site()));
    let offers = methods.iter().map(|method| offer(method, service, names, &builder, &state));
    let mut transactions: Vec<TokenStream> = methods
        .iter()
        .filter_map(|method| match &method.kind {
            Kind::Transactional(transaction)
            | Kind::Incoming { transaction: Some(transaction), .. } => {
                Some(in_service(transaction, trait_name))
            }
            _ => None,
        })
        .collect();
    transactions.dedup_by_key(|transaction| transaction.to_string());
    let ledger = if transactions.is_empty() {
        TokenStream::new()
    } else {
        quote! {
            __OncewireLedger: #library::ledger::Ledger,
            #(__OncewireLedger: #library::ledger::Ledger<Transaction = #transactions>,)*
        }
    };
    quote! {
        #[doc = #doc]
        #unused
        #[derive(Clone, Copy, Debug)]
        #visibility struct #name<__OncewireService>(
            #[doc = "Executes the calls."] #visibility __OncewireService,
        );

        #deprecated
        impl<__OncewireService, __OncewireLedger> #library::Service<__OncewireLedger>
            for #name<__OncewireService>
        where
            __OncewireService: #trait_name,
            #ledger
        {
            fn offer(
                self,
                #builder: #library::ServerBuilder<__OncewireLedger>,
            ) -> #library::ServerBuilder<__OncewireLedger> {
                let #state = ::std::sync::Arc::new(self.0);
                #(#offers)*
                #builder
            }
        }
    }
}

/// `Self::Transaction` outside the trait.
fn in_service(transaction: &syn::Type, trait_name: &Ident) -> TokenStream {
    if let syn::Type::Path(path) = transaction
        && path.qself.is_none()
        && path.path.segments.len() == 2
        && path.path.segments[0].ident == "Self"
    {
        let last = &path.path.segments[1];
        return quote!(<__OncewireService as #trait_name>::#last);
    }
    named(quote!(#transaction))
}

/// The same, where `Self` is the type that implements the trait.
fn named(tokens: TokenStream) -> TokenStream {
    let one = |token| match token {
        TokenTree::Ident(word) if word == "Self" => {
            TokenTree::Ident(Ident::new("__OncewireService", word.span()))
        }
        TokenTree::Group(group) => {
            let mut inner = Group::new(group.delimiter(), named(group.stream()));
            inner.set_span(group.span());
            TokenTree::Group(inner)
        }
        other => other,
    };
    tokens.into_iter().map(one).collect()
}

fn offer(
    method: &Method,
    service: &Service,
    names: &Names,
    builder: &Ident,
    state: &Ident,
) -> TokenStream {
    let (cfg, constant, constants) = (method.conditions(), method.constant(), &names.methods);
    let offered = offered(method, service, state);
    let function = offered.function();
    let verb = Ident::new(offered.verb, Span::call_site());
    quote! {
        #(#cfg)*
        let #builder = {
            let #state = ::std::clone::Clone::clone(&#state);
            #builder.#verb(&#constants::#constant, #function)
        };
    }
}

/// How a method is offered at a builder.
struct Offered<'a> {
    /// The builder's function.
    verb: &'static str,
    /// Parameters of the closure that calls the implementation.
    parameters: TokenStream,
    /// The call of the implementation.
    call: TokenStream,
    /// What holds the implementation, if the call is a future, which must own it.
    held: Option<&'a Ident>,
}

impl Offered<'_> {
    fn function(&self) -> TokenStream {
        let Offered { parameters, call, .. } = self;
        match self.held {
            None => quote!(move |#parameters| { #call }),
            Some(state) => quote! {
                move |#parameters| {
                    let #state = ::std::clone::Clone::clone(&#state);
                    async move { #call.await }
                }
            },
        }
    }
}

fn offered<'a>(method: &Method, service: &Service, state: &'a Ident) -> Offered<'a> {
    let Service { trait_name, library, .. } = service;
    let Method { name, context, .. } = method;
    let local = |name| Ident::new(name, Span::mixed_site());
    let received = local("context");
    let (values, names) = (method.values(), method.arguments.iter().map(|(name, _)| name));
    let function = quote!(<__OncewireService as #trait_name>::#name);
    // At the type's place: what is not a context is reported there.
    let as_context = quote_spanned!(context.span()=> <#context as #library::__private::IsContext>);
    let owned = quote!(&*#state, #as_context::owned(#received));
    match &method.kind {
        Kind::Async => Offered {
            verb: "method",
            parameters: quote!(#received, #values),
            call: quote!(#function(#owned, #(#names),*)),
            held: Some(state),
        },
        Kind::Outgoing { position } => {
            let from = local("from");
            let (parameter, position) = match position {
                Some(_) => (quote!(#from), quote!(#from,)),
                None => (quote!(_), TokenStream::new()),
            };
            Offered {
                verb: "stream",
                parameters: quote!(#received, #values, #parameter),
                call: quote!(#function(#owned, #position #(#names),*)),
                held: Some(state),
            }
        }
        Kind::Incoming { transaction, .. } => {
            let incoming = local("incoming");
            Offered {
                verb: if transaction.is_some() { "upload_transactional" } else { "upload" },
                parameters: quote!(#received, #values, #incoming),
                call: quote!(#function(#owned, #(#names,)* #incoming)),
                held: Some(state),
            }
        }
        Kind::Blocking => Offered {
            verb: "blocking",
            parameters: quote!(#received, #values),
            call: quote!(#function(#owned, #(#names),*)),
            held: None,
        },
        Kind::Transactional(_) => {
            let transaction = local("transaction");
            let borrowed = quote!(&*#state, #transaction, #as_context::borrowed(#received));
            Offered {
                verb: "transactional",
                parameters: quote!(#transaction, #received, #values),
                call: quote!(#function(#borrowed, #(#names),*)),
                held: None,
            }
        }
    }
}

impl Kind {
    pub(crate) fn is_stream(&self) -> bool {
        matches!(self, Kind::Outgoing { .. } | Kind::Incoming { .. })
    }

    /// The items that it takes.
    pub(crate) fn incoming(&self) -> Option<&syn::Type> {
        if let Kind::Incoming { item, .. } = self { Some(item) } else { None }
    }

    /// Whether it takes items that are committed in a transaction.
    pub(crate) fn commits_in_transaction(&self) -> bool {
        matches!(self, Kind::Incoming { transaction: Some(_), .. })
    }
}

impl Method {
    /// The type of all arguments.
    pub(crate) fn types(&self) -> TokenStream {
        let types = self.arguments.iter().map(|(_, of)| of);
        quote!((#(#types,)*))
    }

    /// All arguments, as a value and as a pattern.
    pub(crate) fn values(&self) -> TokenStream {
        let names = self.arguments.iter().map(|(name, _)| name);
        quote!((#(#names,)*))
    }

    pub(crate) fn parameters(&self) -> Vec<TokenStream> {
        self.arguments.iter().map(|(name, of)| quote!(#name: #of)).collect()
    }

    /// The conditions under which it exists.
    pub(crate) fn conditions(&self) -> Vec<&syn::Attribute> {
        let cfg = |attribute: &&syn::Attribute| attribute.path().is_ident("cfg");
        self.attributes.iter().filter(cfg).collect()
    }

    /// What its constant's documentation says of it.
    pub(crate) fn properties(&self) -> String {
        let options = &self.options;
        let properties = [
            (options.idempotent.is_some(), "idempotent"),
            (options.one_way.is_some(), "one-way"),
            (
                options.transactional.is_some() || self.kind.commits_in_transaction(),
                "transactional",
            ),
            (options.blocking.is_some(), "blocking"),
            (options.resumable.is_some(), "resumable"),
        ];
        let said: Vec<_> =
            properties.into_iter().filter_map(|(is_so, name)| is_so.then_some(name)).collect();
        if said.is_empty() { String::new() } else { format!(", {}", said.join(", ")) }
    }
}
