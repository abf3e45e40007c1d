//! What a service cannot be, and what to write instead.

use std::collections::HashMap;

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens;
use syn::{
    Attribute, FnArg, Ident, ItemTrait, Receiver, ReceiverKind, Safety, Signature, TraitItem, Type,
};

use crate::attributes::MethodOptions;
use crate::errors::Errors;
use crate::model::Method;
use crate::streams::is_incoming;

/// The trait as a whole.
pub(crate) fn definition(definition: &ItemTrait, errors: &mut Errors) {
    if !definition.generics.params.is_empty() {
        errors.at(
            &definition.generics,
            "a service is not generic: client and server must mean the same types by its name. Write one trait for each, or make \
             what implements it generic",
        );
    }
    if let Some(unsafety) = &definition.unsafety {
        errors.at(unsafety, "a service is no unsafe trait");
    }
}

/// What is in the trait beside its methods.
pub(crate) fn other_item(item: &TraitItem, errors: &mut Errors) {
    let is_transaction = matches!(item, TraitItem::Type(item) if item.ident == "Transaction");
    if !is_transaction {
        errors.at(
            item,
            "a service has methods, and `type Transaction;` if some are transactional: put this into another trait",
        );
    }
}

/// Properties that exclude each other.
pub(crate) fn options(options: &MethodOptions, errors: &mut Errors) {
    if let (Some(_), Some((span, _))) = (options.one_way, &options.reply_len_max) {
        errors.at_span(*span, "a one-way method has no reply that could be long");
    }
    if options.transactional.is_none() {
        return;
    }
    if let Some(idempotent) = options.idempotent {
        errors.at_span(
            idempotent,
            "`idempotent` or `transactional`: what may run twice needs no record, and what has a record does not run twice",
        );
    }
    let without_effect = [
        (options.blocking, "blocking"),
        (options.drop_on_cancel, "drop_on_cancel"),
        (options.time_limit.as_ref().map(|(span, _)| *span), "time_limit"),
        (options.concurrency.as_ref().map(|(span, _)| *span), "concurrency"),
        (options.queue_max.as_ref().map(|(span, _)| *span), "queue_max"),
    ];
    for (span, name) in without_effect {
        if let Some(span) = span {
            errors.at_span(
                span,
                format!(
                    "`{name}` has no effect on a transactional method: it runs on the ledger's thread, one call at a time, and \
                     cannot be dropped half-way"
                ),
            );
        }
    }
}

/// What comes before the arguments, and how the function is called.
pub(crate) fn signature(signature: &Signature, options: &MethodOptions, errors: &mut Errors) {
    if !signature.generics.params.is_empty() {
        errors.at(
            &signature.generics,
            "a method is not generic: its types are the same for every client. Arguments and replies are owned, and need no lifetime",
        );
    }
    if let Some(clause) = &signature.generics.where_clause {
        errors.at(clause, "a method has no `where` clause");
    }
    if let Some(word) = &signature.constness {
        errors.at(word, "a method is no `const fn`");
    }
    if let Safety::Unsafe(word) = &signature.safety {
        errors.at(word, "a method is no `unsafe fn`: a stranger may call it");
    }
    if let Some(abi) = &signature.abi {
        errors.at(abi, "a method is an ordinary function");
    }
    let takes_stream =
        |input: &FnArg| matches!(input, FnArg::Typed(input) if is_incoming(&input.ty));
    if let Some(span) = options.transactional
        && signature.inputs.iter().any(takes_stream)
    {
        return errors.at_span(
            span,
            "a method that takes a stream is not `transactional`: its commit may be. Write an `async fn` without this property that \
             returns a `Commit<Self::Transaction, R>`",
        );
    }
    asyncness(signature, options, errors);
    let Some(first) = signature.inputs.first() else {
        return errors.at(&signature.ident, beginning(options));
    };
    if !matches!(first, FnArg::Receiver(receiver) if is_shared(receiver)) {
        return errors.at(
            first,
            format!("many calls run at once, and share what they work on. {}", beginning(options)),
        );
    }
    let references = [("transaction", true), ("context", false)];
    if options.transactional.is_some() {
        for (place, (name, mutable)) in references.into_iter().enumerate() {
            match signature.inputs.get(place + 1) {
                None => return errors.at(&signature.ident, beginning(options)),
                Some(FnArg::Typed(input)) if !is_reference(&input.ty, mutable) => {
                    let hint = if mutable { "&mut Self::Transaction" } else { "&Context" };
                    return errors.at(
                        &input.ty,
                        format!("the {name} is a `{hint}`. {}", beginning(options)),
                    );
                }
                Some(_) => {}
            }
        }
    } else {
        match signature.inputs.get(1) {
            None => errors.at(&signature.ident, beginning(options)),
            Some(FnArg::Typed(input)) if matches!(&*input.ty, Type::Reference(_)) => {
                errors.at(&input.ty, format!("the context is owned. {}", beginning(options)));
            }
            Some(_) => {}
        }
    }
}

fn asyncness(signature: &Signature, options: &MethodOptions, errors: &mut Errors) {
    match (&signature.asyncness, options.transactional, options.blocking) {
        (Some(word), Some(_), _) => errors.at(
            word,
            "a transactional method is a plain `fn`: it runs on the ledger's thread, inside the transaction, and awaits nothing",
        ),
        (Some(word), None, Some(_)) => {
            errors.at(word, "a blocking method is a plain `fn`: it runs on a thread of its own");
        }
        (None, None, None) => errors.at(
            signature.fn_token,
            "write `async fn`; or `#[rpc(blocking)]` for a function that blocks or computes for long, or `#[rpc(transactional)]` for \
             one that runs in the ledger's transaction",
        ),
        _ => {}
    }
}

fn beginning(options: &MethodOptions) -> &'static str {
    if options.transactional.is_some() {
        "A transactional method begins with `&self, transaction: &mut Self::Transaction, context: &Context`"
    } else {
        "A method begins with `&self, context: Context`"
    }
}

fn is_shared(receiver: &Receiver) -> bool {
    matches!(receiver.kind, ReceiverKind::Reference(_, None, None))
}

fn is_reference(of: &Type, mutable: bool) -> bool {
    matches!(of, Type::Reference(reference) if reference.mutability.is_some() == mutable)
}

/// What the compiler would say at length, and of code that the user did not write.
pub(crate) fn argument_type(of: &Type, errors: &mut Errors) {
    owned(of, "an argument", errors);
}

fn owned(of: &Type, what: &str, errors: &mut Errors) {
    match of {
        Type::Reference(reference) => {
            let hint = match &*reference.elem {
                Type::Path(path) if path.path.is_ident("str") => "`String` instead of `&str`",
                Type::Slice(_) => "`Vec<T>` instead of `&[T]`",
                _ => "the value itself instead of a reference",
            };
            errors.at(of, format!("{what} is owned, because it comes over the wire: write {hint}"));
        }
        Type::ImplTrait(_) => errors.at(
            of,
            format!("{what} has one type, which client and server agree on: write it instead of `impl …`"),
        ),
        _ => {
            if let Some(borrow) = find_borrow(of.to_token_stream()) {
                errors.at(
                    borrow,
                    format!("{what} is owned, because it comes over the wire: nothing in it is borrowed"),
                );
            }
        }
    }
    if let Some(word) = find_self(of.to_token_stream()) {
        errors.at(word, format!("{what} has the same type for every implementation: name it"));
    }
}

/// The first `Self` in a type. What is generated from it has another.
fn find_self(tokens: TokenStream) -> Option<Ident> {
    tokens.into_iter().find_map(|token| match token {
        TokenTree::Ident(word) if word == "Self" => Some(word),
        TokenTree::Group(group) => find_self(group.stream()),
        _ => None,
    })
}

/// The first reference in a type, or lifetime that is not `'static`.
fn find_borrow(tokens: TokenStream) -> Option<TokenStream> {
    let mut tokens = tokens.into_iter();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Punct(sign) if sign.as_char() == '&' => {
                return Some(TokenTree::Punct(sign).into());
            }
            TokenTree::Punct(sign) if sign.as_char() == '\'' => match tokens.next() {
                Some(TokenTree::Ident(name)) if name == "static" => {}
                name => return Some(std::iter::once(TokenTree::Punct(sign)).chain(name).collect()),
            },
            // What is in braces is no type, but the value of a constant.
            TokenTree::Group(group) if group.delimiter() != Delimiter::Brace => {
                if let Some(borrow) = find_borrow(group.stream()) {
                    return Some(borrow);
                }
            }
            _ => {}
        }
    }
    None
}

/// What is on the wire is the same for every client and server.
pub(crate) fn unconditional(input: &FnArg, errors: &mut Errors) {
    let attributes = match input {
        FnArg::Typed(typed) => &typed.attrs,
        FnArg::Receiver(receiver) => &receiver.attrs,
    };
    let is_condition =
        |of: &&Attribute| of.path().is_ident("cfg") || of.path().is_ident("cfg_attr");
    if let Some(condition) = attributes.iter().find(is_condition) {
        errors.at(
            condition,
            "a method has the same arguments for every client and server: write it twice, each with its `#[cfg(…)]`",
        );
    }
}

pub(crate) fn argument_count(arguments: &[(Ident, Type)], errors: &mut Errors) {
    if let Some((name, _)) = arguments.get(16) {
        errors.at(name, "a method has at most 16 arguments: put some of them into a struct");
    }
}

pub(crate) fn reply(
    reply: &Type,
    options: &MethodOptions,
    signature: &Signature,
    errors: &mut Errors,
) {
    owned(reply, "a reply", errors);
    if options.one_way.is_none() {
        return;
    }
    let is_unit = matches!(reply, Type::Tuple(tuple) if tuple.elems.is_empty());
    if !is_unit {
        let hint =
            if options.transactional.is_some() { "`Result<(), Rollback>`" } else { "nothing" };
        errors.at(
            &signature.output,
            format!("nothing of a one-way call comes back: let it return {hint}"),
        );
    }
}

/// Names that two methods share. Of such, only the first one stays.
pub(crate) fn names(methods: &mut Vec<Method>, errors: &mut Errors) {
    let mut seen: HashMap<String, Ident> = HashMap::new();
    methods.retain(|method| {
        // Both may be written for different `cfg`s.
        if method.attributes.iter().any(|attribute| attribute.path().is_ident("cfg")) {
            return true;
        }
        let constant = method.constant().to_string();
        let first = seen.get(&method.wire_name).map(|first| (first, method.wire_name.as_str()));
        let first = first.or_else(|| seen.get(&constant).map(|first| (first, constant.as_str())));
        if let Some((first, name)) = first {
            let message = format!("`{name}` is the name of `{first}` too");
            let message =
                if name == constant { format!("the constant {message}") } else { message };
            match &method.options.name {
                Some(place) if name != constant => errors.at(place, message),
                _ => errors.at(&method.name, message),
            }
            return false;
        }
        // The one has a dot, and the other none.
        seen.insert(method.wire_name.clone(), method.name.clone());
        seen.insert(constant, method.name.clone());
        true
    });
}
