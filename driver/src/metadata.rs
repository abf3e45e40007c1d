//! Metadata of calls: what a call carries for middleware, beside its arguments.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use oncewire_core::NotBegun;
use oncewire_core::wire::{self, METADATA_KEY_LEN_MAX, METADATA_LEN_MAX, MetadataWriter};

pub use oncewire_core::wire::{MetadataError, MetadataValue};

use crate::buffer::Encoded;

/// The key of a pair of metadata, and the type of its value. Both sides declare it as a constant.
///
/// ```
/// use oncewire_driver::{Client, Context, Method, MetadataKey};
///
/// const TENANT: MetadataKey<String> = MetadataKey::new("tenant");
/// const REQUEST: MetadataKey<u64> = MetadataKey::new("request");
/// const ADD_ONE: Method<i32, i32> = Method::new("toy/add_one");
///
/// async fn call(client: &Client) {
///     let call = client.call(&ADD_ONE, &1).metadata(&TENANT, "acme").metadata(&REQUEST, 7_u64);
///     println!("{:?}", call.await);
/// }
///
/// async fn add_one(context: Context, n: i32) -> i32 {
///     println!("for {:?}: {n}", context.metadata(&TENANT));
///     n + 1
/// }
/// ```
pub struct MetadataKey<T> {
    name: &'static str,
    value: PhantomData<fn() -> T>,
}

impl<T> MetadataKey<T> {
    /// The key of this name, which has 1 to 64 bytes.
    ///
    /// # Panics
    /// If it has not: at compile time, in a constant.
    pub const fn new(name: &'static str) -> MetadataKey<T> {
        assert!(!name.is_empty() && name.len() <= METADATA_KEY_LEN_MAX, "a key has 1 to 64 bytes");
        MetadataKey { name, value: PhantomData }
    }

    /// Its name.
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

impl<T> fmt::Debug for MetadataKey<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MetadataKey").field(&self.name).finish()
    }
}

/// A type that a value of metadata can have: text, bytes, numbers, and what you implement it for.
pub trait MetadataType: Sized {
    /// What is sent.
    fn to_value(&self) -> MetadataValue<'_>;

    /// The value that was sent; `None` if it is of another type.
    fn from_value(value: MetadataValue<'_>) -> Option<Self>;
}

impl MetadataType for String {
    fn to_value(&self) -> MetadataValue<'_> {
        MetadataValue::Text(self)
    }

    fn from_value(value: MetadataValue<'_>) -> Option<Self> {
        if let MetadataValue::Text(text) = value { Some(text.to_owned()) } else { None }
    }
}

impl MetadataType for Bytes {
    fn to_value(&self) -> MetadataValue<'_> {
        MetadataValue::Bytes(self)
    }

    fn from_value(value: MetadataValue<'_>) -> Option<Self> {
        if let MetadataValue::Bytes(bytes) = value {
            Some(Bytes::copy_from_slice(bytes))
        } else {
            None
        }
    }
}

impl MetadataType for u64 {
    fn to_value(&self) -> MetadataValue<'_> {
        MetadataValue::Number(*self)
    }

    fn from_value(value: MetadataValue<'_>) -> Option<Self> {
        if let MetadataValue::Number(number) = value { Some(number) } else { None }
    }
}

/// A value of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Bytes(Box<[u8]>),
    Text(Box<str>),
    Number(u64),
}

impl Value {
    fn of(value: MetadataValue<'_>) -> Option<Value> {
        Some(match value {
            MetadataValue::Bytes(bytes) => Value::Bytes(bytes.into()),
            MetadataValue::Text(text) => Value::Text(text.into()),
            MetadataValue::Number(number) => Value::Number(number),
            _ => return None,
        })
    }

    fn borrow(&self) -> MetadataValue<'_> {
        match self {
            Value::Bytes(bytes) => MetadataValue::Bytes(bytes),
            Value::Text(text) => MetadataValue::Text(text),
            Value::Number(number) => MetadataValue::Number(*number),
        }
    }
}

/// A block that was received.
fn read(block: &[u8]) -> wire::Metadata<'_> {
    wire::Metadata::split(block).map_or(wire::Metadata::EMPTY, |(metadata, _)| metadata)
}

/// The metadata of a call: at most 32 pairs, and 1,024 bytes with 5 for each pair and 2 for all.
///
/// They are part of the call like its arguments: a request that is sent again carries the same, and they count in every
/// limit of requests.
#[derive(Clone, Default)]
pub struct Metadata(Pairs);

#[derive(Clone)]
enum Pairs {
    Set(BTreeMap<Box<str>, Value>),
    /// The block of a request, as it was received: it takes the memory that the budgets of requests count. As values of their
    /// own, 32 pairs of 194 bytes took three kilobytes for as long as a call waited or ran.
    Received(Box<[u8]>),
}

impl Default for Pairs {
    fn default() -> Pairs {
        Pairs::Set(BTreeMap::new())
    }
}

impl PartialEq for Metadata {
    fn eq(&self, other: &Metadata) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Metadata {}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Metadata {
    /// No pairs.
    pub fn new() -> Metadata {
        Metadata::default()
    }

    /// With this pair, in the place of one of the same key.
    pub fn with<T: MetadataType>(mut self, key: &MetadataKey<T>, value: impl Into<T>) -> Metadata {
        self.set(key, value);
        self
    }

    /// Sets this pair, in the place of one of the same key.
    pub fn set<T: MetadataType>(&mut self, key: &MetadataKey<T>, value: impl Into<T>) {
        let Some(value) = Value::of(value.into().to_value()) else { return };
        if let Pairs::Received(_) = self.0 {
            let own = |(key, value): (&str, _)| Some((key.into(), Value::of(value)?));
            self.0 = Pairs::Set(self.iter().filter_map(own).collect());
        }
        if let Pairs::Set(pairs) = &mut self.0 {
            pairs.insert(key.name.into(), value);
        }
    }

    /// The value of a key; `None` too if it is of another type.
    pub fn get<T: MetadataType>(&self, key: &MetadataKey<T>) -> Option<T> {
        match &self.0 {
            Pairs::Set(pairs) => T::from_value(pairs.get(key.name)?.borrow()),
            Pairs::Received(block) => T::from_value(read(block).get(key.name)?),
        }
    }

    /// All pairs, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, MetadataValue<'_>)> {
        let (set, received) = match &self.0 {
            Pairs::Set(pairs) => (Some(pairs), None),
            Pairs::Received(block) => (None, Some(read(block))),
        };
        let set = set.into_iter().flatten().map(|(key, value)| (&**key, value.borrow()));
        set.chain(received.into_iter().flat_map(|metadata| metadata.iter()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// What a request brought; `None` for none.
    #[inline]
    pub(crate) fn received(metadata: wire::Metadata<'_>) -> Option<Arc<Metadata>> {
        if metadata.is_empty() { None } else { Some(Metadata::copied(metadata)) }
    }

    #[cold]
    fn copied(metadata: wire::Metadata<'_>) -> Arc<Metadata> {
        let mut block = [0; METADATA_LEN_MAX];
        let mut writer = MetadataWriter::new(&mut block);
        for (key, value) in metadata.iter() {
            let pushed = writer.push(key, value);
            debug_assert_eq!(pushed, Ok(()), "what was received keeps the limits");
        }
        let len = writer.finish();
        Arc::new(Metadata(Pairs::Received(block[..len].into())))
    }

    /// A request's body, and whether it begins with a block of metadata, which it does unless there are no pairs.
    ///
    /// # Errors
    /// They break a limit: the call is not begun.
    pub(crate) fn join(&self, mut arguments: Encoded) -> Result<(Encoded, bool), NotBegun> {
        if self.is_empty() {
            return Ok((arguments, false));
        }
        let mut block = [0; METADATA_LEN_MAX];
        let mut writer = MetadataWriter::new(&mut block);
        for (key, value) in self.iter() {
            writer.push(key, value).map_err(NotBegun::BadMetadata)?;
        }
        let len = writer.finish();
        Ok((Encoded::from(Bytes::from([&block[..len], arguments.as_slice()].concat())), true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: MetadataKey<String> = MetadataKey::new("name");
    const NUMBER: MetadataKey<u64> = MetadataKey::new("number");

    #[test]
    fn c307_what_was_received_takes_the_memory_that_it_counts_for_and_is_what_was_sent() {
        let keys: Vec<String> = (b'!'..b'!' + 32).map(|key| char::from(key).to_string()).collect();
        let mut block = [0; METADATA_LEN_MAX];
        let mut writer = MetadataWriter::new(&mut block);
        for key in &keys {
            writer.push(key, MetadataValue::Text("")).unwrap();
        }
        let len = writer.finish();
        let received = Metadata::received(read(&block[..len])).unwrap();
        assert!(matches!(&received.0, Pairs::Received(kept) if **kept == block[..len]));
        assert_eq!(received.iter().count(), 32);

        let sent = Metadata::new().with(&NUMBER, 7_u64).with(&NAME, "acme");
        let (mut body, has_metadata) = sent.join(Encoded::from(Bytes::new())).unwrap();
        let received = Metadata::received(read(body.as_slice())).unwrap();
        assert!(has_metadata && *received == sent);
        assert_eq!(format!("{received:?}"), format!("{sent:?}"));
        assert_eq!((received.get(&NUMBER), received.get(&NAME)), (Some(7), Some("acme".into())));
        // A handler that passes them on may change them.
        let mut changed = (*received).clone();
        changed.set(&NUMBER, 8_u64);
        assert_eq!((changed.get(&NUMBER), changed.get(&NAME)), (Some(8), Some("acme".into())));
        assert!(changed != sent && !changed.is_empty());
    }
}
