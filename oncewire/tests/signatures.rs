//! What methods carry of their types.
#![allow(missing_docs, unreachable_pub)]

use std::collections::BTreeMap;

use oncewire::{
    CallFailure, Client, ClientOptions, Context, Method, MethodId, NotExecuted, Schema, Server,
    ServerBuilder, TcpAcceptor, TcpConnector,
};
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
        let differ: Vec<_> = differ.iter().map(|differs| differs.method.as_str()).collect();
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
