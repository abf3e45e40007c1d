//! What a ledger costs on this disk: `cargo run --release -p oncewire-ledger-redb --example figures [FOLDER]`.
//!
//! Rates of a disk say little about another one, so everything is told beside the disk's own: one write and one
//! `fdatasync`, and one commit of redb.
#![allow(missing_docs)]

use std::error::Error;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oncewire_driver::core::wire::Grants;
use oncewire_driver::core::{CallRecord, RecordState, SessionId, Xid};
use oncewire_driver::ledger::{CallEntry, SessionEntry};
use oncewire_driver::{
    BoxFuture, BoxStream, Client, ClientOptions, Connect, DurableClient, Method, Runtime, Server,
    SmolRuntime, Subject,
};
use oncewire_ledger_redb::redb::{Database, ReadableTable, TableDefinition};
use oncewire_ledger_redb::{RedbJournal, RedbLedger, Transaction};
use smol::net::unix::UnixStream;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const ACCOUNTS: TableDefinition<'_, u32, u64> = TableDefinition::new("accounts");
const SESSIONS: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("oncewire.sessions");
const CALLS: TableDefinition<'_, &[u8; 18], &[u8]> = TableDefinition::new("oncewire.calls");

/// Adds one to an account, in the ledger's transaction.
const PAY: Method<u32, u64> = Method::new("figures.pay");
/// Does nothing, and is recorded.
const NOTHING: Method<u32, u64> = Method::new("figures.nothing");

/// How long each rate is measured.
const LONG: Duration = Duration::from_secs(1);

fn now() -> oncewire_driver::core::Instant {
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
    let folder = parent.join(format!("oncewire-figures-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let result = measure(&folder);
    std::fs::remove_dir_all(&folder)?;
    result
}

fn measure(folder: &Path) -> Result<()> {
    let raw = std::fs::File::create(folder.join("raw"))?;
    raw.write_all_at(&[0; 65536], 0)?;
    raw.sync_all()?;
    let mut sync = || Ok(raw.write_all_at(&[1; 4096], 0).and_then(|()| raw.sync_data())?);

    let database = Database::create(folder.join("redb"))?;
    let mut commits = 0;
    let mut commit = || {
        let transaction = database.begin_write()?;
        transaction.open_table(ACCOUNTS)?.insert(commits % 1000, 1)?;
        commits += 1;
        Ok(transaction.commit()?)
    };

    let server = server(RedbLedger::open(folder.join("ledger"))?)?;
    let client = Client::new(Dial(server.clone()), ClientOptions::default());
    let call = |method: &'static Method<u32, u64>| {
        let mut number = 0;
        let client = &client;
        move || -> Result<()> {
            number += 1;
            smol::block_on(async { client.call(method, &(number % 1000)).await }).ok()?;
            Ok(())
        }
    };
    let (mut pay, mut nothing) = (call(&PAY), call(&NOTHING));
    let [sync_took, commit_took, paid, recorded] =
        medians([&mut sync, &mut commit, &mut pay, &mut nothing])?;
    println!("one write and fdatasync {sync_took:9.0} µs");
    println!("one redb commit         {commit_took:9.0} µs");
    for (name, took) in [("transactional", paid), ("recorded", recorded)] {
        let ratio = took / commit_took;
        println!("one {name:13} call {took:9.0} µs   {ratio:6.2} redb commits");
    }
    for (name, method) in [("transactional", &PAY), ("recorded", &NOTHING)] {
        for in_flight in [1, 16, 64, 256, 1024] {
            let [before] = medians([&mut sync])?;
            let rate = rate(&client, method, in_flight)?;
            let [after] = medians([&mut sync])?;
            let ratio = rate * (before + after) / 2e6;
            println!("{in_flight:4} {name:13} in flight {rate:9.0} /s   {ratio:6.1} × fdatasync");
        }
    }
    smol::block_on(client.close());
    durable(folder, server, &mut commit)?;
    recovery(folder)
}

/// What transactional calls cost a client that has a journal on the same disk.
fn durable(folder: &Path, server: Server, commit: Step<'_>) -> Result<()> {
    let journal = RedbJournal::open(folder.join("journal"))?;
    let (client, _) = DurableClient::open(Dial(server), ClientOptions::default(), journal)?;
    let mut pay = || {
        let told = smol::block_on(client.call("", &PAY, &1));
        told.receipt.confirm();
        told.outcome.ok()?;
        Ok(())
    };
    let [commit_took, paid] = medians([commit, &mut pay])?;
    let ratio = paid / commit_took;
    println!("one durable       call {paid:9.0} µs   {ratio:6.2} redb commits");
    for in_flight in [1, 16, 256, 1024] {
        let rate = smol::block_on(async {
            let begin = now();
            let lanes: Vec<_> = (0..in_flight)
                .map(|lane: u32| {
                    let client = client.clone();
                    smol::spawn(async move {
                        let mut calls = 0_u64;
                        while now().since(begin) < LONG {
                            let told = client.call("", &PAY, &lane).await;
                            told.outcome.ok()?;
                            told.receipt.confirm();
                            calls += 1;
                        }
                        Ok::<_, oncewire_driver::CallFailure>(calls)
                    })
                })
                .collect();
            let mut calls = 0;
            for lane in lanes {
                calls += lane.await?;
            }
            Ok::<_, oncewire_driver::CallFailure>(calls as f64 / now().since(begin).as_secs_f64())
        })?;
        println!("{in_flight:4} durable, transactional in flight {rate:9.0} /s");
    }
    smol::block_on(client.close());
    Ok(())
}

/// Calls a second with so many in flight.
fn rate(client: &Client, method: &'static Method<u32, u64>, in_flight: u32) -> Result<f64> {
    smol::block_on(async {
        let begin = now();
        let lanes: Vec<_> = (0..in_flight)
            .map(|lane| {
                let client = client.clone();
                smol::spawn(async move {
                    let mut calls = 0_u64;
                    while now().since(begin) < LONG {
                        client.call(method, &lane).await.ok()?;
                        calls += 1;
                    }
                    Ok::<_, oncewire_driver::CallFailure>(calls)
                })
            })
            .collect();
        let mut calls = 0;
        for lane in lanes {
            calls += lane.await?;
        }
        Ok(calls as f64 / now().since(begin).as_secs_f64())
    })
}

fn server(ledger: RedbLedger) -> Result<Server> {
    let builder = Server::builder("figures")
        .ledger(ledger)
        .transactional(&PAY, |transaction: &mut Transaction, _, account| {
            let mut accounts = transaction.open_table(ACCOUNTS)?;
            let balance = accounts.get(account)?.map_or(0, |balance| balance.value()) + 1;
            accounts.insert(account, balance)?;
            Ok(balance)
        })
        .method(&NOTHING, |_, _| async { 0 });
    Ok(builder.build()?)
}

/// Opens a ledger of a million records, closed in good order and not.
fn recovery(folder: &Path) -> Result<()> {
    let (path, crashed) = (folder.join("million"), folder.join("crashed"));
    drop(RedbLedger::open(&path)?);
    let database = Database::open(&path)?;
    let transaction = database.begin_write()?;
    let grants = Grants {
        slots: 1024,
        request_len_max: 1 << 20,
        reply_len_max: 1 << 20,
        lease_ms: 300_000,
        keepalive_ms: 10_000,
    };
    {
        let mut sessions = transaction.open_table(SESSIONS)?;
        let mut calls = transaction.open_table(CALLS)?;
        for session in 0..1000_u128 {
            let id = session.wrapping_mul(0x9e37_79b9_7f4a_7c15_d6e8_feb8_6659_fd93).to_be_bytes();
            let id = SessionId::from_bytes(id);
            let entry = SessionEntry { id, subject: Subject::Nobody, grants, seen: 0 };
            sessions.insert(&id.to_bytes(), &entry.encode()[..])?;
            for slot in 0..1000_u16 {
                let xid = Xid::new(u64::from(slot) + 1024).ok_or("an xid")?;
                let state = RecordState::Done(&[7; 32]);
                let record = CallRecord { xid, digest: 7, state };
                let mut bytes = Vec::new();
                CallEntry { session: id, slot, record }.encode(&mut bytes);
                let mut key = [0; 18];
                key[..16].copy_from_slice(&id.to_bytes());
                key[16..].copy_from_slice(&slot.to_be_bytes());
                calls.insert(&key, &bytes[..])?;
            }
        }
    }
    transaction.commit()?;
    // As a crash leaves it.
    std::fs::copy(&path, &crashed)?;
    drop(database);
    let bytes = std::fs::metadata(&path)?.len();
    for (how, path) in [("closed", path), ("crashed", crashed)] {
        let begin = now();
        let ledger = RedbLedger::open(path)?;
        let opened = now().since(begin).as_secs_f64();
        let server = server(ledger)?;
        let took = now().since(begin).as_secs_f64();
        let kept = server.counters().kept_bytes;
        println!(
            "recovery, 1,000,000 records, {how:7} {took:5.2} s (open {opened:.2} s), {bytes} bytes of file, {kept} \
             bytes of replies"
        );
    }
    Ok(())
}

/// Dials by making a pair of sockets.
struct Dial(Server);

impl Connect for Dial {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async {
            let (ours, theirs) = UnixStream::pair()?;
            self.0.serve_stream(Box::new(theirs), Subject::Nobody);
            Ok(Box::new(ours) as BoxStream)
        })
    }

    fn address(&self) -> String {
        "a socket pair".to_owned()
    }
}
