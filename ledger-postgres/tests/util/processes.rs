//! Servers in processes of their own, and callers that pay at whichever serves.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use oncewire_driver::{Client, ClientOptions, Outcome};
use oncewire_tcp::{TcpAcceptor, TcpConnector};

use super::*;

const CONNECTION: &str = "ONCEWIRE_TEST_CONNECTION";
const ADDRESS: &str = "ONCEWIRE_TEST_ADDRESS";
const SHARED: &str = "ONCEWIRE_TEST_SHARED";

/// What a test of the name `serve_in_a_process_of_its_own` does, which [`Process`] starts: it serves whenever it is its turn, or together
/// with others, and after an error opens the ledger again. Nothing, where it is run as a test.
pub fn serve_as_a_process() {
    let (Ok(connection), Ok(address)) = (std::env::var(CONNECTION), std::env::var(ADDRESS)) else {
        return;
    };
    let (address, shares): (SocketAddr, bool) =
        (address.parse().unwrap(), std::env::var(SHARED).is_ok());
    // It ends with the test, however that ends.
    std::thread::spawn(|| {
        let _end = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    loop {
        let ledger = match shares {
            true => {
                options(&connection).with_lock_timeout(Duration::from_millis(500)).open_shared()
            }
            false => options(&connection).open(),
        };
        let ledger = match ledger {
            Ok(ledger) => ledger,
            // The database restarts.
            Err(error) => {
                eprintln!("{error}");
                continue;
            }
        };
        let keepalive = Duration::from_secs(if shares { 1 } else { 10 });
        let server = server_with(ledger, &Arc::default(), |config| config.keepalive = keepalive);
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
pub struct Process {
    pub child: Child,
    said: BufReader<std::process::ChildStdout>,
}

impl Process {
    pub fn start(connection: &str, address: SocketAddr) -> Process {
        Process::start_as(connection, address, false)
    }

    /// Together with others, or alone.
    pub fn start_as(connection: &str, address: SocketAddr, shares: bool) -> Process {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "serve_in_a_process_of_its_own", "--nocapture"]);
        command.env(CONNECTION, connection).env(ADDRESS, address.to_string());
        if shares {
            command.env(SHARED, "1");
        }
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
    pub fn until_it_serves(&mut self) {
        let mut line = String::new();
        while !line.contains("serving") {
            line.clear();
            assert!(self.said.read_line(&mut line).unwrap() > 0, "it has ended");
        }
    }

    /// Sends it a signal: STOP, or CONT.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args([&format!("-{name}"), &pid]).status();
        assert!(status.unwrap().success());
    }

    pub fn kill(&mut self) {
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
pub fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// What callers have learned of each account: cents, and payments that were executed.
pub type Books = BTreeMap<i32, (i64, i64)>;

/// Callers that pay without end, and what they have learned.
pub struct Payers {
    client: Client,
    books: Arc<Mutex<Books>>,
    /// Payments answered.
    answers: Arc<(Mutex<u32>, Condvar)>,
    stop: Arc<AtomicBool>,
    tasks: Vec<smol::Task<()>>,
}

impl Payers {
    pub fn start(addresses: &[SocketAddr]) -> Payers {
        let mut options = ClientOptions::default().with_backoff_max(Duration::from_millis(50));
        options.connect_timeout = Duration::from_secs(2);
        // Each call has an outcome that is certain, however long a fail-over takes on a busy machine.
        options.timeout = Duration::from_secs(600);
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
    pub fn until_paid(&self, more: u32) {
        let (answers, changed) = &*self.answers;
        let mut count = answers.lock().unwrap();
        let until = *count + more;
        while *count < until {
            count = changed.wait(count).unwrap();
        }
    }

    /// Lets what is under way end, and compares.
    pub fn compare(self, database: &str) {
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
