//! The loop: wait for progress, kill a process, start it again; in the end, compare the journals.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use oncewire_core::Instant;
use oncewire_driver::{Runtime, SmolRuntime};

use super::check::Journals;
use super::netns::DOWN_MAX;
use super::stage::{Process, Stage, What, Who, tell_to_die};
use super::{Failure, Kills, Options, Report, Transport};
use crate::rng::Rng;

/// If no process is stopped and no reply comes for this long, the run has failed.
const GIVE_UP_AFTER: Duration = Duration::from_secs(20);
/// The longest time that a run may take for each kill, and once more for its end.
const KILL_TIME_MAX: Duration = Duration::from_secs(3);
/// The most replies between two kills.
const REPLIES_MAX: u64 = 60;
/// The longest time that a process is stopped. Longer than the keepalive, so that some are taken for dead.
const STOP_MS_MAX: u64 = 500;

/// What to do to which process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blow {
    KillServer,
    KillClient(usize),
    KillRelay,
    StopServer,
    StopClient(usize),
    DropLink,
}

/// Who was stopped; a client by its number. The link between namespaces is one who can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopped {
    Server,
    Client(usize),
    Link,
}

struct Run {
    chance: Rng,
    options: Options,
    runtime: std::sync::Arc<SmolRuntime>,
    /// When the run has taken too long.
    end: Instant,
    kills: Kills,
    server: Process,
    clients: Vec<Process>,
    relays: BTreeMap<u64, UnixStream>,
    /// Who is to go on, when.
    stops: Vec<(Instant, Stopped, u32)>,
    /// Clients that have written everything down.
    done: usize,
    // Dropped last: the others write to its directory.
    stage: Stage,
}

/// Runs the processes, kills so many of them, and says how the calls fared.
///
/// # Errors
/// A promise that was broken, or why it could not be found out.
pub fn run(options: &Options) -> Result<Report, Failure> {
    let runtime = SmolRuntime::global();
    let stage = Stage::new(options)?;
    let server = stage.start_server(1)?;
    let start = |client| stage.start_client(client, 1);
    let clients = (0..options.clients).map(start).collect::<Result<Vec<_>, _>>()?;
    let mut run = Run {
        chance: Rng::new(options.seed),
        options: options.clone(),
        end: runtime.now() + GIVE_UP_AFTER + KILL_TIME_MAX.saturating_mul(options.kills as u32 + 1),
        runtime,
        kills: Kills::default(),
        server,
        clients,
        relays: BTreeMap::new(),
        stops: Vec::new(),
        done: 0,
        stage,
    };
    while run.kills.all() < options.kills {
        let replies = run.chance.range(1, REPLIES_MAX);
        run.await_replies(replies)?;
        run.strike()?;
    }
    run.await_replies(REPLIES_MAX)?;
    run.finish()?;
    let tally = match Journals::read(&run.stage.dir)? {
        Ok(journals) => journals.check().map_err(Failure::Violation)?,
        Err(violation) => return Err(Failure::Violation(violation)),
    };
    let link = run.stage.netns.as_ref().map(|netns| netns.link.clone());
    Ok(Report { transport: options.transport, link, kills: run.kills, tally })
}

impl Run {
    /// Waits until clients had so many replies, and lets those go on who were stopped for long enough.
    fn await_replies(&mut self, replies: u64) -> Result<(), Failure> {
        let mut left = replies;
        let mut until = self.runtime.now() + GIVE_UP_AFTER;
        while left > 0 {
            if let Some(What::Progress) = self.next(until)? {
                left -= 1;
                until = self.runtime.now() + GIVE_UP_AFTER;
            }
        }
        Ok(())
    }

    /// The next report, if it comes before a stopped process must be continued.
    fn next(&mut self, until: Instant) -> Result<Option<What>, Failure> {
        let now = self.runtime.now();
        if now >= self.end {
            return Err(Failure::Wedged(format!("too slow, after {:?}", self.kills)));
        }
        if now >= until {
            let why = format!("no reply for {} s after {:?}", GIVE_UP_AFTER.as_secs(), self.kills);
            return Err(Failure::Wedged(why));
        }
        let soonest = self.stops.iter().map(|(at, ..)| *at).fold(until, Instant::min);
        let event = self.stage.next(soonest.since(now));
        self.resume_due()?;
        let Some((who, what)) = event else { return Ok(None) };
        match (who, &what) {
            (_, What::Joined(line)) => self.join(who, line.try_clone()?),
            (Who::Relay(number), What::Left) => {
                self.relays.remove(&number);
            }
            (Who::Server(life), What::Left) if life == self.server.life => {
                return Err(Failure::Ended(format!("life {life} of the server")));
            }
            (Who::Client(client, life), What::Left)
                if self.done == 0 && self.clients[client as usize].life == life =>
            {
                return Err(Failure::Ended(format!("life {life} of client {client}")));
            }
            (_, What::Done) => self.done += 1,
            _ => {}
        }
        Ok(Some(what))
    }

    fn join(&mut self, who: Who, line: UnixStream) {
        match who {
            Who::Server(life) if life == self.server.life => self.server.line = Some(line),
            Who::Client(client, life) if self.clients[client as usize].life == life => {
                self.clients[client as usize].line = Some(line);
            }
            Who::Relay(number) => {
                self.relays.insert(number, line);
            }
            _ => {}
        }
    }

    fn resume_due(&mut self) -> Result<(), Failure> {
        let now = self.runtime.now();
        let stops = std::mem::take(&mut self.stops);
        let (due, later) = stops.into_iter().partition(|(at, ..)| *at <= now);
        self.stops = later;
        let due: Vec<(Instant, Stopped, u32)> = due;
        for (_, who, life) in due {
            match self.process(who) {
                // Killed meanwhile, otherwise.
                Some(process) if process.life == life => process.resume()?,
                Some(_) => {}
                None => self.set_link(true)?,
            }
        }
        Ok(())
    }

    fn process(&mut self, who: Stopped) -> Option<&mut Process> {
        match who {
            Stopped::Server => Some(&mut self.server),
            Stopped::Client(client) => Some(&mut self.clients[client]),
            Stopped::Link => None,
        }
    }

    fn set_link(&self, up: bool) -> Result<(), Failure> {
        match &self.stage.netns {
            Some(netns) => Ok(netns.set_link(up)?),
            None => Ok(()),
        }
    }

    /// Kills or stops a process.
    fn strike(&mut self) -> Result<(), Failure> {
        let client = self.chance.below(self.clients.len() as u64) as usize;
        let pipe = self.options.transport == Transport::Pipe;
        let blow = match self.chance.below(10) {
            0..3 => Blow::KillServer,
            3..5 => Blow::KillClient(client),
            5..7 if pipe => Blow::KillRelay,
            5..7 if self.stage.netns.is_some() => Blow::DropLink,
            5..8 => Blow::StopServer,
            _ => Blow::StopClient(client),
        };
        match blow {
            Blow::KillServer => {
                self.server.kill()?;
                self.server = self.stage.start_server(self.server.life + 1)?;
                self.kills.servers += 1;
            }
            Blow::KillClient(client) => {
                let life = self.clients[client].life + 1;
                self.clients[client].kill()?;
                self.clients[client] = self.stage.start_client(client as u32, life)?;
                self.kills.clients += 1;
            }
            Blow::KillRelay => self.kill_relay(),
            Blow::StopServer => {
                self.kills.server_stops += u64::from(self.stop(Stopped::Server)?);
            }
            Blow::DropLink => self.drop_link()?,
            Blow::StopClient(client) => {
                self.kills.client_stops += u64::from(self.stop(Stopped::Client(client))?);
            }
        }
        Ok(())
    }

    fn kill_relay(&mut self) {
        let Some(which) = self.relays.len().checked_sub(1) else { return };
        let which = self.chance.range(0, which as u64) as usize;
        let Some(number) = self.relays.keys().nth(which).copied() else { return };
        // It may be dying already.
        if self.relays.remove(&number).is_some_and(|line| tell_to_die(&line).is_ok()) {
            self.kills.relays += 1;
        }
    }

    fn drop_link(&mut self) -> Result<(), Failure> {
        if self.stops.iter().any(|(_, who, _)| *who == Stopped::Link) {
            return Ok(());
        }
        let time = Duration::from_millis(self.chance.range(1, DOWN_MAX.as_millis() as u64));
        self.set_link(false)?;
        self.stops.push((self.runtime.now() + time, Stopped::Link, 0));
        self.kills.link_drops += 1;
        Ok(())
    }

    fn stop(&mut self, who: Stopped) -> Result<bool, Failure> {
        let time = Duration::from_millis(self.chance.range(1, STOP_MS_MAX));
        let at = self.runtime.now() + time;
        let Some(process) = self.process(who) else { return Ok(false) };
        let life = process.life;
        let stopped = process.stop()?;
        if stopped {
            self.stops.push((at, who, life));
        }
        Ok(stopped)
    }

    /// Lets all processes continue and finish, and waits for them.
    fn finish(&mut self) -> Result<(), Failure> {
        let until = self.runtime.now() + GIVE_UP_AFTER;
        let joined = |run: &Run| run.clients.iter().all(|client| client.line.is_some());
        while !self.stops.is_empty() || !joined(self) {
            self.next(until)?;
        }
        for client in &mut self.clients {
            client.quit()?;
        }
        let until = self.runtime.now() + GIVE_UP_AFTER;
        while self.done < self.clients.len() {
            self.next(until)?;
        }
        for (number, client) in self.clients.iter_mut().enumerate() {
            if !client.wait()? {
                return Err(Failure::Ended(format!("client {number}")));
            }
        }
        self.server.kill()?;
        self.server.life = 0;
        let until = self.runtime.now() + GIVE_UP_AFTER;
        while !self.relays.is_empty() {
            self.next(until)?;
        }
        Ok(())
    }
}
