//! Dials an address: resolves it, and tries what it resolves to.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Mutex, MutexGuard, PoisonError};

use oncewire_driver::{BoxFuture, BoxStream, Connect, Nonblocking};

use crate::race::{Race, interleave};
use crate::resolve::{all_failed, resolve};
use crate::socket;

/// Dials a TCP address, or several until one answers.
///
/// Several addresses are raced as RFC 8305 has it: the next one is tried when the one before it has failed, or has been
/// silent for 250 ms, and the first that connects wins. So an address that swallows packets delays those behind it by a
/// quarter of a second, not by the driver's whole timeout. A dial begins with the address that connected last. If a server there
/// says nothing until the handshake's time is over, ends the connection, or refuses the client, the next dial begins with another
/// address.
///
/// ```
/// use oncewire_tcp::{Connect, TcpConnector};
///
/// let by_name = TcpConnector::new("localhost:7000");
/// assert_eq!(by_name.address(), "tcp:localhost:7000");
///
/// let by_address = TcpConnector::new(std::net::SocketAddr::from(([127, 0, 0, 1], 7000)));
/// assert_eq!(by_address.address(), "tcp:127.0.0.1:7000");
/// ```
#[derive(Debug)]
pub struct TcpConnector {
    target: Target,
    order: Mutex<Order>,
    insecure: bool,
}

/// Which addresses a dial begins with.
#[derive(Debug, Default)]
struct Order {
    /// The one that connected last comes first.
    last: Option<SocketAddr>,
    /// Those that connected and came to no handshake come last, until there is no other one.
    unwelcome: Vec<SocketAddr>,
}

impl Order {
    fn apply(&mut self, addresses: &mut [SocketAddr]) {
        if addresses.iter().all(|address| self.unwelcome.contains(address)) {
            self.unwelcome.clear();
        }
        let rank =
            |address: &SocketAddr| (self.unwelcome.contains(address), Some(*address) != self.last);
        addresses.sort_by_key(rank);
        self.unwelcome.retain(|address| addresses.contains(address));
    }
}

#[derive(Debug)]
enum Target {
    Name(String),
    Addresses(Vec<SocketAddr>),
}

impl TcpConnector {
    /// Dials `host:port`, `1.2.3.4:port`, `[::1]:port`, or a [`SocketAddr`]. Whether it makes sense is seen at the dial.
    pub fn new(address: impl fmt::Display) -> TcpConnector {
        TcpConnector::to(Target::Name(address.to_string()))
    }

    /// Dials one of these addresses, the first that answers; earlier ones have 250 ms of advantage over the next.
    ///
    /// ```
    /// use oncewire_tcp::{Connect, TcpConnector};
    ///
    /// let v6 = "[::1]:7000".parse().unwrap();
    /// let v4 = "127.0.0.1:7000".parse().unwrap();
    /// let connector = TcpConnector::any_of([v6, v4]);
    /// assert_eq!(connector.address(), "tcp:[::1]:7000,127.0.0.1:7000");
    /// ```
    pub fn any_of(addresses: impl IntoIterator<Item = SocketAddr>) -> TcpConnector {
        TcpConnector::to(Target::Addresses(addresses.into_iter().collect()))
    }

    /// Lets a client send its [token](crate::ClientOptions::token) though there is no TLS: those who can read what passes can then
    /// call in its name, and on a machine with other users, so can one who listens at the port first. For networks and machines
    /// on which all are trusted, or a tunnel.
    ///
    /// ```
    /// use oncewire_tcp::{Connect, TcpConnector};
    ///
    /// assert!(!TcpConnector::new("localhost:7000").may_carry_token());
    /// assert!(TcpConnector::new("localhost:7000").insecure().may_carry_token());
    /// ```
    pub fn insecure(mut self) -> TcpConnector {
        self.insecure = true;
        self
    }

    fn to(target: Target) -> TcpConnector {
        TcpConnector { target, order: Mutex::default(), insecure: false }
    }

    fn order(&self) -> MutexGuard<'_, Order> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn dial(&self) -> io::Result<Nonblocking<TcpStream>> {
        let mut addresses = match &self.target {
            Target::Name(name) => interleave(resolve(name).await?),
            Target::Addresses(addresses) => addresses.clone(),
        };
        self.order().apply(&mut addresses);
        let result = match addresses[..] {
            [only] => dial_one(only).await.map_err(|error| vec![(only, error)]),
            _ => Race::new(addresses, |address| Box::pin(dial_one(address))).await.map(
                |(address, socket)| {
                    self.order().last = Some(address);
                    socket
                },
            ),
        };
        result.map_err(|failed| all_failed(&self.address(), failed))
    }
}

async fn dial_one(address: SocketAddr) -> io::Result<Nonblocking<TcpStream>> {
    let stream = socket::connect(address).await?;
    // If no one listens on a local port of the ephemeral range, TCP may connect the socket to itself.
    match stream.get_ref() {
        Some(socket) if socket.local_addr()? == socket.peer_addr()? => {
            Err(io::ErrorKind::ConnectionRefused.into())
        }
        _ => Ok(stream),
    }
}

impl Connect for TcpConnector {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async { Ok(Box::new(self.dial().await?) as BoxStream) })
    }

    fn address(&self) -> String {
        match &self.target {
            Target::Name(name) => format!("tcp:{name}"),
            Target::Addresses(addresses) => {
                let list: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
                format!("tcp:{}", list.join(","))
            }
        }
    }

    /// A name that does not exist, or no name at all. That it could not be looked up may pass.
    fn is_permanent(&self, error: &io::Error) -> bool {
        matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput)
    }

    /// Only where it was made [`insecure`](TcpConnector::insecure).
    fn may_carry_token(&self) -> bool {
        self.insecure
    }

    fn dials_anywhere(&self) -> bool {
        true
    }

    fn handshake_failed(&self) {
        let mut order = self.order();
        if let Some(address) = order.last.take()
            && !order.unwelcome.contains(&address)
        {
            order.unwelcome.push(address);
        }
    }
}
