//! What the tool says of a ledger, and does to it.
#![cfg(unix)]
#![allow(missing_docs)]

mod util;

use std::process::Command;
use std::sync::Arc;

use oncewire_driver::protocol::Xid;
use oncewire_driver::{CallFailure, Client, ClientOptions, SessionTag};
use oncewire_ledger_postgres::tool::{self, CallFound};
use util::*;

fn run(arguments: &[&str]) -> (bool, String) {
    let program = env!("CARGO_BIN_EXE_oncewire-ledger-postgres");
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[test]
fn c292_a_restored_database_is_another_servers_ledger() {
    let Some(cluster) = shared() else { return };
    let (connection, place, runs) = (cluster.database(), Place::default(), Arc::default());
    let first = open(&connection, &runs);
    place.set(Some(first.clone()));
    smol::block_on(async {
        let client = Client::new(place.clone(), ClientOptions::default().with_slots(1));
        assert_eq!(client.call(&PAY, &(1, 100)).await.ok(), Ok(100));
        let refused = client.call(&STATEMENT, &"COMMIT".to_owned()).result().await.unwrap_err();
        assert!(matches!(refused.failure(), CallFailure::NotExecuted(_)));
        let session = refused.report().unwrap().session.unwrap();
        // While a server has it.
        let found = tool::inspect(&options(&connection)).unwrap();
        assert_eq!((found.server, found.sessions, found.done, found.broken), (first.id(), 1, 1, 0));
        let look_up = |session, xid| {
            tool::call(&options(&connection), session, Xid::new(xid).unwrap()).unwrap()
        };
        assert!(matches!(look_up(session, 1), CallFound::Done { reply_len } if reply_len > 0));
        assert_eq!(look_up(session, 2), CallFound::NoRecord, "it was rolled back");
        let stranger = SessionTag::from_number(session.number() ^ 1);
        assert_eq!(look_up(stranger, 1), CallFound::NoSession);
        assert!(run(&["inspect", &connection]).1.contains("sessions      1"));
        assert!(run(&["verify", &connection]).1.contains("nothing is broken"));
        let (is_done, error) = run(&["restore", &connection]);
        assert!(!is_done && error.contains("in use by"), "{error}");

        place.set(None);
        place.cut();
        // What is written to a connection that is gone may have left.
        while client.status().connected {
            smol::future::yield_now().await;
        }
        first.drain(std::time::Duration::ZERO).await;
        drop(first);
        // Its tasks let go of the ledger within a second.
        while let (false, error) = run(&["restore", &connection]) {
            assert!(error.contains("in use by"), "{error}");
        }
        let second = open(&connection, &runs);
        assert_ne!(second.id(), found.server);
        place.set(Some(second.clone()));
        assert_eq!(client.call(&PAY, &(1, 1)).await.ok(), Ok(101), "the tables stay");
        assert_eq!(second.counters().resumes, 0, "in another session");
        assert_eq!(look_up(session, 1), CallFound::NoSession);
        client.close().await;
    });
    let (is_done, error) = run(&["inspect", "host=/nowhere/at/all user=a dbname=b"]);
    assert!(!is_done && error.lines().count() == 1, "{error}");
}
