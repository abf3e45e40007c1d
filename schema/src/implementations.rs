//! The standard library's types, as serde writes them.

use alloc::borrow::{Cow, ToOwned};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, BinaryHeap, LinkedList, VecDeque};
use alloc::ffi::CString;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::cmp::Reverse;
use core::marker::PhantomData;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use core::num::{NonZero, Saturating, Wrapping};
use core::ops::{Bound, Range, RangeFrom, RangeInclusive, RangeTo};
use core::time::Duration;

use crate::types::{Field, Fields, Link, Named, Primitive, Schema, Shape, Type, Variant};

macro_rules! primitives {
    ($($of:ty: $primitive:ident),* $(,)?) => {$(
        impl Schema for $of {
            const TYPE: Type = Type::Primitive(Primitive::$primitive);
        }
    )*};
}

primitives!(
    (): Unit,
    bool: Bool,
    i8: I8,
    i16: I16,
    i32: I32,
    i64: I64,
    i128: I128,
    u8: U8,
    u16: U16,
    u32: U32,
    u64: U64,
    u128: U128,
    f32: F32,
    f64: F64,
    char: Char,
    str: String,
    String: String,
    // serde has them as 64 bits.
    isize: I64,
    usize: U64,
);

/// Types that are written as another one is.
macro_rules! like {
    ($($({$($bounds:tt)*})? $of:ty as $other:ty;)*) => {$(
        impl $(<$($bounds)*>)? Schema for $of {
            const TYPE: Type = <$other>::TYPE;
            const LINK: Link = <$other>::LINK;
        }
    )*};
}

like!(
    {T: Schema + ?Sized} Box<T> as T;
    {T: Schema + ?Sized} Rc<T> as T;
    {T: Schema + ?Sized} Arc<T> as T;
    {T: Schema + ToOwned + ?Sized} Cow<'static, T> as T;
    {T: Schema} Wrapping<T> as T;
    {T: Schema} Saturating<T> as T;
    {T: Schema} Reverse<T> as T;
    {T: Schema} Cell<T> as T;
    {T: Schema + ?Sized} RefCell<T> as T;
    {T: Schema} Vec<T> as [T];
    {T: Schema} VecDeque<T> as [T];
    {T: Schema} LinkedList<T> as [T];
    {T: Schema} BinaryHeap<T> as [T];
    {T: Schema} BTreeSet<T> as [T];
    {T: ?Sized + 'static} PhantomData<T> as ();
    CString as [u8];
    Ipv4Addr as [u8; 4];
    Ipv6Addr as [u8; 16];
    SocketAddrV4 as (Ipv4Addr, u16);
    SocketAddrV6 as (Ipv6Addr, u16);
);

macro_rules! non_zero {
    ($($of:ty)*) => { like!($(NonZero<$of> as $of;)*); };
}

non_zero!(i8 i16 i32 i64 i128 isize u8 u16 u32 u64 u128 usize);

impl<T: Schema> Schema for [T] {
    const TYPE: Type = Type::Sequence(T::LINK);
}

impl<T: Schema, const N: usize> Schema for [T; N] {
    const TYPE: Type = Type::Array(T::LINK, N);
}

impl<T: Schema> Schema for Option<T> {
    const TYPE: Type = Type::Option(T::LINK);
}

impl<K: Schema, V: Schema> Schema for BTreeMap<K, V> {
    const TYPE: Type = Type::Map(K::LINK, V::LINK);
}

macro_rules! tuples {
    ($($name:ident)*) => { tuples!(@ [] $($name)*); };
    (@ [$($done:ident)*]) => {};
    (@ [$($done:ident)*] $next:ident $($rest:ident)*) => {
        impl<$($done: Schema,)* $next: Schema> Schema for ($($done,)* $next,) {
            const TYPE: Type = Type::Tuple(&[$($done::LINK,)* $next::LINK]);
        }
        tuples!(@ [$($done)* $next] $($rest)*);
    };
}

tuples!(A B C D E F G H I J K L M N O P);

const fn named(name: &'static str, parameters: &'static [Link], shape: Shape) -> Type {
    Type::Named(Named { name, parameters, shape })
}

const fn field(name: &'static str, of: Link) -> Field {
    Field { name, of }
}

macro_rules! structs {
    ($($of:ident$(<$parameter:ident>)? { $($field:ident: $field_type:ty),* })*) => {$(
        impl$(<$parameter: Schema>)? Schema for $of$(<$parameter>)? {
            const TYPE: Type = named(
                stringify!($of),
                &[$($parameter::LINK)?],
                Shape::Struct(Fields::Named(&[
                    $(field(stringify!($field), <$field_type>::LINK)),*
                ])),
            );
        }
    )*};
}

structs!(
    Duration { secs: u64, nanos: u32 }
    Range<T> { start: T, end: T }
    RangeInclusive<T> { start: T, end: T }
    RangeFrom<T> { start: T }
    RangeTo<T> { end: T }
);

macro_rules! enums {
    ($($of:ident$(<$($parameter:ident),*>)? { $($variant:ident$(($content:ty))?),* })*) => {$(
        impl$(<$($parameter: Schema),*>)? Schema for $of$(<$($parameter),*>)? {
            const TYPE: Type = named(
                stringify!($of),
                &[$($($parameter::LINK),*)?],
                Shape::Enum(&[$(
                    Variant {
                        name: stringify!($variant),
                        fields: Fields::Unnamed(&[$(<$content>::LINK)?]),
                    }
                ),*]),
            );
        }
    )*};
}

enums!(
    Result<T, E> { Ok(T), Err(E) }
    Bound<T> { Unbounded, Included(T), Excluded(T) }
    IpAddr { V4(Ipv4Addr), V6(Ipv6Addr) }
    SocketAddr { V4(SocketAddrV4), V6(SocketAddrV6) }
);

#[cfg(feature = "std")]
mod standard {
    use std::collections::{HashMap, HashSet};
    use std::path::{Path, PathBuf};
    use std::sync::{Mutex, RwLock};
    use std::time::SystemTime;

    use super::*;

    like!(
        Path as str;
        PathBuf as str;
        {T: Schema + ?Sized} Mutex<T> as T;
        {T: Schema + ?Sized} RwLock<T> as T;
    );

    impl<T: Schema, S: 'static> Schema for HashSet<T, S> {
        const TYPE: Type = Type::Sequence(T::LINK);
    }

    impl<K: Schema, V: Schema, S: 'static> Schema for HashMap<K, V, S> {
        const TYPE: Type = Type::Map(K::LINK, V::LINK);
    }

    structs!(SystemTime { secs_since_epoch: u64, nanos_since_epoch: u32 });
}
