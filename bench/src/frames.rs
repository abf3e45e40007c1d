//! The bare subjects' frames: a u32 little-endian length, then the body.

/// Bytes asked of a bare socket at once.
pub(crate) const READ_LEN: usize = 64 << 10;
const HEADER_LEN: usize = 4;

/// `count` frames, one behind the other.
pub(crate) fn frames(body_len: usize, count: usize) -> Vec<u8> {
    let mut frame = (body_len as u32).to_le_bytes().to_vec();
    frame.resize(HEADER_LEN + body_len, 7);
    frame.repeat(count)
}

/// The whole frames at the front of some bytes.
pub(crate) struct Whole {
    /// Their bytes.
    pub(crate) len: usize,
    /// The bytes of the frame behind them, as far as is known.
    pub(crate) wanted: usize,
}

pub(crate) fn whole_len(bytes: &[u8]) -> Whole {
    let mut len = 0;
    while let Some(header) = bytes[len..].first_chunk::<HEADER_LEN>() {
        let frame = HEADER_LEN + u32::from_le_bytes(*header) as usize;
        if bytes.len() - len < frame {
            return Whole { len, wanted: frame };
        }
        len += frame;
    }
    Whole { len, wanted: HEADER_LEN }
}

/// Counts frames in a stream of bytes, and drops them.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    header: [u8; HEADER_LEN],
    header_len: usize,
    /// Bytes of the current body that have not come.
    missing: usize,
}

impl Counter {
    /// The frames that these bytes complete.
    pub(crate) fn take(&mut self, mut bytes: &[u8]) -> usize {
        let mut whole = 0;
        while !bytes.is_empty() {
            if self.header_len < HEADER_LEN {
                let len = bytes.len().min(HEADER_LEN - self.header_len);
                let (head, rest) = bytes.split_at(len);
                self.header[self.header_len..][..len].copy_from_slice(head);
                self.header_len += len;
                self.missing = u32::from_le_bytes(self.header) as usize;
                bytes = rest;
                continue;
            }
            let len = bytes.len().min(self.missing);
            self.missing -= len;
            bytes = &bytes[len..];
            if self.missing == 0 {
                whole += 1;
                self.header_len = 0;
            }
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_counted_however_they_are_cut() {
        let bytes = frames(32, 10);
        assert_eq!(whole_len(&bytes[..100]).len, 72);
        for cut in 1..bytes.len() {
            let mut counter = Counter::default();
            let whole: usize = bytes.chunks(cut).map(|chunk| counter.take(chunk)).sum();
            assert_eq!(whole, 10, "cut into chunks of {cut}");
        }
    }
}
