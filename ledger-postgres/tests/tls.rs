//! TLS to the database, as a connection string asks for it.
#![cfg(all(unix, feature = "tls"))]
#![allow(missing_docs)]

mod util;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use oncewire_driver::{Client, ClientOptions};
use oncewire_ledger_postgres::PostgresOptions;
use oncewire_ledger_postgres::postgres::NoTls;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use util::*;

/// A database over TCP, which has TLS when [`Guarded::turn_on`] was called.
struct Guarded {
    /// Removed with it.
    folder: PathBuf,
    port: u16,
    /// How to connect as the superuser over its unix socket.
    local: String,
    _cluster: Cluster,
}

impl Guarded {
    fn start(name: &str) -> Option<Guarded> {
        // A port that was free a moment ago.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let settings = format!("listen_addresses = '127.0.0.1'\nport = {port}");
        let cluster = match Cluster::start(name, &settings) {
            Ok(cluster) => cluster,
            Err(StartError::Absent) => {
                eprintln!("skipped: {}", StartError::Absent);
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        let folder = std::env::temp_dir().join(format!("owpg-{}-{name}-files", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let local = format!("{} port={port}", cluster.connection("postgres"));
        let mut admin = connect(&local);
        let roles = "CREATE ROLE payer LOGIN SUPERUSER PASSWORD 'secret'; CREATE ROLE shown LOGIN SUPERUSER";
        admin.batch_execute(roles).unwrap();
        Some(Guarded { folder, port, local, _cluster: cluster })
    }

    /// From now on it takes connections over TCP with TLS only, from one user with a password and from one with a certificate. Returns once
    /// it does.
    fn turn_on(&self, identity: &Identity, authority: &Authority) {
        let mut admin = connect(&self.local);
        // As the database's user, which the files must belong to.
        let mut write = |name: &str, text: &str| {
            let program = format!("cat > {name} && chmod 600 {name}");
            let lines = format!("unnest(string_to_array($text${}$text$, E'\\n'))", text.trim());
            admin.batch_execute(&format!("COPY (SELECT {lines}) TO PROGRAM '{program}'")).unwrap();
        };
        write("server.pem", &identity.certificate);
        write("server.key", &identity.key);
        write("authority.pem", &authority.certificate);
        let rules = "local all all trust\nhostssl all shown 127.0.0.1/32 cert\nhostssl all all 127.0.0.1/32 scram-sha-256";
        write("pg_hba.conf", rules);
        for set in [
            "ssl_cert_file = 'server.pem'",
            "ssl_key_file = 'server.key'",
            "ssl_ca_file = 'authority.pem'",
            "ssl = on",
        ] {
            admin.batch_execute(&format!("ALTER SYSTEM SET {set}")).unwrap();
        }
        admin.batch_execute("SELECT pg_reload_conf()").unwrap();
        let is_on =
            || -> String { connect(&self.local).query_one("SHOW ssl", &[]).unwrap().get(0) };
        while is_on() != "on" {
            std::thread::yield_now();
        }
    }

    fn connection(&self, more: &str) -> String {
        format!(
            "host=127.0.0.1 port={} dbname=postgres user=payer password=secret {more}",
            self.port
        )
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.folder);
    }
}

/// Who signs certificates.
struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
struct Identity {
    certificate: String,
    key: String,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority of tests");
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        Authority { certificate, issuer: Issuer::new(params, key) }
    }

    fn sign(&self, names: Vec<SanType>, common: &str) -> Identity {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.distinguished_name.push(DnType::CommonName, common);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Identity { certificate, key: key.serialize_pem() }
    }

    fn for_loopback(&self) -> Identity {
        self.sign(vec![SanType::IpAddress([127, 0, 0, 1].into())], "the database")
    }
}

fn inspect(connection: &str) -> (Option<i32>, String) {
    let program = env!("CARGO_BIN_EXE_oncewire-ledger-postgres");
    let output = Command::new(program).args(["inspect", connection]).output().unwrap();
    let text = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[test]
fn c410_a_ledger_its_reads_its_watches_and_its_tool_work_over_tls() {
    let Some(database) = Guarded::start("tls") else { return };
    let authority = Authority::new();
    database.turn_on(&authority.for_loopback(), &authority);
    let trusted = database.file("authority.pem", &authority.certificate);
    // The password is bound to the certificate, which the database must prove.
    let connection = database
        .connection(&format!("sslmode=verify-full sslrootcert={trusted} channel_binding=require"));
    let (place, runs) = (Place::default(), Arc::default());
    let server = open(&connection, &runs);
    place.set(Some(server.clone()));
    smol::block_on(async {
        let client = Client::new(place.clone(), ClientOptions::default());
        assert_eq!(client.call(&PAY, &(1, 100)).await.ok(), Ok(100));
        let watch = client.call(&WATCH, &(1, 100)).start();
        let batch = [1, 2, 3, 4].map(|_| client.call(&PAY, &(1, 1)).start());
        for call in batch {
            assert!(call.await.ok().is_ok());
        }
        assert!(watch.await.ok().unwrap().unwrap() > 100);
        assert_eq!(client.call(&COUNT, &()).await.ok(), Ok(1));
        assert_eq!(client.call(&BALANCE, &1).await.ok(), Ok(104));
        let of = "SELECT count(*), bool_and(ssl), count(DISTINCT application_name) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                  WHERE application_name LIKE 'oncewire %'";
        let row = connect(&database.local).query_one(of, &[]).unwrap();
        assert!(row.get::<_, i64>(0) >= 2 && row.get(1) && row.get::<_, i64>(2) == 2, "{row:?}");

        let (status, said) = inspect(&connection);
        assert!(status == Some(0) && said.contains("sessions      1"), "{said}");
        // By a certificate instead of a password, as an URL says it.
        let shown = authority.sign(Vec::new(), "shown");
        let url = format!(
            "postgres://shown@127.0.0.1:{}/postgres?sslmode=require&sslrootcert={trusted}&sslcert={}&sslkey={}",
            database.port,
            database.file("shown.pem", &shown.certificate),
            database.file("shown.key", &shown.key),
        );
        let (status, said) = inspect(&url);
        assert!(status == Some(0) && said.contains("sessions      1"), "{said}");
        client.close().await;
    });
    // A connector of the program's own is used in its place.
    let own = PostgresOptions::new(&connection).unwrap().with_tls(NoTls);
    assert!(refused(own).contains("no TLS implementation"));
}

#[test]
fn c411_tls_that_fails_or_is_missing_is_an_error_that_says_what_to_do() {
    let Some(database) = Guarded::start("no-tls") else { return };
    let (authority, stranger) = (Authority::new(), Authority::new());
    let trusted = database.file("authority.pem", &authority.certificate);
    let other = database.file("stranger.pem", &stranger.certificate);
    let requires = database.connection(&format!("sslmode=require sslrootcert={trusted}"));
    let expect = |connection: &str, says: &str| {
        let error = refused(options(connection));
        assert!(error.contains(says) && !error.contains("secret"), "{error}");
    };
    // The database has none.
    expect(&requires, "does not support TLS; set ssl = on there");
    let (status, said) = inspect(&requires);
    assert!(status == Some(1) && said.contains("set ssl = on") && said.lines().count() == 1);

    database.turn_on(&authority.for_loopback(), &authority);
    drop(options(&requires).try_open().unwrap());
    expect(
        &database.connection(""),
        "where it takes connections with TLS only, say sslmode=require",
    );
    expect(&database.connection("sslmode=disable"), "say sslmode=require");
    let untrusted = database.connection(&format!("sslmode=require sslrootcert={other}"));
    expect(&untrusted, "name the file of the authority that has signed the database's certificate");
    let elsewhere = requires.replace("host=127.0.0.1", "host=localhost");
    expect(&elsewhere, "name the host as its certificate does");
    // That the name is checked is no matter of the mode, and no mode is a weaker one.
    expect(&elsewhere.replace("require", "verify-ca"), "name the host as its certificate does");
    let missing = database.connection("sslrootcert=/nowhere/ca.pem");
    expect(&missing, "/nowhere/ca.pem");
    expect(&format!("{requires} sslcert={trusted} sslkey={trusted}"), &trusted);
    let half = PostgresOptions::new(&format!("{requires} sslcert={trusted}")).unwrap_err();
    assert!(half.to_string().contains("sslcert and sslkey go together"), "{half}");
    let (status, said) = inspect(&database.connection("sslmode=verify"));
    assert!(status == Some(2) && said.contains("sslmode") && said.lines().count() == 1, "{said}");

    // The database gets another certificate while the program runs, and the file says whom to trust now.
    std::fs::write(Path::new(&trusted), &stranger.certificate).unwrap();
    expect(&requires, "sslrootcert=FILE");
    database.turn_on(&stranger.for_loopback(), &stranger);
    let kept = PostgresOptions::new(&requires).unwrap();
    until_opened(&kept);
}

/// The database shows its new certificate as soon as its main process has read it.
fn until_opened(options: &PostgresOptions) {
    while let Err(error) = options.clone().try_open() {
        assert!(error.to_string().contains("sslrootcert=FILE"), "{error}");
    }
}

/// Where the feature is not needed: the ways of libpq over a unix socket.
#[test]
fn a_unix_socket_needs_no_tls_whatever_the_string_says() {
    let Some(cluster) = shared() else { return };
    let connection = format!("{} sslmode=verify-full sslrootcert=system", cluster.database());
    drop(options(&connection).open().unwrap());
}
