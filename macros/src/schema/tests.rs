//! The messages and their places.

use proc_macro2::TokenStream;

/// The errors about this type.
fn errors(source: &str) -> String {
    let tokens: TokenStream = source.parse().expect("tokens");
    let derived = super::derive(tokens).to_string();
    if derived.contains("compile_error") { derived } else { String::new() }
}

/// The description of this type, without spaces.
fn derived(source: &str) -> String {
    assert_eq!(errors(source), "");
    let tokens: TokenStream = source.parse().expect("tokens");
    super::derive(tokens).to_string().replace(' ', "")
}

#[track_caller]
fn one(source: &str, message: &str) {
    let said = errors(source);
    assert_eq!(said.matches("compile_error").count(), 1, "{said}");
    assert!(said.contains(message), "{said}");
}

#[test]
fn what_postcard_cannot_carry_is_an_error_that_says_why() {
    one("#[serde(untagged)] enum A { B(u8) }", "which variant it is");
    one("#[serde(tag = \"t\")] enum A { B(u8) }", "the variant's number");
    one("struct A { #[serde(flatten)] b: B }", "a field of its own");
    one(
        "struct A { #[serde(skip_serializing_if = \"Option::is_none\")] b: Option<u8> }",
        "write it always",
    );
    one("struct A { #[serde(skip_serializing)] b: u8 }", "use `skip`");
    one("enum A { B, #[serde(skip)] C, D }", "shifts the numbers");
    one("enum A { B, #[serde(other)] C }", "leave `other` out");
    one("struct A { #[serde(with = \"hex\")] b: [u8; 4] }", "#[schema(as = String)]");
    one("struct A<'a> { b: &'a str }", "is owned");
    one("struct A(#[serde(skip)] u8, u8);", "fields with names");
    one("struct A();", "empty parentheses");
    one("union A { a: u8 }", "a union");
    one("struct A { #[serde(rename(serialize = \"a\", deserialize = \"b\"))] b: u8 }", "the same");
    one("#[serde(rename_all = \"Camel\")] struct A { b: u8 }", "no such case");
    one("#[serde(from = \"u8\")] struct A { b: u8 }", "read as one type");
    one("#[serde(news)] struct A { b: u8 }", "not known");
    one("enum A { #[schema(as = String)] B(C) }", "say it of its fields");
    one("struct A { b: u8, #[serde(rename = \"b\")] c: u8 }", "`b` is the name of another");
    one("#[serde(rename_all = \"lowercase\")] enum A { Bc, BC }", "`bc` is the name of another");
    one("#[schema(like = u8)] struct A { b: u8 }", "`as = …`");
}

#[test]
fn all_errors_are_reported_at_once() {
    let said = errors(
        "#[serde(tag = \"t\", content = \"c\")]
        enum A { #[serde(skip)] B, C { #[serde(flatten)] d: D } }",
    );
    assert_eq!(said.matches("compile_error").count(), 4, "{said}");
}

#[test]
fn what_does_not_change_the_wire_is_no_error() {
    let derived = derived(
        "#[serde(deny_unknown_fields, bound(serialize = \"T: Copy\"), rename = \"B\")]
        #[schema(crate = other)]
        struct A<T> { #[serde(default, alias = \"c\")] b: T, #[serde(skip)] d: Cache }",
    );
    assert!(
        derived.contains("implT:other::Schema>other::SchemaforA<T>")
            || derived.contains("impl<T:other::Schema>other::SchemaforA<T>"),
        "{derived}"
    );
    assert!(derived.contains("name:\"B\""), "{derived}");
    assert!(!derived.contains("Cache"), "{derived}");
}

#[test]
fn names_are_those_that_serde_writes() {
    let cases = [
        ("lowercase", "twowords", "two_words"),
        ("UPPERCASE", "TWOWORDS", "TWO_WORDS"),
        ("PascalCase", "TwoWords", "TwoWords"),
        ("camelCase", "twoWords", "twoWords"),
        ("snake_case", "two_words", "two_words"),
        ("SCREAMING_SNAKE_CASE", "TWO_WORDS", "TWO_WORDS"),
        ("kebab-case", "two-words", "two-words"),
        ("SCREAMING-KEBAB-CASE", "TWO-WORDS", "TWO-WORDS"),
    ];
    for (case, variant, field) in cases {
        let derived = derived(&format!(
            "#[serde(rename_all = \"{case}\", rename_all_fields = \"{case}\")]
            enum A {{ TwoWords {{ two_words: u8, #[serde(rename = \"x\")] r#y: u8 }}, #[serde(rename = \"Z\")] Other }}"
        ));
        for name in [variant, field, "x", "Z"] {
            assert!(derived.contains(&format!("name:\"{name}\"")), "{case}: {derived}");
        }
    }
}

#[test]
fn a_type_that_is_written_as_another_is_described_as_that() {
    for source in [
        "#[serde(try_from = \"String\", into = \"String\")] struct A { b: u8 }",
        "#[schema(as = String)] struct A { b: u8 }",
    ] {
        let derived = derived(source);
        assert!(derived.contains("TYPE:::oncewire::schema::Type=<Stringas"), "{derived}");
    }
    let derived = derived("#[serde(transparent)] struct A { b: u8, c: PhantomData<u8> }");
    assert!(derived.contains("Unnamed(&[<u8as"), "{derived}");
}
