//! A PostgreSQL of the tests' own, in a temporary folder, on a unix socket only.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use oncewire_ledger_postgres::postgres::{self, NoTls};

/// A database server that ends with it, or with the test's process, however that ends.
pub struct Cluster {
    folder: PathBuf,
    tools: Tools,
    keeper: Option<Child>,
}

/// Where PostgreSQL's programs are, and who may run them: not root.
#[derive(Clone)]
struct Tools {
    folder: PathBuf,
    user: Option<(u32, u32)>,
}

/// Starts the server in `$1`, says so, and waits on its stdin: for the signal that is to end it, or for the end of the test's
/// process, after which nothing is left of it.
const KEEPER: &str = r#"
trap '' INT TERM HUP
tries=0
until "$0/pg_ctl" -D "$1/data" -w -t 60 -l "$1/log" -o "$2" start >/dev/null 2>&1; do
    tries=$((tries + 1)); [ $tries -lt 50 ] || { cat "$1/log" >&2; exit 1; }
    sleep 0.1
done
pid=$(head -n 1 "$1/data/postmaster.pid")
echo ready
if read -r signal; then
    kill -"$signal" "$pid"
    while kill -0 "$pid" 2>/dev/null; do sleep 0.02; done
else
    "$0/pg_ctl" -D "$1/data" -w -m immediate stop >/dev/null 2>&1
    rm -rf "$1"
fi
"#;

/// The one of all tests of a program that do not harm it; `None`, and said so, where there is no PostgreSQL.
pub fn shared() -> Option<&'static Cluster> {
    static SHARED: OnceLock<Option<Cluster>> = OnceLock::new();
    SHARED.get_or_init(|| Cluster::start("shared", "")).as_ref()
}

impl Cluster {
    /// A new one; `None`, and said so, where there is no PostgreSQL. `settings` are lines of its postgresql.conf.
    pub fn start(name: &str, settings: &str) -> Option<Cluster> {
        let Some(tools) = Tools::find() else {
            eprintln!(
                "skipped: PostgreSQL's initdb was not found (Debian: apt-get install postgresql), or there is no \
                 user but root to run it"
            );
            return None;
        };
        let folder = tools.make_folder(name);
        let data = folder.join("data");
        let mut init = tools.command("initdb");
        init.args(["-A", "trust", "-U", "postgres", "-N", "-E", "UTF8", "--locale=C", "-D"]);
        run(init.arg(&data));
        append(
            &data.join("postgresql.conf"),
            &format!(
                "listen_addresses = ''\nunix_socket_directories = '{}'\nport = 5432\nshared_buffers = 16MB\n\
                 max_connections = 60\nlogging_collector = off\n{settings}\n",
                folder.display()
            ),
        );
        let hba = std::fs::read_to_string(data.join("pg_hba.conf")).unwrap();
        std::fs::write(data.join("pg_hba.conf"), format!("local all guarded scram-sha-256\n{hba}"))
            .unwrap();
        let mut cluster = Cluster { folder, tools, keeper: None };
        cluster.resume();
        Some(cluster)
    }

    /// A copy of this one that follows it, and takes no writes until it is promoted.
    pub fn stand_by(&self, name: &str) -> Cluster {
        let folder = self.tools.make_folder(name);
        let mut copy = self.tools.command("pg_basebackup");
        copy.args(["-R", "-c", "fast", "-U", "postgres", "-h"]).arg(&self.folder);
        run(copy.arg("-D").arg(folder.join("data")));
        append(
            &folder.join("data/postgresql.conf"),
            &format!("unix_socket_directories = '{}'\n", folder.display()),
        );
        let mut cluster = Cluster { folder, tools: self.tools.clone(), keeper: None };
        cluster.resume();
        cluster
    }

    /// Makes a stand-by a primary.
    pub fn promote(&self) {
        run(self
            .tools
            .command("pg_ctl")
            .args(["promote", "-w", "-D"])
            .arg(self.folder.join("data")));
    }

    /// Ends it by this signal, and leaves its files.
    pub fn end(&mut self, signal: &str) {
        let mut keeper = self.keeper.take().expect("it runs");
        let mut stdin = keeper.stdin.take().expect("it is piped");
        writeln!(stdin, "{signal}").unwrap();
        assert!(keeper.wait().unwrap().success());
    }

    /// Starts it again after [`end`](Cluster::end).
    pub fn resume(&mut self) {
        let mut command = self.tools.shell();
        command.arg("-c").arg(KEEPER).arg(&self.tools.folder).arg(&self.folder).arg("");
        let mut keeper = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "ready\n", "see {}", self.folder.join("log").display());
        self.keeper = Some(keeper);
    }

    /// How to connect to a database of it.
    pub fn connection(&self, database: &str) -> String {
        format!("host={} user=postgres dbname={database}", self.folder.display())
    }

    /// The folder of its socket.
    pub fn host(&self) -> String {
        self.folder.display().to_string()
    }

    /// How to connect to a new database of it.
    pub fn database(&self) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let name = format!("test{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        self.admin().batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
        self.connection(&name)
    }

    /// A connection of the superuser.
    pub fn admin(&self) -> postgres::Client {
        connect(&self.connection("postgres"))
    }
}

/// A connection beside the ledger's.
pub fn connect(connection: &str) -> postgres::Client {
    postgres::Client::connect(connection, NoTls).unwrap()
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            drop(keeper.stdin.take());
            let _status = keeper.wait();
        } else {
            let _gone = std::fs::remove_dir_all(&self.folder);
        }
    }
}

impl Tools {
    fn find() -> Option<Tools> {
        let mut folders: Vec<PathBuf> =
            std::env::var_os("PATH").iter().flat_map(std::env::split_paths).collect();
        if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
            let mut versions: Vec<PathBuf> =
                versions.flatten().map(|entry| entry.path().join("bin")).collect();
            versions.sort();
            folders.extend(versions.into_iter().rev());
        }
        let has_all = |folder: &PathBuf| {
            ["initdb", "pg_ctl", "pg_basebackup"].iter().all(|tool| folder.join(tool).exists())
        };
        let folder = folders.into_iter().find(has_all)?;
        // Its programs refuse to be run by root.
        let user = match std::fs::metadata("/proc/self").map(|of| of.uid()) {
            Ok(0) => Some(unprivileged()?),
            _ => None,
        };
        Some(Tools { folder, user })
    }

    fn command(&self, program: &str) -> Command {
        self.as_user(Command::new(self.folder.join(program)))
    }

    fn shell(&self) -> Command {
        self.as_user(Command::new("/bin/sh"))
    }

    fn as_user(&self, mut command: Command) -> Command {
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command.current_dir("/").env("LC_ALL", "C").env("PGTZ", "UTC").stdin(Stdio::null());
        command
    }

    /// A short path, since it holds a unix socket.
    fn make_folder(&self, name: &str) -> PathBuf {
        let folder = place().join(format!("owpg-{}-{name}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        if let Some((uid, gid)) = self.user {
            chown(&folder, Some(uid), Some(gid)).unwrap();
        }
        folder
    }
}

/// Where databases lie: in memory where there is room, since a busy disk can take a minute for what they sync.
fn place() -> PathBuf {
    let memory = "/dev/shm";
    let free = Command::new("df").args(["-Pk", memory]).output().ok().and_then(|output| {
        let text = String::from_utf8(output.stdout).ok()?;
        text.lines().nth(1)?.split_whitespace().nth(3)?.parse::<u64>().ok()
    });
    if free.is_some_and(|kib| kib > 1 << 20) { memory.into() } else { std::env::temp_dir() }
}

/// The user `postgres`, or another one that owns nothing.
fn unprivileged() -> Option<(u32, u32)> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let ids = |name: &str| {
        let line = users.lines().find(|line| line.starts_with(&format!("{name}:")))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    ids("postgres").or_else(|| ids("nobody"))
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let name: OsString = command.get_program().to_owned();
    assert!(output.status.success(), "{name:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn append(path: &Path, text: &str) {
    let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}
