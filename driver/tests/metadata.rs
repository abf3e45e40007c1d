//! What a call carries beside its arguments: C215, C218.
#![cfg(unix)]
#![allow(missing_docs)]

#[path = "util/socket_pair.rs"]
mod socket_pair;

use oncewire_driver::*;
use smol::channel::unbounded;

const TENANT: MetadataKey<String> = MetadataKey::new("tenant");
const REQUEST: MetadataKey<u64> = MetadataKey::new("request");
const FRONT: Method<u32, String> = Method::new("front/say");
const BACK: Method<u32, String> = Method::new("back/say");

fn serve(server: Server) -> Client {
    let (dialler, listener) = socket_pair::link();
    smol::spawn(async move { server.serve(listener).await }).detach();
    Client::new(dialler, ClientOptions::default())
}

async fn back(context: Context, n: u32) -> String {
    let (tenant, request) = (context.metadata(&TENANT), context.metadata(&REQUEST));
    format!("{n} for {tenant:?} in {request:?}")
}

#[test]
fn c215_metadata_goes_on_to_the_next_service() {
    let second = serve(Server::builder("back").method(&BACK, back).build().unwrap());
    let front = move |context: Context, n: u32| {
        let metadata = context.all_metadata().cloned().unwrap_or_default();
        let call = second.call(&BACK, &n).with_metadata(metadata);
        async move { call.await.ok().unwrap() }
    };
    let first = serve(Server::builder("front").method(&FRONT, front).build().unwrap());
    let call = first.call(&FRONT, &5).metadata(&TENANT, "acme").metadata(&REQUEST, 7_u64);
    assert_eq!(call.block().ok(), Ok("5 for Some(\"acme\") in Some(7)".to_owned()));
    assert_eq!(first.call(&FRONT, &6).block().ok(), Ok("6 for None in None".to_owned()));

    let long: MetadataKey<Bytes> = MetadataKey::new("long");
    let call = first.call(&FRONT, &7).metadata(&long, vec![0; 2_000]);
    let error = NotBegun::BadMetadata(MetadataError::TooLong);
    let failure = CallFailure::NotExecuted(NotExecuted::NotBegun(error));
    assert_eq!(call.block().ok(), Err(failure));
}

#[test]
fn c218_handlers_that_block_and_one_way_calls_have_metadata_too() {
    let (seen, sees) = unbounded();
    let handler = move |context: Context, n| {
        seen.send_blocking((n, context.metadata(&TENANT))).unwrap();
        String::new()
    };
    let client = serve(Server::builder("front").blocking(&FRONT, handler).build().unwrap());
    let metadata = Metadata::new().with(&TENANT, "acme");
    assert_eq!(
        client.call(&FRONT, &1).with_metadata(metadata.clone()).block().ok(),
        Ok(String::new())
    );
    client.send_with_metadata(&FRONT, &2, &metadata).unwrap();
    client.send_with_metadata(&FRONT, &3, &Metadata::new()).unwrap();
    let mut all = [(); 3].map(|()| sees.recv_blocking().unwrap());
    all.sort();
    let acme = Some("acme".to_owned());
    assert_eq!(all, [(1, acme.clone()), (2, acme), (3, None)]);
}
