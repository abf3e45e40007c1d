//! The three services: a front, which is the program itself, a middle and a back.

use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use oncewire::{
    Client, ClientOptions, Context, OnDialFailure, Server, ServerBuilder, UnixAcceptor,
    UnixConnector,
};
use oncewire_observe::{OtlpFile, Traces};

#[oncewire::service(name = "middle")]
trait Middle {
    async fn greet(&self, context: Context, name: String) -> Result<String, String>;
}

#[oncewire::service(name = "back")]
trait Back {
    async fn spell(&self, context: Context, word: String) -> String;
}

struct Greeter(Client);

impl Middle for Greeter {
    async fn greet(&self, context: Context, name: String) -> Result<String, String> {
        let back = BackClient(self.0.with_timeout(context.remaining()));
        // Two calls at once, both on behalf of this one.
        let (hello, name) = (back.spell("hello".to_owned()).start(), back.spell(name).start());
        let hello = hello.result().await.map_err(|failed| failed.to_string())?;
        let name = name.result().await.map_err(|failed| failed.to_string())?;
        Ok(format!("{hello} {name}"))
    }
}

struct Speller;

impl Back for Speller {
    async fn spell(&self, _: Context, word: String) -> String {
        let letters: Vec<String> = word.to_uppercase().chars().map(String::from).collect();
        letters.join("-")
    }
}

/// A client of the service that listens in the folder, or soon will.
fn client(folder: &Path, service: &str, traces: &Traces) -> Client {
    let options = ClientOptions::default()
        .with_backoff_max(Duration::from_millis(50))
        .with_on_dial_failure(OnDialFailure::Wait);
    Client::new(UnixConnector::new(folder.join(service)), traces.watch_client(options))
}

/// Serves until stdin ends.
fn serve(builder: ServerBuilder, traces: &Traces, path: &Path) -> io::Result<()> {
    let server = traces.watch_server(builder).build().map_err(io::Error::other)?;
    let acceptor = UnixAcceptor::bind(path)?;
    let serving = server.clone();
    let served = smol::spawn(async move { serving.serve(acceptor).await });
    // The first process waits for nothing else, and neither do the threads that serve.
    io::stdin().read_to_end(&mut Vec::new())?;
    smol::block_on(async {
        server.drain(Duration::from_secs(5)).await;
        served.await
    })
}

pub(crate) fn serve_middle(folder: &Path, file: &Path) -> io::Result<()> {
    let spans = OtlpFile::append(file, "middle")?;
    let traces = Traces::new(spans.clone());
    let back = client(folder, "back", &traces);
    let builder = Server::builder("middle").service(MiddleServer(Greeter(back.clone())));
    serve(builder, &traces, &folder.join("middle"))?;
    back.close_blocking();
    spans.error()
}

pub(crate) fn serve_back(folder: &Path, file: &Path) -> io::Result<()> {
    let spans = OtlpFile::append(file, "back")?;
    let traces = Traces::new(spans.clone());
    let builder = Server::builder("back").service(BackServer(Speller));
    serve(builder, &traces, &folder.join("back"))?;
    spans.error()
}

/// What the front does.
pub(crate) fn visit(folder: &Path, file: &Path) -> io::Result<String> {
    let spans = OtlpFile::append(file, "front")?;
    let traces = Traces::new(spans.clone());
    let middle = client(folder, "middle", &traces);
    let call = MiddleClient(middle.clone()).greet("world".to_owned());
    let greeting = smol::block_on(traces.span("visit", call.result()));
    let closed = middle.close_blocking();
    spans.error()?;
    let greeting = greeting.map_err(|failed| io::Error::other(failed.to_string()))?;
    if !closed.in_good_order {
        return Err(io::Error::other(format!("the client was not closed in good order: {closed}")));
    }
    greeting.map_err(io::Error::other)
}
