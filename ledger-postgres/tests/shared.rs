//! Several servers on one PostgreSQL at once: clients move between them with calls under way, and servers are stopped and killed.
#![cfg(unix)]
#![allow(missing_docs)]

mod util;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use oncewire_driver::{Client, ClientOptions, Server};
use oncewire_ledger_postgres::tool;
use util::processes::*;
use util::*;

#[test]
fn serve_in_a_process_of_its_own() {
    serve_as_a_process();
}

fn open_shared(connection: &str, runs: &Arc<AtomicU32>) -> Server {
    server(options(connection).open_shared().unwrap(), runs)
}

#[test]
fn c390_a_client_moves_between_two_servers_on_one_database_and_finds_its_session_at_both() {
    let Some(cluster) = shared() else { return };
    let (connection, place, runs) = (cluster.database(), Place::default(), Arc::default());
    let servers = [open_shared(&connection, &runs), open_shared(&connection, &runs)];
    assert_eq!(servers[0].id(), servers[1].id());
    smol::block_on(async {
        let client = Client::new(place.clone(), ClientOptions::default());
        for round in 0..6 {
            place.set(Some(servers[round % 2].clone()));
            if round > 0 {
                place.cut();
            }
            let paid = round as i64 * 10 + 10;
            assert_eq!(client.call(&PAY, &(1, 10)).await.ok(), Ok(paid));
            assert_eq!(client.call(&COUNT, &()).await.ok(), Ok(round as u32 + 1));
        }
        let counters = servers.each_ref().map(Server::counters);
        assert_eq!(counters[0].resumes + counters[1].resumes, 5, "one session all the way");
        let found = tool::inspect(&options(&connection)).unwrap();
        assert_eq!((found.sessions, found.broken), (1, 0));
        assert!(found.commit >= 12, "{found}");
        client.close().await;
    });
    assert_eq!(runs.load(Ordering::SeqCst), 6);
    // Alone, no server has it while others share it.
    let refused = refused(options(&connection));
    assert!(refused.contains("is in use by"), "{refused}");
}

#[test]
fn c391_a_ledger_is_shared_after_it_was_one_servers_and_the_other_way_round() {
    let Some(cluster) = shared() else { return };
    let (connection, place) = (cluster.database(), Place::default());
    let client = Client::new(place.clone(), ClientOptions::default());
    let pay = async |server: Server, first: bool| {
        place.set(Some(server));
        if !first {
            place.cut();
        }
        client.call(&PAY, &(1, 10)).await.ok()
    };
    smol::block_on(async {
        let runs = Arc::default();
        let alone = open(&connection, &runs);
        assert_eq!(pay(alone.clone(), true).await, Ok(10));
        place.set(None);
        place.cut();
        drop(alone);
        // The sessions of a server that has ended are the next one's.
        let shared = open_shared(&connection, &runs);
        assert_eq!(shared.counters().sessions, 1);
        place.set(Some(shared.clone()));
        assert_eq!(client.call(&PAY, &(1, 10)).await.ok(), Ok(20));
        let second = open_shared(&connection, &runs);
        assert_eq!(second.counters().sessions, 0, "this one's owner lives");
        assert_eq!(pay(second.clone(), false).await, Ok(30));
        place.set(None);
        place.cut();
        drop((shared, second));
        let alone = open(&connection, &runs);
        place.set(Some(alone));
        assert_eq!(client.call(&PAY, &(1, 10)).await.ok(), Ok(40));
        client.close().await;
    });
}

#[test]
fn c392_servers_that_share_a_ledger_are_stopped_and_killed_and_the_books_are_exact() {
    let Some(cluster) = start("sharing") else { return };
    let connection = cluster.database();
    let addresses = [free_address(), free_address()];
    let mut processes = addresses.map(|address| Process::start_as(&connection, address, true));
    processes.iter_mut().for_each(Process::until_it_serves);
    let payers = Payers::start(&addresses);
    payers.until_paid(25);
    for round in 0..4 {
        // One of them has the client: it stands still, with a batch in its transaction as like as not.
        processes[round % 2].signal("STOP");
        payers.until_paid(25);
        processes[round % 2].signal("CONT");
    }
    for at in [0, 1, 0] {
        processes[at].kill();
        payers.until_paid(25);
        processes[at] = Process::start_as(&connection, addresses[at], true);
        processes[at].until_it_serves();
        payers.until_paid(5);
    }
    payers.compare(&connection);
}

#[test]
fn c394_a_server_that_learns_by_a_claim_that_its_database_was_lost_says_so() {
    let Some(mut cluster) = start("claims") else { return };
    let (connection, place, runs) = (cluster.database(), Place::default(), Arc::default());
    let servers = [open_shared(&connection, &runs), open_shared(&connection, &runs)];
    smol::block_on(async {
        let client = Client::new(place.clone(), ClientOptions::default());
        place.set(Some(servers[0].clone()));
        assert_eq!(client.call(&PAY, &(1, 10)).await.ok(), Ok(10));
        cluster.end("KILL").unwrap();
        cluster.resume().unwrap();
        // Nothing is written here: the client comes with its session.
        place.set(Some(servers[1].clone()));
        place.cut();
        let mut call = client.call(&PAY, &(1, 10)).start();
        until_it_fails(&servers[1], &mut call).await;
        // A server whose ledger is open answers it.
        place.set(Some(open_shared(&connection, &runs)));
        servers[1].drain(Duration::ZERO).await;
        assert_eq!(call.await.ok(), Ok(20));
        client.close().await;
    });
}

#[test]
fn c393_another_callers_session_is_not_claimed_and_a_lost_one_is_not_written() {
    let Some(cluster) = shared() else { return };
    let (connection, place, runs) = (cluster.database(), Place::default(), Arc::default());
    let servers = [open_shared(&connection, &runs), open_shared(&connection, &runs)];
    let mut beside = connect(&connection);
    smol::block_on(async {
        let client = Client::new(place.clone(), ClientOptions::default());
        place.set(Some(servers[0].clone()));
        assert_eq!(client.call(&PAY, &(1, 10)).await.ok(), Ok(10));
        // As if another server had claimed it: what this one writes is fenced, and its client comes back for it.
        beside.batch_execute("UPDATE oncewire_sessions SET owner = 77, epoch = epoch + 1").unwrap();
        let paid = client.call(&PAY, &(1, 10)).timeout(Duration::from_secs(20)).await.ok();
        assert_eq!(paid, Ok(20));
        let row =
            beside.query_one("SELECT owner <> 77, epoch FROM oncewire_sessions", &[]).unwrap();
        assert_eq!((row.get::<_, bool>(0), row.get::<_, i64>(1)), (true, 3), "claimed again");
        // Of another caller's session, nothing is changed.
        let entry: Vec<u8> =
            beside.query_one("SELECT entry FROM oncewire_sessions", &[]).unwrap().get(0);
        let id = oncewire_driver::protocol::SessionId::from_bytes([0; 16]);
        let mut other = oncewire_driver::ledger::SessionEntry::decode(id, &entry).unwrap();
        other.subject = oncewire_driver::Subject::Name("mallory".into());
        beside.execute("UPDATE oncewire_sessions SET entry = $1", &[&other.encode()]).unwrap();
        place.set(Some(servers[1].clone()));
        place.cut();
        // It may have left on the connection that broke: then its session ends with it in doubt.
        let _in_doubt = client.call(&PAY, &(1, 10)).await;
        assert!(client.call(&PAY, &(1, 10)).await.ok().is_ok(), "in a new session");
        let epochs: Vec<i64> = beside
            .query("SELECT epoch FROM oncewire_sessions ORDER BY epoch", &[])
            .unwrap()
            .iter()
            .map(|row| row.get(0))
            .collect();
        assert_eq!(epochs, [1, 3], "the session of the other one was not claimed");
        client.close().await;
    });
}

#[test]
fn a_server_joins_others_without_waiting_for_their_commits() {
    let Some(cluster) = shared() else { return };
    let (connection, runs) = (cluster.database(), Arc::default());
    let first = open_shared(&connection, &runs);
    // As busy servers are: whenever one of them has committed, another one has this lock.
    let mut busy = connect(&connection);
    let mut commit = busy.transaction().unwrap();
    commit.query_one("SELECT epoch FROM oncewire_server FOR SHARE", &[]).unwrap();
    let second = open_shared(&connection, &runs);
    assert_eq!(first.id(), second.id());
    commit.commit().unwrap();
}

#[test]
fn a_session_that_one_server_takes_is_not_taken_by_another_one_that_starts() {
    let Some(cluster) = shared() else { return };
    let (connection, place, runs) = (cluster.database(), Place::default(), Arc::default());
    smol::block_on(async {
        let client = Client::new(place.clone(), ClientOptions::default());
        place.set(Some(open_shared(&connection, &runs)));
        assert_eq!(client.call(&PAY, &(1, 10)).await.ok(), Ok(10));
        place.set(None);
        place.cut();
        let (mut watch, mut beside) = (connect(&connection), connect(&connection));
        let owners = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND database = \
                      (SELECT oid FROM pg_database WHERE datname = current_database())";
        while watch.query_one(owners, &[]).unwrap().get::<_, i64>(0) > 0 {
            smol::future::yield_now().await;
        }
        // Its server has ended, and another one claims it: here, one whose number the test has the lock of.
        beside
            .batch_execute(
                "SELECT pg_advisory_lock('oncewire_server'::regclass::oid::int8::int4, 77);
                 BEGIN; UPDATE oncewire_sessions SET owner = 77, epoch = epoch + 1",
            )
            .unwrap();
        let starts = smol::unblock({
            let (connection, runs) = (connection.clone(), runs.clone());
            move || open_shared(&connection, &runs)
        });
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                     AND wait_event_type = 'Lock' AND query LIKE '%left_over%'";
        while watch.query_one(waits, &[]).unwrap().get::<_, i64>(0) == 0 {
            smol::future::yield_now().await;
        }
        beside.batch_execute("COMMIT").unwrap();
        assert_eq!(starts.await.counters().sessions, 0);
        let row = watch.query_one("SELECT owner, epoch FROM oncewire_sessions", &[]).unwrap();
        assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (77, 2));
    });
}

#[test]
fn a_session_whose_records_are_damaged_is_not_continued_by_what_a_server_had_of_it_before() {
    let Some(cluster) = shared() else { return };
    let (connection, place, runs) = (cluster.database(), Place::default(), Arc::default());
    let servers = [open_shared(&connection, &runs), open_shared(&connection, &runs)];
    let mut beside = connect(&connection);
    smol::block_on(async {
        let client = Client::new(place.clone(), ClientOptions::default());
        for (server, paid) in servers.iter().zip([10, 20]) {
            place.set(Some(server.clone()));
            if paid > 10 {
                place.cut();
            }
            assert_eq!(client.call(&PAY, &(1, 10)).await.ok(), Ok(paid));
        }
        let damage = "UPDATE oncewire_calls SET record = '\\x00'::bytea || record";
        assert!(beside.execute(damage, &[]).unwrap() > 0, "the last call has its record");
        // Back at the first one, which has the session as it was before the second one had it.
        place.set(Some(servers[0].clone()));
        place.cut();
        let mut call = client.call(&PAY, &(1, 10)).start();
        let of = "SELECT epoch FROM oncewire_sessions";
        while beside.query_one(of, &[]).unwrap().get::<_, i64>(0) < 5 {
            let answered = smol::future::poll_once(&mut call).await;
            assert!(answered.is_none(), "by what was true before: {answered:?}");
        }
        let mend = "UPDATE oncewire_calls SET record = substr(record, 2)";
        beside.execute(mend, &[]).unwrap();
        assert_eq!(call.await.ok(), Ok(30));
        client.close().await;
    });
}
