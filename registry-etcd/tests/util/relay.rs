//! A line to a server that tests can cut.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

/// Passes connections on to a server.
pub struct Relay {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    frozen: Arc<AtomicBool>,
    requests: Arc<AtomicU32>,
}

#[derive(Default)]
struct State {
    streams: Vec<TcpStream>,
    closed: bool,
}

impl Relay {
    pub fn start(to: String) -> Relay {
        Relay::start_at("127.0.0.1:0".parse().unwrap(), to)
    }

    /// At this address: that of one that was closed.
    pub fn start_at(address: SocketAddr, to: String) -> Relay {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let (state, frozen) = (Arc::<Mutex<State>>::default(), Arc::<AtomicBool>::default());
        let requests = Arc::<AtomicU32>::default();
        let relay = Relay {
            address,
            state: state.clone(),
            frozen: frozen.clone(),
            requests: requests.clone(),
        };
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let near = near.unwrap();
                let mut state = state.lock().unwrap();
                if state.closed {
                    return;
                }
                let Ok(far) = TcpStream::connect(&to) else { continue };
                for (from, into) in [(&near, &far), (&far, &near)] {
                    let (mut from, mut into) =
                        (from.try_clone().unwrap(), into.try_clone().unwrap());
                    let (frozen, requests) = (frozen.clone(), requests.clone());
                    std::thread::spawn(move || {
                        let mut buf = vec![0; 16 << 10];
                        while let Ok(len @ 1..) = from.read(&mut buf) {
                            if buf.starts_with(b"POST ") {
                                requests.fetch_add(1, Ordering::SeqCst);
                            }
                            let is_lost = frozen.load(Ordering::SeqCst);
                            if !is_lost && into.write_all(&buf[..len]).is_err() {
                                break;
                            }
                        }
                        let _gone = into.shutdown(Shutdown::Both);
                    });
                }
                state.streams.extend([near, far]);
            }
        });
        relay
    }

    pub fn socket(&self) -> SocketAddr {
        self.address
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// From now on nothing passes, and nothing breaks.
    pub fn freeze(&self) {
        self.frozen.store(true, Ordering::SeqCst);
    }

    /// Connections that were made.
    pub fn connections(&self) -> usize {
        self.state.lock().unwrap().streams.len() / 2
    }

    /// Requests of HTTP that were passed on.
    pub fn requests(&self) -> u32 {
        self.requests.load(Ordering::SeqCst)
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
        while TcpStream::connect(self.address).is_ok() {
            std::thread::yield_now();
        }
        self.cut();
    }
}

/// Passes requests on to etcd, and loses the answer to one in so many of those that hold this text. Returns where it listens, and how many it
/// has lost.
pub fn losing_answers(etcd: &str, text: &'static str, every: u32) -> (String, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, etcd) = (listener.local_addr().unwrap(), etcd.replace("http://", ""));
    let (count, lost) = (Arc::<AtomicU32>::default(), Arc::<AtomicU32>::default());
    let losses = lost.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut near, etcd) = (stream.unwrap(), etcd.clone());
            let (count, lost) = (count.clone(), lost.clone());
            std::thread::spawn(move || {
                let Ok(mut far) = TcpStream::connect(etcd) else { return };
                let (mut request, mut answer) = (vec![0; 64 << 10], vec![0; 64 << 10]);
                while let Ok(len @ 1..) = near.read(&mut request) {
                    far.write_all(&request[..len]).unwrap();
                    let Ok(answered @ 1..) = far.read(&mut answer) else { return };
                    if String::from_utf8_lossy(&request[..len]).contains(text)
                        && (count.fetch_add(1, Ordering::SeqCst) + 1).is_multiple_of(every)
                    {
                        lost.fetch_add(1, Ordering::SeqCst);
                        return;
                    }
                    let _sent = near.write_all(&answer[..answered]);
                }
            });
        }
    });
    (address.to_string(), losses)
}
