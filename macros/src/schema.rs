//! `#[derive(Schema)]`: the description of a struct or an enum, as serde's derives and postcard put it on the wire.

mod attributes;
mod rename;
#[cfg(test)]
mod tests;

use std::collections::HashSet;

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Field, Fields, GenericParam, Generics, Ident, Type, parse_quote};

use crate::errors::Errors;
use attributes::{Container, FieldAttributes, VariantAttributes};
use rename::Case;

/// The implementation, or all errors.
pub(crate) fn derive(input: TokenStream) -> TokenStream {
    let mut errors = Errors::default();
    let input: DeriveInput = match syn::parse2(input) {
        Ok(input) => input,
        Err(error) => return error.into_compile_error(),
    };
    let container = Container::new(&input, &mut errors);
    let body = body(&input, &container, &mut errors);
    let generics = generics(&input.generics, &container.library, &mut errors);
    if let Some(errors) = errors.into_compile_errors() {
        return errors;
    }
    let (name, library) = (&input.ident, &container.library);
    let (implementation, of, condition) = generics.split_for_impl();
    quote! {
        #[automatically_derived]
        impl #implementation #library::Schema for #name #of #condition {
            #body
        }
    }
}

/// Each parameter that is a type has a schema too.
fn generics(generics: &Generics, library: &TokenStream, errors: &mut Errors) -> Generics {
    let mut generics = generics.clone();
    for parameter in &mut generics.params {
        match parameter {
            GenericParam::Type(parameter) => {
                parameter.bounds.push(parse_quote!(#library::Schema));
            }
            GenericParam::Lifetime(lifetime) => errors.at(
                lifetime,
                "a value that comes over the wire is owned: a type with a lifetime has no schema",
            ),
            GenericParam::Const(_) => {}
        }
    }
    generics
}

/// The constants of the implementation.
fn body(input: &DeriveInput, container: &Container, errors: &mut Errors) -> TokenStream {
    let library = &container.library;
    if let Some(other) = &container.like {
        let other = quote_spanned!(other.span()=> <#other as #library::Schema>);
        return quote! {
            const TYPE: #library::Type = #other::TYPE;
            const LINK: #library::Link = #other::LINK;
        };
    }
    let shape = match &input.data {
        Data::Struct(data) => {
            let fields = if container.is_transparent {
                transparent(&data.fields, library, errors)
            } else {
                fields(&data.fields, container.rename_all, library, errors)
            };
            quote!(#library::Shape::Struct(#fields))
        }
        Data::Enum(data) => {
            let mut names = HashSet::new();
            let variants = data.variants.iter().map(|variant| {
                let attributes = VariantAttributes::new(&variant.attrs, errors);
                let name = variant.ident.unraw().to_string();
                let name = attributes.rename.unwrap_or_else(|| container.variant_name(&name));
                distinct(&name, &variant.ident, &mut names, errors);
                let case = attributes.rename_all.or(container.rename_all_fields);
                let fields = fields(&variant.fields, case, library, errors);
                quote!(#library::Variant { name: #name, fields: #fields })
            });
            let variants: Vec<_> = variants.collect();
            quote!(#library::Shape::Enum(&[#(#variants),*]))
        }
        Data::Union(data) => {
            errors.at(data.union_token, "a union has no schema: serde does not carry it");
            return TokenStream::new();
        }
    };
    let name = container.rename.clone().unwrap_or_else(|| input.ident.unraw().to_string());
    let parameters = input.generics.type_params().map(|parameter| &parameter.ident);
    quote! {
        const TYPE: #library::Type = #library::Type::Named(#library::Named {
            name: #name,
            parameters: &[#(<#parameters as #library::Schema>::LINK),*],
            shape: #shape,
        });
    }
}

fn fields(
    all: &Fields,
    case: Option<Case>,
    library: &TokenStream,
    errors: &mut Errors,
) -> TokenStream {
    match all {
        Fields::Unit => quote!(#library::Fields::Unnamed(&[])),
        Fields::Unnamed(unnamed) => {
            if unnamed.unnamed.is_empty() {
                errors
                    .at(all, "leave out the empty parentheses: serde takes the two for different");
            }
            let links = unnamed.unnamed.iter().map(|field| {
                let attributes = FieldAttributes::new(&field.attrs, errors);
                if let Some(skip) = attributes.skip {
                    errors.at_span(
                        skip,
                        "`skip` is for fields with names: JSON would have another shape than the value",
                    );
                }
                link(field, &attributes, library)
            });
            let links: Vec<_> = links.collect();
            quote!(#library::Fields::Unnamed(&[#(#links),*]))
        }
        Fields::Named(named) => {
            let mut names = HashSet::new();
            let fields = named.named.iter().filter_map(|field| {
                let attributes = FieldAttributes::new(&field.attrs, errors);
                if attributes.skip.is_some() {
                    return None;
                }
                let place = field.ident.as_ref()?;
                let name = place.unraw().to_string();
                let name = match &attributes.rename {
                    Some(name) => name.clone(),
                    None => case.map_or(name.clone(), |case| case.of_field(&name)),
                };
                distinct(&name, place, &mut names, errors);
                let link = link(field, &attributes, library);
                Some(quote!(#library::Field { name: #name, of: #link }))
            });
            let fields: Vec<_> = fields.collect();
            quote!(#library::Fields::Named(&[#(#fields),*]))
        }
    }
}

/// A description with two parts of one name is refused where it is received.
fn distinct(name: &str, place: &Ident, names: &mut HashSet<String>, errors: &mut Errors) {
    if !names.insert(name.to_owned()) {
        errors.at(
            place,
            format!("`{name}` is the name of another one too: JSON could not tell them apart"),
        );
    }
}

/// The one field that is not skipped, and not a mere marker.
fn transparent(all: &Fields, library: &TokenStream, errors: &mut Errors) -> TokenStream {
    let is_marker = |of: &Type| matches!(of, Type::Path(path) if path.path.segments.last().is_some_and(|last| last.ident == "PhantomData"));
    let mut links = Vec::new();
    for field in all {
        let attributes = FieldAttributes::new(&field.attrs, errors);
        if attributes.skip.is_none() && !is_marker(&field.ty) {
            links.push(link(field, &attributes, library));
        }
    }
    if links.len() != 1 {
        errors.at(all, "`transparent` is for a struct with one field that is carried");
    }
    quote!(#library::Fields::Unnamed(&[#(#links),*]))
}

/// What a type lacks is reported where it is written.
fn link(field: &Field, attributes: &FieldAttributes, library: &TokenStream) -> TokenStream {
    let of = attributes.like.as_ref().unwrap_or(&field.ty);
    quote_spanned!(of.span()=> <#of as #library::Schema>::LINK)
}
