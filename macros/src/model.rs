//! A service, as its trait describes it.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{
    Attribute, FnArg, Ident, ItemTrait, Pat, ReturnType, TraitItem, TraitItemFn, Type, Visibility,
    parse_quote, parse_quote_spanned,
};

use crate::attributes::{MethodOptions, ServiceOptions, method_options};
use crate::check;
use crate::errors::Errors;
use crate::expand::may_be_unused;
use crate::streams::Streams;

pub(crate) struct Service {
    pub(crate) visibility: Visibility,
    pub(crate) trait_name: Ident,
    /// The path of the crate that has the library's types.
    pub(crate) library: TokenStream,
    pub(crate) methods: Vec<Method>,
}

pub(crate) struct Method {
    pub(crate) name: Ident,
    /// The full name on the wire.
    pub(crate) wire_name: String,
    /// The attributes that hold for what is generated too: `doc`, `cfg`, `deprecated`, `allow`.
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) kind: Kind,
    pub(crate) options: MethodOptions,
    /// The type of the context, without a reference.
    pub(crate) context: Type,
    pub(crate) arguments: Vec<(Ident, Type)>,
    /// The reply on the wire; of a method that sends a stream, an item.
    pub(crate) reply: Type,
}

/// How a server runs it.
pub(crate) enum Kind {
    Async,
    Blocking,
    /// In a transaction of this type.
    Transactional(Box<Type>),
    /// It sends a stream of its reply's type. `position`: its caller says where to begin.
    Outgoing {
        position: Option<Ident>,
    },
    /// It takes a stream of this type.
    Incoming {
        item: Box<Type>,
        /// In which it is committed, if it is.
        transaction: Option<Box<Type>>,
    },
}

impl Service {
    /// `None` if too little is right to generate anything. What concerns only the macro is taken out of the trait, and its
    /// `async` functions become functions whose futures are `Send`.
    pub(crate) fn new(
        definition: &mut ItemTrait,
        options: ServiceOptions,
        errors: &mut Errors,
    ) -> Option<Service> {
        let ServiceOptions { name, library } = options;
        check::definition(definition, errors);
        let is_generic = !definition.generics.params.is_empty();
        // Without a name, which is an error, the rest is generated all the same: what uses it is not in error.
        let service_name = match &name {
            Some(name) => name.value(),
            None => definition.ident.unraw().to_string().to_lowercase(),
        };
        let mut methods = Vec::new();
        for item in &mut definition.items {
            match item {
                TraitItem::Fn(function) => {
                    methods.extend(Method::new(function, &service_name, &library, errors));
                    plain_names(function);
                    send_future(function);
                }
                other => check::other_item(other, errors),
            }
        }
        check::names(&mut methods, errors);
        let unused = may_be_unused();
        definition.attrs.push(parse_quote!(#unused));
        definition.supertraits.push(parse_quote!(::core::marker::Send));
        definition.supertraits.push(parse_quote!(::core::marker::Sync));
        definition.supertraits.push(parse_quote!('static));
        if is_generic {
            return None;
        }
        let (visibility, trait_name) = (definition.vis.clone(), definition.ident.clone());
        Some(Service { visibility, trait_name, library, methods })
    }
}

impl Method {
    /// `None` if there is an error in its function. With one in its properties only it can be called and offered.
    fn new(
        function: &mut TraitItemFn,
        service: &str,
        library: &TokenStream,
        errors: &mut Errors,
    ) -> Option<Method> {
        let options = method_options(&mut function.attrs, errors);
        if options.is_broken {
            return None;
        }
        check::options(&options, errors);
        let before = errors.count();
        let Inputs { transaction, context, mut arguments } = inputs(function, &options, errors);
        let output: Type = match &function.sig.output {
            ReturnType::Default => parse_quote!(()),
            ReturnType::Type(_, output) => (**output).clone(),
        };
        let streams = Streams::take(&mut arguments, &output, &options, errors);
        let reply = match &streams {
            Streams::Outgoing { item, .. } => item.clone(),
            Streams::Incoming { commit: Some(commit), .. } => commit.1.clone(),
            _ if options.transactional.is_some() => reply_in(&output, library),
            _ => output,
        };
        check::argument_count(&arguments, errors);
        check::reply(&reply, &options, &function.sig, errors);
        if errors.count() > before {
            return None;
        }
        let kind = match (streams, transaction, options.blocking) {
            (Streams::Outgoing { position, .. }, _, _) => Kind::Outgoing { position },
            (Streams::Incoming { item, commit }, _, _) => {
                let transaction = commit.map(|commit| Box::new(commit.0));
                Kind::Incoming { item: Box::new(item), transaction }
            }
            (Streams::Neither, Some(transaction), _) => Kind::Transactional(Box::new(transaction)),
            (Streams::Neither, None, Some(_)) => Kind::Blocking,
            (Streams::Neither, None, None) => Kind::Async,
        };
        let name = function.sig.ident.clone();
        let on_wire = options.name.as_ref().map(syn::LitStr::value);
        let on_wire = on_wire.unwrap_or_else(|| name.unraw().to_string());
        let wire_name = format!("{service}/{on_wire}");
        let attributes = attributes_to_pass_on(function);
        let context = context?;
        Some(Method { name, wire_name, attributes, kind, options, context, arguments, reply })
    }

    pub(crate) fn constant(&self) -> Ident {
        let name = self.name.unraw().to_string().to_uppercase();
        Ident::new(&name, self.name.span())
    }
}

/// The inputs of a method, behind `&self`.
struct Inputs {
    /// The type of the transaction, if it is transactional.
    transaction: Option<Type>,
    /// `None` is an error, which was reported.
    context: Option<Type>,
    arguments: Vec<(Ident, Type)>,
}

fn inputs(function: &TraitItemFn, options: &MethodOptions, errors: &mut Errors) -> Inputs {
    check::signature(&function.sig, options, errors);
    function.sig.inputs.iter().for_each(|input| check::unconditional(input, errors));
    let mut inputs = function.sig.inputs.iter().skip(1).filter_map(|input| match input {
        FnArg::Typed(typed) => Some(typed),
        FnArg::Receiver(_) => None,
    });
    let transaction = if options.transactional.is_some() { inputs.next() } else { None };
    let transaction = transaction.map(|transaction| referred(&transaction.ty));
    let context = inputs.next().map(|context| referred(&context.ty));
    let mut arguments = Vec::new();
    for input in inputs {
        check::argument_type(&input.ty, errors);
        match &*input.pat {
            Pat::Ident(pattern) if pattern.subpat.is_none() && pattern.by_ref.is_none() => {
                arguments.push((pattern.ident.clone(), (*input.ty).clone()));
            }
            other => errors.at(
                other,
                "an argument has a plain name: it is the name in the client's function too",
            ),
        }
    }
    Inputs { transaction, context, arguments }
}

/// Those that hold for what is generated too.
fn attributes_to_pass_on(function: &TraitItemFn) -> Vec<Attribute> {
    let names = ["doc", "cfg", "deprecated", "allow"];
    let is_one = |attribute: &&Attribute| names.iter().any(|name| attribute.path().is_ident(name));
    function.attrs.iter().filter(is_one).cloned().collect()
}

/// `T` of `&T` and `&mut T`, and of `T`.
fn referred(reference: &Type) -> Type {
    match reference {
        Type::Reference(reference) => (*reference.elem).clone(),
        other => other.clone(),
    }
}

/// `R` of `Result<R, Rollback>`. Where it is called something else, the compiler finds out.
fn reply_in(output: &Type, library: &TokenStream) -> Type {
    if let Type::Path(path) = output
        && let Some(last) = path.path.segments.last()
        && last.ident == "Result"
        && let syn::PathArguments::AngleBracketed(generic) = &last.arguments
        && let Some(syn::GenericArgument::Type(reply)) = generic.args.first()
        && generic.args.len() == 2
    {
        return reply.clone();
    }
    let span = output.span();
    parse_quote_spanned!(span=> <#output as #library::__private::TransactionalResult>::Reply)
}

/// Other patterns are errors of this macro, and in a function without a body the compiler's as well.
fn plain_names(function: &mut TraitItemFn) {
    if function.default.is_some() {
        return;
    }
    for input in &mut function.sig.inputs {
        if let FnArg::Typed(typed) = input
            && !matches!(&*typed.pat, Pat::Ident(_) | Pat::Wild(_))
        {
            let span = typed.pat.span();
            *typed.pat = parse_quote_spanned!(span=> _);
        }
    }
}

/// `async fn` in a trait says nothing of its future; a server needs one that may go from thread to thread. What implements
/// it may still be an `async fn`.
fn send_future(function: &mut TraitItemFn) {
    if function.sig.asyncness.take().is_none() {
        return;
    }
    let span = function.sig.fn_token.span;
    let output = match &function.sig.output {
        ReturnType::Default => quote_spanned!(span=> ()),
        ReturnType::Type(_, output) => quote!(#output),
    };
    function.sig.output = parse_quote_spanned! {
        span=> -> impl ::core::future::Future<Output = #output> + ::core::marker::Send
    };
    if let Some(body) = &function.default {
        function.default = Some(parse_quote!({ async move #body }));
        function.attrs.push(parse_quote!(
            #[allow(clippy::manual_async_fn, reason = "the user wrote an `async fn`")]
        ));
    }
}
