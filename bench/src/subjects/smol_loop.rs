//! Bare streams, one smol thread, length-prefixed frames: the limit of the wire, without any promise.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{PipeReader, PipeWriter};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::process::{Child, Stdio};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_lite::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use oncewire_driver::BoxStream;
use oncewire_pipe::os::PipeStream;
use smol::LocalExecutor;
use smol::net::unix::{UnixListener, UnixStream};
use smol::net::{TcpListener, TcpStream};

use super::{ready, server_command};
use crate::Result;
use crate::case::{Case, Figures, Transport, Workload};
use crate::clock::{Duration, now, sleep};
use crate::frames::{Counter, READ_LEN, frames, whole_len};
use crate::load::{Caller, Dial};
use crate::meter::Meter;
use crate::sys;

pub(super) fn serve(case: &Case) -> Result<()> {
    let executor = LocalExecutor::new();
    let wait = case.workload.wait();
    let start = |stream: BoxStream| match wait {
        None => executor.spawn(echo(stream)).detach(),
        Some(wait) => executor.spawn(echo_later(stream, wait)).detach(),
    };
    smol::block_on(executor.run(async {
        match case.transport {
            Transport::Tcp => {
                let listener = TcpListener::bind(&case.address).await?;
                ready(&listener.local_addr()?.to_string())?;
                loop {
                    let (stream, _) = listener.accept().await?;
                    stream.set_nodelay(true)?;
                    start(Box::new(stream));
                }
            }
            Transport::Unix => {
                let listener = UnixListener::bind(&case.address)?;
                ready(&case.address)?;
                loop {
                    start(Box::new(listener.accept().await?.0));
                }
            }
            Transport::Pipe => {
                let input = PipeReader::from(std::io::stdin().as_fd().try_clone_to_owned()?);
                let output = PipeWriter::from(std::io::stdout().as_fd().try_clone_to_owned()?);
                echo(Box::new(PipeStream::join(input, output)?)).await;
                Ok(())
            }
        }
    }))
}

/// Sends whole frames back as they came, as many as a read has brought. Ends with the connection.
async fn echo(mut stream: BoxStream) -> Option<()> {
    let mut buffer = vec![0; READ_LEN];
    let mut end = 0;
    loop {
        let len = stream.read(&mut buffer[end..]).await.ok().filter(|len| *len > 0)?;
        end += len;
        let whole = whole_len(&buffer[..end]);
        stream.write_all(&buffer[..whole.len]).await.ok()?;
        buffer.copy_within(whole.len..end, 0);
        end -= whole.len;
        if buffer.len() < whole.wanted {
            buffer.resize(whole.wanted, 0);
        }
    }
}

/// The same, each frame after a wait: they come due in the order in which they came.
async fn echo_later(mut stream: BoxStream, wait: Duration) -> Option<()> {
    let mut kept = Vec::new();
    let mut due = VecDeque::new();
    let (mut buffer, mut marked) = (vec![0; READ_LEN], 0);
    loop {
        let came = match due.front() {
            None => Some(stream.read(&mut buffer).await),
            Some((at, _)) => {
                let rest = Duration::saturating_sub(wait, now().duration_since(*at));
                let timer = async {
                    sleep(rest).await;
                    None
                };
                let read = async { Some(stream.read(&mut buffer).await) };
                futures_lite::future::or(read, timer).await
            }
        };
        if let Some(came) = came {
            let len = came.ok().filter(|len| *len > 0)?;
            kept.extend_from_slice(&buffer[..len]);
            let whole = whole_len(&kept[marked..]).len;
            due.push_back((now(), whole));
            marked += whole;
        }
        let mut len = 0;
        let is_due = |(at, _): &(_, _)| now().duration_since(*at) >= wait;
        while due.front().is_some_and(is_due) {
            let Some((_, whole)) = due.pop_front() else { break };
            len += whole;
        }
        if len > 0 {
            stream.write_all(&kept[..len]).await.ok()?;
            kept.drain(..len);
            marked -= len;
        }
    }
}

struct Dialler<'a> {
    case: &'a Case,
    child: RefCell<Option<Child>>,
}

impl Dialler<'_> {
    async fn stream(&self) -> Result<BoxStream> {
        Ok(match self.case.transport {
            Transport::Tcp => {
                let stream = TcpStream::connect(&self.case.address).await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Transport::Unix => Box::new(UnixStream::connect(&self.case.address).await?),
            Transport::Pipe => {
                let mut command = server_command(self.case)?;
                let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
                let input = OwnedFd::from(child.stdout.take().ok_or("no stdout")?);
                let output = OwnedFd::from(child.stdin.take().ok_or("no stdin")?);
                self.child.replace(Some(child));
                Box::new(PipeStream::join(PipeReader::from(input), PipeWriter::from(output))?)
            }
        })
    }
}

impl Dial for Dialler<'_> {
    type Caller = Lone;

    async fn dial(&self) -> Result<Lone> {
        let buffer = vec![0; 4096].into_boxed_slice();
        Ok(Lone(RefCell::new((self.stream().await?, buffer))))
    }

    fn server_pid(&self) -> Option<u32> {
        self.child.borrow().as_ref().map(Child::id)
    }
}

impl Drop for Dialler<'_> {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself: its stdin is closed.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A connection with at most one call on it.
struct Lone(RefCell<(BoxStream, Box<[u8]>)>);

impl Caller for Lone {
    // There is one call at a time: nothing else can want the cell.
    #[allow(clippy::await_holding_refcell_ref)]
    async fn call(&self, body: &Bytes) -> Result<usize> {
        let (stream, buffer) = &mut *self.0.borrow_mut();
        let frame_len = 4 + body.len();
        buffer[..4].copy_from_slice(&(body.len() as u32).to_le_bytes());
        buffer[4..frame_len].copy_from_slice(body);
        stream.write_all(&buffer[..frame_len]).await?;
        let mut len = 0;
        while whole_len(&buffer[..len]).len == 0 {
            match stream.read(&mut buffer[len..]).await? {
                0 => return Err("the server closed the connection".into()),
                more => len += more,
            }
        }
        Ok(len - 4)
    }

    async fn close(self) -> Result<()> {
        Ok(())
    }
}

pub(super) fn drive(case: &Case) -> Result<Figures> {
    let dial = Dialler { case, child: RefCell::new(None) };
    smol::block_on(async {
        match case.workload {
            Workload::W2 | Workload::W3 | Workload::W4 | Workload::W8 => {
                let stream = dial.stream().await?;
                sys::use_cubic()?;
                let meter = Meter::start(case, dial.server_pid().unwrap_or(case.server_pid));
                let mut window = Window::new(case, stream);
                poll_fn(|cx| window.poll(&meter, cx)).await?;
                meter.figures()
            }
            _ => crate::load::run(case, &dial).await,
        }
    })
}

/// Keeps so many frames on their way: as many leave in one write as have come back in one read.
struct Window {
    stream: BoxStream,
    frames: Vec<u8>,
    frame_len: usize,
    /// Bytes that have to leave; they end with the end of a frame.
    due: usize,
    counter: Counter,
    buffer: Vec<u8>,
}

impl Window {
    fn new(case: &Case, stream: BoxStream) -> Window {
        let frames = frames(case.body_len, case.outstanding);
        let frame_len = frames.len() / case.outstanding;
        let due = frames.len();
        let buffer = vec![0; READ_LEN.max(case.body_len)];
        Window { stream, frames, frame_len, due, counter: Counter::default(), buffer }
    }

    fn poll(&mut self, meter: &Meter, cx: &mut Context<'_>) -> Poll<Result<()>> {
        loop {
            let mut waits = true;
            if self.due > 0 {
                let bytes = &self.frames[self.frames.len() - self.due..];
                if let Poll::Ready(len) = Pin::new(&mut self.stream).poll_write(cx, bytes) {
                    self.due -= len?;
                    waits = false;
                }
            }
            if let Poll::Ready(len) = Pin::new(&mut self.stream).poll_read(cx, &mut self.buffer) {
                let len = len?;
                if len == 0 {
                    return Poll::Ready(Err("the server closed the connection".into()));
                }
                let came = self.counter.take(&self.buffer[..len]);
                self.due += came * self.frame_len;
                if came > 0 && !meter.count(came as u64) {
                    return Poll::Ready(Ok(()));
                }
                waits = false;
            }
            if waits {
                return Poll::Pending;
            }
        }
    }
}
