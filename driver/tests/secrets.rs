//! No secret is shown: neither what calls carry, nor the ids of sessions (C198).
#![allow(missing_docs)]
#![cfg(unix)]

#[path = "util/socket_pair.rs"]
mod socket_pair;

use std::sync::{Arc, Mutex};

use oncewire_driver::observe::{Event, Source};
use oncewire_driver::{
    BoxFuture, Bytes, Client, ClientOptions, Instant, Method, Runtime, Server, SmolRuntime,
    Subject, Timer,
};

const KEEP: Method<Bytes, Bytes> = Method::new("vault/keep");
const REFUSE: Method<u32, u32> = Method::new("vault/refuse");

/// What calls carry.
const SECRET: &str = "correct-horse-battery-staple";
/// What session ids are made of.
const BITS: [u8; 2] = [0xc5, 0x3a];

/// Draws the same bits for each session, so that a test knows them.
struct Drawn(Arc<SmolRuntime>);

impl Runtime for Drawn {
    fn now(&self) -> Instant {
        self.0.now()
    }

    fn timer(&self) -> Box<dyn Timer> {
        self.0.timer()
    }

    fn random(&self, bytes: &mut [u8]) {
        // An instance's number is no secret; it has 8 bytes, a session's id has 16.
        let drawn = if bytes.len() == 8 { [0x11, 0x22] } else { BITS };
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = drawn[at % 2];
        }
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.0.spawn(task);
    }
}

/// Neither the text nor the bytes of a secret, in any form in which `Debug` shows bytes.
fn check(what: &str, shown: &str) {
    let numbers: Vec<String> = SECRET.bytes().take(6).map(|byte| byte.to_string()).collect();
    let id: Vec<String> = BITS.iter().cycle().take(4).map(u8::to_string).collect();
    // The first two bytes of an id may be shown, to tell sessions apart.
    for secret in [SECRET, &numbers.join(", "), "c53ac53a", &id.join(", ")] {
        let is_shown = shown.to_lowercase().contains(&secret.to_lowercase());
        assert!(!is_shown, "{what} shows {secret}: {shown}");
    }
}

#[test]
fn c198_a_planted_secret_is_shown_nowhere() {
    smol::block_on(async {
        let notes: Arc<Mutex<Vec<String>>> = Arc::default();
        let handler_notes = notes.clone();
        let (dialler, listener) = socket_pair::link();
        let builder = Server::builder("vault")
            .runtime(Arc::new(Drawn(SmolRuntime::global())))
            .method_raw(&KEEP, move |context, body| {
                let subject: &Subject = &context.caller;
                handler_notes.lock().unwrap().push(format!("{subject:?} {subject} {context:?}"));
                std::future::ready(body)
            })
            .method(&REFUSE, |_, n: u32| std::future::ready(n))
            .authorize(|_, method| method != "vault/refuse");
        check("the builder", &format!("{builder:?}"));
        // Its own id is no secret, and of the same bits here: another one takes its place.
        let server = builder.configure(|config| {
            config.server = oncewire_driver::ServerId::from_bytes([1; 16]);
        });
        let server = server.build().unwrap();
        let serving = server.clone();
        smol::spawn(async move { serving.serve(listener).await }).detach();
        let client = Client::new(dialler, ClientOptions::default());
        let call = client.call_raw(KEEP.id(), Bytes::from_static(SECRET.as_bytes())).start();
        check("a call", &format!("{call:?}"));
        assert_eq!(call.await.ok().unwrap(), SECRET);
        let refused = client.call(&REFUSE, &1).await;
        check("an outcome", &format!("{refused:?}"));
        let failure = refused.ok().unwrap_err();
        check("a failure", &format!("{failure} {failure:?}"));
        check("the status", &format!("{:?}", client.status()));
        check("the client", &format!("{client:?}"));
        check("the server", &format!("{server:?} {:?} {:?}", server.counters(), server.load()));
        for note in notes.lock().unwrap().iter() {
            check("a context", note);
        }
        assert_eq!(notes.lock().unwrap().len(), 1);
    });
}

#[test]
fn c254_no_observer_gets_a_secret() {
    smol::block_on(async {
        let notes: Arc<Mutex<Vec<String>>> = Arc::default();
        let observer = || {
            let notes = notes.clone();
            move |source: &Source, event: &Event| {
                let shown = format!("{source:?} {source} {event:?} {event}");
                notes.lock().unwrap().push(shown);
            }
        };
        let (dialler, listener) = socket_pair::link();
        let server = Server::builder("vault")
            .runtime(Arc::new(Drawn(SmolRuntime::global())))
            .method_raw(&KEEP, |_, body| std::future::ready(body))
            .method(&REFUSE, |_, n: u32| std::future::ready(n))
            .authorize(|_, method| method != "vault/refuse")
            .configure(|config| config.server = oncewire_driver::ServerId::from_bytes([1; 16]))
            .observe(observer())
            .build()
            .unwrap();
        let serving = server.clone();
        smol::spawn(async move { serving.serve(listener).await }).detach();
        let options = ClientOptions::default().with_observer(observer());
        check("the options", &format!("{options:?}"));
        let client = Client::new(dialler, options);
        let kept = client.call_raw(KEEP.id(), Bytes::from_static(SECRET.as_bytes())).await;
        assert_eq!(kept.ok().unwrap(), SECRET);
        assert!(client.call(&REFUSE, &1).await.ok().is_err());
        client.close().await;
        server.drain(std::time::Duration::from_secs(10)).await;
        let notes = notes.lock().unwrap();
        for kind in ["SessionOpened", "CallStarted", "CallEnded", "CallRefused", "Drained"] {
            assert!(notes.iter().any(|note| note.contains(kind)), "{kind}");
        }
        notes.iter().for_each(|note| check("an event", note));
    });
}
