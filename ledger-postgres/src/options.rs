//! Which database, and how it is used.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use oncewire_driver::ledger::LedgerError;
use postgres::tls::{MakeTlsConnect, TlsConnect};
use postgres::{IsolationLevel, NoTls, Socket};
use tokio::runtime::Runtime;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

use crate::connection::{TlsWords, take_tls_words};
use crate::error::{explain, is_lost};
use crate::link::{Dialling, Link, dial};
use crate::sql::{Sql, Warnings};
use crate::{PostgresLedger, PostgresStore};

type Dial = Arc<dyn for<'c> Fn(&'c Config) -> Dialling<'c> + Send + Sync>;

/// Which database holds the ledger, and how it is used.
#[derive(Clone)]
pub struct PostgresOptions {
    config: Config,
    dial: Dial,
    pub(crate) tables: String,
    pub(crate) isolation: IsolationLevel,
    pub(crate) lock_timeout: Duration,
    pub(crate) readers_max: usize,
    pub(crate) lanes: usize,
    pub(crate) batch_calls_max: usize,
    pub(crate) checks_fsync: bool,
    /// It waits for its turn, and commits only while the epoch is its own.
    pub(crate) is_fenced: bool,
}

impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOptions").field("database", &self.place()).finish_non_exhaustive()
    }
}

impl PostgresOptions {
    /// The database that a connection string names, as libpq and the crate `postgres` write it: `host=/run/postgresql
    /// dbname=bank`, or `postgres://bank:secret@db1,db2/bank?target_session_attrs=read-write`.
    ///
    /// With several hosts and `target_session_attrs=read-write` the one that takes writes is found, after a fail-over too.
    ///
    /// # TLS
    /// With the feature `tls`, or [`with_tls`](PostgresOptions::with_tls), `sslmode=require` connects with TLS only. So do
    /// `verify-full` and `verify-ca`, which are the same here: with the feature, the database's certificate is always checked, and must be
    /// for the host that the string names. `sslrootcert=FILE` names the file (PEM) of the authority that has signed it, where that is
    /// none that the system trusts; `sslcert=FILE` and `sslkey=FILE` are for a database that asks for a certificate. The files are
    /// read for each connection. Without `sslmode`, and with `prefer`, there is TLS only by `with_tls`, or where files are named. Over a unix
    /// socket there is none, as in libpq.
    ///
    /// # Errors
    /// What is wrong with the string. It is not repeated, since it may hold a password.
    pub fn new(connection: &str) -> Result<PostgresOptions, LedgerError> {
        let wrong = |why: String| {
            LedgerError::new(format!(
                "the connection string of the ledger in PostgreSQL is wrong: {why}"
            ))
        };
        let (rest, mut words) = take_tls_words(connection);
        if words.has_unknown_mode {
            let modes = "sslmode is disable, prefer, require, verify-ca or verify-full";
            return Err(wrong(modes.to_owned()));
        }
        let mut config: Config = rest.parse().map_err(|error| {
            wrong(format!(
                "{error}; it has the form host=… dbname=… user=…, or postgres://user@host/dbname"
            ))
        })?;
        if words.certificate.is_some() != words.key.is_some() {
            return Err(wrong("sslcert and sslkey go together".to_owned()));
        }
        if is_local(&config) {
            config.ssl_mode(SslMode::Disable);
            words = TlsWords::default();
        } else if words.is_required {
            config.ssl_mode(SslMode::Require);
        }
        Ok(PostgresOptions {
            config,
            dial: dial_by(words).map_err(wrong)?,
            tables: String::new(),
            isolation: IsolationLevel::Serializable,
            lock_timeout: Duration::from_secs(10),
            readers_max: 8,
            lanes: 1,
            batch_calls_max: 1,
            checks_fsync: true,
            is_fenced: true,
        })
    }

    /// The service's own tables: a script that is run in a transaction before each start of a server, and changes nothing where they
    /// are already there, as `CREATE TABLE IF NOT EXISTS` does.
    pub fn with_tables(mut self, script: impl Into<String>) -> Self {
        self.tables = script.into();
        self
    }

    /// Connects with TLS, where the connection string's `sslmode` asks for it, by any connector of the crate `postgres`: those of
    /// `postgres-native-tls`, `postgres-openssl` or `tokio-postgres-rustls`. It takes the place of what the feature `tls` does, and
    /// knows its certificates itself.
    pub fn with_tls<T>(mut self, connector: T) -> Self
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::TlsConnect: Send,
        T::Stream: Send,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        self.dial = Arc::new(move |config| dial(config, connector.clone()));
        self
    }

    /// How far handlers are kept from other writers of their tables. The default, serializable, is right whatever they do; a
    /// batch that another transaction got in the way of is begun again. Read committed costs less, and is enough where only this
    /// server writes what its handlers read.
    pub fn with_isolation(mut self, isolation: IsolationLevel) -> Self {
        self.isolation = isolation;
        self
    }

    /// How long a statement of a handler waits for a row or a table that another transaction has locked: 10 seconds unless said
    /// otherwise. Then the statement fails, and with it the call, which is rolled back. Meanwhile all other calls wait, too.
    pub fn with_lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = timeout;
        self
    }

    /// Connections on which calls are committed: 1 unless said otherwise.
    ///
    /// With several, calls of different clients run and commit at the same time, and the database's own group commit has one sync for
    /// many of them. Those of one session stay in their order, one after another: it is for services with many clients. Handlers
    /// get in each other's way as those of several servers do: with [read committed](PostgresOptions::with_isolation), a
    /// handler that reads what it writes later must lock it (`SELECT … FOR UPDATE`).
    pub fn with_lanes(mut self, lanes: usize) -> Self {
        self.lanes = lanes.max(1);
        self
    }

    /// Most transactional calls of one transaction, where there are [lanes](PostgresOptions::with_lanes): 1 unless said otherwise. More make
    /// fewer transactions; but two of them whose calls lock the same rows, each in its own order, end as a deadlock, which costs the
    /// database's `deadlock_timeout`. So it is for calls that lock no rows of each other's.
    pub fn with_batch_calls_max(mut self, calls: usize) -> Self {
        self.batch_calls_max = calls.max(1);
        self
    }

    /// Most connections that [`Reads`](crate::Reads) makes: 8 unless said otherwise, and one at least.
    pub fn with_readers_max(mut self, readers: usize) -> Self {
        self.readers_max = readers.max(1);
        self
    }

    /// Uses a database that does not sync what it writes (`fsync = off`), for tests of services. A power cut loses what was answered.
    pub fn without_fsync_check(mut self) -> Self {
        self.checks_fsync = false;
        self
    }

    /// Plants a bug: the server does not wait for its turn, and commits although another one has taken over. A test that kills servers
    /// must fail with it.
    #[cfg(feature = "faults")]
    pub fn without_fence(mut self) -> Self {
        self.is_fenced = false;
        self
    }

    /// Opens the ledger, and makes its tables if there are none. While another server has it this waits, as a stand-by, and takes
    /// over when that one is gone.
    ///
    /// Blocks its thread. Where the connection is lost while it waits, it is made again for up to a minute.
    ///
    /// # Errors
    /// Why the database cannot be used, and what to do about it.
    pub fn open(self) -> Result<PostgresLedger, LedgerError> {
        Ok(PostgresLedger::new(PostgresStore::open(self)?))
    }

    /// The same, but an error where another server has the ledger: it names that one's connection.
    ///
    /// # Errors
    /// As [`open`](PostgresOptions::open).
    pub fn try_open(self) -> Result<PostgresLedger, LedgerError> {
        Ok(PostgresLedger::new(PostgresStore::try_open(self)?))
    }

    /// The same, but ends the connection of the server that has the ledger, which can commit nothing any more: for one that hangs,
    /// or is cut off and still holds its connection.
    ///
    /// # Errors
    /// As [`open`](PostgresOptions::open).
    pub fn take_over(self) -> Result<PostgresLedger, LedgerError> {
        Ok(PostgresLedger::new(PostgresStore::take_over(self)?))
    }

    /// Opens the ledger together with other servers that open it so: all of them serve at once, and a client that moves between them finds
    /// its session at each (S34). While a server has it for itself ([`open`](PostgresOptions::open)), this waits, and the other way round.
    ///
    /// A session is that server's whose client it has. Where another server's batch has it locked, its client tries again; a batch
    /// that stands still for as long as [`with_lock_timeout`](PostgresOptions::with_lock_timeout) says, because its process is
    /// stopped, say, has its connection ended.
    ///
    /// # Errors
    /// As [`open`](PostgresOptions::open).
    pub fn open_shared(self) -> Result<PostgresLedger, LedgerError> {
        Ok(PostgresLedger::new(PostgresStore::open_shared(self)?))
    }

    /// The database's name and hosts, without secrets.
    pub(crate) fn place(&self) -> String {
        let hosts = self.config.get_hosts().iter().map(|host| match host {
            Host::Tcp(name) => name.clone(),
            #[cfg(unix)]
            Host::Unix(path) => path.display().to_string(),
        });
        let hosts = hosts.collect::<Vec<_>>().join(",");
        let user = self.config.get_user().unwrap_or("the default user");
        let name = self.config.get_dbname().unwrap_or(user);
        format!("database {name:?} at {hosts} as {user}")
    }

    /// A connection on which nothing of the server's defaults ends a wait.
    fn connect(&self, runtime: Runtime, name: &str) -> Result<Sql, postgres::Error> {
        let mut config = self.config.clone();
        if config.get_application_name().is_none() {
            config.application_name(name);
        }
        let link = Link::connect(runtime, (self.dial)(&config), Warnings::default())?;
        let mut sql = Sql::new(link);
        // A server whose machine has vanished must not keep the lock: the database finds out within some 15 seconds.
        sql.script(
            "SET statement_timeout = 0; SET lock_timeout = 0; SET idle_session_timeout = 0; \
             SET idle_in_transaction_session_timeout = 0; SET tcp_keepalives_idle = 5; \
             SET tcp_keepalives_interval = 3; SET tcp_keepalives_count = 3",
        )?;
        // During a statement too, where the database's system can tell.
        match sql.script("SET client_connection_check_interval = '2s'") {
            Err(error) if is_lost(&error) => return Err(error),
            _ => {}
        }
        Ok(sql)
    }

    pub(crate) fn connect_or_explain(&self, name: &str) -> Result<Sql, LedgerError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| {
            LedgerError::new(format!(
                "the ledger in PostgreSQL cannot wait for a connection: {error}; see the limit of open files"
            ))
        })?;
        let doing = format!("connect to {}", self.place());
        self.connect(runtime, name).map_err(|error| explain(&doing, &error))
    }
}

/// How connections are made that the program has no connector for.
#[cfg(feature = "tls")]
fn dial_by(words: TlsWords) -> Result<Dial, String> {
    if !words.is_required {
        return Ok(Arc::new(|config| dial(config, NoTls)));
    }
    let connector = crate::tls::ByWords(words);
    Ok(Arc::new(move |config| dial(config, connector.clone())))
}

#[cfg(not(feature = "tls"))]
fn dial_by(words: TlsWords) -> Result<Dial, String> {
    match words.first_file() {
        Some(name) if words.is_required => Err(format!(
            "{name} needs the feature `tls` of oncewire-ledger-postgres; a connector that is given to with_tls knows its certificates itself"
        )),
        _ => Ok(Arc::new(|config| dial(config, NoTls))),
    }
}

/// Over unix sockets only.
fn is_local(config: &Config) -> bool {
    let is_unix = |host: &Host| match host {
        Host::Tcp(_) => false,
        #[cfg(unix)]
        Host::Unix(_) => true,
    };
    !config.get_hosts().is_empty() && config.get_hosts().iter().all(is_unix)
}
