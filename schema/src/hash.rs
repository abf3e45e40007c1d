//! One number for a description: two programs compare what they mean by a method.
//!
//! Equal numbers mean that the same bytes are the same values, part by part and name by name. Names of fields, variants and
//! parameters count, since postcard goes by their order: where two fields of one type have changed places, only the names
//! show it. Names of types do not count, and a struct of one unnamed field is as that field, because neither changes what a
//! value means.
//!
//! What counts is how a type unfolds, [`DEPTH`] levels deep, and not how a program has cut it into definitions.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::signature::SignatureTable;
use crate::table::{Index, Node, NodeFields, Nodes, TypeTable};
use crate::types::Primitive;

/// Deeper than any type that is not recursive.
const DEPTH: usize = 64;

/// FNV-1a, 64 bits: the same on every machine and in every version.
pub(crate) struct Hash(u64);

impl Hash {
    pub(crate) fn new(kind: u8) -> Hash {
        let mut hash = Hash(0xcbf2_9ce4_8422_2325);
        hash.bytes(&[kind]);
        hash
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    pub(crate) fn number(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.bytes(text.as_bytes());
    }

    pub(crate) fn finish(&self) -> u64 {
        self.0
    }
}

impl TypeTable {
    /// A number that stays the same from build to build and from machine to machine; types with the same are the same on the
    /// wire, with the same names of fields and variants.
    pub fn hash(&self) -> u64 {
        self.nodes.hashes()[self.root as usize]
    }
}

impl SignatureTable {
    /// A number that stays the same from build to build and from machine to machine; methods with the same take the same
    /// arguments by the same names, and return the same.
    ///
    /// It says nothing of the method's name.
    pub fn hash(&self) -> u64 {
        let hashes = self.nodes.hashes();
        let mut hash = Hash::new(b's');
        hash.number(self.parameters.len() as u64);
        self.parameters.iter().for_each(|name| hash.text(name));
        hash.number(hashes[self.arguments as usize]);
        hash.number(hashes[self.reply as usize]);
        hash.finish()
    }
}

/// A number for a service: of its name, and of the names and signatures of its methods, in any order.
///
/// Two programs with the same have the same methods with the same signatures.
pub fn service_hash<'m>(
    service: &str,
    methods: impl IntoIterator<Item = (&'m str, &'m SignatureTable)>,
) -> u64 {
    let methods = methods.into_iter().map(|(name, signature)| (name, signature.hash()));
    let methods: BTreeMap<&str, u64> = methods.collect();
    let mut hash = Hash::new(b'i');
    hash.text(service);
    hash.number(methods.len() as u64);
    for (name, signature) in methods {
        hash.text(name);
        hash.number(signature);
    }
    hash.finish()
}

impl Nodes {
    /// Of each type.
    fn hashes(&self) -> Vec<u64> {
        let indices = 0..self.len() as Index;
        let resolved: Vec<Index> = indices.clone().map(|index| self.resolve(index)).collect();
        let mut hashes: Vec<u64> = resolved.iter().map(|_| 0).collect();
        for _ in 0..DEPTH {
            let of = |index: Index| hashes[resolved[index as usize] as usize];
            hashes = indices.clone().map(|index| self.get(index).hash(of)).collect();
        }
        resolved.iter().map(|index| hashes[*index as usize]).collect()
    }
}

impl Node {
    /// From those of the types that it refers to.
    fn hash(&self, of: impl Fn(Index) -> u64) -> u64 {
        let mut hash;
        match self {
            Node::Primitive(primitive) => {
                hash = Hash::new(b'p');
                hash.number(primitive.number());
            }
            Node::Option(inner) => {
                hash = Hash::new(b'o');
                hash.number(of(*inner));
            }
            Node::Sequence(element) => {
                hash = Hash::new(b'v');
                hash.number(of(*element));
            }
            Node::Map(key, value) => {
                hash = Hash::new(b'm');
                hash.number(of(*key));
                hash.number(of(*value));
            }
            Node::Array(element, len) => {
                hash = Hash::new(b'a');
                hash.number(*len);
                hash.number(of(*element));
            }
            // A tuple is as a struct with the same fields.
            Node::Tuple(elements) => {
                hash = Hash::new(b't');
                unnamed(&mut hash, elements, of);
            }
            // One without fields is as nothing.
            Node::Struct(_, NodeFields::Unnamed(fields)) if fields.is_empty() => {
                return Node::Primitive(Primitive::Unit).hash(of);
            }
            Node::Struct(_, fields) => {
                hash = Hash::new(b't');
                fields.hash(&mut hash, &of);
            }
            Node::Enum(_, variants) => {
                hash = Hash::new(b'e');
                hash.number(variants.len() as u64);
                for variant in variants {
                    hash.text(&variant.name);
                    variant.fields.hash(&mut hash, &of);
                }
            }
        }
        hash.finish()
    }
}

impl NodeFields {
    fn hash(&self, hash: &mut Hash, of: &impl Fn(Index) -> u64) {
        match self {
            NodeFields::Unnamed(fields) => unnamed(hash, fields, of),
            NodeFields::Named(fields) => {
                hash.bytes(b"n");
                hash.number(fields.len() as u64);
                for (name, field) in fields {
                    hash.text(name);
                    hash.number(of(*field));
                }
            }
        }
    }
}

fn unnamed(hash: &mut Hash, fields: &[Index], of: impl Fn(Index) -> u64) {
    hash.number(fields.len() as u64);
    fields.iter().for_each(|field| hash.number(of(*field)));
}

impl Primitive {
    /// For the hash: it stays when the enum changes.
    fn number(self) -> u64 {
        match self {
            Primitive::Unit => 0,
            Primitive::Bool => 1,
            Primitive::I8 => 2,
            Primitive::I16 => 3,
            Primitive::I32 => 4,
            Primitive::I64 => 5,
            Primitive::I128 => 6,
            Primitive::U8 => 7,
            Primitive::U16 => 8,
            Primitive::U32 => 9,
            Primitive::U64 => 10,
            Primitive::U128 => 11,
            Primitive::F32 => 12,
            Primitive::F64 => 13,
            Primitive::Char => 14,
            Primitive::String => 15,
        }
    }
}
