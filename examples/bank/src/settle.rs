//! How a call is made, and how it ends.

use std::time::Duration;

use oncewire::protocol::{NotExecuted, Unknown};
use oncewire::{Call, Outcome};

use crate::chance::{Rng, within};
use crate::client::Load;

/// How long a ticket is waited for.
const TICKET_WAIT: Duration = Duration::from_secs(30);

/// What became of a call in the end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Settled<R> {
    Reply(R),
    NotExecuted(NotExecuted),
    /// Its server crashed meanwhile, and lives again.
    Interrupted,
    Unknown,
}

impl<R> Settled<R> {
    /// Other calls would fare no better: the server ends, or has been out of reach for a whole call's timeout.
    pub(crate) fn tells_the_end(&self, manner: Manner) -> bool {
        use NotExecuted::{Closed, DeadlinePassed, SessionRefused, ShuttingDown};
        match self {
            Settled::Reply(_) | Settled::Interrupted => false,
            Settled::NotExecuted(Closed | SessionRefused) => true,
            // Another server takes over, where there are several.
            Settled::NotExecuted(ShuttingDown) => !manner.has_stand_bys,
            Settled::NotExecuted(DeadlinePassed) => manner.patient,
            Settled::NotExecuted(_) => false,
            // Without a ticket, or even after its ticket was waited for.
            Settled::Unknown => true,
        }
    }
}

/// How a call is made. Drawn from the seed, so that the same calls can be made again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    patient: bool,
    timeout: Duration,
    fail_fast: bool,
    has_stand_bys: bool,
}

impl Manner {
    /// Most are patient; some give up at a break, some after a few milliseconds: these end as `Unknown` now and then.
    pub(crate) fn draw(rng: &mut Rng, load: &Load) -> Manner {
        let has_stand_bys = load.address.has_stand_bys();
        let timeout = load.call_timeout;
        let patient = Manner { patient: true, timeout, fail_fast: false, has_stand_bys };
        let short = Duration::from_millis(1 + rng.below(8));
        match rng.below(100) {
            0..70 => patient,
            70..85 => Manner { fail_fast: true, ..patient },
            _ => Manner { patient: false, timeout: short, ..patient },
        }
    }

    pub(crate) fn apply<R>(self, call: Call<R>) -> Call<R> {
        call.timeout(self.timeout).fail_fast(self.fail_fast)
    }
}

/// Waits for a call's outcome; if that is `Unknown`, for what its ticket tells. Says whether it had to.
pub(crate) async fn settle<R>(call: Call<R>) -> (Settled<R>, bool) {
    let mut outcome = call.await;
    let mut waited = false;
    if let Outcome::Unknown(_, Some(ticket)) = &mut outcome {
        waited = true;
        if let Some(later) = within(TICKET_WAIT, ticket.wait()).await {
            outcome = later;
        }
    }
    let settled = match outcome {
        Outcome::Reply(reply) => Settled::Reply(reply),
        Outcome::NotExecuted(why) => Settled::NotExecuted(why),
        Outcome::Unknown(Unknown::Interrupted, _) => Settled::Interrupted,
        // Executed, but who knows how far: no handler of the bank's ends so.
        Outcome::NoReply(_) | Outcome::Unknown(..) => Settled::Unknown,
    };
    (settled, waited)
}
