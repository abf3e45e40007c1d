//! Streams and uploads of a server with a ledger, which is killed in the middle of them.
#![allow(missing_docs, unreachable_pub)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use oncewire::ledger::Rollback;
use oncewire::redb::redb::{ReadableTable, TableDefinition};
use oncewire::redb::{Snapshots, Transaction};
use oncewire::stream::{Commit, Incoming, Outgoing, UploadBreak};
use oncewire::{CallFailure, ClientOptions, Context, Executed, NotExecuted, Server};
use oncewire_sim::{AnyError, Death, Disks, Faults, Host, Sim};

/// How many items each upload has brought, once for each time that it was committed.
const KEPT: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("kept");
const LEN_MAX: u64 = 120;
/// An upload of it is rolled back.
const UNLUCKY: u64 = 7;

#[oncewire::service(name = "files")]
trait Files {
    /// Keeps the number of the items, in the ledger's transaction.
    #[rpc(chunk_len = 64)]
    async fn keep(
        &self,
        context: Context,
        file: u64,
        items: Incoming<u64>,
    ) -> Commit<Transaction, u64>;
    /// The same by an effect that no transaction takes back.
    #[rpc(chunk_len = 64, resumable)]
    async fn send(&self, context: Context, file: u64, items: Incoming<u64>) -> u64;
    /// The numbers below the one that was kept.
    #[rpc(chunk_len = 64, resumable)]
    async fn read(&self, context: Context, from: u64, file: u64) -> Outgoing<u64>;
    #[rpc(idempotent)]
    async fn len(&self, context: Context, file: u64) -> u64;
}

/// On a ledger of any kind.
#[oncewire::service(name = "sums")]
trait Sums {
    type Transaction;
    /// Returns the sum; it cannot be uploaded if that is 13.
    async fn sum(&self, context: Context, numbers: Incoming<u64>)
    -> Commit<Self::Transaction, u64>;
}

struct OnRedb;

impl Sums for OnRedb {
    type Transaction = Transaction;

    async fn sum(&self, _: Context, mut numbers: Incoming<u64>) -> Commit<Transaction, u64> {
        let mut sum = 0;
        while let Some(number) = numbers.next().await {
            sum += number;
        }
        Commit::new(move |transaction: &mut Transaction, _| {
            transaction.open_table(KEPT)?.insert(99, &[1_u8][..])?;
            assert_ne!(sum, 13, "an unlucky number");
            Ok(sum)
        })
    }
}

struct Store {
    sim: Sim,
    snapshots: Snapshots,
}

impl Store {
    fn kept(&self, file: u64) -> Option<u64> {
        let kept = self.snapshots.latest().open_table(KEPT).ok()?;
        let row = kept.get(file).ok()??;
        row.value().last().map(|len| u64::from(*len))
    }
}

/// Reads all, and sees that each comes once and in order.
async fn count(sim: &Sim, mut items: Incoming<u64>) -> u64 {
    let mut read = 0;
    while let Some(item) = items.next().await {
        if item != read {
            sim.fail(format!("item {item} was read behind {read} others"));
        }
        read += 1;
    }
    read
}

impl Files for Store {
    async fn keep(&self, _: Context, file: u64, items: Incoming<u64>) -> Commit<Transaction, u64> {
        let len = count(&self.sim, items).await;
        Commit::new(move |transaction: &mut Transaction, _| {
            let mut table = transaction.open_table(KEPT)?;
            let mut row = table.get(file)?.map_or(Vec::new(), |row| row.value().to_vec());
            row.push(len as u8);
            table.insert(file, &*row)?;
            if file % 10 == UNLUCKY && row.len() == 1 && len % 2 == 1 {
                return Err(Rollback::new("an odd number of items"));
            }
            Ok(len)
        })
    }

    async fn send(&self, _: Context, file: u64, items: Incoming<u64>) -> u64 {
        let len = count(&self.sim, items).await;
        self.sim.effect(format!("sent {file}"));
        len
    }

    async fn read(&self, _: Context, from: u64, file: u64) -> Outgoing<u64> {
        Outgoing::new(smol::stream::iter(from..self.kept(file).unwrap_or(0)))
    }

    async fn len(&self, _: Context, file: u64) -> u64 {
        self.kept(file).unwrap_or(0)
    }
}

fn server(host: &Host) -> Result<Server, AnyError> {
    let ledger = host.ledger()?;
    let store = Store { sim: host.sim(), snapshots: ledger.snapshots() };
    Ok(host.builder("files").ledger(ledger).service(FilesServer(store)).build()?)
}

fn kept(disks: &Disks<'_>) -> Result<Vec<String>, AnyError> {
    let Some(kept) = disks.table(KEPT)? else { return Ok(Vec::new()) };
    let mut all = Vec::new();
    for row in kept.iter()? {
        let (file, times) = row?;
        all.extend(times.value().iter().map(|_| format!("kept {}", file.value())));
    }
    Ok(all)
}

/// Uploads `len` items until they are kept, or that is in doubt for good. Whether they are.
async fn keep(sim: &Sim, files: &FilesClient, file: u64, len: u64) -> Option<u64> {
    for _ in 0..60 {
        let attempt = async {
            let mut upload = files.keep(file);
            for item in 0..len {
                assert_eq!(upload.position(), item);
                upload.send(item).await?;
            }
            let mut result = upload.commit().await;
            if result.as_ref().is_err_and(|error| error.executed() == Executed::Unknown) {
                // Where there is a ticket, this waits for the answer.
                result = upload.commit().await;
            }
            result
        };
        let result = sim.record(format!("kept {file}"), attempt).await;
        match result {
            Ok(kept) => {
                assert_eq!(kept, len);
                return Some(kept);
            }
            Err(error) if error.executed() == Executed::No => {
                // It was rolled back, lost, or could not be sent: another upload is another attempt.
                if file % 10 == UNLUCKY && len % 2 == 1 {
                    return None;
                }
            }
            Err(_) => return None,
        }
        sim.sleep(Duration::from_millis(300)).await;
    }
    None
}

async fn send(sim: &Sim, files: &FilesClient, file: u64, len: u64) {
    let attempt = async {
        let mut upload = files.send(file);
        for item in 0..len {
            upload.send(item).await?;
        }
        upload.commit().await
    };
    let _ = sim.record(format!("sent {file}"), attempt).await;
}

/// Reads all of a file, across whatever happens: one of a resumable method continues by itself, and one that has broken says
/// where.
async fn read(sim: &Sim, files: &FilesClient, file: u64, len: u64) {
    let mut next = 0;
    for _ in 0..100 {
        let mut items = files.read(file).from_position(next);
        loop {
            match items.next().await {
                Some(Ok(item)) => {
                    assert_eq!(item, next, "of file {file}");
                    next += 1;
                }
                Some(Err(error)) => {
                    assert_eq!(error.position, next, "{error}");
                    break;
                }
                None => {
                    assert_eq!(next, len, "of file {file}");
                    return;
                }
            }
        }
        sim.sleep(Duration::from_millis(300)).await;
    }
}

async fn world(sim: Sim) {
    let server = sim.server("files", server);
    server.effects(kept);
    for client in 0..2 {
        let mut options = ClientOptions::default();
        options.timeout = Duration::from_secs(3);
        let files = FilesClient(sim.client_with(&format!("client {client}"), &server, options));
        let (sim, mut rng) = (sim.clone(), sim.rng(client));
        sim.clone().spawn(async move {
            for file in client * 10..client * 10 + 9 {
                let len = rng.below(LEN_MAX);
                if let Some(len) = keep(&sim, &files, file, len).await {
                    read(&sim, &files, file, len).await;
                }
                send(&sim, &files, file, len).await;
            }
        });
    }
}

#[test]
fn c335_uploads_and_streams_survive_crashes_of_a_server_with_a_ledger() {
    let report = oncewire_sim::run(0..40, world);
    println!("{report:?}");
    assert!(report.outcomes[0] > 1_000 && report.faults["crashes"] > 100, "{report:?}");
}

#[test]
fn c336_a_server_that_dies_at_any_frame_of_an_upload_commits_it_once() {
    for frame in 1..24 {
        let report = oncewire_sim::run(0..3, move |sim| async move {
            sim.set_faults(Faults::NONE);
            let server = sim.server("files", server);
            server.effects(kept);
            server.up().await;
            let files = FilesClient(sim.client("client", &server));
            server.crash_at_frame(frame, Death::PowerCut);
            assert_eq!(keep(&sim, &files, 1, 60).await, Some(60));
            server.crash_at_frame(frame, Death::PowerCut);
            read(&sim, &files, 1, 60).await;
            assert_eq!(files.len(1).await.ok(), Ok(60));
        });
        assert!(report.outcomes[0] == 3 && report.outcomes[3] == 0, "{report:?}");
    }
}

#[test]
fn c337_a_commit_that_is_rolled_back_leaves_nothing_and_may_be_made_again() {
    oncewire_sim::run(0..8, |sim| async move {
        sim.set_faults(Faults::NONE);
        let server = sim.server("files", server);
        let files = FilesClient(sim.client("client", &server));
        let mut odd = files.keep(UNLUCKY);
        for item in 0..31 {
            odd.send(item).await.unwrap();
        }
        for _ in 0..2 {
            let error = odd.commit().await.unwrap_err();
            assert_eq!(error.executed(), Executed::No);
            assert!(matches!(error.why, UploadBreak::Commit(_)), "{error}");
        }
        assert_eq!(files.len(UNLUCKY).await.ok(), Ok(0));
        // Another upload makes it no longer the first, so that the rolled back one succeeds.
        let mut even = files.keep(UNLUCKY);
        even.send(0).await.unwrap();
        even.send(1).await.unwrap();
        assert_eq!(even.commit().await, Ok(2));
        assert_eq!(odd.commit().await, Ok(31));
        let again = odd.commit().await.unwrap_err();
        assert_eq!(again.why, UploadBreak::Over);
        assert_eq!(files.len(UNLUCKY).await.ok(), Ok(31));
        // It is gone at the server, too.
        let mut gone = files.keep(UNLUCKY).resume(odd.id());
        let error = gone.ready().await.unwrap_err();
        assert_eq!(
            (error.why, error.executed()),
            (UploadBreak::NothingToResume, Executed::Unknown)
        );
    });
}

#[test]
fn c338_a_commit_that_panics_is_rolled_back_and_hooks_are_around_it() {
    oncewire_sim::run(0..4, |sim| async move {
        sim.set_faults(Faults::NONE);
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let names = seen.clone();
        let server = sim.server("sums", move |host| {
            let names = names.clone();
            let builder = host.builder("sums").ledger(host.ledger()?).service(SumsServer(OnRedb));
            let builder = builder.around(|_, next| next.run());
            Ok(builder
                .around_transactional(move |_, next| {
                    names.lock().unwrap().push(next.method().to_string());
                    next.run()
                })
                .build()?)
        });
        server.check("nothing is kept", |disks| match disks.table(KEPT)? {
            Some(kept) if kept.get(99)?.is_some() => Err("something is".into()),
            _ => Ok(()),
        });
        let sums = SumsClient(sim.client("client", &server));
        let mut unlucky = sums.sum();
        unlucky.send(6).await.unwrap();
        unlucky.send(7).await.unwrap();
        for _ in 0..2 {
            let error = unlucky.commit().await.unwrap_err();
            let aborted = CallFailure::NotExecuted(NotExecuted::Aborted);
            assert_eq!(error.why, UploadBreak::Commit(aborted));
        }
        server.crash(Death::Kill);
        let error = unlucky.commit().await.unwrap_err();
        assert_eq!((error.why, error.executed()), (UploadBreak::Lost, Executed::No));
        let seen: Vec<_> = seen.lock().unwrap().clone();
        assert!(seen.len() >= 2 && seen.iter().all(|name| name == "sums/sum"), "{seen:?}");
    });
}
