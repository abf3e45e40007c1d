//! Callers call only what they may: C192.
#![cfg(unix)]

#[path = "util/socket_pair.rs"]
mod socket_pair;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use oncewire_driver::{
    Accept, BoxFuture, BoxStream, Client, ClientOptions, Method, MethodSpec, NotExecuted, Outcome,
    Server, ServerBuilder, Subject,
};
use serde::{Deserialize, Deserializer, Serialize};
use socket_pair::Dialler;

const READ: Method<u32, u32> = Method::new("test/read").idempotent();
const WRITE: Method<Argument, u32> = Method::new("test/write");

/// The arguments that were decoded, in all tests of this program at once.
static DECODED: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// Is noted when it is decoded.
#[derive(Serialize)]
struct Argument(u32);

impl<'de> Deserialize<'de> for Argument {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Argument, D::Error> {
        let number = u32::deserialize(from)?;
        DECODED.lock().unwrap().push(number);
        Ok(Argument(number))
    }
}

/// Gives each caller the same name.
struct Named(socket_pair::Listener, &'static str);

impl Accept for Named {
    fn accept(&self) -> BoxFuture<'_, std::io::Result<(BoxStream, Subject)>> {
        Box::pin(async { Ok((self.0.accept().await?.0, Subject::Name(self.1.into()))) })
    }

    fn address(&self) -> String {
        self.0.address()
    }
}

fn client_named(server: &Server, name: &'static str) -> Client {
    let (dialler, listener): (Dialler, _) = socket_pair::link();
    let server = server.clone();
    smol::spawn(async move { server.serve(Named(listener, name)).await }).detach();
    Client::new(dialler, ClientOptions::default())
}

fn offer() -> ServerBuilder {
    Server::builder("test")
        .method(&READ, |_, n| std::future::ready(n))
        .method(&WRITE, |_, argument: Argument| std::future::ready(argument.0))
}

const DENIED: NotExecuted = NotExecuted::PermissionDenied;

#[test]
fn c192_a_caller_calls_what_it_may_and_of_the_rest_nothing_is_decoded() {
    smol::block_on(async {
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let notes = asked.clone();
        // What is asked may ask the server: no lock is held.
        let itself: Arc<OnceLock<Server>> = Arc::default();
        let asks = itself.clone();
        let server = offer().authorize(move |caller, method| {
            let _counters = asks.get().map(Server::counters);
            notes.lock().unwrap().push(format!("{caller}: {method}"));
            caller.to_string() == "alice" || method == "test/read"
        });
        let server = server.build().unwrap();
        itself.set(server.clone()).unwrap();
        let (alice, bob) = (client_named(&server, "alice"), client_named(&server, "bob"));
        assert_eq!(alice.call(&WRITE, &Argument(1)).await.ok(), Ok(1));
        assert_eq!(bob.call(&READ, &2).await.ok(), Ok(2));
        let outcome = bob.call(&WRITE, &Argument(3)).await;
        assert!(matches!(outcome, Outcome::NotExecuted(DENIED)), "{outcome:?}");
        let decoded = DECODED.lock().unwrap();
        assert!(decoded.contains(&1) && !decoded.contains(&3), "{decoded:?}");
        let asked = asked.lock().unwrap();
        assert_eq!(*asked, ["alice: test/write", "bob: test/read", "bob: test/write"]);
        // They ask the server, which holds them.
        assert!(itself.get().is_some());
    });
}

#[test]
fn c192_what_was_allowed_may_be_denied_and_a_panic_denies() {
    smol::block_on(async {
        let allowed = Arc::new(AtomicBool::new(true));
        let asks = allowed.clone();
        let server = offer()
            .method_raw(MethodSpec::new(oncewire_driver::MethodId::of("test/number")), |_, body| {
                std::future::ready(body)
            })
            .authorize(move |_, method| {
                assert_ne!(method, "test/read", "a policy that panics");
                asks.load(Ordering::SeqCst) && method == "test/write"
            });
        let client = client_named(&server.build().unwrap(), "alice");
        assert_eq!(client.call(&WRITE, &Argument(1)).await.ok(), Ok(1));
        allowed.store(false, Ordering::SeqCst);
        let denied = client.call(&WRITE, &Argument(1)).await;
        assert!(matches!(denied, Outcome::NotExecuted(DENIED)), "{denied:?}");
        let panicked = client.call(&READ, &1).await;
        assert!(matches!(panicked, Outcome::NotExecuted(DENIED)), "{panicked:?}");
    });
}
