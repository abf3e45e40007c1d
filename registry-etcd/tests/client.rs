//! The client, on etcd and on what only looks like it.
#![cfg(unix)]
#![allow(missing_docs)]

mod util;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use oncewire_driver::{BoxFuture, BoxStream, Connect, Executed};
use oncewire_etcd::{Change, Compare, Etcd, EtcdErrorKind, Op, Registry, Txn};
use oncewire_tcp::TcpConnector;
use rustix::process::Signal;
use smol::block_on;
use util::relay::losing_answers;
use util::*;

/// What is at a key is written, read, compared, watched, and goes with its lease.
#[test]
fn keys_leases_transactions_and_watches() {
    let Some(cluster) = Cluster::start(1) else { return };
    let etcd = cluster.etcd();
    block_on(async {
        let every_byte: Vec<u8> = (0..=255).collect();
        let revision = etcd.put(&every_byte, &every_byte, None).await.unwrap();
        let found = etcd.get(&every_byte).await.unwrap().unwrap();
        assert_eq!((found.value, found.create_revision), (every_byte, revision));
        assert_eq!(etcd.get("absent").await.unwrap(), None);

        let mut watch = etcd.watch_prefix("w/", revision + 1).await.unwrap();
        let granted = etcd.grant(Duration::from_millis(60_500)).await.unwrap();
        assert!(granted.ttl >= Duration::from_secs(61));
        let once = Txn::new()
            .when(Compare::create_revision("w/a", 0))
            .then(Op::put("w/a", "1", Some(granted.lease)))
            .otherwise(Op::get("w/a"));
        let done = etcd.transact(&once).await.unwrap();
        assert!(done.succeeded && done.found.is_empty());
        let again = etcd.transact(&once).await.unwrap();
        let there = again.found[0].clone().unwrap();
        assert!(!again.succeeded && there.lease == Some(granted.lease));
        assert_eq!(there.create_revision, done.revision);
        assert_eq!(watch.next().await.unwrap(), [Change::Put(there)]);

        assert_eq!(etcd.keep_alive(granted.lease).await.unwrap(), granted.ttl);
        etcd.revoke(granted.lease).await.unwrap();
        assert_eq!(watch.next().await.unwrap(), [Change::Delete(b"w/a".to_vec())]);
        etcd.revoke(granted.lease).await.unwrap();
        let ended = etcd.keep_alive(granted.lease).await.unwrap_err();
        assert_eq!(ended.kind(), EtcdErrorKind::LeaseNotFound);
        let put = etcd.put("w/b", "", Some(granted.lease)).await.unwrap_err();
        assert_eq!((put.kind(), put.executed()), (EtcdErrorKind::LeaseNotFound, Executed::No));

        assert!(!etcd.delete("w/a").await.unwrap());
        for key in ["p/1", "p/2", "p/3", "q"] {
            etcd.put(key, key, None).await.unwrap();
        }
        let found = etcd.get_prefix("p/", 2).await.unwrap();
        assert_eq!(
            found.entries.iter().map(|of| &of.key[..]).collect::<Vec<_>>(),
            [b"p/1", b"p/2"]
        );
        cluster.ctl(&["compact", &found.revision.to_string()]).unwrap();
        let mut watch = etcd.watch_prefix("p/", 1).await.unwrap();
        assert_eq!(watch.next().await.unwrap_err().kind(), EtcdErrorKind::Compacted);

        let steps = (0..129).fold(Txn::new(), |txn, at| txn.then(Op::get(at.to_string())));
        let many = etcd.transact(&steps).await.unwrap_err();
        assert_eq!(many.kind(), EtcdErrorKind::InvalidInput);
        let long = etcd.put("long", vec![0; 2 << 20], None).await.unwrap_err();
        assert_eq!((long.kind(), long.executed()), (EtcdErrorKind::InvalidInput, Executed::No));
    });
}

#[test]
fn endpoints_that_are_none_are_refused_before_anything_is_dialled() {
    for bad in
        ["", "host", "host:port", "host:1/path", "ho st:1", "host:1\r\nX: y", "https://host:1"]
    {
        let error = Etcd::builder([bad]).build().unwrap_err();
        assert_eq!(error.kind(), EtcdErrorKind::InvalidInput, "{bad:?}: {error}");
        assert!(!error.to_string().contains(['\r', '\n']), "{error}");
    }
    assert!(Etcd::builder([""; 0]).build().is_err());
}

#[test]
fn c371_members_are_killed_and_stopped_and_others_are_asked() {
    let Some(mut cluster) = Cluster::start(3) else { return };
    let timeout = Duration::from_secs(3);
    let etcd = Etcd::builder(cluster.endpoints()).attempt_timeout(timeout).build().unwrap();
    block_on(async {
        etcd.put("a", "1", None).await.unwrap();
        let lease = etcd.grant(Duration::from_secs(60)).await.unwrap().lease;
        for round in 0..6 {
            let at = round % 3;
            if round < 3 {
                cluster.kill(at);
            } else {
                cluster.signal(at, Signal::STOP);
            }
            // The rest elects a leader; until then each answers that it has none.
            let mut tries = 0;
            while etcd
                .get("a")
                .await
                .map_err(|e| assert_eq!(e.kind(), EtcdErrorKind::Unavailable))
                .is_err()
            {
                tries += 1;
                assert!(tries < 50);
            }
            etcd.keep_alive(lease).await.unwrap();
            if round < 3 {
                cluster.resume(at);
            } else {
                cluster.signal(at, Signal::CONT);
            }
            while cluster.ctl(&["endpoint", "health", "--command-timeout=2s"]).is_none() {}
        }
        // Two of three are gone: nothing is written, and that is said.
        cluster.kill(0);
        cluster.kill(1);
        let error = etcd.put("a", "2", None).await.unwrap_err();
        assert_eq!(error.kind(), EtcdErrorKind::Unavailable, "{error}");
        assert_ne!(error.executed(), Executed::Yes);
        cluster.kill(2);
        let error = etcd.put("a", "2", None).await.unwrap_err();
        assert_eq!((error.kind(), error.executed()), (EtcdErrorKind::Unavailable, Executed::No));
        assert!(error.to_string().contains("refused"), "{error}");
    });
}

#[test]
fn what_a_member_could_not_do_is_no_refusal() {
    let answer = |code: u8, text: &str| {
        let body = format!("{{\"error\":\"{text}\",\"code\":{code}}}");
        format!("HTTP/1.1 500 X\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    };
    for (code, text, kind, executed) in [
        // While the leader gives way to another one.
        (2, "raft proposal dropped", EtcdErrorKind::Unavailable, Executed::No),
        (2, "etcdserver: something else", EtcdErrorKind::Unavailable, Executed::Unknown),
        (13, "transport", EtcdErrorKind::Unavailable, Executed::Unknown),
        (14, "etcdserver: request timed out", EtcdErrorKind::Unavailable, Executed::Unknown),
        (8, "etcdserver: mvcc: database space exceeded", EtcdErrorKind::Refused, Executed::No),
    ] {
        let etcd = Etcd::builder([answers(vec![answer(code, text)])]).build().unwrap();
        let error = block_on(etcd.put("a", "1", None)).unwrap_err();
        assert_eq!((error.kind(), error.executed()), (kind, executed), "{error}");
    }
}

#[test]
fn c372_a_wrong_password_is_said_and_a_token_that_was_forgotten_is_fetched_again() {
    let Some(mut cluster) = Cluster::start(1) else { return };
    let made = [&["user", "add", "root:right"][..], &["user", "grant-role", "root", "root"]];
    for args in made {
        cluster.ctl(args).unwrap();
    }
    cluster.ctl(&["auth", "enable"]).unwrap();
    let as_user = |name: &str, password: &str| {
        Etcd::builder(cluster.endpoints()).user(name, password).build().unwrap()
    };
    let (right, wrong, none) = (as_user("root", "right"), as_user("root", "wrong"), cluster.etcd());
    block_on(async {
        right.put("a", "1", None).await.unwrap();
        for etcd in [wrong, none] {
            let error = etcd.put("a", "2", None).await.unwrap_err();
            assert_eq!(
                (error.kind(), error.executed()),
                (EtcdErrorKind::Denied, Executed::No),
                "{error}"
            );
            let watch = async { etcd.watch_prefix("a", 1).await?.next().await };
            assert_eq!(watch.await.unwrap_err().kind(), EtcdErrorKind::Denied);
        }
        // Members keep tokens in memory.
        cluster.kill(0);
        cluster.resume(0);
        while let Err(error) = right.get("a").await {
            assert_eq!(error.kind(), EtcdErrorKind::Unavailable, "{error}");
        }
        right.put("a", "3", None).await.unwrap();
        assert_eq!(right.get("a").await.unwrap().unwrap().value, b"3");
    });
}

/// Answers each connection so, whatever is asked.
fn answers(list: Vec<Vec<u8>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut list = list.into_iter().cycle();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _asked = stream.read(&mut [0; 4096]);
            let _sent = stream.write_all(&list.next().unwrap_or_default());
        }
    });
    address.to_string()
}

/// Numbers that look like chance, the same in each run.
fn chance(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn with_head(body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

#[test]
fn c370_whatever_answers_in_the_place_of_etcd_is_an_error_and_nothing_panics() {
    let sound: [&[u8]; 4] = [
        br#"{"header":{"revision":"7"},"kvs":[{"key":"YQ==","value":"YQ==","mod_revision":"7","create_revision":"7","lease":"5"}],"count":"1"}"#,
        br#"{"header":{"revision":"7"},"succeeded":true,"responses":[{"response_range":{"kvs":[{"key":"YQ=="}]}}]}"#,
        br#"{"result":{"header":{"revision":"7"},"ID":"5","TTL":"9","events":[{"type":"DELETE","kv":{"key":"YQ=="}}]}}"#,
        br#"{"header":{"revision":"7"},"ID":"5","TTL":"9","token":"a.b","deleted":"1"}"#,
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15;
    let mut list: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"\0\xff\xfe".to_vec(),
        b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(),
        b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\n{".to_vec(),
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n".to_vec(),
        b"HTTP/1.1 404 Not Found\r\n\r\nno such page".to_vec(),
        with_head(&b"[".repeat(100_000)),
        with_head(b"{\"kvs\":[{\"key\":7}],\"header\":{\"revision\":-1}}\n"),
        with_head(b"{\"result\":{\"canceled\":true,\"compact_revision\":\"x\"}}\n"),
        with_head(b"{\"error\":{\"grpc_code\":99,\"message\":\"\\u001b[2J\"}}\n"),
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 25\r\n\r\n{\"error\":\"\x1b[2J\",\"code\":3}"
            .to_vec(),
    ];
    for _ in 0..400 {
        let mut body = sound[chance(&mut state) as usize % sound.len()].to_vec();
        for _ in 0..chance(&mut state) % 4 {
            let at = chance(&mut state) as usize % body.len();
            match chance(&mut state) % 3 {
                0 => body[at] = chance(&mut state) as u8,
                1 => body.truncate(at.max(1)),
                _ => drop(body.drain(at..(at + 5).min(body.len()))),
            }
            body.push(b'\n');
        }
        list.push(with_head(&body));
    }
    let rounds = list.len();
    let address = answers(list);
    let etcd = Etcd::builder([&address]).user("a", "b").build().unwrap();
    block_on(async {
        for _ in 0..rounds / 2 {
            let lease = etcd.grant(Duration::from_secs(1)).await;
            let error = match lease {
                Ok(granted) => etcd.keep_alive(granted.lease).await.err(),
                Err(error) => Some(error),
            };
            if let Some(error) = error {
                assert!(!error.to_string().contains(char::is_control), "{error}");
            }
            let _any = etcd.get_prefix("a", 10).await;
            let txn = Txn::new().then(Op::get("a"));
            let _any = etcd.transact(&txn).await;
            if let Ok(mut watch) = etcd.watch_prefix("a", 1).await {
                let _any = watch.next().await;
            }
        }
        // One that answers without end, in a body or in a head, is not read without end.
        let endless = answers(vec![
            [&b"HTTP/1.1 200 OK\r\n\r\n"[..], &b"{\"a\":1 ".repeat(1 << 20)].concat(),
            [&b"HTTP/1.1 200 OK\r\nX: "[..], &b"a".repeat(8 << 20)].concat(),
        ]);
        let etcd = Etcd::builder([endless]).build().unwrap();
        for _ in 0..2 {
            let error = etcd.get("a").await.unwrap_err();
            assert_eq!(error.kind(), EtcdErrorKind::Malformed, "{error}");
        }
    });
}

#[test]
fn c373_a_transaction_whose_answer_is_lost_is_in_doubt_and_not_sent_again() {
    let Some(cluster) = Cluster::start(1) else { return };
    let lossy = losing_answers(&cluster.endpoint(0), "/v3/kv/txn", 1).0;
    // The second endpoint would answer, and is not asked.
    let endpoints = [lossy, cluster.endpoint(0).replace("http://", "")];
    block_on(async {
        let mut in_doubt = 0;
        for round in 0_u32..12 {
            let etcd = Etcd::builder(&endpoints).build().unwrap();
            let key = format!("a{round}");
            let once = Txn::new()
                .when(Compare::create_revision(&key, 0))
                .then(Op::put(&key, "mine", None));
            match etcd.transact(&once).await {
                Ok(done) => assert!(done.succeeded, "it was sent twice"),
                Err(error) => {
                    assert_eq!(error.kind(), EtcdErrorKind::Unavailable, "{error}");
                    assert_eq!(error.executed(), Executed::Unknown);
                    in_doubt += 1;
                }
            }
            assert_eq!(etcd.get(&key).await.unwrap().unwrap().value, b"mine");
        }
        assert!(in_doubt > 0, "each began at the other endpoint");
    });
}

/// A member that never answers; without an address a machine that is lost, from which no packet comes back.
#[derive(Clone, Default)]
struct Silent {
    address: Option<String>,
    dials: Arc<AtomicU32>,
}

impl Connect for Silent {
    fn connect(&self) -> BoxFuture<'_, std::io::Result<BoxStream>> {
        self.dials.fetch_add(1, Ordering::SeqCst);
        Box::pin(async {
            match &self.address {
                Some(address) => TcpConnector::new(address).connect().await,
                None => std::future::pending().await,
            }
        })
    }

    fn address(&self) -> String {
        "silent".to_owned()
    }
}

/// What becomes of the writes of a client that begins at such a member, and has another one beside.
async fn writes_beside(cluster: &Cluster, silent: Silent) -> Vec<Result<(), Executed>> {
    loop {
        let builder = Etcd::builder(cluster.endpoints()).endpoint("silent:1", silent.clone());
        let etcd = builder.attempt_timeout(Duration::from_secs(3)).build().unwrap();
        let mut writes = Vec::new();
        for _ in 0..3 {
            let written = etcd.put("a", "1", None).await;
            writes.push(written.map(drop).map_err(|error| error.executed()));
        }
        if silent.dials.load(Ordering::SeqCst) > 0 {
            return writes;
        }
    }
}

#[test]
fn a_write_that_was_not_sent_in_time_is_sent_to_the_next_endpoint() {
    let Some(cluster) = Cluster::start(1) else { return };
    let writes = block_on(writes_beside(&cluster, Silent::default()));
    assert_eq!(writes, [Ok(()), Ok(()), Ok(())]);
}

#[test]
fn a_member_that_hangs_leaves_one_write_in_doubt_and_not_the_next() {
    let Some(cluster) = Cluster::start(1) else { return };
    // It takes connections, and reads nothing.
    let hangs = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Some(hangs.local_addr().unwrap().to_string());
    let writes = block_on(writes_beside(&cluster, Silent { address, ..Silent::default() }));
    assert_eq!(writes, [Err(Executed::Unknown), Ok(()), Ok(())]);
}

#[test]
fn a_candidate_whose_answer_is_lost_finds_out_that_it_leads() {
    let Some(cluster) = Cluster::start(1) else { return };
    let lossy = losing_answers(&cluster.endpoint(0), "/v3/kv/txn", 1).0;
    let election = |endpoint: String| {
        Registry::new(Etcd::builder([endpoint]).build().unwrap()).election("test").unwrap()
    };
    block_on(async {
        let leadership = election(lossy).campaign("first").await.unwrap();
        let leader = election(cluster.endpoint(0)).leader().await.unwrap().unwrap();
        assert_eq!((&leader.value[..], leader.token), (&b"first"[..], leadership.token()));
        assert!(leadership.is_held());
    });
}
