//! `call --durable` against kill -9: C352 to C354.
#![allow(missing_docs)]
#![cfg(unix)]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use oncewire::redb::RedbJournal;
use oncewire::{ClientOptions, DurableClient, MethodId, TcpConnector};
use util::{Bank, Directory, Ended, ONCEWIRE, OPEN, deduct, ended, run};

mod util;

/// The program under test, once it runs; and how many more times something happens on its connections before it is killed.
#[derive(Clone)]
struct Killer(Arc<Mutex<(Option<Child>, usize)>>);

impl Killer {
    /// Something happens: says whether the program is dead by now.
    fn strike(&self) -> bool {
        let (child, left) = &mut *self.0.lock().unwrap();
        *left = left.saturating_sub(1);
        if *left == 0
            && let Some(child) = child
        {
            // It may have ended before.
            let _ended = child.kill();
        }
        *left == 0
    }
}

/// Relays connections to a server, and strikes when one comes, and before and after each piece of what passes.
struct Relay {
    address: String,
    killer: Killer,
}

impl Relay {
    fn start(to: &str, strikes: usize) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("tcp:{}", listener.local_addr().unwrap());
        let killer = Killer(Arc::new(Mutex::new((None, strikes))));
        let (to, striking) = (to.strip_prefix("tcp:").unwrap().to_owned(), killer.clone());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), TcpStream::connect(&*to).unwrap());
                if striking.strike() {
                    return;
                }
                let ends = [client, server];
                for (from, to) in [(0, 1), (1, 0)] {
                    let (from, to) = (&ends[from], &ends[to]);
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let striking = striking.clone();
                    std::thread::spawn(move || copy(from, to, &striking));
                }
            }
        });
        Relay { address, killer }
    }

    /// Runs the program, which may be killed.
    fn run(&self, arguments: &[&str]) -> Ended {
        let mut command = Command::new(ONCEWIRE);
        command.args(arguments).stdin(Stdio::null());
        let (out, err) = {
            let mut killer = self.killer.0.lock().unwrap();
            let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let ends = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
            killer.0 = Some(child);
            ends
        };
        let text = |mut end: Box<dyn Read>| {
            let mut text = Vec::new();
            end.read_to_end(&mut text).unwrap();
            text
        };
        let (stdout, stderr) = (text(Box::new(out)), text(Box::new(err)));
        let mut child = self.killer.0.lock().unwrap().0.take().unwrap();
        ended(std::process::Output { status: child.wait().unwrap(), stdout, stderr })
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, killer: &Killer) {
    let mut chunk = [0; 4096];
    while let Ok(len @ 1..) = from.read(&mut chunk) {
        if killer.strike() || to.write_all(&chunk[..len]).is_err() || killer.strike() {
            break;
        }
    }
    let _gone = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

fn open_account(bank: &Bank) -> u64 {
    bank.call("bank.open", OPEN).replied().as_u64().unwrap()
}

/// A run that ends with this balance, and perhaps a note that the call was not made again.
fn leaves(ended: &Ended, balance: u64) {
    assert_eq!(ended.status, 0, "{ended:?}");
    assert_eq!(ended.out.trim(), format!("{{\"Ok\":{balance}}}"), "{ended:?}");
    let note = "is not made again: its reply is from ";
    assert!(ended.err.is_empty() || ended.err.contains(note), "{ended:?}");
}

#[test]
fn c352_a_durable_call_is_made_once_wherever_the_program_is_killed() {
    let directory = Directory::new("cli-killed");
    let bank = Bank::tcp();
    let arguments = deduct(open_account(&bank), "1");
    let (mut kills, mut resumed) = (0, 0);
    for strikes in 1.. {
        let file = directory.at(&format!("call-{strikes}"));
        let with = |address: &str| {
            ["call", address, "bank.deduct", &arguments, "--durable", &file].map(str::to_owned)
        };
        let relay = Relay::start(&bank.address, strikes);
        let first = with(&relay.address);
        let first = relay.run(&first.each_ref().map(String::as_str));
        let second = with(&bank.address);
        let second = run(&second.each_ref().map(String::as_str));
        leaves(&second, 500 - strikes as u64);
        resumed += u32::from(second.err.contains("was sent by an earlier run"));
        if first.status == 0 {
            assert_eq!(first.out, second.out);
            break;
        }
        assert_eq!(first.status, -1, "{first:?}");
        kills += 1;
    }
    assert!(kills >= 10 && resumed >= 2, "{kills} kills, and {resumed} calls were resumed");
}

#[test]
fn c353_the_file_of_a_durable_call_stands_for_that_call() {
    let directory = Directory::new("cli-durable");
    let bank = Bank::tcp();
    let account = open_account(&bank);
    let (arguments, file) = (deduct(account, "100"), directory.at("call"));
    let durable = |method: &str, arguments: &str, file: &str| {
        bank.run("call", &[method, arguments, "--durable", file])
    };
    let deducted = || durable("bank.deduct", &arguments, &file);
    let first = deducted();
    assert_eq!((first.status, &*first.out, &*first.err), (0, "{\"Ok\":400}\n", ""), "{first:?}");
    let again = deducted();
    leaves(&again, 400);
    assert!(again.err.contains("the call was made before"), "{again:?}");
    // The same, written otherwise.
    let spaced =
        format!("[{}]", &arguments[arguments.find(": ").unwrap() + 1..arguments.len() - 1]);
    leaves(&durable("bank/deduct", &spaced, &file), 400);
    let other = durable("bank.deduct", &deduct(account, "7"), &file);
    other.failed(17, "holds another call, bank/deduct {");
    durable("bank.balance", &format!("[{account}]"), &file).failed(17, "holds another call");
    durable("bank.deduct", "{", &directory.at("none")).failed(10, "no JSON");
    // What was not executed leaves the file free.
    let refused = directory.at("refused");
    durable("bank.nothing", "[]", &refused).failed(12, "no method bank/nothing");
    leaves(&durable("bank.deduct", &arguments, &refused), 300);
    // Nor can it be said with what makes no sense beside it.
    let pipe = run(&["call", "pipe:cat", "a.b", "--durable", &file]);
    pipe.failed(2, "a server that outlives this program");
    let both = bank.run("call", &["a.b", "--fail-fast", "--durable", &file]);
    both.failed(2, "cannot be used with");
    durable("a.b", "[]", "/nonexistent/call").failed(16, "/nonexistent/call");
    // No server is needed for what is known, and for what is not the file waits.
    let (waiting, address) = (directory.at("waiting"), bank.address.clone());
    drop(bank);
    let late = |file| run(&["call", &address, "bank.deduct", &arguments, "--durable", file]);
    leaves(&late(&file), 400);
    late(&waiting).failed(13, "refused");
}

#[test]
fn c353_the_journal_of_another_program_or_of_a_running_one_is_left_alone() {
    let directory = Directory::new("cli-journal");
    let bank = Bank::tcp();
    let file = directory.at("journal");
    let connector = || TcpConnector::new(bank.address.strip_prefix("tcp:").unwrap());
    let open = || {
        let journal = RedbJournal::open(&file).unwrap();
        DurableClient::open(connector(), ClientOptions::default(), journal).unwrap()
    };
    let (client, _) = open();
    let call = client.call_raw(
        "another program's",
        MethodId::of("bank/none"),
        Vec::new(),
        std::time::Duration::from_secs(60),
    );
    let delivery = smol::block_on(call);
    assert_eq!(delivery.outcome.executed(), oncewire::Executed::No);
    let durable = || bank.run("call", &["bank.audit", "--durable", &file]);
    durable().failed(16, "uses it");
    smol::block_on(client.close());
    drop((client, delivery.receipt));
    // The client's task, which ends beside us, has the journal until then.
    let ended = loop {
        let ended = durable();
        if !ended.err.contains("uses it") {
            break ended;
        }
    };
    ended.failed(16, "the journal of another program");
    assert_eq!(open().1.len(), 1);
}

#[test]
fn c354_a_durable_call_is_made_once_though_its_server_is_killed_as_well() {
    let directory = Directory::new("cli-both-killed");
    let ledger = directory.at("ledger");
    let serve = |address: &str| Bank::with(&[address, "--ledger", &ledger, "--transactional"]);
    let mut bank = serve("tcp:127.0.0.1:0");
    let address = bank.address.clone();
    let arguments = deduct(open_account(&bank), "1");
    let mut balance = 500;
    let mut kills = 0;
    for strikes in 1.. {
        let file = directory.at(&format!("call-{strikes}"));
        let relay = Relay::start(&address, strikes);
        let call = |address| ["call", address, "bank.deduct", &*arguments, "--durable", &*file];
        let first = relay.run(&call(&relay.address));
        drop(bank);
        bank = serve(&address);
        balance -= 1;
        leaves(&run(&call(&address)), balance);
        if first.status == 0 {
            break;
        }
        kills += 1;
    }
    assert!(kills >= 10, "{kills} kills");
}

#[test]
fn c354_what_a_server_without_a_ledger_has_forgotten_is_unknown_for_good() {
    let directory = Directory::new("cli-forgotten");
    let mut bank = Bank::tcp();
    let address = bank.address.clone();
    let arguments = deduct(open_account(&bank), "1");
    let mut unknown = 0;
    for strikes in 1.. {
        let file = directory.at(&format!("call-{strikes}"));
        let relay = Relay::start(&address, strikes);
        let call = |address| ["call", address, "bank.deduct", &*arguments, "--durable", &*file];
        let first = relay.run(&call(&relay.address));
        drop(bank);
        let away = run(&[&call(&address)[..], &["--timeout", "10ms"]].concat());
        match away.status {
            // The outcome was in the file, or nothing was.
            0 => assert!(away.err.contains("made before"), "{away:?}"),
            13 => away.failed(13, "cannot connect"),
            _ => away.failed(24, "run the same command line again to learn it"),
        }
        bank = Bank::start(&address);
        let again = [run(&call(&address)), run(&call(&address))];
        if away.status == 24 {
            unknown += 1;
            for ended in again {
                ended.failed(21, "is not made again: ");
            }
        } else {
            assert_eq!([again[0].status, again[1].status], [0, 0], "{again:?}");
        }
        if first.status == 0 {
            break;
        }
    }
    assert!(unknown >= 2, "{unknown} calls are unknown");
}
