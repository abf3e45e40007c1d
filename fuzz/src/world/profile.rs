//! The kind of world that a seed selects.

use std::time::Duration;

use oncewire_core::wire;
use oncewire_core::{
    ClientConfig, MethodId, MethodSpec, NEVER, ServerConfig, ServerId, ServiceName, SessionId,
};

use crate::rng::{Rng, mix};

/// Nanoseconds in a millisecond.
pub const MS: u64 = 1_000_000;

/// By how many nanoseconds a clock may show less than before, now and then.
pub const BACK_MAX: u64 = 50 * MS;

/// Executed at most once; recorded where there is a ledger.
pub const PLAIN: MethodId = MethodId::of("world/plain");
/// The same, with long replies.
pub const LONG: MethodId = MethodId::of("world/long");
/// Declared idempotent.
pub const IDEM: MethodId = MethodId::of("world/idem");
/// Its effects and its record are one transaction (S29).
pub const TRANSACTION: MethodId = MethodId::of("world/transaction");
/// Not offered.
pub const ABSENT: MethodId = MethodId::of("world/absent");

/// Longest reply of a short method, and of a long one.
pub const REPLY_MAX: u32 = 96;
/// Longest reply of `LONG`.
pub const LONG_REPLY_MAX: u32 = 4000;

/// What every server offers.
pub fn methods() -> [MethodSpec; 4] {
    let spec = |id| {
        let mut spec = MethodSpec::new(id);
        spec.reply_len_max = REPLY_MAX;
        spec
    };
    let mut all = [spec(PLAIN), spec(LONG), spec(IDEM), spec(TRANSACTION)];
    all[1].reply_len_max = LONG_REPLY_MAX;
    all[2].idempotent = true;
    all
}

/// How a machine is broken on purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Broken {
    /// It is not.
    #[default]
    #[value(skip)]
    No,
    /// The server runs every request that comes, also one that it has run.
    NoDedup,
    /// The server forgets kept replies after a time, as many do.
    Forgetful,
    /// The client uses an xid twice.
    Reuse,
    /// A stranger's calls behind its `Hello` are taken, as if its session were recorded.
    Early,
    /// A client says `Goodbye` to a server that drains, whatever is unsettled.
    HastyGoodbye,
    /// A client does not notice that its journal is an old copy.
    OldJournal,
    /// Handshakes are judged only when peers are looked at, a quarter of the keepalive apart.
    Lazy,
    /// An acknowledged reply counts as gone though half of it has not left.
    Undercount,
    /// A client takes any `NotSeen` for the answer to its last `Ask`.
    StaleNotSeen,
    /// A server takes the bits of an `Ack` for what its client has sent since, too.
    StaleAck,
    /// A server whose digest of a request leaves the metadata out.
    BareDigest,
    /// A server takes the session that it has for the latest, though its client was at another one with the same ledger.
    Trusting,
    /// A server that has lost a session still writes its records.
    Unfenced,
    /// A server that has lost a session has its records deleted when it gives that up.
    Deleting,
    /// A claim is answered with what the ledger had when it was made, not when the session became its server's.
    EarlyClaim,
}

impl Broken {
    /// Whether it is one of servers that share a ledger.
    fn shares(self) -> bool {
        use Broken::{Deleting, EarlyClaim, Trusting, Unfenced};
        matches!(self, Trusting | Unfenced | Deleting | EarlyClaim)
    }
}

/// The kind of a world.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Clients.
    pub clients: usize,
    /// Servers behind the one address.
    pub hosts: usize,
    /// Whether servers keep a ledger.
    pub ledger: bool,
    /// Two servers have one ledger (S34).
    pub shares: bool,
    /// Slots granted to a session.
    pub slots: u32,
    /// Bytes of the slices that the machines write to.
    pub out_len: usize,
    /// A turn brings a fault once in so many times.
    pub fault_in: u64,
    /// A call is unusual once in so many times, and so is what a handler does.
    pub odd_in: u64,
    /// Bytes are split once in so many deliveries.
    pub split_in: u64,
    /// Bytes that a link carries in a second each way; 0 if there is no limit.
    pub rate: u64,
    /// The rest of a frame of which a part was written leaves in one piece, as drivers do with large ones.
    pub takes_rest: bool,
    /// The first client's connections may be damaged.
    pub corrupt: bool,
    /// Links lose whole frames without breaking (S27).
    pub lossy: bool,
    /// Such links deliver some frames twice, the second time later.
    pub doubles: bool,
    /// Clocks drift.
    pub drift: bool,
    /// Clocks show an earlier time now and then, and may jump back by an hour.
    pub back: bool,
    /// The first client with a journal: all from there on have one.
    pub durable_from: usize,
    /// Old copies of journals are put back. Not on lossy links, where what the old copy asks for may stay unanswered (S27).
    pub old_journals: bool,
    /// Others connect too, and do what no client does.
    pub strangers: bool,
    /// Clients close their connections as soon as everything is said (W62).
    pub leaves: bool,
    /// Servers drain often.
    pub rolling: bool,
    /// Long replies are in shared memory.
    pub shared: bool,
    /// Longest delay of a handler, in nanoseconds.
    pub delay_max: u64,
    /// What the clients are configured with.
    pub client: ClientConfig,
    /// What the servers are configured with.
    pub server: ServerConfig,
    /// How a machine is broken on purpose.
    pub broken: Broken,
}

fn client_config(rng: &mut Rng) -> ClientConfig {
    let mut client = ClientConfig::default();
    client.slots = 8;
    client.reply_len_max = 4096;
    client.ack_delay = Duration::from_millis([0, 5, 100][rng.below(3) as usize]);
    client.ack_bytes = [64, 1_000, 64 << 10][rng.below(3) as usize];
    client.calls_max = 40;
    client.pending_bytes_max = 64 << 10;
    client
}

impl Profile {
    /// The world of a seed.
    pub fn of(seed: u64, broken: Broken) -> Profile {
        let mut rng = Rng::new(mix(seed ^ 0x7072_6f66));
        let slots = [1, 2, 3, 4, 6, 8, 8, 8][rng.below(8) as usize];
        let mut server = ServerConfig::new(
            ServerId::from_bytes([0; 16]),
            ServiceName::new("world").expect("short"),
        );
        server.slots = slots;
        server.request_len_max = 8192;
        server.reply_len_max = 4096;
        server.keepalive = Duration::from_millis([400, 2_000, 10_000][rng.below(3) as usize]);
        server.lease = Duration::from_millis([1_500, 20_000, 300_000][rng.below(3) as usize]);
        server.lease_unused = Duration::from_millis([500, 10_000][rng.below(2) as usize]);
        match rng.below(6) {
            0 => server.kept_max = rng.range(300, 6_000),
            1 => server.kept_per_principal_max = rng.range(300, 5_000),
            2 => server.kept_per_session_max = rng.range(200, 4_500),
            _ => {}
        }
        let client = client_config(&mut rng);
        let mut profile = Profile {
            clients: rng.range(1, 8) as usize,
            hosts: 1 + usize::from(rng.one_in(6)),
            ledger: rng.one_in(3),
            shares: false,
            slots,
            out_len: [wire::CONTROL_LEN_MAX, 700, 4096, 16 << 10][rng.below(4) as usize],
            fault_in: [5, 8, 8, 12][rng.below(4) as usize],
            odd_in: [4, 12, 24][rng.below(3) as usize],
            split_in: [3, 10, 40][rng.below(3) as usize],
            rate: 0,
            takes_rest: false,
            corrupt: rng.one_in(10),
            lossy: rng.one_in(8),
            doubles: false,
            drift: rng.one_in(2),
            back: false,
            durable_from: usize::MAX,
            old_journals: false,
            strangers: false,
            leaves: false,
            rolling: false,
            shared: false,
            delay_max: [2, 50, 4_000][rng.below(3) as usize] * MS,
            client,
            server,
            broken,
        };
        let mut apart = Rng::new(mix(seed ^ 0x7261_7465));
        profile.takes_rest = apart.one_in(3);
        if apart.one_in(12) && !profile.lossy {
            // The longest bodies take one to four keepalives.
            profile.rate = [3_000, 10_000][apart.below(2) as usize];
            profile.server.keepalive = Duration::from_millis(400);
            profile.odd_in = 4;
            // A link is to live for several keepalives.
            profile.fault_in = 600;
        }
        profile.add_kinds(Rng::apart(seed, 0x6b69_6e64));
        profile.share(Rng::apart(seed, 0x7368_6172).one_in(8));
        profile.break_it();
        profile.doubles &= profile.lossy;
        if profile.lossy {
            profile.out_len = 16 << 10;
            profile.server.lossy = true;
            let after = Duration::from_millis([2, 20, 300][rng.below(3) as usize]);
            profile.client.resend_after = Some(after);
        }
        profile
    }

    /// The same world made small, so that its end comes soon.
    pub fn shrink(&mut self) {
        self.clients = self.clients.min(3);
        self.delay_max = self.delay_max.min(50 * MS);
        self.server.lease = self.server.lease.min(Duration::from_millis(1_500));
        self.server.lease_unused = Duration::from_millis(500);
        self.server.keepalive = self.server.keepalive.max(Duration::from_secs(2));
        self.old_journals &= self.durable_from < self.clients;
    }

    /// Each of these has a share of all worlds, whatever else is in them.
    fn add_kinds(&mut self, mut rng: Rng) {
        let millis = |ms| Duration::from_millis(ms);
        self.doubles = !rng.one_in(4);
        self.back = rng.one_in(4);
        if rng.one_in(6) {
            self.durable_from = usize::from(self.corrupt || rng.one_in(3));
            self.old_journals = rng.one_in(3);
        }
        self.server.records_sessions = self.ledger && !rng.one_in(3);
        self.strangers = rng.one_in(4);
        self.leaves = rng.one_in(3);
        self.rolling = rng.one_in(8);
        self.shared = rng.one_in(2);
        if rng.one_in(6) {
            self.server.keepalive = [millis(60_000), millis(3_600_000), NEVER][rng.index(3)];
        } else if rng.one_in(12) {
            self.client.keepalive = NEVER;
        }
        if rng.one_in(3) {
            self.server.handshake_timeout = millis(rng.pick(&[50, 1_000, 100_000]));
            self.client.handshake_timeout = millis(rng.pick(&[1_000, 100_000]));
            self.server.frame_timeout = millis(rng.pick(&[500, 5_000]));
        }
    }

    /// Drawn apart from the rest, so that the other worlds stay what they were.
    fn share(&mut self, chosen: bool) {
        self.shares = self.broken.shares() || chosen && self.broken == Broken::No;
        if self.shares {
            (self.hosts, self.ledger, self.corrupt) = (2, true, false);
            self.server.records_sessions = true;
            self.server.shares_records = true;
        }
    }

    /// Whether a peer may be silent for so long that a link on which nothing passes is not found.
    pub fn is_patient(&self) -> bool {
        let long = Duration::from_secs(60);
        self.server.keepalive >= long
            || self.client.keepalive == NEVER
            || self.client.handshake_timeout >= long
    }

    /// Whether a client has a journal.
    pub fn is_durable(&self, p: usize) -> bool {
        p >= self.durable_from
    }

    fn break_it(&mut self) {
        match self.broken {
            Broken::No => {}
            Broken::NoDedup | Broken::Forgetful | Broken::Reuse => self.make_plain(),
            Broken::Early | Broken::Undercount | Broken::BareDigest => self.strangers = true,
            Broken::HastyGoodbye => {
                (self.rolling, self.ledger, self.durable_from) = (true, true, 0);
                self.server.records_sessions = true;
            }
            Broken::StaleNotSeen | Broken::StaleAck => {
                (self.lossy, self.doubles, self.rate) = (true, true, 0);
                // Calls are given up while they run.
                (self.odd_in, self.fault_in, self.delay_max) = (4, 5, 4_000 * MS);
            }
            Broken::OldJournal => (self.durable_from, self.old_journals) = (0, true),
            Broken::Trusting | Broken::Unfenced | Broken::Deleting | Broken::EarlyClaim => {}
            Broken::Lazy => {
                self.strangers = true;
                self.server.keepalive = Duration::from_secs(3_600);
            }
        }
        if self.broken != Broken::No {
            // The broken machines handle whole frames.
            self.out_len = 16 << 10;
            self.corrupt = false;
            self.takes_rest = false;
        }
    }

    fn make_plain(&mut self) {
        self.durable_from = usize::MAX;
        self.server.records_sessions = false;
        (self.strangers, self.leaves, self.rolling, self.back) = (false, false, false, false);
        (self.rate, self.hosts, self.lossy, self.ledger) = (0, 1, false, false);
    }
}

/// The process that a server is in its `life`.
pub fn instance(h: usize, life: u32) -> oncewire_core::Instance {
    oncewire_core::Instance::new((h as u64 + 1) << 32 | u64::from(life), "")
}

/// The id of the session that a connection may open: unguessable enough, and its number can be read from it.
pub fn session_id(seed: u64, number: u32) -> SessionId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&mix(seed ^ mix(u64::from(number))).to_le_bytes());
    bytes[8..].copy_from_slice(&u64::from(number).to_le_bytes());
    SessionId::from_bytes(bytes)
}

/// The number in such an id.
pub fn session_number(id: SessionId) -> u32 {
    let bytes = id.to_bytes();
    u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]])
}

/// The id of a server in its `life`th life.
pub fn server_id(host: usize, life: u32) -> ServerId {
    let mut bytes = [0; 16];
    bytes[0] = host as u8 + 1;
    bytes[1..5].copy_from_slice(&life.to_le_bytes());
    ServerId::from_bytes(bytes)
}
