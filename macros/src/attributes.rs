//! What is written in `#[service(…)]` and in `#[rpc(…)]`.

use proc_macro2::{Span, TokenStream};
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::{Attribute, Expr, ExprLit, Ident, Lit, LitStr, MetaList, Path, Token};

use crate::errors::Errors;

/// `name` or `name = value`; or a text alone, which was meant as a name.
struct Property {
    name: Ident,
    value: Option<Expr>,
    is_bare: bool,
}

impl Parse for Property {
    fn parse(input: ParseStream<'_>) -> syn::Result<Property> {
        if input.peek(LitStr) {
            let text: LitStr = input.parse()?;
            let name = Ident::new("name", text.span());
            let value = ExprLit { attrs: Vec::new(), lit: Lit::Str(text) };
            return Ok(Property { name, value: Some(Expr::Lit(value)), is_bare: true });
        }
        let name = input.call(Ident::parse_any)?;
        let value = input.parse::<Option<Token![=]>>()?.map(|_| input.parse()).transpose()?;
        Ok(Property { name, value, is_bare: false })
    }
}

type Properties = Punctuated<Property, Token![,]>;

impl Property {
    fn flag(self, flag: &mut Option<Span>, errors: &mut Errors) {
        if let Some(value) = &self.value {
            errors.at(value, format!("`{}` takes no value: leave it out instead", self.name));
        }
        self.once(flag.is_some(), errors);
        *flag = Some(self.name.span());
    }

    fn expression(self, place: &mut Option<(Span, Expr)>, errors: &mut Errors) {
        self.once(place.is_some(), errors);
        match self.value {
            Some(value) => *place = Some((self.name.span(), value)),
            None => errors.at(&self.name, format!("`{0}` needs a value: `{0} = …`", self.name)),
        }
    }

    fn text(self, place: &mut Option<LitStr>, errors: &mut Errors) {
        self.once(place.is_some(), errors);
        match self.value {
            Some(Expr::Lit(ExprLit { lit: Lit::Str(text), .. })) => {
                if text.value().trim().is_empty() {
                    errors.at(&text, "a name is not empty");
                } else if self.is_bare {
                    let hint =
                        format!("a name is said by its property: `name = {:?}`", text.value());
                    errors.at(&text, hint);
                }
                *place = Some(text);
            }
            Some(other) => errors.at(other, "a name is a literal: `name = \"…\"`"),
            None => errors.at(&self.name, "`name` needs a value: `name = \"…\"`"),
        }
    }

    fn once(&self, is_there: bool, errors: &mut Errors) {
        if is_there {
            errors.at(&self.name, format!("`{}` is said twice", self.name));
        }
    }

    /// The property that was probably meant.
    fn unknown<'k>(&self, of: &str, known: &[&'k str], errors: &mut Errors) -> Option<&'k str> {
        let name = self.name.unraw().to_string();
        let near = known.iter().copied().find(|known| distance(&name, known) <= 2);
        let hint = match near {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("there are {}", known.join(", ")),
        };
        errors.at(&self.name, format!("{of} has no property `{name}`: {hint}"));
        near
    }
}

/// What `#[service(…)]` says.
pub(crate) struct ServiceOptions {
    /// The service's name on the wire, before the dot.
    pub(crate) name: Option<LitStr>,
    /// The crate that has the library's types.
    pub(crate) library: TokenStream,
}

pub(crate) fn service_options(arguments: TokenStream, errors: &mut Errors) -> ServiceOptions {
    let mut options = ServiceOptions { name: None, library: quote::quote!(::oncewire) };
    let before = errors.count();
    match Properties::parse_terminated.parse2(arguments) {
        Ok(properties) => {
            for property in properties {
                match property.name.to_string().as_str() {
                    "name" => property.text(&mut options.name, errors),
                    "crate" => library(property, &mut options.library, errors),
                    _ => match property.unknown("a service", &["name", "crate"], errors) {
                        Some("name") => property.text(&mut options.name, &mut Errors::default()),
                        Some(_) => library(property, &mut options.library, &mut Errors::default()),
                        None => {}
                    },
                }
            }
        }
        Err(error) => errors.push(error),
    }
    match &options.name {
        None if errors.count() == before => errors.at_span(
            Span::call_site(),
            "a service needs a name: `#[service(name = \"…\")]`. It is part of each method's name on the wire, which must not \
             change when the trait is renamed",
        ),
        Some(name) if name.value().len() > 64 => {
            errors.at(name, "a service's name has at most 64 bytes");
        }
        _ => {}
    }
    options
}

fn library(property: Property, library: &mut TokenStream, errors: &mut Errors) {
    let path: Option<Path> = match property.value {
        Some(Expr::Path(path)) if path.qself.is_none() => Some(path.path),
        _ => None,
    };
    match path {
        Some(path) => *library = quote::quote!(#path),
        None => errors.at(&property.name, "`crate` names a crate: `crate = oncewire_tcp`"),
    }
}

/// What `#[rpc(…)]` says of a method.
#[derive(Default)]
pub(crate) struct MethodOptions {
    pub(crate) name: Option<LitStr>,
    pub(crate) idempotent: Option<Span>,
    pub(crate) one_way: Option<Span>,
    pub(crate) transactional: Option<Span>,
    pub(crate) blocking: Option<Span>,
    pub(crate) drop_on_cancel: Option<Span>,
    pub(crate) reply_len_max: Option<(Span, Expr)>,
    pub(crate) timeout: Option<(Span, Expr)>,
    pub(crate) time_limit: Option<(Span, Expr)>,
    pub(crate) concurrency: Option<(Span, Expr)>,
    pub(crate) queue_max: Option<(Span, Expr)>,
    pub(crate) depth_max: Option<(Span, Expr)>,
    pub(crate) memory_max: Option<(Span, Expr)>,
    /// There is an `#[rpc(…)]` that cannot be read: what else it says is not known.
    pub(crate) is_broken: bool,
    pub(crate) resumable: Option<Span>,
    pub(crate) chunk_len: Option<(Span, Expr)>,
    pub(crate) credit: Option<(Span, Expr)>,
}

const METHOD_PROPERTIES: [&str; 16] = [
    "idempotent",
    "one_way",
    "transactional",
    "blocking",
    "drop_on_cancel",
    "reply_len_max",
    "timeout",
    "time_limit",
    "concurrency",
    "queue_max",
    "depth_max",
    "memory_max",
    "resumable",
    "chunk_len",
    "credit",
    "name",
];

/// Takes the `#[rpc(…)]` out of a method's attributes.
pub(crate) fn method_options(
    attributes: &mut Vec<Attribute>,
    errors: &mut Errors,
) -> MethodOptions {
    let mut options = MethodOptions::default();
    for attribute in attributes.extract_if(.., |attribute| is_rpc(attribute)) {
        if !attribute.path().is_ident("rpc") {
            errors.at(
                attribute,
                "a method's properties are not conditional: write the method twice, each with its `#[cfg(…)]` and its `#[rpc(…)]`",
            );
            options.is_broken = true;
            continue;
        }
        match attribute.parse_args_with(Properties::parse_terminated) {
            Ok(properties) => {
                properties.into_iter().for_each(|property| options.set(property, errors));
            }
            Err(error) => {
                errors.push(error);
                options.is_broken = true;
            }
        }
    }
    options
}

/// `#[rpc(…)]`, or one under `cfg_attr`, which this macro gets before the compiler has decided the condition.
fn is_rpc(attribute: &Attribute) -> bool {
    let is_conditional =
        |list: &MetaList| {
            list.path.is_ident("cfg_attr")
                && list.tokens.clone().into_iter().any(
                    |token| matches!(token, proc_macro2::TokenTree::Ident(word) if word == "rpc"),
                )
        };
    attribute.path().is_ident("rpc") || attribute.meta.require_list().is_ok_and(is_conditional)
}

impl MethodOptions {
    fn set(&mut self, property: Property, errors: &mut Errors) {
        let name = property.name.to_string();
        if METHOD_PROPERTIES.contains(&name.as_str()) {
            self.set_as(&name, property, errors);
        } else if let Some(near) = property.unknown("a method", &METHOD_PROPERTIES, errors) {
            // Without it the method would be in error a second time, as one that is not `async`, say.
            self.set_as(near, property, &mut Errors::default());
        }
    }

    fn set_as(&mut self, name: &str, property: Property, errors: &mut Errors) {
        match name {
            "idempotent" => property.flag(&mut self.idempotent, errors),
            "one_way" => property.flag(&mut self.one_way, errors),
            "transactional" => property.flag(&mut self.transactional, errors),
            "blocking" => property.flag(&mut self.blocking, errors),
            "drop_on_cancel" => property.flag(&mut self.drop_on_cancel, errors),
            "reply_len_max" => property.expression(&mut self.reply_len_max, errors),
            "timeout" => property.expression(&mut self.timeout, errors),
            "time_limit" => property.expression(&mut self.time_limit, errors),
            "concurrency" => property.expression(&mut self.concurrency, errors),
            "queue_max" => property.expression(&mut self.queue_max, errors),
            "depth_max" => property.expression(&mut self.depth_max, errors),
            "memory_max" => property.expression(&mut self.memory_max, errors),
            "resumable" => property.flag(&mut self.resumable, errors),
            "chunk_len" => property.expression(&mut self.chunk_len, errors),
            "credit" => property.expression(&mut self.credit, errors),
            _ => property.text(&mut self.name, errors),
        }
    }
}

/// How many letters must be changed, added or left out to make one word of the other.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in other.bytes().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[other.len()]
}
