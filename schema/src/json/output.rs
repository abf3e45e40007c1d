//! What is written while JSON is read.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Limits;
use super::path::{Keys, Path, too_long};
use crate::table::{Index, Node, NodeVariant, Nodes};
use crate::types::Primitive;

pub(super) struct Reader<'t> {
    pub(super) nodes: &'t Nodes,
    pub(super) limits: Limits,
    pub(super) postcard: Vec<u8>,
    pub(super) path: Path<'t>,
    pub(super) keys: Keys,
    /// The variants' numbers by their names, of each enum that was read.
    variants: BTreeMap<Index, BTreeMap<&'t str, usize>>,
}

impl<'t> Reader<'t> {
    pub(super) fn new(nodes: &'t Nodes, limits: Limits) -> Reader<'t> {
        Reader {
            nodes,
            limits,
            postcard: Vec::new(),
            path: Path::default(),
            keys: Keys::default(),
            variants: BTreeMap::new(),
        }
    }

    pub(super) fn push<E: serde::de::Error>(&mut self, value: impl Serialize) -> Result<(), E> {
        let bytes = postcard::to_allocvec(&value).map_err(E::custom)?;
        self.push_bytes(&bytes)
    }

    pub(super) fn push_bytes<E: serde::de::Error>(&mut self, bytes: &[u8]) -> Result<(), E> {
        if bytes.len() > self.limits.len_max.saturating_sub(self.postcard.len()) {
            return Err(E::custom(too_long(self.limits.len_max)));
        }
        self.postcard.extend_from_slice(bytes);
        Ok(())
    }

    pub(super) fn push_str<E: serde::de::Error>(&mut self, text: &str) -> Result<(), E> {
        self.push::<E>(text.len() as u64)?;
        self.push_bytes(text.as_bytes())
    }

    /// Puts the number of elements before them, whose place had room for a byte.
    pub(super) fn set_count<E: serde::de::Error>(
        &mut self,
        place: usize,
        count: u64,
    ) -> Result<(), E> {
        let count = postcard::to_allocvec(&count).map_err(E::custom)?;
        self.postcard.splice(place..place + 1, count);
        if self.postcard.len() > self.limits.len_max {
            return Err(E::custom(too_long(self.limits.len_max)));
        }
        Ok(())
    }

    /// What a field is that was left out.
    pub(super) fn push_missing<E: serde::de::Error>(
        &mut self,
        name: &str,
        of: Index,
    ) -> Result<(), E> {
        match self.nodes.get(self.nodes.resolve(of)) {
            Node::Option(_) => self.push(0u8),
            _ => Err(E::custom(format_args!("missing field `{name}`"))),
        }
    }

    /// The variant of this name, of an enum in the table.
    pub(super) fn push_variant<E: serde::de::Error>(
        &mut self,
        index: Index,
        variants: &'t [NodeVariant],
        name: &str,
    ) -> Result<&'t NodeVariant, E> {
        let numbers = self
            .variants
            .entry(index)
            .or_insert_with(|| places(variants.iter().map(|variant| variant.name.as_str())));
        let Some(number) = numbers.get(name).copied() else {
            let names = variants.iter().map(|variant| variant.name.as_str());
            return Err(unknown("variant", name, names));
        };
        self.push(number as u32)?;
        Ok(&variants[number])
    }
}

/// Where in their order the parts of these names are. Searching for each would take too long in a type from a stranger.
pub(super) fn places<'t>(names: impl Iterator<Item = &'t str>) -> BTreeMap<&'t str, usize> {
    names.enumerate().map(|(place, name)| (name, place)).collect()
}

pub(super) fn unknown<'t, E: serde::de::Error>(
    kind: &str,
    name: &str,
    known: impl Iterator<Item = &'t str>,
) -> E {
    /// As many as a person reads.
    const NAMES_MAX: usize = 32;
    let known: Vec<&str> = known.take(NAMES_MAX).collect();
    E::custom(format_args!("unknown {kind} `{name}`, there are: {}", known.join(", ")))
}

/// A key's text is what it is as a value, in quotes.
pub(super) fn push_key<E: serde::de::Error>(
    reader: &mut Reader<'_>,
    index: Index,
    text: &str,
) -> Result<(), E> {
    macro_rules! parsed {
        ($of:ty) => {
            match text.parse::<$of>() {
                // No sign or zero that is not needed: two texts are two keys.
                Ok(value) if value.to_string() == text => reader.push(value),
                _ => Err(E::custom(format_args!("`{text}` is no {}", stringify!($of)))),
            }
        };
    }
    let nodes = reader.nodes;
    let index = nodes.resolve(index);
    match nodes.get(index) {
        Node::Primitive(primitive) => by_primitive!(primitive, parsed, {
            Primitive::String => reader.push_str(text),
            Primitive::Unit | Primitive::F32 | Primitive::F64 => Err(E::custom("no key")),
        }),
        Node::Enum(_, variants) => reader.push_variant(index, variants, text).map(|_| ()),
        _ => Err(E::custom("no key")),
    }
}
