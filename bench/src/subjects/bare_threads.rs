//! Bare sockets, blocking threads, length-prefixed frames.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use super::ready;
use crate::Result;
use crate::case::{Case, Figures, Transport, Workload};
use crate::clock::now;
use crate::frames::{Counter, READ_LEN, frames, whole_len};
use crate::meter::Meter;
use crate::sys;

trait Socket: Read + Write + Send {
    fn another(&self) -> Result<Box<dyn Socket>>;
}

impl Socket for TcpStream {
    fn another(&self) -> Result<Box<dyn Socket>> {
        Ok(Box::new(self.try_clone()?))
    }
}

impl Socket for UnixStream {
    fn another(&self) -> Result<Box<dyn Socket>> {
        Ok(Box::new(self.try_clone()?))
    }
}

pub(super) fn serve(case: &Case) -> Result<()> {
    match case.transport {
        Transport::Tcp => {
            let listener = TcpListener::bind(&case.address)?;
            ready(&listener.local_addr()?.to_string())?;
            for stream in listener.incoming() {
                let stream = stream?;
                stream.set_nodelay(true)?;
                thread::spawn(move || echo(stream));
            }
        }
        _ => {
            let listener = UnixListener::bind(&case.address)?;
            ready(&case.address)?;
            for stream in listener.incoming() {
                let stream = stream?;
                thread::spawn(move || echo(stream));
            }
        }
    }
    Ok(())
}

/// Sends whole frames back as they came, as many as a read has brought. Ends with the connection.
fn echo(mut stream: impl Read + Write) -> Option<()> {
    let mut buffer = vec![0; READ_LEN];
    let mut end = 0;
    loop {
        let len = stream.read(&mut buffer[end..]).ok().filter(|len| *len > 0)?;
        end += len;
        let whole = whole_len(&buffer[..end]);
        stream.write_all(&buffer[..whole.len]).ok()?;
        buffer.copy_within(whole.len..end, 0);
        end -= whole.len;
        if buffer.len() < whole.wanted {
            buffer.resize(whole.wanted, 0);
        }
    }
}

fn connect(case: &Case) -> Result<Box<dyn Socket>> {
    if case.transport == Transport::Tcp {
        let stream = TcpStream::connect(&case.address)?;
        stream.set_nodelay(true)?;
        return Ok(Box::new(stream));
    }
    Ok(Box::new(UnixStream::connect(&case.address)?))
}

pub(super) fn drive(case: &Case) -> Result<Figures> {
    match case.workload {
        Workload::W5 => {
            let meter = Meter::start(case, case.server_pid);
            loop {
                call(&mut *connect(case)?, &frames(32, 1))?;
                if !meter.count(1) {
                    return meter.figures();
                }
            }
        }
        Workload::W6 => memory(case),
        workload => {
            let stream = connect(case)?;
            sys::use_cubic()?;
            let meter = Meter::start(case, case.server_pid);
            match workload {
                Workload::W1 => one_by_one(stream, &meter)?,
                Workload::W4 => two_threads(case, stream, &meter)?,
                _ => window(case, stream, &meter)?,
            }
            meter.figures()
        }
    }
}

fn call(stream: &mut dyn Socket, frame: &[u8]) -> Result<()> {
    stream.write_all(frame)?;
    let mut counter = Counter::default();
    let mut buffer = [0; 4096];
    loop {
        let len = read(stream, &mut buffer)?;
        if counter.take(&buffer[..len]) > 0 {
            return Ok(());
        }
    }
}

fn read(stream: &mut dyn Socket, buffer: &mut [u8]) -> Result<usize> {
    match stream.read(buffer)? {
        0 => Err("the server closed the connection".into()),
        len => Ok(len),
    }
}

fn one_by_one(mut stream: Box<dyn Socket>, meter: &Meter) -> Result<()> {
    let frame = frames(32, 1);
    loop {
        let begun = now();
        call(&mut *stream, &frame)?;
        if !meter.time(begun) {
            return Ok(());
        }
    }
}

/// As many frames leave in one write as have come back in one read.
fn window(case: &Case, mut stream: Box<dyn Socket>, meter: &Meter) -> Result<()> {
    let out = frames(case.body_len, case.outstanding);
    let frame_len = out.len() / case.outstanding;
    let mut counter = Counter::default();
    let mut buffer = vec![0; READ_LEN];
    let mut due = case.outstanding;
    loop {
        stream.write_all(&out[..due * frame_len])?;
        let len = read(&mut *stream, &mut buffer)?;
        due = counter.take(&buffer[..len]);
        if !meter.count(due as u64) {
            return Ok(());
        }
    }
}

/// Bodies that fill the socket's buffers must be read while they are written.
fn two_threads(case: &Case, mut stream: Box<dyn Socket>, meter: &Meter) -> Result<()> {
    let (permit, permits) = std::sync::mpsc::channel();
    let mut writer = stream.another()?;
    let frame = frames(case.body_len, 1);
    thread::spawn(move || {
        // Ends with the process at the latest.
        while permits.recv().is_ok() && writer.write_all(&frame).is_ok() {}
    });
    for _ in 0..case.outstanding {
        permit.send(())?;
    }
    let mut counter = Counter::default();
    let mut buffer = vec![0; case.body_len];
    loop {
        let len = read(&mut *stream, &mut buffer)?;
        let came = counter.take(&buffer[..len]);
        for _ in 0..came {
            permit.send(())?;
        }
        if came > 0 && !meter.count(came as u64) {
            return Ok(());
        }
    }
}

fn memory(case: &Case) -> Result<Figures> {
    let mut observer = connect(case)?;
    call(&mut *observer, &frames(32, 1))?;
    let before = sys::resident_bytes(case.server_pid)?;
    let mut streams = Vec::new();
    for _ in 0..case.connections {
        let mut stream = connect(case)?;
        call(&mut *stream, &frames(32, 1))?;
        streams.push(stream);
    }
    let grown = sys::resident_bytes(case.server_pid)?.saturating_sub(before);
    let connection_bytes = grown / case.connections as u64;
    Ok(Figures { connection_bytes, calls: case.connections as u64, ..Figures::default() })
}
