//! The kind of world that a seed selects.

use std::time::Duration;

use oncewire_driver::ClientOptions;

use crate::driver_world::executor::{Policy, Schedule};
use crate::driver_world::net::LinkStyle;
use crate::driver_world::profile::{MS, SECOND};
use crate::rng::Rng;

/// The kind of a world.
#[derive(Clone, Debug)]
pub struct Profile {
    /// The seed.
    pub seed: u64,
    /// Clients, and tasks that share each.
    pub clients: usize,
    /// Tasks that share a client.
    pub actors: usize,
    /// Programs with durable clients beside them.
    pub programs: usize,
    /// Old copies of their journals are put back.
    pub old_journals: bool,
    /// Servers are drained as well as killed.
    pub rolling: bool,
    /// Peers that send calls before they are welcome.
    pub strangers: bool,
    /// What each of them does, in steps.
    pub steps: u64,
    /// Longest pause between faults.
    pub fault_pause: u64,
    /// How long faults happen.
    pub faults_until: u64,
    /// The process dies inside a commit or a recovery once in so many; 0 for never.
    pub fuse_in: u64,
    /// Operations of the disk after which it dies, at most.
    pub fuse_max: u64,
    /// A commit fails between two of its transactions once in so many, if it has several; 0 for never.
    pub stop_in: u64,
    /// The disk fails, or is full, at times.
    pub disk_fails: bool,
    /// Longest time that one operation of the disk takes.
    pub slowness: u64,
    /// Longest time that a server stays away.
    pub downtime: u64,
    /// An operation is unusual once in so many.
    pub odd_in: u64,
    /// How links behave.
    pub link: LinkStyle,
    /// How tasks are scheduled.
    pub schedule: Schedule,
    /// What the clients are configured with.
    pub options: ClientOptions,
    /// Slots granted.
    pub slots: u32,
    /// Batches of the ledger that are under way at once, and transactional calls of each.
    pub lanes: (usize, usize),
    /// Several servers share the ledger, whose disk is sound.
    pub sharing: Option<Sharing>,
}

/// How servers share a ledger: see [`shared`](super::shared).
#[derive(Clone, Debug)]
pub struct Sharing {
    /// How many.
    pub servers: usize,
    /// A client dials another server once in so many times.
    pub moves_in: u64,
    /// A batch, a claim, or the answer to one is late once in so many.
    pub late_in: u64,
    /// Longest time that they take then.
    pub late_max: u64,
    /// A batch or a claim fails once in so many; 0 for never.
    pub fails_in: u64,
}

/// Seeds that tests keep for what a server did that had the ledger for itself.
const ALONE: [u64; 2] = [70, 584];

impl Sharing {
    /// Drawn apart from the rest, so that the other worlds stay what they were.
    fn of(seed: u64) -> Option<Sharing> {
        let mut rng = Rng::apart(seed, 0x80);
        (rng.one_in(4) && !ALONE.contains(&seed)).then(|| Sharing {
            servers: rng.pick(&[2, 2, 3]),
            moves_in: rng.pick(&[2, 4]),
            late_in: rng.pick(&[2, 4, 12]),
            late_max: rng.pick(&[100, 1_000, 6_000]) * MS,
            fails_in: rng.pick(&[0, 60, 300]),
        })
    }
}

/// The server's lease: longer than any server is away.
pub const LEASE: Duration = Duration::from_secs(300);

impl Profile {
    /// The world of a seed.
    pub fn of(seed: u64) -> Profile {
        let mut rng = Rng::apart(seed, 0x73);
        let mut options = ClientOptions::default();
        options.slots = rng.pick(&[1, 2, 8, 1024]);
        options.timeout = Duration::from_secs(rng.pick(&[5, 30]));
        options.backoff_max = Duration::from_millis(rng.pick(&[100, 1_000]));
        options.connect_timeout = Duration::from_secs(2);
        let stop_in = Rng::apart(seed, 0x7a).pick(&[0, 0, 1, 2]);
        let mut kinds = Rng::apart(seed, 0x7e);
        Profile {
            seed,
            clients: rng.range(1, 3) as usize,
            actors: rng.range(1, 4) as usize,
            programs: kinds.pick(&[0, 0, 0, 1, 2]),
            old_journals: kinds.one_in(2),
            rolling: kinds.one_in(2),
            strangers: kinds.one_in(4),
            steps: rng.range(4, 24),
            fault_pause: rng.pick(&[60, 400, 2_000]) * MS,
            faults_until: rng.pick(&[1, 4, 15]) * SECOND,
            fuse_in: rng.pick(&[0, 3, 8, 30]),
            fuse_max: rng.pick(&[6, 20, 60]),
            stop_in,
            disk_fails: rng.one_in(2),
            slowness: rng.pick(&[0, MS / 20, 5 * MS, 200 * MS]),
            downtime: rng.pick(&[MS, 500 * MS, 4 * SECOND]),
            // Calls run apart only where one of them is rolled back.
            odd_in: rng.pick(&[3, 8, 30]).min(if stop_in > 0 { 4 } else { 30 }),
            link: LinkStyle {
                rate: 0,
                capacity: 64 << 10,
                delay_max: rng.pick(&[MS / 20, MS, 20 * MS]),
                piece_max: rng.pick(&[100, 4 << 10, 64 << 10]),
                stutter_in: rng.pick(&[0, 0, 10]),
                cut_in: rng.pick(&[0, 0, 4]),
                cut_below: 3_000,
                reset_unread_in: rng.pick(&[0, 2]),
                forgets_in: 0,
            },
            schedule: Schedule {
                policy: rng.pick(&[Policy::Any, Policy::Any, Policy::Oldest, Policy::Newest]),
                spurious_in: 0,
                slow_in: rng.pick(&[0, 0, 6]),
            },
            options,
            slots: rng.pick(&[1, 2, 8, 1024]),
            lanes: Rng::apart(seed, 0x81).pick(&[(1, 1), (1, 1), (2, 1), (4, 1), (3, usize::MAX)]),
            sharing: Sharing::of(seed),
        }
    }
}
