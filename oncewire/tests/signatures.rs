//! What methods carry of their types.
#![allow(missing_docs, unreachable_pub)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use oncewire::{
    Accept, CallFailure, Client, ClientOptions, Context, Executed, Method, MethodId, NotExecuted,
    Outcome, Schema, Server, ServerBuilder, TcpAcceptor, TcpConnector,
};
use oncewire_pipe::memory;
use oncewire_schema::json::Limits;
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize, Schema)]
pub enum Refused {
    NoSuchAccount(u64),
    Frozen,
}

#[derive(Debug, Serialize, Deserialize, Schema)]
pub struct Page<T> {
    pub rows: Vec<T>,
    pub next: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct WithoutSchema;

#[oncewire::service(name = "bank")]
pub trait Bank {
    async fn deduct(&self, context: Context, account: u64, r#type: u8) -> Result<u64, Refused>;
    async fn list(&self, context: Context, of: BTreeMap<String, Page<u8>>) -> Page<Page<u64>>;
    async fn ping(&self, context: Context);
    #[rpc(one_way, idempotent)]
    async fn note(&self, context: Context, text: String);
    async fn other(&self, context: Context, of: Vec<WithoutSchema>) -> u8;
    async fn others(&self, context: Context, of: u8) -> Page<WithoutSchema>;
}

fn text<A, R>(method: &Method<A, R>) -> String {
    method.signature().map(|signature| signature.to_string()).unwrap_or_default()
}

#[test]
fn a_method_whose_types_have_a_schema_carries_its_signature() {
    assert_eq!(
        text(&BankMethods::DEDUCT),
        "(account: u64, type: u8) -> Result<u64, Refused> where Refused = NoSuchAccount(u64) | Frozen"
    );
    assert_eq!(
        text(&BankMethods::LIST),
        "(of: Map<String, Page<u8>>) -> Page<Page<u64>> where \
         Page<Page<u64>> = {rows: Vec<Page<u64>>, next: Option<u64>}, \
         Page<u64> = {rows: Vec<u64>, next: Option<u64>}, \
         Page<u8> = {rows: Vec<u8>, next: Option<u64>}"
    );
    assert_eq!(text(&BankMethods::PING), "()");
    assert_eq!(text(&BankMethods::NOTE), "(text: String)");
    const BY_HAND: Method<(u64, u8), Result<u64, Refused>> =
        Method::new("bank/deduct").parameters(&["account", "type"]);
    let hash =
        |method: &Method<(u64, u8), Result<u64, Refused>>| method.signature().unwrap().hash();
    assert_eq!(hash(&BY_HAND), hash(&BankMethods::DEDUCT));
}

#[test]
fn nothing_is_asked_of_a_method_with_another_type() {
    assert!(BankMethods::OTHER.signature().is_none());
    assert!(BankMethods::OTHERS.signature().is_none());
    assert!(Method::<u8, u8>::new("by/hand").signature().is_none());
}

/// The same service by another program, which has changed a method under its name.
mod changed {
    #[oncewire::service(name = "bank")]
    pub trait Bank {
        async fn deduct(&self, context: oncewire::Context, r#type: u64, account: u8) -> u64;
        async fn ping(&self, context: oncewire::Context);
        async fn other(&self, context: oncewire::Context, of: u64) -> u8;
        async fn absent(&self, context: oncewire::Context) -> u8;
    }
}

struct Empty;

impl Bank for Empty {
    async fn deduct(&self, _: Context, account: u64, _: u8) -> Result<u64, Refused> {
        if account == 7 { Ok(1) } else { Err(Refused::NoSuchAccount(account)) }
    }
    async fn list(&self, _: Context, _: BTreeMap<String, Page<u8>>) -> Page<Page<u64>> {
        Page { rows: Vec::new(), next: None }
    }
    async fn ping(&self, _: Context) {}
    async fn note(&self, _: Context, _: String) {}
    async fn other(&self, _: Context, _: Vec<WithoutSchema>) -> u8 {
        0
    }
    async fn others(&self, _: Context, _: u8) -> Page<WithoutSchema> {
        Page { rows: Vec::new(), next: None }
    }
}

async fn serve(builder: ServerBuilder) -> Client {
    let server = builder.service(BankServer(Empty)).build().unwrap();
    let acceptor = TcpAcceptor::bind("127.0.0.1:0").await.unwrap();
    let address = acceptor.local_addr();
    smol::spawn(async move { server.serve(acceptor).await }).detach();
    Client::new(TcpConnector::new(address), ClientOptions::default())
}

/// A client of a server in the same process.
fn serve_only(builder: ServerBuilder) -> Client {
    let server = builder.build().unwrap();
    let (connector, acceptor) = memory::listener();
    smol::spawn(async move { server.serve(acceptor).await }).detach();
    Client::new(connector, ClientOptions::default())
}

#[test]
fn a_client_learns_what_its_server_means_by_a_method() {
    smol::block_on(async {
        let client = serve(Server::builder("bank").signatures()).await;
        assert_eq!(client.mismatches(&BankMethods::signatures()).await, Ok(vec![]));
        let differ = client.mismatches(&changed::BankMethods::signatures()).await.unwrap();
        let differ: Vec<_> = differ.iter().map(ToString::to_string).collect();
        assert_eq!(
            differ,
            [
                "`bank/deduct` is (type: u64, account: u8) -> u64 at the client, and (account: u64, type: u8) -> \
              Result<u64, Refused> where Refused = NoSuchAccount(u64) | Frozen at the server"
            ]
        );
    });
}

#[test]
fn a_server_tells_all_signatures_only_if_it_is_said_and_compares_without_it() {
    smol::block_on(async {
        let client = serve(Server::builder("bank")).await;
        assert_eq!(client.mismatches(&BankMethods::signatures()).await, Ok(vec![]));
        assert_eq!(client.mismatches(&BankMethods::signatures()).await, Ok(vec![]));
        assert_eq!(client.status().counters.sent, 1, "once connected, the hashes say enough");
        let refused = Err(CallFailure::NotExecuted(NotExecuted::UnknownMethod));
        assert_eq!(client.signatures().await.ok(), refused);
        let differ = client.mismatches(&changed::BankMethods::signatures()).await.unwrap();
        let differ: Vec<_> = differ.iter().map(|differs| differs.method).collect();
        assert_eq!(differ, ["bank/deduct"]);
        assert_eq!(client.mismatches(&[]).await, Ok(vec![]));
    });
}

#[test]
fn a_tool_without_types_calls_a_method_with_json() {
    smol::block_on(async {
        let client = serve(Server::builder("bank").signatures()).await;
        let all = client.signatures().await.ok().unwrap();
        let names: Vec<_> = all.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["bank/deduct", "bank/list", "bank/note", "bank/ping"]);
        let (name, deduct) = &all[0];
        let body = deduct.arguments_to_postcard(r#"{"type": 1, "account": 8}"#, Limits::DEFAULT);
        assert_eq!(deduct.arguments_to_postcard("[8, 1]", Limits::DEFAULT), body);
        let json = body.as_deref().map(|body| deduct.arguments_to_json(body, Limits::DEFAULT));
        assert_eq!(json, Ok(Ok(r#"{"account":8,"type":1}"#.to_owned())));
        let reply = client.call_raw(MethodId::of(name), body.unwrap()).await.ok().unwrap();
        let reply = deduct.reply_to_json(&reply, Limits::DEFAULT).unwrap();
        assert_eq!(reply, r#"{"Err":{"NoSuchAccount":8}}"#);
    });
}

/// A service whose two arguments have changed places, and which has learned a method: the same bytes mean something else.
mod swapped {
    #[oncewire::service(name = "shop")]
    pub trait Shop {
        async fn pay(&self, context: oncewire::Context, to: u64, cents: u64) -> u64;
        async fn ping(&self, context: oncewire::Context) -> u8;
        #[rpc(one_way)]
        async fn note(&self, context: oncewire::Context, of: u64, text: String);
        async fn added(&self, context: oncewire::Context) -> u8;
    }
}

#[oncewire::service(name = "shop")]
pub trait Shop {
    async fn pay(&self, context: Context, cents: u64, to: u64) -> u64;
    async fn ping(&self, context: Context) -> u8;
    #[rpc(one_way)]
    async fn note(&self, context: Context, text: String, of: u64);
}

/// Executions, by whatever server.
#[derive(Clone, Default)]
struct Till(Arc<AtomicU64>);

impl Till {
    fn executed(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Shop for Till {
    async fn pay(&self, _: Context, cents: u64, _: u64) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed);
        cents
    }
    async fn ping(&self, _: Context) -> u8 {
        1
    }
    async fn note(&self, _: Context, _: String, _: u64) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl swapped::Shop for Till {
    async fn pay(&self, _: Context, _: u64, cents: u64) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed);
        cents
    }
    async fn ping(&self, _: Context) -> u8 {
        2
    }
    async fn note(&self, _: Context, _: u64, _: String) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    async fn added(&self, _: Context) -> u8 {
        3
    }
}

const PAY_MISMATCH: &str = "`shop/pay` is (cents: u64, to: u64) -> u64 at the client, and (to: u64, cents: u64) -> u64 at the server";

fn swapped_server(till: &Till) -> ServerBuilder {
    Server::builder("shop").service(swapped::ShopServer(till.clone()))
}

fn mismatch<R: std::fmt::Debug>(outcome: Outcome<R>) -> bool {
    matches!(outcome, Outcome::NotExecuted(NotExecuted::SignatureMismatch))
}

/// A client of the server that `serving` holds, which may be replaced.
struct Replaceable {
    client: Client,
    servers: smol::channel::Sender<Server>,
    current: Server,
}

impl Replaceable {
    fn new(first: Server) -> Replaceable {
        let (connector, acceptor) = memory::listener();
        let (servers, next) = smol::channel::unbounded::<Server>();
        servers.try_send(first.clone()).unwrap();
        let acceptor = Arc::new(acceptor);
        smol::spawn(async move {
            while let Ok(server) = next.recv().await {
                server.serve(Shared(acceptor.clone())).await.ok();
            }
        })
        .detach();
        let client = Client::new(connector, ClientOptions::default());
        Replaceable { client, servers, current: first }
    }

    /// The server drains, and the next one takes its place.
    async fn replace(&mut self, next: Server) {
        let before = self.client.status().instance;
        self.servers.try_send(next.clone()).unwrap();
        self.current.drain(Duration::from_secs(30)).await;
        self.current = next;
        while !self.client.connected().await || self.client.status().instance == before {
            smol::future::yield_now().await;
        }
    }
}

/// One listener for several servers.
struct Shared<A>(Arc<A>);

impl<A: Accept> Accept for Shared<A> {
    fn accept(
        &self,
    ) -> oncewire::BoxFuture<'_, std::io::Result<(oncewire::BoxStream, oncewire::Subject)>> {
        self.0.accept()
    }
    fn address(&self) -> String {
        self.0.address()
    }
}

#[test]
fn c236_a_call_whose_arguments_changed_places_is_not_executed_and_its_error_names_both() {
    smol::block_on(async {
        let till = Till::default();
        let client = serve_only(swapped_server(&till));
        // Begun before there is a connection, and after.
        let (shop, text) = (ShopClient(client.clone()), "a".to_owned());
        shop.note(text, 1).unwrap();
        let early = shop.pay(250, 7).start();
        assert!(mismatch(early.await));
        let error = shop.pay(250, 7).result().await.unwrap_err();
        assert_eq!(error.executed(), Executed::No);
        assert!(error.to_string().contains(PAY_MISMATCH), "{error}");
        // What means the same is called, and so is what both programs know.
        assert_eq!(shop.ping().await.ok(), Ok(2));
        let theirs = swapped::ShopClient(client.clone());
        assert_eq!(theirs.pay(7, 250).await.ok(), Ok(250));
        assert_eq!(theirs.added().await.ok(), Ok(3));
        assert!(mismatch(shop.pay(250, 7).await));
        assert_eq!(till.executed(), 1);
        let found = client.status().mismatches;
        assert_eq!(
            found.iter().map(|found| found.method).collect::<Vec<_>>(),
            ["shop/pay", "shop/note"]
        );
        let report = client.close().await;
        assert_eq!((report.unfinished, report.one_way_unconfirmed), (0, 1));
    });
}

#[test]
fn c236_after_a_reconnect_from_an_equal_server_to_another_one_calls_are_compared_again() {
    smol::block_on(async {
        let till = Till::default();
        let same = || Server::builder("shop").service(ShopServer(till.clone())).build().unwrap();
        let mut at = Replaceable::new(same());
        let shop = ShopClient(at.client.clone());
        assert_eq!(shop.pay(250, 7).await.ok(), Ok(250));
        assert_eq!(at.client.status().counters.sent, 1, "the hashes say enough");
        at.replace(swapped_server(&till).build().unwrap()).await;
        for _ in 0..3 {
            assert!(mismatch(shop.pay(250, 7).await));
            assert_eq!(shop.ping().await.ok(), Ok(2));
        }
        assert_eq!(at.client.status().counters.sent, 1 + 1 + 3, "it asks once");
        at.replace(same()).await;
        assert_eq!(shop.pay(250, 7).await.ok(), Ok(250));
        assert_eq!((shop.ping().await.ok(), till.executed()), (Ok(1), 2));
        assert_eq!(at.client.status().mismatches, []);
    });
}

#[test]
fn c237_methods_of_which_one_side_knows_no_types_are_not_compared() {
    const BY_HAND: Method<(u64, u64), u64> = Method::new("shop/pay");
    smol::block_on(async {
        let till = Till::default();
        let client = serve_only(swapped_server(&till));
        assert_eq!(client.call(&BY_HAND, &(7, 250)).await.ok(), Ok(250));
        assert_eq!(client.status().counters.sent, 1);
        let server = Server::builder("shop").method(&BY_HAND, |_, (cents, _)| async move { cents });
        let client = serve_only(server);
        assert_eq!(ShopClient(client.clone()).pay(250, 7).await.ok(), Ok(250));
        assert_eq!(client.status().counters.sent, 1, "nothing is asked of a server without types");
    });
}

#[test]
fn c237_a_caller_learns_nothing_of_a_method_that_it_may_not_call() {
    smol::block_on(async {
        let till = Till::default();
        let server = swapped_server(&till).authorize(|_, method| method == "shop/ping");
        let client = serve_only(server);
        let shop = ShopClient(client.clone());
        assert_eq!(shop.ping().await.ok(), Ok(2), "the comparison itself is allowed");
        let refused = Err(CallFailure::NotExecuted(NotExecuted::PermissionDenied));
        assert_eq!(shop.pay(250, 7).await.ok(), refused);
        assert_eq!(client.status().mismatches, []);
    });
}
