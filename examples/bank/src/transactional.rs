//! What the bank's methods do in a transaction of its ledger, whichever ledger that is.

use oncewire::ledger::Rollback;

use crate::service::{AccountId, AuditPage, BankError, Change, Executions, Note, Open, Operation};

/// The accounts and the log as a transaction has them: what was written before in the same transaction is there.
pub(crate) trait Tables {
    /// Opens an account, and returns its number.
    fn insert_account(&mut self, balance: u64) -> Result<AccountId, Rollback>;
    /// What an account holds; `None` if there is none.
    fn balance(&mut self, account: AccountId) -> Result<Option<u64>, Rollback>;
    /// Changes what an account holds that is there.
    fn set_balance(&mut self, account: AccountId, balance: u64) -> Result<(), Rollback>;
    /// Notes an execution.
    fn log(&mut self, operation: Operation, applied: bool) -> Result<(), Rollback>;
    /// How often operations of a client were executed.
    fn audit(&mut self, page: &AuditPage) -> Result<Vec<Executions>, Rollback>;
}

pub(crate) fn open(tables: &mut impl Tables, open: &Open) -> Result<AccountId, Rollback> {
    let id = tables.insert_account(open.opening)?;
    tables.log(open.operation, true)?;
    Ok(id)
}

pub(crate) fn deduct(
    tables: &mut impl Tables,
    change: &Change,
) -> Result<Result<u64, BankError>, Rollback> {
    self::change(tables, change, u64::checked_sub)
}

pub(crate) fn deposit(
    tables: &mut impl Tables,
    change: &Change,
) -> Result<Result<u64, BankError>, Rollback> {
    self::change(tables, change, u64::checked_add)
}

fn change(
    tables: &mut impl Tables,
    change: &Change,
    new_balance: impl FnOnce(u64, u64) -> Option<u64>,
) -> Result<Result<u64, BankError>, Rollback> {
    let result = match tables.balance(change.account)? {
        None => Err(BankError::NoSuchAccount),
        Some(balance) => {
            new_balance(balance, change.amount).ok_or(BankError::Insufficient { balance })
        }
    };
    if let Ok(balance) = result {
        tables.set_balance(change.account, balance)?;
    }
    // Declined is an answer, not a rollback: it is logged and recorded like any other.
    tables.log(change.operation, result.is_ok())?;
    Ok(result)
}

pub(crate) fn note(tables: &mut impl Tables, note: &Note) -> Result<(), Rollback> {
    let is_known = tables.balance(note.account)?.is_some();
    tables.log(note.operation, is_known)
}
