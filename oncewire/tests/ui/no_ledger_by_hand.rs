//! A transactional method at a server without a ledger, without the attribute.

use oncewire::ledger::Rollback;
use oncewire::{Context, Method, Server};

const DEPOSIT: Method<u64, u64> = Method::new("bank/deposit");

fn deposit(_: &mut u8, _: &Context, cents: u64) -> Result<u64, Rollback> {
    Ok(cents)
}

fn count(_: &u8, _: &mut u8, _: &Context, cents: u64) -> Result<u64, Rollback> {
    Ok(cents)
}

fn main() {
    let _ = Server::builder("bank").transactional(&DEPOSIT, deposit).build();
    let _ = Server::builder("bank").state(0u8).transactional(&DEPOSIT, count).build();
}
