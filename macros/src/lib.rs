// Its code needs the library, which needs this crate: it is compiled by the examples.
#![cfg_attr(not(doctest), doc = include_str!("../README.md"))]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod attributes;
mod check;
mod constants;
mod errors;
mod expand;
mod model;
mod schema;
mod streams;
#[cfg(test)]
mod tests;

/// Makes a service of a trait: see the [crate's page](crate).
#[proc_macro_attribute]
pub fn service(
    arguments: proc_macro::TokenStream,
    item: proc_macro::TokenStream,
) -> proc_macro::TokenStream {
    service_tokens(arguments.into(), item.into()).into()
}

/// Describes how postcard carries a type: see the [crate's page](crate#types).
#[proc_macro_derive(Schema, attributes(schema))]
pub fn schema(item: proc_macro::TokenStream) -> proc_macro::TokenStream {
    schema::derive(item.into()).into()
}

/// The same, on tokens that exist outside the compiler too.
///
/// What is in error is reported, all of it at once; what is not is generated. The trait itself always stays, so that its
/// implementations are not in error as well.
fn service_tokens(
    arguments: proc_macro2::TokenStream,
    item: proc_macro2::TokenStream,
) -> proc_macro2::TokenStream {
    let mut definition: syn::ItemTrait = match syn::parse2(item.clone()) {
        Ok(definition) => definition,
        Err(error) => {
            let hint = "`#[service]` is for a trait: its methods are the service's";
            let error = syn::Error::new(error.span(), format!("{hint} ({error})"));
            let error = error.into_compile_error();
            let item = without_properties(item);
            return quote::quote!(#item #error);
        }
    };
    let mut errors = errors::Errors::default();
    let options = attributes::service_options(arguments, &mut errors);
    let service = model::Service::new(&mut definition, options, &mut errors);
    let generated = service.map(|service| expand::expand(&service));
    let errors = errors.into_compile_errors();
    quote::quote!(#definition #generated #errors)
}

/// What is no trait keeps no `#[rpc(…)]` either: the compiler knows no such attribute.
fn without_properties(item: proc_macro2::TokenStream) -> proc_macro2::TokenStream {
    use proc_macro2::{Group, TokenTree};

    let is_rpc = |token: &TokenTree| match token {
        TokenTree::Group(group) => matches!(
            group.stream().into_iter().next(),
            Some(TokenTree::Ident(name)) if name == "rpc"
        ),
        _ => false,
    };
    let mut kept = Vec::new();
    let mut tokens = item.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Punct(sign)
                if sign.as_char() == '#' && tokens.peek().is_some_and(is_rpc) =>
            {
                tokens.next();
            }
            TokenTree::Group(group) => {
                let mut inner = Group::new(group.delimiter(), without_properties(group.stream()));
                inner.set_span(group.span());
                kept.push(TokenTree::Group(inner));
            }
            other => kept.push(other),
        }
    }
    kept.into_iter().collect()
}
