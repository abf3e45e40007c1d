//! What consists of several calls, which one server must get: streams, uploads, comparisons.

use oncewire_driver::stream::{Incoming, StreamMethod, UploadMethod};
use oncewire_driver::{Client, Context, Method, ServerBuilder};

use super::site::*;
use super::{client, home, sites, until_healthy};

/// The number of the server, so often.
const REPEAT: StreamMethod<u64, u32> = StreamMethod::new("test/repeat").chunk_len(16);
/// The number of the server, and how many items have come.
const SEND: UploadMethod<(), u64, (u32, u64)> = UploadMethod::new("test/send").chunk_len(16);
/// One that server and client mean something else by.
const ECHO: Method<u64, u64> = Method::new("test/echo").parameters(&[]);
const ECHO_TEXT: Method<String, u64> = Method::new("test/echo").parameters(&[]);

pub(crate) fn offer(server: ServerBuilder, number: u32) -> ServerBuilder {
    server
        .stream(&REPEAT, move |_: Context, times: u64, from: u64| async move {
            smol::stream::iter((from..times).map(move |_| number))
        })
        .upload(&SEND, move |_, (), mut items: Incoming<u64>| async move {
            let mut count = 0;
            while items.next().await.is_some() {
                count += 1;
            }
            (number, count)
        })
        .method(&ECHO, |_, n: u64| async move { n })
        .signatures()
}

async fn repeat(client: &Client) -> Vec<u32> {
    let (mut stream, mut numbers) = (client.stream(&REPEAT, &100), Vec::new());
    while let Some(number) = stream.next().await {
        numbers.push(number.unwrap());
    }
    numbers
}

async fn send(client: &Client) -> (u32, u64) {
    let mut upload = client.upload(&SEND, &());
    for item in 0..100 {
        upload.send(item).await.unwrap();
    }
    upload.commit().await.unwrap()
}

#[test]
fn what_has_several_calls_has_them_at_a_server_that_is_there_whenever_it_begins() {
    let sites = sites::<3>();
    sites[0].set(Mode::Refuses);
    sites[1].set(Mode::Refuses);
    smol::block_on(async {
        // Before there is any connection.
        assert_eq!(repeat(&client(&sites)).await, [2; 100]);
        assert_eq!(send(&client(&sites)).await, (2, 100));
        assert_eq!(client(&sites).signatures().await.ok().unwrap().len(), 1);
        let methods = [ECHO_TEXT.described().unwrap()];
        assert_eq!(client(&sites).mismatches(&methods).await.unwrap().len(), 1);
    });
}

#[test]
fn a_stream_that_was_opened_stays_where_it_is_when_the_session_moves() {
    let sites = sites::<2>();
    smol::block_on(async {
        let client = client(&sites);
        until_healthy(&client, 2).await;
        let mut stream = client.stream(&REPEAT, &100);
        let mut upload = client.upload(&SEND, &());
        let first = stream.next().await.unwrap().unwrap();
        upload.send(0).await.unwrap();
        upload.ready().await.unwrap();
        assert_eq!(home(&client), Some(first as usize));
        sites[first as usize].lose();
        until_healthy(&client, 1).await;
        assert_eq!(client.call(&COUNT, &()).await.ok(), Ok(1 - first));
        sites[first as usize].set(Mode::Serves);
        for _ in 1..100 {
            assert_eq!(stream.next().await.unwrap().unwrap(), first);
        }
        assert!(stream.next().await.is_none());
        assert_eq!(upload.commit().await, Ok((first, 1)));
        assert_eq!(repeat(&client).await, [1 - first; 100], "the next one follows the session");
        assert!(client.close().await.in_good_order);
    });
}
