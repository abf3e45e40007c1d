//! The elements of a sequence, the entries of a map, the content of a variant: paid for before they are decoded.

use serde::de::{DeserializeSeed, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess, Visitor};

use super::{ALLOCATION_LEN, Bounded, Left, MAP_FACTOR, Parts};

/// For how large an element memory was taken already, for each of those to come.
#[derive(Clone, Copy)]
pub(super) struct Paid(usize);

impl Paid {
    #[inline]
    pub(super) fn new(parts: Parts) -> Paid {
        match parts {
            Parts::Inline => Paid(usize::MAX),
            Parts::Apart => Paid(0),
        }
    }
}

/// The parts of a value, one after the other.
pub(super) struct BoundedAccess<'m, A> {
    pub(super) inner: A,
    pub(super) left: Left<'m>,
    pub(super) key: Paid,
    pub(super) value: Paid,
}

impl<A> BoundedAccess<'_, A> {
    /// Takes memory for elements of type `T`: for all that are left before the first of them is decoded, since by then
    /// there may be room for all. Those of no size count as a byte, so that there is an end to them.
    #[inline]
    fn pay<T, E: Error>(
        left: &mut Left<'_>,
        paid: &mut Paid,
        factor: usize,
        count: Option<usize>,
    ) -> Result<(), E> {
        let len = size_of::<T>().max(1) * factor;
        if len <= paid.0 {
            return Ok(());
        }
        let Some(count) = count else {
            // More than there are bytes: most of them will never come, and none has room yet.
            return left.allocate(len);
        };
        let first = if paid.0 == 0 && count > 0 { ALLOCATION_LEN } else { 0 };
        left.allocate(count.saturating_mul(len - paid.0).saturating_add(first))?;
        paid.0 = len;
        Ok(())
    }

    /// What may be made ready for: not for more than can come.
    #[inline]
    fn hint(&self, count: Option<usize>) -> Option<usize> {
        count.filter(|count| *count <= *self.left.memory)
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for BoundedAccess<'_, A> {
    type Error = A::Error;

    #[inline]
    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        inner: S,
    ) -> Result<Option<S::Value>, A::Error> {
        let count = self.inner.size_hint();
        Self::pay::<S::Value, _>(&mut self.left, &mut self.value, 1, count)?;
        let left = self.left.part(size_of::<S::Value>());
        self.inner.next_element_seed(Bounded { inner, left })
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.hint(self.inner.size_hint())
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for BoundedAccess<'_, A> {
    type Error = A::Error;

    #[inline]
    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        inner: S,
    ) -> Result<Option<S::Value>, A::Error> {
        let count = self.inner.size_hint();
        Self::pay::<S::Value, _>(&mut self.left, &mut self.key, MAP_FACTOR, count)?;
        let left = self.left.part(size_of::<S::Value>());
        self.inner.next_key_seed(Bounded { inner, left })
    }

    #[inline]
    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, inner: S) -> Result<S::Value, A::Error> {
        // The key that came before it was one of those to come.
        let count = self.inner.size_hint().map(|count| count.saturating_add(1));
        Self::pay::<S::Value, _>(&mut self.left, &mut self.value, MAP_FACTOR, count)?;
        let left = self.left.part(size_of::<S::Value>());
        self.inner.next_value_seed(Bounded { inner, left })
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.hint(self.inner.size_hint())
    }
}

impl<'de, 'm, A: EnumAccess<'de>> EnumAccess<'de> for Bounded<'m, A> {
    type Error = A::Error;
    type Variant = Bounded<'m, A::Variant>;

    #[inline]
    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Bounded<'m, A::Variant>), A::Error> {
        let (value, inner) = self.inner.variant_seed(seed)?;
        Ok((value, Bounded { inner, left: self.left }))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Bounded<'_, A> {
    type Error = A::Error;

    #[inline]
    fn unit_variant(self) -> Result<(), A::Error> {
        self.inner.unit_variant()
    }

    #[inline]
    fn newtype_variant_seed<S: DeserializeSeed<'de>>(
        mut self,
        inner: S,
    ) -> Result<S::Value, A::Error> {
        let left = self.left.part(size_of::<S::Value>());
        self.inner.newtype_variant_seed(Bounded { inner, left })
    }

    #[inline]
    fn tuple_variant<V: Visitor<'de>>(self, len: usize, inner: V) -> Result<V::Value, A::Error> {
        let (variant, visitor) = self.visitor(inner, Parts::Inline);
        variant.tuple_variant(len, visitor)
    }

    #[inline]
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        inner: V,
    ) -> Result<V::Value, A::Error> {
        let (variant, visitor) = self.visitor(inner, Parts::Inline);
        variant.struct_variant(fields, visitor)
    }
}
