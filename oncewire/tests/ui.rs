//! What the compiler says of services that are none: each file in `ui` beside its messages. The macro's own messages, all of
//! them, have tests in its crate.
#![allow(missing_docs)]

#[test]
fn the_compilers_messages_are_about_what_the_user_wrote() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui/context.rs");
    cases.compile_fail("tests/ui/properties.rs");
    cases.compile_fail("tests/ui/nameless.rs");
    cases.compile_fail("tests/ui/send.rs");
    // The compiler lists the ledgers that there are. With all features of the workspace's tests, that of redb is one.
    if cfg!(feature = "redb") {
        cases.compile_fail("tests/ui/no_ledger.rs");
        cases.compile_fail("tests/ui/no_ledger_by_hand.rs");
    }
}
