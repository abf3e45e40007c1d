//! The cure, with the same kills and many more: three servers in processes of their own, four clients that append, and `kill -9` for
//! the backup or the primary again and again. In the end each piece is there once, and in the order of its client.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use oncewire::{
    Client, ClientOptions, Instant, Runtime, Server, SmolRuntime, UnixAcceptor, UnixConnector,
};
use smol::Task;
use viewservice::demo::sleep;
use viewservice::{Address, View, ViewService, ViewsClient, ViewsServer};

use crate::KvClient;
use crate::processes::{GIVE_UP_AFTER, ServerProcess, TempDir, client};

/// Between two pings.
const INTERVAL: Duration = Duration::from_millis(100);
const CLIENTS: u64 = 4;
/// Kills, unless the command line says otherwise.
pub const KILLS: u64 = 10;

/// What the clients have seen.
#[derive(Debug, Default)]
struct Seen {
    appends: BTreeMap<u64, u64>,
    longest: Duration,
    failed: Vec<String>,
    stop: bool,
}

type Shared = Arc<Mutex<Seen>>;

fn lock(seen: &Shared) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now() -> Instant {
    SmolRuntime::global().now()
}

async fn append(kv: KvClient, number: u64, seen: Shared) {
    let mut count = 0;
    while !lock(&seen).stop {
        let begun = now();
        let outcome = kv.append("log".to_owned(), format!("[{number} {count}]")).await;
        let took = now().since(begun);
        let mut seen = lock(&seen);
        match outcome.ok() {
            Ok(()) => count += 1,
            Err(why) => {
                seen.failed.push(why.to_string());
                seen.stop = true;
            }
        }
        seen.longest = seen.longest.max(took);
        seen.appends.insert(number, count);
    }
}

struct Story {
    views: ViewsClient,
    servers: Vec<ServerProcess>,
    lines: Arc<Mutex<Vec<String>>>,
    seen: Shared,
}

impl Story {
    /// Waits until there are a primary and a backup that has the whole state, and starts again what has ended meanwhile.
    async fn in_sync(&mut self) -> Result<View, String> {
        let begun = now();
        loop {
            self.servers.iter_mut().try_for_each(ServerProcess::keep)?;
            let view = self.views.get().await.ok().map_err(|why| why.to_string())?;
            let acknowledged = self.views.acknowledged().await.ok();
            if view.backup.is_some() && acknowledged == Ok(view.number) {
                return Ok(view);
            }
            if now().since(begun) > GIVE_UP_AFTER {
                return Err(format!("no backup gets in sync: {view}"));
            }
            sleep(&*SmolRuntime::global(), INTERVAL / 4).await;
        }
    }

    /// Waits until each client has had an answer.
    async fn all_answered(&mut self) -> Result<(), String> {
        let before = lock(&self.seen).appends.clone();
        let begun = now();
        loop {
            {
                let seen = lock(&self.seen);
                if let Some(why) = seen.failed.first() {
                    return Err(format!("a call failed: {why}"));
                }
                let moved = |client: u64| seen.appends.get(&client) > before.get(&client);
                if (0..CLIENTS).all(moved) {
                    return Ok(());
                }
            }
            self.servers.iter_mut().try_for_each(ServerProcess::keep)?;
            if now().since(begun) > GIVE_UP_AFTER {
                return Err("a client is not answered any more".to_owned());
            }
            sleep(&*SmolRuntime::global(), INTERVAL / 20).await;
        }
    }

    async fn kill(&mut self, number: u64) -> Result<(), String> {
        self.all_answered().await?;
        let view = self.in_sync().await?;
        let (role, member) = match number % 2 {
            0 => ("backup", &view.backup),
            _ => ("primary", &view.primary),
        };
        let name = member.as_ref().map(|member| member.name.clone()).unwrap_or_default();
        let begun = now();
        for server in self.servers.iter_mut().filter(|server| server.name == name) {
            server.kill();
        }
        self.all_answered().await?;
        let took = now().since(begun).as_millis();
        output::show!(
            "{view}: the {role} was killed; all clients were answered again after {took} ms"
        );
        Ok(())
    }

    /// What the servers said last.
    fn show_lines(&self) {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines
            .iter()
            .skip(lines.len().saturating_sub(30))
            .for_each(|line| output::show!("  {line}"));
    }

    /// How forwards failed, as the primaries saw it.
    fn forwards(&self) -> BTreeMap<String, u64> {
        let mut kinds = BTreeMap::new();
        for line in &*self.lines.lock().unwrap_or_else(PoisonError::into_inner) {
            if let Some((_, why)) = line.split_once(" failed: ") {
                *kinds.entry(why.to_owned()).or_insert(0) += 1;
            }
        }
        kinds
    }

    /// Holds what is stored against what the clients saw.
    fn check(&self, log: &str) -> bool {
        let seen = lock(&self.seen);
        let mut pieces: BTreeMap<&str, u64> = BTreeMap::new();
        let mut next = BTreeMap::<u64, u64>::new();
        let mut in_order = true;
        for piece in log.split_inclusive(']') {
            *pieces.entry(piece).or_default() += 1;
            let mut numbers = piece.trim_matches(['[', ']']).split(' ').map(str::parse::<u64>);
            if let (Some(Ok(client)), Some(Ok(number))) = (numbers.next(), numbers.next()) {
                let expected = next.entry(client).or_default();
                in_order &= number == *expected;
                *expected = number + 1;
            }
        }
        let asked: u64 = seen.appends.values().sum();
        let twice = pieces.values().filter(|times| **times > 1).count();
        let lost = (0..CLIENTS)
            .map(|client| {
                seen.appends[&client].saturating_sub(next.get(&client).copied().unwrap_or(0))
            })
            .sum::<u64>();
        output::show!(
            "{asked} appends were answered: {twice} are there twice, {lost} are missing, {}; longest wait {} ms",
            if in_order { "all are in order" } else { "SOME ARE OUT OF ORDER" },
            seen.longest.as_millis(),
        );
        let held = twice == 0 && lost == 0 && in_order && next == seen.appends;
        output::show!("{}", if held { "Each was executed exactly once." } else { "WRONG" });
        held
    }
}

/// Runs it; whether each append was executed exactly once.
///
/// # Errors
/// Why it could not be tried, or came to no end.
pub async fn run(kills: u64) -> Result<bool, String> {
    let dir = TempDir::new("oncewire-primary-backup")?;
    let path = dir.path().join("views");
    let address = Address::Unix(path.clone());
    let service = ViewService::new(INTERVAL, SmolRuntime::global());
    let server = Server::builder("views").service(ViewsServer(service)).build();
    let server = server.map_err(|error| error.to_string())?;
    let acceptor = UnixAcceptor::bind(&path).map_err(|error| error.to_string())?;
    let serving = smol::spawn(async move { server.serve(acceptor).await });
    let views = ViewsClient(Client::new(UnixConnector::new(&path), ClientOptions::default()));

    let lines = Arc::default();
    let mut servers = Vec::new();
    let folder = dir.path().display().to_string();
    for name in ["one", "two", "three"] {
        let millis = INTERVAL.as_millis().to_string();
        let args = ["node", &address.to_string(), &folder, name, &millis, "tethered"];
        let args = args.map(str::to_owned).to_vec();
        servers.push(ServerProcess::start(name, args, &lines)?);
    }
    let seen = Shared::default();
    let mut story = Story { views, servers, lines, seen: seen.clone() };
    let options = ClientOptions::default()
        .with_timeout(GIVE_UP_AFTER * 2)
        .with_backoff_max(INTERVAL)
        .with_connect_timeout(INTERVAL * 10);
    story.in_sync().await?;
    let clients: Vec<Task<()>> = (0..CLIENTS)
        .map(|number| {
            let kv = client(&address, dir.path(), options.clone());
            smol::spawn(append(kv, number, seen.clone()))
        })
        .collect();
    for number in 0..kills {
        if let Err(why) = story.kill(number).await {
            story.show_lines();
            return Err(why);
        }
    }
    lock(&seen).stop = true;
    for client in clients {
        client.await;
    }
    let kv = client(&address, dir.path(), options);
    let log = kv.get("log".to_owned()).await.ok().map_err(|why| why.to_string())?;
    output::show!("How forwards ended that had no answer, as the primaries saw it:");
    for (why, times) in story.forwards() {
        output::show!("  {times:>3} times: {why}");
    }
    let held = story.check(&log);
    drop(serving);
    Ok(held)
}
