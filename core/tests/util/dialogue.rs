//! What a test has the machines say, and what it says in their place.

use oncewire_core::wire::{Frame, Role};
use oncewire_core::*;

use super::outcomes::frames;
use super::*;

impl Pair {
    /// Calls `ECHO` from the first client.
    pub fn call(&mut self, body: &[u8]) -> CallId {
        self.call_with(0, Call::new(ECHO, body))
    }

    pub fn call_with(&mut self, at: usize, call: Call<'_>) -> CallId {
        let id = self.peers[at].client.call(self.now, call).expect("the call is taken");
        self.drive();
        id
    }

    pub fn cancel(&mut self, id: CallId) {
        let now = self.now;
        self.client().cancel(now, id);
        self.drive();
    }

    pub fn forget(&mut self, id: CallId) {
        let now = self.now;
        self.client().forget(now, id);
        self.drive();
    }

    pub fn close(&mut self) {
        let now = self.now;
        self.client().close(now);
        self.drive();
    }

    /// The newest outcome of a call of the first client.
    pub fn outcome(&self, id: CallId) -> Option<OwnedOutcome> {
        self.outcome_at(0, id)
    }

    pub fn outcome_at(&self, at: usize, id: CallId) -> Option<OwnedOutcome> {
        self.outcomes_at(at, id).pop()
    }

    /// All outcomes that a call has had.
    pub fn outcomes(&self, id: CallId) -> Vec<OwnedOutcome> {
        self.outcomes_at(0, id)
    }

    pub fn outcomes_at(&self, at: usize, id: CallId) -> Vec<OwnedOutcome> {
        let all = self.peers[at].outcomes.iter();
        all.filter(|(call, _)| *call == id).map(|(_, outcome)| outcome.clone()).collect()
    }

    pub fn events(&self) -> &[ClientEvent] {
        &self.peers[0].events
    }

    pub fn disconnects(&self) -> Vec<CloseReason> {
        let reason = |event: &ClientEvent| match event {
            ClientEvent::Disconnect(reason) => Some(*reason),
            _ => None,
        };
        self.events().iter().filter_map(reason).collect()
    }

    pub fn sessions_lost(&self) -> Vec<SessionLoss> {
        let end = |event: &ClientEvent| match event {
            ClientEvent::SessionLost(end) => Some(*end),
            _ => None,
        };
        self.events().iter().filter_map(end).collect()
    }

    /// How often calls with this body were started.
    pub fn ran(&self, body: &[u8]) -> usize {
        self.runs.iter().filter(|run| run.body == body).count()
    }

    /// How often the call with this number was started in this session.
    pub fn ran_xid(&self, session: SessionId, xid: u64) -> usize {
        self.runs.iter().filter(|run| run.session == session && run.xid == xid).count()
    }

    pub fn session_id(&self) -> SessionId {
        self.peers[0].client.session().expect("a session").id
    }

    // The server's handlers.

    pub fn admitted(&mut self, body: &[u8]) -> AdmittedCall {
        let at = self.admitted.iter().position(|call| call.body == body).expect("admitted");
        self.admitted.remove(at)
    }

    /// Starts a call that was admitted; the test answers it.
    pub fn start(&mut self, body: &[u8]) -> Result<(), CallRefused> {
        let call = self.admitted(body);
        let key = call.admission.key();
        let session = self.server.record_of(key).map(|(session, _)| session);
        let result = self.server.start(self.now, call.admission).map(|running| {
            let session = session.expect("a call that starts has a session");
            let (xid, method) = (key.xid().get(), call.method);
            self.runs.push(Run { session, xid, method, body: call.body.clone() });
            self.started.push(Started { running, body: call.body });
        });
        self.drive();
        result
    }

    /// The right to answer a call that runs.
    pub fn running(&mut self, body: &[u8]) -> Running {
        let at = self.started.iter().position(|call| call.body == body).expect("started");
        self.started.remove(at).running
    }

    /// Answers a call that runs with its echo.
    pub fn finish(&mut self, body: &[u8]) {
        self.finish_with(body, &echo(body));
    }

    pub fn finish_with(&mut self, body: &[u8], reply: &[u8]) {
        let running = self.running(body);
        let _ = self.server.reply(self.now, running, reply);
        self.drive();
    }

    pub fn abort(&mut self, body: &[u8]) {
        let running = self.running(body);
        self.server.abort(self.now, running);
        self.drive();
    }

    pub fn refuse(&mut self, body: &[u8], why: NotExecuted) {
        let call = self.admitted(body);
        self.server.refuse(self.now, call.admission, why);
        self.drive();
    }

    pub fn kept(&self) -> u64 {
        self.server.counters().kept_bytes
    }

    // Frames by hand.

    /// Sends a frame as the client of a raw link, and lets everything happen.
    pub fn send(&mut self, raw: usize, frame: &Frame<'_>) {
        self.send_bytes(raw, &bytes_of(frame));
    }

    pub fn send_bytes(&mut self, raw: usize, bytes: &[u8]) {
        self.links[raw].up.extend(bytes);
        self.drive();
    }

    /// Sends a frame as the server of a link by hand.
    pub fn send_down(&mut self, link: usize, frame: &Frame<'_>) {
        self.links[link].down.extend(bytes_of(frame));
        self.drive();
    }

    /// Reads all frames that have come to the client of a raw link.
    pub fn got(&mut self, raw: usize) -> Vec<OwnedFrame> {
        let bytes = std::mem::take(&mut self.links[raw].down).into();
        frames(bytes, Role::Server)
    }

    /// Reads all frames that have come to the server of a link by hand.
    pub fn got_up(&mut self, link: usize) -> Vec<OwnedFrame> {
        let bytes = std::mem::take(&mut self.links[link].up).into();
        frames(bytes, Role::Client)
    }

    /// Closes a raw link.
    pub fn hang_up(&mut self, raw: usize) {
        self.links[raw].client_open = false;
        self.drive();
    }
}
