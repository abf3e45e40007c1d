//! The demonstration: three servers that do nothing but ping, over a unix socket. They die and start again, and the views follow.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use oncewire::{Client, ClientOptions, Runtime, Server, SmolRuntime, UnixAcceptor, UnixConnector};
use smol::Task;
use smol::future::poll_fn;

use crate::{Member, View, ViewService, ViewsClient, ViewsServer};

const INTERVAL: Duration = Duration::from_millis(20);
/// How long a view may take to come. Only a claim that fails takes so long.
const PATIENCE: Duration = Duration::from_secs(20);

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
    _task: Task<()>,
}

/// When a pinger acknowledges the views in which it is primary.
#[derive(Clone, Copy)]
enum Acknowledges {
    AtOnce,
    Never,
}

fn start(path: &Path, name: &str, start: u64, acknowledges: Acknowledges) -> Pinger {
    let views = ViewsClient(Client::new(UnixConnector::new(path), ClientOptions::default()));
    let member = Member { name: name.to_owned(), start };
    let task = smol::spawn(async move {
        let runtime = SmolRuntime::global();
        let mut knows = 0;
        loop {
            if let Ok(view) = views.ping(member.clone(), knows).await.ok() {
                knows = match acknowledges {
                    Acknowledges::Never if view.primary.as_ref() == Some(&member) => knows,
                    _ => view.number,
                };
            }
            sleep(&*runtime, INTERVAL).await;
        }
    });
    Pinger { _task: task }
}

struct Demo {
    views: ViewsClient,
    held: bool,
}

impl Demo {
    /// Waits for a view, and says what came.
    async fn expect(&mut self, what: &str, primary: &str, backup: Option<&str>) {
        let runtime = SmolRuntime::global();
        let started = runtime.now();
        let is = |view: &View| {
            view.primary.as_ref().is_some_and(|of| of.name == primary)
                && view.backup.as_ref().map(|of| &*of.name) == backup
        };
        let view = loop {
            let view = self.views.get().await.ok().unwrap_or_default();
            if is(&view) || runtime.now().since(started) > PATIENCE {
                break view;
            }
            sleep(&*runtime, INTERVAL).await;
        };
        self.held &= is(&view);
        println!("{what:<58}{view}{}", if is(&view) { "" } else { "  NOT AS IT SHOULD BE" });
    }

    /// Waits until the primary has acknowledged the present view: a primary that dies earlier leaves a view that no other may follow.
    async fn acknowledged(&mut self) {
        let runtime = SmolRuntime::global();
        let started = runtime.now();
        let number = self.views.get().await.ok().unwrap_or_default().number;
        while !matches!(self.views.acknowledged().await.ok(), Ok(last) if last >= number) {
            if runtime.now().since(started) > PATIENCE {
                println!("view {number} is not acknowledged  NOT AS IT SHOULD BE");
                self.held = false;
                return;
            }
            sleep(&*runtime, INTERVAL).await;
        }
    }

    /// Gives the service time to do what it must not.
    async fn expect_still(&mut self, what: &str, before: &View) {
        let runtime: Arc<dyn Runtime> = SmolRuntime::global();
        sleep(&*runtime, INTERVAL * 3 * crate::DEAD_PINGS).await;
        let view = self.views.get().await.ok().unwrap_or_default();
        self.held &= view == *before;
        println!("{what:<58}still {view}");
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

    let one = start(&path, "one", 1, Acknowledges::AtOnce);
    demo.expect("server one starts", "one", None).await;
    let two = start(&path, "two", 2, Acknowledges::AtOnce);
    demo.expect("two starts", "one", Some("two")).await;
    demo.acknowledged().await;
    let three = start(&path, "three", 3, Acknowledges::AtOnce);
    drop(one);
    demo.expect("three starts, one dies", "two", Some("three")).await;
    demo.acknowledged().await;
    // A new start with the same name: the memory of the first is gone, though it was never away for long.
    drop(two);
    let two = start(&path, "two", 22, Acknowledges::Never);
    demo.expect("two dies and is back at once, with nothing in memory", "three", Some("two")).await;
    demo.acknowledged().await;
    drop(three);
    demo.expect("three dies; two is primary, and acknowledges nothing", "two", None).await;
    let four = start(&path, "four", 4, Acknowledges::AtOnce);
    let before = demo.views.get().await.ok().map_err(|why| why.to_string())?;
    demo.expect_still("four starts: no next view before this one is acknowledged", &before).await;
    drop(two);
    demo.expect_still("two dies: four has nothing, and must not be primary", &before).await;
    drop((four, serving));
    println!("{}", if demo.held { "All views were as they should be." } else { "WRONG" });
    Ok(demo.held)
}
