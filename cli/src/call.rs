//! One call: JSON in, JSON out.

use oncewire::schema::SignatureTable;
use oncewire::schema::json::Limits;
use oncewire::{Executed, MethodId};

use crate::args::CallArgs;
use crate::connect::{Session, Target, connect};
use crate::exit::Failure;
use crate::list::methods;
use crate::{durable, say};

/// Makes the call, and prints its reply.
pub(crate) async fn run(args: CallArgs) -> Result<(), Failure> {
    if let Err(error) = serde_json::from_str::<serde_json::Value>(&args.arguments) {
        return Err(Failure::NoJson(error.to_string()));
    }
    let target = Target::new(args.address.clone(), &args.identity)?;
    if let Some(file) = &args.durable {
        return durable::run(&args, file, &target).await;
    }
    let Prepared { session, name, signature, body } = prepare(&args, &target).await?;
    let mut call = session.client.call_raw(MethodId::of(&name), body).timeout(args.timeout);
    call = call.fail_fast(args.fail_fast);
    if args.idempotent {
        call = call.idempotent();
    }
    let reply = call.result().await.map_err(|failed| Failure::NoReply {
        executed: failed.executed(),
        why: format!("{name}: {failed}"),
    })?;
    show(&name, &signature, &reply)?;
    session.client.close().await;
    Ok(())
}

/// All that a call needs.
pub(crate) struct Prepared {
    session: Session,
    pub(crate) name: String,
    pub(crate) signature: SignatureTable,
    pub(crate) body: Vec<u8>,
}

/// Connects, and makes a request of the arguments as the server's signature says.
pub(crate) async fn prepare(args: &CallArgs, target: &Target) -> Result<Prepared, Failure> {
    let session = connect(target, args.timeout).await?;
    let mut methods = methods(&session.client, args.timeout).await?;
    let name = full_name(&args.method);
    let Some(at) = methods.iter().position(|(known, _)| *known == name) else {
        return Err(Failure::NoSuchMethod { alike: alike(&name, &methods), method: name });
    };
    let (_, signature) = methods.swap_remove(at);
    let body = signature.arguments_to_postcard(&args.arguments, Limits::DEFAULT);
    let body = body.map_err(|error| Failure::WrongType {
        method: name.clone(),
        signature: signature.to_string(),
        why: error.to_string(),
    })?;
    Ok(Prepared { session, name, signature, body })
}

/// Prints a reply. A status of 0 says that it is there.
pub(crate) fn show(name: &str, signature: &SignatureTable, reply: &[u8]) -> Result<(), Failure> {
    let json = signature.reply_to_json(reply, Limits::DEFAULT);
    let json = json.map_err(|error| Failure::NoReply {
        executed: Executed::Yes,
        why: format!("{name}: executed, but its reply is not what its signature says: {error}"),
    })?;
    say(&shown(&json)).map_err(|error| Failure::NoReply {
        executed: Executed::Yes,
        why: format!("{name}: executed, but its reply was not shown: {error}"),
    })
}

/// The same JSON, without what a terminal obeys. Control characters are in strings only.
fn shown(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for char in json.chars() {
        match char.is_control() {
            true => shown.push_str(&format!("\\u{:04x}", u32::from(char))),
            false => shown.push(char),
        }
    }
    shown
}

/// `bank.deduct` is `bank/deduct`.
pub(crate) fn full_name(method: &str) -> String {
    match method.contains('/') {
        true => method.to_owned(),
        false => method.replacen('.', "/", 1),
    }
}

/// Methods of the same service, or of all.
fn alike(name: &str, methods: &[(String, SignatureTable)]) -> Vec<String> {
    let service = |name: &str| name.split('/').next().map(str::to_owned);
    let names = || methods.iter().map(|(known, _)| known.clone());
    let of_service: Vec<_> = names().filter(|known| service(known) == service(name)).collect();
    if of_service.is_empty() { names().take(20).collect() } else { of_service }
}
