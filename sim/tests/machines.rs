//! Disks that have errors or are full, and clocks that jump: by hand, by the seed, and what a service gets wrong about them.
#![allow(missing_docs, unreachable_pub)]

use std::sync::Arc;
use std::time::Duration;

use oncewire::ledger::Rollback;
use oncewire::redb::Transaction;
use oncewire::redb::redb::{
    Database, Durability, ReadableDatabase, ReadableTable, TableDefinition, TableError,
};
use oncewire::{ClientOptions, Context, Method, Outcome, Server};
use oncewire_sim::{AnyError, Death, DiskFaults, Disks, Faults, Host, Sim};

const PAID: TableDefinition<'_, u64, u64> = TableDefinition::new("paid");
const PAY: Method<u64, u64> = Method::new("bank/pay");
const WAIT: Method<(), ()> = Method::new("bank/wait");

fn pay(transaction: &mut Transaction, _: &Context, order: u64) -> Result<u64, Rollback> {
    let mut paid = transaction.open_table(PAID)?;
    let times = paid.get(order)?.map_or(0, |times| times.value()) + 1;
    paid.insert(order, times)?;
    Ok(times)
}

fn server(host: &Host) -> Result<Server, AnyError> {
    let sim = host.sim();
    let wait = move |_, ()| {
        let sim = sim.clone();
        async move { sim.sleep(Duration::from_secs(60)).await }
    };
    let builder = host.builder("bank").ledger(host.ledger()?).transactional(&PAY, pay);
    Ok(builder.method(&WAIT, wait).build()?)
}

fn paid(disks: &Disks<'_>) -> Result<Vec<u64>, AnyError> {
    let Some(paid) = disks.table(PAID)? else { return Ok(Vec::new()) };
    let mut all = Vec::new();
    for row in paid.iter()? {
        let (order, times) = row?;
        all.extend((0..times.value()).map(|_| order.value()));
    }
    Ok(all)
}

#[test]
fn c331_a_disk_that_fails_or_is_full_answers_nothing_that_is_not_on_it() {
    let wrong = [
        DiskFaults { sync_in: 1, ..DiskFaults::default() },
        DiskFaults { write_in: 1, ..DiskFaults::default() },
        DiskFaults { read_in: 1, ..DiskFaults::default() },
        DiskFaults { room: Some(0), ..DiskFaults::default() },
    ];
    for faults in wrong {
        let report = oncewire_sim::run(0..4, move |sim| async move {
            sim.set_faults(Faults::NONE);
            let bank = sim.server("bank", server);
            bank.effects(paid);
            let mut options = ClientOptions::default();
            options.timeout = Duration::from_secs(5);
            let client = sim.client_with("teller", &bank, options);
            let outcome = sim.record(1, client.call(&PAY, &1)).await;
            assert!(matches!(outcome, Outcome::Reply(1)), "{outcome:?}");
            bank.break_disk("ledger", faults);
            if faults.read_in > 0 {
                // What it has read once it need not read again.
                bank.crash(Death::Kill);
            }
            let outcome = sim.record(2, client.call(&PAY, &2)).await;
            assert!(!matches!(outcome, Outcome::Reply(_)), "{outcome:?}");
            bank.mend_disks();
            let outcome = sim.record(3, client.call(&PAY, &3)).await;
            assert!(matches!(outcome, Outcome::Reply(1)), "{outcome:?}");
        });
        assert!(report.faults["crashes"] >= 4, "{report:?}");
    }
}

#[test]
fn c332_a_clock_that_jumps_ends_no_call_with_a_lie() {
    oncewire_sim::run(0..8, |sim| async move {
        sim.set_faults(Faults::NONE);
        let bank = sim.server("bank", server);
        bank.effects(paid);
        let client = sim.client("teller", &bank);
        let mut call = std::pin::pin!(client.call(&WAIT, &()).timeout(Duration::from_secs(90)));
        // It is begun, and runs.
        assert!(
            std::future::poll_fn(|cx| std::task::Poll::Ready(call.as_mut().poll(cx)))
                .await
                .is_pending()
        );
        sim.sleep(Duration::from_secs(1)).await;
        bank.jump_clock(Duration::from_secs(3_600));
        let outcome = call.await;
        assert!(
            matches!(outcome, Outcome::Reply(())),
            "it runs, and no session with one ends: {outcome:?}"
        );
        for order in 0..3 {
            bank.jump_clock(Duration::from_secs(400));
            let outcome = sim.record(order, client.call(&PAY, &order)).await;
            assert!(matches!(outcome, Outcome::Reply(1)), "{outcome:?}");
        }
    });
}

const NOTE: Method<u64, ()> = Method::new("notes/note");

/// A service that keeps what it is given in a database of its own, and does not ask whether that went well.
fn careless(host: &Host) -> Result<Server, AnyError> {
    let notes = Arc::new(Database::builder().create_with_backend(host.disk("notes"))?);
    let note = move |_, note: u64| {
        let written = write(&notes, note);
        // A careful one would not answer.
        drop(written);
        std::future::ready(())
    };
    Ok(host.builder("notes").ledger(host.ledger()?).method(&NOTE, note).build()?)
}

fn write(notes: &Database, note: u64) -> Result<(), AnyError> {
    let mut write = notes.begin_write()?;
    write.set_durability(Durability::Immediate)?;
    write.open_table(PAID)?.insert(note, 1)?;
    Ok(write.commit()?)
}

fn noted(disks: &Disks<'_>) -> Result<Vec<u64>, AnyError> {
    let notes = Database::builder().create_with_backend(disks.disk("notes"))?;
    match notes.begin_read()?.open_table(PAID) {
        Ok(table) => table.iter()?.map(|row| Ok(row?.0.value())).collect(),
        Err(TableError::TableDoesNotExist(_)) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

async fn notes(sim: Sim, only_disks: bool) {
    let mut faults = Faults::of(sim.seed());
    if only_disks {
        faults = Faults::NONE;
        faults.pause = Duration::from_millis(100);
        faults.until = Duration::from_secs(4);
        (faults.disk_errors, faults.full_disks) = (true, true);
    }
    sim.set_faults(faults);
    let server = sim.server("notes", careless);
    server.effects(noted);
    let client = sim.client("writer", &server);
    for note in 0..40 {
        let _ = sim.record(note, client.call(&NOTE, &note)).await;
        sim.sleep(Duration::from_millis(100)).await;
    }
}

#[test]
fn c333_a_service_that_ignores_the_errors_of_its_disk_is_found() {
    for only_disks in [true, false] {
        let found = oncewire_sim::try_run(0..200, |sim| notes(sim, only_disks));
        let failure = found.expect_err("it must be found");
        assert!(failure.what.contains("its caller got a reply, and it has no effect"), "{failure}");
        // The failure's own trace is the last hundred lines, and the disk may have failed long before.
        let trace = oncewire_sim::trace(failure.seed, |sim| notes(sim, only_disks));
        assert!(trace.iter().any(|line| line.contains("its disk notes")), "{failure}");
    }
}

#[test]
fn c334_the_seed_breaks_disks_and_clocks_and_a_sound_service_survives() {
    let report = oncewire_sim::run(0..120, |sim| async move {
        let bank = sim.server("bank", server);
        bank.effects(paid);
        let client = sim.client("teller", &bank);
        for order in 0..20 {
            let _ = sim.record(order, client.call(&PAY, &order)).await;
            sim.sleep(Duration::from_millis(200)).await;
        }
        // When the faults are over, all goes well.
        sim.calm();
        let outcome = sim.record(20, client.call(&PAY, &20)).await;
        assert!(matches!(outcome, Outcome::Reply(1)), "{outcome:?}");
    });
    for kind in ["disk errors", "full disks", "clock jumps", "failed starts"] {
        assert!(report.faults.get(kind).is_some_and(|count| *count > 5), "{kind}: {report:?}");
    }
    println!("{report:?}");
}

#[test]
fn disks_fail_at_the_same_moments_for_the_same_seed() {
    for seed in 0..12 {
        let [one, other] = [(), ()].map(|()| oncewire_sim::trace(seed, |sim| notes(sim, true)));
        assert!(one.len() > 10, "{one:?}");
        assert_eq!(one, other, "seed {seed}");
    }
}
