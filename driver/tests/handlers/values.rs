//! What clients and servers make of each other's values.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use oncewire_driver::protocol::{MethodId, MethodSpec, NoReply, NotExecuted};
use oncewire_driver::{Bytes, CallFailure, Method, Server};
use serde::{Deserialize, Serialize};

use crate::link::{client, serve};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Tree {
    Leaf,
    Node(Vec<Tree>),
}

const COUNT: Method<Tree, u32> = Method::new("test/count");
const PAIR: Method<(u32, u32), u32> = Method::new("test/pair");
const UNITS: Method<Vec<()>, u32> = Method::new("test/units");
/// Replies with its argument.
const ECHO: MethodId = MethodId::of("test/echo");

fn nested(levels: usize) -> Vec<u8> {
    let mut bytes = [1, 1].repeat(levels);
    bytes.push(0);
    bytes
}

#[test]
fn c111_values_beyond_their_limits_refuse_the_call_and_the_server_lives_on() {
    let runs = Arc::new(AtomicUsize::new(0));
    let count = || {
        let runs = runs.clone();
        move || runs.fetch_add(1, Ordering::SeqCst)
    };
    let (tree, pair, units) = (count(), count(), count());
    let builder = Server::builder("test")
        .method(&COUNT, move |_, _| std::future::ready(tree() as u32))
        .method(&PAIR, move |_, (a, b)| std::future::ready(pair() as u32 + a + b))
        .method(&UNITS, move |_, _| std::future::ready(units() as u32));
    smol::block_on(async {
        let (_server, dialler) = serve(builder);
        let client = client(&dialler);
        let bad = Err(CallFailure::NotExecuted(NotExecuted::BadArguments));
        for levels in [100, 10_000, 100_000] {
            assert_eq!(client.call_raw(COUNT.id(), nested(levels)).await.ok(), bad);
        }
        let many = [255, 255, 255, 255, 255, 255, 255, 255, 127];
        assert_eq!(client.call_raw(UNITS.id(), many.to_vec()).await.ok(), bad);
        // C113: the call would run with a part of its arguments.
        assert_eq!(client.call_raw(PAIR.id(), vec![1, 2, 3]).await.ok(), bad);
        assert_eq!(client.call_raw(PAIR.id(), vec![1]).await.ok(), bad);
        assert_eq!(runs.load(Ordering::SeqCst), 0, "refused before handlers run");
        assert_eq!(client.call(&PAIR, &(1, 2)).await.ok(), Ok(3));
        assert_eq!(client.call(&COUNT, &Tree::Node(vec![Tree::Leaf])).await.ok(), Ok(1));
    });
}

#[test]
fn c111_a_reply_beyond_its_limits_was_executed_and_cannot_be_decoded() {
    let mut spec = MethodSpec::new(ECHO);
    spec.reply_len_max = 1 << 20;
    let builder = Server::builder("test").method_raw(spec, |_, body| std::future::ready(body));
    // A client that knows the method by other types.
    let deep: Method<Raw, Tree> = Method::new("test/echo");
    let units: Method<Raw, Vec<()>> = Method::new("test/echo");
    let byte: Method<Raw, u8> = Method::new("test/echo");
    smol::block_on(async {
        let (_server, dialler) = serve(builder);
        let client = client(&dialler);
        let bad = CallFailure::NoReply(NoReply::Undecodable);
        for levels in [100, 10_000, 100_000] {
            let reply = client.call(&deep, &Raw(nested(levels))).await;
            assert_eq!(reply.ok().map(drop), Err(bad));
        }
        let many = Raw(vec![255, 255, 255, 255, 255, 255, 255, 255, 127]);
        assert_eq!(client.call(&units, &many).await.ok(), Err(bad));
        assert_eq!(client.call(&byte, &Raw(vec![1, 2])).await.ok(), Err(bad), "C113");
        assert_eq!(client.call(&byte, &Raw(vec![1])).await.ok(), Ok(1));
        let raw = client.call_raw(ECHO, Bytes::from_static(b"as it is")).await;
        assert_eq!(raw.ok(), Ok(Bytes::from_static(b"as it is")));
    });
}

/// Bytes as they are.
struct Raw(Vec<u8>);

impl Serialize for Raw {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeTuple;
        let mut bytes = serializer.serialize_tuple(self.0.len())?;
        self.0.iter().try_for_each(|byte| bytes.serialize_element(byte))?;
        bytes.end()
    }
}
