//! The owner of a durable client, and its disk: calls are recorded before they are sent, outcomes before they are settled.

use std::collections::BTreeMap;

use oncewire_core::*;

use super::*;

/// A client with a journal, connected.
pub fn durable() -> Pair {
    durable_with(default_server_config()).connected()
}

/// The same with so many slots.
pub fn durable_slots(slots: u32) -> Pair {
    let mut config = default_server_config();
    config.slots = slots;
    durable_with(config).connected()
}

fn durable_with(server: ServerConfig) -> Pair {
    let mut client = ClientConfig::default();
    client.durable = true;
    Pair::with(server, client)
}

/// What an owner keeps of one call.
#[derive(Clone, Debug)]
pub struct Kept {
    pub body: Vec<u8>,
    pub outcome: Option<OwnedOutcome>,
}

/// What an owner keeps.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    pub session: Option<ClientSession>,
    pub xid_last: u64,
    pub calls: BTreeMap<u64, Kept>,
}

/// Gives xids to what waits, and writes it down; not yet said to be recorded.
pub fn write_down(pair: &mut Pair, disk: &mut Disk) {
    let now = pair.now;
    let session = pair.client().session().copied();
    if disk.session.map(|s| s.id) != session.map(|s| s.id) {
        *disk = Disk { session, ..Disk::default() };
    }
    while let Some(numbered) = pair.client().poll_unjournaled(now) {
        disk.xid_last = numbered.xid.get();
        let kept = Kept { body: numbered.body.to_vec(), outcome: None };
        disk.calls.insert(numbered.xid.get(), kept);
    }
}

pub fn say_recorded(pair: &mut Pair, disk: &Disk) {
    let now = pair.now;
    let Some(up_to) = Xid::new(disk.xid_last) else { return };
    pair.client().journaled(now, disk.session.unwrap().id, up_to);
    pair.drive();
}

pub fn record(pair: &mut Pair, disk: &mut Disk) {
    write_down(pair, disk);
    say_recorded(pair, disk);
}

pub fn settle(pair: &mut Pair, id: CallId) {
    let now = pair.now;
    pair.client().settle(now, id);
    pair.drive();
}

/// The client's process dies, and another one goes on from the disk. Returns its calls, by xid.
pub fn restart(pair: &mut Pair, disk: &Disk) -> BTreeMap<u64, CallId> {
    if pair.peers[0].link.is_some() {
        pair.cut_at_client();
    }
    let mut calls = BTreeMap::new();
    let config = pair.client_config;
    let mut client = match disk.session {
        Some(session) => Client::restore(config, session, disk.xid_last).expect("room for it"),
        None => Client::new(config),
    };
    for (number, kept) in disk.calls.iter().filter(|(_, kept)| kept.outcome.is_none()) {
        let call = client.restore_call(pair.now, xid(*number), Call::new(ECHO, &kept.body));
        calls.insert(*number, call.expect("restored"));
    }
    let peer = &mut pair.peers[0];
    peer.client = client;
    peer.outcomes.clear();
    peer.events.clear();
    calls
}

pub fn only(calls: &BTreeMap<u64, CallId>) -> CallId {
    *calls.values().next().expect("one call")
}
