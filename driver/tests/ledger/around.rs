//! Hooks around calls that are recorded or run in a transaction, and around durable calls: C272 to C274, C412, C426, C459.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oncewire_driver::{
    BuildError, ClientOptions, DurableClient, Metadata, MetadataKey, Method, Refusal, Server,
    ServerBuilder,
};

use super::disk::{Accounts, Mode, TestLedger};
use super::journal::TestJournal;
use super::sim::lock;
use super::world::*;

const REQUEST: MetadataKey<u64> = MetadataKey::new("request");

fn bank(world: &Ledgered) -> ServerBuilder<TestLedger> {
    let runs = world.runs.clone();
    Server::builder("test")
        .ledger(world.ledger.clone())
        .method(&ADD, move |_, n: i32| {
            lock(&runs).push(n);
            async move { 1 }
        })
        .transactional(&PAY, |accounts: &mut Accounts, _, (account, amount): (u32, i64)| {
            let balance = accounts.entry(account).or_default();
            *balance += amount;
            Ok(*balance)
        })
        .runtime(world.sim.runtime(&world.group))
}

fn start(world: &Ledgered, builder: ServerBuilder<TestLedger>) {
    *lock(&world.place.0) = Some(builder.build().expect("the server is built"));
    world.sim.run();
}

#[test]
fn c272_a_transactional_method_needs_a_hook_of_its_own_kind() {
    let world = Ledgered::default();
    let error = bank(&world).around(|_, next| next.run()).build().unwrap_err();
    let (method, name) = (PAY.id(), "test/pay");
    let missing = "around_transactional";
    assert_eq!(error, BuildError::WithoutHook { method, name, missing });
}

#[test]
fn c412_a_handler_is_given_what_its_own_calls_hooks_have_for_it_and_nothing_else() {
    #[derive(Clone, Debug, PartialEq)]
    struct Tenant(u64);
    const WHO: Method<(), (Option<u64>, Option<String>)> = Method::new("test/who");
    const WHO_PAYS: Method<(), Option<u64>> = Method::new("test/who_pays");
    let world = Ledgered::default();
    let of = |context: &oncewire_driver::Context| context.provided().map(|Tenant(id)| id);
    let given = |context: &oncewire_driver::Context| context.metadata(&REQUEST).map(Tenant);
    let builder = bank(&world)
        .method(&WHO, move |context, ()| {
            std::future::ready((of(&context), context.provided::<String>()))
        })
        .transactional(&WHO_PAYS, move |_: &mut Accounts, context, ()| Ok(of(context)))
        .around(move |context, next| async move {
            assert_eq!(context.provided::<Tenant>(), None);
            match given(&context) {
                Some(tenant) => next.provide(Tenant(0)).provide(tenant).run().await,
                None => next.run().await,
            }
        })
        // It is nearer, and sees what the one outside has given.
        .around(|context, next| async move {
            match context.provided() {
                Some(Tenant(id)) => next.provide(format!("tenant {id}")).run().await,
                None => next.run().await,
            }
        })
        .around_transactional(move |context, next| match given(context) {
            Some(tenant) => next.provide(tenant).run(),
            None => next.run(),
        });
    start(&world, builder);
    let client = world.client();
    let who = |id: Option<u64>| {
        let (who, pays) = (client.call(&WHO, &()), client.call(&WHO_PAYS, &()));
        let (who, pays) = match id {
            Some(id) => (who.metadata(&REQUEST, id), pays.metadata(&REQUEST, id)),
            None => (who, pays),
        };
        let (who, pays) = (world.begin(who.start()), world.begin(pays.start()));
        assert_eq!(pays.outcome(), reply(id));
        who.outcome()
    };
    assert_eq!(who(Some(7)), reply((Some(7), Some("tenant 7".to_owned()))));
    assert_eq!(who(None), reply((None::<u64>, None::<String>)));
    assert_eq!(who(Some(8)), reply((Some(8), Some("tenant 8".to_owned()))));
}

#[test]
fn c426_a_value_for_a_handler_whose_drop_panics_disturbs_no_other_call() {
    #[derive(Clone)]
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("a bomb is dropped");
        }
    }
    let world = Ledgered::default();
    let builder = bank(&world)
        .around(|_, next| async move { next.provide(Bomb).run().await })
        .around_transactional(|_, next| next.provide(Bomb).run());
    start(&world, builder);
    let client = world.client();
    // Several in one batch: the end of each is dropped with the others'.
    for round in 1..=3 {
        let made: Vec<_> = (0..3).map(|_| world.call(&client, &PAY, (1, 1))).collect();
        assert_eq!(made[2].outcome(), reply(3 * round));
        assert_eq!(world.call(&client, &ADD, 1).outcome(), reply(1));
    }
    assert_eq!(world.server().load().running, 0);
}

#[test]
fn c273_a_recorded_call_that_a_hook_refuses_leaves_no_record() {
    let world = Ledgered::default();
    let builder = bank(&world)
        .around(|context, next| async move {
            match context.metadata(&REQUEST) {
                Some(_) => next.run().await,
                None => next.refuse(Refusal::BadMetadata),
            }
        })
        .around_transactional(|_, next| next.run());
    start(&world, builder);
    let client = world.client();
    let refused = world.call(&client, &ADD, 1);
    assert_eq!(refused.outcome(), text("not executed: BadMetadata"));
    assert_eq!((world.ran(), world.ledger.disk().calls.len()), (vec![], 0));
    let call = world.begin(client.call(&ADD, &2).metadata(&REQUEST, 7_u64).start());
    assert_eq!((call.outcome(), world.ran()), (reply(1), vec![2]));
}

#[test]
fn c273_a_hook_around_transactions_is_part_of_each() {
    const BOTH: Method<(u32, i64), i64> = Method::new("test/both");
    let world = Ledgered::default();
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let notes = seen.clone();
    let builder = bank(&world)
        .transactional(&BOTH, |_: &mut Accounts, _, _: (u32, i64)| {
            Err::<i64, _>(oncewire_driver::ledger::Rollback::new("as it says"))
        })
        .around(|_, next| next.run())
        .around_transactional(move |context, next| match context.metadata(&REQUEST) {
            Some(1) => next.refuse(Refusal::PermissionDenied),
            Some(2) => panic!("a hook that panics before the function"),
            Some(3) => {
                let _handled = next.run();
                panic!("a hook that panics after the function")
            }
            _ => {
                let method = next.method();
                let handled = next.run();
                lock(&notes).push(format!("{method} {}", handled.end().status()));
                handled
            }
        })
        .around_transactional(|_, next| next.run());
    start(&world, builder);
    let client = world.client();
    let pay = |n: u64| {
        let call = client.call(&PAY, &(1, 5)).metadata(&REQUEST, n);
        world.begin(call.start()).outcome()
    };
    let balance = || world.ledger.disk().accounts.get(&1).copied().unwrap_or_default();
    assert_eq!(pay(1), text("not executed: PermissionDenied"));
    assert_eq!(pay(2), text("not executed: Aborted"));
    assert_eq!(pay(3), text("not executed: Aborted"));
    assert_eq!((balance(), world.ledger.disk().calls.len()), (0, 0), "all of it was rolled back");
    assert_eq!((pay(4), balance()), (reply(5), 5));
    assert_eq!(world.call(&client, &BOTH, (1, 1)).outcome(), text("not executed: Aborted"));
    let mut ends = lock(&seen).clone();
    // This ledger runs what it has rolled back once more.
    ends.dedup();
    assert_eq!(ends, ["test/pay OK", "test/both ROLLED_BACK"]);
    let faults = world.server().handler_faults();
    assert_eq!((faults.rollbacks, faults.panics), (3, 2), "a refusal is no rollback");
}

#[test]
fn c273_the_end_of_one_run_is_not_taken_for_that_of_another() {
    let world = Ledgered::default();
    let kept = Arc::new(Mutex::new(None));
    let builder = bank(&world).around(|_, next| next.run()).around_transactional(move |_, next| {
        let mine = next.run();
        match lock(&kept).replace(mine) {
            Some(other) => other,
            None => panic!("the first"),
        }
    });
    start(&world, builder);
    let client = world.client();
    for _ in 0..2 {
        let call = world.call(&client, &PAY, (1, 5));
        assert_eq!(call.outcome(), text("not executed: Aborted"));
    }
    assert!(world.ledger.disk().accounts.is_empty());
    assert!(world.server().last_rollback().unwrap().contains("another call"));
}

#[test]
fn c274_a_durable_call_passes_the_hook_before_it_is_journaled_and_never_again() {
    let world = Ledgered::default();
    let seen: Arc<Mutex<Vec<Option<u64>>>> = Arc::default();
    let notes = seen.clone();
    let builder =
        bank(&world).around(|_, next| next.run()).around_transactional(move |context, next| {
            lock(&notes).push(context.metadata(&REQUEST));
            next.run()
        });
    start(&world, builder);
    let passed = Arc::new(AtomicUsize::new(0));
    let options = || {
        let passed = passed.clone();
        ClientOptions::default().with_around(move |call| {
            let number = passed.fetch_add(1, Ordering::SeqCst) as u64;
            let own = call.metadata().get(&REQUEST).unwrap_or_default();
            call.set_metadata(&REQUEST, own + number);
        })
    };
    let open = |journal: &TestJournal, group| {
        let runtime = world.sim.runtime(group);
        DurableClient::with_runtime(world.place.clone(), options(), journal.clone(), runtime)
            .expect("the journal can be read")
    };
    let (journal, group) = (TestJournal::default(), Arc::default());
    let (client, _) = open(&journal, &group);
    journal.mode(Mode::Hold);
    let first = client.call("first", &PAY, &(1, 5));
    let hundred = client.with_metadata(Metadata::new().with(&REQUEST, 100_u64));
    let second = hundred.call("second", &PAY, &(1, 6));
    world.sim.run();
    assert_eq!(passed.load(Ordering::SeqCst), 2);
    assert!(lock(&seen).is_empty(), "not journaled, and not sent");
    journal.write();
    let pages = journal.pages();
    drop((first, second, hundred, client));
    let held = journal.crash();
    group.kill();
    drop(held);
    world.sim.run();
    // The next run of the program continues both, with what they had.
    let (_client, left) = open(&TestJournal::on(pages), &Arc::default());
    world.sim.run();
    assert_eq!((left.len(), passed.load(Ordering::SeqCst)), (2, 2));
    let mut all = lock(&seen).clone();
    all.sort();
    assert_eq!(all, [Some(0), Some(101)]);
}

#[test]
fn c459_a_durable_call_has_the_timeout_of_its_handle_else_of_its_method() {
    let world = Ledgered::default();
    start(&world, bank(&world));
    let seen: Arc<Mutex<Vec<u64>>> = Arc::default();
    let notes = seen.clone();
    let options = ClientOptions::default()
        .with_around(move |call| lock(&notes).push(call.timeout().as_secs()))
        .with_timeout(Duration::from_secs(1));
    let runtime = world.sim.runtime(&Arc::default());
    let journal = TestJournal::default();
    let (client, _) = DurableClient::with_runtime(world.place.clone(), options, journal, runtime)
        .expect("the journal can be read");
    let slow = PAY.timeout(Duration::from_secs(2));
    let handle = client.with_timeout(Duration::from_secs(3));
    let calls = [
        client.call("plain", &PAY, &(1, 5)),
        client.call("slow", &slow, &(1, 5)),
        handle.call("handle", &slow, &(1, 5)),
        client.call_with_metadata("tenant", &slow, &(1, 5), &Metadata::new()),
    ];
    assert_eq!(*lock(&seen), [1, 2, 3, 2]);
    drop(calls);
}
