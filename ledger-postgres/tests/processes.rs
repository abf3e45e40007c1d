//! Servers in processes of their own, and databases, that are killed while money moves.
#![cfg(unix)]
#![allow(missing_docs)]
#![allow(clippy::disallowed_methods, reason = "it says how long a fail-over took")]

mod util;

use std::sync::Arc;
use std::time::Instant;

use oncewire_driver::{Client, ClientOptions};
use util::processes::*;
use util::*;

#[test]
fn serve_in_a_process_of_its_own() {
    serve_as_a_process();
}

#[test]
fn c289_servers_and_the_database_are_killed_and_the_books_are_exact() {
    let Some(mut cluster) = start("kills") else { return };
    let connection = cluster.database();
    let addresses = [free_address(), free_address()];
    let mut active = Process::start(&connection, addresses[0]);
    active.until_it_serves();
    let mut passive = Process::start(&connection, addresses[1]);
    let payers = Payers::start(&addresses);
    payers.until_paid(25);
    for round in 0..3 {
        let killed = Instant::now();
        active.kill();
        // The stand-by takes over with all sessions, and the one that was killed comes back as a stand-by.
        passive.until_it_serves();
        payers.until_paid(1);
        println!("{:?} until the next server has answered", killed.elapsed());
        payers.until_paid(25);
        active = std::mem::replace(&mut passive, Process::start(&connection, addresses[round % 2]));
        if round == 1 {
            cluster.end("KILL").unwrap();
            cluster.resume().unwrap();
            payers.until_paid(25);
        }
    }
    drop(active);
    payers.until_paid(25);
    payers.compare(&connection);
}

#[test]
fn c290_the_primary_is_lost_and_its_synchronous_stand_by_has_all_that_was_answered() {
    let Some(primary) = start("primary") else { return };
    let connection = primary.database();
    let stand_by = primary.stand_by("standby").unwrap();
    let mut admin = primary.admin();
    admin.batch_execute("ALTER SYSTEM SET synchronous_standby_names = '*'").unwrap();
    admin.batch_execute("SELECT pg_reload_conf()").unwrap();
    let is_sync = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
    while admin.query_one(is_sync, &[]).unwrap().get::<_, i64>(0) == 0 {
        std::thread::yield_now();
    }
    drop(admin);
    let name = connection.rsplit('=').next().unwrap();
    let both = format!(
        "host={},{} user=postgres dbname={name} target_session_attrs=read-write",
        primary.host(),
        stand_by.host()
    );
    let address = free_address();
    let mut process = Process::start(&both, address);
    process.until_it_serves();
    let payers = Payers::start(&[address]);
    payers.until_paid(50);
    let mut primary = primary;
    primary.end("KILL").unwrap();
    let lost = Instant::now();
    stand_by.promote().unwrap();
    process.until_it_serves();
    payers.until_paid(1);
    println!("{:?} with the promotion", lost.elapsed());
    payers.until_paid(50);
    payers.compare(&stand_by.connection(name));
}

#[test]
fn c291_a_commit_that_was_not_replicated_is_no_commit_of_the_ledgers() {
    let Some(cluster) = start("unreplicated") else { return };
    let (connection, place) = (cluster.database(), Place::default());
    let server = open(&connection, &Arc::default());
    place.set(Some(server.clone()));
    let mut admin = cluster.admin();
    smol::block_on(async {
        let client = Client::new(place.clone(), ClientOptions::default());
        assert_eq!(client.call(&PAY, &(1, 100)).await.ok(), Ok(100));
        // Commits wait for a stand-by from now on, and there is none.
        admin.batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'absent'").unwrap();
        admin.batch_execute("SELECT pg_reload_conf()").unwrap();
        let waits = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name = 'oncewire ledger'";
        let mut call = client.call(&PAY, &(1, 1)).start();
        let pid: i32 = loop {
            // It waits, or it is answered.
            if let Some(row) = admin.query_opt(waits, &[]).unwrap() {
                break row.get(0);
            }
            if let Some(outcome) = smol::future::poll_once(&mut call).await {
                assert!(outcome.ok().is_ok(), "the setting was not there yet");
                call = client.call(&PAY, &(1, 1)).start();
            }
        };
        admin.query("SELECT pg_cancel_backend($1)", &[&pid]).unwrap();
        // Another batch than the call's may have been the one that waited.
        until_it_fails(&server, &mut std::future::pending::<()>()).await;
        let error = server.ledger_error().unwrap().to_string();
        assert!(error.contains("may be in no stand-by"), "{error}");
        // The next one waits with its epoch, and reads nothing before that is in a stand-by.
        let stand_by = options(&connection);
        let next = std::thread::spawn(move || stand_by.open().unwrap());
        while admin.query_opt(waits, &[]).unwrap().is_none() {
            std::thread::yield_now();
        }
        admin.batch_execute("ALTER SYSTEM RESET synchronous_standby_names").unwrap();
        admin.batch_execute("SELECT pg_reload_conf()").unwrap();
        let next = util::server(next.join().unwrap(), &Arc::default());
        place.set(Some(next));
        place.cut();
        assert!(call.await.ok().is_ok(), "what was in doubt is answered by its record");
        client.close().await;
    });
}
