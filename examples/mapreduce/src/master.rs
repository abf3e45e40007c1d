//! The master: one task owns the table and hears of everything that happens, and each attempt is a task that makes one call.

use std::fs;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use oncewire::{
    Accept, Client, ClientOptions, Context, Instant, NEVER, NotExecuted, Outcome, Runtime, Server,
    SmolRuntime, Ticket,
};
use smol::channel::{Receiver, Sender, unbounded};
use smol::future::{or, poll_fn};
use viewservice::Address;

use crate::{
    App, Assignment, Job, Master, MasterServer, Phase, Registration, State, Table, Work,
    WorkerClient, WorkerId, files,
};

/// The longest pause before a worker that does not answer is dialled again.
const BACKOFF_MAX: Duration = Duration::from_millis(200);
/// How long a worker may take to say that it ends.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);
/// Progress lines that cannot be written over come no more often.
const PROGRESS_PERIOD: Duration = Duration::from_secs(1);

/// What a master is to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is computed.
    pub app: App,
    /// Of these files.
    pub input: Vec<String>,
    /// A folder that is made for the run: its result will be there.
    pub dir: PathBuf,
    /// Reduce jobs.
    pub reduces: u32,
    /// Bytes of a map job's chunk, about.
    pub chunk_len: u64,
    /// A job that takes longer is given to an idle worker as well.
    pub slow_after: Duration,
    /// Counts each result: what goes wrong without the rule.
    pub naive: bool,
}

/// Lines for people: what happens on stdout, and on stderr how far it is, in one line that is written over.
#[derive(Debug, Default)]
pub struct Screen {
    last: Option<Instant>,
}

impl Screen {
    /// Something has happened. A reader that has gone is no reason to end.
    pub fn line(&mut self, text: &str) {
        let clear = if std::io::stderr().is_terminal() { "\r\x1b[K" } else { "" };
        let _ = write!(std::io::stderr(), "{clear}");
        let _ = writeln!(std::io::stdout(), "{text}");
    }

    fn progress(&mut self, table: &Table) {
        let (now, is_done) = (SmolRuntime::global().now(), table.phase().is_none());
        let is_time = self.last.is_none_or(|last| now.since(last) >= PROGRESS_PERIOD);
        if std::io::stderr().is_terminal() {
            let end = if is_done { "\n" } else { "" };
            let _ = write!(std::io::stderr(), "\r{table}\x1b[K{end}");
        } else if is_done || is_time {
            self.last = Some(now);
            let _ = writeln!(std::io::stderr(), "{table}");
        }
    }
}

/// What the master hears of.
enum Event {
    Joined(Registration, Address),
    Answered(u64, Answer),
    /// The worker of an attempt does not answer. It may be at work all the same.
    Silent(u64, String),
    /// A worker that did not answer is there again, or is gone; and what to say of it.
    Changed(WorkerId, State, String),
}

/// What workers reach.
struct Desk(Sender<Event>);

impl Master for Desk {
    async fn register(&self, _: Context, worker: Registration) -> Result<(), String> {
        let address = Address::parse(&worker.address)?;
        let sent = self.0.send(Event::Joined(worker, address)).await;
        sent.map_err(|_| "the run is over".to_owned())
    }

    async fn is_running(&self, _: Context) {}
}

/// What a worker answers.
type Answer = Result<u64, String>;

/// What a call has brought: an answer, or why there is none, and what to wait for it with.
fn answer(outcome: Outcome<Answer>) -> Result<Answer, (String, Option<Ticket<Answer>>)> {
    use NotExecuted::{Disconnected, NeverConnected, SessionRefused, ShuttingDown};
    match outcome {
        Outcome::Reply(result) => Ok(result),
        Outcome::NoReply(why) => Ok(Err(why.to_string())),
        Outcome::NotExecuted(
            why @ (Disconnected | NeverConnected | SessionRefused | ShuttingDown),
        ) => Err((why.to_string(), None)),
        // It would be the same everywhere.
        Outcome::NotExecuted(why) => Ok(Err(why.to_string())),
        Outcome::Unknown(why, ticket) => Err((why.to_string(), ticket)),
    }
}

/// Makes one attempt, and says what comes of it, however late.
async fn attempt(client: WorkerClient, worker: WorkerId, job: Job, events: Sender<Event>) {
    let attempt = job.attempt;
    let say = async |event| drop(events.send(event).await);
    // No deadline: a job takes as long as it does. The connection of a worker that is dead ends, and that of one that hangs when its
    // keepalive has passed.
    let call = client.do_job(job).fail_fast(true).timeout(NEVER);
    let (why, ticket) = match answer(call.await) {
        Ok(result) => return say(Event::Answered(attempt, result)).await,
        Err(silent) => silent,
    };
    say(Event::Silent(attempt, why)).await;
    // The job goes to another worker meanwhile. This one may yet answer: it was stopped, or its network was.
    if let Some(mut ticket) = ticket
        && let Ok(result) = answer(ticket.wait().await)
    {
        return say(Event::Answered(attempt, result)).await;
    }
    let (state, what) = match client.jobs_done().timeout(NEVER).await.ok() {
        Ok(_) => (State::Idle, "is there again".to_owned()),
        Err(why) => (State::Gone, format!("is gone: {why}")),
    };
    say(Event::Changed(worker, state, what)).await;
}

struct Run {
    plan: Plan,
    chunks: Vec<Work>,
    parts: String,
    table: Table,
    clients: Vec<WorkerClient>,
    sender: Sender<Event>,
}

impl Run {
    fn hand_out(&self, assignment: &Assignment) {
        let Assignment { worker, job: id, attempt, .. } = *assignment;
        let work = match id.phase {
            Phase::Map => self.chunks[id.number as usize].clone(),
            Phase::Reduce => Work::Reduce(self.table.counted(Phase::Map)),
        };
        let (app, parts, reduces) = (self.plan.app, self.parts.clone(), self.plan.reduces);
        let job = Job { id, attempt, app, parts, reduces, work };
        let (client, sender) = (self.clients[worker].clone(), self.sender.clone());
        smol::spawn(self::attempt(client, worker, job, sender)).detach();
    }

    /// Takes note of an event; a line about it, if it is worth one. Fails if the run can come to no end.
    fn hear(&mut self, event: Event) -> Result<Option<String>, String> {
        let table = &mut self.table;
        Ok(match event {
            Event::Joined(Registration { name, server, .. }, address) => {
                let options =
                    ClientOptions::default().with_server(server).with_backoff_max(BACKOFF_MAX);
                self.clients.push(WorkerClient(Client::new(address.connector(), options)));
                table.join(&name);
                Some(format!("{name} joins, at {address}"))
            }
            Event::Answered(attempt, result) => table.answered(attempt, result)?,
            Event::Silent(attempt, why) => Some(table.is_silent(attempt, &why)),
            Event::Changed(worker, state, what) => {
                table.set_state(worker, state);
                Some(format!("{} {what}", table.name(worker)))
            }
        })
    }

    /// Until each job has a result.
    async fn finish(
        &mut self,
        events: &Receiver<Event>,
        screen: &mut Screen,
    ) -> Result<(), String> {
        let runtime = SmolRuntime::global();
        let mut timer = runtime.timer();
        loop {
            while let Some(assignment) = self.table.next(runtime.now()) {
                assignment.note.iter().for_each(|note| screen.line(note));
                self.hand_out(&assignment);
            }
            screen.progress(&self.table);
            if self.table.phase().is_none() {
                return Ok(());
            }
            timer.set(self.table.due().unwrap_or(Instant::FAR_FUTURE));
            let due = async {
                poll_fn(|cx| timer.poll(cx)).await;
                None
            };
            let event = or(async { events.recv().await.ok() }, due).await;
            if let Some(line) = event.map_or(Ok(None), |event| self.hear(event))? {
                screen.line(&line);
            }
        }
    }

    /// Ends the workers that are there. Those that do not answer end by themselves, when they find no master.
    async fn shut_down(&self) {
        let call = |worker: WorkerId| {
            self.clients[worker].shutdown().timeout(SHUTDOWN_TIMEOUT).fail_fast(true).start()
        };
        let calls: Vec<_> = self.table.present().map(call).collect();
        for call in calls {
            let _ = call.await;
        }
    }
}

impl Plan {
    /// Looks at the input, and makes the folder: returns the map jobs, and where what lies between map and reduce will be.
    ///
    /// # Errors
    /// What is wrong with the plan.
    pub fn prepare(&self) -> Result<(Vec<Work>, String), String> {
        let mut chunks = Vec::new();
        for name in &self.input {
            let its = files::chunks(&files::whole_path(name)?, self.chunk_len);
            chunks.extend(its.map_err(|error| format!("{name}: {error}"))?);
        }
        let cannot = |error| format!("cannot make the folder {}: {error}", self.dir.display());
        // A new one: in that of another run, attempts of the same numbers have written.
        fs::create_dir(&self.dir).map_err(cannot)?;
        let parts = fs::canonicalize(&self.dir).map_err(cannot)?.join("parts");
        fs::create_dir(&parts).map_err(cannot)?;
        let parts = parts.to_str().ok_or("the folder's name is no text")?;
        Ok((chunks, parts.to_owned()))
    }

    /// Serves until the result is there, and then ends the workers; returns a line that sums it up.
    ///
    /// # Errors
    /// Why there is no result.
    pub async fn run(
        self,
        (chunks, parts): (Vec<Work>, String),
        acceptor: Box<dyn Accept>,
        screen: &mut Screen,
    ) -> Result<String, String> {
        let (sender, events) = unbounded();
        let server =
            Server::builder("mapreduce-master").service(MasterServer(Desk(sender.clone())));
        let server = server.build().map_err(|error| error.to_string())?;
        let serving = async {
            let ended = server.serve(acceptor).await;
            Err(ended.map_or_else(|error| error.to_string(), |()| "nothing is served".to_owned()))
        };
        let table = Table::new(chunks.len(), self.reduces as usize, self.slow_after, self.naive);
        let mut run = Run { plan: self, chunks, parts, table, clients: Vec::new(), sender };
        let work = async {
            run.finish(&events, screen).await?;
            let (dir, parts) = (run.plan.dir.clone(), run.parts.clone());
            let counted = run.table.counted(Phase::Reduce);
            let result = smol::unblock(move || files::publish(&dir, &parts, &counted)).await?;
            run.shut_down().await;
            // An attempt that is still under way somewhere fails now, and is not missed.
            if let Err(error) = fs::remove_dir_all(&run.parts) {
                screen.line(&format!("{} could not be removed: {error}", run.parts));
            }
            Ok(format!("{}; result in {}", run.table.summary(), result.display()))
        };
        or(work, serving).await
    }
}
