//! The messages and their places, without a compiler: they do not depend on its version.

use proc_macro2::TokenStream;

use crate::errors::Errors;
use crate::{attributes, model};

/// Between the source that an error is about and its message.
const BEHIND: &str = " => ";

/// Each error's message, behind the source that it is about.
fn errors(arguments: &str, source: &str) -> Vec<String> {
    let parse = |text: &str| text.parse::<TokenStream>().expect("tokens");
    let mut errors = Errors::default();
    let options = attributes::service_options(parse(arguments), &mut errors);
    let mut definition = syn::parse2(parse(source)).expect("a trait");
    let _ = model::Service::new(&mut definition, options, &mut errors);
    let said = errors.into_error().into_iter().flatten();
    said.map(|error| {
        // Both texts begin in line 1, in column 0.
        let (start, end) = (error.span().start(), error.span().end());
        let whole = if error.to_string().contains("has no property") && start.line == 1 {
            arguments
        } else {
            source
        };
        let line = whole.lines().nth(start.line - 1).unwrap_or_default();
        let end = if end.line == start.line { end.column } else { line.len() };
        let about: String =
            line.chars().skip(start.column).take(end.saturating_sub(start.column)).collect();
        format!("{about}{BEHIND}{error}")
    })
    .collect()
}

fn method_errors(method: &str) -> Vec<String> {
    errors("name = \"s\"", &format!("trait S {{\n{method}\n}}"))
}

/// One error about these tokens, whose message contains this.
#[track_caller]
fn one(method: &str, about: &str, message: &str) {
    let said = method_errors(method);
    assert_eq!(said.len(), 1, "{said:#?}");
    let (place, text) = said[0].split_once(BEHIND).expect("a place");
    assert_eq!(place, about, "{said:#?}");
    assert!(text.contains(message), "{said:#?}");
}

#[test]
fn what_is_right_has_no_errors() {
    let said = method_errors(
        "type Transaction;
        async fn get(&self, context: Context, key: String) -> Option<Vec<u8>>;
        #[rpc(idempotent, reply_len_max = 1 << 20, time_limit = Duration::from_secs(1), name = \"x.v2\")]
        async fn x(&self, _: Context);
        #[rpc(blocking, concurrency = 4, queue_max = 8)] fn y(&self, c: Ctx, a: u8) -> u8;
        #[rpc(transactional, one_way, timeout = Duration::from_secs(1))]
        fn z(&self, t: &mut Self::Transaction, _: &Context, a: u8) -> Result<(), Rollback>;
        #[rpc(one_way, drop_on_cancel)] async fn note(&self, context: Context, text: String);",
    );
    assert_eq!(said, [] as [String; 0]);
}

#[test]
fn all_errors_are_reported_at_once() {
    let said = method_errors(
        "#[rpc(idempotant)] async fn a(&self, context: Context);
        async fn b(&self, context: Context, text: &str);
        fn c(&self, context: Context);
        async fn d(&self, context: Context, (x, y): (u8, u8), text: impl Into<String>) -> &str;
        const E: u8;",
    );
    let places: Vec<_> = said.iter().filter_map(|error| error.split_once(BEHIND)).collect();
    let places: Vec<_> = places.into_iter().map(|(place, _)| place).collect();
    assert_eq!(
        places,
        ["idempotant", "&str", "fn", "(x, y)", "impl Into<String>", "&str", "const E: u8;"],
        "{said:#?}"
    );
}

#[test]
fn properties_are_known_said_once_and_have_the_values_that_they_need() {
    one(
        "#[rpc(idempotant)] async fn a(&self, c: Context);",
        "idempotant",
        "did you mean `idempotent`?",
    );
    one("#[rpc(cached)] async fn a(&self, c: Context);", "cached", "there are idempotent, one_way");
    one(
        "#[rpc(one_way, one_way)] async fn a(&self, c: Context);",
        "one_way",
        "`one_way` is said twice",
    );
    one("#[rpc(idempotent = true)] async fn a(&self, c: Context);", "true", "takes no value");
    one("#[rpc(time_limit)] async fn a(&self, c: Context);", "time_limit", "`time_limit = …`");
    one("#[rpc(name = 5)] async fn a(&self, c: Context);", "5", "`name = \"…\"`");
    one("#[rpc(\"x.v2\")] async fn a(&self, c: Context);", "\"x.v2\"", "`name = \"x.v2\"`");
    one("#[rpc(name = \"\")] async fn a(&self, c: Context);", "\"\"", "not empty");
}

#[test]
fn properties_that_exclude_each_other_say_why() {
    let transactional = |properties: &str| {
        format!(
            "#[rpc(transactional, {properties})]
            fn a(&self, t: &mut Self::Transaction, c: &Context) -> Result<u8, Rollback>;"
        )
    };
    one(&transactional("idempotent"), "idempotent", "what has a record does not run twice");
    for property in ["time_limit = T", "concurrency = 1", "queue_max = 1"] {
        let name = property.split(' ').next().expect("a name");
        one(&transactional(property), name, "no effect on a transactional method");
    }
    one(&transactional("blocking"), "blocking", "no effect on a transactional method");
    one(
        "#[rpc(one_way, reply_len_max = 9)] async fn a(&self, c: Context);",
        "reply_len_max",
        "has no reply",
    );
    one("#[rpc(one_way)] async fn a(&self, c: Context) -> u8;", "-> u8", "let it return nothing");
}

#[test]
fn streams_say_what_they_cannot_be() {
    let said = method_errors(
        "async fn read(&self, c: Context, name: String) -> Outgoing<Bytes>;
        #[rpc(resumable, chunk_len = 9, credit = 2)]
        async fn tail(&self, c: Context, from: u64, name: String) -> stream::Outgoing<Vec<u8>>;
        #[rpc(resumable, reply_len_max = 9, name = \"write.v2\")]
        async fn write(&self, c: Context, name: String, items: Incoming<Bytes>) -> u64;
        async fn keep(&self, c: Context, items: Incoming<u8>) -> stream::Commit<Self::Transaction, u8>;",
    );
    assert_eq!(said, [] as [String; 0]);
    let properties = "idempotent one_way transactional blocking drop_on_cancel";
    for name in properties.split(' ') {
        let read = format!("#[rpc({name})] async fn a(&self, c: Context) -> Outgoing<u8>;");
        let said = method_errors(&read);
        let wanted = format!("{name}{BEHIND}a method that sends a stream is not `{name}`");
        assert!(said.iter().any(|error| error.starts_with(&wanted)), "{said:#?}");
    }
    one(
        "#[rpc(time_limit = T)] async fn a(&self, c: Context, i: Incoming<u8>) -> u8;",
        "time_limit",
        "a method that takes a stream is not `time_limit`",
    );
    one(
        "#[rpc(timeout = T)] async fn a(&self, c: Context) -> Outgoing<u8>;",
        "timeout",
        "each one that is opened",
    );
    one(
        "#[rpc(transactional)] async fn a(&self, c: Context, i: Incoming<u8>) -> u8;",
        "transactional",
        "returns a `Commit<Self::Transaction, R>`",
    );
    one(
        "async fn a(&self, c: Context, i: Incoming<u8>) -> Commit<X, &str>;",
        "&str",
        "`String` instead of `&str`",
    );
    one(
        "#[rpc(reply_len_max = 1)] async fn a(&self, c: Context) -> Outgoing<u8>;",
        "reply_len_max",
        "`chunk_len` is the length of an item at most",
    );
    one(
        "async fn a(&self, c: Context, i: Incoming<u8>) -> Outgoing<u8>;",
        "Incoming<u8>",
        "sends a stream or takes one",
    );
    one("async fn a(&self, c: Context, i: Incoming<u8>, n: u8);", "Incoming<u8>", "comes last");
    one(
        "#[rpc(resumable)] async fn a(&self, c: Context, n: String) -> Outgoing<u8>;",
        "String",
        "begins with `&self, context: Context, from: u64`",
    );
    one(
        "#[rpc(resumable)] async fn a(&self, c: Context) -> Outgoing<u8>;",
        "resumable",
        "begins with `&self, context: Context, from: u64`",
    );
    one("#[rpc(credit = 2)] async fn a(&self, c: Context);", "credit", "`credit` is for streams");
    one("async fn a(&self, c: Context) -> Outgoing<&str>;", "&str", "`String` instead of `&str`");
}

#[test]
fn a_method_begins_as_its_kind_does() {
    let begins = "A method begins with `&self, context: Context`";
    one("async fn a();", "a", begins);
    one("async fn a(&self);", "a", begins);
    one("async fn a(self, c: Context);", "self", begins);
    one("async fn a(&mut self, c: Context);", "&mut self", begins);
    one("async fn a(c: Context);", "c: Context", begins);
    one("async fn a(&self, c: &Context);", "&Context", "the context is owned");
    let begins = "begins with `&self, transaction: &mut Self::Transaction, context: &Context`";
    let transactional =
        |rest: &str| format!("#[rpc(transactional)] fn a({rest}) -> Result<u8, R>;");
    one(&transactional("&self"), "a", begins);
    one(&transactional("&self, t: Self::T, c: &Context"), "Self::T", begins);
    one(
        &transactional("&self, t: &mut Self::T, c: Context"),
        "Context",
        "the context is a `&Context`",
    );
}

#[test]
fn the_function_is_async_unless_it_blocks_or_is_transactional() {
    one("fn a(&self, c: Context);", "fn", "write `async fn`; or `#[rpc(blocking)]`");
    one("#[rpc(blocking)] async fn a(&self, c: Context);", "async", "a plain `fn`");
    one(
        "#[rpc(transactional)] async fn a(&self, t: &mut T, c: &Context) -> Result<u8, R>;",
        "async",
        "a plain `fn`",
    );
}

#[test]
fn types_are_the_same_for_every_client_and_owned() {
    one("async fn a<T>(&self, c: Context, t: T);", "<T>", "a method is not generic");
    one("async fn a<'a>(&self, c: Context);", "<'a>", "need no lifetime");
    one("async fn a(&self, c: Context, t: &str);", "&str", "`String` instead of `&str`");
    one("async fn a(&self, c: Context, t: &[u8]);", "&[u8]", "`Vec<T>` instead of `&[T]`");
    one("async fn a(&self, c: Context, t: Vec<&str>);", "&", "nothing in it is borrowed");
    one("async fn a(&self, c: Context, t: (Cow<'_, str>, u8));", "'_", "nothing in it is borrowed");
    one("async fn a(&self, c: Context) -> Option<&'static str>;", "&", "a reply is owned");
    assert_eq!(method_errors("async fn a(&self, c: C) -> Cow<'static, str>;"), [] as [String; 0]);
    one("async fn a(&self, c: Context) -> impl Into<u8>;", "impl Into<u8>", "a reply has one type");
    one("async fn a(&self, c: Context, t: Vec<Self>);", "Self", "name it");
    one("async fn a(&self, c: Context, _: u8);", "_", "a plain name");
    let seventeen: String = (0..17).map(|n| format!(", a{n}: u8")).collect();
    one(&format!("async fn a(&self, c: Context{seventeen});"), "a16", "at most 16 arguments");
    one("async unsafe fn a(&self, c: Context);", "unsafe", "no `unsafe fn`");
}

#[test]
fn a_trait_is_not_generic_and_has_methods_only() {
    let said = errors("name = \"s\"", "trait S<T> { async fn a(&self, c: Context, t: T); }");
    assert_eq!(said.len(), 1, "{said:#?}");
    assert!(said[0].starts_with("<T> => a service is not generic"), "{said:#?}");
    one("type Other;", "type Other;", "`type Transaction;` if some are transactional");
}

#[test]
fn two_methods_have_two_names() {
    one(
        "#[rpc(name = \"b\")] async fn a(&self, c: Context);
        async fn b(&self, c: Context);",
        "b",
        "`s/b` is the name of `a` too",
    );
    one(
        "async fn a(&self, c: Context);
        #[rpc(name = \"b\")] async fn A(&self, c: Context);",
        "A",
        "the constant `A` is the name of `a` too",
    );
    let said = method_errors(
        "#[cfg(x)] async fn a(&self, c: Context);
        #[cfg(not(x))] async fn a(&self, c: Context) -> u8;",
    );
    assert_eq!(said, [] as [String; 0]);
}

#[test]
fn conditions_are_for_whole_methods() {
    let twice = "write the method twice";
    let conditional = "#[cfg_attr(x, rpc(idempotent))]";
    one(&format!("{conditional} async fn a(&self, c: Context);"), conditional, twice);
    one("async fn a(&self, c: Context, #[cfg(x)] n: u8);", "#[cfg(x)]", "write it twice");
}

#[test]
fn a_service_has_a_name() {
    let said = errors("", "trait S {}");
    assert!(said[0].contains("`#[service(name = \"…\")]`"), "{said:#?}");
    let said = errors("nme = \"s\"", "trait S {}");
    assert_eq!(said, ["nme => a service has no property `nme`: did you mean `name`?"]);
    let said = errors("name = \"s\", crate = 5", "trait S {}");
    assert!(said[0].contains("`crate = oncewire_tcp`"), "{said:#?}");
}

#[test]
fn the_trait_stays_and_so_does_what_is_right_in_it() {
    let source =
        "pub trait S { fn a(&self, c: Context); #[rpc(oops)] async fn b(&self, c: Context); }";
    let parse = |text: &str| text.parse::<TokenStream>().expect("tokens");
    let generated = crate::service_tokens(parse("name = \"s\""), parse(source)).to_string();
    let file: syn::File = syn::parse_str(&generated).expect("items");
    let is_trait =
        |item: &syn::Item| matches!(item, syn::Item::Trait(kept) if kept.items.len() == 2);
    assert!(file.items.iter().any(is_trait), "{generated}");
    assert!(!generated.contains("# [rpc"), "{generated}");
    assert!(generated.contains("compile_error"), "{generated}");
    assert!(generated.contains("const B"), "{generated}");
    assert!(!generated.contains("const A"), "{generated}");
    let item = "impl S { #[rpc(idempotent)] async fn a(&self) {} }";
    let kept = crate::service_tokens(parse("name = \"s\""), parse(item)).to_string();
    assert!(kept.starts_with("impl S { async fn a (& self) { } }"), "{kept}");
    assert!(kept.contains("compile_error") && !kept.contains("# [rpc"), "{kept}");
}

#[test]
fn a_service_without_its_name_is_generated_as_well() {
    let parse = |text: &str| text.parse::<TokenStream>().expect("tokens");
    for arguments in ["", "\"bank\"", "nme = \"bank\"", "name = 5", "nonsense nonsense"] {
        let source = "trait Bank { async fn a(&self, c: Context); }";
        assert_eq!(errors(arguments, source).len(), 1, "{arguments}");
        let generated = crate::service_tokens(parse(arguments), parse(source)).to_string();
        assert!(generated.contains("struct BankClient"), "{arguments}: {generated}");
        assert!(generated.contains("\"bank/a\""), "{arguments}: {generated}");
    }
    let said = errors("\"bank\", crate = oncewire_tcp", "trait Bank {}");
    assert_eq!(said.len(), 1, "{said:#?}");
    assert!(said[0].contains("`name = \"bank\"`"), "{said:#?}");
}

#[test]
fn a_property_that_is_nearly_right_is_one_error() {
    one(
        "#[rpc(transactonal)] fn a(&self, t: &mut Self::T, c: &Context) -> Result<u8, R>;",
        "transactonal",
        "did you mean `transactional`?",
    );
    one("#[rpc(blockng)] fn a(&self, c: Context);", "blockng", "did you mean `blocking`?");
    one("#[rpc(transactional idempotent)] fn a(&self);", "idempotent", "expected `,`");
}
