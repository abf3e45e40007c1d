//! Reads the bank's books.

use std::collections::BTreeSet;
use std::time::Duration;

use oncewire::{Call, Client};

use crate::check::{Kind, Records, Testimony, Verdict};
use crate::service::{AUDIT_PAGE_LEN_MAX, AuditPage, BankClient};

/// Attempts at reading the bank's books, before they count as out of reach.
const AUDIT_TRIES: u32 = 3;

/// What the bank says of the operations of a client, and of the accounts that it opened.
///
/// # Errors
/// Why it could not be asked.
pub(crate) async fn ask(
    client: &Client,
    number: u64,
    records: &Records,
    timeout: Duration,
) -> Result<Testimony, String> {
    let bank = BankClient(client.clone());
    let mut testimony = Testimony::default();
    let end = records.keys().next_back().map_or(0, |last| last + 1);
    for first in (0..end).step_by(AUDIT_PAGE_LEN_MAX as usize) {
        let count = (end - first).min(AUDIT_PAGE_LEN_MAX);
        let page = AuditPage { client: number, first, count };
        testimony.log.extend(insist(|| bank.audit(page).timeout(timeout)).await?);
    }
    let opened = records.values().filter(|r| r.kind == Kind::Open && r.verdict == Verdict::Applied);
    for account in opened.map(|record| record.account).collect::<BTreeSet<_>>() {
        let balance = insist(|| bank.balance(account).timeout(timeout)).await?;
        if let Ok(balance) = balance {
            testimony.balances.insert(account, balance);
        }
    }
    Ok(testimony)
}

/// Repeats a call that only reads.
async fn insist<R>(call: impl Fn() -> Call<R>) -> Result<R, String> {
    let mut why = String::new();
    for _ in 0..AUDIT_TRIES {
        match call().await.ok() {
            Ok(reply) => return Ok(reply),
            Err(failure) => why = format!("the bank could not be asked: {failure}"),
        }
    }
    Err(why)
}
