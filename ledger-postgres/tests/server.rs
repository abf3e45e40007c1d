//! Servers on a real database: what is durable when, what is there after a crash, and who may write it.
#![cfg(unix)]
#![allow(missing_docs)]

mod util;

use std::sync::Arc;
use std::time::Duration;

use oncewire_driver::{Client, ClientOptions, NotExecuted, Outcome};
use util::*;

#[test]
fn what_was_answered_is_answered_alike_by_the_next_server_in_the_same_session() {
    let Some(cluster) = shared() else { return };
    let (connection, place, runs) = (cluster.database(), Place::default(), Arc::default());
    let before = open(&connection, &runs);
    place.set(Some(before.clone()));
    smol::block_on(async {
        let client = Client::new(place.clone(), ClientOptions::default());
        assert_eq!(client.call(&PAY, &(1, 100)).await.ok(), Ok(100));
        assert_eq!(client.call(&COUNT, &()).await.ok(), Ok(1));
        // The first one still runs, as far as it knows.
        let after = server(options(&connection).take_over().unwrap(), &runs);
        assert_eq!(after.id(), before.id());
        place.set(Some(after.clone()));
        place.cut();
        assert_eq!(client.call(&PAY, &(1, 1)).await.ok(), Ok(101));
        assert_eq!(client.call(&BALANCE, &1).await.ok(), Ok(101));
        assert_eq!(client.call(&COUNT, &()).await.ok(), Ok(2));
        assert_eq!(after.counters().resumes, 1, "the session survived");
        client.close().await;
    });
}

#[test]
fn c281_a_server_that_was_replaced_commits_nothing_and_answers_nothing() {
    let Some(cluster) = shared() else { return };
    let (connection, place, runs) = (cluster.database(), Place::default(), Arc::default());
    let old = open(&connection, &runs);
    place.set(Some(old.clone()));
    let mut beside = connect(&connection);
    smol::block_on(async {
        let client = Client::new(place.clone(), ClientOptions::default());
        assert_eq!(client.call(&PAY, &(1, 100)).await.ok(), Ok(100));
        // As the next server does, but this one's connection lives: no lock, only the number keeps it away.
        beside.execute("UPDATE oncewire_server SET epoch = epoch + 1", &[]).unwrap();
        let mut in_doubt = client.call(&PAY, &(1, 1)).start();
        until_it_fails(&old, &mut in_doubt).await;
        let refused = client.call(&PAY, &(1, 1)).await;
        assert!(matches!(refused, Outcome::NotExecuted(NotExecuted::LedgerFailed)), "{refused:?}");
        let error = old.ledger_error().expect("it says so").to_string();
        assert!(error.contains("another server has taken over"), "{error}");
        let cents: i64 = beside.query_one("SELECT cents FROM accounts", &[]).unwrap().get(0);
        assert_eq!(cents, 100, "nothing of the call remains");
        // Its connection was closed with the error: the next one need not wait until its process ends.
        let next = open(&connection, &runs);
        place.set(Some(next.clone()));
        place.cut();
        assert_eq!(in_doubt.await.ok(), Ok(101), "it is executed there, once");
        assert_eq!(next.counters().resumes, 1);
        client.close().await;
    });
}

#[test]
fn of_many_calls_in_flight_those_that_fail_are_rolled_back_alone() {
    let Some(cluster) = shared() else { return };
    let (connection, place, runs) = (cluster.database(), Place::default(), Arc::default());
    let server = open(&connection, &runs);
    place.set(Some(server.clone()));
    let (mut good, mut bad) = (0, 0);
    smol::block_on(async {
        let client = Client::new(place.clone(), ClientOptions::default());
        for round in 0..6 {
            let amounts = (0..64).map(|n| match (n + round) % 16 {
                3 => 13,
                7 => -1_000_000,
                _ => 2,
            });
            let calls: Vec<_> = amounts.map(|n| client.call(&PAY, &(1, n)).start()).collect();
            for call in calls {
                match call.await {
                    Outcome::Reply(_) => good += 1,
                    Outcome::NotExecuted(_) => bad += 1,
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!((good, bad), (336, 48));
        assert_eq!(client.call(&BALANCE, &1).await.ok(), Ok(672));
        client.close().await;
    });
    assert_eq!(server.handler_faults().panics, 24);
}

#[test]
fn c282_a_handler_that_continues_after_a_failed_statement_loses_only_that() {
    let Some(cluster) = shared() else { return };
    let (connection, place) = (cluster.database(), Place::default());
    place.set(Some(open(&connection, &Arc::default())));
    smol::block_on(async {
        let client = Client::new(place.clone(), ClientOptions::default());
        let neighbour = client.call(&PAY, &(2, 5)).start();
        assert_eq!(client.call(&STUMBLE, &1).await.ok(), Ok(2), "before and after it");
        assert_eq!(neighbour.await.ok(), Ok(5));
        assert_eq!(client.call(&BALANCE, &1).await.ok(), Ok(2));
        client.close().await;
    });
}

#[test]
fn a_table_that_changes_under_a_prepared_statement_stops_no_call() {
    let Some(cluster) = shared() else { return };
    let (connection, place) = (cluster.database(), Place::default());
    let server = open(&connection, &Arc::default());
    place.set(Some(server.clone()));
    smol::block_on(async {
        let client = Client::new(place.clone(), ClientOptions::default());
        let statement = "SELECT * FROM customers".to_owned();
        assert!(client.call(&STATEMENT, &statement).await.ok().is_ok());
        connect(&connection).batch_execute("ALTER TABLE customers ADD COLUMN name text").unwrap();
        assert!(client.call(&STATEMENT, &statement).await.ok().is_ok());
        client.close().await;
    });
    assert_eq!(server.handler_faults().rollbacks, 0);
}

#[test]
fn c283_a_constraint_that_is_checked_at_the_commit_fails_its_own_call_only() {
    let Some(cluster) = shared() else { return };
    let (connection, place) = (cluster.database(), Place::default());
    let server = open(&connection, &Arc::default());
    place.set(Some(server.clone()));
    smol::block_on(async {
        let client = Client::new(place.clone(), ClientOptions::default());
        let customers = [1, -1, 2, -2, 3];
        let calls: Vec<_> =
            customers.iter().map(|customer| client.call(&DEFER, customer).start()).collect();
        for (customer, call) in customers.iter().zip(calls) {
            match call.await {
                Outcome::Reply(true) => assert!(*customer > 0),
                Outcome::NotExecuted(NotExecuted::Aborted) => assert!(*customer < 0),
                other => panic!("{other:?}"),
            }
        }
        client.close().await;
    });
    assert!(server.ledger_error().is_none());
    let orders: i64 =
        connect(&connection).query_one("SELECT count(*) FROM orders", &[]).unwrap().get(0);
    assert_eq!(orders, 3);
}

#[test]
fn c284_a_handler_cannot_end_its_transaction_or_reach_the_records() {
    let Some(cluster) = shared() else { return };
    let (connection, place) = (cluster.database(), Place::default());
    place.set(Some(open(&connection, &Arc::default())));
    smol::block_on(async {
        let client = Client::new(place.clone(), ClientOptions::default());
        for statement in
            ["COMMIT", "ROLLBACK", "SET synchronous_commit = off", "DELETE FROM oncewire_calls"]
        {
            let outcome = client.call(&STATEMENT, &statement.to_owned()).await;
            assert!(
                matches!(outcome, Outcome::NotExecuted(NotExecuted::Aborted)),
                "{statement}: {outcome:?}"
            );
        }
        // In a block of its own PostgreSQL refuses it.
        let procedure = "CREATE PROCEDURE sneak() LANGUAGE plpgsql AS 'BEGIN COMMIT; END'";
        assert!(client.call(&STATEMENT, &procedure.to_owned()).await.ok().is_ok());
        let outcome = client.call(&STATEMENT, &"CALL sneak()".to_owned()).await;
        assert!(matches!(outcome, Outcome::NotExecuted(NotExecuted::Aborted)), "{outcome:?}");
        assert_eq!(client.call(&PAY, &(1, 1)).await.ok(), Ok(1));
        client.close().await;
    });
}

#[test]
fn c285_no_id_of_a_session_is_in_the_database_and_both_sides_call_it_the_same() {
    let Some(cluster) = shared() else { return };
    let (connection, place) = (cluster.database(), Place::default());
    let server = open(&connection, &Arc::default());
    place.set(Some(server.clone()));
    smol::block_on(async {
        let client = Client::new(place.clone(), ClientOptions::default());
        assert_eq!(client.call(&PAY, &(1, 100)).await.ok(), Ok(100));
        let refused = client.call(&STATEMENT, &"COMMIT".to_owned()).result().await.unwrap_err();
        let tag = refused.report().unwrap().session.unwrap();
        let rows = connect(&connection)
            .query("SELECT s.session, s.tag, c.session FROM oncewire_sessions s JOIN oncewire_calls c USING (session)", &[])
            .unwrap();
        let [row] = &rows[..] else { panic!("{} rows", rows.len()) };
        assert_eq!(row.get::<_, i64>(1) as u64, tag.number());
        let name: [u8; 16] = row.get::<_, Vec<u8>>(0).try_into().unwrap();
        assert_ne!(oncewire_driver::SessionId::from_bytes(name).tag(), tag, "it is not the id");
        client.close().await;
    });
}

#[test]
fn records_are_bounded_by_the_calls_in_flight_and_go_with_their_session() {
    let Some(cluster) = shared() else { return };
    let (connection, place) = (cluster.database(), Place::default());
    let server = open(&connection, &Arc::default());
    place.set(Some(server.clone()));
    let mut beside = connect(&connection);
    let mut count = |table: &str| -> i64 {
        beside.query_one(&format!("SELECT count(*) FROM oncewire_{table}"), &[]).unwrap().get(0)
    };
    smol::block_on(async {
        let client = Client::new(place.clone(), ClientOptions::default());
        for _ in 0..10 {
            let calls: Vec<_> = (0..50).map(|n| client.call(&PAY, &(n, 1)).start()).collect();
            for call in calls {
                assert!(call.await.ok().is_ok());
            }
        }
        assert!(count("calls") <= 50);
        // What was acknowledged goes within seconds, while calls are made.
        while count("calls") > 2 {
            assert!(client.call(&PAY, &(1, 1)).await.ok().is_ok());
        }
        client.close().await;
        server.drain(Duration::from_secs(5)).await;
    });
    // The goodbye is recorded after the drain.
    while count("sessions") + count("calls") > 0 {
        std::thread::yield_now();
    }
}
