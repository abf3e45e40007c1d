//! The length of bytes as most encodings write it before them.

/// A length: seven bits a byte, lowest first; bit 7 says that another byte follows.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Varint {
    bytes: [u8; 10],
    len: u8,
}

impl Varint {
    /// That of a length of `len` bytes.
    #[cold]
    pub(crate) fn of(len: usize) -> Varint {
        let (mut varint, mut left) = (Varint::default(), len);
        for byte in &mut varint.bytes {
            *byte = (left & 0x7f) as u8;
            varint.len += 1;
            left >>= 7;
            if left == 0 {
                break;
            }
            *byte |= 0x80;
        }
        varint
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

/// How many bytes `len` bytes are behind their length.
#[cold]
pub(crate) fn len_with_len(len: usize) -> usize {
    len.saturating_add(Varint::of(len).as_slice().len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_what_postcard_writes() {
        let ends = (0..10).map(|sevens| (1_u128 << (7 * sevens)).min(usize::MAX as u128) as usize);
        for end in ends.chain([usize::MAX]) {
            for len in [end - 1, end, end.saturating_add(1)] {
                let mut memory = [0; 16];
                let expected = postcard::to_slice(&len, &mut memory).unwrap();
                assert_eq!(Varint::of(len).as_slice(), expected, "{len}");
            }
        }
    }
}
