//! Signatures: what this client and the server that it is connected to mean by the methods that are called (S33).
//!
//! The machine holds calls whose comparison is pending. Here is known which are: a server says a hash for each service with each
//! connection, and where one differs, it is asked for the methods of the service, once for each instance.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::time::Duration;

use oncewire_core::{
    Call, CallId, Client as Machine, Comparison, Heap, Instant, MethodId, NoReply, NotExecuted,
    ServerInfo,
};

use crate::method::Typed;
use crate::reply::RawOutcome;
use crate::schema::Signature;
use crate::signatures::{self, MethodSignature, SignatureMismatch, cut};

/// What is known of each signature that calls were made with. Its number is its index here, and one more.
#[derive(Default)]
pub(super) struct Comparisons {
    known: Vec<KnownSignature>,
    /// The numbers of the signatures of a method: one, but where a program has two definitions of it.
    by_method: HashMap<MethodId, Vec<u32>, BuildHasherDefault<MethodHasher>>,
    /// The numbers that were found last, each where its method's number leads: nearly all calls find theirs here. 0 is none.
    recent: [u32; RECENT],
    /// The server that this is known of.
    server: Option<ServerInfo>,
    /// It cannot be asked: what its hashes do not say is not compared.
    is_silent: bool,
    question: Question,
    /// The most signatures in one question.
    asked_max: usize,
    /// Something has happened that may decide about calls, or one was begun by whose signature none waits yet.
    pub(super) is_due: bool,
}

/// A power of two.
const RECENT: usize = 16;

struct KnownSignature {
    id: MethodId,
    compared: Arc<Compared>,
    /// `None` if only calls of an earlier run have it.
    signature: Option<Signature>,
    /// That of its service, if the program knows all methods of it.
    service: Option<u64>,
    comparison: Comparison,
    /// Calls wait for it, and it is asked for, or will be when the question has its answer.
    is_awaited: bool,
    /// What was found last.
    mismatch: Option<SignatureMismatch>,
}

/// What calls are compared by, as a journal keeps it: a later run of the program may mean something else by the method.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Compared {
    pub(super) hash: u64,
    /// The method's full name.
    pub(super) name: String,
    /// The signature as a text, which may be cut.
    pub(super) text: String,
}

impl KnownSignature {
    /// Whether a method certainly has this signature, which costs next to nothing; false says nothing.
    #[inline]
    fn is_surely(&self, typed: &Typed) -> bool {
        self.id == typed.id && self.signature.is_some_and(|own| own.ptr_eq(&typed.signature))
    }
}

/// What the server is asked.
#[derive(Default)]
enum Question {
    #[default]
    None,
    /// Its answer is awaited, and calls with it.
    Asked { call: CallId, signatures: Vec<u32> },
    /// It was not answered in time. The answer still counts; until it comes, no call waits for it.
    Late { call: CallId, signatures: Vec<u32> },
    /// This is what became of it.
    Answered { call: CallId, signatures: Vec<u32>, outcome: RawOutcome, is_sent: bool },
}

/// A method's number is a hash.
#[derive(Default)]
pub(super) struct MethodHasher(u64);

impl Hasher for MethodHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Comparisons {
    /// The number of a method's signature, and what is known of it.
    #[inline]
    pub(super) fn describe(&mut self, name: &'static str, typed: &Typed) -> (u32, Comparison) {
        let recent = self.recent[typed.id.number() as usize % RECENT];
        match self.known.get((recent as usize).wrapping_sub(1)) {
            Some(known) if known.is_surely(typed) => match known.comparison {
                // As nearly always: then no more is needed.
                Comparison::Same => (recent, Comparison::Same),
                _ => self.describe_as(recent),
            },
            _ => self.describe_other(name, typed),
        }
    }

    #[inline(never)]
    fn describe_other(&mut self, name: &'static str, typed: &Typed) -> (u32, Comparison) {
        let first = self.by_method.get(&typed.id).and_then(|numbers| numbers.first());
        let number = match first {
            Some(&number) if self.known(number).is_surely(typed) => number,
            _ => self.find(name, typed),
        };
        self.recent[typed.id.number() as usize % RECENT] = number;
        self.describe_as(number)
    }

    /// Says what is known of a call that an earlier run made.
    pub(super) fn restore(&mut self, call: &mut Call<'_>, compared: &Arc<Compared>) {
        let known = self.number_of(call.method, compared.hash);
        let number = known.unwrap_or_else(|| self.push(call.method, compared.clone()));
        (call.signature, call.comparison) = self.describe_as(number);
    }

    #[cold]
    fn describe_as(&mut self, number: u32) -> (u32, Comparison) {
        let known = self.known(number);
        let comparison = match (known.comparison, &self.question) {
            (Comparison::Pending, Question::Late { .. }) => Comparison::Failed,
            (comparison, _) => comparison,
        };
        // To decide visits all calls: not for each that joins those that wait.
        self.is_due |= comparison == Comparison::Pending && !known.is_awaited;
        (number, comparison)
    }

    fn known(&self, number: u32) -> &KnownSignature {
        &self.known[number as usize - 1]
    }

    fn known_mut(&mut self, number: u32) -> &mut KnownSignature {
        &mut self.known[number as usize - 1]
    }

    /// What a journal keeps of a call that was described.
    pub(super) fn of(&self, call: &Call<'_>) -> Option<Arc<Compared>> {
        let is_compared = call.comparison != Comparison::NotNeeded;
        is_compared.then(|| self.known(call.signature).compared.clone())
    }

    /// The number of a signature, which it has from now on.
    #[cold]
    fn find(&mut self, name: &'static str, typed: &Typed) -> u32 {
        let (id, hash) = (typed.id, typed.signature.hash());
        if let Some(number) = self.number_of(id, hash)
            && self.known(number).signature.is_some()
        {
            return number;
        }
        let methods = typed.service.map_or_else(Vec::new, |service| service());
        let service = signatures::hash_of_service(name, &methods);
        for method in methods {
            self.add(method, method.signature.hash(), service);
        }
        // It may be one of them.
        self.add(MethodSignature { name, signature: typed.signature }, hash, None)
    }

    fn number_of(&self, id: MethodId, hash: u64) -> Option<u32> {
        let numbers = self.by_method.get(&id)?;
        numbers.iter().copied().find(|number| self.known(*number).compared.hash == hash)
    }

    fn add(&mut self, method: MethodSignature, hash: u64, service: Option<u64>) -> u32 {
        let MethodSignature { name, signature } = method;
        let id = MethodId::of(name);
        let number = self.number_of(id, hash).unwrap_or_else(|| {
            let (name, text) = (name.to_owned(), cut(signature.to_string()));
            self.push(id, Arc::new(Compared { hash, name, text }))
        });
        if self.known(number).signature.is_none() {
            let said = self.said_of(service);
            let known = self.known_mut(number);
            (known.signature, known.service) = (Some(signature), service);
            if known.comparison == Comparison::Pending && said != Comparison::Pending {
                known.comparison = said;
                self.is_due = true;
            }
        }
        number
    }

    /// A signature that was not known.
    fn push(&mut self, id: MethodId, compared: Arc<Compared>) -> u32 {
        let comparison = self.said_of(None);
        let (signature, service, is_awaited, mismatch) = (None, None, false, None);
        let known =
            KnownSignature { id, compared, signature, service, comparison, is_awaited, mismatch };
        self.known.push(known);
        let number = self.known.len() as u32;
        self.by_method.entry(id).or_default().push(number);
        number
    }

    /// What the server has said of a service with the connection.
    fn said_of(&self, service: Option<u64>) -> Comparison {
        let Some(info) = &self.server else { return Comparison::Pending };
        // A server without types is not compared.
        let is_same = self.is_silent
            || info.schemas.as_slice().is_empty()
            || service.is_some_and(|service| info.schemas.contains(service));
        if is_same { Comparison::Same } else { Comparison::Pending }
    }

    /// A handshake went through.
    pub(super) fn connected(&mut self, info: Option<ServerInfo>) {
        debug_assert!(matches!(self.question, Question::None));
        let is_same = self.server.is_some() && self.server == info;
        // One without an id may be any.
        if !is_same || info.is_none_or(|info| info.instance.id() == 0) {
            (self.server, self.is_silent, self.asked_max) = (info, false, usize::MAX);
            for at in 0..self.known.len() {
                self.known[at].comparison = self.said_of(self.known[at].service);
            }
        }
        self.is_due = true;
    }

    /// The connection is gone, and with it the question: it would be answered by another server.
    pub(super) fn disconnected(&mut self, machine: &mut Machine<Heap>, now: Instant) {
        match std::mem::take(&mut self.question) {
            Question::Asked { call, .. } | Question::Late { call, .. } => machine.forget(now, call),
            // A durable client's call occupied its slot for good when its answer came with the connection's end.
            Question::Answered { call, .. } => machine.settle(now, call),
            Question::None => {}
        }
    }

    /// The question's call, if it has not ended.
    #[inline]
    pub(super) fn question(&self) -> Option<CallId> {
        match self.question {
            Question::Asked { call, .. } | Question::Late { call, .. } => Some(call),
            Question::None | Question::Answered { .. } => None,
        }
    }

    /// The question has this outcome. `is_sent`: the server may have read it.
    pub(super) fn answer(&mut self, outcome: RawOutcome, is_sent: bool) {
        self.is_due = true;
        self.question = match (std::mem::take(&mut self.question), outcome) {
            (Question::Asked { call, signatures }, RawOutcome::Unknown(_, true)) => {
                Question::Late { call, signatures }
            }
            (
                Question::Asked { call, signatures } | Question::Late { call, signatures },
                outcome,
            ) => Question::Answered { call, signatures, outcome, is_sent },
            (question, _) => question,
        };
    }

    /// Decides about the calls that are held, as far as that can be done, and asks the server for the rest,
    /// which has `answer_timeout` to say it.
    pub(super) fn decide(
        &mut self,
        machine: &mut Machine<Heap>,
        now: Instant,
        answer_timeout: Duration,
    ) {
        self.is_due = false;
        if let Question::Answered { .. } = self.question
            && let Question::Answered { call, signatures, outcome, is_sent } =
                std::mem::take(&mut self.question)
        {
            // A durable client's calls occupy their slots until then.
            machine.settle(now, call);
            self.take_answer(&signatures, &outcome, is_sent);
        }
        let is_late = matches!(self.question, Question::Late { .. });
        let mut wanted = Vec::new();
        machine.compare(now, |number| match self.known(number).comparison {
            Comparison::Pending if is_late => Comparison::Failed,
            Comparison::Pending => {
                if !wanted.contains(&number) {
                    wanted.push(number);
                }
                Comparison::Pending
            }
            comparison => comparison,
        });
        for known in &mut self.known {
            known.is_awaited = false;
            if known.comparison == Comparison::Failed {
                // The next call asks again.
                known.comparison = Comparison::Pending;
            }
        }
        if matches!(self.question, Question::None) && !wanted.is_empty() {
            self.ask(machine, now, answer_timeout, wanted.clone());
        }
        if let Question::Asked { .. } = self.question {
            wanted.iter().for_each(|number| self.known_mut(*number).is_awaited = true);
        }
    }

    fn take_answer(&mut self, asked: &[u32], outcome: &RawOutcome, is_sent: bool) {
        let answer = match outcome {
            RawOutcome::Reply(body) => signatures::decode_answer(body.as_slice()),
            RawOutcome::NotExecuted(NotExecuted::UnknownMethod) => {
                // It has types and does not compare them.
                self.is_silent = true;
                for known in &mut self.known {
                    known.comparison = Comparison::Same;
                }
                return;
            }
            // No slot was free for it, as none would have been for the calls.
            RawOutcome::NotExecuted(NotExecuted::DeadlinePassed) if !is_sent => return,
            RawOutcome::NoReply(NoReply::ReplyTooLarge) if asked.len() > 1 => {
                self.asked_max = 1;
                return;
            }
            _ => None,
        };
        let (judged, differs) = match answer {
            Some(differs) => (Comparison::Same, differs),
            None => (Comparison::Failed, Vec::new()),
        };
        for number in asked {
            self.known_mut(*number).comparison = judged;
        }
        for (at, server) in differs {
            let Some(number) = asked.get(at as usize) else { continue };
            let known = self.known_mut(*number);
            let Compared { name, text, .. } = &*known.compared;
            known.mismatch = Some(SignatureMismatch::new(name, text.clone(), server));
            known.comparison = Comparison::Differs;
        }
    }

    /// Asks for these, and for others of their services: their calls will follow.
    fn ask(
        &mut self,
        machine: &mut Machine<Heap>,
        now: Instant,
        answer_timeout: Duration,
        mut wanted: Vec<u32>,
    ) {
        let services: Vec<_> =
            wanted.iter().filter_map(|number| self.known(*number).service).collect();
        for number in 1..=self.known.len() as u32 {
            let known = self.known(number);
            let is_related = known.service.is_some_and(|service| services.contains(&service));
            if is_related && known.comparison == Comparison::Pending && !wanted.contains(&number) {
                wanted.push(number);
            }
        }
        let granted = machine.session().map_or(0, |session| session.grants.request_len_max);
        wanted.truncate(self.asked_max.min(signatures::asked_max(granted)));
        let asked = wanted.iter().map(|number| {
            let known = self.known(*number);
            (known.id.number(), known.compared.hash)
        });
        let Some(mut call) = signatures::question(&asked.collect()) else { return };
        call.timeout = answer_timeout;
        if let Some(call) = machine.call_ahead(now, call) {
            self.question = Question::Asked { call, signatures: wanted };
        }
    }

    /// What client and server were last found to mean by a method.
    pub(super) fn mismatch(&self, typed: &Typed) -> Option<SignatureMismatch> {
        self.known(self.number_of(typed.id, typed.signature.hash())?).mismatch.clone()
    }

    /// What is known of the server that the client is or was connected to.
    pub(super) fn mismatches(&self) -> Vec<SignatureMismatch> {
        let differing = self.known.iter().filter(|known| known.comparison == Comparison::Differs);
        differing.filter_map(|known| known.mismatch.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use oncewire_core::{
        ClientConfig, Principal, Schemas, Server, ServerConfig, ServerId, ServiceName, SessionId,
    };

    use super::*;
    use crate::method::Method;

    const NOW: Instant = Instant::ZERO;
    const PAY: Method<(u64, u64), u64> = Method::new("shop/pay").parameters(&["cents", "to"]);
    const ASK: Method<(u64,), u64> = Method::new("shop/ask").parameters(&["what"]);

    /// Connected to a server that has types, and others.
    fn connected() -> Machine<Heap> {
        let mut config = ServerConfig::new(ServerId::from_bytes([7; 16]), ServiceName::EMPTY);
        config.schemas = Schemas::EMPTY.with(7).unwrap();
        let mut server = Server::<Heap>::new(config, &[]).unwrap();
        let secret = SessionId::from_bytes([8; 16]);
        let conn = server.handle_connected(NOW, Principal::ANONYMOUS, secret).unwrap();
        let mut client = Machine::new(ClientConfig::default());
        client.handle_connected(NOW);
        let mut frames = [0; 1024];
        let len = client.poll_transmit(NOW, &mut frames).unwrap().get();
        server.handle_data(NOW, conn, &frames[..len]).unwrap();
        let len = server.poll_transmit(NOW, conn, &mut frames).unwrap().get();
        client.handle_data(NOW, &frames[..len]).unwrap();
        assert!(client.is_connected());
        client
    }

    /// Each decision visits all calls: with one for each that began, a thousand that waited cost a million visits.
    #[test]
    fn c297_calls_that_join_those_that_wait_for_a_comparison_are_not_all_looked_at_again() {
        let mut machine = connected();
        let mut comparisons = Comparisons::default();
        comparisons.connected(machine.server_info().copied());
        let mut decisions = 0;
        for n in 0..100 {
            let (id, name, typed) = match n % 2 {
                0 => (PAY.id(), PAY.name(), PAY.typed()),
                _ => (ASK.id(), ASK.name(), ASK.typed()),
            };
            let mut call = Call::new(id, &[]);
            (call.signature, call.comparison) = comparisons.describe(name, &typed.unwrap());
            machine.call(NOW, call).unwrap();
            if comparisons.is_due {
                decisions += 1;
                comparisons.decide(&mut machine, NOW, Duration::from_secs(1));
            }
        }
        assert_eq!(decisions, 2, "one for each method");
        // Both are asked for, one after the other; then nothing waits.
        for _ in 0..2 {
            assert!(comparisons.question().is_some());
            let nothing_differs = RawOutcome::Reply(crate::reply::ReplyBody::new(&[0], None));
            comparisons.answer(nothing_differs, true);
            comparisons.decide(&mut machine, NOW, Duration::from_secs(1));
        }
        assert!(comparisons.question().is_none());
        assert!(comparisons.known.iter().all(|known| known.comparison == Comparison::Same));
    }
}
