//! Handlers that panic, in any way.

use oncewire_driver::protocol::NoReply;
use oncewire_driver::{Bytes, CallFailure, Method, Server};

use crate::link::{client, serve};

/// Panics when it is dropped, with another of its kind.
struct Bomb(u32);

impl Drop for Bomb {
    fn drop(&mut self) {
        if self.0 > 0 {
            std::panic::panic_any(Bomb(self.0 - 1));
        }
    }
}

const AT_ONCE: Method<u32, ()> = Method::new("test/at_once");
const FIRST_POLL: Method<u32, ()> = Method::new("test/first_poll");
const LATER: Method<u32, ()> = Method::new("test/later");
const RETURNED: Method<u32, Fused> = Method::new("test/returned");
const ADD_ONE: Method<u32, u32> = Method::new("test/add_one");

/// A reply that panics when it is encoded.
#[derive(Debug)]
struct Fused(u32);

impl serde::Serialize for Fused {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        std::panic::panic_any(Bomb(self.0))
    }
}

impl<'de> serde::Deserialize<'de> for Fused {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Fused, D::Error> {
        Err(serde::de::Error::custom("never"))
    }
}

#[test]
fn c115_a_panic_whose_payload_panics_ends_its_call_and_nothing_else() {
    let builder = Server::builder("test")
        .method(&AT_ONCE, |_, fuse: u32| -> std::future::Ready<()> {
            std::panic::panic_any(Bomb(fuse))
        })
        .method(&FIRST_POLL, |_, fuse| async move { std::panic::panic_any(Bomb(fuse)) })
        .method(&LATER, |_, fuse| async move {
            let _bomb = Bomb(fuse);
            smol::future::yield_now().await;
            std::panic::panic_any(Bomb(fuse))
        })
        .method(&RETURNED, |_, fuse| std::future::ready(Fused(fuse)))
        .method(&ADD_ONE, |_, n| std::future::ready(n + 1));
    smol::block_on(async {
        let (server, dialler) = serve(builder);
        let client = client(&dialler);
        let aborted = Err(CallFailure::NoReply(NoReply::Aborted));
        for fuse in 0..3 {
            assert_eq!(client.call(&AT_ONCE, &fuse).await.ok(), aborted);
            assert_eq!(client.call(&FIRST_POLL, &fuse).await.ok(), aborted);
            assert_eq!(client.call(&RETURNED, &fuse).await.ok().map(drop), aborted);
            // Two panics at once would end any process.
            let fuse = fuse.min(1);
            if fuse == 0 {
                assert_eq!(client.call(&LATER, &fuse).await.ok(), aborted);
            }
        }
        assert_eq!(client.call(&ADD_ONE, &1).await.ok(), Ok(2));
        assert_eq!((server.counters().running, server.handler_faults().panics), (0, 10));
        assert_eq!(client.status().reconnects, 0, "the connection lives");
    });
}

/// Serializes as an iterator of unknown length, which postcard cannot encode.
#[derive(Debug, PartialEq)]
struct Endless;

impl serde::Serialize for Endless {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde::ser::SerializeSeq::end(serializer.serialize_seq(None)?)
    }
}

impl<'de> serde::Deserialize<'de> for Endless {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Endless, D::Error> {
        Ok(Endless)
    }
}

#[test]
fn c114_a_reply_that_cannot_be_encoded_says_so_and_which_method() {
    const ENDLESS: Method<(), Endless> = Method::new("test/endless");
    const LATER: Method<(), Endless> = Method::new("test/endless_later");
    let builder = Server::builder("test")
        .method(&ENDLESS, |_, ()| std::future::ready(Endless))
        .method(&LATER, |_, ()| async {
            smol::future::yield_now().await;
            Endless
        });
    smol::block_on(async {
        let (server, dialler) = serve(builder);
        let client = client(&dialler);
        for method in [ENDLESS, LATER] {
            let outcome = client.call(&method, &()).await.ok();
            assert_eq!(outcome, Err(CallFailure::NoReply(NoReply::Unencodable)));
            let why = server.last_unencodable().unwrap();
            assert!(why.starts_with(&format!("{}: the reply", method.name())), "{why}");
        }
        let faults = server.handler_faults();
        assert_eq!((faults.panics, faults.unencodable), (0, 2));
        let raw = client.call_raw(ENDLESS.id(), Bytes::new()).await.ok();
        assert_eq!(raw, Err(CallFailure::NoReply(NoReply::Unencodable)));
    });
}
