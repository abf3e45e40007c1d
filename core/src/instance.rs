//! What a server says of itself beside its id: which process answers, and which interfaces it has.

use core::fmt;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::text::Text;

/// Bytes of the longest name of an instance.
pub const INSTANCE_NAME_LEN_MAX: usize = Text::<48>::LEN_MAX;
/// Schemas that a server names at most.
pub const SCHEMAS_MAX: usize = 8;

/// One start of a server: the process that answers.
///
/// A server id names a set of completion records, which several instances may share, one after the other or behind one
/// address. The instance says which of them it was.
///
/// ```
/// use oncewire_core::Instance;
/// let instance = Instance::new(0x1234, "web-3:4711");
/// assert_eq!(instance.to_string(), "web-3:4711 (0000000000001234)");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Instance {
    #[serde(with = "fixed")]
    id: u64,
    name: Text<48>,
}

impl Instance {
    /// An instance whose owner says nothing of it.
    pub const UNNAMED: Instance = Instance { id: 0, name: Text::EMPTY };

    /// An instance with this id, random at each start, and a name for people to read, of which the first 48 bytes are
    /// kept.
    pub const fn new(id: u64, name: &str) -> Instance {
        Instance { id, name: Text::truncated(name) }
    }

    /// The bits that no other start of a server has.
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// Its name: where it runs, say. Empty if it has none.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.is_empty() {
            return write!(f, "{:016x}", self.id);
        }
        // A peer has written it, and may be anybody.
        write!(f, "{} ({:016x})", self.name().escape_debug(), self.id)
    }
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Instance({self})")
    }
}

/// Random numbers are shorter at a fixed width than as varints.
mod fixed {
    use serde::{Deserialize, Serialize};

    pub(super) fn serialize<S: serde::Serializer>(id: &u64, to: S) -> Result<S::Ok, S::Error> {
        id.to_le_bytes().serialize(to)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        <[u8; 8]>::deserialize(from).map(u64::from_le_bytes)
    }
}

/// The schemas of a server's services: a set of at most [`SCHEMAS_MAX`] hashes, each of a service's name and of all its
/// methods' names and types.
///
/// A client that finds the hash of its own schema there knows that both have the same. One that does not knows nothing:
/// the server may have another schema, none, or more than fit. So it needs no key, and a hash is all that is sent. The
/// machines only carry them.
///
/// ```
/// use oncewire_core::Schemas;
/// let schemas = Schemas::EMPTY.with(0x17).unwrap();
/// assert!(schemas.contains(0x17) && !schemas.contains(0x18));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Schemas {
    hashes: [u64; SCHEMAS_MAX],
    len: u8,
}

impl Schemas {
    /// None.
    pub const EMPTY: Schemas = Schemas { hashes: [0; SCHEMAS_MAX], len: 0 };

    /// These and one more; `None` if it does not fit.
    pub const fn with(mut self, hash: u64) -> Option<Schemas> {
        if self.len as usize == SCHEMAS_MAX {
            return None;
        }
        self.hashes[self.len as usize] = hash;
        self.len += 1;
        Some(self)
    }

    /// The hashes.
    pub fn as_slice(&self) -> &[u64] {
        &self.hashes[..usize::from(self.len)]
    }

    /// Whether this is one of them.
    pub fn contains(&self, hash: u64) -> bool {
        self.as_slice().contains(&hash)
    }
}

impl Default for Schemas {
    fn default() -> Self {
        Schemas::EMPTY
    }
}

impl fmt::Debug for Schemas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut set = f.debug_set();
        for hash in self.as_slice() {
            set.entry(&format_args!("{hash:016x}"));
        }
        set.finish()
    }
}

impl Serialize for Schemas {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.as_slice().iter().map(|hash| hash.to_le_bytes()))
    }
}

impl<'de> Deserialize<'de> for Schemas {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Hashes;

        impl<'de> Visitor<'de> for Hashes {
            type Value = Schemas;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {SCHEMAS_MAX} hashes")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Schemas, A::Error> {
                let mut schemas = Schemas::EMPTY;
                while let Some(hash) = seq.next_element::<[u8; 8]>()? {
                    let more = schemas.with(u64::from_le_bytes(hash));
                    schemas = more.ok_or_else(|| A::Error::custom("too many schemas"))?;
                }
                Ok(schemas)
            }
        }

        deserializer.deserialize_seq(Hashes)
    }
}
