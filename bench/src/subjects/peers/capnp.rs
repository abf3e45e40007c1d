//! capnp-rpc. What its compiler would generate for an interface of one method is written by hand here, so that the build
//! needs no compiler: parameters and results are a `Data` each.

use std::ops::Deref;
use std::rc::Rc;

use bytes::Bytes;
use capnp::any_pointer;
use capnp::capability::{
    Client, DispatchCallResult, FromClientHook, FromServer, Params, Promise, Results, Server,
};
use capnp::private::capability::ClientHook;
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{Disconnector, RpcSystem, twoparty};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::spawn_local;
use tokio_util::compat::TokioAsyncReadCompatExt;

use super::wait_if_asked;
use crate::Result;
use crate::case::{Case, Transport};
use crate::clock::Duration;
use crate::load::{Caller, Dial};
use crate::subjects::ready;

const INTERFACE: u64 = 0x9d5e_6f1c_0b1a_77e3;
const ECHO: u16 = 0;

/// What the server does.
struct Echo(Option<Duration>);

/// The typed client.
struct EchoClient(Client);

impl FromClientHook for EchoClient {
    fn new(hook: Box<dyn ClientHook>) -> Self {
        EchoClient(Client::new(hook))
    }

    fn into_client_hook(self) -> Box<dyn ClientHook> {
        self.0.hook
    }

    fn as_client_hook(&self) -> &dyn ClientHook {
        &*self.0.hook
    }
}

impl FromServer<Echo> for EchoClient {
    type Dispatch = Dispatch;

    fn from_server(server: Rc<Echo>) -> Dispatch {
        Dispatch(server)
    }
}

#[derive(Clone)]
struct Dispatch(Rc<Echo>);

impl Deref for Dispatch {
    type Target = Echo;

    fn deref(&self) -> &Echo {
        &self.0
    }
}

impl Server for Dispatch {
    fn dispatch_call(
        self,
        _interface: u64,
        _method: u16,
        params: Params<any_pointer::Owned>,
        mut results: Results<any_pointer::Owned>,
    ) -> DispatchCallResult {
        let echo = async move {
            wait_if_asked(self.0.0).await;
            let body = params.get()?.get_as::<capnp::data::Reader<'_>>()?;
            let words = body.len() as u32;
            results.get().initn_as::<capnp::data::Builder<'_>>(words).copy_from_slice(body);
            Ok(())
        };
        DispatchCallResult::new(Promise::from_future(echo), false)
    }

    fn as_ptr(&self) -> usize {
        Rc::as_ptr(&self.0) as usize
    }
}

pub(super) async fn serve(case: &Case) -> Result<()> {
    let echo: EchoClient = capnp_rpc::new_client(Echo(case.workload.wait()));
    if case.transport == Transport::Tcp {
        let listener = TcpListener::bind(&case.address).await?;
        ready(&listener.local_addr()?.to_string())?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let system = system(stream, Side::Server, Some(echo.0.clone()));
            // A connection's end is an error only to itself.
            spawn_local(async { drop(system.await) });
        }
    }
    let listener = UnixListener::bind(&case.address)?;
    ready(&case.address)?;
    loop {
        let system = system(listener.accept().await?.0, Side::Server, Some(echo.0.clone()));
        spawn_local(async { drop(system.await) });
    }
}

fn system(
    stream: impl AsyncRead + AsyncWrite + 'static,
    side: Side,
    bootstrap: Option<Client>,
) -> RpcSystem<Side> {
    let (read, write) = futures_util::AsyncReadExt::split(stream.compat());
    let read = futures_util::io::BufReader::new(read);
    let write = futures_util::io::BufWriter::new(write);
    let network = twoparty::VatNetwork::new(read, write, side, Default::default());
    RpcSystem::new(Box::new(network), bootstrap)
}

pub(super) struct Dialler<'a>(pub(super) &'a Case);

/// A connection; the capability is what calls are made on.
pub(super) struct Connection {
    echo: EchoClient,
    disconnector: Disconnector<Side>,
}

impl Dial for Dialler<'_> {
    type Caller = Connection;

    async fn dial(&self) -> Result<Connection> {
        let mut system = if self.0.transport == Transport::Tcp {
            let stream = TcpStream::connect(&self.0.address).await?;
            stream.set_nodelay(true)?;
            system(stream, Side::Client, None)
        } else {
            system(UnixStream::connect(&self.0.address).await?, Side::Client, None)
        };
        let echo = system.bootstrap(Side::Server);
        let disconnector = system.get_disconnector();
        spawn_local(async { drop(system.await) });
        Ok(Connection { echo, disconnector })
    }
}

impl Caller for Connection {
    async fn call(&self, body: &Bytes) -> Result<usize> {
        let hint = capnp::MessageSize { word_count: body.len() as u64 / 8 + 16, cap_count: 0 };
        let mut request = self.echo.0.hook.new_call(INTERFACE, ECHO, Some(hint));
        let len = body.len() as u32;
        request.get().initn_as::<capnp::data::Builder<'_>>(len).copy_from_slice(body);
        let response = request.hook.send().promise.await?;
        Ok(response.get()?.get_as::<capnp::data::Reader<'_>>()?.len())
    }

    async fn close(self) -> Result<()> {
        Ok(self.disconnector.await?)
    }
}
