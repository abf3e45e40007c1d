//! Services from traits: what is generated, called over memory.
#![allow(missing_docs, unreachable_pub)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oncewire::{
    Accept, BuildError, Client, ClientOptions, Connect, Context, NEVER, NotExecuted, Outcome,
    Server,
};
use oncewire_pipe::memory;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refused {
    NoSuchAccount(u64),
}

/// A bank.
#[oncewire::service(name = "bank")]
pub trait Bank {
    /// Takes cents from an account.
    async fn deduct(&self, context: Context, account: u64, cents: u64) -> Result<u64, Refused>;
    #[rpc(idempotent, reply_len_max = 16)]
    #[rpc(time_limit = Duration::from_secs(5), concurrency = 4, queue_max = 9, timeout = NEVER)]
    async fn total(&self, context: Context) -> u64;
    #[rpc(one_way, name = "note.v2")]
    async fn note(&self, context: Context, text: String);
    #[rpc(blocking, depth_max = 4, memory_max = 1 << 20)]
    fn hash(&self, context: Context, bytes: Vec<u8>) -> u64;
    #[rpc(drop_on_cancel)]
    async fn wait(&self, _: Context) {
        std::future::pending().await
    }
    #[cfg(any())]
    async fn absent(&self, context: Context, of: Nowhere) -> Nowhere;
    async fn r#type(&self, _context: Context, tag: u8, context: u8, builder: u8, state: u8) -> u32 {
        u32::from(tag) + u32::from(context) + u32::from(builder) + u32::from(state)
    }
}

/// Another, at the same server.
#[oncewire::service(name = "mint")]
pub(crate) trait Mint {
    async fn remaining(&self, context: Context) -> Duration;
    async fn coin(&self, context: Context, cents: u64) -> (u64, String);
    #[rpc(timeout = Duration::from_secs(2_000), name = "audit.v2")]
    async fn audit(&self, context: Context) -> Duration;
}

/// Its name is a keyword.
#[oncewire::service(name = "move")]
#[allow(non_camel_case_types)]
pub trait r#move {
    async fn r#fn(&self, context: Context);
}

#[derive(Default)]
struct InMemory {
    cents: AtomicU64,
    notes: Arc<Mutex<Vec<String>>>,
}

impl Bank for InMemory {
    async fn deduct(&self, _: Context, account: u64, cents: u64) -> Result<u64, Refused> {
        if account != 7 {
            return Err(Refused::NoSuchAccount(account));
        }
        Ok(self.cents.fetch_sub(cents, Ordering::SeqCst) - cents)
    }

    async fn total(&self, _: Context) -> u64 {
        self.cents.load(Ordering::SeqCst)
    }

    async fn note(&self, _: Context, text: String) {
        self.notes.lock().unwrap().push(text);
    }

    fn hash(&self, _: Context, bytes: Vec<u8>) -> u64 {
        let thread = std::thread::current();
        assert!(thread.name().is_some_and(|name| name.starts_with("blocking")), "{thread:?}");
        bytes.iter().map(|byte| u64::from(*byte)).sum()
    }
}

impl Mint for InMemory {
    async fn remaining(&self, context: Context) -> Duration {
        context.remaining()
    }

    async fn audit(&self, context: Context) -> Duration {
        context.remaining()
    }

    async fn coin(&self, context: Context, cents: u64) -> (u64, String) {
        (self.cents.fetch_add(cents, Ordering::SeqCst) + cents, format!("{:?}", context.caller))
    }
}

fn serve() -> (Client, Arc<Mutex<Vec<String>>>) {
    let bank = InMemory { cents: AtomicU64::new(1_000), ..InMemory::default() };
    let notes = bank.notes.clone();
    let builder = Server::builder("money").service(BankServer(bank));
    let server = builder.service(MintServer(InMemory::default())).build().unwrap();
    let (connector, acceptor) = memory::listener();
    smol::spawn(async move { server.serve(acceptor).await }).detach();
    (Client::new(connector, ClientOptions::default()), notes)
}

#[test]
fn a_service_is_called_through_its_client() {
    let (client, notes) = serve();
    let bank = BankClient(client.clone());
    smol::block_on(async {
        assert_eq!(bank.deduct(7, 250).timeout(NEVER).await.ok(), Ok(Ok(750)));
        assert_eq!(bank.deduct(8, 1).await.ok(), Ok(Err(Refused::NoSuchAccount(8))));
        assert_eq!(bank.total().await.ok(), Ok(750));
        assert_eq!(bank.hash(vec![1, 2, 3]).await.ok(), Ok(6));
        assert_eq!(bank.r#type(1, 2, 3, 4).await.ok(), Ok(10));
        assert_eq!(MintClient::from(client.clone()).coin(5).await.ok().unwrap().0, 5);
        let mut timeout = Duration::from_millis(20);
        loop {
            match bank.wait().timeout(timeout).await {
                Outcome::Unknown(..) => break,
                // A busy machine has not sent it before.
                Outcome::NotExecuted(NotExecuted::DeadlinePassed) => {
                    assert!(
                        timeout < Duration::from_secs(20),
                        "it was not sent within {timeout:?}"
                    );
                    timeout *= 2;
                }
                other => panic!("{other:?}"),
            }
        }
        bank.note("said".to_owned()).unwrap();
        client.close().await;
    });
    assert_eq!(*notes.lock().unwrap(), ["said"]);
}

#[test]
fn what_a_method_is_called_and_says_of_itself_is_in_its_constant() {
    assert_eq!(BankMethods::DEDUCT.name(), "bank/deduct");
    assert_eq!(BankMethods::NOTE.name(), "bank/note.v2");
    assert_eq!(BankMethods::TYPE.name(), "bank/type");
    assert_eq!(MintMethods::COIN.name(), "mint/coin");
    assert_eq!(moveMethods::FN.name(), "move/fn");
    // The same bytes as without the attribute.
    assert_eq!(BankMethods::DEDUCT.decode_arguments(&[7, 5]), Some((7, 5)));
    assert_eq!(BankMethods::DEDUCT.decode_reply(&[0, 3]), Some(Ok(3)));
    assert_eq!(BankMethods::TOTAL.decode_arguments(&[]), Some(()));
}

#[test]
fn the_same_service_twice_is_an_error() {
    let twice = Server::builder("money").service(BankServer(InMemory::default()));
    let error = twice.service(BankServer(InMemory::default())).build().unwrap_err();
    assert!(matches!(error, BuildError::DuplicateMethod { .. }), "{error}");
    let says = error.to_string();
    assert!(says.starts_with("the method bank/") && says.ends_with(" is offered twice"), "{says}");
}

/// Everything that generated code names is named absolutely.
mod hygiene {
    #![allow(dead_code, non_camel_case_types)]

    pub struct Result;
    pub struct Option;
    pub struct String;
    pub struct Vec;
    pub struct Send;
    pub struct Sync;
    pub struct Future;
    pub struct Clone;
    pub struct Client;
    pub struct Method;
    pub struct Server;
    pub struct Some;
    pub struct Ok;
    #[derive(serde::Serialize, serde::Deserialize, Debug, PartialEq)]
    pub struct Context(pub u8);
    pub struct S;
    pub struct L;
    pub mod oncewire {}
    pub mod core {}
    pub mod std {}

    #[::oncewire::service(name = "hygiene")]
    pub trait Service {
        async fn call(&self, call: ::oncewire::Context, context: Context) -> Context;
        async fn send(&self, client: ::oncewire::Context, new: u8, clone: u8, from: u8) -> u8;
    }

    pub struct Echo;

    impl Service for Echo {
        async fn call(&self, _: ::oncewire::Context, context: Context) -> Context {
            context
        }
        async fn send(&self, _: ::oncewire::Context, new: u8, clone: u8, from: u8) -> u8 {
            new + clone + from
        }
    }
}

#[test]
fn users_types_of_any_name_are_not_taken_for_the_librarys() {
    let builder = Server::builder("hygiene").service(hygiene::ServiceServer(hygiene::Echo));
    let server = builder.build().unwrap();
    let (connector, acceptor) = memory::listener();
    smol::spawn(async move { server.serve(acceptor).await }).detach();
    let client = hygiene::ServiceClient(Client::new(connector, ClientOptions::default()));
    smol::block_on(async {
        assert_eq!(client.call(hygiene::Context(3)).await.ok(), Ok(hygiene::Context(3)));
        assert_eq!(client.send(1, 2, 3).await.ok(), Ok(6));
    });
}

/// As a program has them that takes its transport from its configuration.
#[test]
fn a_transport_of_any_kind_is_one() {
    let server = Server::builder("money").service(MintServer(InMemory::default())).build().unwrap();
    let (connector, acceptor) = memory::listener();
    let acceptor: Box<dyn Accept> = Box::new(acceptor);
    let connector: Arc<dyn Connect> = Arc::new(connector);
    smol::spawn(async move { server.serve(acceptor).await }).detach();
    let mint = MintClient(Client::new(connector, ClientOptions::default()));
    assert_eq!(mint.coin(5).block().ok().unwrap().0, 5);
}

#[test]
fn a_handler_knows_how_long_its_caller_waits() {
    let mint = MintClient(serve().0);
    let minute = Duration::from_secs(60);
    let remaining = mint.remaining().timeout(minute).block().ok().unwrap();
    // Clocks are read coarsely, and never so that a call ends early.
    assert!(Duration::ZERO < remaining && remaining < 2 * minute, "{remaining:?}");
    let remaining = mint.remaining().timeout(NEVER).block().ok().unwrap();
    assert!(remaining > 2 * minute, "{remaining:?}");
}

#[test]
fn c459_a_method_of_a_service_says_how_long_its_callers_wait() {
    let mint = MintClient(serve().0);
    let minute = Duration::from_secs(60);
    let remaining = mint.audit().block().ok().unwrap();
    assert!(remaining > 2 * minute, "{remaining:?}");
    let remaining = mint.audit().timeout(minute).block().ok().unwrap();
    assert!(remaining < 2 * minute, "{remaining:?}");
}

/// Calls another service for its own callers.
#[oncewire::service(name = "front")]
pub(crate) trait Front {
    async fn remaining_behind(&self, context: Context) -> Duration;
}

struct Forwards(MintClient);

impl Front for Forwards {
    async fn remaining_behind(&self, context: Context) -> Duration {
        let call = self.0.remaining().timeout_at_most(context.remaining());
        call.await.ok().unwrap()
    }
}

#[test]
fn a_call_within_a_call_waits_no_longer_than_the_first() {
    let mint = Server::builder("money").service(MintServer(InMemory::default())).build().unwrap();
    let (connector, acceptor) = memory::listener();
    smol::spawn(async move { mint.serve(acceptor).await }).detach();
    let for_ever = ClientOptions::default().with_timeout(NEVER);
    let behind = Forwards(MintClient(Client::new(connector, for_ever)));
    let server = Server::builder("front").service(FrontServer(behind)).build().unwrap();
    let (connector, acceptor) = memory::listener();
    smol::spawn(async move { server.serve(acceptor).await }).detach();
    let front = FrontClient(Client::new(connector, ClientOptions::default()));
    let minute = Duration::from_secs(60);
    let remaining = front.remaining_behind().timeout(minute).block().ok().unwrap();
    assert!(Duration::ZERO < remaining && remaining < 2 * minute, "{remaining:?}");
    let remaining = front.remaining_behind().timeout(NEVER).block().ok().unwrap();
    assert!(remaining > 2 * minute, "{remaining:?}");
}
