//! The flight recorder around real clients and servers: C317, C318, C361.
#![allow(missing_docs)]

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use oncewire_driver::observe::{Event, Source};
use oncewire_driver::{
    Accept, BoxFuture, BoxStream, Client, ClientOptions, Connect, Method, Server, Subject,
};
use oncewire_pipe::memory;
use oncewire_recorder::{
    Decision, Delivery, FlightRecorder, Reader, StepKind, Story, Transcript, What,
};
use smol::channel::{Receiver, unbounded};
use smol::net::unix::UnixStream;

const ECHO: Method<String, String> = Method::new("test/echo");
const SECRET: &str = "hunter2-and-more-of-it";
const RING_LEN: usize = 16 << 10;

/// Makes so many calls, one after the other, and closes the client.
fn converse(connector: impl Connect, acceptor: impl Accept, calls: u32) {
    smol::block_on(async {
        let server = Server::builder("test").method(&ECHO, |_, text| async move { text });
        let server = server.build().unwrap();
        let serving = server.clone();
        smol::spawn(async move { serving.serve(acceptor).await }).detach();
        let client = Client::new(connector, ClientOptions::default());
        for number in 0..calls {
            let text = format!("{number}: {SECRET}");
            assert_eq!(client.call(&ECHO, &text).await.ok(), Ok(text));
        }
        client.close().await;
        drop(client);
        server.drain(std::time::Duration::from_secs(5)).await;
    });
}

fn story(recording: &[u8]) -> (Story, String) {
    let has_secret = recording.windows(7).any(|bytes| bytes == b"hunter2");
    assert!(!has_secret, "a secret is in the recording");
    let story = Story::read(recording, &["test/echo".to_owned()]).unwrap();
    let text = Transcript { story: &story, all: true }.to_string();
    let differs = story.steps.iter().any(|step| matches!(step.kind, StepKind::Differs(_)));
    assert!(!differs, "{text}");
    (story, text)
}

fn count(story: &Story, test: impl Fn(&StepKind) -> bool) -> usize {
    story.steps.iter().filter(|step| test(&step.kind)).count()
}

#[test]
fn c317_a_ring_keeps_the_last_of_each_connection_in_memory_that_is_bounded() {
    // All that passed, where it fits.
    let recorder = FlightRecorder::ring(RING_LEN).unwrap();
    let (connector, acceptor) = memory::listener();
    converse(recorder.connector(connector), acceptor, 5);
    let mut recording = Vec::new();
    recorder.dump(&mut recording, "a client").unwrap();
    let (all, text) = story(&recording);
    assert_eq!(count(&all, |kind| matches!(kind, StepKind::Outcome { .. })), 5, "{text}");
    assert!(text.contains("Hello: opens a session") && text.contains("Goodbye"), "{text}");
    // The last of it, and the handshake, where it does not.
    let recorder = FlightRecorder::ring(RING_LEN).unwrap();
    let (connector, acceptor) = memory::listener();
    converse(connector, recorder.acceptor(acceptor), 1_000);
    let mut recording = Vec::new();
    recorder.dump(&mut recording, "a server").unwrap();
    assert!(recording.len() < 2 * RING_LEN, "{} bytes", recording.len());
    let (last, text) = story(&recording);
    let requests = count(&last, |kind| matches!(kind, StepKind::Started));
    assert!((50..500).contains(&requests), "{requests} of 1,000 calls\n{text}");
    assert!(text.contains("older bytes were not kept") && text.contains("Welcome"), "{text}");
    assert!(text.contains("Goodbye: no more requests follow"), "{text}");
}

/// Where a recording goes; it takes so many bytes.
#[derive(Clone)]
struct Disk(Arc<Mutex<Vec<u8>>>, usize);

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut all = self.0.lock().unwrap();
        if all.len() + bytes.len() > self.1 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        all.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn c318_everything_is_written_and_a_disk_that_is_full_harms_no_call() {
    let disk = Disk(Arc::default(), usize::MAX);
    let recorder = FlightRecorder::writer(disk.clone(), "both ends").unwrap();
    let (connector, acceptor) = memory::listener();
    converse(recorder.connector(connector), acceptor, 300);
    assert_eq!(recorder.error(), None);
    assert_eq!(recorder.dump(Vec::new(), "").unwrap_err().kind(), io::ErrorKind::Unsupported);
    let recording = disk.0.lock().unwrap().clone();
    let (all, text) = story(&recording);
    assert_eq!(count(&all, |kind| matches!(kind, StepKind::Outcome { .. })), 300, "{text}");
    let mut reader = Reader::new(&recording[..]).unwrap();
    let mut frames = 0;
    while let Some(record) = reader.next().unwrap() {
        if let What::Frame(frame) = record.what {
            assert_eq!(frame.delivery, Delivery::Arrived);
            frames += 1;
        }
    }
    assert!(frames >= 602, "{frames}");
    let full = Disk(Arc::default(), 1_000);
    let recorder = FlightRecorder::writer(full, "a full disk").unwrap();
    let (connector, acceptor) = memory::listener();
    converse(recorder.connector(connector), acceptor, 50);
    assert!(recorder.error().is_some());
}

/// Dials, when it may, over lines that the test can cut and whose server's ends are recorded.
struct Cut {
    server: Server,
    recorder: FlightRecorder,
    lines: Arc<Mutex<Vec<UnixStream>>>,
    may_dial: Receiver<()>,
}

impl Connect for Cut {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async {
            let _closed = self.may_dial.recv().await;
            let (ours, theirs) = UnixStream::pair()?;
            let (stream, caller) = self.recorder.acceptor(One(theirs)).accept().await?;
            self.server.serve_stream(stream, caller);
            self.lines.lock().unwrap().push(ours.clone());
            Ok(Box::new(ours) as BoxStream)
        })
    }

    fn address(&self) -> String {
        "a line that is cut".to_owned()
    }
}

struct One(UnixStream);

impl Accept for One {
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, Subject)>> {
        let stream: BoxStream = Box::new(self.0.clone());
        Box::pin(async { Ok((stream, Subject::Anonymous)) })
    }

    fn address(&self) -> String {
        "a line that is cut".to_owned()
    }
}

/// A call whose connection breaks while it runs, and whose handler ends before its client is back.
fn call_across_a_cut(recorder: &FlightRecorder, observes: bool) {
    let (begun, begins) = unbounded::<()>();
    let (go_on, gate) = unbounded::<()>();
    let (seen, sees) = unbounded::<&'static str>();
    let (dial, may_dial) = unbounded::<()>();
    let builder = Server::builder("test").method(&ECHO, move |_, text: String| {
        let (begun, gate) = (begun.clone(), gate.clone());
        async move {
            begun.send(()).await.unwrap();
            gate.recv().await.unwrap();
            text
        }
    });
    let builder = match observes {
        true => builder.observe(recorder.clone()),
        false => builder,
    };
    let builder = builder.observe(move |_: &Source, event: &Event| match event {
        Event::ConnectionClosed { .. } => drop(seen.send_blocking("closed")),
        Event::CallEnded { .. } => drop(seen.send_blocking("ended")),
        _ => {}
    });
    let (server, lines) = (builder.build().unwrap(), Arc::<Mutex<Vec<UnixStream>>>::default());
    let cut = Cut { server, recorder: recorder.clone(), lines: lines.clone(), may_dial };
    let client = Client::new(cut, ClientOptions::default());
    smol::block_on(async {
        dial.send(()).await.unwrap();
        let call = smol::spawn(client.call(&ECHO, &SECRET.to_owned()));
        begins.recv().await.unwrap();
        lines.lock().unwrap()[0].shutdown(std::net::Shutdown::Both).unwrap();
        assert_eq!(sees.recv().await, Ok("closed"));
        go_on.send(()).await.unwrap();
        assert_eq!(sees.recv().await, Ok("ended"));
        dial.send(()).await.unwrap();
        assert_eq!(call.await.ok().unwrap(), SECRET);
        client.close().await;
    });
}

#[test]
fn c361_a_recorder_that_observes_its_server_knows_of_an_end_that_could_not_be_sent() {
    let verdict = |recording: &[u8]| {
        let (story, text) = story(recording);
        let verdicts = story.steps.iter().filter_map(|step| match step.kind {
            StepKind::Verdict { verdict, .. } => Some(verdict),
            _ => None,
        });
        let verdicts: Vec<_> = verdicts.collect();
        assert_eq!(verdicts.len(), 1, "{text}");
        verdicts[0]
    };
    for observes in [true, false] {
        let ring = FlightRecorder::ring(RING_LEN).unwrap();
        call_across_a_cut(&ring, observes);
        let mut recording = Vec::new();
        ring.dump(&mut recording, "a server").unwrap();
        // What its bytes alone say is that the handler ended when the question was answered.
        let expected = if observes { Decision::Kept } else { Decision::WhenDone };
        assert_eq!(verdict(&recording), expected);
    }
    let disk = Disk(Arc::default(), usize::MAX);
    let recorder = FlightRecorder::writer(disk.clone(), "a server").unwrap();
    call_across_a_cut(&recorder, true);
    assert_eq!(recorder.error(), None);
    assert_eq!(verdict(&disk.0.lock().unwrap()), Decision::Kept);
}

/// What a ring costs: `RING=1 perf stat -e instructions:u` on this, against `RING=0`.
#[test]
#[ignore = "is measured"]
fn sixty_four_calls_at_once_again_and_again() {
    let rounds = std::env::var("ROUNDS").map_or(1_000, |rounds| rounds.parse().unwrap());
    let recorder = std::env::var("RING")
        .is_ok_and(|ring| ring == "1")
        .then(|| FlightRecorder::ring(64 << 10).unwrap());
    let (connector, acceptor) = memory::listener();
    let acceptor: Box<dyn Accept> = match &recorder {
        Some(recorder) => Box::new(recorder.acceptor(acceptor)),
        None => Box::new(acceptor),
    };
    smol::block_on(async {
        let server = Server::builder("test").method(&ECHO, |_, text| async move { text });
        let server = server.build().unwrap();
        let serving = server.clone();
        smol::spawn(async move { serving.serve(acceptor).await }).detach();
        let client = Client::new(connector, ClientOptions::default());
        for _ in 0..rounds {
            let calls: Vec<_> =
                (0..64).map(|_| smol::spawn(client.call(&ECHO, &String::new()))).collect();
            for call in calls {
                assert_eq!(call.await.ok(), Ok(String::new()));
            }
        }
        client.close().await;
    });
}
