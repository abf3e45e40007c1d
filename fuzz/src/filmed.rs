//! Recordings of worlds, for `oncewire replay`: a seed that fails has a picture.
//!
//! Worlds of the driver are recorded at both ends of each connection, so that what was lost or late is drawn as that, and by an
//! observer of their servers, which knows when calls ended. The same seed makes the same run whether it is recorded or not.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use futures_io::{AsyncRead, AsyncWrite};
use oncewire_core::wire::Role;
use oncewire_driver::BoxStream;
use oncewire_driver::CallFailure;
use oncewire_driver::observe::{CallEnd, CallInfo, Event, Observer, Source};
use oncewire_recorder::{About, EndedBy, Film, Key};

use crate::driver_world::executor::{Sim, lock};

/// A recording that a world is making.
pub type SharedFilm = Arc<Mutex<Film>>;

/// An empty recording, the same for the same seed. `methods` have full names.
pub fn film(seed: u64, methods: &[&str]) -> Film {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    let mut film = Film::new(Key::from_bytes(key), true);
    methods.iter().for_each(|name| film.method(name));
    film
}

/// Writes what passed in a world. `what` is the command that runs it, and `lossy` whether its links lose messages without breaking.
///
/// # Errors
/// Those of the file.
pub fn write(film: &Film, what: String, lossy: bool, to: &Path) -> io::Result<()> {
    let about = About {
        source: oncewire_recorder::Source::World,
        // A world has no secrets.
        plain_bodies: true,
        lossy,
        unix_ms: 0,
        what,
    };
    film.write(io::BufWriter::new(std::fs::File::create(to)?), &about)
}

/// Records the connections of a world.
#[derive(Clone, Debug)]
pub struct Camera {
    film: SharedFilm,
    sim: Arc<Sim>,
}

impl Camera {
    /// Records on this film what passes in a world with this clock.
    pub fn new(film: SharedFilm, sim: Arc<Sim>) -> Camera {
        Camera { film, sim }
    }

    fn put(&self, put: impl FnOnce(&mut Film, u64)) {
        put(&mut lock(&self.film), self.sim.now());
    }
}

/// Both ends of a connection, recorded if the world is.
pub fn ends(
    camera: Option<&Camera>,
    conn: u64,
    peer: impl FnOnce() -> String,
    [client, server]: [BoxStream; 2],
) -> [BoxStream; 2] {
    let Some(camera) = camera else { return [client, server] };
    camera.put(|film, now| film.connected(now, conn, peer()));
    let end = |of, stream| -> BoxStream {
        Box::new(FilmedStream { stream, camera: camera.clone(), conn, of, ended: None })
    };
    [end(Role::Client, client), end(Role::Server, server)]
}

impl Observer for Camera {
    fn observe(&self, source: &Source, event: &Event) {
        match (source, event) {
            (Source::Server { instance, .. }, Event::DrainBegan) => {
                self.put(|film, now| film.drain_began(now, *instance));
            }
            (source, event) => self.call_observed(source, event),
        }
    }
}

impl Camera {
    fn call_observed(&self, source: &Source, event: &Event) {
        match event {
            Event::CallEnded { call, end, .. } if source.is_server() => self.call_ended(call, end),
            Event::CallRefused { call, why, .. } => {
                self.call_ended(call, &CallEnd::Failed(CallFailure::NotExecuted(*why)));
            }
            _ => {}
        }
    }

    fn call_ended(&self, call: &CallInfo, end: &CallEnd) {
        self.put(|film, now| film.observed(now, call, end));
    }
}

/// One end of a recorded connection.
struct FilmedStream {
    stream: BoxStream,
    camera: Camera,
    conn: u64,
    of: Role,
    ended: Option<EndedBy>,
}

impl FilmedStream {
    fn other(&self) -> Role {
        match self.of {
            Role::Client => Role::Server,
            Role::Server => Role::Client,
        }
    }
}

impl AsyncRead for FilmedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        match &read {
            Poll::Ready(Ok(0)) if !buf.is_empty() => this.ended = Some(EndedBy::Client),
            Poll::Ready(Ok(len)) => {
                let from = this.other();
                this.camera.put(|film, now| film.arrived(now, this.conn, from, &buf[..*len]));
            }
            Poll::Ready(Err(_)) => this.ended = Some(EndedBy::Network),
            Poll::Pending => {}
        }
        read
    }
}

impl AsyncWrite for FilmedStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        match &written {
            Poll::Ready(Ok(len)) => {
                this.camera.put(|film, now| film.sent(now, this.conn, this.of, &buf[..*len]));
            }
            Poll::Ready(Err(_)) => this.ended = Some(EndedBy::Network),
            Poll::Pending => {}
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_close(cx)
    }
}

impl Drop for FilmedStream {
    fn drop(&mut self) {
        if self.of == Role::Server {
            let by = self.ended.unwrap_or(EndedBy::Server);
            self.camera.put(|film, now| film.disconnected(now, self.conn, by));
        }
    }
}
