//! Kills the server and its clients with `SIGKILL` while money moves, starts them again, and holds every balance and
//! every outcome against the bank's books.

use std::time::Duration;

use crate::address::Address;
use crate::chance::{Rng, pause, within};
use crate::cli::{CrashTestArgs, Mutant};
use crate::client::connect;
use crate::clients::{Clients, GIVE_UP_AFTER, Plan};
use crate::process::{ServerProcess, TempDir};

/// Of a hundred kills, those that hit the server.
const SERVER_PERCENT: u64 = 70;
/// Longest time between two kills, in milliseconds.
const LIFE_MS: u64 = 60;
/// How long a kill may take at most, and the start of what was killed, on a machine that is busy.
const KILL_TAKES: Duration = Duration::from_secs(5);

/// Runs the test; whether the books agree with every outcome that clients saw.
///
/// # Errors
/// Why it could not be tried.
pub(crate) async fn run(args: &CrashTestArgs, seed: u64) -> Result<bool, String> {
    let dir = TempDir::new()?;
    let address = Address::Unix(dir.file("bank.sock"));
    let mut arguments = vec!["--ledger".to_owned(), dir.file("bank.ledger").display().to_string()];
    arguments.extend(args.transactional.then(|| "--transactional".to_owned()));
    if args.mutant == Some(Mutant::HastyLedger) {
        arguments.push("--mutant=hasty-ledger".to_owned());
    }
    let server = ServerProcess::start_with(&address, &arguments).await?;
    let test = async {
        let plan = Plan {
            address: address.clone(),
            durable: args.durable,
            is_exact: args.transactional,
            seed,
        };
        let clients = Clients::start(plan).await?;
        let test = CrashTest { address, arguments, server, killed: 0, clients };
        test.run(args.kills, Rng::new(seed, 0)).await
    };
    let agree = within(GIVE_UP_AFTER * 3 + KILL_TAKES * args.kills as u32, test).await;
    let agree = agree.unwrap_or_else(|| Err("something hangs".to_owned()));
    agree.map_err(|why| format!("{why} (seed {seed})"))
}

struct CrashTest {
    address: Address,
    arguments: Vec<String>,
    server: ServerProcess,
    /// How often the server was.
    killed: u64,
    clients: Clients,
}

impl CrashTest {
    async fn run(mut self, kills: u64, mut rng: Rng) -> Result<bool, String> {
        for _ in 0..kills {
            pause(Duration::from_millis(rng.below(LIFE_MS))).await;
            if rng.percent(SERVER_PERCENT) {
                self.killed += 1;
                self.server.kill().await?;
                self.server = ServerProcess::start_with(&self.address, &self.arguments).await?;
            } else {
                self.clients.kill_one(&mut rng).await?;
            }
            self.clients.replace_finished().await?;
        }
        let auditor = connect(&self.address).await?;
        self.clients.finish(&auditor).await?;
        auditor.close().await;
        self.server.stop().await?;
        Ok(self.clients.tell(&format!("killed the server {} times", self.killed)))
    }
}
