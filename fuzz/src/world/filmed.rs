//! What a recording of a world holds beside the bytes that pass.

use oncewire_core::{NoReply, NotExecuted, Status};

use super::World;
use super::host::{Call, End, Step};
use super::profile::session_id;

impl World {
    /// A call has finished at its server, or was refused there.
    pub(super) fn film_finished(&mut self, call: &Call) {
        let status = match call.plan.end {
            _ if call.step == Step::Admitted => Status::Refused(NotExecuted::BadArguments),
            End::Abort => Status::NoReply(NoReply::Aborted),
            End::RollBack => Status::Refused(NotExecuted::Aborted),
            End::TooLarge if !call.one_way => Status::NoReply(NoReply::ReplyTooLarge),
            _ => Status::Done,
        };
        let session = session_id(self.seed, call.session);
        self.trace.finished(self.now, session, call.key.xid(), status);
    }
}
