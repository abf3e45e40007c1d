//! Callers, kills, and the comparison of the database with the outcomes that callers got.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use oncewire::{Client, ClientOptions, Outcome, UnixConnector, Unknown};
use smol::channel::{Receiver, Sender, unbounded};

use crate::Error;
use crate::bank::{self, BankClient};

const ACCOUNTS: u32 = 4;
const CLIENTS: u32 = 3;
/// Calls in flight of each client.
const LANES: u32 = 16;
/// Answers between two kills.
const BETWEEN: u64 = 400;
/// No call of this program needs it.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);

/// What the outcomes imply: cents and changes of each account, and the other results.
#[derive(Debug, Default)]
struct Books {
    accounts: BTreeMap<u32, (i64, i64)>,
    refused: u64,
    notices: u64,
    interrupted: u64,
}

struct Bank {
    child: Child,
}

impl Bank {
    fn start(database: &Path, socket: &Path) -> Result<Bank, Error> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("serve").arg(database).arg(socket).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut bank = Bank { child: command.spawn()? };
        let stdout = bank.child.stdout.take().ok_or("no stdout")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        if line != "listening\n" {
            return Err("the server did not start".into());
        }
        Ok(bank)
    }
}

impl Drop for Bank {
    /// `SIGKILL`: nothing is written or sent any more.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is left to the system.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What all callers share.
struct Shared {
    books: Mutex<Books>,
    /// One for each answer; or what went wrong.
    answers: Sender<Result<(), String>>,
    stop: AtomicBool,
}

impl Shared {
    fn book(&self, with: impl FnOnce(&mut Books)) {
        with(&mut self.books.lock().unwrap_or_else(PoisonError::into_inner));
        // A counter that has gone is not the caller's concern.
        let _ = self.answers.try_send(Ok(()));
    }
}

/// Makes calls, one after another, until it is stopped.
async fn lane(bank: BankClient, shared: &Shared, lane: u32) -> Result<(), String> {
    let mut round = lane;
    while !shared.stop.load(Ordering::SeqCst) {
        round = round.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let account = round >> 8 & (ACCOUNTS - 1);
        let cents = i64::from(round >> 12 & 63) + 1;
        match round >> 28 {
            0 => notice(&bank, shared, round).await?,
            1 => {
                let outcome = bank.balance(account).timeout(GIVE_UP_AFTER).await;
                outcome.ok().map_err(|failure| format!("a balance: {failure}"))?;
            }
            2..=7 => {
                let outcome = bank.withdraw(account, 4 * cents).timeout(GIVE_UP_AFTER).await;
                book(shared, account, -4 * cents, outcome)?;
            }
            _ => {
                let outcome = bank.deposit(account, cents).timeout(GIVE_UP_AFTER).await;
                book(shared, account, cents, outcome)?;
            }
        }
    }
    Ok(())
}

/// A transactional call is executed once or not at all, and its caller knows which.
fn book(shared: &Shared, account: u32, cents: i64, outcome: Outcome<i64>) -> Result<(), String> {
    match outcome {
        Outcome::Reply(_) => shared.book(|books| {
            let (balance, changes) = books.accounts.entry(account).or_default();
            *balance += cents;
            *changes += 1;
        }),
        Outcome::NotExecuted(_) => shared.book(|books| books.refused += 1),
        other => return Err(format!("a transactional call ended as {other:?}")),
    }
    Ok(())
}

/// A recorded call is never run again: one that the kill interrupted is unknown.
async fn notice(bank: &BankClient, shared: &Shared, number: u32) -> Result<(), String> {
    match bank.notice(number).timeout(GIVE_UP_AFTER).await {
        Outcome::Reply(written) if written == number => shared.book(|books| books.notices += 1),
        Outcome::Unknown(Unknown::Interrupted, _) => shared.book(|books| books.interrupted += 1),
        other => return Err(format!("a recorded call ended as {other:?}")),
    }
    Ok(())
}

/// Kills the bank so many times under load, and compares.
///
/// # Errors
/// What went wrong, or differs.
pub fn run(kills: u64) -> Result<(), Error> {
    let parent = std::env::temp_dir();
    let folder = Folder(parent.join(format!("oncewire-sqlite-{}", std::process::id())));
    std::fs::create_dir_all(&folder.0)?;
    let (database, socket) = (folder.0.join("bank.sqlite"), folder.0.join("bank.socket"));
    let (answers, counted) = unbounded();
    let (books, stop) = (Mutex::default(), AtomicBool::new(false));
    let shared = Arc::new(Shared { books, answers, stop });
    smol::block_on(under_kills(&shared, &counted, kills, &database, &socket))?;
    let told = shared.books.lock().unwrap_or_else(PoisonError::into_inner);
    let found = bank::accounts(&database)?;
    let expected: Vec<(u32, i64, i64)> =
        told.accounts.iter().map(|(id, (cents, changes))| (*id, *cents, *changes)).collect();
    for ((id, cents, changes), told) in found.iter().zip(&expected) {
        output::show!(
            "account {id}: {cents:7} cents after {changes:5} changes; told {} after {}",
            told.1,
            told.2
        );
    }
    if found != expected {
        return Err(
            format!("the database holds {found:?}, and callers were told {expected:?}").into()
        );
    }
    output::show!(
        "{kills} kills, {} calls rolled back alone, {} notices, {} of them interrupted: every balance is exact",
        told.refused,
        told.notices + told.interrupted,
        told.interrupted
    );
    Ok(())
}

async fn under_kills(
    shared: &Arc<Shared>,
    counted: &Receiver<Result<(), String>>,
    kills: u64,
    database: &Path,
    socket: &Path,
) -> Result<(), Error> {
    let mut bank = Bank::start(database, socket)?;
    let options = ClientOptions::default().with_backoff_max(Duration::from_millis(50));
    let clients: Vec<Client> =
        (0..CLIENTS).map(|_| Client::new(UnixConnector::new(socket), options.clone())).collect();
    let lanes: Vec<_> = (0..CLIENTS * LANES)
        .map(|number| {
            let client = clients[(number % CLIENTS) as usize].clone();
            let shared = shared.clone();
            smol::spawn(async move {
                if let Err(what) = lane(BankClient(client), &shared, number).await {
                    let _ = shared.answers.try_send(Err(what));
                }
            })
        })
        .collect();
    for kill in 0..=kills {
        if kill > 0 {
            drop(bank);
            bank = Bank::start(database, socket)?;
        }
        for _ in 0..BETWEEN {
            counted.recv().await??;
        }
    }
    shared.stop.store(true, Ordering::SeqCst);
    for lane in lanes {
        lane.await;
    }
    while let Ok(last) = counted.try_recv() {
        last?;
    }
    for client in clients {
        client.close().await;
    }
    drop(bank);
    Ok(())
}
