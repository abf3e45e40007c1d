//! Middleware: a request id and a tenant beside the arguments of every call, set and checked in one place at each side.
//!
//! `cargo run --example middleware` prints a line for each call that reaches the shop and the stock behind it, and ends with an error if
//! they are not as they must be.

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use oncewire::{
    Client, ClientOptions, Context, Handled, Metadata, MetadataKey, NewCall, Next, NotExecuted,
    Outcome, Refusal, Server, ServerBuilder, memory,
};

const TENANT: MetadataKey<String> = MetadataKey::new("tenant");
const REQUEST: MetadataKey<u64> = MetadataKey::new("request");

#[oncewire::service(name = "shop")]
trait Shop {
    async fn order(&self, context: Context, article: String) -> Result<u64, String>;
}

#[oncewire::service(name = "stock")]
trait Stock {
    async fn take(&self, context: Context, article: String) -> Result<u64, String>;
    #[rpc(one_way)]
    async fn note(&self, context: Context, text: String);
}

/// The shop asks the stock, on behalf of its own caller: with what that has sent, and no longer than that waits.
struct Front(Client);

impl Shop for Front {
    async fn order(&self, context: Context, article: String) -> Result<u64, String> {
        let metadata = context.all_metadata().cloned().unwrap_or_default();
        let stock = StockClient(self.0.with_metadata(metadata).with_timeout(context.remaining()));
        stock.note(format!("{article} was asked for")).map_err(|error| error.to_string())?;
        stock.take(article).result().await.map_err(|failed| failed.to_string())?
    }
}

struct Shelf(AtomicU64);

impl Stock for Shelf {
    async fn take(&self, _: Context, article: String) -> Result<u64, String> {
        let take = |left: u64| left.checked_sub(1);
        let left = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        left.map(|before| before - 1).map_err(|_| format!("there is no {article} left"))
    }
    async fn note(&self, _: Context, _: String) {}
}

type Log = Arc<Mutex<Vec<String>>>;

/// The server's hook: a call without a tenant is not executed, and each other one leaves a line.
async fn log(log: Log, context: Context, next: Next) -> Handled {
    let Some(tenant) = context.metadata(&TENANT) else {
        return next.refuse(Refusal::BadMetadata);
    };
    let request = context.metadata(&REQUEST).unwrap_or_default();
    let method = next.method();
    let handled = next.run().await;
    let line = format!("request {request} for {tenant}: {method} {}", handled.end());
    output::show!("{line}");
    if let Ok(mut log) = log.lock() {
        log.push(line);
    }
    handled
}

/// Begins to serve, and returns a client.
fn serve(
    builder: ServerBuilder,
    lines: &Log,
    options: ClientOptions,
) -> Result<Client, Box<dyn Error>> {
    let lines = lines.clone();
    let server = builder.around(move |context, next| log(lines.clone(), context, next)).build()?;
    let (connector, acceptor) = memory::listener();
    smol::spawn(async move { server.serve(acceptor).await }).detach();
    Ok(Client::new(connector, options))
}

/// The client's hook: a call that is not part of another one gets a number of its own.
fn numbered() -> ClientOptions {
    let numbers = AtomicU64::new(0);
    ClientOptions::default().with_around(move |call: &mut NewCall| {
        if call.metadata().get(&REQUEST).is_none() {
            call.set_metadata(&REQUEST, numbers.fetch_add(1, Ordering::Relaxed) + 1);
        }
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let lines = Log::default();
    let stock = Server::builder("stock").service(StockServer(Shelf(AtomicU64::new(1))));
    let stock = serve(stock, &lines, numbered())?;
    let shop = Server::builder("shop").service(ShopServer(Front(stock)));
    let client = serve(shop, &lines, numbered())?;

    // Each tenant has a client of its own, of one session and one connection.
    let of = |tenant: &str| client.with_metadata(Metadata::new().with(&TENANT, tenant));
    let (acme, umbrella) = (ShopClient(of("acme")), ShopClient(of("umbrella")));
    let book = || "book".to_owned();
    assert_eq!(acme.order(book()).block().ok()?, Ok(0));
    assert_eq!(umbrella.order(book()).block().ok()?, Err("there is no book left".to_owned()));
    let anonymous = ShopClient(client.clone()).order(book()).block();
    assert!(matches!(anonymous, Outcome::NotExecuted(NotExecuted::BadMetadata)));
    client.close_blocking();

    let mut lines = lines.lock().map_err(|error| error.to_string())?.clone();
    lines.sort();
    let mut expected = Vec::new();
    for (request, tenant) in [(1, "acme"), (2, "umbrella")] {
        for method in ["shop/order", "stock/note", "stock/take"] {
            expected.push(format!("request {request} for {tenant}: {method} executed"));
        }
    }
    assert_eq!(lines, expected);
    Ok(())
}
