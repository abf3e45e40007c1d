//! Names and numbers, each its own type.

use core::fmt;
use core::num::NonZeroU64;

use serde::{Deserialize, Serialize};

/// The number of a call in its session: grows, is never used twice (S8).
///
/// The slot that a call occupies is `xid % slots`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Xid(NonZeroU64);

impl Xid {
    /// The highest number a session can use; a client ends the session before it would wrap.
    pub const MAX: u64 = u64::MAX - 1;

    /// `None` for 0 and for numbers above [`Xid::MAX`].
    pub const fn new(number: u64) -> Option<Xid> {
        if number > Xid::MAX {
            return None;
        }
        match NonZeroU64::new(number) {
            Some(number) => Some(Xid(number)),
            None => None,
        }
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for Xid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The 128 random bits that name a session (S1).
///
/// They are never displayed whole, because a peer that knows them can resume the session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SessionId([u8; 16]);

impl SessionId {
    /// From bits that must be random and unpredictable.
    pub const fn from_bytes(bytes: [u8; 16]) -> SessionId {
        SessionId(bytes)
    }

    /// The secret itself: for ledgers, not for logs.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    /// Its name for logs, which is no secret.
    pub fn tag(self) -> SessionTag {
        let [a, b] = [&self.0[..8], &self.0[8..]]
            .map(|half| half.iter().fold(0, |number, byte| (number << 8) | u64::from(*byte)));
        SessionTag(crate::digest::fold(a, b))
    }

    /// The first half, by which tables are indexed.
    pub(crate) fn prefix(self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}

/// A name for a session that is no secret: for logs, errors and records, and for those who have to tell the calls of one client from
/// another's. It is the same in every process, and for the life of the session.
///
/// It is 64 bits that follow from the session's 128: a peer that knows it has as many bits still to guess, one attempt a
/// connection.
///
/// ```
/// use oncewire_core::{SessionId, SessionTag};
///
/// let tag = SessionId::from_bytes([7; 16]).tag();
/// assert_eq!(tag.to_string().parse(), Ok(tag));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionTag(u64);

impl SessionTag {
    /// A tag that was written down as a number.
    pub const fn from_number(number: u64) -> SessionTag {
        SessionTag(number)
    }

    /// The number.
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for SessionTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for SessionTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionTag({self})")
    }
}

impl core::str::FromStr for SessionTag {
    type Err = core::num::ParseIntError;

    /// From its 16 hexadecimal digits.
    fn from_str(text: &str) -> Result<SessionTag, Self::Err> {
        u64::from_str_radix(text, 16).map(SessionTag)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({:02x}{:02x}…)", self.0[0], self.0[1])
    }
}

/// The 128 bits that name one set of completion records: new at every start of a server unless a ledger kept them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ServerId([u8; 16]);

impl ServerId {
    /// From bits that no other server has.
    pub const fn from_bytes(bytes: [u8; 16]) -> ServerId {
        ServerId(bytes)
    }

    /// The bits.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerId({self})")
    }
}

/// The number of a procedure: a hash of its full name, which is that of its service, a slash and its own.
///
/// ```
/// use oncewire_core::MethodId;
///
/// const DEDUCT: MethodId = MethodId::of("bank/deduct");
/// assert_eq!(DEDUCT, MethodId::of("bank/deduct"));
/// assert_ne!(DEDUCT, MethodId::of("bank/deposit"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MethodId(u64);

impl MethodId {
    /// The number of the method with this full name, such as `bank/deduct`: 64-bit FNV-1a over its UTF-8 bytes (W9).
    ///
    /// FNV-1a, because ten lines in any language compute it, in a constant too, and names are not chosen by attackers. In
    /// 64 bits, two of a million names have the same number with a chance of 1 in 37 million; in 32 bits, `costarring`
    /// ran `liquid`.
    pub const fn of(name: &str) -> MethodId {
        let bytes = name.as_bytes();
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        let mut at = 0;
        while at < bytes.len() {
            hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0100_0000_01b3);
            at += 1;
        }
        MethodId(hash)
    }

    /// A number that was agreed on by other means.
    pub const fn from_number(number: u64) -> MethodId {
        MethodId(number)
    }

    /// The number.
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for MethodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x}", self.0)
    }
}

impl fmt::Debug for MethodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MethodId({self})")
    }
}

/// Who the transport says is calling: a stable subject, as a number of the driver's.
///
/// Equal numbers are the same subject for as long as the server's sessions live. A unix uid can stand for itself;
/// names (of certificates, say) are numbered by the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Principal(pub u64);

impl Principal {
    /// The transport cannot say who is calling.
    pub const ANONYMOUS: Principal = Principal(u64::MAX);
}

/// One place in a table, distinguished from later tenants of the same place by its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// One call at the client machine that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallId(pub(crate) Key);

impl CallId {
    /// A small number, unique among the calls that have not ended: an index for tables beside the machine's.
    pub const fn index(self) -> usize {
        self.0.index as usize
    }
}

/// One connection at the server machine that issued the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnId(pub(crate) Key);

impl ConnId {
    /// A small number, unique among the connections that have not ended: an index for tables beside the machine's.
    pub const fn index(self) -> usize {
        self.0.index as usize
    }
}

/// One session at the server machine that opened it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey(pub(crate) Key);

/// How far behind `number` the next one on `slot` is, in a session of `slots` slots; 0 if it is on that slot itself.
#[inline]
pub(crate) fn steps_to_slot(number: u64, slot: u32, slots: u32) -> u64 {
    let (slot, slots) = (u64::from(slot), u64::from(slots.max(1)));
    if slots & (slots - 1) == 0 {
        return slot.wrapping_sub(number) & (slots - 1);
    }
    let at = number % slots;
    if slot >= at { slot - at } else { slots + slot - at }
}

/// The slot of an xid in a session of `slots` slots (S8).
#[inline]
pub(crate) fn slot_of(xid: u64, slots: u32) -> u32 {
    let slots = u64::from(slots.max(1));
    // A division takes longer than the rest of a look-up.
    let is_power_of_two = slots & (slots - 1) == 0;
    let slot = if is_power_of_two { xid & (slots - 1) } else { xid % slots };
    slot as u32
}
