//! What a journal costs a client: `cargo run --release -p oncewire-ledger-redb --example durable_figures [FOLDER]`.
//!
//! Transactional calls of a plain client and of a durable one, at a server whose ledger is on the same disk. Rates of a
//! disk say little about another one: compare the ratios.
#![allow(missing_docs)]

use std::error::Error;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oncewire_driver::{
    BoxFuture, BoxStream, CallFailure, Client, ClientOptions, Connect, DurableClient, Method,
    Runtime, Server, SmolRuntime, Subject,
};
use oncewire_ledger_redb::redb::{Database, ReadableTable, TableDefinition};
use oncewire_ledger_redb::{RedbJournal, RedbLedger, Transaction};
use smol::net::unix::UnixStream;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const ACCOUNTS: TableDefinition<'_, u32, u64> = TableDefinition::new("accounts");

/// Adds one to an account, in the ledger's transaction.
const PAY: Method<u32, u64> = Method::new("figures/pay");

/// How long each rate is measured.
const LONG: Duration = Duration::from_secs(1);

fn now() -> oncewire_driver::protocol::Instant {
    SmolRuntime::global().now()
}

/// What is measured by turns with other things.
type Step<'a> = &'a mut dyn FnMut() -> Result<()>;

/// Microseconds that the middle one of many runs takes, of each of these, by turns: whatever else the disk does hits all
/// of them.
fn medians<const N: usize>(mut steps: [Step<'_>; N]) -> Result<[f64; N]> {
    let mut times: [Vec<Duration>; N] = std::array::from_fn(|_| Vec::new());
    let begin = now();
    while now().since(begin) < LONG * N as u32 {
        for (step, times) in steps.iter_mut().zip(&mut times) {
            let start = now();
            step()?;
            times.push(now().since(start));
        }
    }
    Ok(times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64() * 1e6
    }))
}

fn main() -> Result<()> {
    let parent = std::env::args().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = parent.join(format!("oncewire-durable-figures-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let result = measure(&folder);
    std::fs::remove_dir_all(&folder)?;
    result
}

fn measure(folder: &Path) -> Result<()> {
    let database = Database::create(folder.join("redb"))?;
    let mut commits = 0;
    let mut commit = || {
        let transaction = database.begin_write()?;
        transaction.open_table(ACCOUNTS)?.insert(commits % 1000, 1)?;
        commits += 1;
        Ok(transaction.commit()?)
    };
    let server = server(RedbLedger::open(folder.join("ledger"))?)?;
    let plain = Client::new(Dial(server.clone()), ClientOptions::default());
    let journal = RedbJournal::open(folder.join("journal"))?;
    let (durable, _) = DurableClient::open(Dial(server), ClientOptions::default(), journal)?;
    let pay_plainly = |lane| {
        let plain = plain.clone();
        async move { plain.call(&PAY, &lane).await.ok().map(drop) }
    };
    let pay_durably = |lane| {
        let durable = durable.clone();
        async move {
            let delivery = durable.call("", &PAY, &lane).await;
            delivery.receipt.confirm();
            delivery.outcome.ok().map(drop)
        }
    };
    let mut one_plain = || Ok(smol::block_on(pay_plainly(1))?);
    let mut one_durable = || Ok(smol::block_on(pay_durably(1))?);
    let [commit_took, plain_took, durable_took] =
        medians([&mut commit, &mut one_plain, &mut one_durable])?;
    output::show!("one redb commit   {commit_took:7.0} µs");
    for (name, took) in [("plain", plain_took), ("durable", durable_took)] {
        output::show!("one {name:7} call  {took:7.0} µs  {:5.2} redb commits", took / commit_took);
    }
    for in_flight in [1, 16, 256, 1024] {
        let [plain, durable] = [rate(in_flight, pay_plainly)?, rate(in_flight, pay_durably)?];
        let ratio = durable / plain;
        output::show!(
            "{in_flight:4} in flight: {plain:7.0} /s plain, {durable:7.0} /s durable, {ratio:.2}"
        );
    }
    smol::block_on(durable.close());
    smol::block_on(plain.close());
    Ok(())
}

/// Calls a second with so many in flight.
fn rate<F>(in_flight: u32, call: impl Fn(u32) -> F + Copy) -> Result<f64>
where
    F: Future<Output = std::result::Result<(), CallFailure>>,
{
    let executor = smol::LocalExecutor::new();
    smol::block_on(executor.run(async {
        let begin = now();
        let lanes: Vec<_> = (0..in_flight)
            .map(|lane| {
                executor.spawn(async move {
                    let mut calls = 0_u64;
                    while now().since(begin) < LONG {
                        call(lane).await?;
                        calls += 1;
                    }
                    Ok::<_, CallFailure>(calls)
                })
            })
            .collect();
        let mut calls = 0;
        for lane in lanes {
            calls += lane.await?;
        }
        Ok(calls as f64 / now().since(begin).as_secs_f64())
    }))
}

fn server(ledger: RedbLedger) -> Result<Server> {
    let pay = |transaction: &mut Transaction, _: &_, account: u32| {
        transaction.with_table(ACCOUNTS, move |accounts| {
            let balance = accounts.get(account)?.map_or(0, |balance| balance.value()) + 1;
            accounts.insert(account, balance)?;
            Ok(balance)
        })
    };
    Ok(Server::builder("figures").ledger(ledger).transactional(&PAY, pay).build()?)
}

/// Dials by making a pair of sockets.
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
