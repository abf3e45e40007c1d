//! What lanes are worth on a PostgreSQL of yours, beside idempotency keys by hand on as many connections:
//! `cargo run --release -p oncewire-ledger-postgres --example postgres_lanes -- CONNECTION`.
//!
//! In rounds, by turns, and as ratios within a round: rates of one disk say little about another. It makes a schema of its own and removes it.
#![allow(missing_docs, unreachable_pub)]
#![allow(clippy::disallowed_methods, reason = "it measures time")]

#[path = "figures/place.rs"]
mod place;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use oncewire_driver::{Client, ClientOptions, Method, Server};
use oncewire_ledger_postgres::postgres::{self, IsolationLevel, NoTls};
use oncewire_ledger_postgres::{PostgresOptions, Transaction};
use place::Place;

const DEPOSIT: Method<(i32, i64), i64> = Method::new("lanes/deposit");
const SCHEMA: &str = "oncewire_lanes";
const TABLES: &str = "CREATE TABLE IF NOT EXISTS accounts (id int PRIMARY KEY, cents bigint NOT NULL); \
    CREATE TABLE IF NOT EXISTS keys (key bigint PRIMARY KEY, reply bigint NOT NULL)";
const PAY: &str = "INSERT INTO accounts VALUES ($1, $2) \
    ON CONFLICT (id) DO UPDATE SET cents = accounts.cents + $2 RETURNING cents";
/// Clients, each with an account of its own and one call in flight.
const CLIENTS: i32 = 64;
const HANDS: i64 = 16;
const ROUNDS: usize = 5;
const TURN: Duration = Duration::from_secs(1);

type Failed = Box<dyn std::error::Error>;
type Rows = Vec<(String, Vec<f64>)>;

fn main() -> ExitCode {
    let Some(connection) = std::env::args().nth(1) else {
        output::note!("usage: postgres_lanes CONNECTION");
        return ExitCode::from(2);
    };
    match measure(&connection) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::note!("postgres_lanes: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(connection: &str) -> Result<(), Failed> {
    let mut database = postgres::Client::connect(connection, NoTls)?;
    database
        .batch_execute(&format!("CREATE SCHEMA {SCHEMA}; SET search_path = {SCHEMA}; {TABLES}"))?;
    let here = format!("{connection} options=-csearch_path={SCHEMA}");
    let result = in_schema(&here);
    // When it is our turn, the last server has ended.
    drop(PostgresOptions::new(&here)?.open()?);
    database.batch_execute(&format!("DROP SCHEMA {SCHEMA} CASCADE"))?;
    show(result?);
    Ok(())
}

fn in_schema(here: &str) -> Result<Rows, Failed> {
    let mut rows = Rows::new();
    for _ in 0..ROUNDS {
        let mut note = |name: String, rate: f64| match rows.iter_mut().find(|row| row.0 == name) {
            Some(row) => row.1.push(rate),
            None => rows.push((name, vec![rate])),
        };
        note(format!("keys by hand on {HANDS} connections"), by_hand(here, HANDS)?);
        note("keys by hand on 1 connection".to_owned(), by_hand(here, 1)?);
        for (level, isolation) in [
            ("read committed", IsolationLevel::ReadCommitted),
            ("serializable", IsolationLevel::Serializable),
        ] {
            for (lanes, calls) in [(1, 1), (4, 1), (16, 1), (16, 4)] {
                let options = PostgresOptions::new(here)?.with_isolation(isolation);
                let options = options.with_lanes(lanes).with_batch_calls_max(calls);
                let calls = if calls > 1 { format!(" of {calls} calls") } else { String::new() };
                let name = format!("lanes: {lanes}{calls}, {level}");
                note(name, Bench::start(options)?.rate());
            }
        }
    }
    Ok(rows)
}

fn show(mut rows: Rows) {
    let hands = rows[0].1.clone();
    let one = rows[1].1.clone();
    let median = |rates: &mut Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    let against = |rates: &[f64], others: &[f64]| -> f64 {
        median(&mut rates.iter().zip(others).map(|(rate, other)| rate / other).collect())
    };
    output::show!("{:<38} {:>8} {:>12} {:>12}", "", "calls/s", "of 16 hands", "of 1 hand");
    for (name, rates) in &mut rows {
        let (of_hands, of_one) = (against(rates, &hands), against(rates, &one));
        let rate = median(rates);
        output::show!("{name:<38} {rate:>8.0} {of_hands:>12.2} {of_one:>12.2}");
    }
}

/// As services do it: a unique key, the effect and the reply in one transaction; so many at a time.
fn by_hand(here: &str, hands: i64) -> Result<f64, Failed> {
    let mut beside = postgres::Client::connect(here, NoTls)?;
    let last: i64 = beside.query_one("SELECT coalesce(max(key), 0) FROM keys", &[])?.get(0);
    let clients = (0..hands).map(|_| postgres::Client::connect(here, NoTls));
    let clients = clients.collect::<Result<Vec<_>, _>>()?;
    let begun = Instant::now();
    let threads = clients
        .into_iter()
        .zip(0..)
        .map(|(client, at)| std::thread::spawn(move || hand(client, last + 1 + at, hands, begun)));
    let mut all = 0;
    for thread in threads.collect::<Vec<_>>() {
        all += thread.join().map_err(|_| "a hand panicked")??;
    }
    Ok(f64::from(all) / begun.elapsed().as_secs_f64())
}

/// No two hands have an account in common.
fn hand(
    mut client: postgres::Client,
    mut key: i64,
    hands: i64,
    begun: Instant,
) -> Result<i32, postgres::Error> {
    let pay = client.prepare(PAY)?;
    let keep = client.prepare("INSERT INTO keys VALUES ($1, $2)")?;
    let mut times = 0;
    while begun.elapsed() < TURN {
        let account = (key % i64::from(CLIENTS)) as i32;
        let mut transaction = client.transaction()?;
        let cents: i64 = transaction.query_one(&pay, &[&account, &1i64])?.get(0);
        transaction.execute(&keep, &[&key, &cents])?;
        transaction.commit()?;
        key += hands;
        times += 1;
    }
    Ok(times)
}

/// Clients and a server in this process, with socket pairs between.
struct Bench {
    clients: Vec<Client>,
    server: Server,
    place: Place,
}

impl Bench {
    fn start(options: PostgresOptions) -> Result<Bench, Failed> {
        let server = Server::builder("lanes")
            .ledger(options.open()?)
            .transactional(&DEPOSIT, |transaction: &mut Transaction, _, (account, cents)| {
                Ok(transaction.query_one(PAY, &[&account, &cents])?.get(0))
            })
            .build()?;
        let place = Place::of(&server);
        let clients = (0..CLIENTS).map(|_| Client::new(place.clone(), ClientOptions::default()));
        let bench = Bench { clients: clients.collect(), server, place: place.clone() };
        // Their sessions are open, and the statements prepared.
        smol::block_on(bench.call_all(None));
        Ok(bench)
    }

    async fn call_all(&self, until: Option<Instant>) -> i32 {
        let pay = |(client, account): (&Client, i32)| {
            let client = client.clone();
            smol::spawn(async move {
                let mut calls = 0;
                loop {
                    calls += i32::from(client.call(&DEPOSIT, &(account, 1)).await.ok().is_ok());
                    if until.is_none_or(|until| Instant::now() >= until) {
                        return calls;
                    }
                }
            })
        };
        let mut calls = 0;
        for task in self.clients.iter().zip(0..).map(pay).collect::<Vec<_>>() {
            calls += task.await;
        }
        calls
    }

    fn rate(&self) -> f64 {
        let begun = Instant::now();
        let calls = smol::block_on(self.call_all(Some(begun + TURN)));
        f64::from(calls) / begun.elapsed().as_secs_f64()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.place.close();
        smol::block_on(async {
            for client in &self.clients {
                client.close().await;
            }
            self.server.drain(Duration::ZERO).await;
        });
    }
}
