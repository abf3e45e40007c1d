//! Typed arguments: what the driver decodes from a peer's bytes.

use std::collections::BTreeMap;
use std::fmt::Debug;

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

fn round_trip<T: Serialize + for<'de> Deserialize<'de> + PartialEq + Debug>(data: &[u8]) {
    // postcard, as in the driver: trailing bytes are an error there.
    if let Ok((value, _)) = postcard::take_from_bytes::<T>(data) {
        let encoded = postcard::to_stdvec(&value).expect("what was decoded can be encoded");
        let again = postcard::from_bytes::<T>(&encoded).expect("and decoded again");
        assert_eq!(again, value);
    }
}

/// Decodes arguments of several types: none panics, none allocates more than the bytes justify, each is encoded and
/// decoded again to the same. The first byte chooses the type.
pub fn typed(data: &[u8]) {
    let Some((which, data)) = data.split_first() else { return };
    if nests_too_deep(data) {
        return;
    }
    match which % 6 {
        0 => round_trip::<Argument>(data),
        1 => round_trip::<(u64, u64)>(data),
        2 => round_trip::<Result<u64, String>>(data),
        3 => round_trip::<Vec<Option<(String, u32)>>>(data),
        4 => round_trip::<BTreeMap<u64, Vec<u8>>>(data),
        _ => round_trip::<(Option<String>, [u16; 4], ())>(data),
    }
}

/// A tree nests once for two bytes; what is too deep overflows the stack in any recursive decoder.
fn nests_too_deep(data: &[u8]) -> bool {
    data.len() > 4096
}
