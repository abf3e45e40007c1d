//! Handlers that answer when something has changed.
#![cfg(unix)]
#![allow(missing_docs)]

mod util;

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use oncewire_driver::ledger::Changes;
use oncewire_driver::{Client, ClientOptions, NotExecuted, Outcome, Server};
use util::*;

struct World {
    connection: String,
    changes: Changes,
    server: Server,
    client: Client,
}

fn world() -> Option<World> {
    let connection = shared()?.database();
    let ledger = options(&connection).open().unwrap();
    let (changes, place) = (ledger.changes(), Place::default());
    let server = server(ledger, &Arc::default());
    place.set(Some(server.clone()));
    let client = Client::new(place, ClientOptions::default());
    Some(World { connection, changes, server, client })
}

impl World {
    async fn until_watched_by(&self, watchers: usize) {
        while self.changes.waiting() != watchers {
            smol::future::yield_now().await;
        }
    }
}

#[test]
fn c324_a_watch_on_postgresql_wakes_after_an_effect_and_not_by_records_alone() {
    let Some(world) = world() else { return };
    let World { changes, client, .. } = &world;
    smol::block_on(async {
        assert_eq!(client.call(&PAY, &(1, 1)).await.ok(), Ok(1));
        let watches = [1, 1, 5].map(|more| client.call(&WATCH, &(1, more)).start());
        world.until_watched_by(3).await;
        let seen = changes.last();
        let mut next = pin!(changes.after(seen));
        let mut cx = Context::from_waker(Waker::noop());
        // A call that is recorded, one that is rolled back, and one beside it in whatever commit it has.
        let calls = (
            client.call(&COUNT, &()).start(),
            client.call(&PAY, &(1, -1_000)).start(),
            client.call(&COUNT, &()).start(),
        );
        assert!(matches!(calls.1.await, Outcome::NotExecuted(NotExecuted::Aborted)));
        assert!(calls.0.await.ok().is_ok() && calls.2.await.ok().is_ok());
        assert!(next.as_mut().poll(&mut cx).is_pending() && changes.last() == seen);

        let calls = [(1, 13), (1, 2)].map(|pay| client.call(&PAY, &pay).start());
        assert!(next.await.unwrap() > seen);
        let [bad, good] = calls;
        assert!(matches!(bad.await, Outcome::NotExecuted(_)) && good.await.ok() == Ok(3));
        let [one, other, third] = watches;
        assert_eq!((one.await.ok(), other.await.ok()), (Ok(Ok(3)), Ok(Ok(3))));
        world.until_watched_by(1).await;
        drop(third);
        world.until_watched_by(0).await;
        client.close().await;
    });
}

#[test]
fn c325_a_watch_at_a_server_that_was_replaced_ends_with_its_next_commit() {
    let Some(world) = world() else { return };
    let World { connection, changes, server, client } = &world;
    smol::block_on(async {
        assert_eq!(client.call(&PAY, &(1, 1)).await.ok(), Ok(1));
        let watch = client.call(&WATCH, &(1, 1)).start();
        world.until_watched_by(1).await;
        let mut next = pin!(changes.after(changes.last()));
        let mut cx = Context::from_waker(Waker::noop());
        connect(connection)
            .batch_execute(
                "UPDATE accounts SET cents = 7; UPDATE oncewire_server SET epoch = epoch + 1",
            )
            .unwrap();
        // As it says: what others write is not seen.
        assert!(next.as_mut().poll(&mut cx).is_pending());
        let mut in_doubt = client.call(&PAY, &(1, 1)).start();
        until_it_fails(server, &mut in_doubt).await;
        let Poll::Ready(Err(error)) = next.as_mut().poll(&mut cx) else {
            panic!("no commit follows, and it waits")
        };
        assert!(error.to_string().contains("another server has taken over"), "{error}");
        assert_eq!(watch.await.ok(), Ok(Err(error.to_string())));
    });
}
