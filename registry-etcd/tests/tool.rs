//! What the tool says of a ledger in etcd, and does to it.
#![cfg(unix)]
#![allow(missing_docs)]

mod util;

use std::process::Command;
use std::time::Duration;

use oncewire_driver::ledger::Rollback;
use oncewire_driver::protocol::Xid;
use oncewire_driver::{CallFailure, Client, ClientOptions, Method, Server, SessionTag};
use oncewire_etcd::ledger::tool::{self, CallFound};
use oncewire_etcd::ledger::{EtcdLedger, Transaction};
use oncewire_etcd::{Etcd, Registry};
use oncewire_tcp::TcpAcceptor;
use util::*;

/// Transactional: writes a value, and returns the one before. Rolls back what is empty.
const PUT: Method<String, Option<String>> = Method::new("test/put");

fn put(transaction: &mut Transaction, value: String) -> Result<Option<String>, Rollback> {
    if value.is_empty() {
        return Err(Rollback::new("an empty value"));
    }
    let before = transaction.get("value").map(String::from_utf8).transpose()?;
    transaction.put("value", value)?;
    Ok(before)
}

/// Registered under the ledger's name.
async fn serve(registry: &Registry) -> (Server, oncewire_etcd::Registration) {
    let ledger = EtcdLedger::open(registry, "kv").await.unwrap();
    let builder = Server::builder("test").ledger(ledger);
    let server = builder.transactional(&PUT, |tx: &mut Transaction, _, value| put(tx, value));
    let server = server.build().unwrap();
    let acceptor = TcpAcceptor::bind("127.0.0.1:0").await.unwrap();
    let address = acceptor.local_addr().to_string();
    let registration = registry.register(&server, "kv", &address).unwrap();
    let serving = server.clone();
    smol::spawn(async move { serving.serve(acceptor).await }).detach();
    (server, registration)
}

fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let program = env!("CARGO_BIN_EXE_oncewire-etcd-ledger");
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[test]
fn the_tool_says_what_is_in_a_ledger_in_etcd_and_makes_a_restored_one_another_servers() {
    let Some(cluster) = Cluster::start(1) else { return };
    let endpoint = cluster.endpoint(0);
    let registry = Registry::new(Etcd::builder([&endpoint]).build().unwrap());
    let (status, error) = run(&["inspect", &endpoint, "kv"]);
    assert!(status == Some(1) && error.contains("no ledger \"kv\""), "{error}");
    smol::block_on(async {
        let (first, registration) = serve(&registry).await;
        let options = ClientOptions::default().with_slots(1);
        let client = Client::new(registry.connector("kv").unwrap(), options.clone());
        assert_eq!(client.call(&PUT, &"a".to_owned()).await.ok(), Ok(None));
        let refused = client.call(&PUT, &String::new()).result().await.unwrap_err();
        assert!(matches!(refused.failure(), CallFailure::NotExecuted(_)));
        let session = refused.report().unwrap().session.unwrap();
        // While a server has it.
        let found = tool::inspect(&registry, "kv").await.unwrap();
        assert_eq!((found.server, found.in_use, found.sessions), (first.id(), true, 1));
        assert_eq!((found.done, found.keys, found.broken), (1, 1, 0));
        let look_up = async |session, xid| {
            tool::call(&registry, "kv", session, Xid::new(xid).unwrap()).await.unwrap()
        };
        assert!(
            matches!(look_up(session, 1).await, CallFound::Done { reply_len } if reply_len > 0)
        );
        assert_eq!(look_up(session, 2).await, CallFound::NoRecord, "it was rolled back");
        let stranger = SessionTag::from_number(session.number() ^ 1);
        assert_eq!(look_up(stranger, 1).await, CallFound::NoSession);
        let said = run(&["call", &endpoint, "kv", &session.to_string(), "1"]).1;
        assert!(said.contains("a reply of"), "{said}");
        assert!(run(&["inspect", &endpoint, "kv"]).1.contains("sessions      1"));
        assert!(run(&["verify", &endpoint, "kv"]).1.contains("nothing is broken"));
        let (status, error) = run(&["restore", &endpoint, "kv"]);
        assert!(status == Some(1) && error.contains("in use by"), "{error}");

        drop(registration);
        first.drain(Duration::ZERO).await;
        let before = first.id();
        drop((first, client));
        // What is left of the server lets go of the ledger.
        while let (Some(1), error) = run(&["restore", &endpoint, "kv"]) {
            assert!(error.contains("in use by"), "{error}");
        }
        let found = tool::verify(&registry, "kv").await.unwrap();
        assert_ne!(found.server, before);
        assert_eq!((found.sessions, found.done, found.keys), (0, 0, 1));
        assert_eq!(look_up(session, 1).await, CallFound::NoSession);
        let (second, _registration) = serve(&registry).await;
        assert_eq!(second.id(), found.server);
        let client = Client::new(registry.connector("kv").unwrap(), options);
        let kept = client.call(&PUT, &"b".to_owned()).await.ok();
        assert_eq!(kept, Ok(Some("a".to_owned())), "the keys stay");
        client.close().await;
    });
    // A record that was damaged, and command lines that cannot be.
    let folder = "oncewire/ledgers/kv/s/0123456789abcdef0123456789abcdef";
    cluster.ctl(&["put", folder, "no session"]).unwrap();
    let (status, error) = run(&["verify", &endpoint, "kv"]);
    assert!(status == Some(1) && error.contains("1 of its records"), "{error}");
    for (arguments, reason) in [
        (["inspect", "no-port", "kv", "--prefix=a/"], "host:port"),
        (["inspect", &endpoint, "a/b", "--prefix=a/"], "no `/`"),
        (["inspect", &endpoint, "kv", "--user=bert"], "ETCD_PASSWORD"),
    ] {
        let (status, error) = run(&arguments);
        assert!(status == Some(2) && error.contains(reason), "{arguments:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}
