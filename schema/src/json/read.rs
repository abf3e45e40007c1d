//! JSON to postcard: `serde_json` reads, and the description says what it is asked for.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, MapAccess, SeqAccess, VariantAccess,
    Visitor,
};
use serde_json::value::RawValue;

use super::output::{Reader, places, push_key, unknown};
use super::path::{Step, too_deep};
use super::{Error, Limits};
use crate::table::{Index, Node, NodeFields, NodeVariant, Nodes};
use crate::types::Primitive;

pub(super) fn value(
    nodes: &Nodes,
    index: Index,
    json: &str,
    limits: Limits,
) -> Result<Vec<u8>, Error> {
    whole(nodes, json, limits, What::Value(index))
}

pub(super) fn arguments(
    nodes: &Nodes,
    index: Index,
    parameters: &[String],
    json: &str,
    limits: Limits,
) -> Result<Vec<u8>, Error> {
    let fields: Vec<(&str, Index)> = match nodes.get(index) {
        Node::Tuple(elements) if elements.len() == parameters.len() => {
            parameters.iter().map(String::as_str).zip(elements.iter().copied()).collect()
        }
        Node::Primitive(Primitive::Unit) => Vec::new(),
        _ => return value(nodes, index, json, limits),
    };
    whole(nodes, json, limits, What::Fields(&fields))
}

/// What is read.
#[derive(Clone, Copy)]
enum What<'s, 't> {
    Value(Index),
    /// A tuple whose elements have names: an object or an array.
    Fields(&'s [(&'t str, Index)]),
    /// An array of such elements.
    Elements(&'s [Index]),
    /// An array of a key and a value.
    Pair(Index, Index),
    /// A key of an object.
    Key(Index),
    /// `{"Some": …}` of this.
    Some(Index),
}

fn whole<'t>(
    nodes: &'t Nodes,
    json: &str,
    limits: Limits,
    what: What<'_, 't>,
) -> Result<Vec<u8>, Error> {
    let mut reader = Reader::new(nodes, limits);
    let mut json = serde_json::Deserializer::from_str(json);
    let part = Part { reader: &mut reader, what, depth: limits.depth_max };
    match part.deserialize(&mut json).and_then(|()| json.end()) {
        Ok(()) => Ok(reader.postcard),
        Err(error) => Err(reader.path.error(error.to_string())),
    }
}

/// Something that is to be read, and how deep it may nest.
struct Part<'r, 's, 't> {
    reader: &'r mut Reader<'t>,
    what: What<'s, 't>,
    depth: u32,
}

impl<'r, 't> Part<'r, '_, 't> {
    /// Reads a part of it, at this place.
    fn part<'p, 's>(&'p mut self, step: Step<'t>, what: What<'s, 't>) -> Part<'p, 's, 't> {
        self.reader.path.enter(step);
        Part { reader: &mut *self.reader, what, depth: self.depth }
    }

    /// The same thing, seen as another.
    fn seen_as<'s>(self, what: What<'s, 't>) -> Part<'r, 's, 't> {
        Part { reader: self.reader, what, depth: self.depth }
    }

    fn primitive<'de, D: Deserializer<'de>>(
        self,
        primitive: Primitive,
        json: D,
    ) -> Result<(), D::Error> {
        macro_rules! plain {
            ($of:ty) => {{
                let value = <$of>::deserialize(json)?;
                self.reader.push(value)
            }};
        }
        by_primitive!(primitive, plain, {
            Primitive::Unit => <()>::deserialize(json),
            Primitive::F32 => {
                let value = float(json, f32::is_finite, |special| special as f32)?;
                self.reader.push(value)
            }
            Primitive::F64 => {
                let value = float(json, f64::is_finite, |special| special)?;
                self.reader.push(value)
            }
            Primitive::String => json.deserialize_str(self),
        })
    }

    fn value<'de, D: Deserializer<'de>>(mut self, index: Index, json: D) -> Result<(), D::Error> {
        let nodes = self.reader.nodes;
        let node = nodes.get(index);
        if let Node::Primitive(primitive) = node {
            return self.primitive(*primitive, json);
        }
        let Some(depth) = self.depth.checked_sub(1) else {
            return Err(D::Error::custom(too_deep(self.reader.limits.depth_max)));
        };
        self.depth = depth;
        match node {
            Node::Primitive(primitive) => self.primitive(*primitive, json),
            Node::Option(_) => json.deserialize_option(self),
            Node::Map(key, _) if self.reader.keys.contains(nodes, *key) => {
                json.deserialize_map(self)
            }
            Node::Sequence(_) | Node::Map(..) | Node::Array(..) => json.deserialize_seq(self),
            Node::Tuple(elements) => self.seen_as(What::Elements(elements)).deserialize(json),
            Node::Struct(_, NodeFields::Unnamed(fields)) => match fields[..] {
                [] => <()>::deserialize(json),
                [field] => self.seen_as(What::Value(field)).deserialize(json),
                _ => self.seen_as(What::Elements(fields)).deserialize(json),
            },
            Node::Struct(_, NodeFields::Named(fields)) => {
                let fields = by_name(fields);
                self.seen_as(What::Fields(&fields)).deserialize(json)
            }
            Node::Enum(..) => json.deserialize_enum("", &[], self),
        }
    }
}

fn by_name(fields: &[(String, Index)]) -> Vec<(&str, Index)> {
    fields.iter().map(|(name, of)| (name.as_str(), *of)).collect()
}

/// A number, or the name of what is none.
fn float<'de, D: Deserializer<'de>, F: Deserialize<'de> + Copy>(
    json: D,
    is_finite: impl Fn(F) -> bool,
    special: impl Fn(f64) -> F,
) -> Result<F, D::Error> {
    let text = <&RawValue>::deserialize(json)?.get();
    if text.starts_with('"') {
        return match text {
            "\"NaN\"" => Ok(special(f64::NAN)),
            "\"Infinity\"" => Ok(special(f64::INFINITY)),
            "\"-Infinity\"" => Ok(special(f64::NEG_INFINITY)),
            _ => Err(D::Error::custom("a text is no number")),
        };
    }
    let value: F = serde_json::from_str(text).map_err(D::Error::custom)?;
    if is_finite(value) { Ok(value) } else { Err(D::Error::custom("number out of range")) }
}

impl<'de> DeserializeSeed<'de> for Part<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        match self.what {
            What::Value(index) => self.value(index, json),
            What::Fields(_) => json.deserialize_struct("", &[], self),
            What::Elements(_) | What::Pair(..) => json.deserialize_seq(self),
            What::Key(_) => json.deserialize_str(self),
            What::Some(_) => json.deserialize_map(self),
        }
    }
}

impl<'de, 't> Visitor<'de> for Part<'_, '_, 't> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = self.reader.nodes;
        match self.what {
            What::Fields(fields) => write!(f, "an object of {} fields", fields.len()),
            What::Elements(elements) => write!(f, "an array of {} elements", elements.len()),
            What::Pair(..) => f.write_str("an array of a key and a value"),
            What::Key(_) => f.write_str("a key"),
            What::Some(_) => f.write_str("null or an object `{\"Some\": …}`"),
            What::Value(index) => match nodes.get(nodes.resolve(index)) {
                Node::Primitive(_) => f.write_str("a string"),
                Node::Option(_) => f.write_str("a value or null"),
                Node::Sequence(_) => f.write_str("an array"),
                Node::Array(_, len) => write!(f, "an array of {len} elements"),
                Node::Map(..) => f.write_str("a map"),
                Node::Enum(name, _) => write!(f, "a variant of {}", name.name),
                Node::Tuple(_) | Node::Struct(..) => f.write_str("an array or an object"),
            },
        }
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        match self.what {
            What::Key(index) => push_key(self.reader, index, text),
            _ => self.reader.push_str(text),
        }
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        self.reader.push(0u8)
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<(), E> {
        self.reader.push(0u8)
    }

    fn visit_some<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        let nodes = self.reader.nodes;
        let What::Value(index) = self.what else {
            return Err(D::Error::custom("no option was expected"));
        };
        let Node::Option(of) = nodes.get(index) else {
            return Err(D::Error::custom("no option was expected"));
        };
        self.reader.push(1u8)?;
        let what = if nodes.may_be_null(*of) { What::Some(*of) } else { What::Value(*of) };
        self.seen_as(what).deserialize(json)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, elements: A) -> Result<(), A::Error> {
        match self.what {
            What::Fields(fields) => {
                let steps = fields.iter().map(|(name, of)| (Step::Name(name), What::Value(*of)));
                self.fixed(steps, elements)
            }
            What::Elements(all) => {
                self.fixed(steps(all.iter().map(|of| What::Value(*of))), elements)
            }
            What::Pair(key, value) => {
                self.fixed(steps([What::Value(key), What::Value(value)].into_iter()), elements)
            }
            What::Value(index) => {
                let nodes = self.reader.nodes;
                match nodes.get(index) {
                    Node::Sequence(of) => self.counted(What::Value(*of), elements),
                    Node::Map(key, value) => self.counted(What::Pair(*key, *value), elements),
                    Node::Array(of, len) => {
                        self.fixed(steps((0..*len).map(|_| What::Value(*of))), elements)
                    }
                    _ => Err(A::Error::custom("no array was expected")),
                }
            }
            What::Key(_) | What::Some(_) => Err(A::Error::custom("no array was expected")),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<(), A::Error> {
        let nodes = self.reader.nodes;
        match self.what {
            What::Fields(fields) => self.object(fields, entries),
            What::Some(of) => self.object(&[("Some", of)], entries),
            What::Value(index) => match nodes.get(index) {
                Node::Map(key, value) => self.map(*key, *value, entries),
                _ => Err(A::Error::custom("no object was expected")),
            },
            _ => Err(A::Error::custom("no object was expected")),
        }
    }

    fn visit_enum<A: EnumAccess<'de>>(mut self, json: A) -> Result<(), A::Error> {
        let nodes = self.reader.nodes;
        let What::Value(index) = self.what else {
            return Err(A::Error::custom("no variant was expected"));
        };
        let Node::Enum(_, variants) = nodes.get(index) else {
            return Err(A::Error::custom("no variant was expected"));
        };
        let (variant, content) =
            json.variant_seed(VariantName { reader: &mut *self.reader, index, variants })?;
        let part = self.part(Step::Name(&variant.name), What::Value(index));
        match &variant.fields {
            NodeFields::Unnamed(fields) => match fields[..] {
                [] => content.unit_variant()?,
                [field] => content.newtype_variant_seed(part.seen_as(What::Value(field)))?,
                _ => content.tuple_variant(fields.len(), part.seen_as(What::Elements(fields)))?,
            },
            NodeFields::Named(fields) => {
                content.struct_variant(&[], part.seen_as(What::Fields(&by_name(fields))))?;
            }
        }
        self.reader.path.leave();
        Ok(())
    }
}

/// Elements that have no names.
fn steps<'s, 't>(
    elements: impl Iterator<Item = What<'s, 't>>,
) -> impl Iterator<Item = (Step<'t>, What<'s, 't>)>
where
    't: 's,
{
    elements.enumerate().map(|(at, what)| (Step::At(at as u64), what))
}

impl<'t> Part<'_, '_, 't> {
    /// Exactly these, and no number before them.
    fn fixed<'de, 's, A: SeqAccess<'de>>(
        &mut self,
        parts: impl Iterator<Item = (Step<'t>, What<'s, 't>)>,
        mut elements: A,
    ) -> Result<(), A::Error>
    where
        't: 's,
    {
        let mut count = 0;
        for (step, what) in parts {
            if elements.next_element_seed(self.part(step, what))?.is_none() {
                self.reader.path.leave();
                return Err(A::Error::custom(format_args!("there are only {count} elements")));
            }
            self.reader.path.leave();
            count += 1;
        }
        // What is behind them is not looked at.
        if elements.next_element::<&RawValue>()?.is_some() {
            return Err(A::Error::custom(format_args!("there are more than {count} elements")));
        }
        Ok(())
    }

    /// As many as there are, and their number before them.
    fn counted<'de, A: SeqAccess<'de>>(
        &mut self,
        what: What<'_, 't>,
        mut elements: A,
    ) -> Result<(), A::Error> {
        let (place, mut count) = (self.reader.postcard.len(), 0);
        self.reader.push_bytes(&[0])?;
        while elements.next_element_seed(self.part(Step::At(count), what))?.is_some() {
            self.reader.path.leave();
            count += 1;
        }
        self.reader.path.leave();
        self.reader.set_count(place, count)
    }

    fn map<'de, A: MapAccess<'de>>(
        mut self,
        key: Index,
        value: Index,
        mut entries: A,
    ) -> Result<(), A::Error> {
        let (place, mut count) = (self.reader.postcard.len(), 0);
        self.reader.push_bytes(&[0])?;
        let mut keys = BTreeSet::new();
        loop {
            let begin = self.reader.postcard.len();
            let mut part = self.part(Step::At(count), What::Key(key));
            if entries.next_key_seed(Part { reader: &mut *part.reader, ..part })?.is_none() {
                break;
            }
            if !keys.insert(part.reader.postcard[begin..].to_vec()) {
                return Err(A::Error::custom("this key comes twice"));
            }
            part.what = What::Value(value);
            entries.next_value_seed(part)?;
            self.reader.path.leave();
            count += 1;
        }
        self.reader.path.leave();
        self.reader.set_count(place, count)
    }

    /// Fields by name, in any order; they are written in theirs.
    fn object<'de, A: MapAccess<'de>>(
        mut self,
        fields: &[(&'t str, Index)],
        mut entries: A,
    ) -> Result<(), A::Error> {
        let begin = self.reader.postcard.len();
        let mut written: Vec<Option<Range<usize>>> = vec![None; fields.len()];
        let mut in_order = 0;
        let places = places(fields.iter().map(|(name, _)| *name));
        while let Some(name) = entries.next_key::<Cow<'de, str>>()? {
            let Some(at) = places.get(&*name).copied() else {
                return Err(unknown("field", &name, fields.iter().map(|(field, _)| *field)));
            };
            if written[at].is_some() {
                return Err(A::Error::custom(format_args!("duplicate field `{name}`")));
            }
            let start = self.reader.postcard.len();
            entries
                .next_value_seed(self.part(Step::Name(fields[at].0), What::Value(fields[at].1)))?;
            self.reader.path.leave();
            written[at] = Some(start..self.reader.postcard.len());
            in_order += usize::from(at == in_order);
        }
        if in_order == fields.len() {
            return Ok(());
        }
        let as_read = self.reader.postcard.split_off(begin);
        for ((name, of), place) in fields.iter().zip(written) {
            match place {
                Some(place) => {
                    self.reader.push_bytes(&as_read[place.start - begin..place.end - begin])?;
                }
                None => self.reader.push_missing(name, *of)?,
            }
        }
        Ok(())
    }
}

/// The name of a variant.
struct VariantName<'r, 't> {
    reader: &'r mut Reader<'t>,
    index: Index,
    variants: &'t [NodeVariant],
}

impl<'de, 't> DeserializeSeed<'de> for VariantName<'_, 't> {
    type Value = &'t NodeVariant;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_str(self)
    }
}

impl<'t> Visitor<'_> for VariantName<'_, 't> {
    type Value = &'t NodeVariant;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a variant")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Self::Value, E> {
        self.reader.push_variant(self.index, self.variants, name)
    }
}
