//! A naive RPC, written by hand for the first three rows of the table: Oncewire's request and reply frames, and none of its sessions. Its
//! client sends again until it is answered, or never; its server remembers nothing, or does it as the lecture sketches it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use oncewire::protocol::wire::{Frame, ReplyHeader, RequestHeader, Role};
use oncewire::protocol::{Status, Xid};
use smol::channel::Receiver;
use smol::future::or;
use smol::net::{TcpListener, TcpStream};

use crate::account::{AccountMethods, Handlers};
use crate::frames::{self, Frames};

/// Attempts of a client that sends again: "do this a few times".
const ATTEMPTS: usize = 5;

/// The lecture's `old[uid]`, in memory.
pub(crate) type Old = Arc<Mutex<BTreeMap<Xid, Vec<u8>>>>;

/// Serves until the listener fails. `old`: what is remembered, if that is done.
pub(crate) async fn serve(listener: TcpListener, handlers: Handlers, old: Option<Old>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (handlers, old) = (handlers.clone(), old.clone());
        let serving = async move {
            let mut requests = Frames::new(stream.clone());
            while let Some(request) = requests.next(Role::Client).await {
                let (stream, handlers, old) = (stream.clone(), handlers.clone(), old.clone());
                // Each call in a thread of its own, as Go gives each a goroutine.
                let answering = async move {
                    let answer = smol::unblock(move || answer(&request, &handlers, old.as_deref()));
                    if let Some(reply) = answer.await {
                        // A client that has gone does not get it: that is the row's point.
                        let _ = frames::write(&stream, &reply).await;
                    }
                };
                smol::spawn(answering).detach();
            }
        };
        smol::spawn(serving).detach();
    }
}

/// Runs the handler, or answers from `old[uid]`. Nothing for what is no request.
fn answer(
    request: &[u8],
    handlers: &Handlers,
    old: Option<&Mutex<BTreeMap<Xid, Vec<u8>>>>,
) -> Option<Vec<u8>> {
    let Frame::Request(RequestHeader { xid, method, .. }, body) =
        frames::decode(request, Role::Client)?
    else {
        return None;
    };
    let old = old.map(|old| move || old.lock().unwrap_or_else(PoisonError::into_inner));
    if let Some(reply) = old.and_then(|old| old().get(&xid).cloned()) {
        return Some(reply);
    }
    let what = if method == AccountMethods::DEDUCT.id() { "deduct" } else { "put" };
    handlers.apply(what, i64::from_le_bytes(body.try_into().ok()?));
    let reply = frames::encode(&Frame::Reply(ReplyHeader { status: Status::Done, xid }, &[]));
    if let Some(old) = old {
        old().insert(xid, reply.clone());
    }
    Some(reply)
}

/// The client. It has one connection, or none.
pub(crate) struct NaiveClient {
    pub(crate) address: SocketAddr,
    pub(crate) sends_again: bool,
    pub(crate) uid: u64,
    pub(crate) replies: Option<Frames>,
    /// Its timer, which the injector fires: so that what is shown does not depend on how busy the machine is.
    pub(crate) timer: Receiver<()>,
}

impl NaiveClient {
    /// Makes one call.
    ///
    /// # Errors
    /// There was no reply: that is all that such a client learns.
    pub(crate) async fn call(&mut self, what: &str, dollars: i64) -> Result<(), String> {
        self.uid += 1;
        let xid = Xid::new(self.uid).ok_or("there are no more numbers")?;
        let is_deduct = what == "deduct";
        let method = if is_deduct { AccountMethods::DEDUCT.id() } else { AccountMethods::PUT.id() };
        let header = RequestHeader { flags: 0, method, remaining_ms: 0, xid, acked: 0 };
        let request = frames::encode(&Frame::Request(header, &dollars.to_le_bytes()));
        let mut attempts = 1;
        loop {
            match self.attempt(&request, xid).await {
                Err(_) if self.sends_again && attempts < ATTEMPTS => attempts += 1,
                result => return result,
            }
        }
    }

    /// Sends the request once, on a new connection if the last one has failed.
    async fn attempt(&mut self, request: &[u8], xid: Xid) -> Result<(), String> {
        let say = |error: std::io::Error| error.to_string();
        let mut replies = match self.replies.take() {
            Some(replies) => replies,
            None => Frames::new(TcpStream::connect(self.address).await.map_err(say)?),
        };
        frames::write(&replies.stream, request).await.map_err(say)?;
        let reply = async {
            while let Some(frame) = replies.next(Role::Server).await {
                let reply = frames::decode(&frame, Role::Server);
                if matches!(reply, Some(Frame::Reply(header, _)) if header.xid == xid) {
                    return Ok(());
                }
            }
            Err("unexpected EOF".to_owned())
        };
        let timer = async {
            let _ = self.timer.recv().await;
            Err("timeout".to_owned())
        };
        or(reply, timer).await?;
        self.replies = Some(replies);
        Ok(())
    }
}
