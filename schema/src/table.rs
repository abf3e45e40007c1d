//! A description as a value of its own, which may come from another program.

use alloc::borrow::ToOwned;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;
use core::any::TypeId;
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::types::{self, Fields, Link, Primitive, Schema, Shape, Type};

/// A type and all that it is made of.
///
/// It is printed as a signature is, compared by [`hash`](TypeTable::hash), and with feature `json` converts values. It can be
/// sent to tools: it implements serde's traits, and one from a stranger is as good as one of this program, since what is
/// done with it is bounded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "UncheckedTypeTable")]
pub struct TypeTable {
    pub(crate) nodes: Nodes,
    pub(crate) root: Index,
}

/// Before its references are known to lead somewhere.
#[derive(Deserialize)]
struct UncheckedTypeTable {
    nodes: Nodes,
    root: Index,
}

/// The place of a type in a table.
pub(crate) type Index = u32;

/// More structs than any program wraps around one another.
const WRAPPERS_MAX: usize = 64;

/// The types of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Nodes(Vec<Node>);

/// A [`Type`] in a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Node {
    Primitive(Primitive),
    Option(Index),
    Sequence(Index),
    Map(Index, Index),
    Array(Index, u64),
    Tuple(Vec<Index>),
    Struct(Name, NodeFields),
    Enum(Name, Vec<NodeVariant>),
}

/// What a program calls a type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Name {
    pub(crate) name: String,
    pub(crate) parameters: Vec<Index>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum NodeFields {
    Unnamed(Vec<Index>),
    Named(Vec<(String, Index)>),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeVariant {
    pub(crate) name: String,
    pub(crate) fields: NodeFields,
}

/// A description that no type has.
#[derive(Debug)]
pub(crate) enum Malformed {
    Dangling,
    /// JSON could not tell the two.
    TwoOfOneName,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Malformed::Dangling => "the description refers to a type that is not in it",
            Malformed::TwoOfOneName => "the description has two parts of one name",
        })
    }
}

impl TypeTable {
    /// The description of this type.
    pub fn of<T: Schema + ?Sized>() -> TypeTable {
        let mut builder = Builder::default();
        let root = builder.index(T::LINK);
        TypeTable { nodes: builder.finish(), root }
    }
}

impl TryFrom<UncheckedTypeTable> for TypeTable {
    type Error = Malformed;

    fn try_from(unchecked: UncheckedTypeTable) -> Result<TypeTable, Malformed> {
        let UncheckedTypeTable { nodes, root } = unchecked;
        nodes.check(&[root])?;
        Ok(TypeTable { nodes, root })
    }
}

impl Nodes {
    pub(crate) fn get(&self, index: Index) -> &Node {
        &self.0[index as usize]
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether all references, and these, lead to a type, and names are of one part each.
    pub(crate) fn check(&self, roots: &[Index]) -> Result<(), Malformed> {
        let is_there = |index: Index| (index as usize) < self.0.len();
        let mut all = roots.iter().all(|index| is_there(*index));
        self.0.iter().for_each(|node| node.for_each_reference(|index| all &= is_there(index)));
        if !all {
            return Err(Malformed::Dangling);
        }
        self.0.iter().try_for_each(|node| match node {
            Node::Struct(_, fields) => fields.check(),
            Node::Enum(_, variants) => {
                distinct(variants.iter().map(|variant| variant.name.as_str()))?;
                variants.iter().try_for_each(|variant| variant.fields.check())
            }
            _ => Ok(()),
        })
    }

    /// What is on the wire and in JSON in its place: a struct of one unnamed field is as that field.
    ///
    /// One that contains nothing but itself is left as it is: it has no values.
    pub(crate) fn resolve(&self, mut index: Index) -> Index {
        for _ in 0..WRAPPERS_MAX {
            match self.get(index) {
                Node::Struct(_, NodeFields::Unnamed(fields)) if fields.len() == 1 => {
                    index = fields[0];
                }
                _ => break,
            }
        }
        index
    }
}

impl Node {
    /// All types that it refers to, in their order; those of a name last.
    pub(crate) fn for_each_reference(&self, mut see: impl FnMut(Index)) {
        match self {
            Node::Primitive(_) => {}
            Node::Option(of) | Node::Sequence(of) | Node::Array(of, _) => see(*of),
            Node::Map(key, value) => {
                see(*key);
                see(*value);
            }
            Node::Tuple(elements) => elements.iter().copied().for_each(see),
            Node::Struct(name, fields) => {
                fields.for_each_reference(&mut see);
                name.parameters.iter().copied().for_each(see);
            }
            Node::Enum(name, variants) => {
                variants.iter().for_each(|variant| variant.fields.for_each_reference(&mut see));
                name.parameters.iter().copied().for_each(see);
            }
        }
    }
}

/// Whether these names are of one part each.
pub(crate) fn distinct<'t>(mut names: impl Iterator<Item = &'t str>) -> Result<(), Malformed> {
    let mut seen = BTreeSet::new();
    if names.all(|name| seen.insert(name)) { Ok(()) } else { Err(Malformed::TwoOfOneName) }
}

impl NodeFields {
    fn check(&self) -> Result<(), Malformed> {
        match self {
            NodeFields::Unnamed(_) => Ok(()),
            NodeFields::Named(fields) => distinct(fields.iter().map(|(name, _)| name.as_str())),
        }
    }

    fn for_each_reference(&self, see: impl FnMut(Index)) {
        match self {
            NodeFields::Unnamed(fields) => fields.iter().copied().for_each(see),
            NodeFields::Named(fields) => fields.iter().map(|(_, of)| *of).for_each(see),
        }
    }
}

/// Makes a table of constants, each type once.
#[derive(Default)]
pub(crate) struct Builder {
    places: BTreeMap<TypeId, Index>,
    /// Those that have a place, and no node yet.
    waiting: Vec<(Index, Type)>,
    nodes: Vec<Option<Node>>,
}

impl Builder {
    pub(crate) fn index(&mut self, link: Link) -> Index {
        let target = link.target();
        let new = self.nodes.len() as Index;
        let index = *self.places.entry(target.id).or_insert(new);
        if index == new {
            self.nodes.push(None);
            self.waiting.push((new, target.of));
        }
        index
    }

    pub(crate) fn finish(mut self) -> Nodes {
        while let Some((index, of)) = self.waiting.pop() {
            self.nodes[index as usize] = Some(self.node(of));
        }
        Nodes(self.nodes.into_iter().flatten().collect())
    }

    fn node(&mut self, of: Type) -> Node {
        match of {
            Type::Primitive(primitive) => Node::Primitive(primitive),
            Type::Option(of) => Node::Option(self.index(of)),
            Type::Sequence(of) => Node::Sequence(self.index(of)),
            Type::Map(key, value) => Node::Map(self.index(key), self.index(value)),
            Type::Array(of, len) => Node::Array(self.index(of), len as u64),
            Type::Tuple(elements) => Node::Tuple(self.indices(elements)),
            Type::Named(types::Named { name, parameters, shape }) => match shape {
                Shape::Struct(fields) => {
                    let fields = self.fields(fields);
                    Node::Struct(self.name(name, parameters), fields)
                }
                Shape::Enum(variants) => {
                    let variant = |variant: &types::Variant| NodeVariant {
                        name: variant.name.to_owned(),
                        fields: self.fields(variant.fields),
                    };
                    let variants = variants.iter().map(variant).collect();
                    Node::Enum(self.name(name, parameters), variants)
                }
            },
        }
    }

    fn indices(&mut self, links: &[Link]) -> Vec<Index> {
        links.iter().map(|link| self.index(*link)).collect()
    }

    fn name(&mut self, name: &str, parameters: &[Link]) -> Name {
        Name { name: name.to_owned(), parameters: self.indices(parameters) }
    }

    fn fields(&mut self, fields: Fields) -> NodeFields {
        match fields {
            Fields::Unnamed(fields) => NodeFields::Unnamed(self.indices(fields)),
            Fields::Named(fields) => {
                let field = |field: &types::Field| (field.name.to_owned(), self.index(field.of));
                NodeFields::Named(fields.iter().map(field).collect())
            }
        }
    }
}
