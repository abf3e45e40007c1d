//! Servers in processes of their own, and databases, that are killed while money moves.
#![cfg(unix)]
#![allow(missing_docs)]
#![allow(clippy::disallowed_methods, reason = "it says how long a fail-over took")]

mod util;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use oncewire_driver::{Client, ClientOptions, Outcome};
use oncewire_tcp::{TcpAcceptor, TcpConnector};
use util::*;

const CONNECTION: &str = "ONCEWIRE_TEST_CONNECTION";
const ADDRESS: &str = "ONCEWIRE_TEST_ADDRESS";

/// No test: what [`Process`] starts. It serves whenever it is its turn, and after an error waits for the next one.
#[test]
fn serve_in_a_process_of_its_own() {
    let (Ok(connection), Ok(address)) = (std::env::var(CONNECTION), std::env::var(ADDRESS)) else {
        return;
    };
    let address: SocketAddr = address.parse().unwrap();
    // It ends with the test, however that ends.
    std::thread::spawn(|| {
        let _end = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    loop {
        let ledger = match options(&connection).open() {
            Ok(ledger) => ledger,
            // The database restarts.
            Err(error) => {
                eprintln!("{error}");
                continue;
            }
        };
        let server = server(ledger, &Arc::default());
        smol::block_on(async {
            let acceptor = TcpAcceptor::bind(address).await.unwrap();
            println!("serving");
            eprintln!("{:?}", server.serve(acceptor).await);
            // Its clients go on at the next one; what is in doubt here would wait for ever.
            server.drain(Duration::ZERO).await;
        });
    }
}

/// A server in a process of its own.
struct Process {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
}

impl Process {
    fn start(connection: &str, address: SocketAddr) -> Process {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "serve_in_a_process_of_its_own", "--nocapture"]);
        command.env(CONNECTION, connection).env(ADDRESS, address.to_string());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Process { child, said }
    }

    /// Waits until it serves.
    fn until_it_serves(&mut self) {
        let mut line = String::new();
        while !line.contains("serving") {
            line.clear();
            assert!(self.said.read_line(&mut line).unwrap() > 0, "it has ended");
        }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

/// An address that nothing listens on.
fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// What callers have learned of each account: cents, and payments that were executed.
type Books = BTreeMap<i32, (i64, i64)>;

/// Callers that pay without end, and what they have learned.
struct Payers {
    client: Client,
    books: Arc<Mutex<Books>>,
    /// Payments answered.
    answers: Arc<(Mutex<u32>, Condvar)>,
    stop: Arc<AtomicBool>,
    tasks: Vec<smol::Task<()>>,
}

impl Payers {
    fn start(addresses: &[SocketAddr]) -> Payers {
        let options = ClientOptions::default().with_backoff_max(Duration::from_millis(50));
        let client = Client::new(TcpConnector::any_of(addresses.iter().copied()), options);
        let books = Arc::<Mutex<Books>>::default();
        let (answers, stop) = (Arc::default(), Arc::default());
        let mut payers = Payers { client, books, answers, stop, tasks: Vec::new() };
        payers.tasks = (0..8).map(|lane| smol::spawn(payers.lane(lane))).collect();
        payers
    }

    fn lane(&self, lane: u32) -> impl Future<Output = ()> + use<> {
        let (client, books, answers, stop) =
            (self.client.clone(), self.books.clone(), self.answers.clone(), self.stop.clone());
        async move {
            let mut chance = lane;
            while !stop.load(Ordering::SeqCst) {
                chance = chance.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let account = (chance >> 8 & 15) as i32;
                let cents = i64::from(chance >> 16 & 63) + 20;
                // Some take more than is there: they are rolled back, and run their neighbours again.
                let cents = if chance >> 28 < 4 { -4 * cents } else { cents };
                match client.call(&PAY, &(account, cents)).await {
                    Outcome::Reply(_) => {
                        let mut books = books.lock().unwrap();
                        let entry = books.entry(account).or_default();
                        *entry = (entry.0 + cents, entry.1 + 1);
                    }
                    // Rolled back, or refused by a server whose ledger had failed: nothing was paid.
                    Outcome::NotExecuted(_) => {}
                    other => panic!("{other:?}"),
                }
                *answers.0.lock().unwrap() += 1;
                answers.1.notify_all();
            }
        }
    }

    /// Waits for this many more answers.
    fn until_paid(&self, more: u32) {
        let (answers, changed) = &*self.answers;
        let mut count = answers.lock().unwrap();
        let until = *count + more;
        while *count < until {
            count = changed.wait(count).unwrap();
        }
    }

    /// Lets what is under way end, and compares.
    fn compare(self, database: &str) {
        self.stop.store(true, Ordering::SeqCst);
        smol::block_on(async {
            for task in self.tasks {
                task.await;
            }
            self.client.close().await;
        });
        let rows = connect(database).query("SELECT id, cents, changes FROM accounts", &[]).unwrap();
        let found: Books = rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect();
        assert_eq!(found, *self.books.lock().unwrap());
    }
}

#[test]
fn c289_servers_and_the_database_are_killed_and_the_books_are_exact() {
    let Some(mut cluster) = start("kills") else { return };
    let connection = cluster.database();
    let addresses = [free_address(), free_address()];
    let mut active = Process::start(&connection, addresses[0]);
    active.until_it_serves();
    let mut passive = Process::start(&connection, addresses[1]);
    let payers = Payers::start(&addresses);
    payers.until_paid(25);
    for round in 0..3 {
        let killed = Instant::now();
        active.kill();
        // The stand-by takes over with all sessions, and the one that was killed comes back as a stand-by.
        passive.until_it_serves();
        payers.until_paid(1);
        println!("{:?} until the next server has answered", killed.elapsed());
        payers.until_paid(25);
        active = std::mem::replace(&mut passive, Process::start(&connection, addresses[round % 2]));
        if round == 1 {
            cluster.end("KILL").unwrap();
            cluster.resume().unwrap();
            payers.until_paid(25);
        }
    }
    drop(active);
    payers.until_paid(25);
    payers.compare(&connection);
}

#[test]
fn c290_the_primary_is_lost_and_its_synchronous_stand_by_has_all_that_was_answered() {
    let Some(primary) = start("primary") else { return };
    let connection = primary.database();
    let stand_by = primary.stand_by("standby").unwrap();
    let mut admin = primary.admin();
    admin.batch_execute("ALTER SYSTEM SET synchronous_standby_names = '*'").unwrap();
    admin.batch_execute("SELECT pg_reload_conf()").unwrap();
    let is_sync = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
    while admin.query_one(is_sync, &[]).unwrap().get::<_, i64>(0) == 0 {
        std::thread::yield_now();
    }
    drop(admin);
    let name = connection.rsplit('=').next().unwrap();
    let both = format!(
        "host={},{} user=postgres dbname={name} target_session_attrs=read-write",
        primary.host(),
        stand_by.host()
    );
    let address = free_address();
    let mut process = Process::start(&both, address);
    process.until_it_serves();
    let payers = Payers::start(&[address]);
    payers.until_paid(50);
    let mut primary = primary;
    primary.end("KILL").unwrap();
    let lost = Instant::now();
    stand_by.promote().unwrap();
    process.until_it_serves();
    payers.until_paid(1);
    println!("{:?} with the promotion", lost.elapsed());
    payers.until_paid(50);
    payers.compare(&stand_by.connection(name));
}

#[test]
fn c291_a_commit_that_was_not_replicated_is_no_commit_of_the_ledgers() {
    let Some(cluster) = start("unreplicated") else { return };
    let (connection, place) = (cluster.database(), Place::default());
    let server = open(&connection, &Arc::default());
    place.set(Some(server.clone()));
    let mut admin = cluster.admin();
    smol::block_on(async {
        let client = Client::new(place.clone(), ClientOptions::default());
        assert_eq!(client.call(&PAY, &(1, 100)).await.ok(), Ok(100));
        // Commits wait for a stand-by from now on, and there is none.
        admin.batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'absent'").unwrap();
        admin.batch_execute("SELECT pg_reload_conf()").unwrap();
        let waits = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name = 'oncewire ledger'";
        let (call, pid): (_, i32) = loop {
            let call = client.call(&PAY, &(1, 1)).start();
            // It is answered, or it waits.
            let pid = smol::unblock({
                let waits = waits.to_owned();
                let connection = connection.clone();
                move || {
                    let mut beside = connect(&connection);
                    (0..500)
                        .find_map(|_| beside.query_opt(&waits, &[]).unwrap().map(|row| row.get(0)))
                }
            })
            .await;
            match pid {
                Some(pid) => break (call, pid),
                None => assert!(call.await.ok().is_ok(), "the setting was not there yet"),
            }
        };
        admin.query("SELECT pg_cancel_backend($1)", &[&pid]).unwrap();
        // Another batch than the call's may have been the one that waited.
        until_it_fails(&server, &mut std::future::pending::<()>()).await;
        let error = server.ledger_error().unwrap().to_string();
        assert!(error.contains("may be in no stand-by"), "{error}");
        // The next one waits with its epoch, and reads nothing before that is in a stand-by.
        let stand_by = options(&connection);
        let next = std::thread::spawn(move || stand_by.open().unwrap());
        while admin.query_opt(waits, &[]).unwrap().is_none() {
            std::thread::yield_now();
        }
        admin.batch_execute("ALTER SYSTEM RESET synchronous_standby_names").unwrap();
        admin.batch_execute("SELECT pg_reload_conf()").unwrap();
        let next = util::server(next.join().unwrap(), &Arc::default());
        place.set(Some(next));
        place.cut();
        assert!(call.await.ok().is_ok(), "what was in doubt is answered by its record");
        client.close().await;
    });
}
