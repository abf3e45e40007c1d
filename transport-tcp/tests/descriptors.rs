//! A server whose process can open no more files: C427. The limit is the process's, so that this is its only test.
#![cfg(target_os = "linux")]

use std::fs::File;
use std::net::SocketAddr;

use oncewire_tcp::observe::{Event, Source};
use oncewire_tcp::{Client, ClientOptions, Method, Server, TcpAcceptor, TcpConnector};
use rustix::net::{AddressFamily, SocketType, connect, socket};
use rustix::process::{Resource, getrlimit, setrlimit};
use smol::channel::unbounded;

const ADD_ONE: Method<i32, i32> = Method::new("toy/add_one");

/// Descriptors that are free, and are used up.
const FREE: u64 = 8;

/// Opens files until there is no descriptor left for another one.
fn open_all() -> Vec<File> {
    let mut limit = getrlimit(Resource::Nofile);
    let newest = std::os::fd::AsRawFd::as_raw_fd(&File::open("/dev/null").unwrap());
    limit.current = Some(newest.unsigned_abs() as u64 + FREE);
    setrlimit(Resource::Nofile, limit).unwrap();
    let files: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(!files.is_empty());
    files
}

#[test]
fn c427_a_server_without_a_free_descriptor_says_so_and_accepts_when_there_is_one() {
    smol::block_on(async {
        let (sender, events) = unbounded();
        let observer = move |_: &Source, event: &Event| match event {
            Event::AcceptFailed { address, why, attempts, .. } => {
                let _ = sender.try_send(Some((address.clone(), why.clone(), *attempts)));
            }
            Event::ConnectionOpened { .. } => drop(sender.try_send(None)),
            _ => {}
        };
        let server = Server::builder("toy")
            .method(&ADD_ONE, |_, n: i32| async move { n + 1 })
            .observe(observer)
            .build()
            .unwrap();
        let acceptor = TcpAcceptor::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = acceptor.local_addr();
        smol::spawn(async move { server.serve(acceptor).await }).detach();
        let client = Client::new(TcpConnector::new(address), ClientOptions::default());
        assert_eq!(client.call(&ADD_ONE, &1).await.ok(), Ok(2));
        assert_eq!(events.recv().await, Ok(None));

        let stranger = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        let files = open_all();
        connect(&stranger, &address).unwrap();
        for attempt in 1..=2 {
            let (at, why, attempts) = events.recv().await.unwrap().unwrap();
            assert_eq!((at, attempts), (format!("tcp:{address}"), attempt));
            assert!(why.contains("Too many open files"), "{why}");
        }
        // Who is connected notices nothing.
        assert_eq!(client.call(&ADD_ONE, &2).await.ok(), Ok(3));
        drop(files);
        while events.recv().await.unwrap().is_some() {}
        client.close().await;
    });
}
