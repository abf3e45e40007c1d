//! Faults by hand, durable clients, and what a test gets wrong.
#![allow(missing_docs, unreachable_pub)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use oncewire::ledger::Rollback;
use oncewire::redb::Transaction;
use oncewire::redb::redb::{ReadableTable, TableDefinition};
use oncewire::{ClientOptions, Context, DurableClient, Method, Outcome};
use oncewire_sim::{AnyError, Death, Disks, Faults, Host, Sim};

const PAID: TableDefinition<'_, u64, u64> = TableDefinition::new("paid");
const PAY: Method<u64, u64> = Method::new("bank/pay");

fn pay(transaction: &mut Transaction, _: &Context, order: u64) -> Result<u64, Rollback> {
    let mut paid = transaction.open_table(PAID)?;
    let times = paid.get(order)?.map_or(0, |times| times.value()) + 1;
    paid.insert(order, times)?;
    Ok(times)
}

fn server(host: &Host) -> Result<oncewire::Server, AnyError> {
    Ok(host.builder("bank").ledger(host.ledger()?).transactional(&PAY, pay).build()?)
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

async fn at_frame(sim: Sim, frame: u64) {
    sim.set_faults(Faults::NONE);
    let bank = sim.server("bank", server);
    bank.effects(paid);
    bank.up().await;
    bank.crash_at_frame(frame, Death::PowerCut);
    let client = sim.client("teller", &bank);
    for order in 0..3 {
        let outcome = sim.record(order, client.call(&PAY, &order)).await;
        assert!(matches!(outcome, Outcome::Reply(1)), "{outcome:?}");
    }
}

#[test]
fn a_server_that_dies_at_any_frame_executes_each_call_once() {
    for frame in 1..5 {
        let report = oncewire_sim::run(0..4, move |sim| at_frame(sim, frame));
        assert!(report.faults["crashes"] >= 4, "{report:?}");
    }
}

#[test]
fn a_partition_and_a_stop_last_until_the_test_ends_them() {
    oncewire_sim::run(0..4, |sim| async move {
        sim.set_faults(Faults::NONE);
        let bank = sim.server("bank", server);
        bank.effects(paid);
        let mut options = ClientOptions::default();
        options.timeout = Duration::from_secs(5);
        let client = sim.client_with("teller", &bank, options);
        sim.partition("teller", &bank);
        let outcome = sim.record(1, client.call(&PAY, &1)).await;
        assert!(matches!(outcome, Outcome::NotExecuted(_)), "{outcome:?}");
        assert!(sim.now() >= Duration::from_secs(5));
        sim.heal("teller", &bank);
        bank.stop(Death::Kill);
        sim.sleep(Duration::from_secs(30)).await;
        assert!(!bank.is_up());
        bank.restart();
        let outcome = sim.record(2, client.call(&PAY, &2)).await;
        assert!(matches!(outcome, Outcome::Reply(1)), "{outcome:?}");
    });
}

/// Pays each order that is not known to be paid; continues from its journal when it was killed.
async fn teller(
    host: Host,
    bank: oncewire_sim::ServerHandle,
    done: Arc<Mutex<Vec<u64>>>,
) -> Result<(), AnyError> {
    let sim = host.sim();
    let options = ClientOptions::default();
    let connector = host.connector(&bank);
    let (client, left) =
        DurableClient::with_runtime(connector, options, host.journal()?, host.runtime())?;
    let mut calls = Vec::new();
    for call in left {
        let order = u64::from_le_bytes(call.tag()[..].try_into()?);
        calls.push((order, call.typed(&PAY).map_err(|_| "another method")?));
    }
    for order in 0..6_u64 {
        let begun = done.lock().unwrap().contains(&order);
        if !begun && calls.iter().all(|(of, _)| *of != order) {
            calls.push((order, client.call(order.to_le_bytes().to_vec(), &PAY, &order)));
        }
        for (order, call) in calls.drain(..) {
            let mut receipt = None;
            let ended = async {
                let delivery = call.await;
                receipt = Some(delivery.receipt);
                delivery.outcome
            };
            let _ = sim.record(order, ended).await;
            done.lock().unwrap().push(order);
            receipt.into_iter().for_each(|receipt| receipt.confirm());
        }
    }
    client.close().await;
    Ok(())
}

#[test]
fn a_durable_client_that_dies_pays_each_order_once() {
    let report = oncewire_sim::run(0..60, |sim| async move {
        let bank = sim.server("bank", server);
        bank.effects(paid);
        // What the program has reported to where no crash reaches.
        let done = Arc::<Mutex<Vec<u64>>>::default();
        sim.program("teller", move |host| teller(host, bank.clone(), done.clone()));
    });
    assert!(report.outcomes[0] >= 200 && report.faults["crashes"] > 20, "{report:?}");
}

#[test]
fn a_test_that_hangs_or_asserts_fails_with_its_seed() {
    let hangs = oncewire_sim::try_run(3..4, |_| std::future::pending());
    assert!(hangs.is_err_and(|failure| failure.seed == 3));
    let asserts = oncewire_sim::try_run(0..9, |sim| async move { assert!(sim.seed() < 5, "five") });
    let failure = asserts.expect_err("it must fail");
    assert!(failure.seed == 5 && failure.what.contains("five"), "{failure}");
}

#[test]
fn faults_that_never_come_fail_the_test_and_those_of_a_second_do_come() {
    let never = oncewire_sim::try_run(0..1, |sim| async move {
        let mut faults = Faults::NONE;
        faults.kills = true;
        sim.set_faults(faults);
    });
    assert!(never.is_err_and(|failure| failure.what.contains("never come")));
    let report = oncewire_sim::run(0..20, |sim| async move {
        assert!(sim.now() < Duration::from_millis(1));
        let mut faults = Faults::NONE;
        (faults.pause, faults.until) = (Duration::from_millis(100), Duration::from_secs(1));
        faults.kills = true;
        sim.set_faults(faults);
        let bank = sim.server("bank", server);
        sim.sleep(Duration::from_secs(2)).await;
        assert!(bank.is_up());
    });
    assert!(report.faults["crashes"] > 20, "{report:?}");
}

#[test]
fn a_test_in_which_nothing_says_what_takes_effect_fails() {
    let silent = oncewire_sim::try_run(0..1, |sim| async move {
        sim.set_faults(Faults::NONE);
        let bank = sim.server("bank", server);
        let client = sim.client("teller", &bank);
        let _ = sim.record(1, client.call(&PAY, &1)).await;
    });
    let failure = silent.expect_err("it checks nothing");
    assert!(failure.what.contains("nothing in the test says what takes effect"), "{failure}");
    let shown = failure.to_string();
    assert!(shown.ends_with("cargo test a_test_in_which_nothing_says_what_takes_effect_fails"));
}

const COUNT: Method<(), u64> = Method::new("count/next").idempotent();

/// Counts to three, and ends.
async fn counter(host: Host) -> Result<(), AnyError> {
    let counted = Arc::new(Mutex::new(0));
    let counts = counted.clone();
    let server = host.builder("count").method(&COUNT, move |_, ()| {
        *counts.lock().unwrap() += 1;
        std::future::ready(*counts.lock().unwrap())
    });
    let (server, acceptor) = (server.build()?, host.listen("count")?);
    assert!(host.listen("count").is_err(), "the port is taken");
    host.runtime().spawn(Box::pin(async move { drop(server.serve(acceptor).await) }));
    while *counted.lock().unwrap() < 3 {
        host.sim().sleep(Duration::from_millis(100)).await;
    }
    Err("counted to three".into())
}

#[test]
fn a_daemon_listens_on_a_port_and_is_run_again_when_it_ends() {
    oncewire_sim::run(0..8, |sim| async move {
        sim.set_faults(Faults::NONE);
        let daemon = sim.daemon("counter", counter);
        let connector = sim.dial("someone", "counter", "count");
        let client =
            oncewire::Client::with_runtime(connector, ClientOptions::default(), sim.runtime());
        for number in [1, 2, 3, 1, 2] {
            if number == 1 {
                daemon.up().await;
            }
            assert_eq!(client.call(&COUNT, &()).await.ok(), Ok(number));
            // Only after its third one it ends.
            sim.sleep(Duration::from_secs(1)).await;
        }
        sim.partition("someone", &daemon);
        let lost = client.call(&COUNT, &()).timeout(Duration::from_secs(3)).await;
        assert!(lost.ok().is_err());
        sim.heal("someone", &daemon);
        let nowhere = sim.dial("someone", "counter", "another port");
        assert!(oncewire::Connect::connect(&nowhere).await.is_err());
    });
}

#[test]
fn a_world_whose_test_wants_no_faults_has_none() {
    let report = oncewire_sim::run(0..60, |sim| async move {
        sim.set_faults(Faults::NONE);
        let daemon = sim.daemon("nothing", |_| std::future::pending());
        sim.partition("someone", &daemon);
        sim.sleep(Duration::from_secs(20)).await;
        // Still: a dial does not end.
        let dialled = Arc::new(Mutex::new(false));
        let (dial, done) = (sim.dial("someone", "nothing", "a port"), dialled.clone());
        sim.runtime().spawn(Box::pin(async move {
            drop(oncewire::Connect::connect(&dial).await);
            *done.lock().unwrap() = true;
        }));
        sim.sleep(Duration::from_secs(1)).await;
        assert!(!*dialled.lock().unwrap());
    });
    assert_eq!(report.faults.into_iter().collect::<Vec<_>>(), [("partitions", 60)]);
}
