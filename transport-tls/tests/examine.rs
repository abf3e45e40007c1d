//! What a server shows is seen, also where it is not accepted.

use std::io::{self, ErrorKind};

use oncewire_pipe::memory;
use oncewire_tls::rustls::ProtocolVersion;
use oncewire_tls::{
    Accept, CertificateDetails, ClientTls, Connect, Examination, TlsAcceptor, TlsConnector,
};
use smol::future::{or, zip};
use smol::io::{AsyncReadExt, AsyncWriteExt};
use util::{Authority, Identity, SERVER, dns};

mod util;

/// Has a client of this authority examine a server. Also says how many handshakes were completed there.
async fn examine(authority: &Authority, server: &Identity) -> (Examination, u64) {
    let client = ClientTls::builder().authorities_file(authority.file()).build().unwrap();
    let (connector, acceptor) = memory::listener();
    let acceptor = TlsAcceptor::new(acceptor, server.serves().build().unwrap());
    let connector = TlsConnector::new(connector, client, SERVER).unwrap();
    let serving = async {
        loop {
            let (mut stream, _) = acceptor.accept().await.unwrap();
            // Nothing comes: the client says that it goes.
            assert_eq!(stream.read(&mut [0; 16]).await.unwrap(), 0);
        }
    };
    let examining = async {
        let examination = connector.examine().await.unwrap();
        // A connection after it says that the server is done with that one.
        let _any = connector.connect().await;
        examination
    };
    let examination = or(examining, serving).await;
    let completed = acceptor.counters().completed;
    (examination, completed)
}

#[test]
fn c350_what_a_server_shows_is_seen_also_where_it_is_not_accepted() {
    smol::block_on(async {
        let (authority, other) = (Authority::new(), Authority::named("another"));
        let (good, _) = examine(&authority, &authority.server()).await;
        good.verdict.as_ref().unwrap();
        assert_eq!(good.version, Some(ProtocolVersion::TLSv1_3));
        assert!(good.cipher_suite.is_some());
        assert_eq!(good.protocol.as_deref(), Some(&b"oncewire"[..]));
        let details = CertificateDetails::read(&good.certificates[0]).unwrap();
        assert_eq!(details.subject, "CN=server");
        assert!(details.issuer.contains("CN=an authority"), "{details:?}");
        assert_eq!(details.names, [format!("DNS {SERVER}")]);
        let expired = authority.issue_with("old", vec![dns(SERVER)], |params| {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        });
        for (server, name) in [
            (other.server(), "server"),
            (expired, "old"),
            (authority.issue("elsewhere", vec![dns("a.example.org")]), "elsewhere"),
        ] {
            let (examination, completed) = examine(&authority, &server).await;
            let error = examination.verdict.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{name}: {error}");
            let details = CertificateDetails::read(&examination.certificates[0]).unwrap();
            assert_eq!(details.subject, format!("CN={name}"));
            assert_eq!(completed, 0, "{name}: it was accepted");
        }
    });
}

#[test]
fn a_server_that_speaks_something_else_or_hangs_up_has_shown_nothing() {
    for bytes in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b""] {
        smol::block_on(async {
            let authority = Authority::new();
            let client = ClientTls::builder().authorities_file(authority.file()).build().unwrap();
            let (connector, acceptor) = memory::listener();
            let connector = TlsConnector::new(connector, client, SERVER).unwrap();
            let serving = async {
                let (mut stream, _) = acceptor.accept().await.unwrap();
                stream.read(&mut [0; 4096]).await.unwrap();
                stream.write_all(bytes).await.unwrap();
                io::Result::Ok(())
            };
            let (examination, served) = zip(connector.examine(), serving).await;
            served.unwrap();
            let examination = examination.unwrap();
            assert!(examination.certificates.is_empty() && examination.version.is_none());
            let why = examination.verdict.unwrap_err().to_string();
            assert!(why.contains("speak TLS"), "{why}");
        });
    }
}
