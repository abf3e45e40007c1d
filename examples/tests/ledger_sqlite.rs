//! The ledger in SQLite: the built program's own proof, and the store under a server in this process.
#![allow(missing_docs, unreachable_pub, dead_code)]

#[path = "../examples/ledger_sqlite/store.rs"]
mod store;

use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use oncewire::{
    BoxFuture, BoxStream, Client, ClientOptions, Connect, Method, Outcome, Server, Subject,
};
use smol::net::unix::UnixStream;
use store::SqliteStore;

const TABLES: &str = "CREATE TABLE IF NOT EXISTS totals (cents INTEGER CHECK (cents < 1000));
    INSERT INTO totals SELECT 0 WHERE NOT EXISTS (SELECT * FROM totals);";
/// Adds, and says what is there. The table has no room for more than 999, and 13 panics.
const ADD: Method<i64, i64> = Method::new("test/add");
/// Ends the transaction that it runs in, which is not its own.
const MEDDLE: Method<(), ()> = Method::new("test/meddle");

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let name = format!("oncewire-sqlite-test-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn server(&self) -> Server {
        let store = SqliteStore::open(&self.0.join("db"), TABLES).unwrap();
        Server::builder("test")
            .ledger(store.into_ledger())
            .transactional(&ADD, |transaction, _, cents| {
                let sql = "UPDATE totals SET cents = cents + ?1 RETURNING cents";
                let total = transaction.row(sql, [cents], |row| row.get(0))?;
                if cents == 13 {
                    std::panic::resume_unwind(Box::new("planned"));
                }
                Ok(total)
            })
            .transactional(&MEDDLE, |transaction, _, ()| {
                transaction.execute("COMMIT", [])?;
                Ok(())
            })
            .build()
            .unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A server's tasks may still have files open in it.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Dial(Server);

impl Connect for Dial {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async {
            let (ours, theirs) = UnixStream::pair()?;
            self.0.serve_stream(Box::new(theirs), Subject::Anonymous);
            Ok(Box::new(ours) as BoxStream)
        })
    }

    fn address(&self) -> String {
        "a socket pair".to_owned()
    }
}

#[test]
fn the_program_proves_itself_under_kills() {
    let test = std::env::current_exe().unwrap();
    let examples = test.parent().and_then(|deps| deps.parent()).unwrap().join("examples");
    // A hang is a failure, not a wait for ever.
    let mut command = Command::new("timeout");
    command.arg("600").arg(examples.join("ledger_sqlite")).arg("6").stdin(Stdio::null());
    let output = command.output().unwrap();
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{words}{}", String::from_utf8_lossy(&output.stderr));
    assert!(words.contains("6 kills") && words.contains("every balance is exact"), "{words}");
}

#[test]
fn calls_of_one_commit_fail_alone() {
    let folder = Folder::new("alone");
    let server = folder.server();
    smol::block_on(async {
        let client = Client::new(Dial(server.clone()), ClientOptions::default());
        let amounts = (0..64).map(|n| {
            if n % 8 == 3 {
                13
            } else if n % 8 == 5 {
                2_000
            } else {
                1
            }
        });
        let calls: Vec<_> = amounts.map(|n| (n, client.call(&ADD, &n).start())).collect();
        for (amount, call) in calls {
            match call.await {
                Outcome::Reply(_) => assert_eq!(amount, 1),
                Outcome::NotExecuted(_) => assert_ne!(amount, 1),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(client.call(&ADD, &0).await.ok(), Ok(48));
        client.close().await;
    });
    assert_eq!((server.handler_faults().rollbacks, server.handler_faults().panics), (16, 8));
}

#[test]
fn a_handler_that_ends_the_transaction_ends_the_ledger_and_is_not_answered() {
    let folder = Folder::new("meddler");
    let server = folder.server();
    smol::block_on(async {
        let client = Client::new(Dial(server.clone()), ClientOptions::default());
        assert_eq!(client.call(&ADD, &1).await.ok(), Ok(1));
        let wait = std::time::Duration::from_millis(300);
        let told = client.call(&MEDDLE, &()).timeout(wait).await;
        assert!(matches!(told, Outcome::Unknown(_, Some(_))), "{told:?}");
        // The database is asked on a thread of its own.
        while server.ledger_error().is_none() {
            smol::future::yield_now().await;
        }
        let told = client.call(&ADD, &1).await;
        assert!(matches!(told, Outcome::NotExecuted(_)), "{told:?}");
    });
}

#[test]
fn no_two_servers_use_one_database_and_its_id_stays() {
    let folder = Folder::new("twice");
    let path = folder.0.join("db");
    let first = SqliteStore::open(&path, TABLES).unwrap();
    let error = SqliteStore::open(&path, TABLES).unwrap_err().to_string();
    assert!(error.contains("another server uses"), "{error}");
    let identity = oncewire::ledger::Store::identity(&first);
    drop(first);
    let again = SqliteStore::open(&path, TABLES).unwrap();
    assert_eq!(oncewire::ledger::Store::identity(&again), identity);
}
