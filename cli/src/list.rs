//! Which methods there are.

use std::time::Duration;

use oncewire::Client;
use oncewire::schema::SignatureTable;

use crate::address::Address;
use crate::connect::connect;
use crate::exit::Failure;
use crate::{plain, say};

/// One line for each method.
pub(crate) async fn run(address: &Address, timeout: Duration) -> Result<(), Failure> {
    let session = connect(address, timeout).await?;
    let methods = methods(&session.client, timeout).await?;
    for (name, signature) in &methods {
        say(&plain(&format!("{name}{signature}")))?;
    }
    session.client.close().await;
    Ok(())
}

/// The methods that have a signature.
pub(crate) async fn methods(
    client: &Client,
    timeout: Duration,
) -> Result<Vec<(String, SignatureTable)>, Failure> {
    let methods = client.signatures().timeout(timeout).await.ok();
    methods.map_err(|failure| Failure::of_builtin(failure, "ServerBuilder::signatures"))
}
