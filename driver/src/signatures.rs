//! What a server's methods take and return, asked for over the wire: by tools, and by clients that compare it with what they
//! mean.
//!
//! A built-in method of the server answers, an ordinary one but for its name. So this is above the protocol, and nothing of
//! it delays a call.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use oncewire_core::{MethodId, Schemas};
use oncewire_schema::{Signature, SignatureTable, service_hash};

use crate::client::{Call, CallFailure, Client};
use crate::method::Method;
use crate::server::ServerBuilder;

/// For the numbers of methods, or for none of all: the name and the signature of each that has one.
const SIGNATURES: Method<Vec<u64>, Vec<(String, SignatureTable)>> =
    Method::new("oncewire/signatures").idempotent().reply_len_max(1 << 20);

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
    pub method: &'static str,
    /// Its signature at this client.
    pub client: String,
    /// Its signature at the server.
    pub server: String,
}

impl fmt::Display for SignatureMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, client, server } = self;
        write!(f, "`{method}` is {client} at the client, and {server} at the server")
    }
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

impl<L> ServerBuilder<L> {
    /// Offers every client the names and signatures of all methods that have a [`signature`](Method::signature): for tools
    /// without types, and for [`Client::mismatches`].
    ///
    /// Without it a server answers `NotExecuted(UnknownMethod)`.
    pub fn signatures(mut self) -> Self {
        self.offers_signatures = true;
        self
    }

    /// Adds the method that returns them.
    pub(crate) fn with_signatures_method(self) -> Self {
        if !self.offers_signatures {
            return self;
        }
        let all = self.signatures.clone().into_iter().map(|method| {
            let table = method.signature.table();
            (MethodId::of(method.name).number(), (method.name.to_owned(), table))
        });
        let all: BTreeMap<u64, (String, SignatureTable)> = all.collect();
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
    /// A server says with each connection a number for each of its first eight services. Where those of all methods of
    /// a service are the same, nothing is asked; else the server is asked for the signatures.
    ///
    /// For the start of a program: what it finds would otherwise be found call by call, where the bytes happen to be
    /// no value of the other type. It says nothing of the server that the client may be connected to later.
    ///
    /// # Errors
    /// The server means another set of methods, and could not be asked or does not say which: see [`Client::signatures`].
    pub async fn mismatches(
        &self,
        methods: &[MethodSignature],
    ) -> Result<Vec<SignatureMismatch>, CallFailure> {
        if methods.is_empty() {
            return Ok(Vec::new());
        }
        let number = |method: &MethodSignature| MethodId::of(method.name).number();
        let numbers: Vec<u64> = methods.iter().map(number).collect();
        let means_the_same = || {
            let said = self.schemas();
            service_hashes(methods).all(|hash| said.contains(hash))
        };
        if means_the_same() {
            return Ok(Vec::new());
        }
        let theirs = match self.call(&SIGNATURES, &numbers).await.ok() {
            Ok(theirs) => theirs,
            // It was not connected before.
            Err(_) if means_the_same() => return Ok(Vec::new()),
            Err(failure) => return Err(failure),
        };
        let theirs: HashMap<String, SignatureTable> = theirs.into_iter().collect();
        let compare = |method: &MethodSignature| {
            let (here, there) = (method.signature.table(), theirs.get(method.name)?);
            (here.hash() != there.hash()).then(|| SignatureMismatch {
                method: method.name,
                client: here.to_string(),
                server: there.to_string(),
            })
        };
        Ok(methods.iter().filter_map(compare).collect())
    }
}
