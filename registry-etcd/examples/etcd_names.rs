//! Three servers under one name, their clients, a drain, and a leader.
//!
//! `cargo run -p oncewire-etcd --example etcd_names` starts an etcd by itself, in a temporary folder, and ends it;
//! `… -- 10.0.0.1:2379 10.0.0.2:2379` uses these.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use oncewire_driver::{Client, ClientOptions, Method, NotExecuted, Outcome, Server};
use oncewire_etcd::{Etcd, Op, Registration, Registry, Txn};
use oncewire_tcp::TcpAcceptor;

const GREET: Method<String, String> = Method::new("greeter/greet");

/// An etcd of its own.
struct Own {
    child: Child,
    folder: PathBuf,
}

impl Own {
    fn start() -> std::io::Result<(Own, String)> {
        let free = || -> std::io::Result<_> {
            let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
            Ok(format!("http://{}", listener.local_addr()?))
        };
        let (client, peer) = (free()?, free()?);
        let folder = std::env::temp_dir().join(format!("etcd-names-{}", std::process::id()));
        let mut command = Command::new("etcd");
        command.args(["--name", "own", "--data-dir"]).arg(&folder);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.arg("--initial-cluster").arg(format!("own={peer}"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok((Own { child: command.spawn()?, folder }, client))
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ended = self.child.kill().and_then(|()| self.child.wait());
        let _gone = std::fs::remove_dir_all(&self.folder);
    }
}

/// Serves, and registers what serves.
async fn serve(registry: &Registry, name: &str) -> Result<Registration, Box<dyn Error>> {
    let own = name.to_owned();
    let greet = move |_, who: String| {
        let greeting = format!("{who} from {own}");
        async move { greeting }
    };
    let server = Server::builder("greeter").instance(name).method(&GREET, greet).build()?;
    let acceptor = TcpAcceptor::bind("127.0.0.1:0").await?;
    let registration = registry.register(&server, "greeter", &acceptor.local_addr().to_string())?;
    smol::spawn(async move { server.serve(acceptor).await }).detach();
    registration.until_registered().await;
    Ok(registration)
}

/// Calls once with each client, and says who has answered how many.
async fn greet_all(clients: &[Client]) -> Result<String, Box<dyn Error>> {
    let mut answers = BTreeMap::<String, u32>::new();
    for (number, client) in clients.iter().enumerate() {
        let greeting = loop {
            match client.call(&GREET, &format!("client {number}")).await {
                // It was not executed, and is made again, at another instance.
                Outcome::NotExecuted(NotExecuted::ShuttingDown) => {}
                outcome => break outcome.ok()?,
            }
        };
        let instance = greeting.rsplit(' ').next().unwrap_or_default();
        *answers.entry(instance.to_owned()).or_default() += 1;
    }
    Ok(format!("{answers:?}"))
}

async fn run(etcd: Etcd) -> Result<(), Box<dyn Error>> {
    let registry = Registry::new(etcd.clone()).with_prefix("example/");
    let mut registrations = Vec::new();
    for name in ["anna", "bert", "cleo"] {
        registrations.push(serve(&registry, name).await?);
    }
    let connector = registry.connector("greeter")?;
    connector.instances().first_list().await?;
    let client = |_| Client::new(connector.clone(), ClientOptions::default());
    let clients: Vec<Client> = (0..12).map(client).collect();
    output::show!("clients of each instance: {}", greet_all(&clients).await?);
    let anna = registrations.remove(0);
    let drained = smol::spawn(anna.drain(Duration::from_secs(10)));
    let moved = loop {
        let answers = greet_all(&clients).await?;
        if !answers.contains("anna") {
            break answers;
        }
    };
    drained.await?;
    output::show!("after anna has drained:   {moved}");

    let election = registry.election("greeter")?;
    let (first, second) = (election.stand("bert"), election.stand("cleo"));
    for _ in 0..2 {
        let leadership = smol::future::or(first.elected(), second.elected()).await;
        let leader = election.leader().await?.map(|leader| leader.value).unwrap_or_default();
        output::show!(
            "leads: {}, with the token {}",
            String::from_utf8_lossy(&leader),
            leadership.token()
        );
        let next = Txn::new().when(leadership.fence()).then(Op::put("example/plan", "next", None));
        output::show!("its effect happens: {}", etcd.transact(&next).await?.succeeded);
        leadership.resign().await?;
        output::show!("after it has resigned: {}", etcd.transact(&next).await?.succeeded);
    }
    etcd.delete("example/plan").await?;
    Ok(())
}

fn main() -> ExitCode {
    let mut endpoints: Vec<String> = std::env::args().skip(1).collect();
    let mut own = None;
    if endpoints.is_empty() {
        match Own::start() {
            Ok((started, endpoint)) => {
                own = Some(started);
                endpoints.push(endpoint);
            }
            Err(error) => {
                output::note!(
                    "etcd cannot be started (Debian: apt-get install etcd-server): {error}"
                );
                return ExitCode::from(2);
            }
        }
    }
    let result = Etcd::builder(&endpoints)
        .build()
        .map_err(Box::from)
        .and_then(|etcd| smol::block_on(run(etcd)));
    drop(own);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::note!("{error}");
            ExitCode::from(2)
        }
    }
}
