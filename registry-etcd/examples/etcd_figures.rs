//! What calls cost on a ledger in an etcd of yours, beside its own transactions:
//! `cargo run --release -p oncewire-etcd --features ledger --example etcd_figures -- 10.0.0.1:2379 10.0.0.2:2379 10.0.0.3:2379`.
//!
//! In rounds, by turns. What it writes below `oncewire/ledgers/figures/` and `figures/` it removes at the end.
#![allow(missing_docs, unreachable_pub)]
#![allow(clippy::disallowed_methods, reason = "it measures time")]

#[path = "../../ledger-postgres/examples/figures/table.rs"]
mod table;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use oncewire_driver::{Client, ClientOptions, Method, Server};
use oncewire_etcd::ledger::{EtcdLedger, Transaction};
use oncewire_etcd::{Compare, Etcd, Op, Registry, Txn};
use oncewire_tcp::{TcpAcceptor, TcpConnector};
use table::{Failed, TURN, Table, Turn};

/// Adds to an account, and says what is there.
const PAY: Method<(u32, i64), i64> = Method::new("figures/pay");
const ROUNDS: usize = 10;
const IN_FLIGHT: [u32; 4] = [1, 16, 64, 256];
const FENCE: &str = "figures/fence";

fn main() -> ExitCode {
    let endpoints: Vec<String> = std::env::args().skip(1).collect();
    if endpoints.is_empty() {
        output::note!("usage: etcd_figures ENDPOINT...");
        return ExitCode::from(2);
    }
    match smol::block_on(measure(endpoints)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::note!("etcd_figures: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(endpoints: Vec<String>) -> Result<(), Failed> {
    let etcd = Etcd::builder(endpoints).build()?;
    let registry = Registry::new(etcd.clone()).with_lease(Duration::from_secs(20));
    let ledger = EtcdLedger::open(&registry, "figures").await?;
    let server = Server::builder("figures").ledger(ledger).transactional(&PAY, pay).build()?;
    let acceptor = TcpAcceptor::bind("127.0.0.1:0").await?;
    let (address, serving) = (acceptor.local_addr(), server.clone());
    smol::spawn(async move { serving.serve(acceptor).await }).detach();
    let client = Client::new(TcpConnector::new(address), ClientOptions::default());
    etcd.put(FENCE, "", None).await?;
    let fence = etcd.get(FENCE).await?.ok_or("the fence has gone")?.create_revision;

    let mut table = Table::default();
    for _ in 0..ROUNDS {
        for in_flight in [1, 16] {
            let etcd = etcd.clone();
            let by_hand = move |number: u32| {
                let etcd = etcd.clone();
                async move {
                    // As a service does it that has a fence and one effect.
                    let txn = Txn::new()
                        .when(Compare::create_revision(FENCE, fence))
                        .then(Op::put(format!("figures/{number}"), [0; 8], None));
                    match etcd.transact(&txn).await?.succeeded {
                        true => Ok(()),
                        false => Err("the fence has gone".into()),
                    }
                }
            };
            let name = format!("a transaction by hand, {in_flight} at a time");
            table.note(&name, turn(in_flight, by_hand).await?);
        }
        for in_flight in IN_FLIGHT {
            let client = client.clone();
            let call = move |number: u32| {
                let client = client.clone();
                async move { Ok(client.call(&PAY, &(number, 1)).await.ok().map(|_balance| ())?) }
            };
            table.note(&format!("{in_flight} calls in flight"), turn(in_flight, call).await?);
        }
    }
    table.show();
    client.close().await;
    server.drain(Duration::ZERO).await;
    drop(server);
    // The next leader of the ledger's election: the one before writes nothing any more.
    let next = registry.election("ledger-figures")?.campaign("the end").await?;
    remove(&etcd, "oncewire/ledgers/figures/").await?;
    remove(&etcd, "figures/").await?;
    Ok(next.resign().await?)
}

async fn remove(etcd: &Etcd, prefix: &str) -> Result<(), Failed> {
    for entry in etcd.get_prefix(prefix, 0).await?.entries {
        etcd.transact(&Txn::new().then(Op::delete(entry.key))).await?;
    }
    Ok(())
}

fn pay(
    transaction: &mut Transaction,
    _: &oncewire_driver::Context,
    (account, cents): (u32, i64),
) -> Result<i64, oncewire_driver::ledger::Rollback> {
    let key = account.to_le_bytes();
    let before = transaction.get(key).and_then(|bytes| bytes.try_into().ok());
    let after = before.map_or(0, i64::from_le_bytes) + cents;
    transaction.put(key, after.to_le_bytes())?;
    Ok(after)
}

/// So many at a time, each of which begins again when it is done.
async fn turn<F>(
    in_flight: u32,
    once: impl Fn(u32) -> F + Send + Sync + Clone + 'static,
) -> Result<Turn, Failed>
where
    F: Future<Output = Result<(), Failed>> + Send + 'static,
{
    let begun = Instant::now();
    let tasks = (0..in_flight).map(|number| {
        let once = once.clone();
        smol::spawn(async move {
            let mut times = Vec::new();
            while begun.elapsed() < TURN {
                let from = Instant::now();
                once(number).await?;
                times.push(from.elapsed());
            }
            Ok::<_, Failed>(times)
        })
    });
    let tasks: Vec<_> = tasks.collect();
    let mut times = Vec::new();
    for task in tasks {
        times.push(task.await?);
    }
    Ok(Turn::of(begun, times))
}
