//! Which methods there are.

use std::time::Duration;

use oncewire::Client;
use oncewire::schema::SignatureTable;

use crate::args::ListArgs;
use crate::connect::{Target, connect};
use crate::exit::Failure;
use crate::{plain, say};

/// One line for each method.
pub(crate) async fn run(args: ListArgs) -> Result<(), Failure> {
    let target = Target::new(args.address, &args.identity)?;
    let session = connect(&target, args.timeout).await?;
    let methods = methods(&session.client, args.timeout).await?;
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
