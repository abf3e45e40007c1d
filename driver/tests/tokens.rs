//! Callers say by a token who they are: C182, C184 to C187.
#![allow(missing_docs)]
#![cfg(unix)]

#[path = "util/served.rs"]
mod served;

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oncewire_driver::observe::{Event, Source};
use oncewire_driver::protocol::wire;
use oncewire_driver::tokens::Tokens;
use oncewire_driver::{
    BoxFuture, BoxStream, Client, ClientOptions, Connect, Method, NotExecuted, OnDialFailure,
    Outcome, Runtime, Server, ServerBuilder, SmolRuntime, Subject, Token,
};
use served::{Dialler, serve};

const WHO: Method<(), String> = Method::new("test/who");
const SECRET: Method<(), String> = Method::new("test/secret");

const ALICE: &str = "alices-token-correct-horse-battery";
const ALICE_NEW: &str = "alices-new-token-paper-clip-staple";
const BOB: &str = "bobs-token-that-is-longer-than-alices-by-some-bytes";
const NO_ONES: &str = "no-ones-token-incorrect-horse-btry";

fn token(text: &str) -> Token {
    Token::new(text.as_bytes()).unwrap()
}

fn tokens() -> Tokens {
    Tokens::new([("alice", token(ALICE)), ("bob", token(BOB))]).unwrap()
}

/// A caller learns who it is; only alice may learn the secret.
fn offer(tokens: &Tokens) -> ServerBuilder {
    Server::builder("test")
        .method(&WHO, |context, ()| async move { context.caller.to_string() })
        .method(&SECRET, |_, ()| async { "pandora".to_owned() })
        .authorize(|caller, method| {
            method == "test/who" || *caller == Subject::Name("alice".into())
        })
        .tokens(tokens)
}

/// Calls would wait for a minute, if nothing ended them.
fn options(token: Option<&str>) -> ClientOptions {
    let options = ClientOptions::default().with_timeout(Duration::from_secs(60));
    match token {
        Some(text) => options.with_token(self::token(text)),
        None => options,
    }
}

async fn who(client: &Client) -> Result<String, String> {
    client.call(&WHO, &()).result().await.map_err(|error| error.to_string())
}

fn run(test: impl Future<Output = ()>) {
    smol::block_on(smol::future::or(test, async {
        let runtime = SmolRuntime::global();
        let mut timer = runtime.timer();
        timer.set(runtime.now() + Duration::from_secs(50));
        std::future::poll_fn(|cx| timer.poll(cx)).await;
        panic!("a call waited though its end was known");
    }));
}

#[test]
fn c184_a_token_names_its_caller_to_handlers_and_to_authorize() {
    run(async {
        let (server, dialler) = serve(offer(&tokens()));
        let alice = Client::new(dialler.clone(), options(Some(ALICE)));
        let bob = Client::new(dialler, options(Some(BOB)));
        assert_eq!(who(&alice).await.as_deref(), Ok("alice"));
        assert_eq!(who(&bob).await.as_deref(), Ok("bob"));
        assert_eq!(alice.call(&SECRET, &()).await.ok().as_deref(), Ok("pandora"));
        let denied = bob.call(&SECRET, &()).await;
        assert!(matches!(denied, Outcome::NotExecuted(NotExecuted::PermissionDenied)));
        assert_eq!(server.counters().hellos_unidentified, 0);
    });
}

#[test]
fn c184_a_share_is_that_of_the_tokens_name() {
    run(async {
        let limited = offer(&tokens()).configure(|config| config.sessions_per_principal_max = 1);
        let (server, dialler) = serve(limited);
        let alice = Client::new(dialler.clone(), options(Some(ALICE)));
        assert!(who(&alice).await.is_ok());
        let end_at_once = |token| options(Some(token)).with_on_dial_failure(OnDialFailure::End);
        let second = Client::new(dialler.clone(), end_at_once(ALICE));
        let refused = who(&second).await.unwrap_err();
        assert!(refused.contains("the principal's share"), "{refused}");
        let bob = Client::new(dialler, end_at_once(BOB));
        assert!(who(&bob).await.is_ok(), "bob has his own");
        assert!(server.counters().hellos_without_room >= 1);
    });
}

#[test]
fn c182_a_refused_token_ends_calls_at_once_with_the_reason_until_it_is_mended() {
    run(async {
        let (server, dialler) = serve(offer(&tokens()));
        for (shown, why) in [
            (None, "the server demands a token, and none was sent"),
            (Some(NO_ONES), "the server does not know the token that was sent"),
        ] {
            let client = Client::new(dialler.clone(), options(shown));
            let outcome = client.call(&WHO, &()).await;
            assert!(
                matches!(outcome, Outcome::NotExecuted(NotExecuted::NeverConnected)),
                "{outcome:?}"
            );
            let error = who(&client).await.unwrap_err();
            assert!(error.contains(why), "{error}");
            assert!(error.contains(&server.instance().to_string()), "who says so: {error}");
            client.set_token(token(ALICE));
            assert!(client.connected().await);
            assert_eq!(who(&client).await.as_deref(), Ok("alice"));
        }
        assert!(server.counters().hellos_unidentified >= 2);
        assert_eq!(server.counters().admitted, 2);
    });
}

#[test]
fn c185_a_token_takes_the_place_of_another_while_both_are_served() {
    run(async {
        let table = tokens();
        let (_server, dialler) = serve(offer(&table));
        let old = Client::new(dialler.clone(), options(Some(ALICE)));
        assert_eq!(who(&old).await.as_deref(), Ok("alice"));
        let both = [("alice", token(ALICE)), ("alice", token(ALICE_NEW)), ("bob", token(BOB))];
        table.replace(&Tokens::new(both).unwrap());
        let new = Client::new(dialler.clone(), options(Some(ALICE_NEW)));
        let late = Client::new(dialler.clone(), options(Some(ALICE)));
        assert_eq!(who(&new).await.as_deref(), Ok("alice"));
        assert_eq!(who(&late).await.as_deref(), Ok("alice"));
        table.replace(&Tokens::new([("alice", token(ALICE_NEW))]).unwrap());
        assert_eq!(who(&old).await.as_deref(), Ok("alice"), "its connection lives on");
        let too_late = Client::new(dialler, options(Some(ALICE)));
        let error = who(&too_late).await.unwrap_err();
        assert!(error.contains("does not know the token"), "{error}");
        too_late.set_token(token(ALICE_NEW));
        assert!(too_late.connected().await);
    });
}

/// Counts dials, and does not say that others cannot read what passes.
struct Readable(Dialler, Arc<AtomicUsize>);

impl Connect for Readable {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.connect()
    }

    fn address(&self) -> String {
        "a wire in the street".to_owned()
    }
}

#[test]
fn c186_a_token_is_not_sent_where_others_can_read_it() {
    run(async {
        let (_server, dialler) = serve(offer(&tokens()));
        let dials = Arc::new(AtomicUsize::new(0));
        let client = Client::new(Readable(dialler, dials.clone()), options(Some(ALICE)));
        let error = who(&client).await.unwrap_err();
        assert!(error.contains("a wire in the street"), "{error}");
        assert!(error.contains("put it in TLS"), "{error}");
        assert!(client.call(&WHO, &()).await.ok().is_err(), "at once");
        assert_eq!(dials.load(Ordering::SeqCst), 0, "no connection, no byte");
    });
}

/// A token may come while a client without one is connected, or connects: it goes no further than the client.
#[test]
fn c186_a_token_that_comes_later_is_not_sent_there_either() {
    run(async {
        let anyone = Server::builder("test")
            .method(&WHO, |context, ()| async move { context.caller.to_string() });
        let (server, dialler) = serve(anyone);
        let dials = Arc::new(AtomicUsize::new(0));
        let client = Client::new(Readable(dialler, dials.clone()), options(None));
        assert_eq!(who(&client).await.as_deref(), Ok("anonymous"));
        client.set_token(token(ALICE));
        assert_eq!(who(&client).await.as_deref(), Ok("anonymous"), "its connection lives on");
        server.drain(Duration::from_millis(1)).await;
        let error = loop {
            // It is disconnected by the drain, and does not connect again.
            let outcome = client.call(&WHO, &()).fail_fast(true).result().await;
            let error = outcome.map_err(|error| error.to_string()).unwrap_err();
            if error.contains("put it in TLS") {
                break error;
            }
        };
        assert_eq!(dials.load(Ordering::SeqCst), 1, "{error}");
    });
}

/// Neither the text nor the bytes of a token, in any form in which `Debug` shows bytes.
fn check(what: &str, shown: &str) {
    for secret in [ALICE, ALICE_NEW, BOB, NO_ONES] {
        // Any six bytes of it.
        for part in secret.as_bytes().windows(6) {
            let text = str::from_utf8(part).unwrap();
            let numbers = |one: fn(&u8) -> String, between: &str| {
                part.iter().map(one).collect::<Vec<_>>().join(between)
            };
            let hex = numbers(|byte| format!("{byte:02x}"), "");
            for form in [text, &numbers(u8::to_string, ", "), &hex] {
                let spared = ["s-toke", "-token", "token-"].contains(&form);
                assert!(spared || !shown.contains(form), "{what} shows {form}: {shown}");
            }
        }
    }
}

#[test]
fn c187_a_planted_token_is_shown_nowhere() {
    run(async {
        let notes: Arc<Mutex<Vec<String>>> = Arc::default();
        let observer = || {
            let notes = notes.clone();
            move |source: &Source, event: &Event| {
                let shown = format!("{source:?} {source} {event:?} {event}");
                notes.lock().unwrap().push(shown);
            }
        };
        let handler_notes = notes.clone();
        let table = tokens();
        check("the table", &format!("{table:?}"));
        let builder = Server::builder("test")
            .method(&WHO, move |context, ()| {
                handler_notes.lock().unwrap().push(format!("{context:?}"));
                std::future::ready(context.caller.to_string())
            })
            .observe(observer())
            .status()
            .signatures()
            .tokens(&table);
        check("the builder", &format!("{builder:?}"));
        let (server, dialler) = serve(builder);
        for shown in [Some(ALICE), Some(NO_ONES), None] {
            let options = options(shown).with_observer(observer());
            check("options", &format!("{options:?}"));
            let client = Client::new(dialler.clone(), options);
            let answer = who(&client).await;
            assert_eq!(answer.is_ok(), shown == Some(ALICE));
            check("an answer", &format!("{answer:?}"));
            let outcome = client.call(&WHO, &()).await;
            check("an outcome", &format!("{outcome:?}"));
            check("a failure", &format!("{:?}", outcome.ok()));
            check("a client", &format!("{client:?} {:?}", client.status()));
            if answer.is_ok() {
                let status = client.status_of_server().await.ok().unwrap();
                check("the status", &format!("{status:?}"));
            }
            check("a report", &format!("{:?}", client.close().await));
        }
        check("the server", &format!("{server:?} {:?}", server.counters()));
        let frame = wire::Hello {
            magic: wire::MAGIC,
            version_min: 1,
            version_max: 1,
            features: wire::FEATURE_TOKEN,
            resume: None,
            slots: 1,
            request_len_max: 0,
            reply_len_max: 0,
            service: None,
            server: None,
            token: Some(token(BOB)),
        };
        check("a frame", &format!("{frame:?}"));
        let wrong = [("alice", token(BOB)), ("bob", token(BOB))];
        let error = Tokens::new(wrong).unwrap_err();
        check("an error", &format!("{error:?} {error}"));
        let error = Tokens::parse(&format!("alice {BOB} {ALICE}")).unwrap_err();
        check("an error", &format!("{error:?} {error}"));
        server.drain(Duration::from_secs(10)).await;
        let notes = notes.lock().unwrap();
        for kind in ["CallerIdentified", "SessionRefused", "SessionOpened", "CallEnded", "alice"] {
            assert!(notes.iter().any(|note| note.contains(kind)), "{kind}");
        }
        notes.iter().for_each(|note| check("a note", note));
    });
}
