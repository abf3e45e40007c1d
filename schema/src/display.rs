//! A description as a line of text: what it is, and behind `where` the types that a program defines.
//!
//! `(account: u64) -> Result<Page, Refused> where Page = {text: String}, Refused = NoSuchAccount(u64) | Frozen`

use alloc::collections::BTreeMap;
use alloc::string::String;
use core::fmt::{self, Write as _};

use crate::signature::SignatureTable;
use crate::table::{Index, Name, Node, NodeFields, NodeVariant, Nodes, TypeTable};
use crate::types::Primitive;

/// Deeper than a person reads, and than a table from a stranger may lead.
const DEPTH: u32 = 32;
/// Longer than a person reads. A table from a stranger may name a type in many places, and give it a long name.
const LEN_MAX: usize = 64 << 10;

impl fmt::Display for TypeTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Line::write(f, |line| self.write(line))
    }
}

impl fmt::Display for SignatureTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Line::write(f, |line| self.write(line))
    }
}

/// The text, which is cut where it becomes too long.
struct Line<'a, 'f> {
    formatter: &'a mut fmt::Formatter<'f>,
    /// How many bytes there is room for; `None` once there was too little.
    left: Option<usize>,
}

impl<'a, 'f> Line<'a, 'f> {
    fn write(
        formatter: &'a mut fmt::Formatter<'f>,
        text: impl FnOnce(&mut Self) -> fmt::Result,
    ) -> fmt::Result {
        let mut line = Line { formatter, left: Some(LEN_MAX) };
        match text(&mut line) {
            Err(_) if line.left.is_none() => line.formatter.write_char('…'),
            written => written,
        }
    }
}

impl fmt::Write for Line<'_, '_> {
    /// Fails where the text is cut, so that the types that are left are not visited: there may be 2³² of them.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|letter| {
            self.left = self.left.and_then(|left| left.checked_sub(letter.len_utf8()));
            self.left.ok_or(fmt::Error)?;
            // A name from a stranger may be printed on a terminal.
            if letter.is_control() {
                write!(self.formatter, "{}", letter.escape_default())
            } else {
                self.formatter.write_char(letter)
            }
        })
    }
}

impl TypeTable {
    fn write(&self, f: &mut Line<'_, '_>) -> fmt::Result {
        let labels = Labels::new(&self.nodes);
        labels.reference(self.root, DEPTH, f)?;
        labels.definitions(f)
    }
}

impl SignatureTable {
    fn write(&self, f: &mut Line<'_, '_>) -> fmt::Result {
        let labels = Labels::new(&self.nodes);
        f.write_char('(')?;
        match self.nodes.get(self.arguments) {
            Node::Tuple(elements) if elements.len() == self.parameters.len() => {
                for (at, (name, of)) in self.parameters.iter().zip(elements).enumerate() {
                    separate(", ", at, f)?;
                    write!(f, "{name}: ")?;
                    labels.reference(*of, DEPTH, f)?;
                }
            }
            Node::Primitive(Primitive::Unit) => {}
            _ => labels.reference(self.arguments, DEPTH, f)?,
        }
        f.write_char(')')?;
        if !matches!(self.nodes.get(self.reply), Node::Primitive(Primitive::Unit)) {
            f.write_str(" -> ")?;
            labels.reference(self.reply, DEPTH, f)?;
        }
        labels.definitions(f)
    }
}

/// What types are called here. Where several have the same name and are not the same, all but the first have a number.
struct Labels<'t> {
    nodes: &'t Nodes,
    numbers: BTreeMap<Index, u32>,
}

impl<'t> Labels<'t> {
    fn new(nodes: &'t Nodes) -> Labels<'t> {
        let mut counts: BTreeMap<(&str, &[Index]), u32> = BTreeMap::new();
        let mut numbers = BTreeMap::new();
        for index in 0..nodes.len() as Index {
            if let Node::Struct(name, _) | Node::Enum(name, _) = nodes.get(index) {
                let count = counts.entry((&name.name, &name.parameters)).or_default();
                *count += 1;
                numbers.insert(index, *count);
            }
        }
        Labels { nodes, numbers }
    }

    /// A type where another one has it.
    fn reference(&self, index: Index, depth: u32, f: &mut Line<'_, '_>) -> fmt::Result {
        let Some(depth) = depth.checked_sub(1) else { return f.write_char('…') };
        match self.nodes.get(index) {
            Node::Primitive(primitive) => f.write_str(primitive.name()),
            Node::Option(of) => self.generic("Option", &[*of], depth, f),
            Node::Sequence(of) => self.generic("Vec", &[*of], depth, f),
            Node::Map(key, value) => self.generic("Map", &[*key, *value], depth, f),
            Node::Array(of, len) => {
                f.write_char('[')?;
                self.reference(*of, depth, f)?;
                write!(f, "; {len}]")
            }
            Node::Tuple(elements) => self.tuple(elements, depth, f),
            Node::Struct(name, _) | Node::Enum(name, _) => self.named(index, name, depth, f),
        }
    }

    fn named(&self, index: Index, name: &Name, depth: u32, f: &mut Line<'_, '_>) -> fmt::Result {
        self.generic(&name.name, &name.parameters, depth, f)?;
        match self.numbers.get(&index) {
            Some(number) if *number > 1 => write!(f, "#{number}"),
            _ => Ok(()),
        }
    }

    fn generic(
        &self,
        name: &str,
        parameters: &[Index],
        depth: u32,
        f: &mut Line<'_, '_>,
    ) -> fmt::Result {
        f.write_str(name)?;
        if !parameters.is_empty() {
            f.write_char('<')?;
            self.list(parameters, depth, f)?;
            f.write_char('>')?;
        }
        Ok(())
    }

    fn list(&self, types: &[Index], depth: u32, f: &mut Line<'_, '_>) -> fmt::Result {
        for (at, of) in types.iter().enumerate() {
            separate(", ", at, f)?;
            self.reference(*of, depth, f)?;
        }
        Ok(())
    }

    fn tuple(&self, types: &[Index], depth: u32, f: &mut Line<'_, '_>) -> fmt::Result {
        f.write_char('(')?;
        self.list(types, depth, f)?;
        f.write_str(if types.len() == 1 { ",)" } else { ")" })
    }

    /// What the types with names are.
    fn definitions(&self, f: &mut Line<'_, '_>) -> fmt::Result {
        let mut at = 0;
        for index in 0..self.nodes.len() as Index {
            let node = self.nodes.get(index);
            let (Node::Struct(name, _) | Node::Enum(name, _)) = node else { continue };
            if is_result(node) {
                continue;
            }
            f.write_str(if at == 0 { " where " } else { ", " })?;
            at += 1;
            self.named(index, name, DEPTH, f)?;
            f.write_str(" = ")?;
            match node {
                Node::Struct(_, NodeFields::Unnamed(fields)) if fields.len() == 1 => {
                    self.reference(fields[0], DEPTH, f)?;
                }
                Node::Struct(_, NodeFields::Unnamed(fields)) => self.tuple(fields, DEPTH, f)?,
                Node::Struct(_, NodeFields::Named(fields)) => self.fields(fields, f)?,
                Node::Enum(_, variants) if variants.is_empty() => f.write_char('!')?,
                Node::Enum(_, variants) => {
                    for (at, variant) in variants.iter().enumerate() {
                        separate(" | ", at, f)?;
                        self.variant(variant, f)?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn variant(&self, variant: &NodeVariant, f: &mut Line<'_, '_>) -> fmt::Result {
        f.write_str(&variant.name)?;
        match &variant.fields {
            NodeFields::Unnamed(fields) if fields.is_empty() => Ok(()),
            NodeFields::Unnamed(fields) => {
                f.write_char('(')?;
                self.list(fields, DEPTH, f)?;
                f.write_char(')')
            }
            NodeFields::Named(fields) => self.fields(fields, f),
        }
    }

    fn fields(&self, fields: &[(String, Index)], f: &mut Line<'_, '_>) -> fmt::Result {
        f.write_char('{')?;
        for (at, (name, of)) in fields.iter().enumerate() {
            separate(", ", at, f)?;
            write!(f, "{name}: ")?;
            self.reference(*of, DEPTH, f)?;
        }
        f.write_char('}')
    }
}

fn separate(by: &str, at: usize, f: &mut Line<'_, '_>) -> fmt::Result {
    if at == 0 { Ok(()) } else { f.write_str(by) }
}

/// The standard library's, which needs no definition.
fn is_result(node: &Node) -> bool {
    let Node::Enum(name, variants) = node else { return false };
    let is = |variant: &NodeVariant, name, parameter: Option<&Index>| {
        let content = match &variant.fields {
            NodeFields::Unnamed(fields) => fields.first().filter(|_| fields.len() == 1),
            NodeFields::Named(_) => None,
        };
        variant.name == name && content.is_some() && content == parameter
    };
    let [ok, err] = &variants[..] else { return false };
    name.name == "Result"
        && name.parameters.len() == 2
        && is(ok, "Ok", name.parameters.first())
        && is(err, "Err", name.parameters.get(1))
}

impl Primitive {
    fn name(self) -> &'static str {
        match self {
            Primitive::Unit => "()",
            Primitive::Bool => "bool",
            Primitive::I8 => "i8",
            Primitive::I16 => "i16",
            Primitive::I32 => "i32",
            Primitive::I64 => "i64",
            Primitive::I128 => "i128",
            Primitive::U8 => "u8",
            Primitive::U16 => "u16",
            Primitive::U32 => "u32",
            Primitive::U64 => "u64",
            Primitive::U128 => "u128",
            Primitive::F32 => "f32",
            Primitive::F64 => "f64",
            Primitive::Char => "char",
            Primitive::String => "String",
        }
    }
}
