//! What a server's methods take and return: asked for over the wire by tools, and compared with what a client means (S33).
//!
//! Two built-in methods of the server answer, ordinary ones but for their names. One compares: it is offered by every server that
//! has a method with a signature, and says only where the two differ. The other one tells all, if the server's owner lets it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use oncewire_core::{Call as CoreCall, MethodId, Schemas, ServerConfig};
use oncewire_schema::{Signature, SignatureTable, service_hash};

use crate::client::{Call, CallFailure, Client};
use crate::decode::decode;
use crate::method::Method;
use crate::server::{Context, ServerBuilder, allows};

/// For the numbers of methods, or for none of all: the name and the signature of each that has one.
const SIGNATURES: Method<Vec<u64>, Vec<(String, SignatureTable)>> =
    Method::new("oncewire/signatures").idempotent().reply_len_max(1 << 20);

/// For methods' numbers and the hashes of their signatures at the client: of each that differs its index among them, and
/// the server's signature. What the server does not have differs in nothing.
const COMPARE: Method<Asked, Vec<(u32, String)>> =
    Method::new("oncewire/compare").idempotent().reply_len_max(ANSWER_LEN_MAX as u32);

/// Methods' numbers, and the hashes of their signatures.
pub(crate) type Asked = Vec<(u64, u64)>;

/// Methods that are compared in one call; the server reads no more.
const ASKED_MAX: usize = 256;
/// Bytes of the longest pair of numbers.
const ASKED_LEN_MAX: usize = 20;
/// Bytes of the longest answer.
const ANSWER_LEN_MAX: usize = 32 << 10;
/// The same where next to nothing may be kept: enough for one method that differs. Where more of them do not fit into an answer, its
/// client asks for one after the other.
const ANSWER_LEN_MIN: usize = 64;
/// Bytes of a signature in it: what is longer is cut.
const TEXT_LEN_MAX: usize = 2 << 10;

/// A comparison for the server to make; `None` if it cannot be encoded.
pub(crate) fn question(asked: &Asked) -> Option<CoreCall<'static>> {
    let body = crate::buffer::encode(asked).ok()?.into_bytes();
    let mut call = CoreCall::new(COMPARE.id(), body);
    call.idempotent = true;
    Some(call)
}

/// How many methods fit into one question, by the longest request; one at least.
pub(crate) fn asked_max(request_len_max: u32) -> usize {
    (request_len_max as usize / ASKED_LEN_MAX).saturating_sub(1).clamp(1, ASKED_MAX)
}

/// Bytes of this server's longest answer. It is reserved beside the replies of calls, and where there was no room for it no call was
/// sent that had to be compared.
fn answer_len(config: &ServerConfig) -> usize {
    let ServerConfig { kept_per_session_max, kept_per_principal_max, kept_max, .. } = *config;
    let kept = kept_per_session_max.min(kept_per_principal_max).min(kept_max);
    usize::try_from(kept / 8).unwrap_or(usize::MAX).clamp(ANSWER_LEN_MIN, ANSWER_LEN_MAX)
}

/// The server's answer.
pub(crate) fn decode_answer(body: &[u8]) -> Option<Vec<(u32, String)>> {
    decode(body, COMPARE.values())
}

/// A method's name and its signature.
#[derive(Clone, Copy, Debug)]
pub struct MethodSignature {
    /// Its full name on the wire.
    pub name: &'static str,
    /// What it takes and returns.
    pub signature: Signature,
}

/// A method that client and server do not mean the same by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureMismatch {
    /// Its full name on the wire.
    pub method: String,
    /// Its signature at this client, or at the earlier run of it that made the call; it may be cut.
    pub client: String,
    /// Its signature at the server, which may be cut; empty if the server has not said which.
    pub server: String,
}

impl SignatureMismatch {
    /// `server`: what it says of itself, whatever that is.
    pub(crate) fn new(method: &str, client: String, server: String) -> SignatureMismatch {
        // It may be printed on a terminal.
        let escaped = |letter: char| match letter.is_control() {
            true => letter.escape_default().to_string(),
            false => letter.to_string(),
        };
        let server = cut(server).chars().map(escaped).collect();
        SignatureMismatch { method: method.to_owned(), client, server }
    }
}

impl fmt::Display for SignatureMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, client, server } = self;
        let server = if server.is_empty() { "another one" } else { server };
        write!(f, "`{method}` is {client} at the client, and {server} at the server")
    }
}

/// The number of a method's service, of which these are all methods; `None` if the method is not among them.
pub(crate) fn hash_of_service(name: &str, methods: &[MethodSignature]) -> Option<u64> {
    let service = |name: &'static str| name.split_once('/').map_or("", |(service, _)| service);
    let one = service(methods.iter().find(|method| method.name == name)?.name);
    let methods = methods.iter().filter(|method| service(method.name) == one);
    let tables: Vec<_> = methods.map(|method| (method.name, method.signature.table())).collect();
    Some(service_hash(one, tables.iter().map(|(name, table)| (*name, table))))
}

/// A number for each service of these methods: what a server says with each connection.
fn service_hashes(methods: &[MethodSignature]) -> impl Iterator<Item = u64> {
    let mut services: BTreeMap<&str, Vec<(&str, SignatureTable)>> = BTreeMap::new();
    for method in methods {
        let service = method.name.split_once('/').map_or("", |(service, _)| service);
        services.entry(service).or_default().push((method.name, method.signature.table()));
    }
    services.into_iter().map(|(service, methods)| {
        service_hash(service, methods.iter().map(|(name, table)| (*name, table)))
    })
}

/// Those of as many services as there is room for.
pub(crate) fn schemas(methods: &[MethodSignature]) -> Schemas {
    service_hashes(methods).fold(Schemas::EMPTY, |all, hash| all.with(hash).unwrap_or(all))
}

/// Names and signatures, by the methods' numbers.
fn tables(methods: &[MethodSignature]) -> BTreeMap<u64, (String, SignatureTable)> {
    let table = |method: &MethodSignature| {
        let number = MethodId::of(method.name).number();
        (number, (method.name.to_owned(), method.signature.table()))
    };
    methods.iter().map(table).collect()
}

impl<L> ServerBuilder<L> {
    /// Offers every client the names and signatures of all methods that have a [`signature`](Method::signature): for tools
    /// without types, which make plain calls; so without those that send or take streams. Without it a server answers them `NotExecuted(UnknownMethod)`.
    ///
    /// That client and server mean the same by a method is compared without it (S33): a client that names a method learns the
    /// server's signature of it, if that is another one than its own.
    pub fn signatures(mut self) -> Self {
        self.offers_signatures = true;
        self
    }

    /// Adds the methods that compare and tell them.
    pub(crate) fn with_signature_methods(self) -> Self {
        let compared = tables(&self.compared());
        if compared.is_empty() && !self.offers_signatures {
            return self;
        }
        let shown = tables(&self.signatures);
        self.with_comparison(&compared).with_signatures(shown)
    }

    /// All that clients compare with theirs.
    pub(crate) fn compared(&self) -> Vec<MethodSignature> {
        [&self.signatures[..], &self.stream_signatures[..]].concat()
    }

    /// It may be called by all, whatever [`authorize`](ServerBuilder::authorize) says of its name; a caller learns nothing of a
    /// method that it may not call.
    fn with_comparison(mut self, all: &BTreeMap<u64, (String, SignatureTable)>) -> Self {
        let authorize = self.authorize.take();
        if let Some(allows) = authorize.clone() {
            self.authorize = Some(Arc::new(move |caller, method| {
                method == COMPARE.name() || allows(caller, method)
            }));
        }
        let described = all.iter().map(|(number, (name, table))| {
            (*number, (name.clone(), table.hash(), cut(table.to_string())))
        });
        let described: HashMap<u64, (String, u64, String)> = described.collect();
        let len = answer_len(&self.config);
        self.method(&COMPARE.reply_len_max(len as u32), move |context: Context, asked: Asked| {
            let mut left = len / 2;
            let differs = |(at, (number, hash)): (usize, &(u64, u64))| {
                let (name, _, text) = described.get(number).filter(|(_, own, _)| own != hash)?;
                if authorize.as_ref().is_some_and(|it| !allows(it, &context.caller, name)) {
                    return None;
                }
                // Where so many differ, it is enough to say of the first ones how.
                let fits = text.len() <= left;
                left -= if fits { text.len() } else { 0 };
                Some((at as u32, if fits { text.clone() } else { String::new() }))
            };
            let asked = asked.iter().take(ASKED_MAX);
            let answer: Vec<_> = asked.enumerate().filter_map(differs).collect();
            std::future::ready(answer)
        })
    }

    fn with_signatures(self, all: BTreeMap<u64, (String, SignatureTable)>) -> Self {
        if !self.offers_signatures {
            return self;
        }
        self.method(&SIGNATURES, move |_, numbers: Vec<u64>| {
            // Each once, however often it is asked for.
            let numbers: BTreeSet<u64> = numbers.into_iter().collect();
            let wanted =
                all.iter().filter(|(number, _)| numbers.is_empty() || numbers.contains(number));
            let mut found: Vec<_> = wanted.map(|(_, named)| named.clone()).collect();
            found.sort_by(|(one, _), (other, _)| one.cmp(other));
            std::future::ready(found)
        })
    }
}

/// A text for people, of bounded length.
pub(crate) fn cut(text: String) -> String {
    if text.len() <= TEXT_LEN_MAX {
        return text;
    }
    let end = (0..=TEXT_LEN_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}…", &text[..end])
}

impl Client {
    /// Asks the server for the names and signatures of all its methods that have one, sorted by name.
    ///
    /// A server that was built without [`ServerBuilder::signatures`] answers `NotExecuted(UnknownMethod)`.
    pub fn signatures(&self) -> Call<Vec<(String, SignatureTable)>> {
        self.call(&SIGNATURES, &Vec::new())
    }

    /// The methods among these that the server means something else by. A method that the server does not have, or has no
    /// signature of, is not compared.
    ///
    /// For the start of a program, which learns so before the first call that it cannot work with this server. Calls need it not:
    /// each is compared before it is sent, and ends as `NotExecuted(SignatureMismatch)` (S33). It says nothing of the server that
    /// the client may be connected to later.
    ///
    /// A server says with each connection a number for each of its first eight services. Where those of all methods of
    /// a service are the same, nothing is asked.
    ///
    /// # Errors
    /// The server means another set of methods, and could not be asked.
    pub async fn mismatches(
        &self,
        methods: &[MethodSignature],
    ) -> Result<Vec<SignatureMismatch>, CallFailure> {
        if methods.is_empty() {
            return Ok(Vec::new());
        }
        let means_the_same = |client: &Client| {
            let said = client.schemas();
            service_hashes(methods).all(|hash| said.contains(hash))
        };
        // One server, whichever is asked.
        let mut client = self.clone();
        if means_the_same(&client) {
            return Ok(Vec::new());
        }
        let asked = |method: &MethodSignature| {
            (MethodId::of(method.name).number(), method.signature.hash())
        };
        let mut found = Vec::new();
        for methods in methods.chunks(ASKED_MAX) {
            let mut call = client.call(&COMPARE, &methods.iter().map(asked).collect());
            let outcome = (&mut call).await;
            client = client.at_server_of(&call);
            let differs = match outcome.ok() {
                Ok(differs) => differs,
                // It was not connected before.
                Err(_) if means_the_same(&client) => return Ok(Vec::new()),
                Err(failure) => return Err(failure),
            };
            found.extend(differs.into_iter().filter_map(|(at, server)| {
                let MethodSignature { name, signature } = methods.get(at as usize)?;
                Some(SignatureMismatch::new(name, signature.to_string(), server))
            }));
        }
        Ok(found)
    }
}
