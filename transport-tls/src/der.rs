//! Reading DER.

/// DER that is left to read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Der<'a>(pub(crate) &'a [u8]);

impl<'a> Der<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next element, which must have this tag.
    pub(crate) fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (found, value) = self.next()?;
        (found == tag).then_some(value)
    }

    /// The next element's value, if it has this tag; else nothing is read.
    pub(crate) fn take_optional(&mut self, tag: u8) -> Option<&'a [u8]> {
        let mut ahead = *self;
        let value = ahead.take(tag)?;
        *self = ahead;
        Some(value)
    }

    /// The next element: its tag and its value of at most 65,535 bytes.
    pub(crate) fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (len, rest) = match *self.0 {
            [_, len @ ..=0x7f, ref rest @ ..] => (usize::from(len), rest),
            [_, 0x81, len, ref rest @ ..] => (usize::from(len), rest),
            [_, 0x82, high, low, ref rest @ ..] => {
                (usize::from(u16::from_be_bytes([high, low])), rest)
            }
            _ => return None,
        };
        let tag = *self.0.first()?;
        let (value, after) = rest.split_at_checked(len)?;
        self.0 = after;
        Some((tag, value))
    }
}
