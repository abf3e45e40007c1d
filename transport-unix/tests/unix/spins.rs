//! What runs while a connection's task looks for the next request, without sleeping.

use std::io::Write;
use std::sync::mpsc::channel;
use std::thread;

use async_io::Async;
use oncewire_driver::{
    Bytes, Client, ClientOptions, MethodId, MethodSpec, Nonblocking, Outcome, Server,
};

use super::*;

const WAIT: MethodId = MethodId::of("t/wait");

/// A handler that blocks its thread until a socket of its own has something to read: it is woken, whoever else reads by force.
#[test]
fn c430_a_handler_that_is_begun_in_a_spin_is_woken_by_what_it_reads() {
    let dir = Dir::new();
    let (waits, waiting) = channel::<UnixStream>();
    let writer = thread::spawn(move || {
        for mut stream in waiting {
            stream.write_all(&[1]).unwrap();
        }
    });
    let handler = move |_, body: Bytes| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let waits = waits.clone();
        async move {
            let mut stream = Nonblocking::new(Async::new(ours).unwrap(), |_| Ok(()));
            let mut got = [0];
            smol::block_on(async {
                let mut read = stream.read(&mut got);
                assert!(poll_once(&mut read).await.is_none());
                waits.send(theirs).unwrap();
                read.await.unwrap();
            });
            body
        }
    };
    let server = Server::builder("t").method_raw(MethodSpec::new(WAIT), handler).build().unwrap();
    let acceptor = UnixAcceptor::bind(dir.socket()).unwrap();
    let serving = smol::spawn(async move { server.serve(acceptor).await });
    let client = Client::new(UnixConnector::new(dir.socket()), ClientOptions::default());
    // Each follows the reply before it at once, so that many of them come in a spin.
    for n in 0..500_u32 {
        let body = Bytes::copy_from_slice(&n.to_be_bytes());
        let outcome = client.call_raw(WAIT, body.clone()).block();
        assert!(
            matches!(&outcome, Outcome::Reply(reply) if *reply == body),
            "call {n}: {outcome:?}"
        );
    }
    drop(client);
    block_on(serving.cancel());
    writer.join().unwrap();
}
