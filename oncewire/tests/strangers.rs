//! Strangers, and servers that mean harm, against what services and streams add to calls: C293 to C296, C302 to C306.
#![allow(missing_docs, unreachable_pub)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use oncewire::protocol::wire::{self, Decoded, Frame, Grants, Hello, ReplyHeader, Role, Welcome};
use oncewire::protocol::{
    Instance, MethodId, Schemas, ServerId, ServiceName, SessionId, Status, Xid,
};
use oncewire::stream::{Incoming, StreamMethod, UploadBreak, UploadMethod};
use oncewire::{
    Accept, BoxStream, Bytes, CallFailure, Client, ClientOptions, Context, DurableClient, Executed,
    Method, NotExecuted, Outcome, Server, ServerBuilder,
};
use oncewire_ledger_redb::RedbJournal;
use oncewire_pipe::memory;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::stream;

#[oncewire::service(name = "shop")]
pub trait Shop {
    async fn pay(&self, context: Context, cents: u64, to: u64) -> u64;
    async fn ping(&self, context: Context) -> u8;
}

/// The same name, and the arguments of `pay` have changed places.
mod swapped {
    #[oncewire::service(name = "shop")]
    pub trait Shop {
        async fn pay(&self, context: oncewire::Context, to: u64, cents: u64) -> u64;
        async fn ping(&self, context: oncewire::Context) -> u8;
    }
}

struct Swapped;

impl swapped::Shop for Swapped {
    async fn pay(&self, _: Context, _: u64, cents: u64) -> u64 {
        cents
    }
    async fn ping(&self, _: Context) -> u8 {
        2
    }
}

fn serve(builder: ServerBuilder, options: ClientOptions) -> Client {
    let server = builder.build().unwrap();
    let (connector, acceptor) = memory::listener();
    smol::spawn(async move { server.serve(acceptor).await }).detach();
    Client::new(connector, options)
}

/// A server that the test writes byte by byte.
struct Hostile {
    stream: BoxStream,
    received: Vec<u8>,
}

impl Hostile {
    async fn accept(acceptor: &impl Accept) -> Hostile {
        let (stream, _) = acceptor.accept().await.unwrap();
        Hostile { stream, received: Vec::new() }
    }

    /// The next frame that `pick` takes; others are passed over. `None` at the end.
    async fn next<T>(&mut self, pick: impl Fn(Frame<'_>) -> Option<T>) -> Option<T> {
        loop {
            if let Decoded::Frame(frame, len) =
                wire::decode(&self.received, Role::Client, 1 << 20).unwrap()
            {
                let picked = pick(frame);
                self.received.drain(..len);
                if picked.is_some() {
                    return picked;
                }
                continue;
            }
            let mut bytes = [0; 4096];
            let len = self.stream.read(&mut bytes).await.unwrap_or(0);
            if len == 0 {
                return None;
            }
            self.received.extend(&bytes[..len]);
        }
    }

    async fn hello(&mut self) -> Hello {
        let hello = |frame: Frame<'_>| match frame {
            Frame::Hello(hello) => Some(hello),
            _ => None,
        };
        self.next(hello).await.expect("a Hello")
    }

    async fn request(&mut self) -> Option<(Xid, MethodId)> {
        let request = |frame: Frame<'_>| match frame {
            Frame::Request(header, _) => Some((header.xid, header.method)),
            _ => None,
        };
        self.next(request).await
    }

    /// Says all of this at once.
    async fn say(&mut self, frames: &[Frame<'_>]) {
        let mut bytes = vec![0; 1 << 22];
        let mut len = 0;
        for frame in frames {
            len += wire::encode(frame, &mut bytes[len..]).unwrap();
        }
        self.stream.write_all(&bytes[..len]).await.unwrap();
    }

    /// Opens or resumes its one session, of one slot.
    async fn welcome(&mut self, seen: u64) {
        let hello = self.hello().await;
        let grants = Grants {
            slots: 1,
            request_len_max: 1 << 20,
            reply_len_max: hello.reply_len_max,
            lease_ms: 60_000,
            keepalive_ms: 10_000,
        };
        let welcome = Welcome {
            version: wire::VERSION,
            features: hello.features,
            server: ServerId::from_bytes([7; 16]),
            service: ServiceName::new("shop").unwrap(),
            session: SessionId::from_bytes([8; 16]),
            seen,
            commit: 0,
            grants,
            instance: Instance::new(9, "hostile"),
            // It has types, and they are others.
            schemas: Schemas::EMPTY.with(7).unwrap(),
        };
        self.say(&[Frame::Welcome(welcome)]).await;
    }
}

fn done(xid: Xid, body: &[u8]) -> Frame<'_> {
    Frame::Reply(ReplyHeader { status: Status::Done, xid }, body)
}

#[test]
fn c304_a_question_that_is_answered_as_its_connection_ends_keeps_no_slot_of_a_durable_client() {
    smol::block_on(async {
        let folder = std::env::temp_dir().join(format!("oncewire-attacks-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let (connector, acceptor) = memory::listener();
        let server = smol::spawn(async move {
            let mut first = Hostile::accept(&acceptor).await;
            first.welcome(0).await;
            let (xid, _) = first.request().await.expect("the question");
            let refuse = Frame::Refuse(wire::Refuse::TooSlow, Instance::new(9, "hostile"));
            first.say(&[done(xid, &[0]), refuse]).await;
            drop(first);
            let mut second = Hostile::accept(&acceptor).await;
            second.welcome(xid.get()).await;
            while let Some((xid, method)) = second.request().await {
                let pay = method == MethodId::of("shop/pay");
                second.say(&[done(xid, if pay { &[250, 1] } else { &[0] })]).await;
            }
        });
        let options = ClientOptions::default()
            .with_timeout(Duration::from_secs(20))
            .with_close_timeout(Duration::from_secs(1));
        let journal = RedbJournal::open(folder.join("a.journal")).unwrap();
        let (client, _) = DurableClient::open(connector, options, journal).unwrap();
        let paid = DurableShopClient(client.clone()).pay("order", 250, 7).await;
        assert!(matches!(paid.outcome, Outcome::Reply(250)), "{:?}", paid.outcome);
        paid.receipt.confirm();
        drop(server);
        client.close().await;
        std::fs::remove_dir_all(&folder).unwrap();
    });
}

const COUNT: StreamMethod<u64, u64> = StreamMethod::new("toy/count");
const COUNT_ON: StreamMethod<u64, u64> = StreamMethod::new("toy/count_on").resumable();

/// Numbers below a limit, and how often they were asked for.
fn counting() -> (ServerBuilder, Arc<AtomicU64>) {
    let calls = Arc::new(AtomicU64::new(0));
    let counted = calls.clone();
    let count = move |_: Context, below: u64, from: u64| {
        counted.fetch_add(1, Ordering::SeqCst);
        async move { stream::iter(from..below) }
    };
    let builder = Server::builder("toy").stream(&COUNT, count.clone()).stream(&COUNT_ON, count);
    (builder, calls)
}

#[test]
fn c305_no_stranger_opens_a_stream_at_a_position_that_its_method_does_not_have() {
    smol::block_on(async {
        let (builder, calls) = counting();
        let client = serve(builder, ClientOptions::default());
        // By hand, since a client of the method would not send it.
        let body = postcard(&(10_u64, 5_u64, 77_u64));
        let opened = client.call_raw(COUNT.id(), body).await;
        assert_eq!(calls.load(Ordering::SeqCst), 0, "{opened:?}");
        let body = postcard(&(10_u64, 0_u64, 77_u64));
        assert_eq!(client.call_raw(COUNT.id(), body).await.ok().unwrap(), Bytes::from_static(&[0]));
        assert_eq!(calls.load(Ordering::SeqCst), 1);
    });
}

fn postcard(value: &impl serde::Serialize) -> Vec<u8> {
    postcard::to_allocvec(value).unwrap()
}

#[test]
fn c306_a_position_at_the_end_of_the_numbers_overflows_nowhere() {
    smol::block_on(async {
        let (builder, _) = counting();
        let client = serve(builder, ClientOptions::default());
        let last = u64::MAX - 3;
        let mut numbers = client.stream(&COUNT_ON, &u64::MAX).from_position(last);
        let mut got = Vec::new();
        while let Some(number) = numbers.next().await {
            got.push(number.unwrap());
        }
        assert_eq!(got, [last, last + 1, last + 2]);
        let endless = |_: Context, _: u64, from: u64| async move {
            stream::iter(from.saturating_sub(9)..=u64::MAX)
        };
        let client =
            serve(Server::builder("toy").stream(&COUNT_ON, endless), ClientOptions::default());
        let mut numbers = client.stream(&COUNT_ON, &1).from_position(u64::MAX - 1);
        let mut got = 0;
        while let Some(number) = numbers.next().await {
            number.unwrap();
            got += 1;
        }
        assert_eq!(got, 11);
    });
}

#[test]
fn c293_an_upload_at_a_server_that_says_it_has_more_than_can_be_breaks() {
    const SUM: UploadMethod<(), u64, u64> = UploadMethod::new("toy/sum").chunk_len(16);
    smol::block_on(async {
        for progress in [[u64::MAX; 3], [1, 2, 0], [u64::MAX, 0, 0], [0, 0, u64::MAX]] {
            // `Opened::Yes` and three numbers.
            let opened = postcard(&(0_u8, progress[0], progress[1], progress[2]));
            let answer =
                move |_: Context, _: Bytes| std::future::ready(Bytes::from(opened.clone()));
            let open = oncewire::protocol::MethodSpec::new(beside(SUM.id(), b"#open"));
            let builder = Server::builder("toy").method_raw(open, answer);
            let client = serve(builder, ClientOptions::default());
            let mut numbers = client.upload(&SUM, &());
            let error = numbers.send(1).await.unwrap_err();
            assert_eq!((error.why, error.executed()), (UploadBreak::Undecodable, Executed::No));
        }
    });
}

/// FNV-1a of the suffix, begun with the name's number.
fn beside(method: MethodId, suffix: &[u8]) -> MethodId {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    MethodId::from_number(suffix.iter().fold(method.number(), step))
}

#[test]
fn c294_what_the_functions_of_uploads_and_streams_hold_of_their_arguments_is_bounded() {
    const KEEP: UploadMethod<Bytes, u64, u64> = UploadMethod::new("toy/keep");
    const GIVE: StreamMethod<Bytes, u64> = StreamMethod::new("toy/give");
    smol::block_on(async {
        let held = Arc::new(AtomicU64::new(0));
        let (kept, given) = (held.clone(), held.clone());
        let keep = move |_: Context, name: Bytes, mut items: Incoming<u64>| {
            kept.fetch_add(name.len() as u64, Ordering::SeqCst);
            async move {
                while items.next().await.is_some() {}
                name.len() as u64
            }
        };
        let give = move |_: Context, name: Bytes, _: u64| {
            given.fetch_add(name.len() as u64, Ordering::SeqCst);
            async move { stream::iter(name).map(u64::from) }
        };
        use smol::stream::StreamExt;
        let builder = Server::builder("toy").upload(&KEEP, keep).stream(&GIVE, give);
        let client = serve(builder, ClientOptions::default());
        let (mut uploads, mut streams) = (Vec::new(), Vec::new());
        let large = Bytes::from(vec![7; 8 << 20]);
        for _ in 0..64 {
            let mut upload = client.upload(&KEEP, &large);
            let _refused = upload.ready().await;
            uploads.push(upload);
            let mut stream = client.stream(&GIVE, &large);
            let _refused = stream.next().await;
            streams.push(stream);
        }
        let held = held.load(Ordering::SeqCst);
        assert!(held <= 64 << 20, "{} MiB", held >> 20);
    });
}

#[test]
fn c295_what_a_server_says_of_a_signature_is_cut_and_written_without_control_characters() {
    smol::block_on(async {
        let (connector, acceptor) = memory::listener();
        let text = format!("() -> \u{1b}[2J\n{}", "a".repeat(1 << 20));
        let server = smol::spawn(async move {
            let mut hostile = Hostile::accept(&acceptor).await;
            hostile.welcome(0).await;
            let (xid, _) = hostile.request().await.expect("the question");
            let answer = postcard(&vec![(0_u32, text)]);
            hostile.say(&[done(xid, &answer)]).await;
            while hostile.request().await.is_some() {}
        });
        let client = Client::new(connector, ClientOptions::default());
        let error = ShopClient(client.clone()).pay(1, 7).result().await.unwrap_err();
        let said = error.to_string();
        assert!(said.len() < 8_000 && !said.contains(char::is_control), "{said:?}");
        let found = client.status().mismatches;
        assert!(found[0].server.len() < 4_000, "{}", found[0].server.len());
        drop(server);
    });
}

#[test]
fn c296_a_panic_of_authorize_hides_a_method_and_spoils_no_comparison() {
    smol::block_on(async {
        let server =
            Server::builder("shop").service(swapped::ShopServer(Swapped)).authorize(|_, method| {
                match method {
                    "shop/pay" => std::panic::resume_unwind(Box::new("planned")),
                    _ => true,
                }
            });
        let client = serve(server, ClientOptions::default());
        let shop = ShopClient(client.clone());
        let refused = Err(CallFailure::NotExecuted(NotExecuted::PermissionDenied));
        assert_eq!(shop.pay(250, 7).await.ok(), refused);
        assert_eq!(shop.ping().await.ok(), Ok(2));
    });
}

#[test]
fn c302_a_resume_that_fails_leaves_the_upload_to_the_next_one() {
    const SUM: UploadMethod<(), u64, u64> = UploadMethod::new("toy/sum").resumable();
    smol::block_on(async {
        let sum = |_: Context, (): (), mut numbers: Incoming<u64>| async move {
            let mut sum = 0;
            while let Some(number) = numbers.next().await {
                sum += number;
            }
            sum
        };
        let client = serve(Server::builder("toy").upload(&SUM, sum), ClientOptions::default());
        let mut begun = client.upload(&SUM, &());
        begun.send(7).await.unwrap();
        begun.flush().await.unwrap();
        let id = begun.detach();
        let mut hasty = client.upload(&SUM, &()).timeout(Duration::ZERO).resume(id);
        let error = hasty.ready().await.unwrap_err();
        assert!(matches!(error.why, UploadBreak::NotOpened(_)), "{error}");
        drop(hasty);
        let mut numbers = client.upload(&SUM, &()).resume(id);
        let position = numbers.ready().await.unwrap();
        if position == 0 {
            // The chunk was on its way.
            numbers.send(7).await.unwrap();
        }
        numbers.send(8).await.unwrap();
        assert_eq!(numbers.commit().await, Ok(15));
    });
}

#[test]
fn c303_methods_are_compared_where_little_may_be_kept() {
    const PAY: Method<(u64, u64), u64> = Method::new("shop/pay").reply_len_max(10);
    const ASK: Method<(u64,), u64> = Method::new("shop/ask").reply_len_max(10);
    smol::block_on(async {
        let server = Server::builder("shop")
            .method(
                &PAY.parameters(&["to", "cents"]),
                |_, (_, cents): (u64, u64)| async move { cents },
            )
            .method(&ASK.parameters(&["what"]), |_, (what,): (u64,)| async move { what })
            .configure(|config| config.kept_per_session_max = 4_000);
        let client = serve(server, ClientOptions::default());
        let paid = client.call(&PAY.parameters(&["cents", "to"]), &(250, 7)).await.ok();
        assert_eq!(paid, Err(CallFailure::NotExecuted(NotExecuted::SignatureMismatch)));
        assert_eq!(client.call(&ASK.parameters(&["what"]), &(3,)).await.ok(), Ok(3));
    });
}
