//! What `#[serde(…)]` and `#[schema(…)]` say, where it concerns the wire or the names in JSON. What postcard cannot carry is
//! an error.

use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::meta::ParseNestedMeta;
use syn::{Attribute, DeriveInput, LitStr, Path, Type};

use super::rename::Case;
use crate::errors::Errors;

/// What postcard cannot carry, why, and what to do.
const REFUSED: [(&str, &str); 12] = [
    (
        "untagged",
        "postcard does not say on the wire which variant it is, and cannot guess it: leave `untagged` out",
    ),
    (
        "tag",
        "postcard has no field for a variant's name: it writes the variant's number. Leave `tag` out",
    ),
    ("content", "postcard has no field for a variant's content. Leave `content` out"),
    (
        "flatten",
        "postcard does not write names, so a reader cannot see where a flattened field ends: make it a field of its own",
    ),
    (
        "skip_serializing_if",
        "postcard does not write names, so a reader does not notice that a field is missing: write it always",
    ),
    (
        "skip_serializing",
        "a field that is read and not written shifts all behind it: use `skip`, which does neither",
    ),
    (
        "skip_deserializing",
        "a field that is written and not read shifts all behind it: use `skip`, which does neither",
    ),
    ("other", "a variant that replaces all unknown ones loses what was sent: leave `other` out"),
    ("remote", "implement `Schema` by hand for the type that has `remote`'s fields"),
    ("getter", "implement `Schema` by hand for the type that has these fields"),
    ("field_identifier", "postcard does not write names"),
    ("variant_identifier", "postcard does not write names"),
];

/// What neither the wire nor the names in JSON show.
const OF_NO_EFFECT: [&str; 7] =
    ["default", "alias", "bound", "borrow", "crate", "expecting", "deny_unknown_fields"];

const OTHER_TYPE: &str =
    "what it is written as is not known here: say it, as in `#[schema(as = String)]`";

/// Of a struct or an enum.
pub(super) struct Container {
    /// The path of the crate with the description's types.
    pub(super) library: TokenStream,
    /// It is written as this type is.
    pub(super) like: Option<Type>,
    pub(super) is_transparent: bool,
    pub(super) rename: Option<String>,
    pub(super) rename_all: Option<Case>,
    pub(super) rename_all_fields: Option<Case>,
}

impl Container {
    pub(super) fn new(input: &DeriveInput, errors: &mut Errors) -> Container {
        let mut library = quote!(::oncewire::schema);
        let (mut like, mut is_transparent) = (None, false);
        let (mut rename, mut rename_all, mut rename_all_fields) = (None, None, None);
        let mut conversions = Conversions::default();
        each("schema", &input.attrs, errors, |meta, _| {
            if meta.path.is_ident("crate") {
                let path: Path = meta.value()?.parse()?;
                library = quote!(#path);
            } else if meta.path.is_ident("as") {
                like = Some(meta.value()?.parse()?);
            } else {
                return Err(meta.error("there are `crate = …` and `as = …`"));
            }
            Ok(())
        });
        each("serde", &input.attrs, errors, |meta, errors| {
            match name(&meta).as_str() {
                "rename" => rename = one_name(&meta)?,
                "rename_all" => rename_all = case(&meta)?,
                "rename_all_fields" => rename_all_fields = case(&meta)?,
                "transparent" => is_transparent = true,
                "from" | "try_from" => conversions.from = Some((span(&meta), other_type(&meta)?)),
                "into" => conversions.into = Some((span(&meta), other_type(&meta)?)),
                _ => common(&meta, errors)?,
            }
            Ok(())
        });
        let like = like.or_else(|| conversions.other(errors));
        Container { library, like, is_transparent, rename, rename_all, rename_all_fields }
    }

    pub(super) fn variant_name(&self, name: &str) -> String {
        self.rename_all.map_or(name.to_owned(), |case| case.of_variant(name))
    }
}

/// serde's `from`, `try_from` and `into`: the type that is on the wire.
#[derive(Default)]
struct Conversions {
    from: Option<(Span, Type)>,
    into: Option<(Span, Type)>,
}

impl Conversions {
    fn other(self, errors: &mut Errors) -> Option<Type> {
        match (self.from, self.into) {
            (Some((_, from)), Some((_, into)))
                if quote!(#from).to_string() == quote!(#into).to_string() =>
            {
                Some(from)
            }
            (Some((span, _)), _) | (_, Some((span, _))) => {
                errors.at_span(
                    span,
                    "it is read as one type and written as another: name the same in `into` and in `from` or `try_from`",
                );
                None
            }
            (None, None) => None,
        }
    }
}

/// Of a variant.
pub(super) struct VariantAttributes {
    pub(super) rename: Option<String>,
    /// For its fields.
    pub(super) rename_all: Option<Case>,
}

impl VariantAttributes {
    pub(super) fn new(attributes: &[Attribute], errors: &mut Errors) -> VariantAttributes {
        let (mut rename, mut rename_all) = (None, None);
        each("schema", attributes, errors, |meta, _| {
            Err(meta.error("for a variant there is nothing to say: say it of its fields"))
        });
        each("serde", attributes, errors, |meta, errors| {
            match name(&meta).as_str() {
                "rename" => rename = one_name(&meta)?,
                "rename_all" => rename_all = case(&meta)?,
                "skip" | "skip_serializing" | "skip_deserializing" => {
                    skip_value(&meta)?;
                    errors.at(
                        &meta.path,
                        "a variant that is skipped shifts the numbers of those behind it, for reading and not for writing: move \
                         it into another type",
                    );
                }
                "with" | "serialize_with" | "deserialize_with" => {
                    skip_value(&meta)?;
                    errors.at(
                        &meta.path,
                        "put the content into a type of its own, which has a `Schema` by hand",
                    );
                }
                _ => common(&meta, errors)?,
            }
            Ok(())
        });
        VariantAttributes { rename, rename_all }
    }
}

/// Of a field.
pub(super) struct FieldAttributes {
    pub(super) rename: Option<String>,
    /// It is neither written nor read.
    pub(super) skip: Option<Span>,
    /// It is written as this type is.
    pub(super) like: Option<Type>,
}

impl FieldAttributes {
    pub(super) fn new(attributes: &[Attribute], errors: &mut Errors) -> FieldAttributes {
        let (mut rename, mut skip, mut like) = (None, None, None);
        let mut other = None;
        each("schema", attributes, errors, |meta, _| {
            if !meta.path.is_ident("as") {
                return Err(meta.error("for a field there is `as = …`"));
            }
            like = Some(meta.value()?.parse()?);
            Ok(())
        });
        each("serde", attributes, errors, |meta, errors| {
            match name(&meta).as_str() {
                "rename" => rename = one_name(&meta)?,
                "skip" => skip = Some(span(&meta)),
                "with" | "serialize_with" | "deserialize_with" => {
                    skip_value(&meta)?;
                    other = Some(span(&meta));
                }
                _ => common(&meta, errors)?,
            }
            Ok(())
        });
        if let Some(span) = other
            && like.is_none()
            && skip.is_none()
        {
            errors.at_span(span, OTHER_TYPE);
        }
        FieldAttributes { rename, skip, like }
    }
}

/// Each property in the attributes of this name.
fn each(
    attribute: &str,
    attributes: &[Attribute],
    errors: &mut Errors,
    mut see: impl FnMut(ParseNestedMeta<'_>, &mut Errors) -> syn::Result<()>,
) {
    for found in attributes.iter().filter(|found| found.path().is_ident(attribute)) {
        if let Err(error) = found.parse_nested_meta(|meta| see(meta, errors)) {
            errors.push(error);
        }
    }
}

fn name(meta: &ParseNestedMeta<'_>) -> String {
    meta.path.get_ident().map(ToString::to_string).unwrap_or_default()
}

fn span(meta: &ParseNestedMeta<'_>) -> Span {
    syn::spanned::Spanned::span(&meta.path)
}

/// What may be said of anything.
fn common(meta: &ParseNestedMeta<'_>, errors: &mut Errors) -> syn::Result<()> {
    skip_value(meta)?;
    let name = name(meta);
    if let Some((_, why)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
        errors.at(&meta.path, why);
    } else if !OF_NO_EFFECT.contains(&name.as_str()) {
        errors
            .at(&meta.path, "what this does to the wire is not known: implement `Schema` by hand");
    }
    Ok(())
}

/// What follows a property's name.
fn skip_value(meta: &ParseNestedMeta<'_>) -> syn::Result<()> {
    if meta.input.peek(syn::token::Paren) {
        let content;
        syn::parenthesized!(content in meta.input);
        content.parse::<TokenStream>()?;
    } else if meta.input.peek(syn::Token![=]) {
        meta.value()?.parse::<syn::Expr>()?;
    }
    Ok(())
}

/// The text behind `name =`, or the same text twice in `name(serialize = …, deserialize = …)`.
fn one_text(meta: &ParseNestedMeta<'_>) -> syn::Result<Option<LitStr>> {
    if meta.input.peek(syn::Token![=]) {
        return Ok(Some(meta.value()?.parse()?));
    }
    let (mut write, mut read) = (None, None);
    meta.parse_nested_meta(|side| {
        let text: LitStr = side.value()?.parse()?;
        if side.path.is_ident("serialize") {
            write = Some(text)
        } else {
            read = Some(text)
        }
        Ok(())
    })?;
    if write.as_ref().map(LitStr::value) != read.as_ref().map(LitStr::value) {
        return Err(meta.error("a description has one name: write it and read it by the same"));
    }
    Ok(write)
}

fn one_name(meta: &ParseNestedMeta<'_>) -> syn::Result<Option<String>> {
    Ok(one_text(meta)?.map(|text| text.value()))
}

fn case(meta: &ParseNestedMeta<'_>) -> syn::Result<Option<Case>> {
    let Some(text) = one_text(meta)? else { return Ok(None) };
    match Case::of(&text.value()) {
        Some(case) => Ok(Some(case)),
        None => Err(syn::Error::new(text.span(), "serde has no such case")),
    }
}

/// The type in a text.
fn other_type(meta: &ParseNestedMeta<'_>) -> syn::Result<Type> {
    meta.value()?.parse::<LitStr>()?.parse()
}
