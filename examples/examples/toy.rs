//! The smallest server and client, without types: method 22 adds one, and each call is executed once.
//!
//! `cargo run --example toy` prints `Call(22, 100) -> 101`.

use oncewire::{Bytes, Client, ClientOptions, MethodId, MethodSpec, Server, memory};

const ADD_ONE: MethodId = MethodId::from_number(22);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (connector, acceptor) = memory::listener();
    let server = Server::builder("toy")
        .method_raw(MethodSpec::new(ADD_ONE), |_context, arguments: Bytes| async move {
            let number = i32::from_le_bytes(arguments[..].try_into().unwrap_or_default());
            Bytes::copy_from_slice(&number.wrapping_add(1).to_le_bytes())
        })
        .build()?;
    smol::spawn(async move { server.serve(acceptor).await }).detach();

    let client = Client::new(connector, ClientOptions::default());
    let reply = smol::block_on(async {
        let arguments = Bytes::copy_from_slice(&100_i32.to_le_bytes());
        client.call_raw(ADD_ONE, arguments).await.ok()
    })?;
    output::show!("Call(22, 100) -> {}", i32::from_le_bytes(reply[..].try_into()?));
    Ok(())
}
