//! Databases that cannot hold a ledger, or not any more: an error that says what and what to do.
#![cfg(unix)]
#![allow(missing_docs)]

mod util;

use std::sync::Arc;

use oncewire_driver::ledger::Ledger;
use oncewire_driver::{Client, ClientOptions, NotExecuted, Outcome};
use oncewire_ledger_postgres::postgres::error::SqlState;
use oncewire_ledger_postgres::{PostgresOptions, SqlError};
use util::*;

#[test]
fn a_new_ledger_has_a_server_id_that_stays() {
    let Some(cluster) = shared() else { return };
    let connection = cluster.database();
    let first = options(&connection).open().unwrap().identity();
    assert_eq!(options(&connection).open().unwrap().identity(), first);
    let other = options(&cluster.database()).open().unwrap().identity();
    assert_ne!(other.server, first.server);
}

#[test]
fn c286_who_uses_a_ledger_is_named_and_a_stand_by_waits_for_it() {
    let Some(cluster) = shared() else { return };
    let connection = cluster.database();
    let first = options(&connection).open().unwrap();
    let error = refused(options(&connection));
    assert!(
        error.contains("in use by the connection with pid") && error.contains("oncewire ledger"),
        "{error}"
    );
    // A second one in a schema of its own is another ledger.
    connect(&connection).batch_execute("CREATE SCHEMA other").unwrap();
    let beside = options(&format!("{connection} options=-csearch_path=other"));
    drop(beside.try_open().unwrap());
    let stand_by = options(&connection);
    let waits = std::thread::spawn(move || stand_by.open().unwrap().identity());
    let mut admin = cluster.admin();
    let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    while admin.query_one(waiting, &[]).unwrap().get::<_, i64>(0) == 0 {
        std::thread::yield_now();
    }
    let identity = first.identity();
    drop(first);
    assert_eq!(waits.join().unwrap(), identity);
}

#[test]
fn two_that_come_first_at_once_make_one_ledger() {
    let Some(cluster) = shared() else { return };
    let connection = cluster.database();
    let open = || {
        let options = options(&connection);
        std::thread::spawn(move || options.open().unwrap().identity().server)
    };
    let threads = [open(), open(), open()];
    let ids = threads.map(|thread| thread.join().unwrap());
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

#[test]
fn c287_databases_that_cannot_be_used_are_refused_with_what_to_do() {
    let Some(cluster) = shared() else { return };
    let connection = cluster.database();
    drop(options(&connection).open().unwrap());
    let mut beside = connect(&connection);

    let missing = refused(options(&cluster.connection("nowhere")));
    assert!(missing.contains("create the database"), "{missing}");
    let unreachable = refused(options("host=/nowhere/at/all user=a dbname=b"));
    assert!(unreachable.contains("there is no database there"), "{unreachable}");
    let wrong = PostgresOptions::new("host=localhost port=many").unwrap_err().to_string();
    assert!(wrong.contains("connection string"), "{wrong}");

    beside.batch_execute("CREATE ROLE guarded LOGIN PASSWORD 'right'").unwrap();
    let wrong = connection.replace("user=postgres", "user=guarded password=wrong");
    let error = refused(options(&wrong));
    assert!(
        error.contains("check the user and the password") && !error.contains("wrong dbname"),
        "{error}"
    );
    let right = connection.replace("user=postgres", "user=guarded password=right");
    let error = refused(options(&right));
    assert!(error.contains("42501"), "{error}");

    let read_only = format!("{connection} options=-cdefault_transaction_read_only=on");
    assert!(refused(options(&read_only)).contains("takes no writes"));

    beside.batch_execute("UPDATE oncewire_server SET format = 7").unwrap();
    let later = refused(options(&connection));
    assert!(later.contains("has format 7") && later.contains("use the version"), "{later}");
    beside.batch_execute("UPDATE oncewire_server SET format = 2").unwrap();
    drop(options(&connection).open().unwrap());

    beside.batch_execute("ALTER TABLE oncewire_calls RENAME TO gone").unwrap();
    let lost = refused(options(&connection));
    assert!(lost.contains("of its 3 tables only 2 are there"), "{lost}");
    beside
        .batch_execute("ALTER TABLE gone RENAME TO oncewire_calls; DELETE FROM oncewire_server")
        .unwrap();
    let lost = refused(options(&connection));
    assert!(lost.contains("oncewire_server has no row"), "{lost}");
}

#[test]
fn a_record_that_cannot_be_decoded_keeps_the_server_from_starting() {
    let Some(cluster) = shared() else { return };
    let (connection, place) = (cluster.database(), Place::default());
    let first = open(&connection, &Arc::default());
    place.set(Some(first));
    smol::block_on(async {
        let client = Client::new(place.clone(), ClientOptions::default());
        assert_eq!(client.call(&PAY, &(1, 1)).await.ok(), Ok(1));
        let mut beside = connect(&connection);
        beside
            .batch_execute("UPDATE oncewire_calls SET record = record || '\\x00'::bytea, xid = 77")
            .unwrap();
        let ledger = options(&connection).take_over().unwrap();
        let built = oncewire_driver::Server::builder("test").ledger(ledger).build();
        let error = built.unwrap_err().to_string();
        assert!(error.contains("a call in it cannot be decoded"), "{error}");
        place.set(None);
    });
}

#[test]
fn reads_write_nothing_and_survive_the_end_of_their_connection() {
    let Some(cluster) = shared() else { return };
    let connection = cluster.database();
    let ledger = options(&connection).with_readers_max(1).open().unwrap();
    let reads = ledger.reads();
    let count = "SELECT * FROM customers WHERE id = $1";
    assert_eq!(reads.query(count, &[&1]).unwrap().len(), 1);
    let error = reads.query("INSERT INTO customers VALUES (1000)", &[]).unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::READ_ONLY_SQL_TRANSACTION), "{error}");
    let mut beside = connect(&connection);
    let end = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity \
               WHERE application_name = 'oncewire reads' AND datname = current_database()";
    assert_eq!(beside.query(end, &[]).unwrap().len(), 1);
    assert_eq!(reads.query(count, &[&1]).unwrap().len(), 1, "on another connection");
    // The statement is prepared, and its table changes.
    beside.batch_execute("ALTER TABLE customers ADD COLUMN name text").unwrap();
    assert_eq!(reads.query_one(count, &[&1]).unwrap().len(), 2);
    // More threads than connections: each has its turn.
    let threads = [1, 2, 3, 4].map(|id| {
        let reads = reads.clone();
        std::thread::spawn(move || (0..20).all(|_| reads.query_one(count, &[&id]).is_ok()))
    });
    assert!(threads.into_iter().all(|thread| thread.join().unwrap()));
    assert!(matches!(reads.query_one(count, &[&1000]), Err(SqlError::RowCount(0))));
}

/// What a call of each kind ends as while the ledger's commits fail, and how the server says why; then all continues at the next
/// server, where nothing has run that was not answered, or is.
fn fails_and_goes_on(cluster: &Cluster, break_it: &str, mend_it: &str, says: &str) {
    let (connection, place, runs) = (cluster.database(), Place::default(), Arc::default());
    let old = open(&connection, &runs);
    place.set(Some(old.clone()));
    let mut beside = connect(&connection);
    smol::block_on(async {
        let client = Client::new(place.clone(), ClientOptions::default());
        assert_eq!(client.call(&PAY, &(1, 100)).await.ok(), Ok(100));
        beside.batch_execute(break_it).unwrap();
        let mut in_doubt = client.call(&PAY, &(1, 1)).start();
        until_it_fails(&old, &mut in_doubt).await;
        for _ in 0..2 {
            let refused = client.call(&COUNT, &()).await;
            assert!(
                matches!(refused, Outcome::NotExecuted(NotExecuted::LedgerFailed)),
                "{refused:?}"
            );
        }
        let error = old.ledger_error().expect("it is loud").to_string();
        assert!(error.contains(says), "{error}");
        beside.batch_execute(mend_it).unwrap();
        let next = open(&connection, &runs);
        place.set(Some(next.clone()));
        place.cut();
        assert_eq!(in_doubt.await.ok(), Ok(101), "{break_it}");
        assert_eq!(client.call(&BALANCE, &1).await.ok(), Ok(101));
        assert_eq!(next.counters().resumes, 1);
        client.close().await;
    });
}

const FULL: &str = "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS \
    $$BEGIN RAISE 'no space left on device' USING ERRCODE = '53100'; END$$;";

#[test]
fn c288_a_full_disk_stops_the_server_from_answering_at_a_record_or_in_a_handler() {
    let Some(cluster) = shared() else { return };
    for table in ["oncewire_calls", "accounts"] {
        let fill = format!(
            "{FULL} CREATE TRIGGER f BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION full_disk()"
        );
        let room = format!("DROP TRIGGER f ON {table}; DROP FUNCTION full_disk");
        fails_and_goes_on(cluster, &fill, &room, "its disk is full");
    }
}

#[test]
fn c288_a_connection_that_is_lost_stops_the_server_from_answering() {
    let Some(cluster) = shared() else { return };
    let end = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity \
               WHERE application_name = 'oncewire ledger' AND datname = current_database()";
    fails_and_goes_on(cluster, end, "", "the connection was lost");
}

#[test]
fn c288_records_that_went_back_stop_the_server_from_answering() {
    let Some(cluster) = shared() else { return };
    let back = "UPDATE oncewire_server SET commit_number = commit_number - 1";
    fails_and_goes_on(cluster, back, "", "another server has taken over");
}
