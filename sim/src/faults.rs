//! What goes wrong in a world, and how often.

use std::time::Duration;

use crate::parts::executor::{Policy, Schedule};
use crate::parts::net::LinkStyle;
use crate::parts::rng::Rng;
use crate::parts::{MS, SECOND};

/// What goes wrong in a world, and how often. [`Faults::of`] is what a seed selects.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Faults {
    /// The average pause between two faults; zero for none.
    pub pause: Duration,
    /// How long faults happen, from the start of the world.
    pub until: Duration,
    /// Connections are cut.
    pub cuts: bool,
    /// A client and a server are partitioned for some time.
    pub partitions: bool,
    /// Processes are killed, and start again.
    pub kills: bool,
    /// The power of processes fails: what they had not synced is lost or torn. They start again.
    pub power_cuts: bool,
    /// A disk of a process has errors for some time: reads, writes and syncs fail. A process whose ledger has failed ends,
    /// and starts again when it can.
    pub disk_errors: bool,
    /// A disk of a process is full for some time.
    pub full_disks: bool,
    /// The clock of a process jumps forward, by up to 400 s.
    pub clock_jumps: bool,
    /// The process dies within a commit, or between it and the replies, once in so many commits; 0 for never.
    pub dies_in_commit: u64,
    /// A connection breaks by itself, after some byte of some frame, once in so many; 0 for never.
    pub cut_in: u64,
    /// The longest time that a process stays away.
    pub downtime: Duration,
    /// The longest time from one end of a connection to the other.
    pub delay: Duration,
    /// The longest time that one operation of a disk takes.
    pub slowness: Duration,
    /// The longest piece in which bytes are written and arrive: short ones split frames.
    pub piece_max: usize,
}

impl Faults {
    /// Nothing goes wrong. For some kinds and no others say when, too:
    ///
    /// ```
    /// use std::time::Duration;
    /// use oncewire_sim::Faults;
    ///
    /// let mut faults = Faults::NONE;
    /// (faults.pause, faults.until) = (Duration::from_millis(100), Duration::from_secs(4));
    /// (faults.kills, faults.disk_errors) = (true, true);
    /// ```
    pub const NONE: Faults = Faults {
        pause: Duration::ZERO,
        until: Duration::ZERO,
        cuts: false,
        partitions: false,
        kills: false,
        power_cuts: false,
        disk_errors: false,
        full_disks: false,
        clock_jumps: false,
        dies_in_commit: 0,
        cut_in: 0,
        downtime: Duration::from_millis(1),
        delay: Duration::from_millis(1),
        slowness: Duration::ZERO,
        piece_max: 64 << 10,
    };

    /// What a seed selects: one in eight worlds is peaceful.
    pub fn of(seed: u64) -> Faults {
        let mut rng = Rng::apart(seed, 0x73_69_6d);
        if rng.one_in(8) {
            return Faults::NONE;
        }
        let mut millis = |of: &[u64]| Duration::from_millis(rng.pick(of));
        let (pause, until) = (millis(&[20, 100, 500]), millis(&[1_000, 4_000, 15_000]));
        let (downtime, delay) = (millis(&[1, 300, 3_000]), millis(&[1, 5, 40]));
        let slowness = millis(&[0, 0, 1, 10]);
        let mut machines = Rng::apart(seed, 0x6d_63);
        Faults {
            pause,
            until,
            downtime,
            delay,
            slowness,
            cuts: !rng.one_in(4),
            partitions: rng.one_in(3),
            kills: rng.one_in(2),
            power_cuts: rng.one_in(2),
            disk_errors: machines.one_in(4),
            full_disks: machines.one_in(4),
            clock_jumps: machines.one_in(3),
            dies_in_commit: rng.pick(&[0, 4, 12, 40]),
            cut_in: rng.pick(&[0, 2, 6]),
            piece_max: rng.pick(&[7, 100, 64 << 10]),
        }
    }

    /// Whether there are some that wait for a pause which never is.
    pub(crate) fn never_come(&self) -> bool {
        let Faults { cuts, partitions, kills, power_cuts, .. } = *self;
        let Faults { disk_errors, full_disks, clock_jumps, .. } = *self;
        let paused =
            cuts | partitions | kills | power_cuts | disk_errors | full_disks | clock_jumps;
        paused && (self.pause.is_zero() || self.until.is_zero())
    }

    pub(crate) fn link(&self) -> LinkStyle {
        LinkStyle {
            capacity: 64 << 10,
            delay_max: self.delay.as_nanos() as u64,
            rate: 0,
            piece_max: self.piece_max.max(1),
            stutter_in: 0,
            cut_in: self.cut_in,
            cut_below: 3_000,
            reset_unread_in: 0,
            forgets_in: 0,
        }
    }
}

/// How a seed schedules tasks.
pub(crate) fn schedule(seed: u64) -> Schedule {
    let mut rng = Rng::apart(seed, 0x73_63_68);
    let policy = rng.pick(&[Policy::Any, Policy::Any, Policy::Oldest, Policy::Newest]);
    Schedule { policy, spurious_in: rng.pick(&[0, 0, 20]), slow_in: rng.pick(&[0, 0, 6]) }
}

/// Virtual time after which a world must have come to its end.
pub(crate) const END_MAX: u64 = 3_600 * SECOND;
/// The shortest time between two looks at a world that does not change by itself.
pub(crate) const TICK: u64 = MS;
