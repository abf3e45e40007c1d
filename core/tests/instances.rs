//! A client knows which process answered, whatever it answered: C152. The schemas of its services come with that.
#![allow(missing_docs)]

mod util;

use oncewire_core::*;
use util::*;

fn info(pair: &mut Pair) -> Option<ServerInfo> {
    pair.client().server_info().copied()
}

#[test]
fn c152_two_instances_of_one_server_behind_one_address_are_told_apart() {
    let [one, two] = [Instance::new(1, "web-1:10"), Instance::new(2, "web-2:20")];
    let schemas = Schemas::EMPTY.with(7).unwrap();
    let mut pair = Pair::unconnected();
    (pair.server_config.instance, pair.server_config.schemas) = (one, schemas);
    pair.restart_server();
    let mut pair = pair.connected();
    assert_eq!(info(&mut pair), Some(ServerInfo { instance: one, schemas }));
    pair.call(b"a");
    pair.record_session();

    // The next process with the same records.
    pair.server_config.instance = two;
    pair.restart_server_with_ledger();
    assert_eq!(info(&mut pair).map(|info| info.instance), Some(one), "which connection broke");
    pair.connect(0);
    assert_eq!(info(&mut pair), None, "nobody has answered yet");
    pair.drive();
    assert_eq!(info(&mut pair), Some(ServerInfo { instance: two, schemas }));
    assert_eq!(pair.client().counters().resumes, 1);
}

#[test]
fn c152_a_refusal_names_its_instance() {
    let [one, two] = [Instance::new(1, "web-1:10"), Instance::new(2, "web-2:20")];
    let mut pair = Pair::unconnected();
    pair.server_config.instance = one;
    pair.restart_server();
    let mut pair = pair.connected();
    pair.call(b"a");
    pair.server_config.instance = two;
    pair.restart_server();
    pair.connect(0);
    pair.drive();
    assert_eq!(pair.sessions_lost(), [SessionLoss::SessionUnknown]);
    assert_eq!(info(&mut pair), Some(ServerInfo { instance: two, schemas: Schemas::EMPTY }));
}
