//! JSON to postcard and back: as serde_json and postcard have it, and within bounds.
#![allow(missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::IpAddr;
use std::time::Duration;

use oncewire_schema::json::Limits;
use oncewire_schema::{Schema, Signature, TypeTable};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

const LIMITS: Limits = Limits::DEFAULT;

#[derive(Clone, Debug, PartialEq, PartialOrd, Serialize, Deserialize, Schema)]
#[schema(crate = oncewire_schema)]
#[serde(rename_all = "camelCase")]
enum Value {
    Nothing,
    Numbers(i8, i16, i32, i64, i128, u8, u16, u32, u64, u128),
    Floats { single: f32, double: f64 },
    Text(String),
    Letter(char),
    Flag(bool),
    Many(Vec<Value>),
    Names(BTreeMap<String, Value>),
    Unit(()),
    Maybe(Option<Box<Value>>),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Schema)]
#[schema(crate = oncewire_schema)]
#[serde(deny_unknown_fields)]
struct Row {
    id: Id,
    tags: BTreeSet<String>,
    #[serde(rename = "type")]
    kind: Option<Kind>,
    pair: (u8, [u8; 2]),
    unit: Nil,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Schema)]
#[schema(crate = oncewire_schema)]
struct Id(u64);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Schema)]
#[schema(crate = oncewire_schema)]
struct Nil;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Schema)]
#[schema(crate = oncewire_schema)]
enum Kind {
    Small,
    Large,
}

/// The same text and the same bytes as serde_json and postcard make.
#[track_caller]
fn like_serde<T: Schema + Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) {
    let (bytes, json) =
        (postcard::to_stdvec(value).unwrap(), serde_json::to_string(value).unwrap());
    there_and_back::<T>(&bytes, &json);
}

#[track_caller]
fn there_and_back<T: Schema>(bytes: &[u8], json: &str) {
    let table = TypeTable::of::<T>();
    assert_eq!(table.to_json(bytes, LIMITS).as_deref(), Ok(json));
    assert_eq!(table.to_postcard(json, LIMITS).as_deref(), Ok(bytes), "{json}");
}

#[test]
fn values_are_what_serde_json_and_postcard_make_of_them() {
    use Value::*;
    like_serde(&Many(vec![
        Nothing,
        Numbers(-1, -300, i32::MIN, i64::MIN, i128::MIN, 255, 300, u32::MAX, u64::MAX, u128::MAX),
        Floats { single: 0.1, double: 0.1 },
        Floats { single: f32::MIN_POSITIVE, double: 1e300 },
        Floats { single: -0.0, double: 16_777_217.0 },
        Text("a \"quoted\"\n\u{0} \u{1F600} text".into()),
        Letter('"'),
        Flag(true),
        Unit(()),
        Maybe(None),
        Maybe(Some(Box::new(Maybe(Some(Box::new(Nothing)))))),
        Names([("".to_owned(), Nothing), ("b\\".to_owned(), Many(vec![]))].into()),
    ]));
    let row = Row {
        id: Id(7),
        tags: ["a".to_owned()].into(),
        kind: Some(Kind::Large),
        pair: (1, [2, 3]),
        unit: Nil,
    };
    like_serde(&row);
    like_serde(&(Duration::from_millis(1_500), 1..5, Some(String::new())));
    like_serde(&BTreeMap::from([(-5i64, 1u8), (6, 2)]));
    like_serde(&BTreeMap::from([(true, ())]));
    like_serde(&BTreeMap::from([('x', ())]));
    like_serde(&BTreeMap::from([(Id(5), Kind::Small)]));
    like_serde(&BTreeMap::from([(Kind::Small, Kind::Large)]));
    like_serde(&Result::<u8, String>::Err("no".into()));
    like_serde(&vec![0u8; 1_000]);
    like_serde(&vec![(); 200]);
    like_serde(&[0u8; 0]);
    like_serde(&(5u8,));
}

#[test]
fn what_serde_json_cannot_read_back_is_written_so_that_it_can_be_read() {
    there_and_back::<Option<Option<u8>>>(&[1, 0], r#"{"Some":null}"#);
    there_and_back::<Option<Option<u8>>>(&[1, 1, 5], r#"{"Some":5}"#);
    there_and_back::<Option<Option<u8>>>(&[0], "null");
    there_and_back::<Option<()>>(&[1], r#"{"Some":null}"#);
    there_and_back::<Option<Nil>>(&[1], r#"{"Some":null}"#);
    for (value, text) in
        [(f64::INFINITY, "Infinity"), (f64::NEG_INFINITY, "-Infinity"), (f64::NAN, "NaN")]
    {
        there_and_back::<f64>(&value.to_le_bytes(), &format!("\"{text}\""));
        there_and_back::<f32>(&(value as f32).to_le_bytes(), &format!("\"{text}\""));
    }
    there_and_back::<BTreeMap<(u8, u8), u8>>(&[1, 1, 2, 3], "[[[1,2],3]]");
    // An address for machines.
    there_and_back::<IpAddr>(&[0, 127, 0, 0, 1], r#"{"V4":[127,0,0,1]}"#);
}

#[test]
fn fields_come_in_any_order_and_options_may_be_left_out() {
    let table = TypeTable::of::<Row>();
    let json = r#"{"unit": null, "pair": [1, [2, 3]], "tags": ["a", "b"], "id": 7}"#;
    let bytes = table.to_postcard(json, LIMITS).unwrap();
    let row: Row = postcard::from_bytes(&bytes).unwrap();
    assert_eq!((row.id, row.kind, row.pair), (Id(7), None, (1, [2, 3])));
    // As serde_json reads it: by position.
    assert_eq!(table.to_postcard(r#"[7, ["a", "b"], null, [1, [2, 3]], null]"#, LIMITS), Ok(bytes));
}

#[test]
fn arguments_are_an_object_by_name_or_an_array() {
    let deduct = Signature::of::<(u64, Option<u8>), u8>(&["account", "tag"]).table();
    let body = Ok(vec![7, 1, 5]);
    assert_eq!(deduct.arguments_to_postcard(r#"{"tag": 5, "account": 7}"#, LIMITS), body);
    assert_eq!(deduct.arguments_to_postcard("[7, 5]", LIMITS), body);
    assert_eq!(deduct.arguments_to_postcard(r#"{"account": 7}"#, LIMITS), Ok(vec![7, 0]));
    assert_eq!(deduct.arguments_to_json(&[7, 0], LIMITS).unwrap(), r#"{"account":7,"tag":null}"#);
    let none = Signature::of::<(), u8>(&[]).table();
    for json in ["{}", "[]"] {
        assert_eq!(none.arguments_to_postcard(json, LIMITS), Ok(vec![]));
    }
    assert_eq!(none.arguments_to_json(&[], LIMITS).unwrap(), "{}");
    assert!(none.arguments_to_json(&[0], LIMITS).is_err());
    let alone = Signature::of::<u64, u8>(&[]).table();
    assert_eq!(alone.arguments_to_postcard("5", LIMITS), Ok(vec![5]));
}

#[track_caller]
fn refused<T: Schema>(json: &str, place: &str, reason: &str) {
    let error = TypeTable::of::<T>().to_postcard(json, LIMITS).unwrap_err();
    assert_eq!(error.place(), place, "{error}");
    assert!(error.to_string().contains(reason), "{error}");
}

#[track_caller]
fn unreadable<T: Schema>(bytes: &[u8], place: &str, reason: &str) {
    let error = TypeTable::of::<T>().to_json(bytes, LIMITS).unwrap_err();
    assert_eq!(error.place(), place, "{error}");
    assert!(error.to_string().contains(reason), "{error}");
}

#[test]
fn an_error_says_where_and_what() {
    let row = |change: &str| {
        format!(r#"{{"id": 7, "tags": [], "pair": [1, [2, 3]], "unit": null{change}}}"#)
    };
    assert!(TypeTable::of::<Row>().to_postcard(&row(""), LIMITS).is_ok());
    refused::<Row>(
        &row(r#", "type": "Huge""#),
        "type",
        "unknown variant `Huge`, there are: Small, Large",
    );
    refused::<Row>(
        &row(r#", "dry_run": true"#),
        "",
        "unknown field `dry_run`, there are: id, tags,",
    );
    refused::<Row>(&row(r#", "id": 8"#), "", "duplicate field `id`");
    refused::<Row>(r#"{"id": 7}"#, "", "missing field `tags`");
    refused::<Row>(r#"{"pair": [1, [2]]}"#, "pair[1]", "there are only 1 elements");
    refused::<Row>(r#"{"pair": [1, [2, 3, 4]]}"#, "pair[1]", "there are more than 2 elements");
    refused::<Row>(r#"{"pair": [1, [2, 256]]}"#, "pair[1][1]", "expected u8 at line 1 column 20");
    refused::<Vec<u8>>("[1, -1]", "[1]", "expected u8");
    refused::<Vec<u8>>("[1, 1.5]", "[1]", "expected u8");
    refused::<u8>("5 6", "", "trailing characters");
    refused::<f32>("1e39", "", "out of range");
    refused::<f64>("\"5\"", "", "no number");
    refused::<BTreeMap<u8, u8>>(r#"{"5": 1, "5": 2}"#, "[1]", "comes twice");
    refused::<BTreeMap<u8, u8>>(r#"{"05": 1}"#, "[0]", "`05` is no u8");
    refused::<Option<Option<u8>>>("5", "", "expected null or an object `{\"Some\": …}`");
    unreadable::<Row>(&[7, 0, 1, 2], "type", "there is no variant 2, there are 2");
    unreadable::<(u8, String)>(&[7, 5, b'a'], "[1]", "the bytes end here");
    unreadable::<Option<u8>>(&[2], "", "0 or 1");
    unreadable::<u8>(&[2, 3], "", "1 bytes are left behind the value");
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Schema)]
#[schema(crate = oncewire_schema)]
struct Nest(Vec<Nest>);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Schema)]
#[schema(crate = oncewire_schema)]
struct Chain {
    next: Option<Box<Chain>>,
}

#[test]
fn nesting_has_an_end() {
    let deep = "[".repeat(100_000);
    refused::<Nest>(&deep, &"[0]".repeat(64), "nested deeper");
    refused::<f64>(&deep, "", "");
    refused::<Row>(&format!("{{\"x\": {deep}"), "", "unknown field");
    let deep = r#"{"next":"#.repeat(100_000);
    let error = TypeTable::of::<Chain>().to_postcard(&deep, LIMITS).unwrap_err();
    assert!(error.to_string().contains("nested deeper"), "{error}");
    for table in [TypeTable::of::<Nest>(), TypeTable::of::<Chain>()] {
        let error = table.to_json(&[1; 100_000], LIMITS).unwrap_err();
        assert!(error.to_string().contains("nested deeper"), "{error}");
    }
}

/// This description, from a stranger.
fn received(table: impl Serialize) -> TypeTable {
    postcard::from_bytes(&postcard::to_stdvec(&table).unwrap()).unwrap()
}

/// Searching a type for each value would take a minute.
#[test]
fn a_strangers_type_of_many_parts_is_not_searched_for_each_value() {
    const COUNT: usize = 30_000;
    let names = || (0..COUNT).map(|number| format!("n{number}"));
    // Of variants without fields, and of fields that are units.
    let one = (7u8, "Enum", 0u8, names().map(|name| (name, 0u8, 0u8)).collect::<Vec<_>>());
    let all = (6u8, "Struct", 0u8, 1u8, names().map(|name| (name, 1u8)).collect::<Vec<_>>());
    let unit = (0u8, 0u8);
    let maps = received((4u8, &one, unit, (3u8, 0u8, 1u8), (2u8, 2u8), 3u8));
    let bytes = postcard::to_stdvec(&vec![0u8; COUNT]).unwrap();
    let json = format!("[{}{{}}]", "{},".repeat(COUNT - 1));
    assert_eq!(maps.to_json(&bytes, LIMITS).as_deref(), Ok(&*json));
    assert_eq!(maps.to_postcard(&json, LIMITS), Ok(bytes));
    let variants = received((2u8, &one, (2u8, 0u8), 1u8));
    let json = serde_json::to_string(&vec![names().next_back().unwrap(); COUNT]).unwrap();
    let bytes = postcard::to_stdvec(&vec![COUNT as u32 - 1; COUNT]).unwrap();
    assert_eq!(variants.to_postcard(&json, LIMITS), Ok(bytes));
    let fields = received((2u8, &all, unit, 0u8));
    let json: Vec<_> = names().rev().map(|name| format!("\"{name}\":null")).collect();
    assert_eq!(fields.to_postcard(&format!("{{{}}}", json.join(",")), LIMITS), Ok(vec![]));
}

#[test]
fn the_place_of_an_error_is_short() {
    let field = ("x".repeat(10_000), 1u8);
    let table = received((2u8, (6u8, "A", 0u8, 1u8, [1u8], field), (2u8, 0u8), 0u8));
    let error = table.to_json(&[1; 200], LIMITS).unwrap_err();
    assert!(error.to_string().contains("nested deeper"));
    assert!(error.place().len() < 20_000);
}

#[test]
fn what_is_long_in_memory_and_short_on_the_wire_is_refused_at_once() {
    let units = [&[0x80; 9][..], &[1]].concat();
    unreadable::<Vec<()>>(&units, "", "9223372036854775808 elements");
    unreadable::<Vec<u8>>(&units, "", "elements");
    unreadable::<[(); 1 << 60]>(&[], "", "elements");
    // Names of fields are not on the wire.
    #[derive(Schema)]
    #[schema(crate = oncewire_schema)]
    #[expect(dead_code, reason = "only its description is used")]
    struct Named {
        a_field_with_a_long_name: (),
    }
    // In JSON each has 33 bytes, and a comma.
    let many = postcard::to_stdvec(&1_000u32).unwrap();
    let table = TypeTable::of::<Vec<Named>>();
    let error = table.to_json(&many, LIMITS.with_len_max(3_300)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "[97]: the result is longer than the 3300 bytes that are allowed"
    );
    let short = LIMITS.with_len_max(10);
    let table = TypeTable::of::<Vec<Option<u8>>>();
    assert!(table.to_json(&[2, 0, 0], short).is_err());
    assert!(table.to_json(&[1, 0], short).is_ok());
    let objects = format!("[{}{{}}]", "{},".repeat(9));
    let table = TypeTable::of::<Vec<Chain>>();
    assert!(table.to_postcard(&objects, short).is_err());
    assert!(table.to_postcard("[{}, {}]", short).is_ok());
    assert!(TypeTable::of::<String>().to_postcard("\"12345678901\"", short).is_err());
}
