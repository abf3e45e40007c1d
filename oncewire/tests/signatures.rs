//! What methods carry of their types.
#![allow(missing_docs, unreachable_pub)]

use std::collections::BTreeMap;

use oncewire::{Context, Method, Schema};
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
