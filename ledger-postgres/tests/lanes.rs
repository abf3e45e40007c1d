//! Servers that commit on several connections at once.
#![cfg(unix)]
#![allow(missing_docs)]

mod util;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use oncewire_driver::{Client, ClientOptions, Method, Outcome, Server};
use oncewire_ledger_postgres::postgres::IsolationLevel;
use oncewire_ledger_postgres::{Transaction, tool};
use util::*;

const LANES: usize = 4;
const CLIENTS: usize = 8;

fn lanes(connection: &str) -> oncewire_ledger_postgres::PostgresOptions {
    options(connection).with_lanes(LANES)
}

/// Clients with sessions of their own.
struct Clients(Vec<(Client, Place)>);

impl Clients {
    /// Each has a session, of which the ledger has a record: they find it again wherever they go.
    async fn new(server: &Server) -> Clients {
        let clients = (0..CLIENTS).map(|_| {
            let place = Place::default();
            place.set(Some(server.clone()));
            (Client::new(place.clone(), ClientOptions::default()), place)
        });
        let clients = Clients(clients.collect());
        clients.come_to(server).await;
        clients
    }

    /// Waits until all are connected to this server.
    async fn come_to(&self, server: &Server) {
        for (client, _) in &self.0 {
            while client.status().instance != Some(server.instance()) {
                smol::future::yield_now().await;
            }
        }
    }

    fn set(&self, server: Option<&Server>) {
        self.0.iter().for_each(|(_, place)| place.set(server.cloned()));
    }

    /// Each pays so often, all at the same time: to an account of its own, and to one of all.
    fn pay(&self, times: i64) -> Vec<smol::Task<()>> {
        let pay = |(at, (client, _)): (usize, &(Client, Place))| {
            let client = client.clone();
            smol::spawn(async move {
                for _ in 0..times {
                    let own = pay_one(&client, at as i32);
                    smol::future::zip(own, pay_one(&client, 99)).await;
                }
            })
        };
        self.0.iter().enumerate().map(pay).collect()
    }

    async fn close(self) {
        for (client, _) in self.0 {
            client.close().await;
        }
    }
}

/// Pays, and begins again where a server says that it did not: its ledger has failed, and it has not ended yet.
async fn pay_one(client: &Client, account: i32) {
    loop {
        match client.call(&PAY, &(account, 1)).await {
            Outcome::Reply(_) => return,
            Outcome::NotExecuted(_) => smol::future::yield_now().await,
            other => panic!("{other:?}"),
        }
    }
}

async fn all(tasks: Vec<smol::Task<()>>) {
    for task in tasks {
        task.await;
    }
}

/// Each account holds what was paid.
fn assert_exact(connection: &str, times: i64) {
    let mut beside = connect(connection);
    let rows = beside.query("SELECT id, cents FROM accounts ORDER BY id", &[]).unwrap();
    let found: Vec<(i32, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let mut expected: Vec<(i32, i64)> = (0..CLIENTS as i32).map(|at| (at, times)).collect();
    expected.push((99, times * CLIENTS as i64));
    assert_eq!(found, expected);
}

fn lane_pids(connection: &str) -> Vec<i32> {
    let of = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2 \
              AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    connect(connection).query(of, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

#[test]
fn c405_calls_of_many_clients_commit_on_several_connections_and_each_once() {
    let Some(cluster) = shared() else { return };
    for isolation in [IsolationLevel::Serializable, IsolationLevel::ReadCommitted] {
        let (connection, runs) = (cluster.database(), Arc::default());
        let ledger = lanes(&connection).with_isolation(isolation).open().unwrap();
        let server = server(ledger, &runs);
        assert_eq!(lane_pids(&connection).len(), LANES - 1, "beside the first connection");
        smol::block_on(async {
            let clients = Clients::new(&server).await;
            all(clients.pay(10)).await;
            assert_exact(&connection, 10);
            let counts = clients.0.iter().map(|(client, _)| client.call(&COUNT, &()).start());
            for count in counts.collect::<Vec<_>>() {
                assert!(count.await.ok().is_ok());
            }
            let before = tool::verify(&options(&connection)).unwrap();
            assert_eq!(before.sessions, CLIENTS as u64);
            assert!(before.commit > 10, "{before}");
            // The next server has one connection, and continues with the sessions and the numbers.
            let next = util::server(options(&connection).take_over().unwrap(), &runs);
            assert_eq!(next.counters().sessions, CLIENTS);
            clients.set(Some(&next));
            clients.0.iter().for_each(|(_, place)| place.cut());
            all(clients.pay(5)).await;
            assert_exact(&connection, 15);
            let after = tool::verify(&options(&connection)).unwrap();
            assert!(after.commit > before.commit && after.epoch == before.epoch + 1, "{after}");
            clients.close().await;
        });
        assert_eq!(runs.load(Ordering::SeqCst), CLIENTS as u32);
    }
}

/// Transactional: pays to one account, and then to the other one.
const BOTH: Method<(i32, i32), i64> = Method::new("test/both");

#[test]
fn c406_calls_in_two_lanes_that_lock_each_other_out_both_succeed_and_once() {
    let Some(cluster) = shared() else { return };
    for isolation in [IsolationLevel::Serializable, IsolationLevel::ReadCommitted] {
        let connection = cluster.database();
        let soon = "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET deadlock_timeout = ''20ms''', current_database()); END $$";
        connect(&connection).batch_execute(soon).unwrap();
        let runs = Arc::new(AtomicU32::new(0));
        let ran = runs.clone();
        let server = Server::builder("test")
            .ledger(lanes(&connection).with_isolation(isolation).open().unwrap())
            .transactional(&BOTH, move |transaction: &mut Transaction, _, (first, second)| {
                let pay = "INSERT INTO accounts VALUES ($1, 1, 1) ON CONFLICT (id) DO UPDATE \
                           SET cents = accounts.cents + 1 RETURNING cents";
                transaction.query_one(pay, &[&first])?;
                // Until the other one has a row, too. It runs in another thread.
                ran.fetch_add(1, Ordering::SeqCst);
                while ran.load(Ordering::SeqCst) < 2 {
                    std::thread::yield_now();
                }
                Ok(transaction.query_one(pay, &[&second])?.get(0))
            })
            .build()
            .unwrap();
        smol::block_on(async {
            let clients = Clients::new(&server).await;
            let calls = [(1, 2), (2, 1)];
            let calls = calls.iter().zip(&clients.0);
            let calls = calls.map(|(accounts, (client, _))| client.call(&BOTH, accounts).start());
            for call in calls.collect::<Vec<_>>() {
                assert!(call.await.ok().is_ok());
            }
            clients.close().await;
        });
        assert!(runs.load(Ordering::SeqCst) >= 3, "one of them was run again");
        let mut beside = connect(&connection);
        let rows = beside.query("SELECT cents FROM accounts ORDER BY id", &[]).unwrap();
        let cents: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
        assert_eq!(cents, [2, 2]);
    }
}

#[test]
fn c407_a_lane_whose_connection_is_lost_ends_all_and_the_next_server_continues() {
    let Some(cluster) = shared() else { return };
    let (connection, runs) = (cluster.database(), Arc::default());
    let server = server(lanes(&connection).open().unwrap(), &runs);
    // It waits for its turn until the last connection of the first one is closed.
    let next = std::thread::spawn({
        let (options, runs) = (lanes(&connection), Arc::default());
        move || util::server(options.open().unwrap(), &runs)
    });
    smol::block_on(async {
        let clients = Clients::new(&server).await;
        let paying = clients.pay(20);
        let pids = lane_pids(&connection);
        assert!(pids.len() >= LANES - 1);
        let mut beside = connect(&connection);
        beside.execute("SELECT pg_terminate_backend($1)", &[&pids[0]]).unwrap();
        while server.ledger_error().is_none() {
            smol::future::yield_now().await;
        }
        let next = smol::unblock(move || next.join().unwrap()).await;
        clients.set(Some(&next));
        server.drain(Duration::ZERO).await;
        all(paying).await;
        clients.close().await;
    });
    assert_exact(&connection, 20);
}

#[test]
fn c407_a_server_that_takes_over_ends_all_lanes_of_the_one_before() {
    let Some(cluster) = shared() else { return };
    let (connection, runs) = (cluster.database(), Arc::default());
    let mut server = server(lanes(&connection).open().unwrap(), &runs);
    smol::block_on(async {
        let clients = Clients::new(&server).await;
        let paying = clients.pay(60);
        for _ in 0..2 {
            let (options, runs) = (lanes(&connection), runs.clone());
            let next = smol::unblock(move || util::server(options.take_over().unwrap(), &runs));
            let next = next.await;
            clients.set(Some(&next));
            server.drain(Duration::ZERO).await;
            // The next take-over meets calls of all of them.
            clients.come_to(&next).await;
            server = next;
        }
        all(paying).await;
        clients.close().await;
    });
    assert_exact(&connection, 60);
}

#[test]
fn c408_servers_with_lanes_share_a_ledger_and_clients_move_between_them() {
    let Some(cluster) = shared() else { return };
    let (connection, runs) = (cluster.database(), Arc::default());
    let open = || server(lanes(&connection).open_shared().unwrap(), &runs);
    let servers = [open(), open()];
    smol::block_on(async {
        let clients = Clients::new(&servers[0]).await;
        let paying = clients.pay(30);
        for round in 0..24 {
            let (_, place) = &clients.0[round % CLIENTS];
            place.set(Some(servers[(round + 1) % 2].clone()));
            while !place.try_cut() {
                smol::future::yield_now().await;
            }
            smol::future::yield_now().await;
        }
        all(paying).await;
        let sessions = tool::verify(&options(&connection)).unwrap().sessions;
        assert_eq!(sessions, CLIENTS as u64, "each kept its own");
        clients.close().await;
    });
    assert_exact(&connection, 30);
}

#[test]
fn c409_a_watch_misses_no_change_of_any_lane() {
    let Some(cluster) = shared() else { return };
    for shares in [false, true] {
        let (connection, runs) = (cluster.database(), Arc::default());
        let ledger = match shares {
            false => lanes(&connection).open().unwrap(),
            true => lanes(&connection).open_shared().unwrap(),
        };
        let server = server(ledger, &runs);
        smol::block_on(async {
            let clients = Clients::new(&server).await;
            let watches = clients.0.iter().enumerate().map(|(at, (client, _))| {
                let account = if at % 2 == 0 { 99 } else { at as i32 };
                let all = if at % 2 == 0 { 15 * CLIENTS as i64 } else { 15 };
                client.call(&WATCH, &(account, all - 1)).timeout(Duration::from_secs(120)).start()
            });
            let watches: Vec<_> = watches.collect();
            all(clients.pay(15)).await;
            for watch in watches {
                let seen = watch.await.ok();
                assert!(matches!(seen, Ok(Ok(_))), "it waits for what is there: {seen:?}");
            }
            clients.close().await;
        });
    }
}
