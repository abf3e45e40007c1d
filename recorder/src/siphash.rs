//! SipHash-2-4 with 128 bits, a hash under a key (Aumasson and Bernstein, 2012).

/// A hash of bytes that come in parts.
#[derive(Clone)]
pub(crate) struct SipHash {
    state: [u64; 4],
    /// Bytes that are not eight yet.
    tail: [u8; 8],
    len: u64,
}

impl SipHash {
    pub(crate) fn new(key: [u8; 16]) -> SipHash {
        let key = u128::from_le_bytes(key);
        let (k0, k1) = (key as u64, (key >> 64) as u64);
        let state = [
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d ^ 0xee,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ];
        SipHash { state, tail: [0; 8], len: 0 }
    }

    pub(crate) fn write(&mut self, mut bytes: &[u8]) {
        let filled = (self.len % 8) as usize;
        self.len = self.len.wrapping_add(bytes.len() as u64);
        if filled > 0 {
            let take = bytes.len().min(8 - filled);
            self.tail[filled..filled + take].copy_from_slice(&bytes[..take]);
            bytes = &bytes[take..];
            if filled + take < 8 {
                return;
            }
            self.absorb(u64::from_le_bytes(self.tail));
        }
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            let mut eight = [0; 8];
            eight.copy_from_slice(word);
            self.absorb(u64::from_le_bytes(eight));
        }
        let rest = words.remainder();
        self.tail[..rest.len()].copy_from_slice(rest);
    }

    fn absorb(&mut self, word: u64) {
        self.state[3] ^= word;
        self.rounds(2);
        self.state[0] ^= word;
    }

    fn rounds(&mut self, count: u32) {
        let [mut a, mut b, mut c, mut d] = self.state;
        for _ in 0..count {
            a = a.wrapping_add(b);
            b = b.rotate_left(13) ^ a;
            a = a.rotate_left(32);
            c = c.wrapping_add(d);
            d = d.rotate_left(16) ^ c;
            a = a.wrapping_add(d);
            d = d.rotate_left(21) ^ a;
            c = c.wrapping_add(b);
            b = b.rotate_left(17) ^ c;
            c = c.rotate_left(32);
        }
        self.state = [a, b, c, d];
    }

    fn folded(&self) -> [u8; 8] {
        self.state.iter().fold(0, |folded, word| folded ^ word).to_le_bytes()
    }

    pub(crate) fn finish(mut self) -> [u8; 16] {
        let filled = (self.len % 8) as usize;
        let mut last = [0; 8];
        last[..filled].copy_from_slice(&self.tail[..filled]);
        last[7] = self.len as u8;
        self.absorb(u64::from_le_bytes(last));
        self.state[2] ^= 0xee;
        self.rounds(4);
        let mut out = [0; 16];
        out[..8].copy_from_slice(&self.folded());
        self.state[1] ^= 0xdd;
        self.rounds(4);
        out[8..].copy_from_slice(&self.folded());
        out
    }
}

/// The hash of bytes that are all there.
pub(crate) fn siphash(key: [u8; 16], bytes: &[u8]) -> [u8; 16] {
    let mut hash = SipHash::new(key);
    hash.write(bytes);
    hash.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first vectors of its authors.
    #[test]
    fn it_is_what_its_authors_compute() {
        let key = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
        let hex = |bytes: [u8; 16]| bytes.map(|byte| format!("{byte:02x}")).concat();
        assert_eq!(hex(siphash(key, &[])), "a3817f04ba25a8e66df67214c7550293");
        assert_eq!(hex(siphash(key, &[0])), "da87c1d86b99af44347659119b22fc45");
    }

    #[test]
    fn parts_are_the_whole() {
        let bytes: Vec<u8> = (0..100).collect();
        for cut in 0..bytes.len() {
            let mut hash = SipHash::new([9; 16]);
            hash.write(&bytes[..cut]);
            hash.write(&bytes[cut..]);
            assert_eq!(hash.finish(), siphash([9; 16], &bytes), "cut at {cut}");
        }
    }
}
