//! The kind of world that a seed selects.

use std::time::Duration;

use oncewire_driver::protocol::{ServerConfig, ServerCounters};
use oncewire_driver::tokens::Tokens;
use oncewire_driver::{ClientOptions, Token};
pub use oncewire_sim::parts::{MS, SECOND};

use super::executor::{Policy, Schedule};
use super::net::LinkStyle;
use crate::rng::Rng;

/// The kind of a world.
#[derive(Clone, Debug)]
pub struct Profile {
    /// The seed.
    pub seed: u64,
    /// Nothing goes wrong, nothing is slow, and every call must end as fast as its handler and the link allow.
    pub brisk: bool,
    /// Nothing goes wrong, but bodies take longer than the keepalive to pass: no connection may end by that.
    pub slow: bool,
    /// Servers that live at the start behind the one address.
    pub servers: usize,
    /// Clients.
    pub clients: usize,
    /// Tasks that share a client.
    pub actors: usize,
    /// What each of them does, in steps.
    pub steps: u64,
    /// Longest pause between faults; none happen if it is 0.
    pub fault_pause: u64,
    /// How long faults happen.
    pub faults_until: u64,
    /// Servers crash, drain, or get company.
    pub servers_change: bool,
    /// An accept fails once in so many times.
    pub accept_error_in: u64,
    /// A handler is unusual once in so many times.
    pub odd_in: u64,
    /// Longest delay of a handler.
    pub handler_delay_max: u64,
    /// Longest timeout of a call that has a short one.
    pub short_timeout_max: u64,
    /// Futures are held without being polled.
    pub holds: bool,
    /// Clients are closed while others use them.
    pub closes: bool,
    /// Room for kept replies is short: calls may be refused.
    pub tight: bool,
    /// Some bodies are large: they leave and arrive in pieces, and some in memory of their own.
    pub large: bool,
    /// Peers send to servers without end.
    pub floods: bool,
    /// Servers send to their clients without end.
    pub flooded_clients: bool,
    /// Servers demand a token of their clients: of two names, each of which has two.
    pub tokens: bool,
    /// Some handlers wait until their callers give up.
    pub waits: bool,
    /// How many calls may run and wait, if there are so few that some wait or find no place.
    pub limits: Option<Limits>,
    /// Clocks of processes jump forward and stand.
    pub clocks: bool,
    /// Clients compare what they mean by the typed methods, and some servers mean something else.
    pub compares: bool,
    /// How links behave.
    pub link: LinkStyle,
    /// How tasks are scheduled.
    pub schedule: Schedule,
    /// What the clients are configured with.
    pub options: ClientOptions,
    /// Slots granted.
    pub slots: u32,
    /// The server's keepalive.
    pub keepalive: Duration,
    /// The server's lease.
    pub lease: Duration,
    /// Bytes kept for a session at most.
    pub kept_max: u64,
    /// Bytes of requests in all, if there are so few that long ones are dropped as they come.
    pub requests_max: Option<u64>,
}

/// Names and their tokens.
const TOKENS: [(&str, &str); 4] = [
    ("alice", "alices first token"),
    ("alice", "alices second token"),
    ("bob", "bobs first token"),
    ("bob", "bobs second token"),
];

/// The table that servers have.
///
/// # Panics
/// If there is something wrong with it.
pub fn tokens() -> Tokens {
    let entry = |(name, token): (&'static str, &str)| {
        (name, Token::new(token.as_bytes()).expect("of a length that tokens have"))
    };
    Tokens::new(TOKENS.map(entry)).expect("a sound table")
}

/// How many calls may run and wait at a server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Calls of a typed method that run at once.
    pub method: usize,
    /// Calls of it that wait.
    pub method_queue: usize,
    /// Calls that run at once.
    pub server: usize,
    /// Calls that wait.
    pub server_queue: usize,
}

impl Profile {
    /// The world of a seed.
    pub fn of(seed: u64) -> Profile {
        let mut rng = Rng::apart(seed, 3);
        let brisk = rng.one_in(4);
        let fault_pause = rng.pick(&[0, 50, 300, 2_000]) * MS;
        let options = client_options(&mut rng);
        let mut profile = Profile {
            seed,
            brisk,
            slow: false,
            servers: 1 + usize::from(rng.one_in(6)),
            clients: rng.range(1, 3) as usize,
            actors: rng.range(1, 5) as usize,
            steps: rng.range(3, 24),
            fault_pause,
            faults_until: rng.pick(&[500, 5_000, 40_000]) * MS,
            servers_change: rng.one_in(2),
            accept_error_in: rng.pick(&[0, 4, 20]),
            odd_in: rng.pick(&[3, 8, 30]),
            handler_delay_max: rng.pick(&[1, 60, 900, 8_000]) * MS,
            short_timeout_max: rng.pick(&[2, 40, 500]) * MS,
            holds: rng.one_in(2),
            closes: rng.one_in(5),
            tight: rng.one_in(6),
            large: false,
            floods: Rng::apart(seed, 0x6d).one_in(5),
            flooded_clients: Rng::apart(seed, 0x72).one_in(7),
            tokens: Rng::apart(seed, 0x76).one_in(6),
            waits: Rng::apart(seed, 0x73).one_in(5),
            limits: None,
            clocks: false,
            compares: Rng::apart(seed, 0x78).one_in(4),
            link: link_style(&mut rng),
            schedule: schedule(&mut rng),
            options,
            slots: rng.pick(&[1, 2, 4, 8, 1024, 1024]),
            keepalive: Duration::from_millis(rng.pick(&[400, 2_000, 10_000])),
            lease: Duration::from_secs(rng.pick(&[60, 300])),
            kept_max: u64::MAX,
            requests_max: None,
        };
        if profile.tight {
            profile.kept_max = rng.range(3_000, 20_000);
        }
        let mut apart = Rng::apart(seed, 7);
        if brisk {
            profile.become_brisk();
        } else if apart.one_in(5) {
            profile.become_slow(&mut apart);
        }
        if !brisk && !profile.slow {
            profile.clocks = Rng::apart(seed, 0x74).one_in(6);
            profile.limit(&mut Rng::apart(seed, 0x75));
        }
        profile.stay_possible();
        // Those who flood show none.
        profile.tokens &= !profile.floods;
        if profile.tokens {
            let shown = Rng::apart(seed, 0x77).below(TOKENS.len() as u64) as usize;
            profile.options.token = Token::new(TOKENS[shown].1.as_bytes());
        }
        profile.choose_bodies();
        profile
    }

    /// Whether bodies are large, and memory for them is scarce.
    fn choose_bodies(&mut self) {
        // Small pieces would take more polls than a world has.
        self.large = (self.slow || Rng::apart(self.seed, 0x6e).one_in(3))
            && !self.brisk
            && !self.tight
            && self.link.piece_max >= 1_000
            && self.link.capacity >= 1_000;
        let mut scarce = Rng::apart(self.seed, 0x6f);
        // A server without room for a refusal closes the connection: not where none may end.
        if self.large && !self.slow && scarce.one_in(2) {
            self.requests_max = Some(scarce.range(100_000, 400_000));
        }
    }

    /// On a link that is too slow for its timeouts, no client ever connects.
    fn stay_possible(&mut self) {
        if self.link.piece_max < 100 || self.link.capacity < 1_000 {
            self.link.delay_max = self.link.delay_max.min(MS / 2);
        }
        if self.link.delay_max > MS {
            self.keepalive = self.keepalive.max(Duration::from_secs(2));
            self.options.connect_timeout = self.options.connect_timeout.max(Duration::from_secs(2));
        }
    }

    fn limit(&mut self, rng: &mut Rng) {
        if !rng.one_in(6) {
            return;
        }
        self.limits = Some(Limits {
            method: rng.pick(&[1, 1, 2, 5]),
            method_queue: rng.pick(&[2, 6, 50]),
            server: rng.pick(&[2, 4, 1_000]),
            server_queue: rng.pick(&[4, 100]),
        });
        // Handlers that wait for something, so that calls wait for them; not so long that their callers cannot.
        self.odd_in = self.odd_in.min(3);
        self.handler_delay_max = self.handler_delay_max.clamp(20 * MS, 60 * MS);
    }

    fn become_brisk(&mut self) {
        self.servers = 1;
        self.fault_pause = 0;
        self.faults_until = 0;
        self.servers_change = false;
        self.accept_error_in = 0;
        self.closes = false;
        self.tight = false;
        self.options.close_timeout = self.options.close_timeout.max(Duration::from_secs(5));
        self.slots = 1024;
        self.options.slots = 1024;
        self.options.calls_max = 65_536;
        self.options.connect_timeout = Duration::from_secs(10);
        self.schedule.slow_in = 0;
        // A spurious poll would hide a lost wake-up.
        self.schedule.spurious_in = 0;
        self.link.delay_max = self.link.delay_max.min(MS / 2);
        self.link.cut_in = 0;
        self.link.reset_unread_in = 0;
        self.link.capacity = self.link.capacity.max(4 << 10);
        self.link.piece_max = self.link.piece_max.max(512);
        self.keepalive = Duration::from_secs(10);
    }

    fn become_slow(&mut self, rng: &mut Rng) {
        self.slow = true;
        self.servers = 1;
        self.clients = self.clients.min(2);
        self.actors = self.actors.min(3);
        self.steps = self.steps.min(12);
        self.fault_pause = 0;
        self.faults_until = 0;
        self.servers_change = false;
        self.accept_error_in = 0;
        self.closes = false;
        self.tight = false;
        self.kept_max = u64::MAX;
        self.options.calls_max = 65_536;
        self.options.connect_timeout = Duration::from_secs(10);
        self.schedule.slow_in = 0;
        self.floods = false;
        self.flooded_clients = false;
        self.link.rate = rng.pick(&[60_000, 200_000]);
        self.link.capacity = rng.pick(&[4 << 10, 64 << 10, 1 << 20]);
        self.link.delay_max = self.link.delay_max.min(20 * MS);
        self.link.piece_max = self.link.piece_max.max(1_000);
        self.link.cut_in = 0;
        self.link.reset_unread_in = 0;
        self.keepalive = Duration::from_millis(400);
    }

    /// Whether a session may end though its client is well.
    pub fn sessions_may_end(&self) -> bool {
        self.servers_change || self.servers > 1 || self.clocks
    }

    /// Which budget of a server its counters exceed.
    pub fn over_budget(&self, counters: &ServerCounters) -> Option<&'static str> {
        let kept = self.kept_max.saturating_mul(counters.sessions as u64);
        let requests = counters.request_bytes + counters.coming_bytes + counters.table_bytes;
        if self.tight && counters.kept_bytes > kept {
            Some("what sessions may keep")
        } else if counters.half_sent_bytes > counters.kept_bytes {
            Some("what is kept")
        } else if self.requests_max.is_some_and(|max| requests > max) {
            Some("what requests may take")
        } else {
            None
        }
    }

    /// Applies the profile to a server's description.
    pub fn configure(&self, config: &mut ServerConfig) {
        config.slots = self.slots;
        config.keepalive = self.keepalive;
        config.lease = self.lease;
        // Outages last longer than the default.
        config.lease_unused = self.lease;
        config.request_len_max = if self.large { 256 << 10 } else { 64 << 10 };
        config.reply_len_max = if self.large { 256 << 10 } else { 16 << 10 };
        if self.tight {
            config.kept_per_session_max = self.kept_max;
        }
        config.requests_max = self.requests_max.unwrap_or(config.requests_max);
    }
}

fn client_options(rng: &mut Rng) -> ClientOptions {
    let mut options = ClientOptions::default();
    options.slots = rng.pick(&[1, 2, 3, 8, 64, 1024]);
    options.timeout = Duration::from_secs(rng.pick(&[5, 30]));
    options.fail_fast = rng.one_in(8);
    options.connect_timeout = Duration::from_millis(rng.pick(&[200, 2_000, 10_000]));
    options.backoff_max = Duration::from_millis(rng.pick(&[100, 1_000, 5_000]));
    options.close_timeout = Duration::from_millis(rng.pick(&[30, 1_000, 5_000, 60_000]));
    if rng.one_in(8) {
        options.calls_max = 6;
    }
    options
}

fn link_style(rng: &mut Rng) -> LinkStyle {
    LinkStyle {
        rate: 0,
        capacity: rng.pick(&[100, 700, 4 << 10, 64 << 10, 64 << 10]),
        delay_max: rng.pick(&[MS / 20, MS / 2, 20 * MS, 200 * MS]),
        piece_max: rng.pick(&[1, 7, 100, 4 << 10, 64 << 10, 64 << 10]),
        stutter_in: rng.pick(&[0, 0, 3, 10]),
        cut_in: rng.pick(&[0, 2, 6]),
        cut_below: rng.pick(&[300, 3_000, 40_000]),
        reset_unread_in: rng.pick(&[0, 2]),
        forgets_in: 0,
    }
}

fn schedule(rng: &mut Rng) -> Schedule {
    Schedule {
        policy: rng.pick(&[Policy::Any, Policy::Any, Policy::Oldest, Policy::Newest]),
        spurious_in: rng.pick(&[0, 0, 0, 10]),
        slow_in: rng.pick(&[0, 0, 6]),
    }
}
