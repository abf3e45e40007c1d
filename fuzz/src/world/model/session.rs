//! Sessions: what a server holds of each, and what its ledger has of it.

use oncewire_core::{NoReply, SessionRecord};

/// Most slots of a session in the world.
pub const SLOTS_MAX: usize = 8;

/// What is on a slot at the server, as the model has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Held {
    /// Nothing.
    #[default]
    Nothing,
    /// A call admitted or running.
    Running,
    /// An answer.
    Kept,
    /// The answer of an idempotent call, whose body may go at any time.
    Soft,
}

#[derive(Clone, Copy, Debug, Default, Hash)]
pub(super) struct Slot {
    pub(super) xid: u64,
    /// The last xid executed on it, in any life of the server.
    pub(super) executed: u64,
    /// That was of an idempotent operation, of which no ledger has a record.
    pub(super) unrecorded: bool,
    pub(super) bytes: u32,
    pub(super) held: Held,
}

impl Slot {
    /// Nothing is kept of its call; what was executed is not forgotten.
    pub(super) fn emptied(&self) -> Slot {
        let (executed, unrecorded) = (self.executed, self.unrecorded);
        Slot { executed, unrecorded, ..Slot::default() }
    }
}

/// How far a recorded call had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Recorded {
    /// Started.
    Started,
    /// Done, by this execution of this operation, with so many bytes of reply.
    Done(u32, u32, u16),
    /// Finished without a reply to show.
    NoReply(NoReply),
}

/// What the ledger has of one slot.
#[derive(Clone, Copy, Debug, Hash)]
pub struct Record {
    /// The call's number.
    pub xid: u64,
    /// Its request's digest.
    pub digest: u64,
    /// How far it had come.
    pub state: Recorded,
}

/// What the ledger has of one session.
#[derive(Clone, Debug, Hash)]
pub struct Page {
    /// The session.
    pub session: SessionRecord,
    /// The last record of each slot.
    pub records: [Option<Record>; SLOTS_MAX],
}

/// One session.
#[derive(Clone, Debug, Default, Hash)]
pub struct Session {
    /// Where it was opened.
    pub host: u8,
    /// Whether its server has it.
    pub alive: bool,
    /// The connection that it is bound to.
    pub link: Option<usize>,
    /// When it lost its connection, on its server's clock.
    pub alone_since: u64,
    /// Whether it carried a request, or is on a disk: its lease is the full one.
    pub used: bool,
    /// Its `Welcome` has left its server.
    pub welcomed: bool,
    /// The `Hello` of its connection was read.
    pub(super) greeted: bool,
    /// Its client said `Goodbye`.
    pub goodbye: bool,
    /// Its client sends a false retry (S10), which ends it.
    pub faulty: bool,
    /// It came back from a ledger, where holes may be.
    pub restored: bool,
    /// Its client went on from a journal, or compares signatures: what this server has not seen may come behind later
    /// calls (S13).
    pub doubted: bool,
    /// Something has happened after which its client may not be able to learn what became of its calls.
    pub excused: bool,
    pub(super) slots_granted: u64,
    pub(super) acked: u64,
    pub(super) admitted: u64,
    pub(super) slots: [Slot; SLOTS_MAX],
    /// What the ledger has of it.
    pub page: Option<Box<Page>>,
}

impl Session {
    pub(super) fn slot(&self, xid: u64) -> usize {
        (xid % self.slots_granted.max(1)) as usize % SLOTS_MAX
    }

    /// Whether nothing is kept for it.
    pub fn holds_nothing(&self) -> bool {
        self.slots.iter().all(|slot| slot.bytes == 0)
    }

    /// A ledger has it: from now on its lease is the full one (C81).
    pub fn record(&mut self, session: SessionRecord) {
        self.used = true;
        self.page.get_or_insert_with(|| Box::new(Page { session, records: [None; SLOTS_MAX] }));
    }

    /// Whether an answer is kept under this number.
    pub fn keeps(&self, xid: u64) -> bool {
        let slot = &self.slots[self.slot(xid)];
        slot.xid == xid && matches!(slot.held, Held::Kept)
    }

    /// Whether the call with this number was the last one executed on its slot.
    pub fn has_run(&self, xid: u64) -> bool {
        self.slots[self.slot(xid)].executed == xid
    }

    /// How many slots it was granted.
    pub fn grant(&mut self, slots: u32) {
        self.slots_granted = u64::from(slots);
    }

    /// Writes a record, unless one of a later xid is there (S28).
    pub fn write(&mut self, session: SessionRecord, record: Record) {
        let at = self.slot(record.xid);
        let page =
            self.page.get_or_insert_with(|| Box::new(Page { session, records: [None; SLOTS_MAX] }));
        page.session = session;
        if page.records[at].is_none_or(|old| old.xid <= record.xid) {
            page.records[at] = Some(record);
        }
    }
}
