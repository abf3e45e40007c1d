//! The demonstration: three servers that do nothing but ping, over a unix socket. They die and start again, and the views follow.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use oncewire::{Client, ClientOptions, Runtime, Server, SmolRuntime, UnixAcceptor, UnixConnector};
use smol::Task;
use smol::future::poll_fn;

use crate::{Member, View, ViewService, ViewsClient, ViewsServer};

/// Long enough that a server which lives is not taken for dead on a busy machine.
const INTERVAL: Duration = Duration::from_millis(100);
/// How long a view may take to come. Only a claim that fails takes so long.
const GIVE_UP_AFTER: Duration = Duration::from_secs(20);

/// A pause on a runtime's clock.
pub async fn sleep(runtime: &dyn Runtime, time: Duration) {
    let mut timer = runtime.timer();
    timer.set(runtime.now() + time);
    poll_fn(|cx| timer.poll(cx)).await;
}

/// A folder that goes when it is dropped.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    /// A new one.
    ///
    /// # Errors
    /// Why it cannot be made.
    pub fn new(name: &str) -> Result<TempDir, String> {
        // At random: a process that was killed has left its folder, and the number of a process comes again.
        let mut random = [0; 8];
        SmolRuntime::global().random(&mut random);
        let name = format!("{name}-{:016x}", u64::from_le_bytes(random));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path)
            .map_err(|error| format!("{} cannot be made: {error}", path.display()))?;
        Ok(TempDir(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A server that pings until it is dropped.
struct Pinger {
    /// How often it was answered.
    answers: Arc<AtomicU32>,
    _task: Task<()>,
}

/// When a primary acknowledges its views.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Acknowledges {
    AtOnce,
    Never,
}

fn start(path: &Path, name: &str, start: u64, acknowledges: Acknowledges) -> Pinger {
    let views = ViewsClient(Client::new(UnixConnector::new(path), ClientOptions::default()));
    let member = Member { name: name.to_owned(), start };
    let answers = Arc::new(AtomicU32::new(0));
    let answered = answers.clone();
    let task = smol::spawn(async move {
        let runtime = SmolRuntime::global();
        let mut knows = 0;
        loop {
            if let Ok(view) = views.ping(member.clone(), knows).await.ok() {
                knows = match acknowledges {
                    Acknowledges::Never if view.primary.as_ref() == Some(&member) => knows,
                    _ => view.number,
                };
                answered.fetch_add(1, Ordering::Relaxed);
            }
            sleep(&*runtime, INTERVAL).await;
        }
    });
    Pinger { answers, _task: task }
}

struct Demo {
    views: ViewsClient,
    held: bool,
}

impl Demo {
    /// Waits for a view, and says what came. If its primary acknowledges it, for that too: a primary that dies earlier leaves a view
    /// that no other may follow.
    async fn expect(
        &mut self,
        what: &str,
        primary: &str,
        backup: Option<&str>,
        acknowledges: Acknowledges,
    ) -> View {
        let runtime = SmolRuntime::global();
        let started = runtime.now();
        let (view, is) = loop {
            let view = self.views.get().await.ok().unwrap_or_default();
            let acknowledged = self.views.acknowledged().await.ok() == Ok(view.number);
            let is = view.primary.as_ref().is_some_and(|of| of.name == primary)
                && view.backup.as_ref().map(|of| &*of.name) == backup
                && (acknowledged || acknowledges == Acknowledges::Never);
            if is || runtime.now().since(started) > GIVE_UP_AFTER {
                break (view, is);
            }
            sleep(&*runtime, INTERVAL / 5).await;
        };
        self.held &= is;
        output::show!("{what:<58}{view}{}", if is { "" } else { "  NOT AS IT SHOULD BE" });
        view
    }

    /// Gives the service time to do what it must not: twice what it takes until a server is dead, by the pings of one that lives.
    async fn expect_still(&mut self, what: &str, before: &View, alive: &Pinger) {
        let runtime = SmolRuntime::global();
        let started = runtime.now();
        let enough = alive.answers.load(Ordering::Relaxed) + 2 * crate::DEAD_PINGS;
        let had_time = loop {
            let had_time = alive.answers.load(Ordering::Relaxed) >= enough;
            if had_time || runtime.now().since(started) > GIVE_UP_AFTER {
                break had_time;
            }
            sleep(&*runtime, INTERVAL / 5).await;
        };
        let view = self.views.get().await.ok().unwrap_or_default();
        let is = had_time && view == *before;
        self.held &= is;
        output::show!("{what:<58}still {view}{}", if is { "" } else { "  NOT AS IT SHOULD BE" });
    }
}

/// Runs it; whether each view was as it should be.
///
/// # Errors
/// Why it could not be tried.
pub async fn run() -> Result<bool, String> {
    let dir = TempDir::new("oncewire-viewservice")?;
    let path = dir.path().join("views.sock");
    let service = ViewService::new(INTERVAL, SmolRuntime::global());
    let server = Server::builder("views").service(ViewsServer(service)).build();
    let server = server.map_err(|error| error.to_string())?;
    let acceptor = UnixAcceptor::bind(&path).map_err(|error| error.to_string())?;
    let serving = smol::spawn(async move { server.serve(acceptor).await });
    let client = Client::new(UnixConnector::new(&path), ClientOptions::default());
    let mut demo = Demo { views: ViewsClient(client), held: true };

    use Acknowledges::{AtOnce, Never};
    let one = start(&path, "one", 1, AtOnce);
    demo.expect("server one starts", "one", None, AtOnce).await;
    let two = start(&path, "two", 2, AtOnce);
    demo.expect("two starts", "one", Some("two"), AtOnce).await;
    let three = start(&path, "three", 3, AtOnce);
    drop(one);
    demo.expect("three starts, one dies", "two", Some("three"), AtOnce).await;
    // A new start with the same name: the memory of the first is gone, though it was never away for long.
    drop(two);
    let two = start(&path, "two", 22, Never);
    let what = "two dies and is back at once, with nothing in memory";
    demo.expect(what, "three", Some("two"), AtOnce).await;
    drop(three);
    let what = "three dies; two is primary, and acknowledges nothing";
    let before = demo.expect(what, "two", None, Never).await;
    let four = start(&path, "four", 4, AtOnce);
    let what = "four starts: no next view before this one is acknowledged";
    demo.expect_still(what, &before, &four).await;
    drop(two);
    let what = "two dies: four has nothing, and must not be primary";
    demo.expect_still(what, &before, &four).await;
    drop((four, serving));
    output::show!("{}", if demo.held { "All views were as they should be." } else { "WRONG" });
    Ok(demo.held)
}
