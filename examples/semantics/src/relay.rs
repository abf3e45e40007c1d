//! The fault injector: a relay on TCP that sees every frame, strikes once, and keeps a copy of the first request.
//!
//! A byte stream loses nothing but with its connection. So a lost request or reply is one whose connection breaks before it is through, and
//! a delayed one is what the client's side has given up and the server's side still gets.

use std::collections::BTreeSet;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oncewire::protocol::wire::{Frame, Role};
use smol::channel::{Receiver, RecvError, Sender, unbounded};
use smol::future::or;
use smol::lock::{Mutex as AsyncMutex, MutexGuardArc};
use smol::net::{TcpListener, TcpStream};

use crate::frames::{self, Frames};
use crate::table::Fault;

/// Where the server is. Locked while no connection is let through.
pub(crate) type Door = MutexGuardArc<SocketAddr>;

/// It has struck: nothing comes through until the door is dropped.
pub(crate) struct Struck {
    pub(crate) door: Door,
    /// The server's side of the connection whose request is late.
    pub(crate) held: Option<TcpStream>,
}

/// What it has seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    has_replied: bool,
    /// What the client has sent on its first connection, up to the first request.
    first: Vec<u8>,
    /// That request alone; empty until it has come.
    request: Vec<u8>,
    /// The server's side of the connection that is alive, to write whole frames to.
    live: Option<Arc<AsyncMutex<TcpStream>>>,
    pub(crate) granted_slots: u32,
    pub(crate) lease_ms: u32,
    /// For how long a request may still be tried.
    pub(crate) remaining_max_ms: u32,
    /// What the server has answered to copies.
    pub(crate) answers: BTreeSet<String>,
}

/// A relay at work, until it is dropped.
pub(crate) struct Relay {
    /// Where clients dial it.
    pub(crate) address: SocketAddr,
    fault: Fault,
    door: Arc<AsyncMutex<SocketAddr>>,
    struck: (Sender<Struck>, Receiver<Struck>),
    cut: (Sender<()>, Receiver<()>),
    seen: Mutex<Seen>,
}

impl Relay {
    /// Begins to pass on what comes to `server`.
    ///
    /// # Errors
    /// There is no port to listen on.
    pub(crate) async fn start(server: SocketAddr, fault: Fault) -> io::Result<Arc<Relay>> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, door) = (listener.local_addr()?, Arc::new(AsyncMutex::new(server)));
        let (struck, cut, seen) = (unbounded(), unbounded(), Mutex::default());
        let relay = Arc::new(Relay { address, fault, door, struck, cut, seen });
        let weak = Arc::downgrade(&relay);
        let accepting = async move {
            while let (Ok((client, _)), Some(relay)) = (listener.accept().await, weak.upgrade()) {
                smol::spawn(relay.pass(client)).detach();
            }
        };
        smol::spawn(accepting).detach();
        Ok(relay)
    }

    /// What it has seen.
    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it has struck.
    pub(crate) async fn struck(&self) -> Result<Struck, RecvError> {
        self.struck.1.recv().await
    }

    /// Cuts the connection that there is.
    pub(crate) async fn cut(&self) -> Door {
        let door = self.door.lock_arc().await;
        // Received by that connection, which ends then.
        let _ = self.cut.0.send(()).await;
        door
    }

    /// One connection, to its end.
    async fn pass(self: Arc<Self>, client: TcpStream) {
        let address = *self.door.lock().await;
        // No server: the client's connection ends, too.
        let Ok(server) = TcpStream::connect(address).await else { return };
        let (from_client, from_server) = (client.clone(), server.clone());
        let [client, server] = [client, server].map(|to| Arc::new(AsyncMutex::new(to)));
        self.seen().live = Some(server.clone());
        let up = self.pump(from_client.clone(), &server, Role::Client);
        let down = self.pump(from_server.clone(), &client, Role::Server);
        let cut = async {
            let _ = self.cut.1.recv().await;
            None
        };
        let struck = or(or(up, down), cut).await;
        let _ = from_client.shutdown(Shutdown::Both);
        if struck.is_none() || self.fault != Fault::DelayedDuplicate {
            let _ = from_server.shutdown(Shutdown::Both);
        }
    }

    /// Passes on what one side sends, until that ends (`None`) or this strikes.
    async fn pump(&self, from: TcpStream, to: &AsyncMutex<TcpStream>, role: Role) -> Option<()> {
        let mut frames = Frames::new(from);
        loop {
            let frame = frames.next(role).await?;
            let strikes = self.note(&frame, role);
            let to = to.lock().await;
            if strikes {
                let door = self.door.lock_arc().await;
                let held = (self.fault == Fault::DelayedDuplicate).then(|| to.clone());
                return self.struck.0.send(Struck { door, held }).await.ok();
            }
            frames::write(&to, &frame).await.ok()?;
        }
    }

    /// Looks at a frame; whether this is where to strike.
    fn note(&self, frame: &[u8], role: Role) -> bool {
        let mut seen = self.seen();
        let is_first = role == Role::Client && seen.request.is_empty();
        if is_first {
            seen.first.extend_from_slice(frame);
        }
        match frames::decode(frame, role) {
            Some(Frame::Welcome(welcome)) => {
                seen.granted_slots = welcome.grants.slots;
                seen.lease_ms = welcome.grants.lease_ms;
                false
            }
            Some(Frame::Request(header, _)) => {
                seen.remaining_max_ms = seen.remaining_max_ms.max(header.remaining_ms);
                if is_first {
                    seen.request = frame.to_vec();
                }
                is_first && matches!(self.fault, Fault::LostRequest | Fault::DelayedDuplicate)
            }
            Some(Frame::Reply(..)) => {
                let is_first = !std::mem::replace(&mut seen.has_replied, true);
                is_first && matches!(self.fault, Fault::LostReply | Fault::ServerCrash)
            }
            _ => false,
        }
    }

    /// The copy of the first request comes late on the connection that is alive.
    pub(crate) async fn copy_on_live(&self) -> io::Result<()> {
        let request = self.seen().request.clone();
        let live = self.seen().live.clone().ok_or(io::ErrorKind::NotConnected)?;
        frames::write(&*live.lock().await, &request).await
    }

    /// All that was sent on the first connection comes late on a new one, as a proxy or a queue may deliver it.
    pub(crate) async fn copy_on_new(&self, server: SocketAddr) -> io::Result<()> {
        let first = self.seen().first.clone();
        let stream = TcpStream::connect(server).await?;
        let _ = frames::write(&stream, &first).await;
        self.note_answer(stream).await;
        Ok(())
    }

    /// The first request itself comes late, on its own connection. `is_superseded`: the server has ended that, or is about to.
    pub(crate) async fn release(&self, held: TcpStream, is_superseded: bool) {
        if is_superseded {
            self.note_answer(held.clone()).await;
        }
        let request = self.seen().request.clone();
        let _ = frames::write(&held, &request).await;
        self.note_answer(held).await;
    }

    /// Reads until there is a reply, a refusal, or no connection any more.
    async fn note_answer(&self, stream: TcpStream) {
        let mut frames = Frames::new(stream);
        while let Some(frame) = frames.next(Role::Server).await {
            let answer = match frames::decode(&frame, Role::Server) {
                Some(Frame::Reply(..)) => "a reply".to_owned(),
                Some(Frame::Refuse(why, _)) => format!("{why:?}"),
                _ => continue,
            };
            self.seen().answers.insert(answer);
            return;
        }
    }
}
