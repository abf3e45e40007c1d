//! Handshakes: who gets in, who does not, and what either side learns.

use std::io::{self, ErrorKind};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use oncewire_pipe::memory::{self, MemoryAcceptor, MemoryConnector};
use oncewire_tls::rustls::pki_types::ServerName;
use oncewire_tls::{
    Accept, BoxStream, ClientTls, Connect, ServerTls, Subject, TlsAcceptor, TlsConnector,
};
use smol::future::{or, zip};
use smol::io::{AsyncReadExt, AsyncWriteExt};
use util::{Authority, SERVER, dns, uri};

mod util;

type Ends = (TlsConnector<MemoryConnector>, TlsAcceptor<MemoryAcceptor>);

fn ends(client: ClientTls, server: ServerTls) -> Ends {
    let (connector, acceptor) = memory::listener();
    (TlsConnector::new(connector, client, SERVER).unwrap(), TlsAcceptor::new(acceptor, server))
}

/// Dials while the acceptor is waited on, and says what came of it on both sides.
async fn meet((connector, acceptor): &Ends) -> io::Result<(BoxStream, (BoxStream, Subject))> {
    let mut accepting = acceptor.accept();
    let mut dialling = connector.connect();
    // An acceptor does not report those that it does not accept.
    let first =
        or(async { Ok((&mut accepting).await) }, async { Err((&mut dialling).await) }).await;
    match first {
        Ok(accepted) => Ok((dialling.await?, accepted?)),
        Err(dialled) => Ok((dialled?, accepting.await?)),
    }
}

/// What a client learns by its first read, when a server does not like its certificate.
async fn first_read(ends: &Ends) -> io::Error {
    let reading = async {
        let mut stream = ends.0.connect().await?;
        stream.read_exact(&mut [0]).await
    };
    let accepting = async { Err(ends.1.accept().await.map(|_| ()).expect_err("it has no end")) };
    or(reading, accepting).await.expect_err("the server does not accept it")
}

#[test]
fn c174_a_caller_is_named_by_its_certificate() {
    smol::block_on(async {
        let authority = Authority::new();
        let server = authority.server().serves().client_authorities_file(authority.file());
        let server = server.build().unwrap();
        let spiffe = uri("spiffe://example.org/carol");
        let clients = [
            (authority.client("alice"), "alice"),
            (authority.issue("bob", vec![dns("bob.example.org")]), "bob.example.org"),
            (
                authority.issue("carol", vec![dns("carol.example.org"), spiffe]),
                "spiffe://example.org/carol",
            ),
        ];
        for (client, name) in clients {
            let client = client.asks().authorities_file(authority.file()).build().unwrap();
            let ends = ends(client, server.clone());
            let (_client, (_server, subject)) = meet(&ends).await.unwrap();
            assert_eq!(subject, Subject::Name(name.into()));
            assert_eq!(ends.1.counters().completed, 1);
        }
    });
}

#[test]
fn a_client_needs_no_certificate_unless_the_server_asks_for_one() {
    smol::block_on(async {
        let authority = Authority::new();
        let client = ClientTls::builder().authorities_file(authority.file()).build().unwrap();
        let ends = ends(client, authority.server().serves().build().unwrap());
        let (mut client, (mut server, subject)) = meet(&ends).await.unwrap();
        assert_eq!(subject, Subject::Anonymous);
        client.write_all(b"once").await.unwrap();
        client.flush().await.unwrap();
        let mut got = [0; 4];
        server.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"once");
    });
}

#[test]
fn c191_a_server_that_is_not_trusted_is_not_connected_to_and_the_error_says_why() {
    smol::block_on(async {
        let (authority, namesake) = (Authority::new(), Authority::new());
        let other = Authority::named("another");
        let expired = authority.issue_with("old", vec![dns(SERVER)], |params| {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        });
        let early = authority.issue_with("early", vec![dns(SERVER)], |params| {
            params.not_before = rcgen::date_time_ymd(2200, 1, 1);
            params.not_after = rcgen::date_time_ymd(2201, 1, 1);
        });
        let cases = [
            (namesake.server(), "is not signed by the authority of that name"),
            (other.server(), "is of an authority that is not trusted here"),
            (expired, "has expired"),
            (early, "is not valid yet"),
            (
                authority.issue_with("authority", vec![dns(SERVER)], |params| {
                    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
                }),
                "is an authority's own",
            ),
            (authority.issue("a", vec![dns("a.example.org")]), "not for server.example.org"),
        ];
        for (server, why) in cases {
            let client = ClientTls::builder().authorities_file(authority.file()).build().unwrap();
            let ends = ends(client, server.serves().build().unwrap());
            let error = meet(&ends).await.map(|_| ()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
            assert!(error.to_string().contains(why), "{error} / {why}");
        }
    });
}

#[test]
fn c191_a_client_that_is_not_accepted_learns_why() {
    smol::block_on(async {
        let (authority, namesake) = (Authority::new(), Authority::new());
        let other = Authority::named("another");
        let server = authority.server().serves().client_authorities_file(authority.file());
        let server = server.admit(|peer| peer.name() != "mallory").build().unwrap();
        let trusting = || ClientTls::builder().authorities_file(authority.file());
        let with = |identity: util::Identity| {
            trusting().identity_files(identity.certificate, identity.key).build().unwrap()
        };
        let expired = authority.issue_with("old", vec![], |params| {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        });
        let cases = [
            (trusting().build().unwrap(), "asks for a certificate"),
            (with(namesake.client("alice")), "its signature is not that of the authority"),
            (with(other.client("alice")), "its authority is not trusted there"),
            (with(expired), "it has expired"),
            (with(authority.client("mallory")), "access denied"),
            (with(authority.client("")), "access denied"),
        ];
        for (client, why) in cases {
            let ends = ends(client, server.clone());
            let error = first_read(&ends).await;
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
            assert!(error.to_string().contains(why), "{error} / {why}");
            assert_eq!((ends.1.counters().failed, ends.1.counters().completed), (1, 0));
            println!("the server: {}", ends.1.last_failure().unwrap());
        }
    });
}

#[test]
fn ends_that_do_not_both_speak_tls_say_so() {
    smol::block_on(async {
        let authority = Authority::new();
        let client = ClientTls::builder().authorities_file(authority.file()).build().unwrap();
        let ends = ends(client, authority.server().serves().build().unwrap());
        // A client in plain text is counted, and the acceptor continues.
        let (plain, acceptor) = memory::listener();
        let tls = authority.server().serves().build().unwrap();
        let acceptor = TlsAcceptor::new(acceptor, tls);
        let mut stream = plain.connect().await.unwrap();
        stream.write_all(b"\x1b\0\0\0a Hello of Oncewire").await.unwrap();
        let answer = async {
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            io::Result::Ok(answer)
        };
        let accepting = async { Err(acceptor.accept().await.map(|_| ()).unwrap_err()) };
        // An alert: 21, then the version.
        assert_eq!(or(answer, accepting).await.unwrap()[..2], [21, 3]);
        assert_eq!(acceptor.last_failure().unwrap(), "the client does not speak TLS");
        // A server in plain text.
        let (connector, plain) = memory::listener();
        let connector = TlsConnector::new(connector, client_of(&authority), SERVER).unwrap();
        let serve = async {
            let (mut stream, _) = plain.accept().await.unwrap();
            stream.write_all(b"\x0d\0\0\0a Refuse of Oncewire").await.unwrap();
            stream
        };
        let (dialled, _stream) = zip(connector.connect(), serve).await;
        let error = dialled.map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(error.to_string(), "the server does not speak TLS");
        assert!(meet(&ends).await.is_ok());
    });
}

fn client_of(authority: &Authority) -> ClientTls {
    ClientTls::builder().authorities_file(authority.file()).build().unwrap()
}

#[test]
fn c173_connections_that_begin_no_handshake_hold_up_no_one() {
    smol::block_on(async {
        let authority = Authority::new();
        let (connector, acceptor) = memory::listener();
        let server = authority.server().serves().build().unwrap();
        let acceptor = TlsAcceptor::new(acceptor, server).handshakes_max(2);
        let silent = [connector.connect().await.unwrap(), connector.connect().await.unwrap()];
        let tls = TlsConnector::new(connector, client_of(&authority), SERVER).unwrap();
        let (client, accepted) = zip(tls.connect(), acceptor.accept()).await;
        assert!(client.is_ok() && accepted.is_ok());
        assert_eq!(acceptor.counters().displaced, 1);
        drop(silent);
    });
}

#[test]
fn c173_a_handshake_that_takes_too_long_is_ended() {
    smol::block_on(async {
        let authority = Authority::new();
        let (connector, acceptor) = memory::listener();
        let server = authority.server().serves().build().unwrap();
        let acceptor =
            TlsAcceptor::new(acceptor, server).handshake_timeout(Duration::from_millis(20));
        let mut slow = connector.connect().await.unwrap();
        // The head of a record, and no more.
        slow.write_all(&[22, 3, 1, 2]).await.unwrap();
        let ended = async {
            let mut rest = Vec::new();
            let _cut = slow.read_to_end(&mut rest).await;
            Ok(())
        };
        or(ended, async { acceptor.accept().await.map(|_| ()) }).await.unwrap();
        assert_eq!(acceptor.counters().timed_out, 1);
    });
}

#[test]
fn c173_an_accept_that_is_dropped_loses_no_connection() {
    smol::block_on(async {
        let authority = Authority::new();
        let ends = ends(client_of(&authority), authority.server().serves().build().unwrap());
        let dialling = async {
            let mut streams = Vec::new();
            for _ in 0..10 {
                streams.push(ends.0.connect().await.unwrap());
            }
            streams
        };
        let accepting = async {
            let mut accepted = Vec::new();
            while accepted.len() < 10 {
                // A future of its own for each poll: the handshakes are anywhere when it is dropped.
                accepted.extend(smol::future::poll_once(ends.1.accept()).await);
                smol::future::yield_now().await;
            }
            accepted
        };
        let (_clients, accepted) = zip(dialling, accepting).await;
        assert!(accepted.iter().all(Result::is_ok));
    });
}

#[test]
fn c173_all_who_wait_in_accept_are_woken() {
    smol::block_on(async {
        let authority = Authority::new();
        let ends = ends(client_of(&authority), authority.server().serves().build().unwrap());
        let mut first = ends.1.accept();
        assert!(smol::future::poll_once(&mut first).await.is_none());
        // This one polls last, and is dropped.
        assert!(smol::future::poll_once(ends.1.accept()).await.is_none());
        let (client, accepted) = zip(ends.0.connect(), first).await;
        assert!(client.is_ok() && accepted.is_ok());
    });
}

/// Knows by its count whether it is kept.
struct Idle;

impl Wake for Idle {
    fn wake(self: Arc<Self>) {}
}

#[test]
fn an_accept_that_is_dropped_leaves_no_waker() {
    let authority = Authority::new();
    let ends = ends(client_of(&authority), authority.server().serves().build().unwrap());
    let idle = Arc::new(Idle);
    let mut accept = ends.1.accept();
    for _ in 0..3 {
        // A waker of its own for each poll, as some combinators have it.
        let waker = Waker::from(Arc::new(Idle));
        assert!(accept.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        let waker = Waker::from(idle.clone());
        assert!(accept.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    assert_eq!(Arc::strong_count(&idle), 2);
    drop(accept);
    assert_eq!(Arc::strong_count(&idle), 1);
}

#[test]
fn when_no_connection_follows_no_handshake_is_displaced() {
    smol::block_on(async {
        let authority = Authority::new();
        let (connector, acceptor) = memory::listener();
        let server = authority.server().serves().build().unwrap();
        // Longer than a handshake keeps its place from a newcomer.
        let acceptor = TlsAcceptor::new(acceptor, server)
            .handshakes_max(1)
            .handshake_timeout(Duration::from_millis(1500));
        let _silent = connector.connect().await.unwrap();
        drop(connector);
        let end = acceptor.accept().await.map(|_| ()).unwrap_err();
        assert_eq!(end.kind(), ErrorKind::BrokenPipe);
        let counters = acceptor.counters();
        assert_eq!((counters.displaced, counters.timed_out), (0, 1));
    });
}

#[test]
fn c191_an_admit_that_panics_admits_none_and_may_ask_the_acceptor() {
    smol::block_on(async {
        let authority = Authority::new();
        let (connector, acceptor) = memory::listener();
        let shared: Arc<OnceLock<Arc<TlsAcceptor<MemoryAcceptor>>>> = Arc::default();
        let asked = shared.clone();
        let server = authority.server().serves().client_authorities_file(authority.file());
        let server = server.admit(move |peer| {
            assert!(peer.name() != "mallory", "as the test wants it");
            asked.get().unwrap().counters().failed == 1
        });
        let acceptor = Arc::new(TlsAcceptor::new(acceptor, server.build().unwrap()));
        assert!(shared.set(acceptor.clone()).is_ok());
        let tls = |name| {
            let client = authority.client(name).asks().authorities_file(authority.file());
            TlsConnector::new(connector.clone(), client.build().unwrap(), SERVER).unwrap()
        };
        let mallory = tls("mallory");
        let refused = async { mallory.connect().await?.read_exact(&mut [0]).await };
        let refused = or(refused, async { acceptor.accept().await.map(|_| ()) }).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::PermissionDenied);
        let alice = tls("alice");
        let (client, accepted) = zip(alice.connect(), acceptor.accept()).await;
        assert!(client.is_ok());
        assert_eq!(accepted.unwrap().1, Subject::Name("alice".into()));
    });
}

#[test]
fn certificates_are_reloaded_and_those_that_cannot_be_read_are_not_used() {
    smol::block_on(async {
        let (authority, next) = (Authority::new(), Authority::new());
        let identity = authority.server();
        let server = identity.serves().build().unwrap();
        let client = client_of(&authority);
        let before = ends(client.clone(), server.clone());
        assert!(meet(&before).await.is_ok());
        // Half of the change: the key does not belong to the certificate, and what was in use stays.
        let renewed = next.server();
        std::fs::copy(&renewed.certificate, &identity.certificate).unwrap();
        let error = server.reload().unwrap_err();
        assert!(error.to_string().contains("the key is not that of the certificate"), "{error}");
        assert!(meet(&before).await.is_ok());
        std::fs::copy(&renewed.key, &identity.key).unwrap();
        server.reload().unwrap();
        let error = meet(&before).await.map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        // The client's authorities are renewed, too.
        std::fs::copy(next.file(), authority.file()).unwrap();
        client.reload().unwrap();
        assert!(meet(&ends(client, server)).await.is_ok());
    });
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let authority = Authority::new();
    let identity = authority.server();
    let missing = ServerTls::builder("/no/such.pem", &identity.key).build().unwrap_err();
    assert!(missing.to_string().starts_with("/no/such.pem: "), "{missing}");
    let no_key = ServerTls::builder(&identity.certificate, &identity.certificate).build();
    assert!(no_key.unwrap_err().to_string().contains(".pem: "));
    let no_certificate = ClientTls::builder().authorities_file(&identity.key).build().unwrap_err();
    assert!(no_certificate.to_string().contains("no certificate"), "{no_certificate}");
    let no_roots = ClientTls::builder().build().unwrap_err();
    assert!(no_roots.to_string().contains("no authority"), "{no_roots}");
    let other = authority.server();
    let mixed = util::Identity { key: other.key, ..identity.clone() };
    let mixed = mixed.asks().authorities_file(authority.file()).build().unwrap_err();
    assert!(mixed.to_string().contains("the key is not that of the certificate in "), "{mixed}");
    let no_names = identity.serves().admit(|_| true).build().unwrap_err();
    assert!(no_names.to_string().contains("no names"), "{no_names}");
    let twice = identity.serves().client_authorities_file(authority.file());
    let twice = twice.admit(|_| false).admit(|_| true).build().unwrap_err();
    assert!(twice.to_string().contains("`admit` was said twice"), "{twice}");
    let (connector, _acceptor) = memory::listener();
    let name = TlsConnector::new(connector, client_of(&authority), "not a name").unwrap_err();
    assert_eq!(name.kind(), ErrorKind::InvalidInput);
}

/// Tickets would let a client in on a certificate that is not looked at again; early data could be replayed.
#[test]
fn c174_no_session_is_resumed_whatever_the_configuration_says() {
    use oncewire_tls::rustls::pki_types::pem::PemObject;
    use oncewire_tls::rustls::{self, HandshakeKind};
    smol::block_on(async {
        let authority = Authority::new();
        let (certificate, key) = authority.server().load();
        let pem = std::fs::read(authority.file()).unwrap();
        let trusted = rustls::pki_types::CertificateDer::from_pem_slice(&pem).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13]] {
            let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
                .with_protocol_versions(versions)
                .unwrap();
            let mut server = builder
                .with_no_client_auth()
                .with_single_cert(vec![certificate.clone()], key.clone_key())
                .unwrap();
            server.ticketer = rustls::crypto::ring::Ticketer::new().unwrap();
            server.max_early_data_size = 1 << 10;
            let (connector, acceptor) = memory::listener();
            let acceptor = TlsAcceptor::new(acceptor, std::sync::Arc::new(server));
            let mut roots = rustls::RootCertStore::empty();
            roots.add(trusted.clone()).unwrap();
            let client = rustls::ClientConfig::builder_with_provider(provider.clone())
                .with_protocol_versions(versions)
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
            let client = futures_rustls::TlsConnector::from(std::sync::Arc::new(client));
            for _ in 0..2 {
                let name = ServerName::try_from(SERVER).unwrap();
                let stream = connector.connect().await.unwrap();
                let (stream, accepted) = zip(client.connect(name, stream), acceptor.accept()).await;
                let (mut server, _) = accepted.unwrap();
                let mut stream = stream.unwrap();
                server.write_all(b"x").await.unwrap();
                server.flush().await.unwrap();
                stream.read_exact(&mut [0]).await.unwrap();
                let connection = stream.get_ref().1;
                assert_eq!(connection.handshake_kind(), Some(HandshakeKind::Full));
                assert_eq!(connection.tls13_tickets_received(), 0);
            }
        }
    });
}
