//! A transactional method at a server without a ledger.

use oncewire::ledger::Rollback;
use oncewire::{Context, Server};

#[oncewire::service(name = "bank")]
pub trait Bank {
    #[rpc(transactional)]
    fn deposit(&self, transaction: &mut u8, context: &Context, cents: u64) -> Result<u64, Rollback>;
}

struct Mine;

impl Bank for Mine {
    fn deposit(&self, _: &mut u8, _: &Context, cents: u64) -> Result<u64, Rollback> {
        Ok(cents)
    }
}

fn main() {
    let _ = Server::builder("bank").service(BankServer(Mine)).build();
}
