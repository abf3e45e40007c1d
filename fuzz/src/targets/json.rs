//! JSON to postcard and back: through a description, and by the types themselves.

use std::collections::BTreeMap;
use std::fmt::Debug;

use oncewire_schema::json::Limits;
use oncewire_schema::{Schema, SignatureTable, TypeTable};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A type with something of everything that serde_json reads back as it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Schema)]
#[schema(crate = oncewire_schema)]
enum Value {
    Unit,
    Small(u8, i16, u32, bool, char),
    Large(i64, u64, i128, u128),
    Text(String, Vec<u8>),
    Tree(Vec<Value>),
    Table { entries: BTreeMap<String, Option<u64>>, result: Result<u32, String> },
    Numbered(BTreeMap<i32, Id>),
    Kinds(BTreeMap<Kind, [u8; 2]>),
    Row(Row),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Schema)]
#[schema(crate = oncewire_schema)]
struct Id(u64);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Schema)]
#[schema(crate = oncewire_schema)]
enum Kind {
    Small,
    Large,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Schema)]
#[schema(crate = oncewire_schema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Row {
    row_id: Id,
    next: Option<Box<Row>>,
    pair: (u8, ()),
}

/// By their bits, so that two that are no numbers are the same.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, Schema)]
#[schema(crate = oncewire_schema)]
struct Floats(f32, f64);

impl PartialEq for Floats {
    fn eq(&self, other: &Floats) -> bool {
        let bits = |floats: &Floats| (floats.0.to_bits(), floats.1.to_bits());
        bits(self) == bits(other)
    }
}

/// Postcard to JSON, which both read alike, and back.
fn from_postcard<T: Schema + Serialize + DeserializeOwned + PartialEq + Debug>(data: &[u8]) {
    let table = TypeTable::of::<T>();
    let json = table.to_json(data, Limits::DEFAULT);
    // What nests deeper than any value that is converted may overflow the stack.
    let typed = (data.len() <= FLAT_LEN_MAX).then(|| postcard::take_from_bytes::<T>(data).ok());
    let typed =
        typed.map(|typed| typed.filter(|(_, rest)| rest.is_empty()).map(|(value, _)| value));
    match (json, typed) {
        (Ok(json), typed) => {
            let value = serde_json::from_str::<T>(&json);
            if value.as_ref().is_err_and(|error| error.to_string().contains("recursion limit")) {
                return;
            }
            let value = value.expect("serde_json reads it");
            if let Some(typed) = typed {
                assert_eq!(Some(&value), typed.as_ref(), "{json}");
            }
            // Numbers may have been written longer than they need be, and keys more than once.
            let shortest = postcard::to_stdvec(&value).expect("it is encoded");
            if shortest == data {
                assert_eq!(serde_json::to_string(&value).expect("it is JSON"), json);
                assert_eq!(
                    table.to_postcard(&json, Limits::DEFAULT).as_deref(),
                    Ok(data),
                    "{json}"
                );
            }
        }
        (Err(error), Some(Some(value))) => {
            let reason = error.to_string();
            assert!(is_limit(&reason), "postcard reads {value:?}: {reason}");
        }
        (Err(_), _) => {}
    }
}

/// JSON to postcard, as serde_json and postcard make it.
fn from_json<T: Schema + Serialize + DeserializeOwned + PartialEq + Debug>(json: &str) {
    let typed = serde_json::from_str::<T>(json);
    match TypeTable::of::<T>().to_postcard(json, Limits::DEFAULT) {
        Ok(bytes) => {
            let (value, rest) = postcard::take_from_bytes::<T>(&bytes).expect("postcard reads it");
            assert!(rest.is_empty());
            assert_eq!(value, typed.expect("serde_json reads it"), "{json}");
        }
        Err(error) => {
            let reason = error.to_string();
            assert!(
                typed.is_err() || is_limit(&reason) || is_stricter(&reason),
                "serde_json reads {json}: {reason}"
            );
        }
    }
}

fn is_limit(reason: &str) -> bool {
    reason.contains("nested deeper") || reason.contains("longer than the")
}

/// What serde_json lets pass: keys that come twice, or in another form than they are written; fields of variants that are not
/// there; floats that are too large for their type.
fn is_stricter(reason: &str) -> bool {
    ["comes twice", "is no ", "unknown field", "out of range"]
        .iter()
        .any(|text| reason.contains(text))
}

/// So few bytes nest no deeper than any stack allows.
const FLAT_LEN_MAX: usize = 512;

fn both<T: Schema + Serialize + DeserializeOwned + PartialEq + Debug>(data: &[u8]) {
    from_postcard::<T>(data);
    if let Ok(json) = std::str::from_utf8(data) {
        from_json::<T>(json);
    }
}

/// JSON is what the description says, and what it says is written again; serde_json may have another opinion.
fn own<T: Schema>(data: &[u8]) {
    there_and_back(&TypeTable::of::<T>(), data);
}

fn there_and_back(table: &TypeTable, data: &[u8]) {
    if let Ok(json) = table.to_json(data, LIMITS) {
        let bytes = table.to_postcard(&json, LIMITS.with_len_max(usize::MAX));
        if let Ok(bytes) = bytes {
            assert_eq!(table.to_json(&bytes, LIMITS).as_deref(), Ok(&*json));
        }
    }
    if let Ok(json) = std::str::from_utf8(data)
        && let Ok(bytes) = table.to_postcard(json, LIMITS)
    {
        let again = table.to_json(&bytes, LIMITS.with_len_max(usize::MAX)).expect("it is read");
        assert_eq!(table.to_postcard(&again, LIMITS), Ok(bytes), "{again}");
    }
}

const LIMITS: Limits = Limits::DEFAULT.with_depth_max(60).with_len_max(1 << 16);

/// A description from a stranger: printed, compared, and used.
fn described(data: &[u8]) {
    let Ok((table, rest)) = postcard::take_from_bytes::<TypeTable>(data) else { return };
    std::hint::black_box((table.to_string(), table.hash()));
    there_and_back(&table, rest);
    if let Ok((signature, rest)) = postcard::take_from_bytes::<SignatureTable>(data) {
        std::hint::black_box((signature.to_string(), signature.hash()));
        let _ = std::hint::black_box(signature.arguments_to_json(rest, LIMITS));
    }
}

/// Converts values of several types in both directions: nothing panics, overflows the stack or takes longer than its bytes
/// justify, and what is converted is what serde_json and postcard make of it. The first byte chooses the type.
pub fn json(data: &[u8]) {
    let Some((which, data)) = data.split_first() else { return };
    match which % 8 {
        0 => both::<Value>(data),
        1 => both::<Row>(data),
        2 => both::<Vec<(Option<String>, u16, ())>>(data),
        3 => both::<BTreeMap<u64, Vec<i8>>>(data),
        4 => from_floats(data),
        5 => own::<Vec<Option<Option<()>>>>(data),
        6 => own::<BTreeMap<(u8, Option<bool>), Vec<()>>>(data),
        _ => described(data),
    }
}

/// Those that are no numbers are not serde_json's.
fn from_floats(data: &[u8]) {
    own::<Floats>(data);
    let finite = postcard::from_bytes::<Floats>(data)
        .is_ok_and(|floats| floats.0.is_finite() && floats.1.is_finite());
    if finite {
        from_postcard::<Floats>(data);
    }
    if let Ok(json) = std::str::from_utf8(data)
        && !json.contains('"')
    {
        from_json::<Floats>(json);
    }
}

/// Inputs to begin with.
pub(super) fn json_seeds() -> Vec<Vec<u8>> {
    let row = Row { row_id: Id(7), next: None, pair: (1, ()) };
    let row = Row { next: Some(Box::new(row.clone())), ..row };
    let all = [
        Value::Unit,
        Value::Small(1, -2, 3, true, 'ö'),
        Value::Large(-4, 5, -6, u128::MAX),
        Value::Text("a \"text\"\n".into(), vec![1, 2, 3]),
        Value::Tree(vec![Value::Tree(vec![Value::Unit]), Value::Unit]),
        Value::Table { entries: [("a".into(), Some(1))].into(), result: Err("no".into()) },
        Value::Numbered([(-5, Id(6))].into()),
        Value::Kinds([(Kind::Small, [1, 2]), (Kind::Large, [3, 4])].into()),
        Value::Row(row.clone()),
    ];
    let postcard = |value: &Value| postcard::to_stdvec(value).unwrap_or_default();
    let json = |value: &Value| serde_json::to_vec(value).unwrap_or_default();
    let mut seeds: Vec<_> = all.iter().map(|value| [&[0][..], &postcard(value)].concat()).collect();
    seeds.extend(all.iter().map(|value| [&[0][..], &json(value)].concat()));
    seeds.push(
        [&[1][..], br#"{"pair":[1,null],"rowId":7,"next":{"rowId":8,"pair":[2,null]}}"#].concat(),
    );
    seeds.push([&[3][..], br#"{"5":[1,-1],"6":[]}"#].concat());
    seeds.push([&[4][..], b"[0.1,16777217.000001]"].concat());
    seeds.push([&[5][..], br#"[null,{"Some":null},{"Some":{"Some":null}}]"#].concat());
    seeds.push([&[6][..], b"[[[1,null],[null]],[[1,true],[]]]"].concat());
    // Nesting that would overflow a stack, and more elements than anything has time for.
    seeds.push([&[0][..], &[4, 1].repeat(10_000), &[0]].concat());
    seeds.push([&[0][..], &br#"{"Tree":["#.repeat(10_000)].concat());
    seeds.push([&[4][..], &[b'['; 10_000]].concat());
    seeds.push([&[6, 1, 1, 0][..], &[0x80; 9], &[1]].concat());
    let described = [
        postcard::to_stdvec(&TypeTable::of::<Value>()).unwrap_or_default(),
        postcard::to_stdvec(&TypeTable::of::<Vec<Row>>()).unwrap_or_default(),
    ];
    let described = described.iter().map(|table| [&[7][..], table, &postcard(&all[5])].concat());
    seeds.extend(described);
    // A struct of nothing but itself; an array of as many units as there are numbers.
    seeds.push([7, 1, 6, 1, b'A', 0, 0, 1, 0, 0].to_vec());
    seeds.push([&[7, 2, 4, 1][..], &[0xff; 9], &[1, 0, 0, 0]].concat());
    seeds
}
