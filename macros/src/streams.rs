//! Methods that send a stream, or take one: how they are recognised, and what they cannot be.

use syn::{GenericArgument, Ident, PathArguments, Type};

use crate::attributes::MethodOptions;
use crate::errors::Errors;

/// What a method sends or takes item by item.
pub(crate) enum Streams {
    Neither,
    /// It returns an `Outgoing` of this. What it takes first is the position, if it is resumable.
    Outgoing {
        item: Type,
        position: Option<Ident>,
    },
    /// Its last argument is an `Incoming` of this.
    Incoming {
        item: Type,
        /// It returns a `Commit` in this transaction, with this reply.
        commit: Option<Box<(Type, Type)>>,
    },
}

impl Streams {
    /// Takes what is no argument of the client's out of `arguments`.
    pub(crate) fn take(
        arguments: &mut Vec<(Ident, Type)>,
        output: &Type,
        options: &MethodOptions,
        errors: &mut Errors,
    ) -> Streams {
        let outgoing = item_of(output, "Outgoing");
        let last = arguments.len().saturating_sub(1);
        let place = arguments.iter().position(|(_, of)| item_of(of, "Incoming").is_some());
        if let (Some(place), Some(_)) = (place, &outgoing) {
            errors.at(
                &arguments[place].1,
                "a method sends a stream or takes one: what a client is sent while it uploads needs a method of its own",
            );
            return Streams::Neither;
        }
        if let Some(place) = place {
            let (_, of) = arguments.remove(place);
            if place != last {
                errors
                    .at(&of, "what is uploaded comes last: the arguments before it are sent first");
            }
            if let Some((_, second)) =
                arguments.iter().find(|(_, of)| item_of(of, "Incoming").is_some())
            {
                errors.at(second, "a method takes one stream");
            }
            exclude(options, "takes a stream", false, errors);
            let item = item_of(&of, "Incoming").unwrap_or(of);
            return Streams::Incoming { item, commit: commit_of(output).map(Box::new) };
        }
        let Some(item) = outgoing else {
            only_for_streams(options, errors);
            return Streams::Neither;
        };
        exclude(options, "sends a stream", true, errors);
        let position = options.resumable.and_then(|span| take_position(arguments, span, errors));
        Streams::Outgoing { item, position }
    }
}

/// A resumable one is given the position to begin at.
fn take_position(
    arguments: &mut Vec<(Ident, Type)>,
    resumable: proc_macro2::Span,
    errors: &mut Errors,
) -> Option<Ident> {
    const BEGINNING: &str = "a resumable method that sends a stream begins with `&self, context: Context, from: u64`: the position \
                             of its first item";
    match arguments.first() {
        Some((_, of)) if !is_named(of, "u64") => errors.at(of, BEGINNING),
        Some(_) => return Some(arguments.remove(0).0),
        None => errors.at_span(resumable, BEGINNING),
    }
    None
}

/// `T` of `Name<T>`, whatever is before the name.
fn item_of(of: &Type, name: &str) -> Option<Type> {
    let Type::Path(path) = of else { return None };
    let last = path.path.segments.last().filter(|last| last.ident == name)?;
    let PathArguments::AngleBracketed(generic) = &last.arguments else { return None };
    match generic.args.first() {
        Some(GenericArgument::Type(item)) if generic.args.len() == 1 => Some(item.clone()),
        _ => None,
    }
}

/// `X` and `R` of `Commit<X, R>`, whatever is before the name.
fn commit_of(of: &Type) -> Option<(Type, Type)> {
    let Type::Path(path) = of else { return None };
    let last = path.path.segments.last().filter(|last| last.ident == "Commit")?;
    let PathArguments::AngleBracketed(generic) = &last.arguments else { return None };
    let mut types = generic.args.iter();
    match (types.next(), types.next(), types.next()) {
        (Some(GenericArgument::Type(transaction)), Some(GenericArgument::Type(reply)), None) => {
            Some((transaction.clone(), reply.clone()))
        }
        _ => None,
    }
}

/// Whether this is what a method takes a stream by.
pub(crate) fn is_incoming(of: &Type) -> bool {
    item_of(of, "Incoming").is_some()
}

/// Whether the last part of a path is this.
pub(crate) fn is_named(of: &Type, name: &str) -> bool {
    matches!(of, Type::Path(path) if path.path.segments.last().is_some_and(|last| last.ident == name))
}

/// Properties that a stream cannot have.
fn exclude(options: &MethodOptions, does: &str, without_reply: bool, errors: &mut Errors) {
    let span =
        |value: &Option<(proc_macro2::Span, syn::Expr)>| value.as_ref().map(|(span, _)| *span);
    let calls = "it is many calls, each with the properties that it needs";
    let excluded = [
        (options.idempotent, "idempotent", calls),
        (options.one_way, "one_way", "it is many calls, and their replies are needed"),
        (
            // Of one that takes a stream `check::signature` has said more.
            options.transactional.filter(|_| without_reply),
            "transactional",
            "it would hold the ledger's transaction while it waits for its peer",
        ),
        (options.blocking, "blocking", "it waits for its peer, and would keep a thread for that"),
        (
            options.drop_on_cancel,
            "drop_on_cancel",
            "it is dropped when its client has dropped its end anyway",
        ),
        (span(&options.timeout), "timeout", "its caller may say so of each one that is opened"),
        (span(&options.time_limit), "time_limit", calls),
        (span(&options.concurrency), "concurrency", calls),
        (span(&options.queue_max), "queue_max", calls),
        (span(&options.depth_max), "depth_max", "its items have the limits of every value"),
        (span(&options.memory_max), "memory_max", "its items have the limits of every value"),
    ];
    for (place, name, why) in excluded {
        if let Some(place) = place {
            errors.at_span(place, format!("a method that {does} is not `{name}`: {why}"));
        }
    }
    if let (true, Some(place)) = (without_reply, span(&options.reply_len_max)) {
        errors.at_span(
            place,
            format!("a method that {does} has no other reply: `chunk_len` is the length of an item at most"),
        );
    }
}

fn only_for_streams(options: &MethodOptions, errors: &mut Errors) {
    let properties = [
        (options.resumable, "resumable"),
        (options.chunk_len.as_ref().map(|(span, _)| *span), "chunk_len"),
        (options.credit.as_ref().map(|(span, _)| *span), "credit"),
    ];
    for (place, name) in properties {
        if let Some(place) = place {
            errors.at_span(
                place,
                format!(
                    "`{name}` is for streams: for a method that returns an `Outgoing<T>`, or whose last argument is an `Incoming<T>`"
                ),
            );
        }
    }
}

/// Whether the items are pieces of a body, and not values.
pub(crate) fn is_bytes(item: &Type) -> bool {
    is_named(item, "Bytes")
}
