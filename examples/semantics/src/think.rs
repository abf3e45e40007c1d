//! The lecture's "things to think about": each is run, with a server in this process.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use oncewire::{
    Client, ClientOptions, Method, NotExecuted, Outcome, Server, ServiceName, TcpAcceptor,
    TcpConnector,
};

use crate::account::Failure;
use crate::cell;
use crate::relay::Relay;
use crate::table::Fault;

/// Blocks its thread until `RELEASE` comes.
const BLOCK: Method<(), ()> = Method::new("desk/block");
const RELEASE: Method<(), ()> = Method::new("desk/release");
const NOTE: Method<String, ()> = Method::new("desk/note");

/// What there is to say, if all was as it should be.
type Thoughts = Result<Vec<(&'static str, String)>, Failure>;

/// Runs and prints all; how many were not as they should be.
pub(crate) async fn show() -> usize {
    output::show!("THINGS TO THINK ABOUT");
    let thoughts = [
        cell::in_time(not_one_by_one()).await,
        cell::in_time(one_way()).await,
        cell::in_time(binding()).await,
    ];
    let mut wrong = 0;
    for thoughts in thoughts {
        match thoughts {
            Ok(lines) => lines.iter().for_each(|(what, seen)| output::show!("{what:<30}{seen}")),
            Err(why) => {
                output::show!("NOT AS CLAIMED: {why}");
                wrong += 1;
            }
        }
    }
    output::show!();
    wrong
}

/// A desk that serves at the address, and how many notes it has got.
async fn serve() -> Result<(SocketAddr, Arc<AtomicU64>), Failure> {
    let (release, released) = mpsc::channel();
    let (released, notes) = (Mutex::new(released), Arc::new(AtomicU64::new(0)));
    let noted = notes.clone();
    let server = Server::builder("desk")
        .blocking(&BLOCK, move |_, ()| {
            let _ = released.lock().unwrap_or_else(PoisonError::into_inner).recv();
        })
        .method(&RELEASE, move |_, ()| {
            let _ = release.send(());
            async {}
        })
        .method(&NOTE, move |_, _: String| {
            noted.fetch_add(1, Ordering::Relaxed);
            async {}
        })
        .build()?;
    let acceptor = TcpAcceptor::bind("127.0.0.1:0").await?;
    let address = acceptor.local_addr();
    smol::spawn(async move { drop(server.serve(acceptor).await) }).detach();
    Ok((address, notes))
}

/// Two calls at once, of which the second must be answered first.
async fn not_one_by_one() -> Thoughts {
    let (address, _) = serve().await?;
    let client = Client::new(TcpConnector::new(address), ClientOptions::default());
    let first = client.call(&BLOCK, &()).start();
    client.call(&RELEASE, &()).await.ok()?;
    first.await.ok()?;
    let said = [
        (
            "asynchronous calls",
            "one thread had two calls outstanding, as with Client.Go: a call is a future (S8)",
        ),
        (
            "a handler in its own thread",
            "the first one blocked until the second released it: one after the other they would wait for ever (S13)",
        ),
        (
            "replies out of order",
            "no problem: the second call was answered first, and a reply names its call's xid (S13)",
        ),
    ];
    Ok(said.map(|(what, seen)| (what, seen.to_owned())).to_vec())
}

/// A one-way call whose answer is lost.
async fn one_way() -> Thoughts {
    let (address, notes) = serve().await?;
    let relay = Relay::start(address, Fault::LostReply).await?;
    let client = Client::new(TcpConnector::new(relay.address), ClientOptions::default());
    client.send(&NOTE, &"hello".to_owned())?;
    drop(relay.struck().await?);
    let closed = client.close().await;
    let ran = notes.load(Ordering::Relaxed);
    if ran != 1 || closed.one_way_unconfirmed != 0 || !closed.in_good_order {
        return Err(format!("a one-way message ran {ran} times; {closed}").into());
    }
    let seen = "the caller waits for nothing; its answer was lost, it ran once all the same, and `close` knows it (S23)";
    Ok(vec![("one-way messages", seen.to_owned())])
}

/// An address is not a service.
async fn binding() -> Thoughts {
    let (address, _) = serve().await?;
    let connector = || TcpConnector::new(format!("localhost:{}", address.port()));
    let bank = ServiceName::new("bank").ok_or("no name")?;
    let wrong = Client::new(connector(), ClientOptions::default().with_service(bank));
    let outcome = wrong.call(&RELEASE, &()).await;
    let Outcome::NotExecuted(NotExecuted::SessionRefused) = outcome else {
        return Err(format!("a bank was demanded, and a desk called: {outcome:?}").into());
    };
    let right = Client::new(connector(), ClientOptions::default());
    right.call(&RELEASE, &()).await.ok()?;
    let error = wrong.status().last_error.unwrap_or_default();
    // Behind it comes which process has said so.
    let why = error.split(';').next().and_then(|why| why.get(why.find("service")?..));
    let why = why.ok_or_else(|| error.clone())?;
    Ok(vec![("binding by name", format!("{why}: nothing was called there (S7)"))])
}
