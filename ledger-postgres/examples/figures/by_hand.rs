//! What the database does by itself, and what services do by hand.

use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use oncewire_ledger_postgres::postgres::{Client, NoTls};

use super::{Failed, TURN, Turn};

pub const PAY: &str = "INSERT INTO accounts VALUES ($1, $2) \
    ON CONFLICT (id) DO UPDATE SET cents = accounts.cents + $2 RETURNING cents";

/// How many accounts there are.
pub const ACCOUNTS: i64 = 1_024;

/// Connections to a database.
pub struct ByHand {
    clients: Vec<Client>,
    key: AtomicI64,
}

impl ByHand {
    pub fn connect(connection: &str, connections: usize) -> Result<ByHand, Failed> {
        let mut clients = Vec::new();
        for _ in 0..connections {
            clients.push(Client::connect(connection, NoTls)?);
        }
        Ok(ByHand { clients, key: AtomicI64::new(0) })
    }

    /// The database's own commit: one row, in a transaction of its own, on so many connections.
    pub fn inserts(&mut self, connections: usize) -> Result<Turn, Failed> {
        self.on_each(connections, |client, begun, _| {
            let insert = client.prepare("INSERT INTO lines VALUES ($1)")?;
            again(begun, || {
                client.execute(&insert, &[&1i64])?;
                Ok(())
            })
        })
    }

    /// An idempotency key as services keep one: effect, key and reply in one transaction.
    pub fn keys(&mut self, connections: usize) -> Result<Turn, Failed> {
        self.on_each(connections, |client, begun, key| {
            let pay = client.prepare(PAY)?;
            let keep = client.prepare("INSERT INTO keys VALUES ($1, $2)")?;
            again(begun, || {
                let key = key.fetch_add(1, Ordering::Relaxed);
                let mut transaction = client.transaction()?;
                let account = (key % ACCOUNTS) as i32;
                let cents: i64 = transaction.query_one(&pay, &[&account, &1i64])?.get(0);
                transaction.execute(&keep, &[&key, &cents])?;
                Ok(transaction.commit()?)
            })
        })
    }

    fn on_each(
        &mut self,
        connections: usize,
        work: fn(&mut Client, Instant, &AtomicI64) -> Result<Vec<Duration>, Failed>,
    ) -> Result<Turn, Failed> {
        let (begun, key) = (Instant::now(), &self.key);
        let times = thread::scope(|scope| {
            let clients = self.clients.iter_mut().take(connections);
            let threads: Vec<_> =
                clients.map(|client| scope.spawn(move || work(client, begun, key))).collect();
            let join = |thread: thread::ScopedJoinHandle<'_, Result<Vec<_>, Failed>>| {
                thread.join().map_err(|_| "a thread panicked")?
            };
            threads.into_iter().map(join).collect::<Result<Vec<_>, Failed>>()
        })?;
        Ok(Turn::of(begun, times))
    }
}

/// Does something again and again until a turn is over.
fn again(
    begun: Instant,
    mut once: impl FnMut() -> Result<(), Failed>,
) -> Result<Vec<Duration>, Failed> {
    let mut times = Vec::new();
    while begun.elapsed() < TURN {
        let from = Instant::now();
        once()?;
        times.push(from.elapsed());
    }
    Ok(times)
}
