//! Typed arguments: what the driver decodes from a peer's bytes.

use std::collections::BTreeMap;
use std::fmt::Debug;

use oncewire_driver::Method;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A type with something of everything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Argument {
    /// Nothing.
    Unit,
    /// Numbers of all widths.
    Numbers(u8, i16, u32, i64, u128, bool, char),
    /// Floats, by their bits.
    Floats(u32, u64),
    /// Text and bytes.
    Text(String, Vec<u8>),
    /// A tree.
    Tree(Vec<Argument>),
    /// A table.
    Table {
        /// By name.
        entries: BTreeMap<String, Option<u64>>,
        /// A result.
        result: Result<u32, String>,
    },
}

/// A chain of boxes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Chain {
    number: u32,
    next: Option<Box<Chain>>,
}

fn round_trip<T: Serialize + DeserializeOwned + PartialEq + Debug>(data: &[u8]) {
    let method: Method<T, T> = Method::new("fuzz/typed");
    let decoded = method.decode_arguments(data);
    if let Some(value) = &decoded {
        let encoded = postcard::to_stdvec(value).expect("what was decoded can be encoded");
        let again = method.decode_reply(&encoded).expect("and decoded again");
        assert_eq!(again, *value);
        let (plain, rest) = postcard::take_from_bytes::<T>(data).expect("postcard decodes it too");
        assert_eq!((&plain, rest.len()), (value, 0), "bytes behind a value are an error");
    }
    // Within the limits it is postcard that decides. What nests deeper may overflow its stack.
    if decoded.is_none() && data.len() <= FLAT_LEN_MAX {
        let method = method.depth_max(u32::MAX).memory_max(usize::MAX);
        let plain = postcard::take_from_bytes::<T>(data).ok();
        let plain = plain.filter(|(_, rest)| rest.is_empty()).map(|(value, _)| value);
        assert_eq!(method.decode_arguments(data), plain);
    }
}

/// So few bytes nest no deeper than any stack allows.
const FLAT_LEN_MAX: usize = 512;

/// What postcard by itself does not survive, or not in this life.
fn bounded<T: DeserializeOwned>(data: &[u8]) {
    let method: Method<T, T> = Method::new("fuzz/bounded");
    std::hint::black_box(method.decode_arguments(data));
}

/// Decodes arguments of several types: none panics, overflows the stack, takes longer than its bytes justify, or leaves
/// bytes behind; each is encoded and decoded again to the same, and is what postcard makes of it. The first byte chooses
/// the type.
pub fn typed(data: &[u8]) {
    let Some((which, data)) = data.split_first() else { return };
    match which % 9 {
        0 => round_trip::<Argument>(data),
        1 => round_trip::<(u64, u64)>(data),
        2 => round_trip::<Result<u64, String>>(data),
        3 => round_trip::<Vec<Option<(String, u32)>>>(data),
        4 => round_trip::<BTreeMap<u64, Vec<u8>>>(data),
        5 => round_trip::<(Option<String>, [u16; 4], ())>(data),
        6 => round_trip::<Chain>(data),
        7 => bounded::<Vec<((), [(); 8])>>(data),
        _ => bounded::<BTreeMap<String, Vec<Option<[u64; 16]>>>>(data),
    }
}
