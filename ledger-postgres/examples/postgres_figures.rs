//! What calls cost on a PostgreSQL of yours, beside its own commit and beside idempotency keys by hand:
//! `cargo run --release -p oncewire-ledger-postgres --example postgres_figures -- CONNECTION`.
//!
//! In rounds, by turns: rates of one disk say little about another, ratios of one round do. It makes schemas of its own and removes them.
#![allow(missing_docs, unreachable_pub)]
#![allow(clippy::disallowed_methods, reason = "it measures time")]

mod figures;

use std::process::ExitCode;

use figures::by_hand::ByHand;
use figures::calls::Calls;
use figures::{Failed, Table};
use oncewire_ledger_postgres::PostgresOptions;
use oncewire_ledger_postgres::postgres::{Client, IsolationLevel, NoTls};

const SCHEMA: &str = "oncewire_figures";
/// Of the ledger whose transactions are read committed.
const SCHEMA_COMMITTED: &str = "oncewire_figures_committed";
const TABLES: &str = "CREATE TABLE IF NOT EXISTS accounts (id int PRIMARY KEY, cents bigint NOT NULL); \
    CREATE TABLE IF NOT EXISTS keys (key bigint PRIMARY KEY, reply bigint NOT NULL); \
    CREATE TABLE IF NOT EXISTS lines (line bigint)";
const ROUNDS: usize = 15;
const IN_FLIGHT: [i32; 4] = [1, 16, 64, 256];

fn main() -> ExitCode {
    let Some(connection) = std::env::args().nth(1) else {
        output::note!("usage: postgres_figures CONNECTION");
        return ExitCode::from(2);
    };
    match measure(&connection) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::note!("postgres_figures: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(connection: &str) -> Result<(), Failed> {
    let mut database = Client::connect(connection, NoTls)?;
    let schemas = [SCHEMA, SCHEMA_COMMITTED];
    for schema in schemas {
        database.batch_execute(&format!("CREATE SCHEMA {schema}"))?;
    }
    let result = in_schemas(connection);
    for schema in schemas {
        // Its turn comes when the server that had it writes nothing any more.
        drop(PostgresOptions::new(&at(connection, schema))?.open()?);
        database.batch_execute(&format!("DROP SCHEMA {schema} CASCADE"))?;
    }
    result
}

fn at(connection: &str, schema: &str) -> String {
    format!("{connection} options=-csearch_path={schema}")
}

fn in_schemas(connection: &str) -> Result<(), Failed> {
    let options = |schema: &str| -> Result<PostgresOptions, Failed> {
        Ok(PostgresOptions::new(&at(connection, schema))?.with_tables(TABLES))
    };
    let serializable = Calls::start(options(SCHEMA)?.open()?)?;
    let committed = options(SCHEMA_COMMITTED)?.with_isolation(IsolationLevel::ReadCommitted);
    let committed = Calls::start(committed.open()?)?;
    let mut by_hand = ByHand::connect(&at(connection, SCHEMA), 16)?;
    let mut table = Table::default();
    for _ in 0..ROUNDS {
        for connections in [1, 16] {
            let on = format!("on {connections}");
            table.note(&format!("insert by hand, {on}"), by_hand.inserts(connections)?);
            table.note(&format!("keys by hand, {on}"), by_hand.keys(connections)?);
        }
        for in_flight in IN_FLIGHT {
            table.note(&format!("{in_flight} in flight"), serializable.turn(in_flight)?);
            let name = format!("{in_flight} in flight, read committed");
            table.note(&name, committed.turn(in_flight)?);
        }
    }
    table.show();
    Ok(())
}
