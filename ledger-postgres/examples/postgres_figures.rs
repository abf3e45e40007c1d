//! What calls cost on a PostgreSQL of yours, beside its own commit and beside idempotency keys by hand:
//! `cargo run --release -p oncewire-ledger-postgres --example postgres_figures -- CONNECTION`.
//!
//! In rounds, by turns: rates of one disk say little about another, ratios of one round do. It makes a schema of its own and removes it.
#![allow(missing_docs)]
#![allow(clippy::disallowed_methods, reason = "it measures time")]

use std::io;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use oncewire_driver::{
    BoxFuture, BoxStream, Client, ClientOptions, Connect, Method, Server, Subject,
};
use oncewire_ledger_postgres::postgres::{self, IsolationLevel, NoTls};
use oncewire_ledger_postgres::{PostgresOptions, Transaction};
use smol::net::unix::UnixStream;

const DEPOSIT: Method<(i32, i64), i64> = Method::new("figures/deposit");
const SCHEMA: &str = "oncewire_figures";
const TABLES: &str = "CREATE TABLE IF NOT EXISTS accounts (id int PRIMARY KEY, cents bigint NOT NULL); \
    CREATE TABLE IF NOT EXISTS keys (key bigint PRIMARY KEY, reply bigint NOT NULL); \
    CREATE TABLE IF NOT EXISTS lines (line bigint)";
const PAY: &str = "INSERT INTO accounts VALUES ($1, $2) \
    ON CONFLICT (id) DO UPDATE SET cents = accounts.cents + $2 RETURNING cents";
const ROUNDS: usize = 5;
const TURN: Duration = Duration::from_secs(1);

type Failed = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let Some(connection) = std::env::args().nth(1) else {
        output::note!("usage: postgres_figures CONNECTION");
        return ExitCode::from(2);
    };
    match measure(&connection) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::note!("postgres_figures: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(connection: &str) -> Result<(), Failed> {
    let mut database = postgres::Client::connect(connection, NoTls)?;
    database.batch_execute(&format!("CREATE SCHEMA {SCHEMA}; SET search_path = {SCHEMA}"))?;
    let result = in_schema(connection, &mut database);
    database.batch_execute(&format!("DROP SCHEMA {SCHEMA} CASCADE"))?;
    result
}

fn in_schema(connection: &str, database: &mut postgres::Client) -> Result<(), Failed> {
    let here = format!("{connection} options=-csearch_path={SCHEMA}");
    let options = PostgresOptions::new(&here)?.with_tables(TABLES);
    let serializable = Lane::start(options.clone())?;
    let mut rows: Vec<(String, Vec<f64>)> = Vec::new();
    let mut note = |name: &str, rate: f64| match rows.iter_mut().find(|row| row.0 == name) {
        Some(row) => row.1.push(rate),
        None => rows.push((name.to_owned(), vec![rate])),
    };
    for _ in 0..ROUNDS {
        note("one insert by hand", inserts(database)?);
        note("one at a time, keys by hand", keys_by_hand(database)?);
        for in_flight in [1, 16, 64, 256] {
            note(&format!("{in_flight} in flight"), serializable.rate(in_flight));
        }
    }
    drop(serializable);
    let committed = Lane::start(options.with_isolation(IsolationLevel::ReadCommitted))?;
    for _ in 0..ROUNDS {
        for in_flight in [1, 16, 64, 256] {
            note(&format!("{in_flight} in flight, read committed"), committed.rate(in_flight));
        }
    }
    let median = |rates: &mut Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    let insert = median(&mut rows[0].1);
    output::show!("{:<36} {:>9} {:>22}", "", "calls/s", "in the time of 1 insert");
    for (name, rates) in &mut rows {
        let rate = median(rates);
        output::show!("{name:<36} {rate:>9.0} {:>22.2}", rate / insert);
    }
    Ok(())
}

/// How often something is done in a second.
fn rate(mut once: impl FnMut() -> Result<(), Failed>) -> Result<f64, Failed> {
    let (begun, mut times) = (Instant::now(), 0);
    while begun.elapsed() < TURN {
        once()?;
        times += 1;
    }
    Ok(f64::from(times) / begun.elapsed().as_secs_f64())
}

/// The database's own commit.
fn inserts(database: &mut postgres::Client) -> Result<f64, Failed> {
    let insert = database.prepare("INSERT INTO lines VALUES ($1)")?;
    rate(|| {
        database.execute(&insert, &[&1i64])?;
        Ok(())
    })
}

/// As services do it: a unique key, the effect and the reply in one transaction.
fn keys_by_hand(database: &mut postgres::Client) -> Result<f64, Failed> {
    let pay = database.prepare(PAY)?;
    let keep = database.prepare("INSERT INTO keys VALUES ($1, $2)")?;
    let of = "SELECT coalesce(max(key), 0) FROM keys";
    let mut key: i64 = database.query_one(of, &[])?.get(0);
    rate(|| {
        key += 1;
        let mut transaction = database.transaction()?;
        let cents: i64 = transaction.query_one(&pay, &[&((key % 64) as i32), &1i64])?.get(0);
        transaction.execute(&keep, &[&key, &cents])?;
        Ok(transaction.commit()?)
    })
}

/// A client and a server in this process, with a socket pair between.
struct Lane {
    client: Client,
    server: Server,
    place: Place,
}

impl Lane {
    fn start(options: PostgresOptions) -> Result<Lane, Failed> {
        let server = Server::builder("figures")
            .ledger(options.open()?)
            .transactional(&DEPOSIT, |transaction: &mut Transaction, _, (account, cents)| {
                Ok(transaction.query_one(PAY, &[&account, &cents])?.get(0))
            })
            .build()?;
        let place = Place(Arc::new(Mutex::new(Some(server.clone()))));
        let client = Client::new(place.clone(), ClientOptions::default());
        Ok(Lane { client, server, place })
    }

    fn rate(&self, in_flight: i32) -> f64 {
        let begun = Instant::now();
        let lanes = (0..in_flight).map(|lane| {
            let client = self.client.clone();
            smol::spawn(async move {
                let mut calls = 0;
                while begun.elapsed() < TURN {
                    calls += i32::from(client.call(&DEPOSIT, &(lane % 64, 1)).await.ok().is_ok());
                }
                calls
            })
        });
        let lanes: Vec<_> = lanes.collect();
        let calls: i32 = smol::block_on(async {
            let mut calls = 0;
            for lane in lanes {
                calls += lane.await;
            }
            calls
        });
        f64::from(calls) / begun.elapsed().as_secs_f64()
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        *self.place.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
        smol::block_on(async {
            self.client.close().await;
            self.server.drain(Duration::ZERO).await;
        });
    }
}

#[derive(Clone)]
struct Place(Arc<Mutex<Option<Server>>>);

impl Connect for Place {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async {
            let server = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let server = server.ok_or(io::ErrorKind::ConnectionRefused)?;
            let (ours, theirs) = UnixStream::pair()?;
            server.serve_stream(Box::new(theirs), Subject::Anonymous);
            Ok(Box::new(ours) as BoxStream)
        })
    }

    fn address(&self) -> String {
        "a socket pair".to_owned()
    }
}
