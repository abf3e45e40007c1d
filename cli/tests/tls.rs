//! Servers in TLS, good ones and others: C350 and C351. What must not be seen: C357.
#![allow(missing_docs)]
#![cfg(unix)]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use oncewire::tokens::Tokens;
use oncewire::{Context, Method, Server, ServerBuilder, ServerTls, TcpAcceptor, TlsAcceptor};
use util::authority::Authority;
use util::{Directory, Ended, Recorder, run};

mod util;

const WHO: Method<(String,), String> =
    Method::new("vault/who").reply_len_max(1 << 10).parameters(&["text"]);
const TOKEN: &str = "planted-token-0123456789abcdef";

fn vault() -> ServerBuilder {
    let who = |context: Context, (text,): (String,)| async move {
        format!("{} says {text}", context.caller)
    };
    Server::builder("vault").method(&WHO, who).signatures().status()
}

/// Serves in this process, on TLS.
fn serve(server: &Server, tls: ServerTls) -> String {
    let tcp = smol::block_on(TcpAcceptor::bind("127.0.0.1:0")).unwrap();
    let address = format!("tls:{}", tcp.local_addr());
    let (server, acceptor) = (server.clone(), TlsAcceptor::new(tcp, tls));
    smol::spawn(async move { server.serve(acceptor).await }).detach();
    address
}

/// Answers one connection with these bytes, behind the first that come, and hangs up.
fn answer(bytes: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tls:{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]).and_then(|_| stream.write_all(bytes));
        }
    });
    address
}

fn check(address: &str, more: &[&str]) -> Ended {
    run(&[&["tls-check", address], more].concat())
}

#[test]
fn c350_what_a_server_shows_is_printed_and_whether_it_is_accepted() {
    let directory = Directory::new("cli-tls-check");
    let authority = Authority::new(&directory, "an authority");
    let (namesake, other) =
        (Authority::new(&directory, "an authority"), Authority::new(&directory, "another"));
    let server = vault().build().unwrap();
    let trusting = ["--ca", &authority.file];
    let good = authority.issue("server", |params| {
        params.not_after = rcgen::date_time_ymd(2999, 1, 1);
    });
    let good = serve(&server, good.serves().build().unwrap());
    let checked = check(&good, &trusting);
    assert_eq!((checked.status, &*checked.err), (0, ""), "{checked:?}");
    for line in [
        "TLSv1_3, TLS13_AES_256_GCM_SHA384, protocol oncewire\n",
        "1. CN=server\n",
        "   names:   DNS localhost, IP 127.0.0.1\n",
        "   issuer:  CN=an authority\n",
        "to 2999-01-01, ",
        " days left\naccepted: signed by an authority in ",
        &format!("\nvault at {good}: "),
    ] {
        assert!(checked.out.contains(line), "{line:?} is not in {checked:?}");
    }
    let soon = check(&good, &[&trusting[..], &["--min-days", "999999999"]].concat());
    soon.failed(32, "certificate 1 ends in ");
    // Each of these is shown all the same.
    let year = |year: i32| rcgen::date_time_ymd(year, 1, 1);
    let old = authority.issue("old", |params| {
        (params.not_before, params.not_after) = (year(2020), year(2021));
    });
    let early = authority.issue("early", |params| {
        (params.not_before, params.not_after) = (year(2200), year(2201));
    });
    let elsewhere = authority.issue("elsewhere", |params| params.subject_alt_names.clear());
    let plain = |_: &mut _| {};
    for (identity, name, status, why) in [
        (namesake.issue("namesake", plain), "namesake", 31, "not signed by the authority"),
        (other.issue("other", plain), "other", 31, "an authority that is not trusted here"),
        (old, "old", 32, "has expired"),
        (early, "early", 32, "is not valid yet"),
        (elsewhere, "elsewhere", 33, "not for 127.0.0.1"),
    ] {
        let checked = check(&serve(&server, identity.serves().build().unwrap()), &trusting);
        checked.failed(status, why);
        assert!(checked.out.contains(&format!("1. CN={name}\n")), "{checked:?}");
        assert!(!checked.out.contains("vault"), "{checked:?}");
    }
    // What a certificate says does not reach the terminal as it is, nor look like another certificate.
    let loud = other.issue("loud\u{1b}[2J\n2. CN=quiet, O=b", |_| {});
    let loud = check(&serve(&server, loud.serves().build().unwrap()), &trusting);
    loud.failed(31, "an authority that is not trusted here");
    assert!(loud.out.contains("1. CN=loud\\u{1b}[2J\\n2. CN\\=quiet\\, O\\=b\n"), "{loud:?}");
    // Nor is one that only this system does not trust taken by a command that says no --ca.
    check(&good, &[]).failed(31, "");
    let named = check(&good, &[&trusting[..], &["--server-name", "localhost"]].concat());
    assert_eq!(named.status, 0, "{named:?}");
    check(&good, &[&trusting[..], &["--server-name", "elsewhere.org"]].concat()).failed(33, "");
}

#[test]
fn c350_what_is_no_server_in_tls_is_said_to_be_none() {
    let directory = Directory::new("cli-tls-none");
    let authority = Authority::new(&directory, "an authority");
    let trusting = ["--ca", &authority.file];
    for bytes in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b""] {
        check(&answer(bytes), &trusting).failed(30, "speak TLS");
    }
    // A server of ours, without TLS.
    let tcp = smol::block_on(TcpAcceptor::bind("127.0.0.1:0")).unwrap();
    let address = format!("tls:{}", tcp.local_addr());
    let server = vault().build().unwrap();
    smol::spawn(async move { server.serve(tcp).await }).detach();
    check(&address, &trusting).failed(30, "speak TLS");
    run(&[&["ping", &address, "-n", "1"], &trusting[..]].concat()).failed(30, "speak TLS");
    check("tls:127.0.0.1:1", &trusting).failed(13, "refused");
    check("tcp:127.0.0.1:1", &[]).failed(2, "tls-check wants tls:HOST:PORT");
    // TLS, and something else inside.
    let identity = authority.issue("web", |_| {});
    let tls = identity.serves().build().unwrap();
    let tcp = smol::block_on(TcpAcceptor::bind("127.0.0.1:0")).unwrap();
    let address = format!("tls:{}", tcp.local_addr());
    let acceptor = TlsAcceptor::new(tcp, tls);
    smol::spawn(async move {
        use oncewire::Accept;
        use smol::io::AsyncWriteExt;
        while let Ok((mut stream, _)) = acceptor.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\nnot here").await;
            let _ = stream.flush().await;
        }
    })
    .detach();
    let checked = check(&address, &trusting);
    checked.failed(14, "no session at tls:");
    assert!(checked.out.contains("accepted: "), "{checked:?}");
}

#[test]
fn c351_every_command_speaks_tls_and_shows_who_calls() {
    let directory = Directory::new("cli-tls");
    let authority = Authority::new(&directory, "an authority");
    let server = vault().build().unwrap();
    let tls = authority.issue("server", |_| {}).serves();
    let address = serve(&server, tls.client_authorities_file(&authority.file).build().unwrap());
    let identity = authority.issue("alice", |params| params.subject_alt_names.clear());
    let trusting = ["--ca", &authority.file];
    let alice = [&trusting[..], &identity.options()].concat();
    let with = |arguments: &[&str], more: &[&str]| run(&[arguments, more].concat());
    let ping = ["ping", &*address, "-n", "1"];
    let call = ["call", &*address, "vault.who", r#"["hello"]"#];
    assert_eq!(with(&call, &alice).replied(), "alice says hello");
    let file = directory.at("call");
    let durable = [&alice[..], &["--durable", &file]].concat();
    assert_eq!(with(&call, &durable).replied(), "alice says hello");
    for arguments in
        [&ping[..], &["list", &address], &["top", &address, "-n", "1"], &["tls-check", &address]]
    {
        let ended = with(arguments, &alice);
        assert_eq!((ended.status, &*ended.err), (0, ""), "{ended:?}");
        assert!(ended.out.contains("vault"), "{ended:?}");
    }
    // Those that the server does not accept, and those that accept no server.
    let stranger = Authority::new(&directory, "another").issue("mallory", |_| {});
    let old = authority.issue("old", |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    for command in [&ping[..], &call, &["tls-check", &address]] {
        with(command, &trusting).failed(34, "asks for a certificate, and this side has none");
        let shown = with(command, &[&trusting[..], &stranger.options()].concat());
        shown.failed(34, "does not accept this side's certificate");
        let shown = with(command, &[&trusting[..], &old.options()].concat());
        shown.failed(34, "it has expired");
        with(command, &identity.options()).failed(31, "not trusted here");
    }
    // Files that are none, and options where they protect nothing.
    with(&ping, &["--ca", &identity.key]).failed(2, "no certificate");
    with(&ping, &["--ca", "/nonexistent"]).failed(2, "/nonexistent");
    with(&ping, &["--cert", &identity.certificate]).failed(2, "--key");
    with(&ping, &["--server-name", "no name"]).failed(2, "neither a DNS name");
    let tcp = address.replace("tls:", "tcp:");
    with(&["ping", &tcp], &trusting).failed(2, "--ca is for tls: addresses");
    with(&["list", "unix:/tmp/a"], &identity.options()).failed(2, "--cert is for tls: addresses");
}

/// Looks for secrets in all that the program says and leaves.
#[test]
fn c357_no_secret_is_in_what_the_command_line_says_or_records() {
    let directory = Directory::new("cli-secrets");
    let authority = Authority::new(&directory, "an authority");
    let table = Tokens::parse(&format!("alice {TOKEN}")).unwrap();
    let server = vault().tokens(&table).build().unwrap();
    let tls = authority.issue("server", |_| {}).serves();
    let address = serve(&server, tls.client_authorities_file(&authority.file).build().unwrap());
    let identity = authority.issue("alice", |_| {});
    let other = Authority::new(&directory, "another").issue("mallory", |_| {});
    let file = |name: &str, content: &str| {
        let path = directory.at(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        path
    };
    let token = file("token", TOKEN);
    let wrong = file("wrong", "another-token-0123456789abcdef");
    let mut seen = String::new();
    let mut look = |arguments: &[&str], status| {
        let ended = run(arguments);
        assert_eq!(ended.status, status, "{arguments:?}: {ended:?}");
        seen += &(ended.out + &ended.err);
    };
    let alice = [&["--ca", &authority.file][..], &identity.options()].concat();
    let with_token = [&alice[..], &["--token-file", &token]].concat();
    let call = ["call", &*address, "vault.who", r#"["planted body"]"#];
    let durable = directory.at("durable");
    for (arguments, more, status) in [
        (&["ping", &address, "-n", "1"][..], &with_token, 0),
        (&["tls-check", &address], &with_token, 0),
        (&call, &[&with_token[..], &["--durable", &durable]].concat(), 0),
        (&call, &alice, 14),
        (&call, &[&alice[..], &["--token-file", &wrong]].concat(), 14),
        (&call, &[&["--ca", &authority.file][..], &other.options()].concat(), 34),
        (&["list", &address], &["--ca", &*identity.key].to_vec(), 2),
        (&["list", &address], &["--cert", &*identity.key, "--key", &identity.key].to_vec(), 2),
        (&["list", &address], &["--token-file", &*identity.certificate].to_vec(), 2),
        (&["call", &address, "--token", TOKEN], &alice, 2),
    ] {
        look(&[arguments, more].concat(), status);
    }
    let recording = directory.at("recording");
    let (listen, more) = (format!("unix:{}", directory.at("relay")), [&alice[..], &["-n", "1"]]);
    let mut recorder = Recorder::start(Path::new(&recording), &listen, &address, &more.concat());
    let recorded = ["call", &*listen, "vault.who", r#"["planted body"]"#, "--token-file", &token];
    look(&recorded, 0);
    assert!(recorder.child.wait().unwrap().success());
    look(&["replay", &recording], 0);
    let page = format!("{recording}.html");
    let left = [&durable, &recording, &page].map(|path| (&**path, std::fs::read(path).unwrap()));
    let contains = |bytes: &[u8], secret: &str| {
        bytes.windows(secret.len()).any(|window| window == secret.as_bytes())
    };
    let secrets = [identity.secrets(), other.secrets(), vec![TOKEN.to_owned()]].concat();
    for secret in &secrets {
        assert!(!seen.contains(secret), "{secret:?} was printed");
        for (path, bytes) in &left {
            assert!(!contains(bytes, secret), "{secret:?} is in {path}");
        }
    }
    for (path, bytes) in &left[1..] {
        assert!(!contains(bytes, "planted body"), "the body is in {path}");
    }
}
