//! Where in a value something is wrong; and what both directions must see alike.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::json::Error;
use crate::table::{Index, Node, NodeFields, Nodes};
use crate::types::Primitive;

/// The way from the whole value to the part that is being converted. A part that fails leaves the way to it behind.
#[derive(Default)]
pub(super) struct Path<'t>(Vec<Step<'t>>);

#[derive(Clone, Copy)]
pub(super) enum Step<'t> {
    /// A field, a parameter or a variant.
    Name(&'t str),
    /// An element, or an entry of a map.
    At(u64),
}

impl<'t> Path<'t> {
    pub(super) fn enter(&mut self, step: Step<'t>) {
        self.0.push(step);
    }

    pub(super) fn leave(&mut self) {
        self.0.pop();
    }

    pub(super) fn error(&self, reason: String) -> Error {
        /// Longer than a person reads. A name from a stranger may be long, and come on each level.
        const LEN_MAX: usize = 4 << 10;
        let mut place = String::new();
        for step in &self.0 {
            if place.len() > LEN_MAX {
                place.push('…');
                break;
            }
            let _ = match step {
                Step::Name(name) if place.is_empty() => write!(place, "{name}"),
                Step::Name(name) => write!(place, ".{name}"),
                Step::At(at) => write!(place, "[{at}]"),
            };
        }
        Error { place, reason }
    }
}

pub(super) fn too_deep(depth_max: u32) -> String {
    format!("nested deeper than the {depth_max} levels that are allowed")
}

pub(super) fn too_long(len_max: usize) -> String {
    format!("the result is longer than the {len_max} bytes that are allowed")
}

impl Nodes {
    /// Whether the JSON of a value may be `null`. An option of such is written as an object if it is some.
    pub(super) fn may_be_null(&self, index: Index) -> bool {
        match self.get(self.resolve(index)) {
            Node::Option(_) | Node::Primitive(Primitive::Unit) => true,
            Node::Struct(_, NodeFields::Unnamed(fields)) => fields.is_empty(),
            _ => false,
        }
    }
}

/// The enums of which it is known whether a map's keys may be their values: an enum from a stranger may have more variants
/// than anything has time to look at for each map, which may be one byte.
#[derive(Default)]
pub(super) struct Keys(BTreeMap<Index, bool>);

impl Keys {
    /// Whether a map with such keys is an object.
    pub(super) fn contains(&mut self, nodes: &Nodes, index: Index) -> bool {
        let index = nodes.resolve(index);
        match nodes.get(index) {
            Node::Primitive(primitive) => {
                !matches!(primitive, Primitive::Unit | Primitive::F32 | Primitive::F64)
            }
            Node::Enum(_, variants) => *self.0.entry(index).or_insert_with(|| {
                variants.iter().all(|variant| {
                    matches!(&variant.fields, NodeFields::Unnamed(fields) if fields.is_empty())
                })
            }),
            _ => false,
        }
    }
}
