//! Both ends of connections at once, as a simulated world sees them.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};

use oncewire_core::wire::Role;
use oncewire_core::{Instance, MethodId, SessionId, SessionTag, Status, Xid};
use oncewire_driver::CallFailure;
use oncewire_driver::observe::{CallEnd, CallInfo};

use crate::format::{About, Delivery, EndedBy, Record, RecordedFrame, What, Writer};
use crate::hide::Key;
use crate::tap::Tap;

/// Records what leaves one end and what arrives at the other, and so what was lost or came late. In memory: worlds are small.
///
/// Times are nanoseconds of the world's time.
#[derive(Debug)]
pub struct Film {
    key: Key,
    plain_bodies: bool,
    conns: BTreeMap<u64, Conn>,
    /// Pseudonyms of the sessions that were opened, by what observers call them.
    sessions: BTreeMap<SessionTag, SessionId>,
    records: Vec<Record>,
}

#[derive(Debug)]
struct Conn {
    /// What left each end.
    senders: Tap,
    /// What arrived at each end.
    receivers: Tap,
    /// Frames under way from the client and from the server, with the times at which they left.
    under_way: [VecDeque<(u64, RecordedFrame)>; 2],
}

fn place(from: Role) -> usize {
    match from {
        Role::Client => 0,
        Role::Server => 1,
    }
}

/// What a server answers to a call that has ended so for its observers.
pub(crate) fn status_of(end: &CallEnd) -> Option<Status> {
    match end {
        CallEnd::Replied => Some(Status::Done),
        CallEnd::Failed(CallFailure::NoReply(why)) => Some(Status::NoReply(*why)),
        CallEnd::Failed(CallFailure::NotExecuted(why)) => Some(Status::Refused(*why)),
        _ => None,
    }
}

/// A frame that left and did not arrive.
fn lost_frame(left_at: u64, at: u64, mut frame: RecordedFrame) -> Record {
    (frame.delivery, frame.under_way) = (Delivery::Lost, at.saturating_sub(left_at));
    Record { at, what: What::Frame(frame) }
}

impl Film {
    /// An empty one. With a `key` of the world's own, the same world gives the same film.
    pub fn new(key: Key, plain_bodies: bool) -> Film {
        let (conns, sessions) = (BTreeMap::new(), BTreeMap::new());
        Film { key, plain_bodies, conns, sessions, records: Vec::new() }
    }

    /// Gives a method's full name: requests have numbers only.
    pub fn method(&mut self, name: &str) {
        self.put(0, What::Method(MethodId::of(name), name.to_owned()));
    }

    fn put(&mut self, at: u64, what: What) {
        self.records.push(Record { at, what });
    }

    /// A connection is made, with a number that no other one of the film has.
    pub fn connected(&mut self, at: u64, conn: u64, peer: String) {
        let tap = || Tap::new(self.key.clone(), self.plain_bodies, conn);
        let (senders, receivers) = (tap(), tap());
        self.conns.insert(conn, Conn { senders, receivers, under_way: Default::default() });
        self.put(at, What::Connected { conn, peer });
    }

    /// Bytes leave one end.
    pub fn sent(&mut self, at: u64, conn: u64, from: Role, bytes: &[u8]) {
        let Some(conn) = self.conns.get_mut(&conn) else { return };
        let Conn { senders, under_way, .. } = conn;
        senders.push(from, bytes, |what| {
            // What is no frame is recorded where it arrives.
            if let What::Frame(frame) = what {
                under_way[place(from)].push_back((at, frame));
            }
        });
        self.sessions.extend(senders.session());
    }

    /// Bytes are read at the other end.
    pub fn arrived(&mut self, at: u64, conn: u64, from: Role, bytes: &[u8]) {
        let Some(conn) = self.conns.get_mut(&conn) else { return };
        let Conn { receivers, under_way, .. } = conn;
        let under_way = &mut under_way[place(from)];
        let mut records = Vec::new();
        receivers.push(from, bytes, |mut what| {
            if let What::Frame(frame) = &mut what {
                let found = under_way.iter().position(|(_, sent)| sent == frame);
                // A frame that is not there comes for a second time, or was changed on its way. What left before one that
                // is there was lost: frames do not overtake each other.
                let passed = under_way.drain(..found.map_or(0, |found| found + 1));
                for (place, (left_at, sent)) in passed.enumerate() {
                    if Some(place) == found {
                        frame.under_way = at.saturating_sub(left_at);
                    } else {
                        records.push(lost_frame(left_at, at, sent));
                    }
                }
            }
            records.push(Record { at, what });
        });
        self.records.append(&mut records);
    }

    /// The server's end of a connection is gone: what was on its way there is lost. What is on its way to the client may
    /// still arrive.
    pub fn disconnected(&mut self, at: u64, conn: u64, by: EndedBy) {
        let Some(ended) = self.conns.get_mut(&conn) else { return };
        let what = ended.senders.disconnected(by);
        for (left_at, lost) in std::mem::take(&mut ended.under_way[0]) {
            self.records.push(lost_frame(left_at, at, lost));
        }
        self.put(at, what);
    }

    /// A call has finished at its server.
    pub fn finished(&mut self, at: u64, session: SessionId, xid: Xid, status: Status) {
        let session = self.key.session(session);
        self.put(at, What::Finished { session, xid, status });
    }

    /// The same, as a server's observer sees it: [`CallEnded`](oncewire_driver::observe::Event::CallEnded).
    pub fn observed(&mut self, at: u64, call: &CallInfo, end: &CallEnd) {
        let session = call.session.and_then(|tag| self.sessions.get(&tag).copied());
        if let (Some(session), Some(xid), Some(status)) = (session, call.xid, status_of(end)) {
            self.put(at, What::Finished { session, xid, status });
        }
    }

    /// A server begins to drain, as its observer sees it.
    pub fn drain_began(&mut self, at: u64, instance: Instance) {
        self.put(at, What::DrainBegan { instance: instance.id() });
    }

    /// The server was started again.
    pub fn restarted(&mut self, at: u64) {
        self.put(at, What::Restarted);
    }

    /// Something that people should know.
    pub fn note(&mut self, at: u64, text: String) {
        self.put(at, What::Note(text));
    }

    /// Writes the recording.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: impl Write, about: &About) -> io::Result<()> {
        let mut writer = Writer::new(out, about)?;
        self.records.iter().try_for_each(|record| writer.write(record))?;
        // What never arrived.
        for (left_at, frame) in self.conns.values().flat_map(|conn| conn.under_way.iter().flatten())
        {
            writer.write(&lost_frame(*left_at, *left_at, frame.clone()))?;
        }
        writer.flush()
    }
}
