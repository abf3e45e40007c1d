//! Postcard to JSON.

use serde::{Deserialize, Serialize};

use super::path::{Keys, Path, Step, too_deep, too_long};
use super::{Error, Limits};
use crate::table::{Index, Node, NodeFields, NodeVariant, Nodes};
use crate::types::Primitive;

/// What is wrong; the path says where.
type Failed = String;

pub(super) fn value(
    nodes: &Nodes,
    index: Index,
    postcard: &[u8],
    limits: Limits,
) -> Result<String, Error> {
    whole(nodes, postcard, limits, |writer| writer.value(index, limits.depth_max))
}

pub(super) fn arguments(
    nodes: &Nodes,
    index: Index,
    parameters: &[String],
    postcard: &[u8],
    limits: Limits,
) -> Result<String, Error> {
    match nodes.get(index) {
        Node::Tuple(elements) if elements.len() == parameters.len() => {
            whole(nodes, postcard, limits, |writer| {
                let names = parameters.iter().map(String::as_str);
                writer.object(names.zip(elements.iter().copied()), limits.depth_max)
            })
        }
        Node::Primitive(Primitive::Unit) => {
            whole(nodes, postcard, limits, |writer| writer.text("{}"))
        }
        _ => value(nodes, index, postcard, limits),
    }
}

fn whole<'t>(
    nodes: &'t Nodes,
    postcard: &[u8],
    limits: Limits,
    write: impl FnOnce(&mut Writer<'t, '_>) -> Result<(), Failed>,
) -> Result<String, Error> {
    let mut writer = Writer {
        nodes,
        limits,
        rest: postcard,
        json: String::new(),
        path: Path::default(),
        keys: Keys::default(),
    };
    let written = write(&mut writer).and_then(|()| match writer.rest.len() {
        0 => Ok(()),
        len => Err(format!("{len} bytes are left behind the value")),
    });
    match written {
        Ok(()) => Ok(writer.json),
        Err(reason) => Err(writer.path.error(reason)),
    }
}

struct Writer<'t, 'v> {
    nodes: &'t Nodes,
    limits: Limits,
    /// The bytes that were not read yet.
    rest: &'v [u8],
    json: String,
    path: Path<'t>,
    keys: Keys,
}

impl<'t, 'v> Writer<'t, 'v> {
    fn take<T: Deserialize<'v>>(&mut self) -> Result<T, Failed> {
        let (value, rest) = postcard::take_from_bytes(self.rest).map_err(|error| match error {
            postcard::Error::DeserializeUnexpectedEnd => "the bytes end here".to_owned(),
            error => format!("{error}"),
        })?;
        self.rest = rest;
        Ok(value)
    }

    /// The number of elements that follow. Each becomes a byte of JSON at least.
    fn take_count(&mut self) -> Result<u64, Failed> {
        let count: u64 = self.take()?;
        self.expect_count(count)?;
        Ok(count)
    }

    fn expect_count(&self, count: u64) -> Result<(), Failed> {
        let room = self.limits.len_max.saturating_sub(self.json.len()) as u64;
        if count > room {
            return Err(format!("{count} elements, and {}", too_long(self.limits.len_max)));
        }
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<(), Failed> {
        if text.len() > self.limits.len_max.saturating_sub(self.json.len()) {
            return Err(too_long(self.limits.len_max));
        }
        self.json.push_str(text);
        Ok(())
    }

    /// As `serde_json` writes it.
    fn json(&mut self, value: &(impl Serialize + ?Sized)) -> Result<(), Failed> {
        let text = serde_json::to_string(value).map_err(|error| error.to_string())?;
        self.text(&text)
    }

    fn value(&mut self, index: Index, depth: u32) -> Result<(), Failed> {
        let nodes = self.nodes;
        let node = nodes.get(index);
        if let Node::Primitive(primitive) = node {
            return self.primitive(*primitive);
        }
        let depth = depth.checked_sub(1).ok_or_else(|| too_deep(self.limits.depth_max))?;
        match node {
            Node::Primitive(primitive) => self.primitive(*primitive),
            Node::Option(of) => self.option(*of, depth),
            Node::Sequence(of) => {
                let count = self.take_count()?;
                self.elements((0..count).map(|_| *of), depth)
            }
            Node::Map(key, value) => self.map(*key, *value, depth),
            Node::Array(of, len) => {
                self.expect_count(*len)?;
                self.elements((0..*len).map(|_| *of), depth)
            }
            Node::Tuple(elements) => self.elements(elements.iter().copied(), depth),
            Node::Struct(_, NodeFields::Unnamed(fields)) => match fields[..] {
                [] => self.text("null"),
                [field] => self.value(field, depth),
                _ => self.elements(fields.iter().copied(), depth),
            },
            Node::Struct(_, NodeFields::Named(fields)) => self.named(fields, depth),
            Node::Enum(_, variants) => {
                let variant = self.take_variant(variants)?;
                self.variant(variant, depth)
            }
        }
    }

    fn primitive(&mut self, primitive: Primitive) -> Result<(), Failed> {
        macro_rules! plain {
            ($of:ty) => {{
                let value: $of = self.take()?;
                self.json(&value)
            }};
        }
        by_primitive!(primitive, plain, {
            Primitive::Unit => self.text("null"),
            Primitive::F32 => {
                let value: f32 = self.take()?;
                if value.is_finite() { self.json(&value) } else { self.no_number(value.into()) }
            }
            Primitive::F64 => {
                let value: f64 = self.take()?;
                if value.is_finite() { self.json(&value) } else { self.no_number(value) }
            }
            Primitive::String => {
                let text: &str = self.take()?;
                // Before it is escaped: that may make it six times as long.
                if text.len() > self.limits.len_max {
                    return Err(too_long(self.limits.len_max));
                }
                self.json(text)
            }
        })
    }

    fn no_number(&mut self, value: f64) -> Result<(), Failed> {
        self.text(match value {
            f64::INFINITY => "\"Infinity\"",
            f64::NEG_INFINITY => "\"-Infinity\"",
            _ => "\"NaN\"",
        })
    }

    fn option(&mut self, of: Index, depth: u32) -> Result<(), Failed> {
        match self.take::<u8>()? {
            0 => self.text("null"),
            1 if self.nodes.may_be_null(of) => {
                self.text("{\"Some\":")?;
                self.value(of, depth)?;
                self.text("}")
            }
            1 => self.value(of, depth),
            other => Err(format!("an option begins with 0 or 1, and not with {other}")),
        }
    }

    fn elements(
        &mut self,
        elements: impl Iterator<Item = Index>,
        depth: u32,
    ) -> Result<(), Failed> {
        self.text("[")?;
        for (at, of) in elements.enumerate() {
            self.separate(at)?;
            self.path.enter(Step::At(at as u64));
            self.value(of, depth)?;
            self.path.leave();
        }
        self.text("]")
    }

    fn separate(&mut self, at: usize) -> Result<(), Failed> {
        if at == 0 { Ok(()) } else { self.text(",") }
    }

    fn object(
        &mut self,
        fields: impl Iterator<Item = (&'t str, Index)>,
        depth: u32,
    ) -> Result<(), Failed> {
        self.text("{")?;
        for (at, (name, of)) in fields.enumerate() {
            self.separate(at)?;
            self.json(name)?;
            self.text(":")?;
            self.path.enter(Step::Name(name));
            self.value(of, depth)?;
            self.path.leave();
        }
        self.text("}")
    }

    fn named(&mut self, fields: &'t [(String, Index)], depth: u32) -> Result<(), Failed> {
        self.object(fields.iter().map(|(name, of)| (name.as_str(), *of)), depth)
    }

    fn map(&mut self, key: Index, value: Index, depth: u32) -> Result<(), Failed> {
        let count = self.take_count()?;
        let is_object = self.keys.contains(self.nodes, key);
        self.text(if is_object { "{" } else { "[" })?;
        for at in 0..count {
            self.separate(at as usize)?;
            self.path.enter(Step::At(at));
            if is_object {
                self.key(key)?;
                self.text(":")?;
                self.value(value, depth)?;
            } else {
                self.text("[")?;
                self.value(key, depth)?;
                self.text(",")?;
                self.value(value, depth)?;
                self.text("]")?;
            }
            self.path.leave();
        }
        self.text(if is_object { "}" } else { "]" })
    }

    /// Numbers are quoted, and the others are text already.
    fn key(&mut self, index: Index) -> Result<(), Failed> {
        let nodes = self.nodes;
        match nodes.get(nodes.resolve(index)) {
            Node::Primitive(primitive @ (Primitive::String | Primitive::Char)) => {
                self.primitive(*primitive)
            }
            Node::Primitive(primitive) => {
                self.text("\"")?;
                self.primitive(*primitive)?;
                self.text("\"")
            }
            Node::Enum(_, variants) => {
                let variant = self.take_variant(variants)?;
                self.json(&variant.name)
            }
            _ => Err("this cannot be the key of an object".to_owned()),
        }
    }

    fn take_variant(&mut self, variants: &'t [NodeVariant]) -> Result<&'t NodeVariant, Failed> {
        let number: u32 = self.take()?;
        variants
            .get(number as usize)
            .ok_or_else(|| format!("there is no variant {number}, there are {}", variants.len()))
    }

    fn variant(&mut self, variant: &'t NodeVariant, depth: u32) -> Result<(), Failed> {
        if matches!(&variant.fields, NodeFields::Unnamed(fields) if fields.is_empty()) {
            return self.json(&variant.name);
        }
        self.text("{")?;
        self.json(&variant.name)?;
        self.text(":")?;
        self.path.enter(Step::Name(&variant.name));
        match &variant.fields {
            NodeFields::Unnamed(fields) => match fields[..] {
                [field] => self.value(field, depth)?,
                _ => self.elements(fields.iter().copied(), depth)?,
            },
            NodeFields::Named(fields) => self.named(fields, depth)?,
        }
        self.path.leave();
        self.text("}")
    }
}
