//! One call that outlives this process: `call --durable FILE`.
//!
//! FILE is the journal of a durable client, and holds one call at most. The call's tag says what it is, and has the method's
//! signature, so that its reply can be shown by a later run that reaches no server. An outcome is never confirmed, so that every
//! later run shows it and none makes the call again; but for "not executed", after which the call may be made again.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use oncewire::files::{LockError, LockFile};
use oncewire::journal::JournalError;
use oncewire::observe::{Event, Source};
use oncewire::redb::RedbJournal;
use oncewire::schema::SignatureTable;
use oncewire::schema::json::Limits;
use oncewire::{
    BoxFuture, BoxStream, Bytes, CallFailure, ClientOptions, Connect, Delivery, DurableCall,
    DurableClient, MethodId, RecoveredCall,
};
use serde_json::{Value, json};
use smol::channel::{Receiver, Sender, bounded};

use crate::address::Address;
use crate::args::CallArgs;
use crate::call::{Prepared, full_name, prepare, show};
use crate::connect::{Target, pause, within, without};
use crate::exit::Failure;
use crate::note;

/// How much longer than the call's own deadline its outcome is waited for.
const GRACE: Duration = Duration::from_secs(1);
/// How often the journal's lock is looked at, and the pause between two looks.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(50);
/// The version of tags.
const TAG_VERSION: u64 = 1;

/// Makes the call that FILE is for, or learns what became of it.
pub(crate) async fn run(args: &CallArgs, file: &Path, target: &Target) -> Result<(), Failure> {
    if let Address::Pipe(_) = args.address {
        let why = "--durable needs a server that outlives this program: that of pipe: does not";
        return Err(Failure::Usage(why.to_owned()));
    }
    let unusable = |error: JournalError| Failure::Journal(error.to_string());
    await_lock(file).await;
    let journal = RedbJournal::open(file).map_err(unusable)?;
    let news = Arc::new(Mutex::new(None));
    let (gate, opened) = bounded(1);
    let connector = Gated { opened, connector: Arc::clone(&target.connector) };
    let (client, left) =
        DurableClient::open(connector, options(args, target, &news), journal).map_err(unusable)?;
    let durable = Durable { args, file, client, gate, news };
    let mut left = left.into_iter();
    match (left.next(), left.next()) {
        (None, _) => durable.make(target).await,
        (Some(call), None) => durable.learn(call).await,
        (Some(_), Some(_)) => {
            let why = "it is the journal of another program: it holds more than one call";
            Err(Failure::file(file, why))
        }
    }
}

/// Waits, but not for long, until no other process has the journal: one that was killed a moment ago may still be on its way out.
async fn await_lock(file: &Path) {
    let mut lock = file.as_os_str().to_owned();
    lock.push(".lock");
    for _ in 0..LOCK_TRIES {
        match LockFile::take(Path::new(&lock)) {
            Err(LockError::Held(_)) => pause(LOCK_PAUSE).await,
            _ => return,
        }
    }
}

fn options(args: &CallArgs, target: &Target, news: &Arc<Mutex<Option<String>>>) -> ClientOptions {
    let (news, dialled) = (Arc::clone(news), args.address.clone());
    let observer = move |_: &Source, event: &Event| {
        let what = match event {
            Event::DialFailed { why, attempts, .. } => {
                let why = without(why, &dialled);
                Some(format!("cannot connect to {dialled}: {why}, attempt {attempts}"))
            }
            Event::SessionRefused { .. }
            | Event::SessionLost { .. }
            | Event::ConnectionClosed { .. } => Some(event.to_string()),
            Event::SessionOpened { .. } | Event::SessionResumed { .. } => None,
            _ => return,
        };
        *news.lock().unwrap_or_else(PoisonError::into_inner) = what;
    };
    let mut options = ClientOptions::default()
        .with_timeout(args.timeout)
        .with_close_timeout(Duration::from_secs(1))
        .with_observer(observer);
    options.token = target.token;
    options
}

struct Durable<'a> {
    args: &'a CallArgs,
    file: &'a Path,
    client: DurableClient,
    /// Dropped when the client may dial.
    gate: Sender<()>,
    /// Why there is no connection, if there is none.
    news: Arc<Mutex<Option<String>>>,
}

impl Durable<'_> {
    /// FILE holds no call.
    async fn make(self, target: &Target) -> Result<(), Failure> {
        let Prepared { name, signature, body, .. } = prepare(self.args, target).await?;
        drop(self.gate);
        let tag = Tag { name, arguments: self.args.arguments.clone(), signature };
        let method = MethodId::of(&tag.name);
        let call = self.client.call_raw(tag.encode(), method, body, self.args.timeout);
        let done = Done { file: self.file, client: &self.client, news: &self.news, before: None };
        done.wait(call, &tag, self.args.timeout).await
    }

    /// FILE holds a call: it is this one, or the command line is refused.
    async fn learn(self, left: RecoveredCall) -> Result<(), Failure> {
        let tag = Tag::decode(left.tag()).ok_or_else(|| {
            let why = "it is the journal of another program, or of a later version of this one";
            Failure::file(self.file, why)
        })?;
        if !tag.is_of(self.args) {
            let holds = format!("{} {}", tag.name, tag.arguments);
            return Err(Failure::OtherCall { path: self.file.to_owned(), holds });
        }
        let mut call = left.raw();
        let done =
            |before| Done { file: self.file, client: &self.client, news: &self.news, before };
        if let Some(delivery) = smol::future::poll_once(&mut call).await {
            return done(Some("the call was made before, and is not made again"))
                .end(delivery, &tag)
                .await;
        }
        drop(self.gate);
        let before = "the call was sent by an earlier run, and is not made again";
        done(Some(before)).wait(call, &tag, self.args.timeout).await
    }
}

/// What is done with an outcome.
struct Done<'a> {
    file: &'a Path,
    client: &'a DurableClient,
    news: &'a Mutex<Option<String>>,
    /// What an earlier run has to do with it.
    before: Option<&'static str>,
}

impl Done<'_> {
    async fn wait(
        self,
        call: DurableCall<Bytes>,
        tag: &Tag,
        time: Duration,
    ) -> Result<(), Failure> {
        let Some(delivery) = within(time.saturating_add(GRACE), call).await else {
            let what = "not known yet whether it was executed";
            let then = "run the same command line again to learn it";
            return Err(Failure::NotYet(format!("{}: {what}{}; {then}", tag.name, self.news())));
        };
        self.end(delivery, tag).await
    }

    async fn end(self, delivery: Delivery<Bytes>, tag: &Tag) -> Result<(), Failure> {
        let Delivery { outcome, receipt } = delivery;
        let result = match outcome.ok() {
            Ok(reply) => show(&tag.name, &tag.signature, &reply).inspect(|()| {
                if let Some(before) = self.before {
                    note(&format!("{before}: its reply is from {}", self.file.display()));
                }
            }),
            Err(failure) => {
                if let CallFailure::NotExecuted(_) = failure {
                    receipt.confirm();
                }
                let before = self.before.map(|before| format!("{before}: ")).unwrap_or_default();
                let news = match failure {
                    CallFailure::NoReply(_) => String::new(),
                    _ => self.news(),
                };
                let why = format!("{}: {before}{failure}{news}", tag.name);
                Err(Failure::NoReply { executed: failure.executed(), why })
            }
        };
        // The session is over, and the journal has all that it is to have.
        self.client.close().await;
        result
    }

    fn news(&self) -> String {
        let news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        news.as_ref().map(|why| format!("; {why}")).unwrap_or_default()
    }
}

/// What a call's tag says.
struct Tag {
    name: String,
    /// As they were written on the command line.
    arguments: String,
    signature: SignatureTable,
}

impl Tag {
    fn encode(&self) -> Vec<u8> {
        let Tag { name, arguments, signature } = self;
        json!({ "oncewire call": TAG_VERSION, "method": name, "arguments": arguments, "signature": signature })
            .to_string()
            .into_bytes()
    }

    fn decode(bytes: &[u8]) -> Option<Tag> {
        let mut tag: Value = serde_json::from_slice(bytes).ok()?;
        if tag.get("oncewire call")?.as_u64()? != TAG_VERSION {
            return None;
        }
        let name = tag.get("method")?.as_str()?.to_owned();
        let arguments = tag.get("arguments")?.as_str()?.to_owned();
        let signature = serde_json::from_value(tag.get_mut("signature")?.take()).ok()?;
        Some(Tag { name, arguments, signature })
    }

    /// Whether this command line asks for the call: the arguments may be written in another way.
    fn is_of(&self, args: &CallArgs) -> bool {
        let body = |json: &str| self.signature.arguments_to_postcard(json, Limits::DEFAULT).ok();
        let ours = body(&self.arguments);
        full_name(&args.method) == self.name && ours.is_some() && body(&args.arguments) == ours
    }
}

/// Dials once the gate is open, that is, gone: what FILE holds may be another program's, or need no server.
struct Gated {
    opened: Receiver<()>,
    connector: Arc<dyn Connect>,
}

impl Connect for Gated {
    fn connect(&self) -> BoxFuture<'_, std::io::Result<BoxStream>> {
        Box::pin(async {
            // Nothing is ever sent on it.
            let _gone = self.opened.recv().await;
            self.connector.connect().await
        })
    }

    fn address(&self) -> String {
        self.connector.address()
    }

    fn is_permanent(&self, error: &std::io::Error) -> bool {
        self.connector.is_permanent(error)
    }

    fn may_carry_token(&self) -> bool {
        self.connector.may_carry_token()
    }

    fn handshake_failed(&self) {
        self.connector.handshake_failed();
    }
}
