//! Transactional calls, from a client in this process.

use std::time::{Duration, Instant};

use oncewire_driver::{Client, ClientOptions, Method, Server};
use oncewire_ledger_postgres::{PostgresLedger, Transaction};

use super::by_hand::{ACCOUNTS, PAY};
use super::place::Place;
use super::{Failed, TURN, Turn};

const DEPOSIT: Method<(i32, i64), i64> = Method::new("figures/deposit");

/// A client and a server in this process, with a socket pair between.
pub struct Calls {
    client: Client,
    server: Server,
    place: Place,
}

impl Calls {
    pub fn start(ledger: PostgresLedger) -> Result<Calls, Failed> {
        let server = Server::builder("figures")
            .ledger(ledger)
            .transactional(&DEPOSIT, |transaction: &mut Transaction, _, (account, cents)| {
                Ok(transaction.query_one(PAY, &[&account, &cents])?.get(0))
            })
            .build()?;
        let place = Place::of(&server);
        let client = Client::new(place.clone(), ClientOptions::default());
        Ok(Calls { client, server, place })
    }

    /// So many callers, each of which begins its next call when it has the reply to the one before.
    pub fn turn(&self, in_flight: i32) -> Result<Turn, Failed> {
        let begun = Instant::now();
        let caller = |number: i32| {
            let client = self.client.clone();
            smol::spawn(async move {
                let mut times = Vec::new();
                let mut account = number;
                while begun.elapsed() < TURN {
                    let from = Instant::now();
                    account = (account + in_flight) % ACCOUNTS as i32;
                    client.call(&DEPOSIT, &(account, 1)).await.ok()?;
                    times.push(from.elapsed());
                }
                Ok::<_, oncewire_driver::CallFailure>(times)
            })
        };
        let callers: Vec<_> = (0..in_flight).map(caller).collect();
        let times = smol::block_on(async {
            let mut times = Vec::new();
            for caller in callers {
                times.push(caller.await?);
            }
            Ok::<_, Failed>(times)
        })?;
        Ok(Turn::of(begun, times))
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        self.place.close();
        smol::block_on(async {
            self.client.close().await;
            self.server.drain(Duration::ZERO).await;
        });
    }
}
