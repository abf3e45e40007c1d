//! A ledger in etcd: servers and members are killed while money moves.
#![cfg(all(unix, feature = "ledger"))]
#![allow(missing_docs)]

mod util;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use oncewire_driver::ledger::Rollback;
use oncewire_driver::{BuildError, Client, ClientOptions, Method, NotExecuted, Outcome, Server};
use oncewire_etcd::ledger::{EtcdLedger, Reads, Transaction};
use oncewire_etcd::{Etcd, Op, Registry, Txn};
use oncewire_tcp::{TcpAcceptor, TcpConnector};
use rustix::process::Signal;
use smol::block_on;
use util::process::{Process, endpoint_of_task};
use util::relay::{Relay, losing_answers};
use util::*;

/// Transactional: adds, and says what is there. Rolls back what leaves less than nothing, and panics at 13.
const PAY: Method<(u8, i64), i64> = Method::new("test/pay");
/// Recorded: counts.
const COUNT: Method<(), u32> = Method::new("test/count");
/// Idempotent.
const BALANCE: Method<u8, i64> = Method::new("test/balance").idempotent();

fn registry(endpoints: &[String]) -> Registry {
    let timeout = Duration::from_millis(500);
    let etcd = Etcd::builder(endpoints).attempt_timeout(timeout).build().unwrap();
    Registry::new(etcd).with_lease(Duration::from_secs(2))
}

fn number(bytes: Option<Vec<u8>>) -> i64 {
    bytes.map_or(0, |bytes| i64::from_le_bytes(bytes.try_into().unwrap()))
}

fn pay(transaction: &mut Transaction, account: u8, cents: i64) -> Result<i64, Rollback> {
    let cents_after = number(transaction.get([b'c', account])) + cents;
    let changes = number(transaction.get([b'n', account])) + 1;
    transaction.put([b'c', account], cents_after.to_le_bytes())?;
    transaction.put([b'n', account], changes.to_le_bytes())?;
    Ok(cents_after)
}

fn server(ledger: EtcdLedger) -> Server {
    let (reads, counted) = (ledger.reads(), AtomicU32::new(0));
    Server::builder("test")
        .ledger(ledger)
        .transactional(&PAY, |transaction: &mut Transaction, _, (account, cents)| {
            let balance = pay(transaction, account, cents)?;
            assert_ne!(cents, 13, "a transactional handler that panics");
            if balance < 0 {
                return Err(Rollback::new("nothing is left"));
            }
            Ok(balance)
        })
        .method(&COUNT, move |_, ()| std::future::ready(counted.fetch_add(1, Ordering::SeqCst) + 1))
        .method(&BALANCE, move |_, account| std::future::ready(number(reads.get([b'c', account]))))
        .build()
        .unwrap()
}

async fn listen(server: &Server) -> String {
    let acceptor = TcpAcceptor::bind("127.0.0.1:0").await.unwrap();
    let (address, serving) = (acceptor.local_addr().to_string(), server.clone());
    smol::spawn(async move { serving.serve(acceptor).await }).detach();
    address
}

fn options() -> ClientOptions {
    ClientOptions::default().with_backoff_max(Duration::from_millis(50))
}

#[test]
fn calls_are_recorded_with_their_effects_and_a_stand_by_continues() {
    let Some(cluster) = Cluster::start(1) else { return };
    // A panic's backtrace can block the executor's only thread for seconds.
    let registry = registry(&cluster.endpoints()).with_lease(Duration::from_secs(20));
    block_on(async {
        let first = server(EtcdLedger::open(&registry, "bank").await.unwrap());
        let line = Relay::start(listen(&first).await);
        let client = Client::new(TcpConnector::new(line.address()), options());
        assert_eq!(client.call(&PAY, &(1, 100)).await.ok(), Ok(100));
        assert_eq!(client.call(&BALANCE, &1).await.ok(), Ok(100));
        let calls: Vec<_> =
            [-40, -100, 13, 5].map(|cents| client.call(&PAY, &(1, cents)).start()).into();
        let mut outcomes = Vec::new();
        for call in calls {
            outcomes.push(call.await);
        }
        assert!(matches!(
            outcomes[..],
            [
                Outcome::Reply(60),
                Outcome::NotExecuted(NotExecuted::Aborted),
                Outcome::NotExecuted(NotExecuted::Aborted),
                Outcome::Reply(65)
            ]
        ));
        assert_eq!(client.call(&COUNT, &()).await.ok(), Ok(1));
        // A stand-by waits for its turn, and has what was answered.
        let waiting = smol::spawn({
            let registry = registry.clone();
            async move { EtcdLedger::open(&registry, "bank").await }
        });
        let id = first.id();
        first.drain(Duration::ZERO).await;
        drop(first);
        let second = server(waiting.await.unwrap());
        assert_eq!(second.id(), id);
        line.close();
        let line = Relay::start_at(line.socket(), listen(&second).await);
        assert_eq!(client.call(&PAY, &(1, 1)).await.ok(), Ok(66));
        // No session's id is in etcd.
        let keys =
            cluster.ctl(&["get", "--prefix", "--keys-only", "oncewire/ledgers/bank/"]).unwrap();
        assert!(keys.contains("/s/") && keys.contains("/c/") && keys.contains("/d/"), "{keys}");
        drop(line);
    });
}

#[test]
fn a_transaction_whose_answer_is_lost_takes_effect_once() {
    let Some(cluster) = Cluster::start(1) else { return };
    let (lossy, lost) = losing_answers(&cluster.endpoint(0), "/v3/kv/txn", 2);
    let registry = Registry::new(Etcd::builder([lossy]).build().unwrap());
    block_on(async {
        let server = server(EtcdLedger::open(&registry, "bank").await.unwrap());
        let client = Client::new(TcpConnector::new(listen(&server).await), options());
        for paid in 1..=20 {
            assert_eq!(client.call(&PAY, &(1, 1)).await.ok(), Ok(paid));
        }
        assert!(lost.load(Ordering::SeqCst) > 5, "no answer was lost");
    });
}

#[test]
fn a_method_whose_replies_are_too_long_for_the_ledger_is_refused_at_build() {
    const LONG: Method<(), ()> = Method::new("test/long").reply_len_max(129 << 10);
    let Some(cluster) = Cluster::start(1) else { return };
    block_on(async {
        let open =
            || async { EtcdLedger::open(&registry(&cluster.endpoints()), "bank").await.unwrap() };
        let builder = Server::builder("test").ledger(open().await);
        let refused = builder.method(&LONG, |_, ()| async {}).build().unwrap_err();
        assert!(matches!(refused, BuildError::ReplyTooLongForLedger { .. }), "{refused}");
        // What is recorded of what cannot be read is no new ledger.
        cluster.ctl(&["put", "oncewire/ledgers/bank/identity", "{\"format\":2}"]).unwrap();
        let later = EtcdLedger::open(&registry(&cluster.endpoints()), "bank").await.unwrap_err();
        assert!(later.to_string().contains("later"), "{later}");
        cluster.ctl(&["del", "oncewire/ledgers/bank/identity"]).unwrap();
        cluster.ctl(&["put", "oncewire/ledgers/bank/d/x", "y"]).unwrap();
        let lost = EtcdLedger::open(&registry(&cluster.endpoints()), "bank").await.unwrap_err();
        assert!(lost.to_string().contains("identity"), "{lost}");
    });
}

#[test]
fn c399_a_ledger_of_many_short_entries_and_long_ones_behind_them_is_read_whole() {
    const SHORT: usize = 2400;
    const LONG: usize = 40;
    let Some(cluster) = Cluster::start(1) else { return };
    block_on(async {
        drop(EtcdLedger::open(&registry(&cluster.endpoints()), "bank").await.unwrap());
        let (etcd, folder) = (cluster.etcd(), "oncewire/ledgers/bank/d/");
        for page in 0..SHORT / 120 {
            let keys = (0..120).map(|at| format!("{folder}a/{:06}", page * 120 + at));
            let put = |txn: Txn, key| txn.then(Op::put(key, "a short one", None));
            assert!(etcd.transact(&keys.fold(Txn::new(), put)).await.unwrap().succeeded);
        }
        for at in 0..LONG {
            etcd.put(format!("{folder}b/{at:06}"), vec![at as u8; 128 << 10], None).await.unwrap();
        }
        let line = Relay::start(cluster.endpoint(0).replace("http://", ""));
        let registry = Registry::new(Etcd::builder([line.address()]).build().unwrap());
        let reads = EtcdLedger::open(&registry, "bank").await.unwrap().reads();
        assert_eq!((reads.scan("a/").len(), reads.scan("b/").len()), (SHORT, LONG));
        assert!(reads.scan("b/").iter().all(|(_, value)| value.len() == 128 << 10));
        // 16, 32, … 1024 entries at once, and the long ones by 16; 16 at once would be more than 150.
        assert!(line.requests() < 40, "{} requests", line.requests());
    });
}

/// No test: what [`Process`] starts. It serves when it is its turn, under its name.
#[test]
fn a_bank_of_its_own() {
    let Some(endpoints) = endpoint_of_task("a_bank_of_its_own") else { return };
    let endpoints: Vec<String> = endpoints.split(',').map(str::to_owned).collect();
    let registry = registry(&endpoints);
    block_on(async {
        loop {
            let ledger = match EtcdLedger::open(&registry, "bank").await {
                Ok(ledger) => ledger,
                Err(error) => {
                    eprintln!("{error}");
                    continue;
                }
            };
            let ended = ledger.ended();
            let server = server(ledger);
            let acceptor = TcpAcceptor::bind("127.0.0.1:0").await.unwrap();
            let address = acceptor.local_addr().to_string();
            let registration = registry.register(&server, "bank", &address).unwrap();
            println!("serving");
            smol::future::or(async { drop(server.serve(acceptor).await) }, ended).await;
            // Its clients continue at the next one; what is in doubt here would wait for ever.
            server.drain(Duration::ZERO).await;
            drop(registration);
        }
    });
}

/// Callers that pay without end, and what they have learned: cents, and payments that were executed.
struct Payers {
    client: Client,
    tasks: Vec<smol::Task<BTreeMap<u8, (i64, i64)>>>,
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU32>,
}

impl Payers {
    fn start(registry: &Registry) -> Payers {
        let client = Client::new(registry.connector("bank").unwrap(), options());
        let (stop, answers) = (Arc::<AtomicBool>::default(), Arc::<AtomicU32>::default());
        let pay = |lane: u32| {
            let (client, stop, answers) = (client.clone(), stop.clone(), answers.clone());
            smol::spawn(async move {
                let (mut books, mut chance) = (BTreeMap::<u8, (i64, i64)>::new(), lane);
                while !stop.load(Ordering::SeqCst) {
                    chance = chance.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let (account, cents) =
                        ((chance >> 8 & 7) as u8, i64::from(chance >> 16 & 63) - 20);
                    match client
                        .call(&PAY, &(account, cents))
                        .timeout(Duration::from_secs(120))
                        .await
                    {
                        Outcome::Reply(_) => {
                            let entry = books.entry(account).or_default();
                            *entry = (entry.0 + cents, entry.1 + 1);
                        }
                        // Rolled back, or refused by a server whose ledger had failed.
                        Outcome::NotExecuted(_) => {}
                        other => panic!("{other:?}"),
                    }
                    answers.fetch_add(1, Ordering::SeqCst);
                }
                books
            })
        };
        let tasks = (0..8).map(pay).collect();
        Payers { client, tasks, stop, answers }
    }

    async fn until_answered(&self, more: u32) {
        let until = self.answers.load(Ordering::SeqCst) + more;
        while self.answers.load(Ordering::SeqCst) < until {
            smol::future::yield_now().await;
        }
    }

    async fn compare(self, registry: &Registry, end: impl FnOnce()) {
        self.stop.store(true, Ordering::SeqCst);
        let mut books = BTreeMap::<u8, (i64, i64)>::new();
        for task in self.tasks {
            for (account, (cents, changes)) in task.await {
                let entry = books.entry(account).or_default();
                *entry = (entry.0 + cents, entry.1 + changes);
            }
        }
        self.client.close().await;
        end();
        let reads: Reads = EtcdLedger::open(registry, "bank").await.unwrap().reads();
        for (account, learned) in books {
            let there = (number(reads.get([b'c', account])), number(reads.get([b'n', account])));
            assert_eq!(there, learned, "account {account}");
        }
    }
}

#[test]
fn servers_and_members_are_killed_and_stopped_and_the_books_are_exact() {
    let Some(mut cluster) = Cluster::start(3) else { return };
    let endpoints = cluster.endpoints();
    let registry = registry(&endpoints);
    let start = || Process::start("a_bank_of_its_own", &endpoints.join(","));
    let mut active = start();
    active.until_it_says("serving");
    let mut passive = start();
    block_on(async {
        let payers = Payers::start(&registry);
        payers.until_answered(20).await;
        for round in 0..3 {
            // The one that is stopped would continue where it was.
            active.signal(if round == 1 { Signal::STOP } else { Signal::KILL });
            passive.until_it_says("serving");
            let was_active =
                std::mem::replace(&mut active, std::mem::replace(&mut passive, start()));
            payers.until_answered(20).await;
            was_active.signal(Signal::CONT);
            cluster.kill(round);
            payers.until_answered(20).await;
            cluster.resume(round);
            payers.until_answered(20).await;
        }
        payers.compare(&registry, || drop((active, passive))).await;
    });
}
