//! Descriptions: as text, as numbers, and of types that refer to themselves.
#![allow(missing_docs)]

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use oncewire_schema::{Schema, Signature, SignatureTable, TypeTable, service_hash};
use serde::{Deserialize, Serialize};

fn text<T: Schema>() -> String {
    TypeTable::of::<T>().to_string()
}

fn hash<T: Schema>() -> u64 {
    TypeTable::of::<T>().hash()
}

#[derive(Serialize, Deserialize, Schema)]
#[schema(crate = oncewire_schema)]
struct Point {
    x: i32,
    #[serde(rename = "why")]
    y: i32,
    #[serde(skip)]
    #[expect(dead_code, reason = "it is neither written nor read")]
    cache: Option<std::thread::ThreadId>,
}

#[derive(Serialize, Deserialize, Schema)]
#[schema(crate = oncewire_schema)]
struct Chain {
    number: u32,
    next: Option<Box<Chain>>,
}

#[derive(Serialize, Deserialize, Schema)]
#[schema(crate = oncewire_schema)]
#[serde(rename_all = "snake_case")]
enum Tree<T> {
    Leaf(T),
    BothSides(Vec<Tree<T>>, Vec<Tree<T>>),
    Empty,
}

#[derive(Serialize, Deserialize, Schema)]
#[schema(crate = oncewire_schema)]
struct Cents(u64);

#[test]
fn a_description_is_read_like_a_type() {
    assert_eq!(text::<u8>(), "u8");
    assert_eq!(text::<Vec<Option<(String, [u16; 4])>>>(), "Vec<Option<(String, [u16; 4])>>");
    assert_eq!(text::<HashMap<String, ()>>(), "Map<String, ()>");
    assert_eq!(text::<Point>(), "Point where Point = {x: i32, why: i32}");
    assert_eq!(text::<Chain>(), "Chain where Chain = {number: u32, next: Option<Chain>}");
    assert_eq!(text::<Duration>(), "Duration where Duration = {secs: u64, nanos: u32}");
    assert_eq!(
        text::<Tree<u8>>(),
        "Tree<u8> where Tree<u8> = leaf(u8) | both_sides(Vec<Tree<u8>>, Vec<Tree<u8>>) | empty"
    );
    assert_eq!(text::<(Cents,)>(), "(Cents,) where Cents = u64");
    let signature = Signature::of::<(u8, Cents), ()>(&["a", "b"]);
    assert_eq!(signature.to_string(), "(a: u8, b: Cents) where Cents = u64");
    assert_eq!(Signature::of::<(), u8>(&[]).to_string(), "() -> u8");
    assert_eq!(Signature::of::<u16, u8>(&[]).to_string(), "(u16) -> u8");
}

mod other {
    use super::*;

    #[derive(Serialize, Deserialize, Schema)]
    #[schema(crate = oncewire_schema)]
    pub(super) struct Chain {
        link: super::Chain,
    }
}

#[test]
fn two_types_of_one_name_are_told_apart() {
    assert_eq!(
        text::<other::Chain>(),
        "Chain where Chain = {link: Chain#2}, Chain#2 = {number: u32, next: Option<Chain#2>}"
    );
}

/// The same values by other definitions: they are compared by what they unfold to.
mod again {
    use super::*;

    #[derive(Serialize, Deserialize, Schema)]
    #[schema(crate = oncewire_schema)]
    pub(super) struct Link {
        number: Number,
        next: Option<Rest>,
    }

    #[derive(Serialize, Deserialize, Schema)]
    #[schema(crate = oncewire_schema)]
    struct Number(u32);

    #[derive(Serialize, Deserialize, Schema)]
    #[schema(crate = oncewire_schema)]
    struct Rest(Box<Another>);

    #[derive(Serialize, Deserialize, Schema)]
    #[schema(crate = oncewire_schema)]
    struct Another {
        number: u32,
        next: Option<Box<Link>>,
    }

    #[derive(Serialize, Deserialize, Schema)]
    #[schema(crate = oncewire_schema)]
    pub(super) struct Swapped {
        why: i32,
        x: i32,
    }
}

#[test]
fn the_number_is_of_what_is_on_the_wire_and_of_the_names_of_its_parts() {
    assert_eq!(hash::<Chain>(), hash::<again::Link>());
    assert_eq!(hash::<Cents>(), hash::<u64>());
    assert_eq!(hash::<Vec<Cents>>(), hash::<std::collections::BTreeSet<u64>>());
    assert_eq!(hash::<BTreeMap<u8, u8>>(), hash::<HashMap<u8, u8>>());
    assert_ne!(hash::<Point>(), hash::<again::Swapped>());
    assert_ne!(hash::<Chain>(), hash::<other::Chain>());
    assert_ne!(hash::<Tree<u8>>(), hash::<Tree<u16>>());
    assert_ne!(hash::<(u8, u8)>(), hash::<(u8, (u8,))>());
    assert_ne!(hash::<Option<u8>>(), hash::<Vec<u8>>());
    let of = |names| Signature::of::<(u64, u64), ()>(names).hash();
    assert_ne!(of(&["from", "to"]), of(&["to", "from"]));
}

/// Peers of other versions compare by these: if one changes, then so does the wire.
#[test]
fn the_numbers_are_the_same_in_each_version() {
    let primitives = [
        hash::<()>(),
        hash::<bool>(),
        hash::<i8>(),
        hash::<i16>(),
        hash::<i32>(),
        hash::<i64>(),
        hash::<i128>(),
        hash::<u8>(),
        hash::<u16>(),
        hash::<u32>(),
        hash::<u64>(),
        hash::<u128>(),
        hash::<f32>(),
        hash::<f64>(),
        hash::<char>(),
        hash::<String>(),
    ];
    assert_eq!(
        primitives,
        [
            9_940_715_163_967_442_255,
            7_708_399_756_999_852_846,
            5_476_084_350_032_263_437,
            3_243_768_943_064_674_028,
            1_011_453_536_097_084_619,
            17_225_882_202_839_046_826,
            14_993_566_795_871_457_417,
            12_761_251_388_903_868_008,
            10_528_935_981_936_278_599,
            8_296_620_574_968_689_190,
            6_064_305_168_001_099_781,
            3_831_989_761_033_510_372,
            1_599_674_354_065_920_963,
            17_814_103_020_807_883_170,
            15_581_787_613_840_293_761,
            13_349_472_206_872_704_352,
        ]
    );
    let types = [
        hash::<Option<u8>>(),
        hash::<Vec<u8>>(),
        hash::<BTreeMap<u8, bool>>(),
        hash::<[u8; 4]>(),
        hash::<(u8, bool)>(),
        hash::<Point>(),
        hash::<Chain>(),
        hash::<Tree<u8>>(),
    ];
    assert_eq!(
        types,
        [
            6_930_864_961_136_862_070,
            5_445_460_818_220_509_041,
            8_072_863_118_232_437_269,
            14_565_230_188_062_087_464,
            14_478_893_020_276_132_140,
            15_312_886_314_071_599_083,
            1_670_561_101_866_958_124,
            4_126_022_723_919_682_784,
        ]
    );
    let signature = Signature::of::<(u64, Chain), Result<u64, String>>(&["account", "chain"]);
    assert_eq!(signature.hash(), 11_718_661_746_888_477_962);
    assert_eq!(
        service_hash("bank", [("bank/deduct", &signature.table())]),
        12_220_495_429_471_173_214
    );
}

#[test]
fn a_description_is_sent_and_one_that_leads_nowhere_is_refused() {
    let signature = Signature::of::<(Tree<Point>, Chain), Result<(), Cents>>(&["a", "b"]).table();
    let sent = postcard::to_stdvec(&signature).unwrap();
    let received: SignatureTable = postcard::from_bytes(&sent).unwrap();
    assert_eq!(received, signature);
    assert_eq!(received.hash(), signature.hash());
    assert_eq!(received.to_string(), signature.to_string());
    // One node, an option of number 0, and the root; then of number 1, which is not there.
    let mut table = postcard::to_stdvec(&TypeTable::of::<Option<u8>>()).unwrap();
    assert_eq!(table[..3], [2, 1, 1]);
    table[2] = 2;
    assert!(postcard::from_bytes::<TypeTable>(&table).is_err());
    // A struct with two fields of one name.
    let fields = |second| [1, 6, 1, b'A', 0, 1, 2, 1, b'x', 0, 1, second, 0, 0];
    assert!(postcard::from_bytes::<TypeTable>(&fields(b'y')).is_ok());
    assert!(postcard::from_bytes::<TypeTable>(&fields(b'x')).is_err());
}

#[test]
fn a_description_from_a_stranger_is_printed_within_bounds() {
    // Each of these is a pair of the next: 2^30 leaves.
    let mut nodes = Vec::new();
    for next in 1..31u8 {
        nodes.extend([5, 2, next, next]);
    }
    let table = [&[31][..], &nodes, &[0, 0, 0]].concat();
    let table: TypeTable = postcard::from_bytes(&table).unwrap();
    assert!(table.to_string().len() < 100_000);
    table.hash();
    // A struct of nothing but itself.
    let table = [1, 6, 1, b'A', 0, 0, 1, 0, 0];
    let table: TypeTable = postcard::from_bytes(&table).unwrap();
    assert_eq!(table.to_string(), "A where A = A");
    table.hash();
    // A thousand of a type with a name of ten thousand bytes.
    let table = (2u8, (5u8, vec![1u8; 1_000]), (6u8, "A".repeat(10_000), 0u8, 0u8, 0u8), 0u8);
    let table: TypeTable = postcard::from_bytes(&postcard::to_stdvec(&table).unwrap()).unwrap();
    let text = table.to_string();
    assert!(text.starts_with("(AAAA") && text.ends_with("A…") && text.len() < 100_000, "{text}");
    // What a terminal would obey.
    let table = postcard::to_stdvec(&(1u8, (6u8, "A\u{1b}[2J\n", 0u8, 0u8, 0u8), 0u8)).unwrap();
    let table: TypeTable = postcard::from_bytes(&table).unwrap();
    assert_eq!(table.to_string(), "A\\u{1b}[2J\\n where A\\u{1b}[2J\\n = ()");
}

#[test]
fn a_service_is_its_name_and_its_methods() {
    let (one, other) =
        (Signature::of::<u8, u8>(&[]).table(), Signature::of::<u16, u8>(&[]).table());
    let hash = service_hash("bank", [("bank/a", &one), ("bank/b", &other)]);
    assert_eq!(service_hash("bank", [("bank/b", &other), ("bank/a", &one)]), hash);
    for methods in [[("bank/a", &other), ("bank/b", &one)], [("bank/a", &one), ("bank/c", &other)]]
    {
        assert_ne!(service_hash("bank", methods), hash);
    }
    assert_ne!(service_hash("bank", [("bank/a", &one)]), hash);
    assert_ne!(service_hash("mint", [("bank/a", &one), ("bank/b", &other)]), hash);
}
