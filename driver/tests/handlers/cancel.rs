//! Calls whose outcomes are not needed any more.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Wake, Waker};
use std::time::Duration;

use oncewire_driver::{
    Client, ClientOptions, Context, Method, Outcome, Server, ServerBuilder, Ticket,
};
use smol::channel::{Receiver, Sender, unbounded};

use crate::link::{client, serve};
use crate::longer::longer;

const LISTENS: Method<u32, u32> = Method::new("test/listens");
const DROPPED: Method<u32, u32> = Method::new("test/dropped").drop_on_cancel();

/// What handlers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Begun(&'static str),
    Cancelled,
    Dropped,
}

struct OnDrop(Sender<Said>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        let _gone = self.0.try_send(Said::Dropped);
    }
}

/// A handler that waits for its cancel and then replies, and one that waits for nothing.
fn offer() -> (ServerBuilder, Receiver<Said>) {
    let (say, said) = unbounded();
    let (listens, dropped) = (say.clone(), say);
    let builder = Server::builder("test")
        .method(&LISTENS, move |context: Context, n| {
            let say = listens.clone();
            async move {
                say.send(Said::Begun("listens")).await.unwrap();
                assert!(!context.is_cancelled());
                context.cancelled().await;
                assert!(context.is_cancelled());
                say.send(Said::Cancelled).await.unwrap();
                n
            }
        })
        .method(&DROPPED, move |_, _: u32| {
            let say = dropped.clone();
            async move {
                let _on_drop = OnDrop(say.clone());
                say.send(Said::Begun("dropped")).await.unwrap();
                std::future::pending().await
            }
        });
    (builder, said)
}

async fn begin(client: &Client, said: &Receiver<Said>) -> [oncewire_driver::Call<u32>; 2] {
    let listens = client.call(&LISTENS, &1).start();
    assert_eq!(said.recv().await, Ok(Said::Begun("listens")));
    let dropped = client.call(&DROPPED, &1).start();
    assert_eq!(said.recv().await, Ok(Said::Begun("dropped")));
    [listens, dropped]
}

async fn both_ended(said: &Receiver<Said>) {
    let ends = [said.recv().await.unwrap(), said.recv().await.unwrap()];
    assert!(ends.contains(&Said::Cancelled) && ends.contains(&Said::Dropped), "{ends:?}");
}

/// Waits until nothing runs: handlers say that they end a moment before they do.
async fn until_idle(server: &Server) {
    while server.counters().running > 0 || server.load().running > 0 {
        smol::future::yield_now().await;
    }
}

#[test]
fn c116_a_cancel_wakes_the_handler_that_waits_for_it_and_drops_the_one_that_says_so() {
    let (builder, said) = offer();
    smol::block_on(async {
        let (server, dialler) = serve(builder);
        let client = client(&dialler);
        let calls = begin(&client, &said).await;
        drop(calls);
        both_ended(&said).await;
        until_idle(&server).await;
        assert_eq!(server.handler_faults().panics, 0);
        assert!(client.status().connected);
    });
}

#[test]
fn c116_when_the_lease_of_a_session_is_over_its_calls_end_and_it_goes() {
    let (builder, said) = offer();
    let builder = builder.configure(|config| config.lease = Duration::from_millis(30));
    smol::block_on(async {
        let (server, dialler) = serve(builder);
        let client = Client::new(Mortal::new(dialler), ClientOptions::default());
        let calls = begin(&client, &said).await;
        assert_eq!(server.counters().sessions, 1);
        // The client's process dies: no goodbye, no cancel.
        Mortal::kill();
        both_ended(&said).await;
        until_idle(&server).await;
        while server.counters().sessions > 0 {
            smol::future::yield_now().await;
        }
        drop(calls);
    });
}

#[test]
fn c116_when_the_grace_of_a_drain_is_over_what_runs_is_cancelled() {
    let (builder, said) = offer();
    smol::block_on(async {
        let (server, dialler) = serve(builder);
        let client = client(&dialler);
        let calls = begin(&client, &said).await;
        server.drain(Duration::from_millis(20)).await;
        both_ended(&said).await;
        until_idle(&server).await;
        drop(calls);
    });
}

/// A call whose timeout passes while it runs. On a busy machine that may happen before it is started: then it is made
/// again, with twice the time.
async fn timed_out_while_it_runs(
    client: &Client,
    method: &Method<u32, u32>,
    said: &Receiver<Said>,
) -> Ticket<u32> {
    let mut timeout = Duration::from_millis(20);
    loop {
        if let Outcome::Unknown(_, Some(mut ticket)) =
            client.call(method, &5).timeout(timeout).await
        {
            let begun = async { matches!(said.recv().await, Ok(Said::Begun(_))) };
            let refused = async {
                drop(ticket.wait().await);
                false
            };
            if smol::future::or(begun, refused).await {
                return ticket;
            }
        }
        timeout = longer(timeout);
    }
}

#[test]
fn c116_a_timeout_whose_ticket_is_held_is_no_cancel_and_to_drop_the_ticket_is_one() {
    let (builder, said) = offer();
    smol::block_on(async {
        let (server, dialler) = serve(builder);
        let client = client(&dialler);
        let ticket = timed_out_while_it_runs(&client, &LISTENS, &said).await;
        let other = timed_out_while_it_runs(&client, &DROPPED, &said).await;
        assert_eq!(server.counters().running, 2, "nothing was cancelled");
        assert!(said.is_empty());
        drop((ticket, other));
        both_ended(&said).await;
        until_idle(&server).await;
    });
}

const ALONE: Method<u32, u32> = Method::new("test/alone").concurrency(1);
const ADD_ONE: Method<u32, u32> = Method::new("test/add_one");

/// A method that runs one call at a time and never ends it, and one that answers.
fn stuck() -> ServerBuilder {
    Server::builder("test")
        .method(&ALONE, |_, _| std::future::pending())
        .method(&ADD_ONE, |_, n| std::future::ready(n + 1))
}

/// Calls that wait for one that runs.
async fn until_waiting(server: &Server, calls: usize) {
    while server.load().waiting != calls {
        smol::future::yield_now().await;
    }
}

#[test]
fn a_call_that_is_cancelled_while_it_waits_for_others_gives_its_slot_back_at_once() {
    smol::block_on(async {
        let (server, dialler) = serve(stuck());
        let mut options = ClientOptions::default();
        options.slots = 4;
        let client = Client::new(dialler, options);
        let runs = client.call(&ALONE, &0).start();
        for _ in 0..10 {
            let waiting: Vec<_> = (0..3).map(|n| client.call(&ALONE, &n).start()).collect();
            until_waiting(&server, 3).await;
            drop(waiting);
            // All slots were taken: this needs one of those.
            assert_eq!(client.call(&ADD_ONE, &1).await.ok(), Ok(2));
            until_waiting(&server, 0).await;
        }
        assert_eq!(server.counters().running, 1);
        drop(runs);
    });
}

#[test]
fn calls_that_wait_for_others_leave_the_queue_when_the_lease_of_their_session_is_over() {
    let builder = stuck().configure(|config| config.lease = Duration::from_millis(30));
    smol::block_on(async {
        let (server, dialler) = serve(builder);
        let lives = client(&dialler);
        let runs = lives.call(&ALONE, &0).start();
        assert_eq!(lives.call(&ADD_ONE, &1).await.ok(), Ok(2));
        let client = Client::new(Mortal::new(dialler), ClientOptions::default());
        let waiting: Vec<_> = (0..3).map(|n| client.call(&ALONE, &n).start()).collect();
        until_waiting(&server, 3).await;
        Mortal::kill();
        until_waiting(&server, 0).await;
        while server.counters().sessions > 1 {
            smol::future::yield_now().await;
        }
        drop((runs, waiting));
    });
}

use mortal::Mortal;

/// Connections that break at the test's word, and are not made again.
mod mortal {
    use std::cell::RefCell;
    use std::io;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex};

    use oncewire_driver::{BoxFuture, BoxStream, Connect};
    use smol::net::unix::UnixStream;

    use crate::link::Dialler;

    pub(super) struct Mortal {
        dialler: Dialler,
        life: Life,
    }

    #[derive(Clone, Default)]
    struct Life {
        dead: Arc<AtomicBool>,
        stream: Arc<Mutex<Option<UnixStream>>>,
    }

    thread_local! {
        static LIFE: RefCell<Life> = RefCell::default();
    }

    impl Mortal {
        pub(super) fn new(dialler: Dialler) -> Mortal {
            let life = Life::default();
            LIFE.set(life.clone());
            Mortal { dialler, life }
        }

        pub(super) fn kill() {
            LIFE.with_borrow(|life| {
                life.dead.store(true, Ordering::SeqCst);
                let stream = life.stream.lock().unwrap().take().unwrap();
                stream.shutdown(std::net::Shutdown::Both).unwrap();
            });
        }
    }

    impl Connect for Mortal {
        fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
            Box::pin(async {
                if self.life.dead.load(Ordering::SeqCst) {
                    return Err(io::ErrorKind::ConnectionRefused.into());
                }
                let stream = self.dialler.dial().await?;
                *self.life.stream.lock().unwrap() = Some(stream.clone());
                Ok(Box::new(stream) as BoxStream)
            })
        }
        fn address(&self) -> String {
            "a mortal socket pair".to_owned()
        }
    }
}

/// The mutant `lost-cancel`: the handlers of the first test would never end.
///
/// On the executor's only thread: when the test goes on, the handlers have been polled to their ends. A cancel that comes
/// while one is polled needs no wake.
#[cfg(feature = "_faults")]
#[test]
fn c135_a_cancel_that_wakes_no_task_leaves_its_handlers_running() {
    let (builder, said) = offer();
    let builder = builder.fault(oncewire_driver::faults::ServerFault::LostCancels);
    smol::block_on(smol::spawn(async move {
        let (server, dialler) = serve(builder);
        let client = client(&dialler);
        let calls = begin(&client, &said).await;
        drop(calls);
        // What follows the cancels on the same connection was read: nothing else will wake them.
        for _ in 0..100 {
            let absent = client.call(&Method::<u32, u32>::new("test/absent"), &1).await;
            assert!(matches!(absent, Outcome::NotExecuted(_)), "{absent:?}");
        }
        assert_eq!(server.load().running, 2);
        assert!(said.is_empty(), "no handler has heard of it");
    }));
}

/// A task that waits for a moment.
struct Task;

impl Wake for Task {
    fn wake(self: Arc<Self>) {}
}

#[test]
fn c454_who_has_stopped_waiting_for_a_cancel_is_forgotten_and_the_others_are_woken() {
    const RUNS: Method<(), ()> = Method::new("test/runs");
    let (say, said) = unbounded();
    let builder = Server::builder("test").method(&RUNS, move |context: Context, ()| {
        say.try_send(context).unwrap();
        std::future::pending()
    });
    smol::block_on(async {
        let (_server, dialler) = serve(builder);
        let client = client(&dialler);
        let call = client.call(&RUNS, &()).start();
        let context = said.recv().await.unwrap();
        let stays = context.clone();
        let stays = smol::spawn(async move { stays.cancelled().await });
        for _ in 0..3 {
            let task = Arc::new(Task);
            let waker = Waker::from(task.clone());
            {
                let mut waits = pin!(context.cancelled());
                assert!(waits.as_mut().poll(&mut TaskContext::from_waker(&waker)).is_pending());
                assert!(Arc::strong_count(&task) > 2, "it will be woken");
            }
            drop(waker);
            assert_eq!(Arc::strong_count(&task), 1, "nothing is left of it");
        }
        drop(call);
        stays.await;
    });
}
