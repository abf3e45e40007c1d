//! The driver's own run of the cases that every transport must show, over pairs of sockets.
#![allow(missing_docs)]

#[path = "util/socket_pair.rs"]
mod socket_pair;

use std::io;

use oncewire_driver::BoxFuture;
use oncewire_driver::conformance::{Endpoint, Fixture};
use socket_pair::link;

struct SocketPair;

impl Fixture for SocketPair {
    fn bind(&self) -> BoxFuture<'_, io::Result<Endpoint>> {
        let (dialler, listener) = link();
        Box::pin(async { Ok(Endpoint::new(dialler, listener)) })
    }
}

oncewire_driver::conformance_tests!(SocketPair);

#[test]
fn every_case_of_the_suite_is_listed_in_its_macro() {
    let source = |path: &str| {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(path);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let list = source("conformance.rs");
    for module in [
        "bad_input",
        "connections",
        "duplicates",
        "futures",
        "large",
        "restarts",
        "sessions",
        "streams",
        "time",
    ] {
        for line in source(&format!("conformance/{module}.rs")).lines() {
            let Some(rest) = line.strip_prefix("pub async fn ") else { continue };
            let case = rest.split('(').next().unwrap();
            assert!(list.contains(&format!("                {case},\n")), "{module}::{case}");
        }
    }
}
