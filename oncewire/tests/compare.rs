//! Calls are compared before they are sent: a program and a server with two versions of a service (S33), C232 and C235 to C237.
#![allow(missing_docs, unreachable_pub)]

use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use oncewire::{
    Accept, Bytes, CallFailure, Client, ClientOptions, Context, DurableClient, Executed, Method,
    NotExecuted, Outcome, Server, ServerBuilder,
};
use oncewire_ledger_redb::RedbJournal;
use oncewire_pipe::memory;

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

/// A client of a server in the same process.
fn serve_only(builder: ServerBuilder) -> Client {
    let server = builder.build().unwrap();
    let (connector, acceptor) = memory::listener();
    smol::spawn(async move { server.serve(acceptor).await }).detach();
    Client::new(connector, ClientOptions::default())
}

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
            found.iter().map(|found| found.method.as_str()).collect::<Vec<_>>(),
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

/// A folder that goes when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        let path = std::env::temp_dir().join(format!("oncewire-compare-{}", std::process::id()));
        std::fs::create_dir(&path).expect("a folder of the test's own");
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The last client's task, which ends beside us, holds the journal.
fn open_when_free(path: &Path) -> RedbJournal {
    loop {
        match RedbJournal::open(path) {
            Ok(journal) => return journal,
            Err(error) => assert!(error.to_string().contains("uses it"), "{error}"),
        }
        std::thread::yield_now();
    }
}

#[test]
fn c232_a_durable_call_is_compared_and_the_question_leaves_nothing_behind_in_the_journal() {
    smol::block_on(async {
        let folder = Folder::new();
        let path = folder.0.join("a.journal");
        let till = Till::default();
        let server = swapped_server(&till).build().unwrap();
        let mut order = 0;
        for run in 0..3 {
            let (connector, acceptor) = memory::listener();
            let serving = server.clone();
            smol::spawn(async move { serving.serve(acceptor).await }).detach();
            let journal = open_when_free(&path);
            let (client, left) =
                DurableClient::open(connector, ClientOptions::default(), journal).unwrap();
            assert_eq!(left.len(), 0, "run {run}");
            let shop = DurableShopClient(client.clone());
            for _ in 0..3 {
                order += 1;
                let paid = shop.pay(format!("order {order}"), 250, 7).await;
                assert!(mismatch(paid.outcome), "run {run}");
                let pinged = shop.ping(format!("order {order}, pinged")).await;
                assert!(matches!(pinged.outcome, Outcome::Reply(2)), "run {run}");
                pinged.receipt.confirm();
            }
            let found = client.status().mismatches;
            assert_eq!(found.first().map(ToString::to_string).as_deref(), Some(PAY_MISMATCH));
            client.close().await;
        }
        assert_eq!(till.executed(), 0);
    });
}

/// A server that has types, by its hashes, and answers the question for them like this.
fn strange_server<F>(answer: impl Fn() -> F + Send + Sync + 'static) -> ServerBuilder
where
    F: Future<Output = Bytes> + Send + 'static,
{
    const COMPARE: Method<(), ()> = Method::new("oncewire/compare").idempotent();
    untyped_server().method_raw(&COMPARE, move |_, _| answer())
}

/// The same without an answer.
fn untyped_server() -> ServerBuilder {
    const PAY: Method<(u64, u64), u64> = Method::new("shop/pay");
    Server::builder("shop")
        .method(&PAY, |_, (cents, _)| async move { cents })
        .configure(|config| config.schemas = config.schemas.with(7).unwrap())
}

fn serve_with(builder: ServerBuilder, options: ClientOptions) -> Client {
    let server = builder.build().unwrap();
    let (connector, acceptor) = memory::listener();
    smol::spawn(async move { server.serve(acceptor).await }).detach();
    Client::new(connector, options)
}

/// Such a client gives a question up soon. A handshake that takes longer is made again.
fn impatient() -> ClientOptions {
    ClientOptions::default().with_connect_timeout(Duration::from_millis(200))
}

fn not_compared(outcome: Outcome<u64>) -> bool {
    matches!(outcome, Outcome::NotExecuted(NotExecuted::NotCompared))
}

#[test]
fn c235_a_server_that_never_says_what_it_means_holds_up_no_call_for_ever() {
    smol::block_on(async {
        let client = serve_with(strange_server(pending), impatient());
        let shop = ShopClient(client.clone());
        let calls = [1, 2, 3].map(|cents| shop.pay(cents, 7).timeout(Duration::MAX).start());
        for call in calls {
            assert!(not_compared(call.await));
        }
        for _ in 0..100 {
            assert!(not_compared(shop.pay(4, 7).timeout(Duration::MAX).await), "at once");
        }
        let sent = client.status().counters.sent;
        assert!(sent <= 2 * (1 + client.status().reconnects), "{sent} questions");
    });
}

#[test]
fn c235_an_answer_that_comes_late_counts() {
    smol::block_on(async {
        let (release, released) = smol::channel::unbounded::<()>();
        let answer = move || {
            let released = released.clone();
            // It differs in nothing.
            async move {
                released.recv().await.ok();
                Bytes::from_static(&[0])
            }
        };
        let shop = ShopClient(serve_with(strange_server(answer), impatient()));
        assert!(not_compared(shop.pay(1, 7).timeout(Duration::MAX).await));
        drop(release);
        // Until it is there, calls still end at once.
        loop {
            match shop.pay(250, 7).await {
                Outcome::Reply(paid) => return assert_eq!(paid, 250),
                outcome => assert!(not_compared(outcome)),
            }
            smol::future::yield_now().await;
        }
    });
}

#[test]
fn c235_an_answer_that_is_none_ends_the_call_and_a_server_that_compares_nothing_gets_it() {
    smol::block_on(async {
        let garbage = || async { Bytes::from_static(&[9, 9, 9]) };
        let shop = ShopClient(serve_with(strange_server(garbage), ClientOptions::default()));
        assert!(not_compared(shop.pay(1, 7).await));
        assert!(not_compared(shop.pay(1, 7).await));
        let shop = ShopClient(serve_with(untyped_server(), ClientOptions::default()));
        assert_eq!(shop.pay(250, 7).await.ok(), Ok(250));
        assert_eq!(shop.pay(250, 7).await.ok(), Ok(250));
        assert_eq!(shop.0.status().counters.sent, 3, "it was asked once");
    });
}

#[test]
fn c235_where_not_all_differences_fit_into_one_answer_they_are_asked_for_one_by_one() {
    smol::block_on(async {
        let till = Till::default();
        // Room for the text of one of them.
        let mut options = ClientOptions::default();
        options.reply_len_max = 60;
        let shop = ShopClient(serve_with(swapped_server(&till), options));
        shop.note("a".to_owned(), 1).unwrap();
        assert!(mismatch(shop.pay(250, 7).await));
        assert_eq!(shop.ping().await.ok(), Ok(2));
        assert_eq!(till.executed(), 0);
    });
}
