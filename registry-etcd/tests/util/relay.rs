//! A line to a server that tests can cut.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// Passes connections on to a server.
pub struct Relay {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    streams: Vec<TcpStream>,
    closed: bool,
}

impl Relay {
    pub fn start(to: String) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Relay { address: listener.local_addr().unwrap(), state: Arc::default() };
        let state = relay.state.clone();
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let near = near.unwrap();
                let mut state = state.lock().unwrap();
                if state.closed {
                    return;
                }
                let far = TcpStream::connect(&to).unwrap();
                for (from, into) in [(&near, &far), (&far, &near)] {
                    let (mut from, mut into) =
                        (from.try_clone().unwrap(), into.try_clone().unwrap());
                    std::thread::spawn(move || {
                        let _cut = std::io::copy(&mut from, &mut into);
                        let _gone = into.shutdown(Shutdown::Both);
                    });
                }
                state.streams.extend([near, far]);
            }
        });
        relay
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Breaks all connections; others can be made.
    pub fn cut(&self) {
        for stream in self.state.lock().unwrap().streams.drain(..) {
            let _gone = stream.shutdown(Shutdown::Both);
        }
    }

    /// The same, and no other can be made.
    pub fn close(&self) {
        self.state.lock().unwrap().closed = true;
        // It waits for a connection.
        drop(TcpStream::connect(self.address));
        self.cut();
    }
}
