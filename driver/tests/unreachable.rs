//! The caller learns at once that no connection can be made, where that is known (C160).
#![allow(missing_docs)]

#[path = "util/socket_pair.rs"]
mod socket_pair;

use std::io;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};
use std::time::Duration;

use oncewire_driver::{
    BoxFuture, BoxStream, Client, ClientOptions, Connect, Method, NEVER, NotExecuted,
    OnDialFailure, Outcome, Server,
};
use smol::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use smol::net::unix::UnixStream;
use socket_pair::{Dialler, link};

const ADD_ONE: Method<i32, i32> = Method::new("toy/add_one");

/// Each dial takes the next of these; there is no dial after the last.
struct Dials(Mutex<Vec<Dial>>);

enum Dial {
    Fails(io::ErrorKind),
    /// What answers says this, and ends the connection.
    Reaches(&'static [u8]),
    ReachesServer(Dialler),
    /// What answers is reached, and then says that we are not accepted.
    IsRefused(Closes),
}

/// What the other side of a stream closes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Closes {
    WhatItWrites,
    Both,
}

/// A stream whose first read fails, and whose first write may.
struct Refusing(Closes);

impl AsyncRead for Refusing {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::Error::new(io::ErrorKind::PermissionDenied, "no such certificate")))
    }
}

impl AsyncWrite for Refusing {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.0 {
            Closes::WhatItWrites => Poll::Ready(Ok(bytes.len())),
            Closes::Both => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Dials {
    fn new(dials: impl IntoIterator<Item = Dial>) -> Dials {
        let mut dials: Vec<_> = dials.into_iter().collect();
        dials.reverse();
        Dials(Mutex::new(dials))
    }
}

impl Connect for Dials {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        let next = self.0.lock().unwrap().pop();
        Box::pin(async move {
            match next {
                Some(Dial::Fails(kind)) => Err(io::Error::new(kind, "test:here: it failed")),
                Some(Dial::Reaches(said)) => {
                    let (ours, mut theirs) = UnixStream::pair()?;
                    theirs.write_all(said).await?;
                    Ok(Box::new(ours) as BoxStream)
                }
                Some(Dial::IsRefused(closes)) => Ok(Box::new(Refusing(closes)) as BoxStream),
                Some(Dial::ReachesServer(dialler)) => dialler.connect().await,
                None => std::future::pending().await,
            }
        })
    }

    fn address(&self) -> String {
        "test:here".to_owned()
    }
}

fn client(on_dial_failure: OnDialFailure, dials: impl IntoIterator<Item = Dial>) -> Client {
    let options = ClientOptions::default()
        .with_on_dial_failure(on_dial_failure)
        .with_backoff_min(Duration::ZERO)
        .with_backoff_max(Duration::ZERO);
    Client::new(Dials::new(dials), options)
}

/// A call that is begun before the first dial has failed, most of the time.
fn never_connected(client: &Client, why: &str) {
    let outcome = client.call(&ADD_ONE, &1).timeout(NEVER).block();
    assert!(matches!(outcome, Outcome::NotExecuted(NotExecuted::NeverConnected)), "{outcome:?}");
    let said = client.status().last_error.unwrap();
    assert!(said.contains(why), "{said}");
}

#[test]
fn c160_a_dial_that_cannot_succeed_is_said_at_once_and_once() {
    let dials = [Dial::Fails(io::ErrorKind::InvalidInput)];
    let client = client(OnDialFailure::EndIfPermanent, dials);
    never_connected(&client, "cannot connect to test:here: it failed");
    assert_eq!(client.status().failed_attempts, 1);
}

#[test]
fn c160_what_does_not_speak_the_protocol_is_said_at_once() {
    let dials = [Dial::Reaches(b""), Dial::Reaches(b"HTTP/1.1 400 Bad Request\r\n\r\n")];
    let client = client(OnDialFailure::EndIfPermanent, dials);
    never_connected(&client, "cannot connect to test:here: what answers is no server of this");
    assert_eq!(client.status().failed_attempts, 2);
}

#[test]
fn c160_what_answers_is_named_by_its_first_bytes() {
    let answers: [(&[u8], &str); 2] = [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "protocol: its answer begins with \"HTTP\""),
        (b"\x15\x03\x03\x00\x02\x02\x46", "protocol: it speaks TLS"),
    ];
    for (first, why) in answers {
        let client = client(OnDialFailure::EndIfPermanent, [Dial::Reaches(first)]);
        never_connected(&client, why);
    }
}

#[test]
fn c160_a_refusal_that_comes_after_the_dial_is_said_at_once() {
    // Whether our first words have left before it or not.
    for closes in [Closes::WhatItWrites, Closes::Both] {
        let client = client(OnDialFailure::EndIfPermanent, [Dial::IsRefused(closes)]);
        never_connected(&client, "cannot connect to test:here: no such certificate");
    }
}

#[test]
fn c160_where_calls_are_not_to_wait_a_refused_dial_ends_them() {
    for dial in [Dial::Fails(io::ErrorKind::ConnectionRefused), Dial::Reaches(b"")] {
        let client = client(OnDialFailure::End, [dial]);
        never_connected(&client, "cannot connect to test:here: ");
    }
}

#[test]
fn c160_otherwise_calls_wait_for_a_server_that_comes_later() {
    for policy in [OnDialFailure::EndIfPermanent, OnDialFailure::Wait] {
        let (dialler, listener) = link();
        let server =
            Server::builder("toy").method(&ADD_ONE, |_, n| async move { n + 1 }).build().unwrap();
        smol::spawn(async move { server.serve(listener).await }).detach();
        let mut dials: Vec<_> =
            (0..5).map(|_| Dial::Fails(io::ErrorKind::ConnectionRefused)).collect();
        if policy == OnDialFailure::Wait {
            dials.push(Dial::Fails(io::ErrorKind::InvalidInput));
        }
        dials.push(Dial::ReachesServer(dialler));
        let client = client(policy, dials);
        let outcome = client.call(&ADD_ONE, &1).timeout(NEVER).block();
        assert!(matches!(outcome, Outcome::Reply(2)), "{outcome:?}");
        assert_eq!(client.status().failed_attempts, 0);
    }
}

#[test]
fn c161_a_passed_deadline_says_that_there_was_no_connection_and_why() {
    let dials: Vec<_> = (0..14).map(|_| Dial::Fails(io::ErrorKind::ConnectionRefused)).collect();
    let client = client(OnDialFailure::EndIfPermanent, dials);
    while client.status().failed_attempts < 14 {
        std::thread::yield_now();
    }
    let call = client.call(&ADD_ONE, &1).timeout(Duration::from_millis(1));
    let failed = call.result().block().unwrap_err();
    assert_eq!(
        failed.to_string(),
        "toy/add_one at test:here: not executed: the deadline passed before the call was started: \
         cannot connect to test:here: it failed, 14 attempts"
    );
    let report = failed.report().unwrap();
    assert_eq!((report.xid, report.session, report.connections), (None, None, 0));
}
