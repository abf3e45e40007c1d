//! The backup: a process that takes an operation and never answers.

use std::io::Read;

use oncewire::{Context, Server, UnixAcceptor};

use crate::trials::KEEPALIVE;

/// How the primary reaches it.
#[oncewire::service(name = "backup")]
pub(crate) trait Backup {
    /// One operation.
    async fn forward(&self, context: Context, operation: String);
}

/// It is still at work when it is killed.
struct Slow;

impl Backup for Slow {
    async fn forward(&self, _: Context, _: String) {
        output::show!("in call");
        std::future::pending().await
    }
}

/// Serves until its stdin ends.
pub(crate) fn serve(socket: &str) -> Result<(), String> {
    let server = Server::builder("backup")
        .service(BackupServer(Slow))
        .configure(|config| config.keepalive = KEEPALIVE)
        .build()
        .map_err(|error| error.to_string())?;
    let acceptor = UnixAcceptor::bind(socket).map_err(|error| format!("{socket}: {error}"))?;
    output::show!("listening");
    smol::spawn(async move { server.serve(acceptor).await }).detach();
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    Ok(())
}
