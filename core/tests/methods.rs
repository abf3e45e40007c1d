//! A method is the hash of its full name, and no call runs another method than the one that it names: C151.
#![allow(missing_docs)]

mod util;

use oncewire_core::*;
use util::*;

/// The hash that a method's number once was.
fn in_32_bits(name: &str) -> u32 {
    name.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[test]
fn c151_methods_whose_names_met_in_32_bits_are_apart() {
    let (costarring, liquid) = (MethodId::of("costarring"), MethodId::of("liquid"));
    assert_eq!(in_32_bits("costarring"), in_32_bits("liquid"));
    assert_ne!(costarring, liquid);

    let mut pair = Pair::unconnected();
    pair.server = Server::new(pair.server_config, &[MethodSpec::new(liquid)]).unwrap();
    let mut pair = pair.connected();
    let call = pair.call_with(0, Call::new(costarring, b"a"));
    assert_eq!(pair.outcome(call), not_executed(NotExecuted::UnknownMethod));
    assert_eq!(pair.runs.len(), 0);

    let both = [MethodSpec::new(liquid), MethodSpec::new(costarring)];
    let mut pair = Pair::unconnected();
    pair.server = Server::new(pair.server_config, &both).unwrap();
    let mut pair = pair.connected();
    pair.call_with(0, Call::new(costarring, b"a"));
    assert_eq!(pair.runs[0].method, costarring);
}

#[test]
fn c151_methods_of_one_name_in_two_services_are_apart() {
    assert_ne!(MethodId::of("bank/close"), MethodId::of("shop/close"));
    let name = "bank/close";
    let twice = [MethodSpec::new(MethodId::of(name)); 2];
    let built = Server::<Heap>::new(default_server_config(), &twice);
    assert_eq!(built.err(), Some(ServerError::DuplicateMethod(MethodId::of(name))));
}
