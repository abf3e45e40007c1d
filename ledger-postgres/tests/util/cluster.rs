//! A PostgreSQL of one's own, in a temporary folder, on a unix socket only: for tests, and for programs that kill it.

use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A database server that ends with it, or with its process, however that ends.
#[derive(Debug)]
pub struct Cluster {
    folder: PathBuf,
    tools: Tools,
    keeper: Option<Child>,
}

/// Where PostgreSQL's programs are, and who may run them: not root.
#[derive(Clone, Debug)]
struct Tools {
    folder: PathBuf,
    user: Option<(u32, u32)>,
}

/// Starts the server in `$1`, says so, and waits on its stdin: for the signal that is to end it, or for the end of our
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

/// Why there is no database server.
#[derive(Debug)]
pub enum StartError {
    /// This machine has no PostgreSQL, or no user to run it.
    Absent,
    /// What went wrong.
    Failed(String),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Absent => f.write_str(
                "PostgreSQL's initdb was not found (Debian: apt-get install postgresql), or there is no user but root to run it",
            ),
            StartError::Failed(why) => f.write_str(why),
        }
    }
}

impl From<String> for StartError {
    fn from(why: String) -> StartError {
        StartError::Failed(why)
    }
}

impl Cluster {
    /// A new one. `settings` are lines of its postgresql.conf.
    pub fn start(name: &str, settings: &str) -> Result<Cluster, StartError> {
        let tools = Tools::find().ok_or(StartError::Absent)?;
        // From here on its drop removes what there is.
        let mut cluster = Cluster { folder: tools.make_folder(name)?, tools, keeper: None };
        let data = cluster.folder.join("data");
        let mut init = cluster.tools.command("initdb");
        init.args(["-A", "trust", "-U", "postgres", "-N", "-E", "UTF8", "--locale=C", "-D"]);
        run(init.arg(&data))?;
        let settings = format!(
            "listen_addresses = ''\nunix_socket_directories = '{}'\nport = 5432\nshared_buffers = 16MB\n\
             max_connections = 60\nlogging_collector = off\n{settings}\n",
            cluster.folder.display()
        );
        append(&data.join("postgresql.conf"), &settings)?;
        // A user who has to give a password.
        let hba = data.join("pg_hba.conf");
        std::fs::read_to_string(&hba)
            .and_then(|all| std::fs::write(&hba, format!("local all guarded scram-sha-256\n{all}")))
            .map_err(|error| failed(&hba, &error))?;
        cluster.resume()?;
        Ok(cluster)
    }

    /// A copy of this one that follows it, and takes no writes until it is promoted.
    pub fn stand_by(&self, name: &str) -> Result<Cluster, String> {
        let tools = self.tools.clone();
        let mut cluster = Cluster { folder: tools.make_folder(name)?, tools, keeper: None };
        let data = cluster.folder.join("data");
        let mut copy = cluster.tools.command("pg_basebackup");
        copy.args(["-R", "-c", "fast", "-U", "postgres", "-h"]).arg(&self.folder);
        run(copy.arg("-D").arg(&data))?;
        let socket = format!("unix_socket_directories = '{}'\n", cluster.folder.display());
        append(&data.join("postgresql.conf"), &socket)?;
        cluster.resume()?;
        Ok(cluster)
    }

    /// Makes a stand-by a primary.
    pub fn promote(&self) -> Result<(), String> {
        let mut promote = self.tools.command("pg_ctl");
        run(promote.args(["promote", "-w", "-D"]).arg(self.folder.join("data")))
    }

    /// Ends it by this signal, and leaves its files.
    pub fn end(&mut self, signal: &str) -> Result<(), String> {
        let explain = |error: io::Error| failed(&self.folder, &error);
        let mut keeper = self.keeper.take().ok_or("the database does not run")?;
        // Its end is the end of what the keeper reads.
        let mut stdin = keeper.stdin.take().ok_or("the database's keeper has no stdin")?;
        writeln!(stdin, "{signal}").map_err(explain)?;
        match keeper.wait().map_err(explain)? {
            status if status.success() => Ok(()),
            status => Err(format!("the database's keeper ended with {status}")),
        }
    }

    /// Starts it again after [`end`](Cluster::end).
    pub fn resume(&mut self) -> Result<(), String> {
        let explain = |error: io::Error| failed(&self.folder, &error);
        let mut command = self.tools.shell();
        command.arg("-c").arg(KEEPER).arg(&self.tools.folder).arg(&self.folder).arg("");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut keeper = command.spawn().map_err(explain)?;
        let stdout = keeper.stdout.take().ok_or("the database's keeper has no stdout")?;
        let mut said = String::new();
        BufReader::new(stdout).read_line(&mut said).map_err(explain)?;
        self.keeper = Some(keeper);
        if said != "ready\n" {
            return Err(format!(
                "PostgreSQL does not start: see {}",
                self.folder.join("log").display()
            ));
        }
        Ok(())
    }

    /// How to connect to a database of it.
    pub fn connection(&self, database: &str) -> String {
        format!("host={} user=postgres dbname={database}", self.folder.display())
    }

    /// The folder of its socket.
    pub fn host(&self) -> String {
        self.folder.display().to_string()
    }
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
    fn make_folder(&self, name: &str) -> Result<PathBuf, String> {
        let folder = place().join(format!("owpg-{}-{name}", std::process::id()));
        let explain = |error: io::Error| failed(&folder, &error);
        std::fs::create_dir(&folder).map_err(explain)?;
        if let Some((uid, gid)) = self.user {
            chown(&folder, Some(uid), Some(gid)).map_err(explain)?;
        }
        Ok(folder)
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

fn run(command: &mut Command) -> Result<(), String> {
    let program = PathBuf::from(command.get_program());
    let output = command.output().map_err(|error| failed(&program, &error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{} ended with {}: {}", program.display(), output.status, said.trim()))
}

fn append(path: &Path, text: &str) -> Result<(), String> {
    let file = std::fs::OpenOptions::new().append(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| failed(path, &error))
}

fn failed(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}
